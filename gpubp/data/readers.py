"""Readers of the data formats: IDX, .npz and CSV, each to a `Source`.

A reader checks what belongs to its format: that the file is whole, and that what should be a number is one. Whether
the numbers fit together is checked in `loading`. Everything that is wrong is a `DataError` that names the file.
"""

from __future__ import annotations

import csv
import gzip
import math
import os
import struct
import zipfile
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import BinaryIO, TextIO

import numpy as np

from gpubp.data import columns
from gpubp.errors import DataError

DIGIT_CLASSES = tuple("0123456789")
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
IDX_SETS = {"fashion-mnist": FASHION_CLASSES, "mnist": DIGIT_CLASSES}
"""The classes of each set of IDX files that is known by name."""

MOST_WHOLE_NUMBER_CLASSES = 50
"""A CSV label column of whole numbers with more different values than this is taken for a quantity to predict."""


@dataclass(frozen=True, eq=False)
class Source:
    """What a reader found, in one part or in two.

    Attributes:
        name: what to call it in messages: the data set's name or the file's path.
        x, x_test: inputs, examples first; x_test is None where the source has no test part.
        y, y_test: labels as they stand: numbers, text or one-hot rows; None where there are none.
        task: what the labels look like.
        class_names: the classes where they are known beforehand, else empty; then labels are their indices.
        feature_names: the names of the input columns, else empty.
        value_range: the largest value an input can take, where the format says.
    """

    name: str
    x: np.ndarray
    y: np.ndarray | None
    x_test: np.ndarray | None = None
    y_test: np.ndarray | None = None
    task: str = "classification"
    class_names: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()
    value_range: float | None = None


def _reason(error: BaseException) -> str:
    """Return the message of a system's or a library's error, without the path and the error number."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


# --- the bundled digits and .npz ------------------------------------------------------------------------------------


def read_digits() -> Source:
    """Read the bundled handwritten digits, 8×8, values 0 to 16."""
    with resources.as_file(resources.files("gpubp.data.digits") / "digits.npz") as path:
        found = read_npz(path)
    return Source("digits", found.x, found.y, found.x_test, found.y_test, class_names=DIGIT_CLASSES, value_range=16)


def read_npz(path: Path) -> Source:
    """Read an archive with x and y (or x_train, y_train), and perhaps x_test and y_test; y may be missing."""
    arrays = _npz_arrays(path)
    x, y = (arrays.get(name, arrays.get(f"{name}_train")) for name in ("x", "y"))
    if x is None:
        raise DataError(f"{path}: it holds {', '.join(arrays) or 'nothing'}; it must hold x and y")
    if y is not None and ("x_test" in arrays) != ("y_test" in arrays):
        raise DataError(f"{path}: x_test and y_test must come together")
    for name, values in arrays.items():
        if name.startswith(("x", "y")) and values.ndim == 0:
            raise DataError(f"{path}: {name} is a single value; it must have one row an example")
    return Source(
        str(path),
        x,
        y,
        arrays.get("x_test"),
        arrays.get("y_test"),
        task="regression" if y is not None and y.dtype.kind == "f" else "classification",
        # Rows of 8-bit numbers may be a table; three axes and more are images.
        value_range=255 if x.dtype == np.uint8 and x.ndim > 2 else None,
    )


def _npz_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as file:
            return _read_archive(path, file)
    except OSError as error:
        raise DataError(f"{path}: it cannot be read: {_reason(error)}") from None


def _read_archive(path: Path, file: BinaryIO) -> dict[str, np.ndarray]:
    if not zipfile.is_zipfile(file):
        raise DataError(f"{path}: it is not a whole .npz archive (numpy.savez makes them)")
    file.seek(0)
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # zipfile's, zlib's, tokenize's, ...: damage surfaces wherever the parsers meet it
        if "allow_pickle" in str(error):
            raise DataError(f"{path}: it holds Python objects; it must hold arrays of numbers or text") from None
        raise DataError(f"{path}: the archive is damaged: {_reason(error)}") from None


# --- IDX ------------------------------------------------------------------------------------------------------------

IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


DATA_FOLDERS = ("data", "/usr/share/datasets")
"""Where sets known by name are looked for, after $GPUBP_DATA: beside the user, and where Debian's packages put them."""


