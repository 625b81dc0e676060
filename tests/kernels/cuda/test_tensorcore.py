"""The rung `tensorcore` on the emulated device: every form, type and tile, what it moves, and its machine code.

Small integers are exact in every type, so their products are compared bit for bit.
"""

from dataclasses import replace

import numpy as np
import pytest
from sampling import sampled

from gpubp import emulator
from gpubp.backends import instances as sources
from gpubp.backends.cupy_backend import CupyBackend
from gpubp.backends.numba_backend import NumbaBackend
from gpubp.backends.plan_model import choose
from gpubp.backends.plans import (
    TENSORCORE,
    TENSORCORE_SMALL_BLOCKS,
    TENSORCORE_UNALIGNED,
    Plan,
    largest,
    row_alignment,
)
from gpubp.chips import Chip
from gpubp.dtypes import ARITHMETIC
from gpubp.errors import ArgumentError
from gpubp.nn import activations
from gpubp.nn.precision import round_to_tf32
from gpubp.profiler import machine_code
from gpubp.toolchain.nvrtc import compile_file

STORED = {"tf32": "float32", "bfloat16": "bfloat16", "float16": "float16", "float64": "float64"}
"""The arrays' dtype by what is multiplied."""
FORMS = ("NT", "NN", "TN")
PRIMITIVES = {"NT": "dense_forward", "NN": "hidden_delta", "TN": "weight_gradient"}
RELU = activations.get("relu")
SHARED_ON_REQUEST = 99 * 1024
"""Bytes that a block may have on every chip with tensor cores."""


@pytest.fixture(scope="module")
def backend():
    return CupyBackend("emulator")


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def sides(form, m, n, k):
    return {"NT": ((m, k), (n, k)), "NN": ((m, k), (k, n)), "TN": ((k, m), (k, n))}[form]


def reference(form, a, b):
    return (a.T if form == "TN" else a) @ (b.T if form == "NT" else b)


def master(operands):
    """The dtype of sums."""
    return str(ARITHMETIC[operands].accumulator)


def integers(rng, shape, largest=3):
    """Integers whose sums of products are exact in float32, in any order."""
    return rng.integers(-largest, largest + 1, shape).astype(np.float32)


def multiply(backend, form, operands, a, b, plan=None, **factors):
    """The product of two matrices that are stored as the type is, in the type of its sums."""
    stored = STORED[operands]
    c = backend.empty((a.shape[form == "TN"], b.shape[form != "NT"]), master(operands))
    placed = [backend.asarray(x.astype(stored), stored) for x in (a, b)]
    backend.product(form, *placed, c, tf32=operands == "tf32", plan=plan, **factors)
    return backend.asnumpy(c)


def assert_exact(backend, rng, form, operands, shape, plan=None):
    if operands == "float64" and plan is None:  # threads compute it too, and a small product faster
        plan = choose(*shape, operands, backend.chip, "tensorcore", row_alignment(form, *shape, 8), form)
    a, b = (integers(rng, side) for side in sides(form, *shape))
    np.testing.assert_array_equal(multiply(backend, form, operands, a, b, plan), reference(form, a, b), str(plan))


def narrow_copies(operands):
    """The tiles for rows off 16-byte boundaries, with the copies that the rule takes each size with."""
    for vector in (1, 2)[: 1 if operands == "float64" else 2]:
        sizes = set()
        for plan in TENSORCORE_UNALIGNED[operands]:
            if plan.suits_vector(vector) and (plan.tile_m, plan.tile_n) not in sizes:
                sizes.add((plan.tile_m, plan.tile_n))
                yield replace(plan, vector=vector)


# --- results ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("form", "operands"), [("NT", "bfloat16"), ("NN", "float16"), ("TN", "tf32"), ("NN", "float64")]
)
def test_integers_are_exact(backend, rng, form, operands):
    assert_exact(backend, rng, form, operands, (40, 24, 72))  # 16-byte copies, ragged tiles, two of them in depth


