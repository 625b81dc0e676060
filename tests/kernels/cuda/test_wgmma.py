"""The rung `wgmma` on the emulated device: forms, types and tiles, what it refuses, and what the compiler makes of it.

Small integers are exact in every type, so their products are compared bit for bit.
"""

import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from gpubp import emulator
from gpubp.backends import plans
from gpubp.backends.cupy_backend import CupyBackend
from gpubp.backends.instances import MapOf, cuda_entry
from gpubp.backends.plans import WGMMA, Plan, forms_of
from gpubp.dtypes import ARITHMETIC
from gpubp.emulator.observe.trace import Trace
from gpubp.errors import ArgumentError
from gpubp.nn import activations
from gpubp.profiler import machine_code

SIDES = {
    "NT": lambda m, n, k: ((m, k), (n, k)),
    "NN": lambda m, n, k: ((m, k), (k, n)),
    "TN": lambda m, n, k: ((k, m), (k, n)),
}
SINGLE, SMALL = replace(WGMMA["bfloat16"][1], dtype="float16"), WGMMA["bfloat16"][-1]
PAIR, FEW_ROWS = WGMMA["bfloat16"][0], WGMMA["bfloat16"][-3]
TF32 = WGMMA["tf32"]
KINDS = [*WGMMA["bfloat16"], *TF32]


def name_of(plan):
    """The type and the tile of a plan."""
    return f"{plan.dtype}-{plan.tile_m}x{plan.tile_n}x{plan.cluster}"


@pytest.fixture(scope="module")
def backend():
    return CupyBackend("emulator")


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def product(backend, rng, form, plan, shape):
    """The product by a plan, and the right one."""
    a, b = (rng.integers(-3, 4, sides).astype(np.float32) for sides in SIDES[form](*shape))
    stored = ARITHMETIC[plan.dtype].storage
    first, second = (backend.asarray(x.astype(stored), stored) for x in (a, b))
    c = backend.empty(shape[:2], "float32")
    backend.product(form, first, second, c, tf32=plan.dtype == "tf32", plan=plan)
    return backend.asnumpy(c), (a.T if form == "TN" else a) @ (b.T if form == "NT" else b)


@pytest.mark.parametrize(
    ("form", "plan", "shape"),
    [
        ("NT", PAIR, (200, 264, 328)),  # deeper than the ring; the second block of the cluster has few rows
        ("NN", SINGLE, (136, 40, 72)),
        ("TN", SMALL, (72, 136, 41)),
        ("NT", FEW_ROWS, (40, 264, 72)),
        ("NT", TF32[0], (200, 264, 164)),
        ("NT", TF32[-1], (72, 133, 36)),
    ],
)
def test_ragged_tiles_are_exact_in_both_orders(backend, rng, form, plan, shape):
    for order in ("late", "early"):
        with emulator.observe(races=True, uninitialised=True, async_order=order) as report:
            got, expected = product(backend, rng, form, plan, shape)
        np.testing.assert_array_equal(got, expected)
        assert report.findings == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plan", "form"),
    [(plan, form) for plan in KINDS for form in forms_of("wgmma", plan.dtype)],
    ids=lambda each: each if isinstance(each, str) else name_of(each),
)
def test_every_tile_in_every_form(backend, rng, plan, form):
    got, expected = product(backend, rng, form, plan, (328, 264, 456))
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("small", [SMALL, TF32[-1]], ids=name_of)
def test_a_block_computes_several_tiles(backend, rng, small):
    plan = replace(small, persistent=2)
    assert plan.grid(200, 264, 328) == (2,)
    got, expected = product(backend, rng, "NT", plan, (200, 264, 328))
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("order", ["late", "early"])
def test_the_next_tile_is_fetched_before_the_last_one_is_stored(backend, rng, order):
    plan, depth = replace(SMALL, persistent=1), 2  # two tiles of the result fill the ring of four stages
    trace = Trace()
    with emulator.observe(races=False, async_order=order, trace=trace):
        got, expected = product(backend, rng, "NT", plan, (128, 128, depth * plan.tile_k))
    np.testing.assert_array_equal(got, expected)
    kinds = [each.kind for step in trace.steps for each in step.accesses]
    fetches = [at for at, kind in enumerate(kinds) if kind == "async"]
    assert len(fetches) == 2 * depth * 2, "of two operands"
    assert fetches[-1] < kinds.index("leaves")


