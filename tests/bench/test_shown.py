"""What is made of figures: tables at every width, comparisons, pictures. The figures are invented."""

import dataclasses
import io
import re

import pytest

from gpubp.bench import pictures, tables
from gpubp.bench.results import BenchResult, Record, limits_of
from gpubp.bench.works import STEPS, Limit, Primitive
from gpubp.chips import Roofline
from gpubp.terminal import PlainConsole

WORKS = [
    *(Primitive("hidden_delta", (side,) * 3) for side in (64, 1024)),
    Primitive("update", (4096,)),
    STEPS["tiny"],
    STEPS["tiny-regression"],
    STEPS["large"],
]
SPEEDS = {
    "numpy": 1.0,
    "cupy": 100.0,
    "numba": 50.0,
    "cupy-tiled": 25.0,
    "torch": 0.5,
    "torch-compiled": 0.8,
    "jax": 0.9,
    "sklearn": 0.1,
    "cublas": 110.0,
    "cublaslt": 120.0,
    "torch-graph": 105.0,
}


def invented(speeds=SPEEDS, works=WORKS, **changes):
    """A result in which the CPU makes 1 GFLOP/s, and everyone else so many times as much."""
    records = [
        Record(work, key, tuple(work.flops / (1e9 * speed) * factor for factor in (0.98, 1.0, 1.0, 1.0, 1.04)))
        for work in works
        for key, speed in speeds.items()
        if not (key in ("cublas", "cublaslt") and work in STEPS.values())
    ]
    records.append(Record(Limit("product", 2048), "limit-cpu", (1.0,)))
    fields = {
        "made": "2026-01-01T00:00:00+00:00",
        "machine": {"processor": "a processor", "gpus": ["NVIDIA H100 80GB HBM3"]},
        "threads": 2,
        "repeats": 5,
        "seconds": 0.1,
        "records": tuple(records),
        "limits": {"cpu": {"float32": Roofline(2e9, 1e12)}, "gpu": {"float32": Roofline(4e11, 3e14)}},
        "published": {"float32": Roofline(6e13, 3e12)},
    }
    return BenchResult(**(fields | changes))


def shown(result, width):
    console = PlainConsole(width=width, record=True, file=io.StringIO())
    for table in tables.tables(result, width):
        console.print(table)
    return console.export_text()


def rows(text, beginning):
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if line.startswith(beginning)]


def test_a_row_has_its_figures_and_the_ratio_to_each_of_its_peers():
    text = shown(invented(), 260)
    cpu, gpu, *_ = rows(text, "1024x1024x1024")
    # shape, backend, median, quartiles, GFLOP/s, GB/s, of limit, then the peers on the row's device
    assert cpu[:7] == ["1024x1024x1024", "numpy", "2.15 s", "2.15 – 2.15 s", "1.00", "0.01", "50%"]
    assert cpu[7:] == ["2.00", "1.25", "1.11", "10.00"]
    assert gpu[:5] == ["1024x1024x1024", "cupy", "21.5 ms", "21.5 – 21.5 ms", "100"]
    assert gpu[6:] == ["25%", "100.00", "0.91", "0.83", "0.95"]


def test_the_headings_name_the_peers():
    text = shown(invented(), 200)
    for heading in ("PyTorch", "eager ×", "compiled ×", "JAX ×", "scikit-learn ×", "cuBLAS ×", "cuBLASLt ×", "graph ×"):
        assert heading in text


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_no_number_is_cut_at_any_width(width):
    text = shown(invented(), width)
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= width
    for heading in ("median", "limit", "backend"):
        assert heading in text


def test_what_matters_most_stays_in_a_narrow_terminal():
    text = shown(invented(), 60)
    product, update, _ = (line.split() for line in text.splitlines() if "backend" in line)
    assert product[:4] == ["shape", "backend", "median", "GFLOP/s"]
    assert update[:4] == ["shape", "backend", "median", "GB/s"]
    assert "no room for: quartiles, GB/s, " in text


