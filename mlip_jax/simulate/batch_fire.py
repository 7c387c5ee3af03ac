"""FIRE for many structures in one padded batch: each has its own time step, mixing and power.

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
from mlip_jax.simulate import relax

ACTIVE, CONVERGED, NOT_FINITE, COLLAPSED, VOLUME, STEPS = range(6)


@pytree
class BatchState:
    """Descents of a batch; all but positions and cell are of each structure.

    Attributes:
        velocities, strain_velocities: of atoms and of `length * strain`.
        step, mixing, count: of FIRE.
        steps: done.
        status: one of the codes of this module.
        length: Å, by which strain is scaled; sqrt(atoms) times the cube root of the volume an atom.
        volume: Å^3, at the start of the descent.
        deformation: since the neighbour list was built.
    """

    velocities: Float[Leaf, "atoms 3"]
    strain_velocities: Float[Leaf, "graphs 3 3"]
    step: Float[Leaf, " graphs"]
    mixing: Float[Leaf, " graphs"]
    count: Int[Leaf, " graphs"]
    steps: Int[Leaf, " graphs"]
    status: Int[Leaf, " graphs"]
    length: Float[Leaf, " graphs"]
    volume: Float[Leaf, " graphs"]
    deformation: Float[Leaf, "graphs 3 3"]


@functools.lru_cache(maxsize=8)
def program(model: Any, settings: Any, cutoff: float) -> Any:
    """One jitted `(variables, graph, state) -> (graph, state, prediction)` of up to `chunk` steps.

    It ends early when no structure is active, or when the list of one is stale.

    Args:
        model: of the potential.
        settings: a `BatchRelaxationConfig`.
        cutoff: Å, of the model.
    """
    predict = predict_fn(model)

    def run(variables, start: AtomicGraph, state: BatchState):
        def evaluate(graph):
            return dataclasses.replace(predict(variables, graph), features=None)

        def body(carry):
            graph, state, _, done, _ = carry
            prediction = evaluate(graph)
            state = _judge(graph, state, prediction, settings)
            graph, state = _move(graph, state, prediction, settings)
            return graph, state, prediction, done + 1, _stale(start, graph, state, settings, cutoff)

        def go_on(carry):
            _, state, _, done, stale = carry
            return (done < settings.chunk) & ~stale & jnp.any(state.status == ACTIVE)

        shapes = jax.eval_shape(evaluate, start)
        empty = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
        first = (start, state, empty, jnp.zeros((), jnp.int32), jnp.zeros((), bool))
        return jax.lax.while_loop(go_on, body, first)[:3]

    return jax.jit(run, compiler_options=compilation.options(model))


def _judge(graph, state: BatchState, prediction: Prediction, settings) -> BatchState:
    """Says which structures end here."""
    force = _over_atoms(jax.ops.segment_max, graph, safe_norm(prediction.forces))
    stress = jnp.max(jnp.abs(driving(prediction.stress, settings.cell)), axis=(1, 2))
    finite = jnp.isfinite(prediction.energy) & jnp.isfinite(force) & jnp.isfinite(stress)
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
    """One step of FIRE of the structures that are active (Bitzek et al. 2006)."""
    active, of_atom = state.status == ACTIVE, graph.graph_index
    forces = jnp.where(active[of_atom, None], prediction.forces, 0.0)
    pull = driving(prediction.virial, settings.cell) / state.length[:, None, None]
    pull = jnp.where(active[:, None, None], pull, 0.0)
    v, w = state.velocities, state.strain_velocities

    def dot(a, b, c, d):
        atoms = _over_atoms(jax.ops.segment_sum, graph, jnp.sum(a * b, axis=1))
        return atoms + jnp.sum(c * d, axis=(1, 2))

    uphill = dot(forces, v, pull, w) < 0.0
    speed, size = jnp.sqrt(dot(v, v, w, w)), jnp.sqrt(dot(forces, forces, pull, pull))
    keep = jnp.where(uphill, 0.0, 1.0 - state.mixing)
    turn = jnp.where(uphill, 0.0, state.mixing * speed / jnp.maximum(size, 1e-30))
    step, mixing, count = relax.adapt(uphill, state.step, state.mixing, state.count)
    turn = turn + step
    v = keep[of_atom, None] * v + turn[of_atom, None] * forces
    w = keep[:, None, None] * w + turn[:, None, None] * pull
    length = step * jnp.sqrt(dot(v, v, w, w))
    scale = step * jnp.minimum(1.0, settings.max_displacement / jnp.maximum(length, 1e-30))
    scale = jnp.where(active, scale, 0.0)
    growth = _exponential(w * (scale / state.length)[:, None, None])
    moved = graph.positions + scale[of_atom, None] * v
    graph = dataclasses.replace(
        graph,
        positions=jnp.einsum("ij,ijk->ik", moved, growth[of_atom]),
        cell=graph.cell @ growth,
    )
    return graph, dataclasses.replace(
        state,
        velocities=v,
        strain_velocities=w,
        step=step,
        mixing=mixing,
        count=count,
        steps=state.steps + active,
        deformation=state.deformation @ growth,
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
