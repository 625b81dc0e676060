"""Loading: what each source gives, and every kind of bad input."""

import csv
import gzip
import hashlib
import os
import struct
import zipfile
from importlib import resources

import numpy as np
import pytest

from gpubp.data import idx
from gpubp.data.loading import load, load_inputs
from gpubp.errors import ArgumentError, DataError


def inputs_of(*arguments, **options):
    return load_inputs(*arguments, **options)[0]


# --- files to read --------------------------------------------------------------------------------------------------


def idx_bytes(values: np.ndarray) -> bytes:
    code = {np.dtype(dtype).newbyteorder("="): code for code, dtype in idx.IDX_DTYPES.items()}[values.dtype]
    header = bytes([0, 0, code, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.astype(values.dtype.newbyteorder(">")).tobytes()


def write_idx_folder(folder, *, compress=False, train=12, test=6, **changed):
    """Write a small set in MNIST's layout; `changed` replaces the arrays of single files."""
    rng = np.random.default_rng(0)
    arrays = {
        "train-images-idx3-ubyte": rng.integers(0, 256, (train, 4, 3), dtype=np.uint8),
        "train-labels-idx1-ubyte": (np.arange(train) % 3).astype(np.uint8),
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (test, 4, 3), dtype=np.uint8),
        "t10k-labels-idx1-ubyte": (np.arange(test) % 3).astype(np.uint8),
    }
    arrays.update({name.replace("_", "-"): values for name, values in changed.items()})
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in arrays.items():
        if compress:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(values)))
        else:
            (folder / name).write_bytes(idx_bytes(values))
    return arrays


def write_npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def write_csv(path, text):
    path.write_text(text, encoding="utf-8")
    return path


IRIS = """sepal,petal,species
5.1,1.4,setosa
4.9,1.4,setosa
6.4,4.5,versicolor
6.9,4.9,versicolor
5.9,5.1,virginica
6.3,5.6,virginica
"""


@pytest.fixture
def iris(tmp_path):
    return write_csv(tmp_path / "iris.csv", IRIS)


# --- the bundled digits ---------------------------------------------------------------------------------------------


def test_the_bundled_digits_are_the_1797_of_the_uci_set():
    digits = load("digits")
    assert (digits.features, digits.outputs, digits.feature_shape) == (64, 10, (8, 8))
    assert len(digits.x_train) == 1438
    assert len(digits.x_test) == 359
    assert digits.x_train.dtype == np.uint8
    assert digits.x_train.min() == 0
    assert digits.x_train.max() == 16
    assert digits.class_names == tuple("0123456789")
    # The counts that the data's own documentation gives.
    counts = np.bincount(digits.y_train) + np.bincount(digits.y_test)
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_the_digits_split_is_stratified_and_fixed():
    digits = load("digits", test_fraction=0.5, seed=7)
    share = np.bincount(digits.y_test) / (np.bincount(digits.y_train) + np.bincount(digits.y_test))
    assert np.abs(share - 0.2).max() < 1 / 174
    pixels = hashlib.sha256(digits.x_train.tobytes() + digits.x_test.tobytes()).hexdigest()
    assert pixels == "67f6f520c211c46ded86fa3cdd7ad30e8e2b4589d140e7b1affed2bcb44ac642"
    labels = np.concatenate([digits.y_train, digits.y_test]).astype(np.uint8)
    assert (
        hashlib.sha256(labels.tobytes()).hexdigest()
        == "69a2221cba1818df5492b37ed10a1d74e09f475474cb8ef5d3ecaee834007922"
    )


def test_no_digit_is_in_both_parts():
    digits = load("digits")
    assert not {row.tobytes() for row in digits.x_train} & {row.tobytes() for row in digits.x_test}


