"""The README's table of equations: each link leads to the line or the file that it names."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROW = re.compile(
    r"^\| `(?P<name>\w+)` \| (?P<equation>[^|]+) \| \[line (?P<line>\d+)\]\(gpubp/nn/network\.py#L(?P<link>\d+)\) "
    r"\| \[[^]]+\]\((?P<cuda>[^)]+)\) \| \[[^]]+\]\((?P<numba>[^)]+)\) \|$",
    re.MULTILINE,
)
ROWS = [match.groupdict() for match in ROW.finditer((ROOT / "README.md").read_text(encoding="utf-8"))]
PRIMITIVES = {
    *("dense_forward", "output_delta", "hidden_delta", "weight_gradient", "weight_step", "bias_gradient", "update"),
}


def test_every_primitive_of_a_step_has_a_row():
    assert {row["name"] for row in ROWS} == PRIMITIVES


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_the_line_calls_the_primitive(row):
    lines = (ROOT / "gpubp/nn/network.py").read_text(encoding="utf-8").splitlines()
    call = f"backend.{row['name']}("
    right = [number for number, text in enumerate(lines, start=1) if call in text]
    assert row["line"] == row["link"]
    assert int(row["line"]) in right, f"{row['name']} is called in line {right}"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_the_kernels_say_the_equation(row):
    for place, folder, suffix in (("cuda", "kernels/cuda", ".cu"), ("numba", "kernels/numba", ".py")):
        assert row[place] == f"{folder}/{row['name']}{suffix}"
        header = (ROOT / row[place]).read_text(encoding="utf-8").splitlines()[0]
        assert row["equation"].split(" ; ")[0].strip() in header, f"{row[place]} begins with {header!r}"
