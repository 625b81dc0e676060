"""What the `blocked` and `pipelined` kernels move, counted on the emulated device: no wasted sector, no bank conflict,
and no product that goes to memory just to be read again."""

import numpy as np
import pytest

from gpubp import emulator
from gpubp.backends.cupy_backend import CupyBackend
from gpubp.backends.plans import PIPELINED, PIPELINED_SMALL_BLOCKS, Plan
from gpubp.kernels.control import Control
from gpubp.nn import activations
from gpubp.nn.dropout import Dropout

M, N, K = 256, 128, 64
ITEM = {"float32": 4, "float64": 8}
BLOCKED = [Plan("blocked", dtype, side, side, 8, 8, 8) for dtype in ITEM for side in (64, 128)]
PLANS = [
    pytest.param(plan, id=f"{plan.variant} {plan.dtype} {plan.tile_m}x{plan.tile_n} by {plan.threads} threads")
    for plan in (
        *BLOCKED,
        *(plan for table in (PIPELINED, PIPELINED_SMALL_BLOCKS) for each in table.values() for plan in each),
    )
]
RELU = activations.get("relu")


@pytest.fixture(scope="module")
def backend():
    return CupyBackend("emulator")


def matrices(backend, dtype, *shapes):
    rng = np.random.default_rng(0)
    return [backend.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def count(work):
    with emulator.observe(traffic=True) as report:
        work()
    return report


def large(dtype):
    """The largest tile that divides the result of these tests: its re-reads of the operands are easy to count."""
    return next(plan for plan in PIPELINED[dtype] if M % plan.tile_m == 0 and N % plan.tile_n == 0)


def assert_nothing_is_wasted(report):
    assert report.global_accesses
    assert report.shared_accesses
    assert [(str(entry.location), entry.kind, entry.excess) for entry in report.accesses if entry.excess] == []


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS)
def test_every_sector_is_needed_and_no_bank_is_asked_twice(backend, plan):
    delta_next, w_next, saved, delta = matrices(backend, plan.dtype, (M, K), (K, N), (M, N), (M, N))
    assert_nothing_is_wasted(count(lambda: backend.hidden_delta(delta_next, w_next, RELU, saved, delta, plan=plan)))


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["blocked", "pipelined"])
@pytest.mark.parametrize("dtype", ITEM)
def test_nothing_is_wasted_in_the_other_forms(backend, dtype, variant):
    a_prev, w, delta = matrices(backend, dtype, (M, K), (N, K), (M, N))
    a, gradient, b = matrices(backend, dtype, (M, N), (N, K), (N,))
    plan = large(dtype) if variant == "pipelined" else Plan("blocked", dtype, 64, 64, 8, 8, 8)
    assert_nothing_is_wasted(count(lambda: backend.dense_forward(a_prev, w, b, RELU, None, a, plan=plan)))
    assert_nothing_is_wasted(count(lambda: backend.weight_gradient(delta, a_prev, gradient, plan=plan)))


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["blocked", "pipelined"])
@pytest.mark.parametrize("dtype", ITEM)
def test_dropout_moves_no_mask(backend, dtype, variant):
    a_prev, w, a, plain, b = matrices(backend, dtype, (M, K), (N, K), (M, N), (M, N), (N,))
    plan = large(dtype) if variant == "pipelined" else Plan("blocked", dtype, 64, 64, 8, 8, 8)
    control, drop = backend.zeros((len(Control),), "float64"), Dropout(0.5, (1, 2), 1)

    def forward(out, **settings):
        return count(lambda: backend.dense_forward(a_prev, w, b, RELU, None, out, plan=plan, **settings))

    dropped, whole = forward(a, dropout=drop, control=control), forward(plain)
    assert_nothing_is_wasted(dropped)
    threads = M * N // (plan.thread_m * plan.thread_n)
    # each warp reads the step; what else is moved is what is moved without dropout
    assert dropped.bytes["global"].written == whole.bytes["global"].written
    assert dropped.bytes["global"].read - whole.bytes["global"].read <= 8 * threads
    zeros = backend.asnumpy(a) == 0
    assert zeros.mean() > (backend.asnumpy(plain) == 0).mean() + 0.2


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_the_fused_delta_moves_each_array_once_but_for_the_tiles(backend, dtype):
    delta_next, w_next, saved = matrices(backend, dtype, (M, K), (K, N), (M, N))
    product, delta = matrices(backend, dtype, (M, N), (M, N))
    plan, item = large(dtype), ITEM[dtype]
    fused = count(lambda: backend.hidden_delta(delta_next, w_next, RELU, saved, delta, plan=plan))

    def halves():
        backend.transpose_product(delta_next, w_next, product, plan=plan)
        backend.hadamard_derivative(product, RELU, saved, delta)

    separate = count(halves)
    tiles = M * K * (N // plan.tile_n) + K * N * (M // plan.tile_m)
    moved = fused.bytes["global"]
    assert (moved.read, moved.written) == (item * (tiles + M * N), item * M * N)
    moved = separate.bytes["global"]
    assert (moved.read, moved.written) == (item * (tiles + 2 * M * N), item * 2 * M * N)


def test_the_flops_are_those_of_the_product(backend):
    delta_next, w_next, product = matrices(backend, "float32", (M, K), (K, N), (M, N))
    report = count(lambda: backend.transpose_product(delta_next, w_next, product, plan=large("float32")))
    assert report.instructions["FMA"] == M * N * K
    assert report.flops == 2 * M * N * K