def test_the_attribution_lies_beside_the_digits():
    text = (resources.files("gpubp.data.digits") / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert "CC BY 4.0" in text
    assert "Alpaydin" in text


def test_describe_says_sizes_and_shape():
    assert load("digits").describe() == ("digits: 1,438 training and 359 test examples, 64 features (8×8), 10 classes")


# --- IDX ------------------------------------------------------------------------------------------------------------


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
    with pytest.raises(DataError, match=r"axes|no array can have|cut off or damaged|this machine has") as caught:
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


# --- .npz -----------------------------------------------------------------------------------------------------------


def test_npz_with_x_and_y_is_split(tmp_path):
    x = np.arange(40.0).reshape(20, 2)
    found = load(write_npz(tmp_path / "set.npz", x=x, y=np.arange(20) % 2), test_fraction=0.25, seed=3)
    assert (len(found.x_train), len(found.x_test)) == (15, 5)
    np.testing.assert_array_equal(np.sort(np.concatenate([found.x_train, found.x_test]), axis=0), x)
    # Rows and labels stay together: row i of x starts with 2 i.
    np.testing.assert_array_equal(found.x_train[:, 0] // 2 % 2, found.y_train)
    np.testing.assert_array_equal(found.x_test[:, 0] // 2 % 2, found.y_test)


@pytest.mark.parametrize("names", [("x", "y"), ("x_train", "y_train")])
def test_npz_with_a_test_part_keeps_it(tmp_path, names):
    arrays = {names[0]: np.ones((4, 2)), names[1]: np.array([0, 1, 0, 1]), "x_test": np.zeros((1, 2)), "y_test": [1]}
    found = load(write_npz(tmp_path / "set.npz", **arrays))
    assert (len(found.x_train), len(found.x_test)) == (4, 1)
    assert found.y_test.tolist() == [1]


@pytest.mark.parametrize(
    ("y", "task", "class_names"),
    [
        (np.array([3, 7, 3, 7]), "classification", ("3", "7")),
        (np.array([-1, 1, -1, 10]), "classification", ("-1", "1", "10")),
        (np.array([True, False, True, False]), "classification", ("0", "1")),
        (np.array(["dog", "cat", "dog", "cat"]), "classification", ("cat", "dog")),
        (np.array([0.5, 1.0, 2.0, 3.0]), "regression", ()),
        (np.ones((4, 3)), "regression", ()),
    ],
)
def test_npz_labels_say_the_task(tmp_path, y, task, class_names):
    found = load(write_npz(tmp_path / "set.npz", x=np.ones((4, 2)), y=y), test_fraction=0)
    assert (found.task, found.class_names) == (task, class_names)
    assert found.outputs == (len(class_names) or y.reshape(4, -1).shape[1])
    if task == "classification":
        assert [str(name) for name in y.astype(int if y.dtype == bool else y.dtype)] == [
            class_names[i] for i in found.y_train
        ]
    else:
        np.testing.assert_array_equal(found.y_train, y.reshape(4, -1))


def test_the_task_can_be_chosen(tmp_path):
    path = write_npz(tmp_path / "set.npz", x=np.ones((4, 2)), y=np.array([0, 1, 0, 1]))
    regression = load(path, task="regression", test_fraction=0)
    assert regression.y_train.tolist() == [[0.0], [1.0], [0.0], [1.0]]
    path = write_npz(tmp_path / "set.npz", x=np.ones((4, 2)), y=np.array([0.0, 1.0, 0.0, 1.0]))
    assert load(path, task="classification", test_fraction=0).y_train.tolist() == [0, 1, 0, 1]


def test_one_hot_rows_become_class_indices(tmp_path):
    path = write_npz(tmp_path / "set.npz", x=np.ones((4, 2)), y=np.eye(3)[[2, 0, 1, 2]])
    found = load(path, task="classification", test_fraction=0)
    assert found.y_train.tolist() == [2, 0, 1, 2]


@pytest.mark.parametrize(
    ("x", "dtype", "value_range"),
    [
        (np.zeros((4, 3, 3), np.uint8), np.uint8, 255),
        (np.zeros((4, 9), np.uint8), np.uint8, None),
        (np.zeros((4, 9), np.int32), np.float64, None),
        (np.zeros((4, 9), bool), np.float64, None),
        (np.zeros((4, 9), np.float32), np.float32, None),
    ],
)
def test_the_dtype_of_npz_inputs(tmp_path, x, dtype, value_range):
    found = load(write_npz(tmp_path / "set.npz", x=x, y=[0, 1, 0, 1]), test_fraction=0)
    assert found.x_train.dtype == dtype
    assert found.x_train.shape == (4, 9)
    assert found.value_range == value_range


X, Y = np.ones((4, 2)), np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": X}, "it holds a; it must hold x and y"),
        ({}, "it holds nothing; it must hold x and y"),
        ({"x": X}, "no labels; it must hold y"),
        ({"x": X, "y": Y[:3]}, "x has 4 examples and y has 3 labels"),
        ({"x": X, "y": Y, "x_test": X}, "x_test and y_test must come together"),
        ({"x": X, "y": Y, "x_test": X, "y_test": Y[:3]}, "x_test has 4 examples and y_test has 3"),
        ({"x": X, "y": Y, "x_test": np.ones((4, 3)), "y_test": Y}, "2 features and x_test has 3"),
        ({"x": X, "y": Y, "x_test": X, "y_test": Y + 1}, "label '2' is none of the 2 classes 0, 1"),
        ({"x": np.ones(4), "y": Y}, r"x has shape \(4,\)"),
        ({"x": np.ones((4, 0)), "y": Y}, "at least one feature"),
        ({"x": np.float64(3), "y": Y}, "x is a single value"),
        ({"x": X, "y": np.int64(3)}, "y is a single value"),
        ({"x": np.ones((0, 2)), "y": Y[:0]}, "no labels"),
        ({"x": np.ones((0, 2)), "y": np.ones(0)}, "there are no labels"),
        ({"x": X.astype(complex), "y": Y}, "complex128; it must hold real numbers"),
        ({"x": X.astype(str), "y": Y}, "must hold real numbers"),
        ({"x": np.array([[1, 2], [3, np.nan], [1, 1], [1, 1]]), "y": Y}, "NaN or infinity, first in row 1"),
        ({"x": np.array([[1, 2], [3, 4], [1, np.inf], [1, 1]]), "y": Y}, "NaN or infinity, first in row 2"),
        ({"x": X, "y": np.array([0.5, np.nan, 1, 1])}, "y, row 1 holds NaN or infinity"),
        ({"x": X, "y": np.array([0, 0, 0, 0])}, "every label is '0'; classification needs at least two"),
        ({"x": X, "y": Y.astype(complex)}, "class labels must be whole numbers or text"),
        ({"x": X, "y": Y.reshape(2, 2)}, "x has 4 examples and y has 2"),
        ({"x": X, "y": np.array([{}, 1, 2, 3], dtype=object)}, "Python objects"),
    ],
)
def test_bad_npz_content_is_an_error_that_names_the_file(tmp_path, arrays, message):
    path = write_npz(tmp_path / "set.npz", **arrays)
    with pytest.raises(DataError, match=message) as caught:
        load(path, test_fraction=0)
    assert "set.npz" in str(caught.value)


@pytest.mark.parametrize(
    ("task", "y", "message"),
    [
        ("regression", np.array(["a", "b", "a", "b"]), "regression needs numbers"),
        ("classification", np.zeros((4, 2), int), "one-hot rows"),
        ("classification", np.zeros((4, 2, 2), int), r"must be \(examples,\)"),
        ("classification", np.array([0, 1, 0.5, 1]), "holds 0.5; class labels must be whole"),
        ("classification", np.array([0, 1, np.inf, 1]), "NaN or infinity"),
        ("regression", np.ones((4, 2, 2)), r"must be numbers of shape \(examples, outputs\)"),
        ("regression", np.ones((4, 0)), r"must be numbers of shape \(examples, outputs\)"),
    ],
)
def test_labels_that_do_not_suit_the_task_are_an_error(tmp_path, task, y, message):
    with pytest.raises(DataError, match=message):
        load(write_npz(tmp_path / "set.npz", x=X, y=y), task=task, test_fraction=0)


def _member_cut(path):
    """Damage the values of x inside the archive, which its checksum notices."""
    content = bytearray(path.read_bytes())
    content[200] ^= 0xFF
    path.write_bytes(bytes(content))


def _single_array(path):
    with path.open("wb") as file:
        np.save(file, X)


def _not_an_array(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00\x18\x00{'descr': ('<f8', [broken ")
        archive.writestr("y.npy", b"")


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not an archive"),
        lambda path: path.write_bytes(path.read_bytes()[:-30]),
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        _single_array,
        _member_cut,
        _not_an_array,
    ],
)
def test_a_damaged_npz_file_is_an_error_that_names_it(tmp_path, damage):
    path = write_npz(tmp_path / "set.npz", x=X, y=Y)
    damage(path)
    with pytest.raises(DataError, match=r"set\.npz: "):
        load(path)


def test_reading_an_npz_file_runs_no_code_from_it(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path / "sprung").touch, ()

    path = write_npz(tmp_path / "set.npz", x=np.array([Trap()], dtype=object), y=Y)
    with pytest.raises(DataError, match="Python objects"):
        load(path)
    assert not (tmp_path / "sprung").exists()


def _load_or_explain(path):
    """Load a damaged file: it gives a data set or a DataError, and no other error."""
    try:
        return load(path, test_fraction=0)
    except DataError:
        return None


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_flipped_byte_anywhere_in_an_npz_file_is_noticed_or_harmless(tmp_path, save):
    path = tmp_path / "set.npz"
    save(path, x=X, y=Y)
    content = path.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x55
        path.write_bytes(bytes(damaged))
        found = _load_or_explain(path)
        if found is not None:
            np.testing.assert_array_equal(found.x_train, X)
            np.testing.assert_array_equal(found.y_train, Y)


def test_a_flipped_byte_anywhere_in_a_gzip_file_is_noticed_or_harmless(tmp_path):
    arrays = write_idx_folder(tmp_path, compress=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    content = path.read_bytes()
    for position in range(len(content)):
        for flip in (0x01, 0x55, 0x80):
            damaged = bytearray(content)
            damaged[position] ^= flip
            path.write_bytes(bytes(damaged))
            found = _load_or_explain(tmp_path)
            if found is not None:
                np.testing.assert_array_equal(found.x_train, arrays["train-images-idx3-ubyte"].reshape(12, 12))


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ("X", "y"),
        ("X", "Y"),
        ("data", "target"),
        ("data", "targets"),
        ("images", "labels"),
        ("features", "label"),
        ("x_train", "y_train"),
        ("X_train", "y_train"),
        ("train_x", "train_y"),
        ("train_images", "train_labels"),
        ("Train_Data", "TRAIN_LABELS"),
    ],
)
def test_npz_arrays_by_other_usual_names(tmp_path, x, y):
    found = load(write_npz(tmp_path / "set.npz", **{x: X, y: Y}), test_fraction=0)
    assert found.y_train.tolist() == [0, 1, 0, 1]
    is_told = {x.lower(), y.lower()} - {"x", "y", "x_train", "y_train"}
    assert bool(is_told) == any(x in note for note in found.notes)


@pytest.mark.parametrize(("front", "back"), [("test_", ""), ("", "_test"), ("Test_", "")])
def test_npz_test_parts_by_other_usual_names(tmp_path, front, back):
    test = {f"{front}images{back}": X[:1], f"{front}labels{back}": Y[:1, None]}
    found = load(write_npz(tmp_path / "set.npz", images=X, labels=Y[:, None], val_images=X, val_labels=Y, **test))
    assert (len(found.x_train), len(found.x_test)) == (4, 1)


def test_the_plainest_names_of_an_npz_file_are_taken_first(tmp_path):
    path = write_npz(tmp_path / "set.npz", X=0 * X, data=0 * X, x=X, labels=0 * Y, y=Y)
    found = load(path, test_fraction=0)
    np.testing.assert_array_equal(found.x_train, X)
    np.testing.assert_array_equal(found.y_train, Y)


def npy(header, values=b""):
    header = f"{header:<117}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + values


@pytest.mark.parametrize(
    ("header", "size", "message"),
    [
        (
            "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 2)}",
            64,
            "announces 16,000,000,000,000 byt",
        ),
        (
            "{'descr': '<f8', 'fortran_order': False, 'shape': (4, 2)}",
            2**26,
            "announces 64 bytes and it has 67,108,864",
        ),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (4, 2)}", 0, "announces 64 bytes and it has 0"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776, 1099511627776)}", 0, "no array can have"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (0, 9223372036854775807)}", 0, "no array can have"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 2)}", 64, "its shape is"),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (4, 2)}", 64, "Python objects"),
        (
            "{'descr': '<M8[s]', 'fortran_order': False, 'shape': (4, 2)}",
            64,
            "datetime64.s.; it must hold real numbers",
        ),
        ("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (4,)}", 32, "must hold real numbers"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': None}", 64, "damaged"),
        ("(" * 100, 64, "damaged"),
    ],
)
def test_what_a_member_announces_is_checked_before_it_is_read(tmp_path, monkeypatch, header, size, message):
    path = tmp_path / "set.npz"
    np.savez(path, y=Y)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", npy(header, bytes(size)))

    def read(*arguments, **options):
        pytest.fail("an array was read")

    monkeypatch.setattr("numpy.lib.format.read_array", read)
    with pytest.raises(DataError, match=rf"set\.npz.*{message}"):
        load(path, test_fraction=0)


