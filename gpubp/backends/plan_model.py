"""How long a product takes by each plan, by closed formulas, and the choice by them. Pure Python.

A model of what `gpubp profile` counts, in clocks of a multiprocessor. For each tile of depth that a block takes:

- arithmetic: its multiply-adds, at the rate of the architecture (`gpubp.chips.Architecture`).
- issue: the instructions of the main loop in the machine code, one a clock for each of four schedulers. How many they
  are, and how many registers a thread takes, stands in `compiled_plans.json`, which `make profiles` writes.
- shared memory: passes through its banks, for the copies and for the operands as threads or warps read them; as in
  `gpubp.profiler.limits`, 128 bytes a pass.
- L2: the bytes that the copies ask it for; and what an epilogue stores, and the sums of parts that are added up.

The busiest of these takes a block's time while others compute beside it. The multiprocessor with the most blocks needs
their sum: `Estimate.busy`. But a block has a length of its own too: it waits at every barrier, and its few warps cannot
use four schedulers. Blocks that a multiprocessor holds at a time fill these gaps for each other; its waves of blocks
last that long at least: `Estimate.waiting`. A product takes the longer of the two; if its depth is split, another
launch adds the parts up. By stream-K (kernels/cuda/product_stream_k.cuh) there is no such launch: there are as many
blocks as the chip holds at a time, each with an equal run of all tiles' depths. Blocks that share a tile store their
parts of it, and the last one adds them up, which is in the time of its multiprocessor: `Runs`.

What all plans have in common is left out: device memory moves each operand once, whatever the plan, and every launch
waits for its first tiles and its last stores.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from gpubp import chips
from gpubp.backends.instances import cuda_rung
from gpubp.backends.plans import (
    CONSUMER_ROWS,
    FORMS,
    REDUCE_BLOCK,
    SQUARE_SIDES,
    VARIANTS,
    Plan,
    kinds_of,
    require_form,
    require_tensor_cores,
    require_wgmma,
    square_plan,
    streamed_for,
    tiles_for,
)
from gpubp.chips import WARP, Chip
from gpubp.dtypes import canonical
from gpubp.errors import ArgumentError, unknown_name

TABLE = Path(__file__).with_name("compiled_plans.json")

SCHEDULERS = 4
PASS = 128
"""Bytes of a pass through the banks of shared memory."""
L2_BYTES, L2_PORT = 5120, 64
"""Bytes that L2 gives all multiprocessors together a clock, and one of them at most (NVIDIA A100 Tensor Core GPU
Architecture whitepaper; for no other chip the vendor publishes it)."""

BARRIER = 40
"""Clocks that a block waits for at each tile: the barrier, and the first operands from shared memory."""
LAUNCH = 300
"""Clocks that the launch which adds up parts costs besides its work: the least that one of a graph may take."""
REDUCE_LATENCY = 40
"""Clocks that each part adds to an element's sum at least, as loads from L2 overlap."""
REDUCE_RUN, REDUCE_PART = 50, 4
"""Instructions of a thread of `Reduction` for each run of its elements, and for each part of one besides an addition an
element; the epilogues of the primitives differ by some."""

L2_LATENCY = 280
"""Clocks until what a thread asks L2 for is there, as microbenchmarks of A100 and H100 find (260 to 280)."""
ARRIVAL = 3 * L2_LATENCY
"""Clocks in which the last block of stream-K that arrives at a tile waits for L2: until its own part is there, the
number of blocks that have arrived, and the parts of the others."""

STREAM_GAIN = 1.01
"""By stream-K a product must be this many times as fast at least: it takes working memory, and the formulas do not tell
smaller differences."""

MOST_PARTS = 64
"""Parts of a depth, at most: each is another array of sums."""


class Compiled(NamedTuple):
    """What the compiler makes of a plan: registers of a thread, and of the main loop, which may be unrolled, all
    instructions and those that multiply."""

    registers: int
    loop: int
    multiplies: int


