"""The page of a kernel at work: its source on one side, its threads and arrays on the other, step after step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

import gpubp.kernels
from gpubp.explain import kernel_steps
from gpubp.explain.catalogue import Catalogue
from gpubp.explain.equations import number
from gpubp.explain.kernel_run import Explanation, Trouble
from gpubp.explain.kernel_steps import Shown, shown_steps
from gpubp.explain.ladder import Rung, bars
from gpubp.explain.pages import page

if TYPE_CHECKING:
    from gpubp.emulator.observe.trace import TracedLaunch

CONTEXT = 4
"""Lines of a source that are shown before and after one that was executed."""

CELLS = {8: 26, 16: 20, 32: 13, 48: 10, 96: 6}
"""Pixels of a cell, for pictures of up to so many columns or rows."""

KERNELS = Path(gpubp.kernels.__file__).parent


@dataclass(frozen=True)
class _Line:
    number: int
    anchor: str
    text: str
    executed: bool


@dataclass(frozen=True)
class _File:
    name: str
    parts: list[list[_Line]]


@dataclass(frozen=True)
class _Mark:
    """A trouble as the page shows it: the numbers of the steps of the page, None for one that it does not show."""

    message: str
    step: int | None
    thread: int | None
    other_step: int | None
    other_thread: int | None


def kernel_page(found: Explanation, texts: Catalogue, command: str, ladder: Sequence[Rung] = ()) -> str:
    """Return the page as HTML.

    Args:
        found: what a block did.
        texts: in the page's language.
        command: the command line that made it.
        ladder: the same product on each rung; empty for a kernel of one's own.
    """
    steps = shown_steps(found, texts)
    files, anchors = _files(found, steps)
    marks = [_mark(each, steps) for each in found.troubles]
    opens = next((each.step for each in marks if each.step is not None), 1)
    launch = found.trace.launches[0] if found.trace.launches else None
    return page(
        "kernel.html",
        texts,
        command,
        title=texts("kernel.title", kernel=found.title),
        data=_data(found, steps),
        found=found,
        launch=launch,
        intro=_intro(found, launch, texts),
        marks=marks,
        opens=opens,
        steps=steps,
        others={each.other_step for each in marks},
        bad={each.step for each in marks},
        files=files,
        anchors=anchors,
        line_text=_line_texts(files),
        place=lambda line: f"{_file_name(line[0])}:{line[1]}",
        owners=kernel_steps.owners(found),
        cell=_cell,
        more=len(found.trace.steps) + found.trace.lost - (steps[-1].last + 1 if steps else 0),
        ladder=[(texts(f"ladder.{name}"), Markup(drawn)) for name, drawn in bars(ladder, texts)],
        rungs=ladder,
        number=number,
    )


def _intro(found: Explanation, launch: TracedLaunch | None, texts: Catalogue) -> str:
    if launch is None:
        return texts("kernel.nothing", block=_sides(found.trace.block))
    return texts(
        "kernel.intro",
        grid=_sides(launch.grid),
        threads=_sides(launch.block),
        block=", ".join(map(str, found.trace.block)),
    )


def _sides(sides: Sequence[int]) -> str:
    return "×".join(map(str, sides))


def _mark(trouble: Trouble, steps: Sequence[Shown]) -> _Mark:
    def place(step: int | None) -> int | None:
        found = (i for i, each in enumerate(steps, 1) if step is not None and each.first <= step <= each.last)
        return next(found, None)

    return _Mark(trouble.message, place(trouble.step), trouble.thread, place(trouble.other_step), trouble.other_thread)


def _cell(picture: kernel_steps.Picture) -> int:
    """Return the pixels of a cell of a picture."""
    side = max(picture.columns, picture.rows)
    return next((size for most, size in CELLS.items() if side <= most), min(CELLS.values()))


# --- the source -------------------------------------------------------------------------------------------------------
def _files(found: Explanation, steps: Sequence[Shown]) -> tuple[list[_File], dict[tuple[str, int], str]]:
    """Return the files of the executed lines, and the anchor of each such line."""
    executed: dict[str, set[int]] = {}
    for step in steps:
        for file, line in step.lines:
            executed.setdefault(file, set()).add(line)
    files, anchors = [], {}
    for place, (file, lines) in enumerate(executed.items(), 1):
        texts = _source(found, file)
        shown = sorted({near for line in lines for near in range(max(1, line - CONTEXT), line + CONTEXT + 1)})
        parts: list[list[_Line]] = []
        for line in shown:
            if line > len(texts) and line not in lines:
                continue
            anchor = f"line-{place}-{line}"
            if line in lines:
                anchors[file, line] = anchor
            made = _Line(line, anchor, texts[line - 1] if line <= len(texts) else "", line in lines)
            if parts and parts[-1][-1].number == line - 1:
                parts[-1].append(made)
            else:
                parts.append([made])
        files.append(_File(_file_name(file), parts))
    return files, anchors


def _source(found: Explanation, file: str) -> list[str]:
    """Return the lines of a source; none if it cannot be read."""
    for launch in found.trace.launches:
        name, text = launch.source
        if name and file.rsplit("/", 1)[-1] == name:
            return text.splitlines()
    try:
        return Path(file).read_text(encoding="utf-8", errors="replace").splitlines()
    except (OSError, ValueError):
        return []


def _file_name(file: str) -> str:
    return Path(file).name or file


def _line_texts(files: Sequence[_File]) -> dict[str, str]:
    return {line.anchor: line.text.strip() for file in files for part in file.parts for line in part}


def _data(found: Explanation, steps: Sequence[Shown]) -> dict[str, Any]:
    """Return what the block did as JSON can hold it, without the pictures."""
    return {
        "title": found.title,
        "block": list(found.trace.block),
        "warp": found.trace.warp,
        "launches": [
            {"kernel": each.kernel, "grid": list(each.grid), "block": list(each.block)} for each in found.trace.launches
        ],
        "arrays": [{"name": each.name, "shape": list(each.shape)} for each in found.arrays],
        "troubles": [asdict(each) for each in found.troubles],
        "trace_steps": len(found.trace.steps) + found.trace.lost,
        "steps": [
            {
                "kind": each.kind,
                "lines": [[_file_name(file), line] for file, line in each.lines],
                "threads": each.threads,
                "waits": each.waits,
                "instructions": each.instructions,
                "flops": each.flops,
                "touched": [asdict(one) for one in each.touched],
            }
            for each in steps
        ],
    }
