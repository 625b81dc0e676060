"""RawKernel and RawModule under CuPy's names: CUDA C++ compiled by NVRTC, its PTX executed by the emulator.

Arguments are taken as CuPy takes them: arrays as pointers, NumPy scalars in their own dtype, a Python float as float64,
None as a null pointer, a structured NumPy scalar or an array of one element by value. One thing is stricter. Every
argument is held against the kernel's parameter, in count, size and kind: where a GPU would read a float64 as float32
bits, this raises. A Python int has no dtype, so it is taken for any integer parameter that can hold it.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpubp.chips import MAX_THREADS, STATIC_SHARED
from gpubp.emulator import launch
from gpubp.emulator.chip import compute_capability, current_arch, current_chip
from gpubp.emulator.cupy.arrays import MemoryPointer, UnownedMemory, ndarray
from gpubp.emulator.cupy.streams import Stream, current
from gpubp.emulator.errors import LaunchError
from gpubp.emulator.observe import observers
from gpubp.toolchain.nvjitlink import assemble
from gpubp.toolchain.nvrtc import Compiled, compile_source, read_compiled
from gpubp.toolchain.ptxas import Resources


@dataclass(frozen=True)
class _Binary:
    """A module loaded for one architecture."""

    module: launch.LoadedModule
    resources: Mapping[str, Resources]
    lowered_names: Mapping[str, str]
    ptx_version: int
    arch: str
    cubin: bytes


class RawModule:
    """CUDA C++ source, or a compiled file, with kernels to be fetched by name.

    Args:
        code: CUDA C++ source.
        path: instead of code, a .ptx file, or a .cubin file that `gpubp.toolchain.nvrtc` wrote, whose PTX lies
            beside it.
        options: options for NVRTC.
        name_expressions: C++ names of template kernels, for `get_function`.
        backend: "nvrtc"; translate_cucomplex and jitify must keep their defaults.
        enable_cooperative_groups: launch kernels so that all blocks are there at once, and the grid has a barrier.

    Raises:
        gpubp.toolchain.process.CompileError: the source does not compile, at the first use as in CuPy.
    """

    def __init__(
        self,
        *,
        code: str | None = None,
        path: str | None = None,
        options: tuple[str, ...] = (),
        backend: str = "nvrtc",
        translate_cucomplex: bool = False,
        enable_cooperative_groups: bool = False,
        name_expressions: Sequence[str] | None = None,
        jitify: bool | None = None,
    ) -> None:
        if (code is None) == (path is None):
            raise TypeError("exactly one of code and path must be given")
        _check_types(options, code=code, path=path, backend=backend)
        _check_plain(backend, translate_cucomplex, jitify)
        if name_expressions is not None and code is None:
            raise ValueError("name_expressions need code: a compiled file has lowered names")
        self.code = code
        self.file_path = path
        self.options = tuple(options)
        self.backend = backend
        self.enable_cooperative_groups = enable_cooperative_groups
        self.name_expressions = None if name_expressions is None else tuple(name_expressions)

    def get_function(self, name: str) -> RawKernel:
        """Return the kernel of this name: a name expression, or its name in the PTX.

        Raises:
            EmulatorError: the module has no such kernel.
        """
        kernel = RawKernel._of_module(self, name)
        kernel.kernel  # noqa: B018 - an unknown name is an error here, not at the first launch
        return kernel

    def get_global(self, name: str) -> MemoryPointer:
        """Return where a __device__ or __constant__ variable lies."""
        binary = self._load()
        symbol = binary.lowered_names.get(name, name)
        size = binary.module.global_size(symbol)
        return MemoryPointer(UnownedMemory(binary.module.global_address(symbol), size, binary.module), 0)

    def compile(self, log_stream: Any = None) -> None:
        """Compile now; the compiler's log is written to `log_stream`."""
        if self.code is not None and log_stream is not None:
            log_stream.write(self._compiled().log)
        self._load()

    def _compiled(self) -> Compiled:
        return compile_source(
            self.code or "", current_arch(), options=self.options, name_expressions=self.name_expressions or ()
        )

    def _load(self) -> _Binary:
        """Return the module for the current architecture; variables keep their values from call to call."""
        arch = current_arch()
        if arch not in self._loaded:
            self._loaded[arch] = self._load_source() if self.file_path is None else _load_file(Path(self.file_path))
        return self._loaded[arch]

    @functools.cached_property
    def _loaded(self) -> dict[str, _Binary]:
        return {}

    def _load_source(self) -> _Binary:
        compiled = self._compiled()
        return _binary(compiled.ptx, compiled.resources, compiled.lowered_names, compiled.cubin, self.code or "")


