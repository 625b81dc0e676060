"""The library that is written without a compiler: loaded and called, its instructions read back for both machines."""

import ctypes
import os
import platform
import struct
import subprocess
import sys

import pytest

from gpubp.emulator.driver import elf

NAMES = [f"function_{index}" for index in range(300)]
"""More than a page of trampolines, and chains in the table of hashes."""


@pytest.fixture(scope="module")
def library():
    """The library of this computer, loaded under a name that no CUDA program asks for."""
    file = os.memfd_create("elf")
    os.write(file, elf.shared_library("libgpubp-test.so.7", NAMES))
    loaded = ctypes.CDLL(f"/proc/self/fd/{file}")
    os.close(file)
    return loaded


def test_every_function_jumps_through_its_own_slot(library):
    slots = (ctypes.c_uint64 * len(NAMES)).in_dll(library, elf.SLOTS)
    kept = []
    for index in range(len(NAMES)):
        kept.append(ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda x, index=index: 1000 * index + x))
        slots[index] = ctypes.cast(kept[-1], ctypes.c_void_p).value
    assert [getattr(library, name)(7) for name in NAMES] == [1000 * index + 7 for index in range(len(NAMES))]


def test_many_arguments_pass_through(library):
    """Those in registers and those on the stack."""
    types = [ctypes.c_uint64, ctypes.c_float, *[ctypes.c_uint32] * 8, ctypes.c_uint64, ctypes.c_double, ctypes.c_uint16]
    seen = []
    called = ctypes.CFUNCTYPE(ctypes.c_int, *types)(lambda *given: seen.append(given) or 5)
    slots = (ctypes.c_uint64 * len(NAMES)).in_dll(library, elf.SLOTS)
    slots[17] = ctypes.cast(called, ctypes.c_void_p).value
    function = library.function_17
    function.argtypes = types
    given = (2**63 + 1, 0.5, *range(2**32 - 8, 2**32), 2**64 - 1, -2.25, 65_535)
    try:
        assert function(*given) == 5
    finally:
        function.argtypes = None
    assert seen == [given]


def test_the_stub_returns_that_the_driver_is_gone(library):
    slots = (ctypes.c_uint64 * len(NAMES)).in_dll(library, elf.SLOTS)
    slots[3] = ctypes.cast(getattr(library, elf.STUB), ctypes.c_void_p).value
    assert library.function_3(1, 2, 3) == elf.ENDED == 4


def test_the_stubs_for_what_is_given_back_and_for_the_names_of_errors(library):
    slots = (ctypes.c_uint64 * len(NAMES)).in_dll(library, elf.SLOTS)
    slots[4] = ctypes.cast(getattr(library, elf.DONE), ctypes.c_void_p).value
    assert library.function_4(1, 2, 3) == 0
    slots[5] = ctypes.cast(getattr(library, elf.NAMED), ctypes.c_void_p).value
    text = ctypes.c_char_p(b"nothing yet")
    assert library.function_5(4, ctypes.byref(text)) == 0
    assert text.value == b"CUDA_ERROR_DEINITIALIZED"


def test_a_name_that_the_library_lacks(library):
    with pytest.raises(AttributeError, match="function_300"):
        library.function_300  # noqa: B018


def test_another_machine():
    with pytest.raises(OSError, match=r"machine is 'riscv64': the virtual device needs one of x86_64, aarch64"):
        elf.shared_library("libcuda.so.1", NAMES, "riscv64")


# --- the instructions, read back as the architectures' manuals say ----------------------------------------------------
def sections(file: bytes) -> tuple[int, dict[str, int]]:
    """Return the machine of an ELF file, and its symbols' addresses, from its dynamic segment alone."""
    machine = struct.unpack_from("<H", file, 18)[0]
    segments_at, count = struct.unpack_from("<Q", file, 32)[0], struct.unpack_from("<H", file, 56)[0]
    segments = [struct.unpack_from("<IIQQQQQQ", file, segments_at + 56 * index) for index in range(count)]
    start = next(each[2] for each in segments if each[0] == 2)
    tags = {}
    while (entry := struct.unpack_from("<QQ", file, start))[0]:
        tags[entry[0]] = entry[1]
        start += 16
    strings, symbols, table = tags[5], tags[6], tags[4]
    found = {}
    for index in range(1, struct.unpack_from("<I", file, table + 4)[0]):
        name, _, _, _, address, _ = struct.unpack_from("<IBBHQQ", file, symbols + 24 * index)
        found[file[strings + name : file.index(b"\0", strings + name)].decode()] = address
    assert file[strings + tags[14] : file.index(b"\0", strings + tags[14])] == b"libcuda.so.1"
    return machine, found