def test_members_that_nobody_needs_are_not_read(tmp_path):
    path = write_npz(tmp_path / "set.npz", x=X, y=Y)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("other.npy", npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 2)}"))
        archive.writestr("notes.txt", "x")
    assert len(load(path, test_fraction=0).x_train) == 4


def test_what_memory_cannot_hold_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "set.npz"
    np.savez_compressed(path, x=np.zeros((1000, 100)), y=np.arange(1000) % 2)
    write_idx_folder(tmp_path / "set", compress=True, train_images_idx3_ubyte=np.zeros((100, 90, 90), np.uint8))
    monkeypatch.setattr("gpubp.data.source.physical_memory", lambda: 500_000)
    for data in (path, tmp_path / "set"):
        with pytest.raises(DataError, match=r"it unpacks to .* GiB; this machine has"):
            load(data)


# --- regular files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t.csv", "t.npz", "t.csv.gz"])
def test_a_pipe_is_no_data(tmp_path, name):
    os.mkfifo(tmp_path / name)
    for function in (load, load_inputs):
        with pytest.raises(DataError, match="it cannot be read: it is not a regular file"):
            function(tmp_path / name)
    (tmp_path / "link.csv").symlink_to("/dev/zero")
    with pytest.raises(DataError, match="it cannot be read: it is not a regular file"):
        load(tmp_path / "link.csv")


