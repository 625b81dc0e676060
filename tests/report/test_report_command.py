"""`gpubp report` as its user sees it: what runs, what it says, its exit codes, and what is there when it ends."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import reports
from reports import GPU
from typer.testing import CliRunner

from gpubp import backends
from gpubp.cli import app
from gpubp.report import process, worker
from gpubp.report.parts import FULL_FACTOR, PARTS, Choice
from gpubp.report.results import PartResult, Report

MAKERS = {
    "check": lambda task: reports.check(PARTS[task.part].backend, task.device),
    "train": lambda task: reports.train(PARTS[task.part].backend, task.device),
    "bench": lambda task: reports.bench(),
    "profile": lambda task: reports.profile(),
}


class Machine:
    """Runs parts as told: none does its work.

    Attributes:
        info: what the machine has.
        ran: the tasks of the parts that ran, in order, without the look at the machine.
        broken: what becomes of a part in place of a result, by name.
    """

    def __init__(self):
        self.info = reports.info()
        self.ran = []
        self.limits = {}
        self.broken = {}

    def run(self, task, seconds, progress):
        self.limits[task.part] = seconds
        progress("going on")
        if task.part != "info":
            self.ran.append(task)
        if task.part in self.broken:
            broken = self.broken[task.part]
            if isinstance(broken, PartResult):
                return broken
            raise broken
        result = self.info if task.part == "info" else MAKERS[task.part.split("-")[0]](task)
        return reports.part(result, task.device)

    @property
    def parts(self):
        """What ran, as words."""
        return [f"{task.part} {task.device}" for task in self.ran]


@pytest.fixture
def machine(monkeypatch, undrawn):
    made = Machine()
    monkeypatch.setattr(process, "run", made.run)
    return made


@pytest.fixture
def gpubp(tmp_path, monkeypatch):
    """Runs `gpubp report` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, code=0):
        done = CliRunner().invoke(app, ["report", *arguments], env={"COLUMNS": "120"})
        assert done.exit_code == code, done.output
        return done

    return run


EMULATED = [
    "check-cupy emulator",
    "check-numba emulator",
    "train-cupy emulator",
    "train-numba emulator",
    "bench-steps emulator",
    "bench-primitives emulator",
    "bench-rungs emulator",
    "profile emulator",
]


def test_everything_runs_and_the_page_and_its_figures_are_written(gpubp, machine, tmp_path, check_page):
    done = gpubp()
    assert machine.parts == EMULATED
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]
    found = Report.read("report.json")
    assert list(found.parts) == list(PARTS)
    page = check_page(Path("report.html").read_text(encoding="utf-8"))
    assert json.loads(page.one("script", id="data").raw) == json.loads(Path("report.json").read_text(encoding="utf-8"))
    assert done.stdout.splitlines()[:2] == ["check of cupy: done", "check of numba: done"]
    assert (
        "Passed on the emulated device; nothing ran on a GPU. The page: report.html; its figures: report.json"
        in done.stdout
    )


def test_a_gpu_takes_the_emulated_devices_place(gpubp, machine, check_page):
    machine.info = reports.info(GPU, works=(("cupy", "gpu"), ("cupy", "emulator"), ("numba", "emulator")))
    done = gpubp("--out", "page.html")
    assert machine.parts[:2] == ["check-cupy gpu", "check-numba emulator"]
    assert machine.parts[4] == "bench-steps gpu"
    assert machine.ran[4].devices == {"cupy": "gpu", "numba": "emulator"}
    assert machine.ran[-1].gpu == GPU
    assert machine.ran[-1].devices == {"cupy": "emulator", "numba": "emulator"}
    assert Report.read("page.json").verdict == "Passed on the GPU and the emulated device"
    assert "Not on the GPU: numba: gpu: no gpu; get one." in done.stdout


@pytest.mark.parametrize("device", ["emulator", "virtual"])
def test_a_device_that_is_asked_for_is_taken_though_there_is_a_gpu(gpubp, machine, device):
    works = [(backend, where) for backend in ("cupy", "numba") for where in ("gpu", "emulator", "virtual")]
    machine.info = reports.info(GPU, works=works)
    gpubp("--device", device)
    assert {task.device for task in machine.ran} == {device}
    assert Report.read("report.json").identity["device"] == device


