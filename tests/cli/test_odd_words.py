"""What nobody means: paths that no file has, names that are markup, numbers out of all bounds."""

import os
from pathlib import Path

import pytest
from command_line import FAST, table, write_csv

READ = {
    "train --data": ["train", "--out", "new", "--data"],
    "train --config": ["train", "--out", "new", "--config"],
    "train --resume": ["train", "--resume"],
    "evaluate": ["evaluate"],
    "evaluate --data": ["evaluate", "MODEL", "--data"],
    "predict --data": ["predict", "MODEL", "--out", "p.csv", "--data"],
    "gradcheck --data": ["gradcheck", "--data"],
    "bench --compare": ["bench", "--compare"],
    "profile --chip": ["profile", "update", "--chip"],
}
WRITTEN = {
    "train --out": ["train", *FAST, "--out"],
    "predict --out": ["predict", "MODEL", "--data", "digits", "--out"],
    "check --report": ["check", "--backend", "numpy", "--report"],
    "bench --save": ["bench", "--quick", "--save"],
    "bench --out": ["bench", "--quick", "--out"],
    "profile --out": ["profile", "update", "--out"],
    "profile --html": ["profile", "update", "--html"],
    "report --out": ["report", "--out"],
    "explain network --out": ["explain", "network", "--out"],
    "explain kernel --out": ["explain", "kernel", "update", "--out"],
    "check --explain": ["check", "--backend", "cupy", "--device", "emulator", "--explain"],
}
SUFFIXES = {
    "train --config": ".toml", "bench --compare": ".json", "profile --chip": ".toml", "predict --out": ".csv",
    "check --report": ".md", "bench --save": ".json", "profile --out": ".png", "profile --html": ".html",
    "report --out": ".html", "train --data": ".csv", "evaluate --data": ".npz", "predict --data": ".csv",
    "gradcheck --data": ".npz", "explain network --out": ".html", "explain kernel --out": ".html",
    "check --explain": ".html",
}  # fmt: skip


@pytest.fixture
def refused_soon(gpubp, trained, monkeypatch):
    """Runs a command that is wrong in its last word: exit code 2 and one short line, and no new file."""

    def run(command, word):
        before = set(Path().rglob("*"))
        result = gpubp(*[str(trained) if each == "MODEL" else each for each in command], word, code=2)
        assert set(Path().rglob("*")) == before
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: ")
        assert line.isprintable()
        assert len(line) < 500
        return line

    return run


LONG, DEEP, UNDECODABLE = "n" * 256, "d/" * 3000 + "x", "\udcff\udc80"


@pytest.mark.parametrize(
    ("option", "name"),
    [(option, name) for option in (*READ, *WRITTEN) for name in (LONG, DEEP)]
    + [(option, UNDECODABLE) for option in READ],
    ids=lambda each: {LONG: "long", DEEP: "deep", UNDECODABLE: "bytes"}.get(each, each),
)
def test_a_path_that_no_file_has(refused_soon, option, name):
    """One with a NUL cannot be on a command line: no process starts with it. A file of any bytes can be written."""
    refused_soon({**READ, **WRITTEN}[option], name + SUFFIXES.get(option, ""))


@pytest.mark.parametrize("option", READ)
def test_what_would_block_or_never_end_is_not_read(refused_soon, option):
    suffix = SUFFIXES.get(option, "")
    os.mkfifo(f"fifo{suffix}")
    os.symlink("/dev/zero", f"zero{suffix}")
    for name in ("fifo", "zero"):
        line = refused_soon(READ[option], name + suffix)
        assert "it is not a regular file" in line or option == "train --resume"


def test_names_of_files_and_classes_are_text(gpubp):
    name = "[red]$x :bug:.csv"
    rows = [[a, b, {"left": "[/] \x1b[31m", "right": "[bold]"}[side]] for a, b, side in table()]
    write_csv(name, ["[a]", "\x1b[2Jb", "y"], rows)
    done = gpubp("train", "--data", name, "--out", "[run]", "--layers", "4", "--epochs", "1")
    assert "[red]$x :bug:" in done.stdout
    assert "[run]" in done.stdout
    judged = gpubp("evaluate", "[run]")
    assert "[/] \\x1b[31m" in judged.stdout
    assert "[bold]" in judged.stdout
    for text in (done.stdout, done.stderr, judged.stdout, judged.stderr):
        assert all(line.isprintable() for line in text.splitlines())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gradcheck", "--seed", "-1"], "--seed was -1; it must be a whole number ≥ 0"),
        (["gradcheck", "--seed", "1" + "0" * 30], "--seed was 10"),
        (["gradcheck", "--tolerance", "nan"], "--tolerance was nan"),
        (["gradcheck", "--tolerance", "0"], "--tolerance was 0"),
        (["gradcheck", "--batch-size", "-1"], "--batch-size was -1"),
        (["train", "--epochs", "1" + "0" * 30], "--epochs was 10"),
        (["train", "--batch-size", "1" + "0" * 30], "--batch-size was 10"),
        (["train", "--layers", "1" + "0" * 30], "--layers was 10"),
        (["train", "--layers", "9" * 5000], "--layers was '999"),
        (["train", "--lr", "1e400"], "--lr was inf"),
        (["train", "--dtype", "1_000"], "--dtype was '1_000'; it must be one of float32, float64"),
        (["train", "--dtype", ","], "--dtype was ','"),
        (["check", "--jobs", "100000"], "--jobs was 100000; it must be a whole number ≤ 1024"),
        (["check", "--shape", "9" * 5000], "--shape was '999"),
        (["report", "--jobs", "100000"], "--jobs was 100000"),
        (["bench", "--threads", "100000"], "--threads was 100000"),
        (["bench", "--shape", "9" * 5000], "--shape was '999"),
        (["profile", "update", "--shape", "9" * 5000], "--shape was '999"),
        (["profile", "update", "--arch", "sm_" + "9" * 5000], "--arch was 'sm_999"),
        (["profile", "\x1b[31m"], r"primitive was '\x1b[31m'; it must be one of"),
        (["train", "--activation", "x" * 5000], "--activation was 'xxx"),
        (["train", "--loss", "\x1b]0;title\x07"], r"--loss was '\x1b]0;title\x07'"),
        (["train", "--data", "[/]"], "'[/]'"),
    ],
    ids=lambda each: each[-1][:12] if isinstance(each, list) else "",
)
def test_a_number_or_a_name_that_nobody_means(gpubp, arguments, message):
    (line,) = gpubp(*arguments, code=2).stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert len(line) < 500


@pytest.mark.parametrize(
    "arguments", [["train", "\x1b[31m\u202e"], ["train", "--\x1b[2J"], ["\x1b[2J"], ["--\x1b[2J", "train"]]
)
def test_words_that_are_no_options_are_shown_as_text(gpubp, arguments):
    errors = gpubp(*arguments, code=2).stderr
    assert "\\x1b[" in errors
    assert all(line.isprintable() for line in errors.splitlines())
