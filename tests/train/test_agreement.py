"""What training says of reference energies and of rates before it begins."""

import jax.numpy as jnp
import pytest

from mlip_jax import train
from mlip_jax.data.statistics import RankReport, Statistics
from mlip_jax.train import agreement

FOUND = Statistics((8, 14), {8: -4.0, 14: -5.0}, 20.0, 1.0, reports={"": RankReport(1, 1)})
ISOLATED = Statistics(
    (8, 14), {8: -1.0, 14: -1.0}, 20.0, 1.0, reports={"": RankReport(0, 0, isolated=("O", "Si"))}
)
OXYGEN = Statistics(
    (8, 14), {8: -1.0, 14: -5.0}, 20.0, 1.0, reports={"": RankReport(1, 1, isolated=("O",))}
)


def sections(reference_energies="auto", **others):
    return train.parse(
        {
            "data": {
                "train": "some.extxyz",
                "statistics": {"reference_energies": reference_energies},
            },
            "model": {"nequip": {}},
            **others,
        }
    )


@pytest.mark.parametrize(
    ("found", "elements"), [(FOUND, "O, Si"), (OXYGEN, "Si"), (ISOLATED, None)]
)
def test_networks_without_isolated_atoms_get_a_hint(found, elements):
    said = agreement.hint_at_references(sections(), found)
    assert (said is None) == (elements is None)
    if said is not None:
        assert said.startswith(f"reference energies of {elements} are fitted to bound atoms")


def test_no_hint_where_the_choice_was_made_or_does_not_matter():
    assert agreement.hint_at_references(sections("cohesive"), FOUND) is None
    assert agreement.hint_at_references(sections("zero"), FOUND) is None
    begun = sections(training={"start": "runs/before"})
    assert agreement.hint_at_references(begun, FOUND) is None
    linear = train.parse(
        {
            "data": {"train": "some.extxyz"},
            "model": {"snap": {"cutoff": 4.0}},
            "solver": {"name": "ridge"},
        }
    )
    assert agreement.hint_at_references(linear, FOUND) is None


PARAMS = {"readout": jnp.ones((2, 1)), "products": {"weight_0_2": jnp.ones((1, 4, 8))}}


@pytest.mark.parametrize(
    ("optimizer", "said"),
    [
        ({"name": "muon"}, True),
        ({"name": "adam"}, False),
        ({"name": "muon", "adam_learning_rate": 1e-3}, False),
        ({"name": "muon", "groups": [{"match": "products"}]}, False),
    ],
)
def test_parameters_that_are_no_matrices_and_learn_at_the_rate_of_muon_get_a_hint(optimizer, said):
    parsed = sections(optimizer=optimizer)
    hint = agreement.hint_at_rates(parsed, PARAMS)
    assert (hint is not None) == said
    if hint is not None:
        assert "products/weight_0_2 learn by Adam" in hint
        assert agreement.hint_at_rates(parsed, {"readout": PARAMS["readout"]}) is None
