"""The emulator's arrays: CuPy's names, NumPy's meaning, memory of their own."""

import gc
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gpubp.emulator as cp
from gpubp.emulator.errors import EmulatorError

DTYPES = [np.float32, np.float64, np.float16, np.int8, np.uint64, np.bool_, np.complex64, ml_dtypes.bfloat16]


def counting(shape, dtype=np.float32):
    return np.arange(np.prod(shape)).astype(dtype).reshape(shape)


@pytest.mark.parametrize("dtype", DTYPES)
def test_there_and_back(dtype):
    host = counting((3, 4), dtype)
    device = cp.asarray(host)
    assert (device.shape, device.dtype, device.ndim, device.size) == ((3, 4), host.dtype, 2, 12)
    assert (device.nbytes, device.itemsize, device.strides) == (host.nbytes, host.itemsize, host.strides)
    back = cp.asnumpy(device)
    assert back.dtype == host.dtype
    np.testing.assert_array_equal(back, host)
    back[...] = 0
    np.testing.assert_array_equal(device.get(), host)


def test_new_memory_is_poisoned():
    assert np.isnan(cp.empty((5, 5), np.float32).get()).all()
    assert np.isnan(cp.empty(7, np.float64).get()).all()


@pytest.mark.parametrize("make", [cp.zeros, cp.ones, cp.empty])
def test_defaults_are_numpys(make):
    assert make(3).dtype == np.float64
    assert make(3).shape == (3,)


def test_filled_arrays():
    np.testing.assert_array_equal(cp.zeros((2, 3), np.int32).get(), np.zeros((2, 3), np.int32))
    np.testing.assert_array_equal(cp.full(3, 2.5, np.float32).get(), np.full(3, 2.5, np.float32))
    like = cp.asarray(counting((2, 3)).T.copy(order="F"))
    assert cp.zeros_like(like).flags.f_contiguous
    assert cp.full_like(like, 7, dtype=np.int16).get().dtype == np.int16
    assert cp.empty_like(like, shape=(9,)).shape == (9,)


def test_leading_rows_are_views():
    device = cp.asarray(counting((6, 4)))
    rows = device[2:4]
    assert rows.data.ptr == device.data.ptr + 2 * 4 * 4
    assert rows.base is device
    assert rows[1:].base is device
    assert rows.flags.c_contiguous
    rows.fill(-1)
    expected = counting((6, 4))
    expected[2:4] = -1
    np.testing.assert_array_equal(device.get(), expected)


READ = cp.RawKernel(
    'extern "C" __global__ void read(const int* x, int* y) { y[threadIdx.x] = x[threadIdx.x]; }', "read"
)


@pytest.mark.parametrize(
    ("write", "written"),
    [
        (lambda x: None, False),
        (lambda x: x.fill(1), True),
        (lambda x: x.set(np.zeros(8, np.int32)), True),
        (lambda x: x[:7].fill(1), False),
        (lambda x: x[::2].fill(1), False),
        (lambda x: (x[::2].fill(1), x[1::2].fill(1)), True),
        (lambda x: (x.reshape(2, 4)[:, :2].fill(1), x.reshape(2, 4)[:, 2:].fill(1)), True),
        (lambda x: x.reshape(2, 4)[:, :3].fill(1), False),
        (lambda x: x.__setitem__(slice(1, None), cp.zeros(7, np.int32)), False),
    ],
)
def test_observers_know_what_the_host_has_written(write, written):
    with cp.observe(uninitialised=True) as report:
        x, y = cp.empty(8, np.int32), cp.empty(8, np.int32)
        write(x)
        READ((1,), (8,), (x, y))
        assert report.findings == []
        y.get()
    assert bool(report.uninitialised) != written