def test_the_notes_say_the_limits_the_absent_and_the_load():
    absent = {
        "cupy": "no driver; install it",
        "numba": "no driver; install it",
        "jax": "jax is not installed; pip install jax",
    }
    fault = Record(WORKS[0], "torch", (), "wrong: delta at [0]")
    result = invented({"numpy": 1.0}, absent=absent, busy=0.5)
    result = dataclasses.replace(result, records=(*result.records, fault))
    text = "\n".join(tables.notes(result))
    assert "limits of the cpu, float32: 2.00 GFLOP/s (BLAS), 1,000 GB/s (copy)" in text
    assert "published for this GPU, float32: 60,000 GFLOP/s, 3,000 GB/s" in text
    assert "absent: cupy on gpu, numba on gpu: no driver; install it" in text
    assert "absent: JAX on cpu: jax is not installed" in text
    assert "PyTorch eager, hidden_delta 64x64x64 float32: wrong: delta at [0]" in text
    assert "other programs took 50% of the cores' time" in text
    assert tables.empty_rows(result) == ["cupy on gpu, numba on gpu: not measured: no driver"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.5, "1.50 s"), (0.0123, "12.3 ms"), (0.000999, "999 µs"), (1e-7, "0.10 µs"), (123.4, "123 s")],
)
def test_durations(seconds, text):
    assert tables.duration(seconds) == text


# --- records ----------------------------------------------------------------------------------------------------------
def test_a_result_is_the_same_after_its_way_through_a_file(tmp_path):
    result = invented(absent={"jax": "not here"}, busy=None)
    result.save(tmp_path / "x.json")
    assert BenchResult.read(tmp_path / "x.json") == result


def test_median_and_quartiles():
    record = Record(WORKS[0], "numpy", (5.0, 1.0, 2.0, 3.0, 4.0))
    assert record.median == 3.0
    assert record.quartiles == (2.0, 4.0)
    assert record.flops_per_second == WORKS[0].flops / 3
    assert Record(WORKS[0], "numpy", (7.0,)).quartiles == (7.0, 7.0)


def test_limits_are_the_medians_of_their_samples():
    product, copy = Limit("product", 100), Limit("copy", 100)
    records = [Record(product, "limit-cpu", (1.0, 2.0, 4.0)), Record(copy, "limit-cpu", (1.0,))]
    found = limits_of([*records, Record(product, "limit-gpu", (1.0,))], {"limit-cpu": "cpu", "limit-gpu": "gpu"})
    assert found == {"cpu": {"float32": Roofline(product.flops / 2, copy.bytes)}}


# --- two runs ---------------------------------------------------------------------------------------------------------
def test_what_moved_is_what_left_the_quartiles():
    before = invented({"numpy": 1.0, "cupy": 100.0, "numba": 50.0})
    now = invented({"numpy": 1.01, "cupy": 120.0, "numba": 40.0})
    found = {(change.now.work, change.now.contender): change for change in tables.changes(before, now)}
    same, faster, slower = (found[WORKS[0], key] for key in ("numpy", "cupy", "numba"))
    assert [same.verdict, faster.verdict, slower.verdict] == ["faster", "faster", "slower"]
    assert slower.ratio == pytest.approx(1.25)
    wide = dataclasses.replace(same.now, seconds=tuple(same.before.median * f for f in (0.5, 0.9, 1.0, 1.1, 2.0)))
    assert dataclasses.replace(same, now=wide).verdict == ""


def test_two_runs_side_by_side_in_a_narrow_terminal():
    before, now = invented({"numpy": 1.0, "torch-compiled": 1.0}), invented({"numpy": 1.0, "torch-compiled": 2.0})
    console = PlainConsole(width=60, record=True, file=io.StringIO())
    console.print(tables.comparison(before, now, 60))
    text = console.export_text()
    assert "…" not in text
    assert "no room for: before, quartiles, now, quartiles, moved" in text
    assert rows(text, "hidden_delta 1024x1024x1024")[1][-1] == "0.50"


