"""The cupy backend on the emulated device: every primitive against NumPy, its checks, and a training step."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from devices import DEVICE, emulator_only

from gpubp import emulator
from gpubp.backends.arguments import Product
from gpubp.backends.cupy_backend import CupyBackend
from gpubp.backends.numpy_backend import NumpyBackend
from gpubp.backends.plans import PIPELINED, PIPELINED_SMALL_BLOCKS, THREAD_VARIANTS, Plan
from gpubp.emulator.device.memory import MEMORY
from gpubp.errors import ArgumentError
from gpubp.kernels.control import Control
from gpubp.nn import activations, losses, optimizers
from gpubp.nn.network import Network
from gpubp.nn.trainer import Trainer

DTYPES = ("float32", "float64")
QUICK_DTYPES = ("float32", pytest.param("float64", marks=pytest.mark.slow))
FORMS = ("NT", "NN", "TN")
SHAPES = ((1, 1, 1), (17, 31, 13), (16, 32, 64), (33, 20, 1))
"""M, N, K: ones, primes, whole tiles, and around them."""
ELEMENTWISE = [name for name in activations.ACTIVATIONS if name != "softmax"]
NUMPY = NumpyBackend()


@pytest.fixture(scope="module")
def backend():
    return CupyBackend(DEVICE)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def integers(rng, shape, dtype):
    """Integers so small that every sum of products is exact in any order."""
    return rng.integers(-3, 4, shape).astype(dtype)


def sides(form, m, n, k):
    return {"NT": ((m, k), (n, k)), "NN": ((m, k), (k, n)), "TN": ((k, m), (k, n))}[form]


def reference(form, a, b):
    return (a.T if form == "TN" else a) @ (b.T if form == "NT" else b)


def on(backend, *arrays):
    return [backend.asarray(array, array.dtype) for array in arrays]


def run_both(backend, call, inputs, made):
    """call(backend, inputs, made) on this backend and on NumPy's; gives pairs of what was made."""
    results = []
    for each in (backend, NUMPY):
        placed = {name: each.asarray(x, x.dtype) for name, x in inputs.items()}
        started = {name: each.asarray(x.copy(), x.dtype) for name, x in made.items()}
        call(each, placed, started)
        results.append({name: np.asarray(each.asnumpy(x)) for name, x in started.items()})
    return [(name, results[0][name], results[1][name]) for name in made]


def assert_close(pairs, ulps=64):
    for name, got, expected in pairs:
        if got.dtype.kind == "i":
            np.testing.assert_array_equal(got, expected, name)
        else:
            tolerance = ulps * np.finfo(got.dtype).eps
            np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance, err_msg=name)


# --- products ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", QUICK_DTYPES)
@pytest.mark.parametrize("variant", THREAD_VARIANTS)
@pytest.mark.parametrize("form", FORMS)
def test_products_of_integers_are_exact(backend, rng, form, variant, dtype):
    backend.variant = variant
    try:
        for m, n, k in SHAPES:
            a, b = (integers(rng, side, dtype) for side in sides(form, m, n, k))
            c = integers(rng, (m, n), dtype)
            out = backend.asarray(c, dtype)
            backend.product(form, *on(backend, a, b), out, alpha=2, beta=-1)
            np.testing.assert_array_equal(backend.asnumpy(out), 2 * reference(form, a, b) - c)
    finally:
        backend.variant = None


def test_beta_zero_does_not_read_c(backend, rng):
    a, b = integers(rng, (5, 6), "float32"), integers(rng, (7, 6), "float32")
    c = backend.empty((5, 7), "float32")  # NaN on the emulated device
    assert np.isnan(backend.asnumpy(c)).all()
    backend.product("NT", *on(backend, a, b), c)
    np.testing.assert_array_equal(backend.asnumpy(c), a @ b.T)


@pytest.mark.parametrize("form", FORMS)
def test_split_depth_is_exact_and_leaves_nothing_out(backend, rng, form):
    m, n, k = 20, 36, 200
    a, b = (integers(rng, side, "float32") for side in sides(form, m, n, k))
    for split in (2, 3, 7, 100):
        plan = replace(PIPELINED["float32"][-1], split_k=split)
        c = backend.empty((m, n), "float32")
        backend.product(form, *on(backend, a, b), c, plan=plan)
        np.testing.assert_array_equal(backend.asnumpy(c), reference(form, a, b), f"split {split}: {plan.parts(k)}")


