"""Runs that are really killed, at moments chosen to hurt, and then resumed: the end must be the same, bit for bit."""

import errno
import fcntl
import json
import os
import pty
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from gpubp.cli import app
from gpubp.data.dataset import Dataset
from gpubp.errors import CheckpointError
from gpubp.nn import model_file
from gpubp.nn.network import Network
from gpubp.training import folder as runs
from gpubp.training import plots
from gpubp.training.checkpoint import CHECKPOINT_FILE, Checkpoint
from gpubp.training.config import TrainingConfig
from gpubp.training.history import HistoryRow
from gpubp.training.loop import Run

DRIVER = '''
"""A training run that stops for ever at a chosen moment, after it said so, and waits to be killed."""

import os, sys, time
import numpy as np
from gpubp.data.dataset import Dataset
from gpubp.nn.network import Network
from gpubp.training.config import TrainingConfig
from gpubp.training.loop import Listener, fit


def stop():
    print("now", flush=True)
    time.sleep(600)


class StopAtBatch(Listener):
    def __init__(self, at):
        self.at = at

    def batch(self, run):
        if run.epoch * run.batches + run.batch == self.at:
            stop()


def stop_around(name, at, before, folder):
    """Replace a function of os by one whose call number `at` stops the process, before or after its work.

    Files of the cache, which are replaced too, do not count.
    """
    real, calls = getattr(os, name), [0]

    def replacement(*arguments):
        if name == "replace" and not str(arguments[-1]).startswith(folder):
            return real(*arguments)
        calls[0] += 1
        if calls[0] == at and before:
            stop()
        result = real(*arguments)
        if calls[0] == at:
            stop()
        return result

    setattr(os, name, replacement)


def run(folder, resume=False, listener=None):
    rng = np.random.default_rng(0)
    y = np.arange(700) % 3
    x = rng.normal(size=(700, 5)) + y[:, None]
    dataset = Dataset(x[:600], y[:600], x[600:], y[600:], class_names=("a", "b", "c"))
    config = TrainingConfig(epochs=4, batch_size=64, optimizer="adam", validation=0.2, patience=3, seed=2)
    os.makedirs(folder, exist_ok=True)
    net = Network([5, 64, 32, 3], seed=1, backend="cpu")
    fit(net, dataset, config, folder=folder, resume=resume, listener=listener)


mode, *rest = sys.argv[1:]
if mode == "whole":
    run(*rest)
elif mode == "resume":
    for folder in rest:
        run(folder, resume=True)
elif mode == "batch":
    run(rest[0], listener=StopAtBatch(int(rest[1])))
else:
    stop_around(mode, int(rest[1]), rest[2] == "before", rest[0])
    run(rest[0])
'''

# A checkpoint is written by os.fsync (of the file), os.replace, os.fsync (of the folder); the history likewise. The
# first checkpoint is written before the first batch, without a history.
MOMENTS = {
    "in the first epoch's batches, before its checkpoint": ("batch", "3"),
    "in the second epoch's batches": ("batch", "10"),
    "in the last epoch's batches": ("batch", "30"),
    "before the second epoch's checkpoint is on the disk": ("fsync", "7", "before"),
    "before it takes the place of the first epoch's": ("replace", "4", "before"),
    "after it has taken it, and before the history is written": ("replace", "4", "after"),
    "between the last checkpoint and the history": ("replace", "9", "before"),
    "before the model is written": ("replace", "10", "before"),
}
EPOCHS_SAVED = dict(zip(MOMENTS, (0, 1, 3, 1, 1, 2, 4, 4), strict=True))
"""How many epochs the checkpoint has that a kill leaves."""


@pytest.fixture(scope="module")
def spawn():
    """Starts Python with one BLAS thread; what still runs when the tests are over is killed."""
    started = []

    def start(*arguments, cwd=None, ignored=None):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}

        def signals():
            """Hand on what a shell in the foreground does, wherever the tests run."""
            for number in (signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN if number == ignored else signal.SIG_DFL)

        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=signals,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def finish(process):
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    return out


def history_and_weights(folder):
    tensors, metadata = model_file.read(folder / "checkpoint.safetensors")
    files = {name: (folder / name).read_bytes() for name in ("history.csv", "model.safetensors")}
    return files, metadata["history"], {name: array.tobytes() for name, array in tensors.items()}


