"""What the kernels in CUDA C++ do besides: dropout, weights, smoothed targets, sums that are added to, penalties.

Each beside the NumPy backend, which is the reference: small integers bit for bit.
"""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from devices import DEVICE, emulator_only

from gpubp import Network, Trainer, emulator
from gpubp.backends.cupy_backend import CupyBackend
from gpubp.backends.instances import KERNEL_DIRECTORY
from gpubp.backends.numpy_backend import NumpyBackend
from gpubp.backends.plans import PIPELINED, TENSORCORE, Plan
from gpubp.errors import ArgumentError
from gpubp.kernels.control import Control
from gpubp.nn import activations, losses, optimizers
from gpubp.nn.dropout import Dropout, philox

NUMPY = NumpyBackend()
STORED = {
    "float32": "float32",
    "float64": "float64",
    "tf32": "float32",
    "bfloat16": ml_dtypes.bfloat16,
    "float16": "float16",
}
"""The arrays' dtype by what is multiplied."""
KEY = (0xDEADBEEF, 0x12345678)
DROPOUT = Dropout(0.5, KEY, layer=3, first_row=2**32 - 20)
"""The rows of a batch pass 2³², where the counter's word begins again."""
STEP = 2.0**32 + 7


@pytest.fixture(scope="module")
def backend():
    return CupyBackend(DEVICE)


@pytest.fixture
def rng():
    return np.random.default_rng(17)


def rungs():
    """Plans of every rung that end in runs of every length, and of a depth that is split."""
    wide, narrow = PIPELINED["float32"][-1], PIPELINED["float64"][-1]
    yield "naive", Plan("naive", "float32", 8, 32)
    yield "tiled", Plan("tiled", "float32", 16, 16, 16)
    yield "blocked", Plan("blocked", "float32", 64, 64, 8, 8, 8)
    yield "pipelined", wide
    yield "runs of 4", next(plan for plan in PIPELINED["float32"] if plan.thread_n == 4)
    yield "float64", narrow
    yield "split", replace(wide, split_k=3)
    for operands in ("tf32", "bfloat16", "float16"):
        yield operands, TENSORCORE[operands][-1]
    yield "split in 16 bits", replace(TENSORCORE["bfloat16"][-1], split_k=2)


RUNGS = dict(rungs())
QUICK = ("naive", "pipelined", "float64", "split", "bfloat16")
every_rung = pytest.mark.parametrize(
    "plan",
    [pytest.param(plan, id=name, marks=[] if name in QUICK else pytest.mark.slow) for name, plan in RUNGS.items()],
)


def control(**values):
    """The array of that name, with these places set; the losses are not scaled."""
    made = np.zeros(len(Control))
    made[Control.LOSS_SCALE] = 1
    for name, value in values.items():
        made[Control[name.upper()]] = value
    return made


def integers(rng, shape, dtype):
    """Integers so small that every sum of products is exact in any order."""
    return rng.integers(-3, 4, shape).astype(dtype)


def run_both(backend, call, inputs, made, reference=NUMPY):
    """call(backend, inputs, made) on this backend and on NumPy's; gives pairs of what was made, by name."""
    results = []
    for each in (backend, reference):
        placed = {name: each.asarray(x, x.dtype) for name, x in inputs.items()}
        started = {name: each.asarray(x.copy(), x.dtype) for name, x in made.items()}
        call(each, placed, started)
        results.append({name: np.asarray(each.asnumpy(x)) for name, x in started.items()})
    return {name: (results[0][name], results[1][name]) for name in made}


def assert_equal(pairs):
    for name, (found, expected) in pairs.items():
        np.testing.assert_array_equal(found.astype("float64"), expected.astype("float64"), name)


def assert_close(pairs, ulps=64):
    for name, (found, expected) in pairs.items():
        tolerance = ulps * float(ml_dtypes.finfo(found.dtype).eps)
        found, expected = found.astype("float64"), expected.astype("float64")
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance, err_msg=name)


