"""`gpubp train`: what it writes and says."""

import tomllib
from pathlib import Path

import pytest
from command_line import FAST, contents, history

from gpubp.training import folder as runs
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
    assert config["settings"]["backend"] == "numpy"
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
    )  # fmt: skip
    with open("run/config.toml", "rb") as file:
        resolved = tomllib.load(file)["resolved"]
    network = Model.load("run").network
    assert network.sizes == (64, 12, 8, 10)
    assert [each.name for each in network.activations[1:]] == ["tanh", "leaky_relu", "sigmoid"]
    assert network.loss.config() == {"name": "half_squared_error", "reduction": "sum"}
    assert (network.initializer.name, network.bias, network.dtype, network.seed) == ("orthogonal", False, "float64", 4)
    optimizer = resolved["optimizer"]
    assert {name: optimizer[name] for name in ("name", "learning_rate", "weight_decay", "clip_norm", "clip_value")} == {
        "name": "adamw", "learning_rate": 0.002, "weight_decay": 0.1, "clip_norm": 1.0, "clip_value": 0.5,
    }  # fmt: skip
    batches = -(-resolved["training_examples"] // 100)
    assert optimizer["schedule"]["steps"] == batches // 2
    assert optimizer["schedule"]["then"] == {"name": "step", "every": batches, "factor": 0.5}
    assert resolved["validation_examples"] == pytest.approx(0.25 * resolved["training_examples"], abs=1)


def test_a_network_without_a_hidden_layer(gpubp):
    gpubp("train", "--out", "run", "--layers", "none", "--epochs", "1")
    assert Model.load("run").network.sizes == (64, 10)


def test_a_diverged_run_says_so_and_fails(gpubp):
    result = gpubp("train", "--out", "run", *FAST, "--optimizer", "sgd", "--lr", "1e30", code=1)
    assert "warning: " in result.stderr
    assert "lower the learning rate" in result.stderr
    assert "diverged" in result.stdout
