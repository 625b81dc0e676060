"""Tables with typed columns: Parquet (a file, or a folder of parts), Arrow and Feather, read by pyarrow."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from gpubp.data import cells
from gpubp.data.columns import Columns, Wanted
from gpubp.data.preparation import InputRules
from gpubp.data.source import Source, reason, require_room
from gpubp.data.spool import Spool, is_wanted
from gpubp.data.table import TableFormat
from gpubp.data.table_reader import Read, TableReader, Values, as_whole
from gpubp.errors import ArgumentError, DataError, listed, shown, shown_path
from gpubp.files import open_regular

ARROW_SUFFIXES = (".parquet", ".pq", ".arrow", ".feather", ".ipc")
"""How the names of these files end: the last three are Arrow's own format, which Feather is too."""

ROWS_AT_ONCE = 2**13
"""Rows that are unpacked at once."""
BYTES_AT_ONCE = 2**16
"""Bytes of each column of a Parquet file that are read at once: its row groups may be as large as the file."""

_OF_SO_MANY = re.compile(r"(\d+)-of-(\d+)")
_NUMBERED = re.compile(r"part[-._]?(\d+)\.[a-z]+")
_INDEX = re.compile(r"__index_level_\d+__")
"""What pandas calls an index of the rows that has no name."""
_TEXT = ("string", "large_string")
"""The types of text that a dictionary may have, and every release of pyarrow can take out of it."""
_FOR_TEXT = ("header", "delimiter", "encoding", "decimal", "thousands", "percent")
"""The fields of `TableFormat` that say how text is written."""


def parts_of(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the files of a folder that are parts of one table, by name; [] if it holds none."""
    try:
        names = sorted(name for name in os.listdir(folder) if name[0] not in "._")
    except OSError:
        return []
    return [Path(folder, name) for name in names if Path(name.lower()).suffix in ARROW_SUFFIXES]


def read_arrow(
    path: Path,
    label: str | int | Sequence[str | int] | None,
    written: TableFormat,
    wanted: Wanted,
    rules: InputRules,
    *,
    weight: str | int | None = None,
    inputs_only: bool = False,
    stream: bool | None = False,
) -> Source:
    """Read a Parquet, Arrow or Feather file, or a folder of them; arguments as for `read_table`.

    Numbers are numbers; text and truths are read as the cells of a CSV file are. Null and NaN are missing values.

    Raises:
        ArgumentError: `written` says how text is written.
        DataError: pyarrow is missing; the file is damaged; a part is missing or has other columns; a column that is
            read has another type, or a value that does not fit, whose row is named.
    """
    for field in fields(written):
        value = getattr(written, field.name)
        if field.name in _FOR_TEXT and value != field.default:
            raise ArgumentError(field.name, value, f"left out for '{shown_path(path)}': only text (.csv, .tsv) has it")
    files = [path]
    if os.path.isdir(path):
        files = parts_of(path)
        _require_all_parts(path, [file.name for file in files])
    parts = [_Part(file) for file in files]
    for part in parts[1:]:
        _require_same_columns(parts[0], part)
    reader = _Reader(shown_path(path), parts, written, rules, wanted, stream)
    return reader.read(label, weight, wanted, inputs_only=inputs_only)


def _pyarrow(name: str) -> ModuleType:
    """Return pyarrow. Raise DataError if it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f"{name}: reading it needs pyarrow: {error}; pip install 'gpubp[parquet]'") from error
    return pyarrow


def _require_all_parts(folder: Path, names: Sequence[str]) -> None:
    """Raise DataError if the names of parts count them, and one is left out, or there are those of several tables."""
    for pattern in (_OF_SO_MANY, _NUMBERED):
        found = [match for name in names if (match := pattern.search(name.lower()))]
        if len(found) != len(names):
            continue
        numbers = {int(match[1]) for match in found}
        if pattern is _OF_SO_MANY and (len(numbers) < len(names) or len({match[2] for match in found}) > 1):
            raise DataError(
                f"{shown_path(folder)}: it holds the parts of several tables, {listed(names)}; it must be a folder "
                "with one, or one of the files"
            )
        # counted from 0 or from 1
        first = int(found[0][2]) in numbers if pattern is _OF_SO_MANY else min(min(numbers), 1)
        after = first + int(found[0][2]) if pattern is _OF_SO_MANY else max(numbers)
        absent = sorted(set(range(first, after)) - numbers)
        if absent:
            raise DataError(f"{shown_path(folder)}: part {listed(absent, 60)} is missing; there are {listed(names)}")
        return


