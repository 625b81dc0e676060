"""`MLPClassifier`: classes, or labels of their own, with scikit-learn's interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import column_or_1d
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target, unique_labels

from gpubp.errors import ArgumentError, ConflictError, StateError, listed, shown
from gpubp.nn import losses
from gpubp.nn.losses import Loss
from gpubp.sklearn.estimator import Estimator
from gpubp.training.model import JUDGES_EACH, Model

LOSSES = {
    "log_loss": ("softmax_cross_entropy", "binary_cross_entropy"),
    "focal_loss": ("softmax_focal_cross_entropy", "binary_focal_cross_entropy"),
}
"""Losses of classes: the network's for three classes or more, and the one for two classes and for labels."""


class MLPClassifier(ClassifierMixin, Estimator):
    """A classifier: a drop-in for `sklearn.neural_network.MLPClassifier` whose steps run on gpubp's backends.

    The parameters, their defaults, the arithmetic and the attributes are scikit-learn's. The same `random_state` gives
    the same initial weights and batches, and in float64 the same `loss_curve_`, to roundoff. Unlike there, the loss is
    computed from the logits and not cut off where a probability is next to 0.

    Args:
        hidden_layer_sizes: the widths of the hidden layers.
        activation: "identity", "logistic", "tanh", "relu", or any other of `gpubp.nn.activations`, such as "gelu" or
            {"name": "elu", "alpha": 0.5}; or a list with one for each hidden layer.
        solver: "adam", "sgd", or "lbfgs" (SciPy's L-BFGS-B, on all rows at once).
        alpha: α of the penalty ½ α Σ w² / W on the weights, W being the rows of the batch, or the sum of their weights.
        batch_size: rows of a batch; "auto": min(200, rows).
        learning_rate: of sgd: "constant"; "invscaling": learning_rate_init / t^power_t after t rows; "adaptive":
            divided by 5 whenever the loss, or with early stopping the score, no longer improves.
        learning_rate_init, power_t: of sgd and adam, see `learning_rate`.
        max_iter: the most epochs, or iterations of lbfgs.
        shuffle: visit the rows of each epoch in another order.
        random_state: of the weights, the order of the rows, the validation part and dropout.
        tol: what the loss, or with early stopping the score, must improve by; of lbfgs the largest component of the
            gradient at which it ends.
        verbose: print the loss of each epoch.
        warm_start: `fit` goes on from `coefs_` and `intercepts_`, if they are there.
        momentum, nesterovs_momentum: of sgd.
        early_stopping: set a validation part aside, stop by its score, and take the weights of the best epoch.
        validation_fraction: the share of that part.
        beta_1, beta_2, epsilon: of adam; ε is added before the averages are corrected.
        n_iter_no_change: epochs without an improvement after which training ends.
        max_fun: the most evaluations of lbfgs.
        backend, device: see `gpubp.backends.get`.
        precision: "float32", "float64", or on float32 "bf16", "fp16", "tf32" (see `gpubp.Network`). None: on the CPU
            the dtype of X, else float32.
        dropout: the share of hidden units that each step drops, or a list with one for each layer; not with lbfgs.
        class_weight: what the weights of the rows are multiplied by in training: "balanced", or a mapping from classes.
        loss: "log_loss", the cross-entropy; "focal_loss"; or one of `gpubp.nn.losses` that fits the classes, such as
            {"name": "softmax_cross_entropy", "label_smoothing": 0.1}.
        schedule: of the learning rate, in place of `learning_rate`: "constant", "step", "exponential", "cosine" over
            `max_iter` epochs, or one of `gpubp.nn.optimizers`, counted in steps.

    Attributes:
        classes_: the classes, or the labels.
        coefs_, intercepts_: the weights (n_{l-1}, n_l) and the biases (n_l,) of each layer.
        loss_, best_loss_, loss_curve_: of the last epoch, the best, and all of them.
        validation_scores_, best_validation_score_: with early stopping.
        n_iter_, t_: epochs of the last `fit`, and rows that all training has seen.
        n_features_in_, feature_names_in_, n_layers_, n_outputs_, out_activation_: as in scikit-learn.
    """

    def __init__(
        self,
        hidden_layer_sizes=(100,),
        activation="relu",
        *,
        solver="adam",
        alpha=0.0001,
        batch_size="auto",
        learning_rate="constant",
        learning_rate_init=0.001,
        power_t=0.5,
        max_iter=200,
        shuffle=True,
        random_state=None,
        tol=1e-4,
        verbose=False,
        warm_start=False,
        momentum=0.9,
        nesterovs_momentum=True,
        early_stopping=False,
        validation_fraction=0.1,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        n_iter_no_change=10,
        max_fun=15000,
        backend="auto",
        device=None,
        precision=None,
        dropout=0.0,
        class_weight=None,
        loss="log_loss",
        schedule=None,
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.backend = backend
        self.device = device
        self.precision = precision
        self.dropout = dropout
        self.class_weight = class_weight
        self.loss = loss
        self.schedule = schedule

    _order_in_file: np.ndarray | None = None
    """Which of `classes_` are the first, the second, ... in the model file that was loaded; None for this order."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    # --- training -----------------------------------------------------------------------------------------------------
    @available_if(lambda estimator: estimator._can_go_on())
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Self:
        """Train on (X, y) for one epoch, with the weights and the optimiser's state that are there. See `fit`.

        classes: all classes, those that y lacks too; needed in the first call. Of labels: the name of each.
        """
        labels = type_of_target(y).startswith("multilabel")
        given = None if classes is None else _checked_classes(classes, labels)
        if not hasattr(self, "coefs_"):
            if given is None and not labels:
                raise StateError("classes", "is missing", "name all classes in the first call of partial_fit")
            self._classes_to_come = given
        elif given is not None and not np.array_equal(given, self.classes_):
            raise StateError("classes", "differs", f"be that of the first call of partial_fit, {listed(self.classes_)}")
        try:
            return self._fit(X, y, sample_weight, incremental=True)
        finally:
            self.__dict__.pop("_classes_to_come", None)  # a call that failed leaves none to the next

    def _checked_targets(self, y: Any, first: bool) -> np.ndarray:
        """Return class numbers (rows,), or labels (rows, labels) of 0 and 1, both int64; set `classes_` if `first`."""
        check_classification_targets(y)
        kind = type_of_target(y)
        if kind == "multiclass-multioutput":
            raise StateError("y", "has several columns of classes", "have one column, or columns of 0 and 1 for labels")
        labels = kind.startswith("multilabel")
        if not labels:
            y = column_or_1d(y, warn=True)
        if first:
            given = self.__dict__.get("_classes_to_come")
            if labels:
                self.classes_ = np.arange(y.shape[1]) if given is None else given
            else:
                self.classes_ = np.unique(y) if given is None else given
            if labels and len(self.classes_) != y.shape[1]:
                raise StateError(
                    "classes", f"has {len(self.classes_)} names", f"have one for each of {y.shape[1]} labels"
                )
            self._several = labels
            self._order_in_file = None
        if labels != self._several or (labels and y.shape[1] != len(self.classes_)):
            raise StateError("y", f"is of kind {kind}", "be of the kind that the estimator was fitted on")
        if labels:
            return np.asarray(y, np.int64)
        places = np.searchsorted(self.classes_, y).clip(max=len(self.classes_) - 1)
        strange = self.classes_[places] != y
        if np.any(strange):
            unknown = y[[np.argmax(strange)]].tolist()[0]
            raise StateError("y", f"has the class {shown(unknown)}", f"have no others than {listed(self.classes_)}")
        return places

    def _chosen_loss(self, y: np.ndarray) -> tuple[Loss, int]:
        classes = len(self.classes_)
        each = self._several or classes <= 2
        chosen = self.loss
        config = dict(chosen) if isinstance(chosen, Mapping) else {"name": chosen}
        if isinstance(config.get("name"), str) and config["name"] in LOSSES:
            chosen = {**config, "name": LOSSES[config["name"]][each]}
        elif isinstance(chosen, str) and chosen not in losses.LOSSES:
            raise ArgumentError("loss", chosen, f"one of {', '.join([*LOSSES, *sum(LOSSES.values(), ())])}")
        loss = losses.get(chosen)
        fitting = [pair[1] for pair in LOSSES.values() if each] + [
            pair[0] for pair in LOSSES.values() if not self._several and classes > 1
        ]
        if loss.name not in fitting:
            what = f"{classes} labels" if self._several else f"{classes} classes"
            raise ArgumentError("loss", loss.name, f"log_loss, focal_loss or one of {', '.join(fitting)}, for {what}")
        judges_each = loss.name in JUDGES_EACH
        return loss, 1 if judges_each and not self._several else classes

    def _network_targets(self, y: np.ndarray) -> np.ndarray:
        loss = losses.get(self._config["loss"])
        outputs = self.n_outputs_
        if loss.takes_labels or self._several:
            return y
        return y[:, None] if outputs == 1 else np.eye(outputs)[y]

    def _class_weights(self, y: np.ndarray) -> np.ndarray | None:
        if self.class_weight is None:
            return None
        if self._several:
            raise ConflictError("class_weight", "several labels in y", "a weight is of the whole row")
        weight = self.class_weight
        if weight != "balanced" and not isinstance(weight, Mapping):
            raise ArgumentError("class_weight", weight, "'balanced', a mapping from classes, or None")
        return compute_sample_weight(weight, self.classes_[y])

    def _strata(self, y: np.ndarray) -> np.ndarray | None:
        return y if self.n_outputs_ == 1 and not self._several else None

    def _validation_score(self, outputs: np.ndarray, y: np.ndarray, weights: np.ndarray | None) -> float:
        return float(accuracy_score(y, self._decided(outputs), sample_weight=weights))

    # --- predictions --------------------------------------------------------------------------------------------------
    def predict(self, X: Any) -> np.ndarray:
        """Return the likeliest class of each row, (rows,); or labels (rows, labels), 1 where likelier than not."""
        decided = self._decided(self._outputs(X))
        return decided if self._several else self.classes_[decided]

    def _decided(self, outputs: np.ndarray) -> np.ndarray:
        """Return class numbers (rows,), or labels (rows, labels) of 0 and 1, for the network's outputs."""
        if self._several:
            return (outputs > 0.5).astype(np.int64)
        if outputs.shape[1] > 1:
            return outputs.argmax(axis=1)
        return ((outputs[:, 0] > 0.5) & (len(self.classes_) > 1)).astype(np.int64)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class, (rows, classes); or of each label, which do not sum to 1."""
        outputs = self._outputs(X)
        if self._several or outputs.shape[1] > 1:
            return outputs
        return np.ones_like(outputs) if len(self.classes_) == 1 else np.hstack([1 - outputs, outputs])

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the logarithms of `predict_proba`; −inf for a probability of 0."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    # --- model files --------------------------------------------------------------------------------------------------
    def _task(self) -> str:
        return "multilabel" if self._several else "classification"

    def _class_names(self) -> tuple[str, ...]:
        if len(self.classes_) == 1 and not self._several:
            raise StateError("classes_", f"has the class {listed(self.classes_)} alone", "have two or more in a model")
        return tuple(str(each) for each in self.classes_.tolist())

    def _model(self) -> Model:
        # in the order of the file that was loaded, by which the origin knows the data
        model = super()._model()
        return model if self._order_in_file is None else model.reordered(self._order_in_file)

    def _take_model(self, model: Model) -> Model:
        if model.task == "regression":
            raise ArgumentError("task", model.task, "classification or multilabel; MLPRegressor is for values")
        self._several = model.task == "multilabel"
        order = np.argsort(model.class_names)
        if not self._several and np.any(np.diff(order) < 0):
            # scikit-learn has classes in the order of their names, where 10 comes before 9
            model, self._order_in_file = model.reordered(order), np.argsort(order)
        self.classes_ = np.array(model.class_names)
        usual = LOSSES["log_loss"][self._several or len(self.classes_) <= 2]
        # a network of two classes may have two outputs all the same
        self.loss = "log_loss" if model.network.loss == losses.get(usual) else model.network.loss.config()
        self._target_scaler = None
        return model


def _checked_classes(classes: Any, labels: bool) -> np.ndarray:
    """Return what `partial_fit` was told of the classes, sorted, or of the labels, in their order. Raises ArgumentError
    for what is not one-dimensional, mixes texts with numbers, or has a gap."""
    try:
        with np.errstate(invalid="ignore"):  # of NaN, which is refused
            found = unique_labels(classes) if np.ndim(classes) == 1 else np.array([])
    except (ValueError, TypeError):
        found = np.array([])
    if not len(found):
        raise ArgumentError(
            "classes", classes, "a list of the classes: all of them texts, or all of them whole numbers"
        )
    return np.asarray(classes) if labels else found
