"""Parquet, Arrow and Feather: what they give is what the same table gives as CSV, and every kind of bad input."""

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from data_files import write_csv

from gpubp.data import arrow
from gpubp.data.loading import load, load_inputs
from gpubp.data.preparation import InputRules
from gpubp.data.table import TableFormat
from gpubp.errors import ArgumentError, DataError

MEAN = InputRules(missing="mean")
CSV = "size,city,old,count,w,label\n1.5,Rome,true,3,1,a\n,Oslo,false,4,2,b\n2.5,,true,5,0.5,a\n-1e-3,Rome,,6,1,b\n"


def _table():
    return pa.table(
        {
            "size": pa.array([1.5, None, 2.5, -1e-3]),
            "city": pa.array(["Rome", "Oslo", None, " Rome"]).dictionary_encode(),
            "old": pa.array([True, False, True, None]),
            "count": pa.array([3, 4, 5, 6], pa.int16()),
            "w": pa.array([1, 2, 0.5, 1], pa.float32()),
            "label": pa.array(["a", "b", "a", "b"], pa.large_string()),
        }
    )


def _write_parquet(path, table):
    pq.write_table(table, path)
    return path


def _write_stream(path, table):
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, 3)
    return path


def _write_feather(path, table):
    pyarrow.feather.write_feather(table, path)
    return path


def _write_parts(path, table):
    path.mkdir()
    for part in range(2):
        _write_parquet(path / f"t-{part:05}-of-00002.parquet", table.slice(2 * part, 2))
    (path / "_SUCCESS").touch()
    return path


WRITERS = {"t.parquet": _write_parquet, "t.feather": _write_feather, "t.arrow": _write_stream, "parts": _write_parts}


@pytest.mark.parametrize("name", WRITERS)
def test_a_table_gives_what_it_gives_as_csv(tmp_path, name):
    options = {"weight_column": "w", "rules": MEAN, "test_fraction": 0}
    expected = load(write_csv(tmp_path / "t.csv", CSV), **options)
    found = load(WRITERS[name](tmp_path / name, _table()), **options)
    for field in ("x_train", "y_train", "weight_train"):
        np.testing.assert_array_equal(getattr(found, field), getattr(expected, field), strict=True)
    for field in ("task", "class_names", "feature_names", "columns", "label", "weight_column", "preparation"):
        assert getattr(found, field) == getattr(expected, field)


def test_a_model_reads_its_columns_by_name(tmp_path):
    trained = load(write_csv(tmp_path / "t.csv", CSV), label="label", rules=MEAN, test_fraction=0)
    path = _write_parquet(tmp_path / "t.parquet", _table().select(["label", "w", "count", "old", "city", "size"]))
    x, _ = load_inputs(path, preparation=trained.preparation, model_label="label")
    np.testing.assert_array_equal(x, trained.x_train)


@pytest.mark.parametrize(("labels", "task"), [([0.25, 1.5, 3], "regression"), ([0, 1, 1], "classification")])
def test_the_task_follows_from_the_labels(tmp_path, labels, task):
    path = _write_parquet(tmp_path / "t.parquet", pa.table({"a": [1, 2, 3], "y": labels}))
    found = load(path, test_fraction=0)
    assert found.task == task
    assert np.ravel(found.y_train).tolist() == labels


def test_several_label_columns_may_be_truths(tmp_path):
    table = pa.table({"a": [1, 2], "p": [True, False], "q": [1, 1]})
    found = load(_write_parquet(tmp_path / "t.parquet", table), label="p,q", test_fraction=0)
    assert (found.task, found.y_train.tolist()) == ("multilabel", [[1, 1], [0, 1]])


def test_a_column_is_read_by_its_whole_name(tmp_path):
    table = pa.table({"a": [{"b": 1}, {"b": 2}], "a.b": [3.0, 4.0], "y": [0, 1]})
    found = load(_write_parquet(tmp_path / "t.parquet", table), table=TableFormat(drop="a"), test_fraction=0)
    assert (found.feature_names, found.x_train.tolist()) == (("a.b",), [[3], [4]])


