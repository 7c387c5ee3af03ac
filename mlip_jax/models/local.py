"""Local models: a descriptor of each atom's environment times a regressor.

A descriptor is a linen module, `descriptor(graph) -> [atoms, features]`, with parameters or none
and the attributes `species` and `cutoff` [Å]; where it knows the features of isolated atoms in
advance, whatever its parameters, a method `isolated_features() -> [elements, features]` saves
computing them. With the methods `pairs(graph)`, arrays of atoms that begin with the pair vectors,
and `environment(*rows of these) -> features`, blocks of atoms are differentiated one by one
(`nn.atom_energies`). A regressor is a module `regressor(features, element [atoms], elements) ->
[atoms]`; where it needs to see features of the data before it is fitted, it has a method
`calibrate`, as `nn.gaussian_process.GaussianProcess` has. Any descriptor goes with any regressor.
"""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mlip_jax.config import UserError
from mlip_jax.elements import species_index
from mlip_jax.graph import AtomicGraph, AtomOutputs
from mlip_jax.models.feature_scaling import Moments, Scaling, scaled
from mlip_jax.nn.atom_energies import atom_energies
from mlip_jax.nn.sparse_points import Reservoir

_SAMPLES = 4000
"""Atoms of each element, drawn at random, whose features a regressor sees when it is calibrated."""


def compiled_features(
    descriptor: nn.Module, variables: Mapping[str, Any], graph: AtomicGraph
) -> Float[Array, "atoms features"]:
    """Features of a descriptor, compiled once for each descriptor and shape."""
    return _features_program(descriptor)(variables, graph)


@functools.lru_cache(maxsize=8)
def _features_program(descriptor: nn.Module) -> Any:
    return jax.jit(descriptor.apply)


