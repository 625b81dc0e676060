"""Tuned plans: where they are kept, when they are used, and what is said when they are not."""

import json
import os
import warnings
from dataclasses import replace

import numpy as np
import pytest

from gpubp.backends import plans, tuned
from gpubp.backends.cupy_backend import CupyBackend
from gpubp.backends.plans import PIPELINED, TENSORCORE, WGMMA
from gpubp.backends.tuned import Conditions, TunedProduct
from gpubp.errors import CheckpointError, TunedPlansWarning

HERE = Conditions("Some GPU / 80 GB", "CUDA 13.0", "NVRTC 13.5", tuned.plans_digest())
PRODUCT = TunedProduct(64, 48, 32, "float32", "NT", 16)
PLAN = replace(PIPELINED["float32"][4], split_k=2)
FOUND = {PRODUCT: PLAN, TunedProduct(64, 48, 32, "bfloat16", "TN", 16): TENSORCORE["bfloat16"][3]}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GPUBP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv(tuned.SWITCH, raising=False)


def test_what_is_kept_is_found_again():
    path = tuned.store(HERE, FOUND)
    assert path.name == "Some-GPU-80-GB.json"
    assert tuned.load(HERE) == FOUND
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_without_a_file_there_are_none_and_nothing_is_said():
    assert tuned.load(HERE) == {}


def test_plans_are_added_to_those_that_were_measured_before():
    tuned.store(HERE, FOUND)
    other = replace(PLAN, split_k=3)
    tuned.store(HERE, {PRODUCT: other})
    assert tuned.load(HERE) == FOUND | {PRODUCT: other}


@pytest.mark.parametrize("field", ["driver", "compiler", "plans"])
def test_plans_of_other_conditions_are_not_used_and_this_is_said(field):
    tuned.store(HERE, FOUND)
    now = replace(HERE, **{field: "another"})
    with pytest.warns(TunedPlansWarning, match=rf"not used: {field} was {getattr(HERE, field)} and is another; gpubp"):
        assert tuned.load(now) == {}
    tuned.store(now, {PRODUCT: PLAN})
    assert tuned.load(now) == {PRODUCT: PLAN}, "what was measured under other conditions is not kept"


def test_each_gpu_has_a_file_of_its_own():
    tuned.store(HERE, FOUND)
    assert tuned.load(replace(HERE, gpu="Another GPU")) == {}
    assert tuned.path_of("../../x") == tuned.path_of("x")


def test_they_can_be_turned_off(monkeypatch):
    tuned.store(replace(HERE, driver="old"), FOUND)
    monkeypatch.setenv(tuned.SWITCH, "no")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tuned.load(HERE) == {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda values: "{", "no JSON"),
        (lambda values: json.dumps({"format": "gpubp bench"}), 'does not say "format": "gpubp tune"'),
        (lambda values: json.dumps(values | {"version": 99}), "another version of gpubp tune"),
        (lambda values: json.dumps(values | {"conditions": {"gpu": 1}}), "does not describe tuned plans"),
        (lambda values: json.dumps(values | {"products": [1]}), "does not describe tuned plans"),
        (lambda values: json.dumps(values).replace('"tile_m": 64', '"tile_m": 63'), "tile_m was 63"),
        (lambda values: json.dumps(values).replace('"m": 64', '"m": 0'), "sides"),
        (
            lambda values: json.dumps(values).replace('"form": "NT"', '"form": "TT"'),
            "a plan in float32 for 64x48x32 TT",
        ),
        (
            lambda values: json.dumps(values).replace('"k": 32, "dtype": "float32"', '"k": 32, "dtype": "tf32"'),
            "a plan",
        ),
        (
            lambda values: json.dumps(values).replace('"dtype": "tf32", "form": "NT"', '"dtype": "tf32", "form": "TN"'),
            "another one for form TN of tf32",
        ),
    ],
)
def test_a_damaged_file_is_not_used_and_is_written_anew(change, words):
    path = tuned.store(HERE, FOUND | {TunedProduct(64, 48, 32, "tf32", "NT", 16): WGMMA["tf32"][-1]})
    path.write_text(change(json.loads(path.read_text())))
    with pytest.warns(TunedPlansWarning, match=words):
        assert tuned.load(HERE) == {}
    tuned.store(HERE, {PRODUCT: PLAN})
    assert tuned.load(HERE) == {PRODUCT: PLAN}


def test_a_write_that_fails_leaves_the_file_as_it_was(monkeypatch):
    path = tuned.store(HERE, FOUND)
    before = path.read_bytes()

    def fail(*names):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(CheckpointError, match="No space left"):
        tuned.store(HERE, {PRODUCT: replace(PLAN, split_k=4)})
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_backends_record_says_the_chip_and_its_plans():
    backend = CupyBackend("emulator")
    plain = backend.provenance
    assert plain["arch"] == backend.chip.arch
    assert plain["multiprocessors"] == backend.chip.multiprocessors
    assert plain["plan_table"] == tuned.plans_digest()
    assert "tuned_plans" not in plain
    both = FOUND | {PRODUCT._replace(m=1 + PRODUCT.m): PLAN}
    records = []
    for found in (FOUND, both, dict(reversed(both.items()))):
        backend.tuned = found
        records.append(backend.provenance)
    assert [each["tuned_products"] for each in records] == [len(FOUND), len(both), len(both)]
    assert records[0]["tuned_plans"] != records[1]["tuned_plans"] == records[2]["tuned_plans"]


def test_the_digest_is_of_the_plans_and_of_what_they_compile_to(monkeypatch, tmp_path):
    before = tuned.plans_digest()
    tuned.plans_digest.cache_clear()
    monkeypatch.setitem(plans.PIPELINED, "float32", plans.PIPELINED["float32"][1:])
    assert tuned.plans_digest() != before
    monkeypatch.undo()
    tuned.plans_digest.cache_clear()
    assert tuned.plans_digest() == before


# --- how they are used ------------------------------------------------------------------------------------------------
def test_a_backend_takes_them_unless_the_caller_has_a_plan_or_a_variant(monkeypatch):
    backend = CupyBackend("emulator")
    taken = []
    execution = backend.execution

    def noted(*arguments):
        taken.append(execution(*arguments).plan)
        return execution(*arguments)

    monkeypatch.setattr(backend, "execution", noted)
    rng = np.random.default_rng(0)
    a, w = (backend.asarray(rng.standard_normal(shape), "float32") for shape in ((64, 32), (48, 32)))
    c = backend.empty((64, 48), "float32")
    own = PIPELINED["float32"][-1]
    backend.product("NT", a, w, c)
    untuned = taken[-1]
    backend.tuned = {PRODUCT: PLAN}
    backend.product("NT", a, w, c)
    assert taken[-1] == PLAN != untuned
    np.testing.assert_allclose(backend.asnumpy(c), backend.asnumpy(a) @ backend.asnumpy(w).T, rtol=1e-4, atol=1e-4)
    backend.product("NT", a, w, c, plan=own)
    assert taken[-1] == own
    backend.variant = "pipelined"
    backend.product("NT", a, w, c)
    assert taken[-1] == untuned
    backend.variant = None
    backend.product("NT", a, w[:40], backend.empty((64, 40), "float32"))
    assert taken[-1] != PLAN, "another product"
