"""Optimisers against their papers' recurrences in scalar Python; schedules, clipping and decay."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gpubp import Network, Trainer
from gpubp.errors import ArgumentError
from gpubp.nn import optimizers
from gpubp.nn.optimizers import (
    OPTIMIZERS,
    SCHEDULES,
    SGD,
    Adam,
    AdamW,
    Cosine,
    Exponential,
    Held,
    Nesterov,
    Step,
    Warmup,
)

STEPS = 6


# --- the recurrences, for one number ----------------------------------------------------------------------------------
def sgd(w, gradient):
    """Robbins & Monro, 1951."""
    for t in range(STEPS):
        w = w - 0.1 * gradient(w, t)
        yield w


def momentum(w, gradient):
    """Polyak's heavy ball, 1964: w_{t+1} = w_t − η g_t + μ (w_t − w_{t-1}), by the steps and with no velocity."""
    previous = w
    for t in range(STEPS):
        w, previous = w - 0.05 * gradient(w, t) + 0.9 * (w - previous), w
        yield w


def nesterov(w, gradient):
    """Sutskever et al., 2013, equations 3 and 4: the gradient at the point ahead, φ = θ + μ v. The network holds φ."""
    v, theta, ahead = 0.0, w, w
    for t in range(STEPS):
        v = 0.9 * v - 0.05 * gradient(ahead, t)
        theta = theta + v
        ahead = theta + 0.9 * v
        yield ahead


def rmsprop(w, gradient):
    """Tieleman & Hinton, lecture 6.5, 2012."""
    mean_square = 0.0
    for t in range(STEPS):
        g = gradient(w, t)
        mean_square = 0.9 * mean_square + 0.1 * g * g
        w = w - 0.001 * g / (math.sqrt(mean_square) + 1e-8)
        yield w


def adam(w, gradient):
    """Kingma & Ba, 2015, algorithm 1."""
    m = v = 0.0
    for t in range(1, STEPS + 1):
        g = gradient(w, t - 1)
        m = 0.9 * m + (1 - 0.9) * g
        v = 0.999 * v + (1 - 0.999) * g**2
        m_hat = m / (1 - 0.9**t)
        v_hat = v / (1 - 0.999**t)
        w = w - 0.001 * m_hat / (math.sqrt(v_hat) + 1e-8)
        yield w


def adamw(w, gradient):
    """Loshchilov & Hutter, 2019, algorithm 2, with the decay λ times the step size."""
    m = v = 0.0
    for t in range(1, STEPS + 1):
        g = gradient(w, t - 1)
        m = 0.9 * m + (1 - 0.9) * g
        v = 0.999 * v + (1 - 0.999) * g**2
        step = (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.999**t)) + 1e-8)
        w = w - 0.001 * (step + 0.01 * w)
        yield w


RECURRENCES = {
    "sgd": sgd,
    "momentum": momentum,
    "nesterov": nesterov,
    "rmsprop": rmsprop,
    "adam": adam,
    "adamw": adamw,
}

X = np.array([[1.5]])
TARGETS = (2.0, -1.0, 0.5, 3.0, 0.0, 1.0)


def one_weight(**settings):
    """A network of one weight w, a = 1.5 w, whose gradient with half squared error is 1.5 (1.5 w − y)."""
    net = Network([1, 1], loss="half_squared_error", bias=False, dtype="float64", backend="numpy", **settings)
    net.set_weights({"layer1.weight": np.array([[0.7]])})
    return net


def gradient_of_one_weight(w, t):
    return 1.5 * (1.5 * w - TARGETS[t])


def test_every_optimizer_has_a_recurrence_here():
    assert set(RECURRENCES) == set(OPTIMIZERS)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_follow_the_papers_recurrence(name):
    net = one_weight()
    trainer = Trainer(net, name)
    for t, expected in enumerate(RECURRENCES[name](0.7, gradient_of_one_weight)):
        trainer.step(X, np.array([[TARGETS[t]]]))
        assert net.w[1][0, 0] == pytest.approx(expected, rel=1e-13), f"step {t + 1}"
        assert trainer.steps == t + 1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_new_trainer_starts_afresh(name):
    net = one_weight()
    trainer = Trainer(net, name)
    first = [trainer.step(X, [[y]]) or net.w[1][0, 0] for y in TARGETS]
    net.set_weights({"layer1.weight": np.array([[0.7]])})
    trainer = Trainer(net, name)
    assert trainer.steps == 0
    assert [trainer.step(X, [[y]]) or net.w[1][0, 0] for y in TARGETS] == first


