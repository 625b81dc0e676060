"""Numba's arrays, streams and events on the host, where they differ from CuPy's."""

import numpy as np
import pytest

import gpubp.emulator as cp
from gpubp.emulator import EmulatorError, cuda


def counting(*shape: int) -> np.ndarray:
    return np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)


VIEWS = {"all": lambda x: x, "rows": lambda x: x[::2], "columns": lambda x: x[:, 1:4], "back": lambda x: x[1:, ::-1]}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_transposed_arrays_are_copies_as_numbas_are(view):
    host = counting(6, 7)
    device = cuda.to_device(host)
    for transposed in (view(device).T, view(device).transpose(), view(device).transpose((1, 0))):
        assert np.array_equal(transposed.copy_to_host(), view(host).T)
        assert transposed.is_c_contiguous()
        transposed[0, 0] = -1
    assert np.array_equal(device.copy_to_host(), host)
    assert view(device).transpose((0, 1)).copy_to_host().tolist() == view(host).tolist()


def test_a_single_element_of_an_array_and_of_a_view_is_set():
    device = cuda.to_device(counting(3, 4))
    device[1, 2] = 50
    device[::2][1][0] = np.float32(60)
    expected = counting(3, 4)
    expected[1, 2], expected[2, 0] = 50, 60
    assert np.array_equal(device.copy_to_host(), expected)


def test_what_numba_does_not_transpose():
    for shape in ((4,), (2, 3, 4)):
        with pytest.raises(NotImplementedError, match="transposing a non-2D DeviceNDArray isn't supported"):
            _ = cuda.device_array(shape).T
    with pytest.raises(ValueError, match=r"invalid axes list \(0, 2\)"):
        cuda.device_array((2, 3)).transpose((0, 2))


def test_cupys_transposed_arrays_are_views():
    x = cp.asarray(counting(6, 7))
    x.T[0, 3] = np.float32(-1)
    assert x.get()[3, 0] == -1


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 5)])
def test_an_array_of_no_elements_has_a_null_pointer(shape):
    assert cp.empty(shape).data.ptr == 0
    assert cp.zeros(shape, np.float32).__cuda_array_interface__["data"] == (0, False)
    made = cuda.device_array(shape)
    assert made.device_ctypes_pointer.value in (0, None)
    assert made.copy_to_host().shape == shape
    assert cuda.to_device(np.zeros(shape)).size == 0


TABLE = np.arange(10, dtype=np.float64)


@cuda.jit
def with_constants(out):
    table = cuda.const.array_like(TABLE)
    i = cuda.threadIdx.x
    out[i] = table[i % 10]


@cuda.jit
def without_constants(out):
    out[cuda.threadIdx.x] = 1


def test_the_bytes_of_constant_memory():
    out = cuda.device_array(32)
    with_constants[1, 32](out)
    without_constants[1, 32](out)
    assert np.array_equal(out.copy_to_host(), np.ones(32))
    (sizes,) = with_constants.get_const_mem_size().values()
    assert sizes == TABLE.nbytes
    (sizes,) = without_constants.get_const_mem_size().values()
    assert sizes == 0
    assert with_constants.get_const_mem_size(with_constants.signatures[0]) == TABLE.nbytes


def test_events_of_either_library_beside_streams_of_either():
    streams = [cuda.stream(), cuda.default_stream(), cp.cuda.Stream()]
    for stream in streams:
        for event in (cuda.event(), cp.cuda.Event()):
            event.record(stream)
            event.synchronize()
        numbas = cuda.event(timing=False)
        numbas.record(stream)
        for other in streams:
            numbas.wait(other)
        assert numbas.query()
    numbas.record()
    with cuda.stream().auto_synchronize() as stream:
        without_constants[1, 32, stream](cuda.device_array(32))
        cp.cuda.Event().record(stream)


def test_the_time_between_events_is_not_made_up():
    first, second = cuda.event(), cuda.event()
    first.record()
    second.record()
    with pytest.raises(EmulatorError, match="time"):
        first.elapsed_time(second)


def test_textures_of_the_host_are_refused_by_name():
    with pytest.raises(EmulatorError, match=r"cuda.texture: textures and surfaces are not emulated"):
        _ = cp.cuda.texture
