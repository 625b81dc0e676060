"""The comparator and the product's bound: right results pass, and each kind of wrong one is rejected."""

import numpy as np
import pytest
from mistakes import WRONG_SUMS, as_bfloat16

from gpubp.crosscheck.bounds import REFERENCE, product_error, stored
from gpubp.crosscheck.comparator import compare
from gpubp.nn.precision import round_to_tf32

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


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("k", LENGTHS)
@pytest.mark.parametrize("spoil", WRONG_SUMS)
def test_wrong_products_are_rejected(spoil, k, scale):
    a, b, reference, bound = product(k, scale=scale)
    assert compare(a @ b, reference, bound).passed
    assert not compare(spoil(a @ b, a, b), reference, bound).passed


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("k", LENGTHS)
@pytest.mark.parametrize("rounded", [round_to_tf32, as_bfloat16])
def test_silent_rounding_is_rejected(rounded, k, scale):
    a, b, reference, bound = product(k, scale=scale)
    assert not compare(rounded(a) @ rounded(b), reference, bound).passed


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


def test_nan_passes_where_it_must_be_and_nowhere_else():
    reference, nan = np.array([1.0, np.nan, 3.0]), np.array([False, True, False])
    right = np.array([1, np.nan, 3], np.float32)
    assert compare(right, reference, 0.0, nan).passed
    for wrong in ([1, 2, 3], [1, np.inf, 3], [np.nan, np.nan, 3], [1, np.nan, 4]):
        assert not compare(np.array(wrong, np.float32), reference, 0.0, nan).passed
    assert "2 where nan ± 0 was expected" in str(compare(np.array([1, 2, 3], np.float32), reference, 0.0, nan))
