"""The `cpu` backend: what `numpy` computes, to roundoff, with Numba or not; the same bits by any number of threads."""

import ctypes
import re
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from gpubp import Network, Trainer, backends
from gpubp.backends import blas, cpu_backend, detection, team
from gpubp.backends.cpu_backend import ALIGNMENT, CpuBackend
from gpubp.backends.team import Team
from gpubp.cli import app
from gpubp.errors import ArgumentError, BackendError, StateError
from gpubp.kernels.control import Control, Losses
from gpubp.nn import losses
from gpubp.nn.activations import Identity, ReLU, Softmax
from gpubp.nn.optimizers import SGD, Adam, Momentum

ROWS = 37


@pytest.fixture(autouse=True)
def _forget():
    yield
    blas.chosen.cache_clear()
    detection.probe.cache_clear()


@pytest.fixture
def backend():
    return CpuBackend()


@pytest.fixture
def without_numba(monkeypatch):
    monkeypatch.setattr(cpu_backend, "has_numba", lambda: False)


@pytest.fixture
def short_parts(monkeypatch):
    """Parts so short that every array here has several, the last one ragged."""
    monkeypatch.setattr(team, "PART", 64)
    monkeypatch.setattr(cpu_backend, "PART", 64)
    monkeypatch.setattr(cpu_backend, "SHARED", 128)
    monkeypatch.setattr(cpu_backend, "COLUMNS", 8)


def trained(backend, *, loss="softmax_cross_entropy", optimizer="sgd", activation="relu", steps=3, dtype="float32"):
    """Return the weights, losses and predictions of a network after some steps."""
    net = Network([20, 33, 17, 5], hidden_activation=activation, loss=loss, backend=backend, dtype=dtype, seed=3)
    trainer = Trainer(net, optimizer)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 20)).astype(dtype)
    y = rng.integers(0, 5, ROWS) if net.loss.takes_labels else rng.uniform(size=(ROWS, 5)).astype(dtype)
    weights = rng.integers(0, 3, ROWS).astype(dtype)
    feed = trainer.feed(x, y)
    found = []
    for _ in range(steps):
        trainer.step(x, y)
        found.append(trainer.last_loss())
        trainer.step(x, y, weights)
        trainer.step_rows(feed, 5, 30)
    return [*net.weights().values(), np.array(found), net.predict_proba(x), np.array(net.evaluate(x, y).loss)]


def assert_close(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5)


CASES = {
    "classes": {},
    "values": {"loss": "huber", "optimizer": {"name": "adam", "clip_norm": 0.1}, "activation": "tanh"},
    "marks": {"loss": "binary_cross_entropy"},
    "a loss without a pass": {"loss": "softmax_focal_cross_entropy", "optimizer": {"name": "momentum", "l1": 1e-3}},
}


@pytest.mark.parametrize("case", CASES)
def test_training_is_that_of_numpy_to_roundoff(case):
    assert_close(trained("cpu", **CASES[case]), trained("numpy", **CASES[case]))


class Doubled(ReLU):
    """σ(z) = 2 max(z, 0), by somebody else, under the name that it has inherited."""

    def apply(self, z, out):
        super().apply(z, out)
        out *= 2

    def derivative(self, saved, out):
        super().derivative(saved, out)
        out *= 2


class Slower(SGD):
    """Half the step."""

    def update(self, g, rate, t, state, w, work):
        super().update(g, rate / 2, t, state, w, work)

    @property
    def is_plain_sgd(self):
        return False


def test_functions_that_somebody_else_defined_are_taken_as_they_are():
    own = {"activation": Doubled(), "optimizer": Slower(), "steps": 1}
    assert_close(trained("cpu", **own), trained("numpy", **own))


def test_training_without_numba_is_that_of_numpy_to_roundoff(without_numba):
    assert_close(trained("cpu"), trained("numpy"))


@pytest.mark.parametrize("case", ["classes", "values"])
def test_results_have_the_same_bits_for_any_number_of_threads(case, short_parts):
    def by(threads):
        backend = CpuBackend()
        backend._team = Team(threads)
        return [array.tobytes() for array in trained(backend, **CASES[case])]

    assert by(1) == by(2) == by(5)


def test_shared_passes_are_those_in_one_call_to_roundoff(short_parts):
    assert_close(trained("cpu"), trained("numpy"))


def test_a_part_that_fails_is_an_error():
    def part(start, stop):
        if start:
            raise ValueError("second part")

    with pytest.raises(ValueError, match="second part"):
        Team(2).run(part, 2 * team.PART)


# --- products ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", ["NT", "NN", "TN"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_product_from_python_is_exact_for_small_integers(form, dtype):
    rng = np.random.default_rng(1)
    m, n, k = 5, 7, 3
    a = rng.integers(-3, 4, (k, m) if form == "TN" else (m, k)).astype(dtype)
    b = rng.integers(-3, 4, (n, k) if form == "NT" else (k, n)).astype(dtype)
    c = rng.integers(-3, 4, (m, n)).astype(dtype)
    expected = 2 * (a.T if form == "TN" else a) @ (b.T if form == "NT" else b) - c
    blas.multiply(blas.chosen().blas, form == "TN", form == "NT", 2.0, a, b, -1.0, c)
    np.testing.assert_array_equal(c, expected)


