"""Many structures downhill in one padded batch, each by L-BFGS until it has ended.

The strain of the cell is a degree of freedom beside the positions. A step is an increment
`x <- (x + dx) exp(dε)`, `h <- h exp(dε)` with symmetric `dε`, so that the cell does not turn; its
generalised force is the virial `-V σ` (Tadmor et al. 1999 for the deformation gradient as a
coordinate; the logarithm of it as in ASE's FrechetCellFilter, taken afresh at each step).
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from mlip_jax import compilation
from mlip_jax.graph import AtomicGraph, Leaf, edge_vectors, pytree, safe_norm, volumes
from mlip_jax.potential import Prediction, predict_fn
from mlip_jax.simulate import batch_lbfgs
from mlip_jax.simulate.batch_lbfgs import Memory, Move

ACTIVE, CONVERGED, NOT_FINITE, COLLAPSED, VOLUME, STEPS = range(6)


@pytree
class BatchState:
    """Descents of a batch; all but positions and cell are of each structure.

    Attributes:
        memory: of L-BFGS.
        steps: done.
        status: one of the codes of this module.
        length: Å, by which strain is scaled; sqrt(atoms) times the cube root of the volume an atom.
        roots: square roots of the numbers of atoms.
        volume: Å^3, at the start of the descent.
        deformation: since the neighbour list was built.
    """

    memory: Memory
    steps: Int[Leaf, " graphs"]
    status: Int[Leaf, " graphs"]
    length: Float[Leaf, " graphs"]
    roots: Float[Leaf, " graphs"]
    volume: Float[Leaf, " graphs"]
    deformation: Float[Leaf, "graphs 3 3"]


@pytree
class Found:
    """What each structure was found to have when it was evaluated last.

    Attributes:
        energy: eV, without reference energies.
        forces: eV/Å.
        stress: eV/Å^3.
    """

    energy: Float[Leaf, " graphs"]
    forces: Float[Leaf, "atoms 3"]
    stress: Float[Leaf, "graphs 3 3"]


@functools.lru_cache(maxsize=8)
def program(model: Any, settings: Any, cutoff: float) -> Any:
    """One jitted `(variables, graph, state) -> (graph, state, Found)` of up to `chunk` steps.

    It ends early when no structure is active, or when the list of one is stale. Structures that
    have ended lose their neighbours, so that models which skip what is empty do not compute them.

    Args:
        model: of the potential.
        settings: a `BatchRelaxationConfig`.
        cutoff: Å, of the model.
    """
    predict = predict_fn(model)

    def run(variables, start: AtomicGraph, state: BatchState):
        def body(carry):
            graph, state, found, done, _ = carry
            active = state.status == ACTIVE
            of_atom = active[graph.graph_index]
            mask = graph.edge_mask & of_atom[:, None]
            prediction = predict(variables, dataclasses.replace(graph, edge_mask=mask))
            found = Found(
                jnp.where(active, prediction.energy, found.energy),
                jnp.where(of_atom[:, None], prediction.forces, found.forces),
                jnp.where(active[:, None, None], prediction.stress, found.stress),
            )
            state = _judge(graph, state, found, settings)
            graph, state = _move(graph, state, prediction, settings)
            return graph, state, found, done + 1, _stale(start, graph, state, settings, cutoff)

        def go_on(carry):
            _, state, _, done, stale = carry
            return (done < settings.chunk) & ~stale & jnp.any(state.status == ACTIVE)

        arrays = (state.volume, start.positions, start.cell)
        nothing = Found(*(jnp.zeros_like(array) for array in arrays))
        first = (start, state, nothing, jnp.zeros((), jnp.int32), jnp.zeros((), bool))
        return jax.lax.while_loop(go_on, body, first)[:3]

    return jax.jit(run, compiler_options=compilation.options(model))


def _judge(graph, state: BatchState, found: Found, settings) -> BatchState:
    """Says which structures end here."""
    force = _over_atoms(jax.ops.segment_max, graph, safe_norm(found.forces))
    stress = jnp.max(jnp.abs(driving(found.stress, settings.cell)), axis=(1, 2))
    finite = jnp.isfinite(found.energy) & jnp.isfinite(force) & jnp.isfinite(stress)
    nearest = jnp.min(safe_norm(edge_vectors(graph)), axis=1)
    nearest = jax.ops.segment_min(nearest, graph.graph_index, graph.num_graphs)
    ratio = volumes(graph.cell) / state.volume
    outside = (ratio > settings.max_volume_factor) | (ratio * settings.max_volume_factor < 1.0)
    converged = (force < settings.max_force) & (stress < settings.max_stress)
    status = jnp.where(state.steps >= settings.max_steps, STEPS, ACTIVE)
    status = jnp.where(converged, CONVERGED, status)
    status = jnp.where(outside, VOLUME, status)
    status = jnp.where(nearest < settings.min_distance, COLLAPSED, status)
    status = jnp.where(finite, status, NOT_FINITE).astype(state.status.dtype)
    return dataclasses.replace(
        state, status=jnp.where(state.status == ACTIVE, status, state.status)
    )


def _move(graph, state: BatchState, prediction: Prediction, settings):
    """One step of the structures that are active, or back from one that went uphill."""
    active, of_atom = state.status == ACTIVE, graph.graph_index
    pull = driving(prediction.virial, settings.cell) / state.length[:, None, None]
    forces = Move(
        jnp.where(active[of_atom, None], prediction.forces, 0.0),
        jnp.where(active[:, None, None], pull, 0.0),
    )
    last = Move(state.memory.last_step, state.memory.last_strain_step)
    uphill, step, memory = batch_lbfgs.propose(
        graph, state.memory, forces, state.roots, active, settings.max_displacement
    )
    back = jnp.where(uphill, 1.0, 0.0).astype(state.length.dtype)
    undo = _exponential(-last.strain * (back / state.length)[:, None, None])
    growth = _exponential(step.strain / state.length[:, None, None])
    positions = jnp.einsum("ij,ijk->ik", graph.positions, undo[of_atom])
    positions = positions - back[of_atom, None] * last.atoms + step.atoms
    graph = dataclasses.replace(
        graph,
        positions=jnp.einsum("ij,ijk->ik", positions, growth[of_atom]),
        cell=graph.cell @ undo @ growth,
    )
    return graph, dataclasses.replace(
        state,
        memory=memory,
        steps=state.steps + active,
        deformation=state.deformation @ undo @ growth,
    )


def _stale(start, graph, state: BatchState, settings, cutoff: float):
    """Whether some pair may have come within the cutoff that is not in the list.

    Pairs beyond `cutoff + skin` are, after a deformation F and moves u in its frame, still
    `(1 - |F - 1|) (cutoff + skin) - 2 |u|` apart.
    """
    frame = jnp.einsum("ij,ijk->ik", start.positions, state.deformation[graph.graph_index])
    moved = _over_atoms(jax.ops.segment_max, graph, safe_norm(graph.positions - frame))
    shear = jnp.sqrt(
        jnp.sum((state.deformation - jnp.eye(3, dtype=moved.dtype)[None]) ** 2, axis=(1, 2))
    )
    apart = (1.0 - shear) * (cutoff + settings.skin) - 2.0 * moved
    return jnp.any((apart < cutoff) & (state.status == ACTIVE))


def driving(tensor, cell: str):
    """The part of a stress or virial that moves the cell."""
    if cell == "full":
        return 0.5 * (tensor + jnp.swapaxes(tensor, 1, 2))
    if cell == "fixed":
        return jnp.zeros_like(tensor)
    third = jnp.trace(tensor, axis1=1, axis2=2) / 3.0
    return third[:, None, None] * jnp.eye(3, dtype=tensor.dtype)[None]


def _exponential(strain):
    """Of a small matrix: to fourth order, one step's strain being a few percent at most."""
    term = total = jnp.broadcast_to(jnp.eye(3, dtype=strain.dtype), strain.shape)
    for order in range(1, 5):
        term = term @ strain / order
        total = total + term
    return total


def _over_atoms(reduce, graph, values):
    """Reduces non-negative values of real atoms over each structure."""
    values = jnp.where(graph.atom_mask, values, 0.0)
    reduced = reduce(values, graph.graph_index, graph.num_graphs)
    return jnp.where(graph.graph_mask, reduced, 0.0)
