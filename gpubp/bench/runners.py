"""How a library's function for a primitive, or its stepper for a training step, becomes a `Runner`."""

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
"""A library's arrays, by the names of a problem."""

WARM_UP = 3
"""Calls before any is timed: they compile, allocate, and fill the caches of code."""

MAX_COPIES = 256
"""Sets of arrays that calls on the host take in turn, at most."""

USUAL_CACHE = 32 * 2**20
"""Bytes that a processor's last cache is assumed to have if the system does not say."""

FLUSHED_BYTES = 512 * 2**20
"""Bytes that a copy on the device moves to empty its caches: more than the second-level cache of any chip."""

FLUSHES = 4
"""Such copies before a timed call. They keep the fastest chip (8 TB/s) busy for 0.25 ms; the host needs about half of
that to give it these and a primitive of two kernels."""

PEERS_BOUNDS = 2.0
"""How many bounds another library's results may be off. The bounds are made for this project's order of sums; another
order, such as adding each term to w, is not wrong. A lower precision than was asked for is off by more."""


@dataclass(frozen=True)
class Stepper:
    """A network in training; `loss` gives the last step's, as it was before the update."""

    step: Call
    loss: Callable[[], float]


def problem_of(work: Primitive) -> Problem:
    """Return the problem of a work: the same arguments, and the same expected results, for every contender."""
    return problems.make(cases.measured(work.name, work.shape, work.dtype, optimizer=OPTIMIZER))


def flush_of(copy: Call) -> Call:
    """Return a `Runner.flush`.

    Args:
        copy: copies one half of `FLUSHED_BYTES` to the other, on the device.
    """

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
    """Return a runner of a primitive.

    Args:
        problem: the arguments and what must come out.
        place: returns a copy of an array as the library's own.
        bind: returns the call, given all arrays of the problem by name. The call returns outputs by name; all that it
            returns are checked.
        fetch: returns an output as an array on the host, once the call is done.
        elapsed, flush: see `Runner`.
        bounds: how many bounds of the cross-check a result may be off.
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


def of_step(make: Callable[[], Stepper], elapsed: Callable[[Call], float] | None = None) -> Runner:
    """Return a runner of a training step.

    Args:
        make: returns a stepper with the first weights.
        elapsed: see `Runner`.
    """
    stepper = make()
    for _ in range(WARM_UP):
        stepper.step()

    def losses(steps: int) -> list[float]:
        fresh = make()
        found = []
        for _ in range(steps):
            fresh.step()
            found.append(fresh.loss())
        return found

    return Runner([stepper.step], losses=losses, elapsed=elapsed)


def _copies(nbytes: int) -> int:
    """Return how many sets of arrays with `nbytes` bytes are together twice as large as the processor's last cache."""
    return min(MAX_COPIES, math.ceil(2 * last_cache() / nbytes))


def last_cache() -> int:
    """Return the bytes of the processor's last cache."""
    found = [0]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        factor = {"K": 2**10, "M": 2**20}.get(text[-1:])
        if factor and text[:-1].isdecimal():
            found.append(int(text[:-1]) * factor)
    return max(found) or USUAL_CACHE
