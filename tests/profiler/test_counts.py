"""Counts against those worked out by hand, and counts at smaller shapes against those of the shape itself."""

from dataclasses import replace

import pytest

from gpubp import chips, costs
from gpubp.backends.plans import PIPELINED
from gpubp.errors import ArgumentError
from gpubp.profiler import counts, launches
from gpubp.profiler.workloads import Workload

NAIVE_LINE, TILED_LINE, BLOCKED_LINE = "product_naive.cuh", "product_tiled.cuh", "product_blocked.cuh"


def test_naive_by_hand(count):
    m, n, k = 16, 64, 32
    found = count("transpose_product", (m, n, k), variant="naive")
    (counts,) = found.counts
    assert counts.blocks == (m // 8) * (n // 32)
    assert counts.instructions["FMA"] == m * n * k
    assert counts.flops == 2 * m * n * k
    assert counts.instructions["load global"] == 2 * m * n * k
    assert (counts.read["global"], counts.written["global"]) == (4 * 2 * m * n * k, 4 * m * n)
    # a warp has 32 neighbours of a row: at each k one element of A for all, and 32 of B, which are four sectors
    warps = m * n // 32
    assert counts.total("global", "requests") == warps * (2 * k + 1)
    assert counts.sectors == warps * (k * (1 + 4) + 4)
    assert counts.total("global", "excess") == 0
    assert counts.sectors_a_request == (k * 5 + 4) / (2 * k + 1)
    assert (counts.passes, counts.conflicts) == (0, 0)
    assert str(counts.worst("global", "units")).startswith(NAIVE_LINE)
    assert counts.worst("global") is None


def test_tiled_by_hand(count):
    m, n, k, tile = 32, 48, 32, 16
    found = count("transpose_product", (m, n, k), variant="tiled")
    (counts,) = found.counts
    assert found.plan.tile_m == tile
    assert counts.blocks == 2 * 3
    assert counts.instructions["FMA"] == m * n * k
    warps, tiles = m * n // 32, k // tile
    # a warp copies two rows of 16 elements of each operand for a tile of depth, and stores two of the result
    assert counts.instructions["load global"] == 32 * warps * tiles * 2
    assert counts.total("global", "requests") == warps * (2 * tiles + 1)
    assert counts.sectors == warps * (tiles * (4 + 4) + 4)
    # at each k it reads two elements of A and 16 of B, which are in different banks each time
    reads, stores = tile * 2, 2
    assert counts.instructions["load shared"] == 32 * warps * tiles * reads
    assert counts.instructions["store shared"] == 32 * warps * tiles * stores
    # rows are 17 words long, so the last word of two rows has the bank of the first: a store takes two passes
    assert counts.passes == warps * tiles * (reads + 2 * stores)
    assert counts.conflicts == warps * tiles * stores
    assert str(counts.worst("shared")).startswith(TILED_LINE)
    assert counts.instructions["barrier"] == 32 * warps * tiles * 2


def test_blocked_by_hand(count):
    m, n, k, tile, piece = 64, 128, 32, 64, 8
    found = count("transpose_product", (m, n, k), variant="blocked")
    (counts,) = found.counts
    assert found.plan.tile_m == tile
    assert counts.blocks == 2
    assert counts.instructions["FMA"] == m * n * k
    warps, tiles = m * n // piece**2 // 32, k // 8
    # for a tile of depth a thread copies eight elements of each operand; a warp takes whole sectors
    assert counts.instructions["load global"] == 32 * warps * tiles * 16
    assert counts.total("global", "requests") == warps * (tiles * 16 + piece**2)
    assert counts.sectors == warps * (tiles * 16 + piece**2) * 4
    # at each depth it reads eight elements of each, which are in different banks, as are those that it copies
    reads, stores = 8 * 2 * piece, 16
    assert counts.instructions["load shared"] == 32 * warps * tiles * reads
    assert counts.instructions["store shared"] == 32 * warps * tiles * stores
    assert counts.passes == warps * tiles * (reads + stores)
    assert counts.conflicts == 0
    assert counts.instructions["barrier"] == 32 * warps * tiles * 2
    hot = max(counts.lines, key=lambda line: line.instructions.get("FMA", 0))
    assert hot.file.endswith(BLOCKED_LINE)


def test_lines_add_up(count):
    (counts,) = count("transpose_product", (16, 32, 8), variant="naive").counts
    by_line = sum(sum(line.instructions.values()) for line in counts.lines)
    assert by_line == counts.executed == sum(counts.instructions.values())
    assert sum(each.nbytes for line in counts.lines for each in line.accesses) == counts.read["global"] + 4 * 16 * 32


def assert_scales(count, primitive, shape, **options):
    """The counts made at smaller shapes are those of the shape itself."""
    real = count(primitive, shape, limit=2**40, **options)
    scaled = count(primitive, shape, limit=0, **options)
    assert real.shapes == (shape,)
    assert shape not in scaled.shapes
    assert len(scaled.shapes) > 2
    assert scaled.exact
    assert scaled.counts == real.counts
    assert scaled.plan == real.plan


def test_a_large_shape_is_counted_at_smaller_ones(count):
    assert_scales(count, "transpose_product", (43, 170, 203), variant="naive")


def plan_in_parts(parts, shape, **options):
    """The plan of a product of this shape, with its depth in so many parts."""
    with launches.recording("cupy", chips.get("H100"), "sm_90") as (device, _):
        return replace(counts.plan_of(Workload("hidden_delta", shape, **options), device), split_k=parts)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "variant", "dtype", "shape", "parts"),
    [
        ("cupy", "tiled", "float64", (101, 90, 330), None),
        ("cupy", "blocked", "float64", (101, 190, 330), None),
        ("cupy", "pipelined", "float32", (128, 96, 900), 1),
        ("cupy", "pipelined", "float32", (83, 100, 5167), 3),  # in parts of the depth, and off 16-byte boundaries
        ("cupy", "tensorcore", "bfloat16", (200, 264, 1600), 1),
        ("cupy", "pipelined", "float32", (133, 72, 1088), 2),  # in parts whose sums do not fill whole blocks
        ("cupy", "tensorcore", "bfloat16", (260, 516, 704), 1),  # rows of neighbouring tiles in one sector, if too few
        ("numba", "tiled", "float32", (101, 90, 330), None),
        ("numba", "blocked", "float32", (101, 190, 330), None),
    ],
)
def test_every_variant_scales(count, backend, variant, dtype, shape, parts):
    options = {"variant": variant, "dtype": dtype}
    if parts is not None:
        options["plan"] = plan_in_parts(parts, shape, **options)
    assert_scales(count, "hidden_delta", shape, backend=backend, **options)


