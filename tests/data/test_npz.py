"""Archives of arrays: what they give, and every kind of damage."""

import struct
import zipfile

import numpy as np
import pytest
from data_files import inputs_of, write_idx_folder, write_npz

from gpubp.data.loading import load
from gpubp.errors import DataError


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
    monkeypatch.setattr("gpubp.data.source.usable_memory", lambda: 500_000)
    for data in (path, tmp_path / "set"):
        with pytest.raises(DataError, match=r"it unpacks to .* GiB; this process may use"):
            load(data)


def test_inputs_of_an_npz_file_need_no_labels(tmp_path):
    images = np.arange(12).reshape(2, 3, 2)
    np.testing.assert_array_equal(inputs_of(write_npz(tmp_path / "s.npz", x=images)), images.reshape(2, 6))
    np.testing.assert_array_equal(inputs_of(write_npz(tmp_path / "s.npz", x=X, x_test=2 * X)), 2 * X)
