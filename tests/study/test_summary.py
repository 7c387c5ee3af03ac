"""Means over seeds, curves, and the front of Pareto against its definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlip_jax.study import summary
from mlip_jax.study.sections import ReportConfig


@given(seed=st.integers(0, 2**16))
def test_the_front_holds_exactly_the_points_that_none_dominates(seed):
    generator = np.random.default_rng(seed)
    # Few different values, so that ties occur.
    costs, errors = generator.integers(0, 6, (2, 12)).astype(float)
    front = summary.pareto_front(costs.tolist(), errors.tolist())

    def dominated(i):
        no_worse = (costs <= costs[i]) & (errors <= errors[i])
        return bool(np.any(no_worse & ((costs < costs[i]) | (errors < errors[i]))))

    assert sorted(front) == [i for i in range(12) if not dominated(i)]
    assert np.all(np.diff(costs[front]) >= 0)


def rows():
    found = []
    for model, scale in (("a", 1.0), ("b", 2.0)):
        for size in (50, 20):
            for seed in (0, 1, 2):
                error = scale / size * (1 + 0.1 * seed)
                values = {"model": model, "train_size": size, "seed": seed}
                cost = 10.0 * scale + seed
                row = {"status": "finished", "test_energy_mae": error, "cost": cost}
                found.append({**values, **row})
    return found


AXES = ["model", "train_size", "seed"]


def test_points_are_means_and_deviations_over_the_seeds():
    table = rows()
    table[0]["status"] = "failed"
    table[3]["test_energy_mae"] = None
    found = summary.points(table, AXES, "seed", "test_energy_mae")
    assert len(found) == 4
    first = found[0]
    assert first.values == {"model": "a", "train_size": 50}
    errors = [0.02 * 1.1, 0.02 * 1.2]
    assert first.mean == pytest.approx(np.mean(errors), rel=1e-12)
    assert first.deviation == pytest.approx(np.std(errors, ddof=1), rel=1e-12)
    assert (first.runs, first.cost) == (2, pytest.approx(11.5))
    assert found[1].runs == 2
    single = summary.points(table[1:2], AXES, "seed", "test_energy_mae")
    assert (single[0].deviation, single[0].runs) == (0.0, 1)


def test_curves_run_along_their_axis_and_carry_the_names_of_the_others():
    found = summary.points(rows(), AXES, "seed", "test_energy_mae")
    curves = summary.curves(found, ("train_size", None))
    assert [curve.label for curve in curves] == ["a", "b"]
    assert [p.values["train_size"] for p in curves[0].points] == [20, 50]
    apart = summary.curves(found, (None, "model"))
    assert [curve.label for curve in apart] == ["train_size 50", "train_size 20"]


def test_panels_are_those_that_have_errors():
    chosen = summary.panels(rows(), ReportConfig(panels="model"))
    assert [(name, value, len(members)) for name, value, members in chosen] == [
        ("energy", "a", 6),
        ("energy", "b", 6),
    ]