def test_a_pipe_among_idx_files_is_an_error(tmp_path):
    write_idx_folder(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    os.mkfifo(tmp_path / "t10k-labels-idx1-ubyte")
    with pytest.raises(DataError, match="it cannot be read: it is not a regular file"):
        load(tmp_path)


@pytest.mark.parametrize(("link", "target"), [("t.csv", "cache/5d41"), ("data", "cache/t.csv"), ("t.csv", "x.CSV.GZ")])
def test_a_link_is_known_by_its_own_name_or_by_its_targets(tmp_path, link, target):
    (tmp_path / "cache").mkdir()
    content = IRIS.encode()
    (tmp_path / target).write_bytes(gzip.compress(content) if target.endswith("GZ") else content)
    (tmp_path / link).symlink_to(tmp_path / target)
    assert len(load(tmp_path / link, test_fraction=0).x_train) == 6


@pytest.mark.parametrize("name", ["a\udcff.csv", "a\0b.csv", "a\0b", "a\ud800.npz"])
def test_a_name_that_is_no_text_is_an_error(name):
    with pytest.raises(DataError, match=r"is no text that a file can be called by; rename or link it"):
        load(name)


@pytest.mark.parametrize("name", ["x" * 256, "x" * 256 + ".csv", "x" * 5000 + ".npz", "/".join(["x" * 100] * 60)])
def test_a_name_that_is_too_long_is_an_error_and_short(name):
    with pytest.raises(DataError, match="no data set and no file is called") as caught:
        load(name)
    assert len(str(caught.value)) < 400


# --- CSV ------------------------------------------------------------------------------------------------------------


def test_csv_gives_names_classes_and_values(iris):
    found = load(iris, test_fraction=0)
    assert found.task == "classification"
    assert found.feature_names == ("sepal", "petal")
    assert found.class_names == ("setosa", "versicolor", "virginica")
    assert found.y_train.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.x_train[2].tolist() == [6.4, 4.5]
    assert found.x_train.dtype == np.float64


@pytest.mark.parametrize("label", ["petal", 1, "1", -2])
def test_csv_label_by_name_or_by_index(tmp_path, label):
    path = write_csv(tmp_path / "t.csv", "a,petal,b\n1,2.5,3\n4,5.5,6\n")
    found = load(path, label=label, test_fraction=0)
    assert found.y_train.tolist() == [[2.5], [5.5]]
    assert found.feature_names == ("a", "b")


@pytest.mark.parametrize("label", [0, "0", -3, "-3"])
def test_a_label_that_is_a_number_is_a_position(tmp_path, label):
    path = write_csv(tmp_path / "t.csv", "1,0,label\n5.5,6,7\n8.5,9,1\n")
    found = load(path, label=label, test_fraction=0)
    assert found.y_train.tolist() == [[5.5], [8.5]]
    assert found.feature_names == ("0", "label")
    if label in (0, "0"):
        assert "label: column '1' (a number is a position; the column named 0 is at 1)" in found.notes


@pytest.mark.parametrize("name", ["label", "class", "Target", "y"])
def test_the_label_column_is_known_by_its_usual_names(tmp_path, name):
    path = write_csv(tmp_path / "t.csv", f"{name},a\nq,1\nr,2\n")
    assert load(path, test_fraction=0).class_names == ("q", "r")


def test_a_csv_without_a_header_has_columns_by_position(tmp_path):
    path = write_csv(tmp_path / "t.csv", "5.1,1.4,setosa\n6.4,4.5,versicolor\n")
    found = load(path, test_fraction=0)
    assert found.feature_names == ()
    assert found.label == 2
    assert found.x_train.tolist() == [[5.1, 1.4], [6.4, 4.5]]


def test_a_header_of_numbers_is_told_by_its_label_column(tmp_path):
    path = write_csv(tmp_path / "t.csv", "0,1,label\n5.1,1.4,cat\n6.4,4.5,dog\n")
    found = load(path, test_fraction=0)
    assert found.class_names == ("cat", "dog")
    assert len(found.x_train) == 2


def test_a_header_of_text_above_text_is_told_by_the_label_that_was_named(tmp_path):
    path = write_csv(tmp_path / "t.csv", "0,1,kind\n5.1,1.4,cat\n6.4,4.5,dog\n")
    found = load(path, label="kind", test_fraction=0)
    assert found.class_names == ("cat", "dog")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv_dialects(tmp_path, delimiter, bom, end):
    text = bom + IRIS.replace(",", delimiter).replace("\n", end) + end + end
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode())
    found = load(path, test_fraction=0)
    assert found.feature_names == ("sepal", "petal")
    assert len(found.x_train) == 6