# --- schedules --------------------------------------------------------------------------------------------------------
def factors(schedule, count):
    return [optimizers.schedule(schedule)(step) for step in range(count)]


def test_schedules_by_hand():
    assert factors("constant", 3) == [1, 1, 1]
    assert factors(Step(every=2, factor=0.5), 6) == [1, 1, 0.5, 0.5, 0.25, 0.25]
    assert factors(Exponential(decay=0.5), 4) == [1, 0.5, 0.25, 0.125]
    assert factors(Cosine(steps=4), 7) == pytest.approx(
        [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0, 0, 0], abs=1e-15
    )
    assert factors(Cosine(steps=2, final=0.2), 4) == pytest.approx([1, 0.6, 0.2, 0.2])
    assert factors(Warmup(steps=4), 6) == [0.25, 0.5, 0.75, 1, 1, 1]
    assert factors(Warmup(steps=2, then=Exponential(decay=0.5)), 5) == [0.5, 1, 1, 0.5, 0.25]
    assert factors(Held(steps=3, of=Exponential(decay=0.5)), 5) == [1, 0.5, 0.25, 0.25, 0.25]
    assert factors(Held(steps=1, of=Warmup(steps=2)), 3) == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_schedule_scales_the_step_of_every_optimizer(name):
    # a schedule of ½ from the second update on is half the learning rate from there on
    whole = optimizers.get(name)
    scheduled = Trainer(one_weight(), {**whole.config(), "schedule": Step(every=1, factor=0.5)})
    by_hand = Trainer(one_weight(), whole)
    for trainer in (scheduled, by_hand):
        trainer.step(X, [[2.0]])
    state = by_hand.state()
    by_hand = Trainer(by_hand.network, {**whole.config(), "learning_rate": whole.learning_rate / 2})
    by_hand.restore(state)
    for trainer in (scheduled, by_hand):
        trainer.step(X, [[-1.0]])
    found, expected = (trainer.network.w[1][0, 0] for trainer in (scheduled, by_hand))
    assert found == pytest.approx(expected, rel=1e-14)
    assert found != 0.7


@pytest.mark.parametrize(
    "schedule",
    [
        "constant",
        Step(every=3, factor=0.2),
        Exponential(decay=0.9),
        Cosine(steps=7, final=0.1),
        Warmup(steps=3, then=Cosine(steps=5)),
        Held(steps=8, of=Warmup(steps=3, then=Cosine(steps=5))),
    ],
)
def test_a_config_makes_the_same_schedule_again(schedule):
    schedule = optimizers.schedule(schedule)
    assert optimizers.schedule(schedule.config()) == schedule


def test_the_schedules_are_all_tested_here():
    assert set(SCHEDULES) == {"constant", "step", "exponential", "cosine", "warmup", "held"}


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Step(every=0), "every"),
        (lambda: Step(every=1.5), "every"),
        (lambda: Step(every=2, factor=0), "factor"),
        (lambda: Step(every=2, factor=1.5), "factor"),
        (lambda: Exponential(decay=0), "decay"),
        (lambda: Exponential(decay=-0.9), "decay"),
        (lambda: Cosine(steps=0), "steps"),
        (lambda: Cosine(steps=5, final=-0.1), "final"),
        (lambda: Warmup(steps=-1), "steps"),
        (lambda: Warmup(steps=5, then="cosin"), "schedule"),
        (lambda: Held(steps=0, of="constant"), "steps"),
        (lambda: Held(steps=1, of="cosin"), "schedule"),
        (lambda: optimizers.schedule("cosine"), "'steps'"),
        (lambda: SGD(schedule="linear"), "schedule"),
    ],
)
def test_a_wrong_schedule_is_an_error_that_names_the_field(make, field):
    with pytest.raises(ArgumentError, match=field):
        make()


