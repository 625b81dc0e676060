"""Plans: their constraints, and which one is chosen."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubp import chips
from gpubp.backends import plan_model, plans
from gpubp.backends.gpu_backend import variants_for
from gpubp.backends.plan_model import choose
from gpubp.backends.plans import PIPELINED, TENSORCORE, TENSORCORE_UNALIGNED, Plan
from gpubp.chips import Chip
from gpubp.dtypes import MIXED
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
    ("plan", "change", "words"),
    [
        (GOOD, {"stream_k": -1}, "stream_k was -1; it must be a whole number ≥ 0"),
        (GOOD, {"stream_k": 4, "split_k": 2}, "stream_k was 4; it must be 0 where split_k is not 1"),
        (PIPELINED["float32"][0], {"stream_k": 4}, "0 where a thread has 128 sums"),
        (Plan("naive", "float32", 8, 32), {"stream_k": 4}, "stream_k was 4; it must be 0 with variant 'naive'"),
    ],
)
def test_a_plan_of_stream_k_names_what_it_cannot_have(plan, change, words):
    with pytest.raises(ArgumentError, match=words):
        replace(plan, **change)


def test_stream_k_is_not_for_products_of_too_many_steps():
    plan = replace(PIPELINED["float32"][-1], stream_k=132)
    with pytest.raises(ArgumentError, match="stream_k was 132; it must be 0 for a product of"):
        plan.grid(2**20, 2**20, 1024)


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
    assert (plan.grid(100, 200, 50), plan.block) == (grid, block)
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
        assert areas == sorted(areas, reverse=True), "the largest comes first: of equals it is chosen"
        for plan in tiles:
            assert plan.dtype == dtype
            assert plan.on(EMULATED_CHIP).shared_bytes <= 48 * 1024
            assert plan.on(T4).threads % 32 == 0


def test_tensor_cores_need_a_chip_that_has_them():
    with pytest.raises(ArgumentError, match=r"sm_75.*no tensor cores"):
        GOOD_TENSOR.on(T4)
    with pytest.raises(ArgumentError, match=r"sm_75.*no tensor cores"):
        choose(64, 64, 64, "tf32", T4, "tensorcore")
    for chip in (T4, RTX_5090, chips.get("B200").for_plans()):
        match = rf"'tensorcore'; it must be .*'pipelined' on {chip.arch}, which has no tensor cores for float64"
        with pytest.raises(ArgumentError, match=match):
            choose(64, 64, 64, "float64", chip, "tensorcore")
        with pytest.raises(ArgumentError, match=match):
            TENSORCORE["float64"][-1].on(chip)


@pytest.mark.parametrize("form", plans.FORMS)
@pytest.mark.parametrize("key", ["A100", "H100"])
def test_float64_is_chosen_on_tensor_cores_where_the_table_has_their_rate(key, form):
    chip = chips.get(key).for_plans()
    both = ("pipelined", "tensorcore")
    assert variants_for("float64", None, chip, 16, form, 64) == variants_for("float64", None, chip, 8, form, 64) == both
    plan = choose(4096, 4096, 4096, "float64", chip, form=form, others=("tensorcore",))
    assert plan.variant == "tensorcore"
    assert plan.tile_m * plan.tile_n >= 64 * 64
    clocks = [
        plan_model.best(plan_model.candidates("float64", chip, name, 16, form), 4096, 4096, 4096, chip.multiprocessors)
        for name in both
    ]
    assert clocks[0][1].clocks > 1.7 * clocks[1][1].clocks


def test_float64_stays_with_threads_elsewhere():
    for key in ("B200", "RTX4090", "T4"):
        assert variants_for("float64", None, chips.get(key).for_plans(), 16, "NT", 64) == ("pipelined",)
    with pytest.raises(ArgumentError, match=r"variant was 'wgmma'; it must be another one to multiply in float64$"):
        variants_for("float64", "wgmma", EMULATED_CHIP, 16, "NT", 64)


def test_a_plan_of_wgmma_refuses_what_tensor_maps_cannot_reach():
    plan = plans.WGMMA["bfloat16"][0]
    assert plan.grid(plans.LONGEST_MAPPED, 8, 8)
    for sides in ((2**31, 8, 8), (8, 2**31, 8), (8, 8, 2**31)):
        with pytest.raises(ArgumentError, match=r"plan.variant was 'wgmma'; .* for a side of 2147483648"):
            plan.grid(*sides)


def test_tf32_is_chosen_on_wgmma_along_the_depth_alone():
    both, one = ("tensorcore", "wgmma"), ("tensorcore",)
    chip = chips.get("H100").for_plans()
    for variant in (None, "wgmma"):
        usual = both if variant is None else ("wgmma",)
        assert variants_for("tf32", variant, chip, 16, "NT", 64) == usual
        assert variants_for("tf32", variant, chip, 8, "NT", 64) == one
        assert variants_for("tf32", variant, chip, 16, "NT", plans.LONGEST_MAPPED) == usual
        assert variants_for("tf32", variant, chip, 16, "NT", plans.LONGEST_MAPPED + 1) == one
        for form in ("NN", "TN"):
            assert variants_for("tf32", variant, chip, 16, form, 64) == one
            assert variants_for("bfloat16", variant, chip, 16, form, 64) == usual
    for key in ("A100", "B200"):
        assert variants_for("tf32", None, chips.get(key).for_plans(), 16, "NT", 64) == one
    plan = choose(4096, 4096, 4096, "tf32", chip, "tensorcore", others=("wgmma",))
    assert (plan.variant, plan.tile_k, plan.vector) == ("wgmma", 32, 4)
    clocks = [
        plan_model.best(plan_model.candidates("tf32", chip, name), 4096, 4096, 4096, chip.multiprocessors)[1].clocks
        for name in both
    ]
    assert clocks[0] > 1.5 * clocks[1], "mma.sync has 61 % of the rate"
    with pytest.raises(ArgumentError, match=r"variant was 'wgmma'; it must be another one for form TN of tf32"):
        choose(4096, 4096, 4096, "tf32", chip, "wgmma", form="TN")
    with pytest.raises(ArgumentError, match=r"variant was 'wgmma'; .* form NN of tf32"):
        choose(4096, 4096, 4096, "tf32", chip, "tensorcore", form="NN", others=("wgmma",))


def test_operands_are_copied_as_what_is_multiplied_and_results_as_what_they_are():
    assert plans.WGMMA["tf32"][0].boxes("NT") == (plans.Box(128, 32, "tf32"), plans.Box(128, 32, "tf32"))
    assert plans.WGMMA["bfloat16"][1].boxes("NN") == (plans.Box(128, 64, "bfloat16"), plans.Box(64, 64, "bfloat16"))
    assert plans.stored_box(np.dtype(np.float32)) == plans.Box(8, 32, "float32")
    assert plans.stored_box(np.dtype(np.float16)) == plans.Box(8, 64, "float16")


@pytest.mark.parametrize(("batch", "clocks", "alone"), [(256, 2534, 3379), (512, 4224, 5914)])
def test_few_tiles_of_a_weight_gradient_are_computed_in_clusters(batch, clocks, alone):
    """The figures of gpubp/profiler/README.md: two blocks ask L2 for the columns of one."""
    chip = chips.get("H100").for_plans()
    tiles = plan_model.candidates("bfloat16", chip, "wgmma", form="TN")
    found = []
    for chosen in (tiles, [each for each in tiles if each.plan.cluster == 1]):
        plan, estimate = plan_model.best(chosen, 1024, 784, batch, chip.multiprocessors)
        found.append((plan.tile_m, plan.tile_n, plan.cluster, round(estimate.clocks)))
    assert found == [(64, 128, 2, clocks), (64, 128, 1, alone)]


@pytest.mark.parametrize("m", [1, 64, 65, 128, 129])
def test_no_block_of_a_cluster_is_without_rows(m):
    """Of the only clusters; of the last ones of many rows it may be."""
    chip = chips.get("H100").for_plans()
    for n, k in itertools.product((64, 512, 4096), (64, 1024, 8192)):
        for plan, _ in plan_model.ranked(plan_model.candidates("bfloat16", chip, "wgmma"), m, n, k, 132):
            assert plan.cluster == 1 or m > plan.tile_m


def test_the_forms_of_each_rung():
    for variant in plans.VARIANTS:
        for dtype in plans.kinds_of(variant):
            every = (variant, dtype) != ("wgmma", "tf32")
            assert plans.forms_of(variant, dtype) == (tuple(plans.FORMS) if every else ("NT",))
    assert plans.variants_of("tf32") == ("tensorcore", "wgmma")
    assert plans.variants_of("tf32", form="NN") == ("tensorcore",)


@pytest.mark.parametrize("tables", [TENSORCORE, TENSORCORE_UNALIGNED])
def test_all_plans_for_tensor_cores_fit_every_chip_that_has_them(tables):
    for dtype, tiles in tables.items():
        areas = [plan.tile_m * plan.tile_n for plan in tiles]
        assert areas == sorted(areas, reverse=True), "the largest comes first: of equals it is chosen"
        for plan in tiles:
            assert plan.dtype == dtype
            assert plan.on(RTX_5090 if dtype in MIXED else chips.get("A100").for_plans()).stages >= 3
            assert plan.fits(RTX_5090)
            # two fragments take turns, whichever the type
            assert plan.tile_k % (2 * plan.fragment_depth) == 0


@pytest.mark.parametrize("dtype", MIXED)
def test_the_named_sizes_of_tiles_are_there(dtype):
    sizes = {(plan.tile_m, plan.tile_n) for plan in TENSORCORE[dtype]}
    assert {(128, 256), (128, 128), (64, 64), (32, 32)} <= sizes


# --- the choice -------------------------------------------------------------------------------------------------------
def test_the_largest_tile_where_there_are_enough():
    assert choose(4096, 4096, 4096, "float32", EMULATED_CHIP, stream=False).tile_m == 256
    # 1024 × 1024: 64 tiles of 128 × 128 leave half of 132 multiprocessors idle
    plan = choose(1024, 1024, 1024, "float32", EMULATED_CHIP)
    assert (plan.tile_m * plan.tile_n, plan.sums, plan.split_k, plan.stream_k) == (64 * 64, 64, 1, 0)
    # a smaller chip is filled by larger tiles
    plan = choose(1024, 1024, 1024, "float32", Chip("sm_90", 16))
    assert (plan.tile_m, plan.tile_n) == (256, 128)


def test_a_deep_product_of_few_tiles_is_split():
    plan = choose(128, 784, 60_000, "float32", EMULATED_CHIP, stream=False)
    assert plan.tile_m * plan.tile_n >= 64 * 64
    assert plan.split_k > 1
    blocks = plan.blocks(128, 784) * plan.parts(60_000)
    assert blocks / (-(-blocks // EMULATED_CHIP.multiprocessors) * EMULATED_CHIP.multiprocessors) >= 0.9


def test_stream_k_is_taken_where_tiles_fill_no_whole_waves():
    # 1104 × 1040: 81 tiles of 128 × 128, or 153 of 128 × 64, for 132 multiprocessors
    plan = choose(1104, 1040, 1600, "float32", EMULATED_CHIP)
    assert plan.stream_k == 2 * EMULATED_CHIP.multiprocessors
    least, other = (_clocks(1104, 1040, 1600, stream) for stream in (True, False))
    assert least < 0.85 * other
    # where every multiprocessor gets a whole tile nothing is shared, and a block a tile does the same
    assert choose(1024, 1024, 1024, "float32", EMULATED_CHIP).stream_k == 0


def _clocks(m, n, k, stream):
    tiles = plan_model.candidates("float32", EMULATED_CHIP, "pipelined", 16, "NT", stream)
    return plan_model.best(tiles, m, n, k, EMULATED_CHIP.multiprocessors)[1].clocks


def test_there_is_no_stream_k_for_rows_off_16_byte_boundaries():
    found = plan_model.candidates("float32", EMULATED_CHIP, "pipelined", 4)
    assert not any(each.plan.stream_k for each in found)


def test_a_split_that_costs_more_than_it_saves_is_not_made():
    plan = choose(4096, 4096, 64, "float32", EMULATED_CHIP)
    assert plan.split_k == 1
    assert choose(32, 64, 64, "float32", EMULATED_CHIP).split_k == 1


def test_a_small_product_takes_the_smallest_tile():
    plan = choose(32, 64, 64, "float32", EMULATED_CHIP)
    assert (plan.tile_m, plan.tile_n, plan.split_k) == (16, 16, 1)


def test_no_tile_hangs_over_where_a_smaller_one_does_the_same():
    plan = choose(100_000, 10, 512, "float32", EMULATED_CHIP)
    assert plan.tile_n == 16


def test_the_form_of_the_product_counts():
    """A row of A is contiguous along the depth in NT and NN: what the compiler makes of it differs."""
    tiles = {form: plan_model.candidates("float32", EMULATED_CHIP, "pipelined", 16, form) for form in plans.FORMS}
    assert [each.resident for each in tiles["TN"]] != [each.resident for each in tiles["NT"]]
    with pytest.raises(ArgumentError, match="form was 'TT'"):
        choose(1, 1, 1, "float32", EMULATED_CHIP, form="TT")


@pytest.mark.parametrize("form", plans.FORMS)
@pytest.mark.parametrize("dtype", ["float32", "float64", *MIXED])
def test_the_choice_has_the_least_time_of_all_candidates(dtype, form):
    variant = "tensorcore" if dtype in MIXED else "pipelined"
    count = EMULATED_CHIP.multiprocessors
    found = plan_model.candidates(dtype, EMULATED_CHIP, variant, 16, form)
    rng = np.random.default_rng(0)
    for _ in range(20):
        m, n, k = (int(2**power) for power in rng.uniform(0, 13, 3))
        plan = choose(m, n, k, dtype, EMULATED_CHIP, variant, 16, form)
        (own,) = [each for each in found if replace(plan, split_k=1) == each.plan.on(EMULATED_CHIP)]
        least = own.estimate(m, n, k, count, plan.split_k).clocks
        for each in found:
            gain = plan_model.STREAM_GAIN if each.plan.stream_k else 1 / plan_model.STREAM_GAIN if plan.stream_k else 1
            assert least <= gain * each.estimate(m, n, k, count, 1).clocks
        assert least <= own.estimate(m, n, k, count, max(1, count // own.plan.blocks(m, n))).clocks


def test_an_unknown_architecture_is_taken_for_the_next_older_one():
    for arch, taken in (("sm_90", "sm_90"), ("sm_95", "sm_90"), ("sm_200", "sm_121"), ("sm_70", "sm_75")):
        assert chips.architecture(arch).name == taken


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
        ("float64", 16, 2),
        ("float64", 8, 1),
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


def test_tensor_cores_take_large_tiles_where_there_are_enough():
    for dtype in TENSORCORE:
        plan = choose(4096, 4096, 4096, dtype, EMULATED_CHIP, "tensorcore")
        # a multiplication of float64 takes so long that a small tile keeps up
        assert plan.tile_m * plan.tile_n >= (128 * 128 if dtype in MIXED else 64 * 64)
        assert plan.split_k == 1
        plan = choose(128, 784, 60_000, dtype, EMULATED_CHIP, "tensorcore")
        assert plan.tile_m * plan.tile_n >= 64 * 64
        assert plan.split_k > 1 if dtype in MIXED else plan.stream_k
        plan = choose(1, 10, 64, dtype, EMULATED_CHIP, "tensorcore")
        # float64 has four tiles in depth, which are worth a part each
        assert (plan.tile_m, plan.tile_n, plan.split_k) == (32, 32, 1 if dtype in MIXED else 4)


@pytest.mark.parametrize("variant", plans.VARIANTS)
def test_every_variant_can_be_asked_for(variant):
    dtype = plans.kinds_of(variant)[-1]
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
    st.sampled_from(["float32", "float64", *MIXED]),
    st.sampled_from([2, 4, 16]),
)
def test_parts_cover_the_depth_and_none_is_empty(m, n, k, dtype, alignment):
    on_tensor_cores = dtype in MIXED
    for chip in (EMULATED_CHIP, RTX_5090 if on_tensor_cores else T4):
        plan = choose(m, n, k, dtype, chip, "tensorcore" if on_tensor_cores else "pipelined", alignment)
        part, parts = plan.part(k), plan.parts(k)
        assert part % plan.tile_k == 0
        assert (parts - 1) * part < k <= parts * part
        assert parts <= plan.split_k
        assert plan.blocks(m, n) * plan.tile_m * plan.tile_n >= m * n


# --- reductions -------------------------------------------------------------------------------------------------------
@given(SIDES)
def test_parts_of_a_column_sum(rows):
    rows_a_part = plans.column_sum_rows(rows)
    parts = -(-rows // rows_a_part)
    assert parts * rows_a_part >= rows > (parts - 1) * rows_a_part
    assert rows_a_part - 1 <= parts <= rows_a_part


def test_blocks_of_a_sum():
    assert plans.sum_blocks(1) == 1
    assert plans.sum_blocks(10**9) == plans.MAX_SUM_BLOCKS


def test_a_warp_takes_a_narrow_row_and_a_block_a_wide_one():
    assert plans.row_team(10) == 32
    assert plans.row_team(1024) == 32
    assert plans.row_team(1025) == 256
