"""Numba kernels on the emulator: compiled without a driver, launched as Numba launches them."""

import enum
import math
from types import SimpleNamespace

import numba.cuda
import numpy as np
import pytest
from numba.core.errors import NumbaError

import gpubp.emulator as cp
from gpubp.emulator import EmulatorError, LaunchError, MemoryAccessError, cuda
from gpubp.emulator.numba import compiler as numba_compiler

THREE = 3
TABLE = np.array([1.0, 10.0, 100.0], np.float32)


@pytest.fixture
def compilations(monkeypatch, tmp_path):
    """A list that grows with every real compilation; the disk cache is empty at first."""
    monkeypatch.setenv("GPUBP_CACHE_DIR", str(tmp_path))
    done = []
    original = numba_compiler.compile_ptx

    def counted(*arguments):
        done.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(numba_compiler, "compile_ptx", counted)
    return done


def numbers(*shape, dtype=np.float32):
    return np.arange(math.prod(shape), dtype=dtype).reshape(shape)


@cuda.jit
def double(x, y):
    i = cuda.grid(1)
    if i < x.size:
        y[i] = 2 * x[i]


# Arrays and scalars


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int8, np.uint64, np.complex64])
def test_numpy_arrays_are_copied_back(dtype):
    x = numbers(40, dtype=np.int8).astype(dtype)
    y = np.zeros_like(x)
    double[2, 32](x, y)
    np.testing.assert_array_equal(y, 2 * x)


def test_device_arrays_stay_where_they_are():
    x, y = cuda.to_device(numbers(40)), cuda.device_array(40, np.float32)
    double[2, 32](x, y)
    np.testing.assert_array_equal(y.copy_to_host(), 2 * numbers(40))
    out = np.empty(40, np.float32)
    assert y.copy_to_host(out) is out
    y.copy_to_device(numbers(40))
    np.testing.assert_array_equal(y.copy_to_host(), numbers(40))


def test_device_arrays_are_numbas():
    device = cuda.to_device(numbers(3, 4))
    assert device[1, 2] == 6
    assert isinstance(device[1, 2], float)
    device[0] = np.full(4, -1, np.float32)
    device[2, 1:3] = 7
    expected = numbers(3, 4)
    expected[0], expected[2, 1:3] = -1, 7
    np.testing.assert_array_equal(device.copy_to_host(), expected)
    np.testing.assert_array_equal(np.asarray(device), expected)
    assert isinstance(device[1:], type(device))
    with pytest.raises(TypeError, match="float32"):
        device.copy_to_device(np.zeros((3, 4)))
    like = cuda.device_array_like(np.zeros((3, 4), order="F"))
    assert like.is_f_contiguous()
    assert not like.is_c_contiguous()


NUMBA_PROGRAM = """
import numpy as np
from numba import cuda

@cuda.jit(device=True)
def squared(x):
    return x * x

@cuda.jit
def norm(x, total):
    own = cuda.shared.array(64, np.float32)
    i = cuda.grid(1)
    own[cuda.threadIdx.x] = squared(x[i]) if i < x.size else 0
    cuda.syncthreads()
    step = cuda.blockDim.x // 2
    while step > 0:
        if cuda.threadIdx.x < step:
            own[cuda.threadIdx.x] += own[cuda.threadIdx.x + step]
        cuda.syncthreads()
        step //= 2
    if cuda.threadIdx.x == 0:
        cuda.atomic.add(total, 0, own[0])

cuda.select_device(0)
stream = cuda.stream()
with stream.auto_synchronize():
    x = cuda.to_device(np.arange(100, dtype=np.float32), stream)
    total = cuda.to_device(np.zeros(1, np.float32), stream)
    norm[2, 64, stream](x, total)
cuda.synchronize()
result = total.copy_to_host()[0]
"""


def test_a_program_runs_by_changing_an_import():
    names = {}
    exec(NUMBA_PROGRAM.replace("from numba import cuda", "from gpubp.emulator import cuda"), names)
    assert names["result"] == sum(i * i for i in range(100))


