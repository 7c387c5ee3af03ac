"""The variables that training begins with: new ones, or those of a potential."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np

from mlip_jax import models, storage
from mlip_jax.config import UserError
from mlip_jax.data.batching import BatchConfig, BatchSource
from mlip_jax.data.dataset import find
from mlip_jax.data.lists import NeighborLists
from mlip_jax.data.shapes import SLOTS_PER_COMPILATION
from mlip_jax.data.statistics import Statistics
from mlip_jax.data.structure import Structure
from mlip_jax.models.initial import cast_variables, initial_variables
from mlip_jax.potential import Potential, Variables


def first_variables(
    model: nn.Module,
    structures: Sequence[Structure],
    lists: NeighborLists,
    found: Statistics,
    dtype: np.dtype,
    seed: int,
    singly: bool,
) -> Variables:
    """The variables of a new potential, calibrated on the data where the model asks for it.

    A solver takes structures `singly`; calibration then does, too, with the same programs.
    """
    needs = models.requirements(model)
    config = BatchConfig(batch_size=1, shuffle=False)
    single = BatchSource(structures, lists, config, found.references, dtype, needs)
    variables = initial_variables(model, seed, single.batch(0, 0).graph)
    calibrate = getattr(model, "calibrate", None)
    if calibrate is not None:
        size = min(32, len(structures))
        config = BatchConfig(size, shape_slots=SLOTS_PER_COMPILATION, shuffle=False)
        several = BatchSource(structures, lists, config, found.references, dtype, needs)
        batches = (several.batch(0, index) for index in range(several.num_batches()))
        graphs = (batch.graph for batch in (several.singles() if singly else batches))
        variables = calibrate(variables, graphs)

    return cast_variables(variables, dtype)


def of_potential(
    path: str, base: Path, model: nn.Module, dtype: np.dtype
) -> tuple[nn.Module, Variables]:
    """The model and the variables of a potential on the disk.

    Args:
        path: of `training.start`.
        base: directory of the config.
        model: of the config; where it has `None`, and in `energy_scale`, which is a unit of the
            parameters, the potential's fields are taken.
        dtype: of the variables.

    Raises:
        UserError: for a potential that is not there, or of another model.
    """
    try:
        potential = storage.load(find(path, base))
    except UserError as error:
        raise UserError(f"training.start: {error}") from None
    _check_same(model, potential, path)
    kept = {k: v for k, v in potential.variables.items() if k != "posterior"}
    return potential.model, cast_variables(kept, dtype)


def _check_same(model: nn.Module, potential: Potential, path: str) -> None:
    wanted, there = (_leaves(models.module_to_config(m)) for m in (model, potential.model))
    differing = [
        f"{key}: {there.get(key)!r} there, {value!r} in the config"
        for key, value in wanted.items()
        if value is not None and not key.endswith("energy_scale") and there.get(key) != value
    ]
    if differing:
        raise UserError(
            f"training.start: the potential {path} has another model:\n  "
            + "\n  ".join(differing)
            + "\nWrite its model (mlip-jax info) into the config."
        )


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    found = {}
    for key, item in value.items():
        found |= _leaves(item, f"{prefix}.{key}" if prefix else str(key))
    return found
