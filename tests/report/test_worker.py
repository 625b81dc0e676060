"""What each part of a report takes on, on a GPU and on a device that is emulated."""

import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest

from gpubp.bench.contenders import CONTENDERS, LIMITS
from gpubp.bench.works import Primitive, TrainingStep
from gpubp.crosscheck.cases import DTYPES, Selection, covering_cases
from gpubp.report import worker
from gpubp.report.parts import Choice, Task
from gpubp.report.schema import BENCH, CHECK, PROFILE, TRAIN, validate
from gpubp.report.worker import Ledger
from gpubp.training.settings import Settings

RUNGS = ("naive", "tiled", "blocked", "pipelined", "tensorcore")


def backend(device="gpu", rungs=RUNGS):
    return SimpleNamespace(variants=rungs, stores_halves=True, tensor_doubles=True, device=device)


def kernels(cases):
    return Counter((case.primitive, case.variant, case.dtype) for case in cases)


@pytest.mark.parametrize(
    ("choice", "device", "each", "dtypes"),
    [
        (Choice(), "gpu", 2, 5),
        (Choice(quick=True), "gpu", 1, 1),
        (Choice(), "emulator", 2, 1),
        (Choice(), "virtual", 2, 1),
        (Choice(quick=True), "virtual", 1, 1),
    ],
)
def test_how_much_is_checked(choice, device, each, dtypes):
    cases = worker.cases_of(choice, backend(device))
    found = kernels(cases)
    assert max(found.values()) == each
    assert len({dtype for _, _, dtype in found}) == dtypes
    covering = kernels(Selection().cases(RUNGS, True, True))
    assert {kernel for kernel in covering if dtypes == 5 or kernel[2] == "float32"} == set(found)
    # a check that is cut short has had one of each kernel first
    assert set(kernels(cases[: len(found)]).values()) == {1}


def test_a_full_check_and_one_of_a_primitive_have_all():
    named = worker.cases_of(Choice(primitives=("bias_gradient",)), backend())
    assert sorted(map(str, named)) == sorted(map(str, covering_cases("bias_gradient", RUNGS, True)))
    assert len(worker.cases_of(Choice(full=True, primitives=("bias_gradient",)), backend())) > len(named)


def task(part, device="gpu", **choice):
    return Task(part, device, dict.fromkeys(("cupy", "numba"), device), Choice(**choice))


@pytest.fixture
def tensor_cores(monkeypatch):
    monkeypatch.setattr(worker, "_has_tensor_cores", lambda: True)


@pytest.mark.usefixtures("tensor_cores")
def test_what_is_measured_on_a_gpu():
    works = worker._measured_works(task("bench-primitives"))
    assert all(isinstance(work, Primitive) for work in works)
    assert works[0].dtype == "float32"
    assert {work.dtype for work in works} == {"float32", "tf32", "bfloat16", "float16"}
    assert {work.shape for work in works if work.dtype == "bfloat16"} == {(2048,) * 3}
    steps = worker._measured_works(task("bench-steps"))
    assert all(isinstance(work, TrainingStep) for work in steps)
    assert {"large", "tiny"} <= {work.name for work in steps}
    assert worker._measured_works(task("bench-rungs")) == [Primitive("hidden_delta", (1024,) * 3)]
    assert {work.dtype for work in worker._measured_works(task("bench-steps", full=True))} >= set(DTYPES)


@pytest.mark.usefixtures("tensor_cores")
@pytest.mark.parametrize("choice", [{"quick": True}, {}])
def test_a_report_of_a_device_that_is_emulated_measures_little(choice):
    for part in ("bench-primitives", "bench-steps"):
        works = worker._measured_works(task(part, "virtual", **choice))
        assert {work.dtype for work in works} == {"float32"}
        assert max(work.size for work in works) <= 512


def test_named_primitives_alone_are_measured():
    works = worker._measured_works(task("bench-primitives", "virtual", primitives=("cast", "update")))
    assert {work.name for work in works} == {"update"}


