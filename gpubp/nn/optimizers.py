"""Optimisers: each recurrence from gradient to step, as NumPy says it; clipping; schedules of the step size.

An optimiser is a frozen description. Its state (one array of the parameters' size for each name in `state`) belongs to
the trainer. The step size of update t = 1, 2, ... is η_t = learning_rate · schedule(t − 1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np

from gpubp.errors import ArgumentError
from gpubp.registry import choose, require_count, require_number


# --- schedules --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Schedule:
    """A factor on the learning rate, for `step` = 0, 1, ... updates made so far."""

    name: ClassVar[str] = ""

    def __call__(self, step: int) -> float:
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """Return what `schedule` makes this schedule from again."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True)
class Constant(Schedule):
    """1."""

    name = "constant"

    def __call__(self, step: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Step(Schedule):
    """factor^⌊step / every⌋."""

    every: int
    factor: float = 0.1

    name = "step"

    def __post_init__(self) -> None:
        require_count("every", self.every)
        require_number("factor", self.factor, above=0, most=1)

    def __call__(self, step: int) -> float:
        return float(self.factor ** (step // self.every))


@dataclass(frozen=True)
class Exponential(Schedule):
    """decay^step."""

    decay: float

    name = "exponential"

    def __post_init__(self) -> None:
        require_number("decay", self.decay, above=0, most=1)

    def __call__(self, step: int) -> float:
        return float(self.decay**step)


@dataclass(frozen=True)
class Cosine(Schedule):
    """From 1 to `final` over `steps` updates: final + ½ (1 − final) (1 + cos(π step / steps)); then `final`.

    Loshchilov & Hutter, "SGDR", 2017, equation 5, without restarts.
    """

    steps: int
    final: float = 0.0

    name = "cosine"

    def __post_init__(self) -> None:
        require_count("steps", self.steps)
        require_number("final", self.final, least=0, most=1)

    def __call__(self, step: int) -> float:
        progress = min(step / self.steps, 1.0)
        return self.final + 0.5 * (1 - self.final) * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class Warmup(Schedule):
    """(step + 1) / steps for the first `steps` updates, then the schedule `then`, counted from its own 0."""

    steps: int
    then: Schedule = field(default_factory=Constant)

    name = "warmup"

    def __post_init__(self) -> None:
        require_count("steps", self.steps)
        object.__setattr__(self, "then", schedule(self.then))

    def __call__(self, step: int) -> float:
        return (step + 1) / self.steps if step < self.steps else self.then(step - self.steps)

    def config(self) -> dict[str, Any]:
        return {"name": self.name, "steps": self.steps, "then": self.then.config()}


@dataclass(frozen=True)
class Held(Schedule):
    """The schedule `of` for the first `steps` updates, then the factor of the last of them."""

    steps: int
    of: Schedule

    name = "held"

    def __post_init__(self) -> None:
        require_count("steps", self.steps)
        object.__setattr__(self, "of", schedule(self.of))

    def __call__(self, step: int) -> float:
        return self.of(min(step, self.steps - 1))

    def config(self) -> dict[str, Any]:
        return {"name": self.name, "steps": self.steps, "of": self.of.config()}


SCHEDULES: dict[str, type[Schedule]] = {kind.name: kind for kind in (Constant, Step, Exponential, Cosine, Warmup, Held)}
"""Every schedule by its name."""


def schedule(chosen: str | Mapping[str, Any] | Schedule) -> Schedule:
    """Return the schedule with this name, from this `config()`, or itself."""
    return choose("schedule", SCHEDULES, chosen)


# --- penalties -------------------------------------------------------------------------------------------------------
class Penalty(NamedTuple):
    """Factors of what draws a weight w to 0: `l1` of sign(w), and `l2` of w."""

    l1: float
    l2: float


_CORRECTED = 2**53
"""Updates after which βᵗ is 0 in float64, so that nothing is left to correct. A float64 holds it."""


# --- optimisers -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """What all optimisers share.

    Args:
        learning_rate: η > 0.
        schedule: its factor over the updates.
        weight_decay: λ ≥ 0, on the weights and not on the biases; added to the gradient as λ w, but for AdamW.
        l1: λ₁ ≥ 0, of the penalty λ₁ Σ|w| on the weights and not on the biases; its gradient is λ₁ sign(w), 0 at 0.
        l2: λ₂ ≥ 0, of the penalty ½ λ₂ Σ w² likewise; its gradient is λ₂ w. Losses are told without the penalties.
        decoupled: False: both are added to the gradient, after it was clipped, so that its averages see them. True:
            they shrink the weights by themselves, before the step: w ← (1 − η λ₂) w, then towards 0 by η λ₁ and not
            past it (the proximal step: Duchi & Singer, 2009, section 4).
        clip_norm: the largest norm of the whole gradient; a longer one is scaled down to it (Pascanu et al., 2013).
        clip_value: the largest magnitude of one gradient; a larger one is cut off, after the norm.
    """

    learning_rate: float
    schedule: Schedule = field(default_factory=Constant)
    weight_decay: float = 0.0
    l1: float = 0.0
    l2: float = 0.0
    decoupled: bool = False
    clip_norm: float | None = None
    clip_value: float | None = None

    name: ClassVar[str] = ""
    state: ClassVar[tuple[str, ...]] = ()
    decouples_decay: ClassVar[bool] = False
    """True if weight decay shrinks the weights by itself, and is not added to the gradient."""

    def __post_init__(self) -> None:
        require_number("learning_rate", self.learning_rate, above=0)
        object.__setattr__(self, "schedule", schedule(self.schedule))
        for name in ("weight_decay", "l1", "l2"):
            require_number(name, getattr(self, name), least=0)
        if not isinstance(self.decoupled, bool):
            raise ArgumentError("decoupled", self.decoupled, "True or False")
        if self.decoupled and not (self.l1 or self.l2):
            raise ArgumentError("decoupled", True, "left out without l1 and l2, the penalties that it is about")
        if self.clip_norm is not None:
            require_number("clip_norm", self.clip_norm, above=0)
        if self.clip_value is not None:
            require_number("clip_value", self.clip_value, above=0)

    def rate(self, step: int) -> float:
        """Return η for the update after `step` updates."""
        return self.learning_rate * self.schedule(step)

    @property
    def head_start(self) -> int:
        """How many updates `update` is to take for made before the first."""
        return 0

    @cached_property
    def in_gradient(self) -> Penalty:
        """What is added to the gradient of a weight."""
        decay = 0.0 if self.decouples_decay else self.weight_decay
        return Penalty(0.0, decay) if self.decoupled else Penalty(self.l1, decay + self.l2)

    @cached_property
    def apart(self) -> Penalty:
        """What shrinks a weight before its step."""
        decay = self.weight_decay if self.decouples_decay else 0.0
        return Penalty(self.l1, decay + self.l2) if self.decoupled else Penalty(0.0, decay)

    @property
    def is_plain_sgd(self) -> bool:
        """True if a step is w ← w − η ∂L/∂w and nothing else, so that it can be folded into the product."""
        return False

    def update(
        self,
        g: np.ndarray,
        rate: float,
        t: int,
        state: Sequence[np.ndarray],
        w: np.ndarray,
        work: np.ndarray,
    ) -> None:
        """Make one step of the recurrence, in place on `w` and `state`. All arrays are (P,).

        g: the gradient, clipped, with what `in_gradient` adds; rate: η; t = 1, 2, ...: the update's number; work:
            scratch.
        """
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """Return what `get` makes this optimiser from again."""
        settings = {**asdict(self), "schedule": self.schedule.config()}
        for name in ("l1", "l2", "decoupled"):
            if not settings[name]:
                del settings[name]  # so that runs without them are those of earlier versions
        return {"name": self.name, **settings}


@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """w ← w − η g."""

    learning_rate: float = 0.1

    name = "sgd"

    @property
    def is_plain_sgd(self) -> bool:
        return not (self.weight_decay or self.l1 or self.l2) and self.clip_norm is None and self.clip_value is None

    def update(
        self, g: np.ndarray, rate: float, t: int, state: Sequence[np.ndarray], w: np.ndarray, work: np.ndarray
    ) -> None:
        np.multiply(g, rate, out=work)
        np.subtract(w, work, out=w)


@dataclass(frozen=True, kw_only=True)
class Momentum(Optimizer):
    """v ← μ v + g ; w ← w − η v (Polyak, 1964, with the step size outside the velocity)."""

    learning_rate: float = 0.05
    momentum: float = 0.9

    name = "momentum"
    state = ("velocity",)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("momentum", self.momentum, least=0, below=1)

    def update(
        self, g: np.ndarray, rate: float, t: int, state: Sequence[np.ndarray], w: np.ndarray, work: np.ndarray
    ) -> None:
        (v,) = state
        np.multiply(v, self.momentum, out=v)
        np.add(v, g, out=v)
        np.multiply(v, rate, out=work)
        np.subtract(w, work, out=w)


@dataclass(frozen=True, kw_only=True)
class Nesterov(Momentum):
    """v ← μ v + g ; w ← w − η (g + μ v) (Sutskever et al., 2013, in the form of Bengio et al., 2012)."""

    name = "nesterov"

    def update(
        self, g: np.ndarray, rate: float, t: int, state: Sequence[np.ndarray], w: np.ndarray, work: np.ndarray
    ) -> None:
        (v,) = state
        np.multiply(v, self.momentum, out=v)
        np.add(v, g, out=v)
        np.multiply(v, self.momentum, out=work)
        np.add(work, g, out=work)
        np.multiply(work, rate, out=work)
        np.subtract(w, work, out=w)


@dataclass(frozen=True, kw_only=True)
class RMSProp(Optimizer):
    """s ← ρ s + (1 − ρ) g² ; w ← w − η g / (√s + ε) (Tieleman & Hinton, lecture 6.5, 2012)."""

    learning_rate: float = 0.001
    decay: float = 0.9
    epsilon: float = 1e-8

    name = "rmsprop"
    state = ("square",)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("decay", self.decay, least=0, below=1)
        require_number("epsilon", self.epsilon, above=0)

    def update(
        self, g: np.ndarray, rate: float, t: int, state: Sequence[np.ndarray], w: np.ndarray, work: np.ndarray
    ) -> None:
        (s,) = state
        _average_squares(self.decay, g, s, work)
        np.sqrt(s, out=work)
        np.add(work, self.epsilon, out=work)
        np.divide(g, work, out=work)
        np.multiply(work, rate, out=work)
        np.subtract(w, work, out=w)


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """m ← β₁ m + (1 − β₁) g ; s ← β₂ s + (1 − β₂) g² ; w ← w − η m̂ / (√ŝ + ε),

    m̂ = m / (1 − β₁ᵗ), ŝ = s / (1 − β₂ᵗ) (Kingma & Ba, 2015, algorithm 1).

    Args:
        epsilon_hat: True: ε is added before s is corrected: w ← w − η √(1 − β₂ᵗ) / (1 − β₁ᵗ) · m / (√s + ε), the order
            at the end of the article's section 2, which scikit-learn and TensorFlow take. Both corrections are then
            part of `rate`.
    """

    learning_rate: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    epsilon_hat: bool = False

    name = "adam"
    state = ("mean", "square")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("beta1", self.beta1, least=0, below=1)
        require_number("beta2", self.beta2, least=0, below=1)
        require_number("epsilon", self.epsilon, above=0)
        if not isinstance(self.epsilon_hat, bool):
            raise ArgumentError("epsilon_hat", self.epsilon_hat, "True or False")
        if self.epsilon_hat and (self.decouples_decay or self.decoupled):
            expected = "left out with weight decay or penalties apart from the gradient, whose η it would change"
            raise ArgumentError("epsilon_hat", True, expected)

    def rate(self, step: int) -> float:
        rate = super().rate(step)
        if self.epsilon_hat:
            t = step + 1
            rate *= math.sqrt(1 - self.beta2**t) / (1 - self.beta1**t)
        return rate

    @property
    def head_start(self) -> int:
        return _CORRECTED if self.epsilon_hat else 0

    def config(self) -> dict[str, Any]:
        config = super().config()
        if not self.epsilon_hat:
            del config["epsilon_hat"]  # so that runs without it are those of earlier versions
        return config

    def update(
        self, g: np.ndarray, rate: float, t: int, state: Sequence[np.ndarray], w: np.ndarray, work: np.ndarray
    ) -> None:
        m, s = state
        _average_squares(self.beta2, g, s, work)
        np.multiply(m, self.beta1, out=m)
        np.multiply(g, 1 - self.beta1, out=work)
        np.add(m, work, out=m)
        np.multiply(s, 1 / (1 - self.beta2**t), out=work)
        np.sqrt(work, out=work)
        np.add(work, self.epsilon, out=work)
        np.divide(m, work, out=work)
        np.multiply(work, rate / (1 - self.beta1**t), out=work)
        np.subtract(w, work, out=w)


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled decay: w ← w − η λ w first, and λ w not in g (Loshchilov & Hutter, 2019, algorithm 2).

    The decay is scaled by η, as PyTorch does, and not by the schedule's factor alone.
    """

    weight_decay: float = 0.01

    name = "adamw"
    decouples_decay = True


OPTIMIZERS: dict[str, type[Optimizer]] = {kind.name: kind for kind in (SGD, Momentum, Nesterov, RMSProp, Adam, AdamW)}
"""Every optimiser by its name."""


def get(optimizer: str | Mapping[str, Any] | Optimizer) -> Optimizer:
    """Return the optimiser with this name, from this `config()`, or itself."""
    return choose("optimizer", OPTIMIZERS, optimizer)


def _average_squares(decay: float, g: np.ndarray, average: np.ndarray, work: np.ndarray) -> None:
    """Compute average ← decay · average + (1 − decay) · g²."""
    np.multiply(average, decay, out=average)
    np.multiply(g, g, out=work)
    np.multiply(work, 1 - decay, out=work)
    np.add(average, work, out=average)
