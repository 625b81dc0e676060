"""Settings from files: what a run wrote is taken, and every key that means nothing is named."""

import os

import pytest
import tomli_w

from gpubp.errors import ArgumentError, CheckpointError
from gpubp.training.settings import Settings

RUN = {
    "settings": Settings(layers="8", epochs=2).chosen(),
    "resolved": {"sizes": [4, 8, 3], "optimizer": {"name": "adam"}},
    "versions": {"gpubp": "0.1.0"},
}


@pytest.fixture
def read(tmp_path):
    def run(contents):
        path = tmp_path / "c.toml"
        path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
        return Settings(**Settings.read(path))

    return run


def test_a_runs_own_file_and_settings_alone_are_taken(read):
    assert read(tomli_w.dumps(RUN)) == Settings(layers="8", epochs=2)
    assert read(tomli_w.dumps({"settings": RUN["settings"]})) == Settings(layers="8", epochs=2)
    assert read(tomli_w.dumps(RUN["settings"])) == Settings(layers="8", epochs=2)
    assert read("") == Settings()
    assert read("[versions]\n") == Settings()


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("[settings]\nepochs = 2\n[setings]\nlr = 1.0", "a table in .* was 'setings'; .* did you mean 'settings'?"),
        ("[setings]\nepochs = 2", "a table in .* was 'setings'; .* did you mean 'settings'?"),
        ("epochs = 2\n[settings]\nlr = 1.0", "epochs in .* stands outside of .settings.; it must stand below"),
        ("epoch = 2\n[settings]\nlr = 1.0", "a table in .* was 'epoch'"),
        ("[settings]\nepoch = 2", "a setting in .* was 'epoch'; .* did you mean 'epochs'?"),
        ("epoch = 2", "a setting in .* was 'epoch'; .* did you mean 'epochs'?"),
        ("[settings]\nlr = {a = 1}", "lr in .* was {'a': 1}; it must be of type float"),
        ("settings = [1]", "settings in .* was .1.; it must be a table"),
        ("[[settings]]\nlr = 1.0", "settings in .* it must be a table"),
        ("[settings]\n[settings.more]\nlr = 1", "a setting in .* was 'more'"),
        ("resolved = 3\n[settings]", "resolved in .* was 3; it must be a table"),
        ('[settings]\n"\\u001b[31m" = 3', r"a setting in .* was '\\x1b\[31m'"),
        ("[settings]\nepochs = true", "epochs in .* was True; it must be of type int"),
        ("[settings]\nepochs = 1979-05-27", "epochs in .* must be of type int"),
    ],
)
def test_a_key_that_means_nothing_is_named(read, contents, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        read(contents)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"epochs = " + b"[" * 3000, "it is nested too deeply"),
        (b"epochs = " + b"9" * 5000, "4300 digits"),
        (b"data = 'a\0b'", "character"),
        (b"\xff\xfe", "it is not UTF-8"),
        (b"#" * 10**6, "it is larger than 262,144 bytes"),
    ],
)
def test_what_is_no_toml_is_told(read, contents, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        read(contents)
    assert len(str(caught.value)) < 300


def test_only_a_regular_file_is_read(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", "/dev/zero"):
        with pytest.raises(CheckpointError, match="it is not a regular file"):
            Settings.read(path)
    for path in (tmp_path / ("n" * 256), tmp_path / "a\0b", tmp_path):
        with pytest.raises(CheckpointError, match="cannot read"):
            Settings.read(path)


def test_numbers_beyond_every_type_are_refused_where_they_are_used(read):
    from gpubp.training.from_settings import training_config

    for name in ("epochs", "batch_size", "seed"):
        with pytest.raises(ArgumentError, match=f"{name} was 10{{30}}; it must be a whole number ≤"):
            training_config(read(f"{name} = 1{'0' * 30}"))
    with pytest.raises(ArgumentError, match=r"learning_rate was 10{70}.*; it must be a finite number"):
        training_config(read(f"lr = 1{'0' * 400}"))
