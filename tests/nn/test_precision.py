"""Mixed precision on the NumPy backend, which is the reference: the dtypes by role, and the scaling of the loss."""

import math
import warnings

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from hypothesis.strategies import integers

from gpubp import LossScaling, Network, Trainer
from gpubp.backends.numpy_backend import NumpyBackend
from gpubp.data import load
from gpubp.data.dataset import Dataset
from gpubp.errors import ArgumentError, CheckpointError
from gpubp.kernels.control import Control
from gpubp.nn.precision import PRECISIONS, Precision, round_to_tf32
from gpubp.training.checkpoint import CHECKPOINT_FILE
from gpubp.training.config import TrainingConfig
from gpubp.training.diagnostics import gradient_check
from gpubp.training.loop import Listener, fit

STORAGE = {"bf16": ml_dtypes.bfloat16, "fp16": np.float16}


def small(precision="fp16", **options):
    return Network([4, 6, 3], precision=precision, backend="numpy", seed=3, **options)


def training(precision="fp16", *, optimizer="sgd", **options):
    return Trainer(small(precision, **options), optimizer)


def batch(rows=8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, 4)).astype(np.float32), rng.integers(0, 3, rows)


def blobs():
    """Normal clouds, one a class."""
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    x = rng.normal(0, 3, (3, 4))[labels] + rng.normal(size=(90, 4))
    return Dataset(x[:66], labels[:66], x[66:], labels[66:], class_names=("a", "b", "c"), name="blobs")


def control(trainer, place):
    return trainer.network.backend.asnumpy(trainer.control)[place]


def contents(trainer):
    return {name: array.tobytes() for name, array in trainer.state().items()}


# --- rounding ---------------------------------------------------------------------------------------------------------
def tf32_by_definition(x):
    """To nearest in 11 bits of significand, ties away from zero, one value at a time."""
    if not math.isfinite(x) or x == 0:
        return x
    unit = 2.0 ** (max(math.frexp(x)[1] - 1, -126) - 10)
    rounded = math.copysign(math.floor(abs(x) / unit + 0.5) * unit, x)
    return rounded if abs(rounded) < 2.0**128 else math.copysign(math.inf, x)


@given(arrays(np.uint32, 20, elements=integers(0, 2**32 - 1)))
def test_tf32_is_nearest_with_ties_away_from_zero(bits):
    x = bits.view(np.float32)
    expected = [tf32_by_definition(float(value)) for value in x]
    np.testing.assert_array_equal(round_to_tf32(x), np.array(expected, np.float32))


def test_tf32_at_the_edges():
    one_and_a_tie = np.float32(1 + 2.0**-11)
    largest = np.finfo(np.float32).max
    smallest = np.float32(2.0**-149)
    x = np.array([one_and_a_tie, -one_and_a_tie, np.nextafter(one_and_a_tie, 0), largest, -np.inf, smallest, -0.0])
    found = round_to_tf32(x.astype(np.float32))
    np.testing.assert_array_equal(found, np.float32([1 + 2.0**-10, -1 - 2.0**-10, 1, np.inf, -np.inf, 0, 0]))
    assert np.signbit(found[-1])
    assert np.isnan(round_to_tf32(np.array([0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32))).all()


# --- what a network may be --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "precision was 'fp8'; it must be one of bf16, fp16, tf32"),
        ({"precision": 16}, "precision was 16"),
        ({"precision": "bf16", "dtype": "float64"}, "precision was 'bf16'; it must be left out with dtype 'float64'"),
        ({"precision": "bf16", "loss_scaling": LossScaling()}, "loss_scaling was .*; it is for precision 'fp16'"),
        ({"loss_scaling": LossScaling()}, "loss_scaling was .*; it is for precision 'fp16'"),
        ({"precision": "fp16", "loss_scaling": 3}, "loss_scaling was 3; it must be a LossScaling"),
        ({"precision": "fp16", "loss_scaling": {"start": 3}}, "loss_scaling was .* fields of LossScaling"),
    ],
)
def test_wrong_choices_are_named(options, message):
    options = {"backend": "numpy", **options}
    with pytest.raises(ArgumentError, match=message.replace("; it is", ".*it is")):
        Network([4, 3], **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial": 3.0}, "initial was 3.0; it must be a power of two"),
        ({"initial": 0.5}, "initial was 0.5; it must be a finite number ≥ 1"),
        ({"initial": math.inf}, "initial was inf"),
        ({"initial": 2.0**128}, "initial was .*; it must be a finite number ≥ 1 and ≤ 1.7"),  # infinite in float32
        ({"growth_interval": 0}, "growth_interval was 0"),
    ],
)
def test_wrong_loss_scaling_is_named(options, message):
    with pytest.raises(ArgumentError, match=message):
        LossScaling(**options)


