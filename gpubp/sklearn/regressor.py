"""`MLPRegressor`: values to predict, with scikit-learn's interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils import column_or_1d

from gpubp.data.scaler import Scaler
from gpubp.errors import ArgumentError, StateError, unknown_name
from gpubp.nn import losses
from gpubp.nn.losses import HalfSquaredError, Loss
from gpubp.sklearn.estimator import Estimator, no_scaling
from gpubp.training.model import Model

SQUARED_ERROR = "squared_error"
"""What scikit-learn calls ½ (a − y)², which it trains summed over the outputs and tells as their mean."""


class MLPRegressor(RegressorMixin, Estimator):
    """A regressor: a drop-in for `sklearn.neural_network.MLPRegressor` whose steps run on gpubp's backends.

    See `MLPClassifier`, which has the same parameters but for these.

    Args:
        loss: "squared_error", scikit-learn's ½ (a − y)²; or another of `gpubp.nn.losses` for values, such as
            "absolute_error", "huber", or {"name": "quantile", "quantile": 0.9}.

    Attributes: those of `MLPClassifier`, without `classes_`.
    """

    def __init__(
        self,
        loss=SQUARED_ERROR,
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
        schedule=None,
    ):
        self.loss = loss
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
        self.schedule = schedule

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    # --- training -----------------------------------------------------------------------------------------------------
    def _checked_targets(self, y: Any, first: bool) -> np.ndarray:
        """Return values (rows, outputs) as float64."""
        y = np.asarray(y)
        if y.dtype.kind not in "iufb" and y.dtype != object:
            raise StateError("y", f"holds {y.dtype}", "hold numbers")
        y = y.astype(np.float64)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        y = y.reshape(len(y), -1)
        if not first and y.shape[1] != self.n_outputs_:
            raise StateError("y", f"has {y.shape[1]} columns", f"have {self.n_outputs_}, as before")
        return y

    def _chosen_loss(self, y: np.ndarray) -> tuple[Loss, int]:
        chosen = self.loss
        values = [name for name, kind in losses.LOSSES.items() if kind.output_activation is None]
        name = _name_of(chosen)
        if isinstance(name, str) and name not in values:
            raise unknown_name("loss", name, values)
        if isinstance(name, str) and name == SQUARED_ERROR:
            config = chosen if isinstance(chosen, Mapping) else {}
            return losses.get({**config, "name": HalfSquaredError.name}), y.shape[1]
        loss = losses.get(chosen)
        if loss.from_logits:
            raise ArgumentError("loss", loss.name, f"one of values: {', '.join(values)}")
        return loss, y.shape[1]

    @property
    def _loss_divisor(self) -> float:
        return self.n_outputs_ if _name_of(self.loss) == SQUARED_ERROR else 1

    def _network_targets(self, y: np.ndarray) -> np.ndarray:
        return y if self._target_scaler is None else self._target_scaler.apply(y, self.coefs_[0].dtype)

    def _class_weights(self, y: np.ndarray) -> None:
        return None

    def _strata(self, y: np.ndarray) -> None:
        return None

    def _validation_score(self, outputs: np.ndarray, y: np.ndarray, weights: np.ndarray | None) -> float:
        return float(r2_score(y, self._values(outputs), sample_weight=weights))

    # --- predictions --------------------------------------------------------------------------------------------------
    def predict(self, X: Any) -> np.ndarray:
        """Return the values of each row, (rows,), or (rows, outputs) if there are several."""
        values = self._values(self._outputs(X))
        return values[:, 0] if values.shape[1] == 1 else values

    def _values(self, outputs: np.ndarray) -> np.ndarray:
        return outputs if self._target_scaler is None else self._target_scaler.invert(outputs)

    # --- model files --------------------------------------------------------------------------------------------------
    def _task(self) -> str:
        return "regression"

    def _target_scaling(self) -> Scaler:
        return no_scaling(self.n_outputs_) if self._target_scaler is None else self._target_scaler

    def _take_model(self, model: Model) -> Model:
        if model.task != "regression":
            raise ArgumentError("task", model.task, "regression; MLPClassifier is for classes and labels")
        loss = model.network.loss
        if loss == HalfSquaredError():
            self.loss = SQUARED_ERROR
        else:  # by this name scikit-learn has the half of ours
            self.loss = loss if loss.name == SQUARED_ERROR else loss.config()
        self._target_scaler = model.target_scaler
        return model


def _name_of(loss: Any) -> Any:
    """Return the name in the parameter `loss`, or what is there in place of one."""
    return loss.get("name") if isinstance(loss, Mapping) else loss
