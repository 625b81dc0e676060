"""The driver's functions as C calls them: arguments, null pointers, results, and what is written where."""

import ctypes
import re
import subprocess
import sys
import threading
from ctypes import byref, c_float, c_int, c_size_t, c_uint, c_uint64

import numpy as np
import pytest

from gpubp.emulator.driver import allocations, api, calls, contexts, devices, results, streams

pytestmark = pytest.mark.usefixtures("no_capture")
OK = ("CUDA_SUCCESS", "no error")
PTX = b"""
.version 8.0
.target sm_80
.address_size 64
.visible .entry twice(.param .u64 data)
{
    .reg .b32 %r<4>;
    .reg .b64 %rd<4>;
    mov.u32 %r2, %tid.x;
    ld.param.u64 %rd1, [data];
    mad.wide.u32 %rd2, %r2, 4, %rd1;
    ld.global.u32 %r1, [%rd2];
    add.u32 %r1, %r1, %r1;
    st.global.u32 [%rd2], %r1;
    ret;
}
"""


@pytest.fixture
def twice(c_call):
    """The handle of a kernel that doubles 32-bit numbers."""
    module, function = c_uint64(), c_uint64()
    text = ctypes.create_string_buffer(PTX)
    assert c_call("cuModuleLoadData", byref(module), ctypes.addressof(text)) == OK
    assert c_call("cuModuleGetFunction", byref(function), module.value, b"twice") == OK
    yield function.value
    assert c_call("cuModuleUnload", module.value) == OK


@pytest.fixture
def array():
    """The address of the numbers 0 to 31 on the device."""
    address = allocations.allocate(128)
    allocations.copy(address, np.arange(32, dtype=np.uint32).ctypes.data, 128)
    yield address
    allocations.free(address)


def numbers(address):
    got = np.zeros(32, np.uint32)
    allocations.copy(got.ctypes.data, address, 128)
    return list(got)


def pointers_to(*values):
    """Return an array of pointers to values, and what keeps them alive."""
    return (ctypes.c_void_p * len(values))(*(ctypes.addressof(each) for each in values)), values


DOUBLED = list(range(0, 64, 2))


def launch(c_call, function, pointers, extra=0, stream=0, name="cuLaunchKernel"):
    return c_call(name, function, 1, 1, 1, 32, 1, 1, 0, stream, pointers, extra)


def test_parameters_by_pointers(c_call, twice, array):
    pointers, _ = pointers_to(c_uint64(array))
    assert launch(c_call, twice, ctypes.addressof(pointers)) == OK
    assert numbers(array) == DOUBLED


def test_parameters_in_a_buffer(c_call, twice, array):
    buffer, size = c_uint64(array), c_size_t(8)
    extra = (c_uint64 * 5)(1, ctypes.addressof(buffer), 2, ctypes.addressof(size), 0)
    assert launch(c_call, twice, 0, ctypes.addressof(extra)) == OK
    assert numbers(array) == DOUBLED


@pytest.mark.parametrize(
    "attributes", [(), ((2, 1),), ((8, 3), (4, 1), (14, 50))], ids=["none", "cooperative", "hints"]
)
def test_a_launch_by_its_configuration(attributes, c_call, twice, array):
    memory = ctypes.create_string_buffer(72 * max(1, len(attributes)))
    for index, (number, value) in enumerate(attributes):
        c_int.from_buffer(memory, 72 * index).value = number
        for place in range(3 if number == 4 else 1):
            c_int.from_buffer(memory, 72 * index + 8 + 4 * place).value = value
    config = api.launches.LaunchConfig(1, 1, 1, 32, 1, 1, 0, 0, ctypes.addressof(memory), len(attributes))
    pointers, _ = pointers_to(c_uint64(array))
    assert c_call("cuLaunchKernelEx", byref(config), twice, ctypes.addressof(pointers), 0) == OK
    assert numbers(array) == DOUBLED


