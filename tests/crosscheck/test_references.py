"""The references that stand for themselves: the random numbers of dropout, and the bounds of focal losses."""

import numpy as np
import pytest

from gpubp.crosscheck import bounds, cases, problems, references
from gpubp.kernels.control import Control
from gpubp.nn.dropout import Dropout

PLACES = [
    ((7, 9), (1, 2), 1, 0, 0),
    ((5, 3), (2**32 - 1, 2**31), 8, 1000, 999),
    ((3, 130), (0xDEADBEEF, 7), 3, 2**32 - 2, 2**32 + 9),
]
"""Shape, key, layer, first row and step; the last ones have more than 32 bits."""


def test_random_numbers_are_those_that_are_published():
    """Of Philox4x32-10 at zero, from the known answers of Random123, the authors' own library."""
    found = references.random_words((1, 4), (0, 0), 0, 0, 0)
    assert [hex(word) for word in found[0]] == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]


@pytest.mark.parametrize(("shape", "key", "layer", "first_row", "step"), PLACES)
def test_both_ways_to_draw_units_agree(shape, key, layer, first_row, step):
    words = references.random_words(shape, key, layer, first_row, step)
    for rate in (0.1, 0.5, 0.9):
        mask = Dropout(rate, key, layer, first_row).mask(*shape, step)
        np.testing.assert_array_equal(words >= round(rate * 2**32), mask)


@pytest.mark.parametrize("place", range(5))
def test_random_numbers_depend_on_everything(place):
    shape, *rest = PLACES[1]
    first = references.random_words(shape, *rest)
    key, *others = rest
    changed = [((key[0] + 1, key[1]), *others), ((key[0], key[1] + 1), *others)]
    changed += [(key, *(number + (i == j) for j, number in enumerate(others))) for i in range(3)]
    assert (references.random_words(shape, *changed[place]) != first).mean() > 0.9


def problems_of(primitive, mode):
    return [problems.make(case) for case in cases.covering_cases(primitive, ()) if case.mode == mode]


@pytest.mark.parametrize("primitive", ["dense_forward", "hidden_delta"])
def test_steps_of_more_than_32_bits_are_among_the_cases(primitive):
    steps = {each.inputs["control"][Control.STEP] for each in problems_of(primitive, "dropout")}
    assert max(steps) > 2**32
    assert min(steps) == 0


def test_rows_of_weight_zero_hold_what_a_kernel_must_not_read():
    """In some of the cases NaN, in some a target that is none; and other rows have neither."""
    nan = strays = 0
    for each in problems_of("output_delta", "weighted"):
        out = each.inputs["weights"] == 0
        rows = np.isnan(each.inputs["output"].astype(float)).any(axis=1)
        assert not rows[~out].any()
        nan += rows[out].any()
        y = each.inputs["y"].reshape(len(out), -1)
        wrong = y < 0 if y.dtype.kind == "i" else np.isnan(y)
        assert not wrong[~out].any()
        strays += wrong[out].any()
    assert nan > 20
    assert strays > 20


# --- focal losses -----------------------------------------------------------------------------------------------------
def f_and_slope(log_p, rest, gamma):
    return -(rest**gamma) * log_p, rest**gamma * (1 - gamma * np.exp(log_p) * log_p / rest)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.5])
@pytest.mark.parametrize("error", [1e-7, 1e-3])
def test_the_bounds_of_a_focal_loss_hold_for_every_error_of_the_logarithm(gamma, error):
    """From p near 0 to p near 1, where the error of ln p is larger than 1 − p."""
    log_p = -np.logspace(-12, 2, 400)
    rest = -np.expm1(log_p)
    found = bounds.focal(log_p, error * np.ones_like(log_p), rest, error * np.exp(log_p), gamma, "float32")
    loss, slope = f_and_slope(log_p, rest, gamma)
    np.testing.assert_allclose(found.slope, slope, rtol=1e-9)
    for share in (-1, -0.5, 0.5, 1):
        other = np.minimum(log_p + share * error * np.exp(-error), -1e-300)
        moved_loss, moved_slope = f_and_slope(other, -np.expm1(other), gamma)
        assert (np.abs(moved_loss - loss) <= found.loss_error * (1 + 1e-9)).all()
        assert (np.abs(moved_slope - slope) <= found.slope_error * (1 + 1e-9)).all()


def test_the_bounds_of_a_focal_loss_are_no_wider_than_a_few_roundings():
    log_p = np.log(np.array([1e-3, 0.1, 0.5, 0.9]))
    u = bounds.UNIT_ROUNDOFF["float32"]
    found = bounds.focal(log_p, u * np.abs(log_p), -np.expm1(log_p), u * -np.expm1(log_p), 2.0, "float32")
    loss, slope = f_and_slope(log_p, -np.expm1(log_p), 2.0)
    assert (found.loss_error < 20 * u * loss).all()
    assert (found.slope_error < 60 * u * slope).all()
