"""The command line: what it writes, what it says, and what it says to what is wrong."""

import csv
import errno
import gzip
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tomllib
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from gpubp.cli import app
from gpubp.errors import CheckpointError
from gpubp.training import folder as runs
from gpubp.training import plots
from gpubp.training.model import Model
from gpubp.training.settings import Settings

FAST = ("--layers", "16", "--epochs", "2", "--batch-size", "64")


@pytest.fixture
def no_picture(monkeypatch):
    """Spares a run the drawing of its curves, which takes longer than its training here."""
    monkeypatch.setattr(plots, "curves", lambda history, *, out, **options: out.write(b"curves"))


@pytest.fixture
def gpubp(tmp_path, monkeypatch, no_picture):
    """Runs a command in an empty folder; returns its exit code, its output and its errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("GPUBP_DEBUG", raising=False)

    def run(*arguments, code=0):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="gpubp")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture
def refused(gpubp):
    """Runs a command that must fail: exit code 2, one line that says `message`, and no new file."""

    def run(*arguments, message):
        before = contents()
        result = gpubp(*arguments, code=2)
        lines = result.stderr.strip().splitlines()
        assert len(lines) == 1, result.stderr
        assert lines[0].startswith("error: ")
        for part in [message] if isinstance(message, str) else message:
            assert part in lines[0]
        assert contents() == before

    return run


def contents():
    """Every file below the current folder, with what it holds."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(Path().rglob("*"))}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a finished run on the digits, with its picture; for reading."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    result = CliRunner().invoke(app, ["train", "--out", str(folder), *FAST])
    assert result.exit_code == 0, result.output
    return folder


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def read_npz(path):
    with np.load(path) as file:
        return dict(file)


def history(folder):
    return read_csv(Path(folder) / "history.csv")


