"""Phonon frequencies from force constants, differentiable; `lattice_dynamics` has DOS and bands.

Frequencies are in THz, without the factor 2π; those of unstable modes are negative (imaginary).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mlip_jax import elements, units
from mlip_jax.data.structure import Structure
from mlip_jax.graph import AtomicGraph, Leaf, pytree
from mlip_jax.potential import Potential, PredictFn, predict_fn
from mlip_jax.properties import inputs
from mlip_jax.properties.force_constants import ForceConstants, force_constants_fn
from mlip_jax.simulate.system import replicate

THZ = 1e3 / (2.0 * np.pi * units.TIME_UNIT)
"""Frequency of an eigenvalue of 1 eV/(Å^2 amu)."""

_EQUAL = 1e-4
"""Images whose distances differ by less [Å] are equally near."""


@pytree
class Layout:
    """How the atoms of a supercell stand to those of one primitive cell, home.

    Attributes:
        home: indices of the atoms of the primitive cell.
        kind: for each atom, which of `home` it is an image of.
        masses: of the atoms of `home`, amu.
        phases: `r_j - r_i` to the nearest images of each atom in multiples of the primitive cell's
            vectors.
        weights: shares of these images: one over their number, 0 for padding.
    """

    home: Int[Leaf, " home"]
    kind: Int[Leaf, " atoms"]
    masses: Float[Leaf, " home"]
    phases: Float[Leaf, "home atoms images 3"]
    weights: Float[Leaf, "home atoms images"]


def supercell(structure: Structure, copies: tuple[int, int, int]) -> tuple[Structure, Layout]:
    """A supercell and its layout.

    Args:
        structure: the primitive cell, or any cell (then its zone is folded).
        copies: along each vector of the cell.

    Raises:
        UserError: for copies along a direction that is not periodic.
    """
    large, atoms = replicate(structure, copies), structure.num_atoms
    between = large.positions[None] - structure.positions[:, None]
    images, weights = nearest_images(between, large.cell)
    layout = Layout(
        home=jnp.arange(atoms),
        kind=jnp.arange(large.num_atoms) % atoms,
        masses=jnp.array(elements.MASSES)[structure.atomic_numbers],
        phases=jnp.asarray(images @ np.linalg.inv(structure.cell)),
        weights=jnp.asarray(weights),
    )
    return large, layout


def frequencies_fn(
    predict: PredictFn, chunk: int = 8
) -> Callable[[Any, AtomicGraph, Layout, Float[Leaf, "points 3"]], Float[Array, "points modes"]]:
    """Makes `(variables, graph of a supercell, layout, wave vectors) -> frequencies` [THz].

    Args:
        predict: `potential.predict_fn(model)`.
        chunk: see `force_constants_fn`.
    """
    second = force_constants_fn(predict, chunk)

    def at(variables: Any, graph: AtomicGraph, layout: Layout, points: Array) -> Array:
        return frequencies(second(variables, graph, layout.home), layout, points)

    return at


def frequencies(
    force_constants: ForceConstants, layout: Layout, points: Float[Leaf, "points 3"]
) -> Float[Array, "points modes"]:
    """Frequencies [THz], increasing, at wave vectors in units of the reciprocal lattice.

    Exact for wave vectors that fit the supercell; between these, force constants to equally near
    images count in equal parts (Parlinski, Li and Kawazoe 1997). Derivatives are those of
    Hellmann and Feynman: for degenerate modes only symmetric functions of them have one.

    Args:
        force_constants: eV/Å^2.
        layout: of the supercell.
        points: multiples of the primitive cell's reciprocal vectors, without 2π.
    """
    matrices = dynamical_matrices(force_constants, layout, points)
    vectors = jax.lax.stop_gradient(jnp.linalg.eigh(matrices)[1])
    values = jnp.real(jnp.einsum("pam,pab,pbm->pm", vectors.conj(), matrices, vectors))
    size = jnp.abs(values)
    root = jnp.where(size > 0.0, jnp.sqrt(jnp.where(size > 0.0, size, 1.0)), 0.0)
    return THZ * jnp.sign(values) * root


def dynamical_matrices(
    force_constants: ForceConstants, layout: Layout, points: Float[Leaf, "points 3"]
) -> Any:
    """`D(q) [points, modes, modes]` in eV/(Å^2 amu), Hermitian, with phases of the positions.

    Takes the arguments of `frequencies`.
    """
    angles = 2.0 * jnp.pi * jnp.einsum("hnsx,px->phns", layout.phases, points)
    shares = jnp.sum(layout.weights[None] * jnp.exp(1j * angles), axis=-1)
    count = len(layout.masses)
    member = jax.nn.one_hot(layout.kind, count, dtype=layout.masses.dtype)
    matrices = jnp.einsum("phn,hnab,nk->phakb", shares, force_constants, member)
    root = jnp.sqrt(layout.masses)
    matrices = matrices / (root[:, None] * root[None, :])[None, :, None, :, None]
    matrices = matrices.reshape(len(points), 3 * count, 3 * count)
    return 0.5 * (matrices + jnp.conj(jnp.swapaxes(matrices, 1, 2)))


def phonon_frequencies(
    potential: Potential,
    structure: Structure,
    copies: tuple[int, int, int],
    points: Float[np.ndarray, "points 3"],
) -> Float[np.ndarray, "points modes"]:
    """Frequencies [THz] of a crystal as it stands, in float64, on the host.

    Args:
        potential: the potential.
        structure: the primitive cell, atoms at rest.
        copies: of the cell, such that force constants have decayed within half of the supercell.
        points: multiples of the reciprocal vectors, without 2π.

    Raises:
        UserError: for a structure that the potential does not know or that is impossible.
    """
    large, layout = supercell(structure, copies)
    variables, graph = inputs.variables_and_graph(potential, large)
    program = jax.jit(frequencies_fn(predict_fn(potential.model)))
    return np.asarray(program(variables, graph, layout, jnp.asarray(points)))


def nearest_images(
    vectors: Float[np.ndarray, "home atoms 3"], cell: Float[np.ndarray, "3 3"]
) -> tuple[Float[np.ndarray, "home atoms images 3"], Float[np.ndarray, "home atoms images"]]:
    """All shortest equivalents of vectors [Å] in a periodic cell, padded, with their weights."""
    inverse = np.linalg.inv(cell)
    heights = 1.0 / np.linalg.norm(inverse, axis=0)
    wrapped = vectors - np.rint(vectors @ inverse) @ cell
    # No vector is longer than half the sum of the edges at its nearest image.
    reach = 0.5 * np.sum(np.linalg.norm(cell, axis=1))
    most = np.floor(reach / heights + 0.5).astype(int)
    steps = np.stack(np.meshgrid(*[np.arange(-m, m + 1) for m in most], indexing="ij"), -1)
    candidates = wrapped[:, :, None] + steps.reshape(-1, 3) @ cell
    lengths = np.linalg.norm(candidates, axis=-1)
    near = lengths < lengths.min(axis=-1, keepdims=True) + _EQUAL
    count = near.sum(axis=-1)
    order = np.argsort(~near, axis=-1, kind="stable")[..., : count.max()]
    images = np.take_along_axis(candidates, order[..., None], axis=2)
    weights = np.take_along_axis(near, order, axis=2) / count[..., None]
    return images, weights
