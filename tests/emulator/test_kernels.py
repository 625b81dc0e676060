"""Whole kernels on the emulator, in CUDA C++ and in Numba, against NumPy and against Numba's own simulator."""

import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from scipy.special import erf

import gpubp.emulator as cp
from gpubp.emulator import launch

RNG = np.random.default_rng(7)


def normal(*shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


def collatz_steps(value):
    count = 0
    while value != 1:
        value = value // 2 if value % 2 == 0 else 3 * value + 1
        count += 1
    return count


def softmax(x):
    e = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def block_sums(x):
    padded = np.zeros(-(-x.size // 256) * 256)
    padded[: x.size] = x
    return padded.reshape(-1, 256).sum(axis=1)


# kernel: (arguments, what NumPy makes of them, relative error allowed)
SUM = 256 * 2.0**-24
CASES = {
    "saxpy": (
        {"a": np.float32(2.5), "x": normal(1000), "y": normal(1000)},
        lambda a, x, y: np.float64(a) * x + y,
        2.0**-23,
    ),
    "sgemm": (
        {"a": normal(150, 37), "b": normal(37, 201)},
        lambda a, b: a.astype(np.float64) @ b,
        37 * 2.0**-24,
    ),
    "tree_sum": ({"x": normal(1000)}, block_sums, SUM),
    "shuffle_sum": ({"x": normal(1000)}, block_sums, SUM),
    "histogram": (
        {"x": RNG.integers(0, 256, 5000).astype(np.uint8)},
        lambda x: np.bincount(x, minlength=256),
        0,
    ),
    "transpose": ({"x": normal(70, 45)}, lambda x: x.T, 0),
    "softmax": ({"x": normal(5, 300) * np.float32(4)}, softmax, 2.0**-20),
    "elementwise": (
        {"x": np.linspace(-9, 9, 1001).astype(np.float32)},
        lambda x: np.array([f(x.astype(np.float64)) for f in (np.exp, np.tanh, erf)]),
        2.0**-22,
    ),
    "collatz": (
        {"start": np.arange(1, 400)},
        lambda start: np.array([collatz_steps(int(value)) for value in start]),
        0,
    ),
}
SMALL = {
    "saxpy": {"a": np.float32(2.5), "x": normal(150), "y": normal(150)},
    "sgemm": {"a": normal(19, 9), "b": normal(9, 21)},
    "tree_sum": {"x": normal(300)},
    "histogram": {"x": RNG.integers(0, 256, 500).astype(np.uint8)},
    "transpose": {"x": normal(35, 33)},
    "softmax": {"x": normal(2, 140)},
    "elementwise": {"x": np.linspace(-9, 9, 100).astype(np.float32)},
    "collatz": {"start": np.arange(1, 50)},
}


# What the simulator computes as the emulator does, to the bit.
EXACT = {"tree_sum", "histogram", "transpose", "collatz"}


@pytest.fixture(scope="session")
def cuda_runs(cuda_kernel):
    """name -> a function that runs the CUDA C++ kernel on NumPy arguments."""

    def launched(file, name, grid, block, result, *arguments):
        device = cp.asarray(result)
        given = [cp.asarray(value) if isinstance(value, np.ndarray) else value for value in arguments]
        cuda_kernel(file, name)(grid, block, (*given, device))
        return device.get()

    def blocks(elements, threads):
        return -(-elements // threads)

    def elementwise(x):
        kind = "float" if x.dtype == np.float32 else "double"
        empty = np.full_like(x, np.nan)
        grid = (blocks(x.size, 128),)
        return np.array(
            [launched("elementwise", f"{f}_{kind}", grid, (128,), empty, x.size, x) for f in ("exp", "tanh", "erf")]
        )

    def block_sum(name):
        def run(x):
            partial = np.full(blocks(x.size, 256), np.nan, np.float32)
            return launched("reductions", name, (partial.size,), (256,), partial, x.size, x)

        return run

    def sgemm(a, b):
        (m, k), n = a.shape, b.shape[1]
        result = np.full((m, n), np.nan, np.float32)
        return launched("sgemm", "sgemm", (blocks(n, 128), blocks(m, 128)), (256,), result, m, n, k, a, b)

    def transpose(x):
        rows, cols = x.shape
        grid = (blocks(cols, 32), blocks(rows, 32))
        result = np.full((cols, rows), np.nan, np.float32)
        return launched("transpose", "transpose", grid, (32, 8), result, rows, cols, x)

    def collatz(start):
        result = np.full(start.size, -1, np.int32)
        return launched("collatz", "collatz", (blocks(start.size, 128),), (128,), result, start.size, start)

    return {
        "saxpy": lambda a, x, y: launched("saxpy", "saxpy", (blocks(x.size, 128),), (128,), y, x.size, a, x),
        "sgemm": sgemm,
        "tree_sum": block_sum("tree_sum"),
        "shuffle_sum": block_sum("shuffle_sum"),
        "histogram": lambda x: launched("histogram", "histogram", (3,), (128,), np.zeros(256, np.uint32), x.size, x),
        "transpose": transpose,
        "softmax": lambda x: launched(
            "softmax", "softmax", (x.shape[0],), (128,), np.full_like(x, np.nan), x.shape[1], x
        ),
        "elementwise": elementwise,
        "collatz": collatz,
    }


@pytest.fixture(params=["cuda", "numba"])
def runs(request, cuda_runs, numba_kernels):
    """name -> a function that runs the kernel of one language."""
    return cuda_runs if request.param == "cuda" else numba_kernels.RUNS


def assert_close(result, expected, allowed):
    """Errors within a share of the largest magnitude of each row; nothing non-finite."""
    expected = np.asarray(expected)
    scale = np.abs(expected).max(axis=-1, keepdims=True)
    assert (np.abs(result - expected) <= allowed * scale).all()


def assert_product(result, a, b):
    """The error bound of K additions in float32, each rounded: K u |A||B| (Higham, section 3.5)."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    bound = a.shape[1] * 2.0**-24 * (np.abs(a) @ np.abs(b))
    assert (np.abs(result - a @ b) <= bound).all()


@pytest.mark.parametrize("name", CASES)
def test_results_are_numpys(runs, name):
    arguments, reference, allowed = CASES[name]
    assert_close(runs[name](**arguments), reference(**arguments), allowed)


@pytest.mark.parametrize("name", CASES)
def test_lanes_at_a_time_never_change_a_result(runs, name, monkeypatch):
    arguments, _, _ = CASES[name]
    results = []
    for lanes in (32, 640, 1 << 20):
        monkeypatch.setattr(launch, "LANES", lanes)
        results.append(runs[name](**arguments))
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


@pytest.mark.parametrize("name", ["exp", "tanh", "erf"])
def test_float64_functions(cuda_runs, numba_kernels, name):
    x = np.linspace(-9, 9, 500)
    row = ["exp", "tanh", "erf"].index(name)
    expected = {"exp": np.exp, "tanh": np.tanh, "erf": erf}[name](x)
    for runs in (cuda_runs, numba_kernels.RUNS):
        error = np.abs(runs["elementwise"](x)[row] - expected)
        assert (error <= 4 * np.spacing(np.abs(expected))).all()


@pytest.mark.parametrize("sides", [(1, 1, 1), (128, 128, 8), (129, 127, 9), (127, 257, 7), (1, 300, 64), (300, 1, 5)])
def test_ragged_sgemm(runs, sides):
    m, n, k = sides
    a, b = normal(m, k), normal(k, n)
    assert_product(runs["sgemm"](a, b), a, b)


@pytest.mark.parametrize("sides", [(1, 1), (32, 32), (31, 33), (1, 100), (64, 3)])
def test_ragged_transpose(runs, sides):
    x = normal(*sides)
    np.testing.assert_array_equal(runs["transpose"](x), x.T)


def to_tf32(x):
    """Round float32 to 10 bits after the point, ties away from zero, as cvt.rna does."""
    bits = x.view(np.uint32).astype(np.uint64) + 0x1000
    return (bits & 0xFFFFE000).astype(np.uint32).view(np.float32)


TENSOR = {
    "float": (np.float32, to_tf32),
    "__half": (np.float16, lambda x: x),
    "__nv_bfloat16": (ml_dtypes.bfloat16, lambda x: x),
}


def tensor_product(cuda_kernel, kind, a, b):
    m, n = len(a), len(b)
    c = cp.full((m, n), np.nan, np.float32)
    kernel = cuda_kernel("tensor_product", f"tensor_product<{kind}>")
    kernel((-(-n // 64), -(-m // 64)), (128,), (m, n, a.shape[1], cp.asarray(a), cp.asarray(b), c))
    return c.get()


@pytest.mark.parametrize("kind", TENSOR)
@pytest.mark.parametrize("sides", [(64, 64, 64), (100, 70, 136), (1, 1, 8), (65, 63, 8), (130, 20, 200)])
def test_tensor_product(cuda_kernel, kind, sides):
    dtype, as_read = TENSOR[kind]
    m, n, k = sides
    a, b = normal(m, k).astype(dtype), normal(n, k).astype(dtype)
    assert_product(tensor_product(cuda_kernel, kind, a, b), as_read(a), as_read(b).T)


@pytest.mark.parametrize("kind", TENSOR)
def test_tensor_product_of_integers_is_exact(cuda_kernel, kind):
    dtype, _ = TENSOR[kind]
    a = RNG.integers(-4, 5, (70, 80)).astype(dtype)
    b = RNG.integers(-4, 5, (90, 80)).astype(dtype)
    expected = a.astype(np.float64) @ b.astype(np.float64).T
    np.testing.assert_array_equal(tensor_product(cuda_kernel, kind, a, b), expected)


@pytest.mark.parametrize("kind", TENSOR)
def test_lanes_never_change_a_tensor_product(cuda_kernel, kind, monkeypatch):
    dtype, _ = TENSOR[kind]
    a, b = normal(130, 72).astype(dtype), normal(190, 72).astype(dtype)
    results = []
    for lanes in (32, 300, 1 << 20):
        monkeypatch.setattr(launch, "LANES", lanes)
        results.append(tensor_product(cuda_kernel, kind, a, b))
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory, kernel_folder):
    """What Numba's simulator makes of the small cases: one process for all of them."""
    folder = tmp_path_factory.mktemp("simulator")
    inputs = {f"{name}:{key}": value for name, arguments in SMALL.items() for key, value in arguments.items()}
    np.savez(folder / "inputs.npz", **inputs)
    subprocess.run(
        [sys.executable, kernel_folder / "numba_kernels.py", folder / "inputs.npz", folder / "results.npz"],
        check=True,
        env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1"},
    )
    return dict(np.load(folder / "results.npz"))


@pytest.mark.slow
def test_numbas_simulator_says_the_same(simulated, numba_kernels):
    # Not all to the bit: the simulator computes math.exp in float64, and fuses no multiplication with an addition.
    assert set(simulated) == set(SMALL)
    for name, expected in simulated.items():
        assert_close(numba_kernels.RUNS[name](**SMALL[name]), expected, 0 if name in EXACT else 2.0**-20)