def test_without_a_precision_every_role_has_the_dtype():
    assert Network([4, 3], backend="numpy").precision == Precision()
    assert Network([4, 3], dtype="float64", backend="numpy").precision == Precision(*["float64"] * 4)


@pytest.mark.parametrize("precision", STORAGE)
def test_arrays_have_the_dtype_of_their_role(precision):
    trainer = training(precision, optimizer="adam")
    net = trainer.network
    x, y = batch()
    trainer.step(x, y)
    storage = STORAGE[precision]
    arrays = net.batches.of(8)
    assert {array.dtype for array in (*net.w[1:], *arrays.a, *arrays.delta[1:])} == {np.dtype(storage)}
    updated = (net.parameters, net.gradient, *trainer._state, *net.b[1:])
    assert {array.dtype for array in updated} == {np.dtype("float32")}
    assert arrays.target[np.dtype("float32")].dtype == np.float32
    # the copy that the products read is the weights rounded, step by step
    for l in (1, 2):
        np.testing.assert_array_equal(net.w[l], net.weights()[f"layer{l}.weight"].astype(storage))
    assert all(array.dtype == np.float32 for array in net.weights().values())


def test_steps_too_small_for_16_bits_are_not_lost():
    # half a unit of bfloat16's last bit is 2⁻⁹ of the weight: each of these steps is far below
    net = small("bf16")
    x, y = batch()
    before = net.weights()["layer2.weight"].copy()
    trainer = Trainer(net, {"name": "sgd", "learning_rate": 1e-4})
    for _ in range(50):
        trainer.step(x, y)
    moved = net.weights()["layer2.weight"] - before
    gradient = small("bf16").gradients(x, y)[1].w[2]
    np.testing.assert_allclose(moved, -50e-4 * gradient, rtol=0.1, atol=1e-5)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "mean_squared_error", "binary_cross_entropy"])
def test_users_get_float32(precision, loss):
    net = small(precision, loss=loss)
    x, y = batch()
    if loss != "softmax_cross_entropy":
        y = np.eye(3)[y]
    probabilities = net.predict_proba(x)
    assert probabilities.dtype == np.float32
    if loss == "softmax_cross_entropy":
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    assert net.predict(x).dtype == (np.float32 if loss == "mean_squared_error" else np.int64)
    assert net.hidden_activations(x)[0].dtype == np.float32
    found, gradients = net.gradients(x, y)
    assert {part.dtype for part in (*gradients.w[1:], *gradients.b[1:])} == {np.dtype("float32")}
    assert net.evaluate(x, y).loss == pytest.approx(found, rel=1e-6)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_binary_classes_are_those_of_the_probabilities(precision):
    net = Network([4, 2], precision=precision, loss="binary_cross_entropy", backend="numpy", seed=2)
    x = 0.01 * batch(2000)[0]  # logits about 0, where 16 bits have few probabilities
    np.testing.assert_array_equal(net.predict(x), net.predict_proba(x) > 0.5)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_gradients_are_near_those_in_float32(precision):
    x, y = batch(64)
    loss, found = small(precision, hidden_activation="tanh").gradients(x, y)
    exact_loss, exact = small(None, hidden_activation="tanh").gradients(x, y)
    roundoff = {"bf16": 2.0**-8, "fp16": 2.0**-11, "tf32": 2.0**-11}[precision]
    assert loss == pytest.approx(exact_loss, rel=8 * roundoff)
    for part, right in zip((*found.w[1:], *found.b[1:]), (*exact.w[1:], *exact.b[1:]), strict=True):
        error = np.linalg.norm(part - right) / np.linalg.norm(right)
        assert 0 < error < 8 * roundoff


