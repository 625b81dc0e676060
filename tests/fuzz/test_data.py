"""Damaged data of every format: refused in one short line, or read as a data set that holds together."""

import gzip
import io
import json
import struct
import zipfile

import numpy as np
import pytest
from damage import ODD_INTEGERS, damaged_bytes, damaged_text, fuzz

from gpubp.data.loading import load, load_inputs
from gpubp.data.preparation import InputColumn, InputRules, Preparation
from gpubp.data.scaler import Scaler
from gpubp.data.table import TableFormat

TABLES = (
    "sepal,petal,species\n" + "5.1,1.4,setosa\n4.9,1.3,setosa\n6.4,4.5,virginica\n6.9,4.9,virginica\n" * 3,
    "5.1;1.4;y\n4.9;1.3;n\n6.4;4.5;y\n6.9;4.9;n\n" * 3,
    ",a,b,label\n" + "".join(f"{i},{i / 3:.3f},{i % 4},{i % 2}\n" for i in range(20)),
    "0,1,2,label\n" + "".join(f"{i * 7 % 5},0,{i % 4},{i * 1000}\n" for i in range(20)),
    'a\t"b\tc"\tlabel\n' + '1\t"2"\t01234\n3\t4\t1234\n' * 6,
    "a,b,label,w\n" + "".join(f"{i % 3},{'true' if i % 2 else 'FALSE'},{i // 7},{i / 4}\n" for i in range(20)),
    "".join(f"{i % 2},{i % 5 // 4},{i},{i * 9 % 4}\n" for i in range(20)),
    "a,b,c,label\n"
    + "".join(f"{'Rome' if i % 3 else 'Bern'},{'NA' if i % 4 else i},{i > 9},{i % 2}\n" for i in range(20)),
    "a;b;label\n" + "".join(f"{i}.234,5;{i} %;{['x', '', 'y'][i % 3]}\n" for i in range(20)),
)
OPTIONS = (
    *({}, {"label": 0}, {"label": "label"}, {"label": -1}, {"task": "regression"}, {"task": "classification"}),
    *({"label": "0,1"}, {"label": "label,b"}, {"label": [1, -2, 0]}, {"label": "1,0", "task": "multilabel"}),
    *({"rules": InputRules("mean")}, {"rules": InputRules("median", "a", 2)}, {"rules": InputRules("zero", [-2, 0])}),
    {"table": TableFormat(decimal=",", thousands=".", percent=True), "rules": InputRules("mean"), "label": 0},
    *({"weight_column": "w"}, {"weight_column": -1}, {"weight_column": 0, "label": "1,2", "task": "regression"}),
)
OF_MODELS = (
    *(
        {},
        {"features": 2, "model_label": 3, "model_weight": 0},
        {"features": 1, "model_label": (0, 3), "model_weight": 2},
    ),
    *({"model_weight": "w", "model_label": ("b", "label"), "features": 1, "feature_names": ("a",)}, {"label": "1,0"}),
)
PREPARED = Preparation(
    (
        InputColumn("a", "category", ("Bern", "x"), indicator=True),
        InputColumn("b", fill=2.5),
        InputColumn("c", "boolean", (), 0.5, True),
    ),
    "mean",
)
UNNAMED = Preparation((InputColumn(""), InputColumn("", "category", ("1.4",))))
OF_ARCHIVES = ({}, {"weight_column": "w"}, {"model_weight": "w"}, {"task": "multilabel"})


def use(path, rng):
    """Load it, and do with it what training does first."""
    if rng.random() < 0.3:
        prepared = ({"preparation": PREPARED}, {"preparation": UNNAMED, "model_label": 2})
        x, notes = load_inputs(path, **rng.choice((*OF_MODELS, *prepared)))
        assert np.isfinite(x).all()
        assert x.ndim == 2
        assert x.size
    else:
        is_table = ".csv" in path.name
        found = load(path, test_fraction=rng.choice((0.0, 0.2)), **rng.choice(OPTIONS if is_table else OF_ARCHIVES))
        notes = found.notes
        if found.preparation is not None:
            assert Preparation.from_config(json.loads(json.dumps(found.preparation.config()))) == found.preparation
            assert len(set(found.feature_names)) == found.features == found.preparation.inputs
        for column in found.columns:
            assert (column.values + column.kind).isprintable()
            assert len(column.values) <= 100
        assert len(found.x_train) == len(found.y_train) > 0
        assert found.x_train.shape[1:] == found.x_test.shape[1:] == (found.features,)
        assert np.isfinite(found.x_train).all()
        for part in ("train", "test"):
            weight = getattr(found, f"weight_{part}")
            assert weight is None or (len(weight) == len(getattr(found, f"x_{part}")) and (weight >= 0).all())
        if found.task == "multilabel":
            assert found.y_train.shape[1:] == found.y_test.shape[1:] == (len(found.class_names),) == (found.outputs,)
            assert np.isin(found.y_train, (0, 1)).all()
        elif found.task == "classification":
            assert len(set(found.class_names)) == found.outputs > found.y_train.max()
            "".join(found.class_names).encode()
        else:
            assert np.isfinite(found.y_train).all()
        with np.errstate(over="ignore"):
            assert np.isfinite(Scaler.fit(found.x_train, found.value_range).apply(found.x_test, "float64")).all()
        assert found.describe().isprintable()
    assert all(note.isprintable() and len(note) < 200 for note in notes)


