"""The flux of heat: how fast energy moves, `J = d/dt Σ r_i E_i`, for potentials of finite reach.

With E_i the potential and kinetic energy of an atom,

    J = Σ_i E_i v_i + Σ_i r_i dU_i/dt - Σ_j r_j (dU/dr_j · v_j)

holds for any division of the energy into energies of atoms. In a periodic system it is written for
the atoms of one cell among as many images as their energies depend on ("unfolded": M. F. Langer, F.
Knoop, C. Carbogno, M. Scheffler & M. Rupp, Phys. Rev. B 108, L100302 (2023), eqs. 4 to 8): i runs
over the cell, U is the energy of the cell, and j runs over all atoms. That costs one product with
the Jacobian of the energies and one gradient, whatever the number of layers. Where an energy
depends on vectors to neighbours only, images are not needed:

    J = Σ_i E_i v_i - Σ_ij r_ij (dU_i/dr_ij · v_j)

(Z. Fan et al., Phys. Rev. B 92, 094301 (2015), eq. 21).
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mlip_jax import elements, models, units
from mlip_jax.config import UserError
from mlip_jax.data.structure import Structure
from mlip_jax.graph import AtomicGraph, edge_vectors
from mlip_jax.inference import require_precision
from mlip_jax.inference.graph_series import GraphSeries
from mlip_jax.neighbors.host import neighbor_list
from mlip_jax.potential import Potential, as_energy_fn

HeatFluxFn = Callable[[Any, AtomicGraph, Array, Array], Float[Array, "3"]]
"""`(variables, graph, velocities [atoms 3], masses [atoms]) -> J`, in eV times velocities' unit."""


class Unfolded(NamedTuple):
    """A cell with those images of its atoms that their energies depend on.

    Attributes:
        structure: not periodic; atoms of the cell come first, in their order.
        sources: the atom of the cell that each is an image of.
        offsets: Å, from this atom.
    """

    structure: Structure
    sources: Int[np.ndarray, " all"]
    offsets: Float[np.ndarray, "all 3"]


def unfold(structure: Structure, reach: float) -> Unfolded:
    """Takes a cell out of its crystal, with its surroundings.

    Args:
        structure: periodic or not.
        reach: Å, distance from which on atoms have no say in the energy of an atom: the cutoff
            times the number of times that messages are passed.

    Raises:
        UserError: for an impossible structure.
    """
    pairs = neighbor_list(structure.positions, structure.cell, structure.pbc, reach)
    keys = np.concatenate([pairs.neighbors[:, None], pairs.shifts], axis=1)
    keys = np.unique(keys[np.any(pairs.shifts != 0, axis=1)], axis=0)
    sources = np.concatenate([np.arange(structure.num_atoms), keys[:, 0]])
    moves = keys[:, 1:] @ structure.cell
    offsets = np.concatenate([np.zeros((structure.num_atoms, 3)), moves])
    whole = Structure(
        atomic_numbers=structure.atomic_numbers[sources],
        positions=structure.positions[sources] + offsets,
        cell=np.zeros((3, 3)),
        pbc=np.zeros(3, bool),
        name=structure.name,
    )
    return Unfolded(whole, sources, offsets)


def heat_flux_fn(model: Any) -> HeatFluxFn:
    """Makes the flux of a cluster, or of a cell that was unfolded.

    The graph has one structure that is not periodic; energies of the atoms of its `energy_mask`
    count, and other atoms (images) must have their velocities, too. Energies are those without
    reference energies. The result can be jitted, and differentiated.

    Args:
        model: a linen module, or a function `(variables, graph) -> AtomOutputs`.
    """
    energy_fn = as_energy_fn(model)

    def flux(variables: Any, graph: AtomicGraph, velocities: Array, masses: Array) -> Array:
        def energies(positions: Array) -> Array:
            outputs = energy_fn(variables, dataclasses.replace(graph, positions=positions))
            return jnp.where(graph.energy_mask, outputs.energies, 0.0)

        found, rates = jax.jvp(energies, (graph.positions,), (velocities,))
        slopes = jax.grad(lambda positions: jnp.sum(energies(positions)))(graph.positions)
        powers = jnp.sum(slopes * velocities, axis=-1)
        # The sum of the weights is zero, so that the origin plays no part.
        weights = jnp.where(graph.atom_mask, rates - powers, 0.0)
        return weights @ graph.positions + _carried(graph, found, velocities, masses)

    return flux


