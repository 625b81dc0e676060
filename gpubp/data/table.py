"""Tables of text: .csv and .tsv, plain or gzip."""

from __future__ import annotations

import csv
import gzip
import io
import math
import re
import zlib
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, count, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from gpubp.data import cells
from gpubp.data.columns import Columns, Wanted, names_columns, position
from gpubp.data.source import Labels, Source, physical_memory, reason
from gpubp.errors import ArgumentError, DataError, listed, shown, shown_path, unknown_name
from gpubp.files import open_regular

TABLE_SUFFIXES = (".csv", ".tsv")

DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "space": " "}
"""What may stand between cells, by name; all but the last are guessed."""

BYTE_ORDER_MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
"""The encodings that the first bytes of a file announce, the longer before the shorter."""

ROWS_TO_JUDGE = 100
"""Lines below the first, by which it is judged whether that one names the columns."""
CELLS_TO_JUDGE = 2**18
"""Cells after which no further line is needed for that."""
LINES_TO_JUDGE, CHARACTERS_TO_JUDGE = 20, 2**20
"""Lines by which the delimiter is judged; fewer if they are long."""
LONGEST_ROW = 2**25
"""Characters that a row may have; without a limit, a small gzip file could fill the memory with one."""
LEAST_COUNTED_ROWS = 20
"""Rows from which on a column that counts them is no accident."""


@dataclass(frozen=True)
class TableFormat:
    """How a table is written, where that should not be guessed.

    Attributes:
        header: whether its first line names the columns: "yes", "no" or "auto".
        delimiter: what stands between cells: a character, or a name of `DELIMITERS`. None: guessed.
        encoding: of its text, as Python calls it. None: UTF-8, or what a byte order mark announces.
        keep_index: whether a first column without a name, which numbers the rows, is an input.

    Raises:
        ArgumentError: one of them has a value that it must not have.
    """

    header: str = "auto"
    delimiter: str | None = None
    encoding: str | None = None
    keep_index: bool = False

    def __post_init__(self) -> None:
        if self.header not in ("auto", "yes", "no"):
            raise unknown_name("header", self.header, ("auto", "yes", "no"))
        if self.delimiter is not None:
            delimiter = DELIMITERS.get(self.delimiter.lower(), "\t" if self.delimiter == "\\t" else self.delimiter)
            if len(delimiter) != 1 or delimiter in '"\r\n\0' or delimiter.isalnum():
                expected = "one character, or " + ", ".join(DELIMITERS)
                raise ArgumentError("delimiter", self.delimiter, expected)
            object.__setattr__(self, "delimiter", delimiter)
        if self.encoding is not None:
            try:
                "a".encode(self.encoding)
            except (LookupError, ValueError):
                expected = "an encoding of text, such as utf-8, utf-16, latin-1 or cp1252"
                raise ArgumentError("encoding", self.encoding, expected) from None