def test_rows_of_the_result_off_16_byte_boundaries(backend, rng):
    """The copy engine cannot store them: the threads do."""
    for width, engine in ((132, False), (136, True)):
        c = backend.empty((40, width), "bfloat16")
        assert bool(backend._stored("transpose_product", (None, None, c))) == engine
    got, expected = product(backend, rng, "NT", SMALL, (72, 133, 72))
    np.testing.assert_array_equal(got, expected)


def test_pieces_of_the_result_meet_no_bank_twice(backend, rng):
    a, b = (backend.asarray(rng.integers(-3, 4, side), "bfloat16") for side in ((64, 64), (64, 128)))
    for multiply, dtype in ((partial(backend.product, "NN"), "float32"), (backend.transpose_product, "bfloat16")):
        with emulator.observe(races=False, traffic=True) as report:
            multiply(a, b, backend.empty((64, 128), dtype), plan=SMALL)
        (stores,) = (each for each in report.accesses if str(each.location).startswith("result_stores.cuh"))
        assert (stores.space, stores.kind, stores.excess) == ("shared", "store", 0), dtype


@pytest.mark.parametrize(("small", "form", "depth"), [(SMALL, "TN", 456), (TF32[-1], "NT", 228)])
def test_parts_of_the_depth(backend, rng, small, form, depth):
    plan = replace(small, split_k=3)
    assert plan.parts(depth) == 3
    got, expected = product(backend, rng, form, plan, (72, 136, depth))
    np.testing.assert_array_equal(got, expected)


# --- who takes it -----------------------------------------------------------------------------------------------------
def test_rows_off_16_byte_boundaries_take_tensorcore(backend):
    backend.variant = "wgmma"
    try:
        found = plans.row_alignment("NT", 128, 128, 68, 2)
        taken = backend.execution(product_of(128, 128, 68, found), "NT", False, None).plan
    finally:
        backend.variant = None
    assert (found, taken.variant) == (8, "tensorcore")
    with pytest.raises(ArgumentError, match=r"plan\.variant.*8-byte boundaries"):
        backend.execution(product_of(128, 128, 68, found), "NT", False, SMALL)


def test_tf32_is_multiplied_along_the_depth_alone(backend):
    """Its other forms take tensorcore, as rows off 16-byte boundaries do."""
    wide = product_of(1024, 1024, 1024, 16, "tf32")
    backend.variant = "wgmma"
    try:
        taken = [backend.execution(wide, form, True, None).plan.variant for form in ("NT", "NN", "TN")]
    finally:
        backend.variant = None
    assert taken == ["wgmma", "tensorcore", "tensorcore"]
    for form in ("NN", "TN"):
        expected = rf"plan\.variant was 'wgmma'; it must be another one for form {form} of tf32.*form NT alone"
        with pytest.raises(ArgumentError, match=expected):
            backend.execution(wide, form, True, TF32[0])
    with pytest.raises(ArgumentError, match=r"plan\.variant.*8-byte boundaries"):
        backend.execution(product_of(64, 64, 66, 8, "tf32"), "NT", True, TF32[0])


def product_of(m, n, k, alignment, dtype="bfloat16"):
    from gpubp.backends.arguments import Product
    from gpubp.dtypes import ARITHMETIC

    return Product(m, n, k, alignment, ARITHMETIC[dtype].storage)


