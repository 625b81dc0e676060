"""The choice of a plan: at most 1 ms for a product of a new shape, and 2 µs for one that was there before.

python -m pytest benchmarks/bench_plans.py --benchmark-enable
"""

from __future__ import annotations

import itertools

import pytest

from gpubp import chips
from gpubp.backends import plan_model
from gpubp.backends.arguments import Product
from gpubp.backends.gpu_backend import execution_of
from gpubp.dtypes import ARITHMETIC

CHIP = chips.get("H100").for_plans()
SHAPES = ((64, 128, 784), (256, 256, 256), (512, 4096, 4096))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_new_shape(benchmark, shape, dtype):
    variant = "tensorcore" if ARITHMETIC[dtype].tensor_cores else "pipelined"
    plan_model.choose(*shape, dtype, CHIP, variant)  # the candidates are made once
    benchmark(lambda: plan_model.choose(*shape, dtype, CHIP, variant))
    assert benchmark.stats.stats.median < 1e-3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_shape_that_was_there_before(benchmark, dtype):
    found = Product(256, 1024, 784, 16, ARITHMETIC[dtype].storage)
    repeated = list(itertools.repeat(found, 1000))

    def again():
        for each in repeated:
            execution_of(each, "NT", False, None, None, CHIP)

    benchmark(again)
    assert benchmark.stats.stats.median / len(repeated) < 2e-6
