"""`gpubp gradcheck`."""

import pytest


@pytest.mark.parametrize(
    "options", [[], ["--activation", "relu", "--loss", "huber", "--reduction", "sum", "--no-bias"]]
)
def test_gradcheck_agrees(gpubp, options):
    text = gpubp("gradcheck", "--layers", "6,5", "--batch-size", "8", *options).stdout
    assert text.count("agrees") == (3 if options else 6)
    assert "differs" not in text


def test_gradcheck_sees_a_wrong_derivative(gpubp, monkeypatch):
    from gpubp.nn.activations import Tanh

    monkeypatch.setattr(Tanh, "derivative", lambda self, saved, out: out.fill(1))
    text = gpubp("gradcheck", "--layers", "6,5", "--batch-size", "8", code=1).stdout
    assert "differs" in text


def test_gradcheck_names_what_is_wrong(refused):
    refused("gradcheck", "--tolerance", "0", message="--tolerance was 0")
    refused("gradcheck", "--batch-size", "0", message="--batch-size was 0")