def test_csv_quotes_and_spaces(tmp_path):
    path = write_csv(tmp_path / "t.csv", 'a , "b, c",label\n 1 ,"2", big cat\n3,4,"dog, small"\n')
    found = load(path, test_fraction=0)
    assert found.class_names == ("big cat", "dog, small")
    assert found.x_train.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("labels", "task"),
    [
        (["0", "1", "2", "1"], "classification"),
        (["0.0", "1.0", "2.0", "1.0"], "classification"),
        (["0.5", "1", "2", "1"], "regression"),
        (["a", "1", "2", "1"], "classification"),
        ([str(i) for i in range(60)], "regression"),
        ([str(i % 50) for i in range(60)], "classification"),
        (["1e300", "2", "3", "4"], "regression"),
    ],
)
def test_csv_labels_say_the_task(tmp_path, labels, task):
    path = write_csv(tmp_path / "t.csv", "a,label\n" + "".join(f"1,{label}\n" for label in labels))
    assert load(path, test_fraction=0).task == task


def test_whole_number_classes_are_in_numeric_order(tmp_path):
    path = write_csv(tmp_path / "t.csv", "a,label\n1,10\n2,9\n3,9.0\n")
    found = load(path, test_fraction=0)
    assert found.class_names == ("9", "10")
    assert found.y_train.tolist() == [1, 0, 0]


