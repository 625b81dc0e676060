"""How a product is computed: its variant, tile and split, and the tiles that there are. Pure Python.

A product has M rows, N columns and depth K (see kernels/cuda/forms.cuh). `gpubp.backends.plan_model` chooses among the
tiles. One counts only if its shared memory fits on the chip. Where rows do not start on 16-byte boundaries, and copies
move fewer elements, it counts only if a thread makes no more than `MAX_COPIES` of them and holds no more than
`MAX_SUMS_UNALIGNED` sums.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np

from gpubp.chips import MAX_GRID, MAX_THREADS, WARP, Chip
from gpubp.dtypes import ARITHMETIC, MIXED, PLAIN, canonical
from gpubp.errors import ArgumentError, unknown_name

THREAD_VARIANTS = ("naive", "tiled", "blocked", "pipelined")
"""The rungs on which every thread computes on its own, in the dtype of the arrays: any chip has what they need."""
TENSOR_VARIANTS = ("tensorcore", "wgmma")
"""The rungs on which matrix units multiply numbers of 16 bits and TF32, and float64 on the first."""
VARIANTS = (*THREAD_VARIANTS, *TENSOR_VARIANTS)
"""The ladder of product kernels, each adding one idea to the one before."""
FORMS = {"NT": (True, True), "NN": (True, False), "TN": (False, False)}
"""How the operands of a product lie in memory (see kernels/cuda/forms.cuh): whether depths, and not sides, are
contiguous in A and in B."""

TILED_BY_NUMBER = ("pipelined", *TENSOR_VARIANTS)
"""The rungs on which a block finds its tile by a number, and a grid need not have a block for each."""
STREAMED = ("pipelined", "tensorcore")
"""The rungs that have stream-K."""

MAX_COPIES = 8
"""Copies of less than 16 bytes that a thread may make for each tile: every one needs two registers for its address."""
MAX_SUMS_UNALIGNED = 64
"""Sums that a thread may hold besides those addresses."""

MAX_SUMS_STREAM = 64
"""Sums of 4 bytes that a thread may hold by stream-K, whose loop over tiles takes registers too."""

WARPGROUP, CONSUMER_ROWS = 128, 64
"""Threads of a warpgroup, and the rows of a tile that one of them multiplies."""
SWIZZLE_WIDTH, SWIZZLE_BYTES = 128, 1024
"""Bytes of a box's rows in shared memory, and to what its address is aligned."""
STORED_ROWS, STORED_BUFFERS = 8, 2
"""Rows of a result that a warp stores as one box, and how many such boxes of shared memory it has."""
BARRIER_BYTES = 8
LONGEST_MAPPED = 2**31 - 1024
"""Rows or columns of a matrix that the copy engine moves: coordinates have 32 bits, and tiles reach beyond it."""

REDUCE_THREADS, REDUCE_BLOCK = 64, 256
"""Threads of a block that adds up the parts of a split depth, and elements that it takes."""


class Box(NamedTuple):
    """The part of a matrix that the copy engine moves at once.

    kind: what it takes the elements for, of `ARITHMETIC`. It rounds "tf32" on the way.
    """

    rows: int
    columns: int
    kind: str


