"""The learning-rate finder: its steps are a run's, it leaves no trace, and what it suggests trains."""

import io
from dataclasses import replace

import numpy as np
import pytest
from devices import DEVICE

from gpubp import Network, Trainer, backends
from gpubp.backends.numpy_backend import NumpyBackend
from gpubp.data.dataset import Dataset
from gpubp.errors import ArgumentError
from gpubp.nn.optimizers import SGD
from gpubp.terminal import PlainConsole
from gpubp.training import find_learning_rate, lr_finder, rate_display
from gpubp.training.config import TrainingConfig
from gpubp.training.loop import fit
from gpubp.training.lr_finder import HIGHEST, LOWEST, SAFE, RateSweep
from gpubp.training.model import Model
from gpubp.training.order import epoch_order


def blobs(rows=150, classes=3, seed=0):
    """Normal clouds, one a class, which overlap a little."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 2, (classes, 4))
    labels = np.arange(rows + 30) % classes
    x = centres[labels] + rng.normal(size=(rows + 30, 4))
    return Dataset(x[30:], labels[30:], x[:30], labels[:30], class_names=tuple("abc"[:classes]), name="blobs")


def line(rows=64, scale=1.0):
    """One value that is a sum of two independent inputs, all exactly of mean 0 and variance 1: ± 1 each."""
    signs = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], float)
    x = np.tile(signs, (rows // 4, 1))
    y = scale * x.sum(axis=1, keepdims=True)
    return Dataset(x, y, x[:8], y[:8], task="regression", name="line")


def network(dataset=None, **options):
    dataset = dataset or blobs()
    return Network([dataset.features, 8, dataset.outputs], **{"seed": 1, **options})


def bits(network):
    parts = [network.parameters, *([] if network.stored is None else [network.stored])]
    return [network.backend.asnumpy(part).tobytes() for part in parts]


# --- the sweep --------------------------------------------------------------------------------------------------------


def test_the_steps_are_those_of_a_run_with_a_growing_rate():
    """Against single steps on batches cut from the epochs' orders by hand; the last, ragged batch is left out."""
    dataset, swept = blobs(rows=50), network()
    found = find_learning_rate(swept, dataset, TrainingConfig(batch_size=16, optimizer="momentum", seed=5))
    trainer = Trainer(network(), "momentum")
    model = Model.for_data(trainer.network, dataset)
    x, y = model.inputs(dataset.x_train), model.targets(dataset.y_train)
    growth = (HIGHEST / LOWEST) ** (1 / 101)  # 34 passes over 3 batches are the first that make 100 steps
    for step, (rate, loss) in enumerate(zip(found.rates, found.losses, strict=True)):
        assert rate == pytest.approx(LOWEST * growth**step, rel=1e-12)
        start = step % 3 * 16
        batch = epoch_order(5, step // 3, 50)[start : start + 16]
        trainer.optimizer = type(trainer.optimizer)(learning_rate=float(rate))
        trainer.step(x[batch], y[batch])
        assert loss == pytest.approx(trainer.last_loss(), rel=1e-12)
    assert len(found.rates) > 50


def test_one_pass_is_enough_where_it_has_a_hundred_steps():
    dataset = blobs(rows=450)
    still = SGD(clip_norm=1e-9)  # so that nothing diverges
    found = find_learning_rate(network(), dataset, TrainingConfig(batch_size=3, optimizer=still, validation=0.2))
    assert len(found.rates) == 120
    assert (found.rates[0], found.rates[-1]) == (LOWEST, pytest.approx(HIGHEST))
    assert not found.diverged


def test_the_sweep_ends_where_the_loss_diverges():
    found = find_learning_rate(network(), blobs(), TrainingConfig(batch_size=16, optimizer="adam"))
    assert found.diverged
    assert found.rates[-1] < HIGHEST
    assert np.isfinite(found.losses).all()
    assert len(found.rates) == len(found.losses) == len(found.smoothed)
    assert found.losses[-1] > 2 * found.losses.min()


def test_weights_count_and_batches_without_weight_are_left_out():
    """Single rows, a third of weight 0: as without these rows, but for the rates that pass over them."""
    dataset = blobs(rows=150)
    weight = np.random.default_rng(0).integers(0, 3, 150).astype(float)
    weighted = replace(dataset, weight_train=weight, weight_test=np.ones(30))
    config = TrainingConfig(batch_size=1, optimizer=SGD(clip_norm=1e-9))
    found = find_learning_rate(network(dtype="float64"), weighted, config)
    order = epoch_order(0, 0, 150)
    taken = order[weight[order] > 0]
    steps = np.flatnonzero(weight[order] > 0)
    np.testing.assert_allclose(found.rates, (LOWEST * (HIGHEST / LOWEST) ** (steps / 149)), rtol=1e-12)
    net = network(dtype="float64")
    model = Model.for_data(net, weighted)
    x, y = model.inputs(dataset.x_train), model.targets(dataset.y_train)
    expected = [net.evaluate(x[[row]], y[[row]]).loss for row in taken]  # a row's mean is its own loss
    np.testing.assert_allclose(found.losses, expected, rtol=1e-6)


def test_the_seed_decides_everything():
    def losses(seed):
        return find_learning_rate(network(), blobs(), TrainingConfig(seed=seed)).losses.tolist()

    assert losses(1) == losses(1)
    assert losses(1) != losses(2)


def test_the_smoothed_loss_is_a_mean_over_rates_nearby():
    rates = np.array([1e-3, 1e-3 * 10**0.2, 1.0])
    smoothed = lr_finder._smoothed(rates, np.array([1.0, 2.0, 5.0]))
    near = np.exp(-0.5)  # one standard deviation away
    np.testing.assert_allclose(smoothed, [(1 + 2 * near) / (1 + near), (2 + near) / (1 + near), 5], rtol=1e-12)


# --- it leaves no trace -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"dtype": "float64"}, {"precision": "bf16"}, {"precision": "fp16"}, {"precision": "tf32"}], ids=str
)
def test_the_network_is_what_it_was_bit_for_bit(options):
    dataset, swept = blobs(), network(**options)
    fit(swept, dataset, TrainingConfig(epochs=1))
    before = bits(swept)
    found = find_learning_rate(swept, dataset, TrainingConfig(batch_size=16))
    assert found.suggestion is not None
    assert bits(swept) == before
    # and trains as one that was never swept
    again = network(**options)
    fit(again, dataset, TrainingConfig(epochs=1))
    config = TrainingConfig(epochs=2, optimizer={"name": "adam", "learning_rate": found.suggestion})
    assert fit(swept, dataset, config).history == fit(again, dataset, config).history
    assert bits(swept) == bits(again)


