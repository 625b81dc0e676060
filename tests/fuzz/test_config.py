"""Damaged configurations of runs: refused in one short line, or settings that a network and its training are made of,
or refuse."""

import numpy as np
import pytest
import tomli_w
from damage import damaged_text, damaged_tree, fuzz

from gpubp.data.dataset import Dataset
from gpubp.training.from_settings import make_network, training_config
from gpubp.training.settings import Settings

SETTINGS = Settings(
    layers="8", task="classification", optimizer="momentum", lr=0.1, momentum=0.5, schedule="step", decay=0.5,
    decay_epochs=2, clip_norm=1.0, validation=0.2, patience=3, backend="numpy", device="cpu",
)  # fmt: skip
CONFIG = {
    "settings": SETTINGS.chosen(),
    "resolved": {"sizes": [4, 8, 3], "optimizer": {"name": "adam"}},
    "versions": {"gpubp": "0.1.0"},
}


@pytest.fixture
def config(tmp_path):
    return tmp_path / "config.toml"


def use(settings):
    """Make all of the settings that a run makes, on a data set that is there."""
    x, y = np.eye(4), np.array([0, 1, 2, 0])
    dataset = Dataset(x, y, x, y, class_names=("a", "b", "c"))
    training_config(settings).scheduled_optimizer(steps_per_epoch=1)
    if all(width <= 64 for width in settings.hidden_widths()):
        make_network(settings, dataset)


def test_damaged_text(config):
    good = tomli_w.dumps(CONFIG), tomli_w.dumps(CONFIG["settings"])

    def attempt(rng):
        config.write_bytes(damaged_text(rng, *good))
        use(Settings(**Settings.read(config)))

    fuzz(attempt)


def test_values_of_other_types(config):
    def attempt(rng):
        config.write_bytes(as_toml(damaged_tree(rng, CONFIG)))
        use(Settings(**Settings.read(config)))

    fuzz(attempt)


def as_toml(tree):
    """The tree in TOML, or as near as TOML comes."""
    try:
        return tomli_w.dumps(tree).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError, AttributeError, RecursionError):
        return f"settings = {tree!r}".encode("utf-8", "surrogatepass")