def on_rung(each, plan):
    """What the call of a product takes besides, on this backend."""
    tf32 = {"tf32": plan.dtype == "tf32"}
    return tf32 if isinstance(each, NumpyBackend) else {**tf32, "plan": plan}


# --- Philox -----------------------------------------------------------------------------------------------------------
WORDS = """#include "philox.cuh"
extern "C" __global__ void words(const uint4* counters, const uint2* keys, uint4* out, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) out[i] = Philox::words(counters[i], keys[i]);
}
"""


def test_the_words_are_those_of_the_reference(backend, rng):
    counters, keys = (rng.integers(0, 2**32, (300, words), np.uint32) for words in (4, 2))
    counters[:3], keys[:3] = 0, 0
    counters[1], keys[1] = 2**32 - 1, 2**32 - 1
    module = backend._cp.RawModule(code=WORDS, options=(f"-I{KERNEL_DIRECTORY}",))
    out = backend._cp.zeros((300, 4), "uint32")
    placed = (backend._cp.asarray(counters), backend._cp.asarray(keys))
    module.get_function("words")((2,), (256,), (*placed, out, np.int32(300)))
    found = backend._cp.asnumpy(out)
    for i in range(300):
        assert tuple(found[i]) == philox(counters[i], tuple(map(int, keys[i])))


# --- dropout ----------------------------------------------------------------------------------------------------------
def forward(backend, rng, plan, dropout, alpha=2.0, shape=(37, 45, 24), sigma="identity", bias=101):
    """Pairs of what dense_forward makes of integers; with an even α and an odd bias, no output that is kept is 0."""
    m, n, k = shape
    stored = np.dtype(STORED[plan.dtype])
    master = "float64" if plan.dtype == "float64" else "float32"
    inputs = {"x": integers(rng, (m, k), stored), "w": integers(rng, (n, k), stored)}
    inputs |= {"b": np.full(n, bias, master), "control": control(step=STEP)}

    def call(each, x, out):
        given = {} if dropout is None else {"dropout": dropout, "control": x["control"]}
        sigma_of = activations.get(sigma)
        each.dense_forward(
            x["x"], x["w"], x["b"], sigma_of, out["z"], out["a"], alpha=alpha, **given, **on_rung(each, plan)
        )

    made = {name: np.full((m, n), np.nan, stored) for name in ("z", "a")}
    return run_both(backend, call, inputs, made, NUMPY.for_precision(precision_of(plan)))


def precision_of(plan):
    return {"tf32": "tf32", "bfloat16": "bf16", "float16": "fp16"}.get(plan.dtype, plan.dtype)


@every_rung
@pytest.mark.parametrize("shape", [(37, 45, 24), (33, 64, 48)], ids=["ragged", "whole runs"])
def test_every_rung_drops_what_numpy_drops(backend, rng, plan, shape):
    pairs = forward(backend, rng, plan, DROPOUT, shape=shape)
    assert_equal(pairs)
    (a, _), (z, _) = pairs["a"], pairs["z"]
    mask = DROPOUT.mask(*shape[:2], int(STEP))
    np.testing.assert_array_equal(a != 0, mask)
    assert 0.4 < mask.mean() < 0.6
    assert (z != 0).all(), "z is stored of every unit"


@every_rung
def test_a_factor_alone_drops_nothing(backend, rng, plan):
    pairs = forward(backend, rng, plan, None)
    assert_equal(pairs)
    assert (pairs["a"][0] != 0).all()


@every_rung
def test_every_rung_draws_the_same_mask_going_back(backend, rng, plan):
    m, n, k = 37, 45, 24
    stored = np.dtype(STORED[plan.dtype])
    inputs = {"delta": np.abs(integers(rng, (m, k), stored)) + stored.type(1)}
    inputs |= {"w": np.abs(integers(rng, (k, n), stored)) + stored.type(1)}
    # an output of 0 is no sign of a dropped unit
    inputs |= {"saved": np.zeros((m, n), stored), "control": control(step=STEP)}
    sigma = activations.get("identity")

    def call(each, x, out):
        arrays = (x["delta"], x["w"], sigma, x["saved"], out["delta"])
        each.hidden_delta(*arrays, dropout=DROPOUT, control=x["control"], **on_rung(each, plan))

    made = {"delta": np.full((m, n), np.nan, stored)}
    pairs = run_both(backend, call, inputs, made, NUMPY.for_precision(precision_of(plan)))
    assert_equal(pairs)
    np.testing.assert_array_equal(pairs["delta"][0] != 0, DROPOUT.mask(m, n, int(STEP)))


