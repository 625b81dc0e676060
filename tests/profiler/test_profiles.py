"""Profiles: what belongs together, the limits, and what is said of them."""

import json
from dataclasses import replace

import pytest

from gpubp import chips
from gpubp.backends.plans import Plan
from gpubp.costs import Cost
from gpubp.errors import ArgumentError
from gpubp.profiler import limits, profiles
from gpubp.profiler import profile_tables as report
from gpubp.profiler.counts import Access, Counts, Line
from gpubp.profiler.limits import MEMORY
from gpubp.profiler.machine_code import MachineCode
from gpubp.profiler.workloads import Workload
from gpubp.toolchain import nvdisasm

H100 = chips.get("H100")


@pytest.fixture(scope="module")
def naive():
    return profiles.profile(Workload("transpose_product", (16, 64, 32), variant="naive"))


# --- what belongs together --------------------------------------------------------------------------------------------
def test_the_chip_and_the_architecture():
    assert profiles.target(None, None) == (H100, "sm_90")
    assert profiles.target(None, "sm_75") == (chips.get("T4"), "sm_75")
    assert profiles.target(chips.get("RTX4090"), "sm_86") == (chips.get("RTX4090"), "sm_86")
    assert profiles.target(None, "sm_86")[0] == chips.get("RTX4090")  # of the chips here, the one that runs it
    for gpu, arch in ((H100, "sm_80"), (chips.get("A100"), "sm_89"), (None, "sm_120"), (H100, "90")):
        with pytest.raises(ArgumentError, match="arch was"):
            profiles.target(gpu, arch)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"primitive": "product"}, "primitive was 'product'"),
        ({"shape": (1, 2)}, "MxNxK"),
        ({"variant": "fast"}, "variant was 'fast'"),
        ({"variant": "tensorcore"}, "one of naive, tiled, blocked, pipelined, with dtype float32; or dtype tf32"),
        ({"variant": "naive", "dtype": "tf32"}, "left out, or tensorcore, with dtype tf32"),
        ({"variant": "wgmma", "dtype": "tf32"}, "left out, or tensorcore, with dtype tf32; or dtype bfloat16, float16"),
        (
            {"primitive": "dense_forward", "variant": "naive", "dtype": "tf32"},
            "left out, or tensorcore, wgmma, with dtype tf32",
        ),
        ({"activation": "softmax"}, "an elementwise activation"),
        ({"optimizer": "best"}, "optimizer was 'best'"),
        ({"mode": "droput"}, "mode was 'droput'; it must be one of -, dropout; did you mean 'dropout'"),
        ({"primitive": "softmax", "shape": (4, 4), "mode": "scaled"}, "mode was 'scaled'; it must be one of -"),
        ({"primitive": "update", "shape": (4,), "variant": "naive"}, "left out for update"),
        ({"primitive": "weight_step", "dtype": "float16"}, "the step would be rounded away"),
    ],
)
def test_a_workload_is_checked(options, message):
    with pytest.raises(ArgumentError, match=message):
        Workload(**{"primitive": "hidden_delta", "shape": (1, 1, 1), **options})


def test_numba_has_no_tensor_cores():
    with pytest.raises(ArgumentError, match="float32 or float64 on backend numba"):
        profiles.profile(Workload("hidden_delta", (16, 16, 16), "bfloat16"), "numba")


# --- limits -----------------------------------------------------------------------------------------------------------
def counts(blocks=132, flops=0, fma=0, passes=0, sectors=0, requests=0):
    accesses = (
        Access("shared", "load", passes, 32 * passes, 0, passes, passes),
        Access("global", "load", requests, 32 * requests, 0, sectors, sectors),
    )
    return Counts(blocks, flops, {"FMA": fma}, {}, {}, (Line("kernel.cu", 7, {"FMA": fma}, accesses),))


COST = Cost(flops=10**9, bytes_read=1, bytes_written=0)


