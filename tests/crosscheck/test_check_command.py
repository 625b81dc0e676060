"""`gpubp check`: choices, the report, exit codes."""

import itertools
import json

import pytest
from typer.testing import CliRunner

from gpubp import backends
from gpubp.cli import app
from gpubp.crosscheck.cases import MIXED_DTYPES, OPTIONS, Selection, older_cases, parse
from gpubp.crosscheck.check_command import choose
from gpubp.errors import ArgumentError

VARIANTS = ("naive", "tiled")
EMULATED = ("check", "--device", "emulator", "--jobs", "1", "--backend")


@pytest.fixture
def emulated():
    """Runs a check on the emulated device, which passes; returns what it shows."""

    def run(backend, *arguments):
        result = CliRunner().invoke(app, [*EMULATED, backend, *arguments])
        assert result.exit_code == 0, result.output
        return result.output

    return run


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
        (["--case", "hidden_delta:tiled:tf32:5x5x5:relu:-:1:random:0:0"], "float32, float64 with variant 'tiled'"),
        (["--case", "hidden_delta:wgmma:tf32:8x8x8:relu:-:1:random:0:0"], "bfloat16, float16 with variant 'wgmma'"),
        (["--case", "product:wgmma:tf32:8x8x8:TN:assign:1:random:0:0"], "bfloat16, float16 with variant 'wgmma'"),
        (["--report", "report.txt"], "report was 'report.txt'"),
        (["--report", "missing/report.md"], "in a folder that exists"),
        (["--observe"], "--observe was"),
        (["--arch", "sm_75"], "--arch was given; it must be left out on device 'cpu'"),
        (["--case", "scale:-:float32:5:-:-:1:random:0:0:sm_75"], "of no architecture on device 'cpu'"),
        (["--case", "scale:-:float32:5:-:-:1:random:0:0:sm_7"], "case was 'sm_7'; it must be one of sm_75"),
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


def test_float64_on_tensor_cores_is_checked_where_they_have_it():
    variants = (*VARIANTS, "tensorcore")
    chosen = Selection(("hidden_delta",), ("tensorcore",), ("float64",))
    assert {case.on_tensor_doubles for case in chosen.cases(variants, tensor_doubles=True)} == {True}
    with pytest.raises(ArgumentError, match=r"dtype was 'float64'; .*; tensor cores multiply it on sm_80 and sm_90"):
        chosen.cases(variants)
    assert not any(case.on_tensor_doubles for case in Selection(("hidden_delta",)).cases(variants))


def test_tf32_by_wgmma_is_checked_where_it_has_it():
    variants = (*VARIANTS, "tensorcore", "wgmma")
    chosen = Selection(("dense_forward",), ("wgmma",), ("tf32",))
    assert {(case.rung, case.dtype) for case in chosen.cases(variants)} == {("wgmma", "tf32")}
    expected = r"dtype was 'tf32'; .*; wgmma multiplies TF32 in the form NT alone: that of dense_forward"
    with pytest.raises(ArgumentError, match=expected):
        Selection(("hidden_delta",), ("wgmma",), ("tf32",)).cases(variants)


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


def test_modes_leave_the_primitives_that_have_them():
    chosen = Selection(modes=("dropout", "accumulate")).cases(VARIANTS)
    assert {(case.primitive, case.mode) for case in chosen} == {
        *((primitive, "dropout") for primitive in ("dense_forward", "hidden_delta")),
        *((primitive, "accumulate") for primitive in ("weight_gradient", "bias_gradient", "product")),
    }
    for variant, dtype in itertools.product(VARIANTS, ("float32", "float64")):
        assert any((case.rung, case.dtype, case.mode) == (variant, dtype, "dropout") for case in chosen)


