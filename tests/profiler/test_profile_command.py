"""`gpubp profile` as its user sees it."""

import json

import pytest
from matplotlib.image import imread
from typer.testing import CliRunner

from gpubp.backends.detection import Availability
from gpubp.cli import app
from gpubp.profiler import profile_command

SMALL = ["profile", "transpose_product", "--shape", "16x64x32", "--variant", "naive"]


def run(*arguments):
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "140"})


def test_a_table_and_a_picture(tmp_path):
    out = tmp_path / "roofline.png"
    done = run(*SMALL, "--out", str(out))
    assert done.exit_code == 0, done.output
    for words in ("transpose_product 16×64×32", "H100 SXM", "registers a thread", "Limited by the size of its grid"):
        assert words in done.output
    assert "A model, not a measurement" in done.output
    assert "Counted at the shape itself." in done.output
    assert imread(out).shape == (640, 1760, 4)


def test_json():
    done = run(*SMALL, "--json")
    (found,) = json.loads(done.output)["profiles"]
    assert found["kernels"][0]["counts"]["instructions"]["FMA"] == 16 * 64 * 32
    assert found["workload"]["shape"] == [16, 64, 32]


def test_what_else_a_primitive_is_asked():
    """With weights a row's is read once more and nothing else; and the titles tell the two apart."""
    plain, weighted = (
        json.loads(run("profile", "output_delta", "--shape", "8x10", "--json", *options).output)["profiles"][0]
        for options in ((), ("--mode", "weighted"))
    )
    assert [each["workload"]["mode"] for each in (plain, weighted)] == [None, "weighted"]
    assert weighted["cost"]["bytes_read"] - plain["cost"]["bytes_read"] == 4 * 8
    first, second = (each["kernels"][0]["counts"] for each in (plain, weighted))
    assert second["read"]["global"] > first["read"]["global"]
    assert second["executed"] > first["executed"]
    assert (
        "8×10, float32, weighted: sm_90"
        in run("profile", "output_delta", "--shape", "8x10", "--mode", "weighted").output
    )


@pytest.mark.slow
def test_variants_side_by_side(tmp_path):
    options = ("--compare", "--backend", "cupy", "--json", "--out", str(tmp_path / "x.png"))
    done = run("profile", "hidden_delta", "--shape", "48x40x64", *options)
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)["profiles"]
    titles = [(each["plan"]["variant"], len(each["kernels"])) for each in found]
    assert titles == [("naive", 1), ("tiled", 1), ("blocked", 1), ("pipelined", 1), ("pipelined", 2)]
    fused, separate = found[3], found[4]
    # the fused kernel does not write the product and read it again
    product = 4 * 48 * 40
    assert separate["cost"]["bytes_read"] - fused["cost"]["bytes_read"] == product
    assert separate["cost"]["bytes_written"] - fused["cost"]["bytes_written"] == product


@pytest.mark.slow
def test_the_comparison_has_a_row_for_each():
    done = run("profile", "bias_gradient", "--shape", "64x32", "--compare")
    assert done.exit_code == 0, done.output
    assert [line for line in done.output.splitlines() if line.startswith("│ cupy ")]
    assert [line for line in done.output.splitlines() if line.startswith("│ numba ")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("primitive", "rungs"), [("dense_forward", ["tensorcore", "wgmma"]), ("weight_gradient", ["tensorcore"])]
)
def test_a_comparison_takes_the_rungs_that_have_the_form(primitive, rungs):
    words = ("--dtype", "tf32", "--shape", "64x64x32", "--compare", "--backend", "cupy", "--json")
    done = run("profile", primitive, *words)
    assert [each["plan"]["variant"] for each in json.loads(done.stdout)["profiles"]] == rungs


@pytest.mark.parametrize("compare", [(), ("--compare", "--backend", "cupy")])
def test_a_narrow_terminal_shows_every_number(compare):
    arguments = ["profile", "hadamard_derivative", "--shape", "64x32", *compare]
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "60"})
    assert done.exit_code == 0, done.output
    assert "…" not in done.output
    assert all(
        line.endswith(("┓", "┃", "┩", "│", "┘", "┤", "┐")) for line in done.output.splitlines() if line[0] in "┏┃┡│└┌"
    )


