"""Tables of text: .csv and .tsv, plain or gzip."""

from __future__ import annotations

import csv
import gzip
import io
import math
import os
import re
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from gpubp.data import arrow_csv, cells
from gpubp.data.columns import Columns, Wanted, named_in, names_columns
from gpubp.data.preparation import InputRules
from gpubp.data.source import Source, reason
from gpubp.data.spool import Spool, is_wanted
from gpubp.data.table_reader import Read, TableReader, Values, as_whole
from gpubp.errors import ArgumentError, DataError, listed, shown, shown_path, unknown_name
from gpubp.files import open_regular
from gpubp.memory import usable_memory

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
NUMBERS_AT_ONCE = 2**16
"""Numbers that are gathered before they are put where all are kept."""
LONGEST_ROW = 2**25
"""Characters that a row may have; without a limit, a small gzip file could fill the memory with one."""


@dataclass(frozen=True)
class TableFormat:
    """How a table is written, where that should not be guessed.

    Attributes:
        header: whether its first line names the columns: "yes", "no" or "auto".
        delimiter: what stands between cells: a character, or a name of `DELIMITERS`. None: guessed.
        encoding: of its text, as Python calls it. None: UTF-8, or what a byte order mark announces.
        keep_index: whether a first column without a name, which numbers the rows, is an input.
        drop: the columns that are left out: by name or position, one or several, as `label` of `load` takes them.
        decimal: what stands before the decimals of its numbers: a name or a character of `cells.DECIMALS`.
        thousands: what stands between the thousands of its numbers: a name or a character of `cells.THOUSANDS`. None:
            nothing.
        percent: whether a number may have a percent sign: 12 % is 12.

    Raises:
        ArgumentError: one of them has a value that it must not have.
    """

    header: str = "auto"
    delimiter: str | None = None
    encoding: str | None = None
    keep_index: bool = False
    drop: str | int | Sequence[str | int] | None = None
    decimal: str = "."
    thousands: str | None = None
    percent: bool = False

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
        for name, known in (("decimal", cells.DECIMALS), ("thousands", cells.THOUSANDS)):
            value = getattr(self, name)
            if value is not None and known.get(value, value) not in known.values():
                raise unknown_name(name, value, known)
            object.__setattr__(self, name, known.get(value, value))
        if self.decimal == self.thousands:
            raise ArgumentError("thousands", self.thousands, "another character than that of the decimals")

    @property
    def number(self) -> Callable[[str], float]:
        """What reads a number as the table writes it, and raises ValueError for any other text."""
        return cells.number_reader(self.decimal, self.thousands, self.percent)


def read_table(
    path: Path,
    label: str | int | Sequence[str | int] | None,
    written: TableFormat,
    wanted: Wanted,
    rules: InputRules,
    *,
    weight: str | int | None = None,
    inputs_only: bool = False,
    stream: bool | None = False,
    fast: bool = True,
) -> Source:
    """Read a table with a label column, or several.

    Args:
        path: the file.
        label: the label column, by name or position, or several; see `Columns.labels`.
        written: how it is written, where that should not be guessed.
        wanted: what an existing model reads; other columns are ignored.
        rules: what is asked of the input columns.
        weight: the column with the examples' weights, by name or position; see `Columns.weight`.
        inputs_only: labels and weights are not wanted, and their columns may be missing.
        stream: put the inputs into a file in place of the memory, as `spool.is_wanted` takes it.
        fast: pyarrow may read it. It does not count lines: `Source.again` does, to say where labels are wrong.

    Raises:
        DataError: with the line, for a table that cannot be read.
    """
    name = shown_path(path)
    try:
        with _open_text(path, written.encoding) as file:
            plain = fast and not isinstance(file.buffer, gzip.GzipFile) and file.encoding.lower() in ("utf-8", "utf8")
            reader = _Reader(name, file, written, rules, path if plain else None, stream)
            found = reader.read(label, weight, wanted, inputs_only=inputs_only)
        if not reader.was_fast:
            return found
        again = partial(
            read_table, path, label, written, wanted, rules, weight=weight, inputs_only=inputs_only, stream=stream,
            fast=False,
        )  # fmt: skip
        return replace(found, again=again)
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


