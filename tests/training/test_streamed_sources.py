"""Runs that stream what must be unpacked first: tables, IDX sets and compressed archives, with the bits of runs in
memory."""

import errno
import gzip
import io
import os
import signal
import zipfile
from contextlib import ExitStack

import anonymous_memory
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from data_files import write_idx_folder

from gpubp.data import arrow, npz, rows, spool, table, table_reader
from gpubp.data.loading import load
from gpubp.data.preparation import InputRules
from gpubp.data.rows import Rows
from gpubp.data.table import TableFormat
from gpubp.errors import ArgumentError, CheckpointError, DataError
from gpubp.nn import model_file
from gpubp.training import folder as folders
from gpubp.training import order
from gpubp.training.checkpoint import CHECKPOINT_FILE
from gpubp.training.loop import Interrupted, Listener
from gpubp.training.model import RUN_FILE, Model
from gpubp.training.predictions import load_for
from gpubp.training.settings import Settings

ROWS = 90


def columns():
    """Two numbers, one with gaps; truths; categories with gaps; a label; two truths; and weights."""
    rng = np.random.default_rng(5)
    size = rng.normal(size=ROWS)
    return {
        "size": [None if row % 11 == 3 else float(value) for row, value in enumerate(size)],
        "old": [bool(row % 3) for row in range(ROWS)],
        "city": [None if row % 13 == 5 else ("Rome", "Oslo", "Bonn, Rhein")[row * row % 3] for row in range(ROWS)],
        "count": rng.integers(0, 50, ROWS).tolist(),
        "side": [("left", "right")[int(value > 0)] for value in size],
        "big": (rng.random(ROWS) > 0.5).astype(int).tolist(),
        "red": (rng.random(ROWS) > 0.5).astype(int).tolist(),
        "w": rng.random(ROWS).round(2).tolist(),
    }


def write_csv(path):
    cells = [[("" if cell is None else f"{cell}").replace(",", "") for cell in column] for column in columns().values()]
    text = "\n".join([",".join(columns()), *map(",".join, zip(*cells, strict=True))]) + "\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)


def write_quoted_csv(path):
    """A file that pyarrow leaves to the reader of rows."""
    write_csv(path)
    path.write_text(path.read_text().replace("Oslo", '"Oslo"'))


def write_parquet(path):
    pq.write_table(pa.table(columns()), path, row_group_size=40)


def write_parts(path):
    path.mkdir()
    for part in range(2):
        pq.write_table(pa.table(columns()).slice(45 * part, 45), path / f"part-{part}.parquet")


def write_arrow(path):
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, pa.table(columns()).schema) as writer:
        writer.write_table(pa.table(columns()), 33)


def write_npz(path):
    rng = np.random.default_rng(5)
    x = np.asfortranarray(rng.normal(size=(ROWS, 5)).astype(np.float32))
    np.savez_compressed(path, x=x, y=np.arange(ROWS) % 3, w=rng.random(ROWS))


def write_idx(path):
    write_idx_folder(path, train=ROWS, test=20)


def write_gzip_idx(path):
    write_idx_folder(path, train=ROWS, test=20, compress=True)


def write_wide_idx(path):
    """Numbers of two bytes, the higher first."""
    images = np.random.default_rng(0).integers(-300, 300, (ROWS, 4, 3)).astype(np.int16)
    write_idx_folder(path, train=ROWS, test=20, train_images_idx3_ubyte=images)


TABLES = {
    "t.csv": write_csv,
    "quoted.csv": write_quoted_csv,
    "t.csv.gz": write_csv,
    "t.parquet": write_parquet,
    "parts": write_parts,
    "t.arrow": write_arrow,
    "t.feather": lambda path: pyarrow.feather.write_feather(pa.table(columns()), path),
}
ARRAYS = {"t.npz": write_npz, "idx": write_idx, "idx-gz": write_gzip_idx, "idx-wide": write_wide_idx}
OPTIONS = {
    "plain": {"label": "side", "drop": "size,city,w", "missing": "error"},
    "prepared": {"label": "side", "missing": "median", "weight_column": "w", "categories": "count"},
    "several": {"label": "big,red", "missing": "mean", "weight_column": "w", "max_categories": 2},
    "values": {"label": "w", "missing": "mean", "task": "regression"},
}


