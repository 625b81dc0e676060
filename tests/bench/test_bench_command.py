"""`gpubp bench`: choices, tables, files, comparisons, exit codes. Contenders work in this process."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from gpubp import files
from gpubp.backends.numpy_backend import NumpyBackend
from gpubp.bench import turns
from gpubp.bench.contenders import CONTENDERS
from gpubp.bench.results import BenchResult, Record
from gpubp.bench.works import STEPS, Limit, Primitive
from gpubp.chips import Roofline
from gpubp.cli import app
from gpubp.errors import CheckpointError, DataError

NOW = "2026-01-01T00:00:00+00:00"
FAST = ("--quick", "--contender", "numpy", "--repeats", "2", "--threads", "1")


@pytest.fixture
def bench(tmp_path, monkeypatch, in_process):
    """Runs the verb in an empty folder, on nothing larger than it is told."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("GPUBP_DEBUG", raising=False)

    def run(*arguments, code=0):
        result = CliRunner().invoke(app, ["bench", *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    run.folder = tmp_path
    return run


def test_a_primitive_is_measured_and_shown(bench):
    out = bench(*FAST, "--primitive", "dense_forward", "--shape", "4x5x6", "--shape", "8x8x8").stdout
    assert "dense_forward, float32" in out
    for heading in ("shape", "backend", "median", "quartiles", "GFLOP/s", "GB/s", "limit"):
        assert heading in out
    assert "4x5x6" in out
    assert "8x8x8" in out
    assert "limits of the cpu, float32" in out


def test_a_step_is_measured_and_shown(bench):
    out = bench(*FAST, "--network", "tiny").stdout
    assert "64-32-10" in out
    assert "µs" in out or "ms" in out


def test_the_gpus_rows_say_why_they_are_empty(bench, monkeypatch):
    from gpubp.backends import detection
    from gpubp.backends.detection import Availability, Driver

    def probe(backend, device):
        return Availability(backend, device, device == "cpu", "no such luck", "buy one")

    monkeypatch.setattr(detection, "probe", probe)
    monkeypatch.setattr(detection, "driver", lambda: Driver(fault="no driver at all"))
    arguments = ("--quick", "--repeats", "1", "--primitive", "hidden_delta", "--shape", "3x4x5", "--contender", "numpy")
    out = bench(*arguments, "--contender", "cupy", "--contender", "cublas").stdout
    assert "cupy on gpu: not measured: no such luck" in out
    assert "absent: cupy on gpu: no such luck; buy one" in out
    assert "absent: cuBLAS on gpu: no driver at all" in out
    result = BenchResult.from_json(bench(*arguments, "--contender", "cupy", "--json").stdout)
    assert result.absent == {"cupy": "no such luck; buy one"}
    assert {record.contender for record in result.records} == {"numpy", "limit-cpu"}


def test_json_holds_what_the_table_shows(bench):
    values = json.loads(bench(*FAST, "--primitive", "update", "--shape", "50", "--dtype", "float64", "--json").stdout)
    record = next(each for each in values["records"] if each["contender"] == "numpy")
    assert record["work"] == {"kind": "primitive", "name": "update", "shape": [50], "dtype": "float64"}
    assert len(record["seconds"]) == values["repeats"] == 2
    assert record["first_quartile"] <= record["median"] <= record["third_quartile"]
    assert set(values["limits"]) == {"cpu"}
    assert set(values["limits"]["cpu"]) == {"float64"}


def test_a_wrong_result_has_no_time_and_exits_with_1(bench, monkeypatch):
    right = NumpyBackend.bias_gradient

    def wrong(self, delta, gradient):
        right(self, delta, gradient)
        gradient[0] *= 1.01

    monkeypatch.setattr(NumpyBackend, "bias_gradient", wrong)
    out = bench(*FAST, "--primitive", "bias_gradient", "--shape", "8x8", "--save", "x.json", code=1).stdout
    assert "failed" in out
    assert "numpy, bias_gradient 8x8 float32: wrong: gradient at [0]" in out
    (record,) = BenchResult.read("x.json").faults
    assert record.seconds == ()


def test_a_step_with_wrong_losses_exits_with_1(bench, monkeypatch):
    monkeypatch.setattr(NumpyBackend, "bias_gradient", lambda self, delta, gradient, _: gradient.fill(1))
    monkeypatch.setattr(turns.own, "reference_losses", lambda step, steps: [2.0] * steps)
    out = bench(*FAST, "--network", "tiny", code=1).stdout
    assert "wrong: the loss at step 1 is" in out


def test_a_contender_that_raises_is_one_failed_row(bench, monkeypatch):
    def broken(self, *arguments, **options):
        raise ZeroDivisionError("no such division")

    monkeypatch.setattr(NumpyBackend, "softmax", broken)
    out = bench(*FAST, "--primitive", "softmax", "--shape", "8x8", "--primitive", "bias_gradient", code=1).stdout
    assert "numpy, softmax 8x8 float32: ZeroDivisionError: no such division" in out
    assert "bias_gradient, float32" in out


def test_results_are_kept_and_compared(bench):
    bench(*FAST, "--primitive", "update", "--shape", "50", "--save", "a.json")
    before = BenchResult.read("a.json")
    out = bench(*FAST, "--primitive", "update", "--shape", "60", "--compare", "a.json", "--save", "b.json").stdout
    assert "now /" in out
    again = bench("--contender", "numpy", "--compare", "a.json", "--repeats", "2").stdout
    assert "update 50" in again
    assert "compared:" in again
    both = bench("--compare", "a.json", "--compare", "b.json").stdout
    assert before.made in both
    assert "only now" in both


def test_what_was_measured_is_shown_even_where_it_cannot_be_written(bench, monkeypatch):
    def full(path, data):
        raise CheckpointError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(files, "write_bytes", full)
    done = bench(*FAST, "--primitive", "update", "--shape", "50", "--save", "a.json", code=2)
    assert "update, float32" in done.stdout
    assert "cannot write a.json: No space left" in done.stderr


def test_the_pictures_are_drawn(bench):
    bench(*FAST, "--primitive", "update", "--shape", "50", "--shape", "100", "--out", "pictures")
    assert sorted(path.name for path in (bench.folder / "pictures").iterdir()) == ["roofline.png", "throughput.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--primitive", "hiden_delta"], "--primitive was 'hiden_delta'"),
        (["--shape", "3y4"], "--shape was '3y4'"),
        (["--primitive", "update", "--shape", "3x4x5"], "--shape was '3x4x5'"),
        (["--network", "tinny"], "--network was 'tinny'"),
        (["--network", "tinny"], "did you mean 'tiny'"),
        (["--dtype", "float8"], "--dtype was 'float8'"),
        (
            ["--dtype", "bf16", "--contender", "numpy"],
            "--contender names none of this project's backends that computes",
        ),
        (["--dtype", "tf32"], "--dtype names tf32, which only cupy, cupy-graph compute"),
        (["--contender", "cupy"], "--contender names cupy; it must name one that works here: no NVIDIA"),
        (["--dtype", "tf32", "--primitive", "update"], "--dtype was 'tf32'"),
        (["--contender", "numpyy"], "did you mean 'numpy'"),
        (["--variant", "fast"], "--variant was 'fast'"),
        (["--contender", "torch"], "one of this project's besides"),
        (["--repeats", "0"], "--repeats was 0"),
        (["--threads", "0"], "--threads was 0"),
        (["--quick", "--full"], "--full and --quick exclude each other"),
        (["--save", "x.txt"], "--save was 'x.txt'"),
        (["--save", "missing/x.json"], "in a folder that exists"),
        (["--save", "kept.json"], "--save was 'kept.json'; it must be a new file; --force replaces this one"),
        (["--save", "a.json"], "--save was 'a.json'; it must be a new file"),
        (["--out", "drawn"], "--out was 'drawn/throughput.png'; it must be a new file"),
        (["--out", "kept.json"], "--out was 'kept.json'"),
        (["--compare", "missing.json"], "cannot read missing.json"),
        (["--compare", "kept.json"], "kept.json is no result of gpubp bench"),
        (["--compare", "a.json", "--json"], "--json and --compare exclude each other"),
        (["--compare", "a.json", "--compare", "a.json", "--compare", "a.json"], "3 files"),
    ],
)
def test_a_wrong_choice_is_named_and_exits_with_2(bench, in_process, arguments, message):
    (bench.folder / "kept.json").write_text('{"mine": 1}')
    BenchResult(NOW, {}, 1, 1, 1.0, ()).save(bench.folder / "a.json")
    (bench.folder / "drawn").mkdir()
    (bench.folder / "drawn" / "throughput.png").write_bytes(b"drawn")
    result = bench(*arguments, code=2)
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not in_process, "nothing was measured"
    assert sorted(path.name for path in bench.folder.iterdir()) == ["a.json", "drawn", "kept.json"]
    assert (bench.folder / "kept.json").read_text() == '{"mine": 1}'


