"""check: a kernel of any signature against a NumPy function. Right kernels pass, each mistake is told."""

from types import SimpleNamespace

import numpy as np
import pytest

import gpubp.emulator as cp
from gpubp.crosscheck import In, InOut, KernelError, Out, bounds, check
from gpubp.emulator import cuda
from gpubp.errors import ArgumentError

SAXPY = """
extern "C" __global__ void saxpy(int n, float a, const float* x, float* y) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = a * x[i] + y[i];
}"""
SOFTMAX = r"""
#define INFINITY __int_as_float(0x7f800000)
extern "C" __global__ void softmax(const float* x, float* y, int columns) {
    __shared__ float s[64];
    x += blockIdx.x * columns;
    y += blockIdx.x * columns;
    float most = -INFINITY, sum = 0;
    for (int i = threadIdx.x; i < columns; i += 64) most = fmaxf(most, x[i]);
    s[threadIdx.x] = most;
    __syncthreads();
    for (int i = 0; i < 64; ++i) most = fmaxf(most, s[i]);
    __syncthreads();
    for (int i = threadIdx.x; i < columns; i += 64) sum += expf(x[i] - most);
    s[threadIdx.x] = sum;
    __syncthreads();
    sum = 0;
    for (int i = 0; i < 64; ++i) sum += s[i];
    for (int i = threadIdx.x; i < columns; i += 64) y[i] = expf(x[i] - most) / sum;
}"""

LOOP = "for (int i = threadIdx.x; i < columns; i += 64) sum"
NO_BARRIER = (f"__syncthreads();\n    {LOOP}", LOOP)


def kernel(code, name, *edits):
    for old, new in edits:
        assert old in code
        code = code.replace(old, new)
    return cp.RawKernel(code, name)