@pytest.mark.parametrize("plan", [RUNGS["pipelined"], RUNGS["float64"]], ids=["float32", "float64"])
@pytest.mark.parametrize("sigma", ["tanh", "gelu", "softplus"])
def test_dropout_with_activations(backend, rng, plan, sigma):
    drop = Dropout(0.2, KEY, 1)
    pairs = forward(backend, rng, plan, drop, alpha=0.01, sigma=sigma, bias=0.5)
    assert_close(pairs)
    m, n, k = 19, 22, 8
    inputs = {"delta": rng.normal(size=(m, k)), "w": rng.normal(size=(k, n)), "saved": rng.random((m, n))}
    inputs = {name: x.astype(plan.dtype) for name, x in inputs.items()} | {"control": control(step=3)}

    def call(each, x, out):
        arrays = (x["delta"], x["w"], activations.get(sigma), x["saved"], out["delta"])
        each.hidden_delta(*arrays, dropout=drop, control=x["control"])

    assert_close(run_both(backend, call, inputs, {"delta": np.full((m, n), np.nan, plan.dtype)}))


def test_a_unit_is_dropped_by_one_word_in_two_to_the_32(backend, rng):
    """The mask at a threshold that is some unit's own word, and at the next one: each word is compared to the bit."""
    m, n, k = 6, 10, 8
    rows, groups = np.arange(m)[:, None], np.arange(3)
    words = np.stack(philox((rows, groups, 1, int(STEP)), KEY), axis=-1).reshape(m, 12)[:, :n]
    for word in map(int, rng.choice(words.reshape(-1), 4)):
        for threshold in (word, word + 1):
            drop = Dropout(threshold / 2**32, KEY, 1)
            (a, _) = forward(backend, rng, RUNGS["pipelined"], drop, shape=(m, n, k))["a"]
            np.testing.assert_array_equal(a != 0, words >= threshold)


def test_part_of_a_batch_draws_as_the_whole(backend, rng):
    x, w = integers(rng, (40, 8), "float32"), integers(rng, (12, 8), "float32")
    b, steps = np.full(12, 100, "float32"), control(step=1)
    placed = [backend.asarray(each, each.dtype) for each in (x, w, b, steps)]
    whole, parts = backend.empty((40, 12), "float32"), backend.empty((40, 12), "float32")
    sigma = activations.get("relu")
    for out, first, last in ((whole, 0, 40), (parts, 0, 17), (parts, 17, 40)):
        rows = slice(first, last)
        drop = Dropout(0.5, KEY, 1, first_row=first)
        backend.dense_forward(
            placed[0][rows], placed[1], placed[2], sigma, None, out[rows], dropout=drop, control=placed[3]
        )
    np.testing.assert_array_equal(backend.asnumpy(parts), backend.asnumpy(whole))


@emulator_only
@pytest.mark.parametrize("name", ["naive", "tiled", "blocked", "pipelined", "bfloat16", "split"])
def test_no_races_and_no_unwritten_reads(backend, rng, name):
    with emulator.observe(races=True, uninitialised=True) as report:
        forward(backend, rng, RUNGS[name], DROPOUT)
    assert not report.findings


