"""The comparator and the product's bound: right results pass, and each kind of wrong one is rejected."""

import ml_dtypes
import numpy as np
import pytest

from gpubp.crosscheck.bounds import REFERENCE, product_error, stored
from gpubp.crosscheck.comparator import compare

LENGTHS = [1, 3, 64, 513, 2048]
SCALES = [1.0, 1e-8]
SIDE = 48


def product(k, dtype="float32", scale=1.0):
    rng = np.random.default_rng(k)
    a = (scale * rng.normal(size=(SIDE, k))).astype(dtype)
    b = rng.normal(size=(k, SIDE)).astype(dtype)
    wide_a, wide_b = a.astype(REFERENCE[dtype]), b.astype(REFERENCE[dtype])
    reference = wide_a @ wide_b
    bound = stored(product_error(np.abs(wide_a) @ np.abs(wide_b), k, dtype), reference, dtype)
    return a, b, reference, bound


def tf32(x):
    """x with the 10 bits of fraction that TF32 keeps, rounded to nearest, ties away from zero."""
    return ((x.view(np.uint32) + np.uint32(1 << 12)) & np.uint32(0xFFFFE000)).view(np.float32)


def bf16(x):
    return x.astype(ml_dtypes.bfloat16).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("k", LENGTHS)
def test_right_products_pass(k, dtype):
    a, b, reference, bound = product(k, dtype)
    outcome = compare(a @ b, reference, bound)
    assert outcome.passed
    assert outcome.share < 0.6


@pytest.mark.parametrize("k", LENGTHS)
def test_sums_one_after_another_pass(k):
    a, b, reference, bound = product(k)
    c = np.zeros((SIDE, SIDE), np.float32)
    for i in range(k):
        c += np.outer(a[:, i], b[i])
    assert compare(c, reference, bound).passed


def drop_last_term(a, b):
    return a[:, :-1] @ b[:-1]


def one_element_off(a, b):
    c = a @ b
    largest = np.unravel_index(np.abs(c).argmax(), c.shape)
    c[largest] *= 1.01
    return c


def one_nan(a, b):
    c = a @ b
    c[-1, -1] = np.nan
    return c


def one_infinity(a, b):
    c = a @ b
    c[0, -1] = np.inf
    return c


def all_zeros(a, b):
    return np.zeros_like(a @ b)


def silent_tf32(a, b):
    return tf32(a) @ tf32(b)


def silent_bf16(a, b):
    return bf16(a) @ bf16(b)


def unwritten_row(a, b):
    c = a @ b
    c[SIDE // 2] = np.nan
    return c


def row_of_zeros(a, b):
    c = a @ b
    c[SIDE // 2] = 0
    return c


def swapped_rows(a, b):
    return (a @ b)[::-1].copy()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("k", LENGTHS)
@pytest.mark.parametrize(
    "wrong",
    [
        drop_last_term,
        one_element_off,
        one_nan,
        one_infinity,
        all_zeros,
        silent_tf32,
        silent_bf16,
        unwritten_row,
        row_of_zeros,
        swapped_rows,
    ],
)
def test_wrong_products_are_rejected(wrong, k, scale):
    a, b, reference, bound = product(k, scale=scale)
    assert compare(a @ b, reference, bound).passed
    assert not compare(wrong(a, b), reference, bound).passed


def test_the_worst_element_is_named():
    reference = np.zeros((2, 3))
    result = np.array([[0, 0, 0], [0, 0, 0.5]])
    outcome = compare(result, reference, 0.25)
    assert not outcome.passed
    assert outcome.where == (1, 2)
    assert (outcome.share, outcome.value, outcome.reference, outcome.bound) == (2.0, 0.5, 0.0, 0.25)


def test_a_nan_is_the_worst_element():
    outcome = compare(np.array([9.0, np.nan]), np.zeros(2), 1.0)
    assert outcome.where == (1,)
    assert outcome.share == np.inf


def test_no_tolerance_means_equal():
    assert compare(np.ones(2), np.ones(2), 0.0).passed
    assert not compare(np.array([1.0, np.nextafter(1.0, 2.0)]), np.ones(2), 0.0).passed


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_a_bound_that_is_none_is_refused(bad):
    with pytest.raises(ValueError, match="bound"):
        compare(np.zeros(2), np.zeros(2), np.array([1.0, bad]))


def test_another_shape_is_refused():
    with pytest.raises(ValueError, match="shape"):
        compare(np.zeros((2, 1)), np.zeros((2, 2)), 1.0)
