"""The compiled kernels: no spills, registers and shared memory as planned, and the machine code of the main loop."""

import re
from dataclasses import replace

import numpy as np
import pytest
from sampling import sampled

from gpubp.backends import instances as sources
from gpubp.backends.plans import MAX_SUMS_STREAM, PIPELINED, PIPELINED_SMALL_BLOCKS, Plan
from gpubp.chips import Chip
from gpubp.kernels import philox
from gpubp.kernels.control import LARGEST_LOSS_SCALE, Control, Losses
from gpubp.nn.activations import ACTIVATIONS
from gpubp.nn.losses import LOSSES
from gpubp.nn.optimizers import OPTIMIZERS
from gpubp.profiler import machine_code
from gpubp.toolchain.nvrtc import compile_file

ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_100", "sm_120")
FORMS = {"NT": "dense_forward", "NN": "hidden_delta", "TN": "weight_gradient"}
REGISTERS = 65536
"""Registers of a multiprocessor: what one block may need at most."""


def compile_entries(entries, arch):
    """Compile instances of kernels of one file; give what each one needs, in their order."""
    (source,) = {entry.source for entry in entries}
    expressions = [entry.expression for entry in entries]
    compiled = compile_file(sources.KERNEL_DIRECTORY / source, arch, name_expressions=expressions)
    return compiled, [compiled.resources[compiled.lowered_names[expression]] for expression in expressions]


def product(form, dtype, plan, activation="GELU", dropout=False):
    """The kernel of the primitive of this form, with the activation that needs the most registers."""
    functions = () if form == "TN" else (activation,)
    kernel = f"{FORMS[form]}_dropout" if dropout else FORMS[form]
    return sources.cuda_entry(kernel, (np.dtype(dtype), *functions, plan))


def both_copies(plan):
    """The plan as it is chosen for aligned rows, and for others where it may be."""
    return [plan, replace(plan, vector=1)] if plan.suits_vector(1) else [plan]


def check_resources(all_plans, form, dtype, arch, dropout=False):
    chip = Chip(arch, 1)
    chosen = [one for plan in all_plans for one in both_copies(plan)]
    _, needs = compile_entries([product(form, dtype, plan, dropout=dropout) for plan in chosen], arch)
    for plan, resources in zip(chosen, needs, strict=True):
        assert not resources.spills, plan
        assert resources.local_bytes == 0, plan
        assert resources.registers * plan.threads <= REGISTERS, plan
        assert resources.shared_bytes == plan.on(chip).shared_bytes, plan


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
# NT needs the most registers: both of its operands are read in units
@pytest.mark.parametrize("form", ["NT", *(pytest.param(form, marks=pytest.mark.slow) for form in ("NN", "TN"))])
def test_largest_and_smallest_tiles_do_not_spill(form, dtype):
    check_resources([PIPELINED[dtype][0], PIPELINED[dtype][-1]], form, dtype, "sm_90")


LARGE_TILES = [("NT", dtype, arch) for dtype in ("float32", "float64") for arch in ARCHITECTURES] + [
    (form, dtype, "sm_80") for form in ("NN", "TN") for dtype in ("float32", "float64")
]
SAMPLE = [
    ("NT", "float32", "sm_75"),
    ("NT", "float64", "sm_120"),
    ("NN", "float64", "sm_80"),
    ("TN", "float32", "sm_80"),
]
"""Each form, each dtype, the oldest and the newest architecture: what `make test` compiles."""


@pytest.mark.parametrize(("form", "dtype", "arch"), sampled(LARGE_TILES, SAMPLE))
def test_no_large_tile_spills(form, dtype, arch):
    large = [plan for plan in PIPELINED[dtype] if plan.thread_m * plan.thread_n >= 32]
    check_resources([*large, *PIPELINED_SMALL_BLOCKS[dtype]], form, dtype, arch)


