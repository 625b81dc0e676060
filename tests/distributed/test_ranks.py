"""What ranks do with what MPI tells them, here by a communicator that knows the answers."""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from gpubp.cli import app
from gpubp.distributed import launcher, nccl, ranks
from gpubp.distributed.ranks import ALONE, VISIBLE, Ranks
from gpubp.emulator.cupy import nccl as emulated
from gpubp.errors import BackendError, DataError, OtherRankFailed, StateError

HOST = socket.gethostname().encode()


class Answers:
    """A communicator in which `others` have told what the other ranks tell, one a call; it notes how it was ended."""

    def __init__(self, rank, size, *others):
        self.rank, self.size, self.others, self.ended = rank, size, list(others), None

    def allgather(self, own):
        told = list(self.others.pop(0))
        told.insert(self.rank, own)
        return told

    def bcast(self, x, root):
        return x

    def Abort(self, code):
        self.ended = code


FAILS = """
import os
from gpubp.distributed.ranks import Ranks
from gpubp.errors import DataError
from test_ranks import Answers

class Aborted(Answers):
    def Abort(self, code):
        os.write(3, b"aborted")

Ranks(Aborted(2, 3)).abort(DataError("the disk is full"))
"""


def test_a_rank_ends_the_others_once_its_launcher_has_read_why(tmp_path):
    """MPICH's launcher loses what it has not read when it hears of the end: 5 of 200 ends on a busy machine."""
    printed, end = os.pipe()
    ended, other = os.pipe()
    command = ["bash", "-c", 'exec "$@" 3>&1 >/dev/null', "bash", sys.executable, "-c", FAILS]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(command, stdout=other, stderr=end, env=environment) as process:
        for each in (end, other):
            os.close(each)
        assert select.select([printed], [], [], 60)[0]
        assert not select.select([ended], [], [], 0.3)[0]
        assert os.read(printed, 1000) == b"error: rank 2 of 3 on %s ended all: the disk is full\n" % HOST
        assert os.read(ended, 1000) == b"aborted"
        assert process.wait(60) == ranks.MISUSED


@pytest.mark.parametrize("rows", [0, 1, 3, 4, 5, 32, 33, 1001])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_shares_cover_all_rows_once_and_evenly(rows, count):
    shares = [Ranks(Answers(rank, count)).share(rows) for rank in range(count)]
    found = [np.arange(rows)[share] for share in shares]
    np.testing.assert_array_equal(np.concatenate(found), np.arange(rows))
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_one_process_is_alone_whatever_it_calls():
    x = np.arange(3.0)
    ALONE.add_up(x)
    assert (x.tolist(), ALONE.total(2.5), ALONE.largest(3), ALONE.gather("a"), ALONE.from_first("b")) == (
        [0, 1, 2], 2.5, 3, ["a"], "b",
    )  # fmt: skip
    with pytest.raises(DataError, match=r"^gone$"), ALONE.agreed():
        raise DataError("gone")


def test_the_first_rank_that_failed_tells_and_the_others_only_end():
    with pytest.raises(DataError, match=r"^gone$"), Ranks(Answers(0, 3, [False, True])).agreed():
        raise DataError("gone")
    with pytest.raises(BackendError, match=r"^rank 1 of 3 on .*: gone$"), Ranks(Answers(1, 3, [False, True])).agreed():
        raise DataError("gone")
    with pytest.raises(OtherRankFailed), Ranks(Answers(2, 3, [False, True])).agreed():
        raise DataError("gone")
    with pytest.raises(OtherRankFailed), Ranks(Answers(2, 3, [False, True])).agreed():
        pass
    with Ranks(Answers(2, 3, [False, False])).agreed():
        pass


def test_ranks_that_differ_are_named():
    with pytest.raises(BackendError, match=r"^the backend is cpu on rank 2, and cupy on rank 0$"):
        Ranks(Answers(0, 3, [{"the backend": "cupy"}, {"the backend": "cpu"}])).require_same({"the backend": "cupy"})
    with pytest.raises(BackendError, match=r"^dropout is \[0.5\] on rank 1, and None on rank 0$"):
        Ranks(Answers(0, 2, [{"seed": 0, "dropout": [0.5]}])).require_same({"seed": 0})
    with pytest.raises(OtherRankFailed):
        Ranks(Answers(1, 2, [{"seed": 1}])).require_same({"seed": 0})


@pytest.mark.parametrize(
    ("given", "taken"), [(None, "1"), ("4,5,6", "5"), ("2", "2"), ("GPU-aa,GPU-bb", "GPU-bb"), ("", "")]
)
def test_the_second_rank_of_a_machine_takes_its_second_gpu(monkeypatch, given, taken):
    monkeypatch.setenv(VISIBLE, "" if given is None else given)
    if given is None:
        monkeypatch.delenv(VISIBLE)
    communicator = Answers(2, 4)
    here = Ranks(communicator)
    communicator.others = [["another", here.host, "another"]]
    ranks._take_own_gpu(here)
    assert os.environ[VISIBLE] == taken


def test_two_ranks_on_one_gpu_are_refused(monkeypatch):
    monkeypatch.setenv(VISIBLE, "3")
    communicator = Answers(0, 3)
    here = Ranks(communicator)
    communicator.others = [[("another", "b"), (here.host, "a")], [("another", "b"), (here.host, "c")]]
    with pytest.raises(BackendError, match=f"^ranks 0 and 2 on {here.host} have one GPU, a; {VISIBLE} is 3 for rank 0"):
        here.require_own_gpus("a")
    here.require_own_gpus("a")  # each process may be shown its own GPU under the number 3