class RawKernel:
    """A kernel in CUDA C++, compiled at its first launch; see `RawModule` for the arguments.

    Launched as `kernel(grid, block, args, shared_mem=0, stream=None)`; grid and block are tuples of one to three
    numbers.
    """

    def __init__(
        self,
        code: str,
        name: str,
        options: tuple[str, ...] = (),
        backend: str = "nvrtc",
        *,
        translate_cucomplex: bool = False,
        enable_cooperative_groups: bool = False,
        jitify: bool | None = None,
    ) -> None:
        self._bind(
            RawModule(
                code=code,
                options=options,
                backend=backend,
                translate_cucomplex=translate_cucomplex,
                enable_cooperative_groups=enable_cooperative_groups,
                jitify=jitify,
            ),
            name,
        )

    @classmethod
    def _of_module(cls, module: RawModule, name: str) -> RawKernel:
        kernel = cls.__new__(cls)
        kernel._bind(module, name)
        return kernel

    def _bind(self, module: RawModule, name: str) -> None:
        self._module = module
        self.name = self.__name__ = name
        self._dynamic_limit: int | None = None
        self._carveout = -1

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence[Any],
        *,
        shared_mem: int = 0,
        stream: Stream | None = None,
        enable_cooperative_groups: bool = False,
    ) -> None:
        """Launch the kernel and wait for it; a stream that is capturing keeps the launch instead.

        Raises:
            LaunchError: a launch that no GPU would accept, or arguments that do not fit the kernel.
            EmulatorError: what the emulator finds while the kernel runs.
        """
        cooperative = enable_cooperative_groups or self._module.enable_cooperative_groups
        kernel, arch = self.kernel, current_arch()
        sizes = _three(grid, "grid"), _three(block, "block")
        params = pack_arguments(kernel, args)
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise LaunchError(
                f"kernel {kernel.name}: shared_mem is {shared_mem} bytes, and the kernel may have "
                f"{self.max_dynamic_shared_size_bytes}: set its max_dynamic_shared_size_bytes"
            )
        arguments = (kernel, *sizes, params, shared_mem, arch)
        current(stream).submit(functools.partial(launch.launch, *arguments, cooperative=cooperative))

    @property
    def kernel(self) -> launch.Kernel:
        """Return the parsed kernel, for the current architecture."""
        binary = self._module._load()
        return binary.module.kernel(binary.lowered_names.get(self.name, self.name))

    def compile(self, log_stream: Any = None) -> None:
        """Compile now; the compiler's log is written to `log_stream`."""
        self._module.compile(log_stream)

    @property
    def code(self) -> str | None:
        return self._module.code

    @property
    def options(self) -> tuple[str, ...]:
        return self._module.options

    @property
    def backend(self) -> str:
        return self._module.backend

    @property
    def file_path(self) -> str | None:
        return self._module.file_path

    @property
    def attributes(self) -> dict[str, int]:
        """Return what is known of the kernel, under CuPy's names; -1 for what is not known."""
        names = [
            "max_threads_per_block",
            "shared_size_bytes",
            "const_size_bytes",
            "local_size_bytes",
            "num_regs",
            "ptx_version",
            "binary_version",
            "cache_mode_ca",
            "max_dynamic_shared_size_bytes",
            "preferred_shared_memory_carveout",
        ]
        return {name: getattr(self, name) for name in names}

    @property
    def _resources(self) -> Resources:
        return self._module._load().resources[self.kernel.name]

    @property
    def num_regs(self) -> int:
        """Return the number of registers of a thread."""
        return self._resources.registers

    @property
    def shared_size_bytes(self) -> int:
        """Return the static shared memory of a block in bytes."""
        return self._resources.shared_bytes

    @property
    def local_size_bytes(self) -> int:
        """Return the stack frame of a thread in bytes."""
        return self._resources.local_bytes

    @property
    def const_size_bytes(self) -> int:
        """Return the bytes of the __constant__ variables that the kernel uses."""
        return self.kernel.constant_bytes

    @property
    def max_threads_per_block(self) -> int:
        """Return the kernel's launch bound, or what its registers allow."""
        by_registers = current_chip().multiprocessor.registers // max(self.num_regs, 1) // 32 * 32
        return min(self.kernel.max_threads or MAX_THREADS, by_registers, MAX_THREADS)

    @property
    def ptx_version(self) -> int:
        """Return 10 * major + minor of the virtual architecture."""
        return self._module._load().ptx_version

    @property
    def binary_version(self) -> int:
        """Return 10 * major + minor of the real architecture."""
        return self._module._load().ptx_version

    @property
    def cache_mode_ca(self) -> int:
        return 0

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        """Return the dynamic shared memory that a launch may ask for, in bytes.

        That is what was set, else 48 KiB less the static part.
        """
        if self._dynamic_limit is not None:
            return self._dynamic_limit
        return STATIC_SHARED - self.kernel.static_shared_bytes

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, bytes: int) -> None:
        limit = current_chip().multiprocessor.shared_per_block - self.kernel.static_shared_bytes
        if not 0 <= bytes <= limit:
            raise LaunchError(
                f"kernel {self.kernel.name}: max_dynamic_shared_size_bytes is {bytes}: on {current_arch()} it must be "
                f"within 0 and {limit}"
            )
        self._dynamic_limit = bytes

    @property
    def preferred_shared_memory_carveout(self) -> int:
        """Return a hint to the chip, which has no effect here."""
        return self._carveout

    @preferred_shared_memory_carveout.setter
    def preferred_shared_memory_carveout(self, fraction: int) -> None:
        self._carveout = fraction


