"""The cases of the cross-validation: what is varied, and which combinations run.

A case is one call of one primitive. `all_cases` is every combination; `covering_cases` is a small subset in which every
pair of choices of a primitive still occurs together (a pairwise covering array), since most defects show when two
conditions meet; a variant with a dtype counts as one choice, for together they name a kernel.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from gpubp.activations import ACTIVATIONS
from gpubp.errors import ArgumentError, unknown_name
from gpubp.losses import LOSSES
from gpubp.optimizers import OPTIMIZERS

DTYPES = ("float32", "float64")
SCALES = (1.0, 1e-4, 1e-8)
SEEDS = (0, 1, 2)
ELEMENTWISE = tuple(name for name in ACTIVATIONS if name != "softmax")

TILE = 64
"""The side around which the shapes of products are ragged: a divisor or a multiple of every tile."""

PRODUCT_SHAPES = (
    (1, 1, 1),
    (1, 10, 64),
    (TILE - 1, TILE + 1, TILE - 1),
    (TILE, TILE, TILE),
    (TILE + 1, TILE - 1, TILE + 1),
    (2 * TILE, 2 * TILE, 32),
    (17, 31, 13),
    (3, 257, 5),
    (257, 3, 7),
    (37, 41, 1),
    (5, 7, 1031),
    (16, 16, 512),
    (130, 132, 36),
)
"""M, N, K: sides of 1, around the tile, primes, tall, wide, K of 1 and K long."""

LARGE = "+large"
"""What is put behind a variant for the tiles of a chip with one multiprocessor: the largest that the shape allows.