@pytest.fixture(autouse=True)
def few_rows_are_many(monkeypatch):
    """Read, compute and visit a few rows at a time. No pictures, which take longer than these trainings."""
    monkeypatch.setattr(arrow, "ROWS_AT_ONCE", 16)
    monkeypatch.setattr(table_reader, "ROWS_AT_ONCE", 16)
    monkeypatch.setattr(table, "NUMBERS_AT_ONCE", 16)
    monkeypatch.setattr(rows, "COLUMN_BYTES", 2 * 8 * ROWS)
    monkeypatch.setattr(order, "SHUFFLED_AT_ONCE", 8)
    monkeypatch.setattr(order, "BLOCK", 4)
    monkeypatch.setattr(folders, "_keep_pictures", lambda run, result: None)


def made(tmp_path, name):
    path = tmp_path / name
    {**TABLES, **ARRAYS}[name](path)
    return path


def settings(path, stream, **options):
    if path.suffix == ".npz":
        options = {"weight_column": "w", **options}
    defaults = {"layers": "6", "epochs": 2, "batch_size": 8, "backend": "numpy", "optimizer": "sgd", "seed": 3}
    return Settings(**{**defaults, "data": str(path), "stream": stream, **options})


def require_same(found, expected):
    """Raise AssertionError unless two folders hold the same run: all of its state, its history and its model."""
    ours, theirs = (model_file.read(each / CHECKPOINT_FILE) for each in (found, expected))
    assert ours[0].keys() == theirs[0].keys()
    for name, array in theirs[0].items():
        assert (array.dtype, array.tobytes()) == (ours[0][name].dtype, ours[0][name].tobytes()), name
    assert {**ours[1], "settings": None} == {**theirs[1], "settings": None}
    for name in ("history.csv", "model.safetensors"):
        assert (found / name).read_bytes() == (expected / name).read_bytes()


def trained(tmp_path, path, **options):
    """Train streamed and in memory, and compare; return whether the streamed inputs lay in files."""
    taken = []

    class Looks(Listener):
        def started(self, run):
            taken.append([isinstance(x, Rows) for x in (run.dataset.x_train, run.dataset.x_test)])

    for name, stream in (("streamed", True), ("whole", False)):
        folders.start(settings(path, stream, **options), tmp_path / name, Looks())
    require_same(tmp_path / "streamed", tmp_path / "whole")
    return taken


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_streamed_table_is_trained_to_the_same_bits(tmp_path, name, options):
    path = made(tmp_path, name)
    assert trained(tmp_path, path, **OPTIONS[options]) == [[True, True], [False, False]]


@pytest.mark.parametrize("name", [*(each for each in TABLES if each not in ("t.csv", "t.parquet")), *ARRAYS])
def test_a_streamed_run_of_every_kind_of_data_has_the_same_bits(tmp_path, name):
    options = OPTIONS["prepared"] if name in TABLES else {}
    assert trained(tmp_path, made(tmp_path, name), **options) == [[True, True], [False, False]]


def test_an_archive_may_be_compressed_in_part(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "LEAST_MAPPED", 1)
    rng = np.random.default_rng(0)
    arrays = {"x": rng.random((ROWS, 4)), "y": np.arange(ROWS) % 2, "x_test": rng.random((9, 4)), "y_test": np.ones(9)}
    with zipfile.ZipFile(tmp_path / "t.npz", "w") as archive:
        for name, array in arrays.items():
            kept = io.BytesIO()
            np.save(kept, array)
            is_stored = name == "x_test"
            archive.writestr(f"{name}.npy", kept.getvalue(), zipfile.ZIP_STORED if is_stored else zipfile.ZIP_DEFLATED)
    found = load(tmp_path / "t.npz", stream=True)
    np.testing.assert_array_equal(found.x_train, arrays["x"])
    np.testing.assert_array_equal(found.x_test, arrays["x_test"])
    os.utime(tmp_path / "t.npz", ns=(1, 1))
    with pytest.raises(DataError, match="it changed while it was read"):
        found.x_test[:1]


