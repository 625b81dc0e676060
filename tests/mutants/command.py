"""Judge the cases of `gpubp check` by mutants of the kernels: every small mistake in them must fail a case.

    python tests/mutants                       # one mutant of each kind on each line: make mutants
    python tests/mutants cuda/forms.cuh        # those of some files
    python tests/mutants --whole               # every mutant, and the listed ones on all their cases
    python tests/mutants --sample 40           # a fixed few: make exhaustive

What survives must be listed in equivalents.toml, with the reason why it is no mistake. The run fails if another mutant
survives, if a listed one is killed, or if a listed one is none of the kernels' mutants any more.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from edits import Edit, Source, thinned
from judge import INVALID, KILLED, SAME, SURVIVED, Judge, Verdict
from suite import KERNELS, Instance

EQUIVALENTS = Path(__file__).with_name("equivalents.toml")
REMEMBERED = Path(__file__).parents[2] / ".cache" / "mutants.json"
"""What killed each mutant the last time. It is tried first; where it is wrong, that costs a moment."""

SAMPLE_KERNELS = 2
"""Instances of kernels that the mutants of a sample are tried on first: only those are compiled as they are."""

LISTED_TRIES = 3
"""Changed instances that a listed mutant is tried on, but with --whole."""

Key = tuple[str, str, str, int]
"""An edit: its file, its line without and with it, and which of the equal lines that is."""


def key_of(edit: Edit) -> Key:
    return edit.file, edit.before, edit.after, edit.nth


def sources(files: Sequence[str] = ()) -> list[Source]:
    """Return the kernels' files, or these of them, in their order."""
    found = [path for pattern in ("cuda/*.cu*", "numba/*.py") for path in sorted(KERNELS.glob(pattern))]
    names = [f"{path.parent.name}/{path.name}" for path in found if path.name != "__init__.py"]
    for name in files:
        if name not in names:
            raise SystemExit(f"no kernel's file {name!r}; they are named like {names[0]!r}")
    return [Source(name, (KERNELS / name).read_text(encoding="utf-8")) for name in names if not files or name in files]


def listed(path: Path) -> dict[Key, str]:
    """Return the listed mutants with the reasons."""
    found: dict[Key, str] = {}
    for entry in tomllib.loads(path.read_text(encoding="utf-8")).get("equivalent", []):
        for after in entry["becomes"]:
            found[entry["file"], entry["line"], after, entry.get("nth", 1)] = entry["reason"]
    return found


def chosen_of(names: Sequence[str], whole: bool, sample: int | None) -> list[tuple[Source, Edit]]:
    """Return the mutants to judge.

    Args:
        names: files, or lines of files, such as "cuda/forms.cuh:33"; all files if there is none.
        whole: every mutant; else one of each kind on each line.
        sample: of these so many alone, always the same.
    """
    lines: dict[str, set[int]] = {}
    for name in names:
        file, _, line = name.partition(":")
        lines.setdefault(file, set()).update([int(line)] if line else [])
    select = list if whole else thinned
    chosen = [
        (source, edit)
        for source in sources(list(lines))
        for edit in select(source.edits())
        if not lines.get(source.file) or edit.line in lines[source.file]
    ]
    return random.Random(0).sample(chosen, sample) if sample else chosen


@dataclass
class Tally:
    """The verdicts, and what is wrong with them."""

    reasons: dict[Key, str]
    counts: Counter[str] = field(default_factory=Counter)
    survivors: list[Edit] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    killers: dict[str, set[str]] = field(default_factory=dict)

    def add(self, edit: Edit, verdict: Verdict) -> None:
        """Count a verdict."""
        is_listed = key_of(edit) in self.reasons
        self.counts["listed" if is_listed and verdict.outcome == SURVIVED else verdict.outcome] += 1
        if verdict.outcome == SURVIVED and not is_listed:
            self.survivors.append(edit)
        if verdict.outcome == KILLED:
            self.killers.setdefault(verdict.instance, set()).add(verdict.case)
            if is_listed:
                self.complaints.append(f"listed as equivalent, but {verdict.case} fails: {edit}\n  {verdict.reason}")

    def compare(self, known: Iterable[Edit]) -> None:
        """Complain of listed mutants that are none of the kernels' any more."""
        keys = set(map(key_of, known))
        self.complaints += [
            f"listed, but no mutant of the kernels any more: {key}" for key in self.reasons if key not in keys
        ]

    @property
    def passed(self) -> bool:
        return not self.survivors and not self.complaints

    def __str__(self) -> str:
        killed, survived = self.counts[KILLED], len(self.survivors)
        score = killed / max(1, killed + survived)
        return (
            f"{killed:,} mutants killed, {survived:,} survived: {score:.1%}. Besides, {self.counts['listed']:,} are "
            f"listed as equivalent, {self.counts[SAME]:,} compile to the same code, {self.counts[INVALID]:,} do not "
            "compile."
        )


