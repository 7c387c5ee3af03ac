"""Names and arguments are optax's; groups and clipping do what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mlip_jax.config import UserError
from mlip_jax.train import optimizer

PARAMS = {"body": {"kernel": jnp.ones((2, 3))}, "head": {"kernel": jnp.full((3, 1), 2.0)}}


def updates_of(section, gradient=None, steps=1):
    """Parameters after some steps with a constant gradient."""
    built = optimizer.build(optimizer.parse(section), PARAMS, steps=100, steps_per_epoch=10)
    params, state = PARAMS, built.transformation.init(PARAMS)
    gradient = jax.tree.map(jnp.ones_like, PARAMS) if gradient is None else gradient
    for _ in range(steps):
        updates, state = built.transformation.update(gradient, state, params, value=jnp.ones(()))
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "adamww"}, "did you mean 'adamw'"),
        ({"name": "adamw", "weightdecay": 1.0}, "did you mean 'weight_decay'"),
        ({"learning_rates": 1e-3}, "did you mean 'learning_rate'"),
        ({"learning_rate": {"schedule": "cosine_decay"}}, "did you mean 'cosine_decay_schedule'"),
        ({"learning_rate": {"schedule": "exponential_decay"}}, "missing init_value"),
        ({"learning_rate": -1.0}, "greater than 0"),
        ({"name": "sophia"}, "Hessian"),
        ({"reduce_on_plateau": {"factr": 0.5}}, "did you mean 'factor'"),
        ({"groups": [{"match": "kern(el"}]}, "regular expression"),
        ({"name": "schedule_free_adamw", "reduce_on_plateau": {}}, "behind its back"),
    ],
)
def test_mistakes_are_refused_with_the_nearest_name(section, message):
    with pytest.raises(UserError, match=message):
        optimizer.parse(section)


def test_a_group_that_matches_nothing_is_refused():
    with pytest.raises(UserError, match="body/kernel"):
        updates_of({"groups": [{"match": "bodi"}]})


@pytest.mark.parametrize("name", ["adam", "amsgrad", "adamw", "lion", "yogi", "muon"])
def test_an_optimizer_is_that_of_optax(name):
    ours = updates_of(
        {"name": name, "learning_rate": 0.1, "b1": 0.8}
        if name != "muon"
        else {"name": name, "learning_rate": 0.1, "beta": 0.8},
        steps=3,
    )
    function = getattr(optax, name, None) or getattr(optax.contrib, name)
    theirs = function(0.1, **({"beta": 0.8} if name == "muon" else {"b1": 0.8}))
    params, state = PARAMS, theirs.init(PARAMS)
    for _ in range(3):
        updates, state = theirs.update(jax.tree.map(jnp.ones_like, PARAMS), state, params)
        params = optax.apply_updates(params, updates)
    # The group's factor 1 is no operation: the very same arithmetic.
    jax.tree.map(np.testing.assert_array_equal, ours, params)


def test_groups_scale_and_freeze():
    groups = [
        {"match": "^body", "frozen": True},
        {"match": "head", "learning_rate_factor": 0.5, "weight_decay": False},
    ]
    section = {"name": "adamw", "learning_rate": 0.1, "weight_decay": 0.3, "groups": groups}
    params = updates_of(section)
    np.testing.assert_array_equal(params["body"]["kernel"], PARAMS["body"]["kernel"])
    # Adam's first step is the learning rate itself; half of it, and no decay.
    np.testing.assert_allclose(params["head"]["kernel"], 2.0 - 0.05, rtol=1e-6)


def test_frozen_parameters_do_not_count_in_the_clipped_norm():
    gradient = jax.tree.map(jnp.ones_like, PARAMS)
    section = {"name": "sgd", "learning_rate": 1.0, "clip_by_global_norm": 1.0}
    groups = [{"match": "body", "frozen": True}]
    params = updates_of({**section, "groups": groups}, gradient)
    np.testing.assert_allclose(params["head"]["kernel"], 2.0 - 1 / np.sqrt(3), rtol=1e-6)


def test_the_length_of_a_decay_is_that_of_the_run_and_epochs_are_steps():
    def rates(schedule):
        section = {"learning_rate": schedule}
        built = optimizer.build(optimizer.parse(section), PARAMS, steps=100, steps_per_epoch=10)
        return [float(built.learning_rate(step)) for step in (0, 50, 100)]

    cosine = {"schedule": "cosine_decay_schedule", "init_value": 1.0, "alpha": 0.1}
    np.testing.assert_allclose(rates(cosine), [1.0, 0.55, 0.1], rtol=1e-6)
    decay = {
        "schedule": "exponential_decay",
        "init_value": 1.0,
        "decay_rate": 0.5,
        "transition_epochs": 5,
    }
    np.testing.assert_allclose(rates(decay), [1.0, 0.5, 0.25], rtol=1e-6)


def test_parameters_that_are_no_matrices_have_a_schedule_of_their_own():
    cosine = {"schedule": "cosine_decay_schedule", "init_value": 1.0}
    params = {"matrix": jnp.ones((2, 3)), "vector": jnp.ones(3)}
    config = optimizer.parse(
        {
            "name": "muon",
            "learning_rate": cosine,
            "adam_learning_rate": cosine | {"init_value": 0.2},
        }
    )
    built = optimizer.build(config, params, steps=2, steps_per_epoch=1)
    theirs = optax.contrib.muon(
        optax.cosine_decay_schedule(1.0, 2),
        adam_learning_rate=optax.cosine_decay_schedule(0.2, 2),
    )
    states = [t.init(params) for t in (built.transformation, theirs)]
    for _ in range(2):
        ours, states[0] = built.transformation.update(params, states[0], params)
        expected, states[1] = theirs.update(params, states[1], params)
        jax.tree.map(np.testing.assert_array_equal, ours, expected)
    with pytest.raises(UserError, match="cosine_decay_schedule"):
        optimizer.parse(
            {"name": "muon", "adam_learning_rate": {"schedule": "cosine_decay_schedul"}}
        )


def test_schedules_inside_a_wrapper_have_the_length_of_the_run():
    cosine = {"schedule": "cosine_decay_schedule", "init_value": 0.5}
    inner = {"name": "sgd", "learning_rate": cosine}
    config = {"name": "schedule_free", "learning_rate": 0.5, "base_optimizer": inner, "b1": 0.9}
    built = optimizer.build(optimizer.parse(config), PARAMS, steps=4, steps_per_epoch=1)
    theirs = optax.contrib.schedule_free(
        optax.sgd(optax.cosine_decay_schedule(0.5, 4)), learning_rate=0.5, b1=0.9
    )
    ours = expected = PARAMS
    states = [t.init(PARAMS) for t in (built.transformation, theirs)]
    for _ in range(3):
        updates, states[0] = built.transformation.update(PARAMS, states[0], ours)
        ours = optax.apply_updates(ours, updates)
        updates, states[1] = theirs.update(PARAMS, states[1], expected)
        expected = optax.apply_updates(expected, updates)
    jax.tree.map(np.testing.assert_array_equal, ours, expected)


def test_schedule_free_evaluates_its_average():
    section = {"name": "schedule_free_sgd", "learning_rate": 0.1}
    built = optimizer.build(optimizer.parse(section), PARAMS, steps=100, steps_per_epoch=10)
    state, params = built.transformation.init(PARAMS), PARAMS
    for _ in range(3):
        gradient = jax.tree.map(jnp.ones_like, params)
        updates, state = built.transformation.update(gradient, state, params, value=jnp.ones(()))
        params = optax.apply_updates(params, updates)
    averaged = built.eval_params(state, params)
    assert not np.allclose(averaged["head"]["kernel"], params["head"]["kernel"], rtol=1e-6)
