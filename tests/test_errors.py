"""The exceptions: what they say, and that they survive the way between processes."""

import pickle

import pytest

from gpubp.errors import ArgumentError, BackendError, CheckpointError, DataError, GpubpError, nearest, unknown_name


@pytest.mark.parametrize("kind", [ArgumentError, BackendError, CheckpointError, DataError])
def test_every_error_is_a_gpubp_error(kind):
    assert issubclass(kind, GpubpError)


def test_an_argument_error_names_the_argument_its_value_and_what_it_must_be():
    error = ArgumentError("learning_rate", -1.0, "above 0")
    assert str(error) == "learning_rate was -1.0; it must be above 0"
    assert isinstance(error, ValueError)


def test_an_argument_error_survives_pickling():
    error = ArgumentError("sizes", [0], "positive", "a hint")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is ArgumentError
    assert str(copy) == str(error)
    assert (copy.argument, copy.value, copy.expected, copy.hint) == ("sizes", [0], "positive", "a hint")


@pytest.mark.parametrize(
    ("name", "expected"), [("relo", "relu"), ("RELU", "relu"), ("leaky-relu", "leaky_relu"), ("xyz", None), (3, None)]
)
def test_nearest_finds_the_option_that_looks_most_alike(name, expected):
    assert nearest(name, ["relu", "leaky_relu", "sigmoid"]) == expected


def test_nearest_keeps_the_options_own_case():
    assert nearest("adamw", ["SGD", "AdamW"]) == "AdamW"


def test_an_unknown_name_lists_the_options_and_the_nearest():
    message = str(unknown_name("loss", "hubber", ["huber", "squared_error"]))
    assert message == "loss was 'hubber'; it must be one of huber, squared_error; did you mean 'huber'?"


def test_an_unknown_name_that_is_like_none_gets_no_hint():
    assert str(unknown_name("loss", "zzz", ["huber"])) == "loss was 'zzz'; it must be one of huber"