@pytest.mark.parametrize("width", [80, 120])
def test_two_runs_side_by_side(width):
    speeds = {"numpy": 1.0, "torch-compiled": 1.0}
    before = invented(speeds | {"cupy": 1.0})
    now = invented({key: 2 * speed for key, speed in speeds.items()} | {"numba": 1.0}, threads=4)
    console = PlainConsole(width=width, record=True, file=io.StringIO())
    console.print(tables.comparison(before, now, width))
    text = console.export_text()
    row, _ = rows(text, "hidden_delta 1024x1024x1024")
    assert row[-2:] == ["0.50", "faster"]
    assert "…" not in text
    notes = "\n".join(tables.comparison_notes(before, now))
    assert f"{2 * len(WORKS) + 1} compared: {2 * len(WORKS)} faster, 0 slower" in notes
    assert "not the same threads: 2 before, 4 now" in notes
    assert f"only before, and not compared: {len(WORKS)} of cupy" in notes
    assert f"only now, and not compared: {len(WORKS)} of numba" in notes


# --- pictures ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def drawn(monkeypatch):
    """Makes a picture's figure, without the time that pixels take."""
    from matplotlib.figure import Figure

    def draw(function, result):
        figures = []
        monkeypatch.setattr(Figure, "savefig", lambda self, *arguments, **options: figures.append(self))
        function(result)
        return figures[0]

    return draw


def test_throughput_over_size_has_a_panel_a_kind_and_a_curve_a_contender(drawn):
    figure = drawn(pictures.throughput, invented())
    panels = {ax.get_title(loc="left"): ax for ax in figure.axes if ax.get_visible()}
    assert list(panels) == ["hidden_delta, float32", "update, float32", "step, float32"]
    product, update, step = panels.values()
    assert (product.get_ylabel(), update.get_ylabel(), step.get_ylabel()) == ("GFLOP/s", "GB/s", "GFLOP/s")
    curves = {line.get_label(): line for line in product.lines}
    assert list(curves["numpy"].get_xdata()) == pytest.approx([64, 1024])
    assert list(curves["cupy"].get_ydata()) == pytest.approx([100, 100])
    assert set(curves) == {
        "numpy", "cupy", "numba", "cupy tiled", "PyTorch eager", "PyTorch compiled", "JAX", "scikit-learn", "cuBLAS",
        "cuBLASLt", "PyTorch graph", "limit, cpu", "limit, gpu",
    }  # fmt: skip
    assert curves["limit, gpu"].get_ydata()[0] == 400
    assert [line.get_ydata()[0] for line in update.lines if line.get_label() == "limit, cpu"] == [1000]
    assert len({(str(line.get_color()), line.get_linestyle(), line.get_marker()) for line in product.lines}) == len(
        curves
    )
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(curves)
    assert product.get_xscale() == product.get_yscale() == "log"
    assert len(step.lines[0].get_xdata()) == 2, "networks of one size are one point"


def test_the_picture_says_why_there_is_no_gpu(drawn):
    figure = drawn(pictures.throughput, invented({"numpy": 1.0}, absent={"cupy": "no driver is installed"}))
    assert figure.get_supxlabel() == "cupy on gpu: no driver is installed"


def test_the_roofline_shows_each_kind_at_its_largest_size(drawn):
    figure = drawn(pictures.roofline, invented({"numpy": 1.0, "cupy": 100.0}))
    (ax,) = figure.axes
    lines = {line.get_label(): line for line in ax.lines}
    assert list(lines)[:3] == ["measured, cpu, float32", "measured, gpu, float32", "published, gpu, float32"]
    assert "hidden_delta 1024x1024x1024, cupy" in lines
    assert "hidden_delta 64x64x64, cupy" not in lines
    assert lines["hidden_delta 1024x1024x1024, cupy"].get_ydata()[0] == pytest.approx(0.1)
    assert ax.get_ylabel() == "TFLOP/s"
    limits = {"cpu": {"float32": Roofline(2e9, 1e9)}}
    slow = drawn(pictures.roofline, invented({"numpy": 1.0}, published={}, limits=limits))
    assert slow.axes[0].get_ylabel() == "GFLOP/s"
