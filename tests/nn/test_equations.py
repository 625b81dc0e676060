"""The README's table of equations: the algorithm calls each primitive, and its links lead to kernels that say it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROW = re.compile(
    r"^\| `(?P<name>\w+)` \| (?P<equation>[^|]+) \| \[[^]]+\]\((?P<cuda>[^)]+)\) \| \[[^]]+\]\((?P<numba>[^)]+)\) \|$",
    re.MULTILINE,
)


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


ROWS = [match.groupdict() for match in ROW.finditer(read("README.md"))]
PRIMITIVES = {
    *("dense_forward", "output_delta", "hidden_delta", "weight_gradient", "weight_step", "bias_gradient", "update"),
}


def test_every_primitive_of_a_step_has_a_row():
    assert {row["name"] for row in ROWS} == PRIMITIVES


@pytest.mark.parametrize("name", sorted(PRIMITIVES))
def test_the_algorithm_calls_the_primitive(name):
    call = "weight_gradient" if name == "bias_gradient" else name  # which goes along with it, in one launch
    called = [path for path in ("network.py", "trainer.py") if f"backend.{call}(" in read(f"gpubp/nn/{path}")]
    assert len(called) == 1, f"{name} is called in {called}"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_the_kernels_say_the_equation(row):
    for place, folder, suffix in (("cuda", "kernels/cuda", ".cu"), ("numba", "kernels/numba", ".py")):
        assert row[place] == f"{folder}/{row['name']}{suffix}"
        header = read(row[place]).splitlines()[0]
        assert row["equation"].split(" ; ")[0].strip() in header, f"{row[place]} begins with {header!r}"
