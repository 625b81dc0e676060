"""The stored profiles: a change that makes a kernel do more work shows here, as what it was and what it is."""

import copy
import importlib.util
import json
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def profiles():
    spec = importlib.util.spec_from_file_location("stored_profiles", Path(__file__).with_name("stored_profiles.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def stored(profiles):
    return json.loads(profiles.STORE.read_text(encoding="utf-8"))


@pytest.mark.exhaustive
def test_every_kernel_does_the_work_that_is_stored(profiles, stored, reproducible):
    if stored["versions"] != profiles.versions():
        pytest.skip(f"made by {stored['versions']}, and installed are {profiles.versions()}")
    found = profiles.differences(stored["profiles"], profiles.measured())
    assert not found, "\n".join(["`make profiles` stores these, if they are meant:", *found])


def test_the_store_was_made_by_the_compilers_that_the_test_extra_pins(stored):
    """So that the comparison is skipped only where somebody has installed others."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        extra = tomllib.load(file)["project"]["optional-dependencies"]["test"]
    pins = dict(requirement.split("==") for requirement in extra if "==" in requirement)
    assert stored["versions"] == {name: pins[name] for name in stored["versions"]}, "run `make profiles`"


def test_the_store_is_whole(profiles, stored):
    assert len(stored["profiles"]) == len(profiles.PROFILES)
    assert set(stored["versions"]) == set(profiles.COMPILERS)
    for kernels in stored["profiles"].values():
        for kernel in kernels:
            assert kernel["spilled bytes"] == 0
            assert kernel["instructions"] > 0
            assert kernel["main loop"] is not None


def test_a_difference_is_shown(profiles, stored):
    changed = copy.deepcopy(stored["profiles"])
    name, (kernel, *_) = next(iter(changed.items()))
    kernel["instructions"] = 2 * kernel["instructions"]
    kernel["multiply-adds in the main loop"] = None
    lines = profiles.differences(stored["profiles"], changed)
    assert len(lines) == 2
    assert lines[0].startswith(f"{name}: {kernel['kernel']}: instructions: ")
    assert lines[0].endswith("(+100.0%)")
    kernel.update(next(iter(stored["profiles"].values()))[0])
    assert profiles.differences(stored["profiles"], changed) == []
    kernel["sectors"] += 1
    assert len(profiles.differences(stored["profiles"], changed)) == 1
    del changed[name]
    changed["another"] = []
    assert profiles.differences(stored["profiles"], changed) == [
        "another: not stored",
        f"{name}: stored, and no longer in the set",
    ]