class Step(NamedTuple):
    """What a block does for one tile of depth; instructions are of warps.

    Attributes:
        multiplies: FFMA, DFMA or tensor instructions.
        instructions: all.
        passes: through the banks of shared memory, and of requests to global memory through L1.
        nbytes: asked of L2.
    """

    multiplies: int
    instructions: float
    passes: float
    nbytes: int


class Estimate(NamedTuple):
    """The clocks of a product.

    Attributes:
        busy: of the busiest part of the multiprocessor with the most blocks.
        waiting: that its blocks, one wave after the other, last at least.
        adding: that the launch which adds up the parts of a split depth keeps it busy; 0 without.
        pause: that this launch costs besides.
    """

    busy: float
    waiting: float
    adding: float = 0.0
    pause: float = 0.0

    @property
    def clocks(self) -> float:
        """Return the clocks of the whole."""
        return max(self.busy, self.waiting) + self.adding + self.pause


# --- what is counted --------------------------------------------------------------------------------------------------
def compiled(plan: Plan, form: str) -> Compiled:
    """Return what the compiler makes of a plan for a form of product, by the table.

    Raises:
        ArgumentError: the plan is not in the table.
    """
    found = _table().get(key(plan), {}).get(form)
    if found is None:
        raise ArgumentError("plan", key(plan), f"in {TABLE.name}, which `make profiles` writes, for form {form}")
    return Compiled(*found)


def key(plan: Plan) -> str:
    """Return the name of a plan in the table: float16 compiles as bfloat16 does."""
    return f"{'bfloat16' if plan.dtype == 'float16' else plan.dtype} {cuda_rung(plan)}"


@functools.cache
def _table() -> dict[str, dict[str, list[int]]]:
    return json.loads(TABLE.read_text(encoding="utf-8"))["plans"]


def step_of(plan: Plan, form: str, through_registers: bool) -> Step:
    """Return what a block does for one tile of depth.

    Args:
        through_registers: True if copies to shared memory go through registers: without cp.async, and for single
            elements of 2 bytes.
    """
    warps, elements = plan.threads // WARP, (plan.tile_m + plan.tile_n) * plan.tile_k
    if plan.variant == "tensorcore":
        # one instruction for 16 × 8 sums; on sm_80 float64 takes four, which is never what limits
        multiplies = plan.tile_m * plan.tile_n // (16 * 8) * (plan.tile_k // plan.fragment_depth)
        reads = warps * (plan.warp_m + plan.warp_n) * plan.tile_k * plan.item_bytes // PASS
    else:
        multiplies = plan.tile_m * plan.tile_n * plan.tile_k // WARP
        # each thread reads its own: 16 bytes of a warp are four passes, whoever else wants the same
        reads = warps * (plan.thread_m + plan.thread_n) * plan.tile_k * plan.item_bytes // 4
    code = compiled(plan, form)
    # a pass of a warp's copies moves what its threads move, 128 bytes at most
    copies = elements * plan.item_bytes / min(PASS, WARP * plan.vector * plan.item_bytes)
    if through_registers:
        copies *= 2  # the load passes L1 too
    instructions = multiplies * code.loop / code.multiplies
    return Step(multiplies, instructions, reads + copies, elements * plan.item_bytes)


def l2_bytes(multiprocessors: int) -> float:
    """Return the bytes that L2 gives a multiprocessor a clock if all of them ask."""
    return min(L2_PORT, L2_BYTES / multiprocessors)


def end_passes(plan: Plan, item_bytes: int) -> float:
    """Return the passes in which a block stores its part of the result."""
    return plan.tile_m * plan.tile_n * item_bytes / PASS


class Runs(NamedTuple):
    """How stream-K shares out a product.

    Attributes:
        blocks: of the grid.
        depth: tiles of depth in a block's run, at most.
        tiles: of the result.
        within: of the blocks, those whose run ends within a tile.
        parts: stored, and read again: of all tiles that several blocks share.
        most: parts of one tile, at most; 1: none is shared.
    """

    blocks: int
    depth: int
    tiles: int
    within: int
    parts: int
    most: int