# --- turns ------------------------------------------------------------------------------------------------------------
def test_contenders_take_turns_and_are_checked_after_their_timing(in_process):
    works = [Primitive("update", (8,)), STEPS["tiny"]]
    records = turns.measure(works, [CONTENDERS["numpy"]], repeats=3, seconds=0.0, threads=1)
    numpy, *referees = in_process
    turn = ["make", "time", "time", "time"]
    assert numpy.asked == [*turn, "fault", *turn, "losses", "close"]
    for referee in referees:
        assert referee.asked == ["make", *["time"] * 6, "close"], "three turns at each of two works"
    assert [len(record.seconds) for record in records] == [3, 3, 6, 6]


def test_the_limits_take_their_turns_all_over_a_long_run(in_process):
    works = [Primitive("update", (size,)) for size in range(1, 12)]
    records = turns.measure(works, [CONTENDERS["numpy"]], repeats=1, seconds=0.0, threads=1)
    limits = [record for record in records if isinstance(record.work, Limit)]
    assert [len(record.seconds) for record in limits] == [5, 5]


def test_losses_that_leave_the_references_are_told():
    assert turns.differing_losses([1.0, 0.5], [1.0, 0.5], "float64") == ""
    assert turns.differing_losses([1.0, 0.5005], [1.0, 0.5001], "float32") == ""
    assert "step 2 is 0.502" in turns.differing_losses([1.0, 0.502], [1.0, 0.5], "float32")
    assert "step 2" in turns.differing_losses([1.0, 0.5005], [1.0, 0.5001], "float64")
    assert "step 1 is nan" in turns.differing_losses([float("nan")], [1.0], "float32")


