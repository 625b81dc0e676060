"""The gradients: by hand, against automatic differentiation, and the laws that they obey."""

from __future__ import annotations

import math
import warnings

import autograd.numpy as anp
import numpy as np
import pytest
from autograd import value_and_grad
from autograd.scipy.special import erf, logsumexp
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubp import Network, Trainer
from gpubp.nn.activations import ACTIVATIONS
from gpubp.nn.losses import LOSSES

# --- by hand ----------------------------------------------------------------------------------------------------------
# Two inputs, two hidden units, one output, two examples. All numbers below are worked out on paper.
W1, B1 = np.array([[1.0, -1.0], [0.5, 2.0]]), np.array([0.5, -1.0])
W2, B2 = np.array([[2.0, -3.0]]), np.array([1.0])
HAND_X = np.array([[1.0, 2.0], [3.0, 1.0]])
HAND_Y = np.array([[1.0], [-2.0]])
# z1 = x w1ᵀ + b1 : (1 − 2 + 0.5, 0.5 + 4 − 1) and (3 − 1 + 0.5, 1.5 + 2 − 1)
Z1 = np.array([[-0.5, 3.5], [2.5, 2.5]])
# a1 = ReLU(z1)
A1 = np.array([[0.0, 3.5], [2.5, 2.5]])
# z2 = a1 w2ᵀ + b2 : −10.5 + 1 and 5 − 7.5 + 1
Z2 = np.array([[-9.5], [-1.5]])


def hand_network(**chosen):
    net = Network([2, 2, 1], dtype="float64", backend="numpy", **chosen)
    net.set_weights({"layer1.weight": W1, "layer1.bias": B1, "layer2.weight": W2, "layer2.bias": B2})
    return net


def test_the_forward_pass_by_hand():
    net = hand_network(loss="half_squared_error")
    np.testing.assert_array_equal(net.hidden_activations(HAND_X)[0], A1)
    np.testing.assert_array_equal(net.predict_proba(HAND_X), Z2)


def test_half_squared_error_by_hand():
    net = hand_network(loss={"name": "half_squared_error", "reduction": "sum"})
    loss, gradients = net.gradients(HAND_X, HAND_Y)
    # a − y = −10.5 and 0.5; L = ½ (110.25 + 0.25)
    assert loss == 55.25
    # δ2 = (a − y) σ'(z2), σ' = 1
    delta2 = np.array([[-10.5], [0.5]])
    # δ1 = (δ2 w2) ⊙ σ'(z1): (−21, 31.5) ⊙ (0, 1) and (1, −1.5) ⊙ (1, 1)
    delta1 = np.array([[0.0, 31.5], [1.0, -1.5]])
    # ∂L/∂w2 = δ2ᵀ a1 = (0.5 · 2.5, −10.5 · 3.5 + 0.5 · 2.5)
    np.testing.assert_array_equal(gradients.w[2], [[1.25, -35.5]])
    np.testing.assert_array_equal(gradients.w[2], delta2.T @ A1)
    np.testing.assert_array_equal(gradients.b[2], [-10.0])
    # ∂L/∂w1 = δ1ᵀ x = (1 · 3, 1 · 1) and (31.5 · 1 − 1.5 · 3, 31.5 · 2 − 1.5 · 1)
    np.testing.assert_array_equal(gradients.w[1], [[3.0, 1.0], [27.0, 61.5]])
    np.testing.assert_array_equal(gradients.w[1], delta1.T @ HAND_X)
    np.testing.assert_array_equal(gradients.b[1], [1.0, 30.0])
    # norms: √(3² + 1² + 27² + 61.5² + 1² + 30²) and √(1.25² + 35.5² + 10²)
    assert gradients.norms() == pytest.approx([math.sqrt(5422.25), math.sqrt(1361.8125)])


