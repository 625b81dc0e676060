"""The exceptions: what they say, and that they survive the way between processes."""

import pickle
import re

import pytest

from gpubp.errors import (
    LONGEST_LINE,
    ArgumentError,
    BackendError,
    CheckpointError,
    ConflictError,
    DataError,
    GpubpError,
    StateError,
    listed,
    nearest,
    shown,
    unknown_name,
)


@pytest.mark.parametrize("kind", [ArgumentError, BackendError, CheckpointError, DataError])
def test_every_error_is_a_gpubp_error(kind):
    assert issubclass(kind, GpubpError)


def test_an_argument_error_names_the_argument_its_value_and_what_it_must_be():
    error = ArgumentError("learning_rate", -1.0, "above 0")
    assert str(error) == "learning_rate was -1.0; it must be above 0"
    assert isinstance(error, ValueError)


def test_a_state_is_told_as_a_sentence():
    error = StateError("y", "has 6 rows", "have as many as x, 7")
    assert str(error) == "y has 6 rows; it must have as many as x, 7"
    assert isinstance(error, ArgumentError)


def test_arguments_that_exclude_each_other_are_told_so():
    assert str(ConflictError("--full", "--quick")) == "--full and --quick exclude each other"
    error = ConflictError("--json", "--compare", "a comparison is a table")
    assert str(error) == "--json and --compare exclude each other; a comparison is a table"
    assert isinstance(error, ArgumentError)


ERRORS = [
    ArgumentError("sizes", [0], "positive"),
    ArgumentError("loss", "hubber", "one of huber", "did you mean 'huber'?"),
    StateError("y", "is empty", "have at least one label"),
    ConflictError("full", "quick"),
    ConflictError("json", "compare", "a comparison is a table"),
]


@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_an_argument_error_survives_pickling(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.argument == error.argument
    assert str(copy.renamed(str.upper)) == str(error.renamed(str.upper))


@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_an_argument_may_be_renamed_and_nothing_else_changes(error):
    renamed = error.renamed(lambda name: f"--{name}")
    assert type(renamed) is type(error)
    assert renamed.argument == f"--{error.argument}"
    expected = f"--{error}"
    if isinstance(error, ConflictError):
        expected = expected.replace(" and ", " and --")
    assert str(renamed) == expected


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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ankle boot", "Ankle boot"),
        ("naïve 数", "naïve 数"),
        ("red\x1b[31m", "red\\x1b[31m"),
        ("two\nlines\x7f", "two\\nlines\\x7f"),
        ("\x9b31m\u202e", "\\x9b31m\\u202e"),
        ("\ud800", "\\ud800"),
        ("x" * 81, "x" * 77 + "..."),
    ],
)
def test_text_of_others_is_shown_without_what_a_terminal_obeys(text: str, expected: str) -> None:
    assert shown(text) == expected


@pytest.mark.parametrize("kind", [ArgumentError, BackendError, CheckpointError, DataError, StateError])
def test_no_message_has_what_a_terminal_obeys(kind):
    text = "\x1b[31mred\x07\ud800"
    arguments = {ArgumentError: (text, text, text, text), StateError: (text, text, text)}.get(kind, (text,))
    error = kind(*arguments)
    assert str(error).isprintable()
    assert "\\x1b[31mred\\x07\\ud800" in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_the_lines_of_a_message_stay_and_long_ones_keep_both_ends():
    assert str(BackendError("it failed\nline 2\tof the log")) == "it failed\nline 2\\tof the log"
    message = str(DataError("cannot read " + "a/" * 3000 + ": File name too long"))
    assert len(message) == LONGEST_LINE
    assert message.startswith("cannot read a/a/")
    assert message.endswith("a/: File name too long")


def nested(depth):
    found = []
    for _ in range(depth):
        found = [found]
    return found


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("x" * 5000, "was 'x{76}...; it"),
        (10**5000, "was a int too large to show; it"),
        (nested(100_000), "was a list too large to show; it"),
        ({"a": "\x1b"}, r"was {'a': '\\x1b'}; it"),
        (list(range(10000)), r"was \[0, 1, .{70}\.\.\.; it"),
    ],
    ids=["text", "integer", "lists", "escape", "list"],
)
def test_a_value_is_told_in_few_characters(value, told):
    assert re.search(told, str(ArgumentError("lr", value, "a number")))
    assert len(str(unknown_name("lr", value, ["a"]))) < 200


def test_names_are_listed_as_far_as_there_is_room():
    assert listed(["relu", "tanh"]) == "relu, tanh"
    assert listed([]) == ""
    many = listed(f"name{number}" for number in range(1000))
    assert many.startswith("name0, name1, ")
    assert many.endswith(", ...")
    assert len(many) <= 160
    assert listed(["\x1b" * 500, "b"]).startswith("\\x1b")
    message = str(unknown_name("setting", "nam999", [f"name{number}" for number in range(1000)]))
    assert message.endswith("...; did you mean 'name999'?")
