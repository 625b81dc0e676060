"""Model files: what is written comes back, whole or not at all; damaged, foreign and hostile files are refused."""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gpubp import Network, Trainer
from gpubp.errors import ArgumentError, CheckpointError
from gpubp.nn import model_file
from gpubp.nn.activations import ACTIVATIONS, LeakyReLU
from gpubp.nn.losses import LOSSES, Huber
from gpubp.nn.optimizers import OPTIMIZERS


def network(**chosen):
    return Network([4, 5, 3], backend="numpy", **chosen)


X = np.random.default_rng(0).normal(size=(6, 4))


# --- the round trip ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_network_comes_back_bit_for_bit(tmp_path, loss, bias, dtype):
    net = network(loss=loss, bias=bias, dtype=dtype, seed=7)
    net.save(tmp_path / "model.safetensors")
    loaded = Network.load(tmp_path / "model.safetensors", backend="numpy")
    assert loaded.config() == net.config()
    for name, value in net.weights().items():
        np.testing.assert_array_equal(loaded.weights()[name], value)
        assert loaded.weights()[name].dtype == dtype
    np.testing.assert_array_equal(loaded.predict_proba(X), net.predict_proba(X))


def test_every_choice_comes_back(tmp_path):
    net = Network(
        [4, *[3] * (len(ACTIVATIONS) - 1), 2],
        hidden_activation=[
            LeakyReLU(0.3) if name == "leaky_relu" else name for name in ACTIVATIONS if name != "softmax"
        ],
        output_activation={"name": "elu", "alpha": 0.5},
        loss=Huber(threshold=0.2, reduction="sum"),
        initializer={"name": "normal", "sigma": 0.3},
        seed=11,
        backend="numpy",
    )
    net.save(tmp_path / "model")
    loaded = Network.load(tmp_path / "model", backend="numpy")
    assert loaded.activations == net.activations
    assert loaded.loss == net.loss
    assert loaded.initializer == net.initializer
    assert (loaded.sizes, loaded.seed, loaded.bias) == (net.sizes, 11, True)


def test_a_config_is_json_and_makes_the_same_fresh_network():
    net = network(hidden_activation="gelu", seed=5)
    again = Network.from_config(json.loads(json.dumps(net.config())), backend="numpy")
    assert again.config() == net.config()
    np.testing.assert_array_equal(again.w[1], net.w[1])


def test_settings_may_be_numpys_numbers(tmp_path):
    net = network(hidden_activation=LeakyReLU(np.float32(0.25)), loss=Huber(threshold=np.int64(2)))
    net.save(tmp_path / "model", metadata={"epoch": np.int32(4)})
    loaded = Network.load(tmp_path / "model", backend="numpy")
    assert (loaded.activations[1], loaded.loss) == (LeakyReLU(0.25), Huber(threshold=2))


def test_tensors_and_metadata_ride_along(tmp_path):
    net = network()
    tensors = {"scaling.mean": np.arange(4.0), "steps": np.array(3), "empty": np.zeros((0, 2), "float32")}
    net.save(tmp_path / "model", tensors, {"classes": ["a", "b", "ç"], "epoch": 4})
    found, metadata = model_file.read(tmp_path / "model")
    assert metadata == {"classes": ["a", "b", "ç"], "epoch": 4, "network": net.config()}
    assert set(found) == {*net.weights(), *tensors}
    for name, value in tensors.items():
        assert found[name].shape == value.shape
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


def test_arrays_of_any_layout_are_written_right(tmp_path):
    grid = np.arange(12.0).reshape(3, 4)
    model_file.write(tmp_path / "m", {"t": grid.T, "s": grid[:, ::2], "f": np.asfortranarray(grid)}, {})
    found, _ = model_file.read(tmp_path / "m")
    np.testing.assert_array_equal(found["t"], grid.T)
    np.testing.assert_array_equal(found["s"], grid[:, ::2])
    np.testing.assert_array_equal(found["f"], grid)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_goes_on_bit_for_bit_from_a_saved_state(tmp_path, optimizer):
    rng = np.random.default_rng(1)
    batches = [(rng.normal(size=(5, 4)), rng.integers(0, 3, 5)) for _ in range(6)]
    trainer = Trainer(network(), optimizer)
    for batch in batches[:3]:
        trainer.step(*batch)
    model_file.write(tmp_path / "checkpoint", trainer.state(), {"network": trainer.network.config()})

    tensors, metadata = model_file.read(tmp_path / "checkpoint")
    resumed = Trainer(Network.from_config(metadata["network"], backend="numpy"), optimizer)
    resumed.restore(tensors)
    assert resumed.steps == 3
    for batch in batches[3:]:
        trainer.step(*batch)
        resumed.step(*batch)
        assert resumed.last_loss() == trainer.last_loss()
    for name, value in trainer.state().items():
        np.testing.assert_array_equal(resumed.state()[name], value, err_msg=name)