def _require_same_columns(first: _Part, part: _Part) -> None:
    """Raise DataError if the columns of a part have other names than those of the first, or other kinds of values."""
    if part.names != first.names:
        here, there = set(part.names), set(first.names)
        told = [f"it lacks {listed(sorted(there - here), 80)}"] if there - here else []
        told += [f"it has {listed(sorted(here - there), 80)} besides"] if here - there else []
        raise DataError(
            f"{part.name}: its columns are not those of {first.name}: {' and '.join(told) or 'they stand otherwise'}"
        )
    for name, mine, theirs in zip(part.names, part.types, first.types, strict=True):
        if _kind(mine) != _kind(theirs) and "null" not in (str(mine), str(theirs)):
            raise DataError(f"{part.name}: its column '{shown(name)}' holds {mine}, and that of {first.name} {theirs}")


def _valid(batch: Any, columns: Sequence[str]) -> Any:
    """Return columns of a record batch. Raise ArrowInvalid for what none may hold, such as text that is not UTF-8."""
    found = batch.select(columns)
    found.validate(full=True)
    return found


def _kind(found: Any) -> str:
    """Return what the values of an Arrow type are: "number", "text" or "other"."""
    import pyarrow.types as t

    if t.is_integer(found) or t.is_floating(found) or t.is_decimal(found):
        return "number"
    if t.is_dictionary(found):
        return "other" if _kind(found.value_type) == "other" else "text"
    are_text = (t.is_string, t.is_large_string, t.is_string_view, t.is_boolean, t.is_null)
    return "text" if any(each(found) for each in are_text) else "other"


class _Part:
    """One file of a table.

    Attributes:
        name: to call it in messages.
        names, types: of its columns.
        rows: how many it has.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, shown_path(path)
        self.arrow = _pyarrow(self.name)
        with self._told("it cannot be read"), open_regular(path) as file:
            self.is_parquet = file.read(4) == b"PAR1"  # a link may have any name
        with self._told(f"it is not a whole {'' if self.is_parquet else 'Arrow, Feather or '}Parquet file"):
            if self.is_parquet:
                with self._parquet() as table:
                    schema, self.rows = table.schema_arrow, table.metadata.num_rows
            else:
                with self._batches() as (schema, batches):
                    self.rows = sum(batch.num_rows for batch in batches)
        self.names, self.types = list(schema.names), list(schema.types)

    def blocks(self, columns: Sequence[str]) -> Iterator[Any]:
        """Yield these columns as Arrow record batches. Raise DataError for a block that is damaged."""
        if not self.is_parquet:
            with self._told("it cannot be read"), self._batches() as (_, batches):
                for batch in batches:
                    found = _valid(batch, columns)
                    yield from (found.slice(first, ROWS_AT_ONCE) for first in range(0, len(found), ROWS_AT_ONCE))
            return
        with self._told("it cannot be read"), self._parquet() as file:
            for group in range(file.num_row_groups):
                with self._told(f"row group {group} cannot be read"):
                    for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=list(columns)):
                        yield _valid(batch, columns)  # besides "a.b" it has part b of a column "a"

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Tell an error of Arrow's or of the system as a DataError."""
        try:
            yield
        except (self.arrow.ArrowException, OSError) as error:
            raise DataError(f"{self.name}: {what}: {shown(reason(error), 200)}") from None

    def _parquet(self) -> Any:
        return self.arrow.parquet.ParquetFile(
            self.path, page_checksum_verification=True, pre_buffer=False, buffer_size=BYTES_AT_ONCE
        )

    @contextmanager
    def _batches(self) -> Iterator[tuple[Any, Iterator[Any]]]:
        """Give the schema and the record batches of a file in Arrow's format, of its two kinds."""
        with self.arrow.memory_map(str(self.path)) as source:
            if bytes(source.read(6)) == b"ARROW1":
                file = self.arrow.ipc.open_file(source)
                yield file.schema, (file.get_batch(i) for i in range(file.num_record_batches))
            else:
                source.seek(0)
                stream = self.arrow.ipc.open_stream(source)
                yield stream.schema, iter(stream)


