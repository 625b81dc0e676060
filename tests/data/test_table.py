"""Tables: their delimiters, encodings and headers, what is left out, what is said, and what is refused."""

import gzip
import time

import numpy as np
import pytest

from gpubp.data.loading import load, load_inputs
from gpubp.data.table import TableFormat
from gpubp.errors import ArgumentError, DataError

ROWS = [(0.5, 1.5, "y"), (2.5, 3.5, "n"), (4.5, 5.5, "y"), (6.5, 7.5, "n")]
LINES = "".join(f"{a},{b},{label}\n" for a, b, label in ROWS)
INPUTS = [[a, b] for a, b, _ in ROWS]


@pytest.fixture
def read(tmp_path):
    """Return a function that loads this content as a table."""

    def read(content, name="t.csv", function=load, **options):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        if function is load:
            options = {"test_fraction": 0, **options}
        return function(path, **options)

    return read


def header(yes_or_no, **others):
    return TableFormat(header=yes_or_no, **others)


# --- the first line ---------------------------------------------------------------------------------------------------


def test_a_class_called_like_a_label_column_makes_no_header(read):
    found = read(LINES)
    assert found.x_train.tolist() == INPUTS
    assert found.class_names == ("n", "y")
    assert found.feature_names == ()
    assert found.label == 2
    assert found.notes[:2] == ("no header: first line taken as values", "label: column 2 (the last)")


def test_a_header_is_said(read):
    found = read("a,b,kind\n" + LINES)
    assert found.x_train.tolist() == INPUTS
    assert found.label == "kind"
    assert found.notes[:2] == ("first line taken as header", "label: column 'kind' (the last)")


def test_what_is_given_is_not_guessed_and_not_said(read):
    found = read("a,b,kind\n" + LINES, table=header("yes"), label="kind", task="classification")
    assert found.notes == ("label: column 'kind'",)
    found = read(LINES, table=header("no"), label=-1, task="classification")
    assert found.notes == ("label: column 2",)


def test_the_header_that_is_given_decides(read):
    assert len(read("1,2,y\n" + LINES, table=header("yes")).x_train) == 4
    assert len(read("1,2,y\n" + LINES, table=header("no")).x_train) == 5
    with pytest.raises(
        DataError, match=r"line 1: the column 0 is 'a'; inputs must be finite numbers \(is it the label"
    ):
        read("a,b,kind\n" + LINES, table=header("no"))


def test_a_first_line_that_could_be_either_is_refused(read):
    lines = "5,3,x\n4,2,0\n1,1,1\n"
    with pytest.raises(DataError, match=r"the first line \(5, 3, x\) may be names or values; --header yes or --header"):
        read(lines)
    assert read(lines, table=header("yes")).feature_names == ("5", "3")


@pytest.mark.parametrize("label", [0, "0", -5, "-5"])
def test_images_as_csv_with_the_label_first_and_no_header(read, label):
    draw = np.random.default_rng(0)
    lines = "".join(f"{i % 3},{','.join(map(str, row))}\n" for i, row in enumerate(draw.integers(0, 256, (30, 4))))
    found = read(lines, label=label)
    assert found.y_train.tolist() == [i % 3 for i in range(30)]
    assert found.label == 0


def test_a_label_that_is_named_needs_names(read):
    with pytest.raises(
        DataError, match="no column is called 'kind', as the first line does not name them; give the pos"
    ):
        read(LINES, label="kind")
    with pytest.raises(DataError, match="may be names or values"):
        read(LINES, label="y")  # a class


def test_a_header_with_one_name_twice_and_with_none(read):
    with pytest.raises(DataError, match="the header names 'a' twice"):
        read("a,a,label\n" + LINES)
    assert read("a,,label\n" + LINES).feature_names == ("a", "Unnamed: 1")


# --- the index --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "Unnamed: 0", '""'])
def test_an_unnamed_first_column_is_left_out(read, name):
    text = f"{name},a,b,label\n" + "".join(f"{i},{a},{b},{label}\n" for i, (a, b, label) in enumerate(ROWS))
    found = read(text)
    assert found.x_train.tolist() == INPUTS
    assert found.feature_names == ("a", "b")
    assert "left out the unnamed first column, an index of the rows (--keep-index takes it)" in found.notes
    found = read(text, table=TableFormat(keep_index=True))
    assert found.x_train[:, 0].tolist() == [0, 1, 2, 3]
    assert found.feature_names == ("Unnamed: 0", "a", "b")
    assert not any("left out" in note for note in found.notes)
    assert read(text, function=load_inputs)[0].tolist() == INPUTS


