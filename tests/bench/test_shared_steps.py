"""`gpubp bench --ranks`: what is measured, by jobs that a stand-in for the launcher of MPI ends as it is told."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import mpi
import pytest
import shared_steps
from typer.testing import CliRunner

from gpubp.backends import detection
from gpubp.backends.detection import Availability
from gpubp.bench import bench_command, jobs, own, pictures, rank_worker, scaling_tables, works
from gpubp.bench.contenders import CONTENDERS, EVERYONE, REHEARSED
from gpubp.bench.own import SharedStepper
from gpubp.bench.results import BenchResult, Record
from gpubp.bench.runners import Stepper
from gpubp.bench.turns import CHECKED_STEPS
from gpubp.bench.works import STEPS, SharedStep, TrainingStep
from gpubp.cli import app
from gpubp.distributed.ranks import ALONE, Ranks
from gpubp.errors import ArgumentError, BackendError, DataError

NOW = "2026-01-01T00:00:00+00:00"
TINY = STEPS["tiny"]
ONE = SharedStep(TINY, 1)


# --- works ------------------------------------------------------------------------------------------------------------
def test_each_number_of_ranks_has_the_same_batch_and_as_many_times_the_rows():
    found = works.shared([TINY], [4, 2, 2, 1])
    assert [(each.ranks, each.step.rows) for each in found] == [(1, 32), (2, 32), (2, 64), (4, 32), (4, 128)]
    assert [works.from_dict(json.loads(json.dumps(each.to_dict()))) for each in found] == found
    assert found[3].share.rows == 8
    assert found[3].flops == TINY.flops
    assert found[0].costs == TINY.costs
    assert SharedStep(TrainingStep("odd", (4, 2), 9), 2).share.rows == 5


@pytest.mark.parametrize("ranks", [0, -1, 1.5, True, 1025, 33])
def test_a_wrong_number_of_ranks_is_told(ranks):
    with pytest.raises(ArgumentError, match=f"ranks was {ranks}; it must be"):
        SharedStep(TINY, ranks)


# --- figures ----------------------------------------------------------------------------------------------------------
STRONG = Record(SharedStep(TINY, 4), "numpy", (0.02, 0.04, 0.03), all_reduce=(0.01, 0.02, 0.015))
WEAK = Record(works.shared([TINY], [4])[2], "numpy", (0.08, 0.08, 0.08), all_reduce=(0.008, 0.008, 0.009))
BASE = Record(ONE, "numpy", (0.06, 0.07, 0.05))


def result(*records, **changes):
    fields = {"made": NOW, "machine": {"cores": 2}, "threads": 1, "repeats": 3, "seconds": 0.1}
    return BenchResult(**fields | changes, records=records)


def test_speed_up_efficiency_and_share_by_hand():
    other = Record(SharedStep(TINY, 4), "cpu", (1.0,), all_reduce=(0.5,))  # of another, without one rank
    found = result(BASE, STRONG, WEAK, other).scalings
    assert [(each.kind, each.ranks) for each in found] == [("strong", 1), ("strong", 4), ("weak", 1), ("weak", 4)]
    _, strong, one, weak = found
    assert (strong.speed_up, strong.efficiency) == (pytest.approx(0.06 / 0.03), pytest.approx(0.5))
    assert (strong.all_reduce, strong.share) == (0.015, pytest.approx(0.5))
    # four times the rows in 0.08 s, where one rank has them once in 0.06 s
    assert (weak.speed_up, weak.efficiency) == (pytest.approx(3.0), pytest.approx(0.75))
    assert weak.share == pytest.approx(0.1)
    assert (one.speed_up, one.efficiency, one.all_reduce, one.share) == (1, 1, None, None)


def test_a_share_above_all_of_the_step_is_explained():
    """The all-reduce is timed in steps of its own, which a busy machine may make longer than the others."""
    longer = replace(STRONG, all_reduce=(0.05, 0.05, 0.05))
    assert scaling_tables.STEPS_DIFFER in scaling_tables.notes(result(BASE, longer))
    assert scaling_tables.STEPS_DIFFER not in scaling_tables.notes(result(BASE, STRONG, WEAK))


@pytest.mark.parametrize(
    "records",
    [(BASE, Record(SharedStep(TINY, 4), "numpy", fault="gone")), (Record(ONE, "numpy", fault="gone"), STRONG)],
)
def test_without_one_of_the_times_there_is_no_speed_up(records):
    found = result(*records).scalings[1]
    assert (found.speed_up, found.efficiency) == (None, None)


def test_a_result_is_read_as_it_was_written():
    whole = result(BASE, STRONG, WEAK)
    assert BenchResult.from_json(whole.to_json()) == whole
    shown = json.loads(whole.to_json())["scalings"]
    assert shown[1] == {
        "scaling": "strong", "contender": "numpy", "network": "tiny", "dtype": "float32", "rows": 32, "ranks": 4,
        "all_reduce": 0.015, "speed_up": 2, "efficiency": 0.5, "share": 0.5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.update(all_reduce=["x"]), "all_reduce was 'x'"),
        (lambda record: record.update(all_reduce=3), "all_reduce was 3; it must be a list"),
        (lambda record: record.update(seconds=[], fault="gone"), "numpy has all_reduce and no seconds"),
        (lambda record: record["work"].update(ranks=33), "ranks was 33"),
        (lambda record: record["work"].update(ranks="2"), "ranks was '2'"),
        (lambda record: record["work"].update(step=3), "damaged"),
        (lambda record: record["work"]["step"].update(kind="limit", name="product", side=3), "a field of a limit"),
        (lambda record: record["work"].update(step={"kind": "limit", "name": "copy", "side": 3}), "step is a Limit"),
        (lambda record: record["work"].pop("ranks"), "damaged"),
    ],
)
def test_no_value_of_a_file_is_taken_unjudged(change, message):
    values = json.loads(result(BASE, STRONG).to_json())
    change(values["records"][1])
    with pytest.raises(DataError, match=message):
        BenchResult.from_json(json.dumps(values))


# --- a rank -----------------------------------------------------------------------------------------------------------
class Others:
    """A communicator of two ranks; `told` is what the other one gathers, by turns."""

    rank, size = 0, 2

    def __init__(self, told):
        self.told = iter(told)

    def allgather(self, own):
        return [own, next(self.told)]


def test_the_slowest_rank_counts_and_the_shortest_all_reduce(monkeypatch):
    monkeypatch.setattr(Ranks, "total", lambda self, x: x)
    calls, elapsed = [], iter([0.5, 0.3, 0.7])
    made = SharedStepper(
        Stepper(lambda: calls.append("step"), lambda: float(len(calls))),
        lambda call: (call(), next(elapsed))[1],
        lambda: calls.append("wait"),
        lambda: [0.2],
    )
    # seconds of one step; then of two turns of two steps each, with the other rank's all-reduces behind each
    others = Ranks(Others([0.4, 0.5, [0.1], [0.3], 0.6, [0.4], [0.5]]))
    found = rank_worker.measure(ONE, lambda work: made, others, repeats=2, budget=1.0, losses=3)
    assert found.seconds == [0.25, 0.35]  # the other's 0.5 s, then this rank's 0.7 s, for two steps
    assert found.all_reduce == [pytest.approx(0.15), pytest.approx(0.2)]
    assert found.losses == [1.0, 2.0, 3.0]
    assert calls.count("step") == 3 + rank_worker.WARM_UP + 1 + 2 * 2


def test_one_rank_has_no_all_reduce():
    found = rank_worker.measure(
        ONE, lambda work: own.shared(work, ALONE), ALONE, repeats=3, budget=1e-4, losses=CHECKED_STEPS
    )
    assert len(found.seconds) == 3
    assert found.all_reduce == []
    assert found.losses == pytest.approx(own.reference_losses(TINY, CHECKED_STEPS), rel=1e-3)


def test_the_all_reduce_is_timed_within_a_step_and_then_left_alone(monkeypatch):
    class Doubled(Ranks):
        """Two ranks, of which the other has the same gradient."""

        def add_up(self, x):
            x *= 2

    monkeypatch.setattr(own, "on_host", lambda call: (call(), 0.25)[1])
    made = own.shared(SharedStep(TINY, 2), Doubled(Others([])))
    assert made.all_reduce() == [0.25]
    backend = own._backend("numpy", None)
    assert "all_reduce" not in vars(backend)


def test_an_emulated_device_takes_no_part():
    assert {each.device for each in EVERYONE.values()} == {"cpu", "gpu"}
    assert not set(REHEARSED) & set(EVERYONE)
    able = [each.key for each in CONTENDERS.values() if each.takes(ONE) and not each.settings.get("variant")]
    assert able == ["numpy", "cpu", "cupy", "cupy-graph", "numba"]


# --- jobs -------------------------------------------------------------------------------------------------------------
class Launcher:
    """Stands in for `launcher.run_job`: a job measures all its works, unless `ends` says at which it ends, and how.

    Attributes:
        jobs: (ranks, contender, rows of each work) of each job, and its threads.
        ends: by (ranks, rows): exit code and what is printed.
        signal: that comes for the ranks.
        losses: added to the right ones.
    """

    def __init__(self):
        self.jobs, self.ends, self.losses, self.signal = [], {}, 0.0, None

    def run_job(self, count, module, words, *, variables, output):
        request, answers = map(Path, words)
        asked = json.loads(request.read_text())
        self.jobs.append((count, asked["contender"], [each["step"]["rows"] for each in asked["works"]], variables))
        measured = []
        for each in map(works.from_dict, asked["works"]):
            code, told = self.ends.get((count, each.step.rows), (0, ""))
            if code:
                os.write(output, told.encode())
                return code, self.signal
            losses = [loss + self.losses for loss in own.reference_losses(each.step, asked["losses"])]
            # four ranks have no more speed than two
            seconds = [0.001 * each.step.rows / count * (1 + (count > 2))] * asked["repeats"]
            measured.append({"seconds": seconds, "all_reduce": [1e-4] * (count > 1), "losses": losses})
            answers.write_text(json.dumps(measured))
        return 0, self.signal


@pytest.fixture
def launcher(monkeypatch):
    found = Launcher()
    monkeypatch.setattr(jobs.launcher, "run_job", found.run_job)
    return found


@pytest.fixture
def bench(tmp_path, monkeypatch, in_process, launcher):
    """Runs the verb in an empty folder, with the stand-in for a launcher."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "105")  # without the column of sizes
    monkeypatch.setattr(bench_command, "_cores", lambda: 8)

    def run(*words, code=0):
        ended = CliRunner().invoke(app, ["bench", "--quick", *words])
        if ended.exception is not None and not isinstance(ended.exception, SystemExit):
            raise ended.exception
        assert ended.exit_code == code, ended.output
        return ended

    return run


