"""Atoms and their neighbours as one pytree of dense rows, and the geometry that every model shares.

For atom `i`, row `i` of `neighbors`, `shifts` and `edge_mask` lists its neighbours by increasing
distance. A quantity of pairs is an array `[atoms, max_neighbors, ...]`; a sum over neighbours is a
sum over axis 1. There is no flat edge list.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

T = TypeVar("T")

# Leaves are numpy arrays on the host (where batches are laid out) and jax arrays on the device.
if TYPE_CHECKING:
    Leaf = Array
else:
    Leaf = Array | np.ndarray

PADDED_DISTANCE = 1000.0
"""Length [Å] of the constant vector that stands in a padded slot."""


@dataclass_transform(frozen_default=True)
def pytree(cls: type[T]) -> type[T]:
    """Turns a class with annotated fields into a frozen dataclass that is a JAX pytree.

    Fields whose metadata says `static` go to the tree's auxiliary data. Rebuilding a tree bypasses
    `__init__`, so that transformations may put batched arrays, tracers or `None` into the leaves
    while the constructor itself stays free to check shapes.
    """
    cls = dataclasses.dataclass(frozen=True, eq=False)(cls)  # pyright: ignore[reportAssignmentType]
    fields = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]
    dynamic = tuple(f.name for f in fields if not f.metadata.get("static", False))
    static = tuple(f.name for f in fields if f.metadata.get("static", False))

    def flatten_with_keys(tree):
        children = [(jax.tree_util.GetAttrKey(n), getattr(tree, n)) for n in dynamic]
        return children, tuple(getattr(tree, n) for n in static)

    def flatten(tree):
        return [getattr(tree, n) for n in dynamic], tuple(getattr(tree, n) for n in static)

    def unflatten(auxiliary, children):
        tree = object.__new__(cls)
        tree.__dict__.update(zip(static, auxiliary, strict=True))
        tree.__dict__.update(zip(dynamic, children, strict=True))
        return tree

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


def static_field(default: object = dataclasses.MISSING) -> object:
    """A dataclass field that belongs to the tree's structure, not to its leaves (hashable)."""
    return dataclasses.field(default=default, metadata={"static": True})  # pyright: ignore


@pytree
class AtomicGraph:
    """One or several structures with their neighbour matrix; inputs only, no labels.

    Attributes:
        positions: Å.
        atomic_numbers: Z; 0 on padded atoms.
        cell: Å, lattice vectors in rows; zero where there is no cell.
        pbc: which lattice directions are periodic.
        neighbors: index, in the batch, of each neighbour; a padded slot holds its own row's index.
        shifts: integers S with `r_ij = r_j + S @ cell - r_i`.
        edge_mask: False in padded slots. True does not mean "within the cutoff": in molecular
            dynamics rows hold a skin, and the true distance decides.
        graph_index: the structure that an atom belongs to, in increasing order.
        atom_mask: False on padded atoms.
        graph_mask: False on padded structures.
        energy_mask: atoms whose energies count; differs from `atom_mask` for ghost atoms only.
        reverse: flat slot `j * max_neighbors + s` of the opposite edge; a padded slot points at
            itself. Only where asked for.
        vectors: pair vectors `r_ij` [Å] given by the caller instead of positions.
        total_charge: e.
        fidelity: index of the level of theory: which of a model's heads counts.
        spins: μ_B.
        prefixes: `((cutoff, k), ...)`: neighbours within `cutoff` [Å] stand in the first k slots.
        pair_rooms: `((cutoff, places), ...)`: room for the pairs of neighbours within `cutoff` of
            the atoms of a group (`pair_groups`); without it there is room for all that could be.
        k_range: largest multiples of the reciprocal lattice vectors in sums over them (see
            `electrostatics.ewald`); `None` where no such sum was asked for.
        block: atoms that are processed at a time on a CPU (0: all at once); `atoms` is a multiple
            of it. An option of execution: results do not depend on it.
    """

    positions: Float[Leaf, "atoms 3"]
    atomic_numbers: Int[Leaf, " atoms"]
    cell: Float[Leaf, "graphs 3 3"]
    pbc: Bool[Leaf, "graphs 3"]
    neighbors: Int[Leaf, "atoms max_neighbors"]
    shifts: Int[Leaf, "atoms max_neighbors 3"]
    edge_mask: Bool[Leaf, "atoms max_neighbors"]
    graph_index: Int[Leaf, " atoms"]
    atom_mask: Bool[Leaf, " atoms"]
    graph_mask: Bool[Leaf, " graphs"]
    energy_mask: Bool[Leaf, " atoms"]
    reverse: Int[Leaf, "atoms max_neighbors"] | None = None
    vectors: Float[Leaf, "atoms max_neighbors 3"] | None = None
    total_charge: Float[Leaf, " graphs"] | None = None
    fidelity: Int[Leaf, " graphs"] | None = None
    spins: Float[Leaf, "atoms 3"] | None = None
    prefixes: tuple[tuple[float, int], ...] = static_field(())  # pyright: ignore
    pair_rooms: tuple[tuple[float, int], ...] = static_field(())  # pyright: ignore
    k_range: tuple[int, int, int] | None = static_field(None)  # pyright: ignore
    block: int = static_field(0)  # pyright: ignore

    @property
    def num_atoms(self) -> int:
        """Rows of the neighbour matrix, padding included."""
        return self.positions.shape[0]

    @property
    def num_graphs(self) -> int:
        """Structures in the batch, padding included."""
        return self.cell.shape[0]

    @property
    def max_neighbors(self) -> int:
        """Slots in a row."""
        return self.neighbors.shape[1]


