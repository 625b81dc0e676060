"""Loading: names, the bundled digits, a model's classes and columns, and what cannot be found."""

import gzip
import hashlib
import os
from importlib import resources

import numpy as np
import pytest
from data_files import IRIS, inputs_of, write_csv, write_idx_folder, write_npz

from gpubp.data.loading import load, load_inputs
from gpubp.errors import ArgumentError, DataError


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
    (tmp_path / "data.xls").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"must end in \.npz, \.csv or \.parquet"):
        load(tmp_path / "data.xls")


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
        ({"label": "species"}, "only a table has label columns"),
    ],
)
def test_arguments_of_load(options, message):
    with pytest.raises(ArgumentError, match=message):
        load("digits", **options)