def test_inputs_beyond_the_range_of_float16_are_refused():
    trainer = training()
    x, y = batch()
    x[2, 1] = 70_000
    with pytest.raises(ArgumentError, match=r"x holds NaN or infinity; it must be finite in float16"):
        trainer.feed(x, y)


def test_inputs_may_be_rounded_already():
    net, x, y = small("bf16"), *batch()
    assert net.evaluate(x.astype(ml_dtypes.bfloat16), y) == net.evaluate(x, y)


# --- training ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def float32_accuracy(digits):
    return trained_accuracy(digits, None)


def trained_accuracy(digits, precision):
    net = Network([64, 32, 10], precision=precision, backend="numpy", seed=1)
    result = fit(net, digits, TrainingConfig(epochs=6, optimizer={"name": "adam", "learning_rate": 0.005}))
    return result.row.test_accuracy


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_digits_are_learnt_as_well_as_in_float32(digits, float32_accuracy, precision):
    assert float32_accuracy > 0.93
    assert trained_accuracy(digits, precision) >= float32_accuracy - 0.01


# --- loss scaling -----------------------------------------------------------------------------------------------------
def test_an_overflow_skips_the_step_and_halves_the_scale():
    trainer = training(optimizer="adam", loss_scaling=LossScaling(initial=2.0**40, growth_interval=1000))
    x, y = batch()
    kept = contents(trainer)
    skipped = 0
    for step in range(60):
        trainer.step(x, y)
        if control(trainer, Control.SKIP) == 0:
            break
        skipped = step + 1
        assert control(trainer, Control.LOSS_SCALE) == 2.0 ** (40 - skipped)
        assert (control(trainer, Control.SKIPPED), control(trainer, Control.CLEAN_STEPS)) == (skipped, 0)
        now = contents(trainer)
        assert all(now[name] == kept[name] for name in kept if name.startswith(("layer", "optimizer")))
        np.testing.assert_array_equal(
            trainer.network.w[1], trainer.network.weights()["layer1.weight"].astype(np.float16)
        )
        assert np.isfinite(trainer.last_loss())
    assert 20 < skipped < 30  # δ^L is about 0.1, and float16 ends at 2¹⁶
    assert (control(trainer, Control.SKIPPED), control(trainer, Control.CLEAN_STEPS)) == (skipped, 1)
    assert trainer.steps == skipped + 1
    assert trainer.state()["updates"] == 1

    # from there on, all is as if the scale had been that from the start
    other = training(optimizer="adam", loss_scaling=LossScaling(initial=2.0 ** (40 - skipped), growth_interval=1000))
    other.step(x, y)
    for _ in range(3):
        trainer.step(x, y)
        other.step(x, y)
    now, expected = contents(trainer), contents(other)
    assert {name for name in now if now[name] != expected[name]} == {"steps", "losses"}
    assert trainer.last_loss() == other.last_loss()  # the sum over the epoch has the skipped steps too


def test_an_overflow_of_the_weights_skips_and_recovers():
    trainer = training()
    net = trainer.network
    x, y = batch()
    right = net.weights()
    wrong = {name: array.copy() for name, array in right.items()}
    wrong["layer1.weight"][2] = 1e5  # finite in float32, infinite in float16
    net.set_weights(wrong)
    assert np.isinf(net.w[1][2]).all()
    for step in range(3):
        trainer.step(x, y)
        assert not np.isfinite(trainer.last_loss())
        assert control(trainer, Control.SKIP) == 1
        assert control(trainer, Control.LOSS_SCALE) == 2.0 ** (15 - step)
    np.testing.assert_array_equal(net.weights()["layer1.weight"], wrong["layer1.weight"])
    net.set_weights(right)
    trainer.step(x, y)
    assert np.isfinite(trainer.last_loss())
    assert control(trainer, Control.SKIP) == 0
    assert control(trainer, Control.SKIPPED) == 3
    assert (net.weights()["layer1.weight"] != right["layer1.weight"]).any()


def test_the_scale_stops_at_one():
    trainer = training(loss_scaling=LossScaling(initial=2.0))
    x, y = batch()
    x[0, 0] = np.nan
    for _ in range(3):
        trainer.step(x, y)
        assert (control(trainer, Control.LOSS_SCALE), control(trainer, Control.SKIP)) == (1, 1)
        assert np.isnan(trainer.last_loss())