def test_squared_error_is_the_sum_with_the_factor_2():
    # δ^L = −2 (y − ŷ) σ'(u): all derivatives are twice those of half squared error
    loss, gradients = hand_network(loss={"name": "squared_error", "reduction": "sum"}).gradients(HAND_X, HAND_Y)
    assert loss == 110.5
    np.testing.assert_array_equal(gradients.w[2], [[2.5, -71.0]])
    np.testing.assert_array_equal(gradients.b[2], [-20.0])
    np.testing.assert_array_equal(gradients.w[1], [[6.0, 2.0], [54.0, 123.0]])
    np.testing.assert_array_equal(gradients.b[1], [2.0, 60.0])


def test_the_mean_divides_by_the_batch_and_once_only():
    loss, gradients = hand_network(loss="half_squared_error").gradients(HAND_X, HAND_Y)
    assert loss == 27.625
    np.testing.assert_array_equal(gradients.w[2], [[0.625, -17.75]])
    np.testing.assert_array_equal(gradients.b[2], [-5.0])
    np.testing.assert_array_equal(gradients.w[1], [[1.5, 0.5], [13.5, 30.75]])
    np.testing.assert_array_equal(gradients.b[1], [0.5, 15.0])


def test_a_step_of_sgd_by_hand():
    net = hand_network(loss={"name": "half_squared_error", "reduction": "sum"})
    trainer = Trainer(net, {"name": "sgd", "learning_rate": 0.5})
    trainer.step(HAND_X, HAND_Y)
    assert trainer.last_loss() == 55.25
    # w − ½ ∂L/∂w; w1's gradient was taken with the old w2
    np.testing.assert_array_equal(net.w[2], [[2 - 0.625, -3 + 17.75]])
    np.testing.assert_array_equal(net.b[2], [6.0])
    np.testing.assert_array_equal(net.w[1], [[-0.5, -1.5], [-13.0, -28.75]])
    np.testing.assert_array_equal(net.b[1], [0.0, -16.0])


def test_sigmoid_at_both_layers_by_hand():
    # one unit a layer, w = 2 and b = −1 in both, x = 1, y = 1: z1 = 1, z2 = 2 s(1) − 1
    net = Network(
        [1, 1, 1],
        hidden_activation="sigmoid",
        output_activation="sigmoid",
        loss="half_squared_error",
        dtype="float64",
        backend="numpy",
    )
    net.set_weights({"layer1.weight": [[2.0]], "layer1.bias": [-1.0], "layer2.weight": [[2.0]], "layer2.bias": [-1.0]})
    a1 = 1 / (1 + math.exp(-1))  # 0.7310585786
    a2 = 1 / (1 + math.exp(-(2 * a1 - 1)))  # 0.6135163...
    delta2 = (a2 - 1) * a2 * (1 - a2)
    delta1 = delta2 * 2 * a1 * (1 - a1)
    loss, gradients = net.gradients([[1.0]], [[1.0]])
    assert loss == pytest.approx(0.5 * (a2 - 1) ** 2, rel=1e-15)
    found = [gradients.w[1][0, 0], gradients.b[1][0], gradients.w[2][0, 0], gradients.b[2][0]]
    assert found == pytest.approx([delta1, delta1, delta2 * a1, delta2], rel=1e-14)


def test_softmax_cross_entropy_by_hand():
    # weights 0: p = ½, ½; δ = p − y = (½, −½) and (−½, ½), over B = 2
    net = Network([2, 2], dtype="float64", initializer="zeros", backend="numpy")
    loss, gradients = net.gradients([[1.0, 2.0], [3.0, 5.0]], [1, 0])
    assert loss == pytest.approx(math.log(2), rel=1e-15)
    np.testing.assert_allclose(gradients.w[1], [[-0.5, -0.75], [0.5, 0.75]], rtol=1e-15)
    np.testing.assert_array_equal(gradients.b[1], [0, 0])


