"""Running cases: one in this process, or many in worker processes, where a crashed kernel is one failed case."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np

from gpubp import backends
from gpubp.backends import EMULATED
from gpubp.backends.base import Backend
from gpubp.crosscheck import buffers, problems
from gpubp.crosscheck.cases import FEW, STREAM_BLOCKS, WGMMA, Case
from gpubp.crosscheck.comparator import Comparison, Judged, compare
from gpubp.errors import ArgumentError, unknown_name
from gpubp.toolchain import cache

PATIENCE = 120.0
"""Seconds that a case may take in a worker before it counts as hung, for each order in which it runs."""

LAST_MOMENTS = 5.0
"""Seconds that a worker gets to end once its connection is closed."""


@dataclass(frozen=True)
class Traffic:
    """What a case moved on the emulated device, and the least that could do for the same accesses.

    Attributes:
        sectors: of 32 bytes, of global memory.
        passes: through the banks of shared memory.
    """

    sectors: int = 0
    least_sectors: int = 0
    passes: int = 0
    least_passes: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Watch:
    """How cases are watched on the emulated device.

    Attributes:
        observe: look for races and for reads of memory that nothing wrote, and count what is moved.
        fail_at: the least grade of a finding that is a fault: "note", "warning" or "error".
        suppressions: a file of findings that are intended (`gpubp.emulator.observe`).
        orders: seeds of more orders of execution, in which each case runs once more.
    """

    observe: bool = False
    fail_at: str = "warning"
    suppressions: Path | None = None
    orders: tuple[int, ...] = ()

    def observing(self, order: int | None = None, early: bool = False) -> AbstractContextManager[Any]:
        """Return the context for one run on the emulated device; its value is the report, or None.

        early: bulk copies and products of warpgroups access memory as soon as they are issued.
        """
        if not self.observe and order is None and not early:
            return nullcontext()
        from gpubp import emulator

        on = self.observe
        return emulator.observe(
            races=on,
            uninitialised=on,
            traffic=on,
            suppressions=self.suppressions,
            order=order,
            async_order="early" if early else "late",
        )


def require_grades(fail_at: str | None, suppressions: Path | None) -> None:
    """Raise ArgumentError unless these are a grade, and a file of suppressions, or None."""
    if fail_at is not None:
        from gpubp.emulator.observe.findings import GRADES

        if fail_at not in GRADES:
            raise unknown_name("fail_at", fail_at, GRADES)
    if suppressions is not None:
        from gpubp.emulator.observe.suppressions import load

        try:
            load(suppressions)
        except OSError as error:
            raise ArgumentError(
                "suppressions", str(suppressions), "a file that can be read", str(error.strerror)
            ) from None


@dataclass(frozen=True)
class Outcome(Judged):
    """What became of a case.

    Attributes:
        comparisons: of each output.
        faults: what else was wrong, a line each: an exception, a damaged guard zone, a finding of the emulated
            device's observers, a result that depends on the order of execution.
        seconds: on the host's clock, compilation included.
        remarks: findings that are no faults by their grade.
        order: the seed of the first order of execution in which something is wrong that is right in the usual one.
    """

    case: Case
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    traffic: Traffic | None = None
    seconds: float = 0.0
    remarks: tuple[str, ...] = ()
    order: int | None = None

    def complaint(self) -> str:
        """Return what was wrong, one fault a line; "" if nothing."""
        wrong = [f"{name} {each}" for name, each in self.comparisons.items() if not each.passed]
        return "\n".join([*self.faults, *wrong])


def run_case(backend: Any, case: Case, watch: Watch = Watch()) -> Outcome:
    """Run one case on a backend, in this process, and once more in each of `watch.orders`."""
    started = time.perf_counter()
    traffic, order = None, None
    remarks: tuple[str, ...] = ()
    try:
        if not backend.variants:  # NumPy, which rounds in a backend of its own
            backend = backend.for_precision(case.dtype)
        problem = problems.make(case)
        usual = _run(backend, problem, case, watch)
        faults, remarks = usual.faults, tuple(usual.remarks)
        traffic = None if usual.report is None else _traffic(usual.report)
        comparisons = {
            name: compare(usual.results[name], expected.reference, expected.bound, expected.nan)
            for name, expected in problem.expected.items()
        }
        for seed in watch.orders:
            found = in_order(seed, usual, partial(_run, backend, problem, case, watch, seed))
            order = seed if found and not faults else order
            faults += found
        if watch.observe and case.rung == WGMMA and backend.device in EMULATED:
            faults += in_order("early", usual, partial(_run, backend, problem, case, watch, early=True))
    except Exception as error:  # whatever a kernel or its launch does wrong fails this case, not the run
        faults, comparisons = [f"{type(error).__name__}: {error}"], {}
    return Outcome(case, comparisons, tuple(faults), traffic, time.perf_counter() - started, remarks, order)


@dataclass
class Run:
    """What one run of a kernel left behind: results by name, faults and remarks, and the observers' report."""

    results: dict[str, np.ndarray]
    faults: list[str]
    remarks: list[str]
    report: Any = None

    def judge(self, report: Any, watch: Watch) -> None:
        """Take up the findings of a report."""
        self.report = report
        if report is not None:
            bad = report.at_least(watch.fail_at)
            self.faults += [f"{finding.kind}: {finding.message}" for finding in bad]
            mild = [finding for finding in report.findings if finding not in bad]
            self.remarks += [f"{finding.kind}: {finding.message}" for finding in mild]