def find_idx_folder(name: str) -> Path:
    """Return the folder of a set known by name: under $GPUBP_DATA or one of `DATA_FOLDERS`."""
    places = [Path(root) / name for root in (os.environ.get("GPUBP_DATA"), *DATA_FOLDERS) if root]
    for place in places:
        if place.is_dir():
            return place
    package = "install Debian's package dataset-fashion-mnist, or " if name == "fashion-mnist" else ""
    files = ", ".join(f"{part}-ubyte.gz" for part in _IDX_PARTS)
    raise DataError(
        f"{name} is not on this machine: there is no folder {', '.join(map(str, places))}. To get it, {package}put the "
        f"files {files} into data/{name} or into a folder of your own, named in place of {name!r}"
    )


_IDX_PARTS = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


def read_idx_folder(folder: Path, name: str) -> Source:
    """Read the four files of MNIST's layout, each plain or gzip."""
    images, labels, test_images, test_labels = (_read_idx_part(folder, part) for part in _IDX_PARTS)
    return Source(
        name,
        images,
        labels,
        test_images,
        test_labels,
        class_names=IDX_SETS.get(name, ()),
        value_range=255 if images.dtype == np.uint8 else None,
    )


def _read_idx_part(folder: Path, part: str) -> np.ndarray:
    # Some copies have a dot in front of "idx".
    stems = (f"{part}-ubyte", part.replace("-idx", ".idx") + "-ubyte")
    for stem in stems:
        for path in (folder / stem, folder / f"{stem}.gz"):
            if path.exists():
                return read_idx(path)
    raise DataError(f"{folder}: there is no file {stems[0]} or {stems[0]}.gz; a folder must hold the four IDX files")


