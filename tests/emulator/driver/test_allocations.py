"""The driver's memory: allocations and pools, copies and fills, what is known of an address, and what is refused."""

import ctypes

import numpy as np
import pytest

from gpubp.emulator.device.memory import MEMORY
from gpubp.emulator.driver import allocations, pools, streams
from gpubp.emulator.driver.allocations import DEVICE, HOST, MANAGED

pytestmark = pytest.mark.usefixtures("no_capture")
INVALID = "CUDA_ERROR_INVALID_VALUE"


@pytest.fixture
def new():
    """Allocate memory that is freed after the test."""
    addresses = []

    def allocate(nbytes=100, kind=DEVICE):
        addresses.append(allocations.allocate(nbytes, kind))
        return addresses[-1]

    yield allocate
    for address in addresses:
        if allocations.kind_of(address):
            allocations.free(address, (DEVICE, HOST, MANAGED))


def content(address, nbytes):
    return bytes(MEMORY.view(address, nbytes))


def host(array):
    return array.ctypes.data


# --- allocations ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [DEVICE, HOST, MANAGED])
def test_the_host_can_use_every_address(kind, new):
    address = new(5, kind)
    ctypes.memset(address, 7, 5)
    assert content(address, 5) == b"\7" * 5
    assert allocations.kind_of(address + 4) == kind
    assert allocations.extent(address + 4) == (address, 5)
    assert allocations.kind_of(address + 5) == ""


def test_memory_is_freed_once_and_by_its_own_function(new, fails):
    device, pinned = new(), new(100, HOST)
    fails(INVALID, "is no allocation that can be freed so: it is 0 bytes into pinned memory", allocations.free, pinned)
    fails(INVALID, "is no allocation that can be freed so", allocations.free, device, (HOST,))
    fails(INVALID, "1 bytes into an allocation", allocations.free, device + 1)
    allocations.free(device)
    fails(INVALID, "which was freed", allocations.free, device)
    fails("CUDA_ERROR_NOT_FOUND", "which was freed", allocations.extent, device)
    fails(INVALID, "which was freed", allocations.copy, device, pinned, 1)
    allocations.free(0)


def test_what_cannot_be_allocated(fails):
    fails(INVALID, "bytesize is 0: it must be at least 1", allocations.allocate, 0)
    fails("CUDA_ERROR_OUT_OF_MEMORY", "out of memory", allocations.allocate, 1 << 40)
    fails(INVALID, "flags is 0: it must be 1", allocations.allocate_managed, 8, 0)
    fails(INVALID, "Flags is 0x8", allocations.allocate_host, 8, 8)


def test_the_bytes_that_are_free(new):
    free, total = allocations.free_and_total()
    new(1 << 20)
    assert allocations.free_and_total() == (free - (1 << 20), total)