@pytest.mark.parametrize("packed", [False, True])
def test_tables(tmp_path, packed):
    path = tmp_path / ("t.csv.gz" if packed else "t.csv")

    def attempt(rng):
        content = damaged_text(rng, *TABLES)
        if packed:
            content = gzip.compress(content, 1)
            content = damaged_bytes(rng, content) if rng.random() < 0.3 else content
        path.write_bytes(content)
        use(path, rng)

    fuzz(attempt)


def npy(header, values=b""):
    """Return an array's file with this header, a Python expression."""
    header = header.encode("utf-8", "replace") + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", min(len(header), 65535)) + header + values


def odd_header(rng):
    """Return a header that NumPy would not write, but may accept."""
    descr = rng.choice(("<f8", "|u1", ">i4", "<U3", "|S2", "|O", "<c8", "|V4", "<M8[s]", "|b1", "<f2", "<U0", "f8", ""))
    sides = rng.choice(((20,), (20, 2), (), (0, 2), (20, 0), (2**31, 2**31), (-1, 2), (20, 1, 1), (1,) * 70))
    if rng.random() < 0.3:
        sides = (rng.choice(ODD_INTEGERS), *sides)
    shape = rng.choice((repr(tuple(sides)), repr(list(sides)), "None", "(True, 2)", "(" * 200, "20"))
    return f"{{'descr': {descr!r}, 'fortran_order': {rng.choice(('False', 'True', '1'))}, 'shape': {shape}}}"


def archives():
    """Return the bytes of good archives."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 2)), np.arange(20) % 2
    images = rng.integers(0, 256, (20, 3, 3), dtype=np.uint8)
    for save in (np.savez, np.savez_compressed):
        for arrays in (
            {"x": x, "y": y},
            {"train_images": images, "train_labels": y[:, None], "test_images": images, "test_labels": y[:, None]},
            {"data": x, "target": np.array(["left", "right"])[y]},
            {"X": x, "y": np.eye(2)[y]},
            {"x": x, "y": np.stack([y, y > -1], 1), "w": y / 3},
            {"x": x, "y": y, "x_test": x, "y_test": y, "w_train": y, "w_test": y + 0.5},
        ):
            file = io.BytesIO()
            save(file, **arrays)
            yield file.getvalue()


def test_archives(tmp_path):
    path, good = tmp_path / "a.npz", tuple(archives())

    def attempt(rng):
        path.write_bytes(damaged_bytes(rng, *good))
        use(path, rng)

    fuzz(attempt)


def test_members_of_archives(tmp_path):
    """The archive is whole, its checksums are right, and what it holds is odd."""
    path = tmp_path / "a.npz"

    def attempt(rng):
        with zipfile.ZipFile(path, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
            for name in ("x", "y", *rng.choice(((), ("x_test", "y_test"), ("x_test",)))):
                content = npy(odd_header(rng), rng.randbytes(rng.choice((0, 20, 40, 160, 320, 1000))))
                if rng.random() < 0.6:
                    file = io.BytesIO()
                    np.save(file, np.arange(40.0).reshape(20, 2) if name.startswith("x") else np.arange(20) % 2)
                    content = file.getvalue()
                archive.writestr(f"{name}.npy", damaged_bytes(rng, content) if rng.random() < 0.2 else content)
        use(path, rng)

    fuzz(attempt)


def idx_bytes(values):
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files(tmp_path, packed):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (20, 3, 3), dtype=np.uint8), (np.arange(20) % 3).astype(np.uint8)
    good = {
        f"{part}-{what}-ubyte": idx_bytes(values)
        for part in ("train", "t10k")
        for what, values in (("images-idx3", images), ("labels-idx1", labels))
    }

    def attempt(rng):
        damaged = rng.choice(list(good))
        for name, content in good.items():
            if name == damaged:
                content = damaged_bytes(rng, content, *good.values())
            if packed:
                content = gzip.compress(content, 1)
                content = damaged_bytes(rng, content) if name == damaged and rng.random() < 0.3 else content
            (tmp_path / (f"{name}.gz" if packed else name)).write_bytes(content)
        use(tmp_path, rng)

    fuzz(attempt)