@pytest.mark.parametrize("front", [",Unnamed: 0", "Unnamed: 0,Unnamed: 0.1", "Unnamed: 0.1,Unnamed: 0", ","])
def test_indices_of_a_table_that_was_written_twice_are_left_out(read, front):
    text = f"{front},a,b,label\n" + "".join(f"{i},{i},{a},{b},{label}\n" for i, (a, b, label) in enumerate(ROWS))
    found = read(text)
    assert found.feature_names == ("a", "b")
    assert "left out the unnamed first 2 columns, indices of the rows (--keep-index takes it)" in found.notes
    assert len(set(read(text, table=TableFormat(keep_index=True)).feature_names)) == 4


def test_a_delimiter_at_the_end_of_each_line_is_refused(read):
    with pytest.raises(DataError, match="line 2: it has 4 cells and the first line has 3"):
        read("a,b,label\n" + LINES.replace("\n", ",\n"))


def test_many_columns_take_time_in_proportion(read):
    width = 20_000
    lines = [",".join([*(f"c{i}" for i in range(width)), "label"])]
    lines += [",".join([*map(str, range(i, width + i)), str(i % 2)]) for i in range(4)]
    text = "\n".join(lines)
    began = time.process_time()
    names = read(text).feature_names
    assert read(text, feature_names=names[::-1], features=width).x_train[0, :2].tolist() == [width - 1, width - 2]
    assert time.process_time() - began < 5


@pytest.mark.parametrize("front", ['"",', ""])  # write.csv, and write.table, whose header is shorter than the rows
def test_row_names_as_r_writes_them(read, front):
    text = front + '"a","b","label"\n' + "".join(f'"row {i}",{a},{b},"{c}"\n' for i, (a, b, c) in enumerate(ROWS))
    found = read(text)
    assert found.x_train.tolist() == INPUTS
    assert any("left out" in note for note in found.notes)


def test_an_unnamed_first_column_can_be_the_label(read):
    found = read(",a,b\n" + "".join(f"{label},{a},{b}\n" for a, b, label in ROWS), label=0)
    assert found.x_train.tolist() == INPUTS
    assert found.class_names == ("n", "y")


@pytest.mark.parametrize("first", [0, 1])
def test_an_input_that_counts_the_rows_is_noted(read, first):
    lines = "".join(f"{i + first},{i % 7},{i % 2}\n" for i in range(30))
    note = "the input {} counts the rows: if it is an index, leave it out (--drop)"
    assert note.format("'id'") in read("id,a,label\n" + lines).notes
    assert note.format("0") in read(lines).notes
    assert not any("counts" in each for each in read("id,a,label\n" + lines.replace("5,", "6,", 1)).notes)


# --- how it is written ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_delimiters_are_guessed_outside_of_quotes(read, delimiter):
    assert read(LINES.replace(",", delimiter)).x_train.tolist() == INPUTS
    found = read('"a;b;c;d;e","f|g|h|i",label\n' + LINES)
    assert found.feature_names == ("a;b;c;d;e", "f|g|h|i")
    assert read("1,5;2,5;x\n" * 9, table=header("no"), function=_error) == "1,5"


def test_a_delimiter_in_text_is_none_if_the_numbers_say_so(read):
    lines = "".join(f"{a},{b},one; two; three; {label}\n" for a, b, label in ROWS)
    assert read(lines).x_train.tolist() == INPUTS


def _error(path, **options):
    """Return the cell that an error shows."""
    with pytest.raises(DataError) as caught:
        load(path, **options)
    return str(caught.value).split("'")[1]


@pytest.mark.parametrize(
    ("name", "character"), [("space", " "), ("pipe", "|"), (":", ":"), ("\\t", "\t"), ("Tab", "\t")]
)
def test_a_delimiter_can_be_given(read, name, character):
    assert read(LINES.replace(",", character), table=TableFormat(delimiter=name)).x_train.tolist() == INPUTS


