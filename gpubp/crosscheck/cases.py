"""The cases of the cross-validation: what is varied, and which combinations run.

A case is one call of one primitive. `all_cases` is every combination; `covering_cases` is a small subset in which every
pair of choices of a primitive still occurs together (a pairwise covering array), since most defects show when two
conditions meet; a variant with a dtype counts as one choice, for together they name a kernel. The dtypes of mixed
precision have a subset of their own, of fewer options, since kernels for tensor cores take long to compile.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from gpubp.backends.base import FORMS
from gpubp.chips import architectures
from gpubp.dtypes import ARITHMETIC, HALVES, MIXED, PLAIN, long_name
from gpubp.errors import ArgumentError, unknown_name
from gpubp.nn.activations import ACTIVATIONS
from gpubp.nn.losses import LOSSES
from gpubp.nn.optimizers import OPTIMIZERS

DTYPES = PLAIN
"""What every backend computes in."""

TENSOR_CORE = "tensorcore"
"""The rung of the ladder that multiplies with tensor cores."""

MIXED_DTYPES = MIXED
"""What tensor cores multiply: float32 arrays that a product rounds to TF32, and arrays that are stored in 16 bits."""

HALF_DTYPES = tuple(map(str, HALVES))

SCALES = (1.0, 1e-4, 1e-8)
MIXED_SCALES = (1.0, 1e-4, 1e4)
"""For `MIXED_DTYPES`: float16 is subnormal below 6e-5, and a sum of a few terms of 1e4 overflows."""

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
    (3 * TILE, 2 * TILE, 32),
    (17, 31, 13),
    (3, 257, 5),
    (257, 3, 7),
    (36, 41, 1),
    (5, 7, 1031),
    (16, 16, 512),
    (130, 132, 36),
)
"""M, N, K: sides of 1, around the tile, primes, tall, wide, K of 1 and K long; rows of the result on 16-byte boundaries
and off them, whatever their number.
"""

LARGE = "+large"
"""What is put behind a variant for the tiles of a chip with one multiprocessor: the largest that the shape allows.

