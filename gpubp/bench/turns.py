"""The run: every contender in a process of its own; they take turns at each work, and are checked after the timing."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

from gpubp.bench import own
from gpubp.bench.contenders import LIMITS, Contender
from gpubp.bench.limits import SIDES
from gpubp.bench.results import Record
from gpubp.bench.works import Limit, Step, Work

CHECKED_STEPS = 5
TOLERANCE = 1e-3
"""Relative, of the losses of float32: a step's rounding errors grow from step to step."""

TOLERANCE_FLOAT64 = 1e-9

LIMIT_TURNS = 5
"""Turns at the hardware's limits in a run, at least: spread over its works."""

Progress = Callable[[str], None]


class WorkerError(Exception):
    """A contender's answer is an error, or its process has ended."""


class Session(Protocol):
    """A contender, ready to be asked as `worker.Worker` is."""

    contender: Contender

    def ask(self, **request: Any) -> Any:
        """The answer; raises WorkerError where there is none."""

    def close(self) -> None:
        """The end."""


class Process:
    """A session in a process of its own, as `gpubp.bench.worker` describes it."""

    def __init__(self, contender: Contender, threads: int) -> None:
        self.contender = contender
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - `close` closes it
        count = str(threads)
        variables = {f"{library}_NUM_THREADS": count for library in ("OMP", "MKL", "OPENBLAS")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gpubp.bench.worker", contender.key, count],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | variables,
        )

    def ask(self, **request: Any) -> Any:
        """See `Session`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
            answer = json.loads(self._process.stdout.readline())
        except (OSError, ValueError):
            raise WorkerError(self._last_words()) from None
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer["ok"]

    def close(self) -> None:
        """Let it end; one that does not, is ended."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it may have ended
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()

    def _last_words(self) -> str:
        self._process.wait()
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
    open_session: Callable[[Contender, int], Session] = Process,
    progress: Progress = lambda text: None,
) -> list[Record]:
    """Measure the works: `repeats` turns of each contender at each, of about so many seconds.

    Among the records are those of the limits of every device that takes part. A contender that fails at a work gets a
    record with its fault, and no times; so does one whose results are wrong.
    """
    with ExitStack() as stack:

        def opened(chosen: Sequence[Contender]) -> list[Session]:
            sessions = [open_session(each, threads) for each in chosen]
            for session in sessions:
                stack.callback(session.close)
            return sessions

        sessions = opened(contenders)
        devices = {each.device for each in contenders}
        referees = opened([each for each in LIMITS.values() if each.device in devices and not each.missing()])
        turns_each, every = math.ceil(LIMIT_TURNS / len(works)), max(1, len(works) // LIMIT_TURNS)
        found: list[Record] = []
        limits: list[Record] = []
        for number, work in enumerate(works, start=1):
            progress(f"{number} of {len(works)}: {work.title}")
            found += _take_turns(work, sessions, repeats, seconds)
            if number % every == 0:
                for session in referees:
                    for name, side in SIDES[session.contender.device].items():
                        limits += _take_turns(Limit(name, side, work.dtype), [session], turns_each, 0.0)
    return found + _joined(limits)


def _joined(records: Sequence[Record]) -> list[Record]:
    """One record for each work and contender, with the samples of all of its records."""
    found: dict[tuple[Work, str], Record] = {}
    for record in records:
        before = found.get((record.work, record.contender), Record(record.work, record.contender))
        joined = Record(record.work, record.contender, before.seconds + record.seconds, record.fault or before.fault)
        found[record.work, record.contender] = joined
    return list(found.values())


def _take_turns(work: Work, sessions: Sequence[Session], repeats: int, seconds: float) -> list[Record]:
    """One work: make, time in turns, check."""
    times: dict[Session, list[float]] = {session: [] for session in sessions if session.contender.takes(work)}
    faults: dict[Session, str] = {}

    def ask(session: Session, **request: Any) -> Any:
        try:
            return session.ask(**request)
        except WorkerError as error:
            faults[session] = str(error)

    for session in times:
        ask(session, do="make", work=work.to_dict())
    for _ in range(repeats):
        for session, taken in times.items():
            if session not in faults:
                taken.append(ask(session, do="time", seconds=seconds))
    for session in times:
        if session not in faults and not isinstance(work, Limit) and (fault := _fault(work, session, ask)):
            faults[session] = f"wrong: {fault}"
    return [
        Record(work, session.contender.key, () if session in faults else tuple(taken), faults.get(session, ""))
        for session, taken in times.items()
    ]


def _fault(work: Work, session: Session, ask: Callable[..., Any]) -> str:
    if not isinstance(work, Step):
        return ask(session, do="fault") or ""
    losses = ask(session, do="losses", steps=CHECKED_STEPS)
    return "" if losses is None else differing_losses(losses, own.reference_losses(work, CHECKED_STEPS), work.dtype)


def differing_losses(found: Sequence[float], expected: Sequence[float], dtype: str) -> str:
    """Where the losses of the first steps leave those of the reference in float64; "" for nowhere."""
    tolerance = TOLERANCE if dtype == "float32" else TOLERANCE_FLOAT64
    for step, (loss, reference) in enumerate(zip(found, expected, strict=True), start=1):
        if not abs(loss - reference) <= tolerance * abs(reference):
            return f"the loss at step {step} is {loss:.9g}, not {reference:.9g}"
    return ""
