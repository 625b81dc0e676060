"""Plans: their constraints, and the rule that chooses one."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubp import chips
from gpubp.backends import plans
from gpubp.backends.plans import PIPELINED, TENSORCORE, TENSORCORE_UNALIGNED, Plan, choose
from gpubp.chips import Chip
from gpubp.errors import ArgumentError

GOOD = Plan("pipelined", "float32", 128, 128, 16, 8, 8, 3, 4)
GOOD_TENSOR = Plan("tensorcore", "bfloat16", 128, 128, 32, stages=3, vector=8, warp_m=64, warp_n=64)
EMULATED_CHIP = chips.get("H100").for_plans()
T4 = Chip("sm_75", 40)
RTX_5090 = Chip("sm_120", 170, shared_on_request=99 * 1024)
SIDES = st.integers(1, 5000)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tile_m": 120}, ("tile_m / thread_m", "15", "multiple of 8")),
        ({"tile_m": 100}, ("tile_m", "100", "multiple of 8")),
        ({"thread_n": 6}, ("thread_n", "6", "multiple of 4")),
        ({"tile_k": 24}, ("tile_k", "24", "power of two")),
        ({"tile_k": 2}, ("tile_k", "2", "multiple of 4")),
        ({"stages": 1}, ("stages", "1", "≥ 2")),
        ({"vector": 2}, ("vector", "2", "1, or 4")),
        ({"split_k": 0}, ("split_k", "0", "≥ 1")),
        ({"tile_m": 16, "thread_m": 2, "tile_k": 4}, ("tile_m · tile_k", "64", "multiple of 512")),
        ({"tile_m": 512, "tile_n": 512}, ("threads", "4096", "1024")),
        ({"dtype": "float16"}, ("dtype", "float16", "float32, float64")),
        ({"variant": "pipeline"}, ("variant", "pipeline", "did you mean 'pipelined'")),
    ],
)
def test_a_plan_that_cannot_be_names_what_is_wrong(change, words):
    with pytest.raises(ArgumentError) as error:
        replace(GOOD, **change)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tile_m": 192}, ("tile_m", "192", "power of two")),
        ({"tile_n": 16, "warp_n": 16}, ("tile_n", "16", "multiple of 32")),
        ({"tile_n": 32}, ("tile_n", "32", "multiple of 64 (warp_n)")),
        ({"warp_m": 8}, ("warp_m", "8", "multiple of 16")),
        ({"warp_m": 48, "tile_m": 96}, ("warp_m", "48", "power of two")),
        ({"tile_k": 16}, ("tile_k", "16", "multiple of 32")),
        ({"stages": 2}, ("stages", "2", "≥ 3")),
        ({"vector": 4}, ("vector", "4", "1, 2, or 8")),
        ({"dtype": "tf32"}, ("vector", "8", "1, 2, or 4")),
        ({"thread_m": 8}, ("thread_m", "8", "1 with variant 'tensorcore'")),
        ({"warp_m": 16, "warp_n": 16}, ("threads", "2048", "1024")),
        ({"dtype": "float32"}, ("dtype", "float32", "tf32, bfloat16, float16")),
        ({"variant": "pipelined"}, ("dtype", "bfloat16", "float32, float64")),
    ],
)
def test_a_plan_for_tensor_cores_that_cannot_be_names_what_is_wrong(change, words):
    with pytest.raises(ArgumentError) as error:
        replace(GOOD_TENSOR, **change)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (("naive", "float32", 8, 32, 1, 2), "thread_m was 2; it must be 1 with variant 'naive'"),
        (("tiled", "float32", 16, 32, 16), "tile_n was 32; it must be 16 with variant 'tiled' and tile_m 16"),
        (("tiled", "float32", 24, 24, 24), "tile_m was 24; it must be 16 or 32 with variant 'tiled'"),
        (("tiled", "float32", 32, 32, 32, 2), "thread_m was 2; it must be 1"),
        (("blocked", "float32", 32, 32, 8, 8, 8), "tile_m was 32; it must be 64 or 128 with variant 'blocked'"),
        (("blocked", "float32", 64, 128, 8, 8, 8), "tile_n was 128; it must be 64"),
        (("blocked", "float64", 64, 64, 16, 8, 8), "tile_k was 16; it must be 8"),
        (("blocked", "float64", 64, 64, 8, 8, 4), "thread_n was 4; it must be 8"),
        (("blocked", "float64", 64, 64, 8, 8, 8, 2), "stages was 2; it must be 1 with variant 'blocked'"),
        (("blocked", "bfloat16", 64, 64, 8, 8, 8), "dtype was 'bfloat16'"),
    ],
)
def test_a_simple_variant_names_what_it_cannot_have(fields, words):
    with pytest.raises(ArgumentError, match=words):
        Plan(*fields)


@pytest.mark.parametrize(
    ("plan", "grid", "block"),
    [
        (Plan("naive", "float32", 8, 32), (13, 7), (32, 8)),
        (Plan("tiled", "float32", 16, 16, 16), (7, 13), (16, 16)),
        (Plan("blocked", "float32", 64, 64, 8, 8, 8), (2, 4), (8, 8)),
        (GOOD, (2,), (256,)),
        (GOOD_TENSOR, (2,), (128,)),
    ],
)
def test_a_plan_says_how_it_is_launched(plan, grid, block):
    assert (plan.grid(100, 200), plan.block) == (grid, block)
    assert np.prod(block) == plan.threads
    assert np.prod(grid) == plan.blocks(100, 200)


@pytest.mark.parametrize(("variant", "small", "large"), [("tiled", 16, 32), ("blocked", 64, 128)])
def test_a_square_tile_is_large_where_it_fills_the_chip(variant, small, large):
    side = 12 * large  # 144 tiles for 132 multiprocessors
    assert choose(side, side, 64, "float64", EMULATED_CHIP, variant).tile_m == large
    assert choose(side - large, side - large, 64, "float64", EMULATED_CHIP, variant).tile_m == small


def test_shared_memory_is_held_against_the_chip():
    with pytest.raises(ArgumentError, match=r"shared_bytes was 65536.*49152"):
        replace(GOOD, stages=4).on(EMULATED_CHIP)


def test_without_async_copies_two_stages_are_enough():
    assert GOOD.on(T4).stages == 2
    assert GOOD.on(EMULATED_CHIP).stages == 3


def test_all_plans_fit_every_chip():
    for dtype, tiles in PIPELINED.items():
        areas = [plan.tile_m * plan.tile_n for plan in tiles]
        assert areas == sorted(areas, reverse=True), "the rule takes the first that fits as the largest"
        for plan in tiles:
            assert plan.dtype == dtype
            assert plan.on(EMULATED_CHIP).shared_bytes <= 48 * 1024
            assert plan.on(T4).threads % 32 == 0


def test_tensor_cores_need_a_chip_that_has_them():
    with pytest.raises(ArgumentError, match=r"sm_75.*no tensor cores"):
        GOOD_TENSOR.on(T4)
    with pytest.raises(ArgumentError, match=r"sm_75.*no tensor cores"):
        choose(64, 64, 64, "tf32", T4, "tensorcore")


@pytest.mark.parametrize("tables", [TENSORCORE, TENSORCORE_UNALIGNED])
def test_all_plans_for_tensor_cores_fit_every_chip_that_has_them(tables):
    for dtype, tiles in tables.items():
        areas = [plan.tile_m * plan.tile_n for plan in tiles]
        assert areas == sorted(areas, reverse=True), "the rule takes the first that fits as the largest"
        for plan in tiles:
            assert plan.dtype == dtype
            assert plan.on(RTX_5090).stages >= 3
            # two fragments take turns, whichever the type
            assert plan.tile_k * plan.item_bytes % 64 == 0


@pytest.mark.parametrize("dtype", TENSORCORE)
def test_the_named_sizes_of_tiles_are_there(dtype):
    sizes = {(plan.tile_m, plan.tile_n) for plan in TENSORCORE[dtype]}
    assert {(128, 256), (128, 128), (64, 64), (32, 32)} <= sizes


# --- the rule ---------------------------------------------------------------------------------------------------------
def test_the_largest_tile_that_fills_the_chip():
    assert choose(4096, 4096, 4096, "float32", EMULATED_CHIP).tile_m == 256
    # 1024 × 1024: 64 tiles of 128 × 128 and 128 of 128 × 64 leave some of 132 multiprocessors idle
    plan = choose(1024, 1024, 1024, "float32", EMULATED_CHIP)
    assert (plan.tile_m, plan.tile_n, plan.split_k) == (64, 64, 1)
    # a smaller chip is filled by larger tiles
    plan = choose(1024, 1024, 1024, "float32", Chip("sm_80", 64))
    assert (plan.tile_m, plan.tile_n) == (128, 128)


def test_a_deep_product_of_few_tiles_is_split():
    plan = choose(128, 784, 60_000, "float32", EMULATED_CHIP)
    assert plan.tile_m * plan.tile_n >= 64 * 64
    assert plan.split_k > 1
    assert plan.blocks(128, 784) * plan.parts(60_000) >= 0.9 * EMULATED_CHIP.multiprocessors
    assert plan.part(60_000) >= plans.LEAST_PART


def test_a_shallow_product_takes_small_tiles():
    plan = choose(256, 1024, 64, "float32", EMULATED_CHIP)
    assert plan.split_k == 1
    assert plan.tile_m * plan.tile_n < 64 * 64
    assert plan.blocks(256, 1024) >= EMULATED_CHIP.multiprocessors


def test_a_small_product_takes_the_smallest_tile():
    plan = choose(32, 64, 64, "float32", EMULATED_CHIP)
    assert (plan.tile_m, plan.tile_n, plan.split_k) == (16, 16, 1)


def test_no_tile_hangs_over_by_more_than_half():
    plan = choose(100_000, 10, 512, "float32", EMULATED_CHIP)
    assert plan.tile_n == 16
    assert plan.tile_m == 64


def test_rows_off_16_byte_boundaries():
    plan = choose(4096, 4096, 4095, "float32", EMULATED_CHIP, alignment=4)
    assert plan.vector == 1
    assert plan.copies(1) <= plans.MAX_COPIES
    assert plan.sums <= plans.MAX_SUMS_UNALIGNED


@pytest.mark.parametrize(
    ("dtype", "alignment", "vector"),
    [
        ("tf32", 16, 4),
        ("tf32", 8, 2),
        ("tf32", 4, 1),
        ("bfloat16", 16, 8),
        ("bfloat16", 8, 2),
        ("float16", 4, 2),
        ("float16", 2, 1),
    ],
)
def test_tensor_core_copies_are_as_wide_as_rows_allow(dtype, alignment, vector):
    plan = choose(4096, 4096, 4096, dtype, EMULATED_CHIP, "tensorcore", alignment)
    assert plan.vector == vector
    assert plan.suits_vector(vector)


def test_tensor_cores_take_the_largest_tile_that_fills_the_chip():
    for dtype in TENSORCORE:
        plan = choose(4096, 4096, 4096, dtype, EMULATED_CHIP, "tensorcore")
        assert (plan.tile_m, plan.tile_n, plan.split_k) == (128, 256, 1)
        plan = choose(128, 784, 60_000, dtype, EMULATED_CHIP, "tensorcore")
        assert plan.tile_m * plan.tile_n >= 64 * 64
        assert plan.split_k > 1
        plan = choose(1, 10, 64, dtype, EMULATED_CHIP, "tensorcore")
        assert (plan.tile_m, plan.tile_n, plan.split_k) == (32, 32, 1)


@pytest.mark.parametrize("variant", plans.VARIANTS)
def test_every_variant_can_be_asked_for(variant):
    dtype = "tf32" if variant == "tensorcore" else "float64"
    assert choose(100, 100, 100, dtype, EMULATED_CHIP, variant).variant == variant


def test_arguments_are_checked():
    with pytest.raises(ArgumentError, match="n was 0"):
        choose(1, 0, 1, "float32", EMULATED_CHIP)
    with pytest.raises(ArgumentError, match="dtype"):
        choose(1, 1, 1, "int8", EMULATED_CHIP)
    with pytest.raises(ArgumentError, match="dtype"):
        choose(1, 1, 1, "bfloat16", EMULATED_CHIP)
    with pytest.raises(ArgumentError, match="dtype"):
        choose(1, 1, 1, "float32", EMULATED_CHIP, "tensorcore")
    with pytest.raises(ArgumentError, match="variant"):
        choose(1, 1, 1, "float32", EMULATED_CHIP, "fast")


@given(
    SIDES,
    SIDES,
    st.integers(1, 100_000),
    st.sampled_from(["float32", "float64", *TENSORCORE]),
    st.sampled_from([2, 4, 16]),
)
def test_parts_cover_the_depth_and_none_is_empty(m, n, k, dtype, alignment):
    on_tensor_cores = dtype in TENSORCORE
    for chip in (EMULATED_CHIP, RTX_5090 if on_tensor_cores else T4):
        plan = choose(m, n, k, dtype, chip, "tensorcore" if on_tensor_cores else "pipelined", alignment)
        part, parts = plan.part(k), plan.parts(k)
        assert part % plan.tile_k == 0
        assert (parts - 1) * part < k <= parts * part
        assert parts <= plan.split_k
        assert plan.blocks(m, n) * plan.tile_m * plan.tile_n >= m * n


# --- reductions -------------------------------------------------------------------------------------------------------
@given(SIDES, SIDES)
def test_parts_of_a_column_sum(rows, width):
    rows_a_part = plans.column_sum_rows(rows, width, EMULATED_CHIP)
    parts = -(-rows // rows_a_part)
    assert parts * rows_a_part >= rows > (parts - 1) * rows_a_part
    assert parts == 1 or rows_a_part >= 64


def test_blocks_of_a_sum():
    assert plans.sum_blocks(1) == 1
    assert plans.sum_blocks(10**9) == plans.MAX_SUM_BLOCKS


def test_a_warp_takes_a_narrow_row_and_a_block_a_wide_one():
    assert plans.row_team(10) == 32
    assert plans.row_team(1024) == 32
    assert plans.row_team(1025) == 256
