"""`gpubp profile --kernel`: any kernel of a file, its arguments on the command line."""

import json
import os
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from gpubp.errors import ArgumentError
from gpubp.profiler.kernel_command import argument_of

CODE = """#include "scale.cuh"

extern "C" __global__ void saxpy(int n, float a, const float* x, float* y) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = a * x[i] + y[i];
}

template <typename T>
__global__ void scale(T* x) {
    extern __shared__ T s[];
    s[threadIdx.x] = x[threadIdx.x];
    x[threadIdx.x] = s[threadIdx.x] * T(FACTOR);
}

extern "C" __global__ void reverse(float* x) {
    __shared__ float s[64];
    s[threadIdx.x] = x[threadIdx.x];
    x[threadIdx.x] = s[63 - threadIdx.x];
}

extern "C" __global__ void flag(int* x) {
    if (threadIdx.x < 40) x[0] = 1;
}
"""
PYTHON = """from numba import cuda

FACTOR = 3


@cuda.jit
def triple(x, y):
    i = cuda.grid(1)
    if i < x.size:
        y[i] = x[i] * FACTOR
"""
SAXPY = ("profile", "--kernel", "code.cu:saxpy", "--grid", "4", "--block", "256")
ARGUMENTS = (
    "--arg",
    "1000:int32",
    "--arg",
    "0.5:float32",
    "--arg",
    "1000:float32:random",
    "--arg",
    "1000:float32:ones",
)


@pytest.fixture(autouse=True)
def files(gpubp):
    """The kernels' files, in the current folder."""
    Path("code.cu").write_text(CODE)
    Path("scale.cuh").write_text("#define FACTOR 2.5\n")
    Path("code.py").write_text(PYTHON)


def profiled(gpubp, *arguments):
    (found,) = json.loads(gpubp(*arguments, "--json").stdout)["profiles"]
    return found


def test_a_kernel_of_a_file(gpubp):
    text = gpubp(*SAXPY, *ARGUMENTS, "--out", "roofline.png", "--html", "page.html").stdout
    for words in ("saxpy, 4 blocks of 256 threads, float32: sm_90 on H100 SXM", "registers a thread", "code.cu:5",
                  "Limited by the size of its grid: 4 blocks", "Counted in one launch, as it is."):  # fmt: skip
        assert words in text
    assert Path("roofline.png").read_bytes().startswith(b"\x89PNG")
    page = Path("page.html").read_text()
    assert "if (i &lt; n) y[i] = a * x[i] + y[i];" in page  # the source, read from the file
    assert "code.cu:5" in page


def test_the_counts_are_those_of_the_launch(gpubp):
    found = profiled(gpubp, *SAXPY, *ARGUMENTS, "--chip", "A100")
    assert found["arch"] == "sm_80"
    assert found["cost"]["flops"] == 2000
    assert (found["cost"]["bytes_read"], found["cost"]["bytes_written"]) == (8000, 4000)
    counts = found["kernels"][0]["counts"]
    assert counts["instructions"]["FMA"] == 1000
    assert counts["read"]["global"] == 8000
    assert found["workload"]["arguments"] == ["int32 1000", "float32 0.5", *2 * ["float32 (1000,)"]]


def test_a_template_with_shared_memory_and_an_include(gpubp):
    name = "code.cu:scale<double>"
    options = ("--grid", "1", "--block", "32x2", "--shared", "512", "--arg", "64:float64:arange")
    found = profiled(gpubp, "profile", "--kernel", name, *options)
    assert found["workload"]["dtype"] == "float64"
    assert found["workload"]["shared_mem"] == found["kernels"][0]["shared_bytes"] == 512
    assert found["workload"]["block"] == [32, 2, 1]


def test_a_numba_kernel_of_a_python_file(gpubp):
    np.save("x.npy", np.arange(70, dtype=np.float32))
    options = ("--grid", "2", "--block", "64", "--arg", "x.npy", "--arg", "70:float32:zeros")
    text = gpubp("profile", "--kernel", "code.py:triple", *options).stdout
    assert "triple, 2 blocks of 64 threads, float32" in text
    assert "code.py:10" in text