ASKED = ("--ranks", "2", "--ranks", "4", "--network", "tiny", "--contender", "numpy")


def test_each_number_of_ranks_is_a_job(bench, launcher):
    out = bench(*ASKED).stdout
    assert [job[:3] for job in launcher.jobs] == [(1, "numpy", [32]), (2, "numpy", [32, 64]), (4, "numpy", [32, 128])]
    assert in_lines(out, "tiny numpy 4 32 16.0 ms 16.0 – 16.0 ms 2.00 50% 100 µs 1%")
    assert in_lines(out, "tiny numpy 4 128 64.0 ms 64.0 – 64.0 ms 2.00 50% 100 µs 0%")
    assert "strong scaling: the ranks share one batch" in out
    assert "weak scaling: each rank has a batch of the same size" in out
    assert "each rank on the CPU has 2 threads" in out  # 8 cores, 4 ranks
    assert "limits of the cpu" not in out
    assert {job[3]["OMP_NUM_THREADS"] for job in launcher.jobs} == {"2"}


def in_lines(text, words):
    return any(" ".join(line.split()).startswith(words) for line in text.splitlines())


def test_more_ranks_than_cores_are_measured_and_noted(bench):
    assert (
        "are more than the machine's 2 cores have room for: they take turns" in bench(*ASKED, "--threads", "1").stdout
    )


