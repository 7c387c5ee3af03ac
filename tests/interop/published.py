"""Published potentials beside the repository, and what the programs they were made for say of them.

A folder `reference/FAMILY/NAME` holds the files of a potential and `expected.npz`: structures and
numbers of the reference program in float64.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mlip_jax.data.collate import Bucket, make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.graph import AtomicGraph
from mlip_jax.interop import weights
from mlip_jax.potential import Potential

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("MLIP_JAX_SHARED", ROOT / "../shared"))
IN_EV = ("Cu2S_PBE",)
"""Potentials of n2p2 in Å and eV; the others are in bohr and hartree."""
REASON = f"no reference values in {SHARED / 'reference'}"


ENERGY, FORCE = 1e-4, 1e-3
"""Largest errors in float32 [eV/atom, eV/Å] of every published potential, see README.md."""


def potentials(family: str) -> list[Path]:
    """Folders of the potentials of a family; none where there are no reference values."""
    return sorted(path for path in (SHARED / "reference" / family).glob("*") if path.is_dir())


def read(path: Path) -> Potential:
    """The potential in a folder, with what its files do not say."""
    family = path.parent.name
    match family:
        case "mtp":
            found = re.search(r"Species [\d.]+ = ([\w, ]+)", (path / "README.md").read_text())
            assert found
            return weights.read("mtp", [path / "potential.mtp"], species=found[1].split(", "))
        case "hdnnp":
            files = [path / "input.nn", path / "scaling.data", *sorted(path.glob("weights.*.data"))]
            units = {"length": "angstrom", "energy": "eV"} if path.name in IN_EV else {}
            return weights.read("n2p2", files, **units)
        case "allegro" | "chgnet" | "m3gnet" | "mace" | "nequip" | "sevennet" | "tensornet":
            return weights.read(family, [path / "config.json", path / "weights.safetensors"])
    pattern = {"ace": "*.yace", "gap": "*.xml", "snap": "*.snap*"}[family]
    return weights.read(family, sorted(path.glob(pattern)))


def structures(path: Path) -> list[Structure]:
    """Structures that the reference program was given."""
    arrays = np.load(path / "expected.npz")
    keys = ("numbers", "positions", "cell", "pbc")
    return [
        Structure(*(arrays[f"s{i}_{key}"] for key in keys))
        for i in range(int(arrays["n_structures"]))
    ]


def expected(path: Path) -> list[dict[str, np.ndarray]]:
    """Results of each structure, by name: `energy`, `energies`, `forces`, `stress`, …."""
    arrays = np.load(path / "expected.npz")
    return [
        {key.partition("_")[2]: arrays[key] for key in arrays if key.startswith(f"s{i}_")}
        for i in range(int(arrays["n_structures"]))
    ]


def graphs(path: Path, cutoff: float, dtype: type = np.float64) -> Iterator[AtomicGraph]:
    """The structures as graphs of one padded shape, so that one compilation serves them."""
    found = structures(path)
    tight = [make_graph(structure, cutoff) for structure in found]
    atoms = max(graph.num_atoms for graph in tight)
    bucket = Bucket(1, -(-atoms // 8) * 8, max(g.max_neighbors for g in tight), block=8)
    return (make_graph(structure, cutoff, dtype=dtype, bucket=bucket) for structure in found)
