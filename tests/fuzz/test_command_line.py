"""Odd words on the command line: every verb ends with 0, 1 or 2, says what is wrong in a line, and shows no traceback.

The work that is left when all words are right is tiny; the words never ask for more.
"""

import io
import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pytest
from damage import ODD_FLOATS, ODD_INTEGERS, ODD_TEXTS, fuzz
from typer.main import get_command

from gpubp import cli
from gpubp.bench.results import BenchResult, Record
from gpubp.bench.works import STEPS
from gpubp.errors import LONGEST_LINE
from gpubp.training import plots

BASES = {
    "train": ["--data", "table.csv", "--layers", "2", "--epochs", "1", "--out", "new"],
    "evaluate": ["run", "--data", "table.csv"],
    "predict": ["run", "--data", "table.csv", "--out", "p.csv"],
    "export": ["run", "--to", "torch", "--force"],
    "gradcheck": ["--data", "table.csv", "--layers", "2", "--batch-size", "2"],
    "check": ["--backend", "numpy", "--case", "update:-:float32:3:sgd:-:1:random:0:0", "--jobs", "1"],
    "bench": ["--compare", "a.json", "--compare", "b.json"],
    "profile": ["bias_gradient", "--shape", "3x2", "--dtype", "no such"],
    "tune": ["--shape", "3x2x2", "--dtype", "no such"],
    "explain network": ["--sizes", "2,1"],
    "explain kernel": ["hidden_delta", "--language", "no such"],
    "info": [],
    "report": ["--skip", "check", "--skip", "bench", "--skip", "profile", "--backend", "no such"],
}
"""A command of each verb that is right and little work, or wrong in an option that is looked at last."""

LENGTHS = {
    "epochs",
    "repeats",
    "jobs",
    "threads",
    "batch_size",
    "layers",
    "sizes",
    "shape",
    "tolerance",
    "decay_epochs",
}
"""Options that a large number makes long or large work of."""
TOO_MUCH = ("0", "-1", "1.5", "x", "1e3", "1" * 30, "9" * 5000, "-" + "9" * 30)
HEAVY = {"--full", "--quick", "--resume", "--step", "--observe"}
"""Options that ask for more work, or for none."""
PATHS = (
    "fifo",
    "/dev/zero",
    "/dev/null",
    "folder",
    "empty",
    "run",
    "n" * 256,
    "a/" * 3000,
    "no/such",
    "[red].csv",
    ".",
    "",
)

ODD_WORDS = [text for text in ODD_TEXTS if "\0" not in text]
"""The system lets no word of a command line have a NUL."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the commands find: a table, a run, two files of measurements, and what is no file at all."""
    folder = tmp_path_factory.mktemp("words")
    rows = np.random.default_rng(0).normal(size=(20, 2))
    lines = [f"{a:.3f},{b:.3f},{'[/]' if a + b < 0 else 'right'}" for a, b in rows]
    (folder / "table.csv").write_text("\n".join(["a,[bold]b,y", *lines]))
    (folder / "[red].csv").write_bytes((folder / "table.csv").read_bytes())
    for name in "ab":
        record = Record(STEPS["tiny"], "numpy", (0.1,))
        BenchResult("2026-01-01T00:00:00", {}, 1, 1, 0.1, (record,)).save(folder / f"{name}.json")
    (folder / "empty").touch()
    (folder / "folder").mkdir()
    for suffix in ("", ".csv", ".npz", ".toml", ".json"):
        os.mkfifo(folder / f"fifo{suffix}")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(plots, "curves", lambda history, *, out, **options: out.write(b"curves"))
        code, _, errors = gpubp(["train", *BASES["train"][:-1], "run"])
        assert code == 0, errors
    return folder


@pytest.fixture(autouse=True)
def in_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("GPUBP_DEBUG", raising=False)
    # drawing takes longer than all the rest
    monkeypatch.setattr(plots, "curves", lambda history, *, out, **options: out.write(b"curves"))


def gpubp(words):
    """Run a command as the program does; returns its exit code, its output and its errors."""
    out, errors = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    code = 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(errors):
        patch.setattr(sys, "argv", ["gpubp", *words])
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
    return code, *(stream.buffer.getvalue().decode() for stream in (out, errors))


def odd_word(rng, option):
    """A value that this option seldom expects."""
    if option.name in LENGTHS:
        return rng.choice(TOO_MUCH)
    match rng.randrange(4):
        case 0:
            return rng.choice(PATHS)
        case 1:
            return str(rng.choice((*ODD_INTEGERS, *ODD_FLOATS)))
        case 2 if option.default:
            word = str(option.default)
            at = rng.randrange(len(word))
            return word[:at] + rng.choice(ODD_WORDS) + word[at + rng.randrange(2) :]
        case _:
            return rng.choice(ODD_WORDS)


def odd_command(rng, verb):
    names = verb.split()
    command = get_command(cli.app)
    for name in names:
        command = command.commands[name]
    words = [*names, *BASES[verb]]
    options = [each for each in command.params if not HEAVY & set(each.opts)]
    for option in rng.sample(options, min(len(options), rng.randint(1, 2))):
        if option.param_type_name == "argument":
            words[len(names) : len(names) + 1] = [odd_word(rng, option)]
        elif option.is_flag:
            words.append(rng.choice([*option.opts, *option.secondary_opts]))
        else:
            words += [option.opts[0], odd_word(rng, option)]
    if rng.random() < 0.05:
        words.insert(rng.randint(1, len(words)), rng.choice(ODD_WORDS))
    return words


@pytest.mark.parametrize("verb", BASES)
def test_odd_words(verb):
    known = set(os.listdir())

    def attempt(rng):
        words = odd_command(rng, verb)
        code, out, errors = gpubp(words)
        assert code in (0, 1, 2), words
        assert "Traceback" not in out + errors, words
        if "--json" in words and code == 0:
            json.loads(out)
        for line in (out + errors).splitlines():
            assert line.isprintable(), (words, line)
        if code == 2:
            assert errors.strip(), words
            assert max(map(len, errors.splitlines())) <= LONGEST_LINE + len("error: "), (words, errors)
        for name in set(os.listdir()) - known:
            remove(name)

    fuzz(attempt, share=0.15)


def remove(name):
    """Remove what a command has made."""
    import shutil

    shutil.rmtree(name) if os.path.isdir(name) else os.remove(name)