INDICES = [
    slice(1, 3),
    slice(None, None, 2),
    slice(None, None, -1),
    2,
    -1,
    (slice(None), 1),
    (Ellipsis, slice(0, 2)),
    (1, 2, 3),
    (None, slice(1, 2)),
    (slice(3, 1), 0),
    (slice(None), slice(None, None, -2), slice(1, 4)),
]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_indexing_is_numpys(index):
    host = counting((4, 5, 6))
    device = cp.asarray(host)
    np.testing.assert_array_equal(device[index].get(), host[index])
    assert device[index].shape == host[index].shape
    assert device[index].flags.c_contiguous == np.asarray(host[index]).flags.c_contiguous
    device[index] = 77
    host[index] = 77
    np.testing.assert_array_equal(device.get(), host)


@pytest.mark.parametrize("index", [[0, 1], np.array([0, 1]), True, 1.5, "x"])
def test_other_indices_say_so(index):
    with pytest.raises(TypeError, match="index"):
        cp.zeros(4)[index]


def test_assignment_copies_and_broadcasts():
    device = cp.zeros((3, 4), np.float32)
    device[1:] = cp.asarray(counting(4))
    np.testing.assert_array_equal(device.get(), np.vstack([np.zeros(4), counting(4), counting(4)]))
    with pytest.raises(TypeError, match="set"):
        device[0] = np.zeros(4, np.float32)


@given(st.lists(st.integers(0, 4), max_size=3), st.data())
def test_contiguity_is_numpys(shape, data):
    host = np.zeros(shape, np.float32)
    slices = tuple(slice(None, None, data.draw(st.sampled_from([1, 2, -1]))) for _ in shape)
    expected = host[slices]
    ours = cp.asarray(host)[slices]
    if data.draw(st.booleans()):
        expected, ours = expected.T, ours.T
    assert ours.flags.c_contiguous == expected.flags.c_contiguous
    assert ours.flags["F_CONTIGUOUS"] == expected.flags.f_contiguous


def test_reshape_and_ravel_are_views_where_they_can():
    device = cp.asarray(counting((3, 4)))
    assert device.reshape(2, -1).shape == (2, 6)
    assert device.reshape((4, 3)).data.ptr == device.data.ptr
    assert device.ravel().data.ptr == device.data.ptr
    assert device.T.ravel().data.ptr != device.data.ptr
    np.testing.assert_array_equal(device.T.ravel().get(), counting((3, 4)).T.ravel())
    with pytest.raises(ValueError, match="no view"):
        device.T.reshape(12, copy=False)
    with pytest.raises(ValueError, match="reshape"):
        device.reshape(5, 5)


def test_a_shape_can_be_set():
    device = cp.asarray(counting((3, 4)))
    device.shape = 2, -1
    assert (device.shape, device.strides) == ((2, 6), (24, 4))
    np.testing.assert_array_equal(device.get(), counting((2, 6)))
    with pytest.raises(ValueError, match="reshape"):
        device.shape = (5, 5)
    turned = device.T
    with pytest.raises(ValueError, match="no view"):
        turned.shape = 12
    assert (device.shape, turned.shape) == ((2, 6), (6, 2))


def test_view_as_another_dtype():
    device = cp.asarray(np.array([1.0, 2.0], np.float32))
    np.testing.assert_array_equal(device.view(np.uint32).get(), np.array([1.0, 2.0], np.float32).view(np.uint32))
    assert device.view(np.uint16).shape == (4,)
    with pytest.raises(ValueError, match="cannot be viewed"):
        cp.zeros(3, np.float32).view(np.float64)


@pytest.mark.parametrize(
    ("out", "error"),
    [(np.zeros(3, np.float32), ValueError), (np.zeros((2, 2), np.float64), ValueError), ([0, 0], ValueError)],
)
def test_get_into_the_wrong_place(out, error):
    with pytest.raises(error, match="out is"):
        cp.zeros((2, 2), np.float32).get(out=out)


def test_get_into_the_right_place():
    out = np.empty((2, 3), np.float32)
    assert cp.asarray(counting((2, 3))).get(out=out) is out
    np.testing.assert_array_equal(out, counting((2, 3)))