The rule for plans fills the chip first, so a large chip takes its smallest tile for every shape of `PRODUCT_SHAPES`.
"""

LARGE_VARIANTS = ("tiled", "pipelined")
"""The variants whose tiles come in sizes."""

LARGE_SHAPES = ((260, 132, 36), (257, 129, 41))
"""M, N, K: ragged around the largest tile, with rows on 16-byte boundaries and off them."""

ROW_SHAPES = ((1, 1), (1, 10), (33, 1), (32, 10), (129, 65), (7, 1031), (1031, 3), (64, 128))
"""Rows and columns of what is no product."""

FLAT_SIZES = ((1,), (5,), (128,), (1031,), (40_961,))
"""Lengths of flat arrays."""


@dataclass(frozen=True)
class Case:
    """One call of one primitive.

    variant: a rung of the ladder, with `LARGE` behind it for large tiles; "-" for a primitive that has none.
    option: the activation, the loss with its output activation ("huber+tanh"), or the optimiser, as the primitive asks.
    mode: what else the primitive can be asked, such as "keep_z"; "-" for none.
    scale: the magnitude of deltas and gradients. values: "random", or "integers" small enough to be summed exactly.
    offset: by how many elements every array starts off a 128-byte boundary.
    """

    primitive: str
    variant: str
    dtype: str
    shape: tuple[int, ...]
    option: str
    mode: str
    scale: float
    values: str
    offset: int
    seed: int

    @property
    def rung(self) -> str | None:
        """The variant without its tiles, as a backend takes it."""
        return None if self.variant == "-" else self.variant.removesuffix(LARGE)

    @property
    def large_tiles(self) -> bool:
        """Whether plans are made as for a chip with a single multiprocessor: see `LARGE`."""
        return self.variant.endswith(LARGE)

    @property
    def name(self) -> str:
        """Text that `parse` makes this case from again."""
        shape = "x".join(map(str, self.shape))
        return (
            f"{self.primitive}:{self.variant}:{self.dtype}:{shape}:{self.option}:{self.mode}:{self.scale:g}:"
            f"{self.values}:{self.offset}:{self.seed}"
        )

    def generator(self) -> np.random.Generator:
        """The random numbers of this case: other for every case, and the same whenever it runs."""
        return np.random.default_rng(np.random.SeedSequence([self.seed, *self.name.encode()]))


def parse(name: str) -> Case:
    """The case that `Case.name` names. Raises ArgumentError for other text, and for what a case cannot be."""
    parts = name.split(":")
    try:
        primitive, variant, dtype, shape, option, mode, scale, values, offset, seed = parts
        sides = tuple(int(side) for side in shape.split("x"))
        case = Case(primitive, variant, dtype, sides, option, mode, float(scale), values, int(offset), int(seed))
    except ValueError:
        fields_text = ":".join(field.name for field in fields(Case))
        raise ArgumentError("case", name, fields_text) from None
    if primitive not in OPTIONS:
        raise ArgumentError("case", name, f"of a primitive that there is: {', '.join(OPTIONS)}")
    _check_fields(case)
    return case


def _check_fields(case: Case) -> None:
    sides = len(_shapes(case.primitive)[0])
    if len(case.shape) != sides or min(case.shape) < 1:
        raise ArgumentError("case", case.name, f"of a shape of {sides} side(s) ≥ 1 for {case.primitive}")
    for field, value, known in (
        ("dtype", case.dtype, DTYPES),
        ("option", case.option, OPTIONS[case.primitive]),
        ("mode", case.mode, MODES.get(case.primitive, _NONE)),
        ("values", case.values, _values(case.primitive)),
    ):
        if value not in known:
            raise ArgumentError("case", case.name, f"of a {field} that there is: {', '.join(known)}")
    if not (0 < case.scale < float("inf") and case.offset >= 0 and case.seed >= 0):
        raise ArgumentError("case", case.name, "of a scale > 0, an offset ≥ 0 and a seed ≥ 0")


def _loss_options() -> tuple[str, ...]:
    pairs = []
    for loss, kind in LOSSES.items():
        outputs = [kind.output_activation] if kind.output_activation else [*ELEMENTWISE, "softmax"]
        pairs += [f"{loss}+{output}" for output in outputs]
    return (*pairs, "softmax_cross_entropy+softmax+labels")


_NONE = ("-",)
OPTIONS: dict[str, tuple[str, ...]] = {
    "dense_forward": ELEMENTWISE,
    "softmax": _NONE,
    "output_delta": _loss_options(),
    "hidden_delta": ELEMENTWISE,
    "transpose_product": _NONE,
    "hadamard_derivative": ELEMENTWISE,
    "weight_gradient": _NONE,
    "weight_step": _NONE,
    "bias_gradient": _NONE,
    "update": tuple(OPTIMIZERS),
    "squared_norm": _NONE,
    "gather_rows": ("float", "labels"),
    "row_argmax": _NONE,
    "scale": _NONE,
}
"""Every primitive, with the options that it comes in."""

MODES: dict[str, tuple[str, ...]] = {
    "dense_forward": ("bias", "no_bias", "keep_z"),
    "output_delta": ("mean", "sum"),
    "update": ("first", "late", "decay", "clip_norm", "clip_value"),
}
"""What else some primitives can be asked; the others have the mode "-" alone."""

PRODUCTS = ("dense_forward", "hidden_delta", "transpose_product", "weight_gradient", "weight_step")
"""The primitives that are products: the ones with rungs of the ladder, and with shapes M, N, K."""


def _shapes(primitive: str) -> Sequence[tuple[int, ...]]:
    if primitive in PRODUCTS:
        return PRODUCT_SHAPES
    return FLAT_SIZES if primitive in ("update", "squared_norm", "scale") else ROW_SHAPES


def _values(primitive: str) -> Sequence[str]:
    return ("random", "integers") if primitive in PRODUCTS or primitive == "bias_gradient" else ("random",)


def choices(primitive: str, variants: Sequence[str]) -> list[Sequence[Any]]:
    """What is varied for a primitive: variant with dtype, shape, option, mode, scale with values, offset, seed.

    Integers come in one scale, since others would round them.
    """
    scaled = primitive not in ("dense_forward", "softmax", "gather_rows", "row_argmax")
    scales = {"random": SCALES if scaled else (1.0,), "integers": (1.0,)}
    return [
        tuple(itertools.product(variants if primitive in PRODUCTS and variants else _NONE, DTYPES)),
        _shapes(primitive),
        OPTIONS[primitive],
        MODES.get(primitive, _NONE),
        [(scale, values) for values in _values(primitive) for scale in scales[values]],
        (0, 1),
        SEEDS,
    ]


def all_cases(primitive: str, variants: Sequence[str]) -> Iterator[Case]:
    """Every combination."""
    if primitive in PRODUCTS:
        variants = [*variants, *(name + LARGE for name in variants if name in LARGE_VARIANTS)]
    for row in itertools.product(*choices(primitive, variants)):
        yield _case(primitive, row)


def covering_cases(primitive: str, variants: Sequence[str]) -> list[Case]:
    """A subset in which every two choices of `choices` occur together at least once, and a few cases of large tiles."""
    found = [_case(primitive, row) for row in _covering_array(choices(primitive, variants))]
    if primitive in PRODUCTS:
        found += [case for name in variants if name in LARGE_VARIANTS for case in _large_cases(primitive, name + LARGE)]
    return found


def _large_cases(primitive: str, variant: str) -> Iterator[Case]:
    """Each shape of `LARGE_SHAPES` in random numbers and in integers; each dtype with an option and a mode of its own,
    since large tiles take long to compile.
    """
    modes = itertools.cycle(MODES.get(primitive, _NONE))
    for dtype, option, mode in zip(DTYPES, itertools.cycle(OPTIONS[primitive][-2:]), modes, strict=False):
        for shape, values in itertools.product(LARGE_SHAPES, _values(primitive)):
            yield Case(primitive, variant, dtype, shape, option, mode, 1.0, values, 0, 0)


@dataclass(frozen=True)
class Selection:
    """Which cases to run; an empty tuple and None leave a choice open.

    shape: runs every case of the primitives that have so many sides at this shape alone.
    full: every combination, not a subset that covers all pairs.
    """

    primitives: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    shape: tuple[int, ...] | None = None
    full: bool = False

    def cases(self, variants: Sequence[str]) -> list[Case]:
        """The cases, on a backend whose products come in these variants.

        Raises ArgumentError for a name that there is not, and where no case is left.
        """
        for argument, names, known in (
            ("primitive", self.primitives, OPTIONS),
            ("variant", self.variants, variants),
            ("dtype", self.dtypes, DTYPES),
        ):
            for name in names:
                if name not in known:
                    raise unknown_name(argument, name, known)
        make = all_cases if self.full else covering_cases
        found = [
            case
            for primitive in self.primitives or OPTIONS
            for case in make(primitive, self.variants or variants)
            if case.dtype in (self.dtypes or DTYPES) and (not self.variants or case.rung in self.variants)
        ]
        if self.shape is not None:
            found = [replace(case, shape=self.shape) for case in found if len(case.shape) == len(self.shape)]
            found = list(dict.fromkeys(found))
        if not found:
            raise ArgumentError("shape", self.shape, "of as many sides as a chosen primitive has: MxNxK for products")
        return found


def _case(primitive: str, row: Sequence[Any]) -> Case:
    (variant, dtype), shape, option, mode, (scale, values), offset, seed = row
    return Case(primitive, variant, dtype, shape, option, mode, scale, values, offset, seed)


def _covering_array(parameters: list[Sequence[object]]) -> list[tuple[object, ...]]:
    """Rows of one choice for each parameter that cover every pair of choices, found greedily.

    Each row starts from the pair that is missing most often and then takes, parameter by parameter, the choice that
    covers the most missing pairs. Ties go to the choice used least so far, then to the first: no randomness.
    """
    sizes = [len(parameter) for parameter in parameters]
    missing = {
        (i, p, j, q)
        for i, j in itertools.combinations(range(len(sizes)), 2)
        for p in range(sizes[i])
        for q in range(sizes[j])
    }
    used = [[0] * size for size in sizes]
    rows = []
    while missing:
        i, p, j, q = min(missing)
        row = {i: p, j: q}
        for k in sorted(set(range(len(sizes))) - {i, j}, key=lambda k: -sizes[k]):
            row[k] = min(range(sizes[k]), key=lambda c: (-_gain(missing, row, k, c), used[k][c], c))
        for k, choice in row.items():
            used[k][choice] += 1
        missing -= {(a, row[a], b, row[b]) for a, b in itertools.combinations(sorted(row), 2)}
        rows.append(tuple(parameters[k][row[k]] for k in range(len(sizes))))
    return rows


def _gain(missing: set[tuple[int, int, int, int]], row: dict[int, int], k: int, choice: int) -> int:
    """How many missing pairs the choice for parameter k would cover, given the row so far."""
    return sum((((k, choice, a, b) if k < a else (a, b, k, choice)) in missing) for a, b in row.items())