def test_an_idx_file_that_changes_while_it_is_read_is_said(tmp_path):
    found = load(made(tmp_path, "idx"), stream=True)
    assert found.x_train[:2].shape == (2, 12)
    os.utime(tmp_path / "idx" / "t10k-images-idx3-ubyte", ns=(1, 1))
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte: it changed while it was read"):
        found.x_train[:2]


@pytest.mark.parametrize("line", ["1,2,", "1,,a", "1,2,3,a", "1,b,a"])
@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_what_is_wrong_with_a_table_is_said_as_ever(tmp_path, name, line):
    text = ("p,q,side\n" + "1.5,2,a\n3,4,b\n" * 20 + line + "\n").encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    told = []
    for stream in (True, False):
        with pytest.raises(DataError) as error:
            load(tmp_path / name, stream=stream)
        told.append(str(error.value))
    assert told[0] == told[1]
    assert "line 42" in told[0]


# --- stopped and resumed ----------------------------------------------------------------------------------------------
class Stops(Listener):
    def batch(self, run):
        if (run.epoch, run.batch) == (1, 3):
            os.kill(os.getpid(), signal.SIGINT)


def stopped(tmp_path, path, **options):
    with pytest.raises(Interrupted):
        folders.start(settings(path, True, **options), tmp_path / "run", Stops())
    return tmp_path / "run"


@pytest.mark.parametrize("name", ["t.csv.gz", "t.parquet", "idx-gz"])
def test_a_streamed_run_that_is_stopped_in_an_epoch_is_resumed(tmp_path, name):
    path, options = made(tmp_path, name), OPTIONS["prepared"] if name in TABLES else {}
    folders.start(settings(path, False, **options), tmp_path / "whole", Listener())
    run = stopped(tmp_path, path, **options)
    folders.resume(run, {}, Listener())
    require_same(run, tmp_path / "whole")


@pytest.mark.parametrize("then", [True, False])
def test_a_table_that_changed_meanwhile_is_another(tmp_path, then):
    path = made(tmp_path, "t.csv")
    run = stopped(tmp_path, path, **OPTIONS["prepared"])
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:-1], lines[-2]]))
    with pytest.raises(CheckpointError, match="data"):
        folders.resume(run, {"stream": then}, Listener())


def test_a_table_that_changes_while_it_is_trained_on_stays_what_it_was(tmp_path):
    path = made(tmp_path, "t.parquet")

    class Changes(Listener):
        def started(self, run):
            path.unlink()

    folders.start(settings(path, True, **OPTIONS["prepared"]), tmp_path / "streamed", Changes())
    write_parquet(path)
    folders.start(settings(path, False, **OPTIONS["prepared"]), tmp_path / "whole", Listener())
    require_same(tmp_path / "streamed", tmp_path / "whole")


# --- what is large ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "size"), [("t.parquet", ROWS * 5 * 8), ("t.npz", ROWS * 5 * 4), ("idx", ROWS * 12), ("idx-gz", ROWS * 12)]
)
def test_what_is_known_to_be_large_goes_to_a_file_by_itself(tmp_path, monkeypatch, name, size):
    path, options = made(tmp_path, name), {"label": "side", "drop": "w,city"} if name == "t.parquet" else {}
    options = {"table": TableFormat(drop=options["drop"]), "label": "side"} if options else {}
    rules = InputRules(missing="mean") if options else InputRules()
    for memory, stream, expected in (
        (4 * size - 1, None, True), (4 * size - 1, False, False), (4 * size, None, False), (0, None, False),
    ):  # fmt: skip
        monkeypatch.setattr(spool, "usable_memory", lambda memory=memory: memory)
        found = load(path, stream=stream, rules=rules, **options)
        assert isinstance(found.x_train, Rows) == expected


