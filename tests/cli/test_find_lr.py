"""`gpubp train --find-lr`: what it shows, and that it leaves nothing behind."""

import re
import shlex
from pathlib import Path

import pytest
from command_line import contents, history, table, write_csv

OPTIONS = ("--layers", "16", "--batch-size", "64")


def suggested(text):
    """The rate that the output suggests, and the words of the command that trains with it."""
    (rate,) = re.findall(r"^suggested rate: (\S+) \(", text, re.MULTILINE)
    (command,) = re.findall(r"^train with: gpubp (.*)$", text, re.MULTILINE)
    return rate, shlex.split(command)


def test_it_draws_the_loss_suggests_a_rate_and_leaves_nothing_behind(gpubp):
    found = gpubp("train", "--find-lr", *OPTIONS)
    assert contents() == {}
    assert found.stderr == ""
    lines = found.stdout.splitlines()
    assert lines[0].startswith("digits: 1,438 training")
    assert lines[1] == "64 → 16 → 10, relu; softmax_cross_entropy; adam, batches of 64; backend cpu on cpu, float32"
    assert sum("•" in line for line in lines) >= 6
    rate, command = suggested(found.stdout)
    assert 1e-3 < float(rate) < 0.3
    assert command == ["train", *OPTIONS, "--lr", rate]
    assert all("\x1b" not in line and "\r" not in line for line in lines)


def test_the_command_that_it_prints_trains_with_the_settings_of_the_sweep(gpubp):
    write_csv("my points.csv", ["a", "b", "side"], table(rows=100))
    Path("c.toml").write_text("seed = 3\nlayers = '8'\n")
    options = ("--config", "c.toml", "--data", "my points.csv", "--no-bias", "--optimizer", "sgd", "--epochs", "3")
    before = contents()
    found = gpubp("train", "--find-lr", *options, "--lr", "7.0")
    assert contents() == before
    rate, command = suggested(found.stdout)
    assert command.count("--lr") == 1
    gpubp(*command, "--out", "printed")
    gpubp("train", *options, "--lr", rate, "--out", "typed")
    assert history("printed") == history("typed")
    assert float(history("printed")[0]["learning_rate"]) == pytest.approx(float(rate), rel=0.5)
    assert "bias = false" in Path("printed/config.toml").read_text()


def test_the_sweep_is_the_same_each_time_and_another_for_another_seed(gpubp):
    first, second, other = (gpubp("train", "--find-lr", *OPTIONS, "--seed", seed).stdout for seed in (1, 1, 2))
    assert first == second
    assert first != other


def test_mixed_precision_and_values(gpubp):
    assert "on cpu, fp16" in gpubp("train", "--find-lr", *OPTIONS, "--precision", "fp16").stdout
    write_csv("line.csv", ["a", "b", "c"], [[a, b, float(a) * 3 + float(b)] for a, b, _ in table(rows=80)])
    found = gpubp("train", "--find-lr", *OPTIONS, "--data", "line.csv", "--task", "regression")
    assert float(suggested(found.stdout)[0]) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "run"], "--find-lr and --out exclude each other; it writes nothing"),
        (["--resume", "run"], "--find-lr and --resume exclude each other; it begins with fresh weights"),
        (["--reschedule"], "--reschedule was given; it must be left out without --resume"),
        (["--config", "missing.toml"], "cannot read missing.toml"),
        (["--batch-size", "0"], "--batch-size was 0"),
        (["--data", "digit"], "did you mean 'digits'?"),
        (["--loss", "huber", "--activation", "rleu"], "--activation was 'rleu'"),
        (["--monitor", "accuracy"], "--monitor was 'accuracy'"),
    ],
)
def test_what_is_wrong_is_said_as_for_a_run(refused, options, message):
    refused("train", "--find-lr", *options, message=message)