@pytest.mark.slow
def test_tensor_cores():
    done = run("profile", "dense_forward", "--shape", "64x64x128", "--dtype", "bfloat16", "--json")
    (found,) = json.loads(done.output)["profiles"]
    (kernel,) = found["kernels"]
    assert found["plan"]["variant"] == "tensorcore"
    assert kernel["counts"]["instructions"]["tensor"] > 0
    assert kernel["machine_code"]["main_loop"]["tensor"] > 0
    assert kernel["counts"]["bank_conflicts"] == 0
    assert found["cost"]["rate"] == "bfloat16"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hidden"], "did you mean 'hidden_delta'?"),
        (["hidden_delta", "--shape", "1x2"], "--shape was '1x2'; it must be MxNxK"),
        (["hidden_delta", "--shape", "axb"], "--shape was 'axb'"),
        (["hidden_delta", "--shape", "0x1x1"], "each side ≥ 1"),
        (["hidden_delta", "--dtype", "int8"], "--dtype was 'int8'"),
        (["hidden_delta", "--chip", "V100"], "--chip was 'V100'; it must be one of A100, H100, B200, RTX4090, T4"),
        (["hidden_delta", "--chip", "none.toml"], "--chip was 'none.toml'; it must be a file that can be read"),
        (
            ["hidden_delta", "--arch", "sm_80", "--chip", "H100"],
            "--arch was 'sm_80'; it must be one that H100 SXM runs",
        ),
        (["hidden_delta", "--backend", "numpy"], "--backend was 'numpy'; it must be one of cupy, numba"),
        (["hidden_delta", "--backend", "numpy", "--compare"], "--backend was 'numpy'; it must be one of cupy, numba"),
        (["hidden_delta", "--mode", "droput"], "--mode was 'droput'; it must be one of -, dropout; did you mean"),
        (["update", "--variant", "naive"], "--variant was 'naive'; it must be left out for update"),
        (
            ["hidden_delta", "--variant", "naive", "--compare"],
            "--variant and --compare exclude each other; a comparison takes every variant",
        ),
        (["hidden_delta", "--out", "x.jpg"], "--out was 'x.jpg'; it must be a file name that ends in .png"),
        (["hidden_delta", "--out", "none/x.png"], "--out was 'none/x.png'; it must be in a folder that exists"),
        (
            ["hidden_delta", "--out", "/proc/x.png"],
            "--out was '/proc/x.png'; it must be in a folder that can be written",
        ),
        (["hidden_delta", "--html", "none/x.html"], "--html was 'none/x.html'; it must be in a folder that exists"),
        (
            ["hidden_delta", "--dtype", "float16", "--chip", "T4"],
            "--dtype was 'float16'; it must be float32 or float64",
        ),
        (["hidden_delta", "--dtype", "tf32", "--backend", "numba"], "--dtype was 'tf32'"),
        (["hidden_delta", "--variant", "tensorcore"], "--variant was 'tensorcore'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message):
    done = run("profile", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_missing_compilers_are_said(monkeypatch):
    lacks = Availability("cupy", "emulator", False, "numba, what runs it, is not installed", "pip install it")
    monkeypatch.setattr(profile_command.detection, "probe", lambda backend, device: lacks)
    done = run(*SMALL)
    assert done.exit_code == 2
    assert done.stderr == f"error: profile needs the emulated device and its compilers: {lacks}\n"


def test_a_chip_of_ones_own(tmp_path):
    from gpubp import chips

    text = chips.TABLE.read_text(encoding="utf-8")
    file = tmp_path / "mine.toml"
    file.write_text(
        text[text.index("[T4]") : text.index("# --- architectures")].replace('name = "Tesla T4"', 'name = "My T4"')
    )
    assert profile_command.chip_of(str(file)).name == "My T4"


def test_shapes():
    assert profile_command.shape_of("update", "10") == (10,)
    assert profile_command.shape_of("softmax", "3X4") == (3, 4)
    assert len(profile_command.shape_of("hidden_delta", None)) == 3
