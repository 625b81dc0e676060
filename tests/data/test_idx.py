"""IDX files, alone and as sets: what they give, and every kind of damage."""

import gzip
import struct

import numpy as np
import pytest
from data_files import idx_bytes, write_idx_folder

from gpubp.data import idx
from gpubp.data.loading import load
from gpubp.errors import DataError


@pytest.mark.parametrize("compress", [False, True])
def test_an_idx_folder_gives_images_labels_and_its_own_split(tmp_path, compress):
    arrays = write_idx_folder(tmp_path / "set", compress=compress)
    found = load(tmp_path / "set")
    np.testing.assert_array_equal(found.x_train, arrays["train-images-idx3-ubyte"].reshape(12, 12))
    np.testing.assert_array_equal(found.x_test, arrays["t10k-images-idx3-ubyte"].reshape(6, 12))
    np.testing.assert_array_equal(found.y_test, [0, 1, 2, 0, 1, 2])
    assert (found.name, found.feature_shape, found.value_range) == ("set", (4, 3), 255)
    assert found.class_names == ("0", "1", "2")


def test_idx_files_may_have_a_dot_in_front_of_idx(tmp_path):
    write_idx_folder(tmp_path)
    for path in list(tmp_path.iterdir()):
        path.rename(tmp_path / path.name.replace("-idx", ".idx"))
    assert len(load(tmp_path).x_train) == 12


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "i4", "f4", "f8"])
def test_every_idx_type_is_read_in_the_machines_byte_order(tmp_path, dtype):
    values = np.array([[1, 2, 3], [4, 5, 127]], dtype=dtype)
    (tmp_path / "values").write_bytes(idx_bytes(values))
    found = idx.read_idx(tmp_path / "values")
    assert found.dtype == values.dtype
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_a_set_known_by_name_is_found_under_gpubp_data(tmp_path, monkeypatch, name):
    write_idx_folder(tmp_path / name)
    monkeypatch.setenv("GPUBP_DATA", str(tmp_path))
    found = load(name)
    assert found.class_names == idx.IDX_SETS[name]
    assert len(found.class_names) == 10
    np.testing.assert_array_equal(found.y_train, np.arange(12) % 3)


def test_a_set_known_by_name_is_found_under_data(tmp_path, monkeypatch):
    write_idx_folder(tmp_path / "data" / "mnist")
    monkeypatch.delenv("GPUBP_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    assert len(load("mnist").x_train) == 12


@pytest.mark.parametrize(("name", "advice"), [("mnist", "data/mnist"), ("fashion-mnist", "dataset-fashion-mnist")])
def test_a_set_that_is_not_there_says_where_to_get_it(tmp_path, monkeypatch, name, advice):
    monkeypatch.setattr(idx, "DATA_FOLDERS", (str(tmp_path),))
    monkeypatch.delenv("GPUBP_DATA", raising=False)
    with pytest.raises(DataError, match=f"{name} is not on this machine.*{advice}"):
        load(name)


def _gzip_cut(content):
    return gzip.compress(content)[:-20]


def _gzip_flipped(content):
    packed = bytearray(gzip.compress(content))
    packed[len(packed) // 2] ^= 0xFF
    return bytes(packed)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: b"", "not an IDX file.*nothing"),
        (lambda content: content[:3], "not an IDX file"),
        (lambda content: content[:10], "header is cut off"),
        (lambda content: content[:-1], "cut off or damaged"),
        (lambda content: content + b"\0", "cut off or damaged"),
        (lambda content: b"\0\0\x07\x03" + content[4:], "not an IDX file"),
        (lambda content: b"<html>" + content, "not an IDX file"),
        (lambda content: b"\0\0\x08\x00", "no axes"),
        (lambda content: b"\0\0\x08\x03" + b"\xff" * 12, "cut off or damaged"),
        (_gzip_cut, "cannot be read"),
        (_gzip_flipped, "cannot be read"),
        (lambda content: b"\x1f\x8b", "cannot be read"),
    ],
)
def test_a_damaged_idx_file_is_an_error_that_names_it(tmp_path, damage, message):
    write_idx_folder(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=f"train-images-idx3-ubyte: .*{message}"):
        load(tmp_path)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
    "header",
    [
        bytes([0, 0, 8, 65]) + struct.pack(">65I", *[1] * 65) + b"\0",
        bytes([0, 0, 8, 255]) + bytes(2000),
        bytes([0, 0, 0x0E, 3]) + struct.pack(">3I", *[2**32 - 1] * 3),
        bytes([0, 0, 8, 3]) + struct.pack(">3I", 0, 2**32 - 1, 2**32 - 1),
        bytes([0, 0, 8, 32]) + struct.pack(">32I", *[2**32 - 1] * 32),
        bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**20, 2**20, 1),
    ],
)
def test_shapes_that_no_array_has_are_errors(tmp_path, header, compress):
    path = tmp_path / "t"
    path.write_bytes(gzip.compress(header) if compress else header)
    with pytest.raises(DataError, match=r"axes|no array can have|cut off or damaged|this process may use") as caught:
        idx.read_idx(path)
    assert len(str(caught.value)) < 400


