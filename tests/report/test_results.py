"""The file of a report's results: read back as it was written, with units, and refused where it is damaged."""

import json
import math

import pytest
import reports

from gpubp.errors import DataError
from gpubp.report.parts import PARTS
from gpubp.report.results import Report
from gpubp.report.schema import RESULTS, UNITS, Each, validate


@pytest.fixture
def values():
    return json.loads(json.dumps(reports.usual().to_dict()))


def read(values):
    return Report.from_json(json.dumps(values))


def test_the_reports_of_the_tests_have_every_part():
    assert tuple(reports.usual().parts) == tuple(PARTS)
    assert {name.split("-")[0] for name in PARTS} == set(RESULTS)


def test_what_is_written_is_read_back(tmp_path):
    found = reports.usual()
    found.save(tmp_path / "report.json")
    again = Report.read(tmp_path / "report.json")
    assert again == found
    assert again.to_dict() == found.to_dict()
    assert again.measured == found.measured
    assert again.machine.processor == "A <processor>"


def numbers(values, key=""):
    """Every number in nested values, with the nearest key above it that is no number of a list."""
    if isinstance(values, dict):
        for name, value in values.items():
            yield from numbers(value, name)
    elif isinstance(values, list):
        for value in values:
            yield from numbers(value, key)
    elif isinstance(values, int | float) and not isinstance(values, bool):
        yield key


def test_every_number_has_a_unit(values):
    del values["version"]
    for part in values["parts"].values():
        for bench in filter(None, [(part["result"] or {}).get("measured")]):
            del bench["version"], bench["machine"]
    assert set(numbers(values)) <= set(UNITS)
    assert values["units"] == UNITS


def test_a_number_that_is_not_finite_is_null(values):
    found = reports.report(check_cupy=reports.part(reports.check(failures=[("lost", math.inf)])))
    assert read(found.to_dict()).result("check-cupy")["failures"][0]["share"] is None
    text = json.dumps(values).replace('"seconds": 12.25', '"seconds": NaN', 1)
    with pytest.raises(DataError, match=r"parts\.info\.seconds was NaN; it must be a finite number"):
        Report.from_json(text)


def set_at(values, path, value):
    *above, last = path
    for key in above:
        values = values[key]
    if value is KeyError:
        del values[last]
    else:
        values[last] = value


CHECK = ("parts", "check-cupy", "result")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("format",), "gpubp bench", 'it does not say "format": "gpubp report"'),
        (("version",), 1, "is a result of another version of gpubp report: 1, not 2"),
        (("made",), KeyError, "it lacks made"),
        (("made",), "now", 'made was "now"; it must be a date and time in ISO 8601'),
        (("parts",), [], r"parts was \[\]; it must be a table"),
        (("more",), 1, "more is unknown"),
        (("parts", "check-cuda"), {}, "it lacks parts.check-cuda.status"),
        (("parts", "check-cupy", "status"), "fine", "parts.check-cupy.status was 'fine'; it must be one of done"),
        (("parts", "check-cupy", "seconds"), "12", "parts.check-cupy.seconds was .*; it must be a finite number"),
        (("parts", "check-cupy", "device"), "moon", "parts.check-cupy.device was 'moon'; it must be one of"),
        (CHECK, None, "parts.check-cupy.result was null; it must be there, as the part is done"),
        ((*CHECK, "cases"), True, "result.cases was true; it must be a whole number"),
        ((*CHECK, "cases"), 2.5, "result.cases was 2.5; it must be a whole number"),
        ((*CHECK, "rows", 0, "share"), [], r"result.rows\[0\].share was .*; it must be a finite number or null"),
        ((*CHECK, "rows", 0, "dtype"), KeyError, r"it lacks parts.check-cupy.result.rows\[0\].dtype"),
        ((*CHECK, "device"), "mars", "device was 'mars'"),
        (
            ("parts", "bench-steps", "result", "measured", "records", 0, "seconds"),
            [-1.0],
            "damaged result of gpubp bench",
        ),
        (("parts", "bench-steps", "result", "rehearsed", 0, "fault"), None, "fault was null; it must be a text"),
        (("parts", "info", "result", "gpus"), "H100", "gpus was .*; it must be a list"),
        (("parts", "train-cupy", "result", "matches"), 1, "matches was 1; it must be true or false"),
        (("identity", "GPU"), None, "identity.GPU was null; it must be a text"),
    ],
)
def test_a_damaged_file_is_refused_with_the_place(values, path, value, words):
    set_at(values, path, value)
    with pytest.raises(DataError, match=words):
        read(values)


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (b"", "it is no JSON"),
        (b"\xff\xfe", "it is no text"),
        (b"[1, 2]", 'it does not say "format"'),
        (b"[" * 100_000, "it is no JSON"),
        (b'{"format": "gpubp report", "version": 2', "it is no JSON"),
    ],
)
def test_another_file_is_refused(tmp_path, contents, words):
    path = tmp_path / "report.json"
    path.write_bytes(contents)
    with pytest.raises(DataError, match=words) as caught:
        Report.read(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="cannot read"):
        Report.read(tmp_path / "report.json")


def test_a_cut_file_is_refused_wherever_it_is_cut():
    text = json.dumps(reports.usual().to_dict())
    for end in range(0, len(text), 997):
        with pytest.raises(DataError):
            Report.from_json(text[:end])


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        (1, int),
        (1, (int, float)),
        (None, (str, None)),
        ({"a": 1}, Each(int)),
        ([[1]], [[int]]),
        ({"a": ""}, {"a": str}),
    ],
)
def test_what_is_as_its_schema_says_is_taken(value, schema):
    validate(value, schema)


def test_a_part_stands_where_it_runs_and_replaces_an_earlier_one():
    found = reports.report(profile=reports.part(reports.profile()))
    found = found.with_part("check-cupy", reports.part(None, status="failed"), "later")
    assert list(found.parts) == ["info", "check-cupy", "profile"]
    assert found.made == "later"
    assert found.failed
    assert not found.with_part("check-cupy", reports.part(reports.check()), "later").failed