@dataclass(frozen=True)
class Plan:
    """How one product is computed. Sizes are in elements.

    variant: one of `VARIANTS`. dtype: what is multiplied, of `kinds_of(variant)`.
    tile_m, tile_n: what a block computes of the result. tile_k: depth of the tiles in shared memory.
    thread_m, thread_n: what a thread computes of the result, where threads compute on their own.
    stages: tiles that are in shared memory at a time.
    vector: the most elements that a copy to shared memory moves; a launch takes fewer where rows do not allow it.
    split_k: parts of the depth that blocks of their own sum up.
    stream_k: blocks of the grid, each with an equal run of all tiles' depths; 0: a block computes whole tiles.
    warp_m, warp_n: what a warp computes of the result, for "tensorcore".
    cluster: blocks that share the columns of their tiles, for "wgmma".
    persistent: the most blocks of the grid, each of which computes tile after tile, for "wgmma"; 0: one for each tile.

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
    stream_k: int = 0
    cluster: int = 1
    persistent: int = 0

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise unknown_name("variant", self.variant, VARIANTS)
        object.__setattr__(self, "dtype", canonical("dtype", self.dtype, kinds_of(self.variant)))
        for each in fields(self)[2:]:
            size, least = getattr(self, each.name), 0 if each.name in ("stream_k", "persistent") else 1
            if not isinstance(size, int) or size < least:
                raise ArgumentError(each.name, size, f"a whole number ≥ {least}")
        if self.variant == "pipelined":
            self._check_ones("warp_m", "warp_n")
            self._check_pipelined()
        elif self.variant == "tensorcore":
            self._check_ones("thread_m", "thread_n")
            self._check_tensorcore()
        elif self.variant == "wgmma":
            self._check_ones("thread_m", "thread_n", "warp_m", "warp_n")
            self._check_wgmma()
        else:
            self._check_ones("stages", "vector", "split_k", "warp_m", "warp_n")
            self._check_simple()
        if self.stream_k:
            self._check_stream()
        if self.variant != "wgmma":
            self._check_ones("cluster")
            if self.persistent:
                raise ArgumentError("persistent", self.persistent, f"0 with variant {self.variant!r}")

    def _check_stream(self) -> None:
        if self.variant not in STREAMED:
            raise ArgumentError("stream_k", self.stream_k, f"0 with variant {self.variant!r}")
        if self.split_k != 1:
            raise ArgumentError("stream_k", self.stream_k, "0 where split_k is not 1: both split the depth")
        most = MAX_SUMS_STREAM * 4 // self.sum_bytes
        if self.sums > most:
            must = f"0 where a thread has {self.sums} sums: registers are left for it with up to {most}"
            raise ArgumentError("stream_k", self.stream_k, must)

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
        depth = 2 * self.fragment_depth
        size = f"{depth * self.item_bytes} bytes of {self.dtype}"
        _require_multiple("tile_k", self.tile_k, depth, f"{size}: two fragments to take turns")
        if self.stages < 3:
            raise ArgumentError("stages", self.stages, "≥ 3: one tile is used while two are on their way")
        if self.vector not in (1, 2, self.unit):
            raise ArgumentError("vector", self.vector, f"1, 2, or {self.unit}: 16 bytes of {self.dtype}")
        self._check_threads()
        self._check_copies()

    def _check_wgmma(self) -> None:
        for tile, sides in (("tile_m", (64, 128)), ("tile_n", (128, 256))):
            if getattr(self, tile) not in sides:
                raise ArgumentError(tile, getattr(self, tile), f"{sides[0]} or {sides[1]} with variant 'wgmma'")
        for field, must in (("tile_k", 8 * self.unit), ("vector", self.unit)):
            if getattr(self, field) != must:
                size = f"{must * self.item_bytes} bytes of {self.dtype}"
                raise ArgumentError(field, getattr(self, field), f"{must} with variant 'wgmma': {size}")
        if self.cluster not in (1, 2):
            raise ArgumentError("cluster", self.cluster, "1 or 2")
        if self.persistent % self.cluster:
            raise ArgumentError("persistent", self.persistent, f"a multiple of {self.cluster} (cluster)")
        if self.stages < 3:
            raise ArgumentError("stages", self.stages, "≥ 3: one is multiplied, one may still be, and one arrives")

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
    def fragment_depth(self) -> int:
        """Return the depth of a fragment of "tensorcore": 32 bytes, or 64 of float64."""
        return max(8, 32 // self.item_bytes)

    @property
    def threads(self) -> int:
        """Threads of a block."""
        if self.variant == "tensorcore":
            return self.tile_m // self.warp_m * (self.tile_n // self.warp_n) * WARP
        if self.variant == "wgmma":
            return (1 + self.tile_m // CONSUMER_ROWS) * WARPGROUP
        return self.tile_m // self.thread_m * (self.tile_n // self.thread_n)

    @property
    def sums(self) -> int:
        """Return the sums that a thread holds, if it holds any."""
        if self.variant == "wgmma":
            return CONSUMER_ROWS * self.tile_n // WARPGROUP
        return self.tile_m * self.tile_n // self.threads

    @property
    def sum_bytes(self) -> int:
        """Return the bytes of a sum."""
        return ARITHMETIC[self.dtype].accumulator.itemsize

    @property
    def shared_bytes(self) -> int:
        """Return the bytes of a block's shared memory: static, but for `TENSOR_VARIANTS`, which ask at the launch."""
        if self.variant == "naive":
            return 0
        sides, depth = self.tile_m + self.tile_n, self.tile_k
        if self.variant == "tiled":
            depth += 1  # a column of padding
        elif self.variant == "blocked":
            sides += 2 * self.unit  # 16 bytes of padding for each line
        if self.variant == "wgmma":
            warps = self.tile_m // CONSUMER_ROWS * WARPGROUP // WARP
            pieces = warps * STORED_BUFFERS * STORED_ROWS * SWIZZLE_WIDTH
            return self.stages * (sides * depth * self.item_bytes + 2 * BARRIER_BYTES) + pieces + SWIZZLE_BYTES
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

        Raises:
            ArgumentError: they do not allow it, and the variant is "wgmma".
        """
        if alignment % 16 == 0:
            return self
        if self.variant == "wgmma":
            must = f"another one for rows that start on {alignment}-byte boundaries: it needs 16"
            raise ArgumentError("plan.variant", self.variant, must)
        pairs = self.variant == "tensorcore" and alignment % (2 * self.item_bytes) == 0
        return replace(self, vector=min(self.vector, 2 if pairs else 1))

    def blocks(self, m: int, n: int) -> int:
        """Return how many tiles cover an M × N result."""
        return -(-m // self.tile_m) * -(-n // self.tile_n)

    def grid(self, m: int, n: int, k: int) -> tuple[int, ...]:
        """Return the sides of the grid, in blocks, for an M × N result of depth K."""
        if self.stream_k:
            steps = self.blocks(m, n) * -(-k // self.tile_k)
            if steps >= MAX_GRID[0]:
                raise ArgumentError(
                    "stream_k", self.stream_k, f"0 for a product of {steps} tiles in depth: it has many"
                )
            return (-(-steps // -(-steps // self.stream_k)),)  # fewer blocks where each has no less to do
        if self.variant == "wgmma":
            longest = max(m, n, k)
            if longest > LONGEST_MAPPED:
                must = f"another one for a side of {longest}: tensor maps have coordinates up to {LONGEST_MAPPED}"
                raise ArgumentError("plan.variant", self.variant, must)
            blocks = self.cluster * -(-m // (self.cluster * self.tile_m)) * -(-n // self.tile_n)
            return (min(blocks, self.persistent) if self.persistent else blocks,)
        if self.variant in TILED_BY_NUMBER:
            return (self.blocks(m, n),)
        return -(-m // self.tile_m), -(-n // self.tile_n)

    @property
    def block(self) -> tuple[int, ...]:
        """The sides of a block, in threads."""
        if self.variant in TILED_BY_NUMBER:
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
            ArgumentError: its shared memory does not fit, or the chip lacks the matrix units that it needs.
        """
        plan = self
        if self.variant == "wgmma":
            require_wgmma(chip)
            if not self.persistent:
                clusters = max(1, self.resident * chip.multiprocessors // self.cluster)
                plan = replace(self, persistent=clusters * self.cluster)
        elif self.variant == "tensorcore":
            require_tensor_cores(chip, self.dtype)
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

    @property
    def resident(self) -> int:
        """Return how many blocks of "wgmma" a multiprocessor holds: see product_wgmma.cuh."""
        return 2 if (self.tile_m, self.tile_n) == (CONSUMER_ROWS, 128) else 1

    def boxes(self, form: str) -> tuple[Box, ...]:
        """Return the boxes in which the copy engine moves A and B, for "wgmma"; no others have any."""
        if self.variant != "wgmma":
            return ()
        by_side = Box(self.tile_k, SWIZZLE_WIDTH // self.item_bytes, self.dtype)
        tiles = zip(FORMS[form], (self.tile_m, self.tile_n // self.cluster), strict=True)
        return tuple(Box(side, self.tile_k, self.dtype) if by_depth else by_side for by_depth, side in tiles)

    def _shared_limit(self, chip: Chip) -> int:
        asks = self.variant in TENSOR_VARIANTS
        return max(chip.shared_per_block, chip.shared_on_request) if asks else chip.shared_per_block


def stored_box(dtype: np.dtype) -> Box:
    """Return the box in which the copy engine stores results of this dtype."""
    return Box(STORED_ROWS, SWIZZLE_WIDTH // dtype.itemsize, str(dtype))


def kinds_of(variant: str) -> tuple[str, ...]:
    """Return the kinds of arithmetic that a variant has."""
    return {"tensorcore": (*MIXED, "float64"), "wgmma": MIXED}.get(variant, PLAIN)


def forms_of(variant: str, dtype: str) -> tuple[str, ...]:
    """Return the forms of product in which a variant multiplies a kind of arithmetic that it has.

    wgmma takes operands whose sides are contiguous in 16 bits alone.
    """
    along_depth = variant == "wgmma" and ARITHMETIC[dtype].item_bytes > 2
    return tuple(form for form, by_depth in FORMS.items() if all(by_depth) or not along_depth)


def variants_of(dtype: str, chip: Chip | None = None, form: str | None = None) -> tuple[str, ...]:
    """Return the variants that multiply a kind of arithmetic of `gpubp.dtypes`: those that a chip has, or all; with a
    form, those that compute such products."""
    able = [name for name in VARIANTS if dtype in kinds_of(name) and (chip is None or _has(chip, name, dtype))]
    return tuple(name for name in able if form is None or form in forms_of(name, dtype))


def _has(chip: Chip, variant: str, dtype: str) -> bool:
    if variant == "wgmma":
        return chip.has_wgmma
    return variant != "tensorcore" or (chip.has_float64_tensor_cores if dtype == "float64" else chip.has_tensor_cores)


def require_form(argument: str, variant: str, dtype: str, form: str) -> None:
    """Raise ArgumentError unless the variant multiplies this kind in this form."""
    forms = forms_of(variant, dtype)
    if form not in forms:
        only = " and ".join(forms)
        must = f"another one for form {form} of {dtype}, which it multiplies in form {only} alone"
        raise ArgumentError(argument, variant, must)


def require_wgmma(chip: Chip) -> None:
    """Raise ArgumentError unless the chip has wgmma."""
    if not chip.has_wgmma:
        raise ArgumentError("variant", "wgmma", f"another one on {chip.arch}: sm_90 alone has this instruction")


def require_tensor_cores(chip: Chip, dtype: str) -> None:
    """Raise ArgumentError unless the chip has tensor cores that multiply this: TF32 and BF16, or float64."""
    if not _has(chip, "tensorcore", dtype):
        others = ", ".join(map(repr, THREAD_VARIANTS))
        lacks = "TF32 and BF16 (sm_80 has)" if dtype in MIXED else "float64 (sm_80 and sm_90 have)"
        must = f"one of {others} on {chip.arch}, which has no tensor cores for {lacks}"
        raise ArgumentError("variant", "tensorcore", must)


def _require_power_of_two(name: str, value: int) -> None:
    if value & (value - 1):
        raise ArgumentError(name, value, "a power of two")


def _require_multiple(name: str, value: int, divisor: int, meaning: str) -> None:
    if value % divisor:
        raise ArgumentError(name, value, f"a multiple of {divisor} ({meaning})")


SQUARE_SIDES = {"tiled": (16, 32), "blocked": (64, 128)}
"""Sides of the square tiles of a variant; the larger is taken if that gives every multiprocessor a block."""


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
"""The tiles that are chosen from, by dtype."""

_SMALL_BLOCKS = {
    "float32": ((64, 64, 8, 8, 64, 3), (64, 32, 8, 4, 64, 3), (32, 64, 4, 8, 64, 3)),
    "float64": ((64, 32, 8, 4, 64, 3), (32, 64, 4, 8, 64, 3)),
}
PIPELINED_SMALL_BLOCKS: dict[str, tuple[Plan, ...]] = {
    dtype: tuple(_pipelined(dtype, *sizes) for sizes in small) for dtype, small in _SMALL_BLOCKS.items()
}
"""Small tiles of few threads, each with as many sums as in a large tile.

They read shared memory as seldom as large tiles do. But a block has only two warps: a multiprocessor needs several
blocks to be busy.
"""


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
_TENSOR_SMALL_BLOCKS = (
    (128, 64, 64, 64, 64, 3),
    (64, 64, 64, 32, 64, 4),
    (64, 32, 32, 32, 64, 4),
    (32, 64, 32, 32, 64, 4),
)
"""The same for blocks of two warps, each with a piece as in a large tile: see `PIPELINED_SMALL_BLOCKS`."""


def _tensorcore(dtype: str, m: int, n: int, warp_m: int, warp_n: int, depth_bytes: int, stages: int) -> Plan:
    item = ARITHMETIC[dtype].item_bytes
    sizes = (m, n, depth_bytes // item)
    return Plan("tensorcore", dtype, *sizes, stages=stages, vector=16 // item, warp_m=warp_m, warp_n=warp_n)


_TENSOR_DOUBLE = (
    (128, 64, 32, 32, 128, 4),
    (64, 128, 32, 32, 128, 4),
    (64, 64, 32, 32, 128, 3),
    (64, 32, 32, 16, 128, 3),
    (32, 64, 16, 32, 128, 3),
    (32, 32, 16, 16, 128, 3),
)
"""The same for float64, whose sums and fragments take twice the registers, and whose fragments are 64 bytes deep. Its
multiplications take so long that shared memory keeps up with pieces of 32 × 32."""
_TENSOR_DOUBLE_UNALIGNED = ((64, 64, 32, 16, 128, 3), (32, 32, 16, 16, 128, 3))
_TENSOR_DOUBLE_SMALL_BLOCKS = ((64, 32, 32, 32, 128, 3), (32, 64, 32, 32, 128, 3))

TENSORCORE: dict[str, tuple[Plan, ...]] = {
    dtype: tuple(_tensorcore(dtype, *sizes) for sizes in (_TENSOR if dtype in MIXED else _TENSOR_DOUBLE))
    for dtype in kinds_of("tensorcore")
}
TENSORCORE_UNALIGNED: dict[str, tuple[Plan, ...]] = {
    dtype: tuple(
        _tensorcore(dtype, *sizes) for sizes in (_TENSOR_UNALIGNED if dtype in MIXED else _TENSOR_DOUBLE_UNALIGNED)
    )
    for dtype in kinds_of("tensorcore")
}
"""The tiles that are chosen from, by what is multiplied."""
TENSORCORE_SMALL_BLOCKS: dict[str, tuple[Plan, ...]] = {
    # the first one's copies and fragments of single elements are too much for the registers, on sm_80 by a few bytes
    dtype: tuple(_tensorcore(dtype, *sizes) for sizes in _TENSOR_SMALL_BLOCKS[1 if dtype == "tf32" else 0 :])
    for dtype in MIXED
} | {"float64": tuple(_tensorcore("float64", *sizes) for sizes in _TENSOR_DOUBLE_SMALL_BLOCKS)}


_WGMMA = (
    (128, 256, 4, 2),
    (128, 256, 4, 1),
    (128, 128, 6, 2),
    (128, 128, 6, 1),
    (64, 256, 5, 2),
    (64, 256, 5, 1),
    (64, 128, 4, 2),
    (64, 128, 4, 1),
)
"""tile_m, tile_n, stages, cluster; the largest first. Of the smallest two blocks fit beside each other. Those of 64
rows are for few tiles, such as the gradient of one layer's weights: more blocks, which ask L2 for more, but in clusters
for no more than one of twice the rows. One by one they are for few rows, such as a small batch: no half of a tile is
multiplied for nothing."""


def _wgmma(dtype: str, m: int, n: int, stages: int, cluster: int) -> Plan:
    item = ARITHMETIC[dtype].item_bytes
    sizes = (m, n, SWIZZLE_WIDTH // item)
    return Plan("wgmma", dtype, *sizes, stages=stages, vector=16 // item, cluster=cluster)


WGMMA: dict[str, tuple[Plan, ...]] = {
    dtype: tuple(_wgmma(dtype, *sizes) for sizes in _WGMMA) for dtype in kinds_of("wgmma")
}
"""The tiles that are chosen from, by what is multiplied, for rows on 16-byte boundaries."""


def square_plan(variant: str, dtype: str, side: int) -> Plan:
    """Return the plan of a square tile, with one of the variant's `SQUARE_SIDES`."""
    return Plan(variant, dtype, **_square(variant, side))


def largest(m: int, n: int, dtype: str, chip: Chip, variant: str, alignment: int = 16) -> Plan:
    """Return the plan of the largest tile that is less than twice as long as the result, in rows and in columns, or is
    the smallest on that side. Arguments as of `plan_model.choose`."""
    if variant in SQUARE_SIDES:
        return square_plan(variant, dtype, SQUARE_SIDES[variant][1])
    tiles = [plan for plan in tiles_for(dtype, variant, alignment) if plan.fits(chip)]
    least = tiles[-1]
    for plan in tiles:
        if plan.tile_m < max(2 * m, least.tile_m + 1) and plan.tile_n < max(2 * n, least.tile_n + 1):
            return plan.on(chip)
    return least.on(chip)


def row_alignment(form: str, m: int, n: int, k: int, item_bytes: int) -> int:
    """Return the bytes, at most 16, that all rows of a product's operands start on multiples of, if the arrays do."""
    sides = {"NT": (k, k), "NN": (k, n), "TN": (m, n)}[form]
    return math.gcd(16, *(side * item_bytes for side in sides))


def tiles_for(dtype: str, variant: str, alignment: int = 16) -> tuple[Plan, ...]:
    """Return the tiles for operands whose rows start on multiples of `alignment` bytes, the largest first."""
    tables: tuple[dict[str, tuple[Plan, ...]], ...]
    if variant == "pipelined":
        tables = PIPELINED, PIPELINED_SMALL_BLOCKS
    elif variant == "wgmma":
        tables = (WGMMA,) if alignment % 16 == 0 else ()
    elif alignment % 16 == 0:
        tables = TENSORCORE, TENSORCORE_SMALL_BLOCKS
    else:
        tables = (TENSORCORE_UNALIGNED,)
    adapted = [plan.for_alignment(alignment) for table in tables for plan in table[dtype]]
    suitable = [plan for plan in adapted if plan.suits_vector(plan.vector)]
    return tuple(sorted(suitable, key=lambda plan: -plan.tile_m * plan.tile_n))


def streamed_for(dtype: str, variant: str, alignment: int = 16) -> tuple[Plan, ...]:
    """Return the tiles that are chosen from for stream-K, the largest first: as `tiles_for`, with one block, as a chip
    decides how many.

    They are those where a thread holds as many bytes of sums as registers are left for; smaller ones gain less by it
    than the parts cost. There is none for rows off 16-byte boundaries, whose copies need those registers.
    """
    if alignment % 16:
        return ()
    most = 4 * MAX_SUMS_STREAM
    tiles = tiles_for(dtype, variant, alignment)
    return tuple(replace(plan, stream_k=1) for plan in tiles if plan.sums * plan.sum_bytes == most)


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


def column_sum_rows(rows: int) -> int:
    """Return the rows of each part of a column sum: about as many as there are parts, so that adding up a part takes as
    long as adding up the parts. As many on every chip, for the same sum."""
    return math.isqrt(rows - 1) + 1