def test_the_delimiter_that_excel_writes_first(read):
    assert read("sep=:\n" + LINES.replace(",", ":")).x_train.tolist() == INPUTS
    with pytest.raises(DataError, match="line 6: the label column 2 is empty"):  # that line is counted
        read("sep=:\n" + LINES.replace(",", ":") + "1:2:\n")
    with pytest.raises(DataError, match="line 6: it has 2 cells"):
        read("sep=:\n" + LINES.replace(",", ":") + "1:2\n")


def test_a_line_of_another_width_names_the_delimiter(read):
    with pytest.raises(
        DataError, match=r"line 5: it has 2 cells and the first line has 3.*cells end at ','; --delimiter"
    ):
        read(LINES + "1,2\n")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_that_a_byte_order_mark_tells(read, encoding):
    text = "ä,b,label\n" + LINES.replace("y", "ü")
    found = read(text.encode(encoding))
    assert found.feature_names == ("ä", "b")
    assert found.class_names == ("n", "ü")


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le", "utf-16-be", "shift_jis", "utf-8"])
def test_an_encoding_can_be_given(read, encoding):
    text = "a,b,label\n" + LINES.replace("y", "ナ" if encoding == "shift_jis" else "ü")
    found = read(text.encode(encoding), table=TableFormat(encoding=encoding))
    assert found.feature_names == ("a", "b")
    assert found.x_train.tolist() == INPUTS


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be"])
def test_a_byte_order_mark_is_no_part_of_the_first_name(read, encoding):
    text = "\ufeffa,b,label\n" + LINES
    assert read(text.encode(encoding), table=TableFormat(encoding=encoding)).feature_names == ("a", "b")


def test_text_in_another_encoding_is_refused_with_advice(read):
    latin = LINES.replace("y", "ü").encode("latin-1")
    with pytest.raises(DataError, match="it is not UTF-8 text; --encoding takes another, such as utf-16 or latin-1"):
        read(latin)
    with pytest.raises(DataError, match=r"it is not UTF-16.*text"):
        read(latin, table=TableFormat(encoding="utf-16"))
    with pytest.raises(DataError, match="every other character is NUL, as in UTF-16; --encoding utf-16-le reads that"):
        read(LINES.encode("utf-16-le"))


@pytest.mark.parametrize("name", ["t.csv.gz", "t.tsv.gz", "t.csv", "T.CSV.GZ"])
def test_gzip_is_told_by_its_first_bytes(read, name):
    assert read(gzip.compress(LINES.encode()), name).x_train.tolist() == INPUTS


def test_a_gzip_file_that_is_cut_off_is_an_error(read):
    with pytest.raises(DataError, match=r"t\.csv\.gz: it cannot be read: Compressed file ended"):
        read(gzip.compress(LINES.encode() * 50)[:-12], "t.csv.gz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"header": "maybe"}, "header was 'maybe'; it must be one of auto, yes, no"),
        ({"delimiter": "commas"}, "delimiter was 'commas'; it must be one character, or comma, semicolon"),
        ({"delimiter": ""}, "delimiter was ''"),
        ({"delimiter": '"'}, "delimiter was"),
        ({"delimiter": "\n"}, "delimiter was"),
        ({"delimiter": "x"}, "delimiter was 'x'"),
        ({"encoding": "utf-9"}, "encoding was 'utf-9'; it must be an encoding of text, such as utf-8"),
        ({"encoding": "base64"}, "encoding was 'base64'"),
        ({"encoding": "a\0b"}, "encoding was"),
        ({"encoding": ""}, "encoding was ''"),
    ],
)
def test_a_format_that_cannot_be(options, message):
    with pytest.raises(ArgumentError, match=message):
        TableFormat(**options)


@pytest.mark.parametrize(
    "options",
    [
        *({"header": "no"}, {"delimiter": ";"}, {"encoding": "latin-1"}, {"keep_index": True}),
        *({"drop": "a"}, {"decimal": ","}, {"thousands": " "}, {"percent": True}),
    ],
)
@pytest.mark.parametrize("spec", ["digits", "a.npz"])
def test_only_a_table_has_a_format(tmp_path, monkeypatch, spec, options):
    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", x=np.ones((4, 2)), y=[0, 1, 0, 1])
    name, value = next(iter(options.items()))
    with pytest.raises(ArgumentError, match=rf"{name} was {value!r}; it must be left out for '{spec}': only a table"):
        load(spec, table=TableFormat(**options))


