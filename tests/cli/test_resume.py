"""`gpubp train --resume`, and what signals leave behind."""

import errno
import os
import re
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from command_line import (
    FAST,
    history,
    judged,
    table,
    write_csv,
    write_idx_set,
)

from gpubp.backends.numpy_backend import NumpyBackend
from gpubp.training import folder as runs
from gpubp.training.model import Model


def test_resume_goes_on_for_more_epochs(gpubp):
    options = ("--layers", "16", "--batch-size", "64", "--schedule", "constant")
    gpubp("train", "--out", "part", *options, "--epochs", "2")
    result = gpubp("train", "--resume", "part", "--epochs", "4")
    assert "resumed after epoch 2 of 4" in result.stdout
    gpubp("train", "--out", "whole", *options, "--epochs", "4")
    assert Path("part/history.csv").read_text() == Path("whole/history.csv").read_text()
    assert Model.load("part").network.weights().keys() == Model.load("whole").network.weights().keys()
    for name, weight in Model.load("part").network.weights().items():
        np.testing.assert_array_equal(weight, Model.load("whole").network.weights()[name])


def _execution():
    return tomllib.loads(Path("run/config.toml").read_text())["execution"]


def test_what_the_bits_depend_on_is_kept_with_the_run(gpubp, monkeypatch):
    """Of each part of a run that another chip, or other plans, computed: where it begins, and what that was."""
    first, second = {"arch": "sm_90", "plan_table": "a"}, {"arch": "sm_90", "plan_table": "b", "tuned_plans": "c"}
    cpu = {"backend": "numpy", "device": "cpu"}
    for found, epochs in ((first, 1), (first, 2), (second, 3)):
        monkeypatch.setattr(NumpyBackend, "provenance", property(lambda self, found=found: found))
        run = ("--resume", "run") if epochs > 1 else ("--out", "run", *FAST, "--backend", "numpy")
        gpubp("train", *run, "--epochs", str(epochs))
        if found == first:
            assert _execution() == {"from_epoch": 0, **cpu, **first}
    assert _execution() == {"from_epoch": 2, **cpu, **second, "earlier": [{"from_epoch": 0, **cpu, **first}]}
    gpubp("train", "--out", "again", "--config", "run/config.toml", "--epochs", "1")  # a table that settings know


def test_a_run_of_an_earlier_version_says_what_goes_on_with_it(gpubp):
    gpubp("train", "--out", "run", *FAST, "--epochs", "1", "--backend", "numpy")
    text = Path("run/config.toml").read_text()
    Path("run/config.toml").write_text(re.sub(r"\[execution\][^\[]*", "", text))
    gpubp("train", "--resume", "run", "--epochs", "2")
    assert _execution() == {"from_epoch": 1, "backend": "numpy", "device": "cpu"}


@pytest.mark.slow
def test_a_run_in_mixed_precision_is_resumed_and_judged_in_it(gpubp, refused):
    options = ("--layers", "16", "--batch-size", "64", "--precision", "FP16", "--backend", "numpy", "--lr", "0.01")
    assert "numpy on cpu, fp16" in gpubp("train", "--out", "run", *options, "--epochs", "1").stdout
    gpubp("train", "--resume", "run", "--epochs", "3", "--reschedule", "--precision", "float16")
    refused("train", "--resume", "run", "--precision", "bf16", message=["--precision was 'bf16'", "'FP16'"])
    network = Model.load("run", "numpy").network
    assert network.precision_name == "fp16"
    assert network.weights()["layer1.weight"].dtype == np.float32
    accuracy = float(history("run")[-1]["test_accuracy"])
    assert accuracy > 0.85
    assert f"{accuracy:.2%}"[:4] in gpubp("evaluate", "run", "--backend", "numpy").stdout
    emulated = ("--backend", "numba", "--device", "emulator")
    refused(
        "evaluate",
        "run",
        *emulated,
        message=["--backend is 'numba' on device 'emulator'", "'numba'", "computes in fp16"],
    )
    refused("train", "--precision", "bf16", "--out", "other", *emulated, message=["--precision was 'bf16'", "'cupy'"])


def test_which_schedule_a_longer_run_has_is_said_before_it(gpubp):
    options = ("--layers", "8", "--batch-size", "500")
    gpubp("train", "--out", "run", *options, "--epochs", "2")
    kept = gpubp("train", "--resume", "run", "--epochs", "3").stdout
    line = "the cosine schedule is still that of a run of 2 epochs: from then on the learning rate stays 6.7e-05"
    assert kept.index(f"{line} (--reschedule makes it anew for 3)") < kept.index("epoch 3/3")
    anew = gpubp("train", "--resume", "run", "--epochs", "6", "--reschedule").stdout
    assert anew.index("the cosine schedule is made anew, for all 6 epochs") < anew.index("epoch 4/6")
    rates = [float(row["learning_rate"]) for row in history("run")]
    assert rates[1] == rates[2] < rates[3] < rates[0]
    gpubp("train", "--out", "flat", *options, "--epochs", "1", "--schedule", "constant")
    assert "schedule" not in gpubp("train", "--resume", "flat", "--epochs", "2").stdout