@pytest.mark.slow
@pytest.mark.parametrize("operands", STORED)
@pytest.mark.parametrize("form", FORMS)
def test_any_shape_is_exact(backend, rng, form, operands):
    ones, batch_of_one, primes, around = (1, 1, 1), (1, 70, 5), (37, 31, 67), (33, 64, 129)
    pairs, depth_below_a_tile, deep = (34, 62, 10), (64, 32, 8), (40, 8, 264)
    for shape in (ones, batch_of_one, primes, around, pairs, depth_below_a_tile, deep):
        assert_exact(backend, rng, form, operands, shape)


@pytest.mark.slow
@pytest.mark.parametrize(("form", "operands"), [("NT", "tf32"), ("NN", "bfloat16"), ("TN", "float16")])
def test_rows_that_start_between_16_byte_boundaries(backend, rng, form, operands):
    stored = np.dtype(STORED[operands])
    m, n, k = 40, 32, 64
    a, b = (integers(rng, side) for side in sides(form, m, n, k))
    second, c = backend.asarray(b.astype(stored), stored), backend.empty((m, n), "float32")
    for start in (1, 2):
        room = backend.empty(a.size + start, stored)
        first = room[start:].reshape(a.shape)
        backend.upload(a.astype(stored), first)
        backend.product(form, first, second, c, tf32=operands == "tf32")
        np.testing.assert_array_equal(backend.asnumpy(c), reference(form, a, b))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "operands"), [("NT", "float16"), ("NN", "tf32"), ("TN", "bfloat16"), ("NT", "float64")]
)
def test_split_depth_is_exact_and_the_same_every_time(backend, rng, form, operands):
    shape = (40, 40, 300 if form == "TN" else 296)
    for split in (2, 100):
        plan = replace(TENSORCORE[operands][-1], split_k=split)
        assert_exact(backend, rng, form, operands, shape, plan)
        got, expected = run_primitive(backend, rng, form, operands, plan, *shape)
        np.testing.assert_array_equal(got.astype(np.float32), expected)
    a, b = (rng.normal(size=side).astype(np.float32) for side in sides(form, *shape))
    plan = replace(TENSORCORE[operands][-1], split_k=3)
    first, second = (multiply(backend, form, operands, a, b, plan) for _ in range(2))
    np.testing.assert_array_equal(first.view(np.uint8), second.view(np.uint8))


def test_sums_are_float32(backend):
    # 2049 is no float16, 257 no bfloat16; a sum kept in either would stop growing before
    for operands, depth in (("float16", 4104), ("bfloat16", 520)):
        a = np.ones((3, depth), np.float32)
        np.testing.assert_array_equal(multiply(backend, "NT", operands, a, a, TENSORCORE[operands][-1]), depth)


def test_floats_are_rounded_to_tf32_to_nearest(backend):
    unit = np.float32(2.0**-10)
    values = np.array([1 + unit / 2, 1 + unit * 1.5, -1 - unit / 2, 1 + unit * 0.499, np.nan, np.inf], np.float32)
    a, b = np.zeros((8, len(values)), np.float32), np.zeros((8, 8), np.float32)
    a[0], b[0] = values, 1  # a depth of one, padded with zeros to whole rows
    product = multiply(backend, "TN", "tf32", a, b)
    np.testing.assert_array_equal(product, np.repeat(round_to_tf32(values)[:, None], 8, 1))
    assert product[0, 0] == 1 + unit
    assert product[2, 0] == -1 - unit, "ties go away from zero"
    assert product[3, 0] == 1


@pytest.mark.slow
@pytest.mark.parametrize("stored", ["bfloat16", "float16"])
def test_what_is_stored_is_rounded_once_and_does_not_saturate(backend, rng, stored):
    delta, w = (rng.normal(size=side).astype(stored) for side in ((16, 24), (24, 40)))
    delta[0], w[:, 0] = 300, 300
    product = backend.empty((16, 40), stored)
    backend.transpose_product(*(backend.asarray(x, stored) for x in (delta, w)), product)
    sums = delta.astype(np.float32) @ w.astype(np.float32)
    got = backend.asnumpy(product).astype(np.float32)
    with np.errstate(over="ignore"):
        # float32 sums differ in their last bits, so a value at the middle of two may go either way
        low, high = (np.nextafter(sums, side * np.inf).astype(stored).astype(np.float32) for side in (-1, 1))
    assert np.all((got == low) | (got == high))
    assert np.isinf(got[0, 0]) == (stored == "float16"), "24 · 300 · 300 passes 65504"


