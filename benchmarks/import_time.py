"""Times `import jax` and `import mlip_jax` in fresh interpreters, alternated.

python benchmarks/import_time.py [repeats]
"""

import statistics
import subprocess
import sys

STATEMENTS = {
    "import jax": "import jax",
    "import mlip_jax": "import jax, mlip_jax",
    "first use": "import jax, mlip_jax as mj; mj.load, mj.predict, mj.read",
}


def seconds(statement: str) -> float:
    """Time [s] of a statement in a fresh interpreter, without the interpreter's own start."""
    timed = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    done = subprocess.run([sys.executable, "-c", timed], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    """Prints the median time of each statement and what it costs beyond `import jax`."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(repeats):
        for name, statement in STATEMENTS.items():
            times[name].append(seconds(statement))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        extra = median - medians["import jax"]
        print(f"{name:16s} {median:7.3f} s   {extra:+7.3f} s")


if __name__ == "__main__":
    main()
