"""Pairs of .npy files, arrays that stay in their files, and files that change."""

import os
from dataclasses import replace

import numpy as np
import pytest

from gpubp.data import npz
from gpubp.data.loading import load, load_inputs
from gpubp.data.rows import Rows, rows_of
from gpubp.errors import ArgumentError, DataError
from gpubp.nn.network import Network
from gpubp.training.config import TrainingConfig
from gpubp.training.loop import Run, fit

X = np.arange(60, dtype=np.float32).reshape(20, 3) ** 2
Y = np.arange(20) % 2


def _write(folder, **arrays):
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


@pytest.fixture
def mapped(monkeypatch):
    """Map arrays of any size."""
    monkeypatch.setattr(npz, "LEAST_MAPPED", 1)


@pytest.mark.parametrize("spec", ["", "x.npy"])
def test_a_pair_is_data_by_its_folder_or_its_inputs(tmp_path, spec):
    found = load(_write(tmp_path / "d", x=X, y=Y, w=Y + 1.0) / spec, weight_column="w", test_fraction=0)
    np.testing.assert_array_equal(found.x_train, X)
    assert found.y_train.tolist() == Y.tolist()
    assert found.weight_train.tolist() == (Y + 1.0).tolist()


def test_a_folder_may_have_a_test_part_and_no_labels(tmp_path):
    found = load(_write(tmp_path / "d", X_train=X, y_train=Y, X_test=X[:5], y_test=Y[:5]))
    assert (len(found.x_train), len(found.x_test)) == (20, 5)
    x, _ = load_inputs(_write(tmp_path / "e", x=X) / "x.npy")
    np.testing.assert_array_equal(x, X)


@pytest.mark.parametrize("is_archive", [True, False])
@pytest.mark.parametrize("dtype", ["float32", ">f8", "uint8", "int16"])
def test_what_is_mapped_is_what_would_be_read(tmp_path, monkeypatch, is_archive, dtype):
    x = X.astype(dtype)
    if is_archive:
        path = tmp_path / "t.npz"
        np.savez(path, x=x, y=Y)
    else:
        path = _write(tmp_path / "d", x=np.asfortranarray(x), y=Y)
    read = load(path)
    monkeypatch.setattr(npz, "LEAST_MAPPED", 1)
    found = load(path)
    assert isinstance(found.x_train, Rows)
    for part in ("x_train", "x_test", "y_train", "y_test"):
        np.testing.assert_array_equal(np.asarray(getattr(found, part)), getattr(read, part))


@pytest.mark.usefixtures("mapped")
def test_compressed_arrays_are_read(tmp_path):
    np.savez_compressed(tmp_path / "t.npz", x=X, y=Y)
    assert isinstance(load(tmp_path / "t.npz").x_train, np.ndarray)


@pytest.mark.usefixtures("mapped")
def test_a_mapped_array_of_an_archive_is_checked(tmp_path):
    x = np.random.default_rng(0).random((20, 1000))  # more than zipfile looks at for the header
    np.savez(tmp_path / "t.npz", x=x, y=Y)
    content = bytearray((tmp_path / "t.npz").read_bytes())
    content[content.index(x[19].tobytes())] ^= 1
    (tmp_path / "t.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"t\.npz: the archive is damaged: Bad CRC-32 of x\.npy"):
        load(tmp_path / "t.npz")


def test_rows_index_like_an_array():
    which = np.array([7, 3, 3, 19])
    rows, expected = rows_of(X, which), X[which]
    assert (len(rows), rows.shape, rows.size, rows.dtype) == (4, (4, 3), 12, np.float32)
    for key in (2, slice(1, 3), slice(None, None, 2), np.array([3, 0]), np.array([True, False, False, True])):
        np.testing.assert_array_equal(rows[key], expected[key])
    np.testing.assert_array_equal(rows_of(rows, np.array([3, 1])), expected[[3, 1]])
    with pytest.raises(ValueError, match="copied when"):
        np.array(rows, copy=False)


@pytest.mark.usefixtures("mapped")
@pytest.mark.parametrize("change", ["written", "cut off", "gone"])
def test_a_mapped_file_that_changes_is_an_error(tmp_path, change):
    found = load(_write(tmp_path / "d", x=X, y=Y))
    path = tmp_path / "d" / "x.npy"
    if change == "gone":
        path.unlink()
    else:
        with open(path, "r+b") as file:
            file.truncate(200 if change == "cut off" else None)
            file.write(b"\x93NUMPY ")
    with pytest.raises(DataError, match=r"x\.npy: it changed while it was read"):
        found.x_train[:3]


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path, monkeypatch):
    path = _write(tmp_path / "d", x=X, y=Y)

    def read(*args, **options):
        found = npz.read_npy(*args, **options)
        np.save(path / "y.npy", Y[:4])
        return found

    monkeypatch.setattr("gpubp.data.loading.read_npy", read)
    with pytest.raises(DataError, match=r"y\.npy: it changed while it was read"):
        load(path)


