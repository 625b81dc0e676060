"""What `gpubp train` says to what is wrong."""

import errno
import os
import shutil

import numpy as np
import pytest
from command_line import (
    FAST,
    contents,
    write_csv,
)

from gpubp.training import folder as runs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--activation", "rleu"], ["--activation was 'rleu'", "did you mean 'relu'?"]),
        (["--activation", "relu,tanh,relu"], "--activation names 3; it must name one, or 2: one a hidden layer"),
        (["--activation", "softmax"], "--activation was 'softmax'"),
        (["--loss", "cross_entropy"], ["--loss was 'cross_entropy'", "did you mean"]),
        (["--loss", "softmax_cross_entropy", "--output-activation", "relu"], "--output-activation was 'relu'"),
        (["--reduction", "men"], ["--reduction was 'men'", "did you mean 'mean'?"]),
        (["--initializer", "xavier"], "--initializer was 'xavier'"),
        (["--optimizer", "adma"], ["--optimizer was 'adma'", "did you mean 'adam"]),
        (["--schedule", "cosin"], ["--schedule was 'cosin'", "did you mean 'cosine'?"]),
        (["--backend", "cudapy"], "--backend was 'cudapy'"),
        (["--device", "gpu", "--backend", "numpy"], "--device was 'gpu'"),
        (["--dtype", "float16"], "--dtype was 'float16'"),
        (["--precision", "bf61"], ["--precision was 'bf61'", "did you mean 'bf16'?"]),
        (["--precision", "bf16", "--dtype", "float64"], ["--precision was 'bf16'", "left out with dtype 'float64'"]),
        (["--task", "regresion"], ["--task was 'regresion'", "did you mean 'regression'?"]),
        (["--layers", "128,x"], "--layers was '128,x'"),
        (["--layers", "128,,64"], "--layers was"),
        (["--layers", "0"], "--layers was '0'; it must be the widths"),
        (["--layers=-5"], "--layers was '-5'"),
        (["--lr", "0"], "--lr was 0.0; it must be a finite number > 0"),
        (["--lr", "-0.1"], "--lr was -0.1"),
        (["--lr", "nan"], "--lr was nan"),
        (["--lr", "inf"], "--lr was inf"),
        (["--momentum", "0.9"], ["--momentum was 0.9", "--optimizer momentum"]),
        (["--momentum", "1.5", "--optimizer", "momentum"], "--momentum was 1.5"),
        (["--weight-decay", "-1"], "--weight-decay was -1"),
        (["--clip-norm", "0"], "--clip-norm was 0"),
        (["--clip-value", "-1"], "--clip-value was -1"),
        (["--l1", "-1"], "--l1 was -1"),
        (["--l2", "nan"], "--l2 was nan"),
        (["--decoupled"], "--decoupled was True; it must be left out without l1 and l2"),
        (["--dropout", "1"], "--dropout was 1.0; it must be a finite number ≥ 0 and < 1"),
        (["--dropout=-0.1"], "--dropout was -0.1"),
        (["--dropout", "0.1,x"], "--dropout was '0.1,x'; it must be one share of a layer's units, such as 0.2, or"),
        (["--dropout", "nan"], "--dropout was nan"),
        (["--dropout", "0.1,0.2,0.3"], "--dropout has 3 rates; it must have one, or 2: one a hidden layer"),
        (["--dropout", "0.2", "--layers", "none"], "--dropout was '0.2'; it must be left out without hidden layers"),
        (["--label-smoothing", "1"], "--label-smoothing was 1.0; it must be a finite number ≥ 0 and < 1"),
        (
            ["--label-smoothing", "0.1", "--loss", "Huber"],
            "--label-smoothing was 0.1; it must be left out with loss 'huber'; take --loss softmax_cross_entropy",
        ),
        (["--gamma", "-1", "--loss", "softmax_focal_cross_entropy"], "--gamma was -1"),
        (
            ["--gamma", "2"],
            [
                "--gamma was 2.0; it must be left out with loss 'softmax_cross_entropy'",
                "take --loss binary_focal_cross_entropy or softmax_focal_cross_entropy",
            ],
        ),
        (["--quantile", "0", "--loss", "quantile"], "--quantile was 0.0; it must be a finite number > 0 and < 1"),
        (["--quantile", "0.5"], ["--quantile was 0.5", "take --loss quantile"]),
        (["--quantile", "0.5", "--loss", "quantil"], ["--loss was 'quantil'", "did you mean 'quantile'?"]),
        (["--warmup", "-1"], "--warmup was -1"),
        (["--decay", "2", "--schedule", "step"], "--decay was 2"),
        (["--epochs", "0"], "--epochs was 0"),
        (["--batch-size", "0"], "--batch-size was 0"),
        (["--batch-size", "-3"], "--batch-size was -3"),
        (["--accumulate", "0"], "--accumulate was 0"),
        (["--validation", "1"], "--validation was 1"),
        (["--patience", "0"], "--patience was 0"),
        (["--patience", "2", "--monitor", "acuracy"], ["--monitor was 'acuracy'", "did you mean 'accuracy'?"]),
        (["--monitor", "accuracy"], ["--monitor was 'accuracy'; it must be left out", "--patience or --validation"]),
        (["--seed", "-1"], "--seed was -1"),
        (["--test-fraction", "1"], "--test-fraction was 1"),
        (["--data", "digit"], ["'digit'", "did you mean 'digits'?"]),
        (["--data", "missing.csv"], "missing.csv"),
        (["--label", "y"], "--label was 'y'"),
        (["--config", "missing.toml"], "cannot read missing.toml"),
    ],
)
def test_a_wrong_option_is_named_and_nothing_is_written(refused, options, message):
    refused("train", "--out", "run", *options, message=message)


