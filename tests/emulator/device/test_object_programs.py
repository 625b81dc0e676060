"""Programs with objects, recursion and memory of their own give what the same programs give in Python."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

import gpubp.emulator as cp
from gpubp.emulator import limits, observe
from gpubp.emulator.device.heap import HEAP

THREAD = np.arange(32)


@pytest.fixture(scope="module")
def module() -> cp.RawModule:
    return cp.RawModule(code=(Path(__file__).parents[1] / "kernels" / "object_programs.cu").read_text())


@pytest.fixture(params=["plain", *(pytest.param(each, marks=pytest.mark.slow) for each in ("observed", 1, 2))])
def run(module, request):
    """Launch a kernel, of one block if nothing else is said: plainly, or with every observer, which find nothing, or
    in another order."""

    def launch(name, *arguments, blocks=1, threads=32):
        module.get_function(name)((blocks,), (threads,), arguments)

    before = HEAP.used
    if request.param == "plain":
        yield launch
    else:
        order = None if request.param == "observed" else request.param
        with observe(races=True, uninitialised=True, traffic=order is None, order=order) as report:
            yield launch
        assert not report.findings
    assert HEAP.used == before


def test_lambdas(run):
    x = THREAD.astype(np.float32)
    device = cp.asarray(x)
    run("lambdas", device)
    np.testing.assert_array_equal(device.get(), np.choose(THREAD % 3, [x + 1, x * x, np.sqrt(x)]))


def test_pointers_to_members(run):
    out = cp.empty(32, np.int32)
    run("members", out)
    assert np.array_equal(out.get(), np.where(THREAD & 1, THREAD * 10, THREAD + 10))


def test_two_bases(run):
    out = cp.empty(32, np.int32)
    run("two_bases", out)
    assert np.array_equal(out.get(), 4 * THREAD * 1000 + 32 * THREAD)


def test_a_sort_by_trees(run):
    rows = np.random.default_rng(0).integers(0, 100, (32, 12), np.int32)
    device = cp.asarray(rows)
    run("tree_sort", device, np.int32(12))
    assert np.array_equal(device.get(), np.sort(rows, axis=1))


def test_queens(run):
    out = cp.empty(32, np.int32)
    run("queens_of", out)
    assert out.get().tolist() == [[1, 0, 0, 2, 10, 4][i % 6] for i in THREAD]


@lru_cache
def ackermann(m, n):
    if m == 0:
        return n + 1
    return ackermann(m - 1, 1) if n == 0 else ackermann(m - 1, ackermann(m, n - 1))


def test_recursion_in_an_argument(run):
    out = cp.empty(12, np.int32)
    with limits(stack=2048):
        run("ackermanns", out, threads=12)
    assert out.get().tolist() == [ackermann(i % 3, i % 4) for i in range(12)]


def test_a_hash_table_of_lists(run):
    keys = np.random.default_rng(1).integers(0, 1000, 100, np.int32)
    counts = cp.empty(8, np.int32)
    run("hash_put", cp.asarray(keys), np.int32(100), blocks=4)
    run("hash_count", counts, threads=8)
    assert np.array_equal(counts.get(), np.bincount(keys & 7, minlength=8))


def test_an_interpreter(run):
    out = cp.empty(32, np.int32)
    run("run", cp.asarray(np.array([0, 3, 1, 4, 0, 1, 2], np.uint8)), out)
    assert np.array_equal(out.get(), (THREAD + 3) * 4 + 1)
