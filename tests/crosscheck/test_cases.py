"""The cases: names, and a covering subset that covers."""

import itertools

import pytest

from gpubp import backends, chips
from gpubp.backends import plan_model, plans
from gpubp.chips import Chip
from gpubp.crosscheck import buffers, cases, problems
from gpubp.crosscheck.covering import covering_array
from gpubp.dtypes import ARITHMETIC
from gpubp.errors import ArgumentError

VARIANTS = ("naive", "tiled", "blocked", "pipelined")
WITH_LARGE_TILES = [name for name in cases.PRODUCTS if name != "product"]


@pytest.mark.parametrize("primitive", cases.OPTIONS)
def test_names_name_cases(primitive):
    for case in cases.covering_cases(primitive, VARIANTS):
        assert cases.parse(case.name) == case


def choices_of(case):
    return (
        (case.variant, case.dtype),
        case.shape,
        case.option,
        case.mode,
        (case.scale, case.values),
        case.offset,
        case.seed,
    )


@pytest.mark.parametrize("primitive", cases.OPTIONS)
def test_every_pair_of_choices_occurs(primitive):
    parameters = cases.choices(primitive, VARIANTS)
    rows = [choices_of(case) for case in cases.covering_cases(primitive, VARIANTS)]
    for i, j in itertools.combinations(range(len(parameters)), 2):
        assert {(row[i], row[j]) for row in rows} >= set(itertools.product(parameters[i], parameters[j]))


MIXED = [name for name in cases.OPTIONS if cases.mixed_dtypes(name)]


@pytest.mark.parametrize("primitive", MIXED)
def test_every_pair_of_choices_occurs_in_mixed_precision(primitive):
    variants = (*VARIANTS, cases.TENSOR_CORE)
    parameters = cases.mixed_choices(primitive, variants)
    chosen = [
        case
        for case in cases.covering_cases(primitive, variants)
        if case.dtype in cases.MIXED_DTYPES or case.on_tensor_doubles
    ]
    rows = [((c.variant, c.dtype, c.option), c.shape, c.mode, (c.scale, c.values), c.offset, c.seed) for c in chosen]
    for i, j in itertools.combinations(range(len(parameters)), 2):
        assert {(row[i], row[j]) for row in rows} >= set(itertools.product(parameters[i], parameters[j]))


def test_mixed_precision_comes_where_it_is_and_only_there():
    for primitive in cases.OPTIONS:
        without = {case.dtype for case in cases.covering_cases(primitive, VARIANTS)}
        assert without == set(cases.DTYPES)
        for variants in ((), (*VARIANTS, cases.TENSOR_CORE)):
            found = {case.dtype for case in cases.covering_cases(primitive, variants)}
            assert found == without | set(cases.mixed_dtypes(primitive))


def test_everything_in_mixed_precision_holds_every_option_and_shape():
    chosen = [case for case in cases.all_cases("weight_step", ("tiled", "tensorcore")) if case.dtype == "tf32"]
    assert {case.variant for case in chosen} == {"tensorcore", "tensorcore+large", "tensorcore+streamed"}
    assert {case.shape for case in chosen if not case.streamed} == set(cases.PRODUCT_SHAPES)
    assert {case.option for case in cases.all_cases("hidden_delta", ("tensorcore",))} == set(cases.ELEMENTWISE)


@pytest.mark.parametrize("make", [cases.covering_cases, cases.all_cases])
def test_wgmma_multiplies_tf32_along_the_depth_alone(make):
    found = {}
    for primitive in cases.PRODUCTS:
        for case in make(primitive, (*VARIANTS, "tensorcore", "wgmma")):
            if case.rung == "wgmma":
                form = cases.form_of(primitive, case.option)
                found.setdefault((primitive, form), set()).add(case.dtype)
                assert plans.row_alignment(form, *case.shape, ARITHMETIC[case.dtype].item_bytes) == 16
                assert cases.parse(case.name) == case
    halves = {"bfloat16", "float16"}
    assert found == {
        ("dense_forward", "NT"): {"tf32", *halves},
        ("product", "NT"): {"tf32", *halves},
        **dict.fromkeys((("hidden_delta", "NN"), ("transpose_product", "NN"), ("product", "NN")), halves),
        **dict.fromkeys((("weight_gradient", "TN"), ("product", "TN")), halves),
    }


@pytest.mark.parametrize("primitive", WITH_LARGE_TILES)
def test_large_tiles_for_tensor_cores_are_among_the_cases(primitive):
    large = [case for case in cases.covering_cases(primitive, ("tensorcore",)) if case.large_tiles]
    chip = chips.get("H100").for_plans()
    assert {case.dtype for case in large} == set(cases.tensor_dtypes(primitive))
    for dtype in cases.tensor_dtypes(primitive):
        sizes = {
            (plan.tile_m, plan.tile_n)
            for case in large
            for alignment in (16, *(2 * ARITHMETIC[dtype].item_bytes,) * (dtype in cases.MIXED_DTYPES))
            if case.dtype == dtype
            for plan in [plans.largest(*case.shape[:2], dtype, chip, "tensorcore", alignment)]
        }
        tables = (plans.TENSORCORE, plans.TENSORCORE_UNALIGNED)[: 1 + (dtype in cases.MIXED_DTYPES)]
        largest = [table[dtype][0] for table in tables]
        assert sizes == {(tile.tile_m, tile.tile_n) for tile in largest}


