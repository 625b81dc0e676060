"""Every command and example of the README, run as a reader would run them, and its links and pictures."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer

from gpubp.cli import app
from gpubp.toolchain import cache

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SETUP_TARGETS = ("core", "test", "bench", "gpu")


@pytest.fixture(scope="module")
def readme(repository):
    return (repository / "README.md").read_text(encoding="utf-8")


def blocks(text, language):
    return [content for name, content in BLOCK.findall(text) if name == language]


def commands(text):
    """The lines of the shell blocks, without comments, continued lines joined."""
    lines = "".join(blocks(text, "bash")).replace("\\\n", "").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


@pytest.fixture
def clone(repository, tmp_path):
    """A folder that looks like a clone after its set-up: the Makefile, and .venv with this Python's programs."""
    for name in ("Makefile", "pyproject.toml", "README.md"):
        shutil.copy(repository / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    for target in SETUP_TARGETS:
        (tmp_path / ".venv" / f".installed-{target}").touch()
    return tmp_path


def test_every_block_has_a_language_that_is_tested(readme):
    assert {name for name, _ in BLOCK.findall(readme)} <= {"bash", "python"}
    assert commands(readme)
    assert blocks(readme, "python")


@pytest.mark.slow
def test_every_command_runs(readme, clone):
    """In one folder, in the README's order: later commands use what earlier ones made.

    With one process and one thread each, and the kernels that other tests have compiled: it is the longest test.
    """
    environment = {
        "PATH": f"{clone / '.venv' / 'bin'}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(clone),
        "COLUMNS": "120",
        "OMP_NUM_THREADS": "1",
        "GPUBP_CACHE_DIR": str(cache.directory()),
    }
    for command in commands(readme):
        # These would install from the network or start this test again: make itself says what they would run.
        command = re.sub(r"^make (?!train|help)", "make -n ", command)
        command = re.sub(r"^(pip install|git clone|cd) .*", "true", command)
        command = re.sub(r"^gpubp (check|report) .*", r"\g<0> --jobs 1", command)
        result = subprocess.run(
            command, shell=True, cwd=clone, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"


@pytest.mark.slow
def test_every_python_example_runs(readme, tmp_path):
    for example in blocks(readme, "python"):
        result = subprocess.run(
            [sys.executable, "-W", "error", "-c", example], cwd=tmp_path, capture_output=True, text=True
        )
        assert result.returncode == 0, f"{example}\n{result.stderr}"
        if "races=True" in example:
            assert re.search(r"race.*kernel\.cu:5.*kernel\.cu:4", result.stdout, re.DOTALL)


def test_every_extra_that_is_named_exists(readme, repository):
    with open(repository / "pyproject.toml", "rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    named = re.findall(r'"\.\[(\w+)\]"', readme)
    assert named
    assert set(named) <= set(extras)


def test_every_link_to_a_file_leads_somewhere(readme, repository):
    targets = re.findall(r"\]\(([^)#]+)", readme) + re.findall(r'src="([^"]+)"', readme)
    local = [target for target in targets if "://" not in target]
    assert local
    for target in local:
        assert (repository / target).exists(), target


def test_the_table_of_verbs_is_that_of_the_command_line(readme):
    verbs = re.findall(r"^\| `gpubp (\w+)", readme, re.MULTILINE)
    assert sorted(verbs) == sorted(typer.main.get_command(app).commands)