def test_stream_k_that_the_model_chooses_is_exact(backend, rng, monkeypatch):
    monkeypatch.setattr(backend, "chip", replace(backend.chip, multiprocessors=4))
    m, n, k = 192, 192, 512  # nine tiles of 64 × 64 for four multiprocessors
    a, b = (integers(rng, side, "float32") for side in sides("NN", m, n, k))
    assert backend.execution(Product(m, n, k, 16, np.dtype("float32")), "NN", False, None).plan.stream_k == 16
    c = backend.asarray(np.full((m, n), np.nan), "float32")
    backend.product("NN", *on(backend, a, b), c)
    np.testing.assert_array_equal(backend.asnumpy(c), a @ b)
    assert not backend.counts_arrivals()


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(3, marks=pytest.mark.slow, id="one form a tile"),
        pytest.param(1, marks=pytest.mark.exhaustive, id="all tiles"),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_every_tile_is_exact(backend, rng, form, dtype, step):
    tiles = (*PIPELINED[dtype], *PIPELINED_SMALL_BLOCKS[dtype])
    for plan in tiles[FORMS.index(form) % step :: step]:
        unit = plan.unit
        for m, n, k in (
            (plan.tile_m, plan.tile_n, 4 * plan.tile_k),
            (plan.tile_m + unit, 2 * plan.tile_n - unit, 3 * plan.tile_k + unit),
        ):
            a, b = (integers(rng, side, dtype) for side in sides(form, m, n, k))
            c = backend.empty((m, n), dtype)
            backend.product(form, *on(backend, a, b), c, plan=plan)
            np.testing.assert_array_equal(backend.asnumpy(c), reference(form, a, b), str(plan))


@pytest.mark.parametrize("arch", ["sm_75", pytest.param("sm_120", marks=pytest.mark.slow)])
def test_other_architectures(rng, arch):
    with emulator.use(arch):
        backend = CupyBackend("emulator")
        assert backend.chip.arch == arch
        for form, (m, n, k) in itertools.product(FORMS, ((17, 31, 13), (32, 16, 136))):
            a, b = (integers(rng, side, "float32") for side in sides(form, m, n, k))
            c = backend.empty((m, n), "float32")
            backend.product(form, *on(backend, a, b), c)
            np.testing.assert_array_equal(backend.asnumpy(c), reference(form, a, b))


def test_rows_off_16_byte_boundaries(backend, rng):
    a, b = integers(rng, (8, 16), "float32"), integers(rng, (8, 16), "float32")
    room = backend.empty(a.size + 1, "float32")
    shifted = room[1:].reshape(8, 16)
    backend.upload(a, shifted)
    c = backend.empty((8, 8), "float32")
    backend.product("NT", shifted, backend.asarray(b, "float32"), c)
    np.testing.assert_array_equal(backend.asnumpy(c), a @ b.T)


def test_the_same_bits_every_time(backend, rng):
    a, b = rng.standard_normal((64, 300)).astype("float32"), rng.standard_normal((300, 48)).astype("float32")
    plan = replace(PIPELINED["float32"][-1], split_k=3)
    results = []
    for _ in range(2):
        c = backend.empty((64, 48), "float32")
        backend.product("NN", *on(backend, a, b), c, plan=plan)
        results.append(backend.asnumpy(c).tobytes())
    assert results[0] == results[1]


STREAM = replace(PIPELINED["float32"][-1], stream_k=7)


@pytest.mark.parametrize("blocks", [1, 2, 7, 100])
@pytest.mark.parametrize("form", FORMS)
def test_stream_k_is_exact_for_any_number_of_blocks_and_leaves_the_counts_at_zero(backend, rng, form, blocks):
    m, n, k = 37, 40, 150
    a, b = (integers(rng, side, "float32") for side in sides(form, m, n, k))
    plan = replace(STREAM, stream_k=blocks)
    for _ in range(2):
        c = backend.empty((m, n), "float32")
        backend.product(form, *on(backend, a, b), c, plan=plan)
        np.testing.assert_array_equal(backend.asnumpy(c), reference(form, a, b))
        _, counts = backend._workspace.held
        assert not backend.asnumpy(counts).any()