def test_text_may_be_views_as_polars_writes_it(tmp_path):
    columns = {"a": ["u", None, "v"], "y": ["p", "q", "p"]}
    views = pa.table({name: pa.array(values, pa.string_view()) for name, values in columns.items()})
    found = load(_write_feather(tmp_path / "t.feather", views), rules=MEAN, test_fraction=0)
    expected = load(_write_feather(tmp_path / "u.feather", pa.table(columns)), rules=MEAN, test_fraction=0)
    np.testing.assert_array_equal(found.x_train, expected.x_train)
    assert (found.class_names, found.columns) == (expected.class_names, expected.columns)


@pytest.mark.parametrize("name", ["t.parquet", "t.feather"])
def test_a_link_may_have_any_name(tmp_path, name):
    WRITERS[name](tmp_path / name, _table())
    (tmp_path / "latest").symlink_to(name)
    expected = load(tmp_path / name, rules=MEAN).x_train
    np.testing.assert_array_equal(load(tmp_path / "latest", rules=MEAN).x_train, expected)


@pytest.mark.parametrize("column", ["a", "y"])
def test_text_that_is_no_unicode_is_an_error(tmp_path, column):
    text = pa.array([b"p", b"\xff"]).view(pa.string())
    table = pa.table({"a": pa.array([1, 2]), "y": pa.array([0, 1])} | {column: text})
    with pytest.raises(DataError, match=r"t\.parquet: row group 0 cannot be read: .*Invalid UTF8"):
        load(_write_parquet(tmp_path / "t.parquet", table), test_fraction=0)


def test_the_index_of_pandas_is_no_input(tmp_path):
    table = pa.table({"a": [1, 2], "y": [0, 1], "__index_level_0__": [7, 8]})
    path = _write_parquet(tmp_path / "t.parquet", table)
    assert load(path, test_fraction=0).feature_names == ("a",)
    kept = load(path, label="y", table=TableFormat(keep_index=True), test_fraction=0)
    assert kept.feature_names == ("a", "__index_level_0__")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": [1.0, None], "y": [0, 1]}, r"t\.parquet, row 1: the column 'a' is empty; .*--missing mean"),
        ({"a": [1.0, float("inf")], "y": [0, 1]}, "row 1: the column 'a' is 'inf'; inputs must be finite numbers"),
        ({"a": [1, 2], "y": [0, None]}, "row 1: the label column 'y' is empty; every example needs a label"),
        ({"a": [1, 2], "y": ["p", None]}, "row 1: the label column 'y' is empty; every example needs a label"),
        ({"a": ["1", "x"], "y": [0, 1]}, "row 1: the column 'a' is 'x'; most others are numbers"),
        ({"a": [datetime.date(2020, 1, 1)] * 2, "y": [0, 1]}, r"'a' holds date32.*--drop a .*days since"),
        ({"a": [[1], [2]], "y": [0, 1]}, "column 'a' holds list<.*; it must hold numbers, truths or text"),
        ({"a": [1, 2], "y": [[1], [2]]}, "label column 'y' holds list<"),
        ({"a": [], "y": []}, "it has no rows"),
    ],
)
def test_a_value_that_does_not_fit_is_an_error(tmp_path, columns, message):
    with pytest.raises(DataError, match=message):
        load(_write_parquet(tmp_path / "t.parquet", pa.table(columns)), test_fraction=0)


@pytest.mark.parametrize("option", [{"header": "no"}, {"decimal": ","}, {"delimiter": ";"}])
def test_how_text_is_written_is_no_option(tmp_path, option):
    path = _write_parquet(tmp_path / "t.parquet", _table())
    with pytest.raises(ArgumentError, match=r"only text \(\.csv, \.tsv\) has it"):
        load(path, table=TableFormat(**option))


