"""The one way to compile CUDA C++: one NVRTC call for one real architecture gives the PTX and the cubin.

The emulated device executes that PTX, CuPy loads that cubin and nvdisasm reads it: three views of one compilation.
No driver and no GPU are needed. Results are kept on disk (`cache_directory`), the PTX beside the cubin under one name,
so that `RawModule(path=str(compiled.cubin_path))` is the same line for CuPy and for the emulator.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

KERNEL_DIRECTORY = Path(__file__).parent
CACHE_FORMAT = "1"


class CompileError(Exception):
    """NVRTC refused the source. `log` is its whole output, which quotes the source lines at fault."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(f"{message}\n{log}".rstrip())
        self.log = log


@dataclass(frozen=True)
class Resources:
    """What one kernel needs on the chip, as ptxas reports it; per thread but for the shared memory, which is per block.

    Attributes:
        registers: 32-bit registers a thread.
        shared_bytes: static shared memory a block, in bytes.
        local_bytes: stack frame a thread, in bytes.
        constant_bytes: constant memory beyond the kernel's parameters, in bytes.
        spill_store_bytes, spill_load_bytes: registers that did not fit, in bytes stored and loaded.
    """

    registers: int
    shared_bytes: int = 0
    local_bytes: int = 0
    constant_bytes: int = 0
    spill_store_bytes: int = 0
    spill_load_bytes: int = 0

    @property
    def spills(self) -> bool:
        """Whether any register was spilled to local memory."""
        return self.spill_store_bytes > 0 or self.spill_load_bytes > 0


@dataclass(frozen=True)
class Compiled:
    """One compilation.

    Attributes:
        arch: real architecture, such as "sm_90".
        ptx: PTX text with line information.
        cubin: machine code of the same compilation.
        lowered_names: C++ name expression -> name of the kernel in PTX and cubin.
        log: the compiler's whole output (warnings, ptxas report).
        resources: name of the kernel in PTX and cubin -> what it needs.
        cubin_path: where the cubin lies; the PTX lies beside it with the suffix .ptx.
    """

    arch: str
    ptx: str
    cubin: bytes
    lowered_names: Mapping[str, str]
    log: str
    resources: Mapping[str, Resources]
    cubin_path: Path


def compile_source(
    source: str,
    arch: str = "sm_90",
    *,
    name: str = "kernel.cu",
    options: Sequence[str] = (),
    name_expressions: Iterable[str] = (),
    include_dirs: Iterable[str | os.PathLike[str]] = (),
) -> Compiled:
    """Compile CUDA C++ for one real architecture.

    Args:
        source: CUDA C++ text. Headers of this folder and CUDA's own (cuda_fp16.h, mma.h, ...) can be included.
        arch: real architecture that NVRTC knows, such as "sm_80".
        name: what the source is called in messages and line information.
        options: further NVRTC options. -lineinfo is always on; fast-math never is unless it is asked for here.
        name_expressions: C++ names whose lowered names are wanted, such as "reduce<float, 256>".
        include_dirs: further directories for #include, before this folder.

    Raises:
        CompileError: the source does not compile; carries the log.
        ValueError: an unknown architecture, or an option that this function decides itself.
        RuntimeError: NVRTC is missing.
    """
    nvrtc = _nvrtc()
    _check_arch(nvrtc, arch)
    _check_options(options)
    expressions = tuple(name_expressions)
    directories = [Path(directory) for directory in include_dirs] + [KERNEL_DIRECTORY]
    arguments = [
        f"-arch={arch}",
        "-lineinfo",
        "--ptxas-options=-v",
        *options,
        *(f"-I{directory}" for directory in [*directories, *_toolkit_headers()]),
    ]
    # NVRTC looks beside the source first; then as the options say.
    searched = [Path(name).parent, *_directories_in(options), *directories]
    key = _digest(
        CACHE_FORMAT,
        name,
        source,
        *(f"{path}\n{text}" for path, text in _included_headers(source, searched)),
        *arguments,
        *expressions,
        "NVRTC {}.{}".format(*nvrtc.nvrtcVersion()[1:]),
    )
    cubin_path = cache_directory() / "cuda" / f"{key}.cubin"
    found = read_compiled(cubin_path)
    if found is not None:
        return found
    compiled = _run_nvrtc(nvrtc, source, name, arch, arguments, expressions, cubin_path)
    _write_entry(compiled)
    return compiled


def compile_file(
    path: str | os.PathLike[str],
    arch: str = "sm_90",
    *,
    options: Sequence[str] = (),
    name_expressions: Iterable[str] = (),
    include_dirs: Iterable[str | os.PathLike[str]] = (),
) -> Compiled:
    """Compile a .cu file; its own folder is searched first for headers. See `compile_source`."""
    path = Path(path).resolve()
    return compile_source(
        path.read_text(encoding="utf-8"),
        arch,
        name=str(path),
        options=options,
        name_expressions=name_expressions,
        include_dirs=[path.parent, *include_dirs],
    )


