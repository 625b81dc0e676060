"""One of the processes of a job that measures shared steps: `python -m gpubp.bench.rank_worker REQUEST ANSWERS`.

A launcher of MPI starts it, as many times as there are ranks. REQUEST is a file of JSON:

    {"contender": "numpy", "works": [{...}, ...], "repeats": 5, "seconds": 0.03, "losses": 5}

Rank 0 writes the file ANSWERS, anew after each work, so that what was measured before a crash is there: a list with
`Measured` as a dictionary for each work. What a rank raises ends all; its reason is on stderr.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from gpubp import files
from gpubp.bench import own, works
from gpubp.bench.contenders import EVERYONE, Contender
from gpubp.bench.own import SharedStepper
from gpubp.bench.runners import WARM_UP
from gpubp.bench.works import SharedStep
from gpubp.distributed.ranks import Ranks, joined

SUMS = 5
"""Steps of a turn whose all-reduce is timed, at most."""


@dataclass(frozen=True)
class Measured:
    """What came of a work.

    Attributes:
        seconds, all_reduce: as in `results.Record`.
        losses: before each of the first steps.
    """

    seconds: list[float]
    all_reduce: list[float]
    losses: list[float]


def measure(
    work: SharedStep,
    make: Callable[[SharedStep], SharedStepper],
    ranks: Ranks,
    repeats: int,
    budget: float,
    losses: int,
) -> Measured:
    """Measure one work, in `repeats` turns of about `budget` seconds each. All ranks call this, and get the same.

    A turn's time of a step is that of the rank that took longest for the turn's steps, from a barrier on. The time of
    its all-reduce is taken in steps of their own, as timing it makes a device wait: it is that of the rank that was in
    it the shortest, which the others waited for; the turn's is the median of its steps.

    Args:
        make: returns a stepper with the first weights.
        losses: the number of first steps whose losses are asked for.
    """
    found = _losses(make(work), losses)
    made = make(work)
    for _ in range(WARM_UP):
        made.stepper.step()
    count = max(1, int(budget / max(_slowest(made, ranks, 1), 1e-9)))
    seconds, sums = [], []
    for _ in range(repeats):
        seconds.append(_slowest(made, ranks, count))
        if not ranks.alone:
            sums.append(
                statistics.median(min(map(min, ranks.gather(made.all_reduce()))) for _ in range(min(count, SUMS)))
            )
    return Measured(seconds, sums, found)


def _losses(made: SharedStepper, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        made.stepper.step()
        found.append(made.stepper.loss())
    return found


def _slowest(made: SharedStepper, ranks: Ranks, count: int) -> float:
    """Return the seconds of a step, of `count` steps by the rank that takes longest for them."""
    made.synchronize()
    ranks.total(0.0)  # a barrier: no rank has the sum before all have come

    def steps() -> None:
        for _ in range(count):
            made.stepper.step()

    return max(ranks.gather(made.elapsed(steps))) / count


def main() -> None:
    """Measure what is asked for. The signal that launchers pass on ends a rank, as nothing handles it."""
    request, answers = sys.argv[1:]
    asked = json.loads(Path(request).read_text(encoding="utf-8"))
    contender: Contender = EVERYONE[asked["contender"]]
    found: list[Measured] = []
    with joined() as ranks:
        for each in asked["works"]:
            gc.collect()  # two works' arrays may not fit into memory at once
            work = works.from_dict(each)
            assert isinstance(work, SharedStep)
            make = lambda work: own.shared(work, ranks, **contender.settings)  # noqa: E731
            found.append(measure(work, make, ranks, asked["repeats"], asked["seconds"], asked["losses"]))
            if ranks.first:
                files.write_bytes(answers, json.dumps([asdict(one) for one in found]).encode())


if __name__ == "__main__":
    main()