def test_what_is_no_data_may_change_beside_it(tmp_path, monkeypatch):
    path = _write(tmp_path / "d", x=X, y=Y)
    (path / "log.txt").touch()

    def read(*args, **options):
        (path / "log.txt").write_text("1")
        return npz.read_npy(*args, **options)

    monkeypatch.setattr("gpubp.data.loading.read_npy", read)
    assert len(load(path, test_fraction=0).x_train) == 20


@pytest.mark.parametrize(
    ("arrays", "spec", "message"),
    [
        ({"x": X}, "", "there are no labels; it must hold y beside x"),
        ({"x": X, "y": Y[:9]}, "", "x has 20 examples and y has 9 labels"),
        ({"x": X, "y": Y, "other": X}, "other.npy", r"must be the one with the inputs, called x\.npy"),
        ({"x": X, "y": Y}, "y.npy", r"must be the one with the inputs, called x\.npy"),
        ({"x": X, "y": Y.astype(object)}, "", "Python objects|Object arrays|damaged"),
    ],
)
def test_what_is_no_pair_is_an_error(tmp_path, arrays, spec, message):
    with pytest.raises(DataError, match=message):
        load(_write(tmp_path / "d", **arrays) / spec)


@pytest.mark.parametrize("size", [0, 5, 100, 200])
def test_a_file_that_is_cut_off_is_an_error(tmp_path, size):
    path = _write(tmp_path / "d", x=X, y=Y) / "x.npy"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match="damaged"):
        load(path)


def test_only_tables_have_label_columns(tmp_path):
    with pytest.raises(ArgumentError, match="only a table has label columns"):
        load(_write(tmp_path / "d", x=X, y=Y), label="y")


@pytest.mark.usefixtures("mapped")
def test_a_run_whose_mapped_file_changes_can_be_resumed(tmp_path):
    path, config = _write(tmp_path / "d", x=X, y=Y), TrainingConfig(epochs=2, batch_size=4, validation=0.2)
    (tmp_path / "run").mkdir()

    run = Run(Network([3, 4, 2], backend="numpy"), load(path), config, folder=tmp_path / "run")
    run.train_epoch()
    os.utime(path / "x.npy", ns=(1, 1))
    with pytest.raises(DataError, match=r"x\.npy: it changed while it was read"):
        run.judge()
    found = fit(Network([3, 4, 2], backend="numpy"), load(path), config, folder=tmp_path / "run", resume=True)
    in_memory = replace(load(path), x_train=load(path).x_train[:], x_test=load(path).x_test[:])
    expected = fit(Network([3, 4, 2], backend="numpy"), in_memory, config)
    assert found.history == expected.history
    for name, array in expected.model.network.weights().items():
        np.testing.assert_array_equal(found.model.network.weights()[name], array)
