"""What a primitive does, counted on the emulated device, kernel by kernel and line by line.

A primitive of up to `WORK` multiply-adds or elements runs as it is. A larger one is counted at smaller shapes: the same
kernels by the same plan, with fewer whole tiles and with the same remainders at the edges. The work of a grid of tiles
is a constant, and terms in the number of tiles along each side and in their products; so two numbers of tiles a side
give all of it, in whole numbers. One shape more, larger in every side, is run to see whether that is so: it is not
exactly where the path of a thread depends on the data, and then the profile says by how much the check was off.

By stream-K (kernels/cuda/product_stream_k.cuh) where tiles are shared depends on all of a shape. There the work is a
sum over tiles of depth, whole tiles, parts, shared tiles and blocks, whose numbers `plan_model.runs_of` gives: five
grids, in which these differ, give what each of them costs, and a sixth one is the check. Their tiles are whole: what
the shape's tiles at the edges leave out, at most, counts as an error.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import gcd, prod
from typing import Any

import numpy as np

from gpubp.backends import plan_model
from gpubp.backends.arguments import Product
from gpubp.backends.gpu_backend import GpuBackend
from gpubp.backends.plans import REDUCE_BLOCK, Plan
from gpubp.errors import ArgumentError
from gpubp.profiler.launches import RecordedLaunch
from gpubp.profiler.workloads import Workload

WORK = 2**24
"""Multiply-adds of a product, or elements of another primitive, up to which the shape itself is run."""
MOST_WORK = 2**28
"""The same, beyond which not even a smaller shape is run: it would take minutes."""
MOST_WGMMA_WORK = 2**30
"""The same of `wgmma`, one instruction of which multiplies a whole tile."""
STREAMED_STEPS = 64
"""Tiles of depth of all tiles, about, of the grids in which stream-K is counted, of at most four tiles."""

SECTOR = 32
"""Bytes."""
UNROLLED = 4
"""Steps of a loop that the compiler may join: depths are counted at numbers of tiles that differ by this number."""
NAIVE_DEPTH = 32
"""The same for `naive`, whose tiles have depth 1; and a multiple of a sector."""
ELEMENTS = 2048
"""Elements that a block of an elementwise kernel takes, at most; every other number of them divides it."""
SAMPLE = 2**16
"""Elements that a step of an elementwise primitive has at least: where the path depends on the data, it is a sample."""
COLUMNS = 256
"""Columns after which sums of columns repeat themselves: those that a block's warps take."""
ROWS = {"softmax": 32, "output_delta": 1024}
"""Rows after which a kernel that takes rows repeats itself; with the sum of their losses."""


NUMBERS = ("requests", "threads", "nbytes", "units", "least_units")
"""What is counted of accesses, in the order of `Access`."""


@dataclass(frozen=True)
class Access:
    """The accesses of one kind that one line makes to one memory space.

    Attributes:
        requests: warps that made one.
        units: 32-byte sectors moved in global memory, passes through the banks in shared memory.
        least_units: the fewest that could do.
    """

    space: str
    kind: str
    requests: int
    threads: int
    nbytes: int
    units: int
    least_units: int

    @property
    def excess(self) -> int:
        """Return the number of sectors or passes beyond the fewest possible."""
        return self.units - self.least_units


@dataclass(frozen=True)
class Line:
    """One line of a kernel's source, with its instructions by class, over threads, and its accesses.

    Attributes:
        file: path of the source; "" if it is not known.
    """

    file: str
    number: int
    instructions: Mapping[str, int]
    accesses: tuple[Access, ...]

    def __str__(self) -> str:
        return f"{self.file.rsplit('/', 1)[-1]}:{self.number}" if self.file else "unknown line"