@pytest.mark.slow
def test_a_process_answers_and_its_end_is_told():
    process = turns.Process(CONTENDERS["numpy"], 1)
    try:
        process.ask(do="make", work=Primitive("update", (8,)).to_dict())
        assert 0 < process.ask(do="time", seconds=0.0) < 1
        assert process.ask(do="fault") == ""
        with pytest.raises(turns.WorkerError, match="kind was 'nothing'"):
            process.ask(do="make", work={"kind": "nothing"})
        process._process.kill()
        with pytest.raises(turns.WorkerError, match="its process ended with -9"):
            process.ask(do="time", seconds=0.0)
        process.ask(do="make", work=Primitive("update", (8,)).to_dict())  # the next work, in another process
        assert process.ask(do="fault") == ""
    finally:
        process.close()


@pytest.mark.slow
def test_after_no_answer_the_next_work_has_another_process(monkeypatch):
    process = turns.Process(CONTENDERS["numpy"], 1)
    work = Primitive("update", (8,)).to_dict()
    try:
        with monkeypatch.context() as impatient:
            impatient.setattr(turns, "PATIENCE", 0.0)
            with pytest.raises(turns.WorkerError, match="no answer within 0 s"):
                process.ask(do="make", work=work)
        process.ask(do="make", work=work)
        assert process.ask(do="fault") == ""
    finally:
        process.close()


