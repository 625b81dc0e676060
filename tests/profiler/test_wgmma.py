"""What the profiler says of the rung `wgmma`: its rate, the passes of its operands, and who takes it not."""

import math

import pytest

from gpubp import chips
from gpubp.backends import plan_model
from gpubp.backends.plans import WGMMA
from gpubp.profiler import profile_tables
from gpubp.profiler.counts import Counts
from gpubp.profiler.limits import ARITHMETIC, SHARED, limits, warpgroup_passes
from gpubp.profiler.profiles import profile
from gpubp.profiler.workloads import Workload

H100 = chips.get("H100")
PLAN = WGMMA["bfloat16"][1]


def test_the_passes_of_an_instruction():
    one = Counts(1, 0, {"tensor": 128}, {}, {}, ())
    assert warpgroup_passes(one, PLAN) == (64 + 256) * 32 / 128, "64 rows of A and 256 of B, of 32 bytes"
    assert warpgroup_passes(one, None) == 0


def test_the_rate_is_the_dense_one():
    flops = 2 * 64 * 256 * 16
    counts = Counts(132, 132 * flops, {"tensor": 132 * 128}, {}, {}, ())
    cost = Workload("dense_forward", (64, 256, 16), "bfloat16").cost()
    by_wgmma, by_mma = (limits(H100, cost, [(counts, None)], plan).seconds[ARITHMETIC] for plan in (PLAN, None))
    assert by_wgmma == pytest.approx(132 * flops / 989.4e12)
    assert by_mma == pytest.approx(by_wgmma / 0.65)
    assert chips.architecture("sm_90").wgmma * 128 == flops / 2, "128 clocks an instruction"


def test_an_instruction_of_tf32_is_half_as_deep_in_the_same_time():
    plan, flops = WGMMA["tf32"][1], 2 * 64 * 256 * 8
    counts = Counts(132, 132 * flops, {"tensor": 132 * 128}, {}, {}, ())
    cost = Workload("dense_forward", (64, 256, 8), "tf32").cost()
    assert limits(H100, cost, [(counts, None)], plan).seconds[ARITHMETIC] == pytest.approx(132 * flops / 494.7e12, 1e-3)
    assert warpgroup_passes(Counts(1, 0, {"tensor": 128}, {}, {}, ()), plan) == (64 + 256) * 32 / 128
    sixteen, eight = (plan_model.candidates(dtype, H100.for_plans(), "wgmma")[1] for dtype in ("bfloat16", "tf32"))
    assert eight.step == sixteen.step, "a stage is as many bytes"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("primitive", "shape", "dtype"),
    [("transpose_product", (128, 256, 256), "bfloat16"), ("dense_forward", (128, 256, 128), "tf32")],
)
def test_a_profile_counts_what_warpgroups_multiply(primitive, shape, dtype):
    found = profile(Workload(primitive, shape, dtype, "wgmma"))
    (*_, main) = found.kernels if len(found.kernels) == 1 else found.kernels[:1]
    assert main.counts.flops >= 2 * math.prod(shape)
    deep = 32 // found.plan.item_bytes
    assert main.counts.instructions["tensor"] * 2 * 64 * found.plan.tile_n * deep == 128 * main.counts.flops
    assert main.machine_code.opcodes["HGMMA"] == 4
    assert "mma.sync" not in found.shares
    assert found.limits.seconds[SHARED] > 0


@pytest.mark.slow
def test_clusters_are_counted_as_wholes():
    found = profile(Workload("transpose_product", (2048, 2048, 256), "bfloat16", "wgmma", plan=WGMMA["bfloat16"][0]))
    assert found.scaled
    assert found.exact
    assert found.kernels[0].counts.flops == 2 * 2048 * 2048 * 256


@pytest.mark.slow
def test_a_profile_of_one_tile():
    found = profile(Workload("transpose_product", (128, 256, 256), "bfloat16", "wgmma"))
    assert profile_tables.rung_note(found) == []
    assert found.stage_bytes == (found.plan.tile_m + found.plan.tile_n) * 128


@pytest.mark.slow
def test_rows_off_16_byte_boundaries_are_told():
    found = profile(Workload("transpose_product", (64, 36, 32), "bfloat16", "wgmma"))
    assert found.plan.variant == "tensorcore"
    (note,) = profile_tables.rung_note(found)
    assert "8-byte boundaries" in note


@pytest.mark.slow
def test_a_form_that_it_does_not_have_is_told():
    found = profile(Workload("transpose_product", (64, 32, 32), "tf32"))
    assert found.plan.variant == "tensorcore"
    assert profile_tables.rung_note(found) == [
        "Computed by tensorcore: the form is NN, and wgmma multiplies tf32 in NT alone."
    ]