def supported_architectures() -> tuple[str, ...]:
    """The real architectures of the NVRTC that is installed, such as ("sm_75", "sm_80", ...)."""
    nvrtc = _nvrtc()
    return tuple(f"sm_{number}" for number in _checked(nvrtc, nvrtc.nvrtcGetSupportedArchs()))


def cache_directory() -> Path:
    """Where compiled kernels are kept: GPUBP_CACHE_DIR, else gpubp/ in the platform's cache folder of the user."""
    chosen = os.environ.get("GPUBP_CACHE_DIR")
    if chosen:
        return Path(chosen).expanduser().absolute()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "gpubp"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a cache file so that another process sees all of it or nothing.

    Raises:
        RuntimeError: the cache directory cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem[:16], suffix=".part")
    except OSError as error:
        raise RuntimeError(
            f"the kernel cache {path.parent} cannot be written ({error.strerror}): set GPUBP_CACHE_DIR to a directory "
            "that can"
        ) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def resources_from_log(log: str) -> dict[str, Resources]:
    """Read ptxas' verbose report (`-v`) into one `Resources` a kernel, keyed by the kernel's lowered name."""
    # nvJitLink adds a report of its own, without the spills: only the lines of ptxas count.
    lines = "".join(f"{line}\n" for line in log.splitlines() if line.startswith("ptxas"))
    reports = re.split(r"Compiling entry function '([^']+)'[^\n]*\n", lines)
    return {name: _resources_of(report) for name, report in zip(reports[1::2], reports[2::2], strict=True)}


def _resources_of(report: str) -> Resources:
    def number(pattern: str) -> int:
        match = re.search(pattern, report)
        return int(match[1]) if match else 0

    return Resources(
        registers=number(r"Used (\d+) registers"),
        shared_bytes=number(r"(\d+) bytes smem"),
        local_bytes=number(r"(\d+) bytes stack frame"),
        constant_bytes=sum(int(size) for size in re.findall(r"(\d+) bytes cmem\[(?!0\])", report)),
        spill_store_bytes=number(r"(\d+) bytes spill stores"),
        spill_load_bytes=number(r"(\d+) bytes spill loads"),
    )


def _nvrtc() -> ModuleType:
    """The NVRTC bindings, with a clear word if they or the library are missing."""
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError) as error:
        raise RuntimeError(
            f"NVRTC, the compiler for CUDA C++, is missing ({error}): pip install 'gpubp[emulator]', or [cuda13] on a "
            "machine with an NVIDIA GPU"
        ) from error
    return nvrtc


def _checked(nvrtc: ModuleType, outcome: tuple) -> Any:
    """The result of an NVRTC call, or RuntimeError with NVRTC's own words."""
    status, *results = outcome
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        _, text = nvrtc.nvrtcGetErrorString(status)
        raise RuntimeError(f"NVRTC: {text.decode()}")
    return results[0] if results else None


def _check_arch(nvrtc: ModuleType, arch: str) -> None:
    match = re.fullmatch(r"sm_(\d+)[af]?", arch)
    known = _checked(nvrtc, nvrtc.nvrtcGetSupportedArchs())
    if match is None or int(match[1]) not in known:
        names = ", ".join(f"sm_{number}" for number in known)
        raise ValueError(f"arch is {arch!r}: it must be one of {names}")


def _check_options(options: Sequence[str]) -> None:
    if isinstance(options, str):
        raise ValueError(f"options is the string {options!r}: it must be a sequence of strings")
    for option in options:
        if re.match(r"(-arch|--gpu-architecture|-dlto|--dlink-time-opt)\b", option):
            raise ValueError(f"options has {option!r}: arch gives the architecture, and link-time code is no PTX")


@functools.cache
def _toolkit_headers() -> tuple[Path, ...]:
    """Directories of CUDA's own headers: those that NVRTC carries, unpacked once, else the installed toolkit's."""
    nvrtc = _nvrtc()
    if hasattr(nvrtc, "nvrtcInstallBundledHeaders"):
        status, info, _ = nvrtc.nvrtcGetBundledHeadersInfo()
        if status == nvrtc.nvrtcResult.NVRTC_SUCCESS and info.available:
            directory = cache_directory() / f"headers-{info.cudaVersionMajor}.{info.cudaVersionMinor}"
            directory.parent.mkdir(parents=True, exist_ok=True)
            status, message = nvrtc.nvrtcInstallBundledHeaders(
                os.fsencode(directory), nvrtc.NVRTC_INSTALL_HEADERS_SKIP_IF_EXISTS
            )
            if status == nvrtc.nvrtcResult.NVRTC_SUCCESS:
                return (directory, directory / "cccl")
            raise RuntimeError(f"CUDA's headers cannot be unpacked to {directory}: {message}")
    from cuda import pathfinder

    found = (pathfinder.find_nvidia_header_directory(library) for library in ("cudart", "cccl"))
    return tuple(Path(directory) for directory in found if directory)


