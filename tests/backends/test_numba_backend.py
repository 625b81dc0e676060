"""The numba backend's own: arrays, plans, checks and the workspace. What it computes is the cross-check's business."""

from dataclasses import replace

import numba.cuda
import numpy as np
import pytest
from devices import DEVICE
from numba.cuda.dispatcher import CUDACacheImpl

import gpubp.emulator as cp
from gpubp import LossScaling, Network, chips
from gpubp.backends import instances, numba_backend, plans
from gpubp.backends.numba_backend import NumbaBackend
from gpubp.backends.plans import Plan
from gpubp.chips import Chip
from gpubp.crosscheck import cases, runner
from gpubp.errors import ArgumentError, BackendError
from gpubp.kernels.control import Control
from gpubp.kernels.numba.ladder import Pipelined
from gpubp.nn import activations, losses, optimizers
from gpubp.nn.precision import PRECISIONS

H100 = chips.get("H100").for_plans()
SPLIT = Plan("pipelined", "float32", 16, 16, 32, 2, 2, 2, split_k=2)


@pytest.fixture(scope="module")
def backend():
    return NumbaBackend(DEVICE)


def normal(*shape, dtype="float32"):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def test_the_chip_is_the_devices(backend):
    assert backend.chip == replace(H100, shared_on_request=0)  # which only tensor cores ask for
    assert backend.variants == plans.THREAD_VARIANTS


def test_kernels_are_kept_where_numba_finds_a_folder_for_them(monkeypatch):
    """Here the module is the real numba.cuda, which looks for a folder without a driver."""
    assert numba_backend._keeps_kernels(numba.cuda)
    monkeypatch.setattr(CUDACacheImpl, "_locator_classes", [])  # none is writable
    assert not numba_backend._keeps_kernels(numba.cuda)


def test_asarray_takes_arrays_of_the_device_without_a_copy(backend):
    own = backend.asarray(normal(3, 4), "float32")
    foreign = cp.asarray(normal(3, 4))  # another type of array, known by its __cuda_array_interface__
    for x in (own, own[1:], foreign):
        taken = backend.asarray(x, "float32")
        assert type(taken) is type(own)
        assert taken.__cuda_array_interface__["data"] == x.__cuda_array_interface__["data"]


def test_asarray_converts_what_differs(backend):
    host = normal(3, 4)
    for x, expected in (
        (host.T, host.T),
        (cp.asarray(host), host),
        (cp.asarray(host).T, host.T),
        (cp.asarray(np.arange(3)), np.arange(3)),
        ([[1, 2]], np.array([[1, 2]])),
    ):
        made = backend.asarray(x, "float64")
        assert made.dtype == np.float64
        assert made.flags["C_CONTIGUOUS"]
        np.testing.assert_array_equal(backend.asnumpy(made), expected)


def test_mixed_precision_is_refused_by_name(backend):
    for precision in PRECISIONS:
        with pytest.raises(ArgumentError, match=f"precision was '{precision}'; .* 'numba' has no tensor cores; 'cupy'"):
            Network([4, 3], precision=precision, backend=backend)
    x, control = backend.zeros((4, 4), "float32"), backend.zeros((len(Control),), "float64")
    loss, sums, identity = losses.get("mean_squared_error"), backend.zeros((2,), "float64"), activations.get("identity")
    flat = x.reshape(-1)
    refused = {
        "tf32": lambda: backend.transpose_product(x, x, backend.zeros((4, 4), "float32"), tf32=True),
        "loss_scaling": lambda: backend.prepare_update(flat, None, control, LossScaling()),
        "control": lambda: backend.output_delta(
            loss, identity, x, x, x, None, control, sums, backend.zeros((4, 4), "float32")
        ),
        "stored": lambda: backend.update(
            optimizers.SGD(), backend.zeros((16,), "float32"), 0, control, [], flat, backend.zeros((16,), "float32")
        ),
        r"a_prev\.dtype": lambda: backend.dense_forward(half, half, None, identity, None, half),
    }
    half = backend.zeros((4, 4), "float16")
    for argument, call in refused.items():
        with pytest.raises(ArgumentError, match=f"^{argument} was"):
            call()


def test_upload_copy_cast_and_zeros(backend):
    host, x, y, z = normal(3, 4), *(backend.zeros((3, 4), dtype) for dtype in ("float32", "float32", "float64"))
    backend.upload(host, x)
    backend.copy(x, y)
    backend.cast(y, z)
    np.testing.assert_array_equal(backend.asnumpy(z), host)
    assert not backend.asnumpy(backend.zeros((2, 3), "int64")).any()