def test_the_network_is_what_it_was_when_something_breaks():
    swept = network()
    before = bits(swept)

    def tell(line):
        if line.startswith("step 50 of"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_learning_rate(swept, blobs(), tell=tell)
    assert bits(swept) == before


def test_what_it_says_meanwhile():
    lines = []
    find_learning_rate(network(), blobs(rows=160), TrainingConfig(batch_size=16, optimizer="sgd"), tell=lines.append)
    assert lines[0] == "step 0 of 100, rate 1.0e-06"
    assert all(line.startswith(f"step {10 * number} of 100, rate ") for number, line in enumerate(lines))


def test_steps_that_loss_scaling_skips_are_rates_that_change_nothing():
    """The first loss scale overflows float16, so that the first steps are skipped and halve it."""
    scaled = network(precision="fp16", loss_scaling={"initial": 2.0**24})
    plain = network(precision="fp16", loss_scaling={"initial": 1.0})
    assert Trainer(scaled).loss_scale == 2.0**24
    found, expected = (
        find_learning_rate(each, blobs(), TrainingConfig(batch_size=16, optimizer="sgd")) for each in (scaled, plain)
    )
    assert found.suggestion == pytest.approx(expected.suggestion, rel=0.5)


# --- on every backend -------------------------------------------------------------------------------------------------


class Recording(NumpyBackend):
    """Stands in for a backend that records: replaying is doing it again."""

    captures = True
    replayed = 0

    def capture(self, work):
        def replay():
            self.replayed += 1
            work()

        return replay


def test_recorded_steps_give_the_same_losses():
    backend = Recording()
    config = TrainingConfig(batch_size=16)
    found, expected = (find_learning_rate(network(backend=each), blobs(), config) for each in (backend, "numpy"))
    assert backend.replayed >= len(found.rates)
    np.testing.assert_array_equal(found.losses, expected.losses)


@pytest.mark.parametrize("backend", ["cupy", pytest.param("numba", marks=pytest.mark.slow)])
def test_kernels_follow_the_reference(monkeypatch, backend):
    monkeypatch.setattr(lr_finder, "LEAST_STEPS", 20)
    dataset, emulated = blobs(), network(backend=backends.get(backend, DEVICE))
    before = bits(emulated)
    config = TrainingConfig(batch_size=16, optimizer="sgd")
    found, expected = (find_learning_rate(each, dataset, config) for each in (emulated, network()))
    np.testing.assert_array_equal(found.rates, expected.rates)
    np.testing.assert_allclose(found.losses[:10], expected.losses[:10], rtol=1e-5)
    assert found.suggestion == expected.suggestion
    assert bits(emulated) == before


# --- the suggestion ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_the_suggestion_is_below_the_rate_at_which_steps_diverge_and_not_far(momentum):
    """Least squares on all rows at once: L = |w − w*|² diverges from η = (1 + μ) · 2 / 2 on, whatever the data."""
    dataset = line()
    net = Network([2, 1], loss="mean_squared_error", bias=False, seed=3)
    optimizer = {"name": "momentum", "momentum": momentum}
    found = find_learning_rate(net, dataset, TrainingConfig(batch_size=64, optimizer=optimizer))
    assert found.diverged
    limit = 1 + momentum
    assert limit / 10 < found.suggestion < limit / 2
    config = TrainingConfig(
        epochs=60, batch_size=64, optimizer={**optimizer, "learning_rate": found.suggestion}, schedule="constant"
    )
    assert fit(net, dataset, config).row.train_loss < 1e-6


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "rmsprop", "adam", "adamw"])
def test_the_suggestion_trains(optimizer):
    dataset, swept = blobs(), network()
    rate = find_learning_rate(swept, dataset, TrainingConfig(optimizer=optimizer)).suggestion
    config = TrainingConfig(epochs=10, optimizer={"name": optimizer, "learning_rate": rate})
    history = fit(swept, dataset, config).history
    assert history[-1].train_loss < 0.3 * history[0].train_loss or history[-1].test_accuracy > 0.9


