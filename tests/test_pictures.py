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


@pytest.fixture(scope="module")
def explain_pages(repository):
    path = repository / ".github" / "images" / "explain_pages.py"
    spec = importlib.util.spec_from_file_location("explain_pages", path)
    module = sys.modules["explain_pages"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_that_are_photographed_are_those_of_the_readme(explain_pages, repository):
    readme = (repository / "README.md").read_text(encoding="utf-8")
    for picture in explain_pages.PHOTOGRAPHS:
        assert f"gpubp {' '.join(picture.command)} --out" in readme
        assert f".github/images/{picture.name}" in readme
        header = (explain_pages.FOLDER / picture.name).read_bytes()[16:24]
        assert tuple(int.from_bytes(header[at : at + 4], "big") for at in (0, 4)) == picture.size
        assert '<body data-opens="3">' in explain_pages.opened("<head></head><body></body>", 3)
