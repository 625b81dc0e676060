"""The rung `wgmma` in a backend: tensor maps, and training in mixed precision, captured, with dropout and weights."""

import numpy as np
import pytest
from devices import DEVICE

from gpubp import Network, Trainer
from gpubp.backends.cupy_backend import CupyBackend
from gpubp.backends.plans import Box
from gpubp.backends.tensor_maps import encoder, matrix_map

BATCH = 64


def test_a_product_on_this_device():
    backend = CupyBackend(DEVICE)
    backend.variant = "wgmma"
    rng = np.random.default_rng(3)
    a, b = (rng.integers(-3, 4, shape).astype(np.float16) for shape in ((40, 72), (136, 72)))
    c = backend.empty((40, 136), "float32")
    backend.product("NT", backend.asarray(a, "float16"), backend.asarray(b, "float16"), c)
    np.testing.assert_array_equal(backend.asnumpy(c), a.astype(np.float32) @ b.astype(np.float32).T)


def test_a_tensor_map_is_one_element_by_value():
    x = CupyBackend(DEVICE).zeros((40, 72), "float16")
    made = matrix_map(encoder(DEVICE), x.data.ptr, x.shape, x.dtype, Box(64, 64))
    assert (made.shape, made.nbytes) == ((1,), 128)
    with pytest.raises(ValueError, match="box of 32 columns of float16 is not 128 bytes"):
        matrix_map(encoder(DEVICE), x.data.ptr, x.shape, x.dtype, Box(64, 32))


def train(digits, epochs, variant=None, **settings):
    """A network after so many epochs on the digits, the same batches in every precision, and the rungs that it took."""
    x, y, _, _ = digits
    net = Network([64, 128, 64, 10], **settings)
    taken = set()
    if variant is not None:
        net.backend.variant = variant
        launch = net.backend._launch

        def noted(one):
            taken.update((one.kernel, each.variant) for each in one.template if hasattr(each, "variant"))
            launch(one)

        net.backend._launch = noted
    trainer = Trainer(net, {"name": "nesterov", "learning_rate": 0.05})
    feed = trainer.feed(x, y, np.ones(len(x)))
    feed.visit(np.random.default_rng(1).permutation(len(x)))
    step = trainer.capture(feed, BATCH) if net.backend.captures else lambda first: trainer.step_rows(feed, first, BATCH)
    for _ in range(epochs):
        for first in range(0, len(x) - BATCH, BATCH):
            step(first)
    return net, taken


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp16", marks=pytest.mark.exhaustive)])
def test_the_digits_are_learnt_as_well_as_in_float32(digits, precision):
    right = train(digits, 3, backend="numpy")[0].evaluate(digits[2], digits[3]).accuracy
    net, taken = train(digits, 3, "wgmma", backend="cupy", device=DEVICE, precision=precision)
    found = net.evaluate(digits[2], digits[3]).accuracy
    print(f"{precision}: {found:.4f}, float32: {right:.4f}")
    assert right > 0.92
    assert found >= right - 0.01
    by_wgmma = {kernel for kernel, variant in taken if variant == "wgmma"}
    assert {"dense_forward", "hidden_delta"} <= by_wgmma
    assert by_wgmma & {"weight_gradient", "layer_gradient", "partial_product"}


@pytest.mark.slow
def test_dropout_draws_the_mask_that_tensorcore_draws(digits):
    settings = {"backend": "cupy", "device": DEVICE, "precision": "bf16", "dropout": 0.25}
    (first, taken), (second, _) = (
        train((digits[0][:129], digits[1][:129], *digits[2:]), 1, name, **settings) for name in ("wgmma", "tensorcore")
    )
    assert ("dense_forward_dropout", "wgmma") in taken
    for name, weights in first.weights().items():
        difference = np.linalg.norm(second.weights()[name] - weights) / np.linalg.norm(weights)
        print(f"{name}: {difference:.2g}")
        assert difference <= 1e-3
