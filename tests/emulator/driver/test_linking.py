"""The driver's linker: its inputs by their kinds, archives, grid groups, and the log of what goes wrong."""

import ctypes
from ctypes import byref, c_int, c_size_t, c_uint64

import pytest

import gpubp.emulator
from gpubp.emulator.driver import images, linking, modules
from gpubp.toolchain.nvrtc import compile_source

CALLER = b"""
.version 8.0
.target sm_80
.address_size 64
.extern .func f();
.visible .entry k()
{
    call f, ();
    ret;
}
"""
CALLED = b".version 8.0\n.target sm_80\n.address_size 64\n.visible .func f()\n{\n    ret;\n}\n"


def archive(*members):
    """Return an archive as `ar` writes it: long names in a table of their own."""
    names = b"".join(f"{name}/\n".encode() for name, _ in members if len(name) > 15)
    data = b"!<arch>\n"

    def add(name, content):
        nonlocal data
        data += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{644:<8}{len(content):<10}`\n".encode()
            + content
            + b"\n" * (len(content) % 2)
        )

    add("/", bytes(4))
    if names:
        add("//", names)
    for name, content in members:
        add(f"/{names.index(name.encode())}" if len(name) > 15 else f"{name}/", content)
    return data


def linked(*inputs, options=None):
    """Return the text that is made of inputs, each a kind, what it holds, and its name."""
    state = linking.create(options or {})
    try:
        for each in inputs:
            linking.add(state, *each)
        return ctypes.string_at(*linking.complete(state)).rstrip(b"\0").decode()
    finally:
        linking.destroy(state)


def test_two_texts():
    text = linked((linking.PTX, CALLER + b"\0", "caller"), (linking.PTX, CALLED, "called"))
    with gpubp.emulator.use("sm_90"):
        handle = modules.load(images.of_ptx(text))
    assert modules.names(handle) == ["k"]
    modules.run(modules.function(handle, "k"), (1, 1, 1), (1, 1, 1), [])
    modules.unload(handle)


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (linking.CUBIN, "a cubin"),
        (linking.FATBINARY, "a fatbin"),
        (linking.OBJECT, "an object"),
        (linking.NVVM, "LTO-IR"),
        (9, "of kind 9"),
    ],
)
def test_inputs_that_are_refused(kind, what, fails):
    fails("CUDA_ERROR_NO_BINARY_FOR_GPU", f"it.bin is {what}: the virtual device links PTX", linked,
          (kind, b"\x7fELF", "it.bin"))  # fmt: skip


def test_what_is_no_input(fails, tmp_path):
    fails("CUDA_ERROR_INVALID_VALUE", "has no input", linked)
    fails("CUDA_ERROR_INVALID_IMAGE", "input 1 is no PTX", linked, (linking.PTX, b"\xff\xfe", ""))
    fails("CUDA_ERROR_INVALID_IMAGE", "lib.a is no archive", linked, (linking.LIBRARY, b"", "lib.a"))
    state = linking.create({})
    fails("CUDA_ERROR_FILE_NOT_FOUND", "nowhere.ptx: No such file", linking.add_file, state, linking.PTX, "nowhere.ptx")
    linking.destroy(state)
    fails("CUDA_ERROR_INVALID_HANDLE", "is no link state", linking.complete, state)


def test_names_that_are_missing_or_twice(fails):
    fails("CUDA_ERROR_INVALID_PTX", "^caller: undefined reference to f$", linked, (linking.PTX, CALLER, "caller"))
    fails("CUDA_ERROR_INVALID_PTX", "^f is defined in one and in two$", linked, (linking.PTX, CALLED, "one"),
          (linking.PTX, CALLED, "two"))  # fmt: skip


def test_archives(fails):
    """A member is taken if it defines what is missing, whatever the others define."""
    twice = CALLED.replace(b" f(", b" k(")
    inputs = [(linking.PTX, CALLER, "caller")]
    lib = archive(("other.ptx", twice), ("a name that is longer than most.ptx", CALLED), ("code.o", b"\x7fELF"))
    text = linked(*inputs, (linking.LIBRARY, lib, "lib.a"))
    assert text.count(".func f()") == 2  # declared and defined
    assert ".func k()" not in text
    lib = archive(("other.ptx", twice), ("code.o", b"\x7fELF"))
    fails(
        "CUDA_ERROR_INVALID_PTX",
        r"^caller: undefined reference to f; members that are no PTX are not read: lib.a \(code.o\)$",
        linked,
        *inputs,
        (linking.LIBRARY, lib, "lib.a"),
    )


def test_an_archive_whose_members_need_each_other():
    first = CALLED.replace(b"ret;", b"call g, ();\nret;").replace(
        b".visible .func f", b".extern .func g();\n.visible .func f"
    )
    lib = archive(("g.ptx", CALLED.replace(b" f(", b" g(")), ("f.ptx", first))
    text = linked((linking.PTX, CALLER, "caller"), (linking.LIBRARY, lib, "lib.a"))
    assert ".func f()" in text
    assert ".func g()" in text


def test_grid_groups_are_supplied():
    """On a GPU they are machine code in CUDA's device runtime."""
    source = """
extern "C" __global__ void k() { cudaCGSynchronize(cudaCGGetIntrinsicHandle(cudaCGScopeGrid), 0); }
"""
    with gpubp.emulator.use("sm_80"):
        caller = compile_source(source, "sm_80", options=["-rdc=true"]).ptx
        text = linked((linking.PTX, caller.encode(), "caller"))
        handle = modules.load(images.of_ptx(text))
    modules.run(modules.function(handle, "k"), (4, 1, 1), (32, 1, 1), [], cooperative=True)
    modules.unload(handle)


def test_a_bound_of_registers():
    assert ".maxnreg 24" in linked((linking.PTX, CALLED, "f"), (linking.PTX, CALLER, "k"), options={0: 24})


def test_the_log(c_call):
    """The message is in the buffer that the options name, cut to its bytes."""
    log, state = ctypes.create_string_buffer(30), c_uint64()
    options = (c_int * 2)(linking.ERROR_LOG, linking.ERROR_LOG_BYTES)
    values = (c_uint64 * 2)(ctypes.addressof(log), len(log))
    assert c_call("cuLinkCreate_v2", 2, options, values, byref(state))[0] == "CUDA_SUCCESS"
    text, name = ctypes.create_string_buffer(CALLER), ctypes.create_string_buffer(b"caller")
    none = ctypes.POINTER(c_int)(), ctypes.POINTER(c_uint64)()
    given = (linking.PTX, ctypes.addressof(text), len(text), ctypes.addressof(name), 0, *none)
    assert c_call("cuLinkAddData_v2", state.value, *given)[0] == "CUDA_SUCCESS"
    size = c_size_t()
    result, message = c_call("cuLinkComplete", state.value, byref(c_uint64()), ctypes.addressof(size))
    assert result == "CUDA_ERROR_INVALID_PTX"
    assert message.endswith("caller: undefined reference to f")
    assert log.value == b"caller: undefined reference t"
    assert c_call("cuLinkAddFile_v2", state.value, linking.PTX, b"nowhere", 0, *none)[0] == "CUDA_ERROR_FILE_NOT_FOUND"
    assert log.value == b"nowhere: No such file or dire"
    assert c_call("cuLinkDestroy", state.value)[0] == "CUDA_SUCCESS"
