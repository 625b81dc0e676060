"""Other libraries as contenders: those that are installed compute the same, and all say what they lack."""

import sys

import numpy as np
import pytest

from gpubp.bench import contenders, own, runners, turns
from gpubp.bench import peaks as limits
from gpubp.bench.contenders import CONTENDERS, EVERYONE
from gpubp.bench.peers import cuda_peer as cuda_peers
from gpubp.bench.timing import seconds_of_a_call
from gpubp.bench.works import STEPS, Limit, Primitive
from gpubp.costs import MATRICES, PRODUCTS
from gpubp.crosscheck import references
from gpubp.errors import ArgumentError

CPU_PEERS = [each for each in CONTENDERS.values() if each.device == "cpu" and not each.backend]


def small(primitive):
    shape = (5, 7, 9) if primitive in PRODUCTS else (5, 7) if primitive in MATRICES else (35,)
    return Primitive(primitive, shape)


@pytest.mark.slow
@pytest.mark.parametrize("peer", CPU_PEERS, ids=lambda peer: peer.key)
def test_a_peer_that_is_installed_computes_the_same(peer):
    if missing := peer.missing():
        pytest.skip(missing)
    for primitive in peer.primitives:
        assert peer.make(small(primitive), 1).fault() == "", primitive
    for name in ("tiny", "tiny-regression"):
        losses = peer.make(STEPS[name], 1).losses(3)
        assert turns.differing_losses(losses, own.reference_losses(STEPS[name], 3), "float32") == ""


@pytest.mark.parametrize("primitive", cuda_peers.FUNCTIONS)
def test_what_cublas_is_asked_for_is_the_primitive(primitive):
    """The functions are written for CuPy's names, which are NumPy's."""
    problem = runners.problem_of(small(primitive))
    arrays = {name: values.copy() for name, values in {**problem.inputs, **problem.started}.items()}
    arrays |= {name: np.full(shape, np.nan, dtype) for name, (shape, dtype) in problem.made.items()}
    for name, found in cuda_peers.FUNCTIONS[primitive](np, arrays).items():
        expected = problem.expected[name]
        assert (np.abs(found - expected.reference) <= expected.bound).all()


@pytest.mark.parametrize("primitive", cuda_peers.FUSED)
def test_what_cublaslt_is_asked_for_is_the_primitive(primitive):
    """By a stand-in for nvmath that does what its epilogues are documented to do."""
    problem = runners.problem_of(small(primitive))
    name, plan = cuda_peers.FUSED[primitive]
    found = plan(Nvmath, np, {**problem.inputs, **problem.started}).execute().T
    expected = problem.expected[name]
    assert (np.abs(found - expected.reference) <= expected.bound).all()


class Nvmath:
    """nvmath.linalg.advanced, as far as it is used."""

    class MatmulEpilog:
        RELU_BIAS, RELU_AUX, DRELU = "relu_bias", "relu_aux", "drelu"

    class Matmul:
        def __init__(self, a, b):
            self.a, self.b = a, b

        def plan(self, epilog=None, epilog_inputs=None):
            self.epilog, self.inputs = epilog, epilog_inputs

        def execute(self):
            product = self.a @ self.b
            if self.epilog == "relu_bias":
                return np.maximum(product + self.inputs["bias"], 0)
            return product * self.inputs["relu_aux"] if self.epilog == "drelu" else product

    @staticmethod
    def matmul(a, b, epilog):
        assert epilog == "relu_aux"
        return np.maximum(a @ b, 0), {"relu_aux": a @ b > 0}


class Cupy:
    """CuPy, as far as it is used: NumPy's functions, and events two milliseconds apart."""

    def __getattr__(self, name):
        return getattr(np, name)

    asnumpy = staticmethod(np.asarray)

    class cuda:
        class Event:
            def record(self):
                self.recorded = True

            def synchronize(self):
                assert self.recorded

        @staticmethod
        def get_elapsed_time(start, end):
            assert start.recorded
            assert end.recorded
            assert start is not end
            return 2.0


def test_what_cupy_times_is_timed_by_its_events(monkeypatch):
    monkeypatch.setattr(cuda_peers, "array_module", Cupy)
    monkeypatch.setattr(runners, "FLUSHED_BYTES", 1024)
    copies = []
    monkeypatch.setattr(np, "copyto", lambda out, source: copies.append((out.nbytes, source.nbytes)))
    product = cuda_peers.make(small("hidden_delta"))
    assert product.fault() == ""
    assert product.flush is not None
    product.flush()
    assert copies == [(512, 512)] * runners.FLUSHES, "each moves as much as was said, reads and writes together"
    for runner in (product, *(limits.on_gpu(Limit(name, 8)) for name in ("product", "copy"))):
        assert seconds_of_a_call(runner, 0.0) == pytest.approx(0.002)


@pytest.mark.parametrize(("lower", "passes"), [(lambda x: x, True), (references.tf32, False)])
def test_a_peer_that_computes_in_a_lower_precision_is_found(lower, passes):
    problem = runners.problem_of(Primitive("weight_gradient", (64, 64, 2048)))

    def bind(arrays):
        delta, a_prev = (lower(arrays[name]).astype(np.float32) for name in ("delta", "a_prev"))
        return lambda: {"gradient": delta.T @ a_prev}

    runner = runners.of_primitive(problem, np.array, bind, np.asarray, elapsed=lambda work: 1.0)
    assert (runner.fault() == "") is passes


def test_everyone_can_be_chosen_and_says_why_not():
    assert [each.key for each in contenders.choose()] == [
        "numpy", "cpu", "cupy", "cupy-graph", "numba", "torch", "torch-compiled", "jax", "sklearn", "cublas",
        "cublaslt", "torch-graph",
    ]  # fmt: skip
    assert contenders.choose(["numpy"]) == [CONTENDERS["numpy"]]
    keys = [each.key for each in contenders.choose(["numpy"], ["tiled"])]
    assert keys == ["numpy", "cupy-tiled", "numba-tiled"]
    for each in EVERYONE.values():
        assert isinstance(each.missing(), str)
    assert CONTENDERS["numpy"].missing() == ""


def test_a_peer_that_is_not_installed_says_which_command_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(contenders.importlib.util, "find_spec", lambda name: None)
    assert CONTENDERS["torch"].missing() == "torch is not installed; pip install torch"


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ((["pytorch"],), "did you mean 'torch'"),
        ((["numpy"], ["tild"]), "did you mean 'tiled'"),
        ((["jax"],), "one of this project's besides"),
    ],
)
def test_a_contender_that_there_is_not_is_named(choice, message):
    with pytest.raises(ArgumentError, match=message):
        contenders.choose(*choice)


def test_who_takes_what():
    assert CONTENDERS["cupy-tiled"].takes(small("hidden_delta"))
    assert not CONTENDERS["cupy-tiled"].takes(small("update"))
    assert not CONTENDERS["sklearn"].takes(small("update"))
    assert CONTENDERS["sklearn"].takes(STEPS["tiny"])
    assert not CONTENDERS["cublas"].takes(STEPS["tiny"])
