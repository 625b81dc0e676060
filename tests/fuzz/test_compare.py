"""Damaged files of measurements: refused in one short line, or two runs that can be compared."""

import io

from damage import damaged_json, damaged_text, fuzz

from gpubp.bench import tables
from gpubp.bench.results import BenchResult, Record
from gpubp.bench.works import STEPS, Limit, Primitive
from gpubp.chips import Roofline
from gpubp.terminal import PlainConsole

WORKS = (Primitive("hidden_delta", (64, 64, 64)), Primitive("update", (4096,)), STEPS["tiny"], Limit("copy", 64))
RESULT = BenchResult(
    made="2026-01-01T00:00:00+00:00",
    machine={"processor": "a processor", "gpus": []},
    threads=2,
    repeats=3,
    seconds=0.1,
    records=(*(Record(work, "numpy", (0.1, 0.2, 0.3)) for work in WORKS), Record(WORKS[0], "torch", fault="no")),
    limits={"cpu": {"float32": Roofline(2e9, 1e12)}},
    published={"float32": Roofline(6e13, 3e12)},
    absent={"jax": "jax is not installed"},
    busy=0.1,
)
GOOD = RESULT.to_json()


def use(result):
    """Compare with another run, in a terminal and as JSON."""
    console = PlainConsole(file=io.StringIO(), width=120)
    for before, now in ((RESULT, result), (result, RESULT)):
        console.print(tables.comparison(before, now, 120))
        for line in tables.comparison_notes(before, now):
            assert line.isprintable()
            console.print(line)
    assert all(each.isprintable() for each in console.file.getvalue().splitlines())
    again = BenchResult.from_json(result.to_json())
    assert again == result


def test_damaged_text(tmp_path):
    def attempt(rng):
        (tmp_path / "bench.json").write_bytes(damaged_text(rng, GOOD))
        use(BenchResult.read(tmp_path / "bench.json"))

    fuzz(attempt)


def test_values_of_other_types(tmp_path):
    def attempt(rng):
        (tmp_path / "bench.json").write_bytes(damaged_json(rng, GOOD))
        use(BenchResult.read(tmp_path / "bench.json"))

    fuzz(attempt)
