"""What the problems are made of: drawn arguments, and references with their bounds."""

from __future__ import annotations

import numpy as np

from gpubp.crosscheck import references
from gpubp.crosscheck.bounds import REFERENCE, stored
from gpubp.crosscheck.cases import WGMMA, Case
from gpubp.crosscheck.problems.problem import Expected
from gpubp.nn import activations
from gpubp.nn.activations import Activation


def draw(case: Case, rng: np.random.Generator, shape: tuple[int, ...], scale: float = 1.0) -> np.ndarray:
    """Return values of both signs as the case stores them: normal times `scale`, or integers from −3 to 3."""
    if case.values == "integers":
        return rng.integers(-3, 4, shape).astype(case.storage)
    return stored_operand(case, scale * rng.normal(0, 1, shape))


def stored_operand(case: Case, x: np.ndarray) -> np.ndarray:
    """Return x as the case stores it.

    With dtype "tf32" some values lie halfway between two of TF32; with `WGMMA` next to that, as its copy engine has a
    rule of its own for ties, and `TENSOR_CORE` takes its place where rows are not aligned.
    """
    x = rounded(x, case.storage)
    if case.dtype != "tf32":
        return x
    return references.beside_tf32_ties(x) if case.rung == WGMMA else references.with_tf32_ties(x)


def operand(case: Case, x: np.ndarray) -> np.ndarray:
    """Return x as the products multiply it: rounded to TF32 if the dtype is "tf32"."""
    return references.tf32(x) if case.dtype == "tf32" else wide(x)


def tf32(case: Case) -> dict[str, bool]:
    """Return the options of a product: `tf32` if the dtype asks for it, else none."""
    return {"tf32": True} if case.dtype == "tf32" else {}


def activation_of(name: str) -> Activation:
    """Return the activation of this name, its own number such that its derivative has a kink at 0 where it can."""
    return activations.get({"name": name, "alpha": 0.75} if name == "elu" else name)


def logits(case: Case, rng: np.random.Generator, spread: float) -> np.ndarray:
    """Return normal logits; in every third row e^(z − z₀) or e^z overflows, as one is far from the others: in turn the
    first is far below them, the last far above, and the first far above."""
    z = rng.normal(0, spread, case.shape)
    for first, place, distance in ((2, 0, -1000), (5, -1, 1000), (8, 0, 1000)):
        z[first::9, place] += distance
    return rounded(z, case.storage)


def saved(case: Case, rng: np.random.Generator, activation: Activation, shape: tuple[int, ...]) -> np.ndarray:
    """Return what σ' reads: z, or a = σ(z), with exact zeros in z, where ReLU has its kink."""
    z = draw(case, rng, shape)
    z.reshape(-1)[::7] = 0
    if activation.reads == "z":
        return z
    return rounded(references.sigma(activation, wide(z)), case.storage)


def product(case: Case, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a b, and the sum of its absolute terms."""
    wide_a, wide_b = operand(case, a), operand(case, b)
    return wide_a @ wide_b, np.abs(wide_a) @ np.abs(wide_b)


def summed(case: Case, reference: np.ndarray, error: np.ndarray, dtype: str) -> Expected:
    """Return what a sum stored in this dtype must be: within its bound, or exact if small integers are summed."""
    return exactly(reference, dtype) if case.values == "integers" else within(reference, error, dtype)


def within(reference: np.ndarray, error: np.ndarray, dtype: str) -> Expected:
    """Return the reference with the bound of a result that has this error before it is stored in this dtype."""
    return Expected(reference, stored(error, reference, dtype))


def exactly(reference: np.ndarray, dtype: str) -> Expected:
    """Return the reference rounded to this dtype, with bound 0. Values that are too large for it are not rounded."""
    nearest = rounded(reference, dtype).astype(reference.dtype)
    return exact(np.where(np.isfinite(nearest), nearest, reference))


def exact(reference: np.ndarray) -> Expected:
    """Return the reference with bound 0: equal bit for bit."""
    return Expected(reference, np.zeros_like(reference))


def rounded(x: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):  # what is too large becomes infinite
        return np.asarray(x).astype(dtype)


def wide(x: np.ndarray) -> np.ndarray:
    return x.astype(REFERENCE[str(x.dtype)])


def wide_like(x: np.ndarray, dtype: str) -> np.ndarray:
    return x.astype(REFERENCE[dtype])


def away_from_zero(z: np.ndarray, distance: np.ndarray) -> np.ndarray:
    return z + np.copysign(distance, z)
