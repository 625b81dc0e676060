"""`gpubp train --stream`: the same run, whatever is streamed; and what is bundled is refused."""

import gzip
import os
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from command_line import FAST, history, table, write_csv, write_idx_set

from gpubp.data import npz
from gpubp.training import streaming


@pytest.fixture
def arrays(gpubp, monkeypatch):
    """Files of arrays in the current folder, which are mapped: a pair of .npy files, and archives of both kinds."""
    monkeypatch.setattr(npz, "LEAST_MAPPED", 1)
    rng = np.random.default_rng(2)
    x = rng.normal(size=(200, 5)).astype(np.float32)
    y = np.where(x[:, 0] < x[:, 1], "left", "right")
    os.mkdir("pair")
    np.save("pair/x.npy", x)
    np.save("pair/y.npy", y)
    np.savez("plain.npz", x=x, y=y)
    np.savez_compressed("small.npz", x=x, y=y)


def resolved(folder):
    return tomllib.loads(Path(folder, "config.toml").read_text())["resolved"]


@pytest.mark.usefixtures("arrays")
@pytest.mark.parametrize("data", ["pair", "pair/x.npy", "plain.npz", "small.npz", "t.csv", "t.csv.gz", "idx"])
def test_a_streamed_run_is_the_run(gpubp, data):
    write_csv("t.csv", ["a", "b", "side"], table())
    Path("t.csv.gz").write_bytes(gzip.compress(Path("t.csv").read_bytes()))
    write_idx_set("idx/set", train=60, t10k=20)
    shown = gpubp("train", "--data", data, "--out", "streamed", *FAST, "--stream").stdout
    assert re.search("inputs are read while the network trains, (48|60|64) examples at a time", shown)
    assert "read while" not in gpubp("train", "--data", data, "--out", "whole", *FAST, "--no-stream").stdout
    assert history("streamed") == history("whole")
    assert Path("streamed/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
    assert (resolved("streamed")["streamed"], resolved("whole")["streamed"]) == (True, False)


@pytest.mark.usefixtures("arrays")
def test_a_run_is_resumed_either_way(gpubp):
    gpubp("train", "--data", "pair", "--out", "whole", *FAST, "--epochs", "3", "--schedule", "constant")
    options = ("--data", "pair", "--out", "run", *FAST, "--schedule", "constant", "--stream")
    gpubp("train", *options, "--epochs", "1")
    assert "are read while" in gpubp("train", "--resume", "run", "--epochs", "2").stdout
    assert "are read while" not in gpubp("train", "--resume", "run", "--epochs", "3", "--no-stream").stdout
    assert history("run") == history("whole")


@pytest.mark.usefixtures("arrays")
def test_what_is_large_is_streamed_by_itself(gpubp, monkeypatch):
    monkeypatch.setattr(streaming, "usable_memory", lambda: 1)
    assert "are read while" in gpubp("train", "--data", "pair", "--out", "run", *FAST).stdout
    assert "are read while" in gpubp("train", "--data", "digits", "--out", "digits", *FAST).stdout
    assert "are read while" not in gpubp("train", "--data", "pair", "--out", "other", *FAST, "--no-stream").stdout


@pytest.mark.usefixtures("arrays")
@pytest.mark.parametrize("data", ["pair", "t.csv"])
def test_a_sweep_and_a_cross_validation_are_streamed_too(gpubp, data):
    write_csv("t.csv", ["a", "b", "side"], table())
    for words in (("--find-lr",), ("--cv", "2")):
        options = ("train", "--data", data, *words, "--layers", "4", "--epochs", "1")
        found = [gpubp(*options, stream).stdout.splitlines() for stream in ("--stream", "--no-stream")]
        same = [[line for line in lines if "train with" not in line] for lines in found]
        assert same[0] == same[1]


@pytest.mark.parametrize("words", [(), ("--find-lr",), ("--cv", "2")])
def test_the_bundled_digits_are_refused(refused, words):
    message = "--stream was given; it must be left out for digits: they come with gpubp, and are small"
    refused("train", "--data", "digits", "--stream", *words, message=message)


def test_what_is_not_there_is_said_as_ever(refused):
    for gone in ("gone.npz", "gone.csv", "gone"):
        refused("train", "--data", gone, "--stream", message=f"no data set and no file is called '{gone}'")
    refused("train", "--data", "digit", "--stream", message="did you mean 'digits'?")
    os.mkdir("empty")
    refused("train", "--data", "empty", "--stream", message="empty: there is no file train-images-idx3-ubyte")


@pytest.mark.usefixtures("arrays")
def test_a_file_that_changes_while_it_is_streamed_is_one_line(gpubp, monkeypatch):
    from gpubp.training.loop import Run

    tell = Run._tell_batch

    def and_change(run):
        if (run.epoch, run.batch) == (1, 1):
            os.utime("pair/x.npy", ns=(1, 1))
        tell(run)

    monkeypatch.setattr(Run, "_tell_batch", and_change)
    result = gpubp("train", "--data", "pair", "--out", "run", "--layers", "4", "--batch-size", "9", "--stream", code=2)
    (line,) = result.stderr.strip().splitlines()
    assert "x.npy: it changed while it was read" in line
    assert "--resume run continues it" in line
    monkeypatch.undo()
