"""The buffers: what is read or written beside an array shows, on any backend."""

import numpy as np
import pytest

from gpubp import backends
from gpubp.backends.numpy_backend import NumpyBackend
from gpubp.crosscheck import buffers, cases, problems
from gpubp.dtypes import ARITHMETIC
from gpubp.emulator import MemoryAccessError

DTYPES = (*dict.fromkeys(str(kind.storage) for kind in ARITHMETIC.values()), "int64")
FLOATS = tuple(name for name in DTYPES if name != "int64")


@pytest.fixture(scope="module")
def emulated():
    return backends.get("cupy", "emulator")


def buffer(backend, name="x", written=True, *, dtype="float32", offset=0, size=5):
    return buffers.filled(backend, name, np.ones(size, dtype), offset, written)


def guards(found):
    """The zones before and behind the array of a buffer."""
    return np.delete(found.host, np.arange(found.start, found.start + found.array.size))


def bits(x):
    return x.view(f"u{x.itemsize}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("written", [True, False])
def test_guards_differ_by_array_and_by_place(dtype, written):
    first, second = (bits(guards(buffer(NumpyBackend(), name, written, dtype=dtype))) for name in "xy")
    few = 0.1 * first.size if np.dtype(dtype).itemsize == 2 else 0  # of 16 bits, some are the same by chance
    assert (first == second).sum() <= few
    assert (first[1:] == first[:-1]).sum() <= few
    assert (first[buffers.GUARD :] == first[: buffers.GUARD]).sum() <= few
    again = guards(buffer(NumpyBackend(), "x", written, dtype=dtype))
    np.testing.assert_array_equal(bits(again), first)


@pytest.mark.parametrize("dtype", FLOATS)
def test_guards_are_finite_beside_what_is_written_and_nan_beside_what_is_read(dtype):
    assert np.isfinite(guards(buffer(NumpyBackend(), written=True, dtype=dtype)).astype(float)).all()
    assert np.isnan(guards(buffer(NumpyBackend(), written=False, dtype=dtype)).astype(float)).all()


def through(function, source, out, places):
    """What an elementwise kernel does that takes these places of arrays for its own."""
    behind_source, behind_out = (
        np.lib.stride_tricks.as_strided(x.array, (places.stop,), x.array.strides) for x in (source, out)
    )
    behind_out[places] = function(behind_source[places])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("place", [5, 6, 100])
@pytest.mark.parametrize("function", [lambda x: x, lambda x: x * np.nan, np.zeros_like, np.abs, np.negative])
def test_what_is_written_one_past_the_end_shows_whatever_it_is(dtype, place, function):
    backend = NumpyBackend()
    source, out = (buffer(backend, name, written, dtype=dtype) for name, written in (("x", False), ("y", True)))
    through(function, source, out, slice(place, place + 1))
    assert out.damage(backend) == f"wrote outside the array, at element {place} of 5"
    assert source.damage(backend) == ""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("name", ["numpy", "emulated"])
def test_what_was_put_in_is_read_and_nothing_is_damaged(request, name, dtype, offset):
    backend = NumpyBackend() if name == "numpy" else request.getfixturevalue("emulated")
    found = buffer(backend, written=False, dtype=dtype, offset=offset)
    np.testing.assert_array_equal(found.read(backend).astype(float), np.ones(5))
    assert found.damage(backend) == ""


@pytest.mark.parametrize("written", [True, False])
def test_a_changed_input_is_a_damage_and_a_changed_output_is_none(emulated, written):
    found = buffer(emulated, written=written)
    emulated.scale(found.array, 2.0)
    assert found.damage(emulated) == ("" if written else "changed an input, at element 0")


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("written", [True, False])
def test_on_the_emulated_device_memory_ends_where_the_array_does(emulated, written, offset):
    """So the emulator refuses what reads or writes one past the end, and names the line."""
    import gpubp.emulator as cp

    found = buffer(emulated, written=written, offset=offset)
    touch = {
        True: 'extern "C" __global__ void touch(float* x, int i, float* out) { x[i] = 1; }',
        False: 'extern "C" __global__ void touch(const float* x, int i, float* out) { *out = x[i]; }',
    }[written]
    kernel = cp.RawKernel(touch, "touch")
    out = cp.zeros(1, "float32")
    kernel((1,), (1,), (found.array, np.int32(4), out))
    with pytest.raises(MemoryAccessError, match="0 bytes past the end"):
        kernel((1,), (1,), (found.array, np.int32(5), out))


def test_what_is_read_before_an_array_is_a_guard(emulated):
    found = buffer(emulated, written=False, offset=1)
    import gpubp.emulator as cp

    out = cp.zeros(1, "float32")
    read = 'extern "C" __global__ void read(const float* x, float* out) { *out = x[-1]; }'
    cp.RawKernel(read, "read")((1,), (1,), (found.array, out))
    assert np.isnan(out.get()).all()


def test_any_of_a_case_s_arrays_may_lie_off_the_alignment(emulated):
    """So that a kernel cannot infer from one how the others lie."""
    found = set()
    for seed in range(60):
        case = cases.parse(f"hadamard_derivative:-:float32:3x5:tanh:-:1:random:1:{seed}")
        placed = buffers.placed(emulated, problems.make(case), case)
        assert placed.keys() == {"product", "saved", "delta"}
        off = tuple(each.start > buffers.GUARD for each in placed.values())
        assert off == tuple(
            each.start > buffers.GUARD for each in buffers.placed(emulated, problems.make(case), case).values()
        )
        assert any(off)
        found.add(off)
    assert len(found) == 2**3 - 1
