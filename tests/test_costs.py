"""Costs worked out by hand, and the roofline."""

import pytest

from gpubp import costs
from gpubp.chips import Roofline
from gpubp.costs import cost
from gpubp.errors import ArgumentError


def test_a_product_is_its_operands_once_and_its_result_once():
    found = cost("transpose_product", (3, 5, 7))
    assert (found.flops, found.bytes_read, found.bytes_written) == (2 * 3 * 5 * 7, 4 * (3 * 7 + 7 * 5), 4 * 3 * 5)
    assert found.intensity == 210 / (224 + 60)


@pytest.mark.parametrize(
    ("primitive", "options", "read", "written"),
    [
        ("dense_forward", {}, 4 * (3 * 7 + 7 * 5 + 5), 4 * 15),
        ("dense_forward", {"bias": False}, 4 * (3 * 7 + 7 * 5), 4 * 15),
        ("dense_forward", {"activation": "gelu"}, 4 * (3 * 7 + 7 * 5 + 5), 4 * 30),
        ("dense_forward", {"dtype": "bfloat16"}, 2 * (3 * 7 + 7 * 5) + 4 * 5, 2 * 15),
        ("dense_forward", {"dtype": "tf32"}, 4 * (3 * 7 + 7 * 5 + 5), 4 * 15),
        ("hidden_delta", {"dtype": "float64"}, 8 * (3 * 7 + 7 * 5 + 15), 8 * 15),
        ("weight_gradient", {"dtype": "float16"}, 2 * (3 * 7 + 7 * 5), 4 * 15),
        ("weight_step", {}, 4 * (3 * 7 + 7 * 5 + 15), 4 * 15),
        ("weight_gradient", {"dtype": "float16", "accumulate": True}, 2 * (3 * 7 + 7 * 5) + 4 * 15, 4 * 15),
    ],
)
def test_what_each_product_reads_and_writes(primitive, options, read, written):
    found = cost(primitive, (3, 5, 7), **options)
    assert (found.flops, found.bytes_read, found.bytes_written) == (210, read, written)
    assert found.rate == options.get("dtype", "float32")


@pytest.mark.parametrize(
    ("primitive", "shape", "options", "flops", "read", "written"),
    [
        ("hadamard_derivative", (4, 6), {}, 48, 4 * 48, 4 * 24),
        ("hadamard_derivative", (4, 6), {"dtype": "bfloat16"}, 48, 2 * 48, 2 * 24),
        ("bias_gradient", (4, 6), {"dtype": "float16"}, 24, 2 * 24, 4 * 6),
        ("softmax", (4, 6), {"dtype": "float64"}, 120, 8 * 24, 8 * 24),
        ("output_delta", (4, 6), {}, 144, 4 * 24 + 8 * 4, 4 * 24 + 16),
        ("output_delta", (4, 6), {"labels": False}, 144, 8 * 24, 4 * 24 + 16),
        ("output_delta", (4, 6), {"weighted": True}, 168, 4 * 24 + 8 * 4 + 4 * 4, 4 * 24 + 16),
        ("bias_gradient", (4, 6), {"accumulate": True}, 30, 4 * 24 + 4 * 6, 4 * 6),
        ("update", (10,), {}, 20, 80, 40),
        ("update", (10,), {"optimizer": "momentum"}, 40, 120, 80),
        ("update", (10,), {"penalties": True}, 70, 80, 40),
        ("update", (10,), {"optimizer": "adam"}, 130, 160, 120),
        ("update", (10,), {"dtype": "bfloat16"}, 20, 80, 60),
    ],
)
def test_what_the_others_cost(primitive, shape, options, flops, read, written):
    found = cost(primitive, shape, **options)
    assert (found.flops, found.bytes_read, found.bytes_written) == (flops, read, written)


def test_elementwise_work_runs_on_the_cores_whatever_the_storage():
    assert cost("hadamard_derivative", (4, 6), "bfloat16").rate == "float32"
    assert cost("update", (4,), "float64").rate == "float64"


def test_every_optimizer_has_its_operations():
    from gpubp.nn.optimizers import OPTIMIZERS

    assert set(costs.UPDATE_FLOPS) == set(OPTIMIZERS)


def test_the_roofline():
    limits = Roofline(peak=100.0, bandwidth=10.0)
    assert limits.ridge == 10
    assert [limits.attainable(intensity) for intensity in (1, 10, 100)] == [10, 100, 100]
    assert [limits.bound(intensity) for intensity in (9.9, 10, 11)] == ["memory", "arithmetic", "arithmetic"]
    assert costs.Cost(flops=1000, bytes_read=5, bytes_written=5).least_seconds(limits) == 10
    assert costs.Cost(flops=10, bytes_read=500, bytes_written=500).least_seconds(limits) == 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dense_forwards", (1, 1, 1)), "did you mean 'dense_forward'"),
        (("dense_forward", (1, 1)), "MxNxK"),
        (("softmax", (1, 0)), "each side ≥ 1"),
        (("update", (1, 1)), "one number of parameters"),
        (("softmax", (1, 1), "float8"), "dtype was 'float8'"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        cost(*arguments)