class _Reader(TableReader):
    """One table of typed columns, in one part or in several."""

    def __init__(
        self,
        name: str,
        parts: Sequence[_Part],
        written: TableFormat,
        rules: InputRules,
        wanted: Wanted,
        stream: bool | None,
    ) -> None:
        super().__init__(name, rules, float, written.drop, keep_index=written.keep_index, stream=stream)
        self.parts = parts
        found = parts[0]
        kept = [
            i
            for i, column in enumerate(found.names)
            if written.keep_index or column in wanted.names or not _INDEX.fullmatch(column)
        ]
        if len(kept) < len(found.names):
            self.notes.append("left out the index of the rows (--keep-index takes it)")
        self.stored = [found.names[i] for i in kept]
        # a column may be null throughout one part
        types = [[part.types[i] for part in parts if str(part.types[i]) != "null"] for i in kept]
        self.types = [of_column[0] if of_column else found.types[i] for i, of_column in zip(kept, types, strict=True)]

    def read(
        self,
        label: str | int | Sequence[str | int] | None,
        weight: str | int | None,
        wanted: Wanted,
        *,
        inputs_only: bool,
    ) -> Source:
        """Return the table's inputs, labels and weights."""
        if not self.stored:
            raise DataError(f"{self.name}: it has no columns")
        if not self.rows:
            raise DataError(f"{self.name}: it has no rows")
        columns = Columns(self.name, len(self.stored), self.names(self.stored))
        return self.source(columns, label, weight, wanted, inputs_only=inputs_only)

    @cached_property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    def holds_text(self, column: int) -> bool:
        return _kind(self.types[column]) == "text"

    def seems_text(self, column: int) -> bool:
        return self.holds_text(column)

    def place(self, row: int) -> str:
        for part in self.parts:
            if row < part.rows:
                break
            row -= part.rows
        return f"row {row}" if len(self.parts) == 1 else f"{shown(part.path.name)}, row {row}"

    def values(self, columns: Columns, read: Read) -> Values:
        label = read.labels[0] if len(read.labels) == 1 else None
        used = [*read.numeric, *read.coded, *(() if label is None else (label,))]
        for column in used:
            self._require_readable(column, columns, read)
        size = self.rows * read.width * 8
        in_file = is_wanted(self.stream, size)
        if not in_file:
            require_room(self.name, size)
        labels: list[Any] = []
        start = 0
        with Spool(self.name, in_file=in_file, size=size) as spool:
            for part in self.parts:
                before = start
                for block in part.blocks([self.stored[i] for i in used]):
                    rows = np.empty((block.num_rows, read.width))
                    for place in range(len(read.numeric)):
                        rows[:, place] = _numbers(block.column(place))
                    if not np.isfinite(rows[:, : len(read.numeric)]).all():
                        self._look_closely(rows[:, : len(read.numeric)], start, columns, read)
                    for place, text in enumerate(read.coded.values(), len(read.numeric)):
                        rows[:, place] = text.codes(*_texts(block.column(place)))
                    spool.append(rows)
                    if label is not None:
                        labels.append(self._labels(block.column(len(used) - 1), start, label, columns, read))
                    start += block.num_rows
                    if in_file:
                        part.arrow.default_memory_pool().release_unused()  # it keeps what it has had
                if start - before != part.rows:
                    raise DataError(f"{part.name}: it announces {part.rows:,} rows and holds {start - before:,}")
            raw, several, weights = self.taken_from(spool, self.rows, columns, read)
        return raw, as_whole(several) if read.several else _joined(labels), weights, None

    def _require_readable(self, column: int, columns: Columns, read: Read) -> None:
        """Raise DataError for a column whose type is none that its values can have."""
        kind = _kind(self.types[column])
        if kind == "other" or (kind == "text" and column in read.others and str(self.types[column]) != "bool"):
            role = "label " if column in read.labels else "weight " if column == read.weight else ""
            must = "numbers" if column in read.others else "numbers, truths or text"
            remedy = f"; --drop {shown(columns.key(column), 40)} leaves it out" if column in read.features else ""
            is_time = re.match(r"date|time|duration", str(self.types[column]))
            advice = " (write a date as numbers, such as the days since the first one)" if is_time else ""
            raise DataError(
                f"{self.name}: the {role}column {columns.call(column)} holds {shown(self.types[column], 60)}; it must "
                f"hold {must}{remedy}{advice}"
            )

    def _look_closely(self, rows: np.ndarray, start: int, columns: Columns, read: Read) -> None:
        """Raise DataError for the first value that must not be: one that is missing, or infinite.

        rows: those from `start` on, (rows, numeric columns).
        """
        for row, place in np.argwhere(~np.isfinite(rows)).tolist():
            column, value = read.numeric[place], rows[row, place]
            must = "inputs must be finite numbers"
            if column in read.several:
                must = "several label columns must hold 0 and 1, or numbers"
            elif column == read.weight:
                must = "weights must be finite numbers"
            elif self.rules.missing != "error" and np.isnan(value):
                continue
            cell = "" if np.isnan(value) else str(value)
            raise self.refusal(self.place(start + row), column, cell, columns, read, must)

    def _labels(self, found: Any, start: int, label: int, columns: Columns, read: Read) -> np.ndarray | list[str]:
        """Return a block of the label column: numbers, or text. Raise DataError for one that is missing."""
        if self.holds_text(label):
            indices, texts = _texts(found)
            texts = [text.strip() for text in texts]
            is_missing = np.array([cells.is_missing(text) for text in texts], bool)[indices]
            if not is_missing.any():
                return [texts[index] for index in indices.tolist()]
        else:
            values = _numbers(found) if found.null_count or _is_decimal(found) else found.to_numpy(zero_copy_only=False)
            is_missing = np.isnan(values)
            if not is_missing.any():
                return np.asarray(values)
        place = self.place(start + int(np.argmax(is_missing)))
        raise self.refusal(place, label, "", columns, read, "every example needs a label")