def test_binary_cross_entropy_by_hand():
    # weights 0: p = ½; δ = p − y = −½ and ½, over B = 2
    net = Network([2, 1], loss="binary_cross_entropy", dtype="float64", initializer="zeros", backend="numpy")
    loss, gradients = net.gradients([[1.0, 2.0], [3.0, 5.0]], [1, 0])
    assert loss == pytest.approx(math.log(2), rel=1e-15)
    np.testing.assert_array_equal(gradients.w[1], [[0.5, 0.75]])
    np.testing.assert_array_equal(gradients.b[1], [0])


def test_softmax_with_another_loss_uses_its_whole_jacobian():
    # p = (¾, ¼) from logits (ln 3, 0); g = p − y = (−¼, ¼); δ = p ⊙ (g − Σ g p) with Σ g p = −1/8
    net = Network(
        [1, 2], output_activation="softmax", loss="half_squared_error", dtype="float64", bias=False, backend="numpy"
    )
    net.set_weights({"layer1.weight": [[math.log(3)], [0.0]]})
    _, gradients = net.gradients([[1.0]], [[1.0, 0.0]])
    np.testing.assert_allclose(gradients.w[1], [[-3 / 32], [3 / 32]], rtol=1e-14)


def test_derivatives_at_kinks_are_0():
    # z1 = 0 and a2 = y: ReLU'(0) = 0, MAE'(0) = 0
    net = Network([1, 1, 1], loss="absolute_error", dtype="float64", backend="numpy")
    net.set_weights({"layer1.weight": [[1.0]], "layer1.bias": [0.0], "layer2.weight": [[1.0]], "layer2.bias": [0.0]})
    _, gradients = net.gradients([[0.0]], [[5.0]])
    assert (gradients.b[1][0], gradients.b[2][0]) == (0, -1)
    _, gradients = net.gradients([[2.0]], [[2.0]])
    assert [g[0] for g in gradients.b[1:]] == [0, 0]


# --- against automatic differentiation --------------------------------------------------------------------------------
SIGMA = {
    "identity": lambda z: z,
    "relu": lambda z: anp.maximum(z, 0.0),
    "leaky_relu": lambda z: anp.maximum(z, 0.01 * z),
    "elu": lambda z: anp.where(z > 0, z, anp.exp(anp.minimum(z, 0.0)) - 1),
    "softplus": lambda z: anp.logaddexp(0.0, z),
    "sigmoid": lambda z: 0.5 * (1 + anp.tanh(0.5 * z)),
    "tanh": anp.tanh,
    "gelu": lambda z: 0.5 * z * (1 + erf(z / math.sqrt(2))),
    "gelu_tanh": lambda z: 0.5 * z * (1 + anp.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))),
    "silu": lambda z: 0.5 * z * (1 + anp.tanh(0.5 * z)),
    "softmax": lambda z: anp.exp(z - logsumexp(z, axis=1, keepdims=True)),
}
ELL = {
    "half_squared_error": lambda a, y: anp.sum((a - y) ** 2, axis=1) / 2,
    "squared_error": lambda a, y: anp.sum((y - a) ** 2, axis=1),
    "mean_squared_error": lambda a, y: anp.mean((y - a) ** 2, axis=1),
    "absolute_error": lambda a, y: anp.sum(anp.abs(a - y), axis=1),
    "huber": lambda a, y: anp.sum(
        anp.where(anp.abs(a - y) <= 1, (a - y) ** 2 / 2, anp.abs(a - y) - 0.5),
        axis=1,
    ),
    "quantile": lambda a, y: anp.sum(anp.maximum(0.5 * (y - a), 0.5 * (a - y)), axis=1),
    "binary_cross_entropy": lambda a, y: -anp.sum(y * anp.log(a) + (1 - y) * anp.log(1 - a), axis=1),
    "binary_focal_cross_entropy": lambda a, y: (
        -anp.sum(y * (1 - a) ** 2 * anp.log(a) + (1 - y) * a**2 * anp.log(1 - a), axis=1)
    ),
    "softmax_cross_entropy": lambda a, y: -anp.sum(y * anp.log(a), axis=1),
    "softmax_focal_cross_entropy": lambda a, y: -anp.sum(y * (1 - a) ** 2 * anp.log(a), axis=1),
}
"""Of each example, from the output a = σ(z), by the definitions."""

