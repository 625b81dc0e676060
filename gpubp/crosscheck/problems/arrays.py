"""The problems of the general product and of the array functions."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from gpubp.crosscheck import bounds, references
from gpubp.crosscheck.bounds import UNIT_ROUNDOFF, stored
from gpubp.crosscheck.cases import Case
from gpubp.crosscheck.problems import pieces
from gpubp.crosscheck.problems.problem import Expected, Problem
from gpubp.crosscheck.products import FORMS
from gpubp.kernels.control import Control


def general_product(case: Case, rng: np.random.Generator) -> Problem:
    m, n, k = case.shape
    form, accumulates = case.option, case.mode == "accumulate"
    alpha, beta = (-2.0, 0.5) if accumulates else (0.5, 0.0)  # exact with integers
    sides, factors = FORMS[form]
    a_sides, b_sides = sides(m, n, k)
    a, b = pieces.draw(case, rng, a_sides, case.scale), pieces.draw(case, rng, b_sides)
    c = pieces.draw(case, rng, (m, n), case.scale).astype(case.master)

    def expect() -> dict[str, Expected]:
        wide_a, wide_b = factors(pieces.operand(case, a), pieces.operand(case, b))
        terms = abs(alpha) * (np.abs(wide_a) @ np.abs(wide_b)) + abs(beta * pieces.wide(c))
        result = alpha * (wide_a @ wide_b) + beta * pieces.wide(c)
        return {"c": pieces.summed(case, result, bounds.product_error(terms, k, case.dtype), case.master)}

    return Problem(
        {"a": a, "b": b},
        lambda backend, arrays, **options: backend.product(
            form, arrays["a"], arrays["b"], arrays["c"], alpha, beta, **pieces.tf32(case), **options
        ),
        expect,
        made={} if accumulates else {"c": ((m, n), case.master)},
        started={"c": c} if accumulates else {},
    )


def gather_rows(case: Case, rng: np.random.Generator) -> Problem:
    """Return the problem of a batch of as many rows as the case has, from within an order; by mode, from the end of one
    that is shorter than the source, or from one that is longer and names rows more than once.

    By its option the batch is of one array, of examples and labels, or of examples, targets and weights.
    """
    rows, width = case.shape
    sources = {"x": pieces.draw(case, rng, (3 * rows, width))}
    if case.option == "labelled":
        sources["y"] = rng.integers(0, 1000, 3 * rows)
    elif case.option == "weighted":
        sources["y"] = pieces.draw(case, rng, (3 * rows, width + 1)).astype(case.master)
        sources["weights"] = rng.random(3 * rows).astype(case.master)
    start = rows // 2
    order = rng.permutation(3 * rows)
    if case.mode == "shorter":
        order = order[: start + rows]
    elif case.mode == "longer":
        order = np.concatenate([order, rng.integers(0, 3 * rows, 4 * rows)])
        start += 4 * rows
    control = np.zeros(len(Control))
    control[Control.BATCH_OFFSET] = start
    gathered = {f"{name}_out": source[order[start : start + rows]] for name, source in sources.items()}
    return Problem(
        {**sources, "order": order, "control": control},
        lambda backend, arrays: backend.gather_rows(
            [arrays[name] for name in sources], arrays["order"], arrays["control"], [arrays[name] for name in gathered]
        ),
        lambda: {name: pieces.exact(each.astype(np.longdouble)) for name, each in gathered.items()},
        {name: (each.shape, str(each.dtype)) for name, each in gathered.items()},
    )


def row_argmax(case: Case, rng: np.random.Generator) -> Problem:
    x = rng.integers(-3, 3, case.shape).astype(case.storage)  # ties: the first counts
    if len(x) > 2:
        x[2, -1] = np.nan
    return Problem(
        {"x": x},
        lambda backend, arrays: backend.row_argmax(arrays["x"], arrays["out"]),
        lambda: {"out": pieces.exact(np.argmax(x, axis=1).astype(np.float64))},
        {"out": ((len(x),), "int64")},
    )


def scale(case: Case, rng: np.random.Generator) -> Problem:
    x = pieces.draw(case, rng, case.shape, case.scale)
    factor = float(pieces.rounded(np.array(1 / 3), case.master))

    def expect() -> dict[str, Expected]:
        reference = factor * pieces.wide(x)
        # what is rounded to the storage dtype: the product itself, or the product in float32
        error = 0.0 if case.storage == case.master else UNIT_ROUNDOFF[case.master] * np.abs(reference)
        return {"x": Expected(reference, stored(error, reference, case.storage))}

    return Problem(
        {},
        lambda backend, arrays: backend.scale(arrays["x"], factor),
        expect,
        started={"x": x},
    )


def copy(case: Case, rng: np.random.Generator) -> Problem:
    source = pieces.draw(case, rng, case.shape)
    return Problem(
        {"source": source},
        lambda backend, arrays: backend.copy(arrays["source"], arrays["out"]),
        lambda: {"out": pieces.exact(pieces.wide(source))},
        {"out": (case.shape, case.storage)},
    )


def cast(case: Case, rng: np.random.Generator) -> Problem:
    """Return the problem of a cast between the dtype and its partner.

    Values are rounded to nearest, ties to even; those that are too large become infinite, and a NaN stays one.
    """
    partner = "float64" if case.dtype == "float32" or case.mode == "float64" else "float32"
    narrow, wide = sorted((case.dtype, partner), key=lambda name: np.dtype(name).itemsize)
    source_dtype, dtype = (narrow, wide) if case.option == "widen" else (wide, narrow)
    source = pieces.rounded(rng.normal(0, 1, case.shape) * 2.0 ** rng.integers(-30, 20, case.shape), source_dtype)
    if source_dtype == wide:  # ties: halfway between two numbers of the narrow dtype
        steps = rng.integers(-40, 40, len(source[::5])) + 0.5
        source[::5] = 1 + steps * 2 * UNIT_ROUNDOFF[narrow]
    if source_dtype == "float64":  # and beside them, by less than a float32 tells apart
        source[::10] += rng.choice([-1, 1], len(source[::10])) * 2.0**-45
    info = ml_dtypes.finfo(narrow)
    largest, least = float(info.max), float(info.smallest_subnormal)
    last = largest * float(info.eps) / (2 - float(info.eps))  # the distance of the largest from its neighbour
    borders = [np.nan, np.nan, np.inf, -np.inf, -0.0, largest, -largest, least]
    if source_dtype == wide:  # what rounds to the largest and what to infinity, to nothing and to the least
        borders += [largest + last / 4, -largest - last / 4, largest + last * 3 / 4, least / 2, least * 3 / 4]
    if source.size > len(borders):
        source[-len(borders) :] = borders
        bits = source.view(f"u{source.itemsize}")
        bits[-len(borders)] = np.iinfo(bits.dtype).max >> 1  # the NaN that arithmetic makes on a GPU: all ones

    def expect() -> dict[str, Expected]:
        reference = references.rounded(pieces.wide(source), dtype)
        return {"out": Expected(reference, np.zeros_like(reference), np.isnan(reference))}

    return Problem(
        {"source": source},
        lambda backend, arrays: backend.cast(arrays["source"], arrays["out"]),
        expect,
        {"out": (case.shape, dtype)},
    )
