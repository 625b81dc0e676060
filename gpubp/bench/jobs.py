"""Shared steps are measured by jobs of MPI: one for each contender and number of ranks, one after the other."""

from __future__ import annotations

import json
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gpubp.bench import own
from gpubp.bench.contenders import Contender
from gpubp.bench.rank_worker import Measured
from gpubp.bench.results import Record
from gpubp.bench.turns import CHECKED_STEPS, differing_losses
from gpubp.bench.works import SharedStep, ranks_in_words
from gpubp.distributed import launcher
from gpubp.errors import shown

WORKER = "gpubp.bench.rank_worker"
MPICH_TELLS = "TERMINATED WITH THE EXIT STRING: "
"""What MPICH's launcher prints before the signal that ended a rank."""


def measure(
    shared: Sequence[SharedStep],
    contenders: Sequence[Contender],
    *,
    repeats: int,
    seconds: float,
    threads: int,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Record]:
    """Measure shared steps: `repeats` turns of about `seconds` seconds, with `threads` threads for each rank.

    A work whose job fails gets a record with its fault, and no times; so does one whose losses are wrong.

    Raises:
        BackendError: mpi4py or a launcher of MPI is missing.
    """
    found: list[Record] = []
    for count in dict.fromkeys(work.ranks for work in shared):
        for contender in contenders:
            own_works = [work for work in shared if work.ranks == count and contender.takes(work)]
            if own_works:
                progress(f"{contender.title}, {ranks_in_words(count)}")
                found += _records(contender, own_works, repeats, seconds, threads)
    order = {work: place for place, work in enumerate(shared)}
    return sorted(found, key=lambda record: order[record.work])  # type: ignore[index]


def _records(
    contender: Contender, same: Sequence[SharedStep], repeats: int, seconds: float, threads: int
) -> Iterator[Record]:
    """Yield a record for each of these works, all with as many ranks. A job that ends early is begun again behind the
    work that it ended at."""
    waiting = list(same)
    while waiting:
        request = {
            "contender": contender.key,
            "works": [work.to_dict() for work in waiting],
            "repeats": repeats,
            "seconds": seconds,
            "losses": CHECKED_STEPS,
        }
        measured, fault = _run(request, waiting[0].ranks, threads)
        for one in measured:
            yield _record(waiting.pop(0), contender.key, one)
        if waiting:
            yield Record(waiting.pop(0), contender.key, fault=fault)


def _record(work: SharedStep, contender: str, found: Measured) -> Record:
    fault = differing_losses(found.losses, own.reference_losses(work.step, CHECKED_STEPS), work.dtype)
    if fault:
        return Record(work, contender, fault=f"wrong: {fault}")
    return Record(work, contender, tuple(found.seconds), all_reduce=tuple(found.all_reduce))


def _run(request: dict[str, Any], ranks: int, threads: int) -> tuple[list[Measured], str]:
    """Run a job. Return what it measured, and, if that is less than was asked for, why it ended early.

    A signal that this process had meanwhile, and passed on, ends this process too.
    """
    variables = {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "MKL", "OPENBLAS")}
    with tempfile.TemporaryDirectory(prefix="gpubp-bench-") as folder, tempfile.TemporaryFile() as output:
        asked, answers = Path(folder, "request.json"), Path(folder, "answers.json")
        asked.write_text(json.dumps(request), encoding="utf-8")
        words = (str(asked), str(answers))
        code, number = launcher.run_job(ranks, WORKER, words, variables=variables, output=output.fileno())
        measured = json.loads(answers.read_text(encoding="utf-8")) if answers.exists() else []
        output.seek(0)
        told = output.read().decode(errors="replace").splitlines()
    if number is not None:
        signal.raise_signal(number)
    return [Measured(**each) for each in measured], _fault(ranks, code, told)


def _fault(ranks: int, code: int, told: Sequence[str]) -> str:
    """Return why a job failed, by its exit code and what it printed: what a rank said, or else the launcher."""
    reasons = [line.removeprefix("error: ") for line in told if line.startswith("error: ")]
    reasons += [line.partition(MPICH_TELLS)[2] for line in told if MPICH_TELLS in line]
    reasons += [line for line in told if line.strip()][-1:]
    why = f": {shown(reasons[0], 300)}" if reasons else ""
    return f"its job of {ranks_in_words(ranks)} ended with exit code {code}{why}"