@pytest.mark.parametrize(
    ("form", "dtype", "arch"),
    sampled(
        [(form, dtype, arch) for form in FORMS for dtype in ("float32", "float64") for arch in ARCHITECTURES],
        [("NT", "float32", "sm_80"), ("NN", "float64", "sm_75"), ("TN", "float32", "sm_100")],
    ),
)
def test_stream_k_does_not_spill(form, dtype, arch):
    large = [plan for plan in PIPELINED[dtype] if plan.sums == MAX_SUMS_STREAM or plan is PIPELINED[dtype][-1]]
    check_resources([replace(plan, stream_k=1) for plan in (*large, *PIPELINED_SMALL_BLOCKS[dtype])], form, dtype, arch)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_first_rungs_need_what_the_plan_says(dtype):
    chosen = [Plan("naive", dtype, 8, 32), Plan("tiled", dtype, 16, 16, 16), Plan("tiled", dtype, 32, 32, 32)]
    chosen += [Plan("blocked", dtype, 64, 64, 8, 8, 8), Plan("blocked", dtype, 128, 128, 8, 8, 8)]
    for form in FORMS:
        _, needs = compile_entries([product(form, dtype, plan, "Tanh") for plan in chosen], "sm_90")
        for plan, resources in zip(chosen, needs, strict=True):
            assert not resources.spills
            assert resources.local_bytes == 0
            assert resources.shared_bytes == plan.shared_bytes


@pytest.mark.parametrize(
    ("form", "dtype", "arch"),
    sampled(
        [(form, dtype, arch) for form in FORMS for dtype in ("float32", "float64") for arch in ARCHITECTURES],
        [("NT", "float64", "sm_75"), ("TN", "float32", "sm_120")],
    ),
)
def test_blocked_does_not_spill(form, dtype, arch):
    check_resources([Plan("blocked", dtype, side, side, 8, 8, 8) for side in (64, 128)], form, dtype, arch)


@pytest.mark.parametrize(
    ("form", "dtype", "arch"),
    sampled(
        [(form, dtype, arch) for form in ("NT", "NN") for dtype in ("float32", "float64") for arch in ARCHITECTURES],
        [("NT", "float32", "sm_75"), ("NN", "float64", "sm_120")],
    ),
)
def test_dropout_spills_on_no_rung(form, dtype, arch):
    chosen = [PIPELINED[dtype][0], PIPELINED[dtype][-1], Plan("tiled", dtype, 32, 32, 32)]
    chosen += [Plan("blocked", dtype, side, side, 8, 8, 8) for side in (64, 128)]
    check_resources(chosen, form, dtype, arch, dropout=True)


def elementwise_entries(kinds=("float", "double")):
    """Instances of every kernel that is no product, by file."""
    entry = sources.entry
    for kind in kinds:
        wide = kind if kind == "double" else "float"
        yield [entry("hadamard_derivative", "hadamard_derivative", kind, name) for name in sigma_names()]
        for weighing in ("Unweighted", "Weighted"):
            yield [entry("output_delta", *instance) for instance in losses_of(kind, wide, weighing)]
        copy = () if kind == wide else (kind,)
        for penalties in ("WeightDecay", "L1AndL2"):
            rules = [optimizer.__name__ for optimizer in OPTIMIZERS.values()]
            yield [entry("update", "update", wide, rule, penalties, *copy) for rule in rules]
        yield [entry("softmax", "softmax", kind, out, team) for out in {kind, wide} for team in (32, 256)]
        yield [entry("row_argmax", "row_argmax", kind, team) for team in (32, 256)]
        yield [entry("bias_gradient", "bias_gradient", kind)]
        yield [entry("scale", "scale", kind)]
        yield [entry("cast", "cast", *pair) for other in ("float", "double") for pair in ((kind, other), (other, kind))]
    words = sources.WORDS.values()
    yield [entry("copy", "copy", word) for word in words]
    yield [
        entry("gather_rows", "gather_rows", *chosen)
        for chosen in ([x, y][:n] for x in words for y in words for n in (1, 2))
    ]
    yield [entry("prepare_update", "prepare_update", kind) for kind in ("float", "double")]


def losses_of(kind, wide, weighing):
    """Instances of the kernels of output_delta.cu: each loss, and both kinds of teams."""
    for loss in LOSSES.values():
        if loss.output_activation != "softmax":
            yield (
                "output_delta_elementwise",
                kind,
                loss.__name__,
                "Identity" if loss.output_activation else "GELU",
                weighing,
            )
    for team in (32, 256):
        yield "output_delta_softmax", kind, "Huber", weighing, team
        for target in ("Labels", "Probabilities"):
            y = "int64" if target == "Labels" else wide
            yield "output_delta_softmax_focal_cross_entropy", kind, target, y, weighing, team
            for smoothed in ("", "Smoothed"):
                yield "output_delta_softmax_cross_entropy", kind, smoothed + target, y, weighing, team


