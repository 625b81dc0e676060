"""The steps of a traced block as the page shows them: neighbours joined, in words and in pictures."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from gpubp.chips import WARP
from gpubp.explain import drawing
from gpubp.explain.catalogue import Catalogue
from gpubp.explain.kernel_run import Explanation, NamedArray

if TYPE_CHECKING:
    from gpubp.emulator.observe.trace import TracedAccess, TracedLaunch, TracedStep

BANKS, WORD, SECTOR = 32, 4, 32
"""Banks of shared memory, bytes of a word in a bank, bytes of a sector of global memory."""

MOST_SHOWN = 600
"""Steps of a page; of a longer trace those around the first mistake, or the first ones."""

MOST_SIDE = 96
"""Rows and columns of an array up to which it is drawn whole; of a larger one the corner that holds most accesses."""

BLANK, IN_VAIN, PENDING, IDLE, ACTIVE = (
    (255, 255, 255),
    (206, 212, 218),
    (200, 170, 230),
    (236, 239, 242),
    (90, 98, 104),
)
PARTY = (0, 0, 0)
"""Colour of a thread that does something wrong, and of what it touches."""

CONFLICTS = ((120, 180, 130), (240, 196, 60), (232, 130, 40), (179, 38, 30))
"""Colours of words by the passes of their bank: 1, 2, up to 4, more."""


MOVES = ("async", "arrived", "leaves")
"""Accesses to shared memory that copies make, and not their threads."""


def thread_colour(threads: np.ndarray) -> np.ndarray:
    """Return a colour for each thread, (n, 3) uint8: its hue goes round with the lane, its warp makes it lighter."""
    return _PALETTE[np.asarray(threads) % len(_PALETTE)]


_PALETTE = np.array(
    [
        [round(255 * part) for part in colorsys.hls_to_rgb(lane / WARP, 0.42 + 0.07 * (warp % 5), 0.62)]
        for warp in range(32)
        for lane in range(WARP)
    ],
    np.uint8,
)


@dataclass(frozen=True)
class Touched:
    """The accesses of one kind that a step makes to one array or one variable, all instructions together.

    Attributes:
        name: of the array.
        kind, space: as in the trace.
        instructions: how many.
        threads: that take part in any of them.
        where: which elements or words, as text.
        units, least_units: as in the trace.
    """

    name: str
    kind: str
    space: str
    instructions: int
    threads: str
    where: str
    units: int
    least_units: int


@dataclass(frozen=True)
class Picture:
    """A drawing of an array, of shared memory or of the threads: a pixel a cell."""

    name: str
    uri: str
    columns: int
    rows: int
    alt: str


@dataclass
class Shown:
    """A step of the page: one or several steps of the trace that the same threads made.

    Attributes:
        first, last: their numbers in the trace.
        kind: as in the trace.
        lines: (file, line) in their order, each once.
        count, threads: how many take part, and which, as text.
        instructions, flops: of a thread.
        waits: of threads that come to a barrier: whom it waits for, as a sentence; else "".
        touched, pictures: what they access.
    """

    first: int
    last: int
    kind: str
    lines: list[tuple[str, int]]
    count: int
    threads: str
    instructions: int
    flops: int
    waits: str = ""
    touched: list[Touched] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)


def shown_steps(found: Explanation, texts: Catalogue) -> list[Shown]:
    """Return the page's steps, at most `MOST_SHOWN`, pictures included."""
    groups = list(_groups(found))
    start = 0
    if len(groups) > MOST_SHOWN and found.troubles and found.troubles[0].step is not None:
        at = next(i for i, group in enumerate(groups) if group[-1] >= found.troubles[0].step)
        start = max(0, min(at - MOST_SHOWN // 2, len(groups) - MOST_SHOWN))
    pending = _Pending()
    for group in groups[:start]:
        pending.follow(found, group)
    return [_shown(found, group, pending, texts) for group in groups[start : start + MOST_SHOWN]]


def _groups(found: Explanation) -> Iterator[list[int]]:
    """Yield the numbers of neighbouring steps that are shown as one: those of the same threads that touch no memory,
    and the one after them that does."""
    steps = found.trace.steps
    marked = {each.step for each in found.troubles} | {each.other_step for each in found.troubles}
    group: list[int] = []
    for number, step in enumerate(steps):
        if group:
            last = steps[group[-1]]
            same = (step.launch, step.kind) == (last.launch, last.kind) and np.array_equal(step.threads, last.threads)
            if not same or _touches(last) or number in marked or group[-1] in marked:
                yield group
                group = []
        group.append(number)
    if group:
        yield group


def _touches(step: TracedStep) -> bool:
    return any(access.space in ("global", "shared") for access in step.accesses)


class _Pending:
    """The words of shared memory whose asynchronous copies have begun and are not there yet."""

    def __init__(self) -> None:
        self.words: set[int] = set()

    def follow(self, found: Explanation, group: Iterable[int]) -> None:
        """Take up the accesses of some steps."""
        for number in group:
            for access in found.trace.steps[number].accesses:
                if access.space != "shared" or access.kind not in ("async", "arrived"):
                    continue
                words = set(_words(access).reshape(-1).tolist())
                self.words = self.words | words if access.kind == "async" else self.words - words


def _words(access: TracedAccess) -> np.ndarray:
    """Return the words of shared memory that each thread touches, (n, words)."""
    count = max(1, access.nbytes // WORD)
    return access.addresses[:, None] // WORD + np.arange(count)


def _parties(found: Explanation, group: Sequence[int]) -> np.ndarray:
    """Return the threads that do something wrong in these steps, or are the other party of it."""
    pairs = [(each.step, each.thread) for each in found.troubles]
    pairs += [(each.other_step, each.other_thread) for each in found.troubles]
    return np.array(sorted({thread for step, thread in pairs if step in group and thread is not None}), int)


def _shown(found: Explanation, group: Sequence[int], pending: _Pending, texts: Catalogue) -> Shown:
    steps = [found.trace.steps[number] for number in group]
    launch = found.trace.launches[min(steps[0].launch, len(found.trace.launches) - 1)]
    lines = list(dict.fromkeys(step.line for step in steps if step.line is not None))
    threads = np.flatnonzero(steps[0].threads)
    accesses = [access for step in steps for access in step.accesses if access.space in ("global", "shared")]
    pending.follow(found, group)
    parties = _parties(found, group)
    return Shown(
        group[0],
        group[-1],
        steps[0].kind,
        lines,
        int(threads.size),
        ranges(threads),
        sum(step.instructions for step in steps),
        sum(step.flops for step in steps),
        _waits_for(found, group[-1], texts) if steps[0].kind == "arrive" else "",
        list(_touched(found, launch, accesses)),
        [_threads_picture(steps[0], parties, texts), *_pictures(found, launch, accesses, pending, parties)],
    )


def _waits_for(found: Explanation, number: int, texts: Catalogue) -> str:
    """Return whom a barrier waits for after a step in which threads have come to it."""
    steps, launch = found.trace.steps, found.trace.steps[number].launch
    come = np.zeros_like(steps[number].threads)
    for step in reversed(steps[: number + 1]):
        if step.launch != launch or step.kind == "open":
            break
        if step.kind == "arrive":
            come |= step.threads
    opens = next((step for step in steps[number:] if step.launch == launch and step.kind == "open"), None)
    if opens is None:
        return "" if found.trace.lost else texts("kernel.never", missing=ranges(np.flatnonzero(~come)))
    missing = np.flatnonzero(opens.threads & ~come)
    return texts("kernel.waits", missing=ranges(missing)) if missing.size else texts("kernel.complete")


# --- words ------------------------------------------------------------------------------------------------------------
def ranges(numbers: np.ndarray, most: int = 6) -> str:
    """Return ascending numbers as text, such as "0–31, 40"."""
    numbers = np.unique(numbers)
    if not numbers.size:
        return ""
    breaks = np.flatnonzero(np.diff(numbers) != 1)
    starts, stops = numbers[np.r_[0, breaks + 1]], numbers[np.r_[breaks, numbers.size - 1]]
    parts = [str(a) if a == b else f"{a}–{b}" for a, b in zip(starts.tolist(), stops.tolist(), strict=True)]
    return ", ".join(parts if len(parts) <= most else [*parts[: most - 1], "…", parts[-1]])


def variable_name(name: str) -> str:
    """Return the last part of the mangled name of a variable in shared memory: "a_tile"; other names as they are."""
    for match in re.finditer(r"(?=(\d+)([A-Za-z_]\w*)$)", name):
        if int(match[1]) == len(match[2]):
            return match[2]
    return name


def _touched(found: Explanation, launch: TracedLaunch, accesses: Sequence[TracedAccess]) -> Iterator[Touched]:
    by_name: dict[tuple[str, str, str], list[tuple[TracedAccess, np.ndarray]]] = {}
    for access in accesses:
        for name, chosen in _split(found.arrays, launch, access):
            by_name.setdefault((name, access.kind, access.space), []).append((access, chosen))
    for (name, kind, space), parts in by_name.items():
        threads = np.concatenate([access.threads[chosen] for access, chosen in parts])
        threads = threads[threads >= 0]
        addresses = np.concatenate([access.addresses[chosen] for access, chosen in parts])
        ends = np.concatenate([access.addresses[chosen] + access.nbytes for access, chosen in parts])
        array = next((each for each in found.arrays if each.name == name and space == "global"), None)
        whole = [access for access, chosen in parts]
        yield Touched(
            name,
            kind,
            space,
            len(parts),
            ranges(threads),
            _elements(array, addresses, max(access.nbytes for access in whole))
            if array
            else _span(launch, addresses, ends),
            sum(access.units for access in whole),
            sum(access.least_units for access in whole),
        )


def _split(
    arrays: Sequence[NamedArray], launch: TracedLaunch, access: TracedAccess
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays that an access touches, and which of its threads do."""
    left = np.ones(access.threads.size, bool)
    if access.space == "shared":
        for start, size, name in launch.shared:
            here = (access.addresses >= start) & (access.addresses < start + size)
            if here.any():
                yield variable_name(name), here
            left &= ~here
    else:
        for array in arrays:
            here = array.elements(access.addresses) >= 0
            if here.any():
                yield array.name, here
            left &= ~here
    if left.any():
        yield access.space, left


def _elements(array: NamedArray, addresses: np.ndarray, nbytes: int) -> str:
    """Return the elements of an array as text: the smallest rectangle that holds them."""
    _, columns = array.rows
    first = array.elements(addresses)
    last = np.minimum(first + max(1, nbytes // array.itemsize) - 1, array.rows[0] * columns - 1)
    if len(array.shape) < 2:
        return f"[{_between(first.min(), last.max())}]"
    every = np.concatenate([first, last])
    rows, places = every // columns, every % columns
    return f"[{_between(rows.min(), rows.max())}, {_between(places.min(), places.max())}]"


def _span(launch: TracedLaunch, addresses: np.ndarray, ends: np.ndarray) -> str:
    """Return the bytes of a variable in shared memory as text, the first and the last, from its beginning on."""
    begin = max((start for start, _, _ in launch.shared if start <= addresses.min()), default=0)
    return f"[{_between(addresses.min() - begin, ends.max() - begin - 1)}]"


def _between(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}–{last}"


# --- pictures ---------------------------------------------------------------------------------------------------------
def _threads_picture(step: TracedStep, parties: np.ndarray, texts: Catalogue) -> Picture:
    """Return the threads of the block, a row for each warp: those that take part in their colours."""
    count = step.threads.size
    rows = -(-count // WARP)
    pixels = np.full((rows * WARP, 3), BLANK, np.uint8)
    pixels[:count] = IDLE
    active = np.flatnonzero(step.threads)
    pixels[active] = ACTIVE if step.kind == "arrive" else thread_colour(active)
    pixels[parties] = PARTY
    name = texts("kernel.threads_of_block")
    return _picture(name, pixels.reshape(rows, WARP, 3), f"{name}: {ranges(active)}")


def _pictures(
    found: Explanation,
    launch: TracedLaunch,
    accesses: Sequence[TracedAccess],
    pending: _Pending,
    parties: np.ndarray,
) -> Iterator[Picture]:
    for array in found.arrays:
        own = [
            access for access in accesses if access.space == "global" and (array.elements(access.addresses) >= 0).any()
        ]
        if own:
            yield _array_picture(array, own, parties)
    shared = [access for access in accesses if access.space == "shared"]
    if shared:
        for start, size, name in launch.shared:
            inside = any(((each.addresses >= start) & (each.addresses < start + size)).any() for each in shared)
            if inside:
                yield _shared_picture(start, size, variable_name(name), shared, pending, parties)


_NOBODY = np.zeros(0, int)

COLUMNS = 32
"""Elements in a line of the picture of an array of one side."""


def _array_picture(array: NamedArray, accesses: Sequence[TracedAccess], parties: np.ndarray) -> Picture:
    """Return an array: what a thread touches in its colour, what a sector brings in vain in grey."""
    rows, columns = array.rows
    size = rows * columns
    pixels = np.full((size, 3), BLANK, np.uint8)
    for access in accesses:
        here = array.elements(access.addresses) >= 0
        sectors = np.unique(access.addresses[here] // SECTOR)
        begun = (sectors * SECTOR - array.address) // array.itemsize
        brought = (begun[:, None] + np.arange(max(1, SECTOR // array.itemsize))).reshape(-1)
        pixels[brought[(brought >= 0) & (brought < size)]] = IN_VAIN
    touched = [np.zeros(0, int)]
    for chosen_parties in (False, True):  # the parties last: on top
        for access in accesses:
            first = array.elements(access.addresses)
            here = (first >= 0) & (np.isin(access.threads, parties) == chosen_parties)
            colours = np.array(PARTY, np.uint8) if chosen_parties else thread_colour(access.threads[here])
            for offset in range(max(1, access.nbytes // array.itemsize)):
                pixels[np.minimum(first[here] + offset, size - 1)] = colours
            touched.append(first[here])
    if rows == 1 and columns > COLUMNS:
        rows, columns = -(-size // COLUMNS), COLUMNS
        pixels = np.concatenate([pixels, np.full((rows * columns - size, 3), IDLE, np.uint8)])
    cells = pixels.reshape(rows, columns, 3)
    top, left = _corner(np.concatenate(touched), rows, columns)
    cells = cells[top : top + MOST_SIDE, left : left + MOST_SIDE]
    name = f"{array.name} ({'×'.join(map(str, array.shape))})"
    if (rows, columns) != cells.shape[:2]:
        name += f" [{top}–{top + cells.shape[0] - 1}, {left}–{left + cells.shape[1] - 1}]"
    return _picture(name, cells, name)


def _corner(elements: np.ndarray, rows: int, columns: int) -> tuple[int, int]:
    """Return row and column from which an array is drawn, so that what is touched shows."""
    if max(rows, columns) <= MOST_SIDE or not elements.size:
        return 0, 0
    top, left = int((elements // columns).min()), int((elements % columns).min())
    return min(top, max(0, rows - MOST_SIDE)), min(left, max(0, columns - MOST_SIDE))


def _shared_picture(
    start: int,
    size: int,
    name: str,
    accesses: Sequence[TracedAccess],
    pending: _Pending,
    parties: np.ndarray,
) -> Picture:
    """Return a variable in shared memory, a row for a word of all banks: what is touched by its bank's passes."""
    first, last = start // WORD, (start + size - 1) // WORD
    top, bottom = first // BANKS, last // BANKS
    pixels = np.full(((bottom - top + 1) * BANKS, 3), IDLE, np.uint8)
    base = top * BANKS
    pixels[first - base : last - base + 1] = BLANK
    waiting = np.array([word for word in pending.words if first <= word <= last], int) - base
    pixels[waiting] = PENDING
    for access in accesses:
        if access.kind in MOVES:
            continue
        if access.kind == "product":
            words = _words(access).reshape(-1)
            pixels[words[(words >= first) & (words <= last)] - base] = CONFLICTS[0]
            continue
        for words, passes in _passes(access):
            here = (words >= first) & (words <= last)
            pixels[words[here] - base] = _conflict_colours(passes[here])
    for access in accesses:
        words = _words(access)[np.isin(access.threads, parties)].reshape(-1)
        pixels[words[(words >= first) & (words <= last)] - base] = PARTY
    whole = f"{name} ({size:,} B)"
    return _picture(whole, pixels.reshape(-1, BANKS, 3)[:MOST_SIDE], whole)


def _passes(access: TracedAccess) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield for each part of a warp that is served together its distinct words, and the passes of their banks."""
    words = _words(access)
    share = WARP // max(1, access.nbytes // WORD)
    turns = access.threads // share
    for turn in np.unique(turns):
        distinct = np.unique(words[turns == turn])
        banks = distinct % BANKS
        yield distinct, np.bincount(banks, minlength=BANKS)[banks]


def _conflict_colours(passes: np.ndarray) -> np.ndarray:
    return np.array(CONFLICTS, np.uint8)[np.digitize(passes, (2, 3, 5))]


def owners(found: Explanation) -> list[Picture]:
    """Return, for each array that the block writes, which thread wrote which element."""
    pictures = []
    for array in found.arrays:
        own = [
            access
            for step in found.trace.steps
            for access in step.accesses
            if access.space == "global" and access.kind != "load" and (array.elements(access.addresses) >= 0).any()
        ]
        if own:
            pictures.append(_array_picture(array, own, _NOBODY))
    return pictures


def _picture(name: str, pixels: np.ndarray, alt: str) -> Picture:
    rows, columns = pixels.shape[:2]
    return Picture(name, drawing.png(pixels), columns, rows, alt)