def _directories_in(options: Sequence[str]) -> list[Path]:
    """The directories that options name for #include: -Idir, -I dir or --include-path=dir."""
    text = "\0".join(options)
    return [Path(match[1]) for match in re.finditer(r"(?:^|\0)(?:-I|--include-path=)\0?([^\0]+)", text)]


def _included_headers(source: str, directories: Sequence[Path]) -> list[tuple[Path, str]]:
    """The headers that a source can reach through #include in `directories`, with their text.

    Conditions around an #include are not evaluated: one header too many only costs a recompilation. CUDA's own headers
    are not among them, for the version of NVRTC stands for those.
    """
    found: dict[Path, str] = {}
    texts = [(source, list(directories))]
    while texts:
        text, searched = texts.pop()
        for included in re.findall(r'^[ \t]*#[ \t]*include[ \t]*["<]([^">]+)[">]', text, re.MULTILINE):
            path = next((directory / included for directory in searched if (directory / included).is_file()), None)
            if path is not None and path.resolve() not in found:
                found[path.resolve()] = path.read_text(encoding="utf-8", errors="replace")
                texts.append((found[path.resolve()], [path.parent, *directories]))
    return sorted(found.items())


def _digest(*parts: str) -> str:
    """A hash of texts that keeps the borders between them."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _run_nvrtc(
    nvrtc: ModuleType,
    source: str,
    name: str,
    arch: str,
    arguments: Sequence[str],
    expressions: Sequence[str],
    cubin_path: Path,
) -> Compiled:
    program = _checked(nvrtc, nvrtc.nvrtcCreateProgram(source.encode(), os.fsencode(name), 0, [], []))
    try:
        for expression in expressions:
            _checked(nvrtc, nvrtc.nvrtcAddNameExpression(program, expression.encode()))
        (status,) = nvrtc.nvrtcCompileProgram(program, len(arguments), [argument.encode() for argument in arguments])
        log = _text(nvrtc, program, nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog)
        # How long ptxas took is no part of the result: the same compilation gives the same log.
        log = re.sub(r"ptxas info +: Compile time = [^\n]*\n?", "", log).strip()
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            _, reason = nvrtc.nvrtcGetErrorString(status)
            raise CompileError(f"{name} does not compile for {arch} ({reason.decode()}):", log)
        return Compiled(
            arch=arch,
            ptx=_text(nvrtc, program, nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX),
            cubin=_bytes(nvrtc, program, nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN),
            lowered_names={
                expression: _checked(nvrtc, nvrtc.nvrtcGetLoweredName(program, expression.encode())).decode()
                for expression in expressions
            },
            log=log,
            resources=resources_from_log(log),
            cubin_path=cubin_path,
        )
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _bytes(nvrtc: ModuleType, program: object, get_size, get) -> bytes:
    buffer = b" " * _checked(nvrtc, get_size(program))
    _checked(nvrtc, get(program, buffer))
    return buffer


def _text(nvrtc: ModuleType, program: object, get_size, get) -> str:
    return _bytes(nvrtc, program, get_size, get).rstrip(b"\0").decode(errors="replace")


def read_compiled(cubin_path: Path) -> Compiled | None:
    """A cached compilation, or None if there is none or if its files do not belong together."""
    try:
        entry = json.loads(cubin_path.with_suffix(".json").read_text(encoding="utf-8"))
        cubin = cubin_path.read_bytes()
        ptx = cubin_path.with_suffix(".ptx").read_bytes()
        if entry.pop("checksum") != _checksum(cubin, ptx, entry):
            return None
        resources = {name: Resources(**numbers) for name, numbers in entry.pop("resources").items()}
        return Compiled(ptx=ptx.decode(), cubin=cubin, resources=resources, cubin_path=cubin_path, **entry)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _write_entry(compiled: Compiled) -> None:
    ptx = compiled.ptx.encode()
    entry: dict = {
        "arch": compiled.arch,
        "lowered_names": dict(compiled.lowered_names),
        "log": compiled.log,
        "resources": {name: asdict(resources) for name, resources in compiled.resources.items()},
    }
    entry["checksum"] = _checksum(compiled.cubin, ptx, entry)
    write_atomically(compiled.cubin_path, compiled.cubin)
    write_atomically(compiled.cubin_path.with_suffix(".ptx"), ptx)
    write_atomically(compiled.cubin_path.with_suffix(".json"), json.dumps(entry).encode())


def _checksum(cubin: bytes, ptx: bytes, entry: dict) -> str:
    digest = hashlib.sha256(cubin)
    digest.update(ptx)
    digest.update(json.dumps(entry, sort_keys=True).encode())
    return digest.hexdigest()
