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
from gpubp.backends.plans import forms_of, kinds_of, row_alignment
from gpubp.chips import architectures
from gpubp.crosscheck.covering import covering_array
from gpubp.dtypes import ARITHMETIC, HALVES, MIXED, PLAIN, long_name
from gpubp.errors import ArgumentError, unknown_name
from gpubp.nn.activations import ACTIVATIONS
from gpubp.nn.losses import LOSSES
from gpubp.nn.optimizers import OPTIMIZERS

DTYPES = PLAIN
"""What every backend computes in."""

TENSOR_CORE = "tensorcore"
"""The rung of the ladder that multiplies with tensor cores."""

WGMMA = "wgmma"
"""The rung for one generation of chips, on which warpgroups multiply `HALF_DTYPES` and, in the form NT, TF32."""

MIXED_DTYPES = MIXED
"""What tensor cores multiply: float32 arrays that a product rounds to TF32, and arrays that are stored in 16 bits."""

TENSOR_DOUBLE = "float64"
"""What `TENSOR_CORE` multiplies besides, on some chips."""

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
    (4, 7, 1031),
    (16, 16, 512),
    (130, 132, 36),
)
"""M, N, K: sides of 1, around the tile, primes, tall, wide, K of 1 and K long; rows of the result on 16-byte boundaries
and off them, whatever their number; one in parts, whose rows lie off them and whose columns would not.
"""

LARGE = "+large"
"""What is put behind a variant for the largest tiles that the shape allows: see `gpubp.backends.plans.largest`.

A large chip takes small tiles for every shape of `PRODUCT_SHAPES`.
"""

LARGE_VARIANTS = ("tiled", "blocked", "pipelined", TENSOR_CORE)
"""The variants whose tiles come in sizes."""

STREAMED = "+streamed"
"""What is put behind a variant for stream-K, which only kernels in CUDA C++ have, on a chip of `STREAM_BLOCKS`
multiprocessors.
"""

STREAMED_VARIANTS = ("pipelined", TENSOR_CORE)

STREAM_BLOCKS = 5
"""Blocks of a grid with `STREAMED`."""

STREAMED_SHAPES = ((136, 200, 64), (5, 7, 1031), (TILE + 1, TILE + 1, TILE + 1))
"""M, N, K: oblong tiles, some split and some not, a tile that all blocks share, and rows off 16-byte boundaries."""

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

PERSISTENT = "+persistent"
"""What is put behind `WGMMA` for a chip of `FEW` multiprocessors: a block computes several tiles."""

FEW = 2

WGMMA_SHAPES = (
    (1, 8, 64),
    (64, 128, 32),
    (65, 264, 200),
    (130, 136, 40),
    (200, 120, 72),
    (72, 133, 72),
    (40, 140, 136),
    (40, 136, 136),
    (16, 24, 2048),
    (8, 24, 1031),
    (136, 264, 203),
    (328, 264, 456),
)
"""M, N, K for `WGMMA` in 16 bits: ragged around its tiles, and at its depth of 64; shallower than its ring and several
times as deep; one splits the depth. A form takes those whose rows start on 16-byte boundaries; of some, those of the
result do not. TF32 takes half the depth: as many bytes."""

ROW_SHAPES = ((1, 1), (1, 10), (33, 1), (32, 10), (129, 65), (7, 1031), (1031, 3), (64, 128))
"""Rows and columns of what is no product."""

FLAT_SIZES = ((1,), (5,), (128,), (1031,), (40_961,))
"""Lengths of flat arrays."""


