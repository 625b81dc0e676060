"""A program that compiles, for `process.py`: it loads one of NVIDIA's compilers, and forks for each thing to compile.

What NVRTC makes of a source depends on what the process has compiled before, and on the addresses at which its data
happens to lie: they decide which of several equal instructions it takes, and in which order. Here every compilation
starts from the same state, so that the same source gives the same PTX and the same machine code:

- the process has loaded the compiler with all its libraries, and compiled nothing that is asked for;
- Linux gives it the same addresses each time (personality ADDR_NO_RANDOMIZE), where it is allowed to ask for that;
- a thread compiles and does nothing else, as the memory of a new thread begins at a place of its own, whatever Python
  holds elsewhere, and in whatever pieces the request arrived.

This file is run as a script and imports nothing of gpubp, so that it starts fast. Its arguments: a socket on which
requests arrive, the compiler's name, and the list of folders that hold NVIDIA's packages, as JSON. With each request
comes a socket of its own, over which a forked child reads one pickled call, and answers with its pickled result.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pickle
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

STACK = 64 << 20
"""Bytes of the stack on which a program is compiled."""


class Refused(Exception):
    """The compiler refused its input: `reason` in its own words, `log` its whole output."""

    def __init__(self, reason: str, log: str = "") -> None:
        super().__init__(reason, log)
        self.reason = reason
        self.log = log


def main(descriptor: str, compiler: str, folders: str, *again: str) -> None:
    """Serve requests until the process that sends them has ended; then end, with all children."""
    _fix_addresses()
    sys.path[:] = _with(json.loads(folders))
    load = _LOAD[compiler]
    loaded: Any
    try:
        loaded = load()
    except Exception as error:  # the answer to every call
        loaded = error
    children: set[int] = set()
    with socket.socket(fileno=int(descriptor)) as requests:
        while True:
            message, (*answers,), *_ = socket.recv_fds(requests, 1, 1)
            if not message:
                break
            # Waiting for those that have ended makes their time count as this process's.
            children = {child for child in children if os.waitpid(child, os.WNOHANG) == (0, 0)}
            child = os.fork()
            if child == 0:
                requests.close()
                _answer(socket.socket(fileno=answers[0]), loaded)
            children.add(child)
            os.close(answers[0])
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    os._exit(0)


def _with(given: list[str]) -> list[str]:
    """Return the folders to import from: those of the standard library, then these, then others of packages."""
    own = [folder for folder in sys.path if folder not in given]
    first_of_packages = next((i for i, folder in enumerate(own) if folder.endswith("-packages")), len(own))
    return [*own[:first_of_packages], *given, *own[first_of_packages:]]


ADDR_NO_RANDOMIZE = 0x0040000
"""See personality(2)."""


def _fix_addresses() -> None:
    """Restart this program, once, with addresses that are the same each time, as far as the system allows that."""
    if "--again" in sys.argv:
        return
    linux = ctypes.CDLL(None)
    linux.personality(linux.personality(0xFFFFFFFF) | ADDR_NO_RANDOMIZE)
    os.execv(sys.executable, [*sys.orig_argv, "--again"])


def addresses_are_fixed(compiler: Any) -> bool:
    """Return whether all compilations start from the same addresses."""
    persona = ctypes.CDLL(None).personality(0xFFFFFFFF)
    return persona != -1 and bool(persona & ADDR_NO_RANDOMIZE)


def _answer(answers: socket.socket, loaded: Any) -> None:
    """Do what one call asks for, and end."""
    with answers.makefile("rb") as stream:
        folder, function, arguments = pickle.load(stream)
    with contextlib.suppress(OSError):  # without it, files that are named from there are not found
        os.chdir(folder)
    threading.stack_size(STACK)
    thread = threading.Thread(target=_work, args=(answers, loaded, function, arguments))
    thread.start()
    thread.join()
    os._exit(0)


def _work(answers: socket.socket, loaded: Any, function: str, arguments: dict[str, Any]) -> None:
    """Send the result of one function."""
    result: tuple[str, Any]
    try:
        if isinstance(loaded, Exception):
            result = "missing", f"{type(loaded).__name__}: {loaded}"
        else:
            result = "done", _WORK[function](loaded, **arguments)
    except Refused as error:
        result = "refused", (error.reason, error.log)
    except Exception as error:
        result = "failed", f"{type(error).__name__}: {error}"
    answers.sendall(pickle.dumps(result))


# --- NVRTC: CUDA C++ to PTX and machine code --------------------------------------------------------------------------
def _load_nvrtc() -> ModuleType:
    nvrtc = import_module("cuda.bindings.nvrtc")
    # The first compilation loads more libraries, by paths whose length would move the data of the thread that it is in.
    program = checked(nvrtc, nvrtc.nvrtcCreateProgram(b"__global__ void first() {}", b"first.cu", 0, [], []))
    checked(nvrtc, nvrtc.nvrtcCompileProgram(program, 1, [b"-arch=sm_90"]))
    checked(nvrtc, nvrtc.nvrtcDestroyProgram(program))
    return nvrtc


def compile_program(
    nvrtc: Any, *, source: str, name: str, options: Sequence[str], expressions: Sequence[str]
) -> dict[str, Any]:
    """Return the "ptx", "cubin", "names" (lowered, by expression) and "log" of a program.

    Raises:
        Refused: it does not compile.
    """
    program = checked(nvrtc, nvrtc.nvrtcCreateProgram(source.encode(), os.fsencode(name), 0, [], []))
    for expression in expressions:
        checked(nvrtc, nvrtc.nvrtcAddNameExpression(program, expression.encode()))
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
    log = _text(_buffer(nvrtc, program, nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog))
    # How long ptxas took is no part of the result: the same compilation gives the same log.
    log = re.sub(r"ptxas info +: Compile time = [^\n]*\n?", "", log).strip()
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        _, reason = nvrtc.nvrtcGetErrorString(status)
        raise Refused(reason.decode(), log)
    names = {
        expression: checked(nvrtc, nvrtc.nvrtcGetLoweredName(program, expression.encode())).decode()
        for expression in expressions
    }
    return {
        "ptx": _text(_buffer(nvrtc, program, nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX)),
        "cubin": _buffer(nvrtc, program, nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN),
        "names": names,
        "log": log,
    }


def checked(nvrtc: Any, outcome: tuple) -> Any:
    """Return the result of an NVRTC call. Raise RuntimeError with NVRTC's own words if it failed."""
    status, *results = outcome
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        _, text = nvrtc.nvrtcGetErrorString(status)
        raise RuntimeError(f"NVRTC: {text.decode()}")
    return results[0] if results else None


