"""From a model's energies to a potential: derivatives, sums of terms, reference energies, the disk.

`predict_fn(model)` is the only place where a derivative of an energy is taken.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mlip_jax import elements
from mlip_jax.config import UserError
from mlip_jax.graph import (
    AtomicGraph,
    AtomOutputs,
    add_outputs,
    apply_strain,
    edge_vectors,
    pytree,
    sum_over_atoms,
    volumes,
)
from mlip_jax.models.initial import cast_variables
from mlip_jax.nn import double

Variables = Mapping[str, Any]
EnergyFn = Callable[[Any, AtomicGraph], AtomOutputs]
PredictFn = Callable[[Any, AtomicGraph], "Prediction"]


@pytree
class Prediction:
    """What a potential says about a graph; padded rows hold zeros.

    Attributes:
        energy: eV, sum of `atom_energies`.
        atom_energies: eV.
        forces: -dE/dr, eV/Å.
        virial: -dE/dε, eV.
        stress: dE/dε / V, eV/Å^3, tension positive; 0 where not all three directions are periodic
            (it is not defined there: writers put NaN).
        charges: e.
        magmoms: absolute values of the magnetic moments, μ_B.
        atom_virials: share of each atom in the virial, eV; only on request.
        features, grades: see `AtomOutputs`.
    """

    energy: Float[Array, " graphs"]
    atom_energies: Float[Array, " atoms"]
    forces: Float[Array, "atoms 3"]
    virial: Float[Array, "graphs 3 3"]
    stress: Float[Array, "graphs 3 3"]
    charges: Float[Array, " atoms"] | None = None
    magmoms: Float[Array, " atoms"] | None = None
    atom_virials: Float[Array, "atoms 3 3"] | None = None
    features: Float[Array, "atoms features"] | None = None
    grades: Float[Array, " atoms"] | None = None


def predict_fn(model: nn.Module | EnergyFn) -> PredictFn:
    """Makes `(variables, graph) -> Prediction` of a model, with one gradient of the energy.

    The gradient is taken with respect to positions and strain, before the model sees the graph, so
    that terms in reciprocal space get their stress too; where the graph carries `vectors`, with
    respect to these.

    Models with `double_sums` are evaluated and differentiated where float64 is allowed.

    The result may be called as it is, with arrays of numpy or jax, or be transformed.

    Args:
        model: a linen module, or a function `(variables, graph) -> AtomOutputs`.
    """
    energy_fn = as_energy_fn(model)
    wide = getattr(model, "double_sums", False)

    def predict(variables: Any, graph: AtomicGraph) -> Prediction:
        variables, graph = _as_jax((variables, graph))
        if graph.vectors is not None:
            with double.allowed(wide):
                return _predict_from_vectors(energy_fn, variables, graph)

        def total(positions, strain):
            strained = apply_strain(dataclasses.replace(graph, positions=positions), strain)
            return _total_energy(energy_fn(variables, strained), graph)

        strain = jnp.zeros_like(graph.cell)
        with double.allowed(wide):
            slopes = jax.grad(total, argnums=(0, 1), has_aux=True)
            gradient, outputs = slopes(graph.positions, strain)
        return _prediction(graph, outputs, forces=-gradient[0], virial=-gradient[1])

    return predict


def atom_virials_fn(model: nn.Module | EnergyFn) -> PredictFn:
    """Like `predict_fn`, by way of pair vectors, with `atom_virials` filled in.

    Half of each pair's `-r_ij ⊗ dE/dr_ij` goes to either atom, so that the sum over atoms is the
    virial; with many-body energies any such division is a convention (Fan et al. 2015, eq. 23).
    Terms that have no pair form (reciprocal-space sums) are refused by their models.
    """
    energy_fn = as_energy_fn(model)

    def predict(variables: Any, graph: AtomicGraph) -> Prediction:
        variables, graph = _as_jax((variables, graph))
        with_vectors = dataclasses.replace(graph, vectors=edge_vectors(graph))
        with double.allowed(getattr(model, "double_sums", False)):
            return _predict_from_vectors(energy_fn, variables, with_vectors, atom_virials=True)

    return predict


def hessian_vector_product_fn(
    model: nn.Module | EnergyFn,
) -> Callable[[Any, AtomicGraph, Float[Array, "atoms 3"]], Float[Array, "atoms 3"]]:
    """Makes `(variables, graph, v [atoms 3]) -> H v` [eV/Å^2 times v's unit], H = d²E/dr²."""
    predict = predict_fn(model)

    def product(variables: Any, graph: AtomicGraph, direction: Array) -> Array:
        def gradient(positions):
            return -predict(variables, dataclasses.replace(graph, positions=positions)).forces

        return jax.jvp(gradient, (graph.positions,), (direction,))[1]

    return product


def sum_energies(*energy_fns: EnergyFn) -> EnergyFn:
    """Adds terms: `(variables of each, graph or one graph a term) -> AtomOutputs`.

    Charges, moments and features are those of the first term that has them.
    """

    def energy_fn(variables: Any, graph: Any) -> AtomOutputs:
        graphs = (graph,) * len(energy_fns) if isinstance(graph, AtomicGraph) else graph
        terms = [f(v, g) for f, v, g in zip(energy_fns, variables, graphs, strict=True)]
        return add_outputs(terms)

    return energy_fn


def _as_jax(tree: Any) -> Any:
    """Turns numpy arrays (a potential from the disk, a graph from the host) into jax's.

    A numpy array cannot be indexed by what is traced, as models index their parameters by element.
    """
    return jax.tree.map(lambda a: jnp.asarray(a) if isinstance(a, np.ndarray) else a, tree)


def as_energy_fn(model: nn.Module | EnergyFn) -> EnergyFn:
    """`(variables, graph) -> AtomOutputs` of a linen module; a function stays what it is."""
    if isinstance(model, nn.Module):
        return cast(EnergyFn, model.apply)
    return model


def _total_energy(outputs: AtomOutputs, graph: AtomicGraph):
    return jnp.sum(jnp.where(graph.energy_mask, outputs.energies, 0.0)), outputs


def _predict_from_vectors(energy_fn, variables, graph, atom_virials=False) -> Prediction:
    def total(vectors):
        return _total_energy(
            energy_fn(variables, dataclasses.replace(graph, vectors=vectors)), graph
        )

    gradient, outputs = jax.grad(total, has_aux=True)(graph.vectors)
    gradient = jnp.where(graph.edge_mask[..., None], gradient, 0.0)
    received = jnp.zeros_like(graph.positions).at[graph.neighbors].add(gradient)
    pair_virials = -jnp.einsum("nka,nkb->nkab", edge_vectors(graph), gradient)
    pair_virials = 0.5 * (pair_virials + jnp.swapaxes(pair_virials, -1, -2))
    own = 0.5 * jnp.sum(pair_virials, axis=1)
    per_atom = own.at[graph.neighbors].add(0.5 * pair_virials)
    virial = jax.ops.segment_sum(per_atom, graph.graph_index, num_segments=graph.num_graphs)
    prediction = _prediction(graph, outputs, jnp.sum(gradient, axis=1) - received, virial)
    return dataclasses.replace(prediction, atom_virials=per_atom if atom_virials else None)


def _prediction(graph, outputs: AtomOutputs, forces, virial) -> Prediction:
    def real(values):
        mask = graph.atom_mask.reshape((-1,) + (1,) * (values.ndim - 1))
        return jnp.where(mask, values, 0.0)

    periodic = jnp.all(graph.pbc, axis=-1)[:, None, None]
    stress = jnp.where(periodic, -virial / volumes(graph.cell)[:, None, None], 0.0)
    return Prediction(
        energy=sum_over_atoms(graph, outputs.energies),
        atom_energies=real(outputs.energies),
        forces=forces,
        virial=virial,
        stress=stress,
        charges=None if outputs.charges is None else real(outputs.charges),
        magmoms=None if outputs.magmoms is None else real(outputs.magmoms),
        features=outputs.features,
        grades=None if outputs.grades is None else real(outputs.grades),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Potential:
    """A model with its parameters and all that is needed to use it.

    Attributes:
        model: the linen module.
        variables: its variables (`params` and, where it has them, `constants`).
        reference_energies: eV by atomic number, of isolated atoms or fitted; added on the host in
            float64, never inside a float32 program.
        card: what it was fitted to: data hash, level of theory, metrics, versions, checks.
        head_energies: of a model with several heads: reference energies by head and atomic number.
        head: which of several it is (`heads.choose`); it knows elements with reference energies.
    """

    model: nn.Module
    variables: Variables
    reference_energies: Mapping[int, float]
    card: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    head_energies: Mapping[str, Mapping[int, float]] = dataclasses.field(default_factory=dict)
    head: str | None = None

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers that the potential knows."""
        known = tuple(self.model.species)  # pyright: ignore[reportAttributeAccessIssue]
        return tuple(z for z in known if self.head is None or z in self.reference_energies)

    @property
    def cutoff(self) -> float:
        """Cutoff [Å] of the neighbour list that it needs."""
        return float(self.model.cutoff)  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def has_grades(self) -> bool:
        """Whether predictions have extrapolation grades: an active set is among the constants."""
        paths = jax.tree_util.tree_flatten_with_path(self.variables.get("constants", {}))[0]
        return any(jax.tree_util.DictKey("active") == path[-1] for path, _ in paths)

    def variables_in(self, dtype: Any) -> Variables:
        """Variables on the host for a program of a precision.

        For float32, models with a method `fold` first put into constants what is ill-conditioned
        there and does not depend on the structure, in float64.

        Args:
            dtype: float32 or float64.
        """
        dtype, variables = np.dtype(dtype), self.variables
        fold = getattr(self.model, "fold", None)
        if dtype == np.float32 and fold is not None:
            variables = fold(variables)
        return cast_variables(variables, dtype)

    def check_species(self, atomic_numbers: np.ndarray, what: str = "structure") -> None:
        """Refuses elements that the potential does not know.

        Args:
            atomic_numbers: Z of some atoms.
            what: names the structure in the message.

        Raises:
            UserError: naming the unknown elements and the known ones.
        """
        _check_known(atomic_numbers, self.species, what, self.head)

    def reference_energy(
        self, atomic_numbers: np.ndarray, what: str = "structure", head: str | None = None
    ) -> Float[np.ndarray, " atoms"]:
        """Reference energy [eV] of each atom, float64, on the host.

        Args:
            atomic_numbers: Z of the atoms.
            what: names the structure in messages.
            head: of the structure, where the model has several.

        Raises:
            UserError: for an element that the potential, or the head, does not know.
        """
        self.check_species(atomic_numbers, what)
        energies = self.reference_energies
        if head is not None:
            energies = self.head_energies[head]
            _check_known(atomic_numbers, tuple(energies), what, head)
        table = np.zeros(len(elements.SYMBOLS))
        for number, energy in energies.items():
            table[int(number)] = energy
        return table[np.asarray(atomic_numbers)]


def _check_known(numbers: np.ndarray, known: tuple[int, ...], what: str, head: str | None) -> None:
    unknown = sorted({int(z) for z in numbers} - {int(z) for z in known})
    if unknown:
        who = "the potential" if head is None else f"the head {head!r} of the potential"
        raise UserError(
            f"{what}: got the elements {elements.symbols(unknown)}, which {who} does not know; it "
            f"knows {elements.symbols(known)}. Train or load a potential that covers them."
        )