def assembled(kernel: RawKernel) -> tuple[bytes, Resources]:
    """Return the machine code of a kernel's module, and what the kernel needs, as ptxas reports it."""
    return kernel._module._load().cubin, kernel._resources


def _check_types(options: object, **texts: object) -> None:
    """CuPy takes a string and nothing like one (no path), and options as a tuple."""
    for name, text in texts.items():
        if not isinstance(text, str | None):
            raise TypeError(f"{name} is a {type(text).__name__}: it must be a str")
    if not isinstance(options, tuple):
        raise TypeError(f"options is a {type(options).__name__}: it must be a tuple")


def _check_plain(backend: str, translate_cucomplex: bool, jitify: bool | None) -> None:
    if backend != "nvrtc":
        raise NotImplementedError(f"backend is {backend!r}: the emulator compiles with 'nvrtc'")
    if translate_cucomplex or jitify:
        raise NotImplementedError("translate_cucomplex and jitify are not part of the emulator")


def _load_file(path: Path) -> _Binary:
    """Return the code in a .cubin that has its PTX beside it, or in a .ptx."""
    if path.suffix == ".cubin":
        compiled = read_compiled(path)
        if compiled is None:
            raise FileNotFoundError(
                f"path is {str(path)!r}: the emulator executes PTX, and beside this file there is none that "
                "gpubp.toolchain.nvrtc wrote together with it"
            )
        _check_loads(compiled.arch, same_major=True)
        # A file has lowered names only, as in CuPy.
        return _binary(compiled.ptx, compiled.resources, {}, compiled.cubin)
    ptx = path.read_text(encoding="utf-8")
    _check_loads(_target(ptx), same_major=False)
    target = _target(ptx)
    assembled = assemble(ptx, target if target[-1] in "af" else current_arch())
    resources = assembled.resources
    binary = _binary(ptx, resources, {}, assembled.cubin)
    # Shared memory that is declared outside of a kernel is not in ptxas' report of it.
    counted = {
        name: replace(used, shared_bytes=binary.module.kernel(name).static_shared_bytes)
        for name, used in resources.items()
    }
    return replace(binary, resources=counted)


def _binary(
    ptx: str, resources: Mapping[str, Resources], lowered_names: Mapping[str, str], cubin: bytes, code: str = ""
) -> _Binary:
    target = _target(ptx)
    major, minor = compute_capability(target)
    return _Binary(
        launch.load(ptx, ("kernel.cu", code) if code else ("", "")),
        resources,
        lowered_names,
        10 * major + minor,
        target,
        cubin,
    )


