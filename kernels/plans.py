"""Which variant, tile and split a product is computed with: by its shape, its dtype and the chip. Pure Python.

A product has M rows, N columns and depth K (see kernels/cuda/forms.cuh). The rule of `choose`, for `pipelined`:

1. A tile counts only if it is less than twice as long as the result, in rows and in columns: no more than half of it
   may hang over the edge. The smallest side, 16, always counts. Where rows do not start on 16-byte boundaries, and
   copies move single elements, a tile counts only if a thread makes no more than `MAX_COPIES` of them and holds no more
   than `MAX_SUMS_UNALIGNED` sums.
2. Fill the chip first: take the largest tile of at least 64 × 64 that gives every multiprocessor a block.
3. If there is none, the largest tile that gives every multiprocessor a block once the depth is split into parts, each
   at least `LEAST_PART` deep (split-K).
4. If there is none, the largest tile of any size that gives every multiprocessor a block.
5. If there is none, what makes the most blocks: the smallest tile, split as far as rule 3 allows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gpubp.errors import ArgumentError, unknown_name

VARIANTS = ("naive", "tiled", "pipelined")
"""The ladder of product kernels, each adding one idea to the one before."""

ITEM_BYTES = {"float32": 4, "float64": 8}
LEAST_PART = 256
"""Depths that a part of a split product must have, so that its sums cost more than adding the parts up."""
MAX_THREADS = 1024
MAX_COPIES = 8
"""Copies of single elements that a thread may make for each tile: every one needs two registers for its address."""
MAX_SUMS_UNALIGNED = 64
"""Sums that a thread may hold besides those addresses."""
GRID_ROWS_LIMIT = 65535
"""Blocks that a grid may have in its second side."""


@dataclass(frozen=True)
class Chip:
    """What a plan must know of a chip.

    arch: real architecture, such as "sm_90". multiprocessors: how many it has. shared_per_block: shared memory that a
    block gets without asking for more, in bytes.
    """

    arch: str
    multiprocessors: int
    shared_per_block: int = 48 * 1024

    @property
    def has_async_copies(self) -> bool:
        """Whether cp.async exists: sm_80 and up."""
        return int(self.arch.removeprefix("sm_").rstrip("af")) >= 80


EMULATED_CHIP = Chip("sm_90", 132)
"""What the emulated device is taken for: an H100, so that it runs the kernels that an H100 would be given."""


@dataclass(frozen=True)
class Plan:
    """How one product is computed. Sizes are in elements.

    variant: "naive", "tiled" or "pipelined". dtype: "float32" or "float64".
    tile_m, tile_n: what a block computes of the result. tile_k: depth of the tiles in shared memory.
    thread_m, thread_n: what a thread computes of the result. stages: tiles that are in shared memory at a time.
    vector: the most elements that a copy to shared memory moves; a launch takes 1 where rows do not allow it.
    split_k: parts of the depth that blocks of their own sum up.

    Raises ArgumentError, which names the field, its value and what it must be a multiple of.
    """

    variant: str
    dtype: str
    tile_m: int
    tile_n: int
    tile_k: int = 1
    thread_m: int = 1
    thread_n: int = 1
    stages: int = 1
    vector: int = 1
    split_k: int = 1

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise unknown_name("variant", self.variant, VARIANTS)
        if self.dtype not in ITEM_BYTES:
            raise unknown_name("dtype", self.dtype, ITEM_BYTES)
        for field in ("tile_m", "tile_n", "tile_k", "thread_m", "thread_n", "stages", "vector", "split_k"):
            if not isinstance(getattr(self, field), int) or getattr(self, field) < 1:
                raise ArgumentError(field, getattr(self, field), "a whole number ≥ 1")
        if self.variant == "pipelined":
            self._check_pipelined()
        else:
            self._check_simple()

    def _check_threads(self) -> None:
        if self.threads > MAX_THREADS:
            raise ArgumentError("threads", self.threads, f"≤ {MAX_THREADS}: the tile over the thread's piece of it")

    def _check_simple(self) -> None:
        self._check_threads()
        for field in ("thread_m", "thread_n", "stages", "vector", "split_k"):
            if getattr(self, field) != 1:
                raise ArgumentError(field, getattr(self, field), f"1 with variant {self.variant!r}")
        if self.variant == "tiled":
            if self.tile_m not in (16, 32):
                raise ArgumentError("tile_m", self.tile_m, "16 or 32 with variant 'tiled'")
            for field in ("tile_n", "tile_k"):
                if getattr(self, field) != self.tile_m:
                    raise ArgumentError(field, getattr(self, field), f"tile_m, which is {self.tile_m}")

    def _check_pipelined(self) -> None:
        unit = self.unit
        if self.tile_k & (self.tile_k - 1):
            raise ArgumentError("tile_k", self.tile_k, "a power of two")
        _require_multiple("tile_k", self.tile_k, unit, f"16 bytes of {self.dtype}")
        if self.vector not in (1, unit):
            raise ArgumentError("vector", self.vector, f"1, or {unit}: 16 bytes of {self.dtype}")
        if self.stages < 2:
            raise ArgumentError("stages", self.stages, "≥ 2: one tile is used while the next one arrives")
        for tile, thread in (("tile_m", "thread_m"), ("tile_n", "thread_n")):
            side, piece = getattr(self, tile), getattr(self, thread)
            if piece not in (1, 2) or piece > unit:
                _require_multiple(thread, piece, unit, f"16 bytes of {self.dtype}, or 1 or 2")
            _require_multiple(tile, side, piece, thread)
            _require_multiple(f"{tile} / {thread}", side // piece, 8, "the threads of a warp along a side")
        self._check_threads()
        for tile in ("tile_m", "tile_n"):
            side = getattr(self, tile)
            copies = f"vector · threads = {self.vector} · {self.threads}"
            _require_multiple(f"{tile} · tile_k", side * self.tile_k, self.vector * self.threads, copies)

    @property
    def unit(self) -> int:
        """Elements of 16 bytes."""
        return 16 // ITEM_BYTES[self.dtype]

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.tile_m // self.thread_m * (self.tile_n // self.thread_n)

    @property
    def shared_bytes(self) -> int:
        """Static shared memory of a block."""
        if self.variant == "naive":
            return 0
        # the tiles of `tiled` have a padding column
        depth = self.tile_k + 1 if self.variant == "tiled" else self.tile_k
        return self.stages * (self.tile_m + self.tile_n) * depth * ITEM_BYTES[self.dtype]

    def copies(self, vector: int) -> int:
        """Copies of `vector` elements that a thread makes for each tile of its larger operand."""
        return max(self.tile_m, self.tile_n) * self.tile_k // (vector * self.threads)

    @property
    def suits_unaligned(self) -> bool:
        """Whether the rule takes this tile for rows off 16-byte boundaries, where copies move single elements."""
        return self.copies(1) <= MAX_COPIES and self.thread_m * self.thread_n <= MAX_SUMS_UNALIGNED

    def blocks(self, m: int, n: int) -> int:
        """Tiles that cover an M × N result."""
        return -(-m // self.tile_m) * -(-n // self.tile_n)

    def part(self, k: int) -> int:
        """Depth of each part of a product split in split_k: a multiple of tile_k; the last part may be less deep."""
        return -(-k // (self.split_k * self.tile_k)) * self.tile_k

    def parts(self, k: int) -> int:
        """Parts of depth K that are not empty: split_k, or fewer where K has not enough tiles."""
        return -(-k // self.part(k))

    def on(self, chip: Chip) -> Plan:
        """This plan as the chip runs it: without cp.async the copies go through registers, and two stages are enough.

        Raises ArgumentError if its shared memory does not fit.
        """
        plan = self
        if self.variant == "pipelined" and not chip.has_async_copies:
            plan = replace(self, stages=2)
        if plan.shared_bytes > chip.shared_per_block:
            raise ArgumentError(
                "shared_bytes",
                plan.shared_bytes,
                f"≤ {chip.shared_per_block} on {chip.arch}; it is stages · (tile_m + tile_n) · tile_k elements",
            )
        return plan


def _require_multiple(name: str, value: int, divisor: int, meaning: str) -> None:
    if value % divisor:
        raise ArgumentError(name, value, f"a multiple of {divisor} ({meaning})")


_LARGE = {
    "float32": ((256, 128, 16, 8, 32, 4), (128, 128, 8, 8, 64, 3), (128, 64, 8, 8, 64, 3), (64, 128, 8, 8, 64, 3)),
    "float64": ((128, 64, 8, 4, 64, 3), (64, 128, 4, 8, 64, 3)),
}
_SMALL = (
    (64, 64, 8, 4, 64, 3),
    (128, 32, 8, 4, 64, 3),
    (32, 128, 4, 8, 64, 3),
    (64, 32, 4, 4, 64, 3),
    (32, 64, 4, 4, 64, 3),
    (32, 32, 4, 4, 128, 3),
    (64, 16, 4, 2, 128, 3),
    (16, 64, 2, 4, 128, 3),
    (32, 16, 4, 2, 128, 3),
    (16, 32, 2, 4, 128, 3),
    (16, 16, 2, 2, 128, 3),
)
"""tile_m, tile_n, thread_m, thread_n, bytes of tile_k, stages; the largest first.