FIXED = {
    "binary_cross_entropy": "sigmoid",
    "binary_focal_cross_entropy": "sigmoid",
    "softmax_cross_entropy": "softmax",
    "softmax_focal_cross_entropy": "softmax",
}
SIZES, ROWS = [3, 5, 4, 2], 6


def differentiate(net, x, y, weights=None, masks=None):
    """(loss, ∂L/∂w, ∂L/∂b) by autograd, from the definitions and the network's weights.

    masks: what each layer's output is multiplied by, the input's and the last one's included.
    """
    names = [sigma.name for sigma in net.activations[1:]]
    weights = np.ones(len(x)) if weights is None else weights
    divisor = weights.sum() if net.loss.reduction == "mean" else 1
    masks = [1] * len(net.sizes) if masks is None else masks

    def loss(parameters):
        a = x
        for name, mask, (w, b) in zip(names, masks[1:], parameters, strict=True):
            a = SIGMA[name](anp.dot(a, w.T) + b) * mask
        return anp.sum(weights * ELL[net.loss.name](a, y)) / divisor

    zeros = [np.zeros(n) for n in net.sizes[1:]]
    biases = net.b[1:] if net.bias else zeros
    value, gradient = value_and_grad(loss)(list(zip(net.w[1:], biases, strict=True)))
    return value, [w for w, _ in gradient], [b for _, b in gradient]


def target_for(loss, rng, rows, width):
    if loss.startswith("softmax"):
        y = rng.random((rows, width))
        return y / y.sum(axis=1, keepdims=True)
    return rng.random((rows, width)) if loss.startswith("binary") else rng.normal(size=(rows, width))


def assert_agrees_with_autograd(net, x, y, weights=None, dropout_step=None):
    loss, gradients = net.gradients(x, y, sample_weight=weights, dropout_step=dropout_step)
    expected_loss, dw, db = differentiate(net, x, y, weights, masks_of(net, len(x), dropout_step))
    what = str(net.config())
    assert loss == pytest.approx(expected_loss, rel=1e-10), what
    for l in range(1, net.depth + 1):
        for found, expected in ((gradients.w[l], dw[l - 1]), (gradients.b[l], db[l - 1])):
            if found is None:
                assert not net.bias
                continue
            error = np.abs(found - expected).max()
            assert error <= 1e-10 * max(1.0, np.abs(expected).max()), f"layer {l} of {what}: {error}"


def masks_of(net, rows, step):
    """What dropout multiplies each layer's outputs by in a step: 0 or 1 / (1 − p)."""
    if step is None:
        return None
    drops = zip(net.sizes, net.dropped(), strict=True)
    return [1 if drop is None else drop.mask(rows, width, step) / (1 - drop.rate) for width, drop in drops]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("hidden", [name for name in ACTIVATIONS if name != "softmax"])
def test_every_activation_and_loss_with_and_without_bias(hidden, loss):
    rng = np.random.default_rng(7)
    for output in [FIXED[loss]] if loss in FIXED else ACTIVATIONS:
        for bias in (True, False):
            net = Network(
                SIZES,
                hidden_activation=hidden,
                output_activation=output,
                loss=loss,
                bias=bias,
                dtype="float64",
                backend="numpy",
                initializer="lecun_normal",
                seed=5,
            )
            if bias:
                net.set_weights({name: value + 0.05 for name, value in net.weights().items()})
            x, y = rng.normal(size=(ROWS, SIZES[0])), target_for(loss, rng, ROWS, SIZES[-1])
            assert_agrees_with_autograd(net, x, y)