def _target(ptx: str) -> str:
    match = re.search(r"^\s*\.target\s+(sm_\d+[af]?)", ptx, re.MULTILINE)
    if match is None:
        raise ValueError("the PTX names no .target")
    return match[1]


def _check_loads(built: str, same_major: bool) -> None:
    """PTX runs on its architecture and later ones, machine code on later ones of the same major version, and both on
    their own one alone if that is of one chip, such as sm_90a."""
    wanted, present = compute_capability(built), compute_capability(current_arch())
    only = built[-1] == "a" and wanted != present
    if only or wanted > present or (same_major and wanted[0] != present[0]):
        raise LaunchError(f"the module was built for {built} and cannot be loaded on {current_arch()}")


def _three(sizes: tuple[int, ...], name: str) -> tuple[int, int, int]:
    if not isinstance(sizes, tuple) or not 1 <= len(sizes) <= 3:
        raise LaunchError(f"{name} is {sizes!r}: it must be a tuple of one to three integers")
    if not all(hasattr(size, "__index__") for size in sizes):
        raise LaunchError(f"{name} is {sizes!r}: it must hold integers")
    x, y, z = (*(int(size) for size in sizes), 1, 1)[:3]
    return x, y, z


def pack_arguments(kernel: launch.Kernel, args: Sequence[Any]) -> list[bytes]:
    """Return the bytes of each argument, each checked against its parameter.

    Raises:
        LaunchError: wrong count, size or kind; says which argument.
    """
    if len(args) != len(kernel.parameters):
        raise LaunchError(f"kernel {kernel.name}: {len(args)} arguments given, the kernel has {len(kernel.parameters)}")
    observer = observers.current()
    if observer is not None:
        for position, argument in enumerate(args):
            if isinstance(argument, ndarray) and not argument.flags.c_contiguous:
                observer.note_view(kernel.name, position, argument.shape, argument.strides)
    return [
        _pack(argument, parameter, f"kernel {kernel.name}: argument {position}")
        for position, (argument, parameter) in enumerate(zip(args, kernel.parameters, strict=True))
    ]


def _pack(argument: Any, parameter: launch.Parameter, where: str) -> bytes:
    if argument is None or isinstance(argument, (ndarray, MemoryPointer)):
        address = 0 if argument is None else argument.data.ptr if isinstance(argument, ndarray) else argument.ptr
        if parameter.size != 8 or parameter.type.startswith("f"):
            raise LaunchError(f"{where} is a pointer, and the parameter is .{parameter.type}")
        return address.to_bytes(8, sys.byteorder)
    if type(argument) is int and re.fullmatch(r"[usb]\d+", parameter.type):
        bits = 8 * parameter.size
        if not -(1 << bits - 1) <= argument < 1 << bits:
            raise LaunchError(f"{where} is {argument}: the parameter .{parameter.type} cannot hold it")
        return (argument % (1 << bits)).to_bytes(parameter.size, sys.byteorder)
    if isinstance(argument, np.ndarray) and argument.size != 1:
        raise LaunchError(
            f"{where} is a NumPy array of shape {argument.shape}: it must be copied to the device first (asarray); "
            "only an array of one element is passed by value"
        )
    if not isinstance(argument, (bool, int, float, complex, np.generic, np.ndarray)):
        raise LaunchError(f"{where} is a {type(argument).__name__}, which no kernel can take")
    value = np.asarray(argument)
    if value.dtype.itemsize != parameter.size or not _kinds_agree(value.dtype, parameter.type):
        raise LaunchError(
            f"{where} is {value.dtype} ({value.dtype.itemsize} bytes), and the parameter is .{parameter.type} "
            f"({parameter.size} bytes)"
        )
    return value.tobytes()


def _kinds_agree(dtype: np.dtype, parameter_type: str) -> bool:
    """True if the parameter's type fits this dtype; bare bytes (.b) fit any."""
    if parameter_type.startswith("f"):
        return dtype.kind == "f"
    if parameter_type[0] in "us":
        return dtype.kind in "iub"
    return True