def test_who_is_measured():
    on_gpu = worker._contenders(task("bench-steps"), True)
    assert {"numpy", "cupy", "cupy-graph", "numba", "torch", "torch-graph", "cublas", "cublaslt"} <= set(on_gpu)
    assert "torch-compiled" not in on_gpu
    assert "torch-compiled" in worker._contenders(task("bench-steps", full=True), True)
    assert not any(CONTENDERS[key].settings.get("variant") for key in on_gpu)
    emulated = worker._contenders(task("bench-steps", "virtual"), False)
    assert {CONTENDERS[key].device for key in emulated} == {"cpu"}
    alone = worker._contenders(task("bench-steps", backends=("numba",)), True)
    assert "numba" in alone
    assert not {"cupy", "cupy-graph"} & set(alone)


def test_the_rungs_are_measured_beside_cublas_and_on_a_gpu_alone():
    found = worker._contenders(task("bench-rungs"), True)
    assert found[-1] == "cublas"
    assert {f"{name}-{rung}" for name in ("cupy", "numba") for rung in RUNGS[:-1]} == set(found[:-1])
    assert worker._contenders(task("bench-rungs", "emulator"), False) == []


class Clock:
    """A ledger that keeps nothing, and whose time is up after some questions."""

    def __init__(self, path, left=float("inf")):
        self.complete = True
        self._left = left

    @property
    def time_is_up(self):
        self._left -= 1
        return self._left < 0

    def keep(self, make):
        make()


@pytest.fixture
def measured(monkeypatch):
    """What the bench was asked for; it measures nothing."""
    from gpubp.bench import bench_command
    from gpubp.bench.results import BenchResult, Record

    asked = []

    def run(choice, effort, *, chosen_works, progress, keep, time_is_up):
        asked.append((choice, effort, chosen_works))
        done = [work for work in chosen_works if not time_is_up()]
        records = tuple(Record(work, "numpy", (1.0,)) for work in done)
        keep(BenchResult("now", {}, 1, 1, 1.0, records[:1]))
        return BenchResult("now", {}, 1, 1, 1.0, records)

    monkeypatch.setattr(bench_command, "run", run)
    return asked


@pytest.mark.usefixtures("tensor_cores")
def test_a_bench_that_is_cut_short_says_so(measured):
    ledger = Clock(None)
    found = worker.perform(task("bench-primitives"), ledger, print)
    assert ledger.complete
    assert found["rehearsed"] == []
    ledger = Clock(None, left=3)
    found = worker.perform(task("bench-primitives"), ledger, print)
    assert not ledger.complete
    assert len(found["measured"]["records"]) == 3


def test_on_a_device_that_is_emulated_the_bench_is_rehearsed(measured, monkeypatch):
    from gpubp.bench import rehearsal

    asked = []

    def rehearse(contender, works, progress, time_is_up):
        asked.append((contender.key, [work.title for work in works]))
        yield rehearsal.Rehearsal(works[0], contender.key, "")

    monkeypatch.setattr(rehearsal, "rehearse", rehearse)
    found = worker.perform(task("bench-rungs", "virtual"), Clock(None), print)
    validate(found, BENCH)
    assert found["measured"] is None
    assert measured == []
    assert [key for key, _ in asked] == [f"{b}-{r}-on-virtual" for b in ("cupy", "numba") for r in RUNGS[:-1]]
    assert {tuple(titles) for _, titles in asked} == {("hidden_delta 64x64x64 float32",)}
    asked.clear()
    found = worker.perform(task("bench-steps", "virtual", backends=("cupy",)), Clock(None), print)
    assert [key for key, _ in asked] == ["cupy-on-virtual", "cupy-graph-on-virtual", "numba-on-virtual"]
    ((choice, _, _),) = measured
    assert not {"cupy", "numba"} & set(choice.contenders)


