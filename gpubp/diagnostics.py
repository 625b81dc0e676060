"""Looking at training: warnings about gradients and units that stop it from working."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

VANISHED = 1e-4
"""A first layer whose gradient norm is below this share of the last layer's hardly learns."""
EXPLODED = 1e4
"""A gradient norm above this makes steps that destroy the weights."""


class Watch:
    """Looks at training once an epoch, and says each kind of trouble once in a run, with advice.

    given: the kinds that were said before, for a run that is resumed.
    """

    def __init__(self, given: Iterable[str] = ()) -> None:
        self.given = list(given)

    def look(
        self, loss: float, gradient_norms: Sequence[float], dead: Sequence[int] = (), widths: Sequence[int] = ()
    ) -> list[str]:
        """Return what is newly wrong after an epoch.

        loss: of the epoch.
        gradient_norms: each layer's, first to last.
        dead, widths: for each hidden layer, how many of its units gave 0 for every example, and how many it has.
        """
        checks = {
            "exploding": _exploding(loss, gradient_norms),
            "vanishing": _vanishing(gradient_norms),
            "dead": _dead(dead, widths),
        }
        new = {kind: message for kind, message in checks.items() if message and kind not in self.given}
        self.given += new
        return list(new.values())


def _exploding(loss: float, norms: Sequence[float]) -> str:
    advice = "lower the learning rate, clip the gradient's norm, or add a warm-up"
    if not math.isfinite(loss):
        return f"the loss is {loss}: training has diverged; {advice}"
    for layer, norm in enumerate(norms, start=1):
        if not norm <= EXPLODED:
            return f"gradients explode: the norm of layer {layer} is {norm:.2g}, above {EXPLODED:g}; {advice}"
    return ""


def _vanishing(norms: Sequence[float]) -> str:
    first, last = norms[0], norms[-1]
    if not (math.isfinite(last) and last > 0 and first < VANISHED * last):
        return ""
    return (
        f"gradients vanish: the norm of layer 1 is {first:.2g}, that of layer {len(norms)} is {last:.2g}, a ratio "
        f"under {VANISHED:g}, so the first layers hardly learn; use relu or gelu, He or Glorot initial weights, "
        "or fewer layers"
    )


def _dead(dead: Sequence[int], widths: Sequence[int]) -> str:
    if not any(dead):
        return ""
    where = ", ".join(
        f"{count} of {width} in layer {layer}"
        for layer, (count, width) in enumerate(zip(dead, widths, strict=True), start=1)
        if count
    )
    return (
        f"dead units: {where} gave 0 for every example of an epoch and learn no more; "
        "lower the learning rate, or use leaky_relu, elu or gelu"
    )