def test_the_suggestion_is_a_third_of_the_rate_with_the_lowest_smoothed_loss():
    found = find_learning_rate(network(), blobs(), TrainingConfig(batch_size=16))
    lowest = found.rates[np.argmin(found.smoothed)]
    assert lowest > 1e-5
    assert found.suggestion == float(f"{lowest * SAFE:.1e}")


def test_below_a_rate_that_changes_anything_a_low_loss_is_chance():
    rates = np.geomspace(LOWEST, HIGHEST, 64)
    losses = np.array([2.0] * 2 + [0.0] * 5 + [2.0] * 3 + VALLEY[10:])
    found = lr_finder._judged(rates, losses, False)
    assert found.suggestion == pytest.approx(0.1 * SAFE, rel=0.05)


def test_a_fall_of_less_than_a_tenth_is_chance():
    rates = np.geomspace(LOWEST, HIGHEST, 64)
    for depth, judged in ((0.12, True), (0.08, False)):
        losses = 1 - depth * np.exp(-np.square(np.log10(rates) + 1))
        assert (lr_finder._judged(rates, losses, False).suggestion is not None) == judged


def test_a_single_batch_of_few_rows_is_enough():
    dataset = blobs(rows=9)
    found = find_learning_rate(network(), dataset, TrainingConfig(optimizer="sgd"))
    assert 1e-3 < found.suggestion < 10


def test_what_has_been_learnt_gives_no_suggestion():
    dataset = line()
    net = Network([2, 1], loss="mean_squared_error", seed=3)
    net.set_weights({"layer1.weight": np.full((1, 2), 0.5**0.5, np.float32), "layer1.bias": np.zeros(1, np.float32)})
    found = find_learning_rate(net, dataset, TrainingConfig(optimizer=SGD(clip_norm=1e-12)))
    assert found.suggestion is None
    assert "learnt already" in found.reason