def test_json_is_read_again_and_compared(bench):
    text = bench(*ASKED, "--json").stdout
    found = BenchResult.from_json(text)
    assert {each.kind for each in found.scalings} == {"strong", "weak"}
    assert found.scalings[1].speed_up == pytest.approx(2)
    Path("a.json").write_text(text)
    out = bench("--ranks", "4", "--network", "tiny", "--contender", "numpy", "--compare", "a.json").stdout
    assert "shared step tiny, 4 ranks, batch 128" in out


def test_a_file_of_shared_steps_is_measured_again(bench, launcher):
    Path("a.json").write_text(bench(*ASKED, "--json").stdout)
    before = [job[:3] for job in launcher.jobs]
    launcher.jobs.clear()
    result = CliRunner().invoke(app, ["bench", "--compare", "a.json", "--contender", "numpy"])
    assert result.exit_code == 0
    assert [job[:3] for job in launcher.jobs] == before


def test_a_job_that_ends_early_leaves_a_gap_and_the_next_work_is_measured(bench, launcher):
    launcher.ends[2, 32] = (
        9,
        "hello\nYOUR APPLICATION TERMINATED WITH THE EXIT STRING: Killed (signal 9)\nsee the FAQ\n",
    )
    out = bench(*ASKED, code=1).stdout
    assert [job[2] for job in launcher.jobs if job[0] == 2] == [[32, 64], [64]]
    assert in_lines(out, "tiny numpy 2 32 failed")
    assert in_lines(out, "tiny numpy 2 64 32.0 ms")
    assert "its job of 2 ranks ended with exit code 9: Killed (signal 9)" in " ".join(out.split())