def read_idx(path: Path) -> np.ndarray:
    """Read one IDX file, plain or gzip (told by its first bytes), as an array in the machine's byte order.

    The format: two zero bytes, a code for the type, the number of axes, each axis' length as a big-endian 32-bit
    integer, then the values, big-endian, in C order (Y. LeCun, "The MNIST database of handwritten digits").
    """
    try:
        with open(path, "rb") as file:
            is_gzip = file.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if is_gzip else open(path, "rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error, MemoryError) as error:
        raise DataError(f"{path}: it cannot be read: {_reason(error)}") from None
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in IDX_DTYPES:
        raise DataError(f"{path}: it is not an IDX file: it starts with {content[:4].hex(' ') or 'nothing'}")
    dtype, axes = np.dtype(IDX_DTYPES[content[2]]), content[3]
    start = 4 + 4 * axes
    if axes == 0 or len(content) < start:
        raise DataError(f"{path}: the header is cut off or announces no axes")
    shape = struct.unpack(f">{axes}I", content[4:start])
    announced = math.prod(shape) * dtype.itemsize
    if len(content) - start != announced:
        raise DataError(
            f"{path}: the header announces {announced:,} bytes of values for shape {shape}, "
            f"the file has {len(content) - start:,}; it is cut off or damaged"
        )
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


# --- CSV ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Line:
    number: int  # in the file, from 1
    cells: list[str]


def read_csv(
    path: Path,
    label: str | int | None = None,
    *,
    task: str | None = None,
    feature_names: Sequence[str] = (),
    inputs_only: bool = False,
) -> Source:
    """Read a table of numbers with a label column.

    Commas, semicolons or tabs separate the cells, whichever the first line has most of. The first line is a header if
    it has text where the next line has a number, or a name of a label column; otherwise columns are called 0, 1, ...

    Args:
        path: the file, UTF-8.
        label: the label column, by name or by index from 0 (negative: from the end); see `columns.LABEL_COLUMNS`.
        task: "regression" reads the labels as numbers, "classification" as names, None as they look.
        feature_names: take these columns, in this order, and no others.
        inputs_only: the labels are not wanted, and their column may be missing.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = _csv_lines(path, file)
            header, lines = _csv_header(path, lines, label)
            label_index = columns.label_column(path, header, label, optional=inputs_only)
            features = columns.feature_columns(path, header, label_index, feature_names)
            x, labels = _csv_values(path, lines, header, features, None if inputs_only else label_index)
    except OSError as error:
        raise DataError(f"{path}: it cannot be read: {_reason(error)}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: it is not UTF-8 text (byte {error.start})") from None
    names = tuple(header[i] for i in features)
    if inputs_only:
        return Source(str(path), x, None, feature_names=names)
    assert label_index is not None  # it may be missing for inputs alone
    y, task = _csv_labels(path, labels, header[label_index], task)
    return Source(str(path), x, y, task=task, feature_names=names)


def _csv_lines(path: Path, file: TextIO) -> Iterator[_Line]:
    """Yield the lines that are not blank; each must have as many cells as the first."""
    first = file.readline()
    file.seek(0)
    reader = csv.reader(file, delimiter=max(",;\t", key=first.count), skipinitialspace=True, strict=True)
    width = None
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            width = width or len(cells)
            if len(cells) != width:
                raise DataError(
                    f"{path}, line {reader.line_num}: it has {len(cells)} cells and the first line has {width}; "
                    "every line must have as many"
                )
            yield _Line(reader.line_num, cells)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from None


def _csv_header(path: Path, lines: Iterator[_Line], label: str | int | None) -> tuple[list[str], Iterator[_Line]]:
    """Return the columns' names and the lines that follow; those of a file with no header are numbers."""
    first, second = next(lines, None), next(lines, None)
    if first is None:
        raise DataError(f"{path}: it is empty; it must hold a header and at least one row")
    head = [line for line in (first, second) if line is not None]
    if columns.is_header(first.cells, None if second is None else second.cells, label):
        repeated = [name for name in first.cells if first.cells.count(name) > 1]
        if repeated:
            raise DataError(f"{path}: the header names {repeated[0]!r} twice; every column needs a name of its own")
        names, head = first.cells, head[1:]
    else:
        names = [str(i) for i in range(len(first.cells))]
    if not head:
        raise DataError(f"{path}: there are no rows below the header")
    return names, _chain(head, lines)


def _chain(head: list[_Line], lines: Iterator[_Line]) -> Iterator[_Line]:
    yield from head
    yield from lines


def _csv_values(
    path: Path, lines: Iterator[_Line], header: list[str], features: list[int], label_index: int | None
) -> tuple[np.ndarray, list[str]]:
    """Return the inputs (rows, features), float64, and the labels as text."""
    values, labels = array("d"), []
    for line in lines:
        row = [line.cells[i] for i in features]
        try:
            numbers = [float(cell) for cell in row]
            is_finite = all(map(math.isfinite, numbers))
        except ValueError:
            is_finite = False
        if not is_finite:
            raise _bad_cell(path, line, header, features)
        values.extend(numbers)
        if label_index is not None:
            if not line.cells[label_index]:
                raise DataError(f"{path}, line {line.number}: the label {header[label_index]!r} is missing")
            labels.append(line.cells[label_index])
    return np.array(values, dtype=np.float64).reshape(-1, len(features)), labels


def _bad_cell(path: Path, line: _Line, header: list[str], features: list[int]) -> DataError:
    """Return the error for the first cell of a line that is no finite number."""
    for i in features:
        cell = line.cells[i]
        if not columns.is_number(cell) or not math.isfinite(float(cell)):
            what = f"is {cell!r}" if cell else "is empty"
            return DataError(
                f"{path}, line {line.number}: the column {header[i]!r} {what}; inputs must be finite numbers "
                "(is it the label? then name it so)"
            )
    raise AssertionError(f"{path}, line {line.number}: every cell is a finite number")


def _csv_labels(path: Path, labels: list[str], column: str, task: str | None) -> tuple[np.ndarray, str]:
    """Return the labels as numbers or as text, and the task."""
    try:
        numbers = np.array([float(label) for label in labels])
    except ValueError:
        if task == "regression":
            bad = next(label for label in labels if not columns.is_number(label))
            raise DataError(f"{path}: the label column {column!r} has {bad!r}; regression needs numbers") from None
        return np.array(labels), "classification"
    if not np.isfinite(numbers).all():
        raise DataError(f"{path}: the label column {column!r} has NaN or infinity; every label must be finite")
    is_whole = bool((numbers == np.round(numbers)).all() and np.abs(numbers).max() < 2**53)
    if task is None:
        is_few = len(np.unique(numbers)) <= MOST_WHOLE_NUMBER_CLASSES
        task = "classification" if is_whole and is_few else "regression"
    if task == "classification" and is_whole:
        return numbers.astype(np.int64), task
    return numbers, task