def in_order(seed: int | str, usual: Run, run: Callable[[], Run], same: bool = True) -> list[str]:
    """Return what is wrong with a run in another order, but for what is wrong in the usual one too.

    same: its results must be those of the usual order, bit for bit.
    """
    try:
        found = run()
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]
    known = set() if usual.report is None else {(each.kind, each.location) for each in usual.report.findings}
    faults = [f"in order {seed}: {fault}" for fault in found.faults if not _is_known(fault, found.report, known)]
    for name, result in found.results.items() if same else ():
        before = usual.results[name]
        changed = np.flatnonzero(_bits(result) != _bits(before))
        if changed.size:
            place = np.unravel_index(int(changed[0]), result.shape)
            faults.append(
                f"in order {seed}: {name} depends on the order of execution: at {[int(i) for i in place]} it is "
                f"{result[place]}, and {before[place]} in the usual order"
            )
    return faults


def _is_known(fault: str, report: Any, known: set[Any]) -> bool:
    """True if a fault is a finding of an instruction of which the usual order has told the same."""
    findings = [] if report is None else report.findings
    return any(fault == f"{each.kind}: {each.message}" and (each.kind, each.location) in known for each in findings)


def _bits(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).reshape(-1).view(f"u{x.itemsize}")


def _run(
    backend: Any, problem: problems.Problem, case: Case, watch: Watch, order: int | None = None, early: bool = False
) -> Run:
    """Run a problem once, in the usual order or in that of a seed; `early` as of `Watch.observing`."""
    emulated = backend.device in EMULATED
    if emulated:
        backend.release_workspace()  # so that working memory, too, ends where this case needs no more
    arrays = buffers.placed(backend, problem, case)
    with plans_of(backend, case), watch.observing(order, early) if emulated else nullcontext() as report:
        problem.run(backend, {name: buffer.array for name, buffer in arrays.items()})
        backend.synchronize()
    faults = [f"{name}: {text}" for name, each in arrays.items() if (text := each.damage(backend))]
    if backend.device != "cpu" and backend.counts_arrivals():  # the next launch would wait for others than it has
        faults.append("a count of arrivals is not zero after the launch")
    found = Run({name: arrays[name].read(backend) for name in problem.expected}, faults, [])
    found.judge(report if watch.observe else None, watch)
    return found


def on_chip(arch: str) -> AbstractContextManager[Any]:
    """Return a context in which the emulated device is of this architecture; "" leaves it as it is."""
    if not arch:
        return nullcontext()
    from gpubp import emulator

    return emulator.use(arch)


@contextmanager
def plans_of(backend: Any, case: Case) -> Iterator[None]:
    """The backend makes its plans as the case's variant asks."""
    chip: Any = getattr(backend, "chip", None)
    backend.variant, backend.stream_k = case.rung, STREAM_BLOCKS if case.streamed else 0
    try:
        if case.large_tiles:
            backend.largest_tiles = True
        if case.streamed or case.persistent:
            backend.chip = replace(chip, multiprocessors=STREAM_BLOCKS if case.streamed else FEW)
        yield
    finally:
        backend.variant, backend.stream_k = None, 0
        if case.large_tiles:
            backend.largest_tiles = False
        if case.streamed or case.persistent:
            backend.chip = chip