def test_what_a_rank_said_is_the_reason(launcher):
    launcher.ends[2, 32] = 2, "noise\nerror: rank 1 of 2 on here ended all: there is no GPU\nmore noise\n"
    (found,) = jobs.measure(
        [SharedStep(TINY, 2)], [CONTENDERS["numpy"]], repeats=1, seconds=0.1, threads=1, progress=lambda text: None
    )
    told = "its job of 2 ranks ended with exit code 2: rank 1 of 2 on here ended all: there is no GPU"
    assert (found.fault, found.seconds) == (told, ())


def test_one_rank_is_not_several_and_what_it_prints_may_be_no_text(monkeypatch):
    def run_job(count, module, words, *, output, **others):
        os.write(output, b"caf\xe9: no such host\n")
        return 1, None

    monkeypatch.setattr(jobs.launcher, "run_job", run_job)
    (found,) = jobs.measure([ONE], [CONTENDERS["numpy"]], repeats=1, seconds=0.1, threads=1)
    assert found.fault.startswith("its job of 1 rank ended with exit code 1: caf")
    assert found.fault.endswith(": no such host")


def test_wrong_losses_have_no_time(bench, launcher):
    launcher.losses = 0.1
    out = bench(*ASKED, code=1).stdout
    assert "wrong: the loss at step 1 is" in out
    assert out.count("failed") == 6


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_ended_a_job_ends_the_bench(monkeypatch, launcher, number):
    had = []
    monkeypatch.setattr(signal, "raise_signal", had.append)
    launcher.ends[2, 32], launcher.signal = (10, ""), number
    jobs.measure([SharedStep(TINY, 2)], [CONTENDERS["numpy"]], repeats=1, seconds=0.1, threads=1)
    assert had == [number]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--ranks", "33", "--network", "tiny"), "--ranks was 33; it must be ≤ 32, the rows of tiny's batch"),
        (("--ranks", "0"), "--ranks was 0; it must be a whole number ≥ 1"),
        (("--ranks", "1025"), "--ranks was 1025; it must be a whole number ≤ 1024"),
        (("--ranks", "2", "--primitive", "update"), "--ranks and --primitive exclude each other"),
        (("--ranks", "2", "--shape", "4x4"), "--ranks and --shape exclude each other"),
        (("--ranks", "2", "--variant", "naive"), "--ranks and --variant exclude each other"),
    ],
)
def test_what_ranks_cannot_be_asked(bench, launcher, words, told):
    ended = bench(*words, code=2)
    assert f"error: {told}" in ended.stderr
    assert ended.stdout == ""
    assert launcher.jobs == []


def test_without_mpi_it_is_told_what_to_install(bench, monkeypatch, launcher):
    def missing(*arguments, **options):
        raise BackendError("several ranks need mpi4py, which is not installed; pip install 'gpubp[mpi]'")

    monkeypatch.setattr(jobs.launcher, "run_job", missing)
    ended = bench(*ASKED, "--save", "a.json", code=2)
    assert "error: several ranks need mpi4py" in ended.stderr
    assert list(Path.cwd().iterdir()) == []


def test_the_efficiency_is_drawn(bench):
    bench(*ASKED, "--out", "drawn", "--save", "a.json")
    assert [path.name for path in Path("drawn").iterdir()] == ["scaling.png"]
    panels = pictures.scaling_panels(BenchResult.read("a.json"))
    assert [panel.title for panel in panels] == ["tiny, float32, strong scaling", "tiny, float32, weak scaling"]
    (curve,) = panels[1].curves
    assert (curve.x, curve.y) == ([1, 2, 4], pytest.approx([100, 100, 50]))