def test_a_named_backend_that_cannot_run_is_an_error_and_never_another_one(refused, monkeypatch):
    from gpubp.errors import BackendError

    def get(name, device=None):
        raise BackendError(f"backend {name!r} needs a GPU")

    monkeypatch.setattr("gpubp.backends.get", get)
    refused("train", "--backend", "cupy", message="backend 'cupy' needs a GPU")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--epochs", "many"], "'--epochs'"),
        (["--lr", "fast"], "'--lr'"),
        (["--epoch", "3"], "--epochs"),
        (["extra"], "extra"),
    ],
)
def test_what_is_no_option_or_no_number(gpubp, arguments, words):
    result = gpubp("train", *arguments, code=2)
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert contents() == {}


def test_an_unknown_verb(gpubp):
    assert "trian" in gpubp("trian", code=2).stderr


@pytest.mark.parametrize("make", ["a file", "a folder with a file", "below a file", "no such device"])
def test_an_output_folder_that_cannot_be_used(refused, tmp_path, make):
    (tmp_path / "taken").write_text("precious")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("precious")
    out, message = {
        "a file": ("taken", "--out was 'taken'; it must be a new or an empty folder"),
        "a folder with a file": ("full", ["--out was 'full'", "--resume"]),
        "below a file": ("taken/run", "taken/run"),
        "no such device": ("/proc/nothing/run", "/proc/nothing"),
    }[make]
    refused("train", "--out", out, *FAST, message=message)


def test_an_output_folder_is_looked_at_before_the_data(refused, tmp_path):
    (tmp_path / "file").write_text("precious")
    for out, message in (("file/run", "file is none"), ("/proc/run", "can be written"), ("a" * 300, "too long")):
        refused("train", "--out", out, "--data", "missing.csv", message=["--out was", message])


def test_a_run_that_cannot_be_written_is_refused_before_its_data_is_read(refused, trained, tmp_path, monkeypatch):
    def full(**options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    shutil.copytree(trained, tmp_path / "run")
    monkeypatch.setattr(runs, "load_data", lambda settings: pytest.fail("it was read"))
    monkeypatch.setattr("tempfile.TemporaryFile", full)
    message = "--resume was 'run'; it must be in a folder that can be written (Read-only file system)"
    refused("train", "--resume", "run", "--epochs", "3", message=message)


def test_names_that_are_too_long(refused):
    name = "a" * 300
    refused("train", "--data", name, message="no data set and no file")
    refused("train", "--out", name, message="File name too long")
    refused("train", "--resume", name, message="no run to resume")
    refused("evaluate", name, message="File name too long")
    refused("predict", name, "--data", "digits", "--out", "p.csv", message="File name too long")


def test_an_accuracy_that_is_none(refused):
    np.savez("line.npz", x=np.arange(60.0)[:, None], y=np.arange(60) / 7)
    message = ["--monitor was 'accuracy'; it must be loss: ", "line.npz is regression, which has no accuracy"]
    refused("train", "--data", "line.npz", "--patience", "2", "--monitor", "accuracy", message=message)


def test_a_network_that_fits_into_no_memory(refused):
    refused(
        "train",
        "--layers",
        "100000000,100000000",
        message="--layers would take 37,252,931 GiB of weights; it must fit into memory",
    )


def test_an_empty_folder_can_be_used(gpubp, tmp_path):
    (tmp_path / "run").mkdir()
    gpubp("train", "--out", "run", *FAST)


def test_a_configuration_that_is_no_table(refused, tmp_path):
    (tmp_path / "config.toml").write_text("settings = 3")
    refused("train", "--config", "config.toml", message=["settings in config.toml was 3", "a table"])


def test_a_configuration_with_a_setting_that_is_none(refused, tmp_path):
    (tmp_path / "c.toml").write_text("[settings]\nepoch = 3\n")
    refused("train", "--config", "c.toml", message=["c.toml", "'epoch'", "did you mean 'epochs'?"])
    (tmp_path / "c.toml").write_text("[settings\n")
    refused("train", "--config", "c.toml", message="cannot read c.toml")
    (tmp_path / "c.toml").write_text('[settings]\nepochs = "many"\n')
    refused("train", "--config", "c.toml", message=["epochs in c.toml was", "of type int"])
    (tmp_path / "c.toml").write_text("[settings]\nlayers = 64\n")
    refused("train", "--config", "c.toml", message="layers in c.toml was 64; it must be of type str")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["1", "nan", "left"], ["1", "2", "right"]], ["line 2", "'nan'"]),
        ([["1", "inf", "left"], ["1", "2", "right"]], "line 2"),
        ([["1", "", "left"], ["1", "2", "right"]], "line 2"),
        ([["1", "2"], ["1", "2", "right"]], "line 2"),
        ([["1", "two", "left"], ["1", "2", "right"]], "'two'"),
        ([], "no"),
    ],
)
def test_a_table_that_cannot_be_used(refused, rows, message):
    write_csv("points.csv", ["a", "b", "side"], rows)
    refused("train", "--data", "points.csv", message=message)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.full((20, 2), np.nan), "y": np.arange(20) % 2}, "NaN"),
        ({"x": np.ones((20, 2)), "y": np.arange(19) % 2}, "19"),
        ({"x": np.ones((0, 2)), "y": np.arange(0)}, "no"),
        ({"x": np.ones((20, 2))}, "y"),
        ({"x": np.ones((20, 2)), "y": np.array([np.nan] * 20)}, "NaN"),
    ],
)
def test_arrays_that_cannot_be_used(refused, arrays, message):
    np.savez("data.npz", **arrays)
    refused("train", "--data", "data.npz", message=message)
