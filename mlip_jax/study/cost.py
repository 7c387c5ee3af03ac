"""What a potential costs: time of energy, forces and stress for an atom, measured."""

import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mlip_jax import config, storage, train
from mlip_jax.config import UserError
from mlip_jax.data import dataset, formats
from mlip_jax.data.structure import Structure
from mlip_jax.potential import Potential, predict_fn
from mlip_jax.properties import inputs
from mlip_jax.simulate.system import replicate
from mlip_jax.study import state
from mlip_jax.study.expand import Variant, data_paths
from mlip_jax.study.sections import CostConfig

FILE = "cost.json"


def structure_of(variant: Variant, settings: CostConfig, directory: Path) -> Structure:
    """The structure on which the potential of a run is timed.

    Args:
        variant: the run.
        settings: of the cost.
        directory: of the study file.

    Raises:
        UserError: where it cannot be found or read.
    """
    keys = None
    if settings.structure is not None:
        path = dataset.find(settings.structure, directory)
    else:
        section = train.parse(variant.config).data
        paths = [*data_paths(section, ("test",)), *data_paths(section, ("train",))]
        path, keys = dataset.find(paths[0], variant.base), section.labels
    index = ":" if settings.index is None else str(settings.index)
    found = formats.read(path, keys=keys, index=index)
    if not found:
        raise UserError(f"cost: {path} has no frame {index}.")
    return repeat(max(found, key=lambda structure: structure.num_atoms), settings.atoms)


def repeat(structure: Structure, atoms: int) -> Structure:
    """A supercell of at least so many atoms, as round as repetitions make it; without labels.

    Args:
        structure: repeated along periodic directions; without one it stays as it is.
        atoms: smallest number of atoms.
    """
    pbc = np.asarray(structure.pbc, bool)
    lengths = np.where(pbc, np.linalg.norm(structure.cell, axis=1), np.inf)
    counts = np.ones(3, int)
    while structure.num_atoms * counts.prod() < atoms and pbc.any():
        counts[np.argmin(counts * lengths)] += 1
    return replicate(structure, (int(counts[0]), int(counts[1]), int(counts[2])))


def measure(potential: Potential, structure: Structure, settings: CostConfig) -> dict[str, Any]:
    """Times energy, forces and stress of a structure.

    Args:
        potential: of a run.
        structure: see `structure_of`.
        settings: of the cost.

    Returns:
        `seconds_per_atom` (median), `fastest` and `slowest` likewise, `atoms`, `neighbors` (mean
        number), `compile_seconds`, and where it was measured.

    Raises:
        UserError: for elements that the potential does not know, or float64 without x64.
    """
    variables, graph = inputs.variables_and_graph(
        potential, structure, settings.precision, settings.block
    )
    program = jax.jit(predict_fn(potential.model))
    first = _seconds(program, variables, graph)
    _seconds(program, variables, graph)
    times = [
        _seconds(program, variables, graph) / structure.num_atoms for _ in range(settings.repeats)
    ]
    return {
        "seconds_per_atom": statistics.median(times),
        "fastest": min(times),
        "slowest": max(times),
        "atoms": structure.num_atoms,
        "neighbors": float(np.asarray(graph.edge_mask).sum() / structure.num_atoms),
        "compile_seconds": first,
        **_place(),
    }


def _seconds(program: Any, *arguments: Any) -> float:
    started = time.perf_counter()
    jax.block_until_ready(program(*arguments))
    return time.perf_counter() - started


def ensure(directory: Path, variant: Variant, settings: CostConfig, study: Path) -> bool:
    """Measures the cost of a finished run, unless its file holds it.

    Args:
        directory: of the run.
        variant: the run.
        settings: of the cost.
        study: directory of the study file.

    Returns:
        Whether it was measured now.

    Raises:
        UserError: as `structure_of` and `measure` do.
    """
    asked = {"settings": config.to_plain(settings), **_place()}
    found = read(directory)
    if found is not None and {key: found.get(key) for key in asked} == asked:
        return False
    potential = storage.load(directory / "potential")
    measured = measure(potential, structure_of(variant, settings, study), settings)
    text = json.dumps({**asked, **measured}, indent=1)
    state.replace_text(directory / FILE, text + "\n")
    return True


def read(directory: Path) -> dict[str, Any] | None:
    """What was measured, or `None`."""
    path = directory / FILE
    return json.loads(config.read_text(path)) if path.exists() else None


def _place() -> dict[str, str]:
    return {"host": platform.node(), "device": jax.devices()[0].device_kind}