def test_one_activation_a_layer_and_the_sum_over_the_batch():
    rng = np.random.default_rng(0)
    net = Network(
        [4, 6, 5, 4, 3],
        hidden_activation=["tanh", "gelu", "softplus"],
        loss={"name": "softmax_cross_entropy", "reduction": "sum"},
        dtype="float64",
        backend="numpy",
    )
    assert_agrees_with_autograd(net, rng.normal(size=(7, 4)), np.eye(3)[rng.integers(0, 3, 7)])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_with_weights(loss, reduction):
    rng = np.random.default_rng(11)
    net = Network(
        SIZES, hidden_activation="tanh", loss={"name": loss, "reduction": reduction}, dtype="float64", backend="numpy"
    )
    weights = np.array([0.5, 0, 2, 1e-3, 7, 1])
    x, y = rng.normal(size=(ROWS, SIZES[0])), target_for(loss, rng, ROWS, SIZES[-1])
    assert_agrees_with_autograd(net, x, y, weights)


@pytest.mark.parametrize("output", ["identity", "tanh", "gelu", "softmax"])
@pytest.mark.parametrize("hidden", [name for name in ACTIVATIONS if name != "softmax"])
def test_every_activation_with_dropout_at_a_fixed_step(hidden, output):
    rng = np.random.default_rng(12)
    for rates in ((0.5, 0.25), (0, 0.4), 0.9):
        net = Network(
            SIZES,
            hidden_activation=hidden,
            output_activation=output,
            loss="huber",
            dropout=rates,
            dtype="float64",
            backend="numpy",
            initializer="lecun_normal",
        )
        # off the kink at 0, where z lies if all units below are dropped
        net.set_weights({name: value + 0.05 for name, value in net.weights().items()})
        x, y = rng.normal(size=(ROWS, SIZES[0])), rng.normal(size=(ROWS, SIZES[-1]))
        assert_agrees_with_autograd(net, x, y, rng.random(ROWS), dropout_step=3)


def test_dropout_in_finite_differences():
    # without the masks that the network says it draws: the loss of a step, and how it moves
    rng = np.random.default_rng(13)
    net = Network([4, 9, 7, 3], hidden_activation="softplus", dropout=[0.3, 0.6], dtype="float64", backend="numpy")
    x, y = rng.normal(size=(11, 4)), rng.integers(0, 3, 11)
    loss, gradients = net.gradients(x, y, dropout_step=5)
    assert loss != net.gradients(x, y, dropout_step=6)[0]
    start = net.weights()
    for name, values in start.items():
        layer, kind = int(name[5]), gradients.w if name.endswith("weight") else gradients.b
        place = tuple(rng.integers(0, n) for n in values.shape)
        moved = []
        for change in (1e-6, -1e-6):
            shifted = {**start, name: values.copy()}
            shifted[name][place] += change
            net.set_weights(shifted)
            moved.append(net.gradients(x, y, dropout_step=5)[0])
        assert (moved[0] - moved[1]) / 2e-6 == pytest.approx(kind[layer][place], rel=1e-6, abs=1e-9)


def test_the_gradients_of_kept_units_are_those_without_dropout_if_no_step_is_named():
    rng = np.random.default_rng(14)
    x, y = rng.normal(size=(5, 4)), rng.integers(0, 3, 5)
    net = Network([4, 9, 3], dropout=0.5, dtype="float64", backend="numpy")
    plain = Network([4, 9, 3], dtype="float64", backend="numpy")
    assert net.gradients(x, y)[0] == plain.gradients(x, y)[0]
    assert_close(net.gradients(x, y)[1], plain.gradients(x, y)[1], 0)


# --- laws -------------------------------------------------------------------------------------------------------------
few = settings(max_examples=40, deadline=None, derandomize=True, database=None)
elementwise = st.sampled_from([name for name in ACTIVATIONS if name != "softmax"])
smooth = st.sampled_from([name for name in ACTIVATIONS if name not in ("softmax", "relu", "leaky_relu", "elu")])
losses_ = st.sampled_from(sorted(LOSSES))