def of_python(a, b, c):
    blas.multiply(blas.chosen().blas, False, False, 1.0, a, b, 0.0, c)


@pytest.mark.parametrize("multiply", [of_python, lambda a, b, c: CpuBackend().product("NN", a, b, c)])
def test_arrays_that_a_blas_would_misread_are_refused(multiply):
    a, c = np.ones((4, 4), np.float32), np.zeros((4, 4), np.float32)
    wrong = {
        "strides": (a, a, np.zeros((4, 8), np.float32)[:, ::2]),
        "dtype": (a, a.astype(np.float64), c),
        "depth": (a, np.ones((5, 4), np.float32), c),
        "rows": (a, a, np.zeros((5, 4), np.float32)),
    }
    for name, arrays in wrong.items():
        with pytest.raises(StateError):
            multiply(*arrays)
        assert not arrays[2].any(), name


def of(*sides, dtype=np.float32):
    return np.ones(sides, dtype)


SOFTMAX, VALUES = (losses.get("softmax_cross_entropy"), Softmax()), (losses.get("half_squared_error"), Identity())
WRONG = {
    "b": lambda cpu: cpu.dense_forward(of(5, 3), of(4, 3), of(2), ReLU(), None, of(5, 4)),
    "b of a shared pass": lambda cpu: cpu.dense_forward(of(500, 3), of(400, 3), of(2), ReLU(), None, of(500, 400)),
    "z": lambda cpu: cpu._passes.activate(cpu._sigma(ReLU()), None, of(5, 3), of(5, 4)),
    "a": lambda cpu: cpu._passes.activate(cpu._sigma(ReLU()), None, None, of(5, 4, dtype=np.int64)),
    "saved": lambda cpu: cpu.hidden_delta(of(5, 4), of(4, 3), ReLU(), of(2, 3), of(5, 3)),
    "product": lambda cpu: cpu.hadamard_derivative(of(5, 2), ReLU(), of(5, 4), of(5, 4)),
    "saved ": lambda cpu: cpu.hadamard_derivative(of(5, 4), ReLU(), of(5, 4), of(5, 4, dtype=np.int64)),
    "y labels": lambda cpu: output_delta(cpu, *SOFTMAX, y=np.zeros(2, np.int64)),
    "y rows": lambda cpu: output_delta(cpu, *SOFTMAX, y=of(5, 2)),
    "y values": lambda cpu: output_delta(cpu, *VALUES, y=of(2, 4)),
    "y sides": lambda cpu: output_delta(cpu, *VALUES, y=of(5)),
    "saved of values": lambda cpu: output_delta(cpu, *VALUES, saved=of(1, 4)),
    "output": lambda cpu: output_delta(cpu, *SOFTMAX, delta=of(4, 4)),
    "weights": lambda cpu: output_delta(cpu, *SOFTMAX, weights=of(2)),
    "weights ": lambda cpu: output_delta(cpu, *VALUES, weights=of(2)),
    "out of sums": lambda cpu: cpu.weight_gradient(of(5, 4), of(5, 3), of(4, 3), bias_gradient=of(9)),
    "out": lambda cpu: cpu.bias_gradient(of(5, 4), of(2)),
    "a part": lambda cpu: cpu._passes.add_columns(1.0, of(5, 4), 0.0, of(2), 0, 4, of(4)),
    "z of softmax": lambda cpu: cpu.softmax(of(5, 4), of(3, 4)),
    "parameters": lambda cpu: update(cpu, SGD(learning_rate=0.1), of(6, dtype=np.int64), of(6, dtype=np.int64)),
    "gradients": lambda cpu: update(cpu, SGD(learning_rate=0.1), of(3), of(6)),
    "gradients ": lambda cpu: update(cpu, SGD(learning_rate=0.1), of(6, dtype=np.int64), of(6)),
    "state": lambda cpu: update(cpu, Momentum(learning_rate=0.1), of(6), of(6), of(2)),
    "state ": lambda cpu: update(cpu, Adam(learning_rate=0.1), of(6), of(6), of(6), of(2)),
}
"""Arrays that do not fit, by the argument that the error names."""


def output_delta(cpu, loss, activation, *, saved=None, y=None, weights=None, delta=None):
    output, control = of(5, 4), np.ones(len(Control))
    saved, y, delta = (output if each is None else each for each in (saved, y, delta))
    cpu.output_delta(loss, activation, output, saved, y, weights, control, np.zeros(len(Losses)), delta)


def update(cpu, optimizer, gradients, parameters, *state):
    cpu.update(optimizer, gradients, 4, np.zeros(len(Control)), state, parameters)


