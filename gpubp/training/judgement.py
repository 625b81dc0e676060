"""How good predictions are: of classes what is taken for what, of values how far off they are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gpubp.data.rows import Inputs
from gpubp.training.model import Model


@dataclass(frozen=True)
class ClassFigures:
    """How well a class, or a label, is told.

    Attributes:
        name: of the class.
        examples: how many examples are of it.
        recall: the share of these that is taken for it; None if there are none.
        precision: the share of what is taken for it that is of it; None if nothing is.
    """

    name: str
    examples: int
    recall: float | None
    precision: float | None


@dataclass(frozen=True)
class OutputFigures:
    """How far a regression is off in one output, in the data's own units.

    Attributes:
        root_mean_square, mean_absolute: of the errors.
        r2: the coefficient of determination, 1 − Σ error² / Σ (y − mean y)²; None if all y are the same.
    """

    root_mean_square: float
    mean_absolute: float
    r2: float | None


@dataclass(frozen=True, eq=False)
class Judgement:
    """Predictions beside what is true.

    Attributes:
        what: which examples these are, such as "the test part".
        task: as of `Model`.
        names: of the classes or labels; empty for regression.
        y: what is true, as in `Dataset`.
        predicted: what the model predicts, as `Model.predict` does.
        weight: of each example, (examples,); None if all count the same. All shares and means are weighted by it, and
            counts are not.
    """

    what: str
    task: str
    names: tuple[str, ...]
    y: np.ndarray
    predicted: np.ndarray
    weight: np.ndarray | None = None

    @classmethod
    def of(cls, model: Model, what: str, x: Inputs, y: np.ndarray, weight: np.ndarray | None = None) -> Judgement:
        """Return a model's predictions for raw inputs (examples, features) beside what is true."""
        return cls(what, model.task, model.class_names, y, model.predict(x), weight)

    @property
    def confusion(self) -> np.ndarray:
        """How many examples of each class (rows) are taken for each (columns), (classes, classes) int64."""
        classes = len(self.names)
        return np.bincount(self.y * classes + self.predicted, minlength=classes**2).reshape(classes, classes)

    def mistakes(self, most: int) -> list[tuple[int, int, int]]:
        """Return the classes that are taken for another most often: which, for which, and how many examples."""
        classes = len(self.names)
        wrong = self.y != self.predicted
        pairs, counts = np.unique(self.y[wrong] * classes + self.predicted[wrong], return_counts=True)
        order = np.argsort(-counts, kind="stable")[:most]
        return [(*divmod(int(pairs[i]), classes), int(counts[i])) for i in order]

    def classes(self) -> list[ClassFigures]:
        """Return how well each class or label is told."""
        weight = np.ones(len(self.y)) if self.weight is None else self.weight
        if self.task == "multilabel":
            is_so, called_so = self.y == 1, self.predicted == 1
            examples = is_so.sum(axis=0)
            right, held, called = (weight @ each for each in (is_so & called_so, is_so, called_so))
        else:
            count, is_right = len(self.names), self.y == self.predicted
            examples = np.bincount(self.y, minlength=count)
            right = np.bincount(self.y[is_right], weight[is_right], count)
            held, called = (np.bincount(each, weight, count) for each in (self.y, self.predicted))
        return [
            ClassFigures(
                name,
                int(examples[i]),
                float(right[i] / held[i]) if held[i] else None,
                float(right[i] / called[i]) if called[i] else None,
            )
            for i, name in enumerate(self.names)
        ]

    def outputs(self) -> list[OutputFigures]:
        """Return how far off each output of a regression is."""
        found = []
        for y, predicted in zip(self.y.T, self.predicted.T, strict=True):
            error = predicted - y
            square, total = self._mean(error**2), self._mean((y - self._mean(y)) ** 2)
            r2 = 1 - square / total if total > 0 else None
            found.append(OutputFigures(math.sqrt(square), self._mean(np.abs(error)), r2))
        return found

    def _mean(self, values: np.ndarray) -> float:
        return float(np.average(values, weights=self.weight))