# --- clipping, decay --------------------------------------------------------------------------------------------------
def small(seed=0, **settings):
    return Network([3, 4, 2], loss="squared_error", dtype="float64", backend="numpy", seed=seed, **settings)


BATCH = (np.array([[1.0, -2, 0.5], [0.3, 0.8, -1]]), np.array([[1.0, 0], [-2, 3]]))


def step_of(net, optimizer):
    """What one update subtracts from the parameters, weights before biases."""
    before = net.weights()
    Trainer(net, optimizer).step(*BATCH)
    after = net.weights()
    return {name: before[name] - after[name] for name in before}


def flat(arrays):
    return np.concatenate([np.ravel(a) for a in arrays])


def gradient_of(net):
    _, gradients = net.gradients(*BATCH)
    return {
        **{f"layer{l}.weight": gradients.w[l] for l in (1, 2)},
        **{f"layer{l}.bias": gradients.b[l] for l in (1, 2)},
    }


def test_a_long_gradient_is_scaled_down_to_the_global_norm():
    gradient = gradient_of(small())
    norm = np.linalg.norm(flat(gradient.values()))
    step = step_of(small(), SGD(learning_rate=0.5, clip_norm=norm / 4))
    for name, g in gradient.items():
        np.testing.assert_allclose(step[name], 0.5 * g / 4, rtol=1e-12, atol=1e-16)


def test_a_gradient_within_the_norm_is_left_alone():
    gradient = gradient_of(small())
    norm = np.linalg.norm(flat(gradient.values()))
    step = step_of(small(), SGD(learning_rate=0.5, clip_norm=norm * 1.01))
    for name, g in gradient.items():
        np.testing.assert_allclose(step[name], 0.5 * g, rtol=1e-12, atol=1e-16)


def test_clipping_by_value_cuts_each_gradient_off():
    gradient = gradient_of(small())
    assert max(np.abs(g).max() for g in gradient.values()) > 0.5
    step = step_of(small(), SGD(learning_rate=0.25, clip_value=0.5))
    for name, g in gradient.items():
        np.testing.assert_allclose(step[name], 0.25 * np.clip(g, -0.5, 0.5), rtol=1e-12, atol=1e-16)


def test_the_norm_is_clipped_before_the_value():
    gradient = gradient_of(small())
    norm = np.linalg.norm(flat(gradient.values()))
    limit = max(np.abs(g).max() for g in gradient.values()) / 4
    step = step_of(small(), SGD(learning_rate=1.0, clip_norm=norm / 2, clip_value=limit))
    for name, g in gradient.items():
        np.testing.assert_allclose(step[name], np.clip(g / 2, -limit, limit), rtol=1e-12, atol=1e-16)


def test_a_gradient_of_0_is_not_divided_by_its_norm():
    net = one_weight()
    Trainer(net, SGD(clip_norm=1.0)).step(X, X * 0.7)
    assert net.w[1][0, 0] == 0.7


def test_a_gradient_with_nan_shows_in_every_weight_that_clipping_scales():
    net = small()
    Trainer(net, SGD(clip_norm=1.0)).step(BATCH[0], np.array([[1.0, np.nan], [0, 0]]))
    assert all(np.isnan(w).all() for w in net.w[1:])


@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov", "rmsprop", "adam"])
def test_decay_adds_to_the_gradient_of_weights_and_not_of_biases(name):
    optimizer = optimizers.get(name)
    decayed = {**optimizer.config(), "weight_decay": 0.3}
    net = small()
    net.set_weights({key: value + 0.1 for key, value in net.weights().items()})  # no bias is 0
    start = net.weights()
    gradient = gradient_of(net)
    step = step_of(net, decayed)
    for key, g in gradient.items():
        g = g + 0.3 * start[key] if key.endswith("weight") else g
        # the first update of each recurrence from zero state
        first = {
            "sgd": lambda g: g,
            "momentum": lambda g: g,
            "nesterov": lambda g: 1.9 * g,
            "rmsprop": lambda g: g / (np.sqrt(0.1 * g * g) + 1e-8),
            "adam": lambda g: g / (np.abs(g) + 1e-8),
        }[name]
        np.testing.assert_allclose(step[key], optimizer.learning_rate * first(g), rtol=1e-9, err_msg=key)


