"""L-BFGS for many structures in one padded batch: each has its own memory and trust radius.

The inverse Hessian of each structure is built from its last steps `s` and changes of the gradient
`y` by the two-loop recursion (Nocedal & Wright, Numerical Optimization, 2006, algorithm 7.4). Steps
are limited to a trust radius instead of searched along a line, so that a step is one evaluation.
Work is the mean of the forces at both ends times the step: energies in float32 would not tell a
small rise.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mlip_jax.graph import AtomicGraph, Leaf, pytree, safe_norm

MEMORY = 20
"""Steps that are remembered. The next more would hardly change directions."""

STIFFNESS = 20.0
"""eV/Å^2, of all directions before the first change of forces is known."""

_LEAST_CURVATURE = 1e-2
"""eV/Å^2; steps along which the energy is flatter, or concave, are not remembered."""

_SHORTER, _LONGER = 0.4, 1.5


class Move(NamedTuple):
    """Positions and strain of each structure together: a step, or the forces that drive one.

    Attributes:
        atoms: of positions.
        strain: of the strain times the length of the structure, symmetric.
    """

    atoms: Float[Array, "atoms 3"]
    strain: Float[Array, "graphs 3 3"]


@pytree
class Memory:
    """What each structure knows of its way; atoms or graphs lead every array.

    Attributes:
        steps, changes: of positions, and of forces with opposite sign; the latest last.
        strain_steps, strain_changes: likewise of the scaled strain.
        inverse: `1 / (s . y)`, 0 where nothing is remembered.
        scale: Å^2/eV, of the inverse Hessian in directions that nothing is known of.
        last_step, last_strain_step: on the way to here.
        last_forces, last_pull: where it began.
        trust: Å, see `size`.
    """

    steps: Float[Leaf, "atoms memory 3"]
    changes: Float[Leaf, "atoms memory 3"]
    strain_steps: Float[Leaf, "graphs memory 3 3"]
    strain_changes: Float[Leaf, "graphs memory 3 3"]
    inverse: Float[Leaf, "graphs memory"]
    scale: Float[Leaf, " graphs"]
    last_step: Float[Leaf, "atoms 3"]
    last_strain_step: Float[Leaf, "graphs 3 3"]
    last_forces: Float[Leaf, "atoms 3"]
    last_pull: Float[Leaf, "graphs 3 3"]
    trust: Float[Leaf, " graphs"]


OF_ATOMS = ("steps", "changes", "last_step", "last_forces")


def start(atoms: int, graphs: int, trust: float) -> dict[str, np.ndarray]:
    """Arrays of a `Memory` without a past, on the host.

    Args:
        atoms: their number.
        graphs: number of structures.
        trust: Å, of the first step.
    """
    return {
        "steps": np.zeros((atoms, MEMORY, 3)),
        "changes": np.zeros((atoms, MEMORY, 3)),
        "strain_steps": np.zeros((graphs, MEMORY, 3, 3)),
        "strain_changes": np.zeros((graphs, MEMORY, 3, 3)),
        "inverse": np.zeros((graphs, MEMORY)),
        "scale": np.full(graphs, 1.0 / STIFFNESS),
        "last_step": np.zeros((atoms, 3)),
        "last_strain_step": np.zeros((graphs, 3, 3)),
        "last_forces": np.zeros((atoms, 3)),
        "last_pull": np.zeros((graphs, 3, 3)),
        "trust": np.full(graphs, trust),
    }


def propose(
    graph: AtomicGraph, memory: Memory, forces: Move, roots: Any, active: Any, largest: float
) -> tuple[Any, Move, Memory]:
    """Judges the last step of each structure and proposes the next.

    Args:
        graph: says which atom belongs to which structure.
        memory: of the way to here.
        forces: here; zero in structures that have ended.
        roots: square roots of the numbers of atoms.
        active: structures that go on.
        largest: Å, no trust radius is above it.

    Returns:
        Which structures go back to where their last step began, as it went uphill; the step from
        here, or from there; and the memory.
    """
    last = Move(memory.last_step, memory.last_strain_step)
    before = Move(memory.last_forces, memory.last_pull)
    change = Move(before.atoms - forces.atoms, before.strain - forces.strain)
    along, squared = dot(graph, last, change), dot(graph, last, last)
    uphill = dot(graph, last, before) + dot(graph, last, forces) < 0.0
    uphill &= active
    known = active & (along > _LEAST_CURVATURE * squared) & (squared > 0.0)
    memory = _remember(graph, memory, last, change, known, along)
    of_atom = graph.graph_index
    begin = Move(
        jnp.where(uphill[of_atom, None], before.atoms, forces.atoms),
        jnp.where(uphill[:, None, None], before.strain, forces.strain),
    )
    length = size(graph, last, roots)
    longer = jnp.minimum(_LONGER * memory.trust, largest)
    trust = jnp.where(uphill, _SHORTER * length, jnp.where(squared > 0.0, longer, memory.trust))
    step = _two_loops(graph, memory, begin)
    step_size = size(graph, step, roots)
    factor = jnp.where(active, jnp.minimum(1.0, trust / jnp.maximum(step_size, 1e-30)), 0.0)
    step = Move(step.atoms * factor[of_atom, None], step.strain * factor[:, None, None])
    memory = dataclasses.replace(
        memory,
        last_step=step.atoms,
        last_strain_step=step.strain,
        last_forces=begin.atoms,
        last_pull=begin.strain,
        trust=trust,
    )
    return uphill, step, memory


def dot(graph: AtomicGraph, a: Move, b: Move) -> Float[Array, " graphs"]:
    """Scalar product in each structure."""
    atoms = jnp.sum(a.atoms * b.atoms, axis=1)
    atoms = jnp.where(graph.atom_mask, atoms, 0.0)
    summed = jax.ops.segment_sum(atoms, graph.graph_index, graph.num_graphs)
    return summed + jnp.sum(a.strain * b.strain, axis=(1, 2))


def size(graph: AtomicGraph, move: Move, roots: Any) -> Float[Array, " graphs"]:
    """Å: how far the atom goes that goes farthest, or the scaled strain over `roots`."""
    far = jnp.where(graph.atom_mask, safe_norm(move.atoms), 0.0)
    far = jax.ops.segment_max(far, graph.graph_index, graph.num_graphs)
    far = jnp.where(graph.graph_mask, far, 0.0)
    return jnp.maximum(far, jnp.sqrt(jnp.sum(move.strain**2, axis=(1, 2))) / roots)


def _remember(graph, memory: Memory, step: Move, change: Move, known, along) -> Memory:
    """Appends a step where it is worth it; the oldest is forgotten."""
    of_atom = known[graph.graph_index]

    def push(values, new, where):
        pushed = jnp.concatenate([values[:, 1:], new[:, None]], axis=1)
        return jnp.where(where.reshape((-1,) + (1,) * (values.ndim - 1)), pushed, values)

    curved = dot(graph, change, change)
    return dataclasses.replace(
        memory,
        steps=push(memory.steps, step.atoms, of_atom),
        changes=push(memory.changes, change.atoms, of_atom),
        strain_steps=push(memory.strain_steps, step.strain, known),
        strain_changes=push(memory.strain_changes, change.strain, known),
        inverse=push(memory.inverse, 1.0 / jnp.where(known, along, 1.0), known),
        scale=jnp.where(known, along / jnp.where(known, curved, 1.0), memory.scale),
    )


def _two_loops(graph, memory: Memory, forces: Move) -> Move:
    """The inverse Hessian times the forces."""
    of_atom = graph.graph_index

    def pair(i):
        step = Move(memory.steps[:, i], memory.strain_steps[:, i])
        return step, Move(memory.changes[:, i], memory.strain_changes[:, i]), memory.inverse[:, i]

    def add(a: Move, factor, b: Move) -> Move:
        return Move(
            a.atoms + factor[of_atom, None] * b.atoms,
            a.strain + factor[:, None, None] * b.strain,
        )

    def backwards(direction, i):
        step, change, inverse = pair(i)
        share = inverse * dot(graph, step, direction)
        return add(direction, -share, change), share

    def forwards(direction, inputs):
        i, share = inputs
        step, change, inverse = pair(i)
        return add(direction, share - inverse * dot(graph, change, direction), step), None

    latest_first = jnp.arange(MEMORY - 1, -1, -1)
    direction, shares = jax.lax.scan(backwards, forces, latest_first)
    direction = Move(
        direction.atoms * memory.scale[of_atom, None],
        direction.strain * memory.scale[:, None, None],
    )
    return jax.lax.scan(forwards, direction, (latest_first[::-1], shares[::-1]))[0]