The rule for plans fills the chip first, so a large chip takes its smallest tile for every shape of `PRODUCT_SHAPES`.
"""

LARGE_VARIANTS = ("tiled", "blocked", "pipelined", TENSOR_CORE)
"""The variants whose tiles come in sizes."""

LARGE_SHAPES = ((260, 132, 36), (257, 129, 41))
"""M, N, K: ragged around the largest tile, with rows on 16-byte boundaries and off them."""

OBLONG_SHAPE = (10, 40, 20)
"""M, N, K: for the largest tile here, the threads of a `pipelined` block stand as 8 × 16, and its sums as 2 × 4."""

GENERAL_SHAPES = ((1, 10, 64), (TILE + 1, TILE - 1, TILE + 1), (17, 31, 13), (5, 7, 1031), (130, 132, 36))
"""M, N, K of the general product, whose loops the other products run at more shapes."""

MIXED_SHAPES = (
    (1, 10, 64),
    (TILE - 1, TILE + 1, TILE - 1),
    (TILE, 2 * TILE, 32),
    (17, 31, 13),
    (257, 3, 6),
    (36, 41, 1),
    (5, 7, 1031),
    (16, 24, 2048),
    (130, 136, 40),
)
"""M, N, K of the subset for tensor cores: most are no multiple of an instruction's 16 × 8 × 16, two split the depth,
and rows start on boundaries of 16 bytes, of two elements, or of one.
"""

MIXED_LARGE_SHAPES = ((136, 264, 40), (130, 258, 42))
"""M, N, K: ragged around the largest tiles for rows on 16-byte boundaries, and on those of two elements."""

ROW_SHAPES = ((1, 1), (1, 10), (33, 1), (32, 10), (129, 65), (7, 1031), (1031, 3), (64, 128))
"""Rows and columns of what is no product."""

FLAT_SIZES = ((1,), (5,), (128,), (1031,), (40_961,))
"""Lengths of flat arrays."""


@dataclass(frozen=True)
class Case:
    """One call of one primitive.

    Attributes:
        variant: a rung of the ladder, with `LARGE` behind it for large tiles; "-" for a primitive that has none.
        dtype: of the arrays; "tf32" for float32 arrays whose products are of TF32. With "bfloat16" and "float16",
            biases, gradients, targets and master weights are float32.
        option: the activation, the loss with its output activation ("huber+tanh"), or the optimiser, as the
            primitive asks.
        mode: what else the primitive can be asked, such as "keep_z"; "-" for none.
        scale: the magnitude of deltas and gradients.
        values: "random", or "integers" small enough to be summed exactly.
        offset: by how many elements some of the arrays start off a 128-byte boundary: see `buffers.placed`.
        arch: the chip that the emulated device is, such as "sm_75"; "" for the backend's own.
    """

    primitive: str
    variant: str
    dtype: str
    shape: tuple[int, ...]
    option: str = "-"
    mode: str = "-"
    scale: float = 1.0
    values: str = "random"
    offset: int = 0
    seed: int = 0
    arch: str = ""

    @property
    def rung(self) -> str | None:
        """Return the variant without its tiles, as a backend takes it."""
        return None if self.variant == "-" else self.variant.removesuffix(LARGE)

    @property
    def storage(self) -> str:
        """Return the dtype of weights, activations and deltas."""
        return str(ARITHMETIC[self.dtype].storage)

    @property
    def master(self) -> str:
        """Return the dtype of biases, gradients, targets and master weights, and the one that is computed in."""
        return str(ARITHMETIC[self.dtype].accumulator)

    @property
    def large_tiles(self) -> bool:
        """True if plans are made as for a chip with a single multiprocessor: see `LARGE`."""
        return self.variant.endswith(LARGE)

    @property
    def name(self) -> str:
        """Return the text from which `parse` makes this case."""
        shape = "x".join(map(str, self.shape))
        return (
            f"{self.primitive}:{self.variant}:{self.dtype}:{shape}:{self.option}:{self.mode}:{self.scale:g}:"
            f"{self.values}:{self.offset}:{self.seed}{self.arch and f':{self.arch}'}"
        )

    def generator(self) -> np.random.Generator:
        """Return the random numbers of this case: always the same for a case, and different for each case."""
        return np.random.default_rng(np.random.SeedSequence([self.seed, *self.name.encode()]))


def measured(
    primitive: str, shape: tuple[int, ...], dtype: str, *, activation: str = "relu", optimizer: str = "adam"
) -> Case:
    """Return the case in which bench and profile take a primitive.

    dense_forward keeps z if the derivative of its activation reads z; output_delta is softmax with cross-entropy, on
    labels; update is a late step.

    Args:
        primitive: one of `gpubp.costs.PRIMITIVES`.
        shape: as `gpubp.costs.cost` says.
        dtype: the kind of arithmetic.
        activation: of dense_forward, hidden_delta and hadamard_derivative.
        optimizer: of update.
    """
    forward = "keep_z" if ACTIVATIONS[activation].reads == "z" else "bias"
    option, mode = {
        "dense_forward": (activation, forward),
        "hidden_delta": (activation, "-"),
        "hadamard_derivative": (activation, "-"),
        "output_delta": ("softmax_cross_entropy+softmax+labels", "mean"),
        "update": (optimizer, "late"),
    }.get(primitive, ("-", "-"))
    return Case(primitive, "-", dtype, shape, option, mode)


def parse(name: str) -> Case:
    """Return the case that `Case.name` names.

    Raises:
        ArgumentError: the text names no case.
    """
    parts = name.split(":")
    try:
        primitive, variant, dtype, shape, option, mode, scale, values, offset, seed, *arch = parts
        sides = tuple(int(side) for side in shape.split("x"))
        case = Case(
            primitive,
            variant,
            long_name(dtype),
            sides,
            option,
            mode,
            float(scale),
            values,
            int(offset),
            int(seed),
            *arch,
        )
    except (ValueError, TypeError):
        fields_text = ":".join(field.name for field in fields(Case))
        raise ArgumentError("case", name, f"{fields_text}, of which the last may be left out") from None
    if primitive not in OPTIONS:
        raise ArgumentError("case", name, f"of a primitive that there is: {', '.join(OPTIONS)}")
    _check_fields(case)
    return case


def _check_fields(case: Case) -> None:
    sides = len(_shapes(case.primitive)[0])
    if len(case.shape) != sides or min(case.shape) < 1:
        raise ArgumentError("case", case.name, f"of a shape of {sides} side(s) ≥ 1 for {case.primitive}")
    for field, value, known in (
        ("dtype", case.dtype, (*DTYPES, *mixed_dtypes(case.primitive))),
        ("option", case.option, OPTIONS[case.primitive]),
        ("mode", case.mode, _modes(case.primitive, case.dtype)),
        ("values", case.values, _values(case.primitive)),
    ):
        if value not in known:
            raise ArgumentError("case", case.name, f"of a {field} that there is: {', '.join(known)}")
    if case.rung is not None and (case.rung == TENSOR_CORE) != (case.dtype in MIXED_DTYPES):
        must = f"of variant {TENSOR_CORE!r} with dtype {', '.join(MIXED_DTYPES)}, and of another one with the others"
        raise ArgumentError("case", case.name, must)
    if case.arch:
        require_arch("case", case.arch)
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
    "prepare_update": _NONE,
    "update": tuple(OPTIMIZERS),
    "product": FORMS,
    "squared_norm": _NONE,
    "gather_rows": ("float", "labels"),
    "row_argmax": _NONE,
    "scale": _NONE,
    "copy": _NONE,
    "cast": ("widen", "narrow"),
}
"""Every primitive, with the options that it comes in."""

MIXED_OPTIONS: dict[str, tuple[str, ...]] = {
    "dense_forward": ("relu", "gelu", "tanh"),
    "hidden_delta": ("silu", "relu", "elu"),
    "hadamard_derivative": ("relu", "tanh", "gelu"),
    "output_delta": (
        "softmax_cross_entropy+softmax",
        "softmax_cross_entropy+softmax+labels",
        "binary_cross_entropy+sigmoid",
        "half_squared_error+identity",
        "huber+tanh",
        "squared_error+softmax",
    ),
    "update": ("sgd", "momentum", "adam"),
    "gather_rows": ("float",),
}
"""The options in the subset of `MIXED_DTYPES`, where it does not hold them all; products take one each, in turn."""

MODES: dict[str, tuple[str, ...]] = {
    "dense_forward": ("bias", "no_bias", "keep_z"),
    "output_delta": ("mean", "sum", "stray"),
    "prepare_update": ("unclipped", "clipped", "within", "nan", "infinite"),
    "update": ("first", "late", "decay", "clip_norm", "clip_value"),
    "product": ("assign", "accumulate"),
}
"""What else some primitives can be asked; the others have the mode "-" alone."""

HALF_MODES: dict[str, tuple[str, ...]] = {
    "softmax": ("master",),
    "output_delta": ("scaled",),
    "prepare_update": ("scaled", "scaled_clipped", "grown", "capped", "skipped", "skipped_nan", "least"),
    "update": ("scaled", "grown", "overflow"),
    "cast": ("float64",),
}
"""What they can be asked besides with `HALF_DTYPES`: a loss scale, its growth, a gradient that is not finite, a result
of the master dtype, a cast from float64 or to it."""

PRODUCTS = ("dense_forward", "hidden_delta", "transpose_product", "weight_gradient", "weight_step", "product")
"""The primitives that are products: the ones with rungs of the ladder, and with shapes M, N, K."""

HALF_PRIMITIVES = (
    *("softmax", "output_delta", "hadamard_derivative", "bias_gradient", "prepare_update", "update"),
    *("gather_rows", "row_argmax", "scale", "copy", "cast"),
)
"""The primitives that are no products, and read or write `HALF_DTYPES`."""


def mixed_dtypes(primitive: str) -> tuple[str, ...]:
    """Return the kinds of `MIXED_DTYPES` that the primitive has cases of. In 16 bits a folded step would be lost."""
    if primitive == "weight_step":
        return ("tf32",)
    if primitive in PRODUCTS:
        return MIXED_DTYPES
    return HALF_DTYPES if primitive in HALF_PRIMITIVES else ()


def has_mixed(variants: Sequence[str]) -> bool:
    """True if a backend with these variants of products has `MIXED_DTYPES`; NumPy, which has no variants, does."""
    return not variants or TENSOR_CORE in variants


def _shapes(primitive: str) -> Sequence[tuple[int, ...]]:
    if primitive == "product":
        return GENERAL_SHAPES
    if primitive in PRODUCTS:
        return PRODUCT_SHAPES
    if primitive == "prepare_update":
        return ((1,),)
    return FLAT_SIZES if primitive in ("update", "squared_norm", "scale", "copy", "cast") else ROW_SHAPES


def _values(primitive: str) -> Sequence[str]:
    return ("random", "integers") if primitive in PRODUCTS or primitive == "bias_gradient" else ("random",)


def _modes(primitive: str, dtype: str) -> tuple[str, ...]:
    modes = MODES.get(primitive, _NONE)
    return (*modes, *HALF_MODES.get(primitive, ())) if dtype in HALF_DTYPES else modes


def choices(primitive: str, variants: Sequence[str]) -> list[Sequence[Any]]:
    """Return what is varied for a primitive: variant with dtype, shape, option, mode, scale with values, offset, seed.

    Args:
        primitive: its name.
        variants: without `TENSOR_CORE` (see `mixed_choices`). Integers come in one scale: others would round them.
    """
    return [
        tuple(itertools.product(variants if primitive in PRODUCTS and variants else _NONE, DTYPES)),
        _shapes(primitive),
        OPTIONS[primitive],
        MODES.get(primitive, _NONE),
        _scales(primitive, SCALES),
        (0, 1),
        SEEDS,
    ]


def mixed_choices(primitive: str, variants: Sequence[str], full: bool = False) -> list[Sequence[Any]]:
    """Return what is varied for a primitive in `MIXED_DTYPES`: as `choices`, but that an option belongs to the first
    choice.

    Args:
        primitive, variants: as for `choices`.
        full: True: every option and shape.
    """
    product = primitive in PRODUCTS
    names = [name for name in variants if name.removesuffix(LARGE) == TENSOR_CORE] if product and variants else _NONE
    kernels = list(itertools.product(names, mixed_dtypes(primitive)))
    options = OPTIONS[primitive] if full else MIXED_OPTIONS.get(primitive, OPTIONS[primitive])
    if product and not full:
        chosen = [(*kernel, option) for kernel, option in zip(kernels, itertools.cycle(options), strict=False)]
    else:
        chosen = [(*kernel, option) for kernel, option in itertools.product(kernels, options)]
    return [
        chosen,
        MIXED_SHAPES if product and primitive != "product" and not full else _shapes(primitive),
        _modes(primitive, HALF_DTYPES[0] if primitive in HALF_PRIMITIVES else "tf32"),
        _scales(primitive, MIXED_SCALES),
        (0, 1),
        SEEDS,
    ]


def _scales(primitive: str, scales: Sequence[float]) -> list[tuple[float, str]]:
    scaled = primitive not in ("dense_forward", "softmax", "gather_rows", "row_argmax", "copy", "cast")
    of_values = {"random": scales if scaled else (1.0,), "integers": (1.0,)}
    return [(scale, values) for values in _values(primitive) for scale in of_values[values]]


def all_cases(primitive: str, variants: Sequence[str], stores_halves: bool = False) -> Iterator[Case]:
    """Every combination. Arguments as for `covering_cases`."""
    if primitive in PRODUCTS:
        variants = [*variants, *(name + LARGE for name in variants if name in LARGE_VARIANTS)]
    plain = _without_tensor_cores(variants)
    if plain or not variants:
        for row in itertools.product(*choices(primitive, plain)):
            yield _case(primitive, row)
    if _mixed_here(primitive, variants, stores_halves):
        for row in itertools.product(*mixed_choices(primitive, variants, full=True)):
            yield _mixed_case(primitive, row)


def covering_cases(primitive: str, variants: Sequence[str], stores_halves: bool = False) -> list[Case]:
    """Return a subset in which every two choices of `choices`, and of `mixed_choices`, occur together at least once,
    and a few cases of large tiles.

    Args:
        variants: that the backend's products come in.
        stores_halves: True if its other primitives take `HALF_DTYPES`, whatever its products take.
    """
    found: list[Case] = []
    plain = _without_tensor_cores(variants)
    if plain or not variants:
        found += [_case(primitive, row) for row in _covering_array(choices(primitive, plain))]
    if _mixed_here(primitive, variants, stores_halves):
        found += [_mixed_case(primitive, row) for row in _covering_array(mixed_choices(primitive, variants))]
    if primitive in PRODUCTS and primitive != "product":
        found += [case for name in variants if name in LARGE_VARIANTS for case in _large_cases(primitive, name)]
    return found


def _mixed_here(primitive: str, variants: Sequence[str], stores_halves: bool) -> bool:
    found = has_mixed(variants) or (stores_halves and primitive in HALF_PRIMITIVES)
    return found and bool(mixed_dtypes(primitive))


OLDER = "sm_75"
"""A chip before sm_80, for which the kernels in CUDA C++ have paths of their own."""


def older_cases() -> list[Case]:
    """Return cases that run every path of the kernels in CUDA C++ for chips before sm_80: copies of tiles through
    registers, in each form, dtype and width of copy, and the rounding to bfloat16 by integers.
    """
    chosen = [
        Case(primitive, "pipelined", dtype, shape, option, mode, values=values)
        for primitive, option, mode in (
            ("dense_forward", "gelu", "keep_z"),
            ("transpose_product", "-", "-"),
            ("weight_gradient", "-", "-"),
        )
        for dtype in DTYPES
        for shape in ((130, 132, 36), (17, 31, 13), (5, 7, 1031))  # by 16 bytes, by elements, and in parts
        for values in ("random", "integers")
    ]
    for primitive in ("softmax", "update", "cast"):
        options = MIXED_OPTIONS.get(primitive, OPTIONS[primitive])
        chosen += [
            case
            for case in covering_cases(primitive, (), True)
            if case.dtype == "bfloat16" and case.option in (options[0], options[-1])
        ]
    return [replace(case, arch=OLDER) for case in chosen]


def _without_tensor_cores(variants: Sequence[str]) -> list[str]:
    return [name for name in variants if name.removesuffix(LARGE) != TENSOR_CORE]


def _large_cases(primitive: str, variant: str) -> Iterator[Case]:
    """Each large shape in random numbers and in integers; each dtype with an option and a mode of its own, since large
    tiles take long to compile.
    """
    mixed = variant == TENSOR_CORE
    dtypes, shapes = (mixed_dtypes(primitive), MIXED_LARGE_SHAPES) if mixed else (DTYPES, LARGE_SHAPES)
    options = MIXED_OPTIONS.get(primitive, OPTIONS[primitive]) if mixed else OPTIONS[primitive][-2:]
    modes = itertools.cycle(MODES.get(primitive, _NONE))
    for dtype, option, mode in zip(dtypes, itertools.cycle(options), modes, strict=False):
        for shape, values in itertools.product(shapes, _values(primitive)):
            yield Case(primitive, variant + LARGE, dtype, shape, option, mode, 1.0, values, 0, 0)
    if variant == "pipelined":
        yield Case(primitive, variant + LARGE, DTYPES[0], OBLONG_SHAPE, OPTIONS[primitive][0], next(modes))


@dataclass(frozen=True)
class Selection:
    """Which cases to run; an empty tuple and None leave a choice open.

    Attributes:
        shape: if given, primitives with this many sides run at this shape only, and no others run.
        full: True: every combination. False: a subset that covers all pairs.
    """

    primitives: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    shape: tuple[int, ...] | None = None
    full: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtypes", tuple(dict.fromkeys(map(long_name, self.dtypes))))

    def cases(self, variants: Sequence[str], stores_halves: bool = False) -> list[Case]:
        """Return the cases. Arguments as for `covering_cases`.

        Raises:
            ArgumentError: a name is unknown, or no case is left.
        """
        for argument, names, known in (
            ("primitive", self.primitives, OPTIONS),
            ("variant", self.variants, variants),
            ("dtype", self.dtypes, (*DTYPES, *MIXED_DTYPES)),
        ):
            if names and not known:
                raise ArgumentError(argument, names[0], "left out: the backend computes in one way only")
            for name in names:
                if name not in known:
                    raise unknown_name(argument, name, known)
        for name in self.dtypes:
            require_dtype("dtype", name, name, variants, stores_halves)
        make = all_cases if self.full else covering_cases
        found = self.of(
            case
            for primitive in self.primitives or OPTIONS
            for case in make(primitive, self.variants or variants, stores_halves)
        )
        if self.shape is not None and not found:
            must = "of as many sides as a chosen primitive has: MxNxK for products"
            raise ArgumentError("shape", "x".join(map(str, self.shape)), must)
        if not found:
            raise ArgumentError("dtype", ", ".join(self.dtypes), "one that the chosen primitives and variants have")
        return found

    def of(self, cases: Iterable[Case]) -> list[Case]:
        """Return those of the cases that are chosen, at the chosen shape."""
        chosen = [
            case
            for case in cases
            if case.primitive in (self.primitives or OPTIONS)
            and case.dtype in (self.dtypes or (*DTYPES, *MIXED_DTYPES))
            and (not self.variants or case.rung in self.variants)
            and (self.shape is None or len(case.shape) == len(self.shape))
        ]
        return chosen if self.shape is None else list(dict.fromkeys(replace(each, shape=self.shape) for each in chosen))


def _case(primitive: str, row: Sequence[Any]) -> Case:
    (variant, dtype), shape, option, mode, (scale, values), offset, seed = row
    return Case(primitive, variant, dtype, shape, option, mode, scale, values, offset, seed)


def _mixed_case(primitive: str, row: Sequence[Any]) -> Case:
    (variant, dtype, option), shape, mode, (scale, values), offset, seed = row
    return Case(primitive, variant, dtype, shape, option, mode, scale, values, offset, seed)


def require_arch(argument: str, arch: str) -> None:
    """Raise ArgumentError for an architecture that the emulated device cannot be."""
    if arch not in architectures():
        raise unknown_name(argument, arch, architectures())


def require_dtype(argument: str, value: str, dtype: str, variants: Sequence[str], stores_halves: bool = False) -> None:
    """Raise ArgumentError for a dtype that a backend does not have. Arguments as for `covering_cases`."""
    if dtype in MIXED_DTYPES and not has_mixed(variants) and not (stores_halves and dtype in HALF_DTYPES):
        have = " or ".join(DTYPES)
        where = "mixed precision is in backends 'numpy' and, on sm_80 and up, 'cupy'"
        raise ArgumentError(argument, value, f"{have} here", where)


def _covering_array(parameters: list[Sequence[object]]) -> list[tuple[object, ...]]:
    """Return rows of one choice for each parameter that cover every pair of choices, found greedily.

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
    """Return how many missing pairs the choice for parameter k would cover, given the row so far."""
    return sum((((k, choice, a, b) if k < a else (a, b, k, choice)) in missing) for a, b in row.items())
