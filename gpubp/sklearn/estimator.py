"""What both estimators share: their settings, fitting, the outputs of the network, pickling, model files.

The weights are `coefs_` and `intercepts_`, as in scikit-learn: arrays on the host, which each call reads, so that
weights that somebody sets are taken. The network that computes with them is made anew where it is missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from gpubp.data.preparation import Preparation
from gpubp.data.scaler import Scaler
from gpubp.errors import ArgumentError, ConflictError, StateError, unknown_name
from gpubp.nn import architecture, optimizers
from gpubp.nn.losses import Loss
from gpubp.nn.network import Network
from gpubp.nn.optimizers import Schedule
from gpubp.nn.trainer import Trainer
from gpubp.registry import require_count, require_number
from gpubp.sklearn import solvers
from gpubp.sklearn.solvers import STOCHASTIC, Examples
from gpubp.sklearn.tables import inputs_of
from gpubp.training.config import SCHEDULES
from gpubp.training.model import Model
from gpubp.training.settings import TABLE

SOLVERS = (*STOCHASTIC, "lbfgs")
LEARNING_RATES = ("constant", "invscaling", "adaptive")
PLAIN = ("float32", "float64")
"""What `precision` names that is a dtype of the whole network; the others are kinds of float32."""

OUR_NAMES = {"logistic": "sigmoid"}
"""Activations that scikit-learn calls by another name than gpubp."""
THEIR_NAMES = {ours: theirs for theirs, ours in OUR_NAMES.items()}


class Engine:
    """What computes for an estimator, and is not pickled: its network, and the trainer that `partial_fit` goes on with.

    Attributes:
        lock: of the network's arrays, for programs that predict in several threads.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.trainer: Trainer | None = None
        self.lock = Lock()