@dataclass(frozen=True)
class Counts:
    """What one kernel does. Instructions and bytes are over threads: one instruction of a full warp counts 32.

    Attributes:
        blocks: of the grid.
        flops: a fused multiply-add counts two.
        instructions: by class.
        read, written: bytes that threads asked for, by memory space.
        lines: of its source.
    """

    blocks: int
    flops: int
    instructions: Mapping[str, int]
    read: Mapping[str, int]
    written: Mapping[str, int]
    lines: tuple[Line, ...]

    @property
    def executed(self) -> int:
        """Return the number of instructions of all classes."""
        return sum(self.instructions.values())

    def total(self, space: str, field: str) -> int:
        """Return the sum of one number of the accesses to a memory space."""
        return sum(getattr(each, field) for line in self.lines for each in line.accesses if each.space == space)

    @property
    def sectors(self) -> int:
        """Return the number of 32-byte sectors that accesses to global memory move."""
        return self.total("global", "units")

    @property
    def sectors_a_request(self) -> float:
        """Return the mean number of sectors that a warp's access to global memory moves."""
        requests = self.total("global", "requests")
        return self.sectors / requests if requests else 0.0

    @property
    def passes(self) -> int:
        """Return the number of passes through the banks of shared memory."""
        return self.total("shared", "units")

    @property
    def conflicts(self) -> int:
        """Return the number of bank conflicts: passes beyond the fewest possible."""
        return self.total("shared", "excess")

    def busiest(self) -> Line | None:
        """Return the line with the most instructions."""
        return max(self.lines, key=lambda line: sum(line.instructions.values()), default=None)

    def worst(self, space: str, field: str = "excess") -> Line | None:
        """Return the line with the most of a number of its accesses to a space; None if no line has any."""

        def amount(line: Line) -> int:
            return sum(getattr(each, field) for each in line.accesses if each.space == space)

        found = max(self.lines, key=amount, default=None)
        return found if found is not None and amount(found) else None


@dataclass(frozen=True)
class Counted:
    """A primitive's kernels and what each does.

    Attributes:
        plan: of a product.
        launches: of the kernels, at the smallest shape that was run.
        counts: of each, at the shape that was asked for.
        shapes: those that were run.
        exact: True if the counts are exact.
        error: if they are not, the largest share by which the check's total of a class was off.
    """

    plan: Plan | None
    launches: tuple[RecordedLaunch, ...]
    counts: tuple[Counts, ...]
    shapes: tuple[tuple[int, ...], ...]
    exact: bool
    error: float


@dataclass(frozen=True)
class Axis:
    """How a side of a shape is made smaller: low + position · unit, where `position` gives the side itself."""

    low: int
    unit: int
    position: int

    def side(self, position: int) -> int:
        """Return the side at a position."""
        return self.low + position * self.unit


def count(work: Workload, backend: GpuBackend, launches: list[RecordedLaunch], limit: int = WORK) -> Counted:
    """Run a primitive on a recording backend and count; see `gpubp.profiler.launches.recording`.

    Args:
        limit: of the work up to which the shape itself is run.

    Raises:
        ArgumentError: the shape cannot be counted in reasonable time.
    """
    plan = plan_of(work, backend) if work.is_product else None
    work = replace(work, plan=plan)
    if plan is not None and plan.stream_k:
        return _count_streamed(work, plan, backend, launches, limit)
    axes = [Axis(side, 0, 0) for side in work.shape]
    if prod(work.shape) > limit:
        axes = [_axis(side, *limits) for side, limits in zip(work.shape, _units(work, backend, plan), strict=True)]
    reduced = [number for number, axis in enumerate(axes) if axis.position]
    largest = tuple(axis.side(1 if axis.position else 0) for axis in axes)
    if prod(largest) > (MOST_WGMMA_WORK if plan is not None and plan.variant == "wgmma" else MOST_WORK):
        raise ArgumentError("shape", "x".join(map(str, work.shape)), "smaller: it cannot be counted within minutes")

    runs: dict[tuple[int, ...], list[RecordedLaunch]] = {}

    def numbers(position: dict[int, int]) -> list[Counter[Any]]:
        shape = tuple(axis.side(position.get(number, 0)) for number, axis in enumerate(axes))
        if shape not in runs:
            runs[shape] = _launches_of(work.at(shape), backend, launches)
        return [_numbers_of(launch) for launch in runs[shape]]

    corners = [dict(zip(reduced, corner, strict=True)) for corner in itertools.product((0, 1), repeat=len(reduced))]
    measured = [(corner, numbers(corner)) for corner in corners]
    wanted = {number: axes[number].position for number in reduced}
    found = [_at(wanted, measured, kernel) for kernel in range(len(measured[0][1]))]
    error = 0.0
    if reduced:
        check = dict.fromkeys(reduced, 2)
        expected = [_at(check, measured, kernel) for kernel in range(len(found))]
        error = max(map(_difference, expected, numbers(check)))
    first = next(iter(runs.values()))
    return Counted(plan, tuple(first), tuple(map(_counts_of, found)), tuple(runs), error == 0, error)


def _launches_of(work: Workload, backend: GpuBackend, launches: list[RecordedLaunch]) -> list[RecordedLaunch]:
    launches.clear()
    work.run(backend)
    return list(launches)


