"""`gpubp gradcheck`."""

import pytest


@pytest.mark.parametrize(
    "options", [[], ["--activation", "relu", "--loss", "huber", "--reduction", "sum", "--no-bias"]]
)
def test_gradcheck_agrees(gpubp, options):
    text = gpubp("gradcheck", "--layers", "6,5", "--batch-size", "8", *options).stdout
    assert text.count("agrees") == (3 if options else 6)
    assert "differs" not in text


@pytest.mark.parametrize(
    "options",
    [
        ["--label-smoothing", "0.2"],
        ["--loss", "softmax_focal_cross_entropy", "--gamma", "1.5"],
        ["--loss", "binary_focal_cross_entropy"],
        ["--loss", "quantile", "--quantile", "0.8"],
    ],
)
def test_gradcheck_of_a_loss_with_a_number_of_its_own(gpubp, options):
    text = gpubp("gradcheck", "--layers", "6,5", "--batch-size", "8", *options).stdout
    assert text.count("agrees") == 6
    assert "differs" not in text


def test_gradcheck_sees_a_wrong_derivative(gpubp, monkeypatch):
    from gpubp.nn.activations import Tanh

    monkeypatch.setattr(Tanh, "derivative", lambda self, saved, out: out.fill(1))
    text = gpubp("gradcheck", "--layers", "6,5", "--batch-size", "8", code=1).stdout
    assert "differs" in text


def test_gradcheck_names_what_is_wrong(refused):
    refused("gradcheck", "--tolerance", "0", message="--tolerance was 0")
    refused("gradcheck", "--batch-size", "0", message="--batch-size was 0")
