"""Choosing one of several frozen dataclasses by name: activations, losses, initialisers, optimisers, schedules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, TypeVar, cast

import numpy as np

from gpubp.errors import ArgumentError, unknown_name

Kind = TypeVar("Kind")


def choose(argument: str, kinds: Mapping[str, type[Kind]], chosen: str | Mapping[str, Any] | Kind) -> Kind:
    """Return the object that `chosen` names: by a name, a config (`{"name": ..., **fields}`), or the object itself.

    Raises ArgumentError, naming `argument`, for an unknown name (with the nearest right one), an unknown field, or a
    field that has no default and was left out.
    """
    if isinstance(chosen, tuple(kinds.values())):
        return cast(Kind, chosen)
    settings = dict(chosen) if isinstance(chosen, Mapping) else {"name": chosen}
    name = settings.pop("name", None)
    if not isinstance(name, str) or name not in kinds:
        raise unknown_name(argument, name, kinds)
    kind = kinds[name]
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    for setting in settings:
        if setting not in known:
            raise unknown_name(f"a field of {argument} {name!r}", setting, known)
    for field in known.values():
        if field.name not in settings and _has_no_default(field):
            raise ArgumentError(argument, chosen, f"given with a value for {field.name!r}, which has no default")
    return kind(**settings)


def _has_no_default(field: Field) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def require_number(
    argument: str,
    value: Any,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> None:
    """Raise ArgumentError unless `value` is a finite real number within the bounds (above, below: exclusive)."""
    bounds = [("> ", above), ("≥ ", least), ("< ", below), ("≤ ", most)]
    expected = "a finite number" + "".join(
        f"{' and' if i else ''} {sign}{bound:g}"
        for i, (sign, bound) in enumerate([pair for pair in bounds if pair[1] is not None])
    )
    if (
        not _is_finite(value)
        or (above is not None and value <= above)
        or (least is not None and value < least)
        or (below is not None and value >= below)
        or (most is not None and value > most)
    ):
        raise ArgumentError(argument, value, expected)


def _is_finite(value: Any) -> bool:
    """True if `value` is a real number that a float64 can hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False


LARGEST_COUNT = 2**63 - 1
"""The largest whole number that arrays and kernels count with."""


def require_count(argument: str, value: object, least: int = 1, most: int = LARGEST_COUNT) -> None:
    """Raise ArgumentError unless `value` is an integer from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ArgumentError(argument, value, f"a whole number ≥ {least}")
    if value > most:
        raise ArgumentError(argument, value, f"a whole number ≤ {most}")
