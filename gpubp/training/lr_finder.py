"""Finding a learning rate: train for a moment while the rate grows, and see where the loss falls and where it rises.

This is the range test of L. N. Smith, "Cyclical Learning Rates for Training Neural Networks", 2017, section 3.3, with
the rate growing exponentially.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from gpubp.data.dataset import Dataset
from gpubp.nn.network import Network
from gpubp.nn.optimizers import Exponential
from gpubp.training.config import TrainingConfig
from gpubp.training.loop import Run
from gpubp.training.order import epoch_order

LOWEST, HIGHEST = 1e-6, 10.0
"""The rates that a sweep begins and ends with: every optimiser's best one lies well between them."""
STILL = 1e-5
"""Below this rate a network hardly changes: the mean loss there is what the loss must fall from."""
LEAST_STEPS = 100
"""Steps of a sweep. Fewer would make each so much larger than the last that the loss falls too late to be judged."""
DIVERGED = 4.0
"""The loss diverges when its running mean is so many times its lowest running mean."""
MEMORY = 0.9
"""What the running mean keeps of itself at each step; it decides only where the sweep ends."""
WIDTH = 0.2
"""Standard deviation, in decades of the rate, of the Gaussian that smooths the losses."""
FALL = 0.1
"""The share that the loss must lose: less may be chance."""
SAFE = 1 / 3
"""The suggestion as a share of the rate with the lowest loss, at which training is about to diverge.

Measured on the digits, on noisy classes and on noisy values, with every optimiser: with a tenth it trained more slowly,
with the rate itself sometimes to a worse end.
"""


class _Growth(Exponential):
    """decay^step like its base, but growing: with decay > 1."""

    def __post_init__(self) -> None:
        pass


@dataclass(frozen=True, eq=False)
class RateSweep:
    """The losses of a sweep over learning rates.

    Attributes:
        rates: (steps,) float64, growing.
        losses: (steps,) float64; each of a batch, before its step with the rate of the same index.
        smoothed: (steps,) float64: the losses' means, weighted by a Gaussian over the logarithm of the rate.
        diverged: True if the sweep ended because the loss diverged, and not at the highest rate.
        best: the index of the lowest smoothed loss; None if it says nothing.
        reason: why no rate can be suggested; empty if one can.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    diverged: bool
    best: int | None
    reason: str = ""

    @property
    def suggestion(self) -> float | None:
        """A third of the rate with the lowest smoothed loss, to two digits; None if no rate can be suggested."""
        return None if self.best is None else float(f"{self.rates[self.best] * SAFE:.1e}")


def find_learning_rate(
    network: Network,
    dataset: Dataset,
    config: TrainingConfig | None = None,
    *,
    tell: Callable[[str], None] | None = None,
    stream: bool | None = None,
) -> RateSweep:
    """Return the losses while the learning rate grows from `LOWEST` to `HIGHEST`, and a rate to train with.

    The steps are those that `fit` would make from the network's weights: its training part, batches and optimiser, but
    for learning rate and schedule. They are one pass over the whole batches, or as many passes as make `LEAST_STEPS`,
    fewer if the loss diverges. Afterwards the network has the weights that it had, bit for bit, and nothing is written.

    Args:
        network, dataset, config: as for `fit`.
        tell: is called at times with a line that says what goes on.
        stream: as for `fit`.

    Raises ArgumentError as `fit` does.
    """
    run = Run(network, dataset, config, stream=stream)
    before = network.weights()
    try:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            rates, losses, diverged = _sweep(run, tell or (lambda line: None))
    finally:
        network.set_weights(before)
    return _judged(rates, losses, diverged)


def _sweep(run: Run, tell: Callable[[str], None]) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return the rates, the loss before the step with each, and whether the sweep ended because the loss diverged."""
    rows = min(run.config.step_size, run.rows)
    batches = run.rows // rows
    steps = batches * math.ceil(LEAST_STEPS / batches)
    growth = _Growth((HIGHEST / LOWEST) ** (1 / (steps - 1)))
    optimizer = replace(run.trainer.optimizer, learning_rate=LOWEST, schedule=growth)
    run.trainer.optimizer = optimizer

    rates: list[float] = []
    losses: list[float] = []
    mean, lowest, diverged = 0.0, math.inf, False
    for step in _steps(run, batches, steps):
        if step % 10 == 0:
            tell(f"step {step} of {steps}, rate {optimizer.rate(step):.1e}")
        run._train_batch()
        weight = run.feed.weight(run.batch * rows, rows)
        factor = run.network.loss.factor(rows if weight is None else weight)
        loss = run.trainer.take_total_loss() * factor
        if factor == 0:  # no example of the batch counts: there was nothing to learn
            continue
        if math.isfinite(loss):
            rates.append(optimizer.rate(step))
            losses.append(loss)
            mean = MEMORY * mean + (1 - MEMORY) * loss
            unbiased = mean / (1 - MEMORY ** len(losses))
            lowest = min(lowest, unbiased)
            diverged = unbiased > DIVERGED * lowest
        else:
            diverged = True
        if diverged:
            break
    return np.array(rates), np.array(losses), diverged


def _steps(run: Run, batches: int, steps: int) -> Iterator[int]:
    """Yield the number of each step, with the run at that step's batch: in the order of a run's first epochs."""
    for step in range(steps):
        passes, run.batch = divmod(step, batches)
        if run.batch == 0:
            run.feed.visit(epoch_order(run.config.seed, passes, run.rows, run.order))
        yield step


def _judged(rates: np.ndarray, losses: np.ndarray, diverged: bool) -> RateSweep:
    smoothed, still = _smoothed(rates, losses), rates < STILL
    if still.all():
        reason = f"below a rate of {STILL:g} already, the loss diverges or is no finite number"
        return RateSweep(rates, losses, smoothed, diverged, None, reason)
    best = int(np.argmin(np.where(still, np.inf, smoothed)))
    if not smoothed[best] < (1 - FALL) * losses[still].mean():
        reason = (
            f"the loss fell by less than {100 * FALL:.0f} % at every rate; batches may be too small, the labels too "
            "random, or the network has learnt already"
        )
        return RateSweep(rates, losses, smoothed, diverged, None, reason)
    return RateSweep(rates, losses, smoothed, diverged, best)


def _smoothed(rates: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Return each loss's mean with those of rates near its own, on both sides."""
    decades = np.log10(rates)
    weights = np.exp(-0.5 * ((decades[:, None] - decades) / WIDTH) ** 2)
    return weights @ losses / weights.sum(axis=1)
