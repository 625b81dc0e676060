"""A rank that fails ends all, with its name and its reason; the last checkpoint is whole."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import mpi
import numpy as np
import pytest
import stopping
import trainings

from gpubp.distributed import launcher
from gpubp.nn import model_file
from gpubp.nn.network import Network
from gpubp.training.checkpoint import CHECKPOINT_FILE, Checkpoint
from gpubp.training.loop import fit

PROGRAM = Path(stopping.__file__)
TRAIN = ("-m", "gpubp", "train", "--backend", "numpy", "--layers", "16", "--batch-size", "64")


IN_A_TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
"""Runs its words in a terminal of their own, as Open MPI does."""


def end_one(folder, number, how):
    folder.mkdir()
    return mpi.run(3, PROGRAM, folder, number, how, timeout=60)


def test_an_exception_ends_all_ranks(tmp_path):
    ended = end_one(tmp_path / "run", 1, "raises")
    assert ended.returncode != 0
    assert "came to the end" not in ended.stdout
    assert "ZeroDivisionError" in ended.stderr
    assert "error: rank 1 of 3 on " in ended.stderr
    assert "division by zero" in ended.stderr
    assert Checkpoint.read(tmp_path / "run").epoch == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "how", "told"),
    [(2, "refuses", "the disk is full"), (0, "exits", "SystemExit: 7"), (2, "vanishes", ""), (0, "is killed", "")],
)
def test_the_end_of_one_rank_ends_all(tmp_path, number, how, told):
    ended = end_one(tmp_path / "run", number, how)
    assert ended.returncode != 0
    assert "came to the end" not in ended.stdout
    if told:
        assert f"error: rank {number} of 3 on " in ended.stderr
        assert told in ended.stderr
        assert "Traceback" not in ended.stderr
    found = Checkpoint.read(tmp_path / "run")
    assert (found.epoch, found.batch) == (2, 0)


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all_after_the_same_batch_and_one_process_goes_on(tmp_path):
    ended = end_one(tmp_path / "run", 2, "hears a signal")
    assert ended.returncode != 0
    assert "ended all" not in ended.stderr
    assert "came to the end" not in ended.stdout
    found = Checkpoint.read(tmp_path / "run")
    assert (found.epoch, found.batch) == (2, 1)
    results = []
    for resume in (True, False):
        network = Network([6, 10, 3], backend="numpy")
        folder = tmp_path / "run" if resume else None
        results.append(fit(network, trainings.dataset(), stopping.CONFIG, folder=folder, resume=resume))
    resumed, whole = results
    for name, array in whole.model.network.weights().items():
        np.testing.assert_allclose(resumed.model.network.weights()[name], array, rtol=0, atol=1e-5, err_msg=name)
    assert resumed.row.train_loss == pytest.approx(whole.row.train_loss, abs=1e-5)


def test_what_is_wrong_for_all_ranks_is_said_once(tmp_path):
    ended = mpi.run(2, *TRAIN, "--lr", "-1", cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.count("error: --lr was -1.0; it must be a finite number > 0") == 1
    assert list(tmp_path.iterdir()) == []


def test_ranks_in_a_terminal_of_their_launcher_write_plain_lines(tmp_path):
    words = ("--epochs", "1", "--out", str(tmp_path / "run"))
    ended = mpi.run(2, "-c", IN_A_TERMINAL, sys.executable, *TRAIN, *words)
    assert ended.returncode == 0, ended.stderr
    assert "epoch 1/1" in ended.stdout
    assert "\x1b" not in ended.stdout


@pytest.mark.parametrize(
    ("option", "values", "told"),
    [
        ("--backend", ("numpy", "cpu"), "the backend is cpu on cpu on rank 1, and numpy on cpu on rank 0"),
        ("--batch-size", ("32", "16"), "the training's batch_size is 16 on rank 1, and 32 on rank 0"),
        ("--dropout", ("0", "0.5"), "the network's dropout is [0.5] on rank 1, and None on rank 0"),
    ],
)
def test_ranks_that_would_train_otherwise_are_refused_and_nothing_is_written(tmp_path, option, values, told):
    words = (sys.executable, *TRAIN, "--out", "run", option)
    command = (mpi.launcher(), "-n", "1", *words, values[0], ":", "-n", "1", *words, values[1])
    options = {"stdin": mpi.SILENCE, "capture_output": True, "text": True, "timeout": 60}
    ended = subprocess.run(command, env=mpi.ENVIRONMENT, cwd=tmp_path, **options)
    assert ended.returncode == 2
    assert ended.stderr.count(f"error: {told}") == 1
    assert list(tmp_path.iterdir()) == []


# --- runs of the command line -----------------------------------------------------------------------------------------
@contextmanager
def trained_for_two_epochs(*command):
    """Start a training, and yield its process once it has trained for two epochs."""
    output = {"stdin": mpi.SILENCE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, env=mpi.ENVIRONMENT, **output) as process:
        told = ""
        for line in process.stdout:
            told += line
            if line.startswith("epoch") and line.removeprefix("epoch").lstrip().startswith("2/"):
                break
        else:
            pytest.fail(told)
        yield process


def ranks_of(folder):
    """The processes that train into a folder, without their launchers."""
    words = {path.parent: path.read_bytes().split(b"\0") for path in Path("/proc").glob("[0-9]*/cmdline")}
    python = str(sys.executable).encode()
    return [int(at.name) for at, found in words.items() if found[0] == python and str(folder).encode() in found]


def state_of(folder):
    return model_file.read(Path(folder) / CHECKPOINT_FILE)[0]


@pytest.mark.exhaustive
def test_ctrl_c_saves_once_and_another_number_of_ranks_goes_on(tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    words = (*TRAIN, "--epochs", "8", "--dtype", "float64", "--patience", "20")
    assert mpi.run(1, *words, "--out", whole).returncode == 0
    with trained_for_two_epochs(sys.executable, *words, "--out", str(stopped), "--ranks", "2") as process:
        process.send_signal(signal.SIGINT)
        told = process.stdout.read()
        assert process.wait() == 128 + signal.SIGINT
    assert "stopped " in told
    assert Checkpoint.read(stopped).epoch < 8
    ended = mpi.run(3, "-m", "gpubp", "train", "--resume", stopped)
    assert ended.returncode == 0, ended.stderr
    for name, array in state_of(whole).items():
        np.testing.assert_allclose(state_of(stopped)[name], array, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(24))
def test_a_rank_killed_at_any_moment_leaves_a_whole_checkpoint(tmp_path, seed):
    moment = random.Random(seed)
    words = (*TRAIN, "--epochs", "400", "--out", str(tmp_path / "run"))
    with trained_for_two_epochs(*mpi.command(3, *words)) as process:
        own = ranks_of(tmp_path / "run")
        assert len(own) == 3
        time.sleep(moment.random())
        os.kill(own[seed % 3], signal.SIGKILL)
        process.stdout.read()
        assert process.wait(timeout=60) != 0
        assert not any(Path(f"/proc/{each}").exists() for each in own)
    found = Checkpoint.read(tmp_path / "run")
    assert found.epoch >= 2
    ended = mpi.run(2, "-m", "gpubp", "train", "--resume", tmp_path / "run", "--epochs", found.epoch + 1)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("code", [signal.SIGUSR1, 128 + signal.SIGUSR1, -signal.SIGUSR1])
def test_a_signal_while_ranks_are_being_started_is_told_as_the_signal(tmp_path, monkeypatch, code):
    """MPICH's launcher ends with the number of the signal that ended a rank."""
    pytest.importorskip("mpi4py")
    stand_in = tmp_path / "mpiexec"
    end = f"exit {code}" if code > 0 else "trap - USR1; kill -USR1 $$"
    stand_in.write_text(f"#!/bin/sh\ntrap '{end}' USR1\nkill -INT $PPID\nwhile :; do sleep 0.05; done\n")
    stand_in.chmod(0o700)
    monkeypatch.setattr(launcher, "_launcher", lambda: str(stand_in))
    assert launcher.launch(2, ()) == 128 + signal.SIGINT