@pytest.mark.parametrize("wrong", [np.zeros(4, np.float64), np.zeros((2, 2), np.float32), [0, 0, 0, 0], 0])
def test_set_of_the_wrong_thing(wrong):
    with pytest.raises((ValueError, TypeError), match="arr is"):
        cp.zeros(4, np.float32).set(wrong)


def test_asarray_copies_only_when_it_must():
    device = cp.asarray(counting(5))
    assert cp.asarray(device) is device
    assert cp.asarray(device, np.float32) is device
    assert cp.asarray(device, np.float64).dtype == np.float64
    assert cp.array(device) is not device
    assert cp.ascontiguousarray(device[::2]).flags.c_contiguous
    with pytest.raises(ValueError, match="without a copy"):
        cp.asarray([1, 2], copy=False)


def test_a_view_keeps_its_memory_and_the_last_reference_frees_it():
    device = cp.zeros(4, np.float32)
    view, address = device[2:], device.data.ptr
    del device
    gc.collect(0)  # what was made just now
    np.testing.assert_array_equal(view.get(), [0, 0])
    del view
    gc.collect(0)  # what was made just now
    freed = cp.ndarray(4, np.float32, cp.cuda.MemoryPointer(cp.cuda.UnownedMemory(address, 16, None), 0))
    with pytest.raises(EmulatorError):
        freed.get()


def test_interface_is_taken_without_a_copy():
    device = cp.asarray(counting((4, 6)))
    foreign = SimpleNamespace(__cuda_array_interface__=device[:, ::2].__cuda_array_interface__)
    taken = cp.asarray(foreign)
    np.testing.assert_array_equal(taken.get(), counting((4, 6))[:, ::2])
    taken.fill(3)
    assert (device.get()[:, ::2] == 3).all()
    assert device.__cuda_array_interface__["version"] == 3
    assert device.__cuda_array_interface__["strides"] is None


def test_interface_of_another_memory_is_refused():
    host = np.zeros(4, np.float32)
    interface = {"shape": (4,), "typestr": "<f4", "data": (host.ctypes.data, False), "version": 3}
    with pytest.raises(EmulatorError, match="does not lie in the emulated device's memory"):
        cp.asarray(SimpleNamespace(__cuda_array_interface__=interface))


