"""Spools: the same array in memory and in a file, which nobody can find, and what is said of a disk that is full."""

import errno
import os
import tempfile

import numpy as np
import pytest

from gpubp.data import rows, spool
from gpubp.data.preparation import InputColumn, InputRules, Preparation, RawColumns
from gpubp.data.rows import Rows, have_nan, rows_of
from gpubp.data.source import Source
from gpubp.data.spool import Spool
from gpubp.data.taken import taken
from gpubp.errors import DataError

NAN = np.nan


@pytest.mark.parametrize("in_file", [False, True])
def test_what_is_appended_and_replaced_is_one_array(in_file):
    with Spool("t", in_file=in_file, size=48) as kept:
        kept.append(np.arange(4.0).reshape(2, 2).T)
        kept.append(b"")
        kept.append(np.array([4.0, 5.0]))
        before = kept.array(np.float64, (3, 2))
        kept.replace(16, np.array([[7.0, 8.0]]))
    assert kept.size == 48
    assert isinstance(before, np.memmap) == in_file
    np.testing.assert_array_equal(before, [[0, 2], [7, 8], [4, 5]])
    if in_file:
        with pytest.raises(ValueError, match="read-only"):
            before[0] = 1


@pytest.mark.parametrize("in_file", [False, True])
def test_an_array_may_have_another_order_or_nothing(in_file):
    with Spool("t", in_file=in_file) as kept:
        assert kept.array(">i2", (0, 3)).shape == (0, 3)
        kept.append(np.arange(6, dtype=">i2").tobytes())
        found = kept.array(">i2", (2, 3), "F")
    np.testing.assert_array_equal(found, [[0, 2, 4], [1, 3, 5]])


