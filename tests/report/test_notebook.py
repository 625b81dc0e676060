"""The notebook for a hosted session with a GPU: its cells run, one after the other, with commands that do little."""

import json
import os
import shutil
import sys
import types
from pathlib import Path

import pytest

from gpubp.report.results import Report

STUB = """#!/bin/sh
echo "{name} $@" >> "{log}"
{does}
"""


@pytest.fixture
def cells(repository):
    """The code of the cells, which come without what a run leaves in them."""
    text = (repository / ".github" / "notebooks" / "gpu_report.ipynb").read_text(encoding="utf-8")
    notebook = json.loads(text)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert text == json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    return ["".join(cell["source"]) for cell in code]


@pytest.fixture
def session(tmp_path, monkeypatch):
    """A folder, commands of its own before the others, and what a notebook shows.

    Attributes:
        shown: what was displayed.
    """
    monkeypatch.chdir(tmp_path)
    commands = tmp_path / "commands"
    commands.mkdir()
    monkeypatch.setenv("PATH", str(commands), prepend=os.pathsep)
    found = types.SimpleNamespace(shown=[], log=tmp_path / "log", commands=commands)

    def stub(name, does):
        path = commands / name
        path.write_text(STUB.format(name=name, log=found.log, does=does))
        path.chmod(0o755)
        return path

    found.stub = stub
    display = types.ModuleType("IPython.display")
    display.HTML, display.FileLink = (lambda text: ("html", text)), (lambda path: ("link", path))
    display.display = lambda *things: found.shown.extend(things)
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return found


def run(cells, python=sys.executable, **values):
    """Run cells in one namespace, with these values in place of the empty ones that a reader fills in."""
    shared = {}
    for cell in cells:
        for name, value in values.items():
            cell = cell.replace(f'{name} = ""', f"{name} = {value!r}")
        cell = cell.replace("sys.executable", repr(str(python)))
        exec(compile(cell, "cell", "exec"), shared)


def test_there_are_three_cells_and_each_is_python(cells):
    assert len(cells) == 3
    for cell in cells:
        compile(cell, "cell", "exec")
    assert cells[0].startswith('ADDRESS = ""')


def test_the_address_must_be_filled_in(cells, session):
    with pytest.raises(ValueError, match='ADDRESS was ""'):
        run(cells[:1])


def test_the_cells_install_run_and_show(cells, session, capfd):
    session.stub("git", 'mkdir "$5"')
    make = 'case "$3" in gpu-report) echo "<p>page</p>" > gpubp/report.html; echo "{}" > gpubp/report.json;; esac'
    session.stub("make", make)
    python = session.stub("python", "true")
    run(cells, python, ADDRESS="somewhere", ARGS="--quick")
    assert session.log.read_text().splitlines() == [
        "git clone --depth 1 somewhere gpubp",
        "python -m pip install -q virtualenv",
        "python -m virtualenv -q gpubp/.venv",
        "make -C gpubp .venv/.installed-gpu",
        "make -C gpubp gpu-report ARGS=--quick",
    ]
    (kind, frame), *links = session.shown
    assert kind == "html"
    assert 'srcdoc="&lt;p&gt;page&lt;/p&gt;' in frame
    assert links == [("link", "gpubp/report.html"), ("link", "gpubp/report.json")]
    session.log.write_text("")
    run(cells[:1], python)  # again, with the clone there
    assert "git" not in session.log.read_text()


def test_a_hosted_session_downloads_the_files(cells, session, monkeypatch):
    files = types.ModuleType("google.colab.files")
    files.download = session.shown.append
    colab = types.ModuleType("google.colab")
    colab.files = files
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    Path("gpubp").mkdir()
    Path("gpubp/report.html").write_text("page")
    run(cells[2:])
    assert session.shown[1:] == ["gpubp/report.html", "gpubp/report.json"]


def test_what_fails_in_the_first_cell_ends_it_and_a_report_that_fails_is_shown(cells, session, capsys):
    session.stub("git", "echo no such place; exit 128")
    with pytest.raises(RuntimeError, match="this failed: git clone --depth 1 somewhere gpubp"):
        run(cells[:1], ADDRESS="somewhere")
    assert "no such place" in capsys.readouterr().out
    Path("gpubp").mkdir()
    session.stub("make", "exit 2")
    run(["".join(cells[0].split("if not os.path")[0]), cells[1]])
    assert "Something is broken or wrong: the page says what." in capsys.readouterr().out


@pytest.mark.exhaustive
def test_the_cells_report_on_the_virtual_device(cells, session, check_page):
    """For real but for the set-up: the environment is that of the tests."""
    shutil.copytree(Path(__file__).parents[2] / ".github", "gpubp/.github")
    session.stub("make", f"cd gpubp && exec {sys.executable} -m gpubp report ${{4#ARGS=}}")
    arguments = "--device virtual --quick --backend numba --primitive bias_gradient"
    run(["".join(cells[0].split("if not os.path")[0]), *cells[1:]], ARGS=arguments)
    found = Report.read("gpubp/report.json")
    assert found.verdict == "Passed on the virtual device; nothing ran on a GPU"
    check_page(Path("gpubp/report.html").read_text(encoding="utf-8"))
    assert session.shown[0][0] == "html"