@pytest.mark.parametrize("weight", [np.inf, np.nan])
def test_a_loss_that_is_lost_from_the_start_gives_no_suggestion(weight):
    dataset = line()
    net = Network([2, 1], loss="mean_squared_error", seed=3)
    net.set_weights({**net.weights(), "layer1.bias": np.full(1, weight, np.float32)})
    before = bits(net)
    with np.errstate(all="raise"):  # NumPy's own warnings are off meanwhile
        found = find_learning_rate(net, dataset, TrainingConfig(optimizer="sgd"))
    assert found.diverged
    assert found.suggestion is None
    assert len(found.rates) == len(found.smoothed) == 0
    assert "no finite number" in found.reason
    assert bits(net) == before


def test_a_network_that_does_not_fit_the_data_is_refused():
    with pytest.raises(ArgumentError) as caught:
        find_learning_rate(Network([5, 3]), blobs())
    assert caught.value.argument == "sizes"


# --- the plot ---------------------------------------------------------------------------------------------------------


def sweep(losses, **options):
    rates = np.geomspace(LOWEST, HIGHEST, 64)[: len(losses)]
    losses = np.array(losses)
    best = int(np.argmin(losses)) if len(losses) else None
    return RateSweep(rates, losses, losses, **{"diverged": False, "best": best, **options})


def shown(found, width=100):
    console = PlainConsole(file=io.StringIO(), width=width)
    rate_display.show(console, found, "gpubp train --data 'my data.csv'")
    return console.file.getvalue()


VALLEY = [2.0] * 28 + [2.0 - 0.1 * step for step in range(1, 19)] + [0.2 + 0.1 * step for step in range(1, 19)]
"""64 losses, one a column of the wide plot: flat, down to 0.2 at the rate 10^-1, and up to 2 again."""


def test_the_plot_shows_each_loss_over_its_rate():
    lines = [line.plain for line in rate_display.plot(sweep(VALLEY), 100)]
    rows = lines[1:-2]
    assert len(rows) == 12
    assert [row[:6].strip() for row in rows if row[7] == "┤"] == ["2", "1.18", "0.2"]
    columns = list(zip(*(row[8:] for row in rows), strict=True))
    assert len(columns) == 64
    for column, loss in zip(columns, VALLEY, strict=True):
        assert column.index("•") == round((2 - loss) / 1.8 * 11)
    # the suggestion, 0.033, is a line down at log10(0.033 / 1e-6) of 7 decades of 9 columns
    assert [number for number, column in enumerate(columns) if "│" in column] == [41]
    assert lines[-2][8 + 45] == "┬"
    assert lines[-1][8 + 44 : 8 + 47] == "0.1"


def test_a_narrow_terminal_gets_a_narrow_plot():
    lines = [line.plain for line in rate_display.plot(sweep(VALLEY), 60)]
    assert max(map(len, lines)) < 60
    assert sum("•" in column for column in zip(*(line[8:].ljust(40) for line in lines[1:-2]), strict=True)) == 29


def test_what_diverges_is_cut_off_above():
    text = shown(sweep([*VALLEY[:50], 1e6], diverged=True))
    assert "1e+06" not in text
    assert "51 steps, then the loss diverged; nothing is kept of them" in text


def test_the_lines_below_say_the_rate_and_the_command():
    text = shown(sweep(VALLEY))
    assert "64 steps, then the rate reached 10; nothing is kept of them" in text
    assert "suggested rate: 0.033 (the vertical line), a third of 0.1, where the loss is lowest" in text
    assert text.endswith("train with: gpubp train --data 'my data.csv' --lr 0.033\n")


def test_without_a_suggestion_the_reason_stands_there():
    text = shown(sweep([1.0] * 64, best=None, reason="nothing fell"))
    assert "no rate can be suggested: nothing fell" in text
    assert "•" in text
    assert "--lr" not in text
    text = shown(sweep([], best=None, diverged=True, reason="it is lost"))
    assert text.splitlines()[0] == "0 steps, then the loss diverged; nothing is kept of them"
    assert "no rate can be suggested: it is lost" in text