def test_arrays_of_either_library_and_the_interface():
    x = cp.asarray(numbers(40))
    y = SimpleNamespace(__cuda_array_interface__=cp.empty(40, np.float32).__cuda_array_interface__)
    target = cp.zeros(40, np.float32)
    y = SimpleNamespace(__cuda_array_interface__=target.__cuda_array_interface__)
    double[2, 32](x, cuda.as_cuda_array(y))
    np.testing.assert_array_equal(target.get(), 2 * numbers(40))
    target.fill(0)
    double[2, 32](x, y)
    np.testing.assert_array_equal(target.get(), 2 * numbers(40))


def test_read_only_and_hinted_arrays():
    x, y = numbers(8), np.zeros(8, np.float32)
    x.flags.writeable = False
    double[1, 8](cuda.In(x), cuda.Out(y))
    np.testing.assert_array_equal(y, 2 * x)
    kept = np.zeros(8, np.float32)
    double[1, 8](x, cuda.In(kept))
    assert (kept == 0).all()

    @cuda.jit
    def touch_first(x):
        x[0] = 1

    poisoned = np.zeros(2, np.float32)
    touch_first[1, 1](cuda.Out(poisoned))
    assert poisoned[0] == 1
    assert np.isnan(poisoned[1])
    both = np.full(2, 5, np.float32)
    touch_first[1, 1](cuda.InOut(both))
    np.testing.assert_array_equal(both, [1, 5])


@cuda.jit
def shape_and_strides(x, out):
    out[0], out[1], out[2], out[3] = x.shape[0], x.shape[1], x.strides[0], x.strides[1]
    out[4], out[5], out[6] = x.size, x.itemsize, x.ndim
    x[1, 2] = 99


@pytest.mark.parametrize("layout", ["C", "F", "rows", "columns"])
def test_layouts(layout):
    base = numbers(6, 8)
    view = {"C": base, "F": base.T, "rows": base[::2], "columns": base[:, ::2]}[layout]
    device = {"C": lambda d: d, "F": lambda d: d.T, "rows": lambda d: d[::2], "columns": lambda d: d[:, ::2]}[layout](
        cp.asarray(base)
    )
    out = np.zeros(7, np.int64)
    shape_and_strides[1, 1](device, out)
    assert tuple(out) == (*view.shape, *view.strides, view.size, 4, 2)
    assert device.get()[1, 2] == 99
    host = view.copy(order="K") if layout in "CF" else view
    shape_and_strides[1, 1](host, out)
    assert host[1, 2] == 99


@cuda.jit
def take_scalars(a, b, c, d, pair, out):
    out[0] = a
    out[1] = b
    out[2] = c.real + c.imag
    out[3] = 1 if d else 0
    out[4] = pair[0] + pair[1][0]


def test_scalars_and_tuples():
    out = np.zeros(5)
    take_scalars[1, 1](7, np.float32(1.5), 2 + 3j, True, (np.int8(3), (np.float64(0.25), 1)), out)
    np.testing.assert_array_equal(out, [7, 1.5, 5, 1, 3.25])
    take_scalars[1, 1](np.uint8(4), -1.0, np.complex64(1j), False, (1, (2, 3)), out)
    np.testing.assert_array_equal(out, [4, -1, 1, 0, 3])


class Side(enum.IntEnum):
    LEFT = 4
    RIGHT = 5


@pytest.mark.parametrize(
    "host",
    [
        np.zeros((4, 6)),
        np.zeros((4, 6), order="F"),
        np.zeros((4, 6), order="F")[:, ::2],
        np.zeros((4, 6))[::2],
        np.zeros((2, 3, 4)).transpose(1, 2, 0),
        np.zeros((2, 3, 4)).transpose(1, 2, 0)[:, ::2],
        np.zeros((1, 6)),
        np.zeros(6)[::2],
        np.zeros((4, 0)),
    ],
)
def test_an_array_like_another_has_its_order_and_no_gaps(host):
    """As numba-cuda's own."""
    expected = numba.cuda.api._contiguous_strides_like_array(host)
    order = numba.cuda.api._order_like_array(host)
    for like in (host, cuda.to_device(host)):
        made = cuda.device_array_like(like)
        assert made.shape == host.shape
        if like is host and host.size:
            assert made.strides == (np.zeros(host.shape, order=order).strides if expected is None else expected)
        if host.ndim < 3:
            made.copy_to_device(np.ones(host.shape))
            np.testing.assert_array_equal(made.copy_to_host(), np.ones(host.shape))


