"""The model of plans against the compiler, the profiler's counts and the rule that came before it."""

import importlib.util
import itertools
import json
import os
import random
import re
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from gpubp import chips
from gpubp.backends import plan_model
from gpubp.backends.plans import FORMS, PIPELINED, TENSORCORE, Plan
from gpubp.bench import works
from gpubp.costs import PRODUCTS
from gpubp.dtypes import PLAIN
from gpubp.errors import ArgumentError
from gpubp.profiler import limits
from gpubp.profiler.profiles import percent, profile
from gpubp.profiler.workloads import Workload

H100 = chips.get("H100")
PRIMITIVES = {"NT": "dense_forward", "NN": "transpose_product", "TN": "weight_gradient"}


def _module():
    spec = importlib.util.spec_from_file_location("compiled_plans", Path(__file__).with_name("compiled_plans.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


compiled_plans = _module()
PLANS = {f"{plan_model.key(plan)} {form}": (plan, form) for plan in compiled_plans.all_plans() for form in FORMS}
SMALL = [
    plan
    for plan in compiled_plans.all_plans()
    if re.search("Pipelined<64, 64, 16|TensorCore<64, 64, 64|float64 TensorCore<64, 64, 16", plan_model.key(plan))
]
SAMPLE = [f"{plan_model.key(plan)} {form}" for plan, form in zip(SMALL, itertools.cycle(FORMS), strict=False)]
"""What `make test` looks at: each kind of plan with one form, in turn."""

MANY = list(PLANS)[:: 1 if os.environ.get("GPUBP_ALL_PLANS") else 4]
"""What `make exhaustive` looks at: every fourth. All take a quarter of an hour: make long ARGS="-k of_all" with
GPUBP_ALL_PLANS=1."""


def test_every_plan_is_in_the_table_and_no_other():
    stored = json.loads(plan_model.TABLE.read_text(encoding="utf-8"))
    assert stored["arch"] == compiled_plans.ARCH
    names = [plan_model.key(plan) for plan in compiled_plans.all_plans()]
    assert list(stored["plans"]) == names, "run `make profiles`"
    assert all(list(entry) == list(FORMS) for entry in stored["plans"].values())


def test_a_plan_that_is_not_in_the_table_is_an_error():
    plan = Plan("pipelined", "float32", 64, 64, 32, 8, 4, 2, 4)
    with pytest.raises(ArgumentError, match=r"plan was 'float32 Pipelined<64, 64, 32, 8, 4, 2, 4>'; it must be in"):
        plan_model.compiled(plan, "NT")


def _entry_is_the_compilers(name):
    plan, form = PLANS[name]
    assert list(plan_model.compiled(plan, form)) == compiled_plans.measured(plan, form), "run `make profiles`"


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLE)
def test_entries_of_the_table_are_the_compilers(name, reproducible):
    _entry_is_the_compilers(name)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", MANY)
def test_the_table_is_the_compilers_of_all_plans(name, reproducible):
    _entry_is_the_compilers(name)


def _is_what_the_profiler_counts(name):
    """The formulas against the kernel that the table is of: the first half of a split product, or one of stream-K, both
    with a plain epilogue."""
    plan, form = PLANS[name]
    m, n, k = 2 * plan.tile_m, 3 * plan.tile_n, 16 * plan.tile_k
    tiles = 6 * 16
    own = replace(plan, stream_k=7) if plan.stream_k else replace(plan, split_k=2)
    kernel = profile(Workload(PRIMITIVES[form], (m, n, k), plan.dtype, plan=own), gpu=H100).kernels[0]
    counts = kernel.counts
    if plan.stream_k:
        runs = plan_model.runs_of(own, m, n, k)
        blocks, ends = 7, 2 * runs.parts + 6
        assert runs[:5] == (7, 14, 6, 6, 12)  # six of seven blocks end within a tile, each within another
    else:
        blocks = ends = 6 * 2
    assert counts.blocks == blocks
    step = plan_model.step_of(plan, form, plan.vector * plan.item_bytes < 4)
    multiplies = counts.instructions["tensor" if plan.variant == "tensorcore" else "FMA"] / 32
    assert multiplies == pytest.approx(tiles * step.multiplies, rel=0.05)
    issued = limits.warp_instructions(counts, kernel.machine_code)
    assert issued == pytest.approx(tiles * step.instructions, rel=0.05)
    passes = tiles * step.passes + ends * plan_model.end_passes(plan, plan.sum_bytes)
    assert counts.passes + limits.global_passes(counts) == pytest.approx(passes, rel=0.05)
    sectors = (tiles * step.nbytes + ends * plan.tile_m * plan.tile_n * plan.sum_bytes) / 32
    assert counts.sectors == pytest.approx(sectors, rel=0.05)
    assert plan_model.candidate(plan, form, H100.for_plans()).resident == kernel.occupancy.blocks


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLE)
def test_the_formulas_give_what_the_profiler_counts(name):
    _is_what_the_profiler_counts(name)


