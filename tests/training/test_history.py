"""The history: its file, and what its rows know."""

import csv
import math

import numpy as np

from gpubp.data.dataset import Dataset
from gpubp.nn.network import Network
from gpubp.training.config import TrainingConfig
from gpubp.training.history import HistoryRow, history_csv
from gpubp.training.loop import fit


def test_the_history_file_gives_back_every_number_exactly(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(40, 4)), np.arange(40) % 3
    dataset = Dataset(x[:30], y[:30], x[30:], y[30:], class_names=("a", "b", "c"))
    result = fit(Network([4, 8, 5, 3], seed=1), dataset, TrainingConfig(epochs=3), folder=tmp_path)
    text = (tmp_path / "history.csv").read_text()
    assert text == history_csv(result.history)
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) == 3
    for row, expected in zip(rows, result.history, strict=True):
        assert int(row["epoch"]) == expected.epoch
        assert float(row["train_loss"]) == expected.train_loss
        assert row["validation_loss"] == ""
        assert [float(row[f"gradient_norm_{layer}"]) for layer in (1, 2, 3)] == list(expected.gradient_norms)


def test_a_row_knows_whether_the_weights_are_of_use():
    values = dict.fromkeys(HistoryRow.__dataclass_fields__, 1.0)
    assert HistoryRow(**{**values, "gradient_norms": (1.0,)}).is_finite
    assert not HistoryRow(**{**values, "gradient_norms": (math.inf,)}).is_finite
    assert not HistoryRow(**{**values, "gradient_norms": (1.0,), "train_loss": math.nan}).is_finite