def test_the_scale_doubles_after_clean_steps():
    trainer = training(loss_scaling=LossScaling(initial=4.0, growth_interval=3))
    x, y = batch()
    scales = []
    for _ in range(9):
        trainer.step(x, y)
        scales.append(control(trainer, Control.LOSS_SCALE))
    assert scales == [4, 4, 8, 8, 8, 16, 16, 16, 32]
    assert control(trainer, Control.SKIPPED) == 0


def test_a_skip_starts_the_count_of_clean_steps_anew():
    trainer = training(loss_scaling=LossScaling(initial=4.0, growth_interval=3))
    x, y = batch()
    scales = []
    for step in range(6):
        trainer.step(np.full_like(x, np.nan) if step == 2 else x, y)
        assert not trainer.skipping  # without end: there are smaller scales
        scales.append(control(trainer, Control.LOSS_SCALE))
    assert scales == [4, 4, 2, 2, 2, 4]
    assert control(trainer, Control.SKIPPED) == 1


@pytest.mark.parametrize("optimizer", ["adam", {"name": "sgd", "clip_norm": 0.5}, {"name": "sgd", "clip_value": 0.01}])
def test_the_scale_does_not_show_in_the_weights(optimizer):
    # a power of two rounds nothing as long as no delta is subnormal: the sum over the batch keeps them large
    x, y = batch()
    ends = []
    for initial in (2.0**4, 2.0**9):
        trainer = training(
            optimizer=optimizer,
            loss={"name": "softmax_cross_entropy", "reduction": "sum"},
            hidden_activation="identity",
            loss_scaling=LossScaling(initial=initial),
        )
        for _ in range(5):
            trainer.step(x, y)
        ends.append(trainer.network.weights())
    for name in ends[0]:
        np.testing.assert_array_equal(ends[0][name], ends[1][name])


def test_clipping_is_of_the_unscaled_norm():
    x, y = batch()
    clipped = training(optimizer={"name": "sgd", "learning_rate": 1.0, "clip_norm": 0.25})
    before = clipped.network.weights()
    clipped.step(x, y)
    after = clipped.network.weights()
    step = math.sqrt(sum(float(np.square(after[name] - before[name]).sum()) for name in before))
    assert step == pytest.approx(0.25, rel=1e-4)
    # the scale of a norm that is small enough is one, however large the loss scale
    free, loose = training(optimizer="sgd"), training(optimizer={"name": "sgd", "clip_norm": 100.0})
    for trainer in (free, loose):
        trainer.step(x, y)
    ends = [trainer.network.weights()["layer1.weight"] for trainer in (free, loose)]
    np.testing.assert_array_equal(*ends)


def test_small_deltas_need_the_scale():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 4)), rng.normal(size=(8, 3))
    scale = 1e-4

    def norm(initial):
        net = small(loss="mean_squared_error", loss_scaling=LossScaling(initial=initial), output_activation="identity")
        net.set_weights({name: scale * array for name, array in net.weights().items()})
        return net.gradients(x, scale * y)[1].norms()[0]

    exact = small(None, loss="mean_squared_error", output_activation="identity")
    exact.set_weights({name: scale * array for name, array in exact.weights().items()})
    right = exact.gradients(x, scale * y)[1].norms()[0]
    assert norm(2.0**16) == pytest.approx(right, rel=0.01)
    assert norm(1.0) < 0.5 * right  # lost under the smallest float16


def test_gradients_are_unscaled_and_finite():
    x, y = batch()
    gradients = []
    for initial in (2.0**8, 2.0**60):
        trainer = training(loss_scaling=LossScaling(initial=initial))
        kept = contents(trainer)
        gradients.append(trainer.network.gradients(x, y)[1])
        assert contents(trainer) == kept
    for found, right in zip(gradients[1].w[1:], gradients[0].w[1:], strict=True):
        np.testing.assert_allclose(found, right, rtol=0.01, atol=1e-5)


def training_on_nothing(initial):
    """A training whose gradients are zero: nothing overflows, so that nothing but its bound holds the scale."""
    trainer = training(loss="squared_error", bias=False, loss_scaling=LossScaling(initial=initial, growth_interval=1))
    trainer.network.set_weights({name: 0 * array for name, array in trainer.network.weights().items()})
    return trainer, batch()[0], np.zeros((8, 3))


