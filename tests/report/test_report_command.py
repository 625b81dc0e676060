"""`gpubp report` as its user sees it: what runs, what it says, its exit codes, and what is there when it ends."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from gpubp.backends.detection import Availability
from gpubp.cli import app
from gpubp.crosscheck.cases import covering_cases
from gpubp.crosscheck.comparator import Comparison
from gpubp.crosscheck.runner import Outcome
from gpubp.report import report_command
from gpubp.report.report_command import Choice

CASE = covering_cases("bias_gradient", ())[0]


def outcome(share):
    return Outcome(CASE, {"gradient": Comparison(share <= 1, share, (0,), 1.0, 1.0, 0.1)})


@pytest.fixture
def works(monkeypatch):
    """Which backends run on which devices; the emulated device alone at first."""
    able = {("cupy", "emulator"), ("numba", "emulator")}

    def probe(backend, device):
        there = (backend, device) in able
        return Availability(backend, device, there, "found" if there else f"no {device}", "" if there else "get one")

    monkeypatch.setattr(report_command.detection, "probe", probe)
    return able


@pytest.fixture
def ran(monkeypatch, works):
    """The parts that ran, in order; none does its work."""
    done = []

    def check(result, choice, progress):
        done.append(f"check {result.backend} {result.device}")
        result.add(outcome(0.5))

    monkeypatch.setattr(report_command, "_check", check)
    monkeypatch.setattr(report_command, "_bench", lambda choice, progress: done.append("bench"))
    monkeypatch.setattr(
        report_command, "_profile", lambda found, backends, *given: done.append(f"profile {' '.join(backends)}")
    )
    return done


@pytest.fixture
def gpubp(tmp_path, monkeypatch):
    """Runs `gpubp report` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, code=0):
        done = CliRunner().invoke(app, ["report", *arguments], env={"COLUMNS": "120"})
        assert done.exit_code == code, done.output
        return done

    return run


def read(path, check_page):
    return json.loads(check_page(path.read_text(encoding="utf-8")).one("script", id="data").raw)


def test_everything_runs_and_the_page_is_written(gpubp, ran, tmp_path, check_page):
    done = gpubp()
    assert ran == ["check cupy emulator", "check numba emulator", "profile cupy numba", "bench"]
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    data = read(tmp_path / "report.html", check_page)
    assert [(each["backend"], each["device"], each["cases"]) for each in data["check"]] == [
        ("cupy", "emulator", 1),
        ("numba", "emulator", 1),
    ]
    assert data["unchecked"] == {"cupy on the GPU": "no gpu; get one", "numba on the GPU": "no gpu; get one"}
    assert "Passed on the emulated device; nothing ran on a GPU. The page: report.html" in done.stdout


def test_a_gpu_takes_the_emulated_devices_place(gpubp, ran, works, tmp_path, check_page):
    works.add(("cupy", "gpu"))
    gpubp("--out", "page.html")
    assert ran[:2] == ["check cupy gpu", "check numba emulator"]
    data = read(tmp_path / "page.html", check_page)
    assert data["unchecked"] == {"numba on the GPU": "no gpu; get one"}
    assert data["verdict"] == "Passed on the GPU and the emulated device"


def test_what_is_chosen_runs(gpubp, ran, tmp_path, check_page):
    gpubp("--backend", "numba", "--skip", "bench", "--skip", "profile")
    assert ran == ["check numba emulator"]
    assert read(tmp_path / "report.html", check_page)["left_out"] == {
        "bench": "as the command asks",
        "profile": "as the command asks",
    }


def test_a_primitive_that_is_neither_measured_nor_profiled(gpubp, ran, tmp_path, check_page):
    gpubp("--primitive", "cast")
    assert ran == ["check cupy emulator", "check numba emulator"]
    assert read(tmp_path / "report.html", check_page)["left_out"] == {
        "bench": "they do not take cast",
        "profile": "they do not take cast",
    }


def test_a_failing_check_is_exit_code_1_and_the_page_is_written(gpubp, ran, monkeypatch, tmp_path, check_page):
    monkeypatch.setattr(report_command, "_check", lambda result, choice, progress: result.add(outcome(3.0)))
    done = gpubp(code=1)
    assert "Failed. The page: report.html" in done.stdout
    page = check_page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.one("section", id="summary").one("p").text == "Failed"


@pytest.mark.parametrize("broken", ["_check", "_bench", "_profile"])
def test_a_part_that_breaks_costs_the_others_nothing(gpubp, ran, monkeypatch, tmp_path, check_page, broken):
    def breaks(*given):
        raise RuntimeError("the <device> went away")

    monkeypatch.setattr(report_command, broken, breaks)
    gpubp(code=1)
    assert len(ran) == (2 if broken == "_check" else 3)
    data = read(tmp_path / "report.html", check_page)
    assert set(data["faults"].values()) == {"RuntimeError: the <device> went away"}
    assert data["verdict"] == "Failed"