# --- gradients that are added up --------------------------------------------------------------------------------------
@every_rung
@pytest.mark.parametrize(("alpha", "accumulate"), [(2.0, False), (1.0, True), (0.5, True)])
def test_weight_gradient_adds_to_what_there_is(backend, rng, plan, alpha, accumulate):
    m, n, k = 20, 37, 48
    stored = np.dtype(STORED[plan.dtype])
    master = "float64" if plan.dtype == "float64" else "float32"
    inputs = {"delta": integers(rng, (k, m), stored), "a": integers(rng, (k, n), stored)}
    held = integers(rng, (m, n), master) if accumulate else np.full((m, n), np.nan, master)

    def call(each, x, out):
        each.weight_gradient(x["delta"], x["a"], out["dw"], alpha=alpha, accumulate=accumulate, **on_rung(each, plan))

    assert_equal(run_both(backend, call, inputs, {"dw": held}, NUMPY.for_precision(precision_of(plan))))


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("rows", [1, 65, 1000])
def test_bias_gradient_adds_to_what_there_is(backend, rng, rows, dtype):
    master = "float64" if dtype == "float64" else "float32"
    delta = {"delta": integers(rng, (rows, 37), STORED[dtype])}
    made = {"db": integers(rng, (37,), master)}
    reference = NUMPY.for_precision("bf16") if dtype == "bfloat16" else NUMPY
    pairs = run_both(
        backend, lambda each, x, out: each.bias_gradient(x["delta"], out["db"], True), delta, made, reference
    )
    assert_equal(pairs)
    np.testing.assert_array_equal(pairs["db"][0], made["db"] + delta["delta"].astype(master).sum(axis=0))


# --- losses -----------------------------------------------------------------------------------------------------------
LOSSES = [
    *((name, "tanh") for name in ("half_squared_error", "huber", "absolute_error", "quantile")),
    *((name, "softmax") for name in ("squared_error", "mean_squared_error", "quantile")),
    *((name, "sigmoid") for name in ("binary_cross_entropy", "binary_focal_cross_entropy")),
    *((name, "softmax") for name in ("softmax_cross_entropy", "softmax_focal_cross_entropy")),
    ({"name": "softmax_cross_entropy", "label_smoothing": 0.1}, "softmax"),
    ({"name": "quantile", "quantile": 0.9}, "identity"),
    ({"name": "binary_focal_cross_entropy", "gamma": 0.5}, "sigmoid"),
    ({"name": "softmax_focal_cross_entropy", "gamma": 0.0}, "softmax"),
]


def loss_inputs(rng, loss, sigma, dtype, shape, labels=False):
    """What `output_delta` reads, but for weights and control, rounded to the dtype."""
    z = (rng.standard_normal(shape) * 3).astype(dtype).astype("float64")
    a = np.empty_like(z)
    sigma.apply(z, a)
    a = a.astype(dtype).astype("float64")
    y = rng.random(shape)
    y /= y.sum(axis=1, keepdims=True)
    if labels:
        y = rng.integers(0, shape[1], shape[0])
    else:
        y = y.astype("float64" if dtype == "float64" else "float32")
    output, saved = (z, z) if loss.from_logits else (a, a)
    return {"output": output.astype(dtype), "saved": saved.astype(dtype), "y": y}


def loss_pairs(backend, loss, sigma, inputs, **settings):
    """Pairs of losses and δ; weights and control are taken from `inputs` if they are there."""
    reference = NUMPY.for_precision("bf16") if inputs["output"].dtype.itemsize == 2 else NUMPY
    made = {"losses": np.array([np.nan, 5.0]), "delta": np.full_like(inputs["output"], np.nan)}

    def call(each, x, out):
        read = (x["output"], x["saved"], x["y"], x.get("weights"), x.get("control"))
        each.output_delta(loss, sigma, *read, out["losses"], out["delta"], **settings)

    return run_both(backend, call, inputs, made, reference)


def assert_losses(pairs, dtype):
    precision = {"float64": 1e-12, "float32": 3e-5}.get(str(np.dtype(dtype)), 1e-5)
    found, expected = pairs["losses"]
    np.testing.assert_allclose(found, expected, rtol=precision)
    assert_close({"delta": pairs["delta"]}, 2 if np.dtype(dtype).itemsize == 2 else 64)