def test_what_cannot_run_on_the_device_is_absent_and_says_why(gpubp, machine):
    machine.info = reports.info(works=(("numba", "virtual"), ("numba", "emulator")))
    done = gpubp("--device", "virtual")
    assert machine.parts[:3] == ["check-numba virtual", "train-numba virtual", "bench-steps virtual"]
    assert "Not run: check of cupy, training on cupy: virtual: no virtual; get one." in done.stdout
    assert machine.ran[-1].devices == {"numba": "emulator"}


def test_what_is_chosen_runs(gpubp, machine):
    gpubp("--backend", "numba", "--skip", "bench", "--skip", "profile", "--skip", "train")
    assert machine.parts == ["check-numba emulator"]
    parts = Report.read("report.json").parts
    assert {name: part.message for name, part in parts.items() if part.status == "left out"} == dict.fromkeys(
        ("train-numba", "bench-steps", "bench-primitives", "bench-rungs", "profile"), "as the command asks"
    )
    assert "check-cupy" not in parts


@pytest.mark.parametrize(
    ("primitive", "ran"),
    [
        ("cast", EMULATED[:2]),
        ("bias_gradient", [*EMULATED[:2], EMULATED[5], EMULATED[7]]),
        ("hidden_delta", [*EMULATED[:2], EMULATED[5], EMULATED[6], EMULATED[7]]),
    ],
)
def test_a_primitive_alone(gpubp, machine, primitive, ran):
    done = gpubp("--primitive", primitive)
    assert machine.parts == ran
    assert f"the command asks for {primitive} alone" in done.stdout


def test_a_failing_check_is_exit_code_1_and_the_page_is_written(gpubp, machine, check_page):
    wrong = reports.check(failures=[("3 of the bound", 3.0)])
    machine.broken["check-cupy"] = reports.part(wrong)
    done = gpubp(code=1)
    assert "Failed. The page: report.html" in done.stdout
    page = check_page(Path("report.html").read_text(encoding="utf-8"))
    assert page.one("section", id="summary").one("p").text == "Failed"


@pytest.mark.parametrize("broken", [name for name in PARTS if name != "info"])
def test_a_part_that_breaks_costs_the_others_nothing(gpubp, machine, check_page, broken):
    machine.broken[broken] = reports.part(None, status="crashed", message="it died", last_output="the <device> is gone")
    gpubp(code=1)
    assert machine.parts == EMULATED
    assert "the <device> is gone" in check_page(Path("report.html").read_text(encoding="utf-8")).text
    assert Report.read("report.json").verdict == "Failed"


def test_a_look_at_the_machine_that_breaks_costs_the_others_nothing(gpubp, machine):
    machine.broken["info"] = reports.part(None, "", status="timeout", message="it hung")
    done = gpubp(code=1)
    assert machine.parts == EMULATED
    assert "Broken: info: it hung." in done.stdout


def test_a_machine_without_compilers_still_has_a_report(gpubp, machine):
    machine.info = reports.info(works=())
    done = gpubp()
    assert machine.parts == ["bench-steps emulator", "bench-primitives emulator", "bench-rungs emulator"]
    assert "No kernel was checked." in done.stdout
    assert "check of cupy, check of numba, training on cupy, training on numba: gpu: no gpu; get one" in done.stdout


def test_a_named_backend_that_runs_nowhere_is_an_error(gpubp, machine, tmp_path):
    machine.info = reports.info(works=())
    done = gpubp("--backend", "cupy", code=2)
    assert "backend 'cupy' can run nowhere here; gpu: no gpu; get one; emulator: no emulator; get one" in done.stderr
    assert machine.ran == []
    assert list(tmp_path.iterdir()) == []


def test_an_emulated_device_is_never_taken_for_the_gpu(gpubp, machine):
    """As where the whole program runs on the virtual device."""
    machine.info = reports.info("emulated H100 SXM", works=(("cupy", "gpu"),))
    done = gpubp(code=2)
    assert "the GPU 'emulated H100 SXM' is the virtual device" in done.stderr
    assert machine.ran == []