def test_the_blocks_of_stream_k_have_equal_runs():
    # 3 · 3 tiles of 5 steps each
    for blocks, grid in ((1, 1), (7, 7), (16, 15), (44, 23), (45, 45), (1000, 45)):
        assert replace(STREAM, stream_k=blocks).grid(37, 40, 150) == (grid,)


@emulator_only
def test_stream_k_gives_the_same_bits_in_every_order_without_races(backend, rng):
    a, b = (rng.standard_normal(side).astype("float32") for side in ((37, 150), (40, 150)))
    results = set()
    for order in (None, 1, 2, 3):
        c = backend.empty((37, 40), "float32")
        backend.release_workspace()
        with emulator.observe(races=True, uninitialised=True, order=order) as report:
            backend.product("NT", *on(backend, a, b), c, plan=STREAM)
        assert report.findings == []
        results.add(backend.asnumpy(c).tobytes())
    assert len(results) == 1


def test_a_captured_product_by_stream_k_can_be_replayed(backend, rng):
    a, b = integers(rng, (37, 150), "float32"), integers(rng, (40, 150), "float32")
    placed, c = on(backend, a, b), backend.zeros((37, 40), "float32")
    backend.product("NT", *placed, c, plan=STREAM)  # which makes the working memory
    replay = backend.capture(lambda: backend.product("NT", *placed, c, 1.0, 1.0, plan=STREAM))
    backend.release_workspace()  # what the recording needs lives on
    replay()
    replay()
    np.testing.assert_array_equal(backend.asnumpy(c), 3 * reference("NT", a, b))


@pytest.mark.parametrize("variant", THREAD_VARIANTS)
def test_no_races_and_no_unwritten_reads(backend, rng, variant):
    backend.variant = variant
    try:
        with emulator.observe(races=True, uninitialised=True) as report:
            for form in FORMS:
                arrays = on(backend, *(integers(rng, side, "float32") for side in sides(form, 35, 37, 70)))
                backend.product(form, *arrays, backend.empty((35, 37), "float32"))
    finally:
        backend.variant = None
    assert not report.findings


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("keep_z", [True, False])
def test_dense_forward(backend, rng, bias, keep_z):
    inputs = {name: integers(rng, side, "float32") for name, side in (("x", (9, 20)), ("w", (11, 20)), ("b", (11,)))}
    made = {name: np.full((9, 11), np.nan, "float32") for name in ("z", "a")}

    def call(each, x, out):
        b, z = x["b"] if bias else None, out["z"] if keep_z else None
        each.dense_forward(x["x"], x["w"], b, activations.get("relu"), z, out["a"])

    for _, got, expected in run_both(backend, call, inputs, made):
        np.testing.assert_array_equal(got, expected)


def test_hidden_delta_is_its_two_halves(backend, rng):
    inputs = {
        "delta": rng.standard_normal((9, 20)).astype("float32"),
        "w": rng.standard_normal((20, 11)).astype("float32"),
        "saved": rng.standard_normal((9, 11)).astype("float32"),
    }
    placed = {name: backend.asarray(x, x.dtype) for name, x in inputs.items()}
    fused, product, halves = (backend.empty((9, 11), "float32") for _ in range(3))
    sigma = activations.get("gelu")
    backend.hidden_delta(placed["delta"], placed["w"], sigma, placed["saved"], fused)
    backend.transpose_product(placed["delta"], placed["w"], product)
    backend.hadamard_derivative(product, sigma, placed["saved"], halves)
    np.testing.assert_array_equal(backend.asnumpy(fused), backend.asnumpy(halves))


def test_weight_step_reads_the_learning_rate_on_the_device(backend, rng):
    delta, x, w = (integers(rng, side, "float64") for side in ((40, 5), (40, 9), (5, 9)))
    control = np.zeros(len(Control))
    control[Control.LEARNING_RATE] = 0.5
    placed = on(backend, delta, x, control)
    out = backend.asarray(w, "float64")
    backend.weight_step(*placed, out)
    np.testing.assert_array_equal(backend.asnumpy(out), w - 0.5 * delta.T @ x)


