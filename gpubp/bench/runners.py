"""Making a `Runner` of what a library offers: a function for a primitive, or a trainer for a training step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpubp.bench.timing import Call, Runner
from gpubp.bench.works import OPTIMIZER, Primitive
from gpubp.crosscheck import cases, problems
from gpubp.crosscheck.comparator import compare
from gpubp.crosscheck.problems import Problem

Arrays = Mapping[str, Any]
"""A library's own arrays by the names of a problem."""

WARM_UP = 3
"""Calls before any is timed: they compile, allocate, and fill the caches of code."""

MAX_COPIES = 256
"""Sets of arrays that calls on the host take in turn, at most."""

USUAL_CACHE = 32 * 2**20
"""Bytes that a processor's last cache is taken for where the system does not say."""

FLUSHED_BYTES = 512 * 2**20
"""What a copy on the device moves to empty its caches: more than the second-level cache of any chip."""

FLUSHES = 4
"""Such copies before a timed call. They keep the fastest chip (8 TB/s) busy for 0.25 ms; the host needs about half of
that to give it these and a primitive of two kernels."""

PEERS_BOUNDS = 2.0
"""Bounds that another library's results may be off: they are made for this project's order of sums, and another one,
such as adding each term to w, is not wrong. A lower precision than was asked for is off by more."""


@dataclass(frozen=True)
class Trainer:
    """A network in training; `loss` gives the last step's, as it was before the update."""

    step: Call
    loss: Callable[[], float]


def problem_of(work: Primitive) -> Problem:
    """Return the problem of a work: the same arguments, and the same expected results, for every contender."""
    return problems.make(cases.measured(work.name, work.shape, work.dtype, optimizer=OPTIMIZER))


def flush_of(copy: Call) -> Call:
    """See `Runner.flush`. copy: of one half of `FLUSHED_BYTES` to the other, on the device."""

    def flush() -> None:
        for _ in range(FLUSHES):
            copy()

    return flush


def of_primitive(
    problem: Problem,
    place: Callable[[np.ndarray], Any],
    bind: Callable[[Arrays], Callable[[], Arrays]],
    fetch: Callable[[Any], np.ndarray],
    *,
    elapsed: Callable[[Call], float] | None = None,
    flush: Call | None = None,
    bounds: float = PEERS_BOUNDS,
) -> Runner:
    """A runner of a primitive.

    place: an array of the library with these contents, a copy. bind: the call on the problem's inputs, the arrays that
    it changes and those that it may write; it gives outputs by name, and all that it gives are checked.
    fetch: an output on the host, once it is done. elapsed, flush: see `Runner`. bounds: of the cross-check, by how many
    a result may be off.
    """
    hosts = {**problem.inputs, **problem.started}
    hosts |= {name: np.full(shape, np.nan, dtype) for name, (shape, dtype) in problem.made.items()}

    def bound() -> Callable[[], Arrays]:
        return bind({name: place(host) for name, host in hosts.items()})

    copies = 1 if elapsed else _copies(sum(host.nbytes for host in hosts.values()))
    calls = [bound() for _ in range(copies)]
    for call in (calls * WARM_UP)[:WARM_UP]:
        call()

    def fault() -> str:
        # on the arrays that were timed, unless every call moves them on
        call = bound() if problem.started else calls[0]
        found = call()
        for name, output in found.items():
            expected = problem.expected[name]
            comparison = compare(fetch(output), expected.reference, bounds * expected.bound)
            if not comparison.passed:
                return f"{name} {comparison}"
        return "" if found else "no output"

    return Runner(calls, fault=fault, elapsed=elapsed, flush=flush)


def of_step(make: Callable[[], Trainer], elapsed: Callable[[Call], float] | None = None) -> Runner:
    """A runner of a training step. make: a trainer at the first weights; elapsed: see `Runner`."""
    trainer = make()
    for _ in range(WARM_UP):
        trainer.step()

    def losses(steps: int) -> list[float]:
        fresh = make()
        found = []
        for _ in range(steps):
            fresh.step()
            found.append(fresh.loss())
        return found

    return Runner([trainer.step], losses=losses, elapsed=elapsed)


def _copies(nbytes: int) -> int:
    """Sets of arrays of so many bytes that together are twice the processor's last cache."""
    return min(MAX_COPIES, math.ceil(2 * _last_cache() / nbytes))


def _last_cache() -> int:
    found = [0]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        factor = {"K": 2**10, "M": 2**20}.get(text[-1:])
        if factor and text[:-1].isdecimal():
            found.append(int(text[:-1]) * factor)
    return max(found) or USUAL_CACHE
