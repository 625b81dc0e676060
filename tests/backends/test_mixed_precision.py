"""Mixed precision in our own kernels on the emulated device, beside the NumPy backend, which is its reference."""

import ml_dtypes
import numpy as np
import pytest
from devices import DEVICE

from gpubp import LossScaling, Network, Trainer
from gpubp.backends.cupy_backend import CupyBackend
from gpubp.backends.numpy_backend import NumpyBackend
from gpubp.chips import Chip
from gpubp.errors import ArgumentError
from gpubp.kernels.control import LARGEST_LOSS_SCALE, Control
from gpubp.nn import activations, optimizers
from gpubp.nn.precision import PRECISIONS

HALVES = (np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16))
BATCH = 64
NUMPY = NumpyBackend().for_precision("bf16")


@pytest.fixture(scope="module")
def backend():
    return CupyBackend(DEVICE)


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def run_both(backend, call, read, changed):
    """call(backend, read, changed) on this backend and on NumPy's; gives pairs of what was changed."""
    results = []
    for each in (backend, NUMPY):
        arrays = [{name: each.asarray(x.copy(), x.dtype) for name, x in group.items()} for group in (read, changed)]
        call(each, *arrays)
        results.append({name: each.asnumpy(x) for name, x in arrays[1].items()})
    return [(results[0][name], results[1][name]) for name in changed]


def assert_alike(pairs, rtol=0.0, atol=0.0):
    """Equal, NaN and infinities too; or to within what is given."""
    for found, expected in pairs:
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found.astype(np.float64), expected.astype(np.float64), rtol=rtol, atol=atol)


def poisoned(shape, dtype):
    return np.full(shape, np.nan, dtype)


# --- kernels ----------------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_values_are_rounded_once_when_they_are_stored(backend, rng, dtype):
    ties = np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-11, 1 + 3 * 2.0**-11, 65519.99, 65520, 2.0**-25, -1e39])
    odd = [np.nan, -np.inf, 3e-8, 1e-40, -0.0, 3.4e38]
    values = np.concatenate([ties, -ties, odd, 10 ** rng.uniform(-9, 6, 100)])
    for source in (values, np.nextafter(values, np.inf), np.nextafter(values, -np.inf)):
        with np.errstate(over="ignore"):
            narrow = source.astype(np.float32)
        pairs = run_both(
            backend,
            lambda each, x, out: each.cast(x["x"], out["x"]),
            {"x": narrow},
            {"x": poisoned(len(source), dtype)},
        )
        assert_alike(pairs)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_double_is_not_rounded_twice(backend, dtype):
    unit = {"bfloat16": 2.0**-7, "float16": 2.0**-10}[str(dtype)]
    tie = 1 + unit / 2  # rounded to float32 first, what is just above falls back on the tie, and then down to even
    source = np.array([np.nextafter(tie, 2), tie, np.nextafter(tie, 1), -np.nextafter(tie, 2), 1e300, np.nan])
    out = backend.zeros(source.shape, dtype)
    backend.cast(backend.asarray(source, "float64"), out)
    expected = [1 + unit, 1, 1, -1 - unit, np.inf, np.nan]
    np.testing.assert_array_equal(backend.asnumpy(out).astype(np.float64), expected)


@pytest.mark.slow
def test_rows_of_an_odd_number_of_bytes_over_four_are_gathered(backend, rng):
    control = np.zeros(len(Control))
    control[Control.BATCH_OFFSET] = 2
    source, order = rng.normal(size=(9, 5)).astype(ml_dtypes.bfloat16), rng.permutation(9)
    read = {"source": source, "order": order, "control": control}
    out = {"out": poisoned((4, 5), ml_dtypes.bfloat16)}
    pairs = run_both(
        backend, lambda each, x, out: each.gather_rows([x["source"]], x["order"], x["control"], [out["out"]]), read, out
    )
    np.testing.assert_array_equal(pairs[0][0], read["source"][read["order"][2:6]])
    assert_alike(pairs)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("skip", [False, True])
