"""Device functions in Python that call themselves, with a signature and without."""

import inspect

import numpy as np
import pytest

from gpubp.emulator import CallError, cuda, limits, observe


@cuda.jit(device=True)
def fibonacci(n):
    if n < 2:
        return n
    return fibonacci(n - 1) + fibonacci(n - 2)


@cuda.jit("int64(int64)", device=True)
def signed_fibonacci(n):
    if n < 2:
        return n
    return signed_fibonacci(n - 1) + signed_fibonacci(n - 2)


def make_fibonaccis(function):
    @cuda.jit
    def fibonaccis(out):
        i = cuda.grid(1)
        if i < out.size:
            out[i] = function(i % 9)

    return fibonaccis


@cuda.jit(device=True)
def quicksort(x, low, high):
    if low >= high:
        return
    pivot = x[(low + high) // 2]
    i, j = low, high
    while i <= j:
        while x[i] < pivot:
            i += 1
        while x[j] > pivot:
            j -= 1
        if i <= j:
            x[i], x[j] = x[j], x[i]
            i += 1
            j -= 1
    quicksort(x, low, j)
    quicksort(x, i, high)


@cuda.jit
def sort_rows(x):
    row = cuda.grid(1)
    if row < x.shape[0]:
        quicksort(x[row], np.int64(0), x.shape[1] - 1)


@cuda.jit(device=True)
def endless(n):
    if n < 0:
        return n
    return endless(n + 1) + n


@cuda.jit
def never_ends(out):
    out[0] = endless(out[0])


@pytest.mark.parametrize("function", [fibonacci, signed_fibonacci], ids=["inferred", "with a signature"])
def test_a_sum_of_two_calls(function):
    out = np.zeros(40, np.int64)
    with observe(races=True, uninitialised=True) as report:
        make_fibonaccis(function)[2, 32](out)
    assert out.tolist() == [[0, 1, 1, 2, 3, 5, 8, 13, 21][i % 9] for i in range(40)]
    assert not report.findings


def test_quicksort_in_place():
    x = np.random.default_rng(0).integers(0, 50, (40, 17))
    expected = np.sort(x, axis=1)
    with limits(stack=4096):
        sort_rows[2, 32](x)
    assert np.array_equal(x, expected)


def test_recursion_without_an_end_is_named():
    line = inspect.getsourcelines(endless.py_func)[1] + 4
    with pytest.raises(CallError, match=rf"test_recursion.py:{line}, called at .*stack overflow: a call of .*endless"):
        never_ends[1, 1](np.zeros(1, np.int64))