def _count_streamed(
    work: Workload, plan: Plan, backend: GpuBackend, launches: list[RecordedLaunch], limit: int
) -> Counted:
    """Run and count a product by stream-K, which is one launch: as it is, or in small grids."""
    if prod(work.shape) <= limit:
        own = _launches_of(work, backend, launches)
        return Counted(plan, tuple(own), (counts_of_launch(own[0]),), (work.shape,), True, 0.0)
    m, n, k = work.shape
    rows, columns = -(-m // plan.tile_m), -(-n // plan.tile_n)
    rows, columns = min(rows, 2 if columns > 1 else 4), min(columns, 2 if rows > 1 else 4)
    tiles = rows * columns
    deep, deeper = STREAMED_STEPS // tiles, STREAMED_STEPS * 3 // 2 // tiles
    shapes: list[tuple[int, ...]] = []

    def sample(deep: int, blocks: int) -> tuple[list[int], Counter[Any], RecordedLaunch]:
        """Return the terms of a grid, its numbers and its launch."""
        shape = min(m, rows * plan.tile_m), min(n, columns * plan.tile_n), deep * plan.tile_k - -k % plan.tile_k
        grid = replace(plan, stream_k=blocks)
        (launch,) = _launches_of(replace(work.at(shape), plan=grid), backend, launches)
        shapes.append(shape)
        return _terms(grid, *shape), _numbers_of(launch), launch

    # as many blocks as tiles share none, one less shares some, more share all
    grids = (deep, tiles), (deep, max(1, tiles - 1)), (deep, 5), (deeper, tiles), (deep, 7)
    found = [sample(*grid) for grid in grids]
    solved = np.linalg.pinv(np.array([terms for terms, _, _ in found], float))

    def at(terms: list[int]) -> Counter[Any]:
        """Return the numbers of a grid with these terms."""
        weights = terms @ solved
        keys = dict.fromkeys(key for _, numbers, _ in reversed(found) for key in numbers)  # the last one has all
        sums = {key: sum(w * numbers[key] for w, (_, numbers, _) in zip(weights, found, strict=True)) for key in keys}
        return Counter({key: round(number) for key, number in sums.items()})

    terms, numbers, _ = sample(deeper, 8)
    edges = 1 - m * n / (plan.blocks(m, n) * min(m, plan.tile_m) * min(n, plan.tile_n))
    error = max(_difference(at(terms), numbers), edges)
    counts = _counts_of(at(_terms(plan, m, n, k)))
    return Counted(plan, (found[0][2],), (counts,), tuple(shapes), error == 0, error)


def _terms(plan: Plan, m: int, n: int, k: int) -> list[int]:
    """Return what the work of stream-K is a sum over: tiles of depth, whole tiles, parts, shared tiles and blocks."""
    runs = plan_model.runs_of(plan, m, n, k)
    shared = runs.parts - runs.within
    return [runs.tiles * -(-k // plan.tile_k), runs.tiles - shared, runs.parts, shared, runs.blocks]


def plan_of(work: Workload, backend: GpuBackend) -> Plan:
    """Return the plan that the backend computes a product of this shape by."""
    m, n, k = work.shape
    backend.variant = work.variant
    found = Product(m, n, k, work.row_alignment, work.stored)
    return backend.execution(found, work.form, work.dtype == "tf32", work.plan).plan


# --- smaller shapes ---------------------------------------------------------------------------------------------------
def _axis(side: int, unit: int, least: int) -> Axis:
    """Return a side in steps of `unit` from `least` or a little more; the side itself if steps save nothing."""
    steps = (side - least) // unit if unit else 0
    return Axis(side - steps * unit, unit, steps) if steps > 2 else Axis(side, 0, 0)


def _units(work: Workload, backend: GpuBackend, plan: Plan | None) -> list[tuple[int, int]]:
    """Return for each side the step in which it can be made smaller, and down to what; (0, 0) if it cannot."""
    if plan is not None:
        depth = _depth_unit(plan)
        least = max(depth, plan.split_k * plan.tile_k * (plan.stages + 1))
        k = work.shape[2]
        axis = _axis(k, depth, least)
        same_parts = all(plan.parts(axis.side(each)) == plan.parts(k) for each in (0, 1, 2))
        rows, columns = _side_units(plan, *work.shape)
        gap = SECTOR // work.stored.itemsize  # so that rows of neighbouring tiles share no sector
        sides = [(rows, plan.cluster * plan.tile_m + gap), (columns, plan.tile_n + gap)]
        return [*sides, (depth, least) if same_parts else (0, 0)]
    if work.primitive == "update":
        return [(SAMPLE, SAMPLE)]
    rows, width = work.shape
    if work.primitive == "hadamard_derivative":
        whole = ELEMENTS // gcd(ELEMENTS, width)
        unit = whole * -(-SAMPLE // (whole * width))
        return [(unit, unit), (0, 0)]
    if work.primitive == "bias_gradient":
        return [(0, 0), (COLUMNS, COLUMNS)]  # the parts of the rows follow no line
    unit = ROWS[work.primitive]
    return [(unit, unit), (0, 0)]


def _side_units(plan: Plan, m: int, n: int, k: int) -> tuple[int, int]:
    """Return the steps of rows and columns: whole tiles and, if parts of the depth are added up, whole blocks of the
    kernel that does it.
    """
    height = plan.cluster * plan.tile_m
    if plan.parts(k) == 1:
        return height, plan.tile_n
    rows = REDUCE_BLOCK // gcd(REDUCE_BLOCK, height * n)
    columns = REDUCE_BLOCK // gcd(REDUCE_BLOCK, plan.tile_n * m)
    return rows * height, columns * plan.tile_n


def _depth_unit(plan: Plan) -> int:
    if plan.variant == "naive":
        return NAIVE_DEPTH
    # the steps of wgmma wait for barriers: no compiler joins them
    return plan.split_k * plan.tile_k * (1 if plan.variant == "wgmma" else UNROLLED)


# --- numbers and their interpolation ----------------------------------------------------------------------------------
def _numbers_of(launch: RecordedLaunch) -> Counter[Any]:
    """Return all that was counted of a launch, by keys."""
    report = launch.report
    found: Counter[Any] = Counter({("blocks",): launch.blocks, ("flops",): report.flops})
    for (_, location), classes in report.lines.items():
        for name, number in classes.items():
            found["instructions", *_place(location), name] += number
    for each in report.accesses:
        key = *_place(each.location), each.space, each.kind
        numbers = each.warps, each.threads, each.nbytes, each.units, each.least_units
        for name, number in zip(NUMBERS, numbers, strict=True):
            found["access", *key, name] += number
    return found


def _place(location: Any) -> tuple[str, int]:
    return ("", 0) if location is None else (location.file, location.line)


def _at(
    wanted: Mapping[int, int], measured: Iterable[tuple[Mapping[int, int], list[Counter[Any]]]], kernel: int
) -> Counter[Any]:
    """Return the numbers at a position, from those at the corners: linear along each axis."""
    found: Counter[Any] = Counter()
    for corner, numbers in measured:
        weight = prod(wanted[axis] if corner[axis] else 1 - wanted[axis] for axis in corner)
        for key, number in numbers[kernel].items():
            found[key] += weight * number
    return found


def _difference(expected: Counter[Any], found: Counter[Any]) -> float:
    """Return the largest share by which a total differs: instructions of a class, flops, a number of accesses."""
    if +expected == +found:
        return 0.0
    totals: list[Counter[Any]] = [Counter(), Counter()]
    for total, numbers in zip(totals, (expected, found), strict=True):
        for key, number in numbers.items():
            total[key[0], *key[3:]] += number
    return max(abs(totals[0][key] - number) / max(number, 1) for key, number in totals[1].items()) or 1e-9


def counts_of_launch(launch: RecordedLaunch) -> Counts:
    """Return what one launch did."""
    return _counts_of(_numbers_of(launch))


def _counts_of(numbers: Counter[Any]) -> Counts:
    classes: Counter[str] = Counter()
    places: dict[tuple[str, int], tuple[Counter[str], dict[tuple[str, str], Counter[str]]]] = {}
    for key, number in numbers.items():
        if key[0] in ("blocks", "flops") or not number:
            continue
        instructions, accesses = places.setdefault(key[1:3], (Counter(), {}))
        if key[0] == "instructions":
            instructions[key[3]] += number
            classes[key[3]] += number
        else:
            accesses.setdefault(key[3:5], Counter())[key[5]] = number
    lines = [
        Line(
            *place,
            dict(instructions.most_common()),
            tuple(Access(*kind, *(found[name] for name in NUMBERS)) for kind, found in accesses.items()),
        )
        for place, (instructions, accesses) in sorted(places.items())
    ]
    read: Counter[str] = Counter()
    written: Counter[str] = Counter()
    for each in (each for line in lines for each in line.accesses):
        if each.kind in ("load", "atomic"):
            read[each.space] += each.nbytes
        if each.kind != "load":
            written[each.space] += each.nbytes
    flops, blocks = numbers["flops",], numbers["blocks",]
    return Counts(blocks, flops, dict(classes.most_common()), dict(read), dict(written), tuple(lines))
