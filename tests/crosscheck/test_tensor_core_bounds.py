"""The bounds for tensor cores: what their arithmetic makes passes, and a product of less than was asked is rejected."""

import functools

import numpy as np
import pytest
from mistakes import (
    WRONG_SUMS,
    as_bfloat16,
    as_float8,
    as_float16,
    cut_to_tf32,
    not_rounded,
    one_element_off,
    ties_to_even,
)

from gpubp.crosscheck import bounds, references
from gpubp.crosscheck.comparator import compare
from gpubp.dtypes import ARITHMETIC
from gpubp.nn.precision import round_to_tf32

DTYPES = ("tf32", "bfloat16", "float16")
LENGTHS = (1, 3, 17, 64, 513, 2048)
SIDE = 48


def problem(dtype, k, stored_in="float32", scale=1.0):
    """a (SIDE, K), b (K, SIDE), the reference of their product and its bound."""
    rng = np.random.default_rng(k)
    a, b = (rng.normal(size=shape).astype(ARITHMETIC[dtype].storage) for shape in ((SIDE, k), (k, SIDE)))
    a = (a.astype(float) * scale).astype(a.dtype)
    if dtype == "tf32":
        a, b = references.with_tf32_ties(a), references.with_tf32_ties(b)
        wide_a, wide_b = references.tf32(a), references.tf32(b)
    else:
        wide_a, wide_b = a.astype(float), b.astype(float)
    reference = wide_a @ wide_b
    error = bounds.product_error(np.abs(wide_a) @ np.abs(wide_b), k, dtype)
    return a, b, reference, bounds.stored(error, reference, stored_in)


def operands(dtype, a, b):
    return [round_to_tf32(x) if dtype == "tf32" else x.astype(np.float32) for x in (a, b)]


def truncated(x, bits=0):
    """float64 as float32, cut off toward zero, the last `bits` of float32's significand too."""
    nearest = x.astype(np.float32)
    down = np.where(np.abs(nearest.astype(float)) > np.abs(x), np.nextafter(nearest, np.float32(0)), nearest)
    return (down.view(np.uint32) & np.uint32(2**32 - 2**bits)).view(np.float32)


def summed(a, b, dtype, add, start):
    """The sum as a tensor core makes it: k_mma depths at a time, `add`ed to a sum that is like `start`."""
    depth = ARITHMETIC[dtype].k_mma
    total = start
    for first in range(0, a.shape[1], depth):
        part = a[:, first : first + depth].astype(float) @ b[first : first + depth].astype(float)
        total = add(total.astype(float) + part)
    return total