def test_a_state_of_another_network_or_optimizer_is_refused_and_nothing_changes():
    trainer = Trainer(network(), "adam")
    before = trainer.state()
    other = Trainer(Network([4, 6, 3], backend="numpy"), "adam")
    wrong = [other.state(), Trainer(network()).state(), {k: v for k, v in before.items() if k != "steps"}]
    wrong += [{k: v for k, v in before.items() if k != left_out} for left_out in ("layer2.bias", "losses")]
    wrong += [before | {name: np.zeros(7)} for name in ("losses", "steps")]
    for state in wrong:
        with pytest.raises(ArgumentError):
            trainer.restore(state)
    for name, value in trainer.state().items():
        np.testing.assert_array_equal(value, before[name])


# --- files that are not whole, or not ours ----------------------------------------------------------------------------
@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    network(seed=1).save(path)
    return path


def assert_refused(path, words="."):
    with pytest.raises(CheckpointError, match=words) as caught:
        Network.load(path, backend="numpy")
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert_refused(tmp_path / "none", "there is no model file")
    assert_refused(tmp_path, "it is a folder")
    os.mkfifo(tmp_path / "fifo")
    assert_refused(tmp_path / "fifo", "it is not a regular file")
    assert_refused("/dev/zero", "it is not a regular file")


def test_every_truncation_is_refused(saved):
    whole = saved.read_bytes()
    for length in [*range(20), *range(20, len(whole), 37), len(whole) - 1]:
        saved.write_bytes(whole[:length])
        assert_refused(saved)


def test_every_flipped_byte_is_refused(saved):
    whole = saved.read_bytes()
    for place in [*range(400), *range(400, len(whole), 5), len(whole) - 1]:
        broken = bytearray(whole)
        broken[place] ^= 0x10
        saved.write_bytes(broken)
        assert_refused(saved)


def test_appended_bytes_are_refused(saved):
    saved.write_bytes(saved.read_bytes() + b"\0")
    assert_refused(saved)


@pytest.mark.parametrize(
    "contents",
    [b"", b"hello", b"\x89PNG\r\n\x1a\n" + bytes(64), bytes(1000), b"\xff" * 1000, b"{}", os.urandom(500)],
    ids=["empty", "text", "png", "zeros", "ones", "json", "random"],
)
def test_foreign_files_are_refused(tmp_path, contents):
    path = tmp_path / "foreign"
    path.write_bytes(contents)
    assert_refused(path)


def test_npz_and_foreign_safetensors_are_refused(tmp_path):
    np.savez(tmp_path / "m.npz", w=np.ones(3))
    assert_refused(tmp_path / "m.npz")
    save_file({"layer1.weight": np.ones((2, 2), "float32")}, tmp_path / "m.safetensors")
    assert_refused(tmp_path / "m.safetensors", "not a file that gpubp wrote")
    save_file({"layer1.weight": np.ones((2, 2), "float32")}, tmp_path / "n.safetensors", {"format": "pt"})
    assert_refused(tmp_path / "n.safetensors", "not a file that gpubp wrote")


class Boom:
    def __reduce__(self):
        return (os._exit, (77,))


@pytest.mark.parametrize(
    ("dtype", "metadata", "message"),
    [
        ("BF16", {"format": "pt"}, "not a file that gpubp wrote"),
        ("F8_E4M3", {}, "not a file that gpubp wrote"),
        ("BF16", {"gpubp": "{}"}, "is damaged"),
        ("F8_E4M3", {"gpubp": "{}"}, "is damaged"),
        ("F32", {"gpubp": "[" * 100_000}, "is damaged"),
    ],
)
def test_tensors_and_metadata_of_kinds_that_gpubp_never_writes(tmp_path, dtype, metadata, message):
    size = {"F32": 4, "BF16": 2, "F8_E4M3": 1}[dtype]
    header = {"__metadata__": metadata, "w": {"dtype": dtype, "shape": [3], "data_offsets": [0, 3 * size]}}
    text = json.dumps(header).encode()
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(3 * size))
    with pytest.raises(CheckpointError, match=message):
        Network.load(path)


def test_a_pickle_is_never_run(tmp_path):
    bomb = pickle.dumps(Boom())
    (tmp_path / "m.pkl").write_bytes(bomb)
    assert_refused(tmp_path / "m.pkl")
    buffer = io.BytesIO()
    np.save(buffer, np.array([Boom()], dtype=object), allow_pickle=True)
    (tmp_path / "m.npy").write_bytes(buffer.getvalue())
    assert_refused(tmp_path / "m.npy")
    # within a file that is ours in every other respect
    model_file.write(tmp_path / "m", {"x": np.frombuffer(bomb, np.uint8)}, {"network": bomb.hex()})
    assert_refused(tmp_path / "m", "holds no network")