@pytest.mark.parametrize("primitive", cases.PRODUCTS)
def test_every_kernel_gets_random_numbers_in_every_scale(primitive):
    chosen = cases.covering_cases(primitive, VARIANTS)
    scales = {case.scale for case in chosen}
    for variant, dtype, scale in itertools.product(VARIANTS, cases.DTYPES, scales):
        assert any((c.variant, c.dtype, c.scale, c.values) == (variant, dtype, scale, "random") for c in chosen)


@pytest.mark.parametrize("make", [cases.covering_cases, cases.all_cases])
def test_no_case_comes_twice(make):
    chosen = list(make("bias_gradient", VARIANTS)) + list(make("weight_step", VARIANTS))
    assert len(set(chosen)) == len(chosen)


@pytest.mark.parametrize("primitive", WITH_LARGE_TILES)
def test_large_tiles_are_among_the_cases(primitive):
    large = [case for case in cases.covering_cases(primitive, VARIANTS) if case.large_tiles]
    chip = Chip("sm_90", 132)
    for dtype in cases.DTYPES:
        tiles = {
            (plan.variant, plan.tile_m, plan.tile_n)
            for case in large
            if case.dtype == dtype
            for plan in [plans.largest(*case.shape[:2], dtype, chip, case.rung)]
        }
        first = plans.PIPELINED[dtype][0]
        assert tiles >= {("tiled", 32, 32), ("blocked", 128, 128), ("pipelined", first.tile_m, first.tile_n)}


@pytest.mark.parametrize("primitive", WITH_LARGE_TILES)
def test_among_the_blocks_is_one_of_threads_in_no_square(primitive):
    found = []
    for case in cases.covering_cases(primitive, VARIANTS):
        if case.rung == "pipelined":
            chip = Chip("sm_90", 132)
            if case.large_tiles:
                plan = plans.largest(*case.shape[:2], case.dtype, chip, case.rung)
            else:
                plan = plan_model.choose(*case.shape, case.dtype, chip, case.rung)
            found.append((plan.tile_m // plan.thread_m, plan.tile_n // plan.thread_n))
    assert any(rows != columns for rows, columns in found)


def test_the_subset_is_small():
    parameters = cases.choices("hidden_delta", VARIANTS)
    rows = covering_array(parameters)
    largest, second = sorted(map(len, parameters))[-1:-3:-1]
    assert largest * second <= len(rows) <= 1.5 * largest * second
    assert len(rows) * 20 < sum(1 for _ in cases.all_cases("hidden_delta", VARIANTS))


def test_the_subset_is_the_same_each_time():
    assert cases.covering_cases("update", ()) == cases.covering_cases("update", ())


def test_every_primitive_of_the_protocol_is_checked():
    from gpubp.backends.base import Backend

    moves = {"asarray", "asnumpy", "empty", "zeros", "upload", "record", "capture", "synchronize"}
    moves |= {"pinned", "upload_beside", "mark", "wait_for"}  # tests/backends/test_uploads.py
    moves |= {"all_reduce"}  # between processes: tests/distributed holds trainings to those of one process
    methods = {name for name in vars(Backend) if not name.startswith("_") and callable(getattr(Backend, name))}
    assert methods - moves - {"for_precision"} == set(cases.OPTIONS)


@pytest.mark.parametrize(
    "name", ["", "dense_forward", "a:b:c:d:e:f:g:h:i:j", "nothing:-:float32:1:-:-:1:random:0:0", "scale:-:float32:x:-"]
)
def test_other_names_are_refused(name):
    with pytest.raises(ArgumentError, match="case"):
        cases.parse(name)


@pytest.mark.parametrize(
    ("place", "text", "message"),
    [
        (2, "float8", "dtype that there is: float32, float64, tf32, bfloat16, float16"),
        (3, "33x17", "3 side"),
        (3, "33x0x17", "3 side"),
        (4, "rleu", "option that there is"),
        (5, "bias", "mode that there is: -"),
        (6, "nan", "scale > 0"),
        (7, "small", "values that there is: random, integers"),
        (8, "-1", "offset ≥ 0"),
        (9, "-1", "seed ≥ 0"),
    ],
)
def test_what_a_case_cannot_be_is_named(place, text, message):
    parts = ["hidden_delta", "tiled", "float32", "33x17x5", "relu", "-", "1", "random", "0", "0"]
    assert cases.parse(":".join(parts)).rung == "tiled"
    parts[place] = text
    with pytest.raises(ArgumentError, match=message):
        cases.parse(":".join(parts))


def test_random_numbers_differ_between_cases_and_not_between_runs():
    first, second, *_ = cases.covering_cases("scale", ())
    assert first.generator().random() == first.generator().random()
    assert first.generator().random() != second.generator().random()


@pytest.mark.parametrize("primitive", cases.LONE_ARRAYS)
def test_each_array_of_a_vector_kernel_starts_off_its_alignment_alone_once(primitive):
    names = list(cases.LONE_ARRAYS[primitive][-1])
    each_alone = names + ["b"] * (primitive == "dense_forward")  # a bias in the middle of all parameters once more
    found = [case for case in cases.covering_cases(primitive, plans.VARIANTS, True) if case.seed >= cases.ALONE]
    for case, name in zip(found, each_alone, strict=True):
        assert cases.parse(case.name) == case
        placed = buffers.placed(backends.get("numpy"), problems.make(case), case)
        assert list(placed) == names
        assert [each for each, buffer in placed.items() if buffer.start != buffers.GUARD] == [name]