def _is_decimal(found: Any) -> bool:
    return str(found.type).startswith("decimal")


def _numbers(found: Any) -> np.ndarray:
    """Return an Arrow array of numbers or of truths as float64, NaN for null."""
    return np.asarray(found.cast("float64", safe=False).to_numpy(zero_copy_only=False), np.float64)


def _texts(found: Any) -> tuple[np.ndarray, list[str]]:
    """Return the values of an Arrow array as text: (rows,) places in a list of different texts, "" for null."""
    if str(found.type) == "string_view":
        import pyarrow as pa

        found = pa.array(found.to_pylist(), pa.large_string())  # earlier versions cannot cast or encode a view
    if hasattr(found, "dictionary") and len(found) < len(found.dictionary) and str(found.type.value_type) in _TEXT:
        found = found.dictionary_decode()  # each block has the dictionary of all, most of which it does not use
    encoded = found if hasattr(found, "dictionary") else found.dictionary_encode()
    texts = [_text(value) for value in encoded.dictionary.to_pylist()]
    indices = encoded.indices.cast("int64").fill_null(len(texts))
    return indices.to_numpy(zero_copy_only=False), [*texts, ""]


def _text(value: object) -> str:
    """Return a value as a CSV file has it."""
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _joined(blocks: Sequence[np.ndarray | list[str]]) -> np.ndarray | list[str]:
    """Return the labels of all blocks."""
    if not blocks or isinstance(blocks[0], list):
        return [text for block in blocks for text in block]
    return np.concatenate(blocks)
