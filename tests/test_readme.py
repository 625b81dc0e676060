"""Every command and example of the READMEs, run as a reader would run them, and their links and pictures."""

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer

from gpubp.cli import app
from gpubp.toolchain import cache

ROOT = Path(__file__).resolve().parents[1]
READMES = [
    "README.md",
    *(f"gpubp/{folder}/README.md" for folder in ("bench", "crosscheck", "emulator", "explain", "profiler", "report")),
    "kernels/README.md",
]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SETUP_TARGETS = ("core", "test", "bench", "gpu")
WIDTH = "96"
"""Columns of the terminal whose output is shown."""


@pytest.fixture(params=READMES)
def readme(request):
    """The text of each README."""
    return (ROOT / request.param).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def main_readme():
    return (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text, language):
    return [content for name, content in BLOCK.findall(text) if name == language]


def commands(text):
    """The lines of the shell blocks, continued lines joined: each without its comment, and the exit code that this
    promises."""
    lines = "".join(blocks(text, "bash")).replace("\\\n", "").splitlines()
    parts = [line.partition("  #") for line in lines if line.strip() and not line.startswith("#")]
    return [(command.strip(), int("exit code 1" in comment)) for command, _, comment in parts]


def files(text):
    """The examples that are files: those that begin with their name, as in "# reverse.py"."""
    named = (re.match(r"# (\w+\.py)\n", content) for content in blocks(text, "python"))
    return {match[1]: match.string for match in named if match}


def with_files(folder, text):
    """The folder, with the files of a README in it."""
    for name, content in files(text).items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder


@pytest.fixture
def clone(tmp_path):
    """A folder that looks like a clone after its set-up: the Makefile, and .venv with this Python and its packages."""
    for name in ("Makefile", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        if (Path(sys.prefix) / name).exists():
            (tmp_path / ".venv" / name).symlink_to(Path(sys.prefix) / name)
    for target in SETUP_TARGETS:
        (tmp_path / ".venv" / f".installed-{target}").touch()
    return tmp_path


def test_every_readme_is_tested():
    found = {str(path.relative_to(ROOT)) for top in ("gpubp", "kernels") for path in (ROOT / top).rglob("README.md")}
    assert {"README.md", *found} == set(READMES)


def test_every_block_has_a_language_that_is_tested(readme):
    assert {name for name, _ in BLOCK.findall(readme)} <= {"bash", "python", "text", "cuda"}


@pytest.mark.parametrize(
    "readme",
    [pytest.param(name, marks=pytest.mark.slow if name == "README.md" else pytest.mark.exhaustive) for name in READMES],
    indirect=True,
)
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
    with_files(clone, readme)
    for command, expected in commands(readme):
        # These would install from the network or start this test again: make itself says what they would run.
        command = re.sub(r"^make (?!train|help)", "make -n ", command)
        command = re.sub(r"^(pip install|git clone|cd) .*", "true", command)
        command = re.sub(r"^gpubp (check|report) .*", r"\g<0> --jobs 1", command)
        # a GPU is what it measures; tests/bench/test_tune.py has it measure the virtual device
        command = re.sub(r"^gpubp tune .*", "gpubp tune --help", command)
        result = subprocess.run(
            command, shell=True, cwd=clone, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert result.returncode == expected, f"{command}\n{result.stdout}\n{result.stderr}"


@pytest.mark.slow
def test_every_python_example_runs_and_prints_what_is_shown(readme, tmp_path):
    """A block of text behind an example is its output."""
    shown = [(name, content) for name, content in BLOCK.findall(readme) if name in ("python", "text")]
    for (name, example), (following, output) in itertools.pairwise([*shown, ("", "")]):
        if name != "python" or example in files(readme).values():
            continue
        command = [sys.executable, "-W", "error", "-c", example]
        environment = os.environ | {"COLUMNS": WIDTH}
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
        assert result.returncode == 0, f"{example}\n{result.stderr}"
        if following == "text":
            lines = [line.rstrip() for line in result.stdout.strip().splitlines()]
            assert lines == output.splitlines()


def test_the_first_example_prints_what_is_shown_and_names_the_race(main_readme, tmp_path):
    """The two lines of the kernel that the report names are the two without a barrier between them."""
    (_, example), (_, command), (_, output) = BLOCK.findall(main_readme)[:3]
    command = [sys.executable, *shlex.split(command, comments=True)[1:]]
    environment = os.environ | {"COLUMNS": WIDTH}
    result = subprocess.run(
        command, cwd=with_files(tmp_path, main_readme), capture_output=True, text=True, env=environment
    )
    assert result.returncode == 1
    assert [line.rstrip() for line in (result.stdout + result.stderr).strip().splitlines()] == output.splitlines()
    source = re.search(r'r"""(.*?)"""', example, re.DOTALL)[1].splitlines()
    reader, writer = (source[int(number) - 1] for number in re.findall(r"kernel\.cu:(\d+)", output))
    assert "= s[63 - threadIdx.x]" in reader
    assert writer.strip().startswith("s[threadIdx.x] =")


def test_every_extra_that_is_named_exists(readme):
    with open(ROOT / "pyproject.toml", "rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    assert set(re.findall(r'"\.\[(\w+)\]"', readme)) <= set(extras)


@pytest.mark.parametrize("name", READMES)
def test_every_link_to_a_file_leads_somewhere(name):
    text = BLOCK.sub("", (ROOT / name).read_text(encoding="utf-8"))
    targets = re.findall(r"\]\(([^)#]+)", text) + re.findall(r'src="([^"]+)"', text)
    local = [target for target in targets if "://" not in target]
    assert local
    for target in local:
        assert (ROOT / name).parent.joinpath(target).exists(), target


def test_the_table_of_commands_is_that_of_the_command_line(main_readme):
    verbs = re.findall(r"^\| `gpubp (\w+)", main_readme, re.MULTILINE)
    assert sorted(verbs) == sorted(typer.main.get_command(app).commands)
