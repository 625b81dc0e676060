"""`gpubp train`: what it writes and says."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
from command_line import FAST, contents, history, write_csv

from gpubp.training import folder as runs
from gpubp.training.checkpoint import Checkpoint
from gpubp.training.model import Model


def test_a_run_leaves_its_files_in_its_folder(gpubp):
    output = gpubp("train", "--out", "runs/first", *FAST)
    assert sorted(contents()) == sorted(["runs", "runs/first", *(f"runs/first/{name}" for name in runs.FILES)])
    assert output.stderr == ""
    assert "runs/first" in output.stdout
    rows = history("runs/first")
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert "gradient_norm_2" in rows[0]
    with open("runs/first/config.toml", "rb") as file:
        config = tomllib.load(file)
    assert config["settings"]["layers"] == "16"
    assert config["settings"]["backend"] == "cpu"
    assert config["resolved"]["sizes"] == [64, 16, 10]
    assert Path("runs/first/curves.png").read_bytes() == b"curves"
    model = Model.load("runs/first")
    assert model.class_names == tuple("0123456789")
    assert float(rows[1]["train_loss"]) < float(rows[0]["train_loss"])


def test_a_run_draws_its_curves(trained):
    assert (trained / "curves.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert (trained / "curves.png").stat().st_size > 10_000


def test_without_a_terminal_there_is_a_plain_line_an_epoch(gpubp):
    lines = gpubp("train", *FAST).stdout.splitlines()
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert [line.split()[1] for line in epochs] == ["1/2", "2/2"]
    assert all("loss" in line and "test accuracy" in line and "examples/s" in line for line in epochs)
    assert not any("\x1b" in line or "\r" in line for line in lines)


def test_the_defaults_reach_97_percent(gpubp):
    gpubp("train", "--out", "run")
    rows = history("run")
    assert float(rows[-1]["test_accuracy"]) >= 0.97


def test_the_default_folder_is_new_each_time(gpubp, monkeypatch):
    class Frozen(runs.datetime):
        @classmethod
        def now(cls):
            return cls(2030, 1, 2, 3, 4, 5)

    monkeypatch.setattr(runs, "datetime", Frozen)
    for _ in range(3):
        gpubp("train", *FAST)
    folders = [name for name in contents() if name.count("/") == 1]
    assert folders == [f"runs/digits-20300102-030405{suffix}" for suffix in ("", "-2", "-3")]


def test_a_run_can_be_repeated_from_its_configuration(gpubp):
    gpubp("train", "--out", "first", *FAST, "--activation", "tanh", "--seed", "7", "--optimizer", "nesterov")
    gpubp("train", "--out", "second", "--config", "first/config.toml")
    assert Path("first/history.csv").read_text() == Path("second/history.csv").read_text()
    gpubp("train", "--out", "third", "--config", "first/config.toml", "--epochs", "1")
    assert Path("third/history.csv").read_text().count("\n") == 2


def test_every_option_reaches_the_run(gpubp):
    gpubp(
        "train", "--out", "run", "--data", "digits", "--task", "classification", "--layers", "12,8",
        "--activation", "tanh,Leaky-ReLU", "--output-activation", "sigmoid", "--loss", "half-squared-error",
        "--reduction", "sum", "--initializer", "orthogonal", "--no-bias", "--dtype", "float64", "--optimizer", "adamw",
        "--lr", "0.002", "--weight-decay", "0.1", "--clip-norm", "1", "--clip-value", "0.5", "--schedule", "step",
        "--decay", "0.5", "--decay-epochs", "1", "--warmup", "0.5", "--epochs", "2", "--batch-size", "100",
        "--validation", "0.2", "--patience", "3", "--seed", "4", "--backend", "numpy", "--device", "cpu",
        "--accumulate", "2", "--monitor", "accuracy", "--dropout", "0.1,0.3", "--l1", "0.001", "--l2", "0.002",
        "--decoupled",
    )  # fmt: skip
    with open("run/config.toml", "rb") as file:
        config = tomllib.load(file)
    settings, resolved = config["settings"], config["resolved"]
    training = Checkpoint.read("run").training
    assert (training["accumulate"], training["monitor"]) == (2, "accuracy")
    assert (settings["accumulate"], settings["monitor"], settings["dropout"]) == (2, "accuracy", "0.1,0.3")
    network = Model.load("run").network
    assert network.sizes == (64, 12, 8, 10)
    assert [each.name for each in network.activations[1:]] == ["tanh", "leaky_relu", "sigmoid"]
    assert network.loss.config() == {"name": "half_squared_error", "reduction": "sum"}
    assert (network.initializer.name, network.bias, network.dtype, network.seed) == ("orthogonal", False, "float64", 4)
    assert network.dropout == (0.1, 0.3)
    optimizer = resolved["optimizer"]
    expected = {
        "name": "adamw", "learning_rate": 0.002, "weight_decay": 0.1, "clip_norm": 1.0, "clip_value": 0.5,
        "l1": 0.001, "l2": 0.002, "decoupled": True,
    }  # fmt: skip
    assert {name: optimizer[name] for name in expected} == expected
    batches = -(-resolved["training_examples"] // 200)
    assert optimizer["schedule"]["steps"] == batches // 2
    assert optimizer["schedule"]["then"] == {"name": "step", "every": batches, "factor": 0.5}
    assert resolved["validation_examples"] == pytest.approx(0.25 * resolved["training_examples"], abs=1)


def test_the_epoch_of_the_best_accuracy_can_be_the_one_that_is_kept(gpubp):
    training = ("--epochs", "90", "--layers", "16", "--optimizer", "sgd", "--schedule", "constant", "--patience", "3")
    shown = gpubp("train", "--out", "run", *training, "--monitor", "accuracy").stdout
    rows = history("run")
    merits = [(float(row["validation_accuracy"]), -float(row["validation_loss"])) for row in rows]
    best = merits.index(max(merits)) + 1
    assert best == len(rows) - 3
    assert f"stopped early; the weights are those of epoch {best}" in shown
    judged = gpubp("evaluate", "run").stdout
    assert f"{100 * float(rows[best - 1]['test_accuracy']):.2f} %" in judged


@pytest.mark.parametrize(
    ("options", "loss"),
    [
        (["--label-smoothing", "0.1"], {"name": "softmax_cross_entropy", "reduction": "mean", "label_smoothing": 0.1}),
        (
            ["--loss", "softmax-focal-cross-entropy", "--gamma", "1.5"],
            {"name": "softmax_focal_cross_entropy", "reduction": "mean", "gamma": 1.5},
        ),
        (
            ["--loss", "binary_focal_cross_entropy", "--gamma", "0"],
            {"name": "binary_focal_cross_entropy", "reduction": "mean", "gamma": 0.0},
        ),
        (["--loss", "quantile", "--quantile", "0.9"], {"name": "quantile", "reduction": "mean", "quantile": 0.9}),
    ],
)
def test_a_loss_takes_the_number_that_is_given(gpubp, options, loss):
    gpubp("train", "--out", "run", *FAST, *options)
    assert Model.load("run").network.loss.config() == loss
    gpubp("train", "--out", "again", "--config", "run/config.toml")
    assert Model.load("again").network.loss.config() == loss


def test_a_quantile_is_learnt(gpubp):
    """Nine of ten values lie below what a network for the quantile 0.9 gives, which knows nothing else of them."""
    values = np.random.default_rng(0).normal(size=(800, 2))
    write_csv("noise.csv", ["a", "y"], values.tolist())
    training = ("--loss", "quantile", "--layers", "none", "--epochs", "40", "--lr", "0.01", "--schedule", "constant")
    gpubp("train", "--out", "run", "--data", "noise.csv", "--task", "regression", *training, "--quantile", "0.9")
    predicted = Model.load("run").predict(values[:, :1])[:, 0]
    assert np.mean(values[:, 1] < predicted) == pytest.approx(0.9, abs=0.05)


def test_settings_that_are_not_given_are_not_saved(gpubp):
    """So that the files of a run without them are those of earlier versions."""
    gpubp("train", "--out", "run", *FAST)
    with open("run/config.toml", "rb") as file:
        config = tomllib.load(file)
    new = {"monitor", "accumulate", "dropout", "label_smoothing", "gamma", "quantile", "l1", "l2", "decoupled"}
    new.add("stream")
    assert not new & set(config["settings"])
    assert not new & set(config["resolved"]["optimizer"])
    checkpoint = Checkpoint.read("run")
    for saved in (checkpoint.settings, checkpoint.training, checkpoint.network, checkpoint.training["optimizer"]):
        assert not new & set(saved)


def test_accumulated_batches_are_shown_and_are_one_step(gpubp):
    text = gpubp("train", "--out", "run", "--layers", "16", "--epochs", "1", "--batch-size", "50", "--accumulate", "4")
    assert "batches of 4 × 50" in text.stdout
    assert history("run")[0]["steps"] == "8"  # of 1,438 examples, 200 a step


def test_dropout_is_for_training_alone(gpubp):
    """What the history says of the test part is what `evaluate` finds."""
    gpubp("train", "--out", "run", *FAST, "--layers", "16,8", "--dropout", "0.5")
    assert Model.load("run").network.dropout == (0.5, 0.5)
    judged = gpubp("evaluate", "run").stdout
    assert judged == gpubp("evaluate", "run").stdout
    assert f"{100 * float(history('run')[-1]['test_accuracy']):.2f} %" in judged


def test_a_network_without_a_hidden_layer(gpubp):
    gpubp("train", "--out", "run", "--layers", "none", "--epochs", "1")
    assert Model.load("run").network.sizes == (64, 10)


def test_a_diverged_run_says_so_and_fails(gpubp):
    result = gpubp("train", "--out", "run", *FAST, "--optimizer", "sgd", "--lr", "1e30", code=1)
    assert "warning: " in result.stderr
    assert "lower the learning rate" in result.stderr
    assert "diverged" in result.stdout