@dataclass(frozen=True)
class Case:
    """One call of one primitive.

    Attributes:
        variant: a rung of the ladder, with `LARGE` behind it for large tiles, `STREAMED` for stream-K or `PERSISTENT`
            for several tiles a block; "-" for a primitive that has none.
        dtype: of the arrays; "tf32" for float32 arrays whose products are of TF32. With "bfloat16" and "float16",
            biases, gradients, targets and master weights are float32.
        option: the activation, the loss with its output activation and what else tells it ("huber+tanh",
            "softmax_cross_entropy+softmax+labels+smoothed"), or the optimiser, as the primitive asks.
        mode: what else the primitive can be asked, such as "keep_z"; "-" for none.
        scale: the magnitude of deltas and gradients.
        values: "random", or "integers" small enough to be summed exactly.
        offset: by how many elements some of the arrays start off a 128-byte boundary: see `buffers.placed`.
        seed: of the numbers, and of the arrays that start off; from `ALONE` on, array number seed − `ALONE` alone does.
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
        return None if self.variant == "-" else self.variant.partition("+")[0]

    @property
    def storage(self) -> str:
        """Return the dtype of weights, activations and deltas."""
        return str(ARITHMETIC[self.dtype].storage)

    @property
    def master(self) -> str:
        """Return the dtype of biases, gradients, targets and master weights, and the one that is computed in."""
        return str(ARITHMETIC[self.dtype].accumulator)

    @property
    def on_tensor_doubles(self) -> bool:
        """True if tensor cores multiply float64."""
        return (self.rung, self.dtype) == (TENSOR_CORE, TENSOR_DOUBLE)

    @property
    def large_tiles(self) -> bool:
        """True if products take the largest tiles: see `LARGE`."""
        return self.variant.endswith(LARGE)

    @property
    def streamed(self) -> bool:
        """True if every product is computed by stream-K."""
        return self.variant.endswith(STREAMED)

    @property
    def persistent(self) -> bool:
        """True if blocks compute several tiles: see `PERSISTENT`."""
        return self.variant.endswith(PERSISTENT)

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
    primitive: str,
    shape: tuple[int, ...],
    dtype: str,
    *,
    activation: str = "relu",
    optimizer: str = "adam",
    mode: str | None = None,
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
        mode: what else the primitive is asked; None: nothing.
    """
    forward = "keep_z" if ACTIVATIONS[activation].reads == "z" else "bias"
    option, usual = {
        "dense_forward": (activation, forward),
        "hidden_delta": (activation, "-"),
        "hadamard_derivative": (activation, "-"),
        "output_delta": ("softmax_cross_entropy+softmax+labels", "mean"),
        "update": (optimizer, "late"),
    }.get(primitive, ("-", "-"))
    return Case(primitive, "-", dtype, shape, option, mode or usual)


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
        ("mode", case.mode, modes(case.primitive, case.dtype)),
        ("values", case.values, _values(case.primitive)),
    ):
        if value not in known:
            raise ArgumentError("case", case.name, f"of a {field} that there is: {', '.join(known)}")
    if case.rung is not None:
        dtypes = kinds_of(case.rung)
        if case.primitive in PRODUCTS:
            form = form_of(case.primitive, case.option)
            dtypes = tuple(dtype for dtype in dtypes if form in forms_of(case.rung, dtype))
        if case.dtype not in dtypes:
            raise ArgumentError("case", case.name, f"of dtype {', '.join(dtypes)} with variant {case.rung!r}")
    if case.arch:
        require_arch("case", case.arch)
    if not (0 < case.scale < float("inf") and case.offset >= 0 and case.seed >= 0):
        raise ArgumentError("case", case.name, "of a scale > 0, an offset ≥ 0 and a seed ≥ 0")


LABELS = "labels"
"""What is put behind a loss whose targets are labels."""

SMOOTHED = "smoothed"
"""What is put behind a cross-entropy with label smoothing."""


FEW_OUTPUTS = {"quantile": ("identity", "tanh", "gelu", "softmax")}
"""Losses that do not meet every output activation, but one of each kind: σ' is 1, reads a or z, or couples a row."""


