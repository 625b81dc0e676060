"""Commands, each in an empty folder."""

import pytest
from command_line import FAST, contents
from typer.testing import CliRunner

from gpubp.cli import app
from gpubp.training import plots


@pytest.fixture
def no_picture(monkeypatch):
    """Spares a run the drawing of its pictures, which takes longer than its training here."""
    monkeypatch.setattr(plots, "curves", lambda history, *, out, **options: out.write(b"curves"))
    monkeypatch.setattr(plots, "predictions", lambda judged, *, out, **options: out.write(b"predictions"))


@pytest.fixture
def gpubp(tmp_path, monkeypatch, no_picture):
    """Runs a command in an empty folder; returns its exit code, its output and its errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("GPUBP_DEBUG", raising=False)

    def run(*arguments, code=0):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="gpubp")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture
def refused(gpubp):
    """Runs a command that must fail: exit code 2, one line that says `message`, and no new file."""

    def run(*arguments, message):
        before = contents()
        result = gpubp(*arguments, code=2)
        lines = result.stderr.strip().splitlines()
        assert len(lines) == 1, result.stderr
        assert lines[0].startswith("error: ")
        for part in [message] if isinstance(message, str) else message:
            assert part in lines[0]
        assert contents() == before

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The folder of a finished run on the digits, with its picture; for reading."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    result = CliRunner().invoke(app, ["train", "--out", str(folder), *FAST])
    assert result.exit_code == 0, result.output
    return folder
