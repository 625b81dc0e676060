"""Running error analysis: what NumPy computes in a narrow float lies within the bound, and what is wrong does not."""

import numpy as np
import pytest
from scipy import special

from gpubp.crosscheck import bounds, running_error
from gpubp.errors import ArgumentError

U = bounds.UNIT_ROUNDOFF["float32"]


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def layer_norm(x):
    return (x - np.mean(x, axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)


def by_rows(x):
    out = np.zeros_like(x)
    for row in range(len(x)):
        out[row] = 0.3 * x[row] if row % 2 else x[row] / 3
    return out


def smoothed(x):
    out = np.zeros_like(x)
    out[:, 1:-1] = (x[:, :-2] + x[:, 1:-1] + x[:, 2:]) / 3
    return out


FUNCTIONS = {
    "axpy": lambda x: 0.1 * x + x * x,
    "sums": lambda x: x.sum(axis=1),
    "the sum of all": np.sum,
    "means": lambda x: np.mean(x, axis=0) * x,
    "products": lambda x: x @ x.T,
    "einsum": lambda x: np.einsum("ij,ij->i", x, x),
    "dot": lambda x: np.dot(x, x.T),
    "outer": lambda x: np.outer(x[0], x[1]),
    "cumsum": lambda x: np.cumsum(x, axis=1),
    "softmax": softmax,
    "layer norm": layer_norm,
    "norms": lambda x: np.sqrt((x**2).sum(axis=-1)),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh of a product": lambda x: np.tanh(x @ x.T / 7),
    "log1p": lambda x: np.log1p(np.abs(x) * 2.3),
    "log of a sum": lambda x: np.log(np.exp(x).sum(axis=1)),
    "powers": lambda x: np.abs(x + 0.7) ** 1.5,
    "trigonometry": lambda x: np.sin(3 * x) * np.cos(x / 3),
    "relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "clipped": lambda x: np.clip(1.7 * x, -0.5, 1.1),
    "extremes": lambda x: np.maximum(x * 1.1, x * 0.9).min(axis=1),
    "pieces": lambda x: np.concatenate([x[:3] * 1.3, np.flip(x, axis=1)[3:]]).T.reshape(-1),
    "by rows": by_rows,
    "smoothed": smoothed,
    "reciprocals": lambda x: np.reciprocal(x * x + 1.1) - np.square(x * 0.3),
    "expm1": lambda x: np.expm1(x * 0.01),
    "logaddexp": lambda x: np.logaddexp(0, 1.3 * x),
}


def bounded(x):
    return running_error.exact(x, np.float64, np.float32, U)


def sample(seed=0, shape=(9, 40)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def judged(name, x, result):
    """The largest error of a result as a share of its bound."""
    found = FUNCTIONS[name](bounded(x))
    np.testing.assert_allclose(found.value, FUNCTIONS[name](x.astype(np.float64)), rtol=1e-12)
    bound = bounds.stored(bounds.PRODUCT * found.error, found.value, "float32")
    assert result.shape == found.value.shape
    return float((np.abs(result.astype(np.float64) - found.value) / bound).max())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_lies_within_the_bound(name):
    shares = []
    for seed in range(5):
        x = sample(seed)
        result = np.asarray(FUNCTIONS[name](x))
        assert result.dtype == np.float32
        shares.append(judged(name, x, result))
    print(f"{name}: {max(shares):.3g} of the bound")
    assert max(shares) <= 1
    assert max(shares) > 1e-3  # the bound is of the size of the errors, and not of the numbers


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_slightly_wrong_result_lies_outside(name):
    x = sample()
    right = FUNCTIONS[name](x.astype(np.float64))
    assert judged(name, x, np.asarray(right * (1 + 1e-3))) > 1
    assert judged(name, x, np.asarray(FUNCTIONS[name](x.astype(np.float16).astype(np.float64)))) > 1


def test_a_sum_in_any_order_lies_within_the_bound():
    x = sample(shape=(5, 3000))
    rng = np.random.default_rng(0)
    for _ in range(5):
        order = rng.permutation(3000)
        sums = np.cumsum(x[:, order], axis=1, dtype=np.float32)[:, -1]
        assert judged("sums", x, sums) <= 1


def test_errors_grow_through_cancellation():
    x = bounded(np.array([1.0, 1e8], np.float32))
    close = (x[1] * 1.1 + x[0]) - x[1] * 1.1
    assert close.error > 1e8 * U


def test_what_is_exact_has_no_error():
    x = bounded(sample())
    assert not x.error.any()
    for exact in (-x, x.T, abs(x), np.maximum(x, 0), x[2:5, ::2], x.max(axis=1), np.where(x > 0, x, 0)):
        assert not exact.error.any()
    assert (x * 0.1).error.any()


def test_sums_and_products_of_small_integers_have_no_error():
    x = bounded(np.random.default_rng(0).integers(-9, 10, (5, 70)).astype(np.float32))
    for exact in (x + x, 3 * x - 1, x * x, x @ x.T, x.sum(axis=0), np.sum(x), np.einsum("ij,ij->", x, x)):
        assert not exact.error.any()
    for rounded in (x * 2.0**22 + 1, (x * 2.0**12) @ (x * 2.0**12).T, x * 0.3 + x, x.mean(axis=0)):
        assert rounded.error.any()


def test_constants_are_rounded_as_the_kernel_must():
    x = bounded(np.ones(1, np.float32))
    assert np.isclose((x * 0.1).error, abs(0.1 - float(np.float32(0.1))) + 0.1 * U)


@pytest.mark.parametrize(
    "function",
    [
        np.floor,  # of what is not exact
        np.linalg.norm,
        np.sort,
        np.asarray,
        float,
        lambda x: x.astype(int),
        lambda x: np.multiply.reduce(x),
        lambda x: np.zeros(9)[x],
        special.erf,
        lambda x: np.add.at(np.zeros(3), [0], x),
    ],
)
def test_what_has_no_rule_says_so(function):
    with pytest.raises((ArgumentError, IndexError), match=r"give a bound|indices"):
        function(bounded(np.ones(1, np.float32)) * 1.1)


def test_a_function_without_a_rule_is_taken_where_its_argument_is_exact():
    x = sample()
    found = special.erf(bounded(x))
    np.testing.assert_allclose(found.error, running_error.ROUNDINGS * U * np.abs(special.erf(x.astype(np.float64))))