def test_regression_on_whole_numbers_when_asked(tmp_path):
    path = write_csv(tmp_path / "t.csv", "a,label\n1,10\n2,9\n")
    assert load(path, task="regression", test_fraction=0).y_train.tolist() == [[10.0], [9.0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty"),
        ("\n\n", "it is empty"),
        ("a,b,label\n", "no rows below the header"),
        ("a,a,label\n1,2,x\n", "names 'a' twice"),
        ("a,b,label\n1,2,x\n1,2\n", "line 3: it has 2 cells and the first line has 3"),
        ("a,b,label\n1,2,x\n\n1,2,3,y\n", "line 4: it has 4 cells"),
        ("a,b,label\n1,2,x\n1,,y\n", "line 3: the column 'b' is empty"),
        ("a,b,label\n1,2,x\n1,?,y\n", "line 3: the column 'b' is '\\?'; inputs must be finite numbers"),
        ("a,b,label\n1,nan,x\n1,2,y\n", "line 2: the column 'b' is 'nan'"),
        ("a,b,label\n1,2,x\n-inf,2,y\n", "line 3: the column 'a' is '-inf'"),
        ("a,b,label\n1,1e999,x\n1,2,y\n", "line 2: the column 'b' is '1e999'"),
        ("a,b,label\n1,2,x\n1,2,\n", "line 3: the label column 'label' is empty"),
        ("a,b,label\n1,2,nan\n1,2,3\n", "line 2: the label column 'label' has the missing value 'nan'"),
        ("a,b,label\n1,2,x\n1,2,x\n", "every label is 'x'"),
        ("label\n1\n2\n", "label column only"),
        ('a,b,label\n1,2,"x\n1,2,y\n', "line 3: "),
        ("a,b,label\n1,2,x\n1,2\0,y\n", "line 3: "),
        ('a,label\n"1\n",x\n2\n', "line 4: it has 1 cells"),
    ],
)
def test_bad_csv_is_an_error_with_its_line(tmp_path, text, message):
    path = write_csv(tmp_path / "t.csv", text)
    with pytest.raises(DataError, match=message) as caught:
        load(path, test_fraction=0)
    assert "t.csv" in str(caught.value)


