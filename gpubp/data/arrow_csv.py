"""Tables of text, read by pyarrow where it is installed: several times as fast as row by row, with the same result.

What pyarrow would read otherwise than Python's csv module and `float` do is left to the reader of rows, in `table`:
quotes, lone carriage returns, invalid UTF-8, cells that are too long for the former, numbers that are none in a float,
and everything that is an error.
"""

from __future__ import annotations

import codecs
import csv
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from gpubp.data import cells
from gpubp.data.spool import Spool
from gpubp.data.table_reader import Read
from gpubp.data.texts import TextColumn

BYTES_AT_ONCE = 2**20
"""Bytes that are searched at once for what pyarrow reads otherwise."""

_CASES = (str.lower, str.upper, str.title, str.capitalize)
_MISSING = sorted({case(text) for text in cells.MISSING for case in _CASES} | {"NaN", "NaT"})
"""What is missing in the usual spellings; another is no number to pyarrow, and left to the reader of rows."""
_PADDED = r"^\s*[+-]?0[0-9]+\s*$"
"""A whole number with leading zeros, which as a label is text."""


@dataclass(frozen=True)
class Found:
    """What pyarrow read.

    Attributes:
        rows: how many; their numbers are in the spool.
        read: the columns, with the texts of those that are coded.
        labels: of a single label column: text, or numbers if all are numbers to predict; else empty.
    """

    rows: int
    read: Read
    labels: np.ndarray | list[str]


def read_values(
    path: Path,
    width: int,
    skipped: int,
    delimiter: str,
    read: Read,
    spool: Spool,
    *,
    gaps: bool,
    at_once: bool,
) -> Found | None:
    """Return the columns that are read of a plain CSV file; None if the reader of rows must read it.

    Args:
        path: the file, UTF-8 without a byte order mark.
        width: how many columns it has.
        skipped: lines before the first row.
        delimiter: what stands between cells.
        read: the columns to read. It is not changed.
        spool: gets the rows, `Read.width` numbers each.
        gaps: whether inputs may be missing.
        at_once: read the whole file into memory, with all cores; else block by block, with one.
    """
    arrow = _pyarrow_csv()
    if arrow is None or delimiter == " " or not delimiter.isascii() or not _is_plain(path, skipped, delimiter):
        return None
    import pyarrow as pa

    label = read.labels[0] if len(read.labels) == 1 else None
    types: dict[str, Any] = {str(i): pa.float64() for i in read.numeric}
    types |= {str(i): pa.dictionary(pa.int32(), pa.string()) for i in read.coded}
    if label is not None:
        types[str(label)] = pa.string()
    options = (
        arrow.ReadOptions(skip_rows=skipped, column_names=[str(i) for i in range(width)]),
        arrow.ParseOptions(delimiter=delimiter, quote_char=False),
        arrow.ConvertOptions(column_types=types, include_columns=list(types), null_values=_MISSING),
    )
    found = replace(read, coded={i: TextColumn(column.kind) for i, column in read.coded.items()})
    rows, empty, of_labels = 0, [], []
    try:
        batches = arrow.read_csv(path, *options).to_batches() if at_once else arrow.open_csv(path, *options)
        for batch in batches:
            numbers = _numbers_of(batch, found, gaps=gaps)
            if numbers is None:
                return None
            if gaps:
                empty += (rows + _empty_rows(numbers, found)).tolist()
            spool.append(numbers)
            if label is not None:
                of_labels.append(batch.column(batch.num_columns - 1))
            rows += batch.num_rows
    except (pa.ArrowException, OSError):
        return None
    if not at_once:
        pa.default_memory_pool().release_unused()  # it keeps what it has had
    labels = [] if label is None else _labels(pa, pa.chunked_array(of_labels, pa.string()))
    if any(len(labels) == 0 or labels[row] == "" for row in empty):  # nothing is there of all that is read
        return None
    return Found(rows, found, labels)


def _pyarrow_csv() -> ModuleType | None:
    """Return pyarrow's reader; None if it is not installed."""
    try:
        from pyarrow import csv
    except ImportError:
        return None
    return csv


def _is_plain(path: Path, skipped: int, delimiter: str) -> bool:
    """True if a file, below the lines that are skipped, is UTF-8 without quotes, lone returns and long cells."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with open(path, "rb") as file:
            above = b"".join(file.readline() for _ in range(skipped))
            decoder.decode(above)
            if _has_lone_returns(above):
                return False
            while block := file.read(BYTES_AT_ONCE):
                if block.endswith(b"\r"):
                    block += file.read(1)
                if b'"' in block or _has_lone_returns(block) or _may_have_long_cells(block, delimiter.encode()):
                    return False
                decoder.decode(block)
            decoder.decode(b"", final=True)
    except (OSError, UnicodeDecodeError):
        return False
    return True


def _has_lone_returns(block: bytes) -> bool:
    return b"\r" in block and block.count(b"\r") != block.count(b"\r\n")


def _may_have_long_cells(block: bytes, delimiter: bytes) -> bool:
    """True if a cell may be longer than Python's csv module reads: such a one fills one of these stretches of half that
    length, even if it goes on in the next block."""
    half = csv.field_size_limit() // 2
    starts = range(0, len(block) - half + 1, half)
    return any(all(block.find(end, start, start + half) < 0 for end in (delimiter, b"\n")) for start in starts)


def _numbers_of(batch: Any, read: Read, *, gaps: bool) -> np.ndarray | None:
    """Return the numbers of some rows, (rows, `Read.width`) float64, whose columns the batch has in this order; None if
    one is infinite, or missing where none may be."""
    numbers = np.empty((batch.num_rows, read.width))
    inputs, nulls = len(read.numeric) - len(read.others), 0
    for place in range(len(read.numeric)):
        column = batch.column(place)
        nulls += column.null_count
        if column.null_count and (place >= inputs or not gaps):
            return None
        numbers[:, place] = column.to_numpy(zero_copy_only=False)
    for place, text in enumerate(read.coded.values(), len(read.numeric)):
        column = batch.column(place)
        numbers[:, place] = text.codes(column.indices.to_numpy(), column.dictionary.to_pylist())
    return numbers if np.count_nonzero(np.isfinite(numbers)) == numbers.size - nulls else None


def _empty_rows(numbers: np.ndarray, read: Read) -> np.ndarray:
    """Return the rows in which nothing is there of all that is read, but perhaps a label."""
    empty = np.isnan(numbers[:, : len(read.numeric)]).all(axis=1)
    for place, text in enumerate(read.coded.values(), len(read.numeric)):
        empty &= numbers[:, place] == text.texts.get("", -1)
    return np.flatnonzero(empty)


def _labels(pa: Any, column: Any) -> np.ndarray | list[str]:
    """Return labels as text; as numbers (rows,) float64 if none of them can be the name of a class."""
    numbers = _numbers(pa, column)
    if numbers is not None and np.isfinite(numbers).all() and (numbers != np.round(numbers)).any():
        import pyarrow.compute as pc

        if not pc.any(pc.match_substring_regex(column, _PADDED)).as_py():
            return numbers
    texts: list[str] = []
    for block in column.dictionary_encode().chunks:
        different = [text.strip() for text in block.dictionary.to_pylist()]
        texts += [different[place] for place in block.indices.to_pylist()]
    return texts


def _numbers(pa: Any, column: Any) -> np.ndarray | None:
    """Return text as numbers; None if some is none."""
    try:
        return np.asarray(column.cast(pa.float64()).to_numpy())
    except pa.ArrowInvalid:
        return None