def test_a_new_schedule_is_for_a_run_that_is_resumed(refused):
    refused("train", "--reschedule", message="--reschedule was given; it must be left out without --resume")


def test_a_run_with_nothing_left_to_train_says_why(gpubp):
    options = ("--layers", "8", "--batch-size", "200")
    gpubp("train", "--out", "done", *options, "--epochs", "1")
    assert "all 1 epochs are done; more come with --epochs" in gpubp("train", "--resume", "done").stdout
    # the learning rate is so small that the loss of the first epoch is the lowest
    early = ("--lr", "1e-300", "--patience", "1", "--epochs", "9")
    assert "stopped early" in gpubp("train", "--out", "early", *options, *early).stdout
    for more in ([], ["--epochs", "20"]):
        text = gpubp("train", "--resume", "early", *more).stdout
        assert "nothing is left to train: it stopped early, after 1 epochs without a lower validation loss" in text
        assert "more come with --epochs" not in text
    gpubp("train", "--out", "right", *options, *early, "--monitor", "accuracy")
    text = gpubp("train", "--resume", "right").stdout
    assert "it stopped early, after 1 epochs without a better validation accuracy (--patience)" in text
    gpubp("train", "--out", "lost", *options, "--optimizer", "sgd", "--lr", "1e30", code=1)
    for more in ([], ["--epochs", "50"]):
        text = gpubp("train", "--resume", "lost", *more, code=1).stdout
        assert "nothing is left to train: it diverged in epoch" in text
        assert "start again with --out and a lower --lr" in text


def test_resume_finds_its_data_from_another_folder(gpubp, tmp_path, monkeypatch):
    write_csv("points.csv", ["a", "b", "side"], table())
    gpubp("train", "--out", "run", "--data", "points.csv", *FAST)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    gpubp("train", "--resume", "../run", "--epochs", "3")
    gpubp("train", "--resume", "../run", "--epochs", "4", "--data", "../points.csv")


def test_resume_on_data_that_has_moved(gpubp, refused, tmp_path):
    """The fingerprint proves that it is the same; the run, its configuration and its model keep the new place."""
    write_csv("points.csv", ["a", "b", "side"], table())
    gpubp("train", "--out", "run", "--data", "points.csv", *FAST)
    Path("points.csv").rename("moved.csv")
    refused("train", "--resume", "run", "--epochs", "3", message=["points.csv", "gone", "--data names its place"])
    refused("evaluate", "run", message=["points.csv", "gone", "--data names its place"])
    assert "the test part" in " ".join(gpubp("evaluate", "run", "--data", "moved.csv").stdout.split())
    gpubp("train", "--resume", "run", "--epochs", "3", "--data", "moved.csv")
    moved = str(tmp_path / "moved.csv")
    assert Model.load("run").origin["data"] == moved
    assert tomllib.loads(Path("run/config.toml").read_text())["settings"]["data"] == moved
    gpubp("train", "--resume", "run", "--epochs", "4")
    gpubp("evaluate", "run")
    write_csv("moved.csv", ["a", "b", "side"], [*table(), *table(rows=1, seed=1)])
    refused("train", "--resume", "run", "--epochs", "5", message=["moved.csv", "other data", "--data"])
    refused("train", "--resume", "run", "--data", "moved.csv", message=["--data was 'moved.csv'", "own data"])


def test_a_moved_run_takes_the_same_values_from_another_kind_of_file(gpubp):
    """The fingerprint is of the values, and not of their dtypes."""
    x, y = np.random.default_rng(0).integers(0, 9, (60, 3)), np.arange(60) % 3
    np.savez("data.npz", x=x.astype(np.uint8), y=y)
    gpubp("train", "--out", "run", "--data", "data.npz", *FAST)
    np.savez("wide.npz", x=x.astype(np.float64), y=y.astype(np.int8))
    gpubp("train", "--resume", "run", "--epochs", "3", "--data", "wide.npz")


def test_resume_removes_what_a_killed_process_left_half_written(gpubp, tmp_path):
    gpubp("train", "--out", "run", *FAST)
    (tmp_path / "run" / ".checkpoint.safetensors.abc123").write_bytes(b"half")
    gpubp("train", "--resume", "run", "--epochs", "3")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(runs.FILES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layers", "17"], ["--layers was '17'", "'16'", "as in the run"]),
        (["--activation", "tanh"], "--activation was 'tanh'"),
        (["--seed", "1"], "--seed was 1"),
        (["--lr", "0.5"], ["--lr was 0.5", "its default"]),
        (["--data", "other.npz"], ["--data was 'other.npz'", "the run's own data, digits"]),
        (["--epochs", "1"], ["--epochs was 1", "at least 2"]),
        (["--out", "other"], "--out and --resume exclude each other; the run has its own"),
        (["--config", "config.toml"], "--config and --resume exclude each other"),
        (["--backend", "nmupy"], ["--backend was 'nmupy'", "did you mean 'numpy'?"]),
    ],
)
def test_what_cannot_change_in_a_resumed_run(refused, trained, tmp_path, options, message):
    shutil.copytree(trained, tmp_path / "run")
    np.savez(tmp_path / "other.npz", x=np.eye(40, 3), y=np.arange(40) % 2)
    refused("train", "--resume", "run", *options, message=message)