# --- a second run -----------------------------------------------------------------------------------------------------
def test_a_second_run_does_what_broke_or_is_missing(gpubp, machine):
    machine.broken = {
        "check-numba": reports.part(None, status="timeout", message="it hung"),
        "bench-steps": reports.part(reports.bench(), status="partial", message="not all"),
        "train-cupy": reports.part(None, status="crashed", message="it died"),
    }
    gpubp("--skip", "profile", code=1)
    machine.broken, machine.ran = {}, []
    done = gpubp()
    assert machine.parts == ["check-numba emulator", "train-cupy emulator", "bench-steps emulator", "profile emulator"]
    assert "Going on, --force starts over. Already there: check of cupy, training on numba, bench" in done.stdout
    assert list(Report.read("report.json").parts) == list(PARTS)
    machine.ran = []
    gpubp()
    assert machine.parts == []


def test_a_run_that_was_killed_goes_on_where_it_was(gpubp, machine, tmp_path):
    machine.broken["bench-steps"] = KeyboardInterrupt()
    gpubp(code=130)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    machine.broken, machine.ran = {}, []
    gpubp()
    assert machine.parts == EMULATED[4:]


def test_force_starts_over(gpubp, machine):
    gpubp()
    machine.ran = []
    gpubp("--force")
    assert machine.parts == EMULATED


@pytest.mark.parametrize(
    ("arguments", "info", "words"),
    [
        (["--quick"], reports.info(), "options is quick and was usual"),
        ([], reports.info(processor="another"), "processor is another, 8 cores and was A <processor>, 8 cores"),
        ([], reports.info("A GPU", works=()), "GPU is A GPU and was none"),
    ],
)
def test_results_of_another_machine_or_choice_are_not_mixed(gpubp, machine, arguments, info, words):
    gpubp("--skip", "profile")
    machine.info, machine.ran = info, []
    done = gpubp("--skip", "profile", *arguments)
    assert re.search(rf"Starting over: .*{re.escape(words)}", done.stdout)
    assert "bench-steps emulator" in machine.parts


def test_damaged_results_are_an_error_and_stay(gpubp, machine):
    Path("report.json").write_text('{"format": "gpubp report"')
    done = gpubp(code=2)
    assert "report.json is no result of gpubp report: it is no JSON" in done.stderr
    assert "--force starts over" in done.stderr
    assert Path("report.json").read_text() == '{"format": "gpubp report"'
    assert machine.ran == []
    gpubp("--force")
    assert machine.parts == EMULATED


def test_a_page_of_something_else_is_not_replaced(gpubp, machine):
    Path("page.html").write_text("mine")
    done = gpubp("--out", "page.html", code=2)
    assert "--force replaces this one" in done.stderr
    assert Path("page.html").read_text() == "mine"
    assert machine.ran == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "page.pdf"], "--out was 'page.pdf'; it must be a file name that ends in .html"),
        (["--out", "nowhere/page.html"], "--out was 'nowhere/page.html'; it must be in a folder that exists"),
        (["--out", "folder.html"], "--out was 'folder.html'; it must be a new file, or one to replace"),
        (["--backend", "numpy"], "--backend was 'numpy'; it must be one of cupy, numba"),
        (["--primitive", "hiden_delta"], "did you mean 'hidden_delta'?"),
        (["--skip", "info"], "--skip was 'info'; it must be one of check, train, bench, profile"),
        (["--device", "cpu"], "--device was 'cpu'; it must be one of gpu, emulator, virtual"),
        (["--quick", "--full"], "--full and --quick exclude each other"),
        (["--jobs", "0"], "--jobs was 0"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(gpubp, machine, tmp_path, arguments, words):
    (tmp_path / "folder.html").mkdir()
    done = gpubp(*arguments, code=2)
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert machine.limits == {}
    assert [path.name for path in tmp_path.iterdir()] == ["folder.html"]


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="needs Linux' /proc, where nobody can write")
def test_a_folder_that_cannot_be_written(gpubp, machine):
    assert "it must be in a folder that can be written" in gpubp("--out", "/proc/page.html", code=2).stderr
    assert machine.limits == {}


def test_an_older_page_stays_until_the_new_one_is_complete(gpubp, machine, monkeypatch, tmp_path):
    page = tmp_path / "report.html"
    page.write_text("older")

    def breaks(template, **values):
        assert page.read_text() == "older"
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("gpubp.report.machine_page.render", breaks)
        gpubp(code=130)
    assert page.read_text() == "older"
    gpubp()
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]