@pytest.mark.parametrize(
    "plan",
    [
        Plan("naive", "float32", 4, 8),
        Plan("tiled", "float32", 32, 32, 32),
        Plan("blocked", "float32", 64, 64, 8, 8, 8),
        pytest.param(Plan("pipelined", "float32", 32, 32, 16, 4, 4, 2, split_k=2), marks=pytest.mark.slow),
    ],
    ids=lambda plan: plan.variant,
)
def test_a_plan_overrides_the_rule(backend, plan):
    a, b = normal(20, 9), normal(9, 33)
    out = backend.empty((20, 33), "float32")
    backend.transpose_product(backend.asarray(a, "float32"), backend.asarray(b, "float32"), out, plan=plan)
    np.testing.assert_allclose(backend.asnumpy(out), a @ b, rtol=1e-5, atol=1e-5)


def test_a_plan_is_adapted_to_these_kernels():
    # 6 stages of CUDA C++ would take 96 KiB; here every plan has two, of one depth
    plan = Plan("pipelined", "float32", 128, 128, 16, 8, 8, 6, vector=4, split_k=3)
    adapted = instances.numba_plan(plan, H100)
    assert (adapted.tile_k, adapted.stages, adapted.vector, adapted.split_k) == (8, 2, 1, 3)
    assert instances.numba_rung(adapted) == Pipelined(128, 128, 8, 8)
    assert Pipelined(128, 128, 8, 8).shared_bytes("float32") <= H100.shared_per_block
    with pytest.raises(ArgumentError, match="shared_bytes was 16896; it must be ≤ 16384 on sm_80"):
        instances.numba_plan(plan, Chip("sm_80", 100, 16384))
    with pytest.raises(ArgumentError, match="tile_m · tile_k was 128; it must be a multiple of 256"):
        instances.numba_plan(Plan("pipelined", "float32", 16, 128, 32, 2, 4, 2), H100)
    for plan in (Plan("naive", "float32", 8, 32), *plans.PIPELINED["float64"]):
        instances.numba_plan(plan, H100)


def test_a_plan_of_the_wrong_dtype_is_refused(backend):
    a, out = backend.zeros((4, 4), "float32"), backend.empty((4, 4), "float32")
    with pytest.raises(ArgumentError, match=r"plan\.dtype"):
        backend.transpose_product(a, backend.zeros((4, 4), "float32"), out, plan=Plan("naive", "float64", 8, 32))


@pytest.mark.parametrize(
    "plan",
    [
        Plan("naive", "float32", 4, 8),
        pytest.param(None, marks=pytest.mark.slow),
        pytest.param(SPLIT, marks=pytest.mark.slow),
    ],
    ids=["naive", "chosen", "split"],
)
def test_the_general_product(backend, plan):
    a, b, c = normal(5, 7), normal(5, 6), normal(7, 6)
    out = backend.asarray(c, "float32")
    backend.product("TN", backend.asarray(a, "float32"), backend.asarray(b, "float32"), out, 2.0, -1.0, plan=plan)
    np.testing.assert_allclose(backend.asnumpy(out), 2 * (a.T @ b) - c, rtol=1e-5, atol=1e-5)
    backend.product("TN", backend.asarray(a, "float32"), backend.asarray(b, "float32"), out, plan=plan)
    np.testing.assert_allclose(backend.asnumpy(out), a.T @ b, rtol=1e-5, atol=1e-5)


def test_wrong_arguments_are_named_before_anything_is_written(backend):
    a, w = backend.zeros((4, 3), "float32"), backend.zeros((5, 3), "float32")
    out = backend.zeros((4, 5), "float32")
    identity = activations.get("identity")
    wrong = {
        "w.shape": (a, backend.zeros((5, 4), "float32"), None, identity, None, out),
        "w.dtype": (a, backend.zeros((5, 3), "float64"), None, identity, None, out),
        "b.shape": (a, w, backend.zeros((4,), "float32"), identity, None, out),
        "a.strides": (a, w, None, identity, None, backend.zeros((4, 10), "float32")[:, :5]),
        "a_prev is a ndarray": (np.zeros((4, 3)), w, None, identity, None, out),
        "activation": (a, w, None, activations.get("softmax"), None, out),
    }
    shared = backend.zeros((40,), "float32")
    wrong["overlaps"] = (shared[:12].reshape(4, 3), w, None, identity, None, shared[8:28].reshape(4, 5))
    for message, arguments in wrong.items():
        with pytest.raises(ArgumentError, match=message):
            backend.dense_forward(*arguments)
    with pytest.raises(ArgumentError, match="gradients"):
        backend.update(None, np.zeros(3), 0, None, (), None)
    with pytest.raises(ArgumentError, match="control"):
        backend.prepare_update(shared, None, backend.zeros((len(Control) + 1,), "float64"))
    with pytest.raises(ArgumentError, match="device"):
        NumbaBackend("cpu")


