"""Runs that are really killed, at moments chosen to hurt, and then resumed: the end must be the same, bit for bit."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from gpubp import model_file
from gpubp.errors import CheckpointError
from gpubp.training import read_checkpoint

DRIVER = '''
"""A training run that stops for ever at a chosen moment, after it said so, and waits to be killed."""

import os, sys, time
import numpy as np
from gpubp.data import Dataset
from gpubp.network import Network
from gpubp.training import Listener, TrainingConfig, fit


def stop():
    print("now", flush=True)
    time.sleep(600)


class StopAtBatch(Listener):
    def __init__(self, at):
        self.at = at

    def batch(self, run):
        if run.epoch * run.batches + run.batch == self.at:
            stop()


def stop_around(name, at, before):
    """Replace a function of os by one whose call number `at` stops the process, before or after its work."""
    real, calls = getattr(os, name), [0]

    def replacement(*arguments):
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
    fit(Network([5, 64, 32, 3], seed=1), dataset, config, folder=folder, resume=resume, listener=listener)


mode, *rest = sys.argv[1:]
if mode == "whole":
    run(*rest)
elif mode == "resume":
    for folder in rest:
        run(folder, resume=True)
elif mode == "batch":
    run(rest[0], listener=StopAtBatch(int(rest[1])))
else:
    stop_around(mode, int(rest[1]), rest[2] == "before")
    run(rest[0])
'''

# A checkpoint is written by os.fsync (of the file), os.replace, os.fsync (of the folder); then the same for the history.
MOMENTS = {
    "in the first epoch's batches, after the first checkpoint": ("batch", "10"),
    "in the last epoch's batches": ("batch", "30"),
    "before the second checkpoint is on the disk": ("fsync", "5", "before"),
    "before the second checkpoint takes the place of the first": ("replace", "3", "before"),
    "after it has taken it, and before the history is written": ("replace", "3", "after"),
    "between the last checkpoint and the history": ("replace", "8", "before"),
    "before the model is written": ("replace", "9", "before"),
}


def start(driver, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, driver, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def finish(process):
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    return out


def history_and_weights(folder):
    tensors, metadata = model_file.read(folder / "checkpoint.safetensors")
    files = {name: (folder / name).read_bytes() for name in ("history.csv", "model.safetensors")}
    return files, metadata["history"], {name: array.tobytes() for name, array in tensors.items()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """By moment, the folder as the kill left it, and as the resumed run left it; and that of a run left alone."""
    base = tmp_path_factory.mktemp("kills")
    driver = base / "driver.py"
    driver.write_text(DRIVER)
    made = {moment: base / f"run{number}" for number, moment in enumerate(MOMENTS)}
    whole = start(driver, "whole", str(base / "whole"))
    killed = {moment: start(driver, how[0], str(made[moment]), *how[1:]) for moment, how in MOMENTS.items()}
    for moment, process in killed.items():
        assert process.stdout.readline() == "now\n", f"{moment}: {process.communicate()[1]}"
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        shutil.copytree(made[moment], base / "left" / made[moment].name)
    finish(whole)
    finish(start(driver, "resume", *map(str, made.values())))
    left = {moment: base / "left" / folder.name for moment, folder in made.items()}
    return {"left": left, "resumed": made, "whole": base / "whole"}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_leaves_a_whole_checkpoint(folders, moment):
    _, metadata = read_checkpoint(folders["left"][moment])
    expected = {"batch 10": 1, "batch 30": 3, "fsync 5": 1, "replace 3 before": 1, "replace 3 after": 2}
    how = MOMENTS[moment]
    key = " ".join(how) if how[0] == "replace" else " ".join(how[:2])
    assert metadata["epoch"] == expected.get(key, 4)
    assert len(metadata["history"]) == metadata["epoch"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_and_resumed_run_ends_like_one_left_alone(folders, moment):
    assert history_and_weights(folders["resumed"][moment]) == history_and_weights(folders["whole"])


def test_the_runs_were_not_trivial(folders):
    _, metadata = read_checkpoint(folders["whole"])
    losses = [row["train_loss"] for row in metadata["history"]]
    assert len(losses) == 4
    assert losses == sorted(losses, reverse=True)
    assert metadata["history"][-1]["steps"] == 4 * 8  # 480 rows are left to train on, in batches of 64


# --- through the command line -----------------------------------------------------------------------------------------

OPTIONS = ["--epochs", "8", "--batch-size", "2", "--layers", "32", "--patience", "8"]


def gpubp(*arguments, cwd):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", "from gpubp.cli import main; main()", *arguments]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_position_and_says_how_to_go_on(tmp_path, number, code):
    whole = gpubp("train", "--out", "whole", *OPTIONS, cwd=tmp_path)
    stopped = gpubp("train", "--out", "stopped", *OPTIONS, cwd=tmp_path)
    for line in stopped.stdout:
        if line.startswith("epoch 2/"):
            stopped.send_signal(number)
            break
    out, error = stopped.communicate(timeout=120)
    assert stopped.returncode == code
    assert "Traceback" not in error
    assert "continue with: gpubp train --resume stopped" in out
    _, metadata = read_checkpoint(tmp_path / "stopped")
    assert metadata["epoch"] >= 2
    assert metadata["epoch"] < 8

    resumed = finish(gpubp("train", "--resume", "stopped", cwd=tmp_path))
    assert f"resumed after epoch {metadata['epoch']} of 8" in resumed
    finish(whole)
    assert history_and_weights(tmp_path / "stopped") == history_and_weights(tmp_path / "whole")
    assert (tmp_path / "stopped" / "curves.png").stat().st_size > 10_000


# --- checkpoints that cannot be used ----------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    model_file.write(path, {"w": np.arange(1000.0)}, {"format": 1, "note": "a long note " * 20})
    return path


def test_every_single_damaged_byte_is_noticed(checkpoint):
    whole = checkpoint.read_bytes()
    for position in [*range(0, 600, 7), *range(600, len(whole), 501), len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        checkpoint.write_bytes(bytes(damaged))
        with pytest.raises(CheckpointError):
            read_checkpoint(checkpoint.parent)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 100, 1000, -1])
def test_a_truncated_checkpoint_is_noticed(checkpoint, length):
    checkpoint.write_bytes(checkpoint.read_bytes()[:length])
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(checkpoint.parent)


def test_a_checkpoint_of_another_version_is_refused(checkpoint):
    model_file.write(checkpoint, {}, {"format": 99})
    with pytest.raises(CheckpointError, match="no checkpoint of this version"):
        read_checkpoint(checkpoint.parent)


def test_a_file_that_something_else_wrote_is_refused(checkpoint):
    from safetensors.numpy import save_file

    save_file({"w": np.zeros(3)}, checkpoint, {"other": json.dumps({})})
    with pytest.raises(CheckpointError, match="not a file that gpubp wrote"):
        read_checkpoint(checkpoint.parent)