@pytest.mark.parametrize(
    "dtype", ["float32", *(pytest.param(x, marks=pytest.mark.slow) for x in ("float64", "bfloat16"))]
)
@pytest.mark.parametrize(("settings", "sigma_name"), LOSSES, ids=str)
def test_weighted_losses(backend, rng, settings, sigma_name, dtype):
    loss, sigma = losses.get(settings), activations.get(sigma_name)
    inputs = loss_inputs(rng, loss, sigma, STORED[dtype], (37, 10))
    weights = rng.integers(0, 3, 37).astype(inputs["y"].dtype) / 2
    weights[5] = 0
    inputs["y"][5, 3] = np.nan  # left out, whatever it is
    inputs |= {"weights": weights, "control": control(loss_factor=1 / 16, loss_scale=4)}
    pairs = loss_pairs(backend, loss, sigma, inputs)
    assert_losses(pairs, STORED[dtype])
    assert np.isfinite(pairs["losses"][0]).all()
    assert (pairs["delta"][0][weights == 0] == 0).all()
    assert (pairs["delta"][0][weights != 0] != 0).any()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("width", [1, 10, 1500], ids=["one", "a warp", "a block"])
@pytest.mark.parametrize("name", ["softmax_cross_entropy", "softmax_focal_cross_entropy"])
def test_labels_with_weights_and_smoothing(backend, rng, name, width, weighted):
    smoothing = {"label_smoothing": 0.2} if name == "softmax_cross_entropy" else {}
    loss, sigma = losses.get({"name": name, **smoothing}), activations.get("softmax")
    inputs = loss_inputs(rng, loss, sigma, "float64", (9, width), labels=True)
    inputs["y"][4] = width  # no class
    if weighted:
        weights = rng.random(9)
        weights[4] = 0
        inputs |= {"weights": weights, "control": control(loss_factor=0.25)}
    pairs = loss_pairs(backend, loss, sigma, inputs)
    assert_losses(pairs, "float64")
    found = pairs["delta"][0]
    assert np.isfinite(np.delete(found, 4, 0)).all()
    assert (found[4] == 0).all() if weighted else np.isnan(found[4]).all()


@pytest.mark.parametrize("name", ["binary_focal_cross_entropy", "softmax_focal_cross_entropy"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_losses_of_large_logits(backend, name, gamma):
    loss = losses.get({"name": name, "gamma": gamma})
    z = np.array([[-800.0, 0], [800, 0], [-40, 40], [30, -30], [1e-8, 0], [0, 0]])
    y = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1], [0.5, 0.5], [1, 0]])
    sigma = activations.get(loss.output_activation)
    assert_losses(loss_pairs(backend, loss, sigma, {"output": z, "saved": z, "y": y}), "float64")


@pytest.mark.parametrize("name", ["binary_focal_cross_entropy", "softmax_focal_cross_entropy"])
@pytest.mark.parametrize("value", [-0.5, 1.5])
def test_a_target_that_is_no_probability_makes_the_loss_nan(backend, rng, name, value):
    loss = losses.get(name)
    inputs = loss_inputs(rng, loss, activations.get(loss.output_activation), "float32", (5, 3))
    inputs["y"][2, 1] = value
    pairs = loss_pairs(backend, loss, activations.get(loss.output_activation), inputs)
    assert np.isnan(pairs["losses"][0]).all()
    np.testing.assert_array_equal(np.isnan(pairs["delta"][0]), np.isnan(pairs["delta"][1]))


def test_a_row_of_weight_0_is_left_out_even_if_its_outputs_are_nan(backend, rng):
    for name, sigma_name in (("huber", "tanh"), ("huber", "softmax"), ("softmax_cross_entropy", "softmax")):
        loss, sigma = losses.get(name), activations.get(sigma_name)
        inputs = loss_inputs(rng, loss, sigma, "float32", (4, 3))
        inputs |= {"weights": np.array([1, 0, 2, 1], "float32"), "control": control(loss_factor=0.25)}
        results = []
        for value in (0.5, np.nan):
            for array in ("output", "saved"):
                inputs[array][1] = value
            placed = {key: backend.asarray(x, x.dtype) for key, x in inputs.items()}
            sums, delta = backend.zeros((2,), "float64"), backend.empty((4, 3), "float32")
            backend.output_delta(loss, sigma, *placed.values(), sums, delta)
            results.append((backend.asnumpy(sums), backend.asnumpy(delta)))
        np.testing.assert_array_equal(results[0][0], results[1][0])
        np.testing.assert_array_equal(results[0][1], results[1][1])


