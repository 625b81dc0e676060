"""CUDA's own math library, executed from its PTX, meets the errors that NVIDIA documents for a GPU.

The bounds are the largest errors in the CUDA C++ Programming Guide, "Mathematical Functions": the difference from the
correctly rounded result in units in the last place. The library's code uses most of the arithmetic instructions, so
this checks many of them together.
"""

import math

import numpy as np
import pytest

import gpubp.emulator as cp

COUNT = 4096
# expression, reference, bound in float32, bound in float64
FUNCTIONS = {
    "sin": (np.sin, 2, 2),
    "cos": (np.cos, 2, 2),
    "tan": (np.tan, 4, 2),
    "exp": (np.exp, 1, 1),
    "expm1": (np.expm1, 1, 1),
    "log": (np.log, 1, 1),
    "log1p": (np.log1p, 1, 1),
    "tanh": (np.tanh, 2, 2),
    "sinh": (np.sinh, 3, 2),
    "atan": (np.arctan, 2, 2),
    "cbrt": (np.cbrt, 1, 1),
    "rsqrt": (lambda x: 1 / np.sqrt(x), 2, 1),
    "sqrt": (np.sqrt, 0, 0),
    "erf": (np.vectorize(math.erf), 2, 2),
}
POSITIVE = ("log", "log1p", "rsqrt", "sqrt")
SOURCE = (
    'extern "C" __global__ void {name}({type}* x) {{ int i = blockIdx.x * 256 + threadIdx.x; x[i] = {name}(x[i]); }}\n'
)


@pytest.fixture(scope="module", params=["float", "double"])
def library(request):
    """A module with a kernel for each function, and the dtype."""
    code = "".join(
        SOURCE.format(name=f"k_{name}", type=request.param).replace(f"= k_{name}", f"= {name}") for name in FUNCTIONS
    )
    return cp.RawModule(code=code), np.dtype(np.float32 if request.param == "float" else np.float64)


def arguments(dtype: np.dtype, positive: bool) -> np.ndarray:
    """Values near zero, of middling size, and over many magnitudes."""
    rng = np.random.default_rng(1)
    values = np.concatenate(
        [
            rng.standard_normal(COUNT // 2),
            rng.uniform(-80, 80, COUNT // 4),
            rng.uniform(-1, 1, COUNT // 4) * 10.0 ** rng.integers(-30, 6, COUNT // 4),
        ]
    ).astype(dtype)
    return np.abs(values) if positive else values


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_math_library_is_as_accurate_as_on_a_gpu(library, name):
    module, dtype = library
    reference, *bounds = FUNCTIONS[name]
    values = arguments(dtype, name in POSITIVE)
    device = cp.asarray(values)
    module.get_function(f"k_{name}")((COUNT // 256,), (256,), (device,))
    got = device.get()
    # sqrt is exact in float64, which rounding twice would spoil; erf has no wider reference.
    wide = np.longdouble if dtype == np.float64 and name not in ("erf", "sqrt") else np.float64
    with np.errstate(over="ignore"):
        exact = reference(values.astype(wide))
        rounded = exact.astype(dtype)
    finite = np.isfinite(rounded)
    np.testing.assert_array_equal(got[~finite], rounded[~finite])
    errors = np.abs(got[finite] - rounded[finite]) / np.spacing(np.abs(rounded[finite]))
    bound = bounds[dtype == np.float64]
    assert np.all(errors <= bound), f"{errors.max()} ulp at {values[finite][errors.argmax()]!r}; {bound} allowed"
