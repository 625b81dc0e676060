"""The configuration of a training run: its bounds, and the schedule over the epochs."""

import math

import numpy as np
import pytest

from gpubp.errors import ArgumentError
from gpubp.nn.optimizers import SGD, Adam
from gpubp.training.config import TrainingConfig


@pytest.mark.parametrize(
    ("settings", "argument"),
    [
        ({"epochs": 0}, "epochs"),
        ({"epochs": 1.5}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": -8}, "batch_size"),
        ({"accumulate": 0}, "accumulate"),
        ({"accumulate": 2.0}, "accumulate"),
        ({"optimizer": "adma"}, "optimizer"),
        ({"optimizer": {"name": "sgd", "learning_rate": -1}}, "learning_rate"),
        ({"schedule": "cosin"}, "schedule"),
        ({"decay": 0.5}, "decay"),
        ({"schedule": "step", "decay": 0}, "decay"),
        ({"schedule": "exponential", "decay": 1.5}, "decay"),
        ({"schedule": "exponential", "decay_epochs": 2}, "decay_epochs"),
        ({"schedule": "step", "decay_epochs": 0}, "decay_epochs"),
        ({"warmup": -1}, "warmup"),
        ({"warmup": 30}, "warmup"),
        ({"warmup": math.nan}, "warmup"),
        ({"validation": 1}, "validation"),
        ({"validation": -0.1}, "validation"),
        ({"patience": 0}, "patience"),
        ({"patience": 3, "validation": 0}, "validation"),
        ({"patience": 3, "monitor": "acuracy"}, "monitor"),
        ({"monitor": "accuracy"}, "monitor"),
        ({"monitor": "accuracy", "validation": 0.0}, "monitor"),
        ({"seed": -1}, "seed"),
    ],
)
def test_a_setting_out_of_range_is_named(settings, argument):
    with pytest.raises(ArgumentError) as caught:
        TrainingConfig(**settings)
    assert caught.value.argument == argument


def test_an_unknown_name_comes_with_the_nearest():
    with pytest.raises(ArgumentError, match="did you mean 'cosine'"):
        TrainingConfig(schedule="cosin")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": "constant"}, [1] * 12),
        ({"schedule": "step", "decay": 0.5, "decay_epochs": 1}, [1] * 4 + [0.5] * 4 + [0.25] * 4),
        ({"schedule": "step"}, [1] * 4 + [0.1] * 4 + [0.01] * 4),
        ({"schedule": "exponential", "decay": 0.5}, [0.5 ** (step / 4) for step in range(12)]),
        ({"schedule": "cosine"}, [0.5 * (1 + math.cos(math.pi * step / 12)) for step in range(12)]),
        (
            {"schedule": "cosine", "warmup": 0.5},
            [0.5, 1, *(0.5 * (1 + math.cos(math.pi * step / 10)) for step in range(10))],
        ),
        ({"schedule": None}, [1] * 12),
    ],
)
def test_the_schedule_is_stretched_over_the_epochs(settings, expected):
    optimizer = TrainingConfig(epochs=3, optimizer=SGD(learning_rate=2.0), **settings).scheduled_optimizer(4)
    np.testing.assert_allclose([optimizer.rate(step) for step in range(12)], 2 * np.array(expected), rtol=1e-12)


def test_a_configuration_can_be_made_from_its_config():
    config = TrainingConfig(epochs=3, optimizer=Adam(clip_norm=1.0), patience=2, warmup=0.5)
    assert TrainingConfig(**config.config()) == config
    config = TrainingConfig(validation=0.1, monitor="accuracy", accumulate=3)
    assert TrainingConfig(**config.config()) == config


def test_what_earlier_versions_had_no_setting_for_is_left_out_of_the_config():
    """So their checkpoints can be resumed, and those of runs without the setting are theirs to the bit."""
    kept = {"epochs", "batch_size", "optimizer", "schedule", "decay", "decay_epochs", "warmup", "validation"}
    assert set(TrainingConfig().config()) == kept | {"patience", "seed"}
