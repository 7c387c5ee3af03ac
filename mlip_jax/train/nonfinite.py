"""A loss or gradient that is not finite: training stops, and the batch that caused it is saved."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from mlip_jax.config import UserError
from mlip_jax.data import formats
from mlip_jax.data.batching import Batch
from mlip_jax.data.structure import Structure


class NonFiniteError(UserError):
    """Training met a NaN or an infinity."""


def stop(
    output: Path, step: int, structures: Sequence[Structure], batch: Batch, what: str
) -> NonFiniteError:
    """Saves a batch as `nonfinite_<step>.extxyz` and `.npz` and makes the error that names them.

    Args:
        output: directory of the run.
        step: the step that failed, counted from 0.
        structures: of the batch.
        batch: as the step got it.
        what: what was not finite.
    """
    stem = output / f"nonfinite_{step}"
    arrays = {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(batch)
    }
    np.savez_compressed(stem.with_suffix(".npz"), **arrays)  # pyright: ignore[reportArgumentType]
    formats.write(stem.with_suffix(".extxyz"), list(structures))
    names = [s.name for s in structures if s.name][:4]
    return NonFiniteError(
        f"training stopped at step {step}: the {what} is not finite. Its batch "
        f"({', '.join(names) or f'{len(structures)} structures'} …) is in {stem}.extxyz and .npz; "
        "the last checkpoint is from before it. Look at these structures (mlip-jax data inspect), "
        "lower optimizer.learning_rate or set optimizer.clip_by_global_norm."
    )