def test_a_kernel_in_ptx(gpubp):
    from gpubp.toolchain.nvrtc import compile_source

    Path("code.ptx").write_text(compile_source(CODE.replace('#include "scale.cuh"', "#define FACTOR 2"), "sm_80").ptx)
    found = profiled(gpubp, *(word.replace("code.cu", "code.ptx") for word in SAXPY), *ARGUMENTS)
    assert found["cost"]["flops"] == 2000


RACE = ("profile", "--kernel", "code.cu:reverse", "--grid", "1", "--block", "64", "--arg", "64:float32:random")
FLAG = ("profile", "--kernel", "code.cu:flag", "--grid", "1", "--block", "64", "--arg", "1:int32:zeros")


def test_findings_fail_by_their_grade(gpubp):
    gpubp(*RACE)
    text = gpubp(*RACE, "--observe", code=1).stdout
    assert "Findings: 1" in text
    assert "code.cu:18" in text
    assert gpubp(*RACE, "--observe", "--fail-at", "error", code=1)
    assert "same-value race" in gpubp(*FLAG, "--observe", code=1).stdout
    assert "same-value race" in gpubp(*FLAG, "--observe", "--fail-at", "error").stdout


def test_findings_that_are_meant_do_not_fail(gpubp):
    Path("known.toml").write_text('[[suppress]]\nkernel = "reverse"\nreason = "to show it"\n')
    text = gpubp(*RACE, "--observe", "--suppressions", "known.toml").stdout
    assert "to show it" in text
    found = profiled(gpubp, *RACE, "--observe", "--suppressions", "known.toml")
    assert [(each["grade"], each["reason"]) for each in found["findings"]] == [("error", "to show it")]


def test_a_kernel_that_faults_exits_with_1(gpubp):
    arguments = ["2000:int32" if word == "1000:int32" else word for word in ARGUMENTS]
    text = gpubp(*SAXPY, *arguments, code=1).stdout
    assert "failed: kernel saxpy, code.cu:5" in text.replace(f"{os.getcwd()}/", "")
    assert "out of bounds" in text


KERNEL = ("profile", "--kernel")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["profile"], "primitive is missing; it must be given, or a kernel of your own by --kernel"),
        (["profile", "update", "--grid", "4"], "--grid was given"),
        (["profile", "update", "--observe"], "--observe was given"),
        ([*SAXPY, *ARGUMENTS, "--activation", "relu"], "--kernel and --activation exclude each other"),
        ([*SAXPY, *ARGUMENTS, "--fail-at", "error"], "--fail-at was given"),
        ([*SAXPY, *ARGUMENTS, "--observe", "--fail-at", "x"], "--fail-at was 'x'"),
        ([*SAXPY, *ARGUMENTS, "--dtype", "float8"], "--dtype was 'float8'"),
        ([*SAXPY, *ARGUMENTS, "--shared", "-1"], "--shared was -1"),
        ([*SAXPY, *ARGUMENTS, "--shared", "1000000"], "max_dynamic_shared_size_bytes is 1000000"),
        ([*SAXPY, *ARGUMENTS[2:]], "3 arguments given"),
        ([*SAXPY, "--arg", "5"], "--arg was '5'; it must be VALUE:DTYPE, SHAPE:DTYPE:FILL"),
        ([*SAXPY[:3], "--block", "4"], "--grid was None; it must be given with a kernel"),
        ([*SAXPY[:5], "--block", "0"], "--block was '0'; it must be one to three numbers"),
        ([*SAXPY[:5], "--block", "1x1x1x1"], "--block was '1x1x1x1'"),
        ([*SAXPY[:5], "--block", "2048", *ARGUMENTS], "block.x is 2048; it must be 1 to 1,024"),
        ([*KERNEL, "code.cu", "--grid", "1", "--block", "1"], "it must be FILE.cu:NAME"),
        ([*KERNEL, "none.cu:f", "--grid", "1", "--block", "1"], "it must be a file of code; No such file"),
        ([*KERNEL, ".:f", "--grid", "1", "--block", "1"], "it must be FILE.cu:NAME"),
        ([*KERNEL, "code.cu:saxpi", "--grid", "1", "--block", "1"], "saxpi"),
        ([*KERNEL, "code.py:tripel", "--grid", "1", "--block", "1"], "did you mean 'triple'?"),
        ([*KERNEL, "code.py:FACTOR", "--grid", "1", "--block", "1"], "a Numba kernel of code.py"),
        ([*SAXPY, *ARGUMENTS, "--arch", "sm_20"], "sm_20"),
        ([*SAXPY, *ARGUMENTS, "--out", "x.jpg"], "--out was 'x.jpg'"),
    ],
)
def test_wrong_words_are_named(gpubp, arguments, message):
    result = gpubp(*arguments, code=2)
    assert result.stderr.startswith("error: ")
    assert message in result.stderr