# --- the limits -------------------------------------------------------------------------------------------------------
def test_a_report_takes_ten_minutes_at_most_on_a_gpu():
    assert sum(part.gpu_seconds for part in PARTS.values()) <= 600 - 5  # the page is drawn then


@pytest.mark.parametrize(
    ("arguments", "device", "factor"), [([], "gpu", 1), ([], "emulator", 1), (["--full"], "gpu", FULL_FACTOR)]
)
def test_each_part_has_its_own_limit(gpubp, machine, arguments, device, factor):
    if device == "gpu":
        machine.info = reports.info(GPU, works=[(backend, "gpu") for backend in ("cupy", "numba")])
    gpubp(*arguments)
    for name in ("check-cupy", "train-numba", "bench-rungs"):
        part = PARTS[name]
        assert machine.limits[name] == factor * (part.gpu_seconds if device == "gpu" else part.emulated_seconds)


def test_the_documentation_has_the_limits(repository):
    text = (repository / "gpubp" / "report" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\w-]+) \| .* \| (\d+) s \| (\d+) s \|$", text, re.MULTILINE)
    assert [(name, int(gpu), int(emulated)) for name, gpu, emulated in rows] == [
        (part.name, part.gpu_seconds, part.emulated_seconds) for part in PARTS.values()
    ]
    assert f"multiplies them by {FULL_FACTOR}" in text


def test_left_out_parts_are_parts():
    for choice in (Choice(skip=("bench", "check")), Choice(primitives=("cast",)), Choice(("cupy",), ("update",))):
        assert set(choice.left_out()) <= {part.name for part in choice.parts} | {"train-numba"}


# --- for real ---------------------------------------------------------------------------------------------------------
def run_for_real(folder, *arguments):
    code = "from gpubp.cli import main; main()"
    command = [sys.executable, "-c", code, "report", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.slow
def test_a_report_of_one_small_kernel(tmp_path, check_page):
    """The whole of it on the emulated device, as a user runs it."""
    arguments = ["--quick", "--backend", "numba", "--primitive", "bias_gradient", "--jobs", "1", "--skip", "profile"]
    done = run_for_real(tmp_path, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    page = check_page((tmp_path / "report.html").read_text(encoding="utf-8"))
    found = Report.read(tmp_path / "report.json")
    assert found.command == "gpubp report --quick --backend numba --primitive bias_gradient --jobs 1 --skip profile"
    assert {name: part.status for name, part in found.parts.items() if part.status != "left out"} == dict.fromkeys(
        ("info", "check-numba", "bench-primitives"), "done"
    )
    measured = found.measured["bench-primitives"]
    assert {record.contender for record in measured.records} >= {"numpy", "limit-cpu"}
    assert found.result("bench-primitives")["rehearsed"] == [
        {"work": "bias_gradient 64x64 float32", "contender": "numba-on-emulator", "device": "emulator", "fault": ""}
    ]
    assert len(list(page.all("img"))) == 2


@pytest.mark.exhaustive
def test_the_rehearsal_for_the_first_gpu(tmp_path, check_page):
    """Everything, with the real CuPy and the real numba-cuda, on the virtual device."""
    done = run_for_real(tmp_path, "--quick", "--device", "virtual")
    assert done.returncode == 0, done.stdout + done.stderr
    page = check_page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "bias_gradient, numba: Limited by" in page.one("section", id="profile").text
    found = Report.read(tmp_path / "report.json")
    assert {name: part.status for name, part in found.parts.items()} == dict.fromkeys(PARTS, "done")
    assert found.verdict == "Passed on the virtual device; nothing ran on a GPU"
    for check in found.results("check"):
        cases = worker.cases_of(Choice(quick=True), backends.get(check["backend"], "emulator"))
        assert check["cases"] == check["chosen"] == len(cases)
    rehearsed = {each["contender"] for bench in found.results("bench") for each in bench["rehearsed"]}
    assert {"cupy-on-virtual", "cupy-graph-on-virtual", "numba-on-virtual", "cupy-pipelined-on-virtual"} <= rehearsed
    measured = {record.contender for bench in found.measured.values() for record in bench.records if record.seconds}
    assert measured <= {"numpy", "cpu", "limit-cpu", "sklearn"}