ZEROS = np.zeros((SIDE, SIDE), np.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", LENGTHS)
def test_sums_that_are_cut_off_pass(dtype, k):
    a, b, reference, bound = problem(dtype, k)
    c = summed(*operands(dtype, a, b), dtype, truncated, ZEROS)
    assert compare(c, reference, bound).share < 0.9


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", LENGTHS)
def test_sums_as_tensor_cores_were_seen_to_make_them_pass(dtype, k):
    """Every addend of an instruction is cut off where the 24th bit of the largest one lies (Fasi et al., 2021)."""
    a, b, reference, bound = problem(dtype, k)
    a, b = (x.astype(float) for x in operands(dtype, a, b))
    depth = ARITHMETIC[dtype].k_mma
    total = ZEROS.astype(float)
    for first in range(0, k, depth):
        products = a[:, first : first + depth].T[:, :, None] * b[first : first + depth][:, None, :]
        addends = np.concatenate([total[None], products])
        last_bit = np.ldexp(1.0, np.frexp(np.abs(addends).max(axis=0))[1] - 24)
        total = truncated((np.trunc(addends / last_bit) * last_bit).sum(axis=0)).astype(float)
    outcome = compare(total.astype(np.float32), reference, bound)
    assert outcome.share < 0.9
    print(f"{dtype} {k}: {outcome.share:.2g} of the bound")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", LENGTHS)
def test_sums_in_float32_pass(dtype, k):
    a, b, reference, bound = problem(dtype, k)
    a, b = operands(dtype, a, b)
    assert compare(a @ b, reference, bound).passed


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("k", LENGTHS)
def test_sums_that_are_stored_in_16_bits_pass(dtype, k):
    a, b, reference, bound = problem(dtype, k, stored_in=dtype)
    a, b = operands(dtype, a, b)
    assert compare((a @ b).astype(dtype), reference, bound).passed


# --- operands of fewer bits, or of more -------------------------------------------------------------------------------
WRONG_OPERANDS = [
    ("tf32", as_bfloat16),
    ("tf32", cut_to_tf32),
    ("tf32", ties_to_even),
    ("tf32", not_rounded),
    ("float16", as_bfloat16),
    ("float16", as_float8),
    ("bfloat16", as_float8),
]


@pytest.mark.parametrize(("dtype", "wrongly"), WRONG_OPERANDS)
@pytest.mark.parametrize("k", LENGTHS)
def test_other_operands_are_rejected(dtype, wrongly, k):
    if wrongly in (ties_to_even, not_rounded):
        k = min(k, 1031)  # of a longer sum, the tensor core's own error may be as large
    a, b, reference, bound = problem(dtype, k)
    assert not compare(wrongly(a) @ wrongly(b), reference, bound).passed


@pytest.mark.parametrize("k", [64, 2048])
def test_one_operand_cut_off_is_rejected(k):
    a, b, reference, bound = problem("tf32", k)
    assert not compare(cut_to_tf32(a) @ round_to_tf32(b), reference, bound).passed


@pytest.mark.parametrize(("dtype", "wrongly"), [("float16", as_bfloat16), ("bfloat16", as_float8)])
@pytest.mark.parametrize("k", LENGTHS)
def test_other_operands_are_rejected_in_16_bits_too(dtype, wrongly, k):
    a, b, reference, bound = problem(dtype, k, stored_in=dtype)
    assert not compare((wrongly(a) @ wrongly(b)).astype(dtype), reference, bound).passed


def test_float16_operands_that_are_taken_for_tf32_differ_where_float16_has_no_exponents():
    """Both have 11 significant bits; float16 underflows below 6e-8, where TF32 does not."""
    a, b, reference, bound = problem("tf32", 64, scale=1e-8)
    assert not compare(as_float16(a) @ as_float16(b), reference, bound).passed
    a, b = operands("tf32", a, b)
    assert compare(a @ b, reference, bound).passed


# --- sums -------------------------------------------------------------------------------------------------------------
def in_halves(x):
    return x.astype(np.float16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", LENGTHS)
def test_sums_in_half_precision_are_rejected(dtype, k):
    a, b, reference, bound = problem(dtype, k)
    c = summed(*operands(dtype, a, b), dtype, in_halves, ZEROS.astype(np.float16))
    assert not compare(c.astype(np.float32), reference, bound).passed


@pytest.mark.parametrize("k", LENGTHS)
def test_sums_in_half_precision_are_rejected_where_they_are_stored_in_it_unless_it_is_one_rounding(k):
    a, b, reference, bound = problem("float16", k, stored_in="float16")
    c = summed(*operands("float16", a, b), "float16", in_halves, ZEROS.astype(np.float16))
    assert compare(c, reference, bound).passed == (k <= ARITHMETIC["float16"].k_mma)


def without_a_slice(depth, c, a, b):
    return c - a[:, -depth:] @ b[-depth:]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", LENGTHS)
@pytest.mark.parametrize("spoil", [*WRONG_SUMS, None], ids=lambda spoil: getattr(spoil, "__name__", "without_a_slice"))
def test_wrong_sums_are_rejected(spoil, dtype, k):
    spoil = spoil or functools.partial(without_a_slice, ARITHMETIC[dtype].k_mma)
    for stored_in in {"float32", str(ARITHMETIC[dtype].storage)} - (
        {"bfloat16"} if spoil is one_element_off else set()
    ):
        a, b, reference, bound = problem(dtype, k, stored_in)
        a, b = operands(dtype, a, b)
        assert compare((a @ b).astype(stored_in), reference, bound).passed
        assert not compare(spoil(a @ b, a, b).astype(stored_in), reference, bound).passed


def test_bfloat16_results_tell_2_percent_but_not_a_quarter_of_one():
    """Their last bit is worth up to 0.8 %: a result that is off by less may be rounded rightly."""
    a, b, reference, bound = problem("bfloat16", 64, "bfloat16")
    assert not compare((a.astype(np.float32) @ b.astype(np.float32) * 1.02).astype(a.dtype), reference, bound).passed
    c = a.astype(np.float32) @ b.astype(np.float32)
    place = np.unravel_index(np.abs(c).argmax(), c.shape)
    c[place] = reference[place] * (1 + 2.0**-9)
    assert compare(c, reference, bound).passed


# --- overflow ---------------------------------------------------------------------------------------------------------
LIMIT = 65520.0
"""From here on, float16 rounds to infinity; its largest number is 65504."""


@pytest.mark.parametrize(
    ("value", "reference", "error", "passes"),
    [
        (np.inf, LIMIT, 0.0, True),
        (65504.0, LIMIT - 0.1, 0.0, True),
        (np.inf, LIMIT - 0.1, 0.0, False),  # too early
        (65504.0, LIMIT + 0.1, 0.0, False),  # saturated
        (np.inf, LIMIT - 0.1, 1.0, True),  # the sum's own error decides
        (65504.0, LIMIT + 0.1, 1.0, True),
        (65504.0, 1e6, 1.0, False),
        (np.inf, 1e6, 1.0, True),
        (-np.inf, 1e6, 1.0, False),
        (-np.inf, -1e6, 1.0, True),
        (np.nan, 1e6, 1.0, False),
        (np.inf, 1000.0, 1.0, False),
        (np.inf, np.inf, 0.0, True),
        (65504.0, np.inf, 0.0, False),
    ],
)
def test_an_overflow_is_infinite_and_nothing_else_is(value, reference, error, passes):
    reference = np.array([reference])
    bound = bounds.stored(error, np.where(np.isfinite(reference), reference, 0), "float16")
    assert compare(np.array([value], np.float16), reference, bound).passed == passes


def test_products_that_overflow_in_part_pass_as_they_are_and_fail_saturated():
    a, b, reference, bound = problem("float16", 64, "float16", scale=1e4)
    with np.errstate(over="ignore"):
        c = (a.astype(np.float32) @ b.astype(np.float32)).astype(np.float16)
    assert 0.1 < np.isinf(c).mean() < 0.9
    assert compare(c, reference, bound).passed
    assert not compare(np.clip(c, -65504, 65504), reference, bound).passed


# --- the reference's own rounding -------------------------------------------------------------------------------------
def test_both_roundings_to_tf32_agree():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2**32, 20_000, np.uint32).view(np.float32)
    x = np.concatenate([x[np.isfinite(x)], np.array([0, -0.0, 1e-45, -1e-45, 1e-40, 3e38], np.float32)])
    for values in (x, references.with_tf32_ties(x)):
        rounded = round_to_tf32(values)
        finite = np.isfinite(rounded)
        assert finite.mean() > 0.99
        np.testing.assert_array_equal(references.tf32(values)[finite], rounded[finite])


def test_beside_ties_every_rule_for_them_gives_the_same():
    x = np.random.default_rng(0).integers(0, 2**32, 20_000, np.uint32).view(np.float32)
    x = references.beside_tf32_ties(x[np.isfinite(x)])
    np.testing.assert_array_equal(ties_to_even(x), round_to_tf32(x))
    np.testing.assert_array_equal(references.beside_tf32_ties(references.with_tf32_ties(x)), x)
    low = x.view(np.uint32) & 0x1FFF
    assert (low[::5] == 0x0FFF).all()
    assert (low[1::5] == 0x1001).all()


def test_ties_round_away_from_zero():
    tie = np.array([1 + 2.0**-11, -(1 + 2.0**-11), 1 + 3 * 2.0**-11], np.float32)
    np.testing.assert_array_equal(references.tf32(tie), [1 + 2.0**-10, -(1 + 2.0**-10), 1 + 2 * 2.0**-10])