class Local(nn.Module):
    """Atom energies `scale * (N(G_i) - N(G of an isolated atom))` of scaled descriptors G.

    The collection `constants` holds `shift` and `factor`, `[elements, features]` each; a regressor
    sees `(G - shift) * factor`. `calibrate` computes them from data. With scaling `none` there are
    no such constants.

    Attributes:
        descriptor: environment -> features.
        regressor: features -> energy.
        energy_scale: eV per unit of the regressor's output; the force scale [eV/Å] of the data is a
            good one.
        scaling: per element, `standard` (zero mean, unit deviation), `spread` (unit deviation, with
            zero left where it is), `minmax` (from 0 to 1), or `none`, which kernels of normalised
            descriptors ask for.
        isolated_zero: subtract the regressor's output for an isolated atom, so that its energy is
            zero. Only imported potentials that do otherwise turn it off.
    """

    descriptor: nn.Module
    regressor: nn.Module
    energy_scale: float | None = None
    scaling: Scaling = "standard"
    isolated_zero: bool = True

    @property
    def species(self) -> tuple[int, ...] | None:
        """Atomic numbers: those of the descriptor."""
        return self.descriptor.species  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def cutoff(self) -> float:
        """Å: that of the descriptor."""
        return self.descriptor.cutoff  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def prefix_cutoffs(self) -> tuple[float, ...]:
        """Shorter cutoffs [Å] of terms that use a prefix of the rows."""
        return getattr(self.descriptor, "prefix_cutoffs", ())

    hops = 1

    @nn.compact
    def __call__(self, graph: AtomicGraph) -> AtomOutputs:
        """Atom energies [eV]; `features` are the scaled descriptors."""
        species = _known_species(self.species)
        element = species_index(graph.atomic_numbers, species)
        raw = self.descriptor(graph)
        scaling = self._scaling(len(species), raw.shape[1])
        features = scaled(raw, element, scaling)
        graded = self.has_variable("constants", "active")
        folded = self.get_variable("constants", "isolated")
        if self._in_blocks(graph) and not graded:
            energies = self._energies_in_blocks(graph, scaling)
        else:
            energies = self.regressor(features, element, len(species))
        grades = None
        if (self.isolated_zero and folded is None) or graded:
            each = jnp.arange(len(species), dtype=element.dtype)
            alone = scaled(self.isolated(species, raw.dtype), each, scaling)
            if self.isolated_zero and folded is None:
                energies = energies - self.regressor(alone, each, len(species))[element]
            if graded:
                grades = self._grades(features - alone[element], element)
        if folded is not None:
            energies = energies - jnp.asarray(folded, raw.dtype)[element]
        scale = 1.0 if self.energy_scale is None else self.energy_scale
        return AtomOutputs(energies=scale * energies, features=features, grades=grades)

    def fold(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Variables for a program of float32, made from those in float64.

        A regressor with a method `fold`, such as a Gaussian process, moves what is ill-conditioned
        into constants; its outputs then are differences to isolated atoms.
        """
        fold = getattr(self.regressor, "fold", None)
        known = getattr(self.descriptor, "isolated_features", None)
        if fold is None or known is None or self.scaling != "none":
            return dict(variables)
        constants = dict(variables["constants"])
        own = {kind: values["regressor"] for kind, values in variables.items()}
        constants["regressor"], alone = fold(own, known())
        constants["isolated"] = np.zeros_like(alone) if self.isolated_zero else -alone
        return {**variables, "constants": constants}

    def _grades(self, features: Array, element: Array) -> Array:
        """Largest coefficient of an atom's features in terms of those of the active set.

        E. V. Podryabinkin, A. V. Shapeev, Comput. Mater. Sci. 140, 171 (2017), eq. 12. An element
        without an active set gives infinity.
        """
        inverse = jnp.asarray(self.get_variable("constants", "active"), features.dtype)
        grades = [jnp.max(jnp.abs(features @ part), axis=1) for part in inverse]
        known = jnp.any(inverse != 0.0, axis=(1, 2))
        own = jnp.take_along_axis(jnp.stack(grades, axis=1), element[:, None], axis=1)[:, 0]
        return jnp.where(known[element], own, jnp.inf)

    def isolated(self, species: tuple[int, ...], dtype: Any) -> Array:
        """Features of an isolated atom of each element, which a descriptor may know in advance."""
        known = getattr(self.descriptor, "isolated_features", None)
        if known is not None:
            return jnp.asarray(known(), dtype)
        return self.descriptor(isolated_atoms(species, dtype))

    def _in_blocks(self, graph: AtomicGraph) -> bool:
        """Whether blocks of atoms may be differentiated one by one."""
        known = hasattr(self.descriptor, "environment") and not self.is_initializing()
        return known and 0 < graph.block < graph.num_atoms

    def _energies_in_blocks(
        self, graph: AtomicGraph, scaling: tuple[Array, Array] | None
    ) -> Float[Array, " atoms"]:
        """The regressor's output for every atom, with its slopes, see `nn.atom_energies`."""
        descriptor, of_descriptor = self.descriptor.unbind()
        regressor, of_regressor = self.regressor.unbind()
        elements = len(_known_species(self.species))

        def energies(parameters: Any, vectors: Array, neighbor: Array, own: Array) -> Array:
            of_descriptor, of_regressor, scaling = parameters
            raw = descriptor.apply(of_descriptor, vectors, neighbor, own, method="environment")
            features = scaled(jnp.asarray(raw), own, scaling)
            return jnp.asarray(regressor.apply(of_regressor, features, own, elements))

        vectors, *arrays = self.descriptor.pairs(graph)  # pyright: ignore[reportAttributeAccessIssue]
        parameters = (of_descriptor, of_regressor, scaling)
        return atom_energies(energies, parameters, graph, vectors, tuple(arrays))

    def _scaling(self, elements: int, size: int) -> tuple[Array, Array] | None:
        """Shift and factor of the features of each element."""
        if self.scaling == "none":
            return None
        shape = (elements, size)
        shift = self.variable("constants", "shift", jnp.zeros, shape).value
        return shift, self.variable("constants", "factor", jnp.ones, shape).value

    def calibrate(
        self, variables: Mapping[str, Any], graphs: Iterable[AtomicGraph]
    ) -> dict[str, Any]:
        """Variables with the constants that scaling and regressor take from the data.

        One pass over the data, in float64 on the host; elements that do not occur keep theirs.

        Args:
            variables: the model's variables.
            graphs: structures to take statistics of, in batches; all of one shape compile once.
        """
        species = _known_species(self.species)
        choose = getattr(self.regressor, "calibrate", None)
        if self.scaling == "none" and choose is None:
            return dict(variables)
        own = {kind: tree["descriptor"] for kind, tree in variables.items() if "descriptor" in tree}
        statistics = [Moments() for _ in species]
        samples = [Reservoir(_SAMPLES, seed) for seed in range(len(species))]
        for graph in graphs:
            found = compiled_features(self.descriptor, own, graph)
            features = np.asarray(found, dtype=np.float64)
            atomic_numbers = np.asarray(graph.atomic_numbers)
            counts = np.asarray(graph.atom_mask)
            for moments, sample, z in zip(statistics, samples, species, strict=True):
                rows = features[counts & (atomic_numbers == z)]
                moments.add(rows)
                if choose is not None:
                    sample.add(rows)
        constants = dict(variables.get("constants", {}))
        rows = [sample.rows() for sample in samples]
        if self.scaling != "none":
            shift, factor = np.array(constants["shift"]), np.array(constants["factor"])
            for e, moments in enumerate(statistics):
                if moments.count:
                    shift[e], factor[e] = moments.scaling(self.scaling)
            rows = [(r - shift[e]) * factor[e] if len(r) else r for e, r in enumerate(rows)]
            constants |= {"shift": jnp.asarray(shift), "factor": jnp.asarray(factor)}
        if choose is not None:
            constants["regressor"] = choose(constants["regressor"], rows)
        return {**variables, "constants": constants}


def _known_species(species: tuple[int, ...] | None) -> tuple[int, ...]:
    if species is None:
        raise UserError(
            "local model: the descriptor has no species; expected atomic numbers. Give "
            "descriptor.species, or let training take them from the data."
        )
    return species


def isolated_atoms(species: tuple[int, ...], dtype) -> AtomicGraph:
    """One atom of each element, without neighbours (one padded slot)."""
    number = len(species)
    index = jnp.arange(number, dtype=jnp.int32)
    return AtomicGraph(
        positions=jnp.zeros((number, 3), dtype),
        atomic_numbers=jnp.asarray(species, jnp.int32),
        cell=jnp.zeros((1, 3, 3), dtype),
        pbc=jnp.zeros((1, 3), bool),
        neighbors=index[:, None],
        shifts=jnp.zeros((number, 1, 3), jnp.int32),
        edge_mask=jnp.zeros((number, 1), bool),
        graph_index=jnp.zeros((number,), jnp.int32),
        atom_mask=jnp.ones((number,), bool),
        graph_mask=jnp.ones((1,), bool),
        energy_mask=jnp.ones((number,), bool),
    )
