"""A potential as jax-md wants it: an energy function and a neighbour function."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax_md import space
from jaxtyping import Array, Bool, Float

from mlip_jax.config import UserError
from mlip_jax.data.structure import Structure
from mlip_jax.graph import AtomOutputs, pytree, static_field
from mlip_jax.neighbors import active, device
from mlip_jax.neighbors.capacity import MARGIN
from mlip_jax.neighbors.device import DeviceNeighbors
from mlip_jax.potential import Potential
from mlip_jax.simulate.system import prepare

EnergyFn = Callable[..., Float[Array, ""]]


@pytree
class JaxMDNeighbors:
    """A neighbour list with the interface of `jax_md.partition.NeighborList`.

    Attributes:
        listed: the list.
        fractional: whether positions are given in fractional coordinates.
    """

    listed: DeviceNeighbors
    fractional: bool = static_field()  # pyright: ignore

    def update(self, position: Float[Array, "atoms 3"], *, box: Any = None) -> "JaxMDNeighbors":
        """The list at new positions (and box), built anew where it has become stale."""
        cell = self.listed.reference_cell if box is None else to_cell(box)
        positions = position @ cell if self.fractional else position
        positions = device.follow(self.listed, positions, cell)
        return JaxMDNeighbors(device.refresh(self.listed, positions, cell), self.fractional)

    @property
    def did_buffer_overflow(self) -> Bool[Array, ""]:
        """Whether neighbours did not fit: allocate a new list and repeat the steps since."""
        return device.flags(self.listed) != 0


class NeighborFn(NamedTuple):
    """`allocate(position, extra_capacity=0, box=None)` on the host and `update(position, list)`."""

    allocate: Callable[..., JaxMDNeighbors]
    update: Callable[..., JaxMDNeighbors]


def jax_md_energy(
    potential: Potential,
    structure: Structure,
    *,
    fractional_coordinates: bool = False,
    skin: float = 0.5,
    precision: str = "float32",
) -> tuple[EnergyFn, NeighborFn]:
    """Makes `(energy_fn, neighbor_fn)` that go straight into `jax_md.simulate`.

    `energy_fn(R, *, neighbor, box=None, perturbation=None)` is the energy [eV] without reference
    energies, which are constants. Boxes are jax-md's: a length, three lengths, or a matrix with the
    cell vectors in columns. With a list that overflowed, or has become stale, it is NaN: a wrong
    energy must not pass for a right one.

    Args:
        potential: the potential.
        structure: says elements, cell and periodicity.
        fractional_coordinates: whether R is fractional; gradients with respect to it are in eV/Å
            all the same, which is jax-md's convention (as `jax_md.simulate.npt_nose_hoover` and
            `jax_md.space.periodic_general` have it by default).
        skin: Å, of the neighbour list.
        precision: `float32` or `float64`.

    Raises:
        UserError: for an unknown element or an impossible structure, or a potential whose sums are
            in float64 while x64 is off.
    """
    wide = getattr(potential.model, "double_sums", False)
    if wide and not jax.config.read("jax_enable_x64"):
        raise UserError(
            "jax-md: the sums of this potential need float64, and jax-md differentiates them while "
            'x64 is off. Call jax.config.update("jax_enable_x64", True) first.'
        )
    system = prepare(potential, structure, precision, skin)
    rows = jnp.asarray(structure.cell, system.dtype)
    # Arrays of numpy could not be indexed by what is traced, as models index theirs by element.
    variables = jax.tree.map(jnp.asarray, system.variables)

    def energy_fn(
        R: Array, *, neighbor: JaxMDNeighbors, box: Any = None, perturbation: Any = None
    ) -> Array:
        cell = rows if box is None else to_cell(box)
        positions = space.transform(cell.T, R) if fractional_coordinates else R
        positions = device.follow(neighbor.listed, positions, cell)
        stale = device.is_stale(neighbor.listed, positions, cell)
        if perturbation is not None:
            strain = jnp.asarray(perturbation, system.dtype)
            strain = strain if strain.ndim == 2 else strain * jnp.eye(3, dtype=system.dtype)
            positions, cell = positions @ strain.T, cell @ strain.T
        graph, listed = active.to_graph(system.template, neighbor.listed, positions, cell)
        outputs = cast(AtomOutputs, system.model.apply(variables, graph))
        total = jnp.sum(jnp.where(graph.energy_mask, outputs.energies, 0.0))
        wrong = stale | (device.flags(listed) != 0)
        return total * jnp.where(wrong, jnp.nan, 1.0).astype(total.dtype)

    def allocate(position: Array, extra_capacity: int = 0, *, box: Any = None) -> JaxMDNeighbors:
        cell = np.asarray(structure.cell if box is None else to_cell(box), np.float64)
        positions = np.asarray(position, np.float64)
        positions = positions @ cell if fractional_coordinates else positions
        # A driver of jax-md does not make room by itself.
        listed = system.allocate(positions, cell, active_margin=MARGIN)
        if extra_capacity:
            listed = device.with_capacity(
                listed, device.grown_capacity(listed, extra=extra_capacity)
            )
        return JaxMDNeighbors(listed, fractional_coordinates)

    def update(position: Array, neighbors: JaxMDNeighbors, *, box: Any = None) -> JaxMDNeighbors:
        return neighbors.update(position, box=box)

    return energy_fn, NeighborFn(allocate, update)


def to_cell(box: Any) -> Float[Array, "3 3"]:
    """Cell vectors in rows of a box of jax-md."""
    box = jnp.asarray(box)
    return box.T if box.ndim == 2 else jnp.eye(3, dtype=box.dtype) * box