def test_a_divisor_is_of_the_whole_batch(backend, rng):
    loss, sigma = losses.get("half_squared_error"), activations.get("identity")
    inputs = loss_inputs(rng, loss, sigma, "float64", (6, 3))
    whole = loss_pairs(backend, loss, sigma, inputs, divisor=24)
    assert_losses(whole, "float64")
    output, y = inputs["output"], inputs["y"]
    np.testing.assert_allclose(whole["delta"][0], (output - y) / 24, rtol=1e-12)


# --- penalties --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_penalties(backend, rng, name, decoupled, dtype):
    settings = {"l1": 0.5, "l2": 0.25, "decoupled": decoupled, "weight_decay": 0.125, "clip_value": 0.3}
    optimizer = optimizers.get({"name": name, "learning_rate": 0.05, **settings})
    size, decayed = 1031, 702
    inputs = {f"g{t}": rng.standard_normal(size).astype(dtype) for t in range(3)}
    w = rng.standard_normal(size).astype(dtype)
    w[:4], w[4:40] = 0, w[4:40] / 64  # within reach of 0
    made = {"w": w, "control": control(learning_rate=0.05)}
    made |= {slot: np.zeros(size, dtype) for slot in optimizer.state}

    def call(each, x, out):
        for t in range(3):
            each.prepare_update(x[f"g{t}"], None, out["control"])
            state = [out[slot] for slot in optimizer.state]
            each.update(optimizer, x[f"g{t}"], decayed, out["control"], state, out["w"])

    assert_close(run_both(backend, call, inputs, made))


def test_a_penalty_of_the_weights_does_not_reach_past_zero(backend):
    w = np.array([0.3, -0.3, 0.02, -0.02, 0.0, np.nan, 0.3, -0.02], "float32")
    optimizer = optimizers.get({"name": "sgd", "learning_rate": 0.1, "l1": 0.5, "decoupled": True})
    placed = [
        backend.asarray(x, x.dtype) for x in (np.zeros(8, "float32"), control(learning_rate=0.1, gradient_scale=1))
    ]
    out = backend.asarray(w, "float32")
    backend.update(optimizer, placed[0], 6, placed[1], [], out)
    expected = np.array([0.25, -0.25, 0, 0, 0, np.nan, 0.3, -0.02])
    np.testing.assert_allclose(backend.asnumpy(out), expected, rtol=1e-6, atol=1e-9)


def test_penalties_are_stored_rounded_too(backend, rng):
    optimizer = optimizers.get({"name": "adamw", "learning_rate": 0.05, "l1": 0.1})
    inputs = {"g": rng.standard_normal(37).astype("float32")}
    made = {"w": rng.standard_normal(37).astype("float32"), "stored": np.zeros(37, ml_dtypes.bfloat16)}
    made |= {"m": np.zeros(37, "float32"), "s": np.zeros(37, "float32")}
    made |= {"control": control(learning_rate=0.05, step=1, gradient_scale=1)}

    def call(each, x, out):
        each.update(optimizer, x["g"], 20, out["control"], [out["m"], out["s"]], out["w"], stored=out["stored"])

    pairs = run_both(backend, call, inputs, made)
    stored = pairs.pop("stored")[0]
    assert_close(pairs)
    np.testing.assert_array_equal(stored, pairs["w"][0].astype(ml_dtypes.bfloat16))