def test_arithmetic_and_issue_by_hand():
    """One warp instruction a clock of each of four schedulers; half of the main loop is multiply-adds."""
    code = MachineCode({}, {"FMA": 8, "integer": 8}, {"FFMA": 8, "IADD3": 8})
    found = limits.limits(H100, COST, [(counts(flops=10**9, fma=5 * 10**8), code)])
    assert found.seconds["arithmetic"] == pytest.approx(10**9 / 66.9e12)
    assert found.seconds["instruction issue"] == pytest.approx(2 * 5e8 / 32 / (132 * 4 * 1.98e9))
    assert found.limiter == "instruction issue"
    assert found.rate / 66.9e12 == pytest.approx(0.5, rel=0.01)
    without = limits.limits(H100, COST, [(counts(flops=10**9, fma=5 * 10**8), None)])
    assert without.seconds["instruction issue"] == pytest.approx(found.seconds["instruction issue"] / 2)


def test_the_epilogue_of_tensor_instructions_is_issued_besides():
    code = MachineCode({}, {"tensor": 4, "integer": 12}, {"HMMA": 4, "IADD3": 12})
    work = replace(counts(), instructions={"tensor": 32 * 100, "FMA": 32 * 50, "integer": 32 * 999})
    assert limits.warp_instructions(work, code) == 100 * 4 + 50
    assert limits.warp_instructions(work, None) == 100 + 50 + 999


def test_shared_memory_and_l1_by_hand():
    found = limits.limits(H100, COST, [(counts(passes=1000, sectors=4000, requests=500), None)])
    assert found.seconds["shared memory and L1"] == pytest.approx((1000 + 1000) / (132 * 1.98e9))
    broadcasts = limits.limits(H100, COST, [(counts(sectors=500, requests=500), None)])
    assert broadcasts.seconds["shared memory and L1"] == pytest.approx(500 / (132 * 1.98e9))


def test_an_asynchronous_copy_passes_once():
    copy = (Access("global", "load", 10, 320, 5120, 160, 160), Access("shared", "async", 10, 320, 5120, 40, 40))
    found = Counts(132, 0, {}, {}, {}, (Line("copies.cuh", 1, {}, copy),))
    seconds = limits.limits(H100, COST, [(found, None)]).seconds
    assert seconds["shared memory and L1"] == pytest.approx(40 / (132 * 1.98e9))


def test_device_memory_by_hand():
    cost = Cost(flops=10, bytes_read=3_352_000, bytes_written=3_352_000)
    found = limits.limits(H100, cost, [(counts(fma=1), None)])
    assert found.limiter == "device memory"
    assert found.seconds["device memory"] == pytest.approx(2e-6)
    assert found.busy["device memory"] == 1


def test_primitives_one_after_the_other_take_the_time_of_each():
    arithmetic = limits.limits(H100, COST, [(counts(flops=10**9), None)])
    memory = limits.limits(H100, Cost(10, 10**8, 0), [(counts(33, fma=1), None)])
    both = limits.one_after_another([arithmetic, memory])
    assert both.least_seconds == pytest.approx(10**9 / 66.9e12 + 10**8 / 3.352e12)
    assert both.busy["arithmetic"] + both.busy["device memory"] == pytest.approx(1)
    assert both.rate == (10**9 + 10) / both.least_seconds
    assert limits.one_after_another([arithmetic]) == arithmetic


@pytest.mark.parametrize(("blocks", "share"), [(132, 1), (264, 1), (133, 133 / 264), (33, 0.25)])
def test_the_busiest_multiprocessor_holds_the_others_up(blocks, share):
    even = limits.limits(H100, COST, [(counts(132, flops=10**9), None)])
    found = limits.limits(H100, COST, [(counts(blocks, flops=10**9), None)])
    assert found.balance == pytest.approx(share)
    assert found.seconds["arithmetic"] == pytest.approx(even.seconds["arithmetic"] / share)


def test_kernels_that_different_parts_limit_balance_as_each_does():
    arithmetic, passes = counts(33, flops=10**9), counts(33, passes=10**6)
    assert limits.limits(H100, COST, [(arithmetic, None), (passes, None)]).balance == pytest.approx(0.25)