def test_a_csv_cell_over_the_size_limit_is_an_error(tmp_path):
    path = write_csv(tmp_path / "t.csv", "a,label\n" + "1" * (csv.field_size_limit() + 1) + ",x\n")
    with pytest.raises(DataError, match="line 2: field larger than field limit"):
        load(path)


def test_csv_that_is_not_text_is_an_error(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,label\n1,\xff\xfe\n")
    with pytest.raises(DataError, match="not UTF-8 text"):
        load(path)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("specis", "no column 'specis' among sepal, petal, species; did you mean 'species'"),
        (3, "no column 3; there are 3"),
        (-4, "no column -4"),
        ("zzz", "no column 'zzz' among sepal, petal, species$"),
    ],
)
def test_a_label_column_that_is_not_there_is_an_error(iris, label, message):
    with pytest.raises(DataError, match=message):
        load(iris, label=label)


def test_regression_on_text_is_an_error(iris):
    with pytest.raises(DataError, match="'species' has 'setosa'; regression needs numbers"):
        load(iris, task="regression")


def test_classification_on_fractions_is_an_error(tmp_path):
    path = write_csv(tmp_path / "t.csv", "a,label\n1,0.5\n2,1\n")
    with pytest.raises(DataError, match="class labels must be whole numbers"):
        load(path, task="classification")


def test_classification_on_numbers_too_large_for_64_bits_is_an_error(tmp_path):
    path = write_csv(tmp_path / "t.csv", "a,label\n1,1e300\n2,1\n")
    with pytest.raises(DataError, match="class labels must be whole numbers"):
        load(path, task="classification")


# --- a model's classes and columns ----------------------------------------------------------------------------------


def test_labels_follow_the_classes_of_an_existing_model(tmp_path):
    path = write_csv(tmp_path / "t.csv", "a,label\n1,dog\n2,cat\n")
    found = load(path, classes=["eel", "dog", "cat"], test_fraction=0)
    assert found.y_train.tolist() == [1, 2]
    assert found.outputs == 3