def test_adamw_shrinks_weights_apart_from_the_gradient():
    net = small()
    net.set_weights({key: value + 0.1 for key, value in net.weights().items()})
    start = net.weights()
    gradient = gradient_of(net)
    step = step_of(net, AdamW(learning_rate=0.01, weight_decay=0.3))
    for key, g in gradient.items():
        decay = 0.3 * start[key] if key.endswith("weight") else 0
        np.testing.assert_allclose(step[key], 0.01 * (g / (np.abs(g) + 1e-8) + decay), rtol=1e-9, err_msg=key)


def test_decay_stops_at_the_first_bias_wherever_the_blocks_of_the_update_end():
    # more weights than one block of the backend holds, and a number that is no multiple of it
    net = Network([300, 201], loss="squared_error", dtype="float64", backend="numpy")
    net.set_weights({"layer1.weight": np.ones((201, 300)), "layer1.bias": np.ones(201)})
    x = np.zeros((1, 300))
    Trainer(net, SGD(learning_rate=0.1, weight_decay=0.5)).step(x, np.ones((1, 201)))  # no gradient: a = b = y
    np.testing.assert_array_equal(net.w[1], np.full((201, 300), 0.95))
    np.testing.assert_array_equal(net.b[1], np.ones(201))


# --- penalties --------------------------------------------------------------------------------------------------------
def penalised(optimizer, **penalties):
    """(the weights before, the gradient, the step) of one update with penalties, from weights of both signs and 0."""
    net = small()
    start = {key: value + 0.1 for key, value in net.weights().items()}
    start["layer1.weight"][0, 0] = 0.0
    net.set_weights(start)
    gradient = gradient_of(net)
    return start, gradient, step_of(net, {**optimizers.get(optimizer).config(), **penalties})


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_penalties_in_the_gradient_are_their_derivatives(optimizer):
    start, gradient, step = penalised(optimizer, l1=0.2, l2=0.3, weight_decay=0.0, learning_rate=0.01)
    for key, g in gradient.items():
        if key.endswith("weight"):
            g = g + 0.2 * np.sign(start[key]) + 0.3 * start[key]
        g = g / (np.abs(g) + 1e-8) if optimizer == "adamw" else g
        np.testing.assert_allclose(step[key], 0.01 * g, rtol=1e-9, atol=1e-15, err_msg=key)


def test_decoupled_penalties_shrink_the_weights_and_leave_the_averages_alone():
    start, gradient, step = penalised("adam", l1=0.2, l2=0.3, decoupled=True, learning_rate=0.01)
    for key, g in gradient.items():
        w = start[key]
        if key.endswith("weight"):
            w = (1 - 0.01 * 0.3) * w
            w = np.sign(w) * np.maximum(np.abs(w) - 0.01 * 0.2, 0)
        expected = start[key] - (w - 0.01 * g / (np.abs(g) + 1e-8))
        np.testing.assert_allclose(step[key], expected, rtol=1e-9, atol=1e-15, err_msg=key)


def test_weight_decay_and_a_penalty_add_up():
    start, gradient, step = penalised("sgd", l2=0.3, weight_decay=0.4, learning_rate=0.1)
    weight = "layer2.weight"
    np.testing.assert_allclose(step[weight], 0.1 * (gradient[weight] + 0.7 * start[weight]), rtol=1e-12)
    start, gradient, step = penalised("adamw", l2=0.3, weight_decay=0.4, decoupled=True, learning_rate=0.01)
    g, w = gradient[weight], start[weight]
    expected = w - ((1 - 0.01 * 0.7) * w - 0.01 * g / (np.abs(g) + 1e-8))
    np.testing.assert_allclose(step[weight], expected, rtol=1e-9)