Tiles are 64 bytes deep. Small ones are 128, where it costs little memory and halves the number of barriers; the largest
is 32, so that more stages fit and the compiler has no room to read so far ahead that registers spill. Stages are as
many as 48 KiB hold, up to 3, or 4 for the largest.
"""


def _pipelined(dtype: str, m: int, n: int, thread_m: int, thread_n: int, depth_bytes: int, stages: int) -> Plan:
    item = ITEM_BYTES[dtype]
    return Plan("pipelined", dtype, m, n, depth_bytes // item, thread_m, thread_n, stages, vector=16 // item)


PIPELINED: dict[str, tuple[Plan, ...]] = {
    dtype: tuple(_pipelined(dtype, *sizes) for sizes in large + _SMALL) for dtype, large in _LARGE.items()
}
"""The tiles that `choose` chooses from, by dtype."""


def choose(m: int, n: int, k: int, dtype: str, chip: Chip, variant: str = "pipelined", aligned: bool = True) -> Plan:
    """The plan for a product of M × N with depth K, by the rule at the head of this module.

    aligned: whether all rows of the operands start on 16-byte boundaries.

    Raises ArgumentError for a side < 1, an unknown dtype or an unknown variant.
    """
    for name, side in (("m", m), ("n", n), ("k", k)):
        if side < 1:
            raise ArgumentError(name, side, "≥ 1")
    if dtype not in ITEM_BYTES:
        raise unknown_name("dtype", dtype, ITEM_BYTES)
    if variant == "naive":
        return Plan("naive", dtype, 8, 32)
    if variant == "tiled":
        wide = Plan("tiled", dtype, 32, 32, 32)
        return wide if wide.blocks(m, n) >= chip.multiprocessors else Plan("tiled", dtype, 16, 16, 16)
    if variant != "pipelined":
        raise unknown_name("variant", variant, VARIANTS)

    candidates = [
        plan
        for plan in PIPELINED[dtype]
        if (plan.tile_m < 2 * m or plan.tile_m == 16) and (plan.tile_n < 2 * n or plan.tile_n == 16)
    ]
    if not aligned:
        candidates = [replace(plan, vector=1) for plan in candidates if plan.suits_unaligned]
    most_parts = max(1, k // LEAST_PART)
    filling = [plan for plan in candidates if plan.blocks(m, n) >= chip.multiprocessors]
    large = [plan for plan in filling if plan.tile_m * plan.tile_n >= 64 * 64]
    if large:
        return large[0].on(chip)
    for plan in candidates:
        parts = -(-chip.multiprocessors // plan.blocks(m, n))
        if 1 < parts <= most_parts:
            return replace(plan, split_k=parts).on(chip)
    if filling:
        return filling[0].on(chip)
    return replace(candidates[-1], split_k=most_parts).on(chip)


# --- reductions -------------------------------------------------------------------------------------------------------
SUM_THREADS = 256
MAX_SUM_BLOCKS = 1024
TEAM_WIDTH = 1024
"""Longest row that one warp takes; a block takes a longer one."""


def sum_blocks(size: int) -> int:
    """Blocks of the first stage of a sum over `size` elements: the same on every chip, and so is the sum."""
    return max(1, min(MAX_SUM_BLOCKS, -(-size // (8 * SUM_THREADS))))


def row_team(width: int) -> int:
    """Threads that take one row of this width."""
    return 32 if width <= TEAM_WIDTH else 256


def column_sum_rows(rows: int, width: int, chip: Chip) -> int:
    """Rows of each part in the first stage of a column sum: enough parts for two blocks a multiprocessor, of ≥ 64."""
    columns = -(-width // 32)
    parts = max(1, min(rows // 64, -(-2 * chip.multiprocessors // columns), GRID_ROWS_LIMIT))
    return -(-rows // parts)