@pytest.mark.slow
def test_after_an_error_on_a_gpu_the_next_work_has_another_process():
    process = turns.Process(replace(CONTENDERS["numpy"], device="gpu"), 1)
    first = process._process
    try:
        with pytest.raises(turns.WorkerError, match="kind was 'nothing'"):
            process.ask(do="make", work={"kind": "nothing"})
        process.ask(do="make", work=Primitive("update", (8,)).to_dict())
        assert process.ask(do="fault") == ""
        assert process._process is not first
        assert first.returncode == 0
    finally:
        process.close()


@pytest.mark.slow
def test_what_a_library_prints_does_not_spoil_an_answer(tmp_path):
    script = (
        "import sys\n"
        "from gpubp.bench import own, worker\n"
        "make = own.make\n"
        "own.make = lambda *a, **k: (print('hello from a library'), make(*a, **k))[1]\n"
        "sys.argv = ['worker', 'numpy', '1']\n"
        "worker.main()\n"
    )
    request = json.dumps({"do": "make", "work": Primitive("update", (8,)).to_dict()})
    done = subprocess.run([sys.executable, "-c", script], input=request, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"ok": None}
    assert "hello from a library" in done.stderr


def test_a_damaged_result_is_told():
    good = BenchResult(NOW, {}, 1, 1, 1.0, ()).to_json()
    whole = BenchResult(
        NOW, {}, 1, 1, 1.0, (Record(STEPS["tiny"], "numpy", (1.0,)),), {"cpu": {"float32": Roofline(1.0, 2.0)}}
    ).to_json()  # fmt: skip
    assert BenchResult.from_json(whole).to_json() == whole
    for text, message in (
        (whole.replace('"numpy"', '"nobody"'), "damaged.*nobody"),
        (
            whole.replace('"bytes_per_second": 2.0', '"bytes_per_second": 0.0'),
            "damaged.*limits was 0.0; it must be a finite number > 0",
        ),
        (whole.replace('"kind": "step"', '"kind": "leap"'), "damaged"),
        (whole.replace('"rows": 32', '"rows": 0'), "damaged"),
        (whole.replace("1.0\n", "-1.0\n"), "damaged.*seconds"),
        ("{", "it is no JSON"),
        ("[]", 'does not say "format"'),
        (good.replace('"version": 1', '"version": 99'), "another version"),
        (good.replace('"records": []', '"records": [{}]'), "damaged"),
        (good.replace('"threads": 1', '"threads": "many"'), "damaged"),
    ):
        with pytest.raises(DataError, match=message):
            BenchResult.from_json(text)


# --- files of others --------------------------------------------------------------------------------------------------
def saved(**changes):
    """The JSON of a result with one record, with these entries in place of its own."""
    record = Record(STEPS["tiny"], "numpy", (1.0,))
    return json.loads(BenchResult(NOW, {"processor": "x"}, 1, 1, 1.0, (record,)).to_json()) | changes


