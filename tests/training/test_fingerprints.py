"""The fingerprint of data: what it tells apart, what not, and that it stays what it is from version to version."""

from dataclasses import replace

import numpy as np
import pytest

from gpubp.data.dataset import Dataset
from gpubp.training import fingerprints
from gpubp.training.fingerprints import SAMPLED, fingerprint, is_fingerprint, row_digests, sample_digests


def data(x_dtype="float64", y_dtype="int64", **changes):
    x = (np.arange(30).reshape(10, 3) % 7).astype(x_dtype)
    y = (np.arange(10) % 2).astype(y_dtype)
    parts = {"x_train": x[:7], "y_train": y[:7], "x_test": x[7:], "y_test": y[7:], **changes}
    return Dataset(**parts, class_names=("a", "b"))


def halves():
    """Data that bytes cannot hold."""
    found = data()
    return replace(found, x_train=found.x_train / 2, x_test=found.x_test / 2)


def test_it_is_of_values_and_not_of_dtypes_or_layouts():
    known = fingerprint(data())
    for x_dtype in ("uint8", "int32", "float16", "float32"):
        assert fingerprint(data(x_dtype, "uint8")) == known
    assert fingerprint(data(x_train=np.asfortranarray(data().x_train))) == known
    assert fingerprint(replace(halves(), x_train=halves().x_train.astype(np.float32))) == fingerprint(halves())
    zeros = replace(halves(), x_train=np.where(halves().x_train == 0, -0.0, halves().x_train))
    assert fingerprint(zeros) == fingerprint(halves())


@pytest.mark.parametrize("make", [data, halves])
@pytest.mark.parametrize("block", [1, 4, 2**16])
def test_it_tells_any_change(monkeypatch, make, block):
    """Of any value in any part, of the order of rows, and of what is in which part."""
    monkeypatch.setattr(fingerprints, "BLOCK", block)
    found = make()
    known = {fingerprint(found)}
    for part in ("x_train", "y_train", "x_test", "y_test"):
        array = getattr(found, part)
        for place in np.ndindex(array.shape):
            changed = array.copy()
            changed[place] = 1 - changed[place] if array.ndim == 1 else changed[place] + 1
            known.add(fingerprint(replace(found, **{part: changed})))
    known.add(fingerprint(replace(found, x_train=found.x_train[::-1])))
    swapped = {"x_train": found.x_test, "x_test": found.x_train, "y_train": found.y_test, "y_test": found.y_train}
    known.add(fingerprint(replace(found, **swapped)))
    known.add(fingerprint(replace(found, x_train=found.x_train[:-1], y_train=found.y_train[:-1])))
    assert len(known) == 1 + 40 + 3


def test_it_tells_weights():
    """Any change of one, and weights from none; without any, it is that of earlier versions, which is written below."""
    weighted = {"weight_train": np.arange(7.0), "weight_test": np.ones(3)}
    found = replace(data(), **weighted)
    known = {fingerprint(data()), fingerprint(found)}
    for part in weighted:
        for row in range(len(weighted[part])):
            changed = weighted[part].copy()
            changed[row] += 0.5
            known.add(fingerprint(replace(found, **{part: changed})))
    known.add(fingerprint(replace(found, weight_train=weighted["weight_train"][::-1])))
    assert len(known) == 2 + 10 + 1
    assert is_fingerprint(fingerprint(found), found, fingerprint(found))


@pytest.mark.parametrize("block", [1, 4, 2**16])
def test_blocks_do_not_show(monkeypatch, block):
    monkeypatch.setattr(fingerprints, "BLOCK", block)
    assert fingerprint(data()) == "values-7109ce9402d587fee471f4cb017da24a"
    assert fingerprint(halves()) == "values-4822b92f4a08fb50334f6ccb99d7ded7"


def test_those_of_earlier_versions_are_still_known():
    """They are of the bytes in memory."""

    def knows(known, dataset):
        return is_fingerprint(known, dataset, fingerprint(dataset))

    assert knows(fingerprint(data()), data("float32"))
    earlier = "3524fd4ef51c1a5b28246e2b23fd0db0"
    assert knows(earlier, data())
    assert not knows(earlier, data("float32"))
    assert not knows(earlier, halves())
    assert not knows(fingerprint(data()), halves())


# --- rows -------------------------------------------------------------------------------------------------------------
def test_rows_are_known_by_their_values():
    x = data().x_train
    assert len(set(row_digests(halves().x_train))) == 7
    assert row_digests(x.astype(np.uint8)) == row_digests(np.asfortranarray(x.astype(np.float32))) == row_digests(x)
    assert row_digests(-0.0 * x) == row_digests(0 * x)
    assert row_digests(np.eye(2))[0] == "4bcab65925f03de9"


@pytest.mark.parametrize("rows", [1, 2, SAMPLED, SAMPLED + 1, 10_000])
def test_a_sample_is_of_rows_all_over_the_data(rows):
    x = np.arange(2.0 * rows).reshape(rows, 2)
    found, everything = sample_digests(x), row_digests(x)
    places = [everything.index(digest) for digest in found]
    assert len(set(places)) == min(rows, SAMPLED)
    assert places[0] == 0
    assert places[-1] == rows - 1
    assert max(np.diff(places), default=0) <= rows / SAMPLED + 1
