"""Flat weights of e3nn as arrays of our layouts."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from mlip_jax.config import UserError
from mlip_jax.nn.irreps import Channels, Irrep, Layout, Path, layout_text


def split(
    flat: Float[np.ndarray, " numbers"],
    inputs: Sequence[Channels],
    outputs: Layout,
    attributes: int | None = None,
) -> dict[str, Float[np.ndarray, "..."]]:
    """Cuts the weights of a linear map into one array for each irrep.

    Args:
        flat: one irrep after the other, in the order of the inputs.
        inputs: of the map.
        outputs: of the map; irreps that it lacks have no weights.
        attributes: number of scalars that the map is bilinear in, if any.

    Returns:
        `weight_IRREP`: `[in, out]`, or `[in, attributes, out]`.

    Raises:
        UserError: where the numbers are too many or too few.
    """
    widths = dict(outputs)
    kernels, start = {}, 0
    for irrep, channels in inputs:
        if irrep not in widths:
            continue
        middle = () if attributes is None else (attributes,)
        shape = (channels, *middle, widths[irrep])
        size = math.prod(shape)
        if start + size <= flat.size:
            kernels[f"weight_{irrep}"] = flat[start : start + size].reshape(shape)
        start += size
    if start != flat.size:
        raise UserError(
            f"weights of e3nn: got {flat.size} numbers for {layout_text(tuple(inputs))} -> "
            f"{layout_text(outputs)}; expected {start}. Do the weights belong to this config?"
        )
    return kernels


def rank(irrep: Irrep) -> tuple[int, bool]:
    """Rank of an irrep in the order of e3nn, which is 0e, 0o, 1o, 1e, 2e, 2o and so on."""
    return irrep.degree, irrep.parity != (-1) ** irrep.degree


def by_path(
    last: Float[np.ndarray, "width columns"], paths: Sequence[Path], channels: Sequence[int]
) -> Float[np.ndarray, "width columns"]:
    """Columns of the last radial kernel, which e3nn has in the order of the targets.

    Args:
        last: as e3nn has it.
        paths: in our order.
        channels: columns of each path.
    """
    order = sorted(range(len(paths)), key=lambda k: rank(paths[k].target))
    ends = np.cumsum([channels[k] for k in order])[:-1]
    columns = dict(zip(order, np.split(last, ends, axis=1), strict=True))
    return np.concatenate([columns[k] for k in range(len(paths))], axis=1)