@pytest.mark.parametrize("whole", [False, True])
def test_a_model_is_judged_by_a_large_table_as_by_a_small_one(tmp_path, monkeypatch, whole):
    path = made(tmp_path, "t.parquet")
    folders.start(settings(path, True, **OPTIONS["prepared"]), tmp_path / "run", Listener())
    model = Model.load(tmp_path / "run" / RUN_FILE, "numpy")
    for memory in (0, 1):
        monkeypatch.setattr(spool, "usable_memory", lambda memory=memory: memory)
        found = load_for(model, None, None, whole=whole)
        assert whole or isinstance(found.x.source, np.memmap) == (memory == 1)
        if memory == 0:
            expected = np.asarray(found.x), found.name
    assert np.asarray(found.x).tobytes() == expected[0].tobytes()
    assert found.name == expected[1]


def test_what_a_text_unpacks_to_is_not_known(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "usable_memory", lambda: 1)
    assert not isinstance(load(made(tmp_path, "t.csv"), rules=InputRules(missing="mean")).x_train, Rows)


TRAINING = """
import sys
from anonymous_memory import Watched
from gpubp.training import folder
from gpubp.training.loop import Listener
from gpubp.training.settings import Settings

def train(data, out):
    options = dict(layers="4", epochs=1, batch_size=1024, backend="numpy", task="regression", label="c29")
    folder.start(Settings(data=data, **options, test_fraction=0.05, stream=True), out, Listener())

folder._keep_pictures = lambda run, result: None
train(sys.argv[1], sys.argv[3])  # what is there once, however large the data is
with Watched() as memory:
    train(sys.argv[2], sys.argv[4])
print(memory.peak - memory.first)
"""


@pytest.mark.exhaustive
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="RssAnon is Linux's")
@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_large_table_is_not_in_memory(tmp_path, kind):
    length, width = 500_000, 80
    rng = np.random.default_rng(0)
    schema = pa.schema([(f"c{i}", pa.float64()) for i in range(width)])
    for name, parts in (("small", 1), ("large", 10)):
        with ExitStack() as held:
            opened = pq.ParquetWriter if kind == "parquet" else pa.csv.CSVWriter
            file = held.enter_context(opened(tmp_path / f"{name}.{kind}", schema))
            for _ in range(parts):
                values = rng.integers(0, 1000, (width, length // 10 if parts > 1 else 10_000)) / 8
                file.write(pa.table(dict(zip(schema.names, values, strict=True))))
    paths = [tmp_path / f"{name}.{kind}" for name in ("small", "large")]
    grown = anonymous_memory.told_by(TRAINING, *paths, tmp_path / "a", tmp_path / "b")
    size = 8 * length * width
    print(f"{grown / 2**20:.0f} MiB of the table's {size / 2**20:.0f}")
    assert grown < 2 / 3 * size


# --- a disk that is full ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "fails"),
    [
        *((name, "pwrite") for name in [*TABLES, "t.npz", "idx-gz"]),
        *((name, "posix_fallocate") for name in ["t.parquet", "t.npz", "idx-gz"]),
    ],
)
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, monkeypatch, name, fails):
    path, temporary = made(tmp_path, name), tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, fails, full)
    options = OPTIONS["prepared"] if name in TABLES else {}
    message = f"{name}.*: to stream it, .* into a file in {temporary}: No space left on device; the variable TMPDIR"
    with pytest.raises(DataError, match=message):
        folders.start(settings(path, True, **options), tmp_path / "run", Listener())
    assert not os.listdir(temporary)
    assert not (tmp_path / "run").exists()


def test_a_folder_for_temporary_files_that_is_gone_is_said(tmp_path, monkeypatch):
    path = made(tmp_path, "t.csv")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    with pytest.raises(DataError, match=r"t\.csv: to stream it, .* in .*gone: No such file"):
        folders.start(settings(path, True, **OPTIONS["prepared"]), tmp_path / "run", Listener())


def test_the_bundled_digits_are_not_streamed(tmp_path):
    with pytest.raises(ArgumentError, match="stream was given; it must be left out for digits: they come with"):
        folders.start(Settings(data="digits", stream=True), tmp_path / "run", Listener())