def test_a_configuration_that_is_refused(c_call, twice):
    memory = (c_int * 18)(4, 0, 2, 1, 1)
    config = api.launches.LaunchConfig(1, 1, 1, 32, 1, 1, 0, 0, ctypes.addressof(memory), 1)
    result, message = c_call("cuLaunchKernelEx", byref(config), twice, 0, 0)
    assert (result, "launch attribute 4" in message) == ("CUDA_ERROR_NOT_SUPPORTED", True)


def test_a_launch_without_its_parameters(c_call, twice):
    pointers = (ctypes.c_void_p * 1)(0)
    extra = (c_uint64 * 1)(0)
    for given, message in (
        ((0, 0), "0 arguments given; it takes 1"),
        ((ctypes.addressof(pointers), 0), r"kernelParams[0] is a null pointer"),
        ((0, ctypes.addressof(extra)), "extra has no buffer"),
    ):
        result, text = launch(c_call, twice, *given)
        assert result == "CUDA_ERROR_INVALID_VALUE"
        assert message in text


def test_the_whole_message_of_an_error(c_call, twice):
    pointers, _ = pointers_to(c_uint64(0))
    result, message = launch(c_call, twice, ctypes.addressof(pointers))
    assert result == "CUDA_ERROR_ILLEGAL_ADDRESS"
    assert message.startswith("an illegal memory access was encountered: kernel twice")
    assert "a null pointer" in message


# --- null pointers ----------------------------------------------------------------------------------------------------
TAKES_ZEROS = re.compile(
    r"cu(Init|Mem(cpy|set)\w*|MemFree\w*|PointerGetAttributes|ProfilerSt\w+|DevicePrimaryCtx(Release|Reset|SetFlags)\w*"
    r"|Ctx(SetCurrent|Set(Cache|SharedMem)Config|GetStreamPriorityRange|Synchronize|Synchronize_v2|PopCurrent_v2)"
    r"|Stream(Synchronize|Query|BeginCapture_v2))(_ptsz|_ptds)?"
)
"""Functions to which nothing but zeros are arguments: no bytes, no memory, stream 0, device 0."""


ZEROS = """
import ctypes
from gpubp.emulator.driver import api, calls, contexts, results
for context in (False, True):
    if context:
        contexts.stack().append(contexts.PRIMARY)
    for name, export in calls.EXPORTS.items():
        zeros = [kind() if hasattr(kind, "contents") else None if kind is calls.TEXT else 0 for kind in export.types]
        print(name, results.NAMES[calls.callback(export)(*zeros)], flush=True)
"""


def test_null_pointers_never_crash():
    """Every function, with nothing but zeros, without a context and with one: it returns, and most fail."""
    run = subprocess.run([sys.executable, "-c", ZEROS], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-200:] + run.stderr
    got = [line.split() for line in run.stdout.splitlines()]
    assert [name for name, _ in got] == 2 * list(calls.EXPORTS)
    assert not [name for name, result in got if result in ("CUDA_ERROR_UNKNOWN", "CUDA_ERROR_LAUNCH_FAILED")]
    assert not {name for name, result in got if result == "CUDA_SUCCESS" and not TAKES_ZEROS.fullmatch(name)}


# --- contexts ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def no_context():
    """No context is current in this thread, before and after."""
    before = list(contexts.stack())
    contexts.stack().clear()
    yield
    contexts.stack()[:] = before


