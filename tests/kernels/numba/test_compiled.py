"""What Numba makes of the kernels: no float64 where it is not asked for, no spills, no local memory."""

import itertools
import re

import pytest
from sampling import sampled

from gpubp import emulator
from gpubp.backends.instances import numba_plan, numba_rung
from gpubp.backends.plans import PIPELINED, Plan
from gpubp.chips import Chip
from gpubp.emulator import cuda
from gpubp.kernels.numba import (
    activations,
    bias_gradient,
    dense_forward,
    forms,
    gather_rows,
    hadamard_derivative,
    hidden_delta,
    losses,
    output_delta,
    prepare_update,
    product,
    row_argmax,
    scale,
    softmax,
    transpose_product,
    weight_gradient,
    weight_step,
)
from gpubp.kernels.numba.ladder import Blocked, Naive, Pipelined, Reduction, Tiled
from gpubp.nn.activations import ACTIVATIONS

ARCHS = ("sm_80", "sm_90", "sm_100", "sm_120")
ELEMENTWISE = sorted(set(ACTIVATIONS) - {"softmax"})
RUNGS = [Naive(), Tiled(16), Blocked(64), pytest.param(Pipelined(16, 16, 2, 2), marks=pytest.mark.slow)]


def compiled(kernel):
    """The one instance of a kernel with an explicit signature."""
    (overload,) = kernel.overloads.values()
    return overload


def float64_instructions(kernel):
    """The PTX instructions that have to do with float64, in their order."""
    return re.findall(r"^\s+(?:@!?%\w+ )?([a-z]\S*\.f64\S*)\s", compiled(kernel).ptx, re.MULTILINE)


def sigma(name, dtype="float32"):
    return activations.make(cuda.jit, name, 0.5, dtype)


@pytest.mark.parametrize(
    "name", [name if name in ("tanh", "gelu") else pytest.param(name, marks=pytest.mark.slow) for name in ELEMENTWISE]
)
def test_activations_stay_in_float32(name):
    kernel = dense_forward.make(cuda.jit, Naive(), "float32", sigma(name), True, True)
    assert float64_instructions(kernel) == []
    assert float64_instructions(hadamard_derivative.make(cuda.jit, "float32", sigma(name))) == []


def products(rung):
    """Every product of a rung, in float32."""
    return [
        dense_forward.make(cuda.jit, rung, "float32", sigma("tanh"), True, False),
        hidden_delta.make(cuda.jit, rung, "float32", sigma("tanh")),
        transpose_product.make(cuda.jit, rung, "float32"),
        weight_gradient.make(cuda.jit, rung, "float32"),
        product.make(cuda.jit, rung, "float32", forms.NT),
    ]


def assert_float32(kernels):
    found = {kernel.py_func.__name__: float64_instructions(kernel) for kernel in kernels}
    assert not any(found.values()), found


@pytest.mark.parametrize("rung", RUNGS, ids=str)
def test_products_stay_in_float32(rung):
    assert_float32(products(rung))


def test_split_products_stay_in_float32():
    assert_float32([*products(Reduction()), product.partial(cuda.jit, Pipelined(16, 16, 2, 2), "float32", forms.TN)])


@pytest.mark.parametrize("rung", RUNGS, ids=str)
def test_the_step_reads_its_rate_in_float64_and_nothing_else(rung):
    found = set(float64_instructions(weight_step.make(cuda.jit, rung, "float32")))
    assert found == {"ld.global.f64", "cvt.rn.f32.f64"}


@pytest.mark.parametrize("rung", [Naive(), pytest.param(Reduction(), marks=pytest.mark.slow)], ids=str)
def test_dropout_reads_its_step_in_float64_and_nothing_else(rung):
    for kernel in (
        dense_forward.dropout(cuda.jit, rung, "float32", sigma("relu"), True, True),
        hidden_delta.dropout(cuda.jit, rung, "float32", sigma("relu")),
    ):
        assert set(float64_instructions(kernel)) == {"ld.global.f64", "cvt.rzi.u64.f64"}


def test_rows_that_are_not_weighed_cost_nothing():
    """Nothing reads `weights` and `control`: their parameters stand in no instruction."""
    loss = losses.make(cuda.jit, "huber", 1.0, "float32")
    unused = compiled(output_delta.elementwise(cuda.jit, "float32", loss, sigma("relu"), False)).ptx
    used = compiled(output_delta.elementwise(cuda.jit, "float32", loss, sigma("relu"), True)).ptx
    # an array of n dimensions is 5 + 2n parameters, its address the fifth: weights and control are the fourth and fifth
    for address in (3 * 9 + 4, 3 * 9 + 7 + 4):
        assert f"_param_{address}]" in used
        assert f"_param_{address}]" not in unused