@pytest.mark.parametrize(("initial", "end"), [(2.0**16, 2.0**24), (2.0**24, 2.0**24), (2.0**40, 2.0**40)])
def test_the_scale_stops_growing_at_its_bound(initial, end):
    """From 2¹²⁸ on float32 cannot hold it, and every second step was skipped."""
    trainer, x, y = training_on_nothing(initial)
    for _ in range(200):
        trainer.step(x, y)
        assert control(trainer, Control.SKIP) == 0
        assert control(trainer, Control.LOSS_SCALE) <= end
    assert control(trainer, Control.LOSS_SCALE) == end
    assert control(trainer, Control.SKIPPED) == 0


def test_gradients_of_nothing_at_the_largest_scale_are_nothing():
    trainer, x, y = training_on_nothing(2.0**127)
    trainer.step(x, y)
    assert trainer.loss_scale == 2.0**127
    with warnings.catch_warnings(action="error"):
        assert trainer.network.gradients(x, y, trainer.loss_scale)[1].norms() == [0, 0]


def test_a_new_trainer_starts_with_the_first_scale():
    trainer = training(loss_scaling=LossScaling(initial=2.0**50))
    trainer.step(*batch())
    assert control(trainer, Control.LOSS_SCALE) == 2.0**49
    assert trainer.loss_scale == 2.0**49
    assert Trainer(trainer.network, "adam").loss_scale == 2.0**50


def test_gradients_start_from_the_scale_that_is_given():
    # deltas under the smallest float16, but for a scale
    net = small(loss="mean_squared_error", loss_scaling=LossScaling(initial=1.0))
    net.set_weights({name: 1e-4 * array for name, array in net.weights().items()})
    x, y = batch()[0], np.full((8, 3), 1e-4)
    norms = [net.gradients(x, y, scale)[1].norms()[0] for scale in (None, 1.0, 2.0**16, 2.0**60)]
    assert norms[0] == norms[1] < 0.5 * norms[2]
    assert norms[3] == pytest.approx(norms[2], rel=0.01)  # too large a scale comes down to what float16 can take
    with pytest.raises(ArgumentError, match="loss_scale was 0"):
        net.gradients(x, y, 0)
    with pytest.raises(ArgumentError, match=r"loss_scale was 2\.0; it must be left out"):
        small("bf16").gradients(x, y, 2.0)


def test_without_loss_scaling_there_is_no_scale():
    assert training("bf16").loss_scale is None


# --- what is kept -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_state_continues_bit_for_bit(precision):
    scaling = {"loss_scaling": LossScaling(2.0**30, 4)} if precision == "fp16" else {}
    x, y = batch()
    straight, first = (training(precision, optimizer="adam", **scaling) for _ in range(2))
    for _ in range(30):
        straight.step(x, y)
    for _ in range(17):
        first.step(x, y)
    second = Trainer(Network.from_config(first.network.config(), backend="numpy"), "adam")
    second.restore(first.state())
    for _ in range(13):
        second.step(x, y)
    assert contents(second) == contents(straight)
    assert second.network.precision_name == precision
    if precision == "fp16":
        assert 0 < control(second, Control.SKIPPED) < second.steps == 30


def test_a_state_without_the_scale_is_refused():
    trainer = training()
    state = trainer.state()
    del state["loss_scale"]
    with pytest.raises(ArgumentError, match="loss_scale is missing"):
        trainer.restore(state)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_run_resumes_bit_for_bit(tmp_path, precision):
    dataset = blobs()
    scaling = {"loss_scaling": LossScaling(2.0**30, 5)} if precision == "fp16" else {}

    def run(epochs, folder, resume=False):
        folder.mkdir(exist_ok=True)
        net = Network([dataset.features, 6, dataset.outputs], precision=precision, backend="numpy", seed=1, **scaling)
        config = TrainingConfig(epochs=epochs, schedule=None, batch_size=16)
        return fit(net, dataset, config, folder=folder, resume=resume)

    straight = run(6, tmp_path / "straight")
    run(2, tmp_path / "parts")
    resumed = run(6, tmp_path / "parts", resume=True)
    assert resumed.history == straight.history
    ends = [(tmp_path / name / CHECKPOINT_FILE).read_bytes() for name in ("straight", "parts")]
    assert ends[0] == ends[1]
    for folder in ("straight", "parts"):
        loaded = Network.load(tmp_path / folder / "model.safetensors", backend="numpy")
        assert loaded.precision_name == precision
        assert loaded.precision == PRECISIONS[precision]
        assert loaded.loss_scaling == straight.model.network.loss_scaling
        for name, array in loaded.weights().items():
            assert array.dtype == np.float32
            np.testing.assert_array_equal(array, straight.model.network.weights()[name])
        x = dataset.x_test.astype(np.float32)
        np.testing.assert_array_equal(loaded.predict_proba(x), straight.model.network.predict_proba(x))