@pytest.mark.parametrize("arch", ["sm_80", "sm_100", "sm_120"])
def test_other_chips_do_not_have_it(arch):
    with emulator.use(arch):
        other = CupyBackend("emulator")
    assert "wgmma" not in other.variants
    large = product_of(4096, 4096, 4096, 16)
    assert other.execution(large, "NT", False, None).plan.variant == "tensorcore"
    other.variant = "wgmma"
    with pytest.raises(ArgumentError, match=f"another one on {arch}"):
        other.execution(large, "NT", False, None)


def test_the_model_takes_it_for_large_products_and_not_for_the_smallest(backend):
    assert backend.execution(product_of(4096, 4096, 4096, 16), "TN", False, None).plan.cluster == 2
    assert backend.execution(product_of(64, 64, 64, 16), "TN", False, None).plan.variant == "tensorcore"
    assert backend.execution(product_of(4096, 4096, 4096, 16, "tf32"), "NT", True, None).plan.cluster == 2
    assert backend.execution(product_of(64, 64, 64, 16, "tf32"), "NT", True, None).plan.variant == "tensorcore"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("tile_m", 256, "tile_m.*64 or 128"),
        ("tile_n", 64, "tile_n.*128 or 256"),
        ("tile_k", 32, "tile_k.*64.*128 bytes"),
        ("dtype", "float32", "dtype was 'float32'.*tf32, bfloat16, float16"),
        ("stages", 2, "stages.*≥ 3"),
        ("cluster", 3, "cluster.*1 or 2"),
        ("warp_m", 16, "warp_m.*1 with variant"),
        ("stream_k", 5, "stream_k.*0 with variant"),
    ],
)
def test_sizes_that_cannot_be(field, value, message):
    with pytest.raises(ArgumentError, match=message):
        replace(PAIR, **{field: value})


def test_a_grid_of_clusters_is_whole():
    with pytest.raises(ArgumentError, match=r"persistent.*multiple of 2"):
        replace(PAIR, persistent=3)
    assert PAIR.grid(129, 1, 64) == (2,)
    assert PAIR.grid(257, 257, 64) == (8,)


# --- what the compiler makes of it ------------------------------------------------------------------------------------
SPILLS = re.compile(r"([1-9]\d*) bytes (?:stack frame|spill)")


@pytest.mark.slow
@pytest.mark.parametrize("plan", KINDS, ids=name_of)
def test_every_tile_compiles_without_spills_and_without_waits_of_the_compilers_own(backend, plan):
    if plan.dtype == "tf32":
        check_compilation(backend, plan, "dense_forward_dropout", activations.get("gelu"), stored=2)
        check_compilation(backend, plan, "partial_product", "NT", stored=0)
        return
    check_compilation(backend, plan, "hidden_delta", activations.get("gelu"), stored=1)
    check_compilation(backend, plan, "weight_gradient", stored=0)


def test_the_largest_tile_compiles_as_it_stands(backend):
    check_compilation(backend, PAIR, "dense_forward", activations.get("relu"), stored=2)


def check_compilation(backend, plan: Plan, kernel, *functions, stored):
    """stored: how many results the copy engine stores."""
    from gpubp.toolchain.nvrtc import compile_file

    dtype = ARITHMETIC[plan.dtype].storage
    entry = cuda_entry(kernel, (dtype, *functions, plan, *(MapOf(dtype),) * stored))
    assert entry.own_chip
    compiled = compile_file(backend._kernels / entry.source, "sm_90a", name_expressions=[entry.expression])
    assert not re.search(r"C75\d\d|serializ|setmaxnreg", compiled.log), compiled.log
    assert not SPILLS.search(compiled.log), compiled.log
    (symbol,) = compiled.lowered_names.values()
    assert compiled.resources[symbol].registers <= 65536 // plan.threads // plan.resident
    code = machine_code.read(compiled.cubin, symbol)
    assert code.opcodes["HGMMA"] == 4, "a stage is 128 bytes deep"
