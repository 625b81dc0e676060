"""`gpubp check`: choices, the report, exit codes."""

import json

import pytest
from typer.testing import CliRunner

from gpubp.cli import app
from gpubp.crosscheck.cases import MIXED_DTYPES, OPTIONS, Selection, parse
from gpubp.errors import ArgumentError

VARIANTS = ("naive", "tiled")


def run(*arguments):
    return CliRunner().invoke(app, ["check", "--backend", "numpy", "--jobs", "1", *arguments])


def test_a_check_that_passes_says_so_and_exits_with_0():
    result = run("--primitive", "scale", "--dtype", "float64")
    assert result.exit_code == 0, result.output
    assert "passed" in result.output
    assert "float32" not in result.output


@pytest.mark.parametrize("name", ["report.md", "report.json"])
def test_the_report_is_written(tmp_path, name):
    path = tmp_path / name
    assert run("--primitive", "scale", "--report", str(path)).exit_code == 0
    text = path.read_text()
    if name.endswith("json"):
        found = json.loads(text)
        assert found["cases"] == sum(row["cases"] for row in found["rows"]) > 0
        assert found["failed"] == 0
    else:
        assert "| scale | - | float32 |" in text


def test_one_case_by_its_name():
    result = run("--case", "scale:-:float32:5:-:-:1:random:0:0")
    assert result.exit_code == 0, result.output
    assert "passed: 1 cases" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--primitive", "hiden_delta"], "did you mean 'hidden_delta'?"),
        (["--dtype", "float8"], "--dtype was 'float8'"),
        (["--dtype", "tf32", "--primitive", "scale"], "dtype was 'tf32'"),
        (["--variant", "naive"], "variant was 'naive'"),
        (["--shape", "3y4"], "shape was '3y4'"),
        (["--shape", "0x4x2"], "shape was '0x4x2'"),
        (["--primitive", "scale", "--shape", "3x4x5"], "shape was '3x4x5'"),
        (["--case", "scale"], "case was 'scale'"),
        (["--case", "scale:-:float32:5x5:-:-:1:random:0:0"], "a shape of 1 side(s)"),
        (["--case", "scale:naive:float32:5:-:-:1:random:0:0"], "a variant that backend 'numpy' has: -"),
        (["--case", "hidden_delta:tiled:tf32:5x5x5:relu:-:1:random:0:0"], "of variant 'tensorcore' with dtype tf32"),
        (["--report", "report.txt"], "report was 'report.txt'"),
        (["--report", "missing/report.md"], "in a folder that exists"),
        (["--observe"], "--observe was"),
        (["--jobs", "0"], "jobs was 0"),
    ],
)
def test_a_wrong_choice_is_named_and_exits_with_2(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_a_backend_without_mixed_precision_says_so():
    with pytest.raises(ArgumentError, match="dtype was 'bfloat16'; it must be float32 or float64 here"):
        Selection(dtypes=("bfloat16",)).cases(VARIANTS)
    assert {case.dtype for case in Selection(("hidden_delta", "softmax")).cases(VARIANTS)} == {"float32", "float64"}


def test_mixed_precision_is_checked_by_default_where_there_is_any():
    chosen = Selection(("weight_gradient", "softmax")).cases((*VARIANTS, "tensorcore"))
    found = {(case.primitive, case.rung, case.dtype) for case in chosen}
    assert {("weight_gradient", "tensorcore", dtype) for dtype in ("tf32", "bfloat16", "float16")} <= found
    assert {("softmax", None, dtype) for dtype in ("bfloat16", "float16")} <= found
    assert not any((rung == "tensorcore") != (dtype in MIXED_DTYPES) for _, rung, dtype in found if rung)


def test_a_shape_stands_for_the_grid():
    chosen = Selection(primitives=("hidden_delta",), shape=(3, 4, 5)).cases(VARIANTS)
    assert {case.shape for case in chosen} == {(3, 4, 5)}
    assert {case.rung for case in chosen} == set(VARIANTS)
    assert len(set(chosen)) == len(chosen)


def test_choices_leave_what_they_say():
    chosen = Selection(("hidden_delta", "scale"), ("tiled",), ("float64",)).cases(VARIANTS)
    assert {(case.primitive, case.rung, case.dtype) for case in chosen} == {("hidden_delta", "tiled", "float64")}


def test_everything_is_more_than_the_subset_and_holds_it():
    some = Selection(("softmax", "scale")).cases(VARIANTS)
    everything = Selection(("softmax", "scale"), full=True).cases(VARIANTS)
    assert set(some) < set(everything)


def test_without_a_choice_every_primitive_is_checked():
    assert {case.primitive for case in Selection().cases(())} == set(OPTIONS)


def test_a_backend_without_rungs_takes_no_variant():
    with pytest.raises(ArgumentError, match=r"variant was 'naive'; it must be left out: the backend"):
        Selection(variants=("naive",)).cases(())


def test_a_variant_that_there_is_not_is_named():
    with pytest.raises(ArgumentError, match="variant"):
        Selection(variants=("fast",)).cases(VARIANTS)


def test_the_command_of_a_failure_names_its_case():
    from gpubp.crosscheck.runner import Outcome
    from gpubp.crosscheck.summary import CrossCheck

    case = Selection(("scale",)).cases(())[0]
    command = CrossCheck("numpy", "cpu").command(Outcome(case, faults=("broken",)))
    assert command.startswith("gpubp check --backend numpy --device cpu --case ")
    assert parse(command.split()[-1]) == case


def test_the_command_of_what_was_observed_observes():
    from gpubp.crosscheck.runner import Outcome
    from gpubp.crosscheck.summary import CrossCheck

    case = Selection(("scale",)).cases(())[0]
    assert " --observe " in CrossCheck("cupy", "emulator", observed=True).command(Outcome(case, faults=("race",)))
