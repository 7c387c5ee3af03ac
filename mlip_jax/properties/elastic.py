"""Elastic constants: second derivatives of the energy by strain and positions.

A deformation takes every vector x to `x (1 + ε)`, ε symmetric. Voigt order is xx, yy, zz, yz, xz,
xy, with the shear strains doubled: `e_4 = 2 ε_yz`, `e_5 = 2 ε_xz`, `e_6 = 2 ε_xy`, so that
`C_IJ = d²E / (de_I de_J) / V` is dσ_I/de_J where the stress (tension positive) vanishes. The
axes are those of the structure.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mlip_jax.config import UserError
from mlip_jax.data.structure import Structure
from mlip_jax.graph import AtomicGraph, apply_strain, pytree, volumes
from mlip_jax.potential import Potential, PredictFn, predict_fn
from mlip_jax.properties import inputs
from mlip_jax.properties.curvature import apply_to_basis

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
"""The components of a symmetric tensor in Voigt's order."""


@pytree
class ElasticConstants:
    """Elastic constants of one structure, at the positions and the cell that it has.

    Attributes:
        stiffness: C [6 6], atoms relaxed, eV/Å^3.
        clamped: C [6 6] with atoms that only follow the cell, eV/Å^3.
        stress: of the structure, Voigt order, eV/Å^3. Elastic constants have their textbook
            meaning where it vanishes.
        max_force: largest force on an atom, eV/Å; the relaxation of atoms takes it as zero.
        softest: smallest curvature of the energy by positions, translations apart, eV/Å^2;
            infinite for one atom. Where it is not positive the atoms are at no minimum, and
            `stiffness` has no meaning.
    """

    stiffness: Float[Array, "6 6"]
    clamped: Float[Array, "6 6"]
    stress: Float[Array, " 6"]
    max_force: Float[Array, ""]
    softest: Float[Array, ""]


def elastic_fn(
    predict: PredictFn, chunk: int = 16
) -> Callable[[Any, AtomicGraph], ElasticConstants]:
    """Makes `(variables, graph of one structure) -> ElasticConstants`, a pure function.

    With H the second derivatives by positions, Λ those by a position and a strain, atoms
    relax by `-H⁻¹ Λ` per strain, and `V C = V C_clamped - Λᵀ H⁻¹ Λ`, H⁻¹ without the three
    translations (Wu, Vanderbilt and Hamann 2005, eq. 15). All come of `3 atoms + 6` products of the
    Hessian with a vector. There must be no padded atoms.

    Args:
        predict: `potential.predict_fn(model)`.
        chunk: products that are computed at a time; fewer need less memory.
    """
    gradient = strained_gradient_fn(predict)

    def elastic(variables: Any, graph: AtomicGraph) -> ElasticConstants:
        atoms, dtype = graph.num_atoms, graph.positions.dtype
        volume = volumes(graph.cell)[0]
        start = (graph.positions, jnp.zeros(6, dtype))
        slopes, change = jax.linearize(lambda r, e: gradient(variables, graph, r, e), *start)
        second = apply_to_basis(change, start, chunk)
        second = 0.5 * (second + second.T)
        hessian, mixed = second[: 3 * atoms, : 3 * atoms], second[: 3 * atoms, 3 * atoms :]
        clamped = second[3 * atoms :, 3 * atoms :] / volume
        raised = hessian + _translations(atoms, hessian)
        relaxed = clamped - mixed.T @ jnp.linalg.solve(raised, _without_drift(mixed)) / volume
        return ElasticConstants(
            stiffness=0.5 * (relaxed + relaxed.T),
            clamped=clamped,
            stress=slopes[1] / volume,
            max_force=jnp.sqrt(jnp.max(jnp.sum(slopes[0] ** 2, axis=1))),
            softest=_softest(raised) if atoms > 1 else jnp.array(jnp.inf, dtype),
        )

    return elastic


def elastic_constants(potential: Potential, structure: Structure) -> ElasticConstants:
    """Elastic constants of a structure as it stands, in float64; numbers on the host.

    Raises:
        UserError: for a structure that is not periodic in all directions, or is impossible, or an
            element that the potential does not know.
    """
    if not np.all(structure.pbc):
        raise UserError(
            f"elastic: got pbc {np.asarray(structure.pbc).tolist()}; expected three periodic "
            "directions. Elastic constants of a slab or a wire need a volume that it does not have."
        )
    variables, graph = inputs.variables_and_graph(potential, structure)
    return jax.device_get(jax.jit(elastic_fn(predict_fn(potential.model)))(variables, graph))


def strained_gradient_fn(
    predict: PredictFn,
) -> Callable[..., tuple[Float[Array, "atoms 3"], Float[Array, " 6"]]]:
    """Makes `(variables, graph, positions, strain [6]) -> dE/d(positions, strain)`.

    Positions [Å] are those before the deformation; the strain is in Voigt's form. The energy's
    derivatives at the deformed place are the potential's forces and virial: with F = 1 + ε, dE/dr
    is `-f F`, and dE/dε is the symmetric part of `-F⁻¹ W`, W the virial.
    """

    def gradient(variables: Any, graph: AtomicGraph, positions: Array, strain: Array):
        matrix = tensor_of_strain(strain)
        moved = apply_strain(dataclasses.replace(graph, positions=positions), matrix[None])
        prediction = predict(variables, moved)
        deformation = jnp.eye(3, dtype=strain.dtype) + matrix
        by_strain = -jnp.linalg.solve(deformation, prediction.virial[0])
        by_strain = 0.5 * (by_strain + by_strain.T)
        return -prediction.forces @ deformation, to_voigt(by_strain)

    return gradient


def tensor_of_strain(strain: Float[Array, " 6"]) -> Float[Array, "3 3"]:
    """The symmetric tensor of a strain in Voigt's form, whose shears are doubled."""
    a, b, c, d, e, f = (strain[i] if i < 3 else 0.5 * strain[i] for i in range(6))
    return jnp.array([[a, f, e], [f, b, d], [e, d, c]])


def to_voigt(stress: Float[Array, "3 3"]) -> Float[Array, " 6"]:
    """Components xx, yy, zz, yz, xz, xy of a symmetric tensor, as they are."""
    return jnp.stack([stress[a, b] for a, b in VOIGT])


def _translations(atoms: int, hessian: Array) -> Array:
    """A matrix that gives the translations, and nothing else, the mean curvature of the rest."""
    scale = jax.lax.stop_gradient(jnp.trace(hessian)) / max(3 * atoms - 3, 1)
    scale = jnp.where(scale > 0.0, scale, 1.0) if atoms > 1 else 1.0
    return scale * jnp.tile(jnp.eye(3, dtype=hessian.dtype), (atoms, atoms)) / atoms


def _softest(hessian: Array) -> Array:
    return jnp.linalg.eigvalsh(jax.lax.stop_gradient(hessian))[0]


def _without_drift(mixed: Float[Array, "coordinates 6"]) -> Float[Array, "coordinates 6"]:
    """Takes off the mean over atoms, which is rounding."""
    parts = mixed.reshape(-1, 3, 6)
    return (parts - jnp.mean(parts, axis=0, keepdims=True)).reshape(mixed.shape)