def test_a_file_has_no_name_and_is_closed(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = set(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else set()
    with Spool("t", in_file=True, size=2**16) as kept:
        kept.append(np.ones(8))
        assert os.listdir(tmp_path) == []
        found = kept.array(np.float64, (8,))
    assert found.sum() == 8
    del found
    assert not before or len(os.listdir("/proc/self/fd")) <= len(before)


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_that_cannot_reserve_room_is_written_to(monkeypatch, number):
    def fails(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", fails, raising=False)
    with Spool("t", in_file=True, size=8) as kept:
        kept.append(np.ones(1))
        assert kept.array(np.float64, (1,)) == 1


def test_a_disk_that_takes_some_bytes_and_no_more_is_full(monkeypatch):
    write, left = os.pwrite, [20]

    def some(handle, data, start):
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = write(handle, data[: left[0]], start)
        left[0] -= taken
        return taken

    monkeypatch.setattr(os, "pwrite", some)
    with Spool("the table", in_file=True) as kept:
        kept.append(np.ones(2))
        with pytest.raises(
            DataError,
            match=r"^the table: to stream it, .*No space left on device; the variable TMPDIR .* with --no-stream",
        ):
            kept.append(np.ones(2))


def test_no_folder_stands_for_the_one_that_is_named(tmp_path, monkeypatch):
    """Python itself takes /tmp, which may be in memory, where TMPDIR has a mistake or its disk is full."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "mistake"))
    with pytest.raises(DataError, match=rf"into a file in {tmp_path / 'mistake'}: No such file or directory; the var"):
        Spool("t", in_file=True)
    monkeypatch.delenv("TMPDIR")
    with Spool("t", in_file=True) as kept:
        kept.append(np.ones(1))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(DataError, match=f"into a file in {tmp_path / 'gone'}: No such file"):
        Spool("t", in_file=True)


def test_what_is_wanted_is_what_was_asked_for_or_what_is_large(monkeypatch):
    monkeypatch.setattr(spool, "usable_memory", lambda: 400)
    assert spool.is_wanted(True, None)
    assert not spool.is_wanted(False, 2**60)
    assert not spool.is_wanted(None, None)
    assert [spool.is_wanted(None, size) for size in (100, 101)] == [False, True]
    monkeypatch.setattr(spool, "_room", lambda: 101)
    assert [spool.is_wanted(None, size) for size in (101, 102)] == [True, False]
    assert spool.is_wanted(True, 102)
    monkeypatch.undo()
    monkeypatch.setenv("TMPDIR", "gone")
    assert spool._room() == 0


def test_there_is_no_room_where_nothing_can_be_written(tmp_path, monkeypatch):
    """Nobody asked for a file there, so that what is large goes into memory as ever."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert spool._room() > 0
    monkeypatch.setattr(os, "access", lambda path, mode: not (path == str(tmp_path) and mode & os.W_OK))
    assert spool._room() == 0


# --- rows that are prepared when they are asked for -------------------------------------------------------------------
@pytest.fixture
def raw():
    """Columns of each kind, and the same in a file."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=(50, 4))
    values[:, 1] = rng.integers(0, 3, 50)
    values[:, 2] = rng.integers(0, 2, 50)
    values[rng.random((50, 4)) < 0.2] = NAN
    with Spool("t", in_file=True) as kept:
        kept.append(values)
        mapped = kept.array(np.float64, values.shape)
    kinds, texts, names = ("number", "category", "boolean", "number"), {1: ("a", "b", "c")}, ("p", "q", "r", "s")
    return RawColumns(values, kinds, texts, names), RawColumns(mapped, kinds, texts, names)


@pytest.mark.parametrize("missing", ["mean", "median", "zero"])
def test_rows_are_prepared_as_the_whole_is(raw, monkeypatch, missing):
    monkeypatch.setattr(rows, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr(rows, "COLUMN_BYTES", 3 * 8 * 50)
    which = np.random.default_rng(0).permutation(50)[:40]
    whole, mapped = (each.rows(which) for each in raw)
    assert isinstance(mapped.values, Rows)
    rules = InputRules(missing=missing, max_categories=2)
    fitted = Preparation.fit(whole, rules)
    assert Preparation.fit(mapped, rules) == fitted
    assert fitted.notes(mapped) == fitted.notes(whole)
    expected, found = fitted.apply(whole), fitted.apply_later(mapped)
    assert isinstance(found, Rows)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    for key in (slice(3, 30, 4), np.array([5, 0, 5]), slice(None)):
        assert found[key].tobytes() == expected[key].tobytes()
    assert rows_of(found, np.array([9, 2]))[1:].tobytes() == expected[[2]].tobytes()
    counting = np.arange(40) % 3 > 0
    np.testing.assert_array_equal(np.asarray(mapped.rows(counting).values), whole.rows(counting).values)
    np.testing.assert_array_equal(have_nan(mapped.values), np.isnan(whole.values).any(axis=0))


class Counted(np.ndarray):
    """Counts the values that are copied from it."""

    copied = 0

    def __getitem__(self, key):
        found = np.asarray(self)[key]
        Counted.copied += found.size
        return found


def test_a_wide_table_is_not_read_once_a_column(monkeypatch):
    """Its columns together may be many times the memory, and each reading may be one of a whole disk."""
    monkeypatch.setattr(rows, "COLUMN_BYTES", 1)
    monkeypatch.setattr(Counted, "copied", 0)
    values = np.random.default_rng(0).normal(size=(64, 100))
    found = list(rows.columns(Rows(values.view(Counted), np.arange(64)[::-1])))
    np.testing.assert_array_equal(found, values[::-1].T)
    assert Counted.copied == values.size
    monkeypatch.setattr(Counted, "copied", 0)
    asked, at = [], Rows.some_columns
    monkeypatch.setattr(Rows, "some_columns", lambda x, key, some: asked.append(some) or at(x, key, some))
    assert len(list(rows.columns(Rows(values, np.arange(64))))) == 100
    assert len(asked) <= rows.MOST_READINGS
    monkeypatch.setattr(rows, "usable_memory", lambda: 2 * 8 * 64 * rows.MOST_READINGS)
    asked.clear()
    list(rows.columns(Rows(values, np.arange(64))))
    assert len(asked) == 50


@pytest.mark.parametrize("at_once", [7, 4096])
def test_what_columns_are_taken_for_is_read_once(raw, monkeypatch, at_once):
    monkeypatch.setattr(rows, "ROWS_AT_ONCE", at_once)
    monkeypatch.setattr(rows, "COLUMN_BYTES", 1)
    whole, _ = raw
    whole.values[:, 3] = NAN
    fitted = Preparation.fit(whole, InputRules(missing="zero", max_categories=2))
    roles = tuple((name, "input") for name in whole.names)
    found = taken(Source("t", whole.values, None, raw=whole, roles=roles), fitted, "classes", ())
    p, q, r = (whole.values[:, i][~np.isnan(whole.values[:, i])] for i in range(3))
    assert [(each.name, each.values, each.missing) for each in found] == [
        ("p", f"{p.min():.4g} to {p.max():.4g}", 50 - len(p)),
        ("q", "3: " + ", ".join(fitted.columns[1].categories) + "; 1 others", 50 - len(q)),
        ("r", f"true in {100 * r.mean():.3g} %", 50 - len(r)),
        ("s", "none", 50),
    ]
    with Spool("t", in_file=True) as kept:
        kept.append(whole.values)
        again = RawColumns(kept.array(np.float64, (50, 4)), whole.kinds, whole.texts, whole.names)
    read = []
    at = Rows.__getitem__
    monkeypatch.setattr(Rows, "__getitem__", lambda x, key: read.append(len(x.which[key])) or at(x, key))
    assert taken(Source("t", again.values, None, raw=again, roles=roles), fitted, "classes", ()) == found
    assert sum(read) == 50


def test_a_value_that_is_missing_is_found_in_rows(raw):
    fitted = Preparation(tuple(InputColumn(name, kind, ("a",) if kind == "category" else ()) for name, kind in zip(
        raw[0].names, raw[0].kinds, strict=True)))  # fmt: skip
    row = int(np.argmax(np.isnan(raw[0].values[:, 0])))
    for each in raw:
        with pytest.raises(DataError, match=f"row {row} of column p has no value"):
            fitted.apply_later(each.rows(np.arange(50)))
