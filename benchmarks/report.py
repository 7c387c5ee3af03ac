"""From the samples of a run to a JSON file and a Markdown table."""

import datetime
import json
import os
import platform
import statistics
from collections.abc import Callable
from pathlib import Path

OURS = "mlip_jax"
UNITS = {
    "evaluate": "ms per evaluation",
    "md": "ms per MD step",
    "train": "structures per second of training",
    "screen": "structures per second of a list of crystals",
}
BATCH = 8


def machine() -> dict:
    """The processor, cores, memory and load of this machine."""
    with open("/proc/cpuinfo") as lines:
        model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "?")
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(pages * size / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "load": round(os.getloadavg()[0], 1),
    }


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def summarise(task: str, samples: list[dict]) -> dict:
    """Median and quartiles of the wall time in the unit of the task, and the processor time [s]."""
    low, middle, high = quartiles([sample["wall"] for sample in samples])
    # A step of training is a batch; the unit of work of a list is a structure.
    structures = {"train": BATCH, "screen": 1}.get(task)
    scale = (lambda t: structures / t) if structures else (lambda t: 1e3 * t)
    return {
        "median": scale(middle),
        "spread": sorted([scale(low), scale(high)]),
        "wall_s": middle,
        "cpu_s": statistics.median(sample["cpu"] for sample in samples),
    }


def ratios(
    measured: dict[str, list[dict]], baseline: str = OURS, clock: str = "wall"
) -> dict[str, float]:
    """How many times slower each is than the baseline: the median of the ratios in the rounds.

    A ratio within a round compares neighbours in time, so a change of load between rounds cancels.

    Args:
        measured: samples by name.
        baseline: the name that others are compared with; without it there are no ratios.
        clock: `wall`, or `cpu` for processor time.
    """
    if baseline not in measured:
        return {}

    def by_round(samples: list[dict]) -> dict[int, float]:
        turns = {sample["round"] for sample in samples}
        return {
            turn: statistics.median(s[clock] for s in samples if s["round"] == turn)
            for turn in turns
        }

    base = by_round(measured[baseline])
    return {
        peer: statistics.median(time / base[turn] for turn, time in by_round(samples).items())
        for peer, samples in measured.items()
        if peer != baseline
    }


def summary(run: dict) -> list[dict]:
    """One row per case, task and program."""
    rows = []
    for case, result in run["cases"].items():
        for task, unit in UNITS.items():
            records = {
                program: record["tasks"][task]
                for program, record in result["programs"].items()
                if "samples" in record["tasks"].get(task, {})
            }
            slower = ratios({program: record["samples"] for program, record in records.items()})
            for program, record in records.items():
                rows.append(
                    {
                        "case": case,
                        "task": task,
                        "unit": unit,
                        "program": program,
                        "mode": record["mode"],
                        "first_s": record["first_s"],
                        "warm_s": record.get("warm_s"),
                        "peak_mib": record["peak_mib"],
                        "times_slower_than_ours": slower.get(program),
                        **summarise(task, record["samples"]),
                    }
                )
    return rows


def heading(run: dict) -> list[str]:
    """Title, date, machine and settings of a run."""
    described = run["machine"]
    return [
        f"# {run['title']}, {run['date']}",
        "",
        f"{described['processor']}, {described['cores']} cores, {described['memory_gib']} GiB, "
        f"load {described['load']}; {run['threads']} thread(s) for every program, huge pages "
        f"{'on' if run['hugepages'] else 'off'}; {run['rounds']} rounds of {run['calls']} calls.",
        "",
    ]


def markdown(run: dict, rows: list[dict]) -> str:
    """The table with its heading."""
    programs = {
        program: record["setup"]
        for result in run["cases"].values()
        for program, record in result["programs"].items()
    }
    lines = heading(run)
    for program, setup in programs.items():
        listed = ", ".join(f"{name} {version}" for name, version in setup["versions"].items())
        lines.append(f"- **{program}**: {setup['parameters']} parameters; {listed}")
    header = ("case", "program", "mode", "median", "quartiles", "× ours")
    header += ("first [s]", "warm [s]", "peak [MiB]")
    for task, unit in UNITS.items():
        chosen = [row for row in rows if row["task"] == task]
        if not chosen:
            continue
        lines += ["", f"## {unit[0].upper()}{unit[1:]}", ""]
        lines += ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
        for row in chosen:
            low, high = row["spread"]
            ratio = row["times_slower_than_ours"]
            cells = (
                row["case"],
                row["program"],
                row["mode"],
                f"{row['median']:.3g}",
                f"{low:.3g} to {high:.3g}",
                "" if ratio is None else f"{ratio:.2f}",
                f"{row['first_s']:.1f}",
                "" if row["warm_s"] is None else f"{row['warm_s']:.1f}",
                f"{row['peak_mib']:.0f}",
            )
            lines.append("| " + " | ".join(cells) + " |")
    if run["probes"]:
        lines += ["", "Modes tried, fastest of a few [s]:", ""]
        for label, times in run["probes"].items():
            tried = ", ".join(f"{mode} {seconds:.4g}" for mode, seconds in times.items())
            lines.append(f"- {label}: {tried}")
    return "\n".join(lines) + "\n"


def write(
    run: dict,
    name: str,
    folder: Path,
    summary: Callable[[dict], list[dict]] = summary,
    markdown: Callable[[dict, list[dict]], str] = markdown,
) -> str:
    """Write `name`-DATE.json and .md into `folder`; returns the Markdown.

    Args:
        run: samples, settings and title.
        name: of the files.
        folder: of the files.
        summary: from the run to the rows of its tables.
        markdown: from the run and these rows to the text.
    """
    now = datetime.datetime.now(datetime.UTC)
    run = run | {"date": now.strftime("%Y-%m-%d %H:%M UTC"), "machine": machine()}
    rows = summary(run)
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"{name}-{now:%Y%m%d-%H%M}-{run['threads']}t{'-hp' * run['hugepages']}"
    text = markdown(run, rows)
    stem.with_suffix(".json").write_text(json.dumps(run | {"summary": rows}, indent=1) + "\n")
    stem.with_suffix(".md").write_text(text)
    return text
