"""Help, and how the program starts and ends."""

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from command_line import FAST, program
from typer.main import get_command

from gpubp.cli import app
from gpubp.training.settings import Settings


def test_help_imports_nothing_heavy():
    """A new process, as the user has it: help is there at once."""
    script = (
        "import sys; sys.argv = ['gpubp', *sys.argv[1:]]\n"
        "from gpubp.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "heavy = {'numpy', 'scipy', 'matplotlib', 'safetensors', 'numba', 'cupy', 'cuda', 'gpubp.nn.network'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    for arguments in (["--help"], ["train", "--help"], ["--version"]):
        result = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
        assert result.stdout
        assert result.stderr.strip() == "[]"


def test_version(gpubp):
    from importlib.metadata import version

    assert gpubp("--version").stdout == f"gpubp {version('gpubp')}\n"


@pytest.mark.parametrize("verb", ["train", "evaluate", "predict", "gradcheck"])
def test_every_verb_has_help(gpubp, verb):
    text = gpubp(verb, "--help").stdout
    assert "Usage: gpubp " + verb in text
    assert "--data" in text


def test_every_setting_is_an_option_of_train(gpubp):
    parameters = {each.name: each for each in get_command(app).commands["train"].params}
    for each in fields(Settings):
        option = parameters[each.name]
        assert option.help == each.metadata["help"]
        assert option.default == each.default
        assert f"--{each.name.replace('_', '-')}" in option.opts
    assert list(parameters)[len(fields(Settings)) :] == [
        "out",
        "resume",
        "config",
        "reschedule",
        "find_lr",
        "cv",
        "ranks",
    ]


def test_the_help_names_every_choice(gpubp):
    """The help's lists are written by hand, so that no numerical library is loaded for them."""
    from gpubp import backends
    from gpubp.data.loading import NAMES
    from gpubp.nn import initializers, losses, optimizers
    from gpubp.nn.activations import ACTIVATIONS
    from gpubp.training.config import SCHEDULES

    text = gpubp("train", "--help").stdout
    names = [*ACTIVATIONS, *losses.LOSSES, *initializers.INITIALIZERS, *optimizers.OPTIMIZERS, *SCHEDULES, *NAMES]
    names += ["auto", *backends.BACKENDS, *{device for devices in backends.BACKENDS.values() for device in devices}]
    for name in names:
        assert name in text or name == "softmax", name  # softmax is for the output, where the loss takes it


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux' /dev/full")
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["info"]])
def test_output_on_a_full_disk_is_one_clear_line(arguments):
    with open("/dev/full", "w") as full:
        found = program(*arguments, stdout=full)
    assert (found.returncode, found.stderr) == (2, "error: No space left on device\n")


def test_a_terminal_of_another_encoding_shows_what_it_can(tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    arguments = ["train", "--out", tmp_path / "run", *FAST, "--epochs", "1"]
    found = program(*arguments, stdout=subprocess.PIPE, env=environment)
    assert found.returncode == 0, found.stderr
    assert "64 ? 16 ? 10, relu" in found.stdout


def test_no_verb_is_help(gpubp):
    assert "Usage" in gpubp(code=2).output