@pytest.mark.parametrize("blocks", [1, 5, 6, 7, 12, 13, 90, 96, 500])
@pytest.mark.parametrize("deep", [1, 2, 3, 16])
def test_how_stream_k_shares_out_a_product(blocks, deep):
    """The closed formulas against a walk along all tiles, as kernels/cuda/product_stream_k.cuh makes it."""
    plan = replace(PIPELINED["float32"][1], stream_k=blocks)
    m, n, k = 2 * plan.tile_m - 1, 3 * plan.tile_n, deep * plan.tile_k - 3
    steps = 6 * deep
    depth = -(-steps // blocks)
    owners = [{step // depth for step in range(tile * deep, (tile + 1) * deep)} for tile in range(6)]
    shared = [len(each) for each in owners if len(each) > 1]
    found = plan_model.runs_of(plan, m, n, k)
    assert found[:5] == (max(map(max, owners)) + 1, depth, 6, sum(shared) - len(shared), sum(shared))
    assert max(shared, default=1) <= found.most <= max(shared, default=1) + 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "parts", "n", "dtype"),
    [("NN", 4, 128, "float32"), ("TN", 16, 128, "float32"), ("NT", 4, 127, "float32"), ("NN", 8, 128, "float64")],
)
def test_what_adding_parts_up_costs(form, parts, n, dtype):
    plan = replace(PIPELINED[dtype][4], split_k=parts)
    _, adding = profile(Workload(PRIMITIVES[form], (128, n, 1024), dtype, plan=plan), gpu=H100).kernels
    each = adding.counts.executed / (128 * n)
    assert each == pytest.approx(plan_model.reduce_instructions(n, parts, plan.item_bytes), rel=0.25)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", MANY)
def test_the_formulas_give_what_the_profiler_counts_of_all_plans(name):
    _is_what_the_profiler_counts(name)


# --- the rule that came before ----------------------------------------------------------------------------------------
def former(m, n, k, dtype, chip):
    """The plan that a rule of thumb chose: the largest tile that gives every multiprocessor a block, first of 64 × 64
    and larger, then with the depth split into parts of at least 256, then of any size."""
    variant = "pipelined" if dtype in PLAIN else "tensorcore"
    tiles = [plan for plan in (PIPELINED if dtype in PLAIN else TENSORCORE)[dtype] if plan.fits(chip)]
    least_m, least_n, count = tiles[-1].tile_m, tiles[-1].tile_n, chip.multiprocessors
    found = [
        plan
        for plan in tiles
        if plan.variant == variant
        and (plan.tile_m < 2 * m or plan.tile_m == least_m)
        and (plan.tile_n < 2 * n or plan.tile_n == least_n)
    ]
    filling = [plan for plan in found if plan.blocks(m, n) >= count]
    large = [plan for plan in filling if plan.tile_m * plan.tile_n >= 64 * 64]
    if large:
        return large[0]
    most = max(1, k // 256)
    for plan in found:
        parts = -(-count // plan.blocks(m, n))
        if 1 < parts <= most:
            return replace(plan, split_k=parts)
    return filling[0] if filling else replace(found[-1], split_k=most)


def products():
    """The products of `gpubp bench --full`: form, sides and kind of arithmetic."""
    found = {}
    for work in works.choose(works.FULL, dtypes=works.DTYPES):
        steps = work.sizes if isinstance(work, works.TrainingStep) else ()
        if not steps and work.name in PRODUCTS:
            form = {"dense_forward": "NT", "weight_gradient": "TN", "weight_step": "TN"}.get(work.name, "NN")
            found[form, work.shape, work.dtype] = None
        for m, n in itertools.pairwise(steps):
            shapes = {"NT": (work.rows, n, m), "NN": (work.rows, m, n), "TN": (n, m, work.rows)}
            found |= {(form, shape, work.dtype): None for form, shape in shapes.items()}
    return list(found)


def estimated(plan, form, shape, chip):
    tile = plan_model.candidate(replace(plan, split_k=1), form, chip)
    return tile.estimate(*shape, chip.multiprocessors, plan.split_k)


def counted(estimate):
    """What the profiler makes of a plan: the clocks in which the chip is busy."""
    return estimate.busy + estimate.adding


@pytest.mark.parametrize("key", ["H100", "A100", "B200", "RTX4090", "T4"])
def test_no_product_of_the_bench_is_slower_than_by_the_rule(key):
    """By the model; and by what the profiler counts, which does not know of waiting, not by more than that."""
    chip = chips.get(key).for_plans()
    worse = []
    for form, shape, dtype in products():
        if dtype in PLAIN or chip.has_tensor_cores:
            variant = "pipelined" if dtype in PLAIN else "tensorcore"
            before = former(*shape, dtype, chip)
            tiles = plan_model.candidates(dtype, chip, variant, 16, form)
            plan, now = plan_model.best(tiles, *shape, chip.multiprocessors)
            then = estimated(before, form, shape, chip)
            if now.clocks > then.clocks or counted(now) > 1.1 * counted(then):
                worse.append(f"{form} {shape} {dtype}: {plan} for {before}: {now} for {then}")
    assert not worse, "\n".join(worse)


TABLE = ((64, 128, 784), (128, 512, 784), (256, 1024, 784), (512, 2048, 1024), (1024, 1024, 1024), (512, 4096, 4096))
"""The products of gpubp/profiler/README.md."""


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", TABLE)
def test_the_profiler_agrees(shape, form, dtype):
    primitive = {"NT": "dense_forward", "NN": "hidden_delta", "TN": "weight_gradient"}[form]
    now = profile(Workload(primitive, shape, dtype), gpu=H100)
    before = profile(Workload(primitive, shape, dtype, plan=former(*shape, dtype, H100.for_plans())), gpu=H100)
    assert now.limits.least_seconds <= 1.01 * before.limits.least_seconds


README = Path(__file__).parents[2] / "gpubp/profiler/README.md"
ROWS = re.findall(r"^\| (\d+x\d+x\d+) \|(.*)\|$", README.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("dtype", "first"), [("float32", 0), ("bfloat16", 4)])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_readmes_shares_are_those_of_the_profiler(row, form, dtype, first, reproducible):
    primitive = {"NT": "dense_forward", "NN": "hidden_delta", "TN": "weight_gradient"}[form]
    shown = row[1].split("|")[first + list(FORMS).index(form)].strip()
    found = profile(Workload(primitive, tuple(map(int, row[0].split("x"))), dtype), gpu=H100)
    assert shown == percent(found.ceiling_share)


def test_the_readme_has_a_row_for_each_product():
    assert [row[0] for row in ROWS] == ["x".join(map(str, shape)) for shape in TABLE]


GAINS = re.findall(
    r"^\| (\w+) \| (\d+ of \d+, .*) \| (.*) \| (.*) \|$", README.read_text(encoding="utf-8"), re.MULTILINE
)


def _gains(products, chip):
    """What stream-K gains, of the products that the model takes it for."""
    found = []
    for form, shape, dtype in products:
        variant = "pipelined" if dtype in PLAIN else "tensorcore"
        with_it, without = (
            plan_model.best(plan_model.candidates(dtype, chip, variant, 16, form, stream), *shape, chip.multiprocessors)
            for stream in (True, False)
        )
        if with_it[0].stream_k:
            found.append(without[1].clocks / with_it[1].clocks - 1)
            assert found[-1] >= plan_model.STREAM_GAIN - 1
    return found


@pytest.mark.parametrize("row", [GAINS[0], *(pytest.param(row, marks=pytest.mark.slow) for row in GAINS[1:])])
def test_the_readmes_gains_of_stream_k_are_those_of_the_model(row):
    key, bench, *shown = row
    chip, rng = chips.get(key).for_plans(), random.Random(0)
    found = _gains(products(), chip)
    assert bench == f"{len(found)} of {len(products())}, {max(found):.0%}".replace("%", " %")
    shapes = [tuple(int(2 ** rng.uniform(6, 12.5)) // 16 * 16 for _ in range(3)) for _ in range(300)]
    for text, dtype in zip(shown, ("float32", "bfloat16"), strict=True):
        found = _gains([("NT", shape, dtype) for shape in shapes], chip)
        said = [str(len(found))]
        if found:
            said += [f"{statistics.median(found):.0%}", f"{max(found):.0%}"]
        assert text == ", ".join(said).replace("%", " %")
