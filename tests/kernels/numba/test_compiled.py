"""What Numba makes of the kernels: no float64 where it is not asked for, no spills, no local memory."""

import re

import pytest
from sampling import sampled

from gpubp import emulator
from gpubp.backends.plans import EMULATED_CHIP, PIPELINED, Chip, Plan
from gpubp.emulator import cuda
from gpubp.kernels.numba import (
    activations,
    bias_gradient,
    dense_forward,
    forms,
    gather_rows,
    hadamard_derivative,
    hidden_delta,
    product,
    product_pipelined,
    row_argmax,
    scale,
    softmax,
    squared_norm,
    transpose_product,
    weight_gradient,
    weight_step,
)
from gpubp.nn.activations import ACTIVATIONS

ARCHS = ("sm_80", "sm_90", "sm_100", "sm_120")
ELEMENTWISE = sorted(set(ACTIVATIONS) - {"softmax"})
SMALL = product_pipelined.adapt(Plan("pipelined", "float32", 16, 16, 32, 2, 2, 2), EMULATED_CHIP)
RUNGS = {"naive": Plan("naive", "float32", 8, 32), "tiled": Plan("tiled", "float32", 16, 16, 16), "pipelined": SMALL}


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
    kernel = dense_forward.naive(cuda.jit, RUNGS["naive"], sigma(name), True, True)
    assert float64_instructions(kernel) == []
    assert float64_instructions(hadamard_derivative.make(cuda.jit, "float32", sigma(name))) == []


@pytest.mark.parametrize("rung", ["naive", "tiled", pytest.param("pipelined", marks=pytest.mark.slow)])
def test_products_stay_in_float32(rung):
    plan = RUNGS[rung]
    made = [
        getattr(dense_forward, rung)(cuda.jit, plan, sigma("tanh"), True, False),
        getattr(hidden_delta, rung)(cuda.jit, plan, sigma("tanh")),
        getattr(transpose_product, rung)(cuda.jit, plan),
        getattr(weight_gradient, rung)(cuda.jit, plan),
        getattr(product, rung)(cuda.jit, plan, forms.NT),
    ]
    if rung == "pipelined":
        made += [product.partial(cuda.jit, plan, forms.TN), weight_gradient.reduce(cuda.jit, "float32")]
    assert {
        kernel.py_func.__name__: float64_instructions(kernel) for kernel in made if float64_instructions(kernel)
    } == {}


@pytest.mark.parametrize("rung", ["naive", "tiled", pytest.param("pipelined", marks=pytest.mark.slow)])
def test_the_step_reads_its_rate_in_float64_and_nothing_else(rung):
    found = set(float64_instructions(getattr(weight_step, rung)(cuda.jit, RUNGS[rung])))
    assert found == {"ld.global.f64", "cvt.rn.f32.f64"}


def test_other_kernels_stay_in_float32():
    assert float64_instructions(softmax.make(cuda.jit, "float32", 32)) == []
    assert float64_instructions(row_argmax.make(cuda.jit, "float32", 32)) == []
    assert float64_instructions(scale.make(cuda.jit, "float32")) == []
    assert float64_instructions(bias_gradient.parts(cuda.jit, "float32")) == []
    assert float64_instructions(bias_gradient.add_parts(cuda.jit, "float32")) == []
    # the offset of a batch is float64, like all of `control`
    assert set(float64_instructions(gather_rows.make(cuda.jit, "float32"))) == {"ld.global.f64", "cvt.rzi.s64.f64"}


def test_float64_is_found_where_it_is():
    assert "cvt.f64.f32" in float64_instructions(squared_norm.parts(cuda.jit, "float32"))


def pipelined(primitive, plan):
    """The pipelined kernel of a primitive; gelu, whose epilogue is the longest."""
    if primitive == "dense_forward":
        return dense_forward.pipelined(cuda.jit, plan, sigma("gelu", plan.dtype), True, True)
    if primitive == "hidden_delta":
        return hidden_delta.pipelined(cuda.jit, plan, sigma("gelu", plan.dtype))
    return weight_gradient.pipelined(cuda.jit, plan)


def check_resources(primitive, plan, arch):
    chip = Chip(arch, 100)
    plan = product_pipelined.adapt(plan, chip)
    with emulator.use(arch):
        used = compiled(pipelined(primitive, plan)).resources
    print(arch, primitive, plan.dtype, f"{plan.tile_m}x{plan.tile_n}", used)
    assert (used.spill_store_bytes, used.spill_load_bytes, used.local_bytes) == (0, 0, 0)
    assert used.registers * plan.threads <= 65536
    assert used.shared_bytes == product_pipelined.shared_bytes(plan) <= chip.shared_per_block


PRIMITIVES = ("dense_forward", "hidden_delta", "weight_gradient")
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


@pytest.mark.parametrize(
    ("primitive", "plan", "arch"),
    sampled(SAMPLE + COVERING + LARGEST, SAMPLE),
    ids=lambda value: f"{value.dtype}-{value.tile_m}x{value.tile_n}" if isinstance(value, Plan) else value,
)
def test_registers_hold_everything_in_large_tiles(primitive, plan, arch):
    check_resources(primitive, plan, arch)
