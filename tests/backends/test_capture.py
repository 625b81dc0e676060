"""A captured step does what the step does, with other rows and step sizes each time; elsewhere it is a clear error."""

import numpy as np
import pytest

from gpubp import Network
from gpubp.errors import ArgumentError, BackendError

ROWS, BATCH = 20, 8


def make(backend, device=None, optimizer="sgd"):
    net = Network([5, 4, 3], hidden_activation="tanh", backend=backend, device=device)
    net.optimizer = optimizer
    rng = np.random.default_rng(0)
    feed = net.feed(rng.normal(size=(ROWS, 5)), rng.integers(0, 3, ROWS))
    feed.visit(rng.permutation(ROWS))
    return net, feed


OPTIMIZERS = [
    {"name": "sgd", "schedule": {"name": "exponential", "decay": 0.5}},
    {"name": "adam", "schedule": {"name": "warmup", "steps": 2}, "clip_norm": 0.1},
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda chosen: chosen["name"])
def test_replays_equal_steps(optimizer):
    plain, plain_feed = make("cupy", "emulator", optimizer)
    captured, captured_feed = make("cupy", "emulator", optimizer)
    before = captured.state()
    whole = captured.capture(captured_feed, BATCH)
    ragged = captured.capture(captured_feed, ROWS % BATCH)
    for name, values in captured.state().items():
        np.testing.assert_array_equal(values, before[name], err_msg=f"capturing changed {name}")
    for _ in range(2):
        for start in range(0, ROWS, BATCH):
            plain.train_rows(plain_feed, start, min(BATCH, ROWS - start))
            (whole if start + BATCH <= ROWS else ragged)(start)
    assert captured.steps == plain.steps == 6
    for name, values in plain.state().items():
        np.testing.assert_array_equal(captured.state()[name], values, err_msg=name)


def test_a_captured_step_refuses_what_it_was_not_made_for():
    net, feed = make("cupy", "emulator")
    step = net.capture(feed, BATCH)
    with pytest.raises(ArgumentError, match="rows"):
        step(ROWS - BATCH + 1)
    net.train_rows(feed, 0, ROWS)  # a larger batch: new arrays
    with pytest.raises(ArgumentError, match="captured anew"):
        step(0)
    step = net.capture(feed, BATCH)
    net.optimizer = "adam"
    with pytest.raises(ArgumentError, match="captured anew"):
        step(0)


def test_a_backend_that_cannot_capture_says_so_and_leaves_the_network_alone():
    net, feed = make("numpy")
    before = net.state()
    with pytest.raises(BackendError, match="'numpy' cannot capture"):
        net.capture(feed, BATCH)
    for name, values in net.state().items():
        np.testing.assert_array_equal(values, before[name], err_msg=name)
