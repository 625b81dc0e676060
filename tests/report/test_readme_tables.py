"""The README's figures of GPUs: they are what the generator makes of the stored results, and of GPUs alone."""

import importlib.util
import json
import re

import pytest
import reports
from reports import GPU, PRODUCT, STEP, bench, check, info, measured, part, train

from gpubp.bench.results import Record
from gpubp.bench.works import Primitive
from gpubp.errors import DataError
from gpubp.report.results import Report


@pytest.fixture(scope="module")
def tables(repository):
    path = repository / ".github" / "gpu" / "readme_tables.py"
    spec = importlib.util.spec_from_file_location("readme_tables", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def readme(tables, monkeypatch, tmp_path):
    """A README of its own, and a folder of its own for results."""
    path = tmp_path / "README.md"
    path.write_text(f"before\n\n{tables.BEGIN}\nolder\n{tables.END}\n\nafter\n", encoding="utf-8")
    (tmp_path / "gpu").mkdir()
    monkeypatch.setattr(tables, "README", path)
    monkeypatch.setattr(tables, "HERE", tmp_path / "gpu")
    return path


UPDATE = Primitive("update", (1024,))
RUNG = Primitive("hidden_delta", (1024,) * 3)


def on_gpu(name=GPU):
    steps = [Record(STEP, key, (seconds,)) for key, seconds in (("numpy", 1e-3), ("cupy", 2e-5), ("torch-graph", 3e-5))]
    primitives = [
        Record(PRODUCT, "cupy", (2e-6,)),
        Record(PRODUCT, "cublas", (1e-6,)),
        Record(PRODUCT, "numpy", (1.0,)),
    ]
    primitives += [Record(UPDATE, "cupy", (1e-6,)), Record(UPDATE, "numba", fault="wrong: NaN")]
    rungs = [Record(RUNG, "cupy-tiled", (4e-3,)), Record(RUNG, "numba-tiled", (8e-3,)), Record(RUNG, "cublas", (1e-3,))]
    return reports.report(
        machine=info(name, works=(("cupy", "gpu"), ("numba", "gpu"))),
        device="gpu",
        check_cupy=part(check(device="gpu"), "gpu"),
        check_numba=part(check("numba")),
        train_cupy=part(train(device="gpu", rate=54321.0), "gpu"),
        train_numba=part(None, "gpu", "crashed", message="its process ended by SIGSEGV"),
        bench_steps=part(bench(measured(*steps, gpus=(name,))), "gpu"),
        bench_primitives=part(bench(measured(*primitives, gpus=(name,))), "gpu"),
        bench_rungs=part(bench(measured(*rungs, gpus=(name,))), "gpu"),
    )


def test_the_readmes_figures_are_those_of_the_stored_results(tables, repository):
    text = (repository / "README.md").read_text(encoding="utf-8")
    stored = sorted((repository / ".github" / "gpu").glob("*.json"))
    found = [tables.checked(Report.read(path), str(path)) for path in stored]
    assert tables.written(text, tables.block(found)) == text, "make readme-tables"


def test_without_results_the_readme_says_how_a_reader_makes_them(tables, readme, capsys):
    assert tables.main([]) == 0
    text = readme.read_text(encoding="utf-8")
    assert text == f"before\n\n{tables.BEGIN}\n{tables.NONE_YET}{tables.END}\n\nafter\n"
    for words in ("no part of gpubp has run on one", "make gpu-report", "make readme-tables", "gpu_report.ipynb"):
        assert words in text
    assert "figures of 0 GPUs" in capsys.readouterr().out


def test_the_figures_of_a_gpu(tables, readme):
    on_gpu().save(tables.HERE / "h100.json")
    assert tables.main([]) == 0
    text = readme.read_text(encoding="utf-8")
    assert text.startswith(f"before\n\n{tables.BEGIN}\n### {GPU}\n")
    assert text.endswith(f"\n{tables.END}\n\nafter\n")
    assert "Driver for CUDA 13.0; A \\<processor\\>, 8 cores; gpubp 0.1.0, commit 0123456789ab; 2026-01-02." in text
    assert "- check of cupy: all 2 cases in float32 passed; the largest error is 50% of its bound" in text
    assert "54,321 examples/s in the last epoch" in text
    assert "- training on numba: broken: its process ended by SIGSEGV" in text
    assert "check of numba" not in text  # it ran on the emulated device
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows == [
        "| step | numpy on cpu | cupy on gpu | PyTorch graph on gpu |",
        "| --- | ---: | ---: | ---: |",
        "| tiny float32 | 1.00 ms | 20.0 µs | 30.0 µs |",
        "| primitive | cupy | cuBLAS | numba |",
        "| --- | ---: | ---: | ---: |",
        f"| {PRODUCT.title} | {rate(PRODUCT, 2e-6)} | {rate(PRODUCT, 1e-6)} |  |",
        f"| {UPDATE.title} | {UPDATE.bytes / 1e-6 / 1e9:.0f} GB/s |  | failed |",
        f"| rung of {RUNG.title} | cupy | numba |",
        "| --- | ---: | ---: |",
        f"| `tiled` | {rate(RUNG, 4e-3)}, 25% of cuBLAS | {rate(RUNG, 8e-3)}, 12% of cuBLAS |",
    ]


def rate(work, seconds):
    return f"{work.flops / seconds / 1e12:.3g} TFLOP/s"


def test_several_gpus_each_have_their_own(tables, readme):
    paths = [tables.HERE / f"{name}.json" for name in "ab"]
    for path, name in zip(paths, ("GPU A", "GPU B"), strict=True):
        on_gpu(name).save(path)
    assert tables.main(list(map(str, reversed(paths)))) == 0
    assert re.findall(r"^### (.*)$", readme.read_text(encoding="utf-8"), re.MULTILINE) == ["GPU B", "GPU A"]


def test_names_are_shown_as_they_are(tables, readme):
    on_gpu("A | <b> *GPU*").save(tables.HERE / "a.json")
    assert tables.main([]) == 0
    assert "### A \\| \\<b\\> \\*GPU\\*\n" in readme.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (reports.usual(), "its kernels ran on device 'emulator'"),
        (reports.report(machine=info(GPU), device="virtual"), "its kernels ran on device 'virtual'"),
        (reports.report(machine=info(), device="gpu"), "has no figures of a GPU"),
        (on_gpu("emulated H100 SXM"), "its GPU is an emulated one"),
    ],
)
def test_results_of_an_emulated_device_are_refused(tables, readme, capsys, found, words):
    before = readme.read_text(encoding="utf-8")
    on_gpu().save(tables.HERE / "a.json")
    found.save(tables.HERE / "b.json")
    assert tables.main([]) == 2
    assert words in capsys.readouterr().err
    assert readme.read_text(encoding="utf-8") == before


def test_a_damaged_file_is_refused(tables, readme, capsys):
    values = on_gpu().to_dict()
    values["parts"]["bench-steps"]["result"]["measured"]["records"][0]["contender"] = "cupy-on-virtual"
    path = tables.HERE / "a.json"
    path.write_text(json.dumps(values))
    assert tables.main([str(path)]) == 2
    assert "contender was 'cupy-on-virtual'" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["no markers", "{e} {b}", "{b} {b} {e}", "{b}"])
def test_a_readme_without_its_markers_is_refused(tables, text):
    with pytest.raises(DataError, match="once each"):
        tables.written(text.format(b=tables.BEGIN, e=tables.END), "")