def write_csv(path, header, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def write_idx_set(start, **parts):
    """IDX files of 3×4 images, of three classes, whose names begin like this."""
    os.makedirs(os.path.dirname(start))
    rng = np.random.default_rng(0)
    for part, rows in parts.items():
        images = rng.integers(0, 256, (rows, 3, 4), dtype=np.uint8)
        for what, values in (("images-idx3", images), ("labels-idx1", (np.arange(rows) % 3).astype(np.uint8))):
            head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
            Path(f"{start}-{part}-{what}-ubyte").write_bytes(head + values.tobytes())


def table(rows=60, seed=0):
    """Rows of a CSV file: two numbers and a class that they decide."""
    values = np.random.default_rng(seed).normal(size=(rows, 2))
    return [[f"{a:.3f}", f"{b:.3f}", "left" if a + b < 0 else "right"] for a, b in values]


# --- help -------------------------------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy():
    """A new process, as the user has it: help is there at once."""
    script = (
        "import sys; sys.argv = ['gpubp', *sys.argv[1:]]\n"
        "from gpubp.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "heavy = {'numpy', 'scipy', 'matplotlib', 'safetensors', 'numba', 'cupy', 'cuda', 'gpubp.nn.network'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    for arguments in (["--help"], ["train", "--help"], ["--version"]):
        result = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
        assert result.stdout
        assert result.stderr.strip() == "[]"


def test_version(gpubp):
    from importlib.metadata import version

    assert gpubp("--version").stdout == f"gpubp {version('gpubp')}\n"


@pytest.mark.parametrize("verb", ["train", "evaluate", "predict", "gradcheck"])
def test_every_verb_has_help(gpubp, verb):
    text = gpubp(verb, "--help").stdout
    assert "Usage: gpubp " + verb in text
    assert "--data" in text


def test_every_setting_is_an_option_of_train(gpubp):
    parameters = {each.name: each for each in get_command(app).commands["train"].params}
    for each in fields(Settings):
        option = parameters[each.name]
        assert option.help == each.metadata["help"]
        assert option.default == each.default
        assert f"--{each.name.replace('_', '-')}" in option.opts
    assert list(parameters)[len(fields(Settings)) :] == ["out", "resume", "config", "reschedule"]


def test_the_help_names_every_choice(gpubp):
    """The help's lists are written by hand, so that no numerical library is loaded for them."""
    from gpubp import backends
    from gpubp.data.loading import NAMES
    from gpubp.nn import initializers, losses, optimizers
    from gpubp.nn.activations import ACTIVATIONS
    from gpubp.training.config import SCHEDULES

    text = gpubp("train", "--help").stdout
    names = [*ACTIVATIONS, *losses.LOSSES, *initializers.INITIALIZERS, *optimizers.OPTIMIZERS, *SCHEDULES, *NAMES]
    names += ["auto", *backends.BACKENDS, *{device for devices in backends.BACKENDS.values() for device in devices}]
    for name in names:
        assert name in text or name == "softmax", name  # softmax is for the output, where the loss takes it


def program(*arguments, **options):
    """The program in a process of its own."""
    command = [sys.executable, "-c", "from gpubp.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux' /dev/full")
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["info"]])
def test_output_on_a_full_disk_is_one_clear_line(arguments):
    with open("/dev/full", "w") as full:
        found = program(*arguments, stdout=full)
    assert (found.returncode, found.stderr) == (2, "error: No space left on device\n")


def test_a_terminal_of_another_encoding_shows_what_it_can(tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    arguments = ["train", "--out", tmp_path / "run", *FAST, "--epochs", "1"]
    found = program(*arguments, stdout=subprocess.PIPE, env=environment)
    assert found.returncode == 0, found.stderr
    assert "64 ? 16 ? 10, relu" in found.stdout


def test_no_verb_is_help(gpubp):
    assert "Usage" in gpubp(code=2).output


# --- train ------------------------------------------------------------------------------------------------------------


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


# --- resume -----------------------------------------------------------------------------------------------------------


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


# --- bad input to train -----------------------------------------------------------------------------------------------


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
        (["--warmup", "-1"], "--warmup was -1"),
        (["--decay", "2", "--schedule", "step"], "--decay was 2"),
        (["--epochs", "0"], "--epochs was 0"),
        (["--batch-size", "0"], "--batch-size was 0"),
        (["--batch-size", "-3"], "--batch-size was -3"),
        (["--validation", "1"], "--validation was 1"),
        (["--patience", "0"], "--patience was 0"),
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


# --- tables as people have them ---------------------------------------------------------------------------------------


def write_lines(path, rows, delimiter=",", encoding="utf-8"):
    Path(path).write_bytes("".join(delimiter.join(row) + "\n" for row in rows).encode(encoding))


def accuracy_of(result):
    return next(line for line in result.stdout.splitlines() if "accuracy" in line).split("accuracy")[1].strip()


def test_columns_without_names_match_by_position(gpubp, refused):
    rows = table(rows=100)
    write_lines("last.csv", rows)
    write_lines("first.csv", [[side, a, b] for a, b, side in rows])
    write_csv("named.csv", ["", "a", "b", "label"], [[i, *row] for i, row in enumerate(rows)])
    write_lines("wide.csv", [["1", *row] for row in rows])
    gpubp("train", "--out", "run", "--data", "last.csv", "--test-fraction", "0", "--epochs", "20")
    expected = accuracy_of(gpubp("evaluate", "run", "--data", "last.csv", "--whole"))
    assert float(expected.split()[0]) > 85
    assert accuracy_of(gpubp("evaluate", "run", "--data", "first.csv", "--label", "0", "--whole")) == expected
    assert accuracy_of(gpubp("evaluate", "run", "--data", "named.csv", "--whole")) == expected
    refused("evaluate", "run", "--data", "wide.csv", message=["wide.csv: it has 3 features", "the model reads 2"])
    gpubp("predict", "run", "--data", "last.csv", "--out", "last-out.csv")
    gpubp("predict", "run", "--data", "first.csv", "--label", "0", "--out", "first-out.csv")
    assert Path("last-out.csv").read_text() == Path("first-out.csv").read_text()


def test_how_a_table_is_written_is_kept_with_the_model(gpubp, refused, tmp_path):
    rows = [["1,5".replace(",", ""), b, side.replace("left", "zurück")] for _, b, side in table(rows=60)]
    write_lines("t.csv", rows, ":", "latin-1")
    options = ("--header", "no", "--delimiter", ":", "--encoding", "latin-1")
    refused("train", "--data", "t.csv", message=["t.csv: it is not UTF-8 text", "--encoding"])
    gpubp("train", "--out", "run", "--data", "t.csv", *options, *FAST)
    gpubp("train", "--resume", "run", "--epochs", "3")
    assert 'header = "no"' in Path("run/config.toml").read_text()
    assert "12 examples" in " ".join(gpubp("evaluate", "run").stdout.split())
    assert "12 examples" in " ".join(gpubp("evaluate", "run", "--data", "t.csv", "--header", "no").stdout.split())
    assert "60 predictions" in gpubp("predict", "run", "--data", "t.csv", "--out", "p.csv").stdout
    gpubp("gradcheck", "--data", "t.csv", *options)
    write_lines("other.csv", rows, ";")
    changed = ("--delimiter", "semicolon", "--encoding", "utf-8")
    # The same values are the same data: its test part.
    assert "12 examples" in " ".join(gpubp("evaluate", "run", "--data", "other.csv", *changed).stdout.split())
    assert "60 predictions" in gpubp("predict", "run", "--data", "other.csv", *changed, "--out", "q.csv").stdout


def test_what_was_guessed_is_said(gpubp):
    write_csv("t.csv", ["", "a", "b", "side"], [[i, *row] for i, row in enumerate(table(rows=60))])
    notes = [
        "note: first line taken as header",
        "note: label: column 'side' (the last)",
        "note: left out the unnamed first column, an index of the rows (--keep-index takes it)",
    ]
    shown = gpubp("train", "--out", "run", "--data", "t.csv", *FAST).stdout.splitlines()
    assert shown[1:5] == [*notes, "note: task: classification (2 different texts)"]
    assert gpubp("gradcheck", "--data", "t.csv").stderr.splitlines() == shown[1:5]
    notes[1] = "note: label: column 'side'"
    assert gpubp("evaluate", "run").stderr.splitlines() == notes
    notes[1] = "note: left out the label: column 'side'"
    assert gpubp("predict", "run", "--data", "t.csv", "--out", "p.csv").stderr.splitlines() == notes
    assert "note" not in gpubp("train", "--out", "kept", *FAST).output


def test_an_index_of_the_rows_is_no_input_unless_asked_for(gpubp):
    rows = [[i, 1, ("left", "right")[i > 50]] for i in range(100)]
    write_csv("t.csv", ["", "a", "side"], rows)
    gpubp("train", "--out", "run", "--data", "t.csv", *FAST)
    assert Model.load("run").feature_names == ("a",)
    gpubp("train", "--out", "kept", "--data", "t.csv", "--keep-index", *FAST)
    assert Model.load("kept").feature_names == ("Unnamed: 0", "a")
    gpubp("evaluate", "kept")


def test_an_input_that_moves_for_the_first_time_is_ignored_and_named(gpubp):
    x = np.random.default_rng(0).normal(size=(300, 3))
    y = x[:, 0] + x[:, 1] > 0
    x[:, 2] = 7
    rows = [[*map(str, row), label] for row, label in zip(x.tolist(), y.tolist(), strict=True)]
    write_csv("still.csv", ["a", "b", "c", "label"], rows)
    write_csv("moved.csv", ["a", "b", "c", "label"], [[a, b, 255, label] for a, b, _, label in rows])
    gpubp("train", "--out", "run", "--data", "still.csv", "--layers", "8", "--epochs", "20")
    still, moved = (gpubp("evaluate", "run", "--data", f"{name}.csv", "--whole") for name in ("still", "moved"))
    assert accuracy_of(still) == accuracy_of(moved)
    warning = "warning: input 'c', which was constant in training, moved in 300 of 300 rows here; what moved is ignored"
    assert warning in moved.stderr.splitlines()
    assert "warning" not in still.stderr
    assert warning in gpubp("predict", "run", "--data", "moved.csv", "--out", "p.csv").stderr.splitlines()
    np.savez("parts.npz", x=x, y=y, x_test=x * [1, 1, 2], y_test=y)
    assert (
        "the test part: input 2, which was constant"
        in gpubp("train", "--out", "r", "--data", "parts.npz", *FAST).stderr
    )


@pytest.mark.parametrize(("link", "target"), [("t.csv", "cache/5d41"), ("link", "t.csv")])
def test_every_verb_takes_a_link_whose_target_is_called_otherwise(gpubp, link, target):
    Path("cache").mkdir()
    write_csv(target, ["a", "b", "side"], table(rows=60))
    Path(link).symlink_to(target)
    gpubp("train", "--out", "run", "--data", link, *FAST)
    gpubp("evaluate", "run")
    gpubp("evaluate", "run", "--data", link)
    gpubp("predict", "run", "--data", link, "--out", "p.csv")
    gpubp("gradcheck", "--data", link)


@pytest.mark.parametrize("data", ["a\udcff.csv", "a\0b.csv", "x" * 256 + ".csv", "x" * 256, "pipe.csv", "/dev/zero"])
def test_data_that_is_no_file_leaves_no_folder(refused, trained, data):
    os.mkfifo("pipe.csv")
    message = "/dev/zero" if data == "/dev/zero" else "regular file" if data == "pipe.csv" else "called"
    refused("train", "--data", data, message=message)
    refused("gradcheck", "--data", data, message=message)
    refused("evaluate", trained, "--data", data, message=message)
    refused("predict", trained, "--data", data, "--out", "p.csv", message=message)


def test_how_a_table_is_written_is_refused_for_what_is_none(refused, trained):
    for verb in (("train",), ("gradcheck",), ("evaluate", trained), ("predict", trained, "--out", "p.csv")):
        message = ["--header was 'no'", "left out for 'digits': only a table"]
        refused(*verb, "--data", "digits", "--header", "no", message=message)
    refused("train", "--data", "t.csv", "--header", "perhaps", message=["--header was 'perhaps'", "auto, yes, no"])
    refused("train", "--data", "t.csv", "--encoding", "utf-99", message="--encoding was 'utf-99'")
    refused("train", "--data", "t.csv", "--delimiter", "dash", message="--delimiter was 'dash'")


def test_a_damaged_archive_and_damaged_images(refused, tmp_path):
    np.savez("data.npz", x=np.ones((9, 2)), y=np.arange(9))
    (tmp_path / "data.npz").write_bytes((tmp_path / "data.npz").read_bytes()[:-40])
    refused("train", "--data", "data.npz", message="data.npz")
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (folder / f"{name}-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x03" + b"\0" * 40)[:-8])
    refused("train", "--data", "images", message="train-images")


def test_a_loss_for_classes_and_values_to_predict(refused, tmp_path):
    np.savez("data.npz", x=np.ones((20, 2)), y=np.linspace(0, 1, 20))
    refused("train", "--data", "data.npz", "--loss", "softmax_cross_entropy", message="--loss was")


def test_a_batch_larger_than_the_data_is_one_batch(gpubp):
    gpubp("train", "--out", "run", "--layers", "8", "--epochs", "1", "--batch-size", "100000")
    assert history("run")[0]["steps"] == "1"


def test_a_traceback_is_there_on_request(gpubp, monkeypatch):
    monkeypatch.setenv("GPUBP_DEBUG", "1")
    with pytest.raises(ValueError, match="--layers"):
        gpubp("train", "--layers", "x")


# --- evaluate ---------------------------------------------------------------------------------------------------------


def test_evaluate_judges_the_test_part(gpubp, trained):
    rows = history(trained)
    for arguments in ([trained], [trained / "model.safetensors", "--data", "digits"]):
        text = gpubp("evaluate", *arguments).stdout
        assert "digits, the test part" in text
        assert f"{100 * float(rows[-1]['test_accuracy']):.2f} %" in text
        assert "recall" in text


def test_evaluate_splits_a_table_as_training_did(gpubp):
    """The rows that were trained on must not be judged; other data is judged whole."""
    write_csv("points.csv", ["a", "b", "side"], table(rows=100))
    gpubp("train", "--out", "run", "--data", "points.csv", *FAST, "--seed", "3", "--test-fraction", "0.3")
    # A long path is folded, and the words after it.
    text = " ".join(gpubp("evaluate", "run").stdout.split())
    assert "30 examples" in text
    accuracy = float(history("run")[-1]["test_accuracy"])
    assert f"{100 * accuracy:.2f} %" in text
    write_csv("more.csv", ["a", "b", "side"], table(rows=50, seed=5))
    assert "50 examples" in " ".join(gpubp("evaluate", "run", "--data", "more.csv").stdout.split())


def judged(result):
    """The data that an evaluation names, and how many examples it has."""
    text = " ".join(result.stdout.split())
    return re.search(r"data (.*): ([\d,]+) examples", text).groups()


def warned(result):
    """The warnings of a result, without what it notes besides."""
    lines = result.stderr.splitlines()
    return "".join(line.removeprefix("warning: ") for line in lines if line.startswith("warning: "))


def spelled(path):
    """Other names of a file: the first of each way."""
    os.symlink(path, "symlink.csv")
    os.link(path, "hardlink.csv")
    shutil.copy(path, "copy.csv")
    return {
        "relative": path, "with a dot": f"./{path}", "absolute": os.path.abspath(path),
        "around": f"../{Path.cwd().name}/{path}", "a symlink": "symlink.csv",
        "a hard link": "hardlink.csv", "a copy": "copy.csv",
    }  # fmt: skip


def test_evaluate_knows_the_data_of_the_training_by_whatever_name(gpubp):
    """A copy, too: its training rows must not be judged."""
    write_csv("points.csv", ["a", "b", "side"], table(rows=100))
    gpubp("train", "--out", "run", "--data", "points.csv", "--seed", "3", "--test-fraction", "0.3", *FAST)
    for name in spelled("points.csv").values():
        found = gpubp("evaluate", "run", "--data", name)
        assert judged(found)[1] == "30", name
        assert judged(found)[0].endswith("the test part")
        assert warned(found) == ""


def test_evaluate_refuses_the_data_of_the_training_once_it_has_changed(gpubp, refused):
    """A row more redraws the split, and rows that were trained on would be judged as if they were new."""
    rows = table(rows=100)
    changes = {
        "a row more": [*rows, *table(rows=1, seed=1)],
        "a row less": rows[:-1],
        "another order": rows[::-1],
        "another value": [["9.5", *rows[0][1:]], *rows[1:]],
        "another label": [[*rows[0][:2], "left" if rows[0][2] == "right" else "right"], *rows[1:]],
        "too few": [rows[0]],
    }
    write_csv("points.csv", ["a", "b", "side"], rows)
    gpubp("train", "--out", "run", "--data", "points.csv", *FAST)
    names = [name for spelling, name in spelled("points.csv").items() if spelling != "a copy"]
    for change, changed in changes.items():
        write_csv("points.csv", ["a", "b", "side"], changed)
        some = names if change == "a row more" else names[:1]
        for arguments in ([], *(["--data", name] for name in some)):
            refused("evaluate", "run", *arguments, message=[".csv has changed since", "--whole", "--data"])
        found = gpubp("evaluate", "run", "--whole")
        assert judged(found)[1] == str(len(changed)), change
        assert judged(found)[0].endswith("all rows")
        # in another place it is other data, with rows of the training in it
        write_csv("other.csv", ["a", "b", "side"], changed)
        found = gpubp("evaluate", "run", "--data", "other.csv")
        assert judged(found)[1] == str(len(changed))
        warning = "% of the rows that the model was trained on are in "
        assert warning in warned(found) or change == "too few"
    write_csv("other.csv", ["a", "b", "side"], [*rows[:50], *table(rows=500, seed=1)])
    share = int(re.match(r"about (\d+) %", warned(gpubp("evaluate", "run", "--data", "other.csv")))[1])
    assert 30 <= share <= 70
    write_csv("other.csv", ["a", "b", "side"], table(rows=500, seed=1))
    assert warned(gpubp("evaluate", "run", "--data", "other.csv")) == ""


def test_evaluate_the_whole_of_data_with_a_test_part(gpubp, trained):
    assert judged(gpubp("evaluate", trained, "--whole")) == ("digits, all rows", "1,797")


def test_evaluate_says_that_nothing_was_held_out(gpubp):
    write_csv("points.csv", ["a", "b", "side"], table(rows=60))
    gpubp("train", "--out", "run", "--data", "points.csv", "--test-fraction", "0", *FAST)
    found = gpubp("evaluate", "run")
    assert warned(found).startswith("no rows were held out from training")
    assert judged(found)[0].endswith("the training part")
    assert judged(found)[1] == "60"


def test_evaluate_a_model_of_an_earlier_version(gpubp):
    """It has no fingerprint: the split is made again, and what that may miss is said."""
    write_csv("points.csv", ["a", "b", "side"], table(rows=100))
    gpubp("train", "--out", "run", "--data", "points.csv", *FAST)
    model = Model.load("run")
    origin = {name: value for name, value in model.origin.items() if name != "fingerprint"}
    replace(model, origin=origin).save("run/model.safetensors")
    for arguments in ([], ["--data", "points.csv"]):
        found = gpubp("evaluate", "run", *arguments)
        assert warned(found).startswith("an earlier version wrote this model, without a fingerprint")
        assert judged(found)[1] == "20"


@pytest.mark.parametrize(
    "wrong",
    [
        {"data": 5}, {"test_fraction": "0.2"}, {"test_fraction": 2}, {"seed": -1}, {"seed": "x"}, {"fingerprint": 3},
        {"sample": 3}, {"sample": [[]]}, {"sample": {"a": 1}},
    ],
    ids=str,
)  # fmt: skip
def test_evaluate_a_model_whose_origin_no_run_wrote(refused, trained, wrong):
    model = Model.load(trained)
    replace(model, origin={**model.origin, **wrong}).save("wrong.safetensors")
    message = f"the model's origin is none that a run wrote: its {next(iter(wrong))} is "
    refused("evaluate", "wrong.safetensors", message=message)
    refused("evaluate", "wrong.safetensors", "--data", "digits", message=message)


def test_evaluate_takes_the_label_column_of_the_training_elsewhere_too(gpubp):
    def write(name, seed):
        write_csv(name, ["side", "a", "b"], [[side, a, b] for a, b, side in table(rows=50, seed=seed)])

    write("points.csv", 0)
    write("others.csv", 1)
    gpubp("train", "--out", "run", "--data", "points.csv", "--label", "side", *FAST)
    assert judged(gpubp("evaluate", "run", "--data", "others.csv"))[1] == "50"


def test_evaluate_finds_a_tables_columns_by_name(gpubp):
    rows = table(rows=60)
    write_csv("points.csv", ["a", "b", "label"], rows)
    gpubp("train", "--out", "run", "--data", "points.csv", "--test-fraction", "0", *FAST)
    accuracy = float(history("run")[-1]["train_accuracy"])
    write_csv("turned.csv", ["label", "b", "note", "a"], [[side, b, 7, a] for a, b, side in rows])
    assert f"{100 * accuracy:.2f} %" in gpubp("evaluate", "run", "--data", "turned.csv").stdout


def test_evaluate_other_numbers_of_features_or_values(refused, gpubp):
    x = np.random.default_rng(0).normal(size=(40, 3))
    for name, features, values in (("data", x, x[:, 0]), ("wide", np.hstack([x, x]), x[:, 0]), ("many", x, x[:, :2])):
        np.savez(f"{name}.npz", x=features, y=values)
    gpubp("train", "--out", "run", "--data", "data.npz", *FAST)
    refused("evaluate", "run", "--data", "wide.npz", message=["wide.npz", "6 features", "reads 3"])
    refused("evaluate", "run", "--data", "many.npz", message=["many.npz", "2 values", "predicts 1"])


def test_evaluate_values(gpubp):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    np.savez("data.npz", x=x, y=np.stack([1000 + 50 * x[:, 0], x[:, 1] - x[:, 2]], axis=1))
    gpubp("train", "--out", "run", "--data", "data.npz", "--layers", "none", "--epochs", "40", "--lr", "0.02")
    text = gpubp("evaluate", "run").stdout
    assert "root mean square error" in text
    assert "R²" in text
    lines = [line.split() for line in text.splitlines()]
    scores = [float(line[3]) for line in lines if len(line) == 4 and line[0] in "12"]
    assert len(scores) == 2
    assert min(scores) > 0.999


def test_evaluate_needs_a_model(refused, tmp_path, trained):
    refused("evaluate", "missing.safetensors", message="missing.safetensors")
    (tmp_path / "empty").mkdir()
    refused("evaluate", "empty", message="empty/model.safetensors")
    data = (trained / "model.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[:-100])
    refused("evaluate", "cut.safetensors", message=["cut.safetensors", "damaged"])


def test_data_of_other_classes_or_features(refused, trained):
    write_csv("points.csv", ["a", "b", "side"], table())
    refused("evaluate", trained, "--data", "points.csv", message="points.csv")
    np.savez("points.npz", x=np.ones((3, 5)))
    refused("predict", trained, "--data", "points.npz", "--out", "p.csv", message=["5", "64"])


def test_a_bare_network_is_no_model(refused, tmp_path):
    from gpubp import Network

    Network([64, 10]).save(tmp_path / "bare.safetensors")
    refused("evaluate", "bare.safetensors", message="without its data's scaling")


# --- predict ----------------------------------------------------------------------------------------------------------


def test_predictions_as_csv_and_npz(gpubp, trained):
    from gpubp.data.loading import load

    digits = load("digits")
    assert "359 predictions" in gpubp("predict", trained, "--data", "digits", "--out", "p.csv").stdout
    gpubp("predict", trained, "--data", "digits", "--out", "p.npz")
    arrays = read_npz("p.npz")
    assert arrays["probabilities"].shape == (359, 10)
    np.testing.assert_allclose(arrays["probabilities"].sum(axis=1), 1, rtol=1e-5)
    assert list(arrays["class_names"]) == list("0123456789")
    model = Model.load(trained)
    np.testing.assert_array_equal(arrays["classes"].astype(int), model.predict(digits.x_test))
    rows = read_csv("p.csv")
    assert [row["class"] for row in rows] == list(arrays["classes"])
    assert float(rows[0]["probability 3"]) == pytest.approx(float(arrays["probabilities"][0, 3]), rel=1e-6)


def test_predictions_for_a_table_without_labels(gpubp):
    write_csv("points.csv", ["a", "b", "side"], table(rows=300))
    gpubp("train", "--out", "run", "--data", "points.csv", "--layers", "8", "--epochs", "40")
    fresh = table(rows=50, seed=9)
    write_csv("fresh.csv", ["b", "note", "a"], [[b, "7", a] for a, b, _ in fresh])
    gpubp("predict", "run", "--data", "fresh.csv", "--out", "p.csv")
    found = [row["class"] for row in read_csv("p.csv")]
    right = sum(name == side for name, (_, _, side) in zip(found, fresh, strict=True))
    assert right >= 45


def test_predictions_of_values(gpubp):
    x = np.random.default_rng(0).normal(size=(100, 2))
    np.savez("data.npz", x=x, y=1000 + 50 * x[:, 0])
    gpubp("train", "--out", "run", "--data", "data.npz", "--layers", "none", "--epochs", "60", "--lr", "0.05")
    np.savez("fresh.npz", x=np.array([[0.0, 0.0], [1.0, 0.0]]))
    gpubp("predict", "run", "--data", "fresh.npz", "--out", "p.npz")
    np.testing.assert_allclose(read_npz("p.npz")["values"], [[1000], [1050]], atol=5)
    gpubp("predict", "run", "--data", "fresh.npz", "--out", "p.csv")
    assert read_csv("p.csv")[0].keys() == {"value 1"}


def test_predictions_that_cannot_be_written(refused, trained, tmp_path):
    (tmp_path / "file").write_text("precious")
    refused("predict", trained, "--data", "digits", "--out", "p.txt", message="--out was 'p.txt'")
    message = ["--out was 'file/p.csv'", "in a folder that exists"]
    refused("predict", trained, "--data", "digits", "--out", "file/p.csv", message=message)
    # before the work: what is missing besides is not even looked for
    refused("predict", "none", "--data", "none", "--out", "missing/p.csv", message="--out was 'missing/p.csv'")


def test_predictions_replace_a_file_only_with_force(refused, gpubp, trained):
    for name in ("p.csv", "p.npz"):
        Path(name).write_text("precious")
        message = f"--out was '{name}'; it must be a new file; --force replaces this one"
        # before the work: the model is not even looked for
        refused("predict", "no-model", "--data", "digits", "--out", name, message=message)
        gpubp("predict", trained, "--data", "digits", "--out", name, "--force")
        assert Path(name).stat().st_size > 1000
    Path("folder.csv").mkdir()
    message = "--out was 'folder.csv'; it must be a new file"
    refused("predict", trained, "--data", "digits", "--out", "folder.csv", "--force", message=message)


FORMULAS = (
    '=HYPERLINK("http://evil","click")',
    "+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "＝1",
    "-",
)
NO_FORMULAS = ("-1", "+1", "-.5e-3", "3", "a=b", "e-mail", "x@y", "'quoted", " = 1", "")


def test_class_names_reach_a_spreadsheet_as_text(gpubp):
    """Names that begin like a formula get an apostrophe, except numbers; --raw keeps them."""
    names = [*FORMULAS, *NO_FORMULAS]
    names.remove("")  # no label is missing
    rng = np.random.default_rng(0)
    np.savez(
        "data.npz",
        x=np.repeat(np.eye(len(names)), 6, axis=0) + 1e-3 * rng.normal(size=(6 * len(names), len(names))),
        y=np.repeat(names, 6),
    )
    gpubp("train", "--out", "run", "--data", "data.npz", "--layers", "32", "--epochs", "60", "--lr", "0.02")
    gpubp("predict", "run", "--data", "data.npz", "--out", "quoted.csv")
    gpubp("predict", "run", "--data", "data.npz", "--out", "raw.csv", "--raw")
    gpubp("predict", "run", "--data", "data.npz", "--out", "p.npz")
    quoted, raw = ([row["class"] for row in read_csv(name)] for name in ("quoted.csv", "raw.csv"))
    assert raw == read_npz("p.npz")["classes"].tolist()
    assert set(raw) == set(names)
    assert quoted == [f"'{name}" if name in FORMULAS else name for name in raw]
    # the other cells of the file begin with a digit or a letter, or are numbers
    assert all(name[:1].isalpha() for name in read_csv("quoted.csv")[0])


def test_negative_values_are_numbers_and_stay_so(gpubp):
    x = np.random.default_rng(0).normal(size=(60, 2))
    np.savez("data.npz", x=x, y=-100 + x[:, 0])
    gpubp("train", "--out", "run", "--data", "data.npz", *FAST)
    gpubp("predict", "run", "--data", "data.npz", "--out", "p.csv")
    assert all(float(row["value 1"]) < 0 for row in read_csv("p.csv"))


def test_predictions_never_replace_their_data(refused, gpubp):
    write_csv("points.csv", ["a", "b", "label"], table(rows=60))
    gpubp("train", "--out", "run", "--data", "points.csv", *FAST)
    message = "--out was 'points.csv'; it must be another file than the data"
    for force in ([], ["--force"]):
        refused("predict", "run", "--data", "./points.csv", "--out", "points.csv", *force, message=message)


# --- gradcheck --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [[], ["--activation", "relu", "--loss", "huber", "--reduction", "sum", "--no-bias"]]
)
def test_gradcheck_agrees(gpubp, options):
    text = gpubp("gradcheck", "--layers", "6,5", "--batch-size", "8", *options).stdout
    assert text.count("agrees") == (3 if options else 6)
    assert "differs" not in text


def test_gradcheck_sees_a_wrong_derivative(gpubp, monkeypatch):
    from gpubp.nn.activations import Tanh

    monkeypatch.setattr(Tanh, "derivative", lambda self, saved, out: out.fill(1))
    text = gpubp("gradcheck", "--layers", "6,5", "--batch-size", "8", code=1).stdout
    assert "differs" in text


def test_gradcheck_names_what_is_wrong(refused):
    refused("gradcheck", "--tolerance", "0", message="--tolerance was 0")
    refused("gradcheck", "--batch-size", "0", message="--batch-size was 0")


# --- what every verb writes -------------------------------------------------------------------------------------------
WRITERS = {
    "check": (["check", "--backend", "numpy", "--report"], "report.md"),
    "check, as JSON": (["check", "--backend", "numpy", "--report"], "report.json"),
    "bench": (["bench", "--quick", "--save"], "figures.json"),
    "profile": (["profile", "update", "--out"], "roofline.png"),
    "profile, a page": (["profile", "update", "--html"], "page.html"),
    "report": (["report", "--out"], "page.html"),
    "predict": (["predict", "no-model", "--data", "no-data", "--out"], "p.csv"),
    "predict, arrays": (["predict", "no-model", "--data", "no-data", "--out"], "p.npz"),
}
"""By what is written: a command that lacks the file's name, and a name."""


@pytest.fixture
def nothing_runs(monkeypatch):
    """Fails where a verb begins its work."""
    for work in (
        "gpubp.crosscheck.check_command._run",
        "gpubp.bench.bench_command.run",
        "gpubp.profiler.profile_command._profiled",
        "gpubp.report.report_command._places",
        "gpubp.training.model.Model.load",
    ):
        monkeypatch.setattr(work, lambda *given, **options: pytest.fail("it ran"))


@pytest.mark.parametrize(("command", "name"), WRITERS.values(), ids=WRITERS)
def test_no_verb_replaces_a_file_unasked(refused, nothing_runs, command, name):
    Path(name).write_text("precious")
    refused(*command, name, message=[f"--{command[-1][2:]} was '{name}'; it must be a new file; --force replaces"])


@pytest.mark.parametrize(("command", "name"), WRITERS.values(), ids=WRITERS)
def test_what_cannot_be_written_is_said_before_the_work(refused, nothing_runs, command, name):
    Path("file").write_text("precious")
    Path("folder" + Path(name).suffix).mkdir()
    for path, message in (
        (f"missing/{name}", "in a folder that exists"),
        (f"file/{name}", "in a folder that exists"),
        (f"/proc/{name}", "in a folder that can be written"),
        (f"folder{Path(name).suffix}", "a new file"),
        (f"{'a' * 300}{Path(name).suffix}", "too long"),
        ("x.txt", "a file name that ends in"),
    ):
        for force in ([], ["--force"]):
            refused(*command, path, *force, message=[f"{command[-1]} was ", message])


def test_pictures_of_a_bench_are_checked_before_it(refused, nothing_runs):
    Path("file").write_text("precious")
    Path("drawn").mkdir()
    Path("drawn/roofline.png").write_text("precious")
    for path, message in (
        ("file", "a folder"), ("file/new", "a folder"), ("/proc/new", "can be written"),
        ("drawn", "a new file; --force"),
    ):  # fmt: skip
        refused("bench", "--quick", "--out", path, message=["--out was ", message])


def test_a_file_is_replaced_with_force(gpubp):
    for name in ("report.md", "report.json"):
        Path(name).write_text("old")
        gpubp("check", "--backend", "numpy", "--primitive", "scale", "--dtype", "float64", "--report", name, "--force")
        assert "scale" in Path(name).read_text()


def test_a_ctrl_c_while_the_curves_are_drawn_lets_the_run_end(gpubp, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def curves(history, *, out, **options):
        os.kill(os.getpid(), signal.SIGINT)
        out.write(b"curves")

    monkeypatch.setattr(plots, "curves", curves)
    try:
        assert "test accuracy" in gpubp("train", "--out", "run", *FAST).stdout
    finally:
        signal.signal(signal.SIGINT, before)
    assert Path("run/curves.png").read_bytes() == b"curves"


def test_a_run_whose_curves_cannot_be_written_keeps_its_model(gpubp, monkeypatch):
    def full(history, *, out, **options):
        raise CheckpointError("cannot write run/curves.png: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(plots, "curves", full)
        result = gpubp("train", "--out", "run", *FAST)
    assert (
        "warning: cannot write run/curves.png: No space left on device; gpubp train --resume run draws" in result.stderr
    )
    assert "test accuracy" in result.stdout
    gpubp("evaluate", "run")
    gpubp("train", "--resume", "run")
    assert Path("run/curves.png").read_bytes() == b"curves"


# --- what nobody means ------------------------------------------------------------------------------------------------
READ = {
    "train --data": ["train", "--out", "new", "--data"],
    "train --config": ["train", "--out", "new", "--config"],
    "train --resume": ["train", "--resume"],
    "evaluate": ["evaluate"],
    "evaluate --data": ["evaluate", "MODEL", "--data"],
    "predict --data": ["predict", "MODEL", "--out", "p.csv", "--data"],
    "gradcheck --data": ["gradcheck", "--data"],
    "bench --compare": ["bench", "--compare"],
    "profile --chip": ["profile", "update", "--chip"],
}
WRITTEN = {
    "train --out": ["train", *FAST, "--out"],
    "predict --out": ["predict", "MODEL", "--data", "digits", "--out"],
    "check --report": ["check", "--backend", "numpy", "--report"],
    "bench --save": ["bench", "--quick", "--save"],
    "bench --out": ["bench", "--quick", "--out"],
    "profile --out": ["profile", "update", "--out"],
    "profile --html": ["profile", "update", "--html"],
    "report --out": ["report", "--out"],
}
SUFFIXES = {
    "train --config": ".toml", "bench --compare": ".json", "profile --chip": ".toml", "predict --out": ".csv",
    "check --report": ".md", "bench --save": ".json", "profile --out": ".png", "profile --html": ".html",
    "report --out": ".html", "train --data": ".csv", "evaluate --data": ".npz", "predict --data": ".csv",
    "gradcheck --data": ".npz",
}  # fmt: skip


@pytest.fixture
def refused_soon(gpubp, trained, monkeypatch):
    """Runs a command that is wrong in its last word: exit code 2 and one short line, and no new file."""

    def run(command, word):
        before = set(Path().rglob("*"))
        result = gpubp(*[str(trained) if each == "MODEL" else each for each in command], word, code=2)
        assert set(Path().rglob("*")) == before
        if "\0" in word and "Invalid value" in result.stderr:  # by Typer, where the option is a path
            return result.stderr
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: ")
        assert line.isprintable()
        assert len(line) < 500
        return line

    return run


LONG, DEEP, UNDECODABLE = "n" * 256, "d/" * 3000 + "x", "\udcff\udc80"


@pytest.mark.parametrize(
    ("option", "name"),
    [(option, name) for option in (*READ, *WRITTEN) for name in (LONG, DEEP)]
    + [(option, UNDECODABLE) for option in READ],
    ids=lambda each: {LONG: "long", DEEP: "deep", UNDECODABLE: "bytes"}.get(each, each),
)
def test_a_path_that_no_file_has(refused_soon, option, name):
    """One with a NUL cannot be on a command line: no process starts with it. A file of any bytes can be written."""
    refused_soon({**READ, **WRITTEN}[option], name + SUFFIXES.get(option, ""))


@pytest.mark.parametrize("option", READ)
def test_what_would_block_or_never_end_is_not_read(refused_soon, option):
    suffix = SUFFIXES.get(option, "")
    os.mkfifo(f"fifo{suffix}")
    os.symlink("/dev/zero", f"zero{suffix}")
    for name in ("fifo", "zero"):
        line = refused_soon(READ[option], name + suffix)
        assert "it is not a regular file" in line or option == "train --resume"


def test_names_of_files_and_classes_are_text(gpubp):
    name = "[red]$x :bug:.csv"
    rows = [[a, b, {"left": "[/] \x1b[31m", "right": "[bold]"}[side]] for a, b, side in table()]
    write_csv(name, ["[a]", "\x1b[2Jb", "y"], rows)
    done = gpubp("train", "--data", name, "--out", "[run]", "--layers", "4", "--epochs", "1")
    assert "[red]$x :bug:" in done.stdout
    assert "[run]" in done.stdout
    judged = gpubp("evaluate", "[run]")
    assert "[/] \\x1b[31m" in judged.stdout
    assert "[bold]" in judged.stdout
    for text in (done.stdout, done.stderr, judged.stdout, judged.stderr):
        assert all(line.isprintable() for line in text.splitlines())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gradcheck", "--seed", "-1"], "--seed was -1; it must be a whole number ≥ 0"),
        (["gradcheck", "--seed", "1" + "0" * 30], "--seed was 10"),
        (["gradcheck", "--tolerance", "nan"], "--tolerance was nan"),
        (["gradcheck", "--tolerance", "0"], "--tolerance was 0"),
        (["gradcheck", "--batch-size", "-1"], "--batch-size was -1"),
        (["train", "--epochs", "1" + "0" * 30], "--epochs was 10"),
        (["train", "--batch-size", "1" + "0" * 30], "--batch-size was 10"),
        (["train", "--layers", "1" + "0" * 30], "--layers was 10"),
        (["train", "--layers", "9" * 5000], "--layers was '999"),
        (["train", "--lr", "1e400"], "--lr was inf"),
        (["train", "--dtype", "1_000"], "--dtype was '1_000'; it must be one of float32, float64"),
        (["train", "--dtype", ","], "--dtype was ','"),
        (["check", "--jobs", "100000"], "--jobs was 100000; it must be a whole number ≤ 1024"),
        (["check", "--shape", "9" * 5000], "--shape was '999"),
        (["report", "--jobs", "100000"], "--jobs was 100000"),
        (["bench", "--threads", "100000"], "--threads was 100000"),
        (["bench", "--shape", "9" * 5000], "--shape was '999"),
        (["profile", "update", "--shape", "9" * 5000], "--shape was '999"),
        (["profile", "update", "--arch", "sm_" + "9" * 5000], "--arch was 'sm_999"),
        (["profile", "\x1b[31m"], r"primitive was '\x1b[31m'; it must be one of"),
        (["train", "--activation", "x" * 5000], "--activation was 'xxx"),
        (["train", "--loss", "\x1b]0;title\x07"], r"--loss was '\x1b]0;title\x07'"),
        (["train", "--data", "[/]"], "'[/]'"),
    ],
    ids=lambda each: each[-1][:12] if isinstance(each, list) else "",
)
def test_a_number_or_a_name_that_nobody_means(gpubp, arguments, message):
    (line,) = gpubp(*arguments, code=2).stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert len(line) < 500


@pytest.mark.parametrize(
    "arguments", [["train", "\x1b[31m\u202e"], ["train", "--\x1b[2J"], ["\x1b[2J"], ["--\x1b[2J", "train"]]
)
def test_words_that_are_no_options_are_shown_as_text(gpubp, arguments):
    errors = gpubp(*arguments, code=2).stderr
    assert "\\x1b[" in errors
    assert all(line.isprintable() for line in errors.splitlines())
