"""What is measured, and the work that it is."""

import pytest

from gpubp.bench import works
from gpubp.bench.works import DEFAULT, FULL, QUICK, STEPS, Limit, Primitive, Sweep, TrainingStep
from gpubp.chips import Roofline
from gpubp.costs import PRIMITIVES
from gpubp.errors import ArgumentError

SMALL = Sweep(("dense_forward", "update"), (8,), (4,), ("tiny",))


@pytest.mark.parametrize(
    "work", [Primitive("hidden_delta", (3, 4, 5), "float64"), STEPS["tiny-regression"], Limit("copy", 8)]
)
def test_a_work_is_the_same_after_its_way_through_json(work):
    assert works.from_dict(work.to_dict()) == work


def test_flops_and_bytes_of_a_primitive():
    work = Primitive("dense_forward", (64, 256, 784))
    assert work.flops == 2 * 64 * 256 * 784
    assert work.bytes == 4 * (64 * 784 + 256 * 784 + 256 + 64 * 256)
    assert work.label == "64x256x784"
    assert Primitive("weight_gradient", (8, 8, 8)).size == pytest.approx(8)
    assert Primitive("update", (64 * 64,)).size == pytest.approx(64)


def test_flops_of_a_step_are_those_of_its_products():
    step = TrainingStep("any", (5, 7, 3), 11)
    forward, gradients, deltas = 2 * 11 * (5 * 7 + 7 * 3), 2 * 11 * (5 * 7 + 7 * 3), 2 * 11 * 7 * 3
    assert step.flops == forward + gradients + deltas
    products = [each for each in step.costs if each.flops in (2 * 11 * 5 * 7, 2 * 11 * 7 * 3)]
    assert sum(each.flops for each in products) == step.flops


def test_the_least_time_is_that_of_the_limit_that_binds():
    work = Limit("copy", 1000)
    assert work.least_seconds(Roofline(peak=1.0, bandwidth=8e6)) == pytest.approx(1.0)
    product = Limit("product", 1000)
    assert product.least_seconds(Roofline(peak=2e9, bandwidth=1e30)) == pytest.approx(1.0)


def test_a_choice_of_nothing_is_the_whole_sweep():
    found = works.choose(SMALL)
    assert [work.title for work in found] == ["dense_forward 8x8x8 float32", "update 16 float32", "step tiny float32"]
    assert {work.group for work in works.choose(FULL)} == {*PRIMITIVES, "step"}
    assert set(works.choose(QUICK, dtypes=("float64",))) != set(works.choose(QUICK))
    assert all(work.flops < 3e9 for work in works.choose(DEFAULT))


def test_a_sweep_has_what_there_is_in_a_dtype():
    assert {work.group for work in works.choose(FULL, dtypes=("bfloat16",))} == {*PRIMITIVES, "step"} - {"weight_step"}
    assert "update" not in {work.group for work in works.choose(FULL, dtypes=("tf32",))}
    doubles = [work for work in works.choose(FULL, dtypes=("float64",)) if work.group == "dense_forward"]
    assert max(work.size for work in doubles) < 513


def test_a_choice_leaves_what_it_names():
    assert [work.title for work in works.choose(SMALL, primitives=["update"])] == ["update 16 float32"]
    assert [work.label for work in works.choose(SMALL, steps=[])] == ["tiny"]
    assert [work.label for work in works.choose(SMALL, steps=["small"])] == ["small"]
    both = works.choose(SMALL, primitives=["update"], steps=[])
    assert [work.group for work in both] == ["update", "step"]


def test_a_step_has_the_batch_that_is_asked_for():
    (small,) = works.choose(SMALL, steps=["tiny@8"])
    assert (small.label, small.sizes, small.rows) == ("tiny@8", (64, 32, 10), 8)
    assert small.learning_rate == works.STEPS["tiny"].learning_rate / 4
    assert small.batch()[0].shape == (8, 64)
    (large,) = works.choose(SMALL, steps=["tiny@128"])
    assert (large.rows, large.learning_rate) == (128, works.STEPS["tiny"].learning_rate)
    assert works.from_dict(large.to_dict()) == large


def test_shapes_go_to_the_primitives_that_have_so_many_sides():
    found = works.choose(SMALL, shapes=[(2, 3, 4), (9,)])
    assert [work.title for work in found] == ["dense_forward 2x3x4 float32", "update 9 float32"]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"primitives": ["hiden_delta"]}, "did you mean 'hidden_delta'"),
        ({"steps": ["tiney"]}, "did you mean 'tiny'"),
        ({"steps": ["tiney@16"]}, "network was 'tiney'; .*did you mean 'tiny'"),
        ({"steps": ["tiny@"]}, "network was 'tiny@'; it must be tiny@ROWS"),
        ({"steps": ["tiny@0"]}, "network was 'tiny@0'; it must be tiny@ROWS"),
        ({"steps": ["tiny@-3"]}, "network was 'tiny@-3'; it must be tiny@ROWS"),
        ({"steps": ["tiny@٣"]}, "network was 'tiny@٣'; it must be tiny@ROWS"),
        ({"steps": ["tiny@99999999999"]}, "it must be tiny@ROWS"),
        ({"dtypes": ["float8"]}, "dtype was 'float8'"),
        ({"primitives": ["update"], "dtypes": ["tf32"]}, "one of float32, float64, bfloat16, float16 for update"),
        ({"primitives": ["update"], "shapes": [(2, 3, 4)]}, "shape was '2x3x4'"),
        ({"shapes": [(2, 3, 4, 5)]}, "shape was '2x3x4x5'"),
    ],
)
def test_what_there_is_not_is_named(choice, message):
    with pytest.raises(ArgumentError, match=message):
        works.choose(SMALL, **choice)


def test_every_contender_starts_from_the_same_weights_and_batch():
    step = STEPS["tiny"]
    for first, second in zip(step.weights(), step.weights(), strict=True):
        assert (first[0] == second[0]).all()
        assert (first[1] == second[1]).all()
    assert (step.batch()[0] == step.batch()[0]).all()
    assert all(w.dtype == b.dtype == "float64" for w, b in TrainingStep("any", (3, 2), 4, dtype="float64").weights())
