"""Modules and kernels: loading, finding, attributes, and launches that the driver refuses."""

import struct

import pytest

import gpubp.emulator
from gpubp.emulator.device.memory import MEMORY
from gpubp.emulator.driver import allocations, devices, images, modules, streams

pytestmark = pytest.mark.usefixtures("no_capture")
PTX = """
.version 8.0
.target sm_80
.address_size 64
.visible .global .align 4 .u32 factor = 3;
.visible .const .align 8 .b8 table[24];

.visible .entry scale(.param .u64 out, .param .u8 flag, .param .u32 value)
.maxntid 64, 1, 1
{
    .reg .b32 %r<5>;
    .reg .b64 %rd<5>;
    .shared .align 4 .b8 tile[256];
    ld.param.u64 %rd1, [out];
    ld.param.u32 %r1, [value];
    mov.u64 %rd2, factor;
    ld.global.u32 %r2, [%rd2];
    mul.lo.u32 %r3, %r1, %r2;
    st.global.u32 [%rd1], %r3;
    ret;
}
.visible .entry empty()
{
    ret;
}
"""


@pytest.fixture(autouse=True)
def chip():
    """The chip that the numbers are of."""
    with gpubp.emulator.use("sm_90"):
        yield


@pytest.fixture
def module():
    """The handle of the loaded module."""
    handle = modules.load(images.of_ptx(PTX))
    yield handle
    if handle in modules._modules:
        modules.unload(handle)


def arguments(address, value=5):
    return [struct.pack("<Q", address), b"\0", struct.pack("<I", value)]


def test_a_launch(module):
    address = allocations.allocate(4)
    modules.run(modules.function(module, "scale"), (1, 1, 1), (1, 1, 1), arguments(address))
    assert bytes(MEMORY.view(address, 4)) == struct.pack("<I", 15)
    factor, nbytes = modules.variable(module, "factor")
    assert nbytes == 4
    allocations.copy(factor, address, 4)
    modules.run(modules.function(module, "scale"), (1, 1, 1), (1, 1, 1), arguments(address))
    assert bytes(MEMORY.view(address, 4)) == struct.pack("<I", 75)
    allocations.free(address)


def test_names(module, fails):
    assert modules.names(module) == ["scale", "empty"]
    function = modules.function(module, "scale")
    assert function == modules.function(module, "scale")
    assert modules.name_of(function) == "scale"
    assert modules.module_of(function) == module
    fails("CUDA_ERROR_NOT_FOUND", "no kernel 'scales' in the module; it has scale, empty", modules.function, module,
          "scales")  # fmt: skip
    fails("CUDA_ERROR_NOT_FOUND", "no variable 'fact' in the module; it has factor, table", modules.variable, module,
          "fact")  # fmt: skip


def test_two_modules_have_their_own_variables(module):
    other = modules.load(images.of_ptx(PTX))
    assert modules.variable(other, "factor")[0] != modules.variable(module, "factor")[0]
    modules.unload(other)
    assert allocations.kind_of(modules.variable(module, "factor")[0])


def test_a_module_that_is_unloaded(module, fails):
    function, (factor, _), live = (
        modules.function(module, "scale"),
        modules.variable(module, "factor"),
        MEMORY.live_bytes,
    )
    modules.unload(module)
    assert MEMORY.live_bytes == live - 4
    fails("CUDA_ERROR_NOT_FOUND", "which was freed", allocations.extent, factor)
    fails("CUDA_ERROR_INVALID_HANDLE", "is no module", modules.function, module, "scale")
    fails("CUDA_ERROR_INVALID_HANDLE", "is no function", modules.parameters, function)


def test_parameters(module, fails):
    function = modules.function(module, "scale")
    assert [modules.parameter(function, index) for index in range(3)] == [(0, 8), (8, 1), (12, 4)]
    fails("CUDA_ERROR_INVALID_VALUE", "paramIndex is 3: there are 3", modules.parameter, function, 3)


def test_images(fails):
    fails("CUDA_ERROR_INVALID_PTX", "names no .target", images.of_bytes, b"no PTX\0")
    fails("CUDA_ERROR_INVALID_IMAGE", "neither PTX nor machine code", images.of_bytes, b"\xff\xfe\0")
    fails(
        "CUDA_ERROR_NO_BINARY_FOR_GPU",
        "built for sm_120 and cannot be loaded on sm_90",
        images.of_ptx,
        ".target sm_120",
    )
    fails("CUDA_ERROR_NO_BINARY_FOR_GPU", "built for sm_80a", images.of_ptx, ".target sm_80a")
    fails("CUDA_ERROR_INVALID_VALUE", "image is a null pointer", images.at, 0)
    fails("CUDA_ERROR_FILE_NOT_FOUND", "nowhere.ptx: No such file", images.of_file, "nowhere.ptx")
    fails("CUDA_ERROR_INVALID_PTX", "line 3", modules.load, images.of_ptx(".version 8.0\n.target sm_80\nthis is none;"))