@pytest.mark.parametrize("name", ["broken.cu", "broken.py", "undecodable.cu", "wrong.py"])
def test_files_that_are_no_kernels_are_told(gpubp, name):
    Path("broken.cu").write_text('extern "C" __global__ void f(int* x) { x[0] = y; }')
    Path("broken.py").write_text("1 / 0\n")
    Path("undecodable.cu").write_bytes(b"\xff\xfe\x00")
    Path("wrong.py").write_text("from numba import cuda\n\n@cuda.jit\ndef f(x):\n    x[0] = nowhere\n")
    errors = gpubp(*KERNEL, f"{name}:f", "--grid", "1", "--block", "1", "--arg", "1:int32:zeros", code=2).stderr
    expected = {"broken.cu": 'identifier "y" is undefined', "broken.py": "ZeroDivisionError", "wrong.py": "nowhere"}
    assert expected.get(name, "it must be a file of code") in errors


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1024:int32", np.int32(1024)), ("-0x10:int64", np.int64(-16)), ("1e-3:float32", np.float32(1e-3)),
        ("inf:float64", np.inf), ("1:bfloat16", ml_dtypes.bfloat16(1)), ("true:bool", np.True_),
        ("1+2j:complex64", np.complex64(1 + 2j)), ("null", None),
    ],
)  # fmt: skip
def test_scalars(text, value):
    found = argument_of(text)
    assert found == value
    assert type(found) is type(value) or isinstance(found, np.float64)


@pytest.mark.parametrize(
    ("text", "shape", "dtype"),
    [
        ("7:float32:zeros", (7,), "float32"),
        ("2x3:int64:arange", (2, 3), "int64"),
        ("4×5:float16:random", (4, 5), "float16"),
    ],
)
def test_arrays(text, shape, dtype):
    found = argument_of(text)
    assert (found.shape, str(found.dtype)) == (shape, dtype)
    fill = text.split(":")[2]
    if fill == "arange":
        np.testing.assert_array_equal(found.ravel(), np.arange(6))
    assert bool(found.any()) == (fill != "zeros")
    np.testing.assert_array_equal(found, argument_of(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "arg was ''"),
        ("5:int31", "did you mean 'int32'?"),
        ("300:uint8", "from 0 to 255"),
        ("1.5:int32", "a number of int32"),
        ("x:float32", "a number of float32"),
        ("maybe:bool", "a number of bool"),
        ("5:float32:randm", "did you mean 'random'?"),
        ("0x4:float32:zeros", "an array of sides ≥ 1"),
        ("axb:float32:zeros", "an array of sides ≥ 1"),
        ("99999999999x9:float32:zeros", "at most"),
        ("1:2:3:4", "VALUE:DTYPE"),
        ("missing.npy", "No such file"),
        ("text.npy", "a .npy file of numbers"),
        ("objects.npy", "a .npy file of numbers"),
        ("words.npy", "an array of numbers"),
        (".npy", "No such file"),
    ],
)
def test_arguments_that_are_none(text, message):
    Path("text.npy").write_text("numbers")
    np.save("objects.npy", np.array([{}], object))
    np.save("words.npy", np.array(["a"]))
    with pytest.raises(ArgumentError) as caught:
        argument_of(text)
    assert message in str(caught.value)
