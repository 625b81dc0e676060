"""Doing once, and judging, on a device that is emulated, what a bench would measure on a GPU: no time is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from gpubp.bench.contenders import REHEARSED, Contender
from gpubp.bench.turns import Process, WorkerError, fault_of
from gpubp.bench.works import Work


@dataclass(frozen=True)
class Rehearsal:
    """What came of a work: `fault` is "" if its results were right."""

    work: Work
    contender: str
    fault: str


def contenders(backend: str, device: str, variants: Sequence[str | None] = (None,)) -> list[Contender]:
    """Return the contenders of one of this project's backends, as they are on a device that is emulated.

    Args:
        variants: the rungs; None stands for the one that the plan decides, and for captured steps.
    """
    return [
        each
        for each in REHEARSED.values()
        if each.backend == backend and each.device == device and each.settings.get("variant") in variants
    ]


def rehearse(
    contender: Contender,
    works: Sequence[Work],
    progress: Callable[[str], None] = lambda text: None,
    time_is_up: Callable[[], bool] = lambda: False,
) -> Iterator[Rehearsal]:
    """Yield what came of each work, in a process of the contender's own, until the time is up."""
    process = Process(contender, threads=1)
    try:
        for work in works:
            if not contender.takes(work):
                continue
            if time_is_up():
                return
            progress(f"{contender.title} on {contender.device}: {work.title}")
            try:
                process.ask(do="make", work=work.to_dict())
                fault = fault_of(work, process.ask)
            except WorkerError as error:
                fault = str(error)
            yield Rehearsal(work, contender.key, fault)
    finally:
        process.close()
