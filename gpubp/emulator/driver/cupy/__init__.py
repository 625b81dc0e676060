"""What the real CuPy needs to run on the virtual device; nothing is done before a program imports CuPy.

CuPy's compiled kernels reach the device through its driver module, which calls our libcuda.so.1 as any program does.
What else CuPy consists of is told the difference when it is imported: its runtime module (`runtime`), its memory
pools (`memory`), and the libraries that bring machine code for a GPU (`libraries`).
"""

from __future__ import annotations

import functools
import os
import sys
from types import ModuleType
from typing import Any

from gpubp.emulator.driver import images
from gpubp.emulator.driver.cupy import libraries
from gpubp.emulator.driver.cupy.libraries import NotServedError
from gpubp.emulator.driver.imports import after_import
from gpubp.emulator.errors import EmulatorError

_RUNTIME = "cupy_backends.cuda.api.runtime"


def install() -> None:
    """Let CuPy be served when it is imported.

    Raises:
        EmulatorError: CuPy is imported already.
    """
    if _RUNTIME in sys.modules:
        raise EmulatorError("this process has imported CuPy already: the virtual device must come first")
    os.environ["CUPY_COMPILE_WITH_PTX"] = "1"  # it gives the driver PTX, and no machine code
    os.environ["CUPY_ACCELERATORS"] = ""  # it takes its own kernels, and not those of CUB's library
    after_import(_RUNTIME, _serve_runtime)
    after_import("cupy.cuda.memory", _serve_memory)
    after_import("cupy.cuda.pinned_memory", _serve_pinned_memory)
    after_import("cupy.cuda.compiler", _serve_compiler)
    libraries.install()


def _serve_compiler(module: Any) -> None:
    """Let CuPy compile to PTX with line information, and tell the driver what a kernel's source is.

    nvcc is asked for PTX too. Jitify's search for headers, which asks a CUDA runtime of its own for the device, is left
    out: NVRTC compiles the source as it is.
    """
    compile_cached, compile_by_nvcc = module._compile_with_cache_cuda, module.compile_using_nvcc

    @functools.wraps(compile_cached)
    def compile_with_lines(source: str, options: tuple[str, ...], *arguments: Any, **named: Any) -> Any:
        with images.made_of(source):
            return compile_cached(source, (*options, "-lineinfo"), *arguments, **named)

    @functools.wraps(compile_by_nvcc)
    def compile_to_ptx(
        source: str, options: tuple[str, ...] = (), arch: str | None = None, filename: str = "kern.cu", **named: Any
    ) -> Any:
        if named.get("separate_compilation"):
            raise NotServedError(
                f"the options {options!r} ask nvcc for separate compilation, which gives machine code: the virtual "
                "device executes PTX"
            )
        return compile_by_nvcc(source, options, arch, filename, **{**named, "code_type": "ptx"})

    module._compile_with_cache_cuda = compile_with_lines
    module.compile_using_nvcc = compile_to_ptx
    module._jitify_prep = lambda source, options, path: (options, (), ())


def _serve_runtime(module: ModuleType) -> None:
    from gpubp.emulator.driver.cupy import runtime

    runtime.install(module)


def _serve_memory(module: ModuleType) -> None:
    from gpubp.emulator.driver.cupy import memory

    memory.install(module)


def _serve_pinned_memory(module: ModuleType) -> None:
    from gpubp.emulator.driver.cupy import memory

    memory.install_pinned(module)
