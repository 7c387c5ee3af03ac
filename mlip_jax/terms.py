"""Further terms on top of a potential: a dispersion or a repulsion that its data did not have."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mlip_jax import elements, models
from mlip_jax.config import UserError
from mlip_jax.graph import AtomicGraph
from mlip_jax.models.sum import Sum
from mlip_jax.nn import double
from mlip_jax.potential import Potential, Variables


def add(potential: Potential, *terms: nn.Module) -> Potential:
    """The potential with terms added to its energies.

        with_dispersion = mj.add_terms(potential, mj.build_model({"d3": {"functional": "pbe"}}))

    What a term reads from elsewhere (the tables of `d3`) becomes a part of the new potential. Its
    card is that of the old one and names the terms: errors in it are those without them.

    Args:
        potential: of one head.
        terms: models without trained parameters, such as `d3`, `zbl`, or `lennard_jones` with
            `trainable: false`; where `species` is not given they take those of the potential.

    Raises:
        UserError: for a term with parameters that nothing has fitted, or one that does not know all
            elements of the potential; for a potential with several heads.
    """
    if models.requirements(potential.model).heads:
        raise UserError(
            "add: got a potential with several heads; expected one. Choose it first, with "
            "`mlip-jax head` or `mj.load(path, head=...)`."
        )
    made = [_ready(term, potential.species) for term in terms]
    old, variables = potential.model, potential.variables
    if not isinstance(old, Sum):
        old = Sum((old,))
        variables = {
            kind: tree if kind == "posterior" else {"terms_0": tree}
            for kind, tree in variables.items()
        }
    merged = {kind: dict(tree) for kind, tree in variables.items()}
    for index, (_, own) in enumerate(made, start=len(old.terms)):
        for kind, tree in own.items():
            merged.setdefault(kind, {})[f"terms_{index}"] = tree
    configs = [models.module_to_config(term) for term, _ in made]
    added = [*potential.card.get("added_terms", ()), *configs]
    return dataclasses.replace(
        potential,
        model=Sum((*old.terms, *(term for term, _ in made))),
        variables=merged,
        card={**potential.card, "added_terms": added},
    )


def _ready(term: nn.Module, species: tuple[int, ...]) -> tuple[nn.Module, Variables]:
    """A term for these elements, and its variables, in float64 whatever JAX is set to."""
    own = getattr(term, "species", None)
    if own is None:
        term = term.clone(species=species)
    elif set(species) - set(own):
        lacking = elements.symbols(sorted(set(species) - set(own)))
        raise UserError(
            f"add: {type(term).__name__} does not know {lacking}, which the potential does; "
            "expected a term for all of its elements. Leave its species out."
        )
    with double.allowed():
        variables = jax.jit(term.init)(jax.random.key(0), _one_atom(species[0]))
    if variables.get("params"):
        raise UserError(
            f"add: got {type(term).__name__}, whose parameters nothing has fitted; expected a term "
            "without, such as d3, zbl, or lennard_jones with trainable: false. Put it into the "
            "`sum` of a training config instead."
        )
    return term, jax.tree.map(np.asarray, dict(variables))


def _one_atom(number: int) -> AtomicGraph:
    """A graph with one atom and no neighbours: enough for the sizes of variables."""
    return AtomicGraph(
        positions=jnp.zeros((1, 3)),
        atomic_numbers=jnp.array([number]),
        cell=jnp.zeros((1, 3, 3)),
        pbc=jnp.zeros((1, 3), bool),
        neighbors=jnp.zeros((1, 1), int),
        shifts=jnp.zeros((1, 1, 3), int),
        edge_mask=jnp.zeros((1, 1), bool),
        graph_index=jnp.zeros(1, int),
        atom_mask=jnp.ones(1, bool),
        graph_mask=jnp.ones(1, bool),
        energy_mask=jnp.ones(1, bool),
    )