# --- a profile --------------------------------------------------------------------------------------------------------
def test_a_profile_holds_together(naive):
    (kernel,) = naive.kernels
    assert kernel.threads == 256
    assert kernel.counts.blocks == 4
    assert not kernel.resources.spills
    assert kernel.machine_code.main_loop["FMA"] >= 1
    assert kernel.occupancy.share == 1
    assert (kernel.waves.count, kernel.waves.last_fill) == (1, 4 / (8 * 132))
    assert naive.cost.flops == 2 * 16 * 64 * 32
    assert naive.traffic == 32 * kernel.counts.sectors
    assert naive.bytes_in_flight == 0
    assert naive.limiter.startswith(
        "Limited by the size of its grid: 4 blocks for the 132 multiprocessors of H100 SXM;"
    )


def test_a_profile_goes_through_json(naive):
    found = json.loads(json.dumps(naive.to_dict()))
    (kernel,) = found["kernels"]
    assert found["limiter"] == naive.limiter
    assert "not a measurement" in found["note"]
    assert kernel["counts"]["sectors"] == naive.kernels[0].counts.sectors
    assert kernel["counts"]["flops"] == 2 * 16 * 64 * 32
    assert found["gpu"]["source"] == H100.source
    assert (found["traffic"], found["bytes_in_flight"]) == (naive.traffic, 0)
    hot = [line for line in kernel["counts"]["lines"] if line["file"].endswith("product_naive.cuh")]
    assert sum(line["instructions"].get("FMA", 0) for line in hot) == 16 * 64 * 32


def test_what_limits_is_said_in_a_sentence(naive):
    def sentence(part, seconds, **changes):
        parts = dict.fromkeys(naive.limits.seconds, 1.0)
        found = replace(naive.limits, seconds={**parts, part: seconds}, balance=1.0, flops=int(66.9e11))
        large = replace(naive.kernels[0], counts=replace(naive.kernels[0].counts, blocks=132), **changes)
        return replace(naive, limits=found, kernels=(large,)).limiter

    assert "have no pause; at most 5 % of the peak rate" in sentence(limits.ARITHMETIC, 2)
    assert "of the main loop's instructions are FFMA; at most 5 %" in sentence(limits.ISSUE, 2)
    unread = sentence(limits.ISSUE, 2, machine_code=None)
    assert "instructions a flop, most of them for product_naive.cuh:" in unread
    assert "requests to global memory, cached or not, most of them for product_naive.cuh:" in sentence(limits.SHARED, 2)
    assert "flops a byte, where H100 SXM needs 20 to keep its arithmetic busy" in sentence(limits.MEMORY, 2)
    full = replace(naive.kernels[0].occupancy, blocks=0, limits={"registers": 0, "threads": 1})
    assert "It does not run on H100 SXM: a multiprocessor has too few registers" in sentence(
        limits.MEMORY, 2, waves=None, occupancy=full
    )


def test_tensor_cores_are_measured_by_what_mma_sync_reaches(naive):
    cost = replace(naive.cost, rate="bfloat16")
    work = replace(naive.workload, dtype="bfloat16", variant="tensorcore")
    own = limits.limits(H100, cost, [(counts(flops=cost.flops), None)])
    found = replace(naive, cost=cost, workload=work, limits=own)
    assert own.seconds["arithmetic"] == pytest.approx(cost.flops / (0.65 * 989.4e12))
    half = replace(own, seconds={**own.seconds, "shared memory and L1": 2 * own.seconds["arithmetic"], MEMORY: 0.0})
    found = replace(found, limits=half)
    words = "32 % of the peak rate, 50 % of the 65 % that mma.sync reaches"
    assert (found.peak_share, found.ceiling_share) == (pytest.approx(0.325), pytest.approx(0.5))
    assert found.shares == words
    assert found.limiter.endswith(f"at most {words}.")
    assert report.summary(found)["rate, at most"] == words
    assert (report.COMPARED["of peak"](found), report.COMPARED["of mma.sync"](found)) == ("≤ 32 %", "≤ 50 %")
    stored = json.loads(json.dumps(found.to_dict()))
    assert (stored["limits"]["peak_share"], stored["limits"]["ceiling_share"]) == (found.peak_share, 0.5)
    assert stored["gpu"]["mma_sync"] == {"share": 0.65, "source": H100.mma_source}
    unknown = replace(found, gpu=chips.get("B200"))
    assert unknown.shares.endswith("of the peak rate; what mma.sync reaches of it on B200 SXM is not known")
    assert report.COMPARED["of mma.sync"](unknown) == "?"