def _loss_options() -> tuple[str, ...]:
    """Return each loss with output activations that it takes, on numbers and on labels, plain and smoothed."""
    found = []
    for name, kind in LOSSES.items():
        any_output = FEW_OUTPUTS.get(name, (*ELEMENTWISE, "softmax"))
        outputs = [kind.output_activation] if kind.output_activation else any_output
        targets = ["", f"+{LABELS}"] if kind.takes_labels else [""]
        kinds = ["", f"+{SMOOTHED}"] if any(field.name == "label_smoothing" for field in fields(kind)) else [""]
        found += [f"{name}+{output}{on}{how}" for output in outputs for how in kinds for on in targets]
    return tuple(found)


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
    "gather_rows": ("examples", "labelled", "weighted"),
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
        "softmax_cross_entropy+softmax+smoothed",
        "softmax_focal_cross_entropy+softmax+labels",
        "binary_cross_entropy+sigmoid",
        "half_squared_error+identity",
        "huber+tanh",
        "squared_error+softmax",
    ),
    "update": ("sgd", "momentum", "adam"),
    "gather_rows": ("examples", "weighted"),
}
"""The options in the subset of `MIXED_DTYPES`, where it does not hold them all; products take one each, in turn."""

MODES: dict[str, tuple[str, ...]] = {
    "dense_forward": ("bias", "dropout", "no_bias", "keep_z", "scaled", "dropout_keep_z"),
    "output_delta": ("mean", "sum", "stray", "divisor", "weighted", "weighted_stray"),
    "hidden_delta": ("-", "dropout"),
    "weight_gradient": ("-", "bias", "scaled", "accumulate", "bias_scaled", "bias_accumulate"),
    "weight_step": ("-", "bias"),
    "bias_gradient": ("-", "accumulate"),
    "prepare_update": ("unclipped", "clipped", "within", "nan", "nan_unclipped", "infinite"),
    "update": ("first", "late", "decay", "clip_norm", "clip_value", "penalties", "decoupled"),
    "product": ("assign", "accumulate"),
    "gather_rows": ("-", "shorter", "longer"),
}
"""What else some primitives can be asked; the others have the mode "-" alone."""

HALF_MODES: dict[str, tuple[str, ...]] = {
    "softmax": ("master",),
    "output_delta": ("scaled", "weighted_scaled"),
    "prepare_update": ("scaled", "scaled_clipped", "grown", "capped", "skipped", "skipped_nan", "least"),
    "update": ("scaled", "grown", "overflow"),
    "cast": ("float64",),
}
"""What they can be asked besides with `HALF_DTYPES`: a loss scale, its growth, a gradient that is not finite, a result
of the master dtype, a cast from float64 or to it."""

PRODUCTS = ("dense_forward", "hidden_delta", "transpose_product", "weight_gradient", "weight_step", "product")
"""The primitives that are products: the ones with rungs of the ladder, and with shapes M, N, K."""

PRODUCT_FORMS = {
    "dense_forward": "NT",
    "hidden_delta": "NN",
    "transpose_product": "NN",
    "weight_gradient": "TN",
    "weight_step": "TN",
}
"""Of the general product the form is the option."""


def form_of(primitive: str, option: str) -> str:
    """Return how the operands of a product lie in memory."""
    return option if primitive == "product" else PRODUCT_FORMS[primitive]


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


def tensor_dtypes(primitive: str) -> tuple[str, ...]:
    """Return the kinds that a product has cases of with `TENSOR_CORE`."""
    return (*mixed_dtypes(primitive), TENSOR_DOUBLE)


def has_mixed(variants: Sequence[str]) -> bool:
    """True if a backend with these variants of products has `MIXED_DTYPES`; NumPy, which has no variants, does."""
    return not variants or TENSOR_CORE in variants


def _shapes(primitive: str) -> Sequence[tuple[int, ...]]:
    if primitive == "product":
        return GENERAL_SHAPES
    if primitive in PRODUCTS:
        return PRODUCT_SHAPES
    flat = primitive in ("prepare_update", "update", "scale", "copy", "cast")
    return FLAT_SIZES if flat else ROW_SHAPES


def _values(primitive: str) -> Sequence[str]:
    return ("random", "integers") if primitive in PRODUCTS or primitive == "bias_gradient" else ("random",)