def pair_heat_flux_fn(model: Any) -> HeatFluxFn:
    """Makes the flux of a periodic structure or a cluster by way of pair vectors.

    It is right for models only whose energy of an atom depends on the vectors to its own neighbours
    and nothing else: not for those that pass messages, whose flux is that of `heat_flux_fn`.

    Args:
        model: a linen module, or a function `(variables, graph) -> AtomOutputs`.
    """
    energy_fn = as_energy_fn(model)

    def flux(variables: Any, graph: AtomicGraph, velocities: Array, masses: Array) -> Array:
        vectors = edge_vectors(graph)

        def total(vectors: Array) -> tuple[Array, Array]:
            outputs = energy_fn(variables, dataclasses.replace(graph, vectors=vectors))
            energies = jnp.where(graph.energy_mask, outputs.energies, 0.0)
            return jnp.sum(energies), energies

        slopes, found = jax.grad(total, has_aux=True)(vectors)
        powers = jnp.sum(slopes * velocities[graph.neighbors], axis=-1)
        powers = jnp.where(graph.edge_mask, powers, 0.0)
        return _carried(graph, found, velocities, masses) - jnp.einsum("nk,nkx->x", powers, vectors)

    return flux


def heat_fluxes(
    potential: Potential,
    structures: Iterable[Structure],
    momenta: Iterable[Float[np.ndarray, "atoms 3"]],
    block: int = 0,
) -> Iterator[Float[np.ndarray, "3"]]:
    """Fluxes [eV Å/fs] of the frames of a trajectory, one after the other, in float64.

    Args:
        potential: the potential that made the trajectory.
        structures: frames.
        momenta: sqrt(amu eV), of each frame.
        block: atoms of a block, see `data.collate.make_graph`.

    Raises:
        UserError: for an unknown element, or a potential whose model does not say how far its
            energies reach (`hops`), as with sums over reciprocal lattice vectors.
    """
    dtype = require_precision("float64")
    needs = models.requirements(potential.model)
    if needs.hops is None:
        raise UserError(
            f"heat flux: {type(potential.model).__name__} does not say how far the energy of an "
            "atom depends on others, as long-ranged models do not. Use another potential."
        )
    make = pair_heat_flux_fn if needs.hops == 1 else heat_flux_fn
    program = jax.jit(make(potential.model))
    variables = jax.tree.map(jnp.asarray, potential.variables_in(dtype))
    series = GraphSeries(potential, dtype, skin=0.0, block=block, changing=True)
    for structure, moments in zip(structures, momenta, strict=True):
        masses = np.asarray(elements.MASSES)[structure.atomic_numbers]
        whole, sources = structure, np.arange(structure.num_atoms)
        if needs.hops > 1:
            whole, sources, _ = unfold(structure, needs.hops * needs.cutoff)
        graph: Any = series.graph(whole)
        rows = graph.num_atoms
        graph = dataclasses.replace(graph, energy_mask=np.arange(rows) < structure.num_atoms)
        velocities, weights = np.zeros((rows, 3)), np.zeros(rows)
        velocities[: len(sources)] = (moments / masses[:, None])[sources]
        weights[: len(sources)] = masses[sources]
        flux = program(variables, jax.tree.map(jnp.asarray, graph), velocities, weights)
        yield np.asarray(flux) / units.TIME_UNIT


def _carried(graph: AtomicGraph, energies: Array, velocities: Array, masses: Array) -> Array:
    """`Σ E_i v_i`: energy that atoms take with them."""
    kinetic = 0.5 * masses * jnp.sum(velocities**2, axis=-1)
    return jnp.where(graph.energy_mask, energies + kinetic, 0.0) @ velocities