# --- checks of arguments ----------------------------------------------------------------------------------------------
def test_weights_are_checked(backend):
    z, y, delta = (backend.zeros((4, 3), "float32") for _ in range(3))
    steps, sums = backend.zeros((len(Control),), "float64"), backend.zeros((2,), "float64")
    loss, sigma = losses.get("huber"), activations.get("tanh")

    def call(weights, control=steps):
        backend.output_delta(loss, sigma, z, z, y, weights, control, sums, delta)

    call(None)
    call(backend.zeros((4,), "float32"))
    for weights, message in (
        (backend.zeros((3,), "float32"), r"weights\.shape was \(3,\); it must be \(4,\)"),
        (backend.zeros((4,), "float64"), r"weights\.dtype was 'float64'; it must be float32"),
        (np.zeros(4, "float32"), "weights is a ndarray"),
        (delta.reshape(-1)[:4], "delta overlaps weights"),
    ):
        with pytest.raises(ArgumentError, match=message):
            call(weights)
    with pytest.raises(ArgumentError, match="control is None; it must be given with weights"):
        call(backend.zeros((4,), "float32"), None)
    with pytest.raises(ArgumentError, match=r"control\.shape"):
        call(backend.zeros((4,), "float32"), steps[:5])


def test_dropout_asks_for_control_also_where_the_same_arrays_passed_without_it(backend):
    a_prev, w, out = (backend.zeros((8, 8), "float32") for _ in range(3))
    steps, sigma, drop = backend.zeros((len(Control),), "float64"), activations.get("relu"), Dropout(0.5, KEY, 1)
    calls = (
        lambda **settings: backend.dense_forward(a_prev, w, None, sigma, None, out, **settings),
        lambda **settings: backend.hidden_delta(a_prev, w, sigma, a_prev, out, **settings),
    )
    for call in calls:
        call()
        call(control=np.zeros(3))  # not read without dropout
        for _ in range(2):
            with pytest.raises(ArgumentError, match="control is None; it must be given with dropout"):
                call(dropout=drop)
            with pytest.raises(ArgumentError, match="control is a ndarray"):
                call(dropout=drop, control=np.zeros(len(Control)))
            call(dropout=drop, control=steps)
        with pytest.raises(ArgumentError, match="overlaps control"):
            call(dropout=drop, control=out.reshape(-1).view("float64")[: len(Control)])


def test_an_order_of_any_length_is_gathered_by(backend, rng):
    source = integers(rng, (20, 3), "float32")
    for length in (5, 50):
        order = rng.integers(0, 20, length)
        placed = [backend.asarray(x, x.dtype) for x in (source, order, control())]
        out = backend.empty((5, 3), "float32")
        backend.gather_rows(placed[:1], *placed[1:], [out])
        np.testing.assert_array_equal(backend.asnumpy(out), source[order[:5]])
        with pytest.raises(ArgumentError, match=rf"out\[0\]\.shape was \({length + 1}, 3\).*at most the {length} rows"):
            backend.gather_rows(placed[:1], *placed[1:], [backend.empty((length + 1, 3), "float32")])
    with pytest.raises(ArgumentError, match=r"order\.shape"):
        backend.gather_rows(placed[:1], placed[1].reshape(5, 10), placed[2], [out])
    with pytest.raises(ArgumentError, match="sources was 4; it must be 1 to 3 arrays"):
        backend.gather_rows(placed[:1] * 4, *placed[1:], [out] * 4)
    with pytest.raises(ArgumentError, match="out has 1 arrays; it must have 2, one for each source"):
        backend.gather_rows(placed[:1] * 2, *placed[1:], [out])
    with pytest.raises(ArgumentError, match=r"out\[0\] overlaps out\[1\]"):
        backend.gather_rows(placed[:1] * 2, *placed[1:], [out, out])


