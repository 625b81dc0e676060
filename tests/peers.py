"""Training, and exported models, against scikit-learn, PyTorch and onnxruntime: `make peers`.

pytest does not find these tests by itself. PyTorch and onnxruntime are compared with where they are installed.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from exports import FAR, KINDS, model_of, outputs_of, table_model
from exports import X as EXAMPLES
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, log_loss, mean_pinball_loss, r2_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.utils.class_weight import compute_class_weight

from gpubp import Network, Trainer
from gpubp.data import Dataset
from gpubp.errors import ArgumentError
from gpubp.export import export_command, onnx_export, torch_export
from gpubp.nn import optimizers
from gpubp.training import class_weights

pytestmark = pytest.mark.filterwarnings(f"ignore::{ConvergenceWarning.__module__}.{ConvergenceWarning.__name__}")

ROWS, STEPS = 30, 7
RNG = np.random.default_rng(4)
X = RNG.normal(size=(ROWS, 5))
VALUES = np.sin(X.sum(axis=1))
CLASSES = np.concatenate([np.arange(3), RNG.integers(0, 3, ROWS - 3)])
SETS = (RNG.random((ROWS, 4)) < 0.4).astype(np.int64)
WEIGHTS = RNG.choice([0.0, 0.5, 1, 2, 3.5], ROWS)


# --- scikit-learn -----------------------------------------------------------------------------------------------------
def started_alike(kind, y, net, **chosen):
    """An estimator of scikit-learn with the network's weights, whose batch is all the data."""
    estimator = kind(
        hidden_layer_sizes=net.sizes[1:-1], activation="tanh", batch_size=ROWS, shuffle=False, max_iter=1, **chosen
    )
    estimator.fit(X, y)
    weights = net.weights()
    estimator.coefs_ = [weights[f"layer{layer}.weight"].T.copy() for layer in range(1, net.depth + 1)]
    estimator.intercepts_ = [weights[f"layer{layer}.bias"].copy() for layer in range(1, net.depth + 1)]
    return estimator.set_params(max_iter=STEPS, warm_start=True, tol=0, n_iter_no_change=STEPS + 1)