def test_metadata_that_is_no_table_is_refused(tmp_path):
    for metadata in ([1, 2], "network", None, 5):
        save_file({}, tmp_path / "m", {model_file.KEY: json.dumps(metadata)})
        assert_refused(tmp_path / "m")


def written_with(path, change):
    """Write a model whose configuration or tensors were changed, with the checksum right."""
    net = network()
    tensors, config = net.weights(), net.config()
    change(tensors, config)
    model_file.write(path, tensors, {"network": config})


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, config: config.update(sizes=[4, 6, 3]),
        lambda tensors, config: config.update(sizes="four"),
        lambda tensors, config: config.update(sizes=[]),
        lambda tensors, config: config.update(sizes=None),
        lambda tensors, config: config.update(sizes=[10**9, 10**9, 10**9]),
        lambda tensors, config: config.update(dtype="float8"),
        lambda tensors, config: config.update(seed=-1),
        lambda tensors, config: config.update(hidden_activation=["swoosh"]),
        lambda tensors, config: config.update(hidden_activation=3),
        lambda tensors, config: config.update(output_activation={"name": "tanh"}),
        lambda tensors, config: config.update(loss={"name": "huber", "threshold": -1}),
        lambda tensors, config: config.update(loss={"name": "huber", "reduction": []}),
        lambda tensors, config: config.update(backdoor="import os"),
        lambda tensors, config: config.update(backend="numpy"),
        lambda tensors, config: config.clear(),
        lambda tensors, config: tensors.pop("layer2.bias"),
        lambda tensors, config: tensors.update({"layer1.weight": np.ones((4, 5))}),
        lambda tensors, config: tensors.update({"layer1.weight": np.ones(())}),
    ],
)
def test_a_description_that_does_not_fit_is_refused(tmp_path, change):
    written_with(tmp_path / "m", change)
    assert_refused(tmp_path / "m", "does not describe")


def test_what_is_wrong_with_the_backend_is_said_as_such(saved):
    with pytest.raises(ArgumentError, match=r"backend was 'nunpy'.*did you mean 'numpy'\?"):
        Network.load(saved, backend="nunpy")
    with pytest.raises(ArgumentError, match="device"):
        Network.load(saved, backend="numpy", device="gpu")


# --- writing ----------------------------------------------------------------------------------------------------------
def test_a_folder_that_is_missing_or_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot write .*No such file"):
        network().save(tmp_path / "missing" / "model")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write"):
        network().save(tmp_path / "file" / "model")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match="cannot write"):
        network().save(tmp_path / "folder")


def test_a_write_that_fails_leaves_the_old_file_and_no_other(saved, monkeypatch):
    old = saved.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CheckpointError, match="No space left"):
        network(seed=2).save(saved)
    assert saved.read_bytes() == old
    assert os.listdir(saved.parent) == [saved.name]


def test_what_is_no_file_is_not_replaced(tmp_path):
    """A device is the case that matters: the move would put a file where /dev/full was."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(CheckpointError, match=r"cannot write .*pipe: not a file is there"):
        network().save(pipe)
    assert pipe.is_fifo()
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_link_stays_and_leads_to_the_new_file(saved):
    link = saved.parent / "link"
    link.symlink_to(saved.name)
    network(seed=2).save(link)
    assert link.is_symlink()
    np.testing.assert_array_equal(Network.load(saved, backend="numpy").w[1], network(seed=2).w[1])


def test_a_write_replaces_the_old_file_and_leaves_no_other(saved):
    network(seed=2).save(saved)
    np.testing.assert_array_equal(Network.load(saved, backend="numpy").w[1], network(seed=2).w[1])
    assert os.listdir(saved.parent) == [saved.name]


def test_files_get_the_permissions_of_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        network().save(tmp_path / "model")
    finally:
        os.umask(old)
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o640


def test_other_programs_can_read_the_weights(saved):
    tensors = load_file(saved)
    np.testing.assert_array_equal(tensors["layer1.weight"], network(seed=1).w[1])


WRITER = """
import sys
from gpubp import Network, Trainer
nets = [Network([30, 200, 3], backend="numpy", seed=seed) for seed in (1, 2)]
nets[0].save(sys.argv[1])
print("ready", flush=True)
while True:
    for net in nets:
        net.save(sys.argv[1])
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path):
    path = tmp_path / "model"
    seeds = set()
    for delay in (0.0, 0.003, 0.011, 0.017, 0.029):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"ready\n"
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        net = Network.load(path, backend="numpy")
        np.testing.assert_array_equal(net.w[1], Network([30, 200, 3], backend="numpy", seed=net.seed).w[1])
        seeds.add(net.seed)
    assert seeds <= {1, 2}
