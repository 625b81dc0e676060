"""The twins of functions, to which stream 0 is the default stream of the calling thread."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from gpubp.emulator.driver import streams
from gpubp.emulator.driver.calls import (
    EXPORTS,
    add,
)

_TAKE_A_STREAM = re.compile(
    r"cu(Mem(cpy|set)\w*|Mem\w*Async(_v2)?|Launch\w+|EventRecord\w*|Graph(Launch|Upload)"
    r"|GraphInstantiateWithParams|Stream(?!Create|Destroy)\w+)"
)


def export_twins() -> None:
    """Export the functions that use a stream once more, under the names of those to which stream 0 is the thread's."""
    for each in list(EXPORTS.values()):
        if _TAKE_A_STREAM.fullmatch(each.name):
            waits = "Async" not in each.name and re.match("cuMem(cpy|set)", each.name)
            name = each.name + ("_ptds" if waits else "_ptsz")
            add(dataclasses.replace(each, name=name, function=_per_thread(each.function)))


def _per_thread(function: Callable[..., None]) -> Callable[..., None]:
    def call(*arguments: Any) -> None:
        with streams.per_thread_default():
            function(*arguments)

    return call
