"""Which variant, tile and split a product is computed with: by its shape, its dtype and the chip. Pure Python.

A product has M rows, N columns and depth K (see kernels/cuda/forms.cuh). The rule of `choose`, for `pipelined` and
`tensorcore`:

1. A tile counts only if its shared memory fits on the chip, and if it is less than twice as long as the result, in rows
   and in columns: no more than half of it may hang over the edge. The smallest side always counts. Where rows do not
   start on 16-byte boundaries, and copies move fewer elements, a tile counts only if a thread makes no more than
   `MAX_COPIES` of them and holds no more than `MAX_SUMS_UNALIGNED` sums.
2. Fill the chip first: take the largest tile of at least 64 × 64 that gives every multiprocessor a block.
3. If there is none, the largest tile that gives every multiprocessor a block once the depth is split into parts, each
   at least `LEAST_PART` deep (split-K).
4. If there is none, the largest tile of any size that gives every multiprocessor a block.
5. If there is none, what makes the most blocks: the smallest tile, split as far as rule 3 allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from gpubp.chips import MAX_GRID, MAX_THREADS, WARP, Chip
from gpubp.dtypes import ARITHMETIC, MIXED, PLAIN, canonical
from gpubp.errors import ArgumentError, unknown_name

THREAD_VARIANTS = ("naive", "tiled", "blocked", "pipelined")
"""The rungs on which every thread computes on its own, in the dtype of the arrays: any chip has what they need."""
VARIANTS = (*THREAD_VARIANTS, "tensorcore")
"""The ladder of product kernels, each adding one idea to the one before."""

LEAST_PART = 256
"""Depths that a part of a split product must have, so that its sums cost more than adding the parts up."""
MAX_COPIES = 8
"""Copies of less than 16 bytes that a thread may make for each tile: every one needs two registers for its address."""
MAX_SUMS_UNALIGNED = 64
"""Sums that a thread may hold besides those addresses."""


@dataclass(frozen=True)
class Plan:
    """How one product is computed. Sizes are in elements.

    variant: one of `VARIANTS`. dtype: what is multiplied, of `gpubp.dtypes.PLAIN` or, for "tensorcore", `MIXED`.
    tile_m, tile_n: what a block computes of the result. tile_k: depth of the tiles in shared memory.
    thread_m, thread_n: what a thread computes of the result, where threads compute on their own.
    stages: tiles that are in shared memory at a time.
    vector: the most elements that a copy to shared memory moves; a launch takes fewer where rows do not allow it.
    split_k: parts of the depth that blocks of their own sum up.
    warp_m, warp_n: what a warp computes of the result, for "tensorcore".

    Raises:
        ArgumentError: a size that cannot be; it names the field, its value and what it must be.
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
    warp_m: int = 1
    warp_n: int = 1

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise unknown_name("variant", self.variant, VARIANTS)
        object.__setattr__(self, "dtype", canonical("dtype", self.dtype, _kinds(self.variant)))
        for each in fields(self)[2:]:
            size = getattr(self, each.name)
            if not isinstance(size, int) or size < 1:
                raise ArgumentError(each.name, size, "a whole number ≥ 1")
        if self.variant == "pipelined":
            self._check_ones("warp_m", "warp_n")
            self._check_pipelined()
        elif self.variant == "tensorcore":
            self._check_ones("thread_m", "thread_n")
            self._check_tensorcore()
        else:
            self._check_ones("stages", "vector", "split_k", "warp_m", "warp_n")
            self._check_simple()

    def _check_threads(self) -> None:
        if self.threads > MAX_THREADS:
            raise ArgumentError("threads", self.threads, f"≤ {MAX_THREADS}: the tile over the thread's piece of it")

    def _check_ones(self, *names: str) -> None:
        for field in names:
            if getattr(self, field) != 1:
                raise ArgumentError(field, getattr(self, field), f"1 with variant {self.variant!r}")

    def _check_simple(self) -> None:
        if self.variant == "naive":
            self._check_ones("thread_m", "thread_n")
        else:
            self._check_square()
        self._check_threads()

    def _check_square(self) -> None:
        small, large = SQUARE_SIDES[self.variant]
        if self.tile_m not in (small, large):
            raise ArgumentError("tile_m", self.tile_m, f"{small} or {large} with variant {self.variant!r}")
        for field, must in _square(self.variant, self.tile_m).items():
            if getattr(self, field) != must:
                expected = f"{must} with variant {self.variant!r} and tile_m {self.tile_m}"
                raise ArgumentError(field, getattr(self, field), expected)

    def _check_pipelined(self) -> None:
        unit = self.unit
        _require_power_of_two("tile_k", self.tile_k)
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
        self._check_copies()

    def _check_tensorcore(self) -> None:
        for tile, warp in (("tile_m", "warp_m"), ("tile_n", "warp_n")):
            side, piece = getattr(self, tile), getattr(self, warp)
            _require_power_of_two(warp, piece)
            _require_multiple(warp, piece, 16, "the sides of a fragment")
            _require_power_of_two(tile, side)
            _require_multiple(tile, side, piece, warp)
            _require_multiple(tile, side, 4 * self.unit, f"64 bytes of {self.dtype}: four units to permute")
        _require_power_of_two("tile_k", self.tile_k)
        _require_multiple(
            "tile_k", self.tile_k, 4 * self.unit, f"64 bytes of {self.dtype}: two fragments to take turns"
        )
        if self.stages < 3:
            raise ArgumentError("stages", self.stages, "≥ 3: one tile is used while two are on their way")
        if self.vector not in (1, 2, self.unit):
            raise ArgumentError("vector", self.vector, f"1, 2, or {self.unit}: 16 bytes of {self.dtype}")
        self._check_threads()
        self._check_copies()

    def _check_copies(self) -> None:
        for tile in ("tile_m", "tile_n"):
            side = getattr(self, tile)
            copies = f"vector · threads = {self.vector} · {self.threads}"
            _require_multiple(f"{tile} · tile_k", side * self.tile_k, self.vector * self.threads, copies)

    @property
    def item_bytes(self) -> int:
        """Bytes of an element of the operands."""
        return ARITHMETIC[self.dtype].item_bytes

    @property
    def unit(self) -> int:
        """Elements of 16 bytes."""
        return 16 // self.item_bytes

    @property
    def threads(self) -> int:
        """Threads of a block."""
        if self.variant == "tensorcore":
            return self.tile_m // self.warp_m * (self.tile_n // self.warp_n) * WARP
        return self.tile_m // self.thread_m * (self.tile_n // self.thread_n)

    @property
    def sums(self) -> int:
        """Return the sums that a thread holds."""
        return self.tile_m * self.tile_n // self.threads

    @property
    def shared_bytes(self) -> int:
        """Return the bytes of a block's shared memory: static, but for `tensorcore`, which asks at the launch."""
        if self.variant == "naive":
            return 0
        sides, depth = self.tile_m + self.tile_n, self.tile_k
        if self.variant == "tiled":
            depth += 1  # a column of padding
        elif self.variant == "blocked":
            sides += 2 * self.unit  # 16 bytes of padding for each line
        return self.stages * sides * depth * self.item_bytes

    def copies(self, vector: int) -> int:
        """Return how many copies of `vector` elements a thread makes for each tile of its larger operand."""
        return max(self.tile_m, self.tile_n) * self.tile_k // (vector * self.threads)

    def suits_vector(self, vector: int) -> bool:
        """True if the rule takes this tile where copies move `vector` elements."""
        return vector == self.unit or (self.copies(vector) <= MAX_COPIES and self.sums <= MAX_SUMS_UNALIGNED)

    def for_alignment(self, alignment: int) -> Plan:
        """Return this plan for operands whose rows all start on multiples of `alignment` bytes.

        Copies move 16 bytes; where rows do not allow it, single elements, or those of `tensorcore` pairs.
        """
        if alignment % 16 == 0:
            return self
        pairs = self.variant == "tensorcore" and alignment % (2 * self.item_bytes) == 0
        return replace(self, vector=min(self.vector, 2 if pairs else 1))

    def blocks(self, m: int, n: int) -> int:
        """Return how many tiles cover an M × N result."""
        return -(-m // self.tile_m) * -(-n // self.tile_n)

    def grid(self, m: int, n: int) -> tuple[int, ...]:
        """Return the sides of the grid, in blocks, for an M × N result."""
        if self.variant in ("pipelined", "tensorcore"):
            return (self.blocks(m, n),)  # a block finds its tile by its number
        return -(-m // self.tile_m), -(-n // self.tile_n)

    @property
    def block(self) -> tuple[int, ...]:
        """The sides of a block, in threads."""
        if self.variant in ("pipelined", "tensorcore"):
            return (self.threads,)
        return self.tile_n // self.thread_n, self.tile_m // self.thread_m

    def part(self, k: int) -> int:
        """Return the depth of each part of a split product: a multiple of tile_k; the last may be less deep."""
        return -(-k // (self.split_k * self.tile_k)) * self.tile_k

    def parts(self, k: int) -> int:
        """Return how many parts of depth K are not empty: split_k, or fewer if K has not enough tiles."""
        return -(-k // self.part(k))

    def on(self, chip: Chip) -> Plan:
        """Return this plan as the chip runs it: without cp.async copies go through registers, and two stages do.

        Raises:
            ArgumentError: its shared memory does not fit, or it needs tensor cores and the chip has none.
        """
        plan = self
        if self.variant == "tensorcore":
            _require_tensor_cores(chip)
        elif self.variant == "pipelined" and not chip.has_async_copies:
            plan = replace(self, stages=2)
        if not plan.fits(chip):
            raise ArgumentError(
                "shared_bytes",
                plan.shared_bytes,
                f"≤ {plan._shared_limit(chip)} on {chip.arch}; it is stages · (tile_m + tile_n) · tile_k elements",
            )
        return plan

    def fits(self, chip: Chip) -> bool:
        """True if a block's shared memory fits."""
        return self.shared_bytes <= self._shared_limit(chip)

    def _shared_limit(self, chip: Chip) -> int:
        asks = self.variant == "tensorcore"
        return max(chip.shared_per_block, chip.shared_on_request) if asks else chip.shared_per_block


def _kinds(variant: str) -> tuple[str, ...]:
    return MIXED if variant == "tensorcore" else PLAIN


def _require_tensor_cores(chip: Chip) -> None:
    if not chip.has_tensor_cores:
        others = ", ".join(map(repr, THREAD_VARIANTS))
        expected = f"one of {others} on {chip.arch}, which has no tensor cores for TF32 and BF16 (sm_80 has)"
        raise ArgumentError("variant", "tensorcore", expected)


def _require_power_of_two(name: str, value: int) -> None:
    if value & (value - 1):
        raise ArgumentError(name, value, "a power of two")


def _require_multiple(name: str, value: int, divisor: int, meaning: str) -> None:
    if value % divisor:
        raise ArgumentError(name, value, f"a multiple of {divisor} ({meaning})")


SQUARE_SIDES = {"tiled": (16, 32), "blocked": (64, 128)}
"""Sides of the square tiles of a variant; `choose` takes the larger if that gives every multiprocessor a block."""


def _square(variant: str, side: int) -> dict[str, int]:
    """Return the sizes of a plan with a square tile."""
    tile_k, piece = (side, 1) if variant == "tiled" else (8, 8)
    return {"tile_m": side, "tile_n": side, "tile_k": tile_k, "thread_m": piece, "thread_n": piece}


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
    item = ARITHMETIC[dtype].item_bytes
    return Plan("pipelined", dtype, m, n, depth_bytes // item, thread_m, thread_n, stages, vector=16 // item)


PIPELINED: dict[str, tuple[Plan, ...]] = {
    dtype: tuple(_pipelined(dtype, *sizes) for sizes in large + _SMALL) for dtype, large in _LARGE.items()
}
"""The tiles that `choose` chooses from, by dtype."""


_TENSOR = (
    (128, 256, 64, 64, 64, 4),
    (256, 128, 64, 64, 64, 4),
    (128, 128, 64, 64, 64, 3),
    (128, 64, 64, 32, 64, 4),
    (64, 128, 32, 64, 64, 4),
    (64, 64, 32, 32, 128, 3),
    (64, 32, 32, 16, 128, 3),
    (32, 64, 16, 32, 128, 3),
    (32, 32, 16, 16, 128, 3),
)
"""tile_m, tile_n, warp_m, warp_n, bytes of tile_k, stages; the largest first.

A warp's piece is as large as registers allow: the larger it is, the less often shared memory is read. The largest tiles
fill a multiprocessor with one block, and get four stages (96 KiB, which every chip with tensor cores has); of 128 × 128
two fit beside each other. Small ones are 128 bytes deep, which halves the number of barriers.
"""
_TENSOR_UNALIGNED = (
    (128, 128, 64, 32, 64, 3),
    (64, 64, 32, 32, 64, 3),
    (64, 64, 16, 32, 64, 3),
    (32, 32, 16, 16, 64, 3),
)
"""The same for rows off 16-byte boundaries: less for each thread, as its many copies take registers too."""


def _tensorcore(dtype: str, m: int, n: int, warp_m: int, warp_n: int, depth_bytes: int, stages: int) -> Plan:
    item = ARITHMETIC[dtype].item_bytes
    sizes = (m, n, depth_bytes // item)
    return Plan("tensorcore", dtype, *sizes, stages=stages, vector=16 // item, warp_m=warp_m, warp_n=warp_n)


TENSORCORE: dict[str, tuple[Plan, ...]] = {
    dtype: tuple(_tensorcore(dtype, *sizes) for sizes in _TENSOR) for dtype in MIXED
}
TENSORCORE_UNALIGNED: dict[str, tuple[Plan, ...]] = {
    dtype: tuple(_tensorcore(dtype, *sizes) for sizes in _TENSOR_UNALIGNED) for dtype in MIXED
}
"""The tiles that `choose` chooses from, by what is multiplied."""


def choose(m: int, n: int, k: int, dtype: str, chip: Chip, variant: str = "pipelined", alignment: int = 16) -> Plan:
    """Return the plan for a product of M × N with depth K, by the rule at the head of this module.

    Args:
        m, n, k: sides and depth of the product.
        dtype: what is multiplied: of `gpubp.dtypes.PLAIN` or, with variant "tensorcore", of `MIXED`.
        chip: what the plan is for.
        variant: the rung of the ladder.
        alignment: bytes that all rows of the operands start on multiples of.

    Raises:
        ArgumentError: a side < 1, an unknown variant, a dtype that it does not have, or "tensorcore" on a chip without.
    """
    for name, side in (("m", m), ("n", n), ("k", k)):
        if side < 1:
            raise ArgumentError(name, side, "≥ 1")
    if variant not in VARIANTS:
        raise unknown_name("variant", variant, VARIANTS)
    dtype = canonical("dtype", dtype, _kinds(variant))
    if variant == "naive":
        return Plan("naive", dtype, 8, 32)
    if variant in SQUARE_SIDES:
        small, large = (Plan(variant, dtype, **_square(variant, side)) for side in SQUARE_SIDES[variant])
        return large if large.blocks(m, n) >= chip.multiprocessors else small
    if variant == "tensorcore":
        _require_tensor_cores(chip)
        tiles = (TENSORCORE if alignment % 16 == 0 else TENSORCORE_UNALIGNED)[dtype]
        tiles = tuple(plan for plan in tiles if plan.fits(chip))
    else:
        tiles = PIPELINED[dtype]
    adapted = [plan.for_alignment(alignment) for plan in tiles]
    return _choose_tile([plan for plan in adapted if plan.suits_vector(plan.vector)], m, n, k, chip).on(chip)


def _choose_tile(tiles: Sequence[Plan], m: int, n: int, k: int, chip: Chip) -> Plan:
    """Apply the rule at the head of this module; tiles: the largest first, and last the smallest in both sides."""
    least_m, least_n = tiles[-1].tile_m, tiles[-1].tile_n
    candidates = [
        plan
        for plan in tiles
        if (plan.tile_m < 2 * m or plan.tile_m == least_m) and (plan.tile_n < 2 * n or plan.tile_n == least_n)
    ]
    most_parts = max(1, k // LEAST_PART)
    filling = [plan for plan in candidates if plan.blocks(m, n) >= chip.multiprocessors]
    large = [plan for plan in filling if plan.tile_m * plan.tile_n >= 64 * 64]
    if large:
        return large[0]
    for plan in candidates:
        parts = -(-chip.multiprocessors // plan.blocks(m, n))
        if 1 < parts <= most_parts:
            return replace(plan, split_k=parts)
    if filling:
        return filling[0]
    return replace(candidates[-1], split_k=most_parts)


# --- reductions -------------------------------------------------------------------------------------------------------
SUM_THREADS = 256
MAX_SUM_BLOCKS = 1024
TEAM_WIDTH = 1024
"""Longest row that one warp takes; a block takes a longer one."""


def sum_blocks(size: int) -> int:
    """Return the blocks of the first stage of a sum of `size` elements: as many on every chip, for the same sum."""
    return max(1, min(MAX_SUM_BLOCKS, -(-size // (8 * SUM_THREADS))))


def row_team(width: int) -> int:
    """Return how many threads take one row of this width."""
    return 32 if width <= TEAM_WIDTH else 256


def column_sum_rows(rows: int, width: int, chip: Chip) -> int:
    """Return the rows of each part in the first stage of a column sum: ≥ 64, and few enough to fill the chip."""
    columns = -(-width // 32)
    parts = max(1, min(rows // 64, -(-2 * chip.multiprocessors // columns), MAX_GRID[1]))
    return -(-rows // parts)