class Producer:
    """An array of a library that speaks DLPack alone."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int8, np.uint64, np.bool_, np.complex64])
@pytest.mark.parametrize("index", [(), np.s_[1:], np.s_[:, ::2], (1, 2), np.s_[3:3]], ids=str)
def test_dlpack_there_and_back(dtype, index):
    device = cp.asarray(counting((3, 4), dtype))[index]
    assert device.__dlpack_device__() == (2, 0)
    taken = cp.from_dlpack(Producer(device))
    assert (taken.data.ptr, taken.shape, taken.dtype) == (device.data.ptr, device.shape, device.dtype)
    np.testing.assert_array_equal(taken.get(), device.get())
    assert cp.from_dlpack(device, copy=True).data.ptr != device.data.ptr or device.size == 0


def test_dlpack_keeps_the_memory_alive():
    taken = cp.from_dlpack(Producer(cp.asarray(counting(5))))
    gc.collect(0)  # what was made just now
    cp.zeros(5, np.float32)
    np.testing.assert_array_equal(taken.get(), counting(5))


def test_dlpack_from_the_host_is_refused():
    with pytest.raises(BufferError, match="device 1"):
        cp.from_dlpack(np.zeros(3))
    with pytest.raises((BufferError, RuntimeError)):
        np.from_dlpack(cp.zeros(3))


def test_nothing_becomes_numpy_in_silence():
    device = cp.zeros(3)
    with pytest.raises(TypeError, match="asnumpy"):
        np.asarray(device)
    with pytest.raises(TypeError):
        np.zeros(3) + device


@pytest.mark.parametrize("shape", [(0,), (3, 0, 2), ()])
def test_odd_shapes(shape):
    device = cp.full(shape, 2, np.float32)
    np.testing.assert_array_equal(device.get(), np.full(shape, 2, np.float32))
    assert device.nbytes == np.zeros(shape, np.float32).nbytes


@pytest.mark.parametrize(
    "arguments", [((-1,),), ((2,), object), (3, np.float32, None, (4,)), (3, np.float32, None, None, "X")]
)
def test_arrays_that_cannot_be(arguments):
    with pytest.raises((ValueError, TypeError)):
        cp.ndarray(*arguments)


def test_stream_records_and_replays():
    stream = cp.cuda.Stream(non_blocking=True)
    source, target = cp.asarray(counting(4)), cp.zeros(4, np.float32)
    with stream:
        stream.begin_capture()
        assert stream.is_capturing()
        target[...] = source
        source.fill(9)
        graph = stream.end_capture()
    np.testing.assert_array_equal(target.get(), np.zeros(4))
    graph.launch()
    np.testing.assert_array_equal(target.get(), counting(4))
    graph.launch(stream)
    np.testing.assert_array_equal(target.get(), np.full(4, 9))


def test_what_a_capture_does_not_allow():
    stream, device = cp.cuda.Stream(), cp.zeros(4)
    with pytest.raises(EmulatorError, match="default stream"):
        cp.cuda.Stream.null.begin_capture()
    with pytest.raises(EmulatorError, match="not capturing"):
        stream.end_capture()
    with stream:
        stream.begin_capture()
        for forbidden in (stream.synchronize, device.get, lambda: device.set(np.zeros(4)), stream.begin_capture):
            with pytest.raises(EmulatorError, match="capturing"):
                forbidden()
        stream.end_capture()


def test_current_stream_nests():
    outer, inner = cp.cuda.Stream(), cp.cuda.Stream()
    assert cp.cuda.get_current_stream() == cp.cuda.Stream.null
    with outer:
        with inner:
            assert cp.cuda.get_current_stream() is inner
        assert cp.cuda.get_current_stream() is outer
    assert cp.cuda.get_current_stream().ptr == 0


def test_device_follows_the_chosen_architecture():
    with cp.use("sm_80"):
        assert cp.cuda.Device().compute_capability == "80"
        assert cp.cuda.Device(0).attributes["MaxSharedMemoryPerBlockOptin"] == 163 * 1024
    with cp.use("sm_120"):
        assert cp.cuda.Device().compute_capability == "120"
    assert cp.cuda.Device().compute_capability == "90"
    with pytest.raises(ValueError, match="arch is 'sm_1'"):
        cp.use("sm_1")
    with pytest.raises(EmulatorError, match="one device"):
        cp.cuda.Device(1)


def test_times_are_refused():
    with pytest.raises(EmulatorError, match="no time"):
        cp.cuda.get_elapsed_time(cp.cuda.Event(), cp.cuda.Event())


@pytest.mark.parametrize("shape", [0, (3, 0), (0, 5, 2)])
def test_an_array_without_elements_is_a_null_pointer(shape):
    x = cp.zeros(shape, np.float32)
    assert x.data.ptr == 0
    assert x.__cuda_array_interface__["data"] == (0, False)
    assert x.get().shape == x.T.get().T.shape == x.shape
    assert cp.zeros(5)[2:2].__cuda_array_interface__["data"] == (0, False)
    x[...] = 1
    assert x.copy().reshape(-1).size == 0
    kernel = cp.RawKernel('extern "C" __global__ void k(float* x, int n) { if (threadIdx.x < n) x[0] = 1; }', "k")
    kernel((1,), (32,), (x, 0))
    with pytest.raises(cp.MemoryAccessError, match="a null pointer"):
        kernel((1,), (32,), (x, 1))
