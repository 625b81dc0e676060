"""NaN goes through every kernel as it does through NumPy: no kernel loses one, and no other element becomes one."""

import numpy as np
import pytest
from devices import DEVICE

from gpubp import backends
from gpubp.backends.numpy_backend import NumpyBackend
from gpubp.crosscheck import cases, problems, runner
from gpubp.crosscheck.cases import Case
from gpubp.kernels.control import Control

SHAPES = {3: (5, 4, 7), 2: (5, 4), 1: (9,)}


def case(primitive, option="-", mode="-", variant="-", dtype="float32"):
    shape = SHAPES[len(next(cases.all_cases(primitive, ())).shape)]
    return Case(primitive, variant, dtype, shape, option, mode, 1.0, "random", 0, 0)


def chosen():
    """Each kernel's arithmetic once: activations, losses and optimisers, and each rung of the ladder."""
    for primitive in ("softmax", "bias_gradient", "scale", "row_argmax"):
        yield case(primitive)
    for variant in ("naive", "tiled", "blocked", "pipelined"):
        yield case("transpose_product", variant=variant)
    for mode in ("-", "bias"):
        yield case("weight_gradient", mode=mode, variant="naive")
        yield case("weight_step", mode=mode, variant="naive")
    yield case("prepare_update", mode="clipped")
    for name in cases.ELEMENTWISE:
        yield case("dense_forward", name, "bias", "naive")
        yield case("hadamard_derivative", name)
    for option in cases.OPTIONS["output_delta"]:
        if option.endswith(("+tanh", "+softmax")) or "cross_entropy" in option:
            yield case("output_delta", option, "mean")
    for name in cases.OPTIONS["update"]:
        for mode in ("clip_norm", "clip_value"):
            yield case("update", name, mode)


def mixed():
    """The same where numbers of 16 bits are read and stored, and where tensor cores multiply."""
    for dtype in cases.HALF_DTYPES:
        yield case("cast", "narrow", dtype=dtype)
        yield case("cast", "widen", dtype=dtype)
        yield case("softmax", dtype=dtype)
        yield case("row_argmax", dtype=dtype)
        yield case("bias_gradient", dtype=dtype)
        yield case("hadamard_derivative", "relu", dtype=dtype)
        yield case("output_delta", "huber+tanh", "scaled", dtype=dtype)
        yield case("update", "adam", "scaled", dtype=dtype)
        yield case("dense_forward", "relu", "bias", "tensorcore", dtype=dtype)
    for dtype in cases.MIXED_DTYPES:
        yield case("transpose_product", variant="tensorcore", dtype=dtype)


CASES = list(chosen())
QUICK = ("row_argmax", "prepare_update", "softmax")
LOSSES = [option.removesuffix("+tanh") for option in cases.OPTIONS["output_delta"] if option.endswith("+tanh")]
SPARED = [
    *(case("output_delta", f"{loss}+{('softmax', 'tanh')[i % 2]}", "mean") for i, loss in enumerate(LOSSES)),
    *(case("update", name, ("clip_value", "clip_norm")[i % 2]) for i, name in enumerate(cases.OPTIONS["update"])),
]
"""Those of `make long`: a loss comes with two activations, and an optimiser with two ways of clipping, which know
nothing of each other. `make test` has one of the two, in turn."""


def parameter(each):
    """The case as a parameter, which runs when it should."""
    if each.primitive in QUICK:
        return each
    return pytest.param(each, marks=pytest.mark.exhaustive if each in SPARED else pytest.mark.slow)


def planted(primitive, problem):
    """The problem's arrays with one NaN, in each of the float arrays in turn; for an update, in the norm too."""
    arrays = {**problem.inputs, **problem.started}
    for name, values in arrays.items():
        if values.dtype.kind in "iu" or name == "losses" or (name == "control" and primitive != "update"):
            continue
        changed = values.copy()
        changed.reshape(-1)[Control.SQUARED_NORM if name == "control" else values.size // 2] = np.nan
        yield name, arrays | {name: changed}


def outputs(backend, case, problem, arrays):
    """What the primitive writes, given these arrays; outputs hold numbers before the call."""
    placed = {name: backend.asarray(values.copy(), values.dtype) for name, values in arrays.items()}
    for name, (shape, dtype) in problem.made.items():
        placed[name] = backend.zeros(shape, dtype)
    if backend.variants:
        with runner.plans_of(backend, case):
            problem.run(backend, placed)
    else:
        problem.run(backend, placed)
    return {name: np.asarray(backend.asnumpy(placed[name])) for name in problem.outputs}


@pytest.fixture(scope="module", params=["cupy", "numba"])
def backend(request):
    return backends.get(request.param, DEVICE)


@pytest.mark.slow
@pytest.mark.parametrize("case", list(mixed()), ids=lambda each: f"{each.primitive}-{each.dtype}-{each.option}")
def test_nan_goes_through_mixed_precision_as_in_numpy(case):
    check(backends.get("cupy", DEVICE), case)


@pytest.mark.parametrize(
    "case",
    [parameter(each) for each in CASES],
    ids=lambda each: f"{each.primitive}-{each.variant}-{each.option}-{each.mode}",
)
def test_nan_goes_through_as_in_numpy(backend, case):
    check(backend, case)


def check(backend, case):
    problem = problems.make(case)
    spread = False
    for place, arrays in planted(case.primitive, problem):
        with np.errstate(all="ignore"):
            expected = outputs(NumpyBackend().for_precision(case.dtype), case, problem, arrays)
        found = outputs(backend, case, problem, arrays)
        for name, values in expected.items():
            if values.dtype.kind == "i":
                np.testing.assert_array_equal(found[name], values, f"{name}, with NaN in {place}")
            else:
                np.testing.assert_array_equal(np.isnan(found[name]), np.isnan(values), f"{name}, with NaN in {place}")
            spread |= values.dtype.kind == "i" or bool(np.isnan(values).any())
    assert spread
