"""What every verb writes: checked before the work, and nothing replaced unasked."""

import os
import signal
from pathlib import Path

import pytest
from command_line import FAST

from gpubp.errors import CheckpointError
from gpubp.training import plots

WRITERS = {
    "check": (["check", "--backend", "numpy", "--report"], "report.md"),
    "check, as JSON": (["check", "--backend", "numpy", "--report"], "report.json"),
    "bench": (["bench", "--quick", "--save"], "figures.json"),
    "profile": (["profile", "update", "--out"], "roofline.png"),
    "profile, a page": (["profile", "update", "--html"], "page.html"),
    "report": (["report", "--out"], "page.html"),
    "predict": (["predict", "no-model", "--data", "no-data", "--out"], "p.csv"),
    "predict, arrays": (["predict", "no-model", "--data", "no-data", "--out"], "p.npz"),
}
"""By what is written: a command that lacks the file's name, and a name."""


@pytest.fixture
def nothing_runs(monkeypatch):
    """Fails where a verb begins its work."""
    for work in (
        "gpubp.crosscheck.check_command._run",
        "gpubp.bench.bench_command.run",
        "gpubp.profiler.profile_command._profiled",
        "gpubp.report.report_command._places",
        "gpubp.training.model.Model.load",
    ):
        monkeypatch.setattr(work, lambda *given, **options: pytest.fail("it ran"))


@pytest.mark.parametrize(("command", "name"), WRITERS.values(), ids=WRITERS)
def test_no_verb_replaces_a_file_unasked(refused, nothing_runs, command, name):
    Path(name).write_text("precious")
    refused(*command, name, message=[f"--{command[-1][2:]} was '{name}'; it must be a new file; --force replaces"])


@pytest.mark.parametrize(("command", "name"), WRITERS.values(), ids=WRITERS)
def test_what_cannot_be_written_is_said_before_the_work(refused, nothing_runs, command, name):
    Path("file").write_text("precious")
    Path("folder" + Path(name).suffix).mkdir()
    for path, message in (
        (f"missing/{name}", "in a folder that exists"),
        (f"file/{name}", "in a folder that exists"),
        (f"/proc/{name}", "in a folder that can be written"),
        (f"folder{Path(name).suffix}", "a new file"),
        (f"{'a' * 300}{Path(name).suffix}", "too long"),
        ("x.txt", "a file name that ends in"),
    ):
        for force in ([], ["--force"]):
            refused(*command, path, *force, message=[f"{command[-1]} was ", message])


def test_pictures_of_a_bench_are_checked_before_it(refused, nothing_runs):
    Path("file").write_text("precious")
    Path("drawn").mkdir()
    Path("drawn/roofline.png").write_text("precious")
    for path, message in (
        ("file", "a folder"), ("file/new", "a folder"), ("/proc/new", "can be written"),
        ("drawn", "a new file; --force"),
    ):  # fmt: skip
        refused("bench", "--quick", "--out", path, message=["--out was ", message])


def test_a_file_is_replaced_with_force(gpubp):
    for name in ("report.md", "report.json"):
        Path(name).write_text("old")
        gpubp("check", "--backend", "numpy", "--primitive", "scale", "--dtype", "float64", "--report", name, "--force")
        assert "scale" in Path(name).read_text()


def test_a_ctrl_c_while_the_curves_are_drawn_lets_the_run_end(gpubp, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def curves(history, *, out, **options):
        os.kill(os.getpid(), signal.SIGINT)
        out.write(b"curves")

    monkeypatch.setattr(plots, "curves", curves)
    try:
        assert "test accuracy" in gpubp("train", "--out", "run", *FAST).stdout
    finally:
        signal.signal(signal.SIGINT, before)
    assert Path("run/curves.png").read_bytes() == b"curves"


def test_a_run_whose_curves_cannot_be_written_keeps_its_model(gpubp, monkeypatch):
    def full(history, *, out, **options):
        raise CheckpointError("cannot write run/curves.png: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(plots, "curves", full)
        result = gpubp("train", "--out", "run", *FAST)
    assert (
        "warning: cannot write run/curves.png: No space left on device; gpubp train --resume run draws" in result.stderr
    )
    assert "test accuracy" in result.stdout
    gpubp("evaluate", "run")
    gpubp("train", "--resume", "run")
    assert Path("run/curves.png").read_bytes() == b"curves"