@st.composite
def problems(draw, activation=elementwise):
    """(a function that makes the network, x, y): any depth, any widths and batch from 1 up."""
    sizes = draw(st.lists(st.integers(1, 9), min_size=2, max_size=5))
    loss = draw(losses_)
    chosen = {
        "sizes": sizes,
        "hidden_activation": [draw(activation) for _ in sizes[2:]],
        "bias": draw(st.booleans()),
        "seed": draw(st.integers(0, 1000)),
        "backend": "numpy",
    }
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    rows = draw(st.integers(1, 9))
    x, y = rng.normal(size=(rows, sizes[0])), target_for(loss, rng, rows, sizes[-1])

    def make(reduction="mean", dtype="float64"):
        return Network(loss={"name": loss, "reduction": reduction}, dtype=dtype, **chosen)

    return make, x, y


def arrays(gradients):
    return [part for part in (*gradients.w[1:], *gradients.b[1:]) if part is not None]


def assert_close(found, expected, tolerance=1e-12):
    for f, e in zip(arrays(found), arrays(expected), strict=True):
        assert np.abs(f - e).max() <= tolerance * max(1.0, np.abs(e).max())


@few
@given(problems(smooth))
def test_any_shape_agrees_with_automatic_differentiation(problem):
    make, x, y = problem
    assert_agrees_with_autograd(make(), x, y)


@few
@given(problems(), st.randoms(use_true_random=False))
def test_the_order_of_the_batch_does_not_matter(problem, random):
    make, x, y = problem
    order = list(range(len(x)))
    random.shuffle(order)
    net = make()
    (loss, gradients), (shuffled_loss, shuffled) = net.gradients(x, y), net.gradients(x[order], y[order])
    assert shuffled_loss == pytest.approx(loss, rel=1e-12)
    assert_close(shuffled, gradients)