def test_no_contender_of_a_result_is_on_a_device_that_is_emulated():
    from gpubp.bench.contenders import EVERYONE, REHEARSED

    assert {each.device for each in (CONTENDERS | LIMITS).values()} == {"cpu", "gpu"}
    assert not EVERYONE.keys() & REHEARSED.keys()


def test_a_check_that_is_cut_short_keeps_what_it_had(monkeypatch):
    from gpubp import backends
    from gpubp.crosscheck import runner
    from gpubp.crosscheck.comparator import Comparison
    from gpubp.crosscheck.runner import Outcome

    def run_cases(cases, name, device, *, jobs):
        assert jobs == 3
        for number, case in enumerate(cases):
            if number == 1:
                yield Outcome(case, faults=("died",))
            else:
                yield Outcome(case, {"out": Comparison(True, 0.5, (0,), 1.0, 1.0, 0.1)})

    monkeypatch.setattr(backends, "get", lambda name, device: backend(device))
    monkeypatch.setattr(runner, "run_cases", run_cases)
    ledger = Clock(None, left=4)
    found = worker.perform(task("check-cupy", "emulator", jobs=3), ledger, print)
    found = json.loads(json.dumps(worker.finite(found)))
    validate(found, CHECK)
    assert (found["cases"], found["failed"]) == (5, 1)
    assert found["chosen"] > 5
    assert not ledger.complete
    (failure,) = found["failures"]
    assert failure["complaint"] == "died"
    assert failure["command"].startswith("gpubp check --backend cupy --device emulator --case ")


def test_a_training_says_what_it_reached_and_how_fast():
    settings = Settings(data="digits", layers="16", epochs=worker.EPOCHS, batch_size=128, lr=0.02, backend="numpy")
    said = []
    row, rate = worker._trained(settings, said.append)
    assert row.epoch == worker.EPOCHS
    assert row.test_accuracy > 0.5
    assert rate > 0
    assert [line.split(",")[0] for line in said] == ["epoch 1 of 2", "epoch 2 of 2"]


@pytest.mark.parametrize(("device", "loss", "matches"), [("gpu", 0.5001, True), ("virtual", 0.51, False)])
def test_a_training_is_compared_with_numpy(monkeypatch, device, loss, matches):
    asked = []

    def trained(settings, progress):
        asked.append(settings)
        return SimpleNamespace(test_loss=0.5 if settings.backend == "numpy" else loss, test_accuracy=0.9), 1234.5

    monkeypatch.setattr(worker, "_trained", trained)
    found = worker.perform(task("train-cupy", device), Clock(None), print)
    validate(found, TRAIN)
    assert found["matches"] is matches
    assert found["examples_per_second"] == (1234.5 if device == "gpu" else None)
    own, reference = asked
    assert (own.backend, own.device) == ("cupy", device)
    assert replace(own, backend="numpy", device="cpu") == reference


@pytest.mark.slow
def test_a_profile_that_is_cut_short_has_the_first_primitives():
    ledger = Clock(None, left=1)
    found = worker.perform(task("profile", "emulator", primitives=("bias_gradient", "update")), ledger, print)
    validate(json.loads(json.dumps(found)), PROFILE)
    assert [(each["title"], each["kernels_of"]) for each in found["profiles"]] == [("bias_gradient", "cupy")]
    assert not ledger.complete


def test_the_ledger_writes_whole_files_and_no_number_that_is_none(tmp_path):
    path = tmp_path / "result.json"
    ledger = Ledger(path, 0.0)
    assert ledger.time_is_up
    assert not Ledger(path, 60.0).time_is_up
    ledger.keep(lambda: {"share": float("inf")})
    ledger.keep(lambda: pytest.fail("twice in a second"))
    assert json.loads(path.read_text()) == {"finished": False, "complete": True, "result": {"share": None}, "error": ""}
    ledger.complete = False
    ledger.write(finished=True, result={"found": 1})
    assert json.loads(path.read_text()) == {"finished": True, "complete": False, "result": {"found": 1}, "error": ""}