def test_the_trampolines_of_x86_64():
    file = elf.shared_library("libcuda.so.1", NAMES, "x86_64")
    machine, symbols = sections(file)
    assert machine == 62
    for index, name in enumerate(NAMES):
        at = symbols[name]
        assert file[at : at + 6] == bytes.fromhex("f30f1efa ff25")  # endbr64; jmp [rip + 32 bits]
        target = at + 10 + struct.unpack_from("<i", file, at + 6)[0]
        assert target == symbols[elf.SLOTS] + 8 * index
    assert file[symbols[elf.STUB] :][:6] == bytes.fromhex("b8 04000000 c3")  # mov eax, 4; ret


def test_the_trampolines_of_aarch64():
    """The manual of the Arm architecture: adrp adds 4096 times a signed number of 21 bits, in two fields, to the page
    of the instruction; ldr adds 8 times an unsigned one of 12 bits."""
    file = elf.shared_library("libcuda.so.1", NAMES, "aarch64")
    machine, symbols = sections(file)
    assert machine == 183
    for index, name in enumerate(NAMES):
        at = symbols[name]
        landing, adrp, load, jump = struct.unpack_from("<4I", file, at)
        assert landing == 0xD503245F  # bti c
        assert adrp >> 31 == 1
        assert adrp >> 24 & 0x1F == 0b10000
        assert adrp & 31 == 16
        pages = (adrp >> 5 & 0x7FFFF) << 2 | adrp >> 29 & 3
        pages -= (pages >> 20) << 21
        assert load >> 22 == 0b1111100101  # ldr, 64 bits, unsigned offset
        assert (load >> 5 & 31, load & 31) == (16, 16)
        assert jump == 0xD61F0000 | 16 << 5  # br x16
        assert (at & ~0xFFF) + 4096 * pages + 8 * (load >> 10 & 0xFFF) == symbols[elf.SLOTS] + 8 * index
    move, ret = struct.unpack_from("<2I", file, symbols[elf.STUB])
    assert (move >> 23, move >> 21 & 3, move >> 5 & 0xFFFF, move & 31) == (0b010100101, 0, elf.ENDED, 0)  # movz w0
    assert ret == 0xD65F03C0
    adr, store, move, ret = struct.unpack_from("<4I", file, symbols[elf.NAMED])
    assert (adr >> 31, adr >> 24 & 0x1F, adr & 31) == (0, 0b10000, 2)  # adr x2
    assert file[symbols[elf.NAMED] + ((adr >> 5 & 0x7FFFF) << 2 | adr >> 29 & 3) :].startswith(elf.NAME)
    assert (store >> 22, store >> 10 & 0xFFF, store >> 5 & 31, store & 31) == (0b1111100100, 0, 1, 2)  # str x2, [x1]
    assert (move, ret) == (0x52800000, 0xD65F03C0)


@pytest.mark.parametrize(
    ("here", "slot", "words"),
    [
        # By hand, from the fields of the manual: the slot 16 pages on, the slot of the same page, and one 1 page back.
        (0x1230, 0x11008, (0x90000090, 0xF9400610)),
        (0x2000, 0x2FF8, (0x90000010, 0xF947FE10)),
        (0x5000, 0x4010, (0xF0FFFFF0, 0xF9400A10)),
    ],
)
def test_encodings_of_aarch64_that_are_known(here, slot, words):
    assert struct.unpack("<4I", elf.MACHINES["aarch64"].jump(here, slot))[1:3] == words


@pytest.mark.parametrize("machine", list(elf.MACHINES))
def test_no_segment_is_writable_and_executable(machine):
    file = elf.shared_library("libcuda.so.1", NAMES, machine)
    at, count = struct.unpack_from("<Q", file, 32)[0], struct.unpack_from("<H", file, 56)[0]
    flags = [struct.unpack_from("<II", file, at + 56 * index)[1] for index in range(count)]
    assert all(flag & 3 != 3 for flag in flags)


@pytest.mark.skipif(platform.system() != "Linux", reason="names a library of Linux")
def test_the_soname_is_found_by_a_later_dlopen(tmp_path):
    """By the name alone, although no file of the name is anywhere."""
    program = """
import ctypes, os
from gpubp.emulator.driver import elf
file = os.memfd_create("elf")
os.write(file, elf.shared_library("libgpubp-nowhere.so.1", ["one"]))
first = ctypes.CDLL(f"/proc/self/fd/{file}", mode=ctypes.RTLD_GLOBAL)
os.close(file)
second = ctypes.CDLL("libgpubp-nowhere.so.1")
address = lambda library: ctypes.cast(library.one, ctypes.c_void_p).value
assert address(first) == address(second)
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