def sigma_names():
    return [kind.__name__ for name, kind in ACTIVATIONS.items() if name != "softmax"]


@pytest.mark.parametrize("arch", sampled([("sm_75",), ("sm_90",), ("sm_120",)], [("sm_75",), ("sm_120",)]))
def test_every_other_kernel_compiles_without_spills(arch):
    for entries in elementwise_entries():
        _, needs = compile_entries(entries, arch)
        for entry, resources in zip(entries, needs, strict=True):
            assert not resources.spills, entry


@pytest.mark.slow
def test_every_other_kernel_compiles_for_16_bits():
    # for a chip that lacks some of the conversions; the emulated device has the others
    for entries in elementwise_entries(("bfloat16", "float16")):
        _, needs = compile_entries(entries, "sm_75")
        for entry, resources in zip(entries, needs, strict=True):
            assert not resources.spills, entry


def test_every_source_is_tried():
    tried = {entry.source for entries in elementwise_entries() for entry in entries}
    tried |= {f"{name}.cu" for name in (*FORMS.values(), "product", "transpose_product", "weight_step")}
    assert tried == {path.name for path in sources.KERNEL_DIRECTORY.glob("*.cu")}


# --- machine code -----------------------------------------------------------------------------------------------------
def compiled_loop(form, arch):
    """The 128 × 128 tile's plan and its machine code."""
    plan = next(plan for plan in PIPELINED["float32"] if plan.tile_m == plan.tile_n == 128)
    entry = product(form, "float32", plan, "ReLU")
    compiled, _ = compile_entries([entry], arch)
    return plan, machine_code.read(compiled.cubin, compiled.lowered_names[entry.expression])


@pytest.mark.parametrize("arch", ["sm_80", pytest.param("sm_90", marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", FORMS)
def test_main_loop_is_nearly_all_multiply_adds(form, arch):
    plan, code = compiled_loop(form, arch)
    print(f"{form} {arch}: {code.main_loop['FMA']} of {code.loop_instructions} instructions: {code.share('FMA'):.1%}")
    assert code.main_loop["FMA"] == plan.tile_k * plan.thread_m * plan.thread_n
    assert code.share("FMA") >= 0.88
    assert "local" not in code.main_loop


@pytest.mark.parametrize("arch", ["sm_80", pytest.param("sm_90", marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", FORMS)
def test_main_loop_reads_shared_memory_16_bytes_at_a_time(form, arch, reproducible):
    plan, code = compiled_loop(form, arch)
    needed = plan.tile_k * (plan.thread_m + plan.thread_n) // plan.unit
    # ptxas makes three more than that, in every form and for both chips.
    assert code.main_loop["load shared"] <= needed + 3


# --- names that stand in two languages --------------------------------------------------------------------------------
def test_control_and_losses_are_those_of_the_protocol():
    text = (sources.KERNEL_DIRECTORY / "control.cuh").read_text(encoding="utf-8")
    for enum in (Control, Losses):
        body = re.search(rf"enum {enum.__name__} {{(.*?)}}", text, re.DOTALL)[1]
        places = {name: int(value) for name, value in re.findall(r"(\w+) = (\d+)", body)}
        assert places == {each.name: each.value for each in enum}
    assert float.fromhex(re.search(r"LARGEST_LOSS_SCALE = (\w+);", text)[1]) == LARGEST_LOSS_SCALE


def test_the_constants_of_philox_are_those_of_the_host():
    text = (sources.KERNEL_DIRECTORY / "philox.cuh").read_text(encoding="utf-8")
    for name in ("MULTIPLIERS", "KEY_STEPS"):
        words = re.search(rf"{name}\[2\] = {{(\w+), (\w+)}}", text).groups()
        assert tuple(int(word, 16) for word in words) == getattr(philox, name)
    assert int(re.search(r"ROUNDS = (\d+)", text)[1]) == philox.ROUNDS


def test_no_kernel_asks_for_less_accuracy():
    """No fast functions, and no atomic additions, whose order is open; what stream-K counts is whole."""
    for path in (*sources.KERNEL_DIRECTORY.glob("*.cu"), *sources.KERNEL_DIRECTORY.glob("*.cuh")):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\b__(expf|logf|fdividef|tanhf|powf)\b|use_fast_math|\batomic(?!Inc\b)\w+\(", text), (
            path.name
        )