# --- killed -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory, spawn):
    """By moment, the folder as the kill left it, and as the resumed run left it; and that of a run left alone."""
    base = tmp_path_factory.mktemp("kills")
    driver = base / "driver.py"
    driver.write_text(DRIVER)
    made = {moment: base / f"run{number}" for number, moment in enumerate(MOMENTS)}
    whole = spawn(driver, "whole", base / "whole")
    killed = {moment: spawn(driver, how[0], made[moment], *how[1:]) for moment, how in MOMENTS.items()}
    for moment, process in killed.items():
        assert process.stdout.readline() == "now\n", f"{moment}: {process.communicate()[1]}"
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        shutil.copytree(made[moment], base / "left" / made[moment].name)
    finish(whole)
    finish(spawn(driver, "resume", *made.values()))
    left = {moment: base / "left" / folder.name for moment, folder in made.items()}
    return {"left": left, "resumed": made, "whole": base / "whole"}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_leaves_a_whole_checkpoint(folders, moment):
    found = Checkpoint.read(folders["left"][moment])
    assert found.epoch == len(found.history) == EPOCHS_SAVED[moment]


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_and_resumed_run_ends_like_one_left_alone(folders, moment):
    assert history_and_weights(folders["resumed"][moment]) == history_and_weights(folders["whole"])


@pytest.mark.slow
def test_the_runs_were_not_trivial(folders):
    history = Checkpoint.read(folders["whole"]).history
    losses = [row.train_loss for row in history]
    assert len(losses) == 4
    assert losses == sorted(losses, reverse=True)
    assert history[-1].steps == 4 * 8  # 480 rows are left to train on, in batches of 64


# --- through the command line -----------------------------------------------------------------------------------------

TRAIN = ("-c", "from gpubp.cli import main; main()", "train")
WITHOUT_CURVES = (
    "-c",
    "from gpubp.training import plots; plots.curves = lambda history, *, out, **options: out.write(b'curves')\n"
    "from gpubp.cli import main; main()",
    "train",
)
OPTIONS = ("--epochs", "8", "--batch-size", "4", "--layers", "32", "--patience", "8")


@pytest.mark.slow
def test_a_signal_saves_the_position_and_says_how_to_go_on(tmp_path, spawn):
    folders = {"interrupted": (signal.SIGINT, 130), "ended": (signal.SIGTERM, 143), "hung up": (signal.SIGHUP, 129)}
    whole = spawn(*TRAIN, "--out", "whole", *OPTIONS, cwd=tmp_path)
    for name, (number, code) in folders.items():
        process = spawn(*TRAIN, "--out", name, *OPTIONS, cwd=tmp_path)
        assert any(line.startswith("epoch 2/") for line in process.stdout)
        process.send_signal(number)
        out, error = process.communicate(timeout=120)
        assert process.returncode == code
        assert "Traceback" not in error
        assert f"Continue with: gpubp train --resume {shlex.quote(name)}" in out
    finish(whole)
    resumed = {name: spawn(*TRAIN, "--resume", name, cwd=tmp_path) for name in folders}
    for name, process in resumed.items():
        assert "resumed after epoch" in finish(process)
        assert history_and_weights(tmp_path / name) == history_and_weights(tmp_path / "whole")
        assert (tmp_path / name / "curves.png").stat().st_size > 10_000


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once_and_says_how_to_go_on(tmp_path, spawn):
    slow = (
        "import os, signal, time\n"
        "from gpubp.training.loop import Run\n"
        "real = Run._train_batch\n"
        "def train_batch(run):\n"
        "    real(run)\n"
        "    if (run.epoch, run.batch) == (1, 3): print('now', flush=True); time.sleep(600)\n"
        "Run._train_batch = train_batch\n"
        "from gpubp.cli import main; main()"
    )
    process = spawn("-c", slow, "train", "--out", "my run", *OPTIONS, cwd=tmp_path)
    assert any(line == "now\n" for line in process.stdout)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)  # else the two are one
    out, error = process.communicate(timeout=120)
    assert process.returncode == 130
    assert error == ""
    assert "stopped at once; the last checkpoint is after epoch 1. " in out
    assert "Continue with: gpubp train --resume 'my run'" in out
    assert Checkpoint.read(tmp_path / "my run").epoch == 1


