"""The rung `wgmma` in a backend: tensor maps, and training in mixed precision, captured, with dropout and weights."""

import numpy as np
import pytest
from devices import DEVICE

from gpubp import Network, Trainer
from gpubp.backends.cupy_backend import CupyBackend
from gpubp.backends.plans import WGMMA, Box
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
    made = matrix_map(encoder(DEVICE), x.data.ptr, x.shape, Box(64, 64, "float16"))
    assert (made.shape, made.nbytes) == ((1,), 128)
    with pytest.raises(ValueError, match="box of 32 columns of float16 is not 128 bytes"):
        matrix_map(encoder(DEVICE), x.data.ptr, x.shape, Box(64, 32, "float16"))


@pytest.mark.parametrize("side", ["a", "b"])
def test_the_copies_round_to_tf32(side):
    """To nearest, ties to even. The results are floats, which nothing rounds."""
    unit = np.float32(2.0**-10)
    values = np.float32([1 + unit * part for part in (0.499, 0.5, 0.501, 1.499, 1.5, 1.501)])
    values = np.concatenate([values, -values, np.float32([np.inf, np.nan, 0, 2.0**-130])])
    whole = 1 + unit * np.float32([0, 0, 1, 1, 2, 2])
    expected = np.concatenate([whole, -whole, values[-4:]])
    ones, one_each = np.ones((16, 16), np.float32), np.diag(values)
    backend = CupyBackend(DEVICE)
    a, b = (backend.asarray(x, "float32") for x in ((one_each, ones) if side == "a" else (ones, one_each)))
    c = backend.empty((16, 16), "float32")
    backend.product("NT", a, b, c, tf32=True, plan=WGMMA["tf32"][-1])
    found = backend.asnumpy(c)
    np.testing.assert_array_equal(found, np.tile(expected, (16, 1)).T if side == "a" else np.tile(expected, (16, 1)))


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
@pytest.mark.parametrize("precision", ["bf16", "tf32", pytest.param("fp16", marks=pytest.mark.exhaustive)])
def test_the_digits_are_learnt_as_well_as_in_float32(digits, precision):
    right = train(digits, 3, backend="numpy")[0].evaluate(digits[2], digits[3]).accuracy
    net, taken = train(digits, 3, "wgmma", backend="cupy", device=DEVICE, precision=precision)
    found = net.evaluate(digits[2], digits[3]).accuracy
    print(f"{precision}: {found:.4f}, float32: {right:.4f}")
    assert right > 0.92
    assert found >= right - 0.01
    by_wgmma = {kernel for kernel, variant in taken if variant == "wgmma"}
    if precision == "tf32":
        assert by_wgmma
        assert by_wgmma <= {"dense_forward", "partial_product"}, "the form NT alone"
        return
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
