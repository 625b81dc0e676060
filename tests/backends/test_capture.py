"""A captured step does what the step does, with other rows and step sizes each time; elsewhere it is a clear error."""

from dataclasses import replace

import numpy as np
import pytest
from devices import DEVICE

from gpubp import LossScaling, Network, Trainer
from gpubp.backends.cupy_backend import CupyBackend
from gpubp.data.dataset import Dataset
from gpubp.errors import ArgumentError, BackendError
from gpubp.nn.trainer import BatchSteps
from gpubp.training.config import TrainingConfig
from gpubp.training.loop import Run

ROWS, BATCH = 20, 8


def make(backend, device=None, optimizer="sgd"):
    net = Network([5, 4, 3], hidden_activation="tanh", backend=backend, device=device)
    trainer = Trainer(net, optimizer)
    rng = np.random.default_rng(0)
    feed = trainer.feed(rng.normal(size=(ROWS, 5)), rng.integers(0, 3, ROWS))
    feed.visit(rng.permutation(ROWS))
    return trainer, feed


OPTIMIZERS = [
    {"name": "sgd", "schedule": {"name": "exponential", "decay": 0.5}},
    {"name": "adam", "schedule": {"name": "warmup", "steps": 2}, "clip_norm": 0.1},
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda chosen: chosen["name"])
def test_replays_equal_steps(optimizer):
    plain, plain_feed = make("cupy", DEVICE, optimizer)
    captured, captured_feed = make("cupy", DEVICE, optimizer)
    before = captured.state()
    whole = captured.capture(captured_feed, BATCH)
    ragged = captured.capture(captured_feed, ROWS % BATCH)
    for name, values in captured.state().items():
        np.testing.assert_array_equal(values, before[name], err_msg=f"capturing changed {name}")
    for _ in range(2):
        for start in range(0, ROWS, BATCH):
            plain.step_rows(plain_feed, start, min(BATCH, ROWS - start))
            (whole if start + BATCH <= ROWS else ragged)(start)
    assert captured.steps == plain.steps == 6
    for name, values in plain.state().items():
        np.testing.assert_array_equal(captured.state()[name], values, err_msg=name)


def test_a_captured_step_refuses_what_it_was_not_made_for():
    trainer, feed = make("cupy", DEVICE)
    step = trainer.capture(feed, BATCH)
    with pytest.raises(ArgumentError, match="rows"):
        step(ROWS - BATCH + 1)
    assert step.is_current
    trainer.step_rows(feed, 0, ROWS)  # a larger batch: new arrays
    assert not step.is_current
    with pytest.raises(ArgumentError, match="captured anew"):
        step(0)


def test_a_captured_step_holds_the_optimizer_but_for_its_rate():
    trainer, feed = make("cupy", DEVICE, {"name": "sgd", "l2": 0.1})
    step = trainer.capture(feed, BATCH)
    trainer.optimizer = replace(trainer.optimizer, learning_rate=0.5)
    assert step.is_current
    for settings in ({"l2": 0.2}, {"clip_norm": 1.0}, {"clip_value": 1.0}):
        kept = trainer.optimizer
        trainer.optimizer = replace(kept, **settings)
        assert not step.is_current, settings
        with pytest.raises(ArgumentError, match="captured anew"):
            step(0)
        trainer.optimizer = kept
    assert step.is_current
    trainer.at_once = 3
    assert not step.is_current


@pytest.mark.parametrize(
    "change",
    [
        lambda used: setattr(used, "variant", "naive"),
        lambda used: setattr(used, "stream_k", 2),
        lambda used: setattr(used, "largest_tiles", True),
        lambda used: setattr(used, "widest", 0),
        lambda used: setattr(used, "tuned", {**used.tuned, "of a product": "a plan"}),
        lambda used: used.release_workspace(),
    ],
    ids=["variant", "stream_k", "largest_tiles", "widest", "tuned", "release_workspace"],
)
def test_a_captured_step_is_no_longer_current_when_the_backend_would_launch_others(change):
    trainer, feed = make("cupy", DEVICE)
    steps = BatchSteps(trainer, feed, BATCH)
    steps(0)
    step = steps._captured
    change(trainer.network.backend)
    assert not step.is_current
    with pytest.raises(ArgumentError, match="captured anew"):
        step(0)
    steps(0)
    assert steps._captured is not step
    assert steps._captured.is_current
    assert not trainer.network.backend.counts_arrivals()


def test_steps_on_batches_follow_an_optimizer_that_is_replaced():
    """As for penalties that are divided by the weight of each batch."""
    followed, feed = make("cupy", DEVICE, {"name": "sgd", "l2": 0.1})
    plain, plain_feed = make("cupy", DEVICE, {"name": "sgd", "l2": 0.1})
    steps = BatchSteps(followed, feed, BATCH)
    for l2 in (0.1, 0.1, 3.0, 3.0, 3.0, 0.1, 5.0):
        if l2 != plain.optimizer.l2:
            followed.optimizer = plain.optimizer = replace(plain.optimizer, l2=l2)
        assert steps(0) == BATCH
        plain.step_rows(plain_feed, 0, BATCH)
        for name, values in plain.state().items():
            np.testing.assert_array_equal(followed.state()[name], values, err_msg=f"{name}, {l2}")


def test_a_backend_that_cannot_capture_says_so_and_leaves_the_network_alone():
    trainer, feed = make("numpy")
    before = trainer.state()
    with pytest.raises(BackendError, match="'numpy' cannot capture"):
        trainer.capture(feed, BATCH)
    for name, values in trainer.state().items():
        np.testing.assert_array_equal(values, before[name], err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("precision", [None, "fp16"])
def test_a_run_that_replays_equals_one_that_does_not(precision):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 5)), np.arange(60) % 3
    dataset = Dataset(x[:40], y[:40], x[40:], y[40:], class_names=("a", "b", "c"), name="noise")
    scaling = None if precision is None else LossScaling(2.0**18, 3)  # too large at first, and again and again
    ends = []
    for captures in (False, True):
        backend = CupyBackend(DEVICE)
        backend.captures = captures
        net = Network(
            [5, 4, 3], hidden_activation="tanh", backend=backend, precision=precision, loss_scaling=scaling, seed=1
        )
        run = Run(net, dataset, TrainingConfig(epochs=3, batch_size=12))  # 3 whole batches and one of 4
        result, state = run.train(), run.trainer.state()
        ends.append((result.history, {name: values.tobytes() for name, values in state.items()}))
    assert ends[0] == ends[1]
    if precision is not None:
        assert state["updates"] < run.trainer.steps  # some were skipped
