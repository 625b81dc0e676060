"""The places of `control`, the small float64 array on the device with what changes from step to step, and of `losses`.

`cuda/control.cuh` says the same in C++; a test compares the two.
"""

from __future__ import annotations

from enum import IntEnum


class Control(IntEnum):
    """The places of the `control` array. The host writes the first four, kernels write the others."""

    LEARNING_RATE = 0
    BATCH_OFFSET = 1
    LOSS_FACTOR = 2  # of a batch with weights: its sums are multiplied by it. The mean's is 1 / Σ weights, the sum's 1
    STEP = 3  # steps made before this one: dropout draws its units for it; Adam's t = STEP + 1 − SKIPPED
    SQUARED_NORM = 4  # of the whole gradient, from `prepare_update`
    GRADIENT_SCALE = 5  # what `update` multiplies every gradient by: clipping by the global norm, and unscaling
    LOSS_SCALE = 6  # what δ^L is multiplied by, and every gradient with it; 1 without loss scaling
    CLEAN_STEPS = 7  # updates in a row that were not skipped, since the loss scale last changed
    SKIP = 8  # 1: the gradient is not finite, and `update` changes nothing; else 0
    SKIPPED = 9  # steps whose update was skipped so far


HOST_CONTROLS = 4
"""How many leading places of `control` the host writes."""

LARGEST_LOSS_SCALE = 2.0**24
"""The loss scale does not grow beyond this. It lifts 2⁻²⁴, the smallest float16, to 1: only deltas under 2⁻⁴⁸ are lost.
Without a bound it grows wherever gradients are zero for long, until float32 cannot hold it."""


class Losses(IntEnum):
    """The places of the `losses` array, float64."""

    BATCH = 0  # L of the last batch, reduced as the loss says
    TOTAL = 1  # running sum of the examples' losses; the caller sets it to zero
