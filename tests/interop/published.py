"""Published potentials with the numbers of the programs they were made for, in `../shared`."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from mlip_jax.data.structure import Structure

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("MLIP_JAX_SHARED", ROOT / "../shared"))


def potentials(family: str) -> list[Path]:
    """Folders of the potentials of a family, such as `hdnnp`; none where `../shared` is absent."""
    return sorted(path for path in (SHARED / "reference" / family).glob("*") if path.is_dir())


def structures(path: Path) -> list[Structure]:
    """The structures of a potential's folder."""
    return [
        Structure(*(values[key] for key in ("numbers", "positions", "cell", "pbc")))
        for values in expected(path)
    ]


def expected(path: Path) -> list[dict[str, Any]]:
    """What the program gave for each structure, by name."""
    with np.load(path / "expected.npz") as arrays:
        return [
            {
                name.removeprefix(prefix): arrays[name]
                for name in arrays.files
                if name.startswith(prefix)
            }
            for prefix in (f"s{i}_" for i in range(int(arrays["n_structures"])))
        ]