def test_columns_follow_those_of_an_existing_model(tmp_path):
    path = write_csv(tmp_path / "t.csv", "id,b,label,a\n1,2,x,3\n4,5,y,6\n")
    found = load(path, feature_names=["a", "b"], test_fraction=0)
    assert found.x_train.tolist() == [[3, 2], [6, 5]]
    assert found.feature_names == ("a", "b")


def test_one_class_is_enough_when_the_model_knows_the_others(tmp_path):
    path = write_csv(tmp_path / "t.csv", "a,label\n1,dog\n2,dog\n")
    assert load(path, classes=["cat", "dog"], test_fraction=0).y_train.tolist() == [1, 1]


def test_a_label_that_the_model_does_not_know_is_an_error(tmp_path):
    path = write_csv(tmp_path / "t.csv", "a,label\n1,dog\n2,emu\n")
    with pytest.raises(DataError, match="the label 'emu' is none of the 2 classes cat, dog"):
        load(path, classes=["cat", "dog"])


def test_inputs_of_the_digits_are_their_test_part():
    np.testing.assert_array_equal(inputs_of("digits"), load("digits").x_test)


def test_inputs_of_an_npz_file_need_no_labels(tmp_path):
    images = np.arange(12).reshape(2, 3, 2)
    np.testing.assert_array_equal(inputs_of(write_npz(tmp_path / "s.npz", x=images)), images.reshape(2, 6))
    np.testing.assert_array_equal(inputs_of(write_npz(tmp_path / "s.npz", x=X, x_test=2 * X)), 2 * X)


def test_inputs_of_a_csv_file_are_picked_by_the_models_columns(tmp_path):
    path = write_csv(tmp_path / "t.csv", "note,petal,id,sepal\nx,1,2,3\ny,4,5,6\n")
    assert inputs_of(path, feature_names=["sepal", "petal"]).tolist() == [[3, 1], [6, 4]]


def test_inputs_of_a_csv_file_without_labels_are_all_its_columns(tmp_path):
    path = write_csv(tmp_path / "t.csv", "a,b\n1,2\n3,4\n")
    assert inputs_of(path).tolist() == [[1, 2], [3, 4]]
    path = write_csv(tmp_path / "t.csv", "a,b,label\n1,2,x\n3,4,\n")
    assert inputs_of(path).tolist() == [[1, 2], [3, 4]]
    assert inputs_of(path, label="label").tolist() == [[1, 2], [3, 4]]


def test_a_column_of_the_model_that_is_missing_is_an_error(iris):
    with pytest.raises(DataError, match="the column 'width' is missing; the model was trained on sepal, width"):
        inputs_of(iris, feature_names=["sepal", "width"])


def test_no_inputs_are_an_error(tmp_path):
    with pytest.raises(DataError, match="no examples"):
        inputs_of(write_npz(tmp_path / "s.npz", x=np.ones((0, 3))))


# --- what cannot be found -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digts", "called 'digts' .did you mean 'digits'"),
        ("nowhere/data.npz", "no file is called 'nowhere/data.npz'"),
        ("", "it must be one of|no file train-images"),
    ],
)
def test_an_unknown_data_set_is_an_error(tmp_path, monkeypatch, spec, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        load(spec)


def test_an_unknown_kind_of_file_is_an_error(tmp_path):
    (tmp_path / "data.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"must end in \.npz or \.csv"):
        load(tmp_path / "data.parquet")


@pytest.mark.parametrize("name", ["data.npz", "data.csv"])
def test_a_file_that_may_not_be_read_is_an_error(tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(b"")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    # The tests may run as root, whom no file mode stops.
    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        load(tmp_path / name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "clasification"}, "did you mean 'classification'"),
        ({"test_fraction": 1.0}, "test_fraction was 1.0"),
        ({"test_fraction": -0.1}, "test_fraction was -0.1"),
        ({"test_fraction": float("nan")}, "test_fraction was nan"),
        ({"test_fraction": "many"}, "test_fraction was 'many'"),
        ({"label": "species"}, "only a CSV file has label columns"),
    ],
)
def test_arguments_of_load(options, message):
    with pytest.raises(ArgumentError, match=message):
        load("digits", **options)