def test_a_backend_that_is_named_and_missing_is_told(bench, monkeypatch):
    monkeypatch.setattr(
        detection, "probe", lambda backend, device: Availability(backend, device, False, "no luck", "buy")
    )
    ended = bench("--ranks", "2", "--network", "tiny", "--contender", "cupy", code=2)
    assert "--contender names cupy; it must name one that works here: no luck; buy" in ended.stderr


# --- real jobs --------------------------------------------------------------------------------------------------------
@pytest.mark.exhaustive
def test_a_real_job_of_two_ranks(tmp_path):
    mpi.launcher()  # skips the test where there is none
    words = ("--ranks", "2", "--quick", "--network", "tiny", "--dtype", "float32", "--dtype", "float64")
    words += ("--contender", "numpy", "--contender", "cpu", "--json")
    command = [sys.executable, "-m", "gpubp", "bench", *words]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr
    found = BenchResult.from_json(ended.stdout)
    assert not found.faults
    assert len(found.records) == 2 * 2 * 3
    for each in found.scalings:
        assert each.efficiency > 0
        assert (each.share is None) == (each.ranks == 1)
        assert each.share is None or each.share > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.exhaustive
def test_a_rank_without_its_device_leaves_gaps_and_its_reason():
    """As for the second of two ranks where there is one GPU."""
    mpi.launcher()
    if detection.driver().devices:
        pytest.skip("the ranks have GPUs here")
    works_of_two = [work for work in works.shared([TINY], [2]) if work.ranks == 2]
    found = jobs.measure(works_of_two, [CONTENDERS["numba"]], repeats=1, seconds=0.01, threads=1)
    assert [record.seconds for record in found] == [(), ()]
    for record in found:
        assert re.match(r"its job of 2 ranks ended with exit code 2: rank [01] of 2 on .* ended all: .*", record.fault)


def ranks_of(folder):
    """The processes of a job whose files lie in a folder, without their launchers."""
    words = {path.parent: path.read_bytes().split(b"\0") for path in Path("/proc").glob("[0-9]*/cmdline")}
    python = sys.executable.encode()
    return [
        int(at.name) for at, found in words.items() if found[0] == python and str(folder).encode() in b" ".join(found)
    ]


@contextmanager
def measuring(folder):
    """Start a bench of two ranks that takes a while, and yield its process and the ranks' numbers."""
    mpi.launcher()
    words = ("--ranks", "2", "--network", "tiny", "--contender", "numpy", "--quick", "--repeats", "100")
    command = [sys.executable, "-m", "gpubp", "bench", *words]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=folder, env={**os.environ, "TMPDIR": str(folder)}, **output) as process:
        while len(ranks_of(folder)) < 2:  # the job of one rank comes first
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.05)
        yield process, ranks_of(folder)


@pytest.mark.exhaustive
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_bench_and_ranks_and_leaves_nothing(tmp_path, number):
    with measuring(tmp_path) as (process, ranks):
        process.send_signal(number)
        told = process.stdout.read()
    assert process.returncode in (128 + number, -number)
    assert "Traceback" not in told
    assert not any(Path(f"/proc/{each}").exists() for each in ranks)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.exhaustive
def test_a_killed_rank_leaves_a_gap(tmp_path):
    with measuring(tmp_path) as (process, ranks):
        os.kill(ranks[0], signal.SIGKILL)
        told = process.stdout.read()
    assert process.returncode == 1
    assert not any(Path(f"/proc/{each}").exists() for each in ranks)
    assert "Traceback" not in told
    assert told.count("failed") == 1  # and the other work of two ranks has its times
    assert "its job of 2 ranks ended with exit code" in " ".join(told.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.exhaustive
def test_ranks_with_emulated_devices_make_the_shared_step_and_are_not_timed(tmp_path):
    ended = mpi.run(2, shared_steps.__file__, tmp_path)
    assert ended.returncode == 0, ended.stderr
    expected = own.reference_losses(TINY, 3)
    for path in tmp_path.iterdir():
        assert json.loads(path.read_text()) == pytest.approx(expected, rel=1e-3), path.name
    assert len(list(tmp_path.iterdir())) == 3
