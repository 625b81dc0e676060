"""Checks are made once for each set of arrays, and what differs from it in any fact is checked anew."""

import numpy as np
import pytest
from devices import DEVICE

from gpubp.backends import arguments
from gpubp.backends.arguments import ArgumentChecker
from gpubp.backends.cupy_backend import CupyBackend
from gpubp.backends.numba_backend import NumbaBackend
from gpubp.errors import ArgumentError
from gpubp.nn import activations

RELU = activations.get("relu")


@pytest.fixture(params=[CupyBackend, NumbaBackend], ids=lambda kind: kind.name)
def backend(request):
    made = request.param(DEVICE)
    made.variant = "naive"  # quick to compile
    return made


@pytest.fixture
def looked_at(monkeypatch):
    """The names of the arrays that a check looks at."""
    names = []
    look = ArgumentChecker.array
    monkeypatch.setattr(
        ArgumentChecker, "array", lambda self, name, *facts: names.append(name) or look(self, name, *facts)
    )
    return names


def forward(backend, rows=4, dtype="float32"):
    """Arguments of dense_forward."""
    a_prev, w = backend.zeros((rows, 3), dtype), backend.zeros((5, 3), dtype)
    return [a_prev, w, None, RELU, None, backend.zeros((rows, 5), dtype)]


def test_arrays_that_have_passed_are_not_looked_at_again(backend, looked_at):
    given = forward(backend)
    backend.dense_forward(*given)
    assert looked_at
    looked_at.clear()
    backend.dense_forward(*given)
    backend.dense_forward(given[0][:], *given[1:])  # another object for the same memory
    assert looked_at == []
    other = forward(backend)
    backend.dense_forward(*other)
    assert looked_at


@pytest.mark.filterwarnings("ignore:Grid size")  # Numba transposes by a kernel of its own
@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        (0, lambda backend, x: x[:3], r"a\.shape"),
        (1, lambda backend, x: x.reshape(3, 5), r"w\.shape"),
        (0, lambda backend, x: x.reshape(-1), "a_prev"),
        (5, lambda backend, x: x.view(np.int32), r"a\.dtype"),
        (5, lambda backend, x: x.T, r"a\."),
        (5, lambda backend, x: np.zeros((4, 5), "float32"), "a is a ndarray"),
        (5, lambda backend, x: None, "a is a NoneType"),
        (4, lambda backend, x: np.zeros((4, 5), "float32"), "z is a ndarray"),
    ],
    ids=["fewer rows", "other sides", "flat", "other dtype", "transposed", "host", "none", "host for none"],
)
def test_one_other_fact_is_refused_after_others_have_passed(backend, place, change, message):
    given = forward(backend)
    backend.dense_forward(*given)
    wrong = [*given[:place], change(backend, given[place]), *given[place + 1 :]]
    for _ in range(2):  # a refusal is not remembered
        with pytest.raises(ArgumentError, match=message):
            backend.dense_forward(*wrong)
    backend.dense_forward(*given)


def test_strides_and_overlap_are_facts(backend):
    square = [backend.zeros((4, 4), "float32") for _ in range(3)]
    backend.transpose_product(*square)
    a, b, c = square
    with pytest.raises(ArgumentError, match=r"w_next\.strides"):
        backend.transpose_product(a, backend.zeros((4, 8), "float32")[:, :4], c)
    with pytest.raises(ArgumentError, match=r"product overlaps delta_next"):
        backend.transpose_product(a, b, a)


def test_facts_that_are_set_in_place_are_new():
    backend = CupyBackend(DEVICE)
    given = forward(backend)
    backend.dense_forward(*given)
    given[1].shape = 3, 5
    with pytest.raises(ArgumentError, match=r"w\.shape"):
        backend.dense_forward(*given)


def test_a_primitive_does_not_vouch_for_another(backend, looked_at):
    x, y = backend.zeros((4, 4), "float32"), backend.zeros((4, 4), "float32")
    backend.cast(x, y)
    looked_at.clear()
    backend.copy(x, y)
    assert looked_at


def test_no_more_than_a_limit_is_remembered(backend, monkeypatch):
    monkeypatch.setattr(arguments, "MOST_REMEMBERED", 3)
    arrays = [backend.zeros((2,), "float32") for _ in range(8)]
    for x in arrays:
        backend.scale(x, 1.0)
        assert 1 <= len(backend._check.passed) <= 3


def test_the_device_is_a_fact():
    """An address alone does not say on which of several devices an array lies."""
    device = 0
    check = ArgumentChecker(np.ndarray, 0, lambda x: x.ctypes.data, lambda x: device, (np.dtype(np.float32),))
    x = np.ones((2, 3), np.float32)
    assert check.scale(x) == check.scale(x) == 6
    device = 1
    with pytest.raises(ArgumentError, match=r"x\.device was 1; it must be 0"):
        check.scale(x)
