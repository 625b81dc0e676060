"""The run: every contender in a process of its own; they take turns at each work, and are checked after the timing."""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from gpubp.bench import own
from gpubp.bench.contenders import LIMITS, Contender
from gpubp.bench.peaks import SIDES
from gpubp.bench.results import Record
from gpubp.bench.works import Limit, TrainingStep, Work

CHECKED_STEPS = 5
TOLERANCES = {"float32": 1e-3, "float64": 1e-9, "tf32": 5e-3, "bfloat16": 0.02, "float16": 5e-3}
"""Relative, of the losses: a step's rounding errors grow from step to step."""

LIMIT_TURNS = 5
"""Turns at the hardware's limits in a run, at least: spread over its works."""

PATIENCE = 600.0
"""Seconds that an answer may take: compiling for a large network is among them."""

Progress = Callable[[str], None]


class WorkerError(Exception):
    """A contender's answer is an error, or its process has ended."""


class Process:
    """A contender in a process of its own, which is asked as `gpubp.bench.worker` describes it.

    One that has ended, or that an error may have left with a GPU that refuses everything, is replaced for the next
    work.
    """

    def __init__(self, contender: Contender, threads: int) -> None:
        self.contender = contender
        self._threads = threads
        self._start()

    def _start(self) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - `close` closes it
        self._spoiled = False
        contender, count = self.contender, str(self._threads)
        variables = {f"{library}_NUM_THREADS": count for library in ("OMP", "MKL", "OPENBLAS")}
        self._process = subprocess.Popen(
            # -P: what lies in the folder that the user is in is none of its modules
            [sys.executable, "-P", "-m", "gpubp.bench.worker", contender.key, count],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | variables,
        )

    def ask(self, **request: Any) -> Any:
        """Return the answer.

        Raises:
            WorkerError: there is none.
        """
        if request["do"] == "make" and (self._spoiled or self._process.poll() is not None):
            self.close()
            self._start()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
            if not select.select([self._process.stdout], [], [], PATIENCE)[0]:
                self._process.kill()
                self._spoiled = True
                raise WorkerError(f"it gave no answer within {PATIENCE:g} s")
            answer = json.loads(self._process.stdout.readline())
        except (OSError, ValueError):
            raise WorkerError(self._last_words()) from None
        if "error" in answer:
            self._spoiled = self.contender.device == "gpu"
            raise WorkerError(answer["error"])
        return answer["ok"]

    def close(self) -> None:
        """Let it end; one that does not, is ended."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it may have ended
            self._process.stdin.close()
        self._wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()

    def _wait(self) -> None:
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _last_words(self) -> str:
        self._wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return f"its process ended with {self._process.returncode}{': ' + lines[-1] if lines else ''}"


def measure(
    works: Sequence[Work],
    contenders: Sequence[Contender],
    *,
    repeats: int,
    seconds: float,
    threads: int,
    progress: Progress = lambda text: None,
    keep: Callable[[Sequence[Record]], None] = lambda records: None,
    time_is_up: Callable[[], bool] = lambda: False,
) -> list[Record]:
    """Measure the works: `repeats` turns of each contender at each, of about `seconds` seconds.

    Among the records are those of the limits of every device that takes part. A contender that fails at a work gets a
    record with its fault, and no times; so does one whose results are wrong.

    Args:
        keep: is given the records so far, after each work.
        time_is_up: once it is True, no other work is begun.
    """
    with ExitStack() as stack:

        def opened(contender: Contender) -> Process:
            process = Process(contender, threads)
            stack.callback(process.close)
            return process

        processes = [opened(each) for each in contenders]
        referees = [
            Referee(opened(each), name, side, 0.0 if each.device == "cpu" else seconds)
            for each in LIMITS.values()
            if any(each.device == other.device for other in contenders) and not each.missing()
            for name, side in SIDES[each.device].items()
        ]
        turns, every = math.ceil(LIMIT_TURNS / len(works)), max(1, len(works) // LIMIT_TURNS)
        found: list[Record] = []
        for number, work in enumerate(works, start=1):
            if time_is_up():
                break
            progress(f"{number} of {len(works)}: {work.title}")
            present = referees if number % every == 0 else []
            found += _take_turns(work, processes, repeats, seconds, present, turns)
            keep(found)
        for referee in referees:
            found += referee.records()
    return found


class Referee:
    """Who measures one of the hardware's limits, in turns of `seconds` seconds that are spread over the run.

    One call is enough on a CPU. A GPU needs some time to come to its full clock.
    """

    def __init__(self, process: Process, name: str, side: int, seconds: float) -> None:
        self._process = process
        self._turn = seconds
        self._name = name
        self._side = side
        self._work: Limit | None = None
        self._seconds: dict[Limit, list[float]] = {}
        self._faults: dict[Limit, str] = {}

    def take_turn(self, dtype: str) -> None:
        """One sample, if it can."""
        work = Limit(self._name, self._side, dtype)
        if dtype not in self._process.contender.dtypes or work in self._faults:
            return
        try:
            if work != self._work:
                self._process.ask(do="make", work=work.to_dict())
                self._work = work
            self._seconds.setdefault(work, []).append(self._process.ask(do="time", seconds=self._turn))
        except WorkerError as error:
            self._faults[work] = str(error)

    def records(self) -> list[Record]:
        """Return a record for each dtype."""
        key = self._process.contender.key
        found = [Record(work, key, tuple(s)) for work, s in self._seconds.items() if work not in self._faults]
        return found + [Record(work, key, fault=fault) for work, fault in self._faults.items()]


def _take_turns(
    work: Work,
    processes: Sequence[Process],
    repeats: int,
    seconds: float,
    referees: Sequence[Referee],
    referee_turns: int,
) -> list[Record]:
    """Make, time in turns and check one work, and return its records. Referees take the first `referee_turns` turns."""
    times: dict[Process, list[float]] = {process: [] for process in processes if process.contender.takes(work)}
    faults: dict[Process, str] = {}

    def ask(process: Process, **request: Any) -> Any:
        try:
            return process.ask(**request)
        except WorkerError as error:
            faults[process] = str(error)

    for process in times:
        ask(process, do="make", work=work.to_dict())
    for turn in range(max(repeats, referee_turns)):
        for referee in referees if turn < referee_turns else ():
            referee.take_turn(work.dtype)
        if turn >= repeats:
            continue
        for process, taken in times.items():
            if process not in faults:
                taken.append(ask(process, do="time", seconds=seconds))
    for process in times:
        if process not in faults and (fault := fault_of(work, partial(ask, process))):
            faults[process] = fault
    return [
        Record(work, process.contender.key, () if process in faults else tuple(taken), faults.get(process, ""))
        for process, taken in times.items()
    ]


def fault_of(work: Work, ask: Callable[..., Any]) -> str:
    """Return what is wrong with the results of the work that a contender's process has made; "" for nothing.

    Args:
        ask: asks the process (`Process.ask`); None as an answer stands for an error that is noted elsewhere.
    """
    if isinstance(work, TrainingStep):
        losses = ask(do="losses", steps=CHECKED_STEPS)
        expected = own.reference_losses(work, CHECKED_STEPS)
        fault = "" if losses is None else differing_losses(losses, expected, work.dtype)
    else:
        fault = ask(do="fault") or ""
    return f"wrong: {fault}" if fault else ""


def differing_losses(found: Sequence[float], expected: Sequence[float], dtype: str) -> str:
    """Return where the losses of the first steps differ from the reference in float64; "" if nowhere."""
    tolerance = TOLERANCES[dtype]
    for step, (loss, reference) in enumerate(zip(found, expected, strict=True), start=1):
        if not abs(loss - reference) <= tolerance * abs(reference):
            return f"the loss at step {step} is {loss:.9g}, not {reference:.9g}"
    return ""
