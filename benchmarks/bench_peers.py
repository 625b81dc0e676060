"""One training step on the CPU: this project against PyTorch eager and compiled, JAX and scikit-learn.

    python benchmarks/bench_peers.py                         every case, every contender that is installed
    python benchmarks/bench_peers.py --cases tiny,small --contenders gpubp,"PyTorch eager" --repeats 15
    python -m pytest benchmarks/bench_peers.py -s            the same with the defaults

The peers come with `pip install .[peers]`; JAX and scikit-learn are taken where they are installed. Plain SGD, ReLU,
float32; every contender starts from the same weights and sees the same batch. Each runs in a process of its own and
they take turns, so that what slows the machine for a while slows them all. A table gives the median and the quartiles
of a step, each contender's time over gpubp's, and the share of the BLAS's own sgemm rate (2048 × 2048, measured in the
same turns) that the step's products reach. After the timing, the losses of the first steps must agree.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contenders import CONTENDERS, SGEMM_SIDE
from networks import CASES, Case
from rich.console import Console
from rich.table import Table

REPEATS = 9
SECONDS = 0.25
"""Of one contender's turn: as many steps as fit, at least one."""
PAUSE = 0.4
"""Seconds between turns: idle threads of the last contender's pool spin before they sleep, those of PyTorch for 0.2."""
CHECKED_STEPS = 5
TOLERANCE = 1e-3
"""Relative, on the losses: all compute in float32, and sum in different orders."""


@dataclass
class Process:
    """A contender's process, and the seconds of a step that it measured."""

    name: str
    case: Case
    threads: int
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        count = str(self.threads)
        variables = {f"{library}_NUM_THREADS": count for library in ("OMP", "MKL", "OPENBLAS")}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("contenders.py")), self.name, self.case.name, count],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | variables,
        )
        self.missing = self._answer()
        """Why it cannot take part; empty if it can."""
        if self.missing == "ready":
            self.missing = ""

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip() or "its process ended"

    def ask(self, command: str) -> Any:
        assert self._process.stdin is not None
        print(command, file=self._process.stdin, flush=True)
        return json.loads(self._answer())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def take_turns(
    case: Case, names: list[str], repeats: int, threads: int
) -> tuple[list[Process], dict[str, list[float]]]:
    """Time the contenders on one case; also the first losses of each that trains."""
    processes = [Process(name, case, threads) for name in names]
    try:
        present = [process for process in processes if not process.missing]
        for _ in range(repeats):
            for process in present:
                time.sleep(PAUSE)
                process.seconds.append(process.ask(f"time {SECONDS}"))
        losses = {p.name: p.ask(f"losses {CHECKED_STEPS}") for p in present if p.name != "sgemm"}
    finally:
        for process in processes:
            process.close()
    return processes, losses


def require_same_losses(case: Case, losses: dict[str, list[float]]) -> None:
    """Raise AssertionError unless all contenders' losses are gpubp's."""
    for name, found in losses.items():
        for step, (loss, expected) in enumerate(zip(found, losses["gpubp"], strict=True), start=1):
            if not abs(loss - expected) <= TOLERANCE * abs(expected):
                raise AssertionError(f"{case.name}: at step {step} the loss of {name} is {loss}, gpubp's is {expected}")


def table_of(case: Case, processes: list[Process], threads: int) -> Table:
    """The figures of one case."""
    table = Table(title=f"{case.name}: {list(case.sizes)}, batch {case.rows}, {threads} threads", title_justify="left")
    table.add_column("contender")
    for heading in ("median", "quartiles", "time / gpubp's", "GFLOP/s", "of sgemm"):
        table.add_column(heading, justify="right")
    by_name = {process.name: process for process in processes}
    ours = by_name["gpubp"].median
    rate = 2 * SGEMM_SIDE**3 / by_name["sgemm"].median
    for process in processes:
        if process.missing:
            table.add_row(process.name, "absent")
        elif process.name == "sgemm":
            name = f"sgemm {SGEMM_SIDE}³"
            table.add_row(name, _time(process.median), _quartiles(process), "", f"{rate / 1e9:.1f}")
        else:
            reached = case.flops / process.median
            table.add_row(
                process.name,
                _time(process.median),
                _quartiles(process),
                f"{process.median / ours:.2f}",
                f"{reached / 1e9:.1f}",
                f"{reached / rate:.1%}",
            )
    return table


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"


def _quartiles(process: Process) -> str:
    if len(process.seconds) < 2:
        return ""
    first, _, third = statistics.quantiles(process.seconds, n=4, method="inclusive")
    return f"{_time(first)} – {_time(third)}"


def foreign_core_seconds() -> float:
    """The core seconds that this machine (Linux) has worked, less those of this program and its ended children."""
    user, nice, system = map(int, Path("/proc/stat").read_text().split()[1:4])
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    own = sum(use.ru_utime + use.ru_stime for use in uses)
    return (user + nice + system) / os.sysconf("SC_CLK_TCK") - own


def measure(cases: list[str], names: list[str], repeats: int, threads: int, console: Console) -> None:
    """Print a table for each case. Raises AssertionError where the losses differ."""
    names = list(dict.fromkeys(["gpubp", *names, "sgemm"]))
    start, before = time.perf_counter(), foreign_core_seconds()
    for name in cases:
        processes, losses = take_turns(CASES[name], names, repeats, threads)
        if missing := processes[0].missing:
            raise RuntimeError(f"gpubp cannot run: {missing}")
        require_same_losses(CASES[name], losses)
        console.print(table_of(CASES[name], processes, threads))
        for process in processes:
            if process.missing:
                console.print(f"{process.name}: {process.missing}", markup=False)
    share = (foreign_core_seconds() - before) / ((time.perf_counter() - start) * (os.cpu_count() or 1))
    console.print(f"The losses of the first {CHECKED_STEPS} steps agree.")
    console.print(f"Other programs took {share:.0%} of the cores' time.")


def test_peers() -> None:
    measure(list(CASES), list(CONTENDERS), REPEATS, os.cpu_count() or 1, Console(width=140))


def main() -> None:
    parser = argparse.ArgumentParser(description="One training step: gpubp against other libraries on the CPU.")
    parser.add_argument("--cases", default=",".join(CASES), help="separated by commas (default: all)")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="separated by commas (default: all)")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="turns of each contender (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each contender (default: all cores)")
    chosen = parser.parse_args()
    cases, names = chosen.cases.split(","), chosen.contenders.split(",")
    for kind, given, known in (("case", cases, CASES), ("contender", names, CONTENDERS)):
        for name in given:
            if name not in known:
                parser.error(f"unknown {kind} {name!r}: known are {', '.join(known)}")
    measure(cases, names, chosen.repeats, chosen.threads, Console(width=140))


if __name__ == "__main__":
    main()