def test_resuming_what_is_no_run(refused, tmp_path):
    refused("train", "--resume", "nowhere", message="no run to resume in nowhere")
    (tmp_path / "empty").mkdir()
    refused("train", "--resume", "empty", message="holds no checkpoint.safetensors")


KILLED_STARTS = {
    "a half-written configuration": [".config.toml.k3v_9x"],
    "a configuration": ["config.toml"],
    "a configuration and a half-written checkpoint": ["config.toml", ".checkpoint.safetensors.abc12345"],
}


@pytest.mark.parametrize("left", KILLED_STARTS.values(), ids=KILLED_STARTS)
def test_a_run_killed_before_its_first_checkpoint_starts_again_in_its_folder(gpubp, refused, trained, tmp_path, left):
    (tmp_path / "run").mkdir()
    for name in left:
        shutil.copy(trained / "config.toml", tmp_path / "run" / name)
    refused("train", "--resume", "run", message=["holds no checkpoint", "start again with --out run"])
    gpubp("train", "--out", "run", *FAST)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(runs.FILES)


@pytest.mark.parametrize("name", ["notes.txt", "config.toml", "model.safetensors", ".hidden", ".config.tom"])
def test_a_folder_with_what_no_run_left_is_refused_and_kept(refused, trained, tmp_path, name):
    """A configuration that somebody wrote for a run to come is theirs."""
    (tmp_path / "run").mkdir()
    shutil.copy(trained / "config.toml", tmp_path / "run" / ".config.toml.k3v_9x")
    (tmp_path / "run" / name).write_text("[settings]\nepochs = 3\n")
    refused("train", "--out", "run", *FAST, message=["--out was 'run'", "a new or an empty folder", name])


def test_a_folder_with_a_run_is_continued_and_not_started_anew(refused, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    refused("train", "--out", "run", *FAST, message="must be a new or an empty folder; --resume continues a run")


@pytest.fixture
def forbidden(monkeypatch):
    """Forbids a path and all below it: who runs the tests may be allowed everything."""

    def forbid(path):
        def forbidding(real):
            def look(where, *arguments, **options):
                if not isinstance(where, int) and os.path.abspath(where).startswith(str(path)):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(where))
                return real(where, *arguments, **options)

            return look

        for name in ("stat", "open"):
            monkeypatch.setattr(os, name, forbidding(getattr(os, name)))

    return forbid


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--resume", "run"],
        ["evaluate", "run/model.safetensors"],
        ["evaluate", "run"],
        ["predict", "run/model.safetensors", "--data", "digits", "--out", "p.csv"],
    ],
)
def test_a_run_or_a_model_that_may_not_be_read_is_not_called_missing(gpubp, trained, tmp_path, forbidden, command):
    shutil.copytree(trained, tmp_path / "run")
    forbidden(tmp_path / "run")
    stderr = gpubp(*command, code=2).stderr
    assert re.fullmatch(r"error: cannot read run.*: Permission denied\n", stderr)


@pytest.mark.parametrize("name", ["points.csv", "data.npz", "images"])
def test_data_that_may_not_be_read_is_not_called_missing(gpubp, tmp_path, forbidden, name):
    forbidden(tmp_path / "closed")
    for verb in ("train", "gradcheck"):
        stderr = gpubp(verb, "--data", f"closed/{name}", code=2).stderr
        assert stderr == f"error: closed/{name}: it cannot be read: Permission denied\n"


def test_data_gone_is_not_a_set_that_begins_with_its_name(gpubp, refused):
    """EMNIST's files lie side by side: no file has the name of a set."""
    write_idx_set("images/some", train=40, test=10)
    gpubp("train", "--out", "run", "--data", "images/some", *FAST)
    gpubp("train", "--resume", "run", "--epochs", "3")
    assert judged(gpubp("evaluate", "run"))[1] == "10"
    shutil.rmtree("images")
    refused("train", "--resume", "run", "--epochs", "4", message=["images/some", "gone"])


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:1000],
        lambda data: b"",
        lambda data: data[:-9] + b"\x55" + data[-8:],
        lambda data: b"text" * 99,
    ],
)
def test_a_damaged_checkpoint(refused, trained, tmp_path, damage):
    folder = tmp_path / "run"
    folder.mkdir()
    data = (trained / "checkpoint.safetensors").read_bytes()
    (folder / "checkpoint.safetensors").write_bytes(damage(data))
    refused("train", "--resume", "run", message=["checkpoint.safetensors", "damaged"])


def test_resuming_on_data_that_has_changed(refused, gpubp):
    write_csv("points.csv", ["a", "b", "side"], table())
    gpubp("train", "--out", "run", "--data", "points.csv", *FAST)
    write_csv("points.csv", ["a", "b", "side"], table(seed=1))
    refused("train", "--resume", "run", "--epochs", "5", message="other data")