@pytest.mark.parametrize("name", WRONG)
def test_a_pass_does_not_read_beyond_arrays_nor_round_to_integers(backend, name):
    with pytest.raises(StateError, match=f"^{name.split(' of ')[0].split()[0]} "):
        WRONG[name](backend)


def test_arrays_begin_at_cache_lines(backend):
    for shape in ((3,), (5, 7), (1, 1)):
        made = backend.zeros(shape, "float32")
        assert made.ctypes.data % ALIGNMENT == 0
        assert made.shape == shape
        assert not made.any()


# --- the choice of a BLAS ---------------------------------------------------------------------------------------------
def counted(name, calls):
    """SciPy's BLAS by another name, slower by a pause; `calls` counts its products."""
    found = blas._scipy()
    real = blas.GEMM(found.gemm[np.dtype(np.float32)])

    @blas.GEMM
    def gemm(*arguments):
        calls.append(name)
        if name == "slow":
            ctypes.CDLL(None).usleep(2000)
        real(*arguments)

    address = ctypes.cast(gemm, ctypes.c_void_p).value
    KEPT.append(gemm)
    return replace(found, name=name, title=name, gemm={**found.gemm, np.dtype(np.float32): address})


KEPT = []
"""Functions that BLAS is given the addresses of."""


def test_the_faster_library_is_taken_and_measured_once_a_machine(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setenv("GPUBP_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv(blas.VARIABLE, raising=False)
    monkeypatch.setattr(blas, "MEASURED", ((4, 5, 6),))
    made = {name: counted(name, calls) for name in ("slow", "fast")}
    monkeypatch.setattr(blas, "_LIBRARIES", {name: lambda name=name: made[name] for name in made})
    first = blas.chosen()
    assert first.blas.name == "fast"
    assert set(calls) == {"slow", "fast"}
    assert "measured at" in str(first)
    assert "slow" in str(first)
    calls.clear()
    blas.chosen.cache_clear()
    assert blas.chosen() == first
    assert not calls
    monkeypatch.setenv(blas.VARIABLE, "slow")
    blas.chosen.cache_clear()
    assert blas.chosen().blas.name == "slow"


def test_a_library_that_is_unknown_or_not_installed_is_an_error_that_says_so(monkeypatch):
    monkeypatch.setenv(blas.VARIABLE, "mlk")
    with pytest.raises(ArgumentError, match=r"GPUBP_BLAS was 'mlk'.*did you mean 'mkl'"):
        blas.chosen()
    monkeypatch.setattr(blas, "_LIBRARIES", {**blas._LIBRARIES, "mkl": lambda: None})
    monkeypatch.setenv(blas.VARIABLE, "mkl")
    with pytest.raises(BackendError, match=r"gpubp\[mkl\]"):
        blas.chosen()
    ended = CliRunner().invoke(app, ["check", "--backend", "cpu", "--primitive", "copy"])
    assert ended.exit_code == 2
    assert "gpubp[mkl]" in ended.output


@pytest.mark.parametrize(("given", "expected"), [("3", 3), ("2,1", 2)])
def test_threads_are_those_that_openmp_is_given(given, expected, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert blas.threads() == expected


# --- the switch -------------------------------------------------------------------------------------------------------
def test_auto_takes_it_on_the_cpu():
    assert backends.get("auto", "cpu").name == "cpu"


@pytest.mark.parametrize(("numba", "said"), [(True, "compiled by Numba"), (False, r"gpubp\[cpu\]")])
def test_what_it_is_made_of_is_told(numba, said, monkeypatch):
    monkeypatch.setattr(cpu_backend, "has_numba", lambda: numba)
    found = detection.probe("cpu", "cpu")
    assert found.works
    assert re.search(said, str(found))


@pytest.mark.exhaustive
def test_it_passes_the_check_in_full():
    ended = CliRunner().invoke(app, ["check", "--backend", "cpu"])
    assert ended.exit_code == 0, ended.output


def test_its_provenance_names_what_computes(monkeypatch):
    backend = CpuBackend()
    compiled = backend.provenance
    assert compiled["blas"] == backend.blas.title
    assert compiled["threads"] == backend.blas.threads
    assert compiled["passes"].startswith("Numba ")
    monkeypatch.setattr("gpubp.backends.cpu_backend.has_numba", lambda: False)
    assert CpuBackend().provenance == compiled | {"passes": "NumPy"}


def test_it_takes_no_arrays_of_16_bits(backend):
    half, relu = np.ones((2, 2), np.float16), ReLU()
    with pytest.raises(ArgumentError, match=r"a\.dtype was 'float16'; it must be float32 or float64"):
        backend.dense_forward(half, half, None, relu, None, half.copy())
    with pytest.raises(ArgumentError, match=r"delta\.dtype was 'float16'; it must be float32 or float64"):
        backend.hidden_delta(half, half, relu, half, half.copy())