def test_a_part_that_is_missing_is_an_error(tmp_path):
    folder = _write_parts(tmp_path / "parts", _table())
    (folder / "t-00000-of-00002.parquet").unlink()
    with pytest.raises(DataError, match="part 0 is missing"):
        load(folder)


@pytest.mark.parametrize("names", [("test-0-of-1", "train-0-of-1"), ("test-0-of-1", "train-0-of-2", "train-1-of-2")])
def test_parts_of_several_tables_are_not_mixed(tmp_path, names):
    for name in names:
        _write_parquet(tmp_path / f"{name}.parquet", _table())
    with pytest.raises(DataError, match="it holds the parts of several tables"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["train-0-of-2.parquet", "part-3.parquet"])
def test_one_part_may_be_named_alone(tmp_path, name):
    assert len(load(_write_parquet(tmp_path / name, _table()), label="count", test_fraction=0, rules=MEAN).y_train) == 4


def test_parts_are_counted_in_their_names(tmp_path):
    for part in (0, 2):
        _write_parquet(tmp_path / f"part.{part}.parquet", _table())
    with pytest.raises(DataError, match="part 1 is missing"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": [1], "y": [0], "z": [1]}, r"it has z besides"),
        ({"y": [0]}, "it lacks a"),
        ({"y": [0], "a": [1]}, "they stand otherwise"),
        ({"a": ["x"], "y": [0]}, r"its column 'a' holds string, and that of .* int64"),
    ],
)
def test_a_part_with_other_columns_is_an_error(tmp_path, columns, message):
    _write_parquet(tmp_path / "a.parquet", pa.table({"a": [1], "y": [0]}))
    _write_parquet(tmp_path / "b.parquet", pa.table(columns))
    with pytest.raises(DataError, match=rf"b\.parquet: .*{message}"):
        load(tmp_path)


def test_the_row_of_an_error_is_counted_in_its_part(tmp_path):
    _write_parquet(tmp_path / "a.parquet", pa.table({"a": [1.0, 2.0], "y": [0, 1]}))
    _write_parquet(tmp_path / "b.parquet", pa.table({"a": [1.0, None], "y": [0, 1]}))
    with pytest.raises(DataError, match=r"b\.parquet, row 1: the column 'a' is empty"):
        load(tmp_path)


def test_a_row_group_that_is_damaged_is_named(tmp_path):
    rows = np.random.default_rng(0).random(3000)
    path = tmp_path / "t.parquet"
    table = pa.table({"a": rows, "y": rows})
    pq.write_table(table, path, row_group_size=1000, write_page_checksum=True, use_dictionary=False)
    start = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[start + 500] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="row group 1 cannot be read"):
        load(path)


@pytest.mark.parametrize("name", ["t.parquet", "t.feather", "t.arrow"])
@pytest.mark.parametrize("cut", [0, 3, -4, -30])
def test_a_file_that_is_cut_off_is_an_error(tmp_path, name, cut):
    path = WRITERS[name](tmp_path / name, _table())
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=rf"{name}: it (is not a whole|cannot be read)"):
        load(path)


def test_without_pyarrow_it_is_said_how_to_install_it(tmp_path, monkeypatch):
    path = _write_parquet(tmp_path / "t.parquet", _table())
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"needs pyarrow: .*pip install 'gpubp\[parquet\]'"):
        load(path)


@pytest.mark.parametrize("rows", [3, 300])
def test_a_large_dictionary_is_not_gone_through_for_each_block(rows):
    """A block has few rows, and every one has the dictionary of all."""
    places = pa.array([99, None, 5] * (rows // 3), pa.int32())
    found = pa.DictionaryArray.from_arrays(places, pa.array([f"t{i}" for i in range(100)]))
    indices, texts = arrow._texts(found.slice(1))
    assert [texts[i] for i in indices.tolist()] == (["t99", "", "t5"] * (rows // 3))[1:]
    assert len(texts) <= min(rows, 101)