def test_strides_with_gaps_are_refused():
    for strides in ((8, 64), (8,), (96, 24, 8)):
        with pytest.raises(NotImplementedError, match="gaps"):
            cuda.device_array((4, 3), np.float64, strides=strides)
    assert cuda.device_array((4, 3), np.float64, strides=(8, 32)).strides == (8, 32)


def test_enumerations():
    @cuda.jit
    def is_left(side, out):
        out[0] = 1 if side == Side.LEFT else 0

    out = np.zeros(1)
    for side in Side:
        is_left[1, 1](side, out)
        assert out[0] == (side is Side.LEFT)


# Signatures


def test_one_signature_converts_scalars():
    @cuda.jit("void(float32[::1], float32, int32)")
    def fill(x, value, n):
        i = cuda.grid(1)
        if i < n:
            x[i] = value

    x = np.zeros(8, np.float32)
    fill[1, 8](x, 3, 4)
    np.testing.assert_array_equal(x, [3, 3, 3, 3, 0, 0, 0, 0])
    assert fill.specialized
    assert len(fill.signatures) == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((np.zeros(8), 1.0, 8), "fits|takes"),
        ((np.zeros((2, 4), np.float32), 1.0, 8), "fits|takes"),
        ((cp.zeros(16, np.float32)[::2], 1.0, 8), "fits|takes"),
        ((np.zeros(8, np.float32), 1.0), "2 arguments given, the kernel has 3"),
        ((np.zeros(8, np.float32), 1.0, 2**40), "int32 cannot hold it"),
        ((np.zeros(8, np.float32), "x", 8), "fits|takes"),
    ],
)
def test_arguments_that_do_not_fit_a_signature(arguments, complaint):
    @cuda.jit("void(float32[::1], float32, int32)")
    def fill(x, value, n):
        if n > 0:
            x[0] = value

    with pytest.raises((LaunchError, NumbaError, ValueError), match=complaint):
        fill[1, 1](*arguments)


def test_several_signatures():
    @cuda.jit([numba.void(numba.float32[:], numba.int64[:]), numba.void(numba.float64[:], numba.int64[:])])
    def item_size(x, out):
        out[0] = x.itemsize

    out = np.zeros(1, np.int64)
    for dtype, size in ((np.float32, 4), (np.float64, 8)):
        item_size[1, 1](np.zeros(3, dtype), out)
        assert out[0] == size
    assert len(item_size.signatures) == 2
    with pytest.raises(LaunchError, match="no signature fits"):
        item_size[1, 1](np.zeros(3, np.int8), out)


def test_a_kernel_returns_nothing():
    with pytest.raises(TypeError, match="returns nothing"):

        @cuda.jit("float32(float32)")
        def wrong(x):
            return x


# Launches


def test_a_launch_needs_its_configuration():
    with pytest.raises(ValueError, match="launch configuration"):
        double(numbers(3), numbers(3))
    for wrong in [(1,), (1, 2, 3, 4, 5)]:
        with pytest.raises(ValueError, match="launch configuration"):
            double[wrong]


@pytest.mark.parametrize("configuration", [(0, 32), (1, 0), (1, 1025), ((1, 70000), 1)])
def test_launches_no_gpu_accepts(configuration):
    with pytest.raises(LaunchError):
        double[configuration](numbers(3), numbers(3))


def test_forall_and_specialize():
    x, y = numbers(1000), np.zeros(1000, np.float32)
    double.forall(1000)(x, y)
    np.testing.assert_array_equal(y, 2 * x)
    double.forall(0)(x, y)
    special = double.specialize(x, y)
    assert special.specialized
    special[8, 128](x, y)