class Estimator(BaseEstimator):
    """Base of `MLPClassifier` and `MLPRegressor`."""

    _engine: Engine | None
    _input_names: tuple[str, ...] = ()
    _origin: dict[str, Any]
    _preparation: Preparation | None = None
    _scaler: Scaler | None
    _target_scaler: Scaler | None

    # --- what a subclass says of its targets --------------------------------------------------------------------------
    def _checked_targets(self, y: Any, first: bool) -> np.ndarray:
        """Return y as classes or values; set `classes_` if `first`, else hold y against them."""
        raise NotImplementedError

    def _chosen_loss(self, y: np.ndarray) -> tuple[Loss, int]:
        """Return the loss for checked targets, and how many outputs the network has."""
        raise NotImplementedError

    def _network_targets(self, y: np.ndarray) -> np.ndarray:
        """Return checked targets as the network's loss takes them."""
        raise NotImplementedError

    def _class_weights(self, y: np.ndarray) -> np.ndarray | None:
        """Return what the weight of each example is multiplied by in training; None for 1."""
        raise NotImplementedError

    def _strata(self, y: np.ndarray) -> np.ndarray | None:
        """Return the classes by which the validation part is stratified, for checked targets; None if it is not."""
        raise NotImplementedError

    def _validation_score(self, outputs: np.ndarray, y: np.ndarray, weights: np.ndarray | None) -> float:
        """Return what early stopping goes by, for the network's outputs and checked targets."""
        raise NotImplementedError

    @property
    def _loss_divisor(self) -> float:
        """What the network's loss is divided by, to give `loss_`."""
        return 1.0

    # --- fitting ------------------------------------------------------------------------------------------------------
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on (X, y), from new weights, or with `warm_start` from those that are there.

        Args:
            X: (rows, features), an array, or a frame of pandas or polars. Sparse matrices are refused.
            y: the classes, labels or values of the rows.
            sample_weight: (rows,) of at least 0: how much each row counts; None: all the same.

        Raises:
            ArgumentError: a parameter is wrong.
            ValueError: X and y are none to train on.
            BackendError: the named backend cannot run here.
        """
        return self._fit(X, y, sample_weight, incremental=False)

    @available_if(lambda estimator: estimator._can_go_on())
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on (X, y) for one epoch, with the weights and the optimiser's state that are there. See `fit`."""
        return self._fit(X, y, sample_weight, incremental=True)

    def _can_go_on(self) -> bool:
        if self.solver not in STOCHASTIC:
            raise AttributeError(f"partial_fit is for the solvers sgd and adam, and solver is {self.solver!r}")
        return True

    def _fit(self, X: Any, y: Any, sample_weight: Any, incremental: bool) -> Self:
        self._check_settings(incremental)
        first = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
        if first:
            self._preparation, self._input_names = None, ()
        else:
            self._check_fitted_widths()
        X, y = validate_data(self, self._prepared(X), y, reset=first, multi_output=True, dtype=_DTYPES)
        y = self._checked_targets(y, first)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        rng = check_random_state(self.random_state)
        if first:
            self._begin(X, y, rng)
        else:
            if not incremental:
                self._engine = Engine(self._remade(y, rng))
            elif self._engine is None:
                self._engine = Engine(self._restored())
            if self.solver in STOCHASTIC and self._records() != self.early_stopping:
                self._begin_curves()
            # which rows it has seen is no longer what its origin says
            self._origin = {name: self._origin[name] for name in _OF_THE_TABLE if name in self._origin}
        assert self._engine is not None
        network = self._engine.network
        with self._engine.lock:
            network.set_weights(self._named())
            examples = Examples(self._inputs(X), y, sample_weight, self._class_weights(y))
            if self.solver == "lbfgs":
                solvers.lbfgs(self, network, examples)
            else:
                if not incremental or self._engine.trainer is None:
                    self._engine.trainer = solvers.trainer(self, network, examples)
                    if incremental:
                        self._restore_optimizer()
                solvers.stochastic(self, self._engine.trainer, examples, rng, incremental)
            self._take_weights()
        return self

    def _begin(self, X: np.ndarray, y: np.ndarray, rng: np.random.RandomState) -> None:
        """Set all that a first fit begins with: the network, its initial weights, and the counts."""
        self._scaler = self._target_scaler = None
        self._origin = {}
        network = self._made(X.shape[1], y, X.dtype, rng)
        self._engine = Engine(network)
        # scikit-learn's draws in scikit-learn's order: the same random_state gives the same weights, and leaves the
        # same for the shuffling
        factor = 2.0 if _our_activations(self.activation) == "sigmoid" else 6.0
        self.coefs_, self.intercepts_ = [], []
        for inputs, outputs in zip(network.sizes[:-1], network.sizes[1:], strict=True):
            bound = math.sqrt(factor / (inputs + outputs))
            self.coefs_.append(rng.uniform(-bound, bound, (inputs, outputs)).astype(network.dtype))
            self.intercepts_.append(rng.uniform(-bound, bound, outputs).astype(network.dtype))
        self._describe(network)
        self._begin_history()

    def _describe(self, network: Network) -> None:
        self._config = network.config()
        self.n_layers_, self.n_outputs_ = len(network.sizes), network.sizes[-1]
        name = network.activations[-1].name
        self.out_activation_ = THEIR_NAMES.get(name, name)

    def _begin_history(self) -> None:
        self.n_iter_ = self.t_ = self._no_improvement_count = 0
        self._optimizer_state: dict[str, np.ndarray] | None = None
        if self.solver in STOCHASTIC:
            self._begin_curves()

    def _records(self) -> bool | None:
        """Return whether the curves are those of early stopping; None if there are none."""
        return self.validation_scores_ is not None if hasattr(self, "loss_curve_") else None

    def _begin_curves(self) -> None:
        self._no_improvement_count = 0
        self.loss_curve_: list[float] = []
        early = self.early_stopping
        self.best_loss_: float | None = None if early else math.inf
        self.validation_scores_: list[float] | None = [] if early else None
        self.best_validation_score_: float | None = -math.inf if early else None

    def _made(self, features: int, y: np.ndarray, dtype: np.dtype, rng: np.random.RandomState) -> Network:
        """Return the network of the settings for checked targets. rng: draws the seed of dropout, if there is any."""
        backend = architecture.made_backend(self.backend, self.device)
        loss, outputs = self._chosen_loss(y)
        if loss.reduction != "mean":
            raise ArgumentError("loss", self.loss, "one with reduction 'mean', as alpha and learning_rate_init assume")
        if self.precision is None:
            chosen: dict[str, Any] = {"dtype": str(dtype) if backend.device == "cpu" else "float32"}
        elif self.precision in PLAIN:
            chosen = {"dtype": self.precision}
        else:
            chosen = {"precision": self.precision}
        hidden = self._hidden_widths()
        seed = int(rng.randint(2**31 - 1)) if np.any(self.dropout) else 0
        try:
            return Network(
                [features, *hidden, outputs],
                hidden_activation=_our_activations(self.activation),
                loss=loss,
                initializer="zeros",  # ours are drawn by random_state
                dropout=self.dropout,
                backend=backend,
                seed=seed,
                **chosen,
            )
        except ArgumentError as error:
            raise error.renamed(lambda name: _PARAMETER_OF.get(name, name)) from None

    def _remade(self, y: np.ndarray, rng: np.random.RandomState) -> Network:
        """Return a network of the present settings for the weights that are there, which `warm_start` goes on with."""
        network = self._made(self.n_features_in_, y, self.coefs_[0].dtype, rng)
        self._describe(network)
        return network

    def _restored(self) -> Network:
        """Return the network that was fitted, on the backend of the settings."""
        check_is_fitted(self)
        backend = architecture.made_backend(self.backend, self.device)
        architecture.require_backend_for(self._config.get("precision"), backend)
        return Network.from_config(self._config, backend)

    def _restore_optimizer(self) -> None:
        """Give a trainer that was made anew the optimiser's state that was pickled."""
        assert self._engine is not None
        assert self._engine.trainer is not None
        trainer, kept = self._engine.trainer, self._optimizer_state
        fresh = trainer.state()
        if kept is not None and kept.keys() == fresh.keys():
            trainer.restore({**kept, **self._engine.network.weights()})

    # --- weights ------------------------------------------------------------------------------------------------------
    def _named(self) -> dict[str, np.ndarray]:
        """Return the weights by the network's names; a wrong shape is an error there."""
        coefs = {f"layer{l}.weight": np.transpose(w) for l, w in enumerate(self.coefs_, 1)}
        return coefs | {f"layer{l}.bias": b for l, b in enumerate(self.intercepts_, 1)}

    def _take_weights(self) -> None:
        """Set `coefs_` and `intercepts_` to what the network has. Raises ArgumentError for NaN and infinity."""
        assert self._engine is not None
        network = self._engine.network
        weights = network.weights()
        layers = range(1, network.depth + 1)
        self.coefs_ = [weights[f"layer{l}.weight"].T for l in layers]
        none = [np.zeros(n, network.dtype) for n in network.sizes]
        self.intercepts_ = [weights.get(f"layer{l}.bias", none[l]) for l in layers]
        if not all(np.isfinite(part).all() for part in weights.values()):
            expected = "be scaled, or go with a smaller learning_rate_init: the training diverged"
            raise StateError("X", "led to weights of NaN or infinity", expected)

    # --- outputs ------------------------------------------------------------------------------------------------------
    def _inputs(self, X: np.ndarray) -> np.ndarray:
        """Return checked inputs as the network reads them: scaled, if it comes from a model that scales."""
        return X if self._scaler is None else self._scaler.apply(X, self.coefs_[0].dtype)

    def _prepared(self, X: Any) -> Any:
        """Return the inputs of a table, if the estimator has a model of a table with text or gaps; else X itself."""
        return X if self._preparation is None else inputs_of(self._preparation, X)

    def _outputs(self, X: Any) -> np.ndarray:
        """Return the network's outputs for X, (rows, outputs)."""
        check_is_fitted(self)
        X = validate_data(self, self._prepared(X), reset=False, dtype=_DTYPES)
        if self._engine is None:
            self._engine = Engine(self._restored())
        with self._engine.lock:
            self._engine.network.set_weights(self._named())
            return self._engine.network.predict_proba(self._inputs(X))

    # --- settings -----------------------------------------------------------------------------------------------------
    def _hidden_widths(self) -> list[int]:
        sizes = self.hidden_layer_sizes
        widths = list(sizes) if _is_one_for_each(sizes) and not isinstance(sizes, str) else [sizes]
        for width in widths:
            require_count("hidden_layer_sizes", width)
        return [int(width) for width in widths]

    def _check_fitted_widths(self) -> None:
        """Raise ArgumentError if training is to go on with weights of other widths than `hidden_layer_sizes`."""
        fitted = [len(each) for each in self.intercepts_[:-1]]
        if self._hidden_widths() != fitted:
            expected = f"{tuple(fitted)}, as fitted, for training to go on; clone() or warm_start=False begins anew"
            raise ArgumentError("hidden_layer_sizes", self.hidden_layer_sizes, expected)

    def _check_settings(self, incremental: bool) -> None:
        """Raise ArgumentError for a parameter that is wrong, or does not go with another."""
        self._hidden_widths()
        for name, value in self.get_params(deep=False).items():
            # to compare an array with a name is no answer
            if name not in _ONE_FOR_EACH and _sides_of(value):
                raise ArgumentError(name, value, "one value, and no array")
        for name, options in (("solver", SOLVERS), ("learning_rate", LEARNING_RATES)):
            if getattr(self, name) not in options:
                raise unknown_name(name, getattr(self, name), options)
        for name, bounds in _NUMBERS.items():
            require_number(name, getattr(self, name), **bounds)
        for name in ("max_iter", "max_fun"):
            require_count(name, getattr(self, name))
        if self.n_iter_no_change != math.inf:
            require_count("n_iter_no_change", self.n_iter_no_change)
        if self.batch_size != "auto":
            require_count("batch_size", self.batch_size)
        for name in ("shuffle", "warm_start", "nesterovs_momentum", "early_stopping"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise ArgumentError(name, getattr(self, name), "True or False")
        if incremental and self.early_stopping:
            raise ConflictError("partial_fit", "early_stopping", "it sees one batch of rows after another")
        for name in ("backend", "device"):
            if not isinstance(getattr(self, name), str) and (name, self.device) != ("device", None):
                raise ArgumentError(name, getattr(self, name), "a name, so that every process can make it anew")
        self._check_schedule()
        if self.solver == "lbfgs" and np.any(self.dropout):
            raise ConflictError("dropout", "solver='lbfgs'", "it needs the same loss each time it looks")

    def _check_schedule(self) -> None:
        if self.schedule is None:
            return
        if self.solver not in STOCHASTIC:
            raise ConflictError("schedule", f"solver={self.solver!r}", "it has no learning rate")
        if self.learning_rate != "constant":
            raise ConflictError("schedule", f"learning_rate={self.learning_rate!r}", "each changes the learning rate")
        if self.schedule not in SCHEDULES and not isinstance(self.schedule, Schedule | Mapping):
            raise unknown_name("schedule", self.schedule, SCHEDULES)
        if self.schedule not in SCHEDULES:
            optimizers.schedule(self.schedule)

    # --- pickling -----------------------------------------------------------------------------------------------------
    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        engine: Engine | None = state.get("_engine")
        if engine is not None:
            state["_engine"] = None
            if engine.trainer is not None:
                with engine.lock:
                    state["_optimizer_state"] = engine.trainer.state()
        return state

    # --- model files --------------------------------------------------------------------------------------------------
    def save(self, path: str | Path) -> None:
        """Write the model to a safetensors file, which `gpubp predict` and `evaluate` read, whole or not at all.

        Raises CheckpointError if it cannot be written, and ArgumentError for a classifier of a single class.
        """
        self._model().save(path)

    def _model(self) -> Model:
        """Return the fitted network with its scaling and the names of its classes and columns."""
        check_is_fitted(self)
        if self._engine is None:
            self._engine = Engine(self._restored())
        self._engine.network.set_weights(self._named())
        features = self.n_features_in_
        return Model(
            self._engine.network,
            self._task(),
            no_scaling(features) if self._scaler is None else self._scaler,
            self._target_scaling(),
            self._class_names(),
            self._input_names or tuple(map(str, getattr(self, "feature_names_in_", ()))),
            self._origin,
            self._preparation,
        )

    def _task(self) -> str:
        raise NotImplementedError

    def _target_scaling(self) -> Scaler | None:
        return None

    def _class_names(self) -> tuple[str, ...]:
        return ()

    @classmethod
    def load(cls, path: str | Path, backend: str = "auto", device: str | None = None) -> Self:
        """Return the estimator with the model in a run's folder or in a model file: one that `gpubp train` or `save`
        wrote. It scales its inputs as the model does. Runs no code from the file.

        Classes are in the order of their names, whatever it is in the file; `save` writes them in that one.

        A model of a table with text or missing values reads that table's columns: a frame by their names.

        Raises:
            CheckpointError: the file is missing, damaged or something else.
            ArgumentError: the model is for the other estimator.
        """
        model = Model.load(path, backend, device)
        network = model.network
        found = cls(
            hidden_layer_sizes=tuple(network.sizes[1:-1]),
            activation=_their_activations(network),
            backend=backend,
            device=device,
            precision=network.precision_name or network.dtype,
            dropout=network.dropout if network.drops else 0.0,
        )
        model = found._take_model(model)
        found._scaler = None if _is_plain(model.scaler) else model.scaler
        found._origin = dict(model.origin)
        found.n_features_in_ = network.sizes[0]
        found._preparation = model.preparation
        if model.preparation is not None:
            found._input_names = model.feature_names
        elif model.feature_names:
            found.feature_names_in_ = np.array(model.feature_names, dtype=object)
        found._engine = Engine(model.network)
        found._describe(model.network)
        found._begin_history()
        found._take_weights()
        return found

    def _take_model(self, model: Model) -> Model:
        """Set the loss and what the targets are; return the model with its outputs in the order that these have here.

        Raises ArgumentError for a model of another task.
        """
        raise NotImplementedError


_DTYPES = (np.float64, np.float32)

_NUMBERS: dict[str, dict[str, float]] = {
    "alpha": {"least": 0},
    "learning_rate_init": {"above": 0},
    "power_t": {"least": 0},
    "tol": {"least": 0},
    "momentum": {"least": 0, "below": 1},
    "validation_fraction": {"least": 0, "below": 1},
    "beta_1": {"least": 0, "below": 1},
    "beta_2": {"least": 0, "below": 1},
    "epsilon": {"above": 0},
}
"""The parameters that are numbers, and their bounds."""

_PARAMETER_OF = {"hidden_activation": "activation", "sizes": "hidden_layer_sizes", "dtype": "precision"}
"""The network's arguments that the estimators call by another name."""

_OF_THE_TABLE = ("label", "weight_column", *TABLE)
"""What a model's origin says of how its table is written."""


_ONE_FOR_EACH = ("hidden_layer_sizes", "activation", "dropout", "random_state")
"""The parameters that may be arrays: one value for each hidden layer, or what scikit-learn checks itself."""


def _sides_of(value: Any) -> int | None:
    """Return how many sides an array has; None for what is none."""
    sides = getattr(value, "ndim", None)
    return sides if isinstance(sides, int) else None


def _is_one_for_each(chosen: Any) -> bool:
    """True if a parameter has a value for each hidden layer. An array without sides is one value."""
    return isinstance(chosen, Iterable) and not isinstance(chosen, Mapping) and _sides_of(chosen) != 0


def _our_activations(chosen: Any) -> Any:
    """Return activations under gpubp's names."""
    if isinstance(chosen, str):
        return OUR_NAMES.get(chosen, chosen)
    if _is_one_for_each(chosen):
        return [_our_activations(each) for each in chosen]
    return chosen


def _their_activations(network: Network) -> Any:
    """Return a network's hidden activations as the parameter `activation` has them."""
    configs = [each.config() for each in network.activations[1:-1]]
    named = [THEIR_NAMES.get(each["name"], each["name"]) if len(each) == 1 else each for each in configs]
    if not named:
        return "relu"
    return named[0] if all(each == named[0] for each in named) else named


def no_scaling(columns: int) -> Scaler:
    return Scaler(np.zeros(columns), np.ones(columns))


def _is_plain(scaler: Scaler) -> bool:
    """True if a scaler changes nothing."""
    return scaler.limit is None and not scaler.offset.any() and bool((scaler.scale == 1).all())
