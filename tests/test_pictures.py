"""The README's pictures that the project draws."""

import importlib.util
import sys

import pytest


@pytest.fixture(scope="module")
def training_step(repository):
    path = repository / ".github" / "images" / "training_step.py"
    spec = importlib.util.spec_from_file_location("training_step", path)
    module = sys.modules["training_step"] = importlib.util.module_from_spec(spec)  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_the_picture_of_a_step_is_up_to_date(training_step):
    drawn = training_step.drawing(training_step.calls_of_a_step())
    assert drawn == training_step.PICTURE.read_text(encoding="utf-8"), f"python {training_step.__file__}"


def test_every_array_of_the_picture_is_read_or_written(training_step):
    calls = training_step.calls_of_a_step()
    assert set().union(*(call.read | call.written for call in calls)) == set(training_step.COLUMNS)