class Order:
    """Which instances each mutant is tried on, and in which order: first what killed it, or its neighbours, before."""

    def __init__(self, judge: Judge, reasons: dict[Key, str], whole: bool) -> None:
        self._judge = judge
        self._reasons = reasons
        self._whole = whole
        self._kills: Counter[tuple[object, str]] = Counter()
        self._blocks: dict[Key, tuple[str, int, int]] = {}
        try:
            self._remembered = json.loads(REMEMBERED.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._remembered = {}

    def __call__(
        self, source: Source, edit: Edit, most: int | None, everywhere: bool
    ) -> tuple[Edit, list[Instance], int | None]:
        """Return an edit with the instances to try, and how many that it changes."""
        start, end = source.block_of(edit.start)
        block = source.line_of(start), source.line_of(end - 1)
        self._blocks[key_of(edit)] = edit.file, *block
        before = self._remembered.get(str(key_of(edit)))

        def rank(instance: Instance) -> tuple[object, ...]:
            kills = [self._kills[place, instance.name] for place in (self._blocks[key_of(edit)], edit.file)]
            return instance.name != before, *(-each for each in kills)

        found = self._judge.including(edit) if everywhere else self._judge.concerned(edit, block, most)
        found.sort(key=rank)
        listed_alone = key_of(edit) in self._reasons and not self._whole
        return edit, found, LISTED_TRIES if listed_alone else None

    def learn(self, edit: Edit, verdict: Verdict) -> None:
        """Remember what killed a mutant."""
        if verdict.outcome == KILLED:
            for place in (self._blocks[key_of(edit)], edit.file):
                self._kills[place, verdict.instance] += 1
            self._remembered[str(key_of(edit))] = verdict.instance

    def keep(self) -> None:
        """Write what is remembered for the next run."""
        REMEMBERED.parent.mkdir(exist_ok=True)
        REMEMBERED.write_text(json.dumps(self._remembered), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 if every mutant is killed or listed."""
    parser = argparse.ArgumentParser(prog="python tests/mutants", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("names", nargs="*", help="files below kernels/, or lines: cuda/forms.cuh, cuda/forms.cuh:33")
    parser.add_argument("--sample", type=int, help="judge this many mutants alone, always the same")
    parser.add_argument("--whole", action="store_true", help="judge all mutants, the listed ones on all their cases")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="mutants at a time")
    parser.add_argument("--list", type=Path, default=EQUIVALENTS, help="the list of mutants that are no mistakes")
    parser.add_argument("--log", type=Path, help="write each verdict to this file")
    given = parser.parse_args(arguments)
    started = time.monotonic()
    chosen = chosen_of(given.names, given.whole, given.sample)
    tally = Tally(listed(given.list))
    tally.compare(edit for source in sources() for edit in source.edits())
    with tempfile.TemporaryDirectory(prefix="gpubp-mutants-") as folder, open(given.log or os.devnull, "w") as log:
        judge = Judge(Path(folder), dict.fromkeys(source.language for source, _ in chosen))
        order = Order(judge, tally.reasons, given.whole)
        try:
            verdicts = judged(judge, order, chosen, SAMPLE_KERNELS if given.sample else None, given.jobs, log)
            unsettled = []
            for edit, verdict in verdicts:
                if verdict.outcome == SURVIVED and key_of(edit) not in tally.reasons:
                    unsettled.append(edit)  # on the kernels that it most likely changes
                else:
                    tally.add(edit, verdict)
            again = [(source, edit) for source, edit in chosen if edit in unsettled]
            for edit, verdict in judged(judge, order, again, None, given.jobs, log, everywhere=True):
                tally.add(edit, verdict)
            tally.complaints += judge.failures_unchanged(tally.killers, given.jobs)
        finally:
            judge.close()
            order.keep()
    return report(tally, time.monotonic() - started)


def judged(
    judge: Judge,
    order: Order,
    chosen: Sequence[tuple[Source, Edit]],
    most: int | None,
    jobs: int,
    log: TextIO,
    *,
    everywhere: bool = False,
) -> Iterator[tuple[Edit, Verdict]]:
    """Give the verdict on each mutant as it comes; tell how far it is, and write it to the log.

    most: instances that each is tried on; None: all that it most likely changes.
    everywhere: try it on every instance whose source includes its file.
    """
    started = time.monotonic()
    work = (order(source, edit, most, everywhere) for source, edit in chosen)
    for number, (edit, verdict) in enumerate(judge.judge(work, jobs), 1):
        order.learn(edit, verdict)
        print(f"{verdict.outcome}, {verdict.seconds:.2f} s: {edit}\n    {verdict}", file=log, flush=True)
        if number % 100 == 0:
            print(f"{number:,} of {len(chosen):,} after {time.monotonic() - started:.0f} s", flush=True)
        yield edit, verdict


def report(tally: Tally, seconds: float) -> int:
    """Print what came of it; 0 if all is well."""
    for edit in tally.survivors:
        print(f"survived: {edit}\nIf it is no mistake, this lists it:\n{entry_of(edit)}")
    for text in tally.complaints:
        print(text)
    print(f"{tally} ({seconds:.0f} s)")
    return 0 if tally.passed else 1


def entry_of(edit: Edit) -> str:
    """Return the entry of the list for an edit, but for its reason."""
    file, before, after = (json.dumps(text, ensure_ascii=False) for text in (edit.file, edit.before, edit.after))
    nth = f"nth = {edit.nth}\n" if edit.nth > 1 else ""
    return f'[[equivalent]]\nfile = {file}\nline = {before}\n{nth}becomes = [{after}]\nreason = ""\n'