def test_a_machine_without_compilers_still_has_a_report(gpubp, ran, works, tmp_path, check_page):
    works.clear()
    done = gpubp()
    assert ran == ["bench"]
    data = read(tmp_path / "report.html", check_page)
    assert data["verdict"] == "No kernel was checked"
    assert data["unchecked"]["cupy on the emulated device"] == "no emulator; get one"
    assert data["unprofiled"] == {"cupy": "no emulator; get one", "numba": "no emulator; get one"}
    assert "Not modelled: cupy, numba: no emulator; get one." in done.stdout


def test_a_named_backend_that_runs_nowhere_is_an_error(gpubp, ran, works):
    works.clear()
    done = gpubp("--backend", "cupy", code=2)
    assert "backend 'cupy' can run nowhere here; gpu: no gpu; get one; emulator: no emulator; get one" in done.stderr
    assert ran == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "page.pdf"], "--out was 'page.pdf'; it must be a file name that ends in .html"),
        (["--out", "nowhere/page.html"], "--out was 'nowhere/page.html'; it must be in a folder that exists"),
        (["--out", "folder.html"], "--out was 'folder.html'; it must be a new file, or one to replace"),
        (["--backend", "numpy"], "--backend was 'numpy'; it must be one of cupy, numba"),
        (["--primitive", "hiden_delta"], "did you mean 'hidden_delta'?"),
        (["--skip", "info"], "--skip was 'info'; it must be one of check, bench, profile"),
        (["--quick", "--full"], "--full and --quick exclude each other"),
        (["--jobs", "0"], "--jobs was 0"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(gpubp, ran, tmp_path, arguments, words):
    (tmp_path / "folder.html").mkdir()
    done = gpubp(*arguments, code=2)
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert ran == []
    assert [path.name for path in tmp_path.iterdir()] == ["folder.html"]


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="needs Linux' /proc, where nobody can write")
def test_a_folder_that_cannot_be_written(gpubp, ran):
    assert "it must be in a folder that can be written" in gpubp("--out", "/proc/page.html", code=2).stderr
    assert ran == []


def test_an_older_page_stays_until_the_new_one_is_complete(gpubp, ran, monkeypatch, tmp_path):
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
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("choice", "device", "dtypes"),
    [
        (Choice(), "gpu", ()),
        (Choice(), "emulator", ("float32",)),
        (Choice(quick=True), "gpu", ("float32",)),
        (Choice(full=True), "emulator", ()),
    ],
)
def test_how_much_is_checked(choice, device, dtypes):
    found = choice.selection(device)
    assert (found.dtypes, found.full) == (dtypes, choice.full)


@pytest.mark.parametrize(
    ("choice", "dtypes"),
    [
        (Choice(), ("float32", "tf32", "bfloat16", "float16")),
        (Choice(quick=True), ("float32",)),
        (Choice(full=True), ("float32", "float64", "tf32", "bfloat16", "float16")),
    ],
)
def test_tensor_cores_are_measured_where_a_gpu_has_them(works, monkeypatch, choice, dtypes):
    rungs = ["naive", "tensorcore"]
    monkeypatch.setattr("gpubp.backends.get", lambda name, device: SimpleNamespace(variants=rungs))
    plain = tuple(name for name in dtypes if name in ("float32", "float64"))
    assert report_command._measured_dtypes(choice) == plain
    works.add(("cupy", "gpu"))
    assert report_command._measured_dtypes(choice) == dtypes
    rungs.remove("tensorcore")
    assert report_command._measured_dtypes(choice) == plain


@pytest.mark.slow
def test_a_report_of_one_small_kernel(tmp_path, check_page):
    """The whole of it on the emulated device, as a user runs it."""
    code = "from gpubp.cli import main; main()"
    arguments = ["report", "--quick", "--backend", "numba", "--primitive", "bias_gradient", "--jobs", "1"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    page = check_page((tmp_path / "report.html").read_text(encoding="utf-8"))
    data = json.loads(page.one("script", id="data").raw)
    assert data["command"] == "gpubp report --quick --backend numba --primitive bias_gradient --jobs 1"
    assert [(each["backend"], each["failed"]) for each in data["check"]] == [("numba", 0)]
    assert {each["work"]["name"] for each in data["bench"]["records"]} == {"bias_gradient", "product", "copy"}
    assert [each["workload"]["primitive"] for each in data["profile"]] == ["bias_gradient"]
    assert len(list(page.all("img"))) == 3
    assert "bias_gradient" in page.one("section", id="check").one("table").text
    profile = page.one("section", id="profile")
    assert "A model, not a measurement" in profile.text
    assert {row[0] for row in profile.one("table").cells[1:]} == {"bias_gradient 1024x1024"}
    assert "bias_gradient, numba: Limited by" in profile.text
