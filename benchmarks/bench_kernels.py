"""Every primitive on every backend, in every variant, dtype and shape; those of a GPU are skipped where there is none.

    python -m pytest benchmarks/bench_kernels.py --benchmark-enable
    python -m pytest benchmarks/bench_kernels.py --benchmark-enable -k "hidden_delta and 1024x1024x1024"

On a GPU the time of a call is the device's own, between two events, after its caches were emptied: see
`gpubp.bench.timing`. Results are checked after their timing. `gpubp bench` shows the same beside other libraries.
"""

from __future__ import annotations

import itertools
import time

import pytest

from gpubp.bench.contenders import CONTENDERS
from gpubp.bench.timing import Call, Runner
from gpubp.bench.works import DTYPES, Sweep, Work, choose
from gpubp.costs import PRIMITIVES

SWEEP = Sweep(PRIMITIVES, (64, 256, 1024), (64, 512, 2048), ())
ROUNDS = 20
WORKS = choose(SWEEP, dtypes=DTYPES)
OWN = {key: each for key, each in CONTENDERS.items() if each.backend}


class Clock:
    """What pytest-benchmark asks for the time: the sum of what calls took, on the host's clock or on the device's."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def time(self, runner: Runner, call: Call) -> None:
        """Make the call, and go on by what it takes."""
        if runner.elapsed is None:
            start = time.perf_counter()
            call()
            self.seconds += time.perf_counter() - start
        else:
            if runner.flush:
                runner.flush()
            self.seconds += runner.elapsed(call)


CLOCK = Clock()


def wanted():
    for key, contender in OWN.items():
        for work in WORKS:
            if contender.takes(work):
                yield pytest.param(contender, work, id=f"{key}-{work.group}-{work.label}-{work.dtype}")


@pytest.mark.benchmark(timer=CLOCK, warmup=False)
@pytest.mark.parametrize(("contender", "work"), list(wanted()))
def test_primitive(benchmark, contender, work: Work):
    if missing := contender.missing():
        pytest.skip(f"{contender.title} on {contender.device}: {missing}")
    runner = contender.make(work, threads=1)
    benchmark.extra_info |= {"flops": work.flops, "bytes": work.bytes}
    waiting = itertools.cycle(runner.calls)
    benchmark.pedantic(lambda: CLOCK.time(runner, next(waiting)), rounds=ROUNDS)
    assert runner.fault() == ""
