"""Cross-validation: as many trainings as folds, each judged by the fold that it has not seen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np

from gpubp.data.dataset import Dataset
from gpubp.data.loading import Whole
from gpubp.data.splitting import folds
from gpubp.errors import DataError
from gpubp.training.from_settings import make_network, training_config
from gpubp.training.history import ACCURACY
from gpubp.training.judgement import Judgement
from gpubp.training.loop import Result, Run
from gpubp.training.settings import Settings

# The folds are random; their spawn key, beside those of `loop` and of the test part.
_FOLDS = 5


@dataclass(frozen=True)
class Fold:
    """How good the model of one fold is on the examples of that fold.

    Attributes:
        examples: how many these are.
        figures: the loss, and the accuracy or the errors in the data's own units, by name.
        diverged: whether the training diverged; then the figures are not finite.
    """

    examples: int
    figures: Mapping[str, float]
    diverged: bool


def parts_of(whole: Whole, count: int, seed: int) -> Iterator[Dataset]:
    """Yield the data of each fold: the others to train on, it to test on; text, gaps and scaling are fitted anew.

    A test part that the data has of its own is not among them.

    Raises ArgumentError, DataError: `folds` of these examples cannot be made, or one has a part in which none counts.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_FOLDS,)))
    for number, (rows, test_rows) in enumerate(folds(whole.y, count, rng, task=whole.task), start=1):
        try:
            yield whole.parts(rows, test_rows)
        except DataError as error:
            raise DataError(f"fold {number} of {count}: {error}") from None


def check_folds(whole: Whole, count: int, settings: Settings) -> None:
    """Raise what the training of any of the folds would raise, before hours went into the others."""
    for dataset in parts_of(whole, count, settings.seed):
        _run(dataset, settings)


def train_fold(dataset: Dataset, settings: Settings) -> Fold:
    """Train on the data of one fold and return how good that is. Raises what `fit` raises."""
    result = _run(dataset, settings).train()
    return Fold(len(dataset.x_test), _figures(dataset, result), result.diverged)


def _run(dataset: Dataset, settings: Settings) -> Run:
    return Run(make_network(settings, dataset), dataset, training_config(settings), stream=settings.stream)


def _figures(dataset: Dataset, result: Result) -> dict[str, float]:
    row = result.row
    assert row.test_loss is not None
    figures = {"loss": row.test_loss}
    if row.test_accuracy is not None:
        return {**figures, ACCURACY[dataset.task]: row.test_accuracy}
    judged = Judgement.of(result.model, "", dataset.x_test, dataset.y_test, dataset.weight_test)
    for output, each in enumerate(judged.outputs(), start=1):
        which = "" if dataset.outputs == 1 else f" of output {output}"
        figures[f"root mean square error{which}"] = each.root_mean_square
        figures[f"mean absolute error{which}"] = each.mean_absolute
        figures[f"R²{which}"] = math.nan if each.r2 is None else each.r2
    return figures


def mean_and_spread(values: list[float]) -> tuple[float, float]:
    """Return the mean and the standard deviation of a figure over the folds, of which there are at least two."""
    return (fmean(values), stdev(values)) if all(map(math.isfinite, values)) else (math.nan, math.nan)