@pytest.mark.slow
def test_nohup_keeps_a_run_from_its_terminals_signal(tmp_path, spawn):
    process = spawn(*WITHOUT_CURVES, "--out", "run", *OPTIONS, cwd=tmp_path, ignored=signal.SIGHUP)
    assert any(line.startswith("epoch 2/") for line in process.stdout)
    process.send_signal(signal.SIGHUP)
    assert "epoch 8/8" in finish(process)


@pytest.mark.slow
def test_a_run_whose_terminal_is_closed_is_saved(tmp_path):
    """The display writes to a terminal that is gone, and the signal that says so comes about then."""
    number, terminal = pty.fork()
    if number == 0:  # the child: its terminal is the new one
        os.chdir(tmp_path)
        os.environ["OMP_NUM_THREADS"] = "1"
        os.execv(sys.executable, [sys.executable, *TRAIN, "--out", "run", *OPTIONS, "--epochs", "3000"])
    seen = b""
    while b"epoch 4/" not in seen:
        seen += os.read(terminal, 4096)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) == 128 + signal.SIGHUP
    found = Checkpoint.read(tmp_path / "run")
    assert found.epoch >= 3
    assert not [name for name in os.listdir(tmp_path / "run") if name.startswith(".")]


# --- in the first second ----------------------------------------------------------------------------------------------
BRIEF = ("--epochs", "3", "--batch-size", "32", "--accumulate", "2", "--layers", "16", "--dropout", "0.2")


@pytest.fixture(scope="module")
def brief(tmp_path_factory, spawn):
    """The folder of a run that nobody kills, and how many seconds it took."""
    folder = tmp_path_factory.mktemp("brief") / "run"
    began = time.perf_counter()
    finish(spawn(*WITHOUT_CURVES, "--out", folder, *BRIEF))
    return folder, time.perf_counter() - began


@pytest.mark.parametrize(
    ("seed", "times"), [pytest.param(0, 1, marks=pytest.mark.slow), pytest.param(1, 5, marks=pytest.mark.exhaustive)]
)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGXCPU])
def test_a_run_killed_in_its_first_second_starts_or_goes_on_to_the_same_end(
    tmp_path, spawn, brief, number, seed, times
):
    """At any moment: as modules load, before the first checkpoint, as it is written, and after it."""
    whole, seconds = brief
    rng = random.Random(f"{number} {seed}")
    for trial in range(times):
        folder = tmp_path / str(trial)
        process = spawn(*WITHOUT_CURVES, "--out", folder, *BRIEF)
        delay = rng.uniform(0, max(1, seconds))
        time.sleep(delay)
        process.send_signal(number)
        process.communicate(timeout=120)
        # 1: Python itself shows a Ctrl-C that comes before the first line of the program
        assert process.returncode in (0, -number, 128 + number, 1), f"{delay:.3f} s"
        there = (folder / CHECKPOINT_FILE).exists()
        finish(spawn(*WITHOUT_CURVES, *(("--resume", folder) if there else ("--out", folder, *BRIEF))))
        assert history_and_weights(folder) == history_and_weights(whole), f"{delay:.3f} s"
        assert sorted(os.listdir(folder)) == sorted(runs.FILES), f"{delay:.3f} s"


# --- a disk that is full, a second process ----------------------------------------------------------------------------


def train(*arguments):
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


@pytest.fixture
def no_picture(monkeypatch):
    monkeypatch.setattr(plots, "curves", lambda history, *, out, **options: out.write(b"curves"))


QUICK = ("--epochs", "3", "--layers", "8", "--batch-size", "200")


@pytest.mark.parametrize("at", [9, 10])
def test_a_full_disk_ends_the_run_and_leaves_a_whole_checkpoint(tmp_path, monkeypatch, no_picture, at):
    """When the checkpoint of the second epoch is written: its file, or its folder."""
    real, calls = os.fsync, []

    def fsync(handle):
        calls.append(handle)
        if len(calls) == at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    stopped = train("--out", tmp_path / "run", *QUICK)
    assert stopped.exit_code == 2
    assert "No space left on device" in stopped.stderr
    assert len(stopped.stderr.strip().splitlines()) == 1
    assert not [name for name in os.listdir(tmp_path / "run") if name.startswith(".")]
    assert Checkpoint.read(tmp_path / "run").epoch == at - 8

    assert train("--resume", tmp_path / "run").exit_code == 0
    assert train("--out", tmp_path / "whole", *QUICK).exit_code == 0
    assert history_and_weights(tmp_path / "run") == history_and_weights(tmp_path / "whole")


