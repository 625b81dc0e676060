"""Findings that are intended: by comments in kernels and by files, with a reason; others stay findings."""

import os

import numpy as np
import pytest

import gpubp.emulator as cp
from gpubp.emulator import cuda
from gpubp.emulator.observe.observers import observe
from gpubp.emulator.observe.suppressions import load
from gpubp.errors import ArgumentError

FLAG = """extern "C" __global__ void mark(int* y) {
    if (threadIdx.x % 2) y[0] = 1;COMMENT
    y[1] = threadIdx.x;OTHER
}"""


def marked(comment: str = "", other: str = "", **options) -> cp.observe:
    kernel = cp.RawKernel(FLAG.replace("COMMENT", comment).replace("OTHER", other), "mark")
    with observe(races=True, **options) as report:
        kernel((1,), (32,), (cp.zeros(2, np.int32),))
    return report


def kinds(findings) -> list[tuple[str, str]]:
    return sorted((finding.kind, finding.reason) for finding in findings)


@pytest.mark.parametrize(
    ("comment", "reason"),
    [
        ("  // gpubp: same-value race intended", "intended"),
        ("  // gpubp: same-value race intended: all say so", "all say so"),
        ("  // set by all; gpubp: same-value race intended: all say so", "all say so"),
    ],
)
def test_a_comment_on_the_line_suppresses_its_kind(comment, reason):
    report = marked(comment)
    assert kinds(report.findings) == [("race", "")]
    assert kinds(report.suppressed) == [("same-value race", reason)]
    assert reason in str(report)


def test_a_comment_may_stand_on_the_line_above():
    report = marked(other="\n    // gpubp: race intended: last one wins\n    y[2 * 0] = threadIdx.x;")
    assert ("race", "last one wins") in kinds(report.suppressed)
    assert {finding.line for finding in report.findings} == {2, 3}


@pytest.mark.parametrize(
    "comment",
    [
        "",
        "  // gpubp: race intended",
        "  // gpubp: same-value race",
        "  // same-value race intended",
        "\n// gpubp: x intended",
    ],
)
def test_other_comments_suppress_nothing(comment):
    report = marked(comment)
    assert kinds(report.findings) == [("race", ""), ("same-value race", "")]
    assert report.suppressed == []


def test_comments_in_numba_kernels():
    @cuda.jit
    def mark(y):
        y[0] = 1  # gpubp: same-value race intended: a flag
        y[1] = cuda.threadIdx.x

    with observe(races=True) as report:
        mark[1, 32](np.zeros(2, np.int32))
    assert kinds(report.suppressed) == [("same-value race", "a flag")]
    assert kinds(report.findings) == [("race", "")]


@pytest.mark.parametrize(
    ("table", "suppressed"),
    [
        ('kind = "race"', ["race"]),
        ('kernel = "ma*"', ["race", "same-value race"]),
        ('file = "kernel.cu"\nline = 2', ["same-value race"]),
        ('kernel = "other"', []),
        ('line = 7', []),
        ('file = "nel.cu"', []),
        ('file = "kernel.cu"\nline = 3\nkind = "same-value race"', []),
    ],
)  # fmt: skip
def test_files_of_suppressions(tmp_path, table, suppressed):
    path = tmp_path / "intended.toml"
    path.write_text(f'[[suppress]]\n{table}\nreason = "seen"\n')
    report = marked(suppressions=path)
    assert kinds(report.suppressed) == [(kind, "seen") for kind in suppressed]
    assert len(report.findings) + len(report.suppressed) == 2


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[[suppress]", "it must be a TOML file"),
        ("[other]\n", r"a file of tables \[\[suppress\]\]"),
        ("suppress = 3\n", r"a file of tables \[\[suppress\]\]"),
        ('[[suppress]]\nkind = "race"\n', "reason of suppression 1"),
        ('[[suppress]]\nreason = " "\n', "reason of suppression 1"),
        ('[[suppress]]\nreason = "x"\nkinds = "race"\n', "key of suppression 1 was 'kinds'.*did you mean 'kind'"),
        ('[[suppress]]\nreason = "x"\nkind = "rac"\n', "kind of suppression 1 was 'rac'.*did you mean 'race'"),
        ('[[suppress]]\nreason = "x"\nline = "2"\n', "line of suppression 1 was '2'; it must be a number"),
        ('[[suppress]]\nreason = "x"\nline = true\n', "line of suppression 1"),
    ],
)
def test_files_that_are_none(tmp_path, text, complaint):
    path = tmp_path / "intended.toml"
    path.write_text(text)
    with pytest.raises(ArgumentError, match=complaint):
        load(path)


@pytest.mark.parametrize(
    ("contents", "message"),
    [(b"a" * 9, "a TOML file"), (b"\xff", "a TOML file"), (b"a=" + b"[" * 100_000, "nested so deeply")],
)
def test_what_is_no_file_of_suppressions(tmp_path, contents, message):
    path = tmp_path / "intended.toml"
    path.write_bytes(contents)
    with pytest.raises(ArgumentError, match=message):
        load(path)


def test_only_a_regular_file_has_suppressions(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", "/dev/zero", tmp_path):
        with pytest.raises(ArgumentError, match="it must be a regular file"):
            load(path)
    with pytest.raises(OSError, match="No such file"):
        load(tmp_path / "missing")