def run_cases(
    cases: Iterable[Case],
    backend: str,
    device: str | None = None,
    *,
    watch: Watch = Watch(),
    jobs: int | None = None,
) -> Iterator[Outcome]:
    """Run cases on the named backend in worker processes, and give each outcome as it comes.

    Args:
        jobs: how many workers; None: one on a GPU, else one for each core. A worker that dies or hangs fails the
            case that it was at; another takes its place, as it does where a case has raised on a GPU.
    """
    if device != "cpu":
        cache.ensure_writable()
    workers = [_Worker(backend, device, watch) for _ in range(jobs or _default_jobs(device))]
    waiting = iter(cases)
    try:
        busy = {worker for worker in workers if worker.start_next(waiting)}
        while busy:
            ready = wait([worker.connection for worker in busy], timeout=1.0)
            for worker in list(busy):
                outcome = worker.collect(worker.connection in ready)
                if outcome is None:
                    continue
                yield outcome
                if not worker.start_next(waiting):
                    busy.discard(worker)
    finally:
        for worker in workers:
            worker.stop()


def worker_context() -> Any:
    """Return what starts worker processes, each a fresh Python.

    A worker enters the folder that its parent is in. If this user may not do that, as after `su`, no name is found from
    there, and the parent leaves it.
    """
    if not os.access(".", os.X_OK):
        os.chdir("/")
    return multiprocessing.get_context("spawn")


class _Worker:
    """A process that runs one case at a time."""

    def __init__(self, backend: str, device: str | None, watch: Watch) -> None:
        self._settings = (backend, device, watch)
        self._patience = PATIENCE * (1 + len(watch.orders))
        self._case: Case | None = None
        self._start()

    def _start(self) -> None:
        context = worker_context()
        self.connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, *self._settings), daemon=True)
        with _uninterrupted():
            self._process.start()
        other.close()

    def start_next(self, waiting: Iterator[Case]) -> bool:
        """Take up the next case; False if none is left."""
        self._case = next(waiting, None)
        if self._case is None:
            return False
        self._since = time.monotonic()
        with suppress(OSError):  # it has died: `collect` finds out
            self.connection.send(self._case)
        return True

    def collect(self, ready: bool) -> Outcome | None:
        """Return the outcome of the case at hand; None while it runs."""
        assert self._case is not None
        if ready:
            try:
                outcome = self.connection.recv()
            except (EOFError, OSError):  # the latter if it died before it read the case, or within its answer
                fault = f"the process that ran it died ({self._end()})"
            else:
                if self._may_be_spoiled(outcome):
                    self._replace()
                return outcome
        elif time.monotonic() - self._since > self._patience:
            fault = f"it did not end within {self._patience:g} s"
        else:
            return None
        self._replace()
        return Outcome(self._case, faults=(fault,), seconds=time.monotonic() - self._since)

    def _may_be_spoiled(self, outcome: Outcome) -> bool:
        """True if a case has raised on a GPU: after an error of a kernel, such as an access out of bounds, CUDA refuses
        everything else that the process asks for.
        """
        _, device, _ = self._settings
        return device not in EMULATED and not outcome.comparisons

    def _end(self) -> str:
        """Return how the process ended; one that has closed its connection and lives on is killed."""
        self._process.join(LAST_MOMENTS)
        code = self._process.exitcode
        if code is None:
            return "it closed its connection"
        return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"

    def _replace(self) -> None:
        self.stop()
        self._start()

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold back Ctrl-C, here until the end of the block and in a process that is started in it for ever.

    A terminal interrupts all processes at once. The parent ends its workers, which would else print a traceback each.
    """
    if threading.current_thread() is not threading.main_thread():  # it is not the one that is interrupted
        yield
        return
    held: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: held.append(number))  # another thread may get it
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which a process that is started inherits
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if held:
            signal.raise_signal(signal.SIGINT)


def _serve(connection: Connection, name: str, device: str | None, watch: Watch) -> None:
    """A worker's life: answer cases with outcomes until the other end closes."""
    made: dict[str, Backend] = {}
    while True:
        try:
            case = connection.recv()
        except EOFError:
            return
        try:
            with on_chip(case.arch):
                if case.arch not in made:
                    made[case.arch] = backends.get(name, device)
                outcome = run_case(made[case.arch], case, watch)
        except Exception as error:  # such as no memory, or no backend any more: the next case may have better luck
            outcome = Outcome(case, faults=(f"{type(error).__name__}: {error}",))
        connection.send(outcome)


def _default_jobs(device: str | None) -> int:
    return 1 if device == "gpu" else len(os.sched_getaffinity(0))


def _traffic(report: Any) -> Traffic:
    """Return the totals of an emulator's report."""
    sectors, passes = report.global_accesses, report.shared_accesses
    return Traffic(
        sum(line.units for line in sectors),
        sum(line.least_units for line in sectors),
        sum(line.units for line in passes),
        sum(line.least_units for line in passes),
    )