def test_two_processes_do_not_train_in_one_folder(tmp_path, no_picture):
    assert train("--out", tmp_path / "run", *QUICK).exit_code == 0
    before = (tmp_path / "run" / "checkpoint.safetensors").read_bytes()
    handle = os.open(tmp_path / "run", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    refused = train("--resume", tmp_path / "run", "--epochs", "5")
    os.close(handle)
    assert refused.exit_code == 2
    assert "another process is training in" in refused.stderr
    assert (tmp_path / "run" / "checkpoint.safetensors").read_bytes() == before
    assert train("--resume", tmp_path / "run", "--epochs", "4").exit_code == 0


def test_a_run_does_not_write_over_one_that_trained_there_meanwhile(tmp_path, no_picture, monkeypatch):
    make = runs._make_folder

    def another_trains_first(folder):
        make(folder)
        (folder / "model.safetensors").write_text("of the other run")

    monkeypatch.setattr(runs, "_make_folder", another_trains_first)
    refused = train("--out", tmp_path / "run", *QUICK)
    assert refused.exit_code == 2
    assert "a new or an empty folder" in refused.stderr
    assert os.listdir(tmp_path / "run") == ["model.safetensors"]


def test_a_file_system_without_locks_is_no_obstacle_and_a_broken_one_is(tmp_path, no_picture, monkeypatch):
    def fail(number):
        def flock(*_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", flock)

    fail(errno.ENOLCK)
    assert train("--out", tmp_path / "run", *QUICK).exit_code == 0
    fail(errno.EIO)
    refused = train("--resume", tmp_path / "run", "--epochs", "5")
    assert refused.exit_code == 2
    assert "cannot lock the folder" in refused.stderr


# --- checkpoints that cannot be used ----------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path):
    settings = {"note": "a long note " * 20}
    whole = Checkpoint({"w": np.arange(1000.0)}, {}, {}, {}, settings, "data", 0, 0, [], [])
    whole.write(tmp_path)
    assert Checkpoint.read(tmp_path).settings == settings
    return tmp_path / CHECKPOINT_FILE


def test_every_single_damaged_byte_is_noticed(checkpoint):
    whole = checkpoint.read_bytes()
    for position in [*range(0, 600, 7), *range(600, len(whole), 501), len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        checkpoint.write_bytes(bytes(damaged))
        with pytest.raises(CheckpointError):
            Checkpoint.read(checkpoint.parent)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 100, 1000, -1])
def test_a_truncated_checkpoint_is_noticed(checkpoint, length):
    checkpoint.write_bytes(checkpoint.read_bytes()[:length])
    with pytest.raises(CheckpointError, match="damaged"):
        Checkpoint.read(checkpoint.parent)


def test_a_checkpoint_of_another_version_is_refused(checkpoint):
    model_file.write(checkpoint, {}, {"format": 99})
    with pytest.raises(CheckpointError, match="no checkpoint of this version"):
        Checkpoint.read(checkpoint.parent)


@pytest.mark.parametrize("key", ["epoch", "history", "settings"])
def test_a_checkpoint_that_lacks_a_part_is_refused(checkpoint, key):
    tensors, metadata = model_file.read(checkpoint)
    del metadata[key]
    model_file.write(checkpoint, tensors, metadata)
    with pytest.raises(CheckpointError, match=f"no checkpoint of this version of gpubp.*{key}"):
        Checkpoint.read(checkpoint.parent)


ROW = {
    "epoch": 1, "steps": 4, "learning_rate": 0.1, "train_loss": 1.0, "train_accuracy": None, "validation_loss": None,
    "validation_accuracy": None, "test_loss": None, "test_accuracy": None, "dead_units": 0, "gradient_norms": [1.0],
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": []}, "network was"),
        ({"training": "x"}, "training was 'x'; it must be a table"),
        ({"settings": None}, "settings was None"),
        ({"data": 3}, "data was 3"),
        ({"epoch": 0.0}, "epoch was 0.0; it must be a whole number"),
        ({"epoch": -1}, "epoch was -1"),
        ({"epoch": 10**30}, "epoch was 10"),
        ({"epoch": 1}, "history has 0 rows; it must have one for each of 1 epochs"),
        ({"batch": True}, "batch was True"),
        ({"history": [ROW]}, "history has 1 rows; it must have one for each of 0 epochs"),
        ({"history": [{**ROW, "epoch": 2}], "epoch": 1}, "history"),
        ({"history": [{**ROW, "steps": 1.5}], "epoch": 1}, "steps was 1.5"),
        ({"history": [{**ROW, "train_loss": None}], "epoch": 1}, "train_loss was None"),
        ({"history": [{**ROW, "test_loss": "x"}], "epoch": 1}, "test_loss was 'x'"),
        ({"history": [{**ROW, "gradient_norms": "abc"}], "epoch": 1}, "gradient_norms was 'abc'"),
        ({"history": [{**ROW, "gradient_norms": [None]}], "epoch": 1}, "gradient_norms was"),
        ({"history": [{**ROW, "more": 1}], "epoch": 1}, "a row of the history was"),
        ({"history": "x"}, "a row of the history was 'x'"),
        ({"history": {"a": 1}}, "a row of the history was 'a'"),
        ({"warnings": "abc"}, "warnings was 'abc'; it must be a list of names"),
        ({"warnings": [1]}, "warnings was"),
        ({"more": 1}, "more"),
    ],
)
def test_a_checkpoint_with_other_types_inside_is_refused(checkpoint, changes, message):
    tensors, metadata = model_file.read(checkpoint)
    model_file.write(checkpoint, tensors, {**metadata, **changes})
    with pytest.raises(CheckpointError, match=f"no checkpoint of this version of gpubp.*{message}") as caught:
        Checkpoint.read(checkpoint.parent)
    assert len(str(caught.value)) < 400