def test_dynamic_shared_memory():
    @cuda.jit
    def reverse(x):
        own = cuda.shared.array(0, np.float32)
        i = cuda.threadIdx.x
        own[i] = x[i]
        cuda.syncthreads()
        x[i] = own[cuda.blockDim.x - 1 - i]

    x = numbers(64)
    reverse[1, 64, 0, 256](x)
    np.testing.assert_array_equal(x, numbers(64)[::-1])
    with pytest.raises(EmulatorError):
        reverse[1, 64, 0, 128](x)
    with pytest.raises(LaunchError, match="dynamic shared memory"):
        reverse[1, 64, 0, 49 * 1024](x)


def test_streams_record_and_replay():
    stream = cuda.stream()
    x, y = cuda.to_device(numbers(8)), cuda.to_device(np.zeros(8, np.float32))
    stream.begin_capture()
    double[1, 8, stream](x, y)
    graph = stream.end_capture()
    assert (y.copy_to_host() == 0).all()
    graph.launch()
    np.testing.assert_array_equal(y.copy_to_host(), 2 * numbers(8))
    with stream.auto_synchronize():
        double[1, 8, stream](y, x)
    np.testing.assert_array_equal(x.copy_to_host(stream=stream), 4 * numbers(8))


# Device functions


@cuda.jit(device=True)
def plain(x):
    return x * x


@cuda.jit(device=True, inline="always")
def inlined(x):
    return plain(x) + np.float32(1)


@cuda.jit("float32(float32, int32)", device=True)
def declared(x, n):
    total = x
    for _ in range(n):
        total += x
    return total


@numba.cuda.jit(device=True)
def numbas_own(x):
    return -x


@cuda.jit(device=True)
def counting_down(n):
    if n <= 0:
        return 0
    return 1 + counting_down(n - 1)


@cuda.jit
def call_them(x, y):
    i = cuda.grid(1)
    if i < x.size:
        y[i] = numbas_own(inlined(x[i])) + declared(x[i], 2) * THREE


def test_device_functions_of_every_kind():
    x, y = numbers(10), np.zeros(10, np.float32)
    call_them[1, 32](x, y)
    np.testing.assert_array_equal(y, -(x * x + 1) + 9 * x)


def test_device_functions_for_another_chip():
    x, y = numbers(10), np.zeros(10, np.float32)
    for arch in ("sm_80", "sm_90", "sm_120"):
        with cp.use(arch):
            call_them[1, 32](x, y)
            assert f".target {arch}" in next(iter(call_them.inspect_asm().values()))
        np.testing.assert_array_equal(y, -(x * x + 1) + 9 * x)


def test_a_device_function_is_not_called_from_the_host():
    with pytest.raises(TypeError, match="device function"):
        plain(2.0)


def test_factories_close_over_device_functions_and_constants():
    def factory(jit, function, size):
        apply = jit(function, device=True, inline="always")

        @jit
        def kernel(x, out):
            tile = cuda.shared.array(size, np.float32)
            i = cuda.threadIdx.x
            tile[i] = apply(x[i])
            cuda.syncthreads()
            out[i] = tile[size - 1 - i]

        return kernel

    for function, size in ((lambda x: x + np.float32(1), 4), (lambda x: x * np.float32(2), 8)):
        out = np.zeros(size, np.float32)
        factory(cuda.jit, function, size)[1, size](numbers(size), out)
        np.testing.assert_array_equal(out, function(numbers(size))[::-1])


# What kernels use