def _buffer(nvrtc: Any, program: object, get_size: Callable, get: Callable) -> bytes:
    buffer = b" " * checked(nvrtc, get_size(program))
    checked(nvrtc, get(program, buffer))
    return buffer


def _text(content: bytes | bytearray) -> str:
    return content.rstrip(b"\0").decode(errors="replace")


# --- NVVM: LLVM's intermediate representation to PTX ------------------------------------------------------------------
def _load_nvvm() -> ModuleType:
    nvvm = import_module("cuda.bindings.nvvm")
    nvvm.version()
    return nvvm


def compile_modules(
    nvvm: Any, *, modules: Sequence[bytes], library: bytes, options: Sequence[str]
) -> tuple[bytes, str]:
    """Return PTX and log of NVVM IR modules that are linked with each other, and with `library` for what they lack.

    Raises:
        Refused: they do not compile.
    """
    program = nvvm.create_program()
    try:
        for module in modules:
            nvvm.add_module_to_program(program, module, len(module), "")
        nvvm.verify_program(program, len(options), options)
        # After the verification, which libdevice does not pass.
        nvvm.lazy_add_module_to_program(program, library, len(library), "")
        nvvm.compile_program(program, len(options), options)
    except nvvm.nvvmError as error:
        raise Refused(str(error), _log(nvvm.get_program_log_size, nvvm.get_program_log, program)) from error
    ptx = bytearray(nvvm.get_compiled_result_size(program))
    nvvm.get_compiled_result(program, ptx)
    return bytes(ptx), _log(nvvm.get_program_log_size, nvvm.get_program_log, program)


def _log(get_size: Callable, get: Callable, handle: int) -> str:
    buffer = bytearray(get_size(handle))
    if buffer:
        get(handle, buffer)
    return _text(buffer)


# --- nvJitLink: PTX to machine code -----------------------------------------------------------------------------------
def _load_nvjitlink() -> ModuleType:
    nvjitlink = import_module("cuda.bindings.nvjitlink")
    nvjitlink.version()
    return nvjitlink


def assemble(nvjitlink: Any, *, ptx: str, options: Sequence[str]) -> tuple[bytes, str]:
    """Return machine code and log of PTX.

    Raises:
        Refused: it does not assemble.
    """
    text = ptx.encode()
    try:
        handle = nvjitlink.create(len(options), options)
    except nvjitlink.nvJitLinkError as error:
        raise Refused(str(error)) from error
    try:
        nvjitlink.add_data(handle, nvjitlink.InputType.PTX, text, len(text), "kernel.ptx")
        nvjitlink.complete(handle)
        cubin = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, cubin)
        return bytes(cubin), _log(nvjitlink.get_info_log_size, nvjitlink.get_info_log, handle)
    except nvjitlink.nvJitLinkError as error:
        raise Refused(str(error), _log(nvjitlink.get_error_log_size, nvjitlink.get_error_log, handle)) from error


_LOAD: dict[str, Callable[[], ModuleType]] = {
    "nvrtc": _load_nvrtc,
    "nvvm": _load_nvvm,
    "nvjitlink": _load_nvjitlink,
}
_WORK: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (addresses_are_fixed, compile_program, compile_modules, assemble)
}

if __name__ == "__main__":
    main(*sys.argv[1:])
