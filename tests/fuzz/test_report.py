"""Damaged results of a report: refused in one short line, or a page can be made of them and a later run go on."""

import json

import pytest
import reports
from damage import damaged_json, damaged_text, fuzz

from gpubp.bench import pictures
from gpubp.report import machine_page
from gpubp.report.identity import differences
from gpubp.report.machine_page import page, summary
from gpubp.report.page import Picture
from gpubp.report.results import Report

GOOD = json.dumps(reports.usual().to_dict())


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    for name in ("throughput", "roofline"):
        monkeypatch.setattr(pictures, name, lambda result: b"a picture")
    monkeypatch.setattr(machine_page, "picture", lambda draw, alt: Picture(b"a picture", alt))


def use(report):
    assert page(report).startswith("<!DOCTYPE html>")
    assert all(map(str.strip, summary(report)))
    assert differences(report.identity, report.identity) == []
    assert Report.from_json(json.dumps(report.to_dict())) == report


def test_damaged_text(tmp_path):
    def attempt(rng):
        (tmp_path / "report.json").write_bytes(damaged_text(rng, GOOD))
        use(Report.read(tmp_path / "report.json"))

    fuzz(attempt)


def test_values_of_other_types(tmp_path):
    def attempt(rng):
        (tmp_path / "report.json").write_bytes(damaged_json(rng, GOOD))
        use(Report.read(tmp_path / "report.json"))

    fuzz(attempt)