def test_a_second_step_allocates_nothing(backend, monkeypatch):
    z, y = backend.asarray(normal(40, 4), "float32"), backend.asarray(np.arange(40) % 4, "int64")
    delta, sums = backend.empty((40, 4), "float32"), backend.zeros((2,), "float64")
    a_prev = backend.asarray(normal(40, 3), "float32")
    gradient, b_gradient = backend.empty((4, 3), "float32"), backend.empty((4,), "float32")
    loss, softmax = losses.get("softmax_cross_entropy"), activations.get("softmax")

    def step():
        backend.output_delta(loss, softmax, z, z, y, None, None, sums, delta)
        backend.weight_gradient(delta, a_prev, gradient, bias_gradient=b_gradient, plan=SPLIT)
        backend.bias_gradient(delta, b_gradient)

    step()
    monkeypatch.setattr(NumbaBackend, "empty", lambda *_: pytest.fail("a step made an array"))
    monkeypatch.setattr(backend._cuda, "device_array", lambda *_: pytest.fail("a step made an array"), raising=False)
    monkeypatch.setattr(backend._cuda, "to_device", lambda *_: pytest.fail("a step made an array"), raising=False)
    kernels = len(backend._made)
    assert any(key[0] is numba_backend.MAKERS["partial_product"] for key in backend._made)
    step()
    assert len(backend._made) == kernels


def test_stream_k_is_refused(backend):
    a, b = backend.zeros((40, 5), "float32"), backend.zeros((40, 6), "float32")
    with pytest.raises(ArgumentError, match="stream_k was 7; it must be 0: backend 'numba' splits"):
        backend.weight_gradient(a, b, backend.zeros((5, 6), "float32"), plan=replace(SPLIT, split_k=1, stream_k=7))


def test_kernels_that_do_not_depend_on_the_split_are_made_once(backend):
    a, b = backend.asarray(normal(40, 5), "float32"), backend.asarray(normal(40, 6), "float32")
    out = backend.empty((5, 6), "float32")
    backend.weight_gradient(a, b, out, plan=SPLIT)
    made = len(backend._made)
    backend.weight_gradient(a, b, out, plan=Plan("pipelined", "float32", 16, 16, 64, 2, 2, 3, split_k=5))
    assert len(backend._made) == made


def test_a_step_size_makes_no_other_kernel(backend):
    arrays = [backend.zeros((8,), "float32") for _ in range(2)]
    control = backend.zeros((len(Control),), "float64")

    def step(**settings):
        backend.update(optimizers.SGD(**settings), arrays[0], 4, control, [], arrays[1])
        return len(backend._made)

    made = step(learning_rate=0.1)
    assert step(learning_rate=0.2, weight_decay=0.1, clip_value=1.0) == made


def test_capture_is_refused(backend):
    with pytest.raises(BackendError, match="'numba' cannot capture a step"):
        backend.capture(lambda: None)


def check(backend, chosen):
    for case in chosen:
        outcome = runner.run_case(backend, case, runner.Watch(observe=True))
        assert outcome.passed, f"{case.name}: {outcome.complaint()}"


@pytest.mark.parametrize(
    "primitive",
    [
        # for products, Numba compiles a dozen kernels
        pytest.param(name, marks=pytest.mark.exhaustive if name in cases.PRODUCTS else pytest.mark.slow)
        for name in cases.OPTIONS
    ],
)
def test_a_part_of_the_cross_check_passes_under_observation(backend, primitive):
    chosen = cases.covering_cases(primitive, plans.THREAD_VARIANTS)
    check(backend, chosen[:: max(1, len(chosen) // 5)])


@pytest.mark.slow
@pytest.mark.parametrize("primitive", cases.PRODUCTS)
def test_every_rung_passes_a_ragged_case_under_observation(backend, primitive):
    """In either dtype, turn by turn."""
    chosen = cases.covering_cases(primitive, plans.THREAD_VARIANTS)
    shape = cases.GENERAL_SHAPES[1] if primitive == "product" else cases.PRODUCT_SHAPES[2]
    ragged = {(case.variant, case.dtype): case for case in chosen if case.shape == shape}
    first = cases.PRODUCTS.index(primitive)
    check(backend, [ragged[rung, cases.DTYPES[i % 2]] for i, rung in enumerate(plans.THREAD_VARIANTS, first)])