def test_a_module_is_not_loaded_while_a_stream_captures(fails):
    streams.begin_capture(streams.create_stream())
    fails("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "a module is loaded", modules.load, images.of_ptx(PTX))


# --- attributes -------------------------------------------------------------------------------------------------------
def test_attributes(module, fails):
    function = modules.function(module, "scale")
    assert modules.attribute(function, modules.SHARED_BYTES) == 256
    assert modules.attribute(function, modules.CONST_BYTES) == 0
    assert modules.attribute(function, modules.PTX_VERSION) == 80
    assert modules.attribute(function, modules.BINARY_VERSION) == 90  # compiled for the device when it was loaded
    assert modules.attribute(function, modules.MAX_DYNAMIC_SHARED) == (48 << 10) - 256
    assert modules.attribute(function, modules.CARVEOUT) == -1
    assert modules.attribute(function, modules.CLUSTER_SIDES[0]) == 0
    for number in (-1, 18):
        fails("CUDA_ERROR_INVALID_VALUE", f"attrib is {number}", modules.attribute, function, number)


def test_attributes_that_are_set(module, fails):
    function = modules.function(module, "scale")
    modules.set_attribute(function, modules.MAX_DYNAMIC_SHARED, (227 << 10) - 256)
    assert modules.attribute(function, modules.MAX_DYNAMIC_SHARED) == (227 << 10) - 256
    modules.set_attribute(function, modules.CARVEOUT, 50)
    assert modules.attribute(function, modules.CARVEOUT) == 50
    modules.set_attribute(function, modules.CLUSTER_SIDES[0], 1)
    fails("CUDA_ERROR_INVALID_VALUE", "on sm_90 it may have 232192", modules.set_attribute, function,
          modules.MAX_DYNAMIC_SHARED, (227 << 10) - 255)  # fmt: skip
    fails("CUDA_ERROR_INVALID_VALUE", "carveout is 101", modules.set_attribute, function, modules.CARVEOUT, 101)
    fails("CUDA_ERROR_INVALID_VALUE", "attrib is 4: it cannot be set", modules.set_attribute, function, 4, 1)
    fails("CUDA_ERROR_NOT_SUPPORTED", "no clusters", modules.set_attribute, function, modules.CLUSTER_SIDES[2], 2)


def test_registers_and_blocks_are_those_of_ptxas(module):
    function = modules.function(module, "scale")
    assert 4 <= modules.attribute(function, modules.REGISTERS) <= 32
    assert modules.attribute(function, modules.LOCAL_BYTES) == 0
    assert modules.attribute(function, modules.MAX_THREADS_PER_BLOCK) == 64
    assert modules.resident_blocks(function, 64, 0) == 32
    assert modules.resident_blocks(function, 64, (100 << 10) - 256 - 1024) == 2
    assert devices.attribute(16) > 100


# --- launches ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("grid", "block", "shared", "message"),
    [
        ((0, 1, 1), (1, 1, 1), 0, "grid.x is 0; it must be 1 to"),
        ((1, 65_536, 1), (1, 1, 1), 0, "grid.y is 65536"),
        ((1, 1, 1), (1, 1, 65), 0, "block.z is 65"),
        ((1, 1, 1), (65, 1, 1), 0, "compiled for at most 64"),
        ((1, 1, 1), (1, 1, 1), 48 << 10, "it may have 48896: set CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES"),
    ],
)
def test_launches_that_are_refused(grid, block, shared, message, module, fails):
    function = modules.function(module, "scale")
    fails("CUDA_ERROR_INVALID_VALUE", message, modules.run, function, grid, block, arguments(0), shared)


def test_arguments_that_do_not_fit(module, fails):
    function = modules.function(module, "scale")
    fails("CUDA_ERROR_INVALID_VALUE", "2 arguments given; it takes 3", modules.run, function, (1, 1, 1), (1, 1, 1),
          arguments(0)[:2])  # fmt: skip
    fails("CUDA_ERROR_INVALID_VALUE", "argument 1 has 2 bytes", modules.run, function, (1, 1, 1), (1, 1, 1),
          [bytes(8), bytes(2), bytes(4)])  # fmt: skip


def test_what_a_kernel_does_wrong_is_told_whole(module, fails):
    function, address = modules.function(module, "scale"), allocations.allocate(4)
    fails("CUDA_ERROR_ILLEGAL_ADDRESS", r"kernel scale.*block \(0, 0, 0\).*4 bytes past the end", modules.run, function,
          (1, 1, 1), (1, 1, 1), arguments(address + 8))  # fmt: skip
    modules.run(function, (1, 1, 1), (1, 1, 1), arguments(address))  # no error sticks
    allocations.free(address)


def test_a_cooperative_launch_that_is_too_large(module, fails):
    function = modules.function(module, "empty")
    fails("CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE", "a cooperative launch of 1,000,000 blocks", modules.run, function,
          (1_000_000, 1, 1), (1, 1, 1), [], 0, 0, True)  # fmt: skip