@pytree
class AtomOutputs:
    """What a model gives for every atom.

    Attributes:
        energies: eV, without reference energies.
        charges: e.
        magmoms: absolute values of the magnetic moments, μ_B.
        features: quantities of further use (the last invariant features of a graph model, the
            descriptor of a local one) for uncertainty and selection.
        grades: extrapolation grades, where an active set is known: at most 1 for environments
            like those of the training data.
    """

    energies: Float[Leaf, " atoms"]
    charges: Float[Leaf, " atoms"] | None = None
    magmoms: Float[Leaf, " atoms"] | None = None
    features: Float[Leaf, "atoms features"] | None = None
    grades: Float[Leaf, " atoms"] | None = None


def edge_vectors(graph: AtomicGraph) -> Float[Array, "atoms max_neighbors 3"]:
    """Vectors `r_ij = r_j + S @ cell - r_i` [Å] from each atom to its neighbours.

    The only place where positions, shifts and cell become pair vectors. Padded slots get the
    constant vector (1000 Å, 0, 0), whose derivative is zero.
    """
    if graph.vectors is not None:
        vectors = graph.vectors
    else:
        shifts = graph.shifts.astype(graph.positions.dtype)
        if graph.num_graphs == 1:
            offsets = jnp.einsum("ijs,sk->ijk", shifts, graph.cell[0])
        else:
            offsets = jnp.einsum("ijs,isk->ijk", shifts, graph.cell[graph.graph_index])
        vectors = graph.positions[graph.neighbors] - graph.positions[:, None, :] + offsets
    far = jnp.array([PADDED_DISTANCE, 0.0, 0.0], dtype=vectors.dtype)
    return jnp.where(graph.edge_mask[..., None], vectors, far)


def safe_norm(vectors: Float[Array, "*batch 3"]) -> Float[Array, "*batch"]:
    """Length of vectors, with gradient 0 (not NaN) where the vector is zero."""
    squares = jnp.sum(vectors * vectors, axis=-1)
    is_zero = squares == 0.0
    return jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, squares)))


def sum_over_atoms(
    graph: AtomicGraph, values: Float[Array, "atoms ..."]
) -> Float[Array, "graphs ..."]:
    """Sums values of atoms over each structure; padded and ghost atoms do not count."""
    mask = graph.energy_mask.reshape((-1,) + (1,) * (values.ndim - 1))
    values = jnp.where(mask, values, 0.0)
    if graph.num_graphs == 1:
        return jnp.sum(values, axis=0, keepdims=True)
    return jax.ops.segment_sum(
        values, graph.graph_index, num_segments=graph.num_graphs, indices_are_sorted=True
    )


def atoms_per_graph(graph: AtomicGraph) -> Int[Array, " graphs"]:
    """Number of real atoms of each structure; 0 for padding."""
    ones = graph.atom_mask.astype(jnp.int32)
    return jax.ops.segment_sum(ones, graph.graph_index, num_segments=graph.num_graphs)