# --- cells that are no numbers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "advice"),
    [
        *(
            (word, "a value is missing")
            for word in ("", "NA", "N/A", "nan", "?", "None", "NULL", "#N/A", "<NA>", "NaT")
        ),
        ("True", "write 1 and 0 for true and false"),
        ("FALSE", "write 1 and 0 for true and false"),
        ('"1,5"', "--decimal comma reads it, or write it with a point"),
        ('"1,234.5"', "without separators of thousands"),
        ("1 234", "without separators of thousands"),
        ("1'234'567", "without separators of thousands"),
        ("12%", "without the percent sign"),
        ("12.5 %", "without the percent sign"),
        ("$12.50", "without the currency"),
        ("2024-01-31", "write a date as numbers"),
        ("31.1.2024", "write a date as numbers"),
        ("1/31/2024 12:30", "write a date as numbers"),
        ("12:30", "write a time as a number"),
        ("1_000", "is it the label. then --label b"),
        ("blue", "is it the label. then --label b"),
    ],
)
def test_a_cell_that_is_no_number_gets_advice_of_its_own(read, cell, advice):
    with pytest.raises(DataError, match=f"line 3: the column 'b' .*{advice}"):
        read(f"a,b,label\n1,2,x\n3,{cell},y\n5,6,x\n")


def test_a_number_with_an_underscore_is_seen_on_every_line(read):
    lines = "".join(f"{i},1,class_{i % 2}\n" for i in range(300))
    assert len(read("a,b,label\n" + lines).x_train) == 300
    for line in (1, 150, 299):
        with pytest.raises(DataError, match=f"line {line + 2}: the column 'b' is '1_0'"):
            read("a,b,label\n" + lines.replace(f"\n{line},1,", f"\n{line},1_0,"))


# --- what is too large, and what a terminal would obey ----------------------------------------------------------------


@pytest.mark.parametrize("unit", [b"x" * 2**16, b'"\n",' * 2**14])
def test_a_row_without_end_is_refused(read, monkeypatch, unit):
    monkeypatch.setattr("gpubp.data.table.LONGEST_ROW", 2**20)
    with pytest.raises(DataError, match="a row is longer than 1,048,576 characters"):
        read(gzip.compress(b"a,label\n1," + unit * 64), "t.csv.gz")


def test_more_text_than_memory_is_refused(read, monkeypatch):
    monkeypatch.setattr("gpubp.data.table.usable_memory", lambda: 10_000)
    with pytest.raises(DataError, match="its text is larger than the memory that this process may use"):
        read(gzip.compress(LINES.encode() * 500), "t.csv.gz")


def test_escape_sequences_in_names_and_labels_are_shown_escaped(read):
    red = "\x1b[31m"
    found = read(f"{red}a,b,{red}\n" + "".join(f"{i},{i % 3},{red}{i % 2}\n" for i in range(30)))
    assert all(note.isprintable() for note in found.notes)
    assert any(r"\x1b[31m" in note for note in found.notes)
    for text in (f"a,b,label\n1,{red},x\n", f"{red},b,label\n,2,x\n", f"a,b,{red}\n1,2,\n", f"a,b,label\n1,2,{red}\n"):
        with pytest.raises(DataError) as caught:
            read(text)
        assert str(caught.value).isprintable()


def test_messages_stay_short_whatever_a_table_has(read):
    long = "x" * 5000
    for text in (f"a,b,label\n1,{long},x\n", f"{long},b,label\n,2,x\n", f"a,b,{long}\n1,2,\n", f"a,b,c\n1,2,{long}\n"):
        with pytest.raises(DataError) as caught:
            read(text)
        assert len(str(caught.value)) < 400
    with pytest.raises(DataError, match="there is no column 'zzz' among c0, c1") as caught:
        read(",".join(f"c{i}" for i in range(5000)) + "\n" + ",".join(["1"] * 5000), label="zzz")
    assert len(str(caught.value)) < 400


