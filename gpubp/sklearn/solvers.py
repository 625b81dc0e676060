"""How the estimators train: epochs of `Trainer`'s steps with scikit-learn's rules for when to stop, and L-BFGS.

scikit-learn's loss of a batch of weight W (its rows, or the sum of their weights) is the mean of its examples' plus
½ α Σ w² / W over the weights, not the biases. Its velocities of SGD hold η, where gpubp's v does not: u = −η v.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from scipy import optimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from gpubp.errors import StateError
from gpubp.kernels.control import Control, Losses
from gpubp.nn import optimizers
from gpubp.nn.feeds import Feed
from gpubp.nn.network import Network, total_weight
from gpubp.nn.optimizers import Constant, Optimizer, Schedule
from gpubp.nn.trainer import BatchSteps, Trainer
from gpubp.training.config import SCHEDULES, TrainingConfig

Estimator: TypeAlias = Any
"""An estimator of this package: its parameters are read, and what `fit` tells is set."""
STOCHASTIC = ("sgd", "adam")
"""The solvers that make steps on batches."""
LARGEST_BATCH = 200
"""Rows of a batch with `batch_size="auto"`, if there are as many."""
SMALLEST_RATE, RATE_DIVISOR = 1e-6, 5.0
"""With `learning_rate="adaptive"`: no rate at or below the first is divided any further, by the second."""


@dataclass(frozen=True)
class Examples:
    """Rows to train on.

    Attributes:
        x: as the network reads them, (rows, features).
        y: checked targets.
        weights: of the rows, as the user gave them; None: all 1.
        class_weights: what they are multiplied by in training, by the rows' classes; None: 1.
    """

    x: np.ndarray
    y: np.ndarray
    weights: np.ndarray | None
    class_weights: np.ndarray | None

    def of(self, rows: np.ndarray) -> Examples:
        """Return these rows."""
        return Examples(*(None if part is None else part[rows] for part in self._parts()))  # type: ignore[arg-type]

    def _parts(self) -> tuple[np.ndarray | None, ...]:
        return self.x, self.y, self.weights, self.class_weights

    @property
    def trained_weights(self) -> np.ndarray | None:
        """The weights that training takes."""
        if self.class_weights is None:
            return self.weights
        return self.class_weights if self.weights is None else self.weights * self.class_weights


# --- steps on batches -------------------------------------------------------------------------------------------------
def trainer(settings: Estimator, network: Network, examples: Examples) -> Trainer:
    """Return a trainer with the solver's optimiser in its first state."""
    rows = len(examples.x)
    batches = -(-rows // _batch_size(settings, rows, quiet=True))
    rate, schedule = float(settings.learning_rate_init), _schedule(settings, batches)
    optimizer: dict[str, Any] = {"name": "sgd"}
    if settings.solver == "adam":
        betas = {"beta1": float(settings.beta_1), "beta2": float(settings.beta_2)}
        optimizer = {"name": "adam", **betas, "epsilon": float(settings.epsilon), "epsilon_hat": True}
    elif settings.momentum:
        name = "nesterov" if settings.nesterovs_momentum else "momentum"
        optimizer = {"name": name, "momentum": float(settings.momentum)}
    return Trainer(network, {**optimizer, "learning_rate": rate, "schedule": schedule})


def _schedule(settings: Estimator, batches: int) -> Schedule:
    """Return the schedule of the learning rate, for epochs of this many batches."""
    chosen = settings.schedule
    if chosen is None:
        return Constant()
    if chosen not in SCHEDULES:
        return optimizers.schedule(chosen)
    return TrainingConfig(epochs=settings.max_iter, schedule=chosen).scheduled_optimizer(batches).schedule


def _batch_size(settings: Estimator, rows: int, quiet: bool = False) -> int:
    if settings.batch_size == "auto":
        return min(LARGEST_BATCH, rows)
    if settings.batch_size > rows and not quiet:
        warnings.warn(
            f"batch_size is {settings.batch_size}, and there are {rows} rows: they are one batch", stacklevel=5
        )
    return min(int(settings.batch_size), rows)


def stochastic(
    settings: Estimator, trainer: Trainer, examples: Examples, rng: np.random.RandomState, incremental: bool
) -> None:
    """Train until scikit-learn's rules end it, or for one epoch if `incremental`; set what `fit` tells of it."""
    validation = None
    if settings.early_stopping:
        examples, validation = _split(settings, examples, rng)
    best = trainer.network.weights()
    run = _Epochs(settings, trainer, examples)
    settings.n_iter_ = 0
    try:
        for _ in range(settings.max_iter):
            if settings.shuffle:
                run.shuffle(rng)
            settings.loss_ = run.train()
            settings.n_iter_ += 1
            settings.t_ += len(examples.x)
            settings.loss_curve_.append(settings.loss_)
            _say(settings, f"Iteration {settings.n_iter_}, loss = {settings.loss_:.8f}")
            if validation is None:
                _judge_loss(settings)
            elif _judge_validation(settings, trainer.network, validation):
                best = trainer.network.weights()
            if settings.learning_rate == "invscaling" and settings.solver == "sgd":
                run.set_rate(settings.learning_rate_init / (settings.t_ + 1) ** settings.power_t)
            if settings._no_improvement_count > settings.n_iter_no_change:
                if _has_ended(settings, run):
                    break
                settings._no_improvement_count = 0
            if incremental:
                break
            if settings.n_iter_ == settings.max_iter:
                message = f"training has not converged after max_iter={settings.max_iter} epochs"
                warnings.warn(message, ConvergenceWarning, stacklevel=4)
    except KeyboardInterrupt:
        warnings.warn("training was interrupted: the estimator has the weights of that moment", stacklevel=4)
    if validation is not None:
        trainer.network.set_weights(best)


class _Epochs:
    """Epochs of a trainer's steps, and the loss that scikit-learn tells of each."""

    def __init__(self, settings: Estimator, trainer: Trainer, examples: Examples) -> None:
        self.settings, self.trainer = settings, trainer
        weights = examples.trained_weights
        self.feed: Feed = trainer.feed(examples.x, settings._network_targets(examples.y), weights)
        self.order = np.arange(self.feed.rows)
        self.batch = _batch_size(settings, self.feed.rows)
        self.starts = range(0, self.feed.rows, self.batch)
        self.steps = BatchSteps(trainer, self.feed, self.batch)
        backend = trainer.network.backend
        # of each batch: its loss, and Σ w² before its step; they are read once an epoch
        self.losses = backend.zeros((len(self.starts),), "float64")
        self.norms = backend.zeros((len(self.starts), len(Control)), "float64")
        self.penalized: dict[float, Optimizer] = {}

    def shuffle(self, rng: np.random.RandomState) -> None:
        """Visit the rows in another order: that of the last epoch shuffled, by the draws of `sklearn.utils.shuffle`."""
        places = np.arange(len(self.order))
        rng.shuffle(places)
        self.order = self.order[places]

    def train(self) -> float:
        """Make the steps of an epoch, with the rows in `order`, and return its loss."""
        network, alpha = self.trainer.network, self.settings.alpha
        backend = network.backend
        self.feed.visit(self.order)
        rows, penalties = [], []
        for number, start in enumerate(self.starts):
            here = slice(number, number + 1)
            if alpha:
                weight = self._weight(start)
                penalty = alpha / weight if weight > 0 else 0.0
                penalties.append(penalty)
                self.trainer.optimizer = self._with_penalty(penalty)
                network.sum_squared_weights(self.norms[here].reshape(-1))
            rows.append(self.steps(start))
            backend.copy(self.trainer.losses[Losses.BATCH : Losses.BATCH + 1], self.losses[here])
        losses = backend.asnumpy(self.losses) / self.settings._loss_divisor
        if alpha:
            losses += 0.5 * np.array(penalties) * backend.asnumpy(self.norms)[:, Control.SQUARED_NORM]
        return float(np.average(losses, weights=rows))

    def _weight(self, start: int) -> float:
        """Return the weight of the batch from this row on."""
        rows = min(self.batch, self.feed.rows - start)
        weight = self.feed.weight(start, rows)
        return rows if weight is None else weight

    def _with_penalty(self, l2: float) -> Optimizer:
        """Return the trainer's optimiser with this penalty: batches of one weight share it."""
        found = self.penalized.get(l2)
        if found is None:
            found = replace(self.trainer.optimizer, l2=l2)
            if self.feed.weights is None:  # else nearly every batch has another
                self.penalized[l2] = found
        return found

    def set_rate(self, rate: float) -> None:
        """Go on with another η: velocities keep the steps that they hold."""
        before = self.trainer.optimizer.learning_rate
        self.trainer.optimizer = replace(self.trainer.optimizer, learning_rate=rate)
        self.trainer.scale_state(before / rate)
        self.penalized = {}


def _split(settings: Estimator, examples: Examples, rng: np.random.RandomState) -> tuple[Examples, Examples]:
    """Return the examples to train on, and those to validate on. Raises ArgumentError if these are too few."""
    rows = np.arange(len(examples.x))
    strata = settings._strata(examples.y)
    try:
        parts = train_test_split(rows, random_state=rng, test_size=settings.validation_fraction, stratify=strata)
    except ValueError as error:
        raise StateError(
            "validation_fraction", f"is {settings.validation_fraction}", f"fit the data: {error}"
        ) from error
    train, validation = (examples.of(part) for part in parts)
    if len(validation.x) < 2:
        raise StateError("validation_fraction", f"sets {len(validation.x)} of {len(rows)} rows aside", "set aside two")
    return train, validation


def _judge_loss(settings: Estimator) -> None:
    """Count the epochs in a row whose loss is no better than the best by `tol`."""
    assert settings.best_loss_ is not None
    loss = settings.loss_
    settings._no_improvement_count = (
        settings._no_improvement_count + 1 if loss > settings.best_loss_ - settings.tol else 0
    )
    settings.best_loss_ = min(loss, settings.best_loss_)


def _judge_validation(settings: Estimator, network: Network, validation: Examples) -> bool:
    """Count the epochs in a row whose score is no better than the best by `tol`. Return True if it is the best."""
    assert settings.validation_scores_ is not None
    assert settings.best_validation_score_ is not None
    outputs = network.predict_proba(validation.x)
    finite = np.isfinite(outputs).all()
    score = settings._validation_score(outputs, validation.y, validation.weights) if finite else math.nan
    settings.validation_scores_.append(score)
    _say(settings, f"Validation score: {score:f}")
    worse = score < settings.best_validation_score_ + settings.tol
    settings._no_improvement_count = settings._no_improvement_count + 1 if worse else 0
    if not score > settings.best_validation_score_:
        return False
    settings.best_validation_score_ = score
    return True


def _has_ended(settings: Estimator, run: _Epochs) -> bool:
    """Return whether training without improvement ends, or divide the adaptive learning rate."""
    what = "Validation score" if settings.early_stopping else "Training loss"
    told = f"{what} did not improve more than tol={settings.tol:f} for {settings.n_iter_no_change} consecutive epochs."
    rate = run.trainer.optimizer.learning_rate
    if settings.learning_rate != "adaptive" or settings.solver != "sgd":
        _say(settings, f"{told} Stopping.")
        return True
    if rate <= SMALLEST_RATE:
        _say(settings, f"{told} Learning rate too small. Stopping.")
        return True
    run.set_rate(rate / RATE_DIVISOR)
    _say(settings, f"{told} Setting learning rate to {rate / RATE_DIVISOR:f}")
    return False


def _say(settings: Estimator, message: str) -> None:
    if settings.verbose:
        print(message)


# --- L-BFGS -----------------------------------------------------------------------------------------------------------
def lbfgs(settings: Estimator, network: Network, examples: Examples) -> None:
    """Minimise the loss of all rows by SciPy's L-BFGS-B, from the network's weights; set what `fit` tells of it."""
    layout, weights = network.layout, examples.trained_weights
    x, y = network.batches.checked(examples.x, settings._network_targets(examples.y))
    if weights is not None:
        weights = network.batches.checked_weights(weights, len(x))
    weight = len(x) if weights is None else total_weight(weights)
    l2 = settings.alpha / weight if weight > 0 else 0.0
    decayed = layout.bias_start

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        network.set_weights(layout.named(flat))
        loss, gradients = network.gradients(x, y, sample_weight=weights)
        names = layout.named(gradient := np.zeros(layout.size))
        for l in range(1, network.depth + 1):
            names[f"layer{l}.weight"][...] = gradients.w[l]
            if network.bias:
                names[f"layer{l}.bias"][...] = gradients.b[l]
        w = flat[:decayed]
        gradient[:decayed] += l2 * w
        return loss + 0.5 * l2 * float(w @ w), gradient

    start = layout.flat(network.weights(), "float64")
    options = {"maxfun": settings.max_fun, "maxiter": settings.max_iter, "gtol": settings.tol}
    found = optimize.minimize(loss_and_gradient, start, method="L-BFGS-B", jac=True, options=options)
    network.set_weights(layout.named(found.x))
    settings.n_iter_ = min(int(found.nit), settings.max_iter)
    settings.loss_ = float(found.fun) / settings._loss_divisor
    _say(settings, f"{settings.n_iter_} iterations, loss = {settings.loss_:.8f}: {found.message}")
    if not found.success:
        message = f"L-BFGS has not converged after {settings.n_iter_} iterations: {found.message}"
        warnings.warn(message, ConvergenceWarning, stacklevel=4)