def record(**changes):
    return saved()["records"][0] | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"made": "yesterday"}, "Invalid isoformat string"),
        ({"made": 3}, "made was 3; it must be a text"),
        ({"made": "\x1b[31m"}, r"Invalid isoformat string: '\\x1b\[31m'"),
        ({"machine": [["processor", "x"]]}, "machine was .* it must be a table"),
        ({"machine": {"processor": ["x"]}}, "machine.processor was"),
        ({"threads": "2"}, "threads was '2'"),
        ({"threads": 1.5}, "threads was 1.5"),
        ({"threads": True}, "threads was True"),
        ({"threads": 10**30}, "threads was 10{30}"),
        ({"seconds": float("nan")}, "seconds was nan"),
        ({"machine": {"processor": "one", "cores": float("inf")}}, "machine has a number that is not finite"),
        ({"busy": -1}, "busy was -1"),
        ({"limits": {"cpu": 3}}, "limits was 3"),
        ({"published": {"float3": {}}}, "it lacks 'flops_per_second'"),
        ({"absent": {"jax": None}}, "absent was None"),
        ({"records": "x"}, "records was 'x'; it must be a list"),
        ({"records": {"a": 1}}, "records was"),
        ({"records": [1]}, "records was 1"),
        ({"records": [record(seconds="123")]}, "seconds was '123'"),
        ({"records": [record(seconds=["1"])]}, "seconds was '1'"),
        ({"records": [record(seconds=[1e-320])]}, "seconds was 1e-320"),
        ({"records": [record(seconds=[], fault="")]}, "neither seconds nor a fault"),
        ({"records": [record(fault=None)]}, "fault was None"),
        ({"records": [record(contender="nmpy")]}, "contender was 'nmpy'.*did you mean 'numpy'"),
        ({"records": [record(contender=["numpy"])]}, "contender was"),
        ({"records": [record(work=record()["work"] | {"name": "\x1b[31m"})]}, r"name was '\\x1b\[31m'"),
        ({"records": [record(work=record()["work"] | {"name": "x" * 41})]}, "a text in one line, of at most 40"),
        ({"records": [record(work=record()["work"] | {"rows": 10**30})]}, "sizes was 10{30}"),
        ({"records": [record(work=record()["work"] | {"sizes": ["2", 3]})]}, "sizes was '2'"),
        ({"records": [record(work=record()["work"] | {"learning_rate": "x"})]}, "learning_rate was 'x'"),
        ({"records": [record(work=record()["work"] | {"regression": 1})]}, "regression was 1"),
        ({"records": [record(work={"kind": "primitive", "name": "update", "shape": [2**70]})]}, "shape was"),
        ({"records": [record(work=record()["work"] | {"x" * 5000: 1})]}, "a field of a step was 'xxx"),
        ({"records": [record(work={"kind": "stp"})]}, "kind was 'stp'; .*did you mean 'step'"),
        ({"records": [record(work={"kind": ["step"]})]}, "unhashable"),
        ({"version": "\x1b" * 1000}, "another version"),
    ],
    ids=lambda each: None if isinstance(each, str) else "",
)
def test_no_value_of_a_file_is_taken_unjudged(changes, message):
    with pytest.raises(DataError, match=message) as caught:
        BenchResult.from_json(json.dumps(saved(**changes)))
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": ' + "9" * 5000 + "}", '{"a":' * 50_000, "\x1b"])
def test_json_that_python_cannot_read_is_told(text):
    with pytest.raises(DataError, match="it is no JSON") as caught:
        BenchResult.from_json(text)
    assert len(str(caught.value)) < 400


def test_only_a_regular_file_of_some_size_is_compared(bench, monkeypatch):
    os.mkfifo(bench.folder / "fifo.json")
    for path in ("fifo.json", "/dev/zero"):
        assert "it is not a regular file" in bench("--compare", path, code=2).stderr
    assert "File name too long" in bench("--compare", "n" * 256, code=2).stderr
    monkeypatch.setattr("gpubp.result_file.MOST_BYTES", 100)
    (bench.folder / "large.json").write_text(json.dumps(saved()))
    assert "larger than 100 bytes" in bench("--compare", "large.json", code=2).stderr


def test_names_in_a_file_are_no_markup(bench):
    work = record()["work"] | {"name": "[/] [bold]a$b"}
    for name in ("[red].json", "b.json"):
        contents = saved(records=[record(work=work)], machine={"processor": f"{name}\x1b[2J [/]"})
        (bench.folder / name).write_text(json.dumps(contents))
    out = bench("--compare", "[red].json", "--compare", "b.json").stdout
    assert "step [/] [bold]a$b" in out
    assert "[red].json\\x1b[2J [/] before" in out
    assert "\x1b" not in out
