"""The file of a report's results: what is in it, with units, and the check of a file that is read.

A schema is nested as the values are: a dictionary has exactly these keys, `Each(kind)` is a dictionary of any keys, a
list of one schema a list of any length, a tuple any of its kinds, and a type a value of this type.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gpubp.errors import DataError, listed, shown

STATUSES = ("done", "partial", "failed", "timeout", "crashed", "absent", "left out")
"""What became of a part: it did all; it did what fitted into its time; it raised an error; it was ended at its limit;
its process died; it cannot run here; or the command does not ask for it."""

UNITS = {
    "seconds": "s",
    "limit_seconds": "s",
    "median": "s",
    "first_quartile": "s",
    "third_quartile": "s",
    "flops_per_second": "floating-point operations a second",
    "bytes_per_second": "bytes a second",
    "examples_per_second": "training examples a second, in the last epoch",
    "intensity": "floating-point operations a byte",
    "memory": "bytes",
    "share": "largest error over its bound; null: infinite",
    "peak_share": "of the chip's peak rate",
    "busy": "share of the cores' time that other programs took",
    "loss": "mean over the test part",
    "reference_loss": "mean over the test part, on backend numpy",
    "accuracy": "share of the test part",
    "cores": "number",
    "cases": "number",
    "chosen": "number of cases",
    "failed": "number of cases",
    "epochs": "number",
    "threads": "number",
    "repeats": "number of samples",
    "shape": "elements a side",
    "sizes": "units a layer",
    "rows": "examples a batch",
    "side": "elements",
    "learning_rate": "of plain SGD",
}
"""The unit of every number of the file, by its key."""


@dataclass(frozen=True)
class Each:
    """A dictionary of any keys whose values are of one kind."""

    kind: Any


class Date:
    """A text that is a date and time in ISO 8601."""


NUMBER = (int, float)
LARGEST = 1e30
"""Any number of a file is smaller."""

CHECK = {
    "backend": str,
    "device": str,
    "cases": int,
    "chosen": int,
    "failed": int,
    "rows": [
        {
            "primitive": str,
            "variant": str,
            "dtype": str,
            "cases": int,
            "failed": int,
            "share": (*NUMBER, None),
            "worst": str,
        }
    ],
    "failures": [{"case": str, "complaint": str, "command": str, "share": (*NUMBER, None)}],
}
TRAIN = {
    "backend": str,
    "device": str,
    "data": str,
    "layers": str,
    "epochs": int,
    "loss": NUMBER,
    "reference_loss": NUMBER,
    "accuracy": NUMBER,
    "matches": bool,
    "examples_per_second": (*NUMBER, None),
}
BENCH = {
    "measured": (Each(object), None),
    "rehearsed": [{"work": str, "contender": str, "device": str, "fault": str}],
}
PROFILE = {
    "model": str,
    "chip": str,
    "rooflines": Each({"flops_per_second": NUMBER, "bytes_per_second": NUMBER}),
    "profiles": [
        {
            "title": str,
            "shape": [int],
            "kernels_of": str,
            "rate": str,
            "intensity": NUMBER,
            "flops_per_second": NUMBER,
            "peak_share": NUMBER,
            "limiter": str,
            "counted": str,
            "kernels": [{"name": str, "figures": Each(str)}],
        }
    ],
}
INFO = {
    "python": str,
    "system": str,
    "processor": str,
    "cores": int,
    "memory": int,
    "driver": str,
    "gpus": [str],
    "gpu_fault": str,
    "packages": Each(str),
    "backends": [{"backend": str, "device": str, "works": bool, "detail": str, "remedy": str}],
    "automatic": str,
}
RESULTS = {"info": INFO, "check": CHECK, "train": TRAIN, "bench": BENCH, "profile": PROFILE}
"""The schema of a part's result, by what the part's name begins with."""

PART = {
    "status": str,
    "device": str,
    "made": Date,
    "seconds": NUMBER,
    "limit_seconds": NUMBER,
    "message": str,
    "lacking": [str],
    "last_output": str,
    "result": (Each(object), None),
}
FILE = {
    "format": str,
    "version": int,
    "made": Date,
    "command": str,
    "verdict": str,
    "identity": Each(str),
    "units": Each(str),
    "parts": Each(PART),
}
"""The schema of the file, but for the parts' results."""


def validate(value: Any, schema: Any, place: str = "") -> None:
    """Raise DataError, which names the place, unless a value from JSON is as its schema says."""
    if isinstance(schema, tuple):
        _any_of(value, schema, place)
    elif isinstance(schema, list):
        _require(isinstance(value, list), place, value, "a list")
        for number, item in enumerate(value):
            validate(item, schema[0], f"{place}[{number}]")
    elif isinstance(schema, Each):
        _require(isinstance(value, dict), place, value, "a table")
        for key, item in value.items():
            validate(item, schema.kind, _below(place, key))
    elif isinstance(schema, dict):
        _require(isinstance(value, dict), place, value, "a table")
        for key in schema:
            if key not in value:
                raise DataError(f"it lacks {_below(place, key)}")
        if more := [key for key in value if key not in schema]:
            raise DataError(f"{_below(place, shown(more[0]))} is unknown; known are {listed(schema)}")
        for key, kind in schema.items():
            validate(value[key], kind, _below(place, key))
    else:
        _require(_is_a(value, schema), place, value, _NAMES.get(schema, "null"))


_NAMES: dict[Any, str] = {
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    bool: "true or false",
    object: "anything",
    Date: "a date and time in ISO 8601",
}


def _any_of(value: Any, kinds: tuple[Any, ...], place: str) -> None:
    if any(_is_a(value, kind) for kind in kinds if not isinstance(kind, Each)):
        return
    nested = [kind for kind in kinds if isinstance(kind, Each)]
    if nested and isinstance(value, dict):
        validate(value, nested[0], place)
        return
    names = dict.fromkeys("a table" if isinstance(kind, Each) else _NAMES.get(kind, "null") for kind in kinds)
    if "a finite number" in names:
        del names["a whole number"]
    _require(False, place, value, " or ".join(names))


def _is_a(value: Any, kind: Any) -> bool:
    if kind is None:
        return value is None
    if isinstance(value, bool):
        return kind in (bool, object)
    if isinstance(value, int | float) and not abs(value) < LARGEST:
        return False
    if kind is Date:
        return isinstance(value, str) and _is_date(value)
    return isinstance(value, kind)


def _is_date(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _require(met: bool, place: str, value: Any, must: str) -> None:
    if not met:
        raise DataError(f"{place or 'the file'} was {shown(json.dumps(value))}; it must be {must}")


def _below(place: str, key: str) -> str:
    return f"{place}.{shown(key)}" if place else shown(key)
