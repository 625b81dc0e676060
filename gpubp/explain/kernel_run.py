"""Running a kernel on the emulated device, and keeping what one of its blocks did."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubp import backends
from gpubp.crosscheck import buffers, problems
from gpubp.crosscheck.cases import Case
from gpubp.crosscheck.comparator import compare
from gpubp.crosscheck.runner import on_chip, plans_of
from gpubp.errors import ArgumentError, StateError

if TYPE_CHECKING:
    from gpubp.emulator.observe.findings import Report
    from gpubp.emulator.observe.trace import Place, Trace


@dataclass(frozen=True, eq=False)
class NamedArray:
    """An array in global memory, as the page draws it.

    Attributes:
        name: what it is called.
        address: of its first element on the device.
        shape: its sides.
        itemsize: bytes of an element.
    """

    name: str
    address: int
    shape: tuple[int, ...]
    itemsize: int

    @property
    def nbytes(self) -> int:
        """Return its size in bytes."""
        return int(np.prod(self.shape)) * self.itemsize

    @property
    def rows(self) -> tuple[int, int]:
        """Return rows and columns as it is drawn: the last side is the columns."""
        if not self.shape:
            return 1, 1
        return int(np.prod(self.shape[:-1])), self.shape[-1]

    def elements(self, addresses: np.ndarray) -> np.ndarray:
        """Return the number of the element that each address lies in, -1 outside."""
        found = (addresses - self.address) // self.itemsize
        return np.where((addresses >= self.address) & (addresses < self.address + self.nbytes), found, -1)


@dataclass(frozen=True, eq=False)
class Trouble:
    """What went wrong, and where it shows.

    Attributes:
        message: of the emulated device or of the comparison with the reference.
        step: in the trace; None if no step shows it.
        thread: the number of the thread in its block, in that step; None if it is not known.
        other_step, other_thread: of a race, the other party in the traced block; None without.
    """

    message: str
    step: int | None = None
    thread: int | None = None
    other_step: int | None = None
    other_thread: int | None = None


@dataclass(frozen=True, eq=False)
class Explanation:
    """What one block of a kernel did, and all that was wrong.

    Attributes:
        title: what was run.
        trace: the block's steps.
        report: of the observers, over all blocks.
        arrays: the arrays that have names.
        troubles: what went wrong, the first one first; empty if nothing did.
        compared: the results were held to a reference.
    """

    title: str
    trace: Trace
    report: Report
    arrays: tuple[NamedArray, ...]
    troubles: tuple[Trouble, ...] = ()
    compared: bool = False


Index = tuple[int, int, int]


def named_array(name: str, array: Any) -> NamedArray:
    described = getattr(array, "__cuda_array_interface__", None)
    if described is None:
        raise ArgumentError(f"arrays[{name!r}]", array, "an array of gpubp.emulator")
    shape, dtype = tuple(described["shape"]), np.dtype(described["typestr"])
    strides = described.get("strides")
    if strides is not None and tuple(strides) != _contiguous(shape, dtype.itemsize):
        raise StateError(f"arrays[{name!r}]", f"has strides {tuple(strides)}", "be C-contiguous")
    return NamedArray(name, int(described["data"][0]), shape, dtype.itemsize)


def _contiguous(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    found: tuple[int, ...] = ()
    for side in reversed(shape):
        found = (itemsize, *found)
        itemsize *= side
    return found


# --- cases of the cross-check -----------------------------------------------------------------------------------------
def explain_case(
    case: Case, backend: str, block: Index = (0, 0, 0), warp: int | None = None, order: int | None = None
) -> Explanation:
    """Run a case of the cross-check on the emulated device, and return what one block did, and what was wrong.

    Args:
        case: the call.
        backend: "cupy" or "numba".
        block, warp: what is traced, if nothing is wrong.
        order: the seed of another order of execution; None: the usual one.

    Raises:
        BackendError: the backend cannot run here.
    """
    with on_chip(case.arch):
        device: Any = backends.get(backend, "emulator")
        problem = problems.make(case)
        placed: dict[str, buffers.Buffer] = {}

        def run() -> None:
            device.release_workspace()
            placed.update(buffers.placed(device, problem, case))
            with plans_of(device, case):
                problem.run(device, {name: each.array for name, each in placed.items()})
                device.synchronize()

        found = explained(_title(case, backend), run, lambda: _of_buffers(placed), block, warp, order)
        if found.troubles:
            return found
        return replace(found, troubles=tuple(_wrong_results(found, device, problem, placed)), compared=True)


def _title(case: Case, backend: str) -> str:
    words = [
        case.primitive,
        *([case.variant] if case.variant != "-" else []),
        "×".join(map(str, case.shape)),
        case.dtype,
    ]
    return f"{', '.join(words)}, {backend}"


def _of_buffers(placed: Mapping[str, buffers.Buffer]) -> tuple[NamedArray, ...]:
    return tuple(named_array(name, each.array) for name, each in placed.items())


def _wrong_results(
    found: Explanation, device: Any, problem: problems.Problem, placed: Mapping[str, buffers.Buffer]
) -> list[Trouble]:
    """Return where results differ from the reference, with the step that wrote the first wrong element."""
    troubles = []
    for array in found.arrays:
        name, each = array.name, placed[array.name]
        if text := each.damage(device):
            troubles.append(Trouble(f"{name}: {text}"))
        if name not in problem.expected:
            continue
        expected = problem.expected[name]
        compared = compare(each.read(device), expected.reference, expected.bound, expected.nan)
        if not compared.passed:
            step, thread = _writer(found.trace, array, _worst(each.read(device), expected))
            troubles.append(Trouble(f"{name} {compared}", step, thread))
    return troubles


def _worst(result: np.ndarray, expected: problems.Expected) -> int:
    """Return the number of the first element that is beyond its bound."""
    off = ~(np.abs(result.astype(expected.reference.dtype) - expected.reference) <= expected.bound)
    if expected.nan is not None:
        off = np.where(expected.nan, ~np.isnan(result), off)
    return int(np.flatnonzero(off)[0])


def _writer(trace: Trace, array: NamedArray, element: int) -> tuple[int | None, int | None]:
    """Return the last step that wrote an element, and the thread; None if the block did not."""
    for number in range(len(trace.steps) - 1, -1, -1):
        for access in trace.steps[number].accesses:
            if access.space != "global" or access.kind == "load":
                continue
            first = array.elements(access.addresses)
            last = array.elements(access.addresses + access.nbytes - 1)
            hit = np.flatnonzero((first >= 0) & (first <= element) & (element <= last))
            if hit.size:
                return number, int(access.threads[hit[0]])
    return None, None


# --- runs -------------------------------------------------------------------------------------------------------------
def explained(
    title: str,
    run: Callable[[], None],
    arrays: Callable[[], tuple[NamedArray, ...]],
    block: Index,
    warp: int | None,
    order: int | None = None,
) -> Explanation:
    """Run a kernel under a trace; if another block makes the first mistake, run it again under a trace of that one."""
    found = _traced(title, run, arrays, block, warp, order)
    first = _first_place(found)
    if first is not None and (first.block != block or warp is not None):
        found = _traced(title, run, arrays, first.block, None, order)
    return found


def require_followed(found: Explanation, name: str, block: Index, warp: int | None) -> None:
    """Raise StateError if no launch has the block that was to be followed, called `name`, or that warp of it."""
    if not found.trace.launches:
        raise StateError(name, f"is {block}", "be in the grid of a launch")
    threads = max(int(np.prod(launch.block)) for launch in found.trace.launches)
    if warp is not None and 32 * warp >= threads:
        raise StateError("warp", f"is {warp}", f"be in the block, which has {threads:,} threads, 32 a warp")


def _first_place(found: Explanation) -> Place | None:
    from gpubp.emulator.observe.trace import places_in

    return next((places[0] for each in found.troubles if (places := places_in(each.message))), None)


def _traced(
    title: str,
    run: Callable[[], None],
    arrays: Callable[[], tuple[NamedArray, ...]],
    block: Index,
    warp: int | None,
    order: int | None,
) -> Explanation:
    from gpubp.emulator.errors import EmulatorError
    from gpubp.emulator.observe.trace import Trace

    trace = Trace(block, warp)
    error = ""
    with _observing(trace, order) as report:
        try:
            run()
        except EmulatorError as wrong:
            error = str(wrong)
    messages = [(error, len(trace.steps) - 1 if trace.steps else None)] if error else []
    steps = {id(each.finding): each.step for each in trace.findings}
    messages += [(f"{each.kind}: {each.message}", steps.get(id(each))) for each in report.findings]
    return Explanation(title, trace, report, arrays(), tuple(_trouble(trace, *each) for each in messages))


def _observing(trace: Trace, order: int | None) -> AbstractContextManager[Report]:
    from gpubp import emulator

    return emulator.observe(races=True, uninitialised=True, traffic=True, order=order, trace=trace)


def _trouble(trace: Trace, message: str, step: int | None) -> Trouble:
    """Return what went wrong, with both parties as far as they are in the traced block."""
    from gpubp.emulator.observe.trace import places_in

    places = places_in(message)
    if step is None or not places or places[0].block != trace.block:
        return Trouble(message, step if not places else None)
    shape = trace.launches[trace.steps[step].launch].block
    thread = _number(places[0].thread, shape)
    while step > 0 and not trace.steps[step].threads[thread]:
        step -= 1  # others went on after this thread had come to a barrier
    other = places[1] if len(places) > 1 and places[1].block == trace.block else None
    if other is None:
        return Trouble(message, step, thread)
    other_thread = _number(other.thread, shape)
    return Trouble(message, step, thread, trace.other_party(step, thread, other_thread), other_thread)


def _number(thread: Index, block: Index) -> int:
    return (thread[2] * block[1] + thread[1]) * block[0] + thread[0]