# --- capture ----------------------------------------------------------------------------------------------------------
def test_a_replay_draws_for_the_step_that_control_says(backend, rng):
    x, w = integers(rng, (12, 8), "float32"), integers(rng, (12, 8), "float32")
    b, weights = np.full(12, 100, "float32"), rng.random(12).astype("float32")
    placed = [backend.asarray(each, each.dtype) for each in (x, w, b, weights)]
    steps = backend.asarray(control(step=0, loss_factor=1), "float64")
    a, delta, sums = (
        backend.empty((12, 12), "float32"),
        backend.empty((12, 12), "float32"),
        backend.zeros((2,), "float64"),
    )
    sigma, loss, drop = activations.get("identity"), losses.get("half_squared_error"), Dropout(0.5, KEY, 1)

    y = backend.zeros((12, 12), "float32")

    def work():
        backend.dense_forward(*placed[:3], sigma, None, a, dropout=drop, control=steps)
        backend.output_delta(loss, sigma, a, a, y, placed[3], steps, sums, delta)

    work()
    replay = backend.capture(work)
    for step, factor in ((1, 0.5), (2**33 + 5, 0.25)):
        backend.upload(control(step=step, loss_factor=factor), steps)
        replay()
        expected = np.where(drop.mask(12, 12, step), x @ w.T + b, 0)
        np.testing.assert_array_equal(backend.asnumpy(a), expected)
        np.testing.assert_allclose(backend.asnumpy(delta), expected * weights[:, None] * factor, rtol=1e-6)


# --- networks ---------------------------------------------------------------------------------------------------------
def trained(rng, name, steps=6, capture=False, at_once=None, **settings):
    """A trainer after some steps with dropout, weights, penalties and label smoothing."""
    x, y, weights = rng.normal(size=(60, 9)), rng.integers(0, 4, 60), rng.integers(0, 3, 60) / 2.0
    loss = {"name": "softmax_cross_entropy", "label_smoothing": 0.1}
    device = DEVICE if name == "cupy" else None
    net = Network(
        [9, 32, 24, 4],
        hidden_activation="tanh",
        loss=loss,
        dropout=[0.5, 0.25],
        backend=name,
        device=device,
        seed=3,
        **settings,
    )
    trainer = Trainer(net, {"name": "adam", "learning_rate": 0.01, "l1": 1e-3, "l2": 1e-2, "decoupled": True}, at_once)
    feed = trainer.feed(x, y, weights)
    feed.visit(rng.permutation(60))
    step = trainer.capture(feed, 20) if capture else lambda start: trainer.step_rows(feed, start, 20)
    for i in range(steps):
        step(20 * (i % 3))
    return trainer


def parameters(trainer):
    return np.asarray(trainer.network.backend.asnumpy(trainer.network.parameters), "float64")


@pytest.mark.parametrize("at_once", [None, 7])
@pytest.mark.parametrize(
    ("settings", "bound"),
    [
        ({"dtype": "float32"}, 1e-6),
        pytest.param({"dtype": "float64"}, 1e-13, marks=pytest.mark.slow),
        pytest.param({"precision": "bf16"}, 1e-3, marks=pytest.mark.slow),
        pytest.param({"precision": "fp16"}, 1e-4, marks=pytest.mark.slow),
        pytest.param({"precision": "tf32"}, 1e-4, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_training_with_all_of_it_follows_numpy(settings, bound, at_once):
    found, expected = (
        trained(np.random.default_rng(5), name, at_once=at_once, **settings) for name in ("cupy", "numpy")
    )
    difference = np.linalg.norm(parameters(found) - parameters(expected)) / np.linalg.norm(parameters(expected))
    print(f"{settings}: ‖Δw‖/‖w‖ = {difference:.1e}, {difference / bound:.1%} of the bound")
    assert difference <= bound
    assert found.take_total_loss() == pytest.approx(expected.take_total_loss(), rel=bound)


@pytest.mark.parametrize("at_once", [None, 7])
@pytest.mark.parametrize("settings", [{}, pytest.param({"precision": "fp16"}, marks=pytest.mark.slow)], ids=str)
def test_replays_equal_steps(settings, at_once):
    plain, replayed = (
        trained(np.random.default_rng(5), "cupy", capture=capture, at_once=at_once, **settings)
        for capture in (False, True)
    )
    np.testing.assert_array_equal(parameters(replayed), parameters(plain))
    assert replayed.take_total_loss() == plain.take_total_loss()