# --- what it moves ----------------------------------------------------------------------------------------------------
def run_primitive(backend, rng, form, operands, plan, m, n, k):
    """The primitive of this form on integers that are exact in every type; gives what it wrote and what is right."""
    stored = STORED[operands]
    a, b = (integers(rng, side, 1) for side in sides(form, m, n, k))
    first, second = (backend.asarray(x.astype(stored), stored) for x in (a, b))
    settings = {"tf32": operands == "tf32", "plan": plan}
    expected = reference(form, a, b)
    if form == "TN":
        out = backend.empty((m, n), master(operands))
        backend.weight_gradient(first, second, out, **settings)
        return backend.asnumpy(out), expected
    out = backend.empty((m, n), stored)
    if form == "NT":
        backend.dense_forward(first, second, None, RELU, None, out, **settings)
        return backend.asnumpy(out), np.maximum(expected, 0)
    saved = integers(rng, (m, n))
    backend.hidden_delta(first, second, RELU, backend.asarray(saved.astype(stored), stored), out, **settings)
    return backend.asnumpy(out), expected * (saved > 0)


def check_observed(backend, rng, operands, plan, form):
    """Run the primitive of this form on a tile; give the report of what it moved."""
    with emulator.observe(races=True, uninitialised=True, traffic=True) as report:
        # more tiles in depth than there are stages, and one that is not whole
        depth = (plan.stages + 1) * plan.tile_k + 32 // plan.item_bytes
        got, expected = run_primitive(backend, rng, form, operands, plan, plan.tile_m, 2 * plan.tile_n, depth)
    np.testing.assert_array_equal(got.astype(np.float32), expected)
    assert report.findings == []
    return report


@pytest.mark.slow
@pytest.mark.parametrize(
    ("operands", "plan", "form"),
    [
        pytest.param(
            operands,
            plan,
            FORMS[(turn + place) % 3],
            id=f"{operands} {plan.tile_m}x{plan.tile_n} by {plan.warp_m}x{plan.warp_n}",
        )
        for turn, operands in enumerate(("tf32", "bfloat16", "float64"))
        for place, plan in enumerate((*TENSORCORE[operands], *TENSORCORE_SMALL_BLOCKS[operands]))
    ],
)
def test_every_tile_is_exact_without_races_conflicts_or_wasted_sectors(backend, rng, operands, plan, form):
    report = check_observed(backend, rng, operands, plan, form)
    assert report.global_accesses
    assert report.shared_accesses
    assert [(str(each.location), each.kind, each.excess) for each in report.accesses if each.excess] == []


@pytest.mark.slow
@pytest.mark.parametrize("operands", ["tf32", "bfloat16", "float64"])
@pytest.mark.parametrize("form", FORMS)
def test_no_form_has_conflicts_or_wastes_sectors(backend, rng, form, operands):
    report = check_observed(backend, rng, operands, TENSORCORE[operands][5], form)
    assert [(str(each.location), each.kind, each.excess) for each in report.accesses if each.excess] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("operands", "plan", "form"),
    [
        pytest.param(operands, plan, FORMS[place % 3], id=f"{operands} {plan.tile_m}x{plan.tile_n} by {plan.vector}")
        for operands in ("tf32", "bfloat16", "float64")
        for place, plan in enumerate(narrow_copies(operands))
    ],
)
def test_every_narrow_copy_is_exact_without_races(backend, rng, operands, plan, form):
    assert check_observed(backend, rng, operands, plan, form).shared_accesses


# --- compiled code ----------------------------------------------------------------------------------------------------
def compile_primitive(form, operands, plans, arch, activation="ReLU"):
    """The instances of the primitive of this form, by their plans."""
    template = (np.dtype(STORED[operands]), *(() if form == "TN" else (activation,)))
    entries = [sources.cuda_entry(PRIMITIVES[form], (*template, plan)) for plan in plans]
    path = sources.KERNEL_DIRECTORY / entries[0].source
    compiled = compile_file(path, arch, name_expressions=[entry.expression for entry in entries])
    return compiled, [compiled.lowered_names[entry.expression] for entry in entries]


