"""The demo: a silicon potential from PBE data, its errors, 2 ps of NVT and 2 ps of NVE.

    make demo        or        python experiments/demo.py

Everything is done by the command line, and the commands are printed: they can be copied.
"""

import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
RUN = Path("runs/demo")
SILICON = Path("experiments/silicon_pbe")


def mlip_jax(*arguments: str | Path) -> float:
    """Runs one command and returns its time [s]; a failure ends the demo."""
    words = [str(word) for word in arguments]
    print(f"\n$ mlip-jax {shlex.join(words)}", flush=True)
    start = time.perf_counter()
    code = subprocess.run([sys.executable, "-m", "mlip_jax", *words], cwd=ROOT).returncode
    if code != 0:
        sys.exit(code)
    return time.perf_counter() - start


def thermo(name: str) -> dict[str, np.ndarray]:
    """Columns of the thermo file of a simulation."""
    lines = (ROOT / RUN / name / "thermo.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return {key: np.array([record[key] for record in records]) for key in records[0]}


def summary(seconds: dict[str, float]) -> Table:
    """What was reached, and how long it took."""
    errors = json.loads((ROOT / RUN / "test.json").read_text())
    nvt, nve = thermo("nvt"), thermo("nve")
    equilibrated = nvt["temperature_K"][len(nvt["temperature_K"]) // 2 :]
    atoms = 216
    energy = nve["total_eV"] / atoms
    slope = np.polyfit(nve["time_fs"] * 1e-3, energy, 1)[0]
    table = Table(title="mlip_jax demo: silicon, PBE, Behler-Parrinello")
    for column in ("step", "result", "time"):
        table.add_column(column, justify="left" if column != "time" else "right")
    rows = [("train", f"{ROOT / RUN / 'report.html'}", "train")]
    for name, error in errors["total"].items():
        mae = f"MAE {error['mae']:.4g} {errors['units'][name]}"
        rows.append((f"test: {name}", mae, "evaluate"))
    rows.append(("NVT, 216 atoms, 2 ps", f"{equilibrated.mean():.0f} K (asked for 300 K)", "nvt"))
    drift = f"{1e3 * slope:+.4f} meV/atom/ps, RMS {1e3 * np.std(energy):.4f} meV/atom"
    rows.append(("NVE, 216 atoms, 2 ps", drift, "nve"))
    for step, result, key in rows:
        table.add_row(step, result, f"{seconds.pop(key):.0f} s" if key in seconds else "")
    return table


def main() -> None:
    """Runs the four commands and prints the table."""
    start = time.perf_counter()
    shutil.rmtree(ROOT / RUN, ignore_errors=True)
    configs = Path("configs/demo")
    seconds = {
        "train": mlip_jax("train", configs / "train.yaml", "--output", RUN),
        "evaluate": mlip_jax(
            "evaluate", RUN / "potential", SILICON / "test.extxyz.gz", "-o", RUN / "test.json"
        ),
        "nvt": mlip_jax("md", configs / "nvt.yaml", "--output", RUN / "nvt"),
        "nve": mlip_jax("md", configs / "nve.yaml", "--output", RUN / "nve"),
    }
    console = Console(soft_wrap=True)
    console.print()
    console.print(summary(seconds))
    console.print(
        f"total {time.perf_counter() - start:.0f} s; report: {ROOT / RUN / 'report.html'}"
    )


if __name__ == "__main__":
    main()