# --- started by a launcher --------------------------------------------------------------------------------------------
def joins(monkeypatch, **environment):
    """What a process says that joins the ranks in this environment."""
    script = "from gpubp.distributed.ranks import join\nprint(join())"
    clean = {name: value for name, value in os.environ.items() if name not in ranks.LAUNCHED}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], env={**clean, **environment}, capture_output=True, text=True
    )


def test_a_process_that_no_launcher_started_does_not_load_mpi(monkeypatch):
    for name in ranks.LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert ranks.join() is ALONE


@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({}, 1), ({"SLURM_STEP_NUM_TASKS": "4"}, 1), ({"PMI_SIZE": "1"}, 1), ({"PMI_SIZE": "3"}, 3),
        ({"OMPI_COMM_WORLD_SIZE": "2", "PMIX_RANK": "0"}, 2), ({"PMIX_RANK": "0"}, None),
        ({"PMIX_RANK": "0", "SLURM_STEP_NUM_TASKS": "1"}, 1), ({"PMIX_RANK": "3", "SLURM_STEP_NUM_TASKS": "4"}, 4),
    ],
)  # fmt: skip
def test_the_only_process_of_a_launcher_is_alone_and_needs_no_mpi(monkeypatch, environment, count):
    for name in (*ranks.LAUNCHED, ranks.SLURM_SIZE):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert ranks.launched_together() == count
    if count == 1:
        assert ranks.join() is ALONE
        ranks.require_one_process("gpubp bench")
    else:
        with pytest.raises(BackendError, match="mpi4py cannot be used"):
            ranks.join()


@pytest.mark.parametrize(("number", "error"), [("0", StateError), ("1", OtherRankFailed)])
@pytest.mark.parametrize("words", [("bench",), ("export", "run", "--to", "onnx"), ("train", "--find-lr")])
def test_what_is_for_one_process_is_refused_and_said_by_rank_0(monkeypatch, number, error, words):
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setenv("PMI_RANK", number)
    ended = CliRunner().invoke(app, words)
    assert ended.exit_code == 2
    said = ended.stderr.count("was given to a launcher of MPI; it must run in one process, without a launcher")
    assert said == (error is StateError)


def test_a_launcher_without_mpi4py_is_told(monkeypatch):
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(BackendError, match=r"mpi4py cannot be used: .*; pip install 'gpubp\[mpi\]'"):
        ranks.join()


def test_the_launcher_of_another_mpi_is_told(monkeypatch):
    ended = joins(monkeypatch, OMPI_COMM_WORLD_SIZE="2")
    assert "BackendError: the launcher is of another MPI than the one that mpi4py found, MPICH" in ended.stderr


def test_several_ranks_without_a_launcher_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendError, match="there is no mpiexec or mpirun; pip install"):
        launcher.launch(2, ["train"])


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (3, 3), (128 + signal.SIGUSR1, 143)])
def test_the_launcher_is_asked_to_stop_by_the_signal_that_it_passes_on(monkeypatch, tmp_path, code, expected):
    mpiexec = tmp_path / "mpiexec"
    mpiexec.write_text(
        f"#!/bin/sh\ntrap 'echo asked > {tmp_path}/asked; exit {code}' USR1\n"
        f"kill -TERM {os.getpid()}\nwhile :; do sleep 0.01; done\n"
    )
    mpiexec.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert launcher.launch(2, ["train"]) == expected
    assert (tmp_path / "asked").exists()


def test_the_ranks_are_asked_to_stop_when_the_process_that_started_them_is_killed(tmp_path):
    mpiexec = tmp_path / "mpiexec"
    mpiexec.write_text(
        f"#!/bin/sh\ntrap 'echo asked > {tmp_path}/asked; exit' USR1\n"
        f"echo started > {tmp_path}/started\nfor each in $(seq 1000); do sleep 0.01; done\n"
    )
    mpiexec.chmod(0o755)
    script = f"import sys\nsys.executable = {str(tmp_path / 'python')!r}\n"
    script += "from gpubp.distributed import launcher\nlauncher.launch(2, ['train'])"
    with subprocess.Popen([sys.executable, "-c", script]) as process:
        wait_for(tmp_path / "started")
        process.kill()
    wait_for(tmp_path / "asked")


def wait_for(path):
    """Wait until a file is there; it fails after five seconds."""
    for _ in range(500):
        if path.exists():
            return
        time.sleep(0.01)
    pytest.fail(f"there is no {path.name}")


# --- NCCL -------------------------------------------------------------------------------------------------------------
def test_nccl_is_told_what_keeps_bits_but_for_what_the_user_said(monkeypatch):
    made = []
    monkeypatch.setattr(emulated, "NcclCommunicator", lambda *arguments: made.append(arguments))
    for name in nccl.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NCCL_NVLS_ENABLE", "1")
    nccl.DeviceSum(Ranks(Answers(1, 3)), "emulator")
    assert made == [(3, None, 1)]
    assert os.environ["NCCL_NVLS_ENABLE"] == "1"
    assert os.environ["NCCL_RUNTIME_CONNECT"] == "0"


def test_there_is_no_nccl_on_the_virtual_device():
    with pytest.raises(BackendError, match="several ranks cannot train on device 'virtual'"):
        nccl.module("virtual")