def test_no_more_is_unpacked_than_the_header_announces(tmp_path, monkeypatch):
    content = idx_bytes(np.zeros((4, 2, 2), np.uint8))
    (tmp_path / "t").write_bytes(gzip.compress(content + bytes(2**26), 1))
    read = []

    class Counting(gzip.GzipFile):
        def read(self, size=-1):
            assert size >= 0
            read.append(size)
            return super().read(size)

    monkeypatch.setattr("gzip.GzipFile", Counting)
    with pytest.raises(DataError, match=r"announces 16 bytes .* the file has more"):
        idx.read_idx(tmp_path / "t")
    assert sum(read) < 100


def test_the_sets_of_emnist_are_found_by_their_names(tmp_path):
    for name in ("letters", "digits"):
        arrays = write_idx_folder(tmp_path / "other", compress=name == "digits")
        for path in (tmp_path / "other").iterdir():
            path.rename(tmp_path / f"emnist-{name}-{path.name.replace('t10k', 'test')}")
    found = load(tmp_path / "emnist-letters")
    np.testing.assert_array_equal(found.x_test, arrays["t10k-images-idx3-ubyte"].reshape(6, 12))
    assert found.name == "emnist-letters"
    assert len(load(tmp_path / "emnist-digits").x_train) == 12
    with pytest.raises(
        DataError, match=r"it holds several sets \(emnist-digits, emnist-letters\); take one by name: .*emnist-d"
    ):
        load(tmp_path)
    with pytest.raises(DataError, match="no file is called"):
        load(tmp_path / "emnist")
    for path in tmp_path.glob("emnist-digits-*"):
        path.unlink()
    assert len(load(tmp_path).x_train) == 12  # the only set in the folder


def test_an_empty_folder_says_which_file_is_missing(tmp_path):
    with pytest.raises(DataError, match="no file train-images-idx3-ubyte"):
        load(tmp_path)


def test_a_folder_in_place_of_an_idx_file_is_an_error(tmp_path):
    write_idx_folder(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    (tmp_path / "t10k-labels-idx1-ubyte").mkdir()
    with pytest.raises(DataError, match="cannot be read: it is a folder"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train_labels_idx1_ubyte": np.zeros(11, np.uint8)}, "12 examples and y has 11"),
        ({"t10k_labels_idx1_ubyte": np.zeros(7, np.uint8)}, "6 examples and y_test has 7"),
        ({"t10k_labels_idx1_ubyte": np.full(6, 9, np.uint8)}, "the label '9' is none of the 3 classes"),
        ({"t10k_images_idx3_ubyte": np.zeros((6, 5, 3), np.uint8)}, "12 features and x_test has 15"),
        ({"train_labels_idx1_ubyte": np.zeros((12, 2), np.uint8)}, "must have as many columns"),
        ({"train_images_idx3_ubyte": np.zeros((0, 4, 3), np.uint8)}, "0 examples and y has 12"),
        ({"train_images_idx3_ubyte": np.zeros(12, np.uint8)}, "must be .examples, features."),
    ],
)
def test_idx_files_that_do_not_fit_together_are_an_error(tmp_path, changed, message):
    write_idx_folder(tmp_path, **changed)
    with pytest.raises(DataError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_a_label_above_9_is_out_of_range_for_a_set_with_ten_classes(tmp_path, name):
    write_idx_folder(tmp_path / name, train_labels_idx1_ubyte=np.full(12, 10, np.uint8))
    with pytest.raises(DataError, match="label 10; labels must be from 0 to 9"):
        load(tmp_path / name)
