"""Covering arrays: few rows of choices in which every two choices meet."""

from __future__ import annotations

import itertools
from collections.abc import Sequence


def covering_array(parameters: list[Sequence[object]]) -> list[tuple[object, ...]]:
    """Return rows of one choice for each parameter that cover every pair of choices, found greedily.

    Each row starts from the pair that is missing most often and then takes, parameter by parameter, the choice that
    covers the most missing pairs. Ties go to the choice used least so far, then to the first: no randomness.
    """
    sizes = [len(parameter) for parameter in parameters]
    missing = {
        (i, p, j, q)
        for i, j in itertools.combinations(range(len(sizes)), 2)
        for p in range(sizes[i])
        for q in range(sizes[j])
    }
    used = [[0] * size for size in sizes]
    rows = []
    while missing:
        i, p, j, q = min(missing)
        row = {i: p, j: q}
        for k in sorted(set(range(len(sizes))) - {i, j}, key=lambda k: -sizes[k]):
            row[k] = min(range(sizes[k]), key=lambda c: (-_gain(missing, row, k, c), used[k][c], c))
        for k, choice in row.items():
            used[k][choice] += 1
        missing -= {(a, row[a], b, row[b]) for a, b in itertools.combinations(sorted(row), 2)}
        rows.append(tuple(parameters[k][row[k]] for k in range(len(sizes))))
    return rows


def _gain(missing: set[tuple[int, int, int, int]], row: dict[int, int], k: int, choice: int) -> int:
    """Return how many missing pairs the choice for parameter k would cover, given the row so far."""
    return sum((((k, choice, a, b) if k < a else (a, b, k, choice)) in missing) for a, b in row.items())