@pytest.mark.usefixtures("no_context")
def test_contexts(c_call):
    context, flags, popped = c_uint64(), c_uint(), c_uint64()
    assert c_call("cuCtxGetDevice", byref(c_int()))[0] == "CUDA_ERROR_INVALID_CONTEXT"
    assert c_call("cuCtxCreate_v4", byref(context), 0, 4, 0) == OK
    assert c_call("cuCtxGetFlags", byref(flags)) == OK
    assert flags.value == 4
    primary = c_uint64()
    assert c_call("cuDevicePrimaryCtxRetain", byref(primary), 0) == OK
    assert c_call("cuCtxPushCurrent_v2", primary.value) == OK
    assert c_call("cuCtxDestroy_v2", primary.value)[0] == "CUDA_ERROR_INVALID_CONTEXT"
    assert c_call("cuCtxPopCurrent_v2", ctypes.addressof(popped)) == OK
    assert popped.value == primary.value
    assert c_call("cuCtxDestroy_v2", context.value) == OK
    assert c_call("cuCtxPushCurrent_v2", context.value)[0] == "CUDA_ERROR_INVALID_CONTEXT"
    assert c_call("cuDevicePrimaryCtxRelease_v2", 0) == OK
    result, message = c_call("cuDevicePrimaryCtxRelease_v2", 0)
    assert (result, message) == (
        "CUDA_ERROR_INVALID_CONTEXT",
        "invalid device context: the primary context is not retained",
    )


@pytest.mark.usefixtures("no_context")
def test_contexts_that_are_refused(c_call):
    context = c_uint64()
    assert c_call("cuCtxCreate_v2", byref(context), 0x100, 0)[0] == "CUDA_ERROR_INVALID_VALUE"
    assert c_call("cuCtxCreate_v2", byref(context), 0, 1)[0] == "CUDA_ERROR_INVALID_DEVICE"
    assert c_call("cuCtxCreate_v3", byref(context), 0, 1, 0, 0)[0] == "CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY"
    params = api.contexts.ContextParams(0, 0, 1)
    assert c_call("cuCtxCreate_v4", byref(context), ctypes.addressof(params), 0, 0)[0] == "CUDA_ERROR_NOT_SUPPORTED"


@pytest.mark.usefixtures("no_context")
def test_limits(c_call):
    value = c_size_t()
    for limit, name in ((0, "stack"), (1, "printf"), (2, "heap")):
        assert c_call("cuCtxGetLimit", byref(value), limit) == OK, name
        before = value.value
        assert c_call("cuCtxSetLimit", limit, before + 1024) == OK, name
        assert c_call("cuCtxGetLimit", byref(value), limit) == OK, name
        assert value.value == before + 1024, name
        assert c_call("cuCtxSetLimit", limit, before) == OK, name
    result, message = c_call("cuCtxSetLimit", 3, 1)
    assert (result, "limit is 3" in message) == ("CUDA_ERROR_UNSUPPORTED_LIMIT", True)


# --- the device -------------------------------------------------------------------------------------------------------
def test_texts_are_cut_to_their_buffers(c_call):
    text = ctypes.create_string_buffer(b"x" * 8)
    assert c_call("cuDeviceGetName", ctypes.addressof(text), 5, 0) == OK
    assert text.raw == b"emul\0xxx\0"
    assert c_call("cuDeviceGetName", ctypes.addressof(text), 0, 0)[0] == "CUDA_ERROR_INVALID_VALUE"
    assert c_call("cuDeviceGetPCIBusId", ctypes.addressof(text), 8, 1)[0] == "CUDA_ERROR_INVALID_DEVICE"


def test_names_of_errors(c_call):
    for name, (number, text) in results.RESULTS.items():
        for function, wanted in (("cuGetErrorName", name), ("cuGetErrorString", text)):
            found = c_uint64()
            assert c_call(function, number, byref(found)) == OK
            assert ctypes.string_at(found.value).decode().startswith(wanted)
    found = c_uint64(7)
    assert c_call("cuGetErrorName", 12_345, byref(found))[0] == "CUDA_ERROR_INVALID_VALUE"
    assert found.value == 0


def test_the_private_tables_are_not_answered(c_call):
    table = c_uint64(7)
    assert c_call("cuGetExportTable", byref(table), 0)[0] == "CUDA_ERROR_NOT_FOUND"
    assert table.value == 0


