"""A bench that runs in this process, on tiny shapes, and draws nothing."""

import json

import pytest

from gpubp import machine
from gpubp.backends.detection import Availability
from gpubp.bench import peaks as limits
from gpubp.bench import runners, turns, worker
from gpubp.bench.turns import WorkerError
from gpubp.bench.worker import Worker


class InProcess:
    """Answers as `turns.Process` does, without a process."""

    def __init__(self, contender, threads):
        self.contender = contender
        self.worker = Worker(contender, threads)
        self.asked = []

    def ask(self, **request):
        self.asked.append(request["do"])
        answer = json.loads(json.dumps(self.worker.answer(json.loads(json.dumps(request)))))
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer["ok"]

    def close(self):
        self.asked.append("close")


@pytest.fixture
def in_process(monkeypatch):
    """Contenders work in this process, and limits are measured on small arrays; gives the contenders' stand-ins."""
    opened = []

    def open_one(contender, threads):
        opened.append(InProcess(contender, threads))
        return opened[-1]

    monkeypatch.setattr(turns, "Process", open_one)
    monkeypatch.setattr(worker, "settle", lambda: None)
    # of all the objects that a test process holds, for a few small arrays
    monkeypatch.setattr(worker.gc, "collect", lambda: 0)
    monkeypatch.setattr(runners, "MAX_COPIES", 2)
    monkeypatch.setitem(limits.SIDES, "cpu", {"product": 16, "copy": 64})
    numpy = Availability("numpy", "cpu", True, "NumPy")
    found = machine.MachineInfo(
        "3.11", "Linux", "a processor", 2, 2**30, "", (), "no driver", {}, (numpy,), "numpy on cpu"
    )
    monkeypatch.setattr(machine, "look", lambda: found)
    return opened
