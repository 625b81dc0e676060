"""Choosing by name, and the checks of numbers and counts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest

from gpubp.errors import ArgumentError
from gpubp.nn import activations, initializers, losses, optimizers
from gpubp.registry import choose, require_count, require_number


@dataclass(frozen=True)
class Square:
    side: float
    tags: tuple[str, ...] = field(default_factory=tuple)


@dataclass(frozen=True)
class Circle:
    radius: float = 1.0


SHAPES = {"square": Square, "circle": Circle}


@pytest.mark.parametrize(
    ("chosen", "made"),
    [
        ("circle", Circle()),
        ({"name": "circle"}, Circle()),
        ({"name": "circle", "radius": 2.0}, Circle(2.0)),
        ({"name": "square", "side": 3.0}, Square(3.0)),
        (Square(4.0), Square(4.0)),
    ],
)
def test_a_name_a_config_and_an_object_all_choose(chosen, made):
    assert choose("shape", SHAPES, chosen) == made


def test_choosing_leaves_the_config_alone():
    config = {"name": "circle", "radius": 2.0}
    choose("shape", SHAPES, config)
    assert config == {"name": "circle", "radius": 2.0}


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ("circel", r"shape was 'circel'; it must be one of square, circle; did you mean 'circle'\?"),
        (None, "shape was None; it must be one of square, circle"),
        (3, "shape was 3"),
        ({}, "shape was None"),
        ({"name": ["circle"]}, "shape was"),
        (
            {"name": "circle", "radios": 1},
            r"a field of shape 'circle' was 'radios'; .* radius; did you mean 'radius'\?",
        ),
        ("square", "shape was 'square'; it must be given with a value for 'side', which has no default"),
    ],
)
def test_a_wrong_choice_is_an_argument_error_that_names_it(chosen, message):
    with pytest.raises(ArgumentError, match=message):
        choose("shape", SHAPES, chosen)


@pytest.mark.parametrize(
    ("get", "wrong", "right"),
    [
        (activations.get, "rleu", "relu"),
        (losses.get, "softmax_crossentropy", "softmax_cross_entropy"),
        (initializers.get, "he_norml", "he_normal"),
        (optimizers.get, "adan", "adam"),
        (optimizers.schedule, "cosin", "cosine"),
    ],
)
def test_every_register_offers_the_nearest_right_name(get, wrong, right):
    with pytest.raises(ArgumentError, match=f"did you mean '{right}'"):
        get(wrong)


@pytest.mark.parametrize("value", [0.5, 1, np.float32(0.5), np.int64(1)])
def test_real_numbers_within_the_bounds_pass(value):
    require_number("rate", value, above=0, most=1)


@pytest.mark.parametrize("value", [0, -1, 1.5, math.nan, math.inf, True, "0.5", None, 1j, [0.5]])
def test_anything_else_is_an_error_that_says_the_bounds(value):
    with pytest.raises(ArgumentError, match=r"rate was .* must be a finite number > 0 and ≤ 1"):
        require_number("rate", value, above=0, most=1)


def test_each_bound_is_inclusive_or_exclusive_as_named():
    require_number("p", 0, least=0)
    require_number("p", 1, most=1)
    for bounds in ({"above": 0}, {"below": 0}):
        with pytest.raises(ArgumentError):
            require_number("p", 0, **bounds)
    with pytest.raises(ArgumentError, match="≥ 0 and < 1"):
        require_number("p", 1, least=0, below=1)


@pytest.mark.parametrize("value", [1, np.int32(7)])
def test_whole_numbers_from_the_least_up_are_counts(value):
    require_count("steps", value)


@pytest.mark.parametrize("value", [0, -3, 1.0, True, "3", None, math.nan])
def test_anything_else_is_no_count(value):
    with pytest.raises(ArgumentError, match=r"steps was .* must be a whole number ≥ 1"):
        require_count("steps", value)


@pytest.mark.parametrize("value", [10**400, 10**5000], ids=["400 digits", "5000 digits"])
def test_a_number_that_no_float_holds_is_none(value):
    with pytest.raises(ArgumentError, match=r"rate was .* must be a finite number > 0"):
        require_number("rate", value, above=0)


def test_a_count_has_an_end():
    require_count("steps", 2**63 - 1)
    with pytest.raises(ArgumentError, match=r"steps was 10{30}; it must be a whole number ≤ 9223372036854775807"):
        require_count("steps", 10**30)
    require_count("jobs", 8, most=8)
    with pytest.raises(ArgumentError, match="jobs was 9; it must be a whole number ≤ 8"):
        require_count("jobs", 9, most=8)
