"""The cases: names, and a covering subset that covers."""

import itertools

import pytest

from gpubp.crosscheck import cases
from gpubp.errors import ArgumentError

VARIANTS = ("naive", "tiled", "pipelined")


@pytest.mark.parametrize("primitive", cases.OPTIONS)
def test_names_name_cases(primitive):
    for case in cases.covering_cases(primitive, VARIANTS):
        assert cases.parse(case.name) == case


@pytest.mark.parametrize("primitive", ["hidden_delta", "update", "output_delta", "softmax"])
def test_every_pair_of_choices_occurs(primitive):
    parameters = cases.choices(primitive, VARIANTS)
    rows = cases._covering_array(parameters)
    for i, j in itertools.combinations(range(len(parameters)), 2):
        assert {(row[i], row[j]) for row in rows} == set(itertools.product(parameters[i], parameters[j]))


def test_the_subset_is_small():
    parameters = cases.choices("hidden_delta", VARIANTS)
    rows = cases._covering_array(parameters)
    largest, second = sorted(map(len, parameters))[-1:-3:-1]
    assert largest * second <= len(rows) <= 1.5 * largest * second
    assert len(rows) * 20 < sum(1 for _ in cases.all_cases("hidden_delta", VARIANTS))


def test_the_subset_is_the_same_each_time():
    assert cases.covering_cases("update", ()) == cases.covering_cases("update", ())


def test_every_primitive_of_the_protocol_is_checked():
    from gpubp.backends.base import Backend

    moves = {"asarray", "asnumpy", "empty", "zeros", "upload", "copy", "cast", "capture", "synchronize"}
    methods = {name for name in vars(Backend) if not name.startswith("_") and callable(getattr(Backend, name))}
    # `update` and `prepare_update` are checked together, as a step makes them
    assert methods - moves - {"prepare_update"} == set(cases.OPTIONS)


@pytest.mark.parametrize(
    "name", ["", "dense_forward", "a:b:c:d:e:f:g:h:i:j", "nothing:-:float32:1:-:-:1:random:0:0", "scale:-:float32:x:-"]
)
def test_other_names_are_refused(name):
    with pytest.raises(ArgumentError, match="case"):
        cases.parse(name)


def test_random_numbers_differ_between_cases_and_not_between_runs():
    first, second, *_ = cases.covering_cases("scale", ())
    assert first.generator().random() == first.generator().random()
    assert first.generator().random() != second.generator().random()
