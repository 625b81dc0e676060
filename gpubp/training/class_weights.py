"""Weights of classes: how much the examples of each count in the training loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from gpubp.data import cells
from gpubp.data.dataset import Dataset
from gpubp.errors import ArgumentError, StateError, listed, nearest, shown
from gpubp.registry import require_number

BALANCED = "balanced"
"""The class weights that make every class count the same."""

ClassWeight: TypeAlias = str | tuple[float, ...] | dict[str, float]
"""`BALANCED`, a weight for each class in their order, or weights by the classes' names; those left out have 1."""

_EXPECTED = 'balanced, a number for each class ("1,2,5"), or numbers by name ("cat=2,dog=1")'


def parsed(text: str) -> ClassWeight:
    """Return the class weights in the text of an option. A name with a comma is in double quotes, with its number.

    Raises ArgumentError for any other text.
    """
    if text.strip().lower() == BALANCED:
        return BALANCED
    entries = [each.strip() for each in cells.in_line("class_weight", text, _EXPECTED)] or [""]
    by_name = {each.rpartition("=")[0].strip(): each.rpartition("=")[2] for each in entries}
    try:
        if not any("=" in each for each in entries):
            return checked(tuple(map(float, entries)))
        if all("=" in each for each in entries) and len(by_name) == len(entries):
            return checked({name: float(number) for name, number in by_name.items()})
    except ValueError as error:
        if isinstance(error, ArgumentError):
            raise
    raise ArgumentError("class_weight", text, _EXPECTED)


def checked(given: Any) -> ClassWeight:
    """Return class weights that were given in Python: see `ClassWeight`; any sequence, array or mapping will do.

    Raises ArgumentError for something else, for a number that is negative or not finite, and if all are 0.
    """
    if isinstance(given, str) and given == BALANCED:
        return BALANCED
    if isinstance(given, Mapping):
        weights: ClassWeight = {str(name): _number(weight, str(name)) for name, weight in given.items()}
    elif isinstance(given, np.ndarray | Sequence) and not isinstance(given, str) and np.ndim(given) == 1:
        weights = tuple(_number(weight, i) for i, weight in enumerate(given))
        if weights and not any(weights):
            raise StateError("class_weight", "is 0 for every class", "be more than 0 for some class")
    else:
        raise ArgumentError("class_weight", given, _EXPECTED)
    if not weights:
        raise StateError("class_weight", "is empty", f"be {_EXPECTED}")
    return weights


def _number(weight: Any, of: str | int) -> float:
    require_number(f"class_weight of {shown(of, 40)}", weight, least=0)
    return float(weight)


def applied(
    given: ClassWeight, dataset: Dataset, y: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weight of each class, and of each example its class's times its own. Arguments, errors: `by_class`."""
    of_class = by_class(given, dataset, y, weights)
    return of_class, of_class[y] if weights is None else of_class[y] * weights


def by_class(given: ClassWeight, dataset: Dataset, y: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Return the weight of each class of the data, (classes,) float64.

    Balanced, it is W / (K W_c) for K classes that have examples of weight W together and W_c each, so that every class
    has the same total: scikit-learn's `compute_class_weight` with sample weights. The sample weights count, since an
    example of weight 2 is the same as two. A class without examples has 0.

    Args:
        given: as `checked` returns it.
        dataset: whose classes they are.
        y: the classes of the examples to train on, (examples,).
        weights: their own weights, (examples,); None if all count the same.

    Raises:
        ArgumentError: the data has no classes, or other ones.
    """
    if dataset.task == "regression":
        expected = f"be left out: {dataset.name} is regression, which has no classes"
        raise StateError("class_weight", "was given", expected)
    if dataset.task == "multilabel":
        expected = f"be left out: {dataset.name} has several labels an example, and a weight is of the whole example"
        raise StateError("class_weight", "was given", expected)
    names = dataset.class_names
    if isinstance(given, str):
        totals = np.bincount(y, weights, len(names))
        present = totals > 0
        return np.divide(totals.sum() / max(present.sum(), 1), totals, out=np.zeros(len(names)), where=present)
    if isinstance(given, tuple):
        if len(given) != len(names):
            state = f"has {len(given)} numbers"
            raise StateError(
                "class_weight", state, f"have one for each of the {len(names)} classes, {listed(names, 80)}"
            )
        return np.array(given, np.float64)
    for name in given:
        if name not in names:
            match = nearest(name, names)
            hint = f"did you mean {match!r}?" if match else ""
            raise ArgumentError("class_weight", name, f"by the names of the classes {listed(names, 80)}", hint)
    return np.array([given.get(name, 1.0) for name in names], np.float64)