LARGE_TILES = [
    ("sm_80", "NT", "tf32"),
    ("sm_80", "NN", "bfloat16"),
    ("sm_90", "TN", "tf32"),
    ("sm_90", "NT", "bfloat16"),
    ("sm_100", "TN", "bfloat16"),
    ("sm_120", "NN", "tf32"),
    *((arch, form, "float64") for arch in ("sm_80", "sm_90") for form in FORMS),
]
SAMPLE = [("sm_90", "NN", "float64"), ("sm_80", "NT", "tf32"), ("sm_100", "TN", "bfloat16"), ("sm_120", "NN", "tf32")]
"""Each form, two types, the oldest and the newest architecture: what `make test` compiles."""


@pytest.mark.parametrize(("arch", "form", "operands"), sampled(LARGE_TILES, SAMPLE))
def test_large_tiles_do_not_spill_and_multiply_without_stopping(arch, form, operands):
    chip = Chip(arch, 1, shared_on_request=SHARED_ON_REQUEST)
    largest = TENSORCORE[operands][0]
    chosen = [largest, *(plan for plan in TENSORCORE[operands] if plan.tile_m == plan.tile_n == 128)]
    chosen += [plan for plan in narrow_copies(operands) if plan.tile_m == 128]
    chosen += TENSORCORE_SMALL_BLOCKS[operands]
    compiled, names = compile_primitive(form, operands, chosen, arch)
    for plan, name in zip(chosen, names, strict=True):
        resources = compiled.resources[name]
        assert not resources.spills, plan
        assert resources.local_bytes == 0, plan
        assert resources.registers * plan.threads <= 65536, plan
        assert resources.shared_bytes == 0, "all shared memory is asked for at the launch"
        assert plan.on(chip) == plan

    code = machine_code.read(compiled.cubin, names[0])
    multiplies = code.main_loop["tensor"]
    print(f"{form} {operands} {arch}: {multiplies} of {code.loop_instructions}: {code.share('tensor'):.1%}")
    steps = largest.tile_k // largest.fragment_depth
    # one for 16 × 8 sums; on sm_80 four of float64
    each = 4 if (arch, operands) == ("sm_80", "float64") else 1
    assert multiplies == each * largest.warp_m // 16 * (largest.warp_n // 8) * steps
    # rounding to tf32 takes three instructions an element, which a multiplication outlasts all the same; one of float64
    # outlasts 30 others on sm_90
    assert code.share("tensor") >= {"bfloat16": 0.38, "tf32": 0.16, "float64": 0.12}[operands]
    assert "local" not in code.main_loop
    assert code.main_loop["move"] <= (24 if operands != "float64" else 4), (
        "fragments lie in the registers that the instruction wants"
    )
    if operands == "bfloat16":
        assert code.main_loop["load matrix"] == (largest.warp_m + largest.warp_n) // 16 * steps


# --- errors -----------------------------------------------------------------------------------------------------------
@pytest.fixture
def operands_of(backend):
    """Three square matrices of a dtype."""
    return lambda dtype, on=backend: [on.zeros((8, 8), dtype) for _ in range(3)]


def test_float32_is_not_rounded_without_being_asked(backend, operands_of):
    a, b, c = operands_of("float32")
    backend.variant = "tensorcore"
    try:
        with pytest.raises(ArgumentError, match=r"variant was 'tensorcore'.*round it to TF32.*precision='tf32'"):
            backend.product("NT", a, b, c)
    finally:
        backend.variant = None
    with pytest.raises(ArgumentError, match=r"plan\.dtype was 'tf32'.*float32"):
        backend.product("NT", a, b, c, plan=TENSORCORE["tf32"][-1])