# --- activations and losses -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", QUICK_DTYPES)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_activations(backend, rng, name, dtype):
    sigma = activations.get(name)
    z = np.concatenate([rng.standard_normal(20) * 3, [0, -0.0, 1e4, -1e4, 90, -90, np.nan, np.inf]]).astype(dtype)
    z = z.reshape(1, -1)
    if name in ("gelu", "gelu_tanh", "silu"):
        z = z[:, :-1].copy()  # ∞ · 0 is NaN there, as in NumPy
    one = np.eye(z.shape[1], dtype=dtype)

    def forward(each, x, out):
        each.dense_forward(x["z"], x["one"], None, sigma, None, out["a"])

    def backward(each, x, out):
        each.hadamard_derivative(x["product"], sigma, x["saved"], out["delta"])

    usable = np.where(np.isfinite(z), z, 0)  # ∞ and NaN times the 0 of a unit matrix would fill the row
    empty = np.full_like(z, np.nan)
    assert_close(run_both(backend, forward, {"z": usable, "one": one}, {"a": empty}))
    saved = z.copy()
    if sigma.reads == "a":
        with np.errstate(all="ignore"):
            sigma.apply(z, saved)
    inputs = {"product": rng.standard_normal(z.shape).astype(dtype), "saved": saved}
    with np.errstate(all="ignore"):
        assert_close(run_both(backend, backward, inputs, {"delta": empty}))


def test_a_nan_goes_through_every_activation(backend):
    z, one = np.array([[np.nan]], "float32"), np.ones((1, 1), "float32")
    for name in ELEMENTWISE:
        a = backend.empty((1, 1), "float32")
        backend.upload(one, a)
        backend.dense_forward(*on(backend, z, one), None, activations.get(name), None, a)
        assert np.isnan(backend.asnumpy(a)).all(), name


SQUARED = ("squared_error", "mean_squared_error")
LOSS_CASES = [
    *((name, sigma) for name in ("half_squared_error", "huber", "absolute_error") for sigma in ("tanh", "softmax")),
    *((name, "sigmoid") for name in (*SQUARED, "binary_cross_entropy", "binary_focal_cross_entropy")),
    *((name, "softmax") for name in ("softmax_cross_entropy", "softmax_focal_cross_entropy")),
    ("quantile", "tanh"),
]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(("name", "sigma_name"), LOSS_CASES)
def test_losses(backend, rng, name, sigma_name, reduction):
    loss, sigma = losses.get({"name": name, "reduction": reduction}), activations.get(sigma_name)
    z = rng.standard_normal((37, 10)) * 2
    a = np.empty_like(z)
    sigma.apply(z, a)
    y = rng.random((37, 10))
    y /= y.sum(axis=1, keepdims=True)
    output, saved = (z, z) if loss.from_logits else (a, a)
    inputs = {"output": output, "saved": saved, "y": y}

    def call(each, x, out):
        each.output_delta(loss, sigma, x["output"], x["saved"], x["y"], None, None, out["losses"], out["delta"])

    made = {"losses": np.array([np.nan, 5.0]), "delta": np.full_like(z, np.nan)}
    assert_close(run_both(backend, call, inputs, made))


def test_labels_are_the_same_as_their_unit_rows(backend, rng):
    loss, sigma = losses.get("softmax_cross_entropy"), activations.get("softmax")
    z = (rng.standard_normal((6, 2000)) * 3).astype("float32")  # wide: a block takes a row
    labels = rng.integers(0, 2000, 6)
    targets = np.eye(2000, dtype="float32")[labels]
    results = []
    for y in (labels, targets):
        total, delta = backend.zeros((2,), "float64"), backend.empty(z.shape, "float32")
        placed = backend.asarray(z, "float32")
        backend.output_delta(loss, sigma, placed, placed, backend.asarray(y, y.dtype), None, None, total, delta)
        results.append((backend.asnumpy(total), backend.asnumpy(delta)))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])


def test_a_label_that_is_no_class_shows(backend, rng):
    z = backend.asarray(rng.standard_normal((2, 3)), "float64")
    total, delta = backend.zeros((2,), "float64"), backend.empty((2, 3), "float64")
    y = backend.asarray(np.array([0, 3]), "int64")
    loss, sigma = losses.get("softmax_cross_entropy"), activations.get("softmax")
    backend.output_delta(loss, sigma, z, z, y, None, None, total, delta)
    assert np.isnan(backend.asnumpy(total)).all()


