"""The loss against values computed by hand; schedules of its weights."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax import config
from mlip_jax.config import UserError
from mlip_jax.data.batching import Batch, Label, Labels
from mlip_jax.graph import AtomicGraph
from mlip_jax.potential import Prediction
from mlip_jax.train import loss
from mlip_jax.train.loss import LossConfig, PropertyLoss, WeightSchedule


def batch():
    """Two structures of one and two atoms, and a padded atom; the second has no stress."""
    atoms, graphs = 4, 2
    own = np.arange(atoms, dtype=np.int32)[:, None]
    graph = AtomicGraph(
        positions=np.zeros((atoms, 3)),
        atomic_numbers=np.array([14, 14, 14, 0]),
        cell=np.zeros((graphs, 3, 3)),
        pbc=np.zeros((graphs, 3), bool),
        neighbors=own,
        shifts=np.zeros((atoms, 1, 3), np.int32),
        edge_mask=np.zeros((atoms, 1), bool),
        graph_index=np.array([0, 1, 1, 1]),
        atom_mask=np.array([True, True, True, False]),
        graph_mask=np.array([True, True]),
        energy_mask=np.array([True, True, True, False]),
    )
    labels = Labels(
        energy=Label(np.array([1.0, 2.0]), np.array([True, True])),
        forces=Label(np.zeros((atoms, 3)), np.array([False, True, True, False])),
        stress=Label(np.zeros((graphs, 3, 3)), np.array([True, False])),
        charges=None,
        magmoms=None,
        weight=np.array([1.0, 3.0]),
    )
    return Batch(graph, labels)


def prediction():
    forces = np.zeros((4, 3))
    forces[0], forces[1, 0], forces[2, 1], forces[3] = 9.0, 0.5, -2.0, 9.0
    stress = np.zeros((2, 3, 3))
    stress[0, 0, 0], stress[1] = 0.9, 7.0
    return Prediction(
        energy=jnp.array([1.5, 4.0]),  # errors per atom: 0.5 and 1
        atom_energies=jnp.zeros(4),
        forces=jnp.array(forces),
        virial=jnp.zeros((2, 3, 3)),
        stress=jnp.array(stress),
    )


def test_sums_are_those_computed_by_hand():
    sums = loss.batch_sums(LossConfig(stress=PropertyLoss()), prediction(), batch())
    np.testing.assert_allclose(sums.labels, [2, 6, 9, 0, 0])
    np.testing.assert_allclose(sums.absolute, [1.5, 2.5, 0.9, 0, 0])
    np.testing.assert_allclose(sums.squared, [1.25, 4.25, 0.81, 0, 0])
    # Weights of structures: 1 for the energy and stress of the first, 3 for the second.
    np.testing.assert_allclose(sums.loss, [0.25 + 3.0, 3 * 4.25, 0.81, 0, 0])
    np.testing.assert_allclose(loss.label_counts(batch()), sums.labels)


@pytest.mark.parametrize(
    ("kind", "energy"),
    [("mse", 0.25 + 3 * 1.0), ("mae", 0.5 + 3 * 1.0), ("huber", 0.125 + 3 * 0.6 * (1 - 0.3))],
)
def test_penalties_are_those_computed_by_hand(kind, energy):
    term = PropertyLoss(kind=kind, delta=0.6)
    sums = loss.batch_sums(LossConfig(energy=term), prediction(), batch())
    assert sums.loss[0] == pytest.approx(energy)


def test_moments_are_a_property_like_the_others():
    given, labelled = batch(), np.array([True, False, True, False])
    moments = Label(np.array([2.0, 9.0, 0.5, 9.0]), labelled)
    given = Batch(given.graph, dataclasses.replace(given.labels, magmoms=moments))
    found = dataclasses.replace(prediction(), magmoms=jnp.array([1.5, 0.0, 1.5, 0.0]))
    term = PropertyLoss(weight=2.0)
    sums = loss.batch_sums(LossConfig(magmoms=term), found, given)
    # Weights of structures: 1 for the first, 3 for the second.
    np.testing.assert_allclose(sums.loss[4], 0.25 + 3.0)
    np.testing.assert_allclose((sums.absolute[4], sums.squared[4], sums.labels[4]), (1.5, 1.25, 2))
    assert LossConfig(magmoms=term).weights(0)[4] == 2.0
    found = loss.metrics(sums, np.array([0.0, 0.0, 0.0, 0.0, 2.0]))
    assert found["magmoms_mae"] == pytest.approx(0.75)
    assert found["loss"] == pytest.approx(2.0 * 3.25 / 2)


def test_the_loss_is_the_weighted_sum_of_means():
    terms = LossConfig(PropertyLoss(2.0), PropertyLoss(10.0), PropertyLoss(4.0))
    sums = loss.batch_sums(terms, prediction(), batch())
    value = loss.loss(sums, terms.weights(0) / np.maximum(sums.labels, 1))
    assert float(value) == pytest.approx(2 * 3.25 / 2 + 10 * 12.75 / 6 + 4 * 0.81 / 9)


def test_metrics_are_means_over_all_labels_not_means_of_means():
    one = loss.batch_sums(LossConfig(), prediction(), batch())
    part = batch()
    forces = Label(part.labels.forces.value, np.array([False, True, False, False]))
    labels = dataclasses.replace(part.labels, forces=forces)
    two = loss.batch_sums(LossConfig(), prediction(), Batch(part.graph, labels))
    sums = loss.Sums.zeros().plus(one).plus(two)
    metrics = loss.metrics(sums, LossConfig().weights(0))
    assert metrics["forces_mae"] == pytest.approx((2.5 + 0.5) / 9)
    assert metrics["forces_rmse"] == pytest.approx(np.sqrt((4.25 + 0.25) / 9))
    assert "charges_mae" not in metrics


def test_weights_follow_their_schedule():
    steps = WeightSchedule({0: 1.0, 10: 100.0})
    line = WeightSchedule({10: 1.0, 20: 3.0}, interpolation="linear")
    assert [steps(e) for e in (0, 9, 10, 99)] == [1.0, 1.0, 100.0, 100.0]
    assert [line(e) for e in (0, 10, 15, 99)] == [1.0, 1.0, 2.0, 3.0]


def test_a_section_of_yaml_becomes_a_loss():
    section = {
        "energy": {"weight": {"values": {0: 1.0, 50: 20.0}, "interpolation": "linear"}},
        "forces": {"weight": 10, "kind": "huber", "delta": 0.05},
        "stress": None,
    }
    parsed = config.parse(LossConfig, section, "loss")
    np.testing.assert_allclose(parsed.weights(25), [10.5, 10.0, 0.0, 0.0, 0.0])
    with pytest.raises(UserError, match=r"weigth.*weight"):
        config.parse(LossConfig, {"energy": {"weigth": 1.0}}, "loss")
    with pytest.raises(UserError, match="not < 0"):
        config.parse(LossConfig, {"energy": {"weight": -1.0}}, "loss")