def read_table(
    path: Path, label: str | int | None, written: TableFormat, wanted: Wanted, *, inputs_only: bool = False
) -> Source:
    """Read a table of numbers with a label column.

    Args:
        path: the file.
        label: the label column, by name or position; see `Columns.label`.
        written: how it is written, where that should not be guessed.
        wanted: what an existing model reads; other columns are ignored.
        inputs_only: the labels are not wanted, and their column may be missing.

    Raises:
        DataError: with the line, for a table that cannot be read.
    """
    name = shown_path(path)
    try:
        with _open_text(path, written.encoding) as file:
            return _Reader(name, file, written).read(label, wanted, inputs_only=inputs_only)
    except UnicodeError as error:
        encoding = getattr(error, "encoding", written.encoding) or written.encoding
        raise DataError(
            f"{name}: it is not {shown(encoding).upper()} text; --encoding takes another, such as utf-16 or latin-1"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{name}: it cannot be read: {reason(error)}") from None


@contextmanager
def _open_text(path: Path, encoding: str | None) -> Iterator[TextIO]:
    """Open a regular file, plain or gzip (told by its first bytes), as text."""
    with open_regular(path) as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        unpacked: Any = gzip.GzipFile(fileobj=file) if is_gzip else file
        start = unpacked.read(4)
        unpacked.seek(0)
        marked = next((name for mark, name in BYTE_ORDER_MARKS.items() if start.startswith(mark)), "utf-8")
        with io.TextIOWrapper(unpacked, encoding=encoding or marked, newline="") as text:
            yield text


class _Reader:
    """One table, from its first line to its last."""

    def __init__(self, name: str, file: TextIO, written: TableFormat) -> None:
        self.name, self.file, self.written = name, file, written
        self.notes: list[str] = []
        self.skipped = 0  # lines before the first row
        self.in_row = self.read_so_far = 0  # characters
        self.last_underscore = 0  # the last line that has one
        lines = self._lines()
        sample: list[str] = []
        for line in islice(lines, LINES_TO_JUDGE):
            sample.append(line)
            self.in_row = 0
            if self.read_so_far > CHARACTERS_TO_JUDGE:
                break
        self._require_no_zeros(sample)
        if sample and (told := re.fullmatch(r'"?sep=(.)"?\s*', sample[0])):  # as Excel writes it
            self.delimiter, self.skipped = told[1], 1
        else:
            self.delimiter = written.delimiter or self._guess_delimiter(sample)
        sample = sample[self.skipped :]
        self.names_rows = self._names_rows(sample)
        self.lines = chain(sample, lines)

    # --- text to rows -------------------------------------------------------------------------------------------------
    def _lines(self) -> Iterator[str]:
        """Yield the lines of the file; none may make a row, or the whole, too long."""
        most = physical_memory() or math.inf
        for number, line in enumerate(iter(partial(self.file.readline, LONGEST_ROW), ""), 1):
            self.in_row += len(line)
            self.read_so_far += len(line)
            if self.in_row >= LONGEST_ROW:
                raise DataError(f"{self.name}: a row is longer than {LONGEST_ROW:,} characters")
            if self.read_so_far > most:
                raise DataError(f"{self.name}: its text is larger than this machine's memory")
            if "_" in line:
                self.last_underscore = number
            yield line if number > 1 else line.removeprefix("\ufeff")

    def _require_no_zeros(self, sample: Sequence[str]) -> None:
        if sample and 4 * sample[0].count("\0") > len(sample[0]):
            raise DataError(f"{self.name}: every other character is NUL, as in UTF-16; --encoding utf-16-le reads that")

    def _guess_delimiter(self, sample: Sequence[str]) -> str:
        """Return the delimiter that makes lines equally wide and leaves the most cells that are numbers."""
        best, most = ",", 0.0
        for delimiter in list(DELIMITERS.values())[:-1]:
            rows = self._sample_rows(sample, delimiter)
            widths = Counter(map(len, rows))
            width, same = max(widths.items(), key=itemgetter(1)) if widths else (1, 0)
            if width > 1:
                found = [cell for row in rows if len(row) == width for cell in row]
                score = same / len(rows) + sum(map(cells.is_value, found)) / len(found)
                if score > most:
                    best, most = delimiter, score
        if best not in ",\t":
            self.notes.append(f"cells end at {best!r}")
        return best

    def _sample_rows(self, sample: Sequence[str], delimiter: str) -> list[list[str]]:
        """Return the first rows; none if they are wrong, which is said when they are read."""
        try:
            return [row for row in csv.reader(sample, delimiter=delimiter, skipinitialspace=True) if any(row)]
        except csv.Error:
            return []

    def _names_rows(self, sample: Sequence[str]) -> bool:
        """True if the first line has a name less than the others have cells: R leaves out that of its row names."""
        rows = self._sample_rows(sample, self.delimiter)
        return (
            len(rows) > 1
            and self.written.header != "no"
            and {len(row) for row in rows[1:]} == {len(rows[0]) + 1}
            and any(row[-1] for row in rows[1:])  # a delimiter at the end of each line is something else
            and not any(map(cells.is_value, rows[0]))
        )

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the rows that are not blank with the numbers of their lines; each must be as wide as the first."""
        reader = csv.reader(self.lines, delimiter=self.delimiter, skipinitialspace=True, strict=True)
        width = 0
        try:
            for row in reader:
                self.in_row = 0
                if not row or (not row[0].strip() and not "".join(row).strip()):
                    continue
                if not width and self.names_rows:
                    row.insert(0, "")
                if len(row) != width:
                    if width:
                        raise DataError(
                            f"{self.name}, line {reader.line_num + self.skipped}: it has {len(row)} cells and the "
                            f"first line has {width}; every line must have as many (cells end at {self.delimiter!r}; "
                            "--delimiter takes another)"
                        )
                    width = len(row)
                yield reader.line_num + self.skipped, row
        except csv.Error as error:
            raise DataError(f"{self.name}, line {reader.line_num + self.skipped}: {error}") from None

    # --- rows to numbers ----------------------------------------------------------------------------------------------
    def read(self, label: str | int | None, wanted: Wanted, *, inputs_only: bool) -> Source:
        """Return the table's inputs and labels."""
        rows = self.rows()
        head = []
        for number, row in islice(rows, 1 + ROWS_TO_JUDGE):
            head.append((number, [cell.strip() for cell in row]))
            if len(head) > 1 and len(head) * len(row) > CELLS_TO_JUDGE:
                break
        if not head:
            raise DataError(f"{self.name}: it is empty; it must hold a header and at least one row")
        first, below = head[0][1], [row for _, row in head[1:]]
        names = self._header(first) if self._has_header(first, below, label, wanted) else ()
        if names:
            head = head[1:]
        if not head:
            raise DataError(f"{self.name}: there are no rows below the header")
        columns = Columns(self.name, len(first), names)
        keep_index = self.written.keep_index
        found, how = columns.label(label, wanted, optional=inputs_only, keep_index=keep_index)
        features = columns.features(found, wanted, keep_index=keep_index)
        self._note_columns(columns, found, how, features, inputs_only=inputs_only)
        x, texts, lines = self._values(chain(head, rows), columns, features, None if inputs_only else found)
        self._note_counters(columns, features, x)
        feature_names = tuple(names[i] for i in features) if names else ()
        if inputs_only or found is None:
            return Source(self.name, x, None, feature_names=feature_names, notes=tuple(self.notes))
        remedy = "" if label is not None else "--label names another column"
        labels = Labels(texts, f"the label column {columns.call(found)}", lines, remedy)
        return Source(
            self.name, x, labels, feature_names=feature_names, label=columns.key(found), notes=tuple(self.notes)
        )

    def _has_header(
        self, first: Sequence[str], below: Sequence[Sequence[str]], label: str | int | None, wanted: Wanted
    ) -> bool:
        """Return whether the first line names the columns. Raises DataError if that is open."""
        if self.written.header != "auto":
            return self.written.header == "yes"
        is_model_s = not wanted.by_position and set(wanted.names) <= set(first)
        named = str(label) if position(label) is None and label in first else None
        found = True if is_model_s else names_columns(first, below, named=named)
        if found is None:
            raise DataError(
                f"{self.name}: the first line ({listed(first)}) may be names or values; "
                "--header yes or --header no says which"
            )
        self.notes.append("first line taken as header" if found else "no header: first line taken as values")
        return found

    def _header(self, first: Sequence[str]) -> tuple[str, ...]:
        """Return the columns' names; one that is missing is called as pandas calls it."""
        taken = set(first)
        names = tuple(name or _unused(f"Unnamed: {i}", taken) for i, name in enumerate(first))
        repeated = next((name for name, times in Counter(names).items() if times > 1), None)
        if repeated is not None:
            raise DataError(
                f"{self.name}: the header names '{shown(repeated)}' twice; every column needs a name of its own"
            )
        for name in names:
            if not name.isascii() and name.encode(errors="replace").decode() != name:
                raise DataError(f"{self.name}: the header names '{shown(name)}', which is not valid Unicode")
        return names

    def _note_columns(
        self, columns: Columns, label: int | None, how: str, features: Sequence[int], *, inputs_only: bool
    ) -> None:
        if label is not None:
            what = "left out the label" if inputs_only else "label"
            self.notes.append(f"{what}: column {columns.call(label)}" + (f" ({how})" if how else ""))
        left_out = [i for i in columns.index if i != label and i not in features]
        if left_out:
            which = "column, an index" if len(left_out) == 1 else f"{len(left_out)} columns, indices"
            self.notes.append(f"left out the unnamed first {which} of the rows (--keep-index takes it)")

    def _note_counters(self, columns: Columns, features: Sequence[int], x: np.ndarray) -> None:
        """Note inputs that count the rows: a network would learn the order of the file."""
        if len(x) < LEAST_COUNTED_ROWS:
            return
        candidates = np.flatnonzero((x[0] == x[1] - 1) & np.isin(x[0], (0, 1)) & (x[-1] == x[0] + len(x) - 1))
        counters = [columns.call(features[i]) for i in candidates.tolist() if (np.diff(x[:, i]) == 1).all()]
        if counters:
            self.notes.append(f"the input {', '.join(counters[:5])} counts the rows: if it is an index, leave it out")

    def _values(
        self, rows: Iterator[tuple[int, list[str]]], columns: Columns, features: Sequence[int], label: int | None
    ) -> tuple[np.ndarray, list[str], Sequence[int]]:
        """Return the inputs (rows, features), float64, the labels as text, and the number of each row's line."""
        numbers, labels, lines = array("d"), [], array("q")
        chosen = itemgetter(*features) if len(features) > 1 else lambda row: (row[features[0]],)
        for line, row in rows:
            row_of_inputs = chosen(row)
            try:
                found = list(map(float, row_of_inputs))
                is_fine = math.isfinite(sum(found)) or all(map(math.isfinite, found))
            except ValueError:
                is_fine = False
            if not is_fine or (line <= self.last_underscore and "_" in "".join(row_of_inputs)):
                raise self._bad_cell(line, row, columns, features)
            numbers.extend(found)
            lines.append(line)
            if label is not None:
                labels.append(row[label].strip())
        return np.frombuffer(numbers, np.float64).reshape(-1, len(features)), labels, lines

    def _bad_cell(self, line: int, row: Sequence[str], columns: Columns, features: Sequence[int]) -> DataError:
        """Return the error for the first input of a line that is no finite number."""
        bad = next(i for i in features if not cells.is_number(row[i]) or not math.isfinite(float(row[i])))
        cell = row[bad].strip()
        what = f"is '{shown(cell, 40)}'" if cell else "is empty"
        remedy = cells.advice(cell) or f"is it the label? then --label {shown(columns.key(bad), 40)}"
        return DataError(
            f"{self.name}, line {line}: the column {columns.call(bad)} {what}; inputs must be finite numbers ({remedy})"
        )


def _unused(name: str, taken: set[str]) -> str:
    """Return the name, or as pandas numbers it if it is taken: Unnamed: 0.1."""
    return next(each for each in chain([name], (f"{name}.{i}" for i in count(1))) if each not in taken)