@pytest.mark.parametrize("width", [1, 10, 1500])
def test_softmax(backend, rng, width):
    z = {"z": rng.standard_normal((7, width)) * 50}
    pairs = run_both(backend, lambda each, x, out: each.softmax(x["z"], out["a"]), z, {"a": np.full_like(z["z"], 9)})
    assert_close(pairs)


# --- reductions and arrays --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rows", [1, 65, 1000])
def test_bias_gradient(backend, rng, rows):
    delta = {"delta": integers(rng, (rows, 37), "float32")}
    made = {"gradient": np.full(37, np.nan, "float32")}
    for _, got, expected in run_both(
        backend, lambda each, x, out: each.bias_gradient(x["delta"], out["gradient"]), delta, made
    ):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("width", [1, 10, 1300])
def test_row_argmax_takes_the_first_and_nan(backend, rng, width):
    x = integers(rng, (9, width), "float32")
    x[3, width // 2] = np.nan
    x[4] = -np.inf
    made = {"out": np.full(9, -1)}
    pairs = run_both(backend, lambda each, x, out: each.row_argmax(x["x"], out["out"]), {"x": x}, made)
    np.testing.assert_array_equal(pairs[0][1], pairs[0][2])


@pytest.mark.parametrize("shape", [(20, 3), (20, 8), (20, 1)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_gather_rows(backend, rng, shape, dtype):
    control = np.zeros(len(Control))
    control[Control.BATCH_OFFSET] = 6
    inputs = {"source": integers(rng, shape, dtype), "order": rng.permutation(20), "control": control}
    inputs["numbers"] = np.arange(20)
    made = {"out": np.zeros((9, shape[1]), dtype), "chosen": np.zeros(9, "int64")}

    def call(each, x, out):
        each.gather_rows((x["source"], x["numbers"]), x["order"], x["control"], (out["out"], out["chosen"]))

    for _, found, expected in run_both(backend, call, inputs, made):
        np.testing.assert_array_equal(found, expected)


def test_copy_cast_and_scale(backend, rng):
    x = rng.standard_normal((7, 5))
    source = backend.asarray(x, "float64")
    copied, rounded = backend.empty((7, 5), "float64"), backend.empty((7, 5), "float32")
    backend.copy(source, copied)
    backend.cast(source, rounded)
    backend.scale(copied, 0.5)
    np.testing.assert_array_equal(backend.asnumpy(copied), 0.5 * x)
    np.testing.assert_array_equal(backend.asnumpy(rounded), x.astype("float32"))


# --- update -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1, "clip_norm": 2.0, "clip_value": 0.3}])
@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_optimizers(backend, rng, name, settings, dtype):
    optimizer = optimizers.get({"name": name, "learning_rate": 0.05, **settings})
    size = 1031
    inputs = {f"g{t}": rng.standard_normal(size).astype(dtype) for t in range(3)}
    made = {"w": rng.standard_normal(size).astype(dtype), "control": np.zeros(len(Control))}
    made["control"][Control.LEARNING_RATE] = 0.05
    made |= {slot: np.zeros(size, dtype) for slot in optimizer.state}

    def call(each, x, out):
        for t in range(3):
            each.prepare_update(x[f"g{t}"], optimizer.clip_norm, out["control"])
            state = [out[slot] for slot in optimizer.state]
            each.update(optimizer, x[f"g{t}"], 700, out["control"], state, out["w"])

    assert_close(run_both(backend, call, inputs, made))


# --- checks of arguments ----------------------------------------------------------------------------------------------
def good(backend):
    return {
        "a_prev": backend.zeros((4, 6), "float32"),
        "w": backend.zeros((5, 6), "float32"),
        "b": backend.zeros((5,), "float32"),
        "activation": activations.get("relu"),
        "z": None,
        "a": backend.zeros((4, 5), "float32"),
    }


@pytest.mark.parametrize(
    ("argument", "make", "words"),
    [
        ("w", lambda b: b.zeros((5, 7), "float32"), ("w.shape", "(5, 7)", "(5, 6)")),
        ("b", lambda b: b.zeros((6,), "float32"), ("b.shape", "(6,)", "(5,)")),
        ("a", lambda b: b.zeros((4, 5), "float64"), ("a.dtype", "float64", "float32")),
        ("a_prev", lambda b: b.zeros((4, 6), "int64"), ("a_prev.dtype", "int64", "float32 or float64")),
        ("a_prev", lambda b: b.zeros((24,), "float32"), ("a_prev", "(24,)", "two sides")),
        ("a_prev", lambda b: b.zeros((0, 6), "float32"), ("a_prev", "(0, 6)", "≥ 1")),
        ("a_prev", lambda b: np.zeros((4, 6), "float32"), ("a_prev", "ndarray", "array of this backend")),
        ("w", lambda b: b.zeros((6, 5), "float32").T, ("w.strides", "C-contiguous")),
        ("activation", lambda b: activations.get("softmax"), ("activation", "softmax", "elementwise")),
    ],
)
def test_a_wrong_argument_is_named(backend, argument, make, words):
    arguments = good(backend) | {argument: make(backend)}
    before = backend.asnumpy(arguments["a"])
    with pytest.raises(ArgumentError) as error:
        backend.dense_forward(**arguments)
    for word in words:
        assert word in str(error.value)
    np.testing.assert_array_equal(backend.asnumpy(arguments["a"]), before)


def test_overlapping_arguments_are_named(backend):
    room = backend.zeros((60,), "float32")
    arguments = good(backend) | {"a_prev": room[:24].reshape(4, 6), "a": room[20:40].reshape(4, 5)}
    with pytest.raises(ArgumentError, match=r"a overlaps a_prev, at .*; it must lie in memory of its own"):
        backend.dense_forward(**arguments)
    neighbours = good(backend) | {"a_prev": room[:24].reshape(4, 6), "a": room[24:44].reshape(4, 5)}
    backend.dense_forward(**neighbours)


def test_other_wrong_arguments(backend):
    x = backend.zeros((8,), "float32")
    control = backend.zeros((len(Control),), "float64")
    with pytest.raises(ArgumentError, match="state has 0 arrays; it must have 2 for adam"):
        backend.update(optimizers.Adam(), x, 0, control, [], backend.zeros((8,), "float32"))
    with pytest.raises(ArgumentError, match="decayed was 9"):
        backend.update(optimizers.SGD(), x, 9, control, [], backend.zeros((8,), "float32"))
    with pytest.raises(ArgumentError, match=r"control\.shape"):
        backend.prepare_update(x, None, control[:7])
    with pytest.raises(ArgumentError, match="form was 'TT'"):
        backend.product("TT", x, x, x)
    with pytest.raises(ArgumentError, match="device was 'tpu'"):
        CupyBackend("tpu")


def test_a_plan_is_held_against_the_arrays(backend):
    arguments = good(backend)
    with pytest.raises(ArgumentError, match=r"plan\.dtype was 'float64'"):
        backend.dense_forward(**arguments, plan=PIPELINED["float64"][-1])
    with pytest.raises(ArgumentError, match="shared_bytes"):
        backend.dense_forward(**arguments, plan=Plan("pipelined", "float32", 128, 128, 16, 8, 8, 4, 4))


# --- arrays of others -------------------------------------------------------------------------------------------------
def test_arrays_on_the_device_are_taken_without_a_copy(backend):
    class Foreign:
        def __init__(self, array):
            self.__cuda_array_interface__ = array.__cuda_array_interface__

    x = backend._cp.asarray(np.arange(6, dtype="float32").reshape(2, 3))
    assert backend.asarray(x, "float32").data.ptr == x.data.ptr
    taken = backend.asarray(Foreign(x), "float32")
    assert (taken.data.ptr, taken.shape) == (x.data.ptr, (2, 3))
    np.testing.assert_array_equal(backend.asnumpy(backend.asarray(x, "float64")), [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(backend.asnumpy(backend.asarray(x.T, "float32")), [[0, 3], [1, 4], [2, 5]])
    assert backend.asarray(x.T, "float32").flags.c_contiguous


@emulator_only
def test_work_on_arrays_of_others_waits_for_their_stream_and_that_for_it(backend, monkeypatch):
    """The backend's stream waits for no other one by itself: nothing else keeps it from reading too early, or the
    user's next batch from being written too early."""
    theirs, order = emulator.cuda.Stream(), []
    name = {theirs: "theirs", backend._stream: "ours"}
    recorded = {}

    def record(stream, event=None):
        event = emulator.cuda.Event()
        recorded[event] = name[stream]
        return event

    monkeypatch.setattr(emulator.cuda.Stream, "record", record)
    monkeypatch.setattr(
        emulator.cuda.Stream, "wait_event", lambda stream, event: order.append((name[stream], recorded[event]))
    )
    launch = backend._launch
    monkeypatch.setattr(backend, "_launch", lambda *arguments: order.append("kernel") or launch(*arguments))
    x = emulator.asarray(np.ones((2, 3), "float32"))
    out, wide = backend.empty((2, 3), "float32"), backend.empty((2, 3), "float64")
    with theirs:
        for work in (lambda: backend.copy(x, out), lambda: backend.cast(x, wide)):
            order.clear()
            work()
            assert order == [("ours", "theirs"), "kernel", ("theirs", "ours")]
        order.clear()
        backend.asarray(x.T, "float32")
        assert order == [("ours", "theirs"), ("theirs", "ours")]


def test_arrays_of_the_host_are_copied(backend):
    x = np.arange(12).reshape(3, 4)[:, ::2]
    got = backend.asarray(x, "float32")
    np.testing.assert_array_equal(backend.asnumpy(got), x.astype("float32"))
    assert got.flags.c_contiguous


def test_dlpack_arrays_of_the_device_go_through_dlpack(backend):
    class Foreign:
        """An array of a library that has DLPack alone."""

        def __init__(self, array):
            self.__dlpack__, self.__dlpack_device__ = array.__dlpack__, array.__dlpack_device__

    x = backend._cp.asarray(np.ones(3, "float32"))
    assert backend.asarray(Foreign(x), "float32").data.ptr == x.data.ptr


# --- a training step --------------------------------------------------------------------------------------------------
def trainers(dtype, optimizer, hidden="tanh"):
    made = []
    for name, device in (("numpy", "cpu"), ("cupy", DEVICE)):
        net = Network([64, 32, 10], hidden_activation=hidden, dtype=dtype, backend=name, device=device, seed=1)
        made.append(Trainer(net, optimizer))
    return made


def parameters(trainer):
    net = trainer.network
    return np.asarray(net.backend.asnumpy(net.parameters), "float64")


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("float64", 1e-12)])
def test_training_follows_numpy(rng, dtype, bound):
    x, y = rng.random((160, 64)).astype(dtype), rng.integers(0, 10, 160)
    both = trainers(dtype, optimizers.SGD(learning_rate=0.01))
    for trainer in both:
        feed = trainer.feed(x, y)
        for step in range(20):
            trainer.step_rows(feed, step * 32 % 160, 32)
    expected, got = map(parameters, both)
    difference = np.linalg.norm(got - expected) / np.linalg.norm(expected)
    print(f"{dtype}: ‖Δw‖/‖w‖ = {difference:.1e}, {difference / bound:.1%} of the bound")
    assert difference <= bound
    assert both[1].last_loss() == pytest.approx(both[0].last_loss(), rel=bound)


def test_a_step_allocates_nothing(rng, monkeypatch):
    _, trainer = trainers("float32", optimizers.Adam(clip_norm=1.0))
    feed = trainer.feed(rng.random((96, 64)), rng.integers(0, 10, 96))
    trainer.step_rows(feed, 0, 32)
    sizes = []
    allocate = MEMORY.allocate
    monkeypatch.setattr(MEMORY, "allocate", lambda nbytes, name="": sizes.append(nbytes) or allocate(nbytes, name))
    trainer.step_rows(feed, 32, 32)
    trainer.step_rows(feed, 64, 32)
    assert sizes == []


def test_captured_work_is_replayed_with_other_values(backend, rng):
    delta, x, w = (integers(rng, side, "float64") for side in ((40, 5), (40, 9), (5, 9)))
    control = backend.zeros((len(Control),), "float64")
    placed = [*on(backend, delta, x), control]
    out = backend.asarray(w, "float64")
    backend.weight_step(*placed, out)  # with a step size of 0: compiles, and changes nothing
    replay = backend.capture(lambda: backend.weight_step(*placed, out))
    np.testing.assert_array_equal(backend.asnumpy(out), w)
    expected = w
    for rate in (0.5, 0.25):
        backend.upload(np.array([rate]), control[:1])
        replay()
        expected = expected - rate * delta.T @ x
        np.testing.assert_array_equal(backend.asnumpy(out), expected)
