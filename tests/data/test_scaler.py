"""The scaler: images, tables, constant and extreme columns, and the way back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gpubp.data.loading import load
from gpubp.data.rows import Rows
from gpubp.data.scaler import Scaler
from gpubp.errors import ArgumentError, DataError


def test_the_pixels_of_images_are_centred_and_share_one_scale():
    digits = load("digits")
    scaled = Scaler.fit(digits.x_train, digits.value_range).apply(digits.x_train)
    assert scaled.dtype == np.float32
    centred = digits.x_train - digits.x_train.mean(axis=0)
    np.testing.assert_allclose(scaled, centred / centred.std(), atol=1e-5)


def test_images_that_are_all_alike_become_zeros():
    x = np.full((3, 4), 7, np.uint8)
    np.testing.assert_array_equal(Scaler.fit(x, 255).apply(x), np.zeros((3, 4)))


def test_tables_get_mean_0_and_deviation_1_from_the_training_data_alone():
    rng = np.random.default_rng(0)
    train, test = rng.normal(50, 7, (400, 3)), rng.normal(0, 1, (10, 3))
    scaler = Scaler.fit(train)
    scaled = scaler.apply(train, "float64")
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(scaled.std(axis=0), 1, rtol=1e-12)
    np.testing.assert_allclose(scaler.apply(test, "float64"), (test - train.mean(axis=0)) / train.std(axis=0))


@pytest.mark.parametrize("value_range", [None, 255])
def test_how_an_array_lies_in_memory_changes_no_bit(value_range):
    """A Fortran-order array is one of rows where it is read from a file, and of columns where it is in memory."""
    x = np.random.default_rng(0).normal(50, 7, (5000, 3))
    wide = np.column_stack([x, x])
    kinds = [np.asfortranarray(x), wide[:, :3], Rows(np.asfortranarray(x), np.arange(len(x)))]
    found = [Scaler.fit(each, value_range).arrays() for each in (x, *kinds)]
    for name, values in found[0].items():
        assert all(each[name].tobytes() == values.tobytes() for each in found[1:])


@pytest.mark.parametrize("value", [0.0, 0.1, -3e7, 1e300, 1e-300])
def test_a_constant_column_becomes_0(value):
    x = np.column_stack([np.full(1000, value), np.arange(1000)])
    scaled = Scaler.fit(x).apply(x)
    assert (scaled[:, 0] == 0).all()
    assert scaled[:, 1].std() == pytest.approx(1)


@pytest.mark.parametrize("magnitude", [1e-200, 1e200])
def test_columns_of_extreme_size_are_scaled_without_overflow(magnitude):
    x = np.array([[1.0], [2.0], [4.0]]) * magnitude
    np.testing.assert_allclose(Scaler.fit(x).apply(x, "float64").std(), 1, rtol=1e-12)


def test_a_spread_too_small_to_divide_by_counts_as_constant():
    scaler = Scaler.fit(np.array([[0.0], [5e-310]]))
    assert scaler.scale.tolist() == [1.0]


def test_a_small_change_on_a_large_value_survives_float32():
    x = np.array([[1e9], [1e9 + 1], [1e9 + 2]])
    np.testing.assert_allclose(Scaler.fit(x).apply(x)[:, 0], [-np.sqrt(1.5), 0, np.sqrt(1.5)], rtol=1e-6)


@given(hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2), elements=st.floats(-1e6, 1e6)))
def test_invert_undoes_apply(x):
    scaler = Scaler.fit(x)
    np.testing.assert_allclose(scaler.invert(scaler.apply(x, "float64")), x, rtol=1e-9, atol=1e-6)


def test_a_scaler_is_made_again_from_its_arrays():
    x = np.random.default_rng(0).normal(size=(9, 4))
    scaler = Scaler.fit(x)
    np.testing.assert_array_equal(Scaler(**scaler.arrays()).apply(x), scaler.apply(x))


def test_many_rows_are_scaled_like_few(monkeypatch):
    x = np.random.default_rng(0).normal(size=(10, 2))
    scaler = Scaler.fit(x)
    whole = scaler.apply(x)
    monkeypatch.setattr("gpubp.data.scaler.MAPPED_AT_ONCE", 6)
    np.testing.assert_array_equal(scaler.apply(x), whole)


# --- what training did not know ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "value_range"),
    [*((value, None) for value in (0.0, 0.1, -3e7, 1e300, 1e-300)), (0.0, 255), (7.0, 255)],
)
def test_a_column_that_was_constant_stays_0_whatever_comes(value, value_range):
    x = np.column_stack([np.full(1000, value), np.arange(1000) % 7])
    scaler = Scaler.fit(x, value_range)
    later = np.array([[value, 3.0], [255.0, 3.0], [-1e308, 3.0]])
    assert (scaler.apply(later)[:, 0] == 0).all()
    assert scaler.rows_beyond(x).tolist() == [0, 0]
    assert scaler.rows_beyond(later).tolist() == [2, 0]
    if value == 0 or 1e-30 < abs(value) < 1e30:  # in another precision it has not moved
        assert scaler.rows_beyond(later[:1].astype(np.float32)).tolist() == [0, 0]


def test_what_differs_by_rounding_alone_was_constant():
    x = np.column_stack([[0.3, 0.1 + 0.2] * 500, np.arange(1000)])
    scaler = Scaler.fit(x)
    assert scaler.limit[0] == 0
    assert scaler.apply(np.array([[255.0, 3.0], [0.1 + 0.2, 3.0]]), "float64")[:, 0].tolist() == [0, 0]
    assert scaler.rows_beyond(x).tolist() == [0, 0]


def test_a_pixel_that_was_black_in_training_stays_silent():
    x = np.random.default_rng(0).integers(0, 256, (100, 9), dtype=np.uint8)
    x[:, 0] = 0
    scaler = Scaler.fit(x, 255)
    later = x.copy()
    later[:, 0] = 255
    np.testing.assert_array_equal(scaler.apply(later), scaler.apply(x))
    assert scaler.rows_beyond(later).tolist() == [100] + [0] * 8


NEARLY = {
    "one row differs": np.eye(500, 1)[:, 0],
    "one row is far out": 1e6 * np.eye(500, 1)[:, 0],
    "one of ten differs": np.eye(10, 1)[:, 0],
    "1 % differs": (np.arange(500) % 101 == 0) * 3.0,
    "noise on a constant": 5 + 1e-9 * np.random.default_rng(0).normal(size=500),
    "noise on zero": 1e-6 * np.random.default_rng(0).normal(size=500),
}


@pytest.mark.parametrize("name", NEARLY)
def test_a_column_that_was_nearly_constant_is_bounded_near_its_values(name):
    x = np.column_stack([NEARLY[name], np.arange(len(NEARLY[name]))])
    scaler = Scaler.fit(x)
    assert np.abs(scaler.apply(x)[:, 0]).max() <= 4
    assert scaler.rows_beyond(x).tolist() == [0, 0]
    later = np.array([[1e9, 3.0], [-1e9, 3.0]])
    assert np.abs(scaler.apply(later)[:, 0]).max() <= 4
    assert scaler.rows_beyond(later).tolist() == [2, 0]


def test_a_nearly_constant_pixel_is_bounded_by_the_values_it_had():
    x = np.random.default_rng(0).integers(0, 256, (1000, 9), dtype=np.uint8)
    x[:, 0] = 0
    x[7, 0] = 1
    later = x[:3].copy()
    later[:, 0] = 255
    scaled = Scaler.fit(x, 255).apply(later)
    assert np.abs(scaled[:, 0]).max() < 0.05
    assert np.abs(scaled[:, 1:]).max() > 1


def test_an_ordinary_column_is_bounded_only_far_outside():
    x = np.random.default_rng(0).normal(50, 7, (400, 1))
    scaler, plain = Scaler.fit(x), Scaler.fit(x, bounded=False)
    outside = x.max() + np.linspace(0, 3 * np.ptp(x) / 2, 9)[:, None]
    np.testing.assert_array_equal(scaler.apply(outside), plain.apply(outside))
    assert scaler.rows_beyond(outside).tolist() == [0]
    far = np.array([[1e9]])
    assert scaler.apply(far)[0, 0] == pytest.approx(5 * np.abs(scaler.apply(x)).max())
    assert scaler.rows_beyond(far).tolist() == [1]


def test_targets_at_both_ends_of_float64_overflow_nowhere():
    y = np.array([[-1.7e308], [1.7e308]])
    np.testing.assert_allclose(Scaler.fit(y, bounded=False).apply(y), [[-1], [1]])


def test_targets_have_no_bound():
    scaler = Scaler.fit(np.array([[1.0], [2.0]]), bounded=False)
    assert scaler.limit is None
    assert list(scaler.arrays()) == ["offset", "scale"]
    assert scaler.apply(np.array([[1e6]]))[0, 0] > 1e6
    assert scaler.rows_beyond(np.array([[1e6]])).tolist() == [0]


def test_the_bound_is_saved():
    x = np.column_stack([np.ones(20), np.arange(20)])
    again = Scaler(**Scaler.fit(x).arrays())
    assert again.apply(np.array([[9.0, 3.0]]))[0, 0] == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Scaler.fit(np.ones((0, 2))), "no rows"),
        (lambda: Scaler.fit(np.array([[np.nan]])), "NaN or infinity"),
        (lambda: Scaler.fit(np.ones(3)), "must be .examples, features."),
        (lambda: Scaler(np.zeros(2), np.zeros(2)), "scale not zero"),
        (lambda: Scaler(np.zeros(2), np.ones(3)), "as many features"),
        (lambda: Scaler(np.array([np.inf]), np.ones(1)), "finite"),
        (lambda: Scaler(np.zeros(2), np.ones(2), np.ones(3)), "limit must be"),
        (lambda: Scaler(np.zeros(1), np.ones(1), np.array([-1.0])), "limit must be"),
        (lambda: Scaler(np.zeros(1), np.ones(1), np.array([np.nan])), "limit must be"),
        (lambda: Scaler(np.zeros(2), np.ones(2)).apply(np.ones((4, 3))), r"fitted for \(examples, 2\)"),
    ],
)
def test_a_scaler_that_cannot_be(call, message):
    with pytest.raises(DataError, match=message):
        call()


@pytest.mark.parametrize("value_range", [0, -1, float("nan"), float("inf")])
def test_a_value_range_must_be_positive(value_range):
    with pytest.raises(ArgumentError, match="value_range"):
        Scaler.fit(np.ones((2, 2)), value_range)