def test_other_kernels_stay_in_float32():
    assert float64_instructions(softmax.make(cuda.jit, "float32", 32)) == []
    assert float64_instructions(row_argmax.make(cuda.jit, "float32", 32)) == []
    assert float64_instructions(scale.make(cuda.jit, "float32")) == []
    assert float64_instructions(bias_gradient.make(cuda.jit, "float32")) == []
    # the offset of a batch is float64, like all of `control`
    assert set(float64_instructions(gather_rows.make(cuda.jit, "float32"))) == {"ld.global.f64", "cvt.rzi.s64.f64"}


def test_float64_is_found_where_it_is():
    assert "cvt.f64.f32" in float64_instructions(prepare_update.make(cuda.jit, "float32"))


def compiled_product(primitive, rung, dtype):
    """The kernel of a primitive; gelu, whose epilogue is the longest."""
    if primitive == "dense_forward_dropout":
        return compiled(dense_forward.dropout(cuda.jit, rung, dtype, sigma("gelu", dtype), True, True))
    if primitive == "hidden_delta_dropout":
        return compiled(hidden_delta.dropout(cuda.jit, rung, dtype, sigma("gelu", dtype)))
    if primitive == "dense_forward":
        return compiled(dense_forward.make(cuda.jit, rung, dtype, sigma("gelu", dtype), True, True))
    if primitive == "hidden_delta":
        return compiled(hidden_delta.make(cuda.jit, rung, dtype, sigma("gelu", dtype)))
    return compiled(weight_gradient.make(cuda.jit, rung, dtype))


def check_resources(primitive, plan, arch):
    chip = Chip(arch, 100)
    plan = numba_plan(plan, chip)
    rung = numba_rung(plan)
    with emulator.use(arch):
        used = compiled_product(primitive, rung, plan.dtype).resources
    print(arch, primitive, plan.dtype, rung, used)
    assert (used.spill_store_bytes, used.spill_load_bytes, used.local_bytes) == (0, 0, 0)
    assert used.registers * plan.threads <= 65536
    assert used.shared_bytes == rung.shared_bytes(plan.dtype) <= chip.shared_per_block


PRIMITIVES = ("dense_forward", "hidden_delta", "weight_gradient")
BLOCKED = [
    (primitive, dtype, tile, ARCHS[(i + j) % 4])
    for i, (primitive, dtype) in enumerate(itertools.product(PRIMITIVES, ("float32", "float64")))
    for j, tile in enumerate((64, 128))
]


@pytest.mark.parametrize(
    ("primitive", "dtype", "tile", "arch"), sampled(BLOCKED, [("hidden_delta", "float64", 128, "sm_80")])
)
def test_registers_hold_the_sums_of_blocked(primitive, dtype, tile, arch):
    plan = Plan("blocked", dtype, tile, tile, 8, 8, 8)
    with emulator.use(arch):
        used = compiled_product(primitive, Blocked(tile), dtype).resources
    print(arch, primitive, dtype, tile, used)
    assert (used.spill_store_bytes, used.spill_load_bytes, used.local_bytes) == (0, 0, 0)
    assert used.registers * plan.threads <= 65536
    assert used.shared_bytes == plan.shared_bytes


# A thread with few sums has registers to spare: of the small tiles the smallest stands for all.
TILES = [
    plan for plans in PIPELINED.values() for plan in plans if plan.thread_m * plan.thread_n >= 32 or plan is plans[-1]
]
SAMPLE = [
    (primitive, PIPELINED[dtype][0], arch)
    for primitive, dtype, arch in (
        ("dense_forward", "float32", "sm_80"),
        ("weight_gradient", "float64", "sm_90"),
        ("hidden_delta", "float32", "sm_120"),
    )
]
"""The largest tile of each dtype, each primitive once, the oldest and the newest architecture."""
COVERING = [(PRIMITIVES[i % 3], plan, ARCHS[i % 4]) for i, plan in enumerate(TILES)]
LARGEST = [("hidden_delta", PIPELINED["float32"][0], arch) for arch in ARCHS]
DROPOUT = [
    (primitive, plan, arch)
    for plan in (plans[0] for plans in PIPELINED.values())
    for primitive, arch in zip(("dense_forward_dropout", "hidden_delta_dropout") * 2, ARCHS, strict=True)
]


@pytest.mark.parametrize(
    ("primitive", "plan", "arch"),
    sampled(SAMPLE + COVERING + LARGEST + DROPOUT, [*SAMPLE, DROPOUT[0]]),
    ids=lambda value: f"{value.dtype}-{value.tile_m}x{value.tile_n}" if isinstance(value, Plan) else value,
)
def test_registers_hold_everything_in_large_tiles(primitive, plan, arch):
    check_resources(primitive, plan, arch)