def assert_same_weights(estimator, net):
    for layer, (w, b) in enumerate(zip(estimator.coefs_, estimator.intercepts_, strict=True), 1):
        np.testing.assert_allclose(net.weights()[f"layer{layer}.weight"], w.T, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(net.weights()[f"layer{layer}.bias"], b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize(
    ("solver", "ours"),
    [
        ({"solver": "sgd", "momentum": 0.0}, {"name": "sgd"}),
        ({"solver": "sgd", "nesterovs_momentum": False}, {"name": "momentum"}),
        # scikit-learn adds ε before the bias is corrected, so there is next to none here
        ({"solver": "adam", "epsilon": 1e-30}, {"name": "adam", "epsilon": 1e-30}),
    ],
    ids=["sgd", "momentum", "adam"],
)
@pytest.mark.parametrize(
    ("kind", "y", "sizes", "loss"),
    [
        (MLPRegressor, VALUES, [5, 8, 1], "half_squared_error"),
        (MLPClassifier, CLASSES, [5, 8, 6, 3], "softmax_cross_entropy"),
        (MLPClassifier, SETS, [5, 8, 4], "binary_cross_entropy"),
    ],
    ids=["values", "classes", "sets of labels"],
)
def test_steps_with_weights_and_an_l2_penalty_are_scikit_learns(kind, y, sizes, loss, solver, ours, weights):
    net = Network(sizes, hidden_activation="tanh", loss=loss, dtype="float64", backend="numpy", seed=1)
    alpha = 0.3
    estimator = started_alike(kind, y, net, alpha=alpha, learning_rate_init=0.01, **solver)
    estimator.fit(X, y, sample_weight=weights)
    total = ROWS if weights is None else WEIGHTS.sum()  # scikit-learn divides its penalty by the batch's weight
    trainer = Trainer(net, {**ours, "learning_rate": 0.01, "l2": alpha / total})
    for _ in range(STEPS):
        trainer.step(X, y.astype(np.float64) if y is SETS else y, weights)
    assert_same_weights(estimator, net)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_losses_and_scores_are_scikit_learns(weights):
    net = Network([5, 8, 3], loss="softmax_cross_entropy", dtype="float64", backend="numpy")
    found, probabilities = net.evaluate(X, CLASSES, weights), net.predict_proba(X)
    assert found.loss == pytest.approx(log_loss(CLASSES, probabilities, sample_weight=weights), rel=1e-12)
    expected = accuracy_score(CLASSES, probabilities.argmax(axis=1), sample_weight=weights)
    assert found.accuracy == pytest.approx(expected, rel=1e-12)
    values = Network([5, 8, 1], loss="half_squared_error", dtype="float64", backend="numpy")
    expected = r2_score(VALUES, values.predict(X), sample_weight=weights)
    assert values.score(X, VALUES, weights) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_the_quantile_loss_is_scikit_learns(level, weights):
    net = Network([5, 8, 1], loss={"name": "quantile", "quantile": level}, dtype="float64", backend="numpy")
    expected = mean_pinball_loss(VALUES, net.predict(X)[:, 0], sample_weight=weights, alpha=level)
    assert net.evaluate(X, VALUES, weights).loss == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_balanced_class_weights_are_scikit_learns(weights):
    expected = compute_class_weight("balanced", classes=np.arange(3), y=CLASSES, sample_weight=weights)
    dataset = Dataset(X, CLASSES, X[:0], CLASSES[:0], class_names=("a", "b", "c"))
    np.testing.assert_allclose(class_weights.by_class("balanced", dataset, CLASSES, weights), expected, rtol=1e-12)


# --- PyTorch ----------------------------------------------------------------------------------------------------------
class Peer:
    """The network in PyTorch, with its weights; `masks` multiply the outputs of hidden layers."""

    def __init__(self, net):
        torch = pytest.importorskip("torch", reason="PyTorch is not installed here", exc_type=ImportError)
        self.torch, self.net = torch, net
        weights = net.weights()
        self.layers = [
            tuple(torch.tensor(weights[f"layer{layer}.{part}"], requires_grad=True) for part in ("weight", "bias"))
            for layer in range(1, net.depth + 1)
        ]

    def logits(self, masks=None):
        functional, a = self.torch.nn.functional, self.torch.tensor(X)
        for l, (w, b) in enumerate(self.layers, 1):
            z = functional.linear(a, w, b)
            a = z if l == self.net.depth else self.torch.tanh(z) * (1 if masks is None else masks[l - 1])
        return a

    def assert_gradients(self, loss, **chosen):
        loss.backward()
        found_loss, gradients = self.net.gradients(X, chosen.pop("y"), **chosen)
        assert found_loss == pytest.approx(loss.item(), rel=1e-12)
        for l, (w, b) in enumerate(self.layers, 1):
            np.testing.assert_allclose(gradients.w[l], w.grad.numpy(), rtol=1e-9, atol=1e-13)
            np.testing.assert_allclose(gradients.b[l], b.grad.numpy(), rtol=1e-9, atol=1e-13)


def network(loss, **chosen):
    outputs = 4 if str(loss).find("binary") >= 0 else 3
    return Network(
        [5, 8, 6, outputs], hidden_activation="tanh", loss=loss, dtype="float64", backend="numpy", seed=2, **chosen
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_label_smoothing_is_pytorchs(smoothing):
    peer = Peer(network({"name": "softmax_cross_entropy", "label_smoothing": smoothing}))
    loss = peer.torch.nn.functional.cross_entropy(peer.logits(), peer.torch.tensor(CLASSES), label_smoothing=smoothing)
    peer.assert_gradients(loss, y=CLASSES)


def test_class_weights_are_pytorchs():
    # PyTorch's mean over weighted classes divides by the sum of the weights, too
    by_class = np.array([0.5, 2.0, 3.0])
    peer = Peer(network("softmax_cross_entropy"))
    loss = peer.torch.nn.functional.cross_entropy(
        peer.logits(), peer.torch.tensor(CLASSES), weight=peer.torch.tensor(by_class)
    )
    peer.assert_gradients(loss, y=CLASSES, sample_weight=by_class[CLASSES])


def test_sets_of_labels_are_pytorchs():
    peer = Peer(network("binary_cross_entropy"))
    y = SETS.astype(np.float64)
    loss = peer.torch.nn.functional.binary_cross_entropy_with_logits(
        peer.logits(), peer.torch.tensor(y), reduction="sum"
    )
    peer.assert_gradients(loss / ROWS, y=y)


def test_dropout_with_our_masks_is_pytorchs_arithmetic():
    net = network("softmax_cross_entropy", dropout=[0.5, 0.25])
    peer = Peer(net)
    masks = [
        peer.torch.tensor(drop.mask(ROWS, width, 3) / (1 - drop.rate))
        for drop, width in zip(net.dropped()[1:-1], net.sizes[1:-1], strict=True)
    ]
    loss = peer.torch.nn.functional.cross_entropy(peer.logits(masks), peer.torch.tensor(CLASSES))
    peer.assert_gradients(loss, y=CLASSES, dropout_step=3)


@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        ({"name": "adamw", "weight_decay": 0.2}, "AdamW", {"weight_decay": 0.2}),
        ({"name": "adam", "l2": 0.2, "decoupled": True}, "AdamW", {"weight_decay": 0.2}),
        ({"name": "adam", "l2": 0.2}, "Adam", {"weight_decay": 0.2}),
        ({"name": "momentum", "momentum": 0.8, "l2": 0.2}, "SGD", {"momentum": 0.8, "weight_decay": 0.2}),
    ],
)
def test_penalties_in_the_gradient_and_apart_are_pytorchs_weight_decay(ours, theirs, options):
    net = network("softmax_cross_entropy")
    peer = Peer(net)
    weights, biases = zip(*peer.layers, strict=True)
    groups = [{"params": weights, **options}, {"params": biases, **options, "weight_decay": 0.0}]
    optimizer = getattr(peer.torch.optim, theirs)(groups, lr=0.01)
    trainer = Trainer(net, optimizers.get({**ours, "learning_rate": 0.01}))
    for _ in range(STEPS):
        optimizer.zero_grad()
        peer.torch.nn.functional.cross_entropy(peer.logits(), peer.torch.tensor(CLASSES)).backward()
        optimizer.step()
        trainer.step(X, CLASSES)
    for layer, (w, b) in enumerate(peer.layers, 1):
        np.testing.assert_allclose(net.weights()[f"layer{layer}.weight"], w.detach().numpy(), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(net.weights()[f"layer{layer}.bias"], b.detach().numpy(), rtol=1e-9, atol=1e-12)


def test_gradients_added_up_are_pytorchs():
    net = network("softmax_cross_entropy")
    peer = Peer(net)
    logits, y = peer.logits(), peer.torch.tensor(CLASSES)
    for start in range(0, ROWS, 7):
        part = slice(start, start + 7)
        loss = peer.torch.nn.functional.cross_entropy(logits[part], y[part], reduction="sum") / ROWS
        loss.backward(retain_graph=True)
    before = net.weights()
    Trainer(net, {"name": "sgd", "learning_rate": 1.0}, at_once=7).step(X, CLASSES)
    for layer, (w, _) in enumerate(peer.layers, 1):
        step = before[f"layer{layer}.weight"] - net.weights()[f"layer{layer}.weight"]
        np.testing.assert_allclose(step, w.grad.numpy(), rtol=1e-9, atol=1e-13)


def test_a_network_has_the_weights_of_pytorchs_layers():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed here", exc_type=ImportError)
    nn = torch.nn
    for dtype in (torch.float32, torch.float64):
        theirs = nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Dropout(0.3), nn.Linear(8, 3)).to(dtype).eval()
        ours = Network.from_torch(theirs.state_dict(), hidden_activation="gelu", dropout=0.3, backend="numpy")
        expected = torch.softmax(theirs(torch.tensor(X, dtype=dtype)), dim=1).detach().numpy()
        assert ours.dtype == str(dtype).removeprefix("torch.")
        np.testing.assert_allclose(ours.predict_proba(X), expected, rtol=0, atol=1e-6)
    half = Network.from_torch(nn.Linear(5, 3).bfloat16().state_dict(), backend="numpy")
    assert half.dtype == "float32"
    with pytest.raises(ArgumentError, match="running_mean is of no Linear layer"):
        Network.from_torch(nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)).state_dict(), backend="numpy")


