"""Sum of models, such as a network and a short-range repulsion."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn

from mlip_jax.config import UserError
from mlip_jax.graph import AtomicGraph, AtomOutputs, add_outputs, narrowed


class Sum(nn.Module):
    """Energies of the terms added; charges, moments and features of the first that has them.

    A term with a shorter cutoff sees rows of its own length: a network of 5 Å costs in a sum with
    a term of 15 Å what it costs alone.

    Attributes:
        terms: models of one graph.
    """

    terms: tuple[nn.Module, ...]

    @property
    def species(self) -> tuple[int, ...] | None:
        """Atomic numbers that every term knows, in the order of the first; `None` while unknown."""
        known = [_attribute(term, "species") for term in self.terms]
        if any(species is None for species in known):
            return None
        return tuple(z for z in known[0] if all(z in species for species in known))

    @property
    def cutoff(self) -> float:
        """The longest cutoff of a term [Å]."""
        return max(_attribute(term, "cutoff") for term in self.terms)

    @property
    def prefix_cutoffs(self) -> tuple[float, ...]:
        """Shorter cutoffs [Å]: those of terms, and terms that are shorter than the longest."""
        shorter = {c for term in self.terms for c in getattr(term, "prefix_cutoffs", ())}
        shorter |= {_attribute(term, "cutoff") for term in self.terms}
        return tuple(sorted(shorter - {self.cutoff}))

    @property
    def pair_cutoffs(self) -> tuple[float, ...]:
        """Cutoffs [Å] of terms that list pairs of neighbours."""
        return tuple(sorted({c for term in self.terms for c in getattr(term, "pair_cutoffs", ())}))

    @property
    def needs_reverse(self) -> bool:
        """Whether a term reads the slots of opposite edges."""
        return any(getattr(term, "needs_reverse", False) for term in self.terms)

    @property
    def reciprocal_cutoff(self) -> float:
        """The longest cutoff of a term's sums over reciprocal lattice vectors, 1/Å."""
        return max((getattr(term, "reciprocal_cutoff", 0.0) for term in self.terms), default=0.0)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Further inputs that some term reads."""
        read = (name for term in self.terms for name in getattr(term, "inputs", ()))
        return tuple(dict.fromkeys(read))

    @property
    def double_sums(self) -> bool:
        """Whether a term takes sums in float64 in a program of float32."""
        return any(getattr(term, "double_sums", False) for term in self.terms)

    @property
    def hops(self) -> int | None:
        """The most of a term; `None` where a term does not know."""
        each = [getattr(term, "hops", None) for term in self.terms]
        known = [hops for hops in each if hops is not None]
        return max(known) if len(known) == len(each) else None

    def __call__(self, graph: AtomicGraph) -> AtomOutputs:
        """Atom energies [eV]."""
        if not self.terms:
            raise UserError("sum: got no terms; expected at least one model.")
        return add_outputs(
            [term(narrowed(graph, _attribute(term, "cutoff"))) for term in self.terms]
        )

    def calibrate(
        self, variables: Mapping[str, Any], graphs: Iterable[AtomicGraph]
    ) -> dict[str, Any]:
        """Variables in which every term that needs a pass over the data has had it."""
        indices = [i for i, term in enumerate(self.terms) if hasattr(term, "calibrate")]
        result = {collection: dict(values) for collection, values in variables.items()}
        for i, passed in zip(indices, itertools.tee(graphs, len(indices)), strict=True):
            name = f"terms_{i}"
            own = {c: values[name] for c, values in result.items() if name in values}
            calibrated = self.terms[i].calibrate(own, passed)  # pyright: ignore
            for collection, values in calibrated.items():
                result[collection][name] = values
        return result

    def fold(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Variables for a program of float32, made from those in float64: those of every term."""
        result = {collection: dict(values) for collection, values in variables.items()}
        for i, term in enumerate(self.terms):
            name, fold = f"terms_{i}", getattr(term, "fold", None)
            if fold is None:
                continue
            own = {c: values[name] for c, values in variables.items() if name in values}
            for collection, values in fold(own).items():
                result.setdefault(collection, {})[name] = values
        return result


def _attribute(term: nn.Module, name: str) -> Any:
    return getattr(term, name)
