"""CSV files that pyarrow reads, and those that it leaves to the reader of rows: `conftest` compares the two."""

import numpy as np
import pytest

from gpubp.data import loading, table
from gpubp.data.columns import Wanted
from gpubp.data.loading import load
from gpubp.data.preparation import InputRules
from gpubp.data.table import TableFormat
from gpubp.errors import DataError

MEAN = InputRules(missing="mean")


def _source(tmp_path, content, rules=None, **written):
    path = tmp_path / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return loading.read_table(path, None, TableFormat(**written), Wanted(), rules or InputRules())


FAST = {
    "numbers": "a,b,y\n1,2.5,0\n-0,.5,1\n1e-3,4.,1\n",
    "quotes in the header": '"a","b,c","y"\n1,2,0\n3,4,1\n',
    "windows": "a,b,y\r\n1,2,0\r\n3,4,1\r\n",
    "no last line break": "a,b,y\n1,2,0\n3,4,1",
    "no header": "1,2.5,x\n3,4.25,z\n",
    "blank lines": "a,y\n1,0\n\n\n2,1\n\n",
    "text": "a,b,y\nRome,1,p\n Rome ,2,q\nÅs,3,p \n",
    "semicolons": "a;b;y\n1;2;0\n3;4;1\n",
    "tabs": "a\tb\ty\n1\t2\t0\n3\t4\t1\n",
    "labels to predict": "a,y\n1,0.1\n2,1e300\n3,-.5\n4,2\n",
    "labels with zeros": "a,y\n1,007\n2,1.5\n3,2\n",
    "long numbers": "a,y\n0.1000000000000000055511151231257827,0\n179769313486231570000000000000000000,1\n4.9e-324,1\n",
}
SLOW = {
    "quotes": 'a,b,y\n"1",2,0\n3,4,1\n',
    "lone carriage returns": "a,y\r1,0\r2,1\r",
    "a byte order mark": "\ufeffa,y\n1,0\n2,1\n",
    "utf-16": "a,y\n1,0\n2,1\n".encode("utf-16"),
    "spaces": "a b y\n1  2 0\n3 4   1\n",
    "blank lines above": "a,y\n\n1,0\n2,1\n",
    "digits of another script": "a,y\n１,0\n２,1\n",
    "decimal commas": "a;y\n1,5;0\n2,5;1\n",
    "names of rows": "a,y\nr1,1,0\nr2,2,1\n",
    "what Excel writes": "sep=;\na;y\n1;0\n2;1\n",
    "a delimiter that is not ASCII": "a§y\n1§0\n2§1\n",
}


@pytest.mark.parametrize("name", FAST)
def test_pyarrow_reads_plain_files(tmp_path, name):
    assert _source(tmp_path, FAST[name]).again is not None


@pytest.mark.parametrize("name", SLOW)
def test_what_pyarrow_reads_otherwise_is_read_row_by_row(tmp_path, name):
    decimal = {"decimal": ","} if name == "decimal commas" else {}
    delimiters = {"spaces": "space", "a delimiter that is not ASCII": "§"}
    delimiter = {"delimiter": delimiters[name]} if name in delimiters else {}
    assert _source(tmp_path, SLOW[name], **decimal, **delimiter).again is None


@pytest.mark.parametrize(
    ("content", "is_fast"),
    [
        ("a,b,y\n1,,0\nNA,2,1\nnan,NaN,0\n?,n/a,1\n", True),
        ("a,b,y\n1,,0\n nA ,2,1\n", False),
        ("a,b,y\n1,,0\n,,\n3,4,1\n", False),
        ("a,b,y\n1,x,0\n,,\n3,z,1\n", False),
    ],
)
def test_missing_values(tmp_path, content, is_fast):
    assert (_source(tmp_path, content, MEAN).again is not None) == is_fast


@pytest.mark.parametrize("cell", ["inf", "1e999", "0x10", "1_0", "1 0", "", "nan", "NA", "true", "\udcff"])
def test_a_cell_that_is_no_number_is_an_error_with_its_line(tmp_path, cell):
    content = f"a,b,y\n1,2,0\n\n3,{cell},1\n5,6,0\n7,8,1\n".encode(errors="surrogateescape")
    with pytest.raises(DataError, match=r"line 4: the column 'b' is|it is not UTF-8 text"):
        _source(tmp_path, content)


@pytest.mark.parametrize("start", [0, 2**20 - 2**16])
def test_a_cell_that_is_too_long_for_the_reader_of_rows_is_an_error(tmp_path, start):
    above = "a,b,y\n" + "1,x,0\n" * max(table.ROWS_TO_JUDGE + 1, start // 6)
    _source(tmp_path, f"{above}2,{'z' * 2**17},1\n")
    with pytest.raises(DataError, match=r"field larger than field limit \(131072\)"):
        _source(tmp_path, f"{above}2,{'z' * (2**17 + 1)},1\n")


def test_labels_that_are_wrong_are_named_by_their_line(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,y\n1,0.5\n\n2,1.25\n")
    with pytest.raises(DataError, match=r"line 2: the label column 'y' holds 0\.5; class labels must be whole"):
        load(path, task="classification")


def test_many_random_tables_are_the_same_by_both_readers(tmp_path):
    rng = np.random.default_rng(0)
    pieces = ["1", "-2.5", "1e5", "", " ", "NA", "x", " y", "0", "00", ".5", "inf", "+3", "\t4", '"q"', "\r", "\n", "é"]
    common = np.array([6, 6, 4] + [1] * 11 + [0.3] * 4)
    fast = 0
    for _ in range(150):
        rows, width = rng.integers(2, 8), rng.integers(2, 5)
        cells = rng.choice(pieces[: rng.integers(3, 19)], (rows, width)) if rng.random() < 0.5 else None
        if cells is None:
            cells = rng.choice(pieces, (rows, width), p=common / common.sum())
        end = rng.choice(["\n", "\r\n"])
        content = ",".join("abcd"[:width]) + end + end.join(map(",".join, cells.tolist())) + end
        try:
            fast += _source(tmp_path, content, rng.choice([MEAN, InputRules()])).again is not None
        except DataError:
            continue
    assert fast > 10


def test_without_pyarrow_files_are_read_row_by_row(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    assert _source(tmp_path, FAST["numbers"]).again is None
