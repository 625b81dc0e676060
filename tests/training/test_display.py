import io
from pathlib import Path

import numpy as np
import pytest

from gpubp import Network
from gpubp.data.dataset import Dataset
from gpubp.nn.optimizers import SGD
from gpubp.terminal import PlainConsole
from gpubp.training import display
from gpubp.training.config import TrainingConfig
from gpubp.training.display import LiveDisplay, PlainDisplay, display_for
from gpubp.training.loop import fit


def dataset(task="classification"):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3))
    if task == "regression":
        return Dataset(x[20:], x[20:, :1], x[:20], x[:20, :1], task=task, name="line")
    y = (x.sum(axis=1) > 0).astype(int)
    return Dataset(x[20:], y[20:], x[:20], y[:20], class_names=("[low]", "high"), name="sums")


def console(terminal=False, width=120):
    return PlainConsole(file=io.StringIO(), force_terminal=terminal, width=width, height=50)


def train(shown, task="classification", **settings):
    """Train with a display; returns what it wrote."""
    data = dataset(task)
    loss = "softmax_cross_entropy" if task == "classification" else "mean_squared_error"
    network = Network([3, 8, data.outputs], loss=loss, seed=0)
    with shown:
        result = fit(network, data, TrainingConfig(**{"epochs": 3, "batch_size": 8, **settings}), listener=shown)
    shown.finished(result, Path("runs/here"))
    return shown.console.file.getvalue(), result


def test_a_terminal_gets_the_live_display_and_anything_else_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(display_for(console(terminal=True)), LiveDisplay)
    assert isinstance(display_for(console()), PlainDisplay)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(display_for(console(terminal=True)), PlainDisplay)


def test_plain_lines_say_what_the_history_says():
    text, result = train(PlainDisplay(console()))
    lines = [line for line in text.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 3
    for line, row in zip(lines, result.history, strict=True):
        assert f"epoch {row.epoch}/3" in line
        assert f"loss {row.train_loss:.4f}" in line
        assert f"test accuracy {100 * row.test_accuracy:.2f} %" in line
    assert "3 → 8 → 2, relu" in text
    assert "runs/here" in text


def test_plain_lines_stay_in_one_line_however_narrow_the_log():
    text, _ = train(PlainDisplay(console(width=40)))
    assert sum(line.startswith("epoch ") for line in text.splitlines()) == 3
    assert sum("examples/s" in line for line in text.splitlines()) == 3


def test_the_live_display_shows_bar_loss_accuracy_speed_and_time(monkeypatch):
    monkeypatch.setattr(display, "REFRESH", 0.0)
    text, result = train(LiveDisplay(console(terminal=True)))
    for part in ("epoch 3/3", "━", "100 %", "loss", "examples/s", "left"):
        assert part in text
    assert f"test accuracy {result.row.test_accuracy:.2%}" in text
    for row in result.history:
        assert f"{row.test_loss:.4f}" in text


@pytest.mark.parametrize(
    ("width", "parts"),
    [
        (120, ["loss", "accuracy", "examples/s", "left", "norms"]),
        (80, ["loss", "examples/s", "left"]),
        (60, ["loss", "left"]),
        (40, ["loss"]),
    ],
)
def test_a_narrow_terminal_gets_fewer_numbers_and_none_of_them_cut(monkeypatch, width, parts):
    monkeypatch.setattr(display, "REFRESH", 0.0)
    text, result = train(LiveDisplay(console(terminal=True, width=width)), validation=0.2)
    last = text[text.rindex("epoch 3/3") - 20 * width :]
    assert "epoch 3/3" in last
    assert "━" in last
    assert all(part in last for part in parts)
    for row in result.history:
        assert f"{row.train_loss:.4f}" in last
        assert ("examples/s" in last) == ("examples/s" in parts)
        norms = f"{row.gradient_norms[0]:.1e} … {row.gradient_norms[-1]:.1e}"
        assert (norms in last) == ("norms" in parts)
    assert "…" not in last.replace(" … ", "")


def test_the_live_display_looks_at_the_loss_a_few_times_a_second_only():
    shown = LiveDisplay(console(terminal=True))
    looks = []
    real = shown._show
    shown._show = lambda run: (looks.append(run.batch), real(run))
    train(shown, epochs=5, batch_size=1)  # 200 batches
    assert len(looks) < 100


def test_the_live_display_keeps_a_window_of_epochs():
    text, _ = train(LiveDisplay(console(terminal=True)), epochs=display.EPOCHS_SHOWN + 5)
    last = text[text.rindex("gradient norms") :]
    assert "   15 " in last
    assert "    5 " not in last


@pytest.mark.parametrize("kind", [PlainDisplay, LiveDisplay])
def test_values_have_no_accuracy(kind):
    text, _ = train(kind(console(terminal=kind is LiveDisplay)), task="regression")
    assert "test loss" in text
    assert "accuracy" not in text


@pytest.mark.parametrize("kind", [PlainDisplay, LiveDisplay])
def test_warnings_are_shown_once(kind, capsys):
    shown = kind(console(terminal=kind is LiveDisplay))
    text, _ = train(shown, optimizer=SGD(learning_rate=1e30))
    text += capsys.readouterr().err
    assert text.count("warning:") == 1
    assert "then training diverged" in text


def test_the_table_says_whose_weights_the_model_has():
    text, result = train(PlainDisplay(console()), epochs=300, patience=2, optimizer=SGD(learning_rate=0.5))
    assert result.stopped_early
    assert f"stopped early; the weights are those of epoch {result.best_epoch}" in text


def test_an_evaluation_shows_each_class_by_name():
    _, result = train(PlainDisplay(console()), epochs=30)
    data, out = dataset(), console()
    out.print(display.evaluation_table(result.model, "sums", data.x_test, data.y_test))
    text = out.file.getvalue()
    predicted = result.model.predict(data.x_test)
    assert f"{int((predicted == data.y_test).sum())} right" in text
    low = next(line for line in text.splitlines() if "[low]" in line)  # not taken for markup
    is_low, called_low = data.y_test == 0, predicted == 0
    assert low.split()[1] == str(is_low.sum())
    assert f"{100 * (is_low & called_low).sum() / is_low.sum():.2f} %" in low
    assert f"{100 * (is_low & called_low).sum() / called_low.sum():.2f} %" in low


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (60, "1:00 min"),
        (3599, "59:59 min"),
        (7265, "2:01:05"),
    ],
)
def test_durations(seconds, text):
    assert display._duration(seconds) == text