# --- exports ----------------------------------------------------------------------------------------------------------
EXPORTED = [
    *({"kind": kind} for kind in KINDS),
    *({"kind": "classes", "hidden_activation": each} for each in sorted(torch_export.MODULES) if each != "softmax"),
    {"kind": "values", "hidden_activation": "identity", "sizes": ()},
    {"kind": "values", "output_activation": "tanh", "bias": False},
    {"kind": "classes", "names": ()},
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("chosen", EXPORTED, ids=lambda chosen: " ".join(map(str, chosen.values())))
def test_pytorch_predicts_what_is_exported_to_it(chosen, dtype, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed here", exc_type=ImportError)
    model = model_of(**chosen, dtype=dtype)
    contents, modules = torch_export.contents(model)
    (tmp_path / "model.safetensors").write_bytes(contents)
    made = {}
    exec(torch_export.program(modules, str(tmp_path / "model.safetensors")), made)
    for x in (EXAMPLES, FAR):
        found = made["model"](torch.tensor(x)).detach().numpy()
        expected = outputs_of(model, x)
        if model.task == "classification" and found.shape[1] == 1:
            found = np.hstack([1 - found, found])
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("chosen", EXPORTED, ids=lambda chosen: " ".join(map(str, chosen.values())))
def test_onnxruntime_predicts_what_is_exported_to_it(chosen, dtype):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed here")
    model = model_of(**chosen, dtype=dtype)
    session = onnxruntime.InferenceSession(onnx_export.contents(model))
    for x in (EXAMPLES, FAR):
        named = model.feature_names
        given = {name: x[:, [i]] for i, name in enumerate(named)} if named else {"x": x}
        found = dict(zip((each.name for each in session.get_outputs()), session.run(None, given), strict=True))
        expected = outputs_of(model, x)
        np.testing.assert_allclose(found["values" if model.task == "regression" else "probabilities"], expected,
                                   rtol=1e-6, atol=1e-6)  # fmt: skip
        if model.task == "classification":
            np.testing.assert_array_equal(found["label"], np.array(model.class_names, object)[model.predict(x)])
        elif model.task == "multilabel":
            np.testing.assert_array_equal(found["labels"], model.predict(x))


@pytest.mark.parametrize("missing", ["mean", "zero", "error"])
def test_onnxruntime_takes_the_columns_of_a_table_with_text_and_gaps(missing, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed here")
    model, columns, x = table_model(missing)
    model.save(tmp_path / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    _, exported = export_command.run(tmp_path, "onnx", None, force=False)
    found = {"table": pd.DataFrame(columns)}
    exec(exported.program, found)
    outputs = dict(zip((each.name for each in found["session"].get_outputs()), found["outputs"], strict=True))
    np.testing.assert_allclose(outputs["probabilities"], model.predict_proba(x), rtol=0, atol=1e-6)
    assert list(outputs["predicted label"]) == [model.class_names[i] for i in model.predict(x)]
