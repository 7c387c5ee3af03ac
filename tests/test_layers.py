"""Imports point down only, and each third-party package enters by its doors."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mlip_jax"

# A room may import the rooms beside it, and what these may import.
ROOMS = {
    "units": [],
    "elements": [],
    "config": [],
    "interrupt": [],
    "compilation": [],
    "graph": ["units", "elements", "config"],
    "pair_groups": [],
    "neighbors": ["graph", "pair_groups"],
    "nn": ["graph", "pair_groups"],
    "descriptors": ["nn"],
    "electrostatics": ["nn"],
    "models": ["descriptors", "electrostatics", "nn"],
    "potential": ["models"],
    "heads": ["models", "potential"],
    "terms": ["models", "potential"],
    "storage": ["models", "potential"],
    "data": ["graph", "neighbors", "pair_groups"],
    "inference": ["data", "potential", "models", "compilation"],
    "simulate": ["data", "potential", "inference", "interrupt", "compilation"],
    "properties": ["simulate"],
    "train": ["simulate", "properties", "inference", "storage"],
    "learn": ["train", "simulate", "data"],
    "study": ["train", "simulate", "properties"],
    "interop": ["models", "potential", "data", "inference", "storage", "heads"],
    "cli": ["study", "learn", "train", "simulate", "properties", "interop", "storage", "terms"],
}

# Constraints of a section's fields are pydantic's or annotated_types'.
EVERYWHERE = {"annotated_types", "jax", "jaxtyping", "numpy", "pydantic.Field"}
DOORS = {
    "ase": {"data", "interop", *(f"properties.{n}" for n in ("band_path", "barrier", "defects"))},
    "ase_db_backends": {"data"},
    "distributed": {"study"},
    "e3nn_jax": {"nn", "descriptors", "models"},
    "flax": {"nn", "descriptors", "models", "potential", "terms", "train", "inference", "interop"},
    "grain": {"data", "train"},
    "h5py": {"data"},
    "jax_md": {"simulate", "neighbors"},
    "matplotlib": {"train", "data", "simulate", "study", "properties"},
    "optax": {"train"},
    "phonopy": {"properties.lattice_dynamics"},
    "orbax": {"train"},
    "pooch": {"interop.catalogue"},
    "pydantic": {"config"},
    "pymatgen": {"data"},
    "rich": {"cli", "train", "simulate"},
    "ruamel": {"config"},
    "safetensors": {"interop.weights", "storage"},
    "scipy": {"descriptors", "inference", "nn", "train"},
    "tensorboardX": {"train"},
    "torch": {"interop.torch_sim", "interop.weights"},
    "torch_sim": {"interop.torch_sim"},
    "typer": {"cli"},
    "vesin": {"neighbors"},
}


def below(room: str) -> set[str]:
    """Rooms that a room may import, itself included."""
    reached = {room, "units", "elements", "config"}
    for other in ROOMS[room]:
        reached |= below(other)
    return reached


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names of modules that a file imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{a.name}" for a in node.names)


def violations(package: Path) -> list[str]:
    """What the files of a package import and may not; its `__init__` only names things lazily."""
    found = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if parts == ("__init__",):
            continue
        room = "cli" if parts == ("__main__",) else parts[0]
        if room not in ROOMS:
            found.append(f"{'.'.join(parts)}: room {room} is not in the table")
            continue
        for name in imported(ast.parse(path.read_text(encoding="utf-8"))):
            top, _, rest = name.partition(".")
            if {top, name} & EVERYWHERE or top in sys.stdlib_module_names:
                allowed = True
            elif top == "mlip_jax":
                allowed = rest.partition(".")[0] in {*below(room), "__version__"}
            else:
                allowed = any(".".join(parts).startswith(door) for door in DOORS.get(top, ()))
            if not allowed:
                found.append(f"{'.'.join(parts)} imports {name}")
    return found


def test_imports_point_down():
    assert violations(PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "line", "expected"),
    [
        ("nn/radial.py", "from mlip_jax.models import nequip", "models"),
        ("graph.py", "import mlip_jax.potential", "potential"),
        ("models/local.py", "def f():\n    from mlip_jax import potential", "potential"),
        ("data/formats/x.py", "from mlip_jax.train.loss import mse", "train"),
        ("models/local.py", "import optax", "optax"),
        ("interop/ase.py", "import torch.nn", "torch"),
        ("train/loop.py", "import leftpad", "leftpad"),
        ("train/loop.py", "from ..data import batching", "..data"),
        ("helpers/x.py", "", "room helpers"),
    ],
)
def test_planted_violations_are_found(tmp_path, file, line, expected):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(line + "\n")
    found = violations(tmp_path)
    assert len(found) == 1
    assert expected in found[0]


def test_what_is_allowed_passes(tmp_path):
    (tmp_path / "train").mkdir()
    text = "import os\nimport optax\nfrom mlip_jax import storage, units\nimport mlip_jax.nn.mlp\n"
    (tmp_path / "train/loop.py").write_text(text)
    assert violations(tmp_path) == []