def test_other_rungs_do_not_take_what_only_tensor_cores_multiply(backend, operands_of):
    backend.variant = "pipelined"
    try:
        with pytest.raises(ArgumentError, match=r"variant was 'pipelined'.*bfloat16"):
            backend.product("NT", *operands_of("bfloat16")[:2], backend.zeros((8, 8), "float32"))
        with pytest.raises(ArgumentError, match=r"variant was 'pipelined'.*tf32"):
            backend.product("NT", *operands_of("float32"), tf32=True)
    finally:
        backend.variant = None
    with pytest.raises(ArgumentError, match=r"plan\.dtype was 'float32'.*tf32"):
        backend.product("NT", *operands_of("float32"), tf32=True, plan=Plan("naive", "float32", 8, 32))


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_tf32_is_for_float32_alone(backend, operands_of, dtype):
    a, b, _ = operands_of(dtype)
    c = backend.zeros((8, 8), "float32" if dtype == "float16" else dtype)
    with pytest.raises(ArgumentError, match=rf"tf32 was True.*{dtype}"):
        backend.product("NN", a, b, c, tf32=True)


def test_the_result_of_16_bit_products_is_float32(backend, operands_of):
    with pytest.raises(ArgumentError, match=r"c\.dtype was 'bfloat16'.*float32"):
        backend.product("NT", *operands_of("bfloat16"))
    with pytest.raises(ArgumentError, match=r"gradient\.dtype"):
        backend.weight_gradient(*operands_of("float16"))


def test_a_chip_without_tensor_cores_says_so():
    with emulator.use("sm_75"):
        old = CupyBackend("emulator")
        assert "tensorcore" not in old.variants
        a, b, c = (old.zeros((8, 8), "float32") for _ in range(3))
        with pytest.raises(ArgumentError, match="sm_75, which has no tensor cores"):
            old.product("NT", a, b, c, tf32=True)


@pytest.mark.parametrize("form", FORMS)
def test_float64_on_sm_80_gives_the_bits_of_sm_90(rng, form):
    """Four instructions there, one here, and the same order of sums."""
    shape, found = (40, 24, 50), []
    a, b = (rng.normal(size=side) for side in sides(form, *shape))
    for arch in ("sm_80", "sm_90"):
        with emulator.use(arch):
            found.append(multiply(CupyBackend("emulator"), form, "float64", a, b, TENSORCORE["float64"][-1]))
    np.testing.assert_array_equal(*found)
    np.testing.assert_allclose(found[0], reference(form, a, b), rtol=0, atol=1e-13)


def test_a_chip_whose_tensor_cores_lack_float64_says_so():
    with emulator.use("sm_89"):
        lacking = CupyBackend("emulator")
        assert not lacking.tensor_doubles
        a, b, c = (lacking.zeros((8, 8), "float64") for _ in range(3))
        lacking.product("NT", a, b, c)
        lacking.variant = "tensorcore"
        with pytest.raises(ArgumentError, match=r"variant was 'tensorcore'.*sm_89, which has no .* for float64"):
            lacking.product("NT", a, b, c)


def test_numba_has_no_tensor_cores():
    numba = NumbaBackend("emulator")
    assert "tensorcore" not in numba.variants
    a, b, c = (numba.zeros((8, 8), "float32") for _ in range(3))
    with pytest.raises(ArgumentError, match=r"tf32.*cupy|tf32.*numba"):
        numba.product("NT", a, b, c, tf32=True)
    numba.variant = "tensorcore"
    doubles = [numba.zeros((8, 8), "float64") for _ in range(3)]
    for arrays in ((a, b, c), doubles):
        with pytest.raises(ArgumentError, match="variant was 'tensorcore'"):
            numba.product("NT", *arrays)
    numba.variant = None
    with pytest.raises(ArgumentError, match=r"plan\.variant was 'tensorcore'; it must be one of naive"):
        numba.product("NT", *doubles, plan=TENSORCORE["float64"][-1])


def test_a_large_tile_asks_for_its_shared_memory(backend, rng):
    plan = largest(4096, 4096, "bfloat16", backend.chip, "tensorcore")
    assert plan.shared_bytes > backend.chip.shared_per_block
    assert_exact(backend, rng, "NT", "bfloat16", (130, 8, 32), plan)
