"""Restart files: every array of a state by name, so that a simulation goes on bit for bit.

The neighbour list is saved as it stands, because a new one, though as good, might order equal
distances differently, and sums would round differently. No pickle: a file is safe to open.
"""

import dataclasses
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mlip_jax.config import UserError
from mlip_jax.neighbors.capacity import Capacity
from mlip_jax.simulate.dynamics import DynamicsState

VERSION = 1


@dataclasses.dataclass(frozen=True)
class Restart:
    """What a restart file says beside the arrays.

    Attributes:
        kind: of the ensemble.
        capacity: of the neighbour list.
        skin: Å.
        trajectory_mark: where the trajectory stood, see `trajectory.open_writer`.
        thermo_mark: where `thermo.jsonl` stood.
        timestep: fs.
        version: of the format.
    """

    kind: str
    capacity: Capacity
    skin: float
    trajectory_mark: int | None
    thermo_mark: int
    timestep: float
    version: int = VERSION


def save(path: Path, state: DynamicsState, restart: Restart) -> None:
    """Writes a restart file; a crash in between leaves the previous one."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    arrays = {jax.tree_util.keystr(key): np.asarray(leaf) for key, leaf in leaves}
    header = json.dumps(dataclasses.asdict(restart))
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        np.savez(file, header=np.array(header), **arrays)  # pyright: ignore
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_header(path: Path) -> Restart:
    """What a restart file says beside the arrays.

    Raises:
        UserError: for a file that is missing, damaged or from another version.
    """
    arrays = _load(path)
    if "header" not in arrays:
        raise UserError(f"{path}: got arrays without a header; expected a restart file.")
    header = json.loads(str(arrays["header"]))
    if header["version"] != VERSION:
        raise UserError(
            f"{path}: got restart format {header['version']}; this version reads {VERSION}. "
            "Use the version that wrote it."
        )
    sizes = header["capacity"]
    for name in {"prefixes", "pair_rooms"} & sizes.keys():  # files from before have no rooms
        sizes[name] = tuple((float(c), int(k)) for c, k in sizes[name])
    sizes["bins"], sizes["search"] = tuple(sizes["bins"]), tuple(sizes["search"])
    return Restart(**{**header, "capacity": Capacity(**sizes)})


def read_state(path: Path, like: DynamicsState) -> DynamicsState:
    """Reads the arrays into a state of the same structure.

    Args:
        path: the file.
        like: a state (or its shapes) with the same ensemble, sizes and precision.

    Raises:
        UserError: where the file holds another system, ensemble or precision.
    """
    arrays = _load(path)

    def read(key: Any, leaf: Any) -> np.ndarray:
        name = jax.tree_util.keystr(key)
        saved = arrays.get(name)
        if saved is None or saved.shape != leaf.shape or saved.dtype != leaf.dtype:
            got = "nothing" if saved is None else f"{saved.dtype}{list(saved.shape)}"
            raise UserError(
                f"{path}: got {got} for {name}; expected {leaf.dtype}{list(leaf.shape)}. The file "
                "belongs to another structure, ensemble or precision: use the config it was "
                "written with."
            )
        return saved

    return jax.tree_util.tree_map_with_path(read, like)


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return dict(file)
    except FileNotFoundError:
        raise UserError(f"{path}: no such restart file. Check the path.") from None
    except (ValueError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise UserError(
            f"{path}: cannot be read as a restart file ({error}). Take an earlier one."
        ) from None