def runs_of(plan: Plan, m: int, n: int, k: int) -> Runs:
    """Return how stream-K shares out an M × N product of depth K.

    A block's run ends within a tile unless the place is a multiple of both their lengths. If runs are shorter than
    tiles, every tile has such a place within, else none has more than one.
    """
    tiles, deep = plan.blocks(m, n), -(-k // plan.tile_k)
    (blocks,) = plan.grid(m, n, k)
    depth = -(-tiles * deep // blocks)
    within = blocks - 1 - (tiles * deep - 1) // math.lcm(depth, deep)
    shared = within if depth >= deep else tiles
    return Runs(blocks, depth, tiles, within, within + shared, (deep - 2) // depth + 2 if within else 1)


# --- clocks -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Candidate:
    """A plan on a chip, without parts, and what does not depend on the shape.

    Attributes:
        plan: of stream-K with as many blocks as the chip holds.
        resident: blocks that a multiprocessor holds at a time.
        step: clocks that a tile of depth keeps a multiprocessor busy.
        alone: clocks that it takes a block at least, with its own warps only.
        end: clocks that the epilogue keeps a multiprocessor busy.
    """

    plan: Plan
    resident: int
    step: float
    alone: float
    end: float

    def estimate(self, m: int, n: int, k: int, multiprocessors: int, parts: int) -> Estimate:
        """Return the clocks of a product whose depth is split into so many parts, or fewer if none may be empty."""
        plan = self.plan
        if plan.stream_k:
            return self._streamed(runs_of(plan, m, n, k), -(-k // plan.tile_k), multiprocessors)
        tiles = -(-k // plan.tile_k)
        length = -(-tiles // parts)
        parts = -(-tiles // length)
        blocks = plan.cluster * -(-m // (plan.cluster * plan.tile_m)) * -(-n // plan.tile_n) * parts
        most = -(-blocks // multiprocessors)
        busy = most * (length * self.step + self.end)
        waiting = -(-most // self.resident) * (length * self.alone + self.end)
        if parts == 1:
            return Estimate(busy, waiting)
        return Estimate(busy, waiting, *adding(m, n, parts, plan.sum_bytes, multiprocessors))

    def _streamed(self, runs: Runs, deep: int, multiprocessors: int) -> Estimate:
        """Return the clocks of stream-K, with tiles so deep.

        The multiprocessor with the most blocks has its share of all parts. The block that waits longest ends one tile,
        begins another and adds up the most parts.
        """
        moved = (2 * runs.parts + runs.tiles) / runs.blocks * self.end
        busy = -(-runs.blocks // multiprocessors) * (runs.depth * self.step + moved)
        waiting = runs.depth * self.alone + (runs.depth - 1) // deep * L2_LATENCY + self.end
        if runs.most > 1:
            waiting += L2_LATENCY + ARRIVAL + (1 + runs.most) * self.end
        return Estimate(busy, waiting)

    def splits(self, m: int, n: int, k: int, multiprocessors: int) -> list[int]:
        """Return the numbers of parts that are worth a look: those that fill the chip once or more."""
        plan = self.plan
        if plan.stream_k:
            return [1]
        tiles = -(-m // plan.tile_m) * -(-n // plan.tile_n)
        most = min(MOST_PARTS, -(-k // plan.tile_k))
        found = {min(most, wave * multiprocessors // tiles) for wave in range(1, self.resident + 1)}
        return [1, *sorted(parts for parts in found if parts > 1)]


def candidate(plan: Plan, form: str, chip: Chip) -> Candidate:
    """Return what does not depend on the shape.

    Args:
        plan: as in the tables of `gpubp.backends.plans`, for the alignment at hand; not yet as the chip runs it.
    """
    architecture = chips.architecture(chip.arch)
    own, limits = plan.on(chip), architecture.multiprocessor
    through_registers = not chip.has_async_copies or plan.vector * plan.item_bytes < 4
    step, registers = step_of(plan, form, through_registers), compiled(plan, form).registers
    resident = min(
        limits.blocks,
        limits.blocks_by_threads(plan.threads),
        limits.blocks_by_registers(plan.threads, registers),
        limits.blocks_by_shared_memory(own.shared_bytes),
    )
    depths = plan.tile_m * plan.tile_n * plan.tile_k
    arithmetic = depths / architecture.multiply_adds(plan.dtype, plan.variant == "tensorcore")
    l2 = l2_bytes(chip.multiprocessors)
    busy = max(arithmetic, step.instructions / SCHEDULERS, step.passes, step.nbytes / l2)
    # a block of few warps, or of a number that is no multiple of the schedulers, leaves some of them idle
    warps = plan.threads // WARP
    idle = -(-warps // SCHEDULERS) * SCHEDULERS / warps
    alone = max(busy, max(arithmetic, step.instructions / SCHEDULERS) * idle) + BARRIER
    end = end_passes(plan, plan.sum_bytes) * PASS / l2
    resident = max(1, resident)
    if plan.stream_k:
        plan = replace(plan, stream_k=resident * chip.multiprocessors)
    return Candidate(plan, resident, busy, alone, end)


def _of_warpgroups(plan: Plan, chip: Chip) -> Candidate:
    """Return what does not depend on the shape, for `wgmma`: matrix units and copies run on their own, and no issue of
    instructions nor a barrier of the block holds them up."""
    multiply_adds = chips.architecture(chip.arch).wgmma * 2 / plan.item_bytes
    arithmetic = plan.tile_m * plan.tile_n * plan.tile_k / multiply_adds
    copied = (plan.tile_m + plan.tile_n) * plan.tile_k * plan.item_bytes
    asked = (plan.tile_m + plan.tile_n / plan.cluster) * plan.tile_k * plan.item_bytes
    # each consumer reads its own rows of A, and all of B
    read = plan.tile_m // CONSUMER_ROWS * (CONSUMER_ROWS + plan.tile_n) * plan.tile_k * plan.item_bytes
    l2 = l2_bytes(chip.multiprocessors)
    step = max(arithmetic, (copied + read) / PASS, asked / l2)
    end = end_passes(plan, plan.sum_bytes) * PASS / l2
    return Candidate(plan, plan.resident, step, step, end)


def adding(m: int, n: int, parts: int, item_bytes: int, multiprocessors: int) -> tuple[float, float]:
    """Return the last two fields of the estimate of a product whose M × N sums of this size have so many parts."""
    most = -(-m * n // (REDUCE_BLOCK * multiprocessors))  # blocks
    instructions = REDUCE_BLOCK // WARP * reduce_instructions(n, parts, item_bytes)
    traffic = (parts + 1) * REDUCE_BLOCK * item_bytes
    busy = most * max(instructions / SCHEDULERS, traffic / l2_bytes(multiprocessors))
    return busy, LAUNCH + max(0.0, parts * REDUCE_LATENCY - busy)


def reduce_instructions(n: int, parts: int, item_bytes: int) -> float:
    """Return the instructions of a thread that adds up the parts of an element, of a row of N."""
    widest = 16 // item_bytes
    run = 1 if n % widest else widest
    return (REDUCE_RUN + (REDUCE_PART + run) * parts) / run


def best(candidates: Sequence[Candidate], m: int, n: int, k: int, multiprocessors: int) -> tuple[Plan, Estimate]:
    """Return the plan of the least clocks, and the estimate; of equals the first, with the fewest parts, and one of
    stream-K only for `STREAM_GAIN`."""
    found, parts, estimate = min(_estimates(candidates, m, n, k, multiprocessors), key=_rank)
    return replace(found.plan, split_k=parts), estimate


def ranked(
    candidates: Sequence[Candidate], m: int, n: int, k: int, multiprocessors: int
) -> list[tuple[Plan, Estimate]]:
    """Return all plans that `best` looks at, in its order."""
    found = sorted(_estimates(candidates, m, n, k, multiprocessors), key=_rank)
    return [(replace(each.plan, split_k=parts), estimate) for each, parts, estimate in found]


def _estimates(
    candidates: Sequence[Candidate], m: int, n: int, k: int, multiprocessors: int
) -> Iterator[tuple[Candidate, int, Estimate]]:
    for each in candidates:
        if each.plan.cluster > 1 and m <= each.plan.tile_m:
            continue  # of each cluster a block would have no rows; there is a plan of single blocks besides
        for parts in each.splits(m, n, k, multiprocessors):
            yield each, parts, each.estimate(m, n, k, multiprocessors, parts)


def _rank(found: tuple[Candidate, int, Estimate]) -> float:
    each, _, estimate = found
    return estimate.clocks * STREAM_GAIN if each.plan.stream_k else estimate.clocks


# --- the choice -------------------------------------------------------------------------------------------------------
def choose(
    m: int,
    n: int,
    k: int,
    dtype: str,
    chip: Chip,
    variant: str = "pipelined",
    alignment: int = 16,
    form: str = "NT",
    stream: bool = True,
    others: tuple[str, ...] = (),
) -> Plan:
    """Return the plan of the least time for a product of M × N with depth K: the same on every machine, for a chip.

    Args:
        m, n, k: sides and depth of the product.
        dtype: what is multiplied: of `plans.kinds_of(variant)`.
        chip: what the plan is for.
        variant: the rung of the ladder.
        alignment: bytes that all rows of the operands start on multiples of.
        form: how the operands lie in memory, of `FORMS`.
        stream: whether stream-K may be chosen.
        others: further rungs to choose from; each has the dtype.

    Raises:
        ArgumentError: a side < 1, an unknown variant or form, a dtype that it does not have, or not in this form, or
            "tensorcore" on a chip without.
    """
    for name, side in (("m", m), ("n", n), ("k", k)):
        if side < 1:
            raise ArgumentError(name, side, "≥ 1")
    if variant not in VARIANTS:
        raise unknown_name("variant", variant, VARIANTS)
    if form not in FORMS:
        raise unknown_name("form", form, FORMS)
    dtype = canonical("dtype", dtype, kinds_of(variant))
    if variant == "naive":
        return Plan("naive", dtype, 8, 32)
    if variant in SQUARE_SIDES:
        small, large = (square_plan(variant, dtype, side) for side in SQUARE_SIDES[variant])
        return large if large.blocks(m, n) >= chip.multiprocessors else small
    found = [each for name in (variant, *others) for each in candidates(dtype, chip, name, alignment, form, stream)]
    return best(found, m, n, k, chip.multiprocessors)[0].on(chip)


@functools.lru_cache(maxsize=256)
def candidates(
    dtype: str, chip: Chip, variant: str, alignment: int = 16, form: str = "NT", stream: bool = True
) -> tuple[Candidate, ...]:
    """Return what `choose` chooses from, for `pipelined` and `tensorcore`, the largest tile first; see there.

    Stream-K comes last: where no tile is shared it is as good as another, and not taken.
    """
    require_form("variant", variant, dtype, form)
    if variant == "wgmma":
        require_wgmma(chip)
        return tuple(_of_warpgroups(plan, chip) for plan in tiles_for(dtype, variant) if plan.fits(chip))
    if variant == "tensorcore":
        require_tensor_cores(chip, dtype)
    tiles = tiles_for(dtype, variant, alignment)
    if stream:
        tiles += streamed_for(dtype, variant, alignment)
    return tuple(candidate(plan, form, chip) for plan in tiles if plan.fits(chip))