def test_an_update_stores_a_rounded_copy_or_changes_nothing(backend, rng, dtype, skip):
    control = np.zeros(len(Control))
    control[[Control.LEARNING_RATE, Control.STEP, Control.GRADIENT_SCALE, Control.SKIP]] = 0.01, 3, 0.25, skip
    optimizer = optimizers.get({"name": "momentum", "weight_decay": 0.1})
    for size in (37, 64):  # with and without a ragged end
        made = {
            "v": rng.normal(size=size).astype(np.float32),
            "w": (3e4 * rng.normal(size=size)).astype(np.float32),
            "stored": rng.normal(size=size).astype(dtype),
        }
        read = {"g": rng.normal(size=size).astype(np.float32), "control": control}
        pairs = run_both(
            backend,
            lambda each, x, out: each.update(
                optimizer, x["g"], 20, x["control"], [out["v"]], out["w"], stored=out["stored"]
            ),
            read,
            made,
        )
        (v, (w, expected_w), (stored, _)) = pairs
        assert_alike([v, (w, expected_w)], rtol=2.0**-22, atol=2.0**-22)  # v is of size 1, and fma rounds once
        if skip:
            np.testing.assert_array_equal(w, made["w"])
            np.testing.assert_array_equal(stored, made["stored"])
        else:
            assert (w[:20] != made["w"][:20]).all()
            with np.errstate(over="ignore"):
                np.testing.assert_array_equal(stored, w.astype(dtype))


@pytest.mark.parametrize("max_norm", [None, 1e-3])
@pytest.mark.parametrize("norm", [2.0, 1e15, np.inf, np.nan])
def test_the_loss_scale_moves_as_in_the_reference(backend, max_norm, norm):
    for loss_scale in (1.0, 2.0**16, 2.0**23, 2.0**24, 2.0**40):
        for clean in (0, 4):
            control = np.zeros(len(Control))
            control[[Control.LOSS_SCALE, Control.CLEAN_STEPS]] = loss_scale, clean
            pairs = run_both(
                backend,
                lambda each, x, out: each.prepare_update(x["g"], max_norm, out["c"], LossScaling(growth_interval=5)),
                {"g": np.array([0, norm, 0], np.float32)},
                {"c": control},
            )
            assert_alike(pairs, rtol=2.0**-50)
            found, expected = (
                c[[Control.LOSS_SCALE, Control.CLEAN_STEPS, Control.SKIP, Control.SKIPPED]] for c in pairs[0]
            )
            np.testing.assert_array_equal(found, expected)  # to the bit, as the steps that are skipped hang on it
            assert found[0] <= max(loss_scale, LARGEST_LOSS_SCALE)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_probabilities_come_in_float32(backend, rng, dtype):
    z = (5 * rng.normal(size=(7, 33))).astype(dtype)
    pairs = run_both(
        backend, lambda each, x, out: each.softmax(x["z"], out["a"]), {"z": z}, {"a": poisoned((7, 33), np.float32)}
    )
    assert_alike(pairs, rtol=1e-6)
    np.testing.assert_allclose(pairs[0][0].sum(axis=1), 1, rtol=1e-6)


def test_arrays_of_the_wrong_role_are_named(backend):
    half = backend.zeros((4, 4), "float16")
    control = backend.zeros((len(Control),), "float64")
    for each in (backend, NUMPY):
        x, c = (half, control) if each is backend else (np.zeros((4, 4), "float16"), np.zeros(len(Control)))
        with pytest.raises(ArgumentError, match=r"w\.dtype was 'float16'"):
            each.weight_step(x, x[:], c, x)
    with pytest.raises(ArgumentError, match=r"gradient\.dtype was 'float16'; it must be float32"):
        backend.bias_gradient(half, backend.zeros((4,), "float16"))
    with pytest.raises(ArgumentError, match=r"gradients\.dtype was 'float16'"):
        backend.update(optimizers.get("sgd"), half.reshape(-1), 0, control, [], half.reshape(-1))
    b, out = backend.zeros((4,), "float16"), backend.zeros((4, 4), "float16")
    with pytest.raises(ArgumentError, match=r"b\.dtype was 'float16'; it must be float32"):
        backend.dense_forward(half, half, b, activations.get("relu"), None, out)


# --- networks ---------------------------------------------------------------------------------------------------------
def test_chips_without_these_tensor_cores_are_refused():
    old = CupyBackend("emulator")
    old.chip = Chip("sm_75", 40)
    for precision in PRECISIONS:
        with pytest.raises(ArgumentError, match=f"precision was '{precision}'.*sm_75 has no tensor cores for it"):
            Network([4, 3], precision=precision, backend=old)