def test_no_memory_is_had_or_freed_while_a_stream_captures(new, fails):
    address, stream = new(), streams.create_stream()
    for call, argument in ((allocations.allocate, 8), (allocations.free, address)):
        streams.begin_capture(stream)
        fails("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "while a stream is capturing", call, argument)
        fails("CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "was called for", streams.end_capture, stream)
    assert allocations.kind_of(address) == DEVICE


# --- in the order of streams ------------------------------------------------------------------------------------------
def test_pools_count_what_is_in_use():
    pool = pools.create()
    first = pools.allocate(pool, 100, 0)
    second = pools.allocate(pool, 28, streams.create_stream())
    assert pools.attribute(pool, pools.USED) == pools.attribute(pool, pools.RESERVED) == 128
    allocations.free_in(0, first)
    assert (pools.attribute(pool, pools.USED), pools.attribute(pool, pools.USED_HIGH)) == (28, 128)
    pools.set_attribute(pool, pools.USED_HIGH, 0)
    assert pools.attribute(pool, pools.USED_HIGH) == 28
    allocations.free(second)
    assert pools.attribute(pool, pools.USED) == 0
    assert pools.attribute(pools.DEFAULT, pools.USED_HIGH) == 0


def test_settings_of_pools(fails):
    pool = pools.create(most=100)
    pools.set_attribute(pool, pools.RELEASE_THRESHOLD, 1 << 40)
    assert pools.attribute(pool, pools.RELEASE_THRESHOLD) == 1 << 40
    fails("CUDA_ERROR_OUT_OF_MEMORY", "101 bytes: the pool gives 100, and 0 are in use", pools.allocate, pool, 101, 0)
    fails(INVALID, "attr is 99", pools.attribute, pool, 99)
    fails(INVALID, "attr is 7: it cannot be set to 5", pools.set_attribute, pool, pools.USED, 5)
    fails(INVALID, "default pool", pools.destroy, pools.DEFAULT)
    fails("CUDA_ERROR_INVALID_DEVICE", "location.id is 3", pools.create, 1, 3)
    fails("CUDA_ERROR_NOT_SUPPORTED", "device memory alone", pools.create, 2)
    pools.set_current(pool)
    pools.destroy(pool)
    assert pools.current() == pools.DEFAULT
    fails("CUDA_ERROR_INVALID_HANDLE", "is no memory pool", pools.allocate, pool, 8, 0)


def test_graphs_own_no_memory(fails):
    stream, address = streams.create_stream(), allocations.allocate_in(0, 8)
    streams.begin_capture(stream)
    fails("CUDA_ERROR_NOT_SUPPORTED", "own no memory", allocations.allocate_in, stream, 8)
    fails("CUDA_ERROR_NOT_SUPPORTED", "own no memory", allocations.free_in, stream, address)
    other = streams.create_stream()
    allocations.free_in(other, allocations.allocate_in(other, 8))  # it is ordered, so no other stream's capture minds
    streams.end_capture(stream)
    allocations.free_in(stream, address)
    allocations.free_in(stream, 0)


# --- copies -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [DEVICE, HOST, MANAGED])
def test_copies_between_host_and_device(kind, new):
    given, got = np.arange(50, dtype=np.uint16), np.zeros(50, np.uint16)
    first, second = new(100, kind), new(100)
    allocations.copy(first, host(given), 100)
    allocations.copy(second, first, 100)
    allocations.copy(host(got), second, 100)
    assert (got == given).all()


def test_a_copy_in_a_capture_is_done_by_the_graph(new):
    given, stream, address = np.arange(4, dtype=np.uint8), streams.create_stream(), new(4)
    streams.begin_capture(stream)
    allocations.copy(address, host(given), 4, stream)
    allocations.fill(address, 9, 1, 1, stream)
    executable = streams.instantiate(streams.end_capture(stream))
    given += 10
    streams.launch_graph(executable, stream)
    assert content(address, 4) == bytes([9, 11, 12, 13])


def test_copies_that_leave_an_allocation(new, fails):
    given, address = np.zeros(200, np.uint8), new(100)
    fails(INVALID, r"dst: host access to 101 bytes .* 0 bytes into an allocation of 100", allocations.copy, address,
          host(given), 101)  # fmt: skip
    fails(INVALID, r"src: host access to 51 bytes .* 50 bytes into", allocations.copy, host(given), address + 50, 51)
    fails(INVALID, r"dst is a null pointer", allocations.copy, 0, address, 1)
    fails(INVALID, r"src is a null pointer", allocations.copy, address, 0, 1)
    allocations.copy(0, 0, 0)
    fails(INVALID, r"dstDevice is 0x10: it is no address of the device", allocations.check_device, 16, "dstDevice")


def test_copies_of_rows(new):
    given, address = np.arange(12, dtype=np.uint8).reshape(3, 4), new(3 * 8)
    allocations.fill(address, 0xFF, 1, 24)
    allocations.copy_rows(address, 8, host(given), 4, 4, 3)
    got = np.frombuffer(content(address, 24), np.uint8).reshape(3, 8)
    assert (got[:, :4] == given).all()
    assert (got[:, 4:] == 0xFF).all()
    allocations.copy_rows(0, 0, 0, 0, 4, 0)


def test_rows_that_do_not_fit(new, fails):
    given, address = np.zeros(64, np.uint8), new(20)
    fails(INVALID, "dst pitch is 3: it must be at least the width, 4", allocations.copy_rows, address, 3, host(given),
          4, 4, 3)  # fmt: skip
    fails(INVALID, "dst: host access to 24 bytes", allocations.copy_rows, address, 10, host(given), 4, 4, 3)


# --- fills ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("itemsize", [1, 2, 4])
def test_fills(itemsize, new):
    address = new(8 * itemsize)
    allocations.fill(address, 0x1_2345_6789, itemsize, 8)
    assert content(address, 8 * itemsize) == (0x2345_6789 & (1 << 8 * itemsize) - 1).to_bytes(itemsize, "little") * 8


def test_fills_of_rows(new):
    address = new(24)
    allocations.fill(address, 0, 1, 24)
    allocations.fill_rows(address, 8, 0x0201, 2, 3, 3)
    assert content(address, 24) == (b"\1\2" * 3 + b"\0\0") * 3


def test_fills_that_are_refused(new, fails):
    address = new(24)
    fails(INVALID, "dstDevice is .*: it must be a multiple of 4", allocations.fill, address + 2, 0, 4, 1)
    fails(INVALID, "host access to 25 bytes", allocations.fill, address, 0, 1, 25)
    fails(INVALID, "dstPitch is 5: it must be a multiple of 2, and at least 4", allocations.fill_rows, address, 5, 0, 2,
          2, 2)  # fmt: skip
    fails(INVALID, "dstPitch is 2", allocations.fill_rows, address, 2, 0, 2, 2, 2)
    fails(INVALID, "no address of the device", allocations.fill, host(np.zeros(8)), 0, 1, 8)


# --- memory that is registered ----------------------------------------------------------------------------------------
def test_registered_memory(fails):
    array = np.zeros(100, np.uint8)
    address = host(array)
    allocations.register(address, 100, 3)
    assert allocations.host_flags(address) == 3
    allocations.check_device(address + 99, "dst")
    fails("CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED", "pinned already", allocations.register, address + 99, 8)
    fails("CUDA_ERROR_NOT_SUPPORTED", "none that was registered later", allocations.device_pointer, address)
    fails("CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED", "is not registered", allocations.unregister, address + 1)
    allocations.unregister(address)
    fails("CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED", "is not registered", allocations.unregister, address)
    fails(INVALID, "no pinned memory", allocations.host_flags, address)
    fails(INVALID, "no pinned memory", allocations.device_pointer, address)


def test_what_cannot_be_registered(fails):
    fails(INVALID, "p is 0x0", allocations.register, 0, 8)
    fails(INVALID, "bytesize is 0", allocations.register, 4096, 0)
    fails(INVALID, "Flags is 0x10", allocations.register, 4096, 8, 16)
    fails("CUDA_ERROR_NOT_SUPPORTED", "read-only", allocations.register, 4096, 8, 8)


def test_pinned_memory_is_mapped(new, fails):
    pinned = allocations.allocate_host(64, 1)
    assert allocations.device_pointer(pinned + 8) == pinned + 8
    assert allocations.host_flags(pinned + 8) == 3  # portable, and mapped as all is
    fails("CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED", "pinned already", allocations.register, pinned, 8)
    allocations.free(pinned, (HOST,))
    fails(INVALID, "no pinned memory", allocations.device_pointer, pinned)
    fails(INVALID, "no pinned memory", allocations.device_pointer, new())
