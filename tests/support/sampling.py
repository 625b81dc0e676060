"""How a long set of parameters is divided between `make test` and `make exhaustive`."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest


def sampled(everything: Iterable[tuple[Any, ...]], sample: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Return the parameters, each once: those of the sample marked slow, the others marked exhaustive."""
    found = list(dict.fromkeys(everything))
    assert set(sample) <= set(found), "the sample has what the set has not"
    return [pytest.param(*one, marks=pytest.mark.slow if one in sample else pytest.mark.exhaustive) for one in found]