@pytest.mark.parametrize(
    ("primitives", "modes", "message"),
    [
        ((), ("weigthed",), r"mode was 'weigthed'; .* did you mean 'weighted'\?"),
        (("update",), ("weighted",), r"mode was 'weighted'; it must be one of first, late, .* penalties, decoupled"),
        (("cast",), ("float64",), r"mode was 'float64'; it must be one that the chosen primitives and variants have"),
    ],
)
def test_a_mode_that_no_chosen_primitive_has_is_named(primitives, modes, message):
    with pytest.raises(ArgumentError, match=message):
        Selection(primitives, modes=modes).cases(VARIANTS)


def test_a_shape_is_refused_for_its_sides_and_for_nothing_else():
    variants = (*VARIANTS, "tensorcore")
    with pytest.raises(ArgumentError, match=r"shape was '3x4'; it must be of as many sides as a chosen primitive has"):
        Selection(("hidden_delta",), shape=(3, 4)).cases(variants)
    with pytest.raises(ArgumentError, match=r"dtype was 'float32'; it must be one that the chosen primitives and var"):
        Selection(("hidden_delta",), ("tensorcore",), ("float32",), shape=(3, 4, 5)).cases(variants)


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
    from gpubp.crosscheck.runner import Outcome, Watch
    from gpubp.crosscheck.summary import CrossCheck

    case = Selection(("scale",)).cases(())[0]
    assert " --observe " in CrossCheck("cupy", "emulator", Watch(observe=True)).command(Outcome(case, faults=("race",)))


def test_cases_for_an_older_chip_run_by_default_where_kernels_have_paths_for_it():
    def found(backend, device, *primitives, dtypes=(), archs=()):
        selection = Selection(primitives, dtypes=dtypes)
        return [case for case in choose(selection, backends.get(backend, device), archs) if case.arch]

    some = ("cast", "row_argmax", "weight_gradient")
    older = {case for case in older_cases() if case.primitive in some}
    assert set(found("cupy", "emulator", *some)) == older
    assert found("numba", "emulator", *some) == found("numpy", "cpu", *some) == []
    assert set(found("cupy", "emulator", *some, dtypes=("float64",))) == {
        each for each in older if each.dtype == "float64"
    }
    assert {case.arch for case in found("cupy", "emulator", "scale", archs=("sm_80",))} == {"sm_80"}


def test_the_emulated_device_is_each_chip_that_was_asked_for(emulated, tmp_path):
    report = tmp_path / "report.json"
    options = ("--primitive", "scale", "--shape", "5", "--arch", "sm_75", "--arch", "sm_80", "--report", str(report))
    shown = emulated("cupy", *options)
    assert "as sm_75" in shown
    assert "as sm_80" in shown
    rows = json.loads(report.read_text())["rows"]
    assert {row["arch"] for row in rows} == {"sm_75", "sm_80"}
    assert {row["dtype"] for row in rows if row["arch"] == "sm_75"} == {"float32", "float64", "bfloat16", "float16"}


def test_a_chip_without_tensor_cores_has_no_products_of_them(emulated):
    chosen = Selection(("transpose_product", "cast")).cases(VARIANTS, stores_halves=True)
    assert {case.dtype for case in chosen if case.primitive == "transpose_product"} == {"float32", "float64"}
    assert {"bfloat16", "float16"} <= {case.dtype for case in chosen if case.primitive == "cast"}
    result = CliRunner().invoke(app, [*EMULATED, "cupy", "--arch", "sm_75", "--dtype", "tf32"])
    assert result.exit_code == 2
    assert "dtype was 'tf32'" in result.stderr


def test_an_unknown_chip_is_named():
    result = CliRunner().invoke(app, [*EMULATED, "cupy", "--arch", "sm_57"])
    assert result.exit_code == 2
    assert "--arch was 'sm_57'; it must be one of sm_75" in result.stderr


def test_the_case_of_another_chip_is_run_on_it_again(emulated):
    name = "cast:-:bfloat16:128:narrow:-:1:random:0:0:sm_75"
    assert parse(name).arch == "sm_75"
    assert parse(name).name == name
    assert "as sm_75" in emulated("cupy", "--case", name)