def test_a_number_of_the_columns_of_a_model_without_names(read):
    """Positions match by position, with the label left out; another count is an error."""
    last, first = LINES, "".join(f"{label},{a},{b}\n" for a, b, label in ROWS)
    for text, label in (
        (last, None),
        (first, 0),
        ("a,b,label\n" + last, None),
        (",a,b,label\n" + _counted(last), None),
    ):
        assert read(text, label=label, features=2, model_label=2, classes=("n", "y")).x_train.tolist() == INPUTS
        assert read(text, label=label, features=2, model_label=2, function=load_inputs)[0].tolist() == INPUTS
    assert read(first, features=2, model_label=0).x_train.tolist() == INPUTS
    assert read("1,2\n3,4\n", features=2, model_label=2, function=load_inputs)[0].tolist() == [[1, 2], [3, 4]]
    for text in ("1,2,3,y\n4,5,6,n\n", "1,y\n2,n\n"):
        with pytest.raises(DataError, match=r"it has \d features an example; the model reads 2"):
            read(text, label=-1, features=2)


def _counted(lines):
    return "".join(f"{i},{line}\n" for i, line in enumerate(lines.splitlines()))


def test_names_of_positions_of_earlier_models_match_by_position(read):
    """Earlier versions called the columns of a table without a header 0, 1, ..."""
    first = "".join(f"{label},{a},{b}\n" for a, b, label in ROWS)
    for names in (["0", "1"], ["1", "2"], ["0", "2"]):
        assert read(first, label=0, feature_names=names, features=2).x_train.tolist() == INPUTS
    turned = "1,kind,0\n" + "".join(f"{b},{label},{a}\n" for a, b, label in ROWS)
    assert read(turned, table=header("yes"), label=1, feature_names=["0", "1"], features=2).x_train.tolist() == INPUTS


def test_a_model_with_names_reads_no_table_without(read):
    with pytest.raises(
        DataError, match="does not name the columns, and the model reads sepal, petal by name; --header"
    ):
        read(LINES, feature_names=["sepal", "petal"], features=2)


def test_names_that_are_numbers_but_no_positions_are_names(read):
    years = {"feature_names": ["1990", "1991"], "features": 2}
    turned = "1991,label,1990\n" + "".join(f"{b},{label},{a}\n" for a, b, label in ROWS)
    assert read(turned, **years).x_train.tolist() == INPUTS
    with pytest.raises(DataError, match="the column '1991' is missing; the model was trained on 1990, 1991"):
        read("1990,x,label\n" + LINES, **years)
    quantiles = {"feature_names": ["0.5", "0.25"], "features": 2}  # a first line with a model's names is a header
    assert read("0.5,0.25,label\n" + LINES, **quantiles).x_train.tolist() == INPUTS


def test_a_table_with_as_many_columns_as_a_model_reads_has_no_labels(read):
    found, notes = read("a,y\n1,2\n3,4\n", features=2, model_label=2, function=load_inputs)
    assert found.tolist() == [[1, 2], [3, 4]]
    assert not any("label" in note for note in notes)


def test_the_label_is_found_where_the_model_had_it(read):
    text = "kind,b,note,a\n" + "".join(f"{label},{b},7,{a}\n" for a, b, label in ROWS)
    found = read(text, feature_names=["a", "b"], features=2, model_label="kind", classes=("n", "y"))
    assert found.x_train.tolist() == INPUTS
    with pytest.raises(DataError, match="the label column 'species' of the training is missing; --label names another"):
        read(text, feature_names=["a", "b"], features=2, model_label="species", task="regression")
    usual = text.replace("kind", "class")
    assert read(usual, feature_names=["a", "b"], features=2, model_label="species").label == "class"
    with pytest.raises(DataError, match="no column has labels: the model reads all of them"):
        read("a,b\n1,2\n3,4\n", feature_names=["a", "b"], features=2)
    with pytest.raises(DataError, match="the column 'a' is an input of the model, and no label"):
        read(text, feature_names=["a", "b"], features=2, label="a")


def test_a_header_that_is_not_valid_unicode_is_refused(read):
    with pytest.raises(DataError, match="not valid Unicode"):
        read("\\ud800,b,label\n" + LINES, table=TableFormat(encoding="unicode_escape"))