@pytest.mark.parametrize(("saved", "other"), [("bf16", None), (None, "bf16"), ("bf16", "fp16")])
def test_a_run_does_not_resume_in_another_precision(tmp_path, saved, other):
    dataset = blobs()
    nets = [Network([4, 3], precision=precision, backend="numpy") for precision in (saved, other)]
    fit(nets[0], dataset, TrainingConfig(epochs=1), folder=tmp_path)
    with pytest.raises(CheckpointError, match=f"its precision is {saved!r}, and that to resume has {other!r}"):
        fit(nets[1], dataset, TrainingConfig(epochs=2), folder=tmp_path, resume=True)


def test_files_without_a_precision_stay_as_they_were(tmp_path):
    net = Network([4, 3], backend="numpy")
    assert not {"precision", "loss_scaling"} & net.config().keys()  # what older files hold, and older versions read
    net.save(tmp_path / "model.safetensors")
    assert Network.load(tmp_path / "model.safetensors", backend="numpy").precision_name is None


class Float32Only(NumpyBackend):
    """Stands in for a backend that has no mixed precision."""

    name = "float32only"

    def for_precision(self, precision):
        raise ArgumentError("precision", precision, "left out")


def test_a_file_says_what_its_backend_must_compute_in(tmp_path):
    small("bf16").save(tmp_path / "model.safetensors")
    with pytest.raises(ArgumentError, match="computes in bf16, such as 'numpy'"):
        Network.load(tmp_path / "model.safetensors", backend=Float32Only())


# --- what does not end well -------------------------------------------------------------------------------------------
def test_lost_weights_end_the_training():
    dataset = blobs()
    net = Network([4, 6, 3], precision="fp16", backend="numpy", seed=1)
    result = fit(net, dataset, TrainingConfig(epochs=5, optimizer={"name": "sgd", "learning_rate": 1e7}))
    assert result.diverged
    assert len(result.history) == 1


def test_an_overflow_that_no_scale_mends_ends_the_training():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 4)), rng.normal(size=(40, 1))
    dataset = Dataset(x[:30], y[:30], x[30:], y[30:], task="regression", name="noise")
    loss = {"name": "squared_error", "reduction": "sum"}
    net = Network([4, 1], precision="fp16", loss=loss, backend="numpy", seed=1)
    # a and the loss are finite, and δ = 2 (a − y) is beyond 65504
    net.set_weights({**net.weights(), "layer1.bias": np.array([4e4])})
    result = fit(net, dataset, TrainingConfig(epochs=3))
    assert math.isfinite(result.history[0].train_loss)
    assert result.diverged
    assert len(result.history) == 1


def test_steps_skipped_without_end_are_said():
    # the same with a mean: the gradient over 30 examples is finite, that of each single one is not
    dataset = blobs()
    heard = []
    listener = Listener()
    listener.warning = heard.append
    net = Network([4, 3], precision="fp16", loss="squared_error", backend="numpy", seed=1)
    net.set_weights({**net.weights(), "layer1.bias": np.full(3, 4e4)})
    before = net.weights()["layer1.bias"]
    result = fit(net, dataset, TrainingConfig(epochs=2, batch_size=1), listener=listener)
    np.testing.assert_array_equal(net.weights()["layer1.bias"], before)
    assert not result.diverged
    assert [message for message in heard if "skipped" in message] == [heard[0]]


def test_a_gradient_check_is_of_networks_without_a_precision():
    with pytest.raises(ArgumentError, match="precision was 'bf16'; it must be None: check the same network without it"):
        gradient_check(small("bf16"), *batch())