def volumes(cell: Float[Array, "graphs 3 3"]) -> Float[Array, " graphs"]:
    """Volume [Å^3] of each cell, positive for left-handed cells too; 1 where there is no cell."""
    volume = jnp.abs(jnp.sum(cell[:, 0] * jnp.cross(cell[:, 1], cell[:, 2]), axis=-1))
    return jnp.where(volume > 0.0, volume, 1.0)


def apply_strain(graph: AtomicGraph, strain: Float[Array, "graphs 3 3"]) -> AtomicGraph:
    """Deforms positions and cell by `x @ (1 + ε)`, with ε symmetrised."""
    symmetric = 0.5 * (strain + jnp.swapaxes(strain, -1, -2))
    if graph.num_graphs == 1:
        moved = graph.positions @ symmetric[0]
    else:
        moved = jnp.einsum("ij,ijk->ik", graph.positions, symmetric[graph.graph_index])
    return dataclasses.replace(
        graph,
        positions=graph.positions + moved,
        cell=graph.cell + jnp.einsum("gij,gjk->gik", graph.cell, symmetric),
    )


def prefix_length(graph: AtomicGraph, cutoff: float) -> int:
    """Slots of each row that suffice for neighbours within `cutoff` [Å] (a prefix of the row)."""
    lengths = [k for c, k in graph.prefixes if c >= cutoff]
    return min(lengths, default=graph.max_neighbors)


def pair_room(graph: AtomicGraph, cutoff: float) -> int | None:
    """Places for pairs of neighbours within `cutoff` [Å] in each group, where that is known."""
    return next((places for c, places in graph.pair_rooms if c == cutoff), None)


def narrowed(graph: AtomicGraph, cutoff: float) -> AtomicGraph:
    """The graph with rows that are as long as neighbours within `cutoff` [Å] need.

    For a term of a sum whose cutoff is shorter than that of another term.
    """
    k, most = prefix_length(graph, cutoff), graph.max_neighbors
    if k == most:
        return graph
    reverse = graph.reverse
    if reverse is not None:
        own = jnp.arange(graph.num_atoms * k, dtype=reverse.dtype).reshape(-1, k)
        atom, slot = reverse[:, :k] // most, reverse[:, :k] % most
        # An opposite slot that is cut off belongs to a pair beyond the cutoff.
        reverse = jnp.where(slot < k, atom * k + slot, own)
    return dataclasses.replace(
        graph,
        neighbors=graph.neighbors[:, :k],
        shifts=graph.shifts[:, :k],
        edge_mask=graph.edge_mask[:, :k],
        reverse=reverse,
        vectors=None if graph.vectors is None else graph.vectors[:, :k],
        prefixes=tuple((c, n) for c, n in graph.prefixes if n <= k),
    )


def map_atom_blocks(function: Callable[..., T], graph: AtomicGraph, *arrays: Array | None) -> T:
    """Evaluates `function(*arrays)` over blocks of `graph.block` atoms, with recomputation.

    Args:
        function: takes arrays whose leading axis is atoms and returns a tree of such arrays;
            row i of its result depends on row i of its arguments only.
        graph: says the size of a block; 0 evaluates everything at once.
        *arrays: leading axis atoms; `None` passes through.

    Returns:
        The same as `function(*arrays)`. In blocks, temporaries are those of one block, and the
        backward pass computes them again (on a CPU large fresh temporaries cost more than
        arithmetic).
    """
    block = graph.block
    if block == 0 or graph.num_atoms <= block:
        return function(*arrays)
    if graph.num_atoms % block:
        raise ValueError(
            f"block: got {block} atoms a block for {graph.num_atoms} atoms; expected a divisor. "
            "Pad the graph to a multiple of the block."
        )
    shaped = jax.tree.map(lambda a: a.reshape((-1, block, *a.shape[1:])), arrays)
    result = jax.lax.map(jax.checkpoint(lambda rows: function(*rows)), shaped)
    return jax.tree.map(lambda a: a.reshape((-1, *a.shape[2:])), result)


def add_outputs(terms: Sequence[AtomOutputs]) -> AtomOutputs:
    """Adds energies; charges, moments and features are those of the first term that has them."""

    def first(name):
        return next((v for t in terms if (v := getattr(t, name)) is not None), None)

    energies = terms[0].energies
    for term in terms[1:]:
        energies = energies + term.energies
    others = {name: first(name) for name in ("charges", "magmoms", "features", "grades")}
    return AtomOutputs(energies, **others)