class _Reader(TableReader):
    """One table of text, from its first line to its last.

    plain: the path of the file if it is plain UTF-8, so that pyarrow may read it; else None.
    """

    def __init__(
        self,
        name: str,
        file: TextIO,
        written: TableFormat,
        rules: InputRules,
        plain: Path | None,
        stream: bool | None,
    ) -> None:
        # how much the text unpacks to is not known beforehand
        in_file = is_wanted(stream, None)
        super().__init__(name, rules, written.number, written.drop, keep_index=written.keep_index, stream=in_file)
        self.most_text = math.inf if in_file else usable_memory() or math.inf
        self.file, self.written, self.plain = file, written, plain
        self.was_fast = False
        self.line_of: Sequence[int] = ()  # of each row
        self.skipped = 0  # lines before the first row
        self.in_row = self.read_so_far = 0  # characters
        self.empty = 0  # rows that have cells, and nothing in them
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
        most = self.most_text
        for number, line in enumerate(iter(partial(self.file.readline, LONGEST_ROW), ""), 1):
            length = len(line)
            self.in_row = in_row = self.in_row + length
            self.read_so_far = read_so_far = self.read_so_far + length
            if in_row >= LONGEST_ROW:
                raise DataError(f"{self.name}: a row is longer than {LONGEST_ROW:,} characters")
            if read_so_far > most:
                raise DataError(f"{self.name}: its text is larger than the memory that this process may use")
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
        width, skipped = 0, self.skipped
        try:
            for row in reader:
                self.in_row = 0
                if not row or (not row[0].strip() and not "".join(row).strip()):
                    self.empty += len(row) > 1
                    continue
                if not width and self.names_rows:
                    row.insert(0, "")
                if len(row) != width:
                    if width:
                        raise DataError(
                            f"{self.name}, line {reader.line_num + skipped}: it has {len(row)} cells and the "
                            f"first line has {width}; every line must have as many (cells end at {self.delimiter!r}; "
                            "--delimiter takes another)"
                        )
                    width = len(row)
                yield reader.line_num + skipped, row
        except csv.Error as error:
            raise DataError(f"{self.name}, line {reader.line_num + skipped}: {error}") from None

    # --- rows to numbers ----------------------------------------------------------------------------------------------
    def read(
        self,
        label: str | int | Sequence[str | int] | None,
        weight: str | int | None,
        wanted: Wanted,
        *,
        inputs_only: bool,
    ) -> Source:
        """Return the table's inputs, labels and weights."""
        rows = self.rows()
        head = []
        for number, row in islice(rows, 1 + ROWS_TO_JUDGE):
            head.append((number, [cell.strip() for cell in row]))
            if len(head) > 1 and len(head) * len(row) > CELLS_TO_JUDGE:
                break
        if not head:
            raise DataError(f"{self.name}: it is empty; it must hold a header and at least one row")
        first, below = head[0][1], [row for _, row in head[1:]]
        named = named_in(first, label, weight)
        names = self.names(first) if self._has_header(first, below, named, wanted) else ()
        if names:
            head = head[1:]
        if not head:
            raise DataError(f"{self.name}: there are no rows below the header")
        columns = Columns(self.name, len(first), names)
        self.head, self.rest = head, rows
        found = self.source(columns, label, weight, wanted, inputs_only=inputs_only)
        if self.empty:
            found = replace(
                found, notes=(*found.notes, f"left out the rows in which all cells are empty: {self.empty:,}")
            )
        return found

    def _has_header(
        self, first: Sequence[str], below: Sequence[Sequence[str]], named: str | None, wanted: Wanted
    ) -> bool:
        """Return whether the first line names the columns. Raises DataError if that is open."""
        if self.written.header != "auto":
            return self.written.header == "yes"
        is_model_s = not wanted.by_position and set(wanted.names) <= set(first)
        found = True if is_model_s else names_columns(first, below, named=named)
        if found is None:
            raise DataError(
                f"{self.name}: the first line ({listed(first)}) may be names or values; "
                "--header yes or --header no says which"
            )
        self.notes.append("first line taken as header" if found else "no header: first line taken as values")
        return found

    def holds_text(self, column: int) -> bool:
        return False

    def seems_text(self, column: int) -> bool:
        there = [row[column] for _, row in self.head if not cells.is_missing(row[column])]
        numbers = sum(not math.isnan(_number(cell, self.number)) for cell in there)
        return 2 * numbers <= len(there)

    def place(self, row: int) -> str:
        return f"line {self.line_of[row]}"

    def values(self, columns: Columns, read: Read) -> Values:
        found = self._fast_values(columns, read)
        self.was_fast = found is not None
        return found or self._values_of_rows(columns, read)

    def _fast_values(self, columns: Columns, read: Read) -> Values | None:
        """Return the values as pyarrow reads them; None if the rows must be read one by one, or something is wrong."""
        above = self.head[0][0] - 1  # lines
        is_usual = not (self.names_rows or self.skipped) and above == bool(columns.names) and self.number is float
        if self.plain is None or not is_usual or os.path.getsize(self.plain) > self.most_text:
            return None
        gaps = self.rules.missing != "error"
        with self._spool() as spool:
            found = arrow_csv.read_values(
                self.plain, columns.width, above, self.delimiter, read, spool, gaps=gaps, at_once=not self.stream
            )
            if found is None:
                return None
            self.line_of = range(above + 1, above + 1 + found.rows)
            try:
                return self._values_of(spool, found.rows, found.labels, columns, found.read)
            except DataError:
                return None

    def _spool(self) -> Spool:
        return Spool(self.name, in_file=bool(self.stream))

    def _values_of(
        self, spool: Spool, rows: int, labels: np.ndarray | list[str], columns: Columns, read: Read
    ) -> Values:
        """Return the values of columns that are read: the spool has the numbers, `labels` those of a single column."""
        raw, several, weights = self.taken_from(spool, rows, columns, read)
        return raw, as_whole(several) if read.several else labels, weights, self.line_of

    def _values_of_rows(self, columns: Columns, read: Read) -> Values:
        numbers, lines = array("d"), array("q")
        texts: list[str] = []
        numeric, label = read.numeric, read.labels[0] if len(read.labels) == 1 else None
        chosen = _chooser(numeric)
        coded = [(i, column.texts) for i, column in read.coded.items()]
        # a table may have millions of rows
        number, add_numbers, add_number = self.number, numbers.extend, numbers.append
        add_line, add_text = lines.append, texts.append
        with self._spool() as spool:
            for line, row in chain(self.head, self.rest):
                row_of_numbers = chosen(row)
                try:
                    found = list(map(number, row_of_numbers))
                    is_fine = math.isfinite(sum(found)) or all(map(math.isfinite, found))
                except ValueError:
                    is_fine = False
                if not is_fine or (line <= self.last_underscore and "_" in "".join(row_of_numbers)):
                    found = self._look_closely(line, row, columns, read)
                add_numbers(found)
                add_line(line)
                if coded:
                    for i, known in coded:
                        add_number(known.setdefault(row[i].strip(), len(known)))
                if label is not None:
                    add_text(row[label].strip())
                if len(numbers) > NUMBERS_AT_ONCE:
                    spool.append(np.frombuffer(numbers))
                    del numbers[:]
            if numbers:
                spool.append(np.frombuffer(numbers))
            self.line_of = lines
            return self._values_of(spool, len(lines), self._plain(texts), columns, read)

    def _plain(self, labels: list[str]) -> list[str]:
        """Return labels with their numbers written as Python writes them."""
        if self.number is float:
            return labels
        read = {text: _number(text, self.number) for text in set(labels)}
        plain = {text: text if math.isnan(value) else f"{value:.17g}" for text, value in read.items()}
        return [plain[text] for text in labels]

    def _look_closely(self, line: int, row: Sequence[str], columns: Columns, read: Read) -> list[float]:
        """Return the numbers of a line, some of which are none: NaN for what is missing, if it may be.

        Raises DataError for the first cell that should be a number.
        """
        found = [_number(row[i], self.number, is_label=i in read.several) for i in read.numeric]
        for i, value in zip(read.numeric, found, strict=True):
            if math.isfinite(value):
                continue
            cell = row[i].strip()
            must = "inputs must be finite numbers"
            if i in read.several:
                must = "several label columns must hold 0 and 1, or numbers"
            elif i == read.weight:
                must = "weights must be finite numbers"
            elif self.rules.missing != "error" and cells.is_missing(cell):
                continue
            raise self.refusal(f"line {line}", i, cell, columns, read, must)
        return found


def _chooser(columns: Sequence[int]) -> Callable[[Sequence[str]], tuple[str, ...]]:
    """Return the function that gives these cells of a row."""
    if len(columns) > 1:
        return itemgetter(*columns)
    return (lambda row: (row[columns[0]],)) if columns else (lambda row: ())


def _number(cell: str, number: Callable[[str], float], *, is_label: bool = False) -> float:
    """Return the number in a cell, NaN if there is none; of a label true is 1 and false is 0."""
    truth = cells.TRUTHS.get(cell.strip().lower()) if is_label else None
    return cells.number_or_nan(cell, number) if truth is None else truth