def test_float64_is_measured_by_the_units_that_its_plan_computes_on():
    work = Workload("transpose_product", (64, 64, 64), "float64")
    found = {name: profiles.profile(replace(work, variant=name), gpu=H100) for name in ("pipelined", "tensorcore")}
    rates = {name: each.cost.rate for name, each in found.items()}
    assert rates == {"pipelined": "float64", "tensorcore": "float64_tensor"}
    peaks = [each.roofline.peak for each in found.values()]
    assert peaks == pytest.approx([33.5e12, 66.9e12])
    own = found["tensorcore"]
    assert own.tensor_cores
    assert own.ceiling_share == own.peak_share
    assert own.limits.seconds["arithmetic"] == pytest.approx(own.cost.flops / 66.9e12 / own.limits.balance, rel=0.05)
    assert "mma.sync reaches" not in own.shares
    assert own.kernels[0].counts.conflicts == 0
    with pytest.raises(ArgumentError, match=r"'tensorcore'.*sm_100, which has no tensor cores for float64"):
        profiles.profile(replace(work, variant="tensorcore"), gpu=chips.get("B200"))


def test_without_tensor_cores_there_is_one_share(naive):
    assert naive.ceiling_share == naive.peak_share
    assert "mma.sync" not in naive.shares + report.summary(naive)["rate, at most"]


@pytest.mark.parametrize(("blocks", "words"), [(1, "1 block for"), (66, "66 blocks for"), (67, "have no pause")])
def test_a_grid_limits_where_it_leaves_half_of_the_chip_idle(naive, blocks, words):
    small = replace(naive.kernels[0], counts=replace(naive.kernels[0].counts, blocks=blocks))
    seconds = {**dict.fromkeys(naive.limits.seconds, 1.0), limits.ARITHMETIC: 2.0}
    found = replace(naive, kernels=(small,), limits=replace(naive.limits, seconds=seconds))
    assert words in found.limiter


def test_bytes_on_their_way_are_those_of_the_blocks_that_are_there(naive):
    plan = Plan("pipelined", "float32", 64, 64, 16, 8, 4, stages=3, vector=4)
    for blocks, resident in ((4, 1), (132 * 3, 3), (132 * 50, 8)):
        large = replace(naive.kernels[0], counts=replace(naive.kernels[0].counts, blocks=blocks))
        assert replace(naive, plan=plan, kernels=(large,)).bytes_in_flight == resident * 2 * 128 * 16 * 4


def test_a_missing_disassembler_leaves_a_reason(monkeypatch):
    nvdisasm.disassemble.cache_clear()
    monkeypatch.setattr(nvdisasm, "find", lambda: None)
    found = profiles.profile(Workload("transpose_product", (16, 64, 32), variant="naive"))
    (kernel,) = found.kernels
    assert kernel.machine_code is None
    assert report.rows(found, found.kernels)["main loop"] == nvdisasm.MISSING
    assert json.dumps(found.to_dict())


def test_numbers_for_a_reader():
    assert [report.amount(n) for n in (0, 999, 9999, 10_000, 999_499, 1_234_567, 5e12)] == [
        "0", "999", "9,999", "10 k", "999 k", "1.23 M", "5 T",
    ]  # fmt: skip
    assert report.amount(3.29e9, "B") == "3.29 GB"
    assert [profiles.percent(share) for share in (0.00012, 0.052, 0.5, 1)] == ["0.012 %", "5.2 %", "50 %", "100 %"]