def check_saxpy(*edits, **options):
    return check(
        kernel(SAXPY, "saxpy", *edits),
        lambda a, x, y: a * x + y,
        [1, 33, 300],
        lambda n: {"n": np.int32(n), "a": np.float32(0.1), "x": In(n), "y": InOut(n)},
        launch=lambda n: (-(-n // 128), 128),
        **{"seeds": (0,)} | options,
    )


def check_softmax(*edits, **options):
    def softmax(x):
        e = np.exp(x - x.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    return check(
        kernel(SOFTMAX, "softmax", *edits),
        softmax,
        [(3, 10), (4, 130)],
        lambda rows, columns: {"x": In((rows, columns)), "y": Out((rows, columns)), "columns": np.int32(columns)},
        launch=lambda rows, columns: ((rows,), (64,)),
        **{"seeds": (0,)} | options,
    )


@pytest.mark.slow
def test_right_kernels_pass():
    outcomes = [*check_saxpy(seeds=(0, 1), scales=(1.0, 1e-6, 1e6)), *check_softmax()]
    assert len(outcomes) == 3 * 2 * 3 + 2
    assert all(outcome.passed for outcome in outcomes)
    assert 0 < max(outcome.share for outcome in outcomes) < 1
    assert str(outcomes[0]).startswith("passed 1 scale 1 seed 0: y at [0]: ")


WRONG = {
    "one past the end": (check_saxpy, [("i < n", "i <= n")], "access out of bounds"),
    "the last element is left out": (check_saxpy, [("i < n", "i < n - 1")], "y at "),
    "an input is changed": (
        check_saxpy, [("const float* x", "float* x"), ("if (i < n)", "if (i < n) x[i] += 1; if (i < n)")],
        "x: changed an input, at element 0",
    ),
    "in fewer bits": (check_saxpy, [("a * x[i]", "__int_as_float(__float_as_int(a * x[i]) & ~0xfff)")], "of the bound"),
    "a constant is off": (check_saxpy, [("a * x[i]", "1.0001f * a * x[i]")], "of the bound"),
    "a write before the array": (check_saxpy, [("if (i < n)", "if (i == 0) y[-1] = 1; if (i < n)")], "access out of"),
    "a barrier is missing": (check_softmax, [NO_BARRIER], "race: kernel softmax"),
    "the output is read": (check_softmax, [("y[i] = expf", "y[i] = 0 * y[i] + expf")], "y at [0, 0]: nan where"),
    "shared memory is not written": (check_softmax, [("s[threadIdx.x] = most;", "")], "uninitialised read: kernel"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_told(name):
    check_wrong, edits, message = WRONG[name]
    with pytest.raises(KernelError) as caught:
        check_wrong(*edits)
    told = [str(outcome) for outcome in caught.value.outcomes]
    assert any(message in text for text in told), told
    assert all(text.startswith("FAILED") for text in told)
    assert "calls are wrong; one of them: FAILED" in str(caught.value)


@pytest.mark.slow
def test_a_race_that_nobody_looks_for_shows_in_another_order():
    plain = {"observe": False, "seeds": (0, 1)}
    assert check_softmax(NO_BARRIER, orders=0, **plain)  # warps go from barrier to barrier together
    with pytest.raises(KernelError) as caught:
        check_softmax(NO_BARRIER, orders=8, **plain)
    outcome = caught.value.outcomes[0]
    assert f"in order {outcome.order}: y at " in str(outcome)


ATOMIC = """
extern "C" __global__ void total(int n, const float* x, float* sum) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) atomicAdd(sum, x[i]);
}"""


def check_total(values=None, **options):
    return check(
        kernel(ATOMIC, "total"),
        lambda x, sum: sum + np.sum(x),
        [700],
        lambda n: {"n": n, "x": In(n, values=values), "sum": InOut(1, values=lambda rng, shape: [0])},
        launch=lambda n: (-(-n // 128), 128),
        **{"seeds": (0,)} | options,
    )


@pytest.mark.slow
def test_sums_by_atomics_are_within_the_bound_and_not_the_same_bits():
    assert check_total(orders=6)[0].passed
    with pytest.raises(KernelError, match="sum depends on the order of execution"):
        check_total(orders=6, same_in_any_order=True)
    integers = check_total(lambda rng, shape: rng.integers(-3, 4, shape), orders=6, same_in_any_order=True)
    assert integers[0].comparisons["sum"].bound < 1e-4
    assert integers[0].share == 0


def test_numba_kernels_real_and_emulated():
    import numba.cuda

    def scaled(x, y, counts, factor):
        i = cuda.grid(1)
        if i < x.size:
            y[i] = x[i] * factor
            counts[i] += 2 * i

    def wanted(x, counts, factor):
        return {"y": factor * x, "counts": counts + 2 * np.arange(len(x))}

    def given(n):
        return {"x": In(n, "float64"), "y": Out(n, "float64"), "counts": InOut(n, "int64"), "factor": 1.1}

    outcomes = check(cuda.jit(scaled), wanted, [5, 200], given, launch=lambda n: (2, 128), seeds=(0,))
    assert [set(outcome.comparisons) for outcome in outcomes] == 2 * [{"y", "counts"}]
    assert max(outcome.comparisons["y"].bound for outcome in outcomes) < 1e-13
    with pytest.raises(KernelError, match="counts at"):
        check(
            cuda.jit(scaled), lambda x, counts, factor: (factor * x, counts + 1), [5], given, launch=lambda n: (1, 32)
        )
    assert hasattr(numba.cuda.jit(scaled), "py_func")  # how a real one is known


def test_shared_memory_and_a_bound_that_is_given():
    code = """
    extern "C" __global__ void mean(const double* x, double* y, int n) {
        extern __shared__ double s[];
        for (int i = threadIdx.x; i < n; i += blockDim.x) s[i] = x[i];
        __syncthreads();
        if (threadIdx.x) return;
        double sum = 0;
        for (int i = 0; i < n; ++i) sum += s[i];
        *y = sum / n;
    }"""

    def mean(**options):
        return check(
            cp.RawKernel(code, "mean"),
            lambda x: [np.mean(x)] if "bound" in options else np.mean(x).reshape(1),
            [100],
            lambda n: {"x": In(n, "float64"), "y": Out(1, "float64"), "n": np.int32(n)},
            launch=lambda n: (1, 64, 8 * n),
            seeds=(0,),
            **options,
        )

    derived = mean()[0].comparisons["y"].bound
    assert 0 < derived < 1e-14
    assert mean(bound=1e-3)[0].comparisons["y"].bound == pytest.approx(1e-3)
    of_inputs = mean(bound=lambda x: [1e-9 * np.abs(x).max()])[0].comparisons["y"].bound
    assert 1e-10 < of_inputs < 1e-8


def test_functions_of_arrays():
    """Of NumPy arrays, and of emulated ones that the function launches kernels on by itself."""

    def cube(x, y):
        np.multiply(x * x, x, out=y)

    arguments = {
        "reference": lambda x: x**3,
        "shapes": [7, (3, 4)],
        "arguments": lambda *sides: {"x": In(sides), "y": Out(sides)},
    }
    assert all(outcome.passed for outcome in check(cube, **arguments))

    def beyond(x, y):
        cube(x, y)
        whole = y.base
        whole[-3] = 1

    with pytest.raises(KernelError, match="y: wrote outside the array"):
        check(beyond, **arguments)

    saxpy = kernel(SAXPY, "saxpy")
    outcomes = check(
        lambda x, y: saxpy((1,), (128,), (np.int32(x.size), np.float32(2), x, y)),
        lambda x, y: 2 * x + y,
        [50],
        lambda n: {"x": In(n), "y": InOut(n)},
        arrays=cp,
    )
    assert all(outcome.passed for outcome in outcomes)


def test_on_a_gpu_guard_zones_tell_what_is_written_beside_an_array():
    """A module with CuPy's names whose memory nobody watches: the emulator's, as one allocation an array."""
    waited = []
    device = SimpleNamespace(synchronize=lambda: waited.append(True))
    gpu = SimpleNamespace(empty=cp.empty, asnumpy=cp.asnumpy, cuda=SimpleNamespace(Device=lambda: device))

    def check_on_gpu(*edits):
        return check(
            kernel(SAXPY, "saxpy", *edits),
            lambda a, x, y: a * x + y,
            [50],
            lambda n: {"n": np.int32(n), "a": np.float32(2), "x": In(n), "y": InOut(n)},
            launch=lambda n: (1, 128),
            arrays=gpu,
            seeds=(0,),
        )

    assert check_on_gpu()[0].passed
    assert len(waited) == 1  # no other orders: a GPU has its own
    with pytest.raises(KernelError, match="y: wrote outside the array, at element 50 of 50"):
        check_on_gpu(("i < n", "i <= n"))
    with pytest.raises(KernelError, match="y: wrote outside the array, at element -1 of 50"):
        check_on_gpu(("if (i < n)", "if (i == 0) y[-1] = 1; if (i < n)"))


def test_halves_are_held_to_their_own_rounding():
    code = """
    #include <cuda_fp16.h>
    extern "C" __global__ void twice(const __half* x, __half* y, int n) {
        int i = threadIdx.x;
        if (i < n) y[i] = __float2half(__half2float(x[i]) * 1.37f);
    }"""
    outcome = check(
        cp.RawKernel(code, "twice"),
        lambda x: 1.37 * x,
        [60],
        lambda n: {"x": In(n, "float16"), "y": Out(n, "float16"), "n": np.int32(n)},
        launch=lambda n: (1, 64),
        arithmetic="float32",
    )[0]
    found = outcome.comparisons["y"]
    assert found.bound <= 1.1 * bounds.UNIT_ROUNDOFF["float16"] * abs(found.reference)


def test_nan_and_infinities_must_stand_where_the_reference_has_them():
    code = 'extern "C" __global__ void f(const float* x, float* y) { y[threadIdx.x] = 1 / x[threadIdx.x] - 1 / x[0]; }'

    def check_at(kernel):
        def reference(x):
            with np.errstate(all="ignore"):
                return 1 / x - 1 / x[0]

        values = {"values": lambda rng, shape: [0, 1, 2, -0.5]}
        return check(
            kernel, reference, [4], lambda n: {"x": In(n, **values), "y": Out(n)}, launch=lambda n: (1, n), bound=1e-6
        )

    assert check_at(cp.RawKernel(code, "f"))[0].passed
    with pytest.raises(KernelError, match=r"y at \[0\]"):
        check_at(cp.RawKernel(code.replace("x[0]; }", "(x[0] + 1e-30f); }"), "f"))


def arguments_of(**changes):
    return {"x": In(5), "y": Out(5)} | changes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reference": lambda z: z}, "a parameter of reference was 'z'; it must be one of x"),
        ({"reference": lambda x: (x, x)}, "reference returns 2 results"),
        ({"reference": lambda x: {"z": x}}, "reference returns ['z']; it must return ['y']"),
        ({"reference": lambda x: x[:2]}, "reference returns y of shape (2,)"),
        ({"reference": lambda x: np.floor(1.1 * x)}, "give a bound"),
        ({"bound": lambda x: x + np.inf}, "bound of y is infinite at [0]"),
        ({"arguments": lambda n: {"x": In(5)}}, "arguments have no output"),
        ({"arguments": lambda n: arguments_of(y=Out(5, "float8"))}, "dtype of y was 'float8'"),
        ({"arguments": lambda n: arguments_of(y=Out(5, "complex64"))}, "dtype of y was 'complex64'"),
        ({"arguments": lambda n: arguments_of(y=Out(5, "int32"))}, "return integers for int32"),
        ({"arguments": lambda n: arguments_of(x=In(5, values=lambda rng, shape: [1.0]))}, "values of x have the shape"),
        ({"arithmetic": "float31"}, "did you mean 'float32'"),
        ({"launch": lambda n: (1, 1)}, "launch was given"),
        ({"kernel": cp.RawKernel(SAXPY, "saxpy")}, "launch is missing"),
        ({"kernel": 3}, "kernel was 3"),
        ({"arrays": cp, "fail_at": "eror"}, "did you mean 'error'?"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    given = {
        "kernel": lambda x, y: None,
        "reference": lambda x: x,
        "shapes": [5],
        "arguments": lambda n: arguments_of(),
    }
    with pytest.raises(ArgumentError) as caught, np.errstate(all="ignore"):
        check(**given | options)
    assert message in str(caught.value)


def test_a_grade_that_fails_is_a_choice():
    code = (
        'extern "C" __global__ void found(const int* x, int* y) { if (x[threadIdx.x] > 50) y[0] = 1; else y[1] = 1; }'
    )

    def found(**options):
        return check(
            cp.RawKernel(code, "found"),
            lambda x: np.array([1, 1]),
            [64],
            lambda n: {"x": In(n, "int32"), "y": Out(2, "int32")},
            launch=lambda n: (1, n),
            seeds=(0,),
            **options,
        )

    with pytest.raises(KernelError, match="same-value race"):
        found()
    assert "same-value race" in found(fail_at="error")[0].remarks[0]


def test_a_file_of_suppressions_is_taken(tmp_path):
    path = tmp_path / "known.toml"
    path.write_text('[[suppress]]\nkernel = "total"\nreason = "x"\n')
    with pytest.raises(ArgumentError, match="suppressions"):
        check_total(suppressions=tmp_path)
    assert check_total(suppressions=path)[0].passed