# --- memory -----------------------------------------------------------------------------------------------------------
def test_sides_that_must_be_the_devices(c_call, array):
    memory = ctypes.create_string_buffer(128)
    place = ctypes.addressof(memory)
    for name, target, source, wrong in (
        ("cuMemcpyHtoD_v2", place, array, "dstDevice"),
        ("cuMemcpyDtoH_v2", place, place, "srcDevice"),
        ("cuMemcpyDtoDAsync_v2", array, place, "srcDevice"),
    ):
        given = (target, source, 128, 0) if "Async" in name else (target, source, 128)
        result, message = c_call(name, *given)
        assert (result, wrong in message) == ("CUDA_ERROR_INVALID_VALUE", True), name
    assert c_call("cuMemcpyDtoH_v2", place, array, 128) == OK
    assert memory.raw[4:8] == b"\1\0\0\0"
    assert c_call("cuMemcpyDtoH_v2", place, array, 129)[0] == "CUDA_ERROR_INVALID_VALUE"


def test_copies_of_rows(c_call, array):
    memory = ctypes.create_string_buffer(64)
    what = api.memory.Copy2D(
        srcXInBytes=4, srcY=1, srcMemoryType=2, srcDevice=array, srcPitch=32,
        dstMemoryType=1, dstHost=ctypes.addressof(memory), dstPitch=8, WidthInBytes=8, Height=3,
    )  # fmt: skip
    assert c_call("cuMemcpy2D_v2", byref(what)) == OK
    assert list(np.frombuffer(memory.raw[:24], np.uint32)) == [9, 10, 17, 18, 25, 26]
    what.srcXInBytes = 28
    result, message = c_call("cuMemcpy2D_v2", byref(what))
    assert (result, "srcPitch is 32: it must be at least srcXInBytes + WidthInBytes, 36" in message) == (
        "CUDA_ERROR_INVALID_VALUE",
        True,
    )
    what.srcMemoryType = 3
    assert c_call("cuMemcpy2D_v2", byref(what))[0] == "CUDA_ERROR_NOT_SUPPORTED"


def test_rows_are_padded(c_call):
    address, pitch = c_uint64(), c_size_t()
    assert c_call("cuMemAllocPitch_v2", byref(address), byref(pitch), 700, 3, 4) == OK
    assert pitch.value == 1024
    assert allocations.extent(address.value)[1] == 3 * 1024
    allocations.free(address.value)
    assert c_call("cuMemAllocPitch_v2", byref(address), byref(pitch), 700, 3, 5)[0] == "CUDA_ERROR_INVALID_VALUE"


def test_pointer_attributes(c_call, array):
    kind, start, ordinal = c_uint(), c_uint64(), c_int(5)
    assert c_call("cuPointerGetAttribute", ctypes.addressof(kind), 2, array + 3) == OK
    assert c_call("cuPointerGetAttribute", ctypes.addressof(start), 11, array + 3) == OK
    assert (kind.value, start.value) == (2, array)
    assert c_call("cuPointerGetAttribute", ctypes.addressof(kind), 2, 0x1234)[0] == "CUDA_ERROR_INVALID_VALUE"
    assert c_call("cuPointerGetAttribute", ctypes.addressof(kind), 5, array)[0] == "CUDA_ERROR_NOT_SUPPORTED"
    numbers, places = (c_int * 2)(2, 9), (c_uint64 * 2)(ctypes.addressof(kind), ctypes.addressof(ordinal))
    assert c_call("cuPointerGetAttributes", 2, numbers, places, 0x1234) == OK  # memory of the host is no error here
    assert (kind.value, ordinal.value) == (0, -2)


def test_advice_is_for_managed_memory(c_call, array):
    managed = allocations.allocate_managed(64, 1)
    for name, rest in (
        ("cuMemAdvise_v2", (1, 0)),
        ("cuMemAdvise", (1, 0)),
        ("cuMemPrefetchAsync", (0, 0)),
        ("cuMemPrefetchAsync_v2", (1, 0, 0)),
    ):
        assert c_call(name, managed, 64, *rest) == OK
        assert c_call(name, managed, 65, *rest)[0] == "CUDA_ERROR_INVALID_VALUE"
        assert c_call(name, array, 64, *rest)[0] == "CUDA_ERROR_INVALID_VALUE"
    allocations.free(managed)


