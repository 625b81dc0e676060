"""What would be measured on a GPU is done once on a device that is emulated, and judged; it is never timed."""

from typing import ClassVar

import pytest

from gpubp.bench import rehearsal, turns
from gpubp.bench.contenders import REHEARSED
from gpubp.bench.results import BenchResult
from gpubp.bench.works import STEPS, Primitive
from gpubp.errors import DataError

SMALL = Primitive("bias_gradient", (8, 4))


class Scripted:
    """A process that answers as told."""

    asked: ClassVar[list] = []
    answers: ClassVar[dict] = {}

    def __init__(self, contender, threads):
        self.contender = contender
        self.asked.append("start")

    def ask(self, **request):
        self.asked.append(request["do"])
        answer = self.answers.get(request["do"])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self):
        self.asked.append("end")


@pytest.fixture
def scripted(monkeypatch):
    monkeypatch.setattr(rehearsal, "Process", Scripted)
    monkeypatch.setattr(Scripted, "asked", [])
    monkeypatch.setattr(Scripted, "answers", {})
    return Scripted


def rehearse(*works, **options):
    return [each.fault for each in rehearsal.rehearse(REHEARSED["cupy-on-virtual"], works, **options)]


def test_a_work_is_made_and_judged_and_not_timed(scripted):
    scripted.answers = {"fault": ""}
    assert rehearse(SMALL) == [""]
    assert scripted.asked == ["start", "make", "fault", "end"]


def test_a_wrong_result_and_an_error_are_faults_and_the_next_work_has_its_turn(scripted):
    scripted.answers = {"fault": "off by one"}
    assert rehearse(SMALL) == ["wrong: off by one"]
    scripted.answers = {"make": turns.WorkerError("no events"), "fault": ""}
    assert rehearse(SMALL, SMALL) == ["no events", "no events"]
    scripted.answers = {"losses": [9.0] * turns.CHECKED_STEPS}
    (fault,) = rehearse(STEPS["tiny"])
    assert fault.startswith("wrong: the loss at step 1 is 9, not ")


def test_a_work_that_a_contender_does_not_do_is_passed_over(scripted):
    tiled = REHEARSED["numba-tiled-on-virtual"]
    assert list(rehearsal.rehearse(tiled, [SMALL])) == []


def test_no_work_is_begun_when_the_time_is_up(scripted):
    assert rehearse(SMALL, time_is_up=lambda: True) == []
    assert scripted.asked == ["start", "end"]


def test_whose_turn_it_is():
    keys = [each.key for each in rehearsal.contenders("cupy", "virtual")]
    assert keys == ["cupy-on-virtual", "cupy-graph-on-virtual"]
    keys = [each.key for each in rehearsal.contenders("numba", "emulator", ("naive", "tiled"))]
    assert keys == ["numba-naive-on-emulator", "numba-tiled-on-emulator"]
    for each in REHEARSED.values():
        assert each.settings["device"] == each.device


def test_a_result_with_times_of_an_emulated_device_is_refused():
    text = BenchResult("2026-01-02T03:04:05+00:00", {}, 1, 1, 0.1, ()).to_json()
    record = '{"work": %s, "contender": "cupy-on-virtual", "seconds": [1.0], "fault": ""}'
    work = '{"kind": "primitive", "name": "bias_gradient", "shape": [8, 4], "dtype": "float32"}'
    with pytest.raises(DataError, match="contender was 'cupy-on-virtual'"):
        BenchResult.from_json(text.replace('"records": []', f'"records": [{record % work}]'))


@pytest.mark.slow
def test_a_rehearsal_on_the_emulated_device():
    """In the contender's own process."""
    found = list(rehearsal.rehearse(REHEARSED["cupy-on-emulator"], [SMALL, STEPS["tiny"]]))
    assert [(each.work, each.contender, each.fault) for each in found] == [
        (SMALL, "cupy-on-emulator", ""),
        (STEPS["tiny"], "cupy-on-emulator", ""),
    ]
