"""Sets the relaxations of both programs side by side.

    python experiments/relaxation/compare.py runs/relaxation

Writes `results.json` and `volumes.png` beside this file.
"""

import json
import sys
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
CLOSE = 0.005


def lines(path: Path) -> list[dict]:
    """A JSON object of each line."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def main() -> None:
    """Compares what is in the folder of the command line."""
    folder = Path(sys.argv[1])
    summary, *ours = lines(folder / "mlip_jax.jsonl")
    peer = lines(folder / "chgnet.jsonl")
    if len(peer) != len(ours):
        raise SystemExit(f"{folder}: {len(ours)} crystals here, {len(peer)} of chgnet; finish it.")
    both = [
        (place, a, b)
        for place, (a, b) in enumerate(zip(ours, peer, strict=True))
        if a["status"] == b["status"] == "converged"
    ]
    ratios = np.array([a["volume"] / b["volume"] for _, a, b in both])
    energies = np.array([1e3 * (a["energy"] - b["energy"]) / a["atoms"] for _, a, b in both])
    apart = [
        {"place": place, "formula": a["formula"], "volume": r - 1.0, "meV_per_atom": e}
        for (place, a, _), r, e in zip(both, ratios, energies, strict=True)
        if abs(r - 1.0) > CLOSE
    ]
    failed = [
        {"place": i, "formula": a["formula"], "mlip_jax": a["status"], "chgnet": b["status"]}
        for i, (a, b) in enumerate(zip(ours, peer, strict=True))
        if not a["status"] == b["status"] == "converged"
    ]
    found = {
        "crystals": len(ours),
        "converged": {
            "mlip_jax": sum(a["status"] == "converged" for a in ours),
            "chgnet": sum(b["status"] == "converged" for b in peer),
        },
        "within_half_a_percent": int(np.sum(np.abs(ratios - 1.0) <= CLOSE)),
        "median_volume_difference": float(np.median(np.abs(ratios - 1.0))),
        "steps": {
            "mlip_jax": sum(a["steps"] for a in ours),
            "chgnet": sum(b["steps"] for b in peer),
        },
        "wall_s": {"mlip_jax": summary["wall_s"], "chgnet": sum(b["wall_s"] for b in peer)},
        "processor_s": {
            "mlip_jax": summary["processor_s"],
            "chgnet": sum(b["processor_s"] for b in peer),
        },
        "apart": apart,
        "not_converged": failed,
    }
    (HERE / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    figure, panel = plt.subplots(figsize=(4.5, 3.6), layout="constrained")
    panel.plot([b["volume"] / b["atoms"] for _, _, b in both], 100.0 * (ratios - 1.0), "o", ms=4)
    panel.axhspan(-100 * CLOSE, 100 * CLOSE, alpha=0.15)
    panel.set(
        xlabel="volume by chgnet [Å$^3$/atom]",
        ylabel="volume by mlip_jax, difference [%]",
        yscale="symlog",
    )
    figure.savefig(HERE / "volumes.png", dpi=150)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