@few
@given(problems())
def test_the_gradient_of_a_batch_is_the_mean_of_its_examples(problem):
    make, x, y = problem
    net = make()
    loss, gradients = net.gradients(x, y)
    singly = [net.gradients(x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
    assert loss == pytest.approx(np.mean([each for each, _ in singly]), rel=1e-12)
    for i, whole in enumerate(arrays(gradients)):
        mean = np.mean([arrays(each)[i] for _, each in singly], axis=0)
        assert np.abs(whole - mean).max() <= 1e-12 * max(1.0, np.abs(mean).max())


@few
@given(problems())
def test_the_sum_is_the_batch_size_times_the_mean(problem):
    make, x, y = problem
    mean_loss, mean = make().gradients(x, y)
    sum_loss, total = make("sum").gradients(x, y)
    assert sum_loss == pytest.approx(len(x) * mean_loss, rel=1e-12)
    for s, m in zip(arrays(total), arrays(mean), strict=True):
        np.testing.assert_allclose(s, len(x) * m, rtol=1e-12, atol=1e-13)


@few
@given(problems())
def test_float32_is_close_to_float64(problem):
    make, x, y = problem
    x, y = x.astype("float32"), y.astype("float32")
    low, high = make(dtype="float32"), make()
    high.set_weights(low.weights())
    (low_loss, low_gradients), (loss, gradients) = low.gradients(x, y), high.gradients(x, y)
    assert low_gradients.w[1].dtype == np.float32
    assert low_loss == pytest.approx(loss, rel=1e-4, abs=1e-5)
    assert_close(low_gradients, gradients, 1e-4)


@few
@given(problems())
def test_the_folded_update_equals_the_unfolded(problem):
    make, x, y = problem
    folded = Trainer(make())
    # a clipping norm that is never reached turns the folding off
    unfolded = Trainer(make(), {**folded.optimizer.config(), "clip_norm": 1e30})
    assert folded.optimizer.is_plain_sgd
    assert not unfolded.optimizer.is_plain_sgd
    for _ in range(2):
        for trainer in (folded, unfolded):
            trainer.step(x, y)
    expected = unfolded.network.weights()
    for name, value in folded.network.weights().items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-12, atol=1e-13, err_msg=name)


@few
@given(problems())
def test_a_small_step_along_the_gradient_lowers_the_loss_by_its_squared_norm(problem):
    make, x, y = problem
    net = make("sum")
    loss, gradients = net.gradients(x, y)
    squared_norm = sum(norm**2 for norm in gradients.norms())
    rate = 1e-7 / max(1.0, squared_norm)
    Trainer(net, {"name": "sgd", "learning_rate": rate}).step(x, y)
    fall = loss - net.evaluate(x, y).loss
    # kinks and rounding leave a little
    assert fall == pytest.approx(rate * squared_norm, rel=0.02, abs=1e-13 * max(1.0, loss) * 30)


@few
@given(problems(), st.lists(st.integers(0, 3), min_size=9, max_size=9))
def test_a_weight_of_k_is_the_row_k_times_and_one_of_0_is_none(problem, counts):
    make, x, y = problem
    counts = np.array(counts[: len(x)])
    counts[0] = max(counts[0], 1)
    for reduction in ("mean", "sum"):
        net = make(reduction)
        loss, gradients = net.gradients(x, y, sample_weight=counts)
        repeated_loss, repeated = net.gradients(np.repeat(x, counts, axis=0), np.repeat(y, counts, axis=0))
        assert loss == pytest.approx(repeated_loss, rel=1e-12)
        assert_close(gradients, repeated)


@few
@given(problems())
def test_a_batch_of_zero_weight_has_no_loss_and_no_gradient(problem):
    make, x, y = problem
    for reduction in ("mean", "sum"):
        loss, gradients = make(reduction).gradients(x, y, sample_weight=np.zeros(len(x)))
        assert loss == 0
        assert not any(part.any() for part in arrays(gradients))


def test_identical_examples_weigh_as_one():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(1, 3)), rng.normal(size=(1, 2))
    net = Network([3, 4, 2], loss="huber", dtype="float64", backend="numpy")
    loss, gradients = net.gradients(x, y)
    repeated_loss, repeated = net.gradients(np.repeat(x, 5, axis=0), np.repeat(y, 5, axis=0))
    assert repeated_loss == pytest.approx(loss, rel=1e-14)
    assert_close(repeated, gradients, 1e-14)


# --- limits -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES)
def test_pre_activations_of_1e4_give_finite_gradients_without_a_warning(loss, dtype):
    for hidden in [name for name in ACTIVATIONS if name != "softmax"]:
        for output in [FIXED[loss]] if loss in FIXED else ACTIVATIONS:
            net = Network(
                [2, 2, 2], hidden_activation=hidden, output_activation=output, loss=loss, dtype=dtype, backend="numpy"
            )
            net.set_weights(
                {
                    "layer1.weight": [[1e4, 0], [0, 1e4]],
                    "layer1.bias": [0, 0],
                    "layer2.weight": [[1, 1], [-1, 1e4]],
                    "layer2.bias": [1e4, -1e4],
                }
            )
            x, y = np.array([[1.0, -1.0], [-1, 1], [1, 1]]), np.array([[0.0, 1.0], [1, 0], [0, 1]])
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                value, gradients = net.gradients(x, y)
            assert math.isfinite(value)
            assert all(np.isfinite(part).all() for part in arrays(gradients)), (hidden, output)


@pytest.mark.parametrize("hidden", [name for name in ACTIVATIONS if name != "softmax"])
def test_nan_in_a_weight_reaches_the_loss_and_every_gradient_below(hidden):
    net = Network([3, 4, 2], hidden_activation=hidden, dtype="float64", backend="numpy")
    net.w[2][0, 1] = np.nan
    loss, gradients = net.gradients(np.ones((2, 3)), [0, 1])
    assert math.isnan(loss)
    assert np.isnan(gradients.w[2]).any()
    assert np.isnan(gradients.w[1]).any()