def modes(primitive: str, dtype: str) -> tuple[str, ...]:
    """Return the modes of a primitive in this kind of arithmetic; "-" for what is asked nothing else."""
    plain = MODES.get(primitive, _NONE)
    return (*plain, *HALF_MODES.get(primitive, ())) if dtype in HALF_DTYPES else plain


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
    kernels = list(itertools.product(names, (mixed_dtypes if names is _NONE else tensor_dtypes)(primitive)))
    options = OPTIONS[primitive] if full else MIXED_OPTIONS.get(primitive, OPTIONS[primitive])
    if product and not full:
        chosen = [(*kernel, option) for kernel, option in zip(kernels, itertools.cycle(options), strict=False)]
    else:
        chosen = [(*kernel, option) for kernel, option in itertools.product(kernels, options)]
    return [
        chosen,
        MIXED_SHAPES if product and primitive != "product" and not full else _shapes(primitive),
        modes(primitive, HALF_DTYPES[0] if primitive in HALF_PRIMITIVES else "tf32"),
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
    yield from _streamed_cases(primitive, variants, stores_halves)
    for choices_ in _wgmma_choices(primitive, variants, OPTIONS[primitive]):
        yield from (_mixed_case(primitive, row) for row in itertools.product(*choices_))
    yield from lone_cases(primitive, variants)


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
        found += [_case(primitive, row) for row in covering_array(choices(primitive, plain))]
    if _mixed_here(primitive, variants, stores_halves):
        found += [_mixed_case(primitive, row) for row in covering_array(mixed_choices(primitive, variants))]
    if primitive in PRODUCTS and primitive != "product":
        found += [case for name in variants if name in LARGE_VARIANTS for case in _large_cases(primitive, name)]
    for choices_ in _wgmma_choices(primitive, variants, MIXED_OPTIONS.get(primitive, OPTIONS[primitive])):
        found += [_mixed_case(primitive, row) for row in covering_array(choices_)]
    return [*found, *_streamed_cases(primitive, variants, stores_halves), *lone_cases(primitive, variants)]


ALONE = 1000
"""The seed from which on one array alone starts off its alignment."""

LONE_ARRAYS = {
    "dense_forward": ("pipelined" + LARGE, (64, 64, 32), "keep_z", ("a_prev", "w", "b", "a", "z")),
    "hidden_delta": ("pipelined" + LARGE, (64, 64, 32), "-", ("delta_next", "w_next", "saved", "delta")),
    "hadamard_derivative": ("-", (64, 32), "-", ("product", "saved", "delta")),
    "update": ("-", (512,), "first", ("g", "w", "control", "mean", "square")),
}
"""Primitives whose kernels move 16 bytes at once if all of several arrays start on such a boundary: variant, shape,
mode, and the arrays of the problem in their order. Of the tiles, the large ones do."""


LONE_BIAS = (5, 8, 1031)
"""M, N, K of a layer whose bias alone starts off its alignment, and which is computed in parts of the depth: the launch
that adds them up moves 16 bytes at once all the same, and only looks the bias up one by one."""


def lone_cases(primitive: str, variants: Sequence[str]) -> Iterator[Case]:
    """For each array of a primitive in `LONE_ARRAYS`, the case in which it alone starts off its alignment."""
    if primitive not in LONE_ARRAYS:
        return
    variant, shape, mode, names = LONE_ARRAYS[primitive]
    if variant.removesuffix(LARGE) in (*variants, "-"):
        option = "adam" if primitive == "update" else OPTIONS[primitive][-2]  # that of other large tiles of the dtype
        for number in range(len(names)):
            yield Case(primitive, variant, DTYPES[0], shape, option, mode, offset=1, seed=ALONE + number)
        if primitive == "dense_forward":
            in_parts, bias = variant.removesuffix(LARGE), ALONE + names.index("b")
            yield Case(primitive, in_parts, DTYPES[0], LONE_BIAS, option, mode, offset=1, seed=bias)


def _mixed_here(primitive: str, variants: Sequence[str], stores_halves: bool) -> bool:
    found = has_mixed(variants) or (stores_halves and primitive in HALF_PRIMITIVES)
    return found and bool(mixed_dtypes(primitive))


OLDER, OLDER_TENSOR = "sm_75", "sm_80"
"""Chips for which the kernels in CUDA C++ have paths of their own: one before sm_80, and the one before sm_90 whose
tensor cores multiply float64."""


def older_cases() -> list[Case]:
    """Return cases that run every path of the kernels in CUDA C++ for older chips.

    Before sm_80: copies of tiles through registers, in each form, dtype and width of copy, and the rounding to bfloat16
    by integers. On sm_80: products of float64 on tensor cores.
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
    doubles = [
        Case(primitive, TENSOR_CORE, TENSOR_DOUBLE, shape, option, mode, values=values, arch=OLDER_TENSOR)
        for primitive, option, mode in (("hidden_delta", "tanh", "dropout"), ("weight_gradient", "-", "bias"))
        for shape, values in (((130, 132, 36), "random"), ((17, 31, 13), "integers"))
    ]
    return [*(replace(case, arch=OLDER) for case in chosen), *doubles]


def _without_tensor_cores(variants: Sequence[str]) -> list[str]:
    return [name for name in variants if name.removesuffix(LARGE) not in (TENSOR_CORE, WGMMA)]


def _wgmma_choices(primitive: str, variants: Sequence[str], options: Sequence[str]) -> Iterator[list[Sequence[Any]]]:
    """Return what is varied for a primitive with `WGMMA`, as `mixed_choices`; of the general product for each form.

    Tiles are the best of a large chip and of a small one, and the largest.
    """
    if primitive not in PRODUCTS or WGMMA not in variants:
        return
    variants, groups = (WGMMA, WGMMA + PERSISTENT, WGMMA + LARGE), [options]
    if primitive == "product":  # the loops of which the other products run
        variants, groups = (WGMMA,), [[form] for form in FORMS]
    for group, item_bytes in itertools.product(groups, (2, 4)):
        form = form_of(primitive, group[0])
        kernels = [
            (variant, dtype)
            for variant, dtype in itertools.product(variants, mixed_dtypes(primitive))
            if ARITHMETIC[dtype].item_bytes == item_bytes and form in forms_of(WGMMA, dtype)
        ]
        if not kernels:
            continue
        shapes = [(m, n, k * 2 // item_bytes) for m, n, k in WGMMA_SHAPES]
        yield [
            [(*kernel, option) for kernel, option in zip(kernels, itertools.cycle(group), strict=False)],
            [shape for shape in shapes if row_alignment(form, *shape, item_bytes) == 16],
            modes(primitive, kernels[0][1]),
            _scales(primitive, MIXED_SCALES),
            (0, 16 // item_bytes, 1),  # on boundaries of 128 and 16 bytes; elsewhere `TENSOR_CORE` multiplies
            SEEDS,
        ]


def _large_cases(primitive: str, variant: str) -> Iterator[Case]:
    """Each large shape in random numbers and in integers; each dtype with an option and a mode of its own, since large
    tiles take long to compile.
    """
    mixed = variant == TENSOR_CORE
    dtypes, shapes = (tensor_dtypes(primitive), MIXED_LARGE_SHAPES) if mixed else (DTYPES, LARGE_SHAPES)
    options = MIXED_OPTIONS.get(primitive, OPTIONS[primitive]) if mixed else OPTIONS[primitive][-2:]
    in_turn = itertools.cycle(MODES.get(primitive, _NONE))
    for dtype, option, mode in zip(dtypes, itertools.cycle(options), in_turn, strict=False):
        for shape, values in itertools.product(shapes, _values(primitive)):
            yield Case(primitive, variant + LARGE, dtype, shape, option, mode, 1.0, values, 0, 0)
    if variant == "pipelined":
        yield Case(primitive, variant + LARGE, DTYPES[0], OBLONG_SHAPE, OPTIONS[primitive][0], next(in_turn))


def _streamed_cases(primitive: str, variants: Sequence[str], in_cuda: bool) -> Iterator[Case]:
    """Each dtype in each mode, or on tensor cores each dtype and each mode, for the kernels in CUDA C++; the shapes,
    options and values take turns.
    """
    if primitive not in PRODUCTS or not (in_cuda or TENSOR_CORE in variants):
        return
    shapes, values = itertools.cycle(STREAMED_SHAPES), itertools.cycle(_values(primitive))
    for variant in STREAMED_VARIANTS:
        mixed = variant == TENSOR_CORE
        options = MIXED_OPTIONS.get(primitive, OPTIONS[primitive]) if mixed else OPTIONS[primitive]
        dtypes = tensor_dtypes(primitive) if mixed else DTYPES
        asked = MODES.get(primitive, _NONE)
        kinds: Iterable[tuple[str, str]] = itertools.product(dtypes, asked)
        if mixed:
            count = max(len(dtypes), len(asked))
            kinds = itertools.islice(zip(itertools.cycle(dtypes), itertools.cycle(asked), strict=False), count)
        for (dtype, mode), option in zip(kinds if variant in variants else (), itertools.cycle(options), strict=False):
            yield Case(primitive, variant + STREAMED, dtype, next(shapes), option, mode, 1.0, next(values), 0, 0)


@dataclass(frozen=True)
class Selection:
    """Which cases to run; an empty tuple and None leave a choice open.

    Attributes:
        shape: if given, primitives with this many sides run at this shape only, and no others run.
        full: True: every combination. False: a subset that covers all pairs.
        modes: what else the primitives are asked, such as "dropout" or "weighted".
    """

    primitives: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    shape: tuple[int, ...] | None = None
    full: bool = False
    modes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtypes", tuple(dict.fromkeys(map(long_name, self.dtypes))))

    def cases(self, variants: Sequence[str], stores_halves: bool = False, tensor_doubles: bool = False) -> list[Case]:
        """Return the cases. Arguments as for `covering_cases`.

        Args:
            variants, stores_halves: as for `covering_cases`.
            tensor_doubles: True if `TENSOR_CORE` has float64 too.

        Raises:
            ArgumentError: a name is unknown, or no case is left.
        """
        for argument, names, known in (
            ("primitive", self.primitives, OPTIONS),
            ("variant", self.variants, variants),
            ("dtype", self.dtypes, (*DTYPES, *MIXED_DTYPES)),
            ("mode", self.modes, self._known_modes()),
        ):
            if names and not known:
                raise ArgumentError(argument, names[0], "left out: the backend computes in one way only")
            for name in names:
                if name not in known:
                    raise unknown_name(argument, name, known)
        for name in self.dtypes:
            require_dtype("dtype", name, name, variants, stores_halves)
        make = all_cases if self.full else covering_cases
        made = [
            case
            for primitive in self.primitives or OPTIONS
            for case in make(primitive, self.variants or variants, stores_halves)
            if tensor_doubles or not case.on_tensor_doubles
        ]
        found = self.of(made)
        if self.shape is not None and not found and replace(self, shape=None).of(made):
            must = "of as many sides as a chosen primitive has: MxNxK for products"
            raise ArgumentError("shape", "x".join(map(str, self.shape)), must)
        if not found:
            name, values = ("dtype", self.dtypes) if self.dtypes else ("mode", self.modes)
            hint = ""
            if TENSOR_DOUBLE in values and TENSOR_CORE in self.variants and not tensor_doubles:
                hint = "tensor cores multiply it on sm_80 and sm_90 alone"
            elif WGMMA in self.variants and "tf32" in values:
                hint = "wgmma multiplies TF32 in the form NT alone: that of dense_forward, and one of product's"
            raise ArgumentError(name, ", ".join(values), "one that the chosen primitives and variants have", hint)
        return found

    def _known_modes(self) -> tuple[str, ...]:
        """Return the modes of the chosen primitives."""
        of_all = [modes(primitive, HALF_DTYPES[0]) for primitive in self.primitives or OPTIONS]
        return tuple(dict.fromkeys(itertools.chain(*of_all)))

    def of(self, cases: Iterable[Case]) -> list[Case]:
        """Return those of the cases that are chosen, at the chosen shape."""
        chosen = [
            case
            for case in cases
            if case.primitive in (self.primitives or OPTIONS)
            and case.dtype in (self.dtypes or (*DTYPES, *MIXED_DTYPES))
            and (not self.variants or case.rung in self.variants)
            and (not self.modes or case.mode in self.modes)
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