def test_a_sound_row_is_read_as_it_was(checkpoint):
    tensors, metadata = model_file.read(checkpoint)
    model_file.write(checkpoint, tensors, {**metadata, "history": [ROW], "epoch": 1})
    (row,) = Checkpoint.read(checkpoint.parent).history
    assert row == HistoryRow(**{**ROW, "gradient_norms": (1.0,)})


def test_a_file_that_something_else_wrote_is_refused(checkpoint):
    from safetensors.numpy import save_file

    save_file({"w": np.zeros(3)}, checkpoint, {"other": json.dumps({})})
    with pytest.raises(CheckpointError, match="not a file that gpubp wrote"):
        Checkpoint.read(checkpoint.parent)


# --- a checkpoint of an earlier version -------------------------------------------------------------------------------
def striped_run(folder):
    """The run whose checkpoint after two of its four epochs is in format_1: float16, whose scale falls at first."""
    y = np.arange(24) % 2
    x = np.stack([np.arange(24) % 7 + y, np.arange(24) % 5 - y, np.arange(24) % 3], axis=1) / 4
    dataset = Dataset(x[:18], y[:18], x[18:], y[18:], class_names=("a", "b"), name="stripes")
    config = TrainingConfig(epochs=4, batch_size=8, optimizer={"name": "adam", "clip_norm": 1.0}, seed=3)
    scaling = {"initial": 2.0**19, "growth_interval": 3}
    network = Network([3, 4, 2], precision="fp16", loss_scaling=scaling, backend="numpy", seed=3)
    return Run(network, dataset, config, folder=folder, settings={"data": "stripes"})


@pytest.fixture
def stored(tmp_path):
    checkpoint = Path(__file__).parent / "format_1" / CHECKPOINT_FILE
    shutil.copy(checkpoint, tmp_path)
    return tmp_path


def test_a_stored_checkpoint_is_read_and_written_byte_for_byte(stored):
    before = (stored / CHECKPOINT_FILE).read_bytes()
    run = striped_run(stored)
    run.load()
    assert (run.epoch, run.trainer.steps) == (2, 6)
    run.save()
    assert (stored / CHECKPOINT_FILE).read_bytes() == before


def test_a_stored_run_continues_to_the_end_of_an_uninterrupted_one(stored):
    run = striped_run(stored)
    run.load()
    resumed, straight = run.train(), striped_run(None).train()
    assert len(resumed.history) == 4
    for found, expected in zip(resumed.history, straight.history, strict=True):
        # another machine's BLAS may have stored it
        assert found.steps == expected.steps
        assert found.train_loss == pytest.approx(expected.train_loss, rel=1e-3)
        assert found.gradient_norms == pytest.approx(expected.gradient_norms, rel=1e-3)
