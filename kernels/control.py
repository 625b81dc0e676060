"""The places of `control`, the small float64 array on the device with what changes from step to step, and of `losses`.

`cuda/control.cuh` says the same in C++; a test compares the two.
"""

from __future__ import annotations

from enum import IntEnum


class Control(IntEnum):
    """The places of the `control` array. The host writes the first two, kernels write the others."""

    LEARNING_RATE = 0
    BATCH_OFFSET = 1
    STEP = 2  # updates made so far: t of Adam's bias correction, once `prepare_update` has counted this one
    SQUARED_NORM = 3  # of the whole gradient, from `squared_norm`
    GRADIENT_SCALE = 4  # what `update` multiplies every gradient by: clipping by the global norm, and unscaling
    LOSS_SCALE = 5  # what δ^L is multiplied by, and every gradient with it
    CLEAN_STEPS = 6  # updates in a row that were not skipped, since the loss scale last changed
    SKIP = 7  # 1: the gradient is not finite, and `update` changes nothing; else 0


HOST_CONTROLS = 2
"""How many leading places of `control` the host writes."""

LARGEST_LOSS_SCALE = 2.0**24
"""The loss scale does not grow beyond this. It lifts 2⁻²⁴, the smallest float16, to 1: only deltas under 2⁻⁴⁸ are lost.
Without a bound it grows wherever gradients are zero for long, until float32 cannot hold it."""


class Losses(IntEnum):
    """The places of the `losses` array, float64."""

    BATCH = 0  # L of the last batch, reduced as the loss says
    TOTAL = 1  # running sum of the examples' losses; the caller sets it to zero
