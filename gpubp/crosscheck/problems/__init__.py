"""The problems: each primitive at a shape, with its arguments, its call, and what must come out within which bound.

This is the one description of a primitive's arguments: the cross-check, the bench and the profiler all build on it. A
problem holds host arrays alone; what must come out is computed when it is asked for. A function of the
modules beside makes the problems of one primitive: first it draws the arguments, then it says what is expected.

Where arrays are stored in 16 bits, a kernel computes in float32 and rounds what it stores: the bounds take the unit
roundoff of float32 (`case.master`) up to there, and that of the output's own dtype once.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gpubp.crosscheck.cases import Case
from gpubp.crosscheck.problems import arrays, network, output, update
from gpubp.crosscheck.problems.problem import Expected, Problem

__all__ = ["Expected", "Problem", "make"]

_MAKERS: dict[str, Callable[[Case, np.random.Generator], Problem]] = {
    "dense_forward": network.dense_forward,
    "softmax": network.softmax,
    "output_delta": output.output_delta,
    "hidden_delta": network.hidden_delta,
    "transpose_product": network.transpose_product,
    "hadamard_derivative": network.hadamard_derivative,
    "weight_gradient": network.weight_gradient,
    "weight_step": network.weight_step,
    "bias_gradient": network.bias_gradient,
    "prepare_update": update.prepare_update,
    "update": update.update,
    "product": arrays.general_product,
    "gather_rows": arrays.gather_rows,
    "row_argmax": arrays.row_argmax,
    "scale": arrays.scale,
    "copy": arrays.copy,
    "cast": arrays.cast,
}


def make(case: Case) -> Problem:
    """Return the problem of a case: the same for the same case."""
    return _MAKERS[case.primitive](case, case.generator())
