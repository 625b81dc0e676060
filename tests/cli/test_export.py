"""`gpubp export`: the files it writes, the programs it prints, and what it refuses."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from gpubp.data import load
from gpubp.training.model import Model


def test_a_run_becomes_a_pipeline_of_scikit_learns(gpubp, trained, tmp_path):
    result = gpubp("export", trained, "--to", "sklearn", "--out", "digits.pkl")
    assert "digits.pkl is written" in result.stderr
    assert "runs what is in it" in result.stderr
    made = {}
    exec(result.stdout, made)
    x = load("digits").x_test
    expected = Model.load(trained, "numpy").predict_proba(x)
    np.testing.assert_allclose(made["model"].predict_proba(x), expected, atol=1e-6)


def test_a_run_becomes_a_state_dict_of_pytorchs(gpubp, trained):
    result = gpubp("export", trained, "--to", "torch")
    state = load_file("model-torch.safetensors")
    network = Model.load(trained, "numpy").network
    assert f"nn.Linear(64, {network.sizes[1]})" in result.stdout
    assert "safetensors.torch.load_file('model-torch.safetensors')" in result.stdout
    shapes = {array.shape for name, array in state.items() if name.endswith(".weight")}
    assert {(n, m) for m, n in zip(network.sizes[:-1], network.sizes[1:], strict=True)} <= shapes
    # the numbers of the printed modules are those of the entries
    modules = [line.strip() for line in result.stdout.splitlines() if line.startswith("    nn.")]
    for name, array in state.items():
        module = modules[int(name.partition(".")[0])]
        if array.ndim == 2:
            assert module == f"nn.Linear({array.shape[1]}, {array.shape[0]}),"


def test_a_file_that_is_there_is_replaced_by_force_alone(gpubp, refused, trained):
    gpubp("export", trained, "--to", "torch", "--out", "a.safetensors")
    refused("export", trained, "--to", "torch", "--out", "a.safetensors", message="--force")
    gpubp("export", trained, "--to", "torch", "--out", "a.safetensors", "--force")


def test_a_model_in_16_bits_says_that_its_export_is_not(gpubp):
    gpubp("train", "--precision", "bf16", "--epochs", "1", "--layers", "4", "--backend", "numpy", "--out", "run")
    assert "the model computes in bf16, its export in float32" in gpubp("export", "run", "--to", "torch").stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "keras"], "--to was 'keras'; it must be one of torch, onnx, sklearn"),
        (["--to", "pytorch"], "did you mean 'torch'?"),
        (["--to", "torch", "--out", "model.pt"], "--out was 'model.pt'; it must be"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(refused, trained, arguments, message):
    refused("export", trained, *arguments, message=message)


def test_a_missing_package_is_named_with_what_installs_it(refused, trained, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    refused("export", trained, "--to", "onnx", message=["needs the package onnx", "pip install 'gpubp[onnx]'"])


def test_no_model_no_file(refused):
    refused("export", "nothing", "--to", "torch", message="there is no model file")