# --- streams ----------------------------------------------------------------------------------------------------------
def test_twins_use_the_threads_own_stream(c_call):
    """A capture of it shows where work goes."""
    mine = streams.PER_THREAD
    streams.begin_capture(mine, streams.CAPTURE_MODE_RELAXED)
    status = c_int()
    assert c_call("cuStreamIsCapturing_ptsz", 0, byref(status)) == OK
    assert status.value == 1
    assert c_call("cuStreamIsCapturing_ptsz", streams.LEGACY, byref(status))[0] == "CUDA_SUCCESS"
    assert status.value == 0
    assert c_call("cuStreamSynchronize_ptsz", 0)[0] == "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"


def test_functions_of_the_host(c_call):
    seen = []
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(seen.append)
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert c_call("cuLaunchHostFunc", 0, address, 7) == OK
    assert c_call("cuLaunchHostFunc_v2", 0, address, 8, 0) == OK
    called = ctypes.CFUNCTYPE(None, ctypes.c_void_p, c_int, ctypes.c_void_p)(lambda *given: seen.append(given))
    assert c_call("cuStreamAddCallback", 0, ctypes.cast(called, ctypes.c_void_p).value, 9, 0) == OK
    assert seen == [7, 8, (None, 0, 9)]
    assert c_call("cuLaunchHostFunc", 0, 0, 7)[0] == "CUDA_ERROR_INVALID_VALUE"


def test_times_are_refused(c_call):
    event = c_uint64()
    assert c_call("cuEventCreate", byref(event), 0) == OK
    result, message = c_call("cuEventElapsedTime_v2", byref(c_float()), event.value, event.value)
    assert (result, "measures no time" in message) == ("CUDA_ERROR_NOT_SUPPORTED", True)


def test_what_an_update_says(c_call):
    graph, larger, executable = c_uint64(), c_uint64(), c_uint64()
    assert c_call("cuGraphCreate", byref(graph), 0) == OK
    assert c_call("cuGraphInstantiateWithFlags", byref(executable), graph.value, 0) == OK
    assert c_call("cuGraphCreate", byref(larger), 0) == OK
    streams.graph(larger.value).work.append(lambda: None)
    info = (c_uint64 * 3)()
    assert c_call("cuGraphExecUpdate_v2", executable.value, graph.value, ctypes.addressof(info)) == OK
    result, _ = c_call("cuGraphExecUpdate_v2", executable.value, larger.value, ctypes.addressof(info))
    assert (result, info[0]) == ("CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE", 2)


# --- threads ----------------------------------------------------------------------------------------------------------
def test_threads_launch_at_once(c_call, twice):
    """Each allocates, launches and frees; every result is right, and no two share memory."""
    wrong = []

    def work():
        for _ in range(5):
            address = c_uint64()
            c_call("cuMemAlloc_v2", byref(address), 128)
            given = np.arange(32, dtype=np.uint32)
            c_call("cuMemcpyHtoD_v2", address.value, given.ctypes.data, 128)
            pointers, _ = pointers_to(address)
            launched = launch(c_call, twice, ctypes.addressof(pointers))
            if launched != OK or numbers(address.value) != DOUBLED:
                wrong.append(launched)
            c_call("cuMemFree_v2", address.value)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_error_is_told_to_the_thread_that_made_it(c_call):
    assert "bytesize is 0" in c_call("cuMemAlloc_v2", byref(c_uint64()), 0)[1]
    seen = []
    thread = threading.Thread(target=lambda: seen.append(results.explain(1)))
    thread.start()
    thread.join()
    assert seen == ["invalid argument"]


def test_numbers_of_this_device():
    assert devices.capability() == (devices.attribute(75), devices.attribute(76))