def train(digits, backend, steps, **settings):
    """A [64, 32, 10] network after so many steps on the digits, the same batches for every backend and precision."""
    x, y, _, _ = digits
    device = DEVICE if backend == "cupy" else None
    net = Network([64, 32, 10], backend=backend, device=device, **settings)
    trainer = Trainer(net, {"name": "nesterov", "learning_rate": 0.1})
    feed = trainer.feed(x, y)
    feed.visit(np.random.default_rng(1).permutation(len(x)))
    for step in range(steps):
        trainer.step_rows(feed, step * BATCH % (len(x) - BATCH), BATCH)
    return net


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_digits_are_learnt_as_well_as_in_float32(digits, precision):
    steps = 2 * len(digits[0]) // BATCH
    right = train(digits, "numpy", steps).evaluate(digits[2], digits[3]).accuracy
    found = train(digits, "cupy", steps, precision=precision).evaluate(digits[2], digits[3]).accuracy
    print(f"{precision}: {found:.4f}, float32: {right:.4f}")
    assert right > 0.92
    assert found >= right - 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 1e-3), ("fp16", 1e-3), ("tf32", 1e-4)])
def test_the_weights_follow_the_reference(digits, precision, tolerance):
    # a sum that lies on the boundary of two 16-bit numbers may be rounded to either, as it is added up in another order
    settings = {"hidden_activation": "tanh", "precision": precision}
    reference = train(digits, "numpy", 10, **settings).weights()
    emulated = train(digits, "cupy", 10, **settings).weights()
    for name, weights in reference.items():
        difference = np.linalg.norm(emulated[name] - weights) / np.linalg.norm(weights)
        print(f"{precision} {name}: {difference:.2g} of {tolerance:g}")
        assert difference <= tolerance


def small(**options):
    net = Network([5, 4, 3], hidden_activation="tanh", backend="cupy", device=DEVICE, **options)
    return Trainer(net, "adam")


@pytest.mark.slow
@pytest.mark.parametrize(("initial", "first_skip"), [(2.0**22, 1), (2.0**4, 0)])
def test_a_captured_step_skips_on_the_device(rng, initial, first_skip):
    x, y = rng.normal(size=(20, 5)), rng.integers(0, 3, 20)
    scaling = LossScaling(initial, 3)
    plain, captured = (small(precision="fp16", loss_scaling=scaling) for _ in range(2))
    feeds = [trainer.feed(x, y) for trainer in (plain, captured)]
    before = captured.state()
    replay = captured.capture(feeds[1], 10)
    stored = [trainer.network.backend.asnumpy(trainer.network.stored) for trainer in (plain, captured)]
    assert stored[0].dtype == np.float16
    np.testing.assert_array_equal(*stored)
    for name, values in captured.state().items():
        np.testing.assert_array_equal(values, before[name], err_msg=f"capturing changed {name}")
    skips = []
    for step in range(14):
        start = 10 * (step % 2)
        plain.step_rows(feeds[0], start, 10)
        replay(start)
        skips.append(captured.network.backend.asnumpy(captured.control)[Control.SKIP])
    assert skips[0] == first_skip
    assert 0 in skips
    assert captured.steps == 14 == captured.state()["updates"] + sum(skips)
    for name, values in plain.state().items():
        np.testing.assert_array_equal(captured.state()[name], values, err_msg=name)


@pytest.mark.slow
def test_a_step_takes_arrays_on_the_device_in_either_dtype(rng):
    x, y = rng.normal(size=(8, 5)).astype(np.float32), rng.integers(0, 3, 8)
    ends = []
    for kind in (None, "float32", "bfloat16"):
        trainer = small(precision="bf16")
        net = trainer.network
        placed = x if kind is None else net.backend.asarray(x.astype(kind), kind)
        trainer.step(placed, y)
        ends.append(net.weights())
    for name in ends[0]:
        np.testing.assert_array_equal(ends[1][name], ends[0][name])
        np.testing.assert_array_equal(ends[2][name], ends[0][name])
    with pytest.raises(
        ArgumentError, match=r"x is an array of .*; it must be of float32 and shape \(B, 5\) or of bfloat16"
    ):
        trainer.step(net.backend.asarray(x, "float64"), y)