def test_a_decoupled_l1_stops_at_0():
    net = one_weight()
    net.set_weights({"layer1.weight": np.array([[1e-3]])})
    # no gradient: with a step of 0.1, a weight of 1e-3 would pass 0 by far
    Trainer(net, SGD(learning_rate=0.1, l1=1.0, decoupled=True)).step(np.zeros_like(X), np.zeros_like(X))
    assert net.w[1][0, 0] == 0


def test_an_optimizer_without_penalties_is_saved_as_before_there_were_any():
    assert not {"l1", "l2", "decoupled"} & optimizers.get("adam").config().keys()
    assert optimizers.get(SGD(l1=0.5, decoupled=True).config()) == SGD(l1=0.5, decoupled=True)


@pytest.mark.parametrize("decoupled", [1, "yes", None])
def test_decoupled_is_true_or_false(decoupled):
    with pytest.raises(ArgumentError, match="decoupled"):
        SGD(l1=0.1, decoupled=decoupled)


def test_decoupled_is_about_something():
    with pytest.raises(ArgumentError, match="decoupled was True; it must be left out without l1 and l2"):
        AdamW(decoupled=True)


def test_only_sgd_with_nothing_else_is_plain():
    plain = [name for name in OPTIMIZERS if optimizers.get(name).is_plain_sgd]
    assert plain == ["sgd"]
    for extra in ({"weight_decay": 0.1}, {"l1": 0.1}, {"l2": 0.1}, {"clip_norm": 1.0}, {"clip_value": 1.0}):
        assert not SGD(**extra).is_plain_sgd
    assert SGD(schedule=Cosine(steps=3)).is_plain_sgd


# --- configuration ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_config_makes_the_same_optimizer_again(name):
    optimizer = optimizers.get(
        {"name": name, "learning_rate": 0.02, "clip_norm": 2.0, "schedule": {"name": "constant"}}
    )
    assert optimizer.name == name
    assert optimizers.get(optimizer.config()) == optimizer
    scheduled = optimizers.get({"name": name, "schedule": Warmup(steps=3, then=Exponential(decay=0.9))})
    assert optimizers.get(scheduled.config()) == scheduled


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: SGD(learning_rate=0), "learning_rate"),
        (lambda: SGD(learning_rate=-0.1), "learning_rate"),
        (lambda: SGD(learning_rate=math.nan), "learning_rate"),
        (lambda: SGD(learning_rate="fast"), "learning_rate"),
        (lambda: SGD(weight_decay=-1e-4), "weight_decay"),
        (lambda: SGD(l1=-1e-4), "l1"),
        (lambda: Adam(l2=math.nan), "l2"),
        (lambda: SGD(clip_norm=0), "clip_norm"),
        (lambda: SGD(clip_value=-1), "clip_value"),
        (lambda: Nesterov(momentum=1), "momentum"),
        (lambda: Nesterov(momentum=-0.1), "momentum"),
        (lambda: Adam(beta1=1.0), "beta1"),
        (lambda: Adam(beta2=-0.1), "beta2"),
        (lambda: Adam(epsilon=0), "epsilon"),
        (lambda: optimizers.get({"name": "rmsprop", "decay": 2}), "decay"),
        (lambda: optimizers.get({"name": "adam", "beta3": 0.5}), "beta3"),
        (lambda: optimizers.get("adamm"), "did you mean 'adam'"),
    ],
)
def test_a_wrong_setting_is_an_error_that_names_it(make, field):
    with pytest.raises(ArgumentError, match=field):
        make()


def test_epsilon_hat_is_of_adam_alone_and_of_no_config_without_it():
    assert "epsilon_hat" not in optimizers.get("adam").config()
    chosen = optimizers.get({"name": "adam", "epsilon_hat": True})
    assert optimizers.get(chosen.config()) == chosen
    for config in ({"name": "adamw"}, {"name": "adam", "l2": 0.1, "decoupled": True}):
        with pytest.raises(ArgumentError, match="epsilon_hat was True; it must be left out"):
            optimizers.get({**config, "epsilon_hat": True})
    with pytest.raises(ArgumentError, match="epsilon_hat was 1; it must be True or False"):
        optimizers.get({"name": "adam", "epsilon_hat": 1})