STREAMED = replace(PIPELINED["float32"][-1], stream_k=13)


@pytest.mark.parametrize(("rows", "columns", "deep"), [(4, 5, 15), (1, 3, 50), (1, 1, 150)])
def test_stream_k_scales(count, rows, columns, deep):
    """13 blocks share some tiles of many, or all of few."""
    shape = rows * STREAMED.tile_m, columns * STREAMED.tile_n, deep * STREAMED.tile_k - 4
    assert_scales(count, "hidden_delta", shape, plan=STREAMED)


def test_edges_of_stream_k_count_as_an_error(count):
    shape = 4 * STREAMED.tile_m - 3, 5 * STREAMED.tile_n, 15 * STREAMED.tile_k
    found, own = (count("hidden_delta", shape, plan=STREAMED, limit=limit) for limit in (0, 2**24))
    assert (found.exact, own.exact) == (False, True)
    assert found.error == pytest.approx(3 / (4 * STREAMED.tile_m))
    for name in ("executed", "sectors", "passes"):
        most = getattr(own.counts[0], name)
        assert most <= getattr(found.counts[0], name) <= most * (1 + found.error)


@pytest.mark.slow
def test_what_does_not_scale_is_said(count, monkeypatch):
    # blocks that add parts up are then not whole, for every second column of tiles
    monkeypatch.setattr(counts, "_side_units", lambda plan, *sides: (plan.tile_m, plan.tile_n))
    plan = plan_in_parts(2, (233, 264, 544), variant="pipelined")
    found = count("hidden_delta", (233, 264, 544), limit=0, plan=plan)
    assert not found.exact
    assert found.error > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("primitive", "shape"),
    [
        ("hadamard_derivative", (601, 512)),
        ("softmax", (200, 37)),
        ("output_delta", (5000, 10)),
        ("bias_gradient", (901, 1800)),
        ("update", (300001,)),
    ],
)
def test_the_others_scale(count, primitive, shape):
    assert_scales(count, primitive, shape)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("primitive", "dtype"),
    [
        *((primitive, "float32") for primitive in costs.PRIMITIVES),
        *((primitive, "bfloat16") for primitive in costs.PRIMITIVES if primitive != "weight_step"),
    ],
)
def test_no_primitive_does_less_than_its_least(count, primitive, dtype):
    shape = {3: (70, 50, 90), 2: (40, 33), 1: (5000,)}[costs.sides_of(primitive)]
    kernels = count(primitive, shape, dtype=dtype, activation="silu", optimizer="adamw").counts
    least = costs.cost(primitive, shape, dtype, activation="silu", optimizer="adamw")
    assert sum(each.read["global"] for each in kernels) >= least.bytes_read
    assert sum(each.written["global"] for each in kernels) >= least.bytes_written
    assert sum(each.flops for each in kernels) >= least.flops


def test_a_shape_that_cannot_be_counted_is_refused(count):
    with pytest.raises(ArgumentError, match="shape was '1x1000000000'; it must be smaller"):
        count("softmax", (1, 10**9))