def test_memories_and_barriers():
    @cuda.jit
    def kernel(x, out):
        shared = cuda.shared.array((2, 32), np.float32)
        local = cuda.local.array(4, np.float32)
        constant = cuda.const.array_like(TABLE)
        i = cuda.threadIdx.x
        for k in range(4):
            local[k] = x[i] * k
        shared[i % 2, i // 2] = local[(i + 1) % 4]
        cuda.syncthreads()
        out[i] = shared[(i + 1) % 2, i // 2] + constant[i % 3]

    x, out = numbers(64), np.zeros(64, np.float32)
    kernel[1, 64](x, out)
    partner = np.arange(64) ^ 1
    np.testing.assert_array_equal(out, x[partner] * ((partner + 1) % 4) + TABLE[np.arange(64) % 3])


def test_threads_that_have_returned_are_not_waited_for():
    @cuda.jit
    def mirrored(x, y):
        s = cuda.shared.array(64, np.float32)
        i, t = cuda.grid(1), cuda.threadIdx.x
        if i >= x.size:
            return
        s[t] = x[i]
        cuda.syncthreads()
        y[i] = s[min(63, x.size - 1 - cuda.blockIdx.x * 64) - t]

    x, y = numbers(150), np.zeros(150, np.float32)
    mirrored[3, 64](x, y)
    np.testing.assert_array_equal(y, [*x[63::-1], *x[127:63:-1], *x[:127:-1]])


def test_atomics():
    @cuda.jit
    def kernel(sums, highest, swapped):
        i = cuda.grid(1)
        cuda.atomic.add(sums, i % 2, np.float32(i))
        cuda.atomic.max(highest, 0, i)
        cuda.atomic.compare_and_swap(swapped, -1, i)

    sums, highest, swapped = np.zeros(2, np.float32), np.zeros(1, np.int64), np.full(1, -1, np.int64)
    kernel[2, 64](sums, highest, swapped)
    np.testing.assert_array_equal(sums, [sum(range(0, 128, 2)), sum(range(1, 128, 2))])
    assert highest[0] == 127
    assert 0 <= swapped[0] < 128


def test_views_records_and_views_in_another_shape():
    @cuda.jit
    def kernel(x, records, out):
        i = cuda.threadIdx.x
        out[i] = x.reshape(4, 8)[i, 7] + x[2:10:2][i]
        records[i].count += 1
        records[i]["value"] = x[i]

    x, out = numbers(32), np.zeros(4, np.float32)
    records = np.zeros(4, [("value", np.float32), ("count", np.int32)])
    kernel[1, 4](x, records, out)
    np.testing.assert_array_equal(out, x.reshape(4, 8)[:, 7] + x[2:10:2])
    np.testing.assert_array_equal(records["value"], x[:4])
    np.testing.assert_array_equal(records["count"], np.ones(4))


def test_functions_that_are_called_and_not_inlined():
    @cuda.jit
    def kernel(out):
        out[0], out[1], out[2] = math.lgamma(2.5), math.gamma(3.5), math.pow(out[3], 0.5)
        cuda.atomic.add(out, 4, 1.5)

    out = np.zeros(5)
    out[3] = 2
    kernel[1, 1](out)
    np.testing.assert_allclose(out, [math.lgamma(2.5), math.gamma(3.5), 2**0.5, 2, 1.5], rtol=1e-14)


def test_warp_instructions():
    @cuda.jit
    def kernel(x, out):
        i = cuda.threadIdx.x
        out[0, i] = cuda.shfl_sync(0xFFFFFFFF, x[i], 3)
        out[1, i] = cuda.shfl_xor_sync(0xFFFFFFFF, x[i], 1)
        out[2, i] = np.uint32(cuda.ballot_sync(0xFFFFFFFF, x[i] > 16))
        out[3, i] = cuda.any_sync(0xFFFFFFFF, x[i] > 30)
        out[4, i] = cuda.popc(i) + cuda.laneid
        cuda.syncwarp()

    out = np.zeros((5, 32))
    kernel[1, 32](numbers(32), out)
    lanes = np.arange(32)
    np.testing.assert_array_equal(out[0], np.full(32, 3))
    np.testing.assert_array_equal(out[1], lanes ^ 1)
    np.testing.assert_array_equal(out[2], np.full(32, 0xFFFE0000))
    np.testing.assert_array_equal(out[3], np.ones(32))
    np.testing.assert_array_equal(out[4], [bin(lane).count("1") + lane for lane in range(32)])


def test_mathematics_and_fma():
    from numba.cuda import libdevice

    @cuda.jit
    def kernel(x, out):
        i = cuda.threadIdx.x
        out[0, i] = math.log(x[i]) + math.sin(x[i]) * math.sqrt(x[i])
        out[1, i] = cuda.fma(x[i], x[i], np.float32(-1))
        out[2, i] = libdevice.rsqrtf(x[i])
        out[3, i] = x[i] ** np.float32(1.5)
        out[4, i] = min(max(x[i], np.float32(2)), np.float32(3)) // np.float32(2)

    x, out = numbers(8) / 3 + np.float32(0.7), np.zeros((5, 8), np.float32)
    kernel[1, 8](x, out)
    wide = x.astype(np.float64)
    expected = [
        np.log(wide) + np.sin(wide) * np.sqrt(wide),
        wide * wide - 1,
        1 / np.sqrt(wide),
        wide**1.5,
        np.clip(wide, 2, 3) // 2,
    ]
    np.testing.assert_allclose(out, expected, rtol=2e-6, atol=1e-7)


def test_float16():
    @cuda.jit
    def kernel(x, out):
        i = cuda.threadIdx.x
        out[i] = cuda.fp16.hfma(x[i], x[i], x[i]) + x[i]

    x = (numbers(8) / 4).astype(np.float16)
    out = np.zeros(8, np.float16)
    kernel[1, 8](x, out)
    np.testing.assert_array_equal(out, x * x + x + x)


def test_print(capsys):
    @cuda.jit
    def kernel():
        print("thread", cuda.threadIdx.x)

    kernel[1, 2]()
    assert capsys.readouterr().out == "thread 0\nthread 1\n"


def test_three_dimensions():
    @cuda.jit
    def kernel(out):
        x, y, z = cuda.grid(3)
        if x < out.shape[0] and y < out.shape[1] and z < out.shape[2]:
            out[x, y, z] = 100 * x + 10 * y + z + cuda.gridDim.z * 1000

    out = np.zeros((5, 6, 7), np.int32)
    kernel[(2, 2, 2), (4, 4, 4)](out)
    x, y, z = np.indices(out.shape)
    np.testing.assert_array_equal(out, 100 * x + 10 * y + z + 2000)


def test_faults_name_the_line_of_the_python_source():
    @cuda.jit
    def overrun(x):
        x[cuda.grid(1)] = 1

    line = overrun.py_func.__code__.co_firstlineno + 2
    with pytest.raises(MemoryAccessError, match=rf"kernel overrun, test_frontend.py:{line}, .*thread \(8, 0, 0\)"):
        overrun[1, 32](np.zeros(8, np.float32))


# Compilation


def test_resources():
    @cuda.jit("void(float32[::1])")
    def kernel(x):
        tile = cuda.shared.array(32, np.float32)
        tile[cuda.threadIdx.x] = x[cuda.threadIdx.x]
        cuda.syncthreads()
        x[cuda.threadIdx.x] = tile[31 - cuda.threadIdx.x]

    assert 0 < kernel.get_regs_per_thread() < 64
    assert kernel.get_shared_mem_per_block() == 128
    assert kernel.get_local_mem_per_thread() == 0
    assert kernel.get_max_threads_per_block() == 1024
    (overload,) = kernel.overloads.values()
    assert overload.assembled.cubin[:4] == b"\x7fELF"
    assert not overload.resources.spills
    assert ".loc" in kernel.inspect_asm(kernel.signatures[0])


def test_launch_bounds_and_options():
    @cuda.jit(launch_bounds=64, fastmath=True)
    def kernel(x):
        x[cuda.threadIdx.x] = math.exp(x[cuda.threadIdx.x])

    x = np.zeros(64, np.float32)
    kernel[1, 64](x)
    np.testing.assert_array_equal(x, np.ones(64))
    assert "ex2.approx.ftz" in next(iter(kernel.inspect_asm().values()))
    with pytest.raises(LaunchError, match="64"):
        kernel[1, 128](np.zeros(128, np.float32))


def compile_scaling(factor):
    @cuda.jit(device=True)
    def scaled(x):
        return x * factor

    @cuda.jit
    def kernel(x):
        x[cuda.threadIdx.x] = scaled(x[cuda.threadIdx.x])

    return kernel


def test_the_disk_cache_knows_constants_of_device_functions(compilations):
    for factor, expected in ((3, 3), (5, 5), (3, 3)):
        x = np.ones(4, np.int64)
        compile_scaling(factor)[1, 4](x)
        np.testing.assert_array_equal(x, np.full(4, expected))
    assert len(compilations) == 2


def test_the_disk_cache_knows_types_and_chips(compilations):
    for dtype in (np.int64, np.float32):
        compile_scaling(2)[1, 4](np.ones(4, dtype))
    with cp.use("sm_80"):
        compile_scaling(2)[1, 4](np.ones(4, np.int64))
    assert len(compilations) == 3
    compile_scaling(2)[1, 4](np.ones(4, np.int64))
    assert len(compilations) == 3


def test_the_disk_cache_knows_globals_and_arrays(compilations, monkeypatch):
    def make():
        @cuda.jit
        def kernel(x):
            table = cuda.const.array_like(TABLE)
            x[0] = table[0] * THREE

        return kernel

    x = np.zeros(1, np.float32)
    for three, first in ((3, 1.0), (4, 1.0), (4, 2.0), (4, 2.0)):
        monkeypatch.setitem(globals(), "THREE", three)
        monkeypatch.setitem(globals(), "TABLE", np.array([first, 0], np.float32))
        make()[1, 1](x)
        assert x[0] == three * first
    assert len(compilations) == 3


def test_a_damaged_entry_is_compiled_again(compilations, tmp_path):
    compile_scaling(2)[1, 4](np.ones(4, np.int64))
    (entry,) = (tmp_path / "numba").iterdir()
    for damage in ("", entry.read_text().replace("mul", "add"), "{}"):
        entry.write_text(damage)
        x = np.ones(4, np.int64)
        compile_scaling(2)[1, 4](x)
        assert (x == 2).all()
    assert len(compilations) == 4


def test_a_kernel_numba_cannot_compile():
    @cuda.jit
    def wrong(x):
        x[0] = nothing_of_this_name  # noqa: F821

    with pytest.raises(NumbaError):
        wrong[1, 1](np.zeros(1))


@pytest.mark.parametrize("arguments", [{"debug": True}, {"link": ("x.cu",)}, {"extensions": [object()]}])
def test_what_is_not_there_says_so(arguments):
    with pytest.raises(NotImplementedError, match="emulator"):
        cuda.jit(**arguments)


def test_names_that_need_a_driver_say_so():
    with pytest.raises(EmulatorError, match="current_context"):
        cuda.current_context  # noqa: B018
    with pytest.raises(AttributeError):
        cuda.no_such_name  # noqa: B018
    assert cuda.is_available()
    assert cuda.get_current_device().compute_capability == (9, 0)


# Lines


def test_a_line_that_is_inlined_is_of_the_file_it_stands_in(tmp_path):
    helper = tmp_path / "helper.py"
    helper.write_text("\n" * 6 + "def third(x, i):\n    return x[i] / 3\n")
    names = {}
    exec(compile(helper.read_text(), str(helper), "exec"), names)
    inlined = cuda.jit(device=True, inline="always")(names["third"])

    @cuda.jit
    def thirds(x, y):
        y[cuda.grid(1)] = inlined(x, cuda.grid(1))

    x, y = numbers(32), numbers(32)
    with cp.observe(traffic=True) as report:
        thirds[1, 32](x, y)
    np.testing.assert_allclose(y, x / 3)
    places = {each.kind: each.location for each in report.global_accesses}
    assert (places["load"].file, places["load"].line) == (str(helper), 8)
    assert (places["store"].file, places["store"].line) == (__file__, thirds.py_func.__code__.co_firstlineno + 2)
