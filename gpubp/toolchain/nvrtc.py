"""The one way to compile CUDA C++: one NVRTC call for one real architecture gives the PTX and the cubin.

The emulated device executes that PTX, CuPy loads that cubin and nvdisasm reads it: three views of one compilation.
No driver and no GPU are needed. NVRTC runs in a process of its own, so that the same source gives the same code,
whatever was compiled before (see `process.reproducible`). Results are kept on disk (see `cache`), the PTX beside the
cubin under one name, so that `RawModule(path=str(compiled.cubin_path))` is the same line for CuPy and for the emulator.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from gpubp.toolchain import cache, process
from gpubp.toolchain.compilers import checked
from gpubp.toolchain.process import CompileError, current_folder
from gpubp.toolchain.ptxas import Resources, resources_from_log

CACHE_FORMAT = "5"


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

    The same source gives the same PTX and machine code, whatever was compiled before (see `process.reproducible`).

    Args:
        source: CUDA C++ text. CUDA's own headers (cuda_fp16.h, mma.h, ...) can be included.
        arch: real architecture that NVRTC knows, such as "sm_80".
        name: what the source is called in messages and line information.
        options: further NVRTC options. -lineinfo is always on; fast-math never is unless it is asked for here.
        name_expressions: C++ names whose lowered names are wanted, such as "reduce<float, 256>".
        include_dirs: further directories for #include.

    Raises:
        CompileError: the source does not compile; carries the log.
        ValueError: an unknown architecture, or an option that this function decides itself.
        RuntimeError: NVRTC is missing.
        CacheError: neither the cache folder nor a temporary one can be written.
    """
    nvrtc = _nvrtc()
    _check_arch(nvrtc, arch)
    _check_options(options)
    expressions = tuple(name_expressions)
    directories = [Path(directory) for directory in include_dirs]
    arguments = [f"-arch={arch}", "-lineinfo", "--ptxas-options=-v", *options]
    # NVRTC looks beside the source first; then as the options say.
    searched = [Path(name).parent, *_directories_in(options), *directories]
    first = "".join(f'#include "{path}"\n' for path in _files_in(options))
    key = _digest(
        CACHE_FORMAT,
        name,
        source,
        *(f"{path}\n{text}" for path, text in _included_headers(first + source, searched)),
        *arguments,
        *map(str, directories),
        *expressions,
        *_compiler(nvrtc),
    )
    entry = f"cuda/{key}"

    def make() -> Compiled:
        made = _compile(source, name, arch, arguments, [*directories, *_toolkit_headers()], expressions)
        return _store(entry, made, arch)

    return cache.obtain(entry, lambda path: read_compiled(path.with_suffix(".cubin")), make)


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
    """Return the real architectures that the installed NVRTC knows, such as ("sm_75", "sm_80", ...)."""
    nvrtc = _nvrtc()
    return tuple(f"sm_{number}" for number in checked(nvrtc, nvrtc.nvrtcGetSupportedArchs()))


def compiler_versions() -> tuple[str, ...]:
    """Return what tells the installed NVRTC from other releases: its version, and that of its wheel."""
    return _compiler(_nvrtc())


def _nvrtc() -> ModuleType:
    """Return the NVRTC bindings.

    Raises:
        RuntimeError: they or the library are missing; says how to install them.
    """
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError) as error:
        raise RuntimeError(
            f"NVRTC, the compiler for CUDA C++, is missing ({error}): pip install 'gpubp[emulator]', or [cuda13] on a "
            "machine with an NVIDIA GPU"
        ) from error
    return nvrtc


@functools.cache
def _compiler(nvrtc: ModuleType) -> tuple[str, ...]:
    """Return what tells NVRTC's releases apart: its version, and that of its wheel, which patches change alone."""
    versions = ["NVRTC {}.{}".format(*nvrtc.nvrtcVersion()[1:])]
    for name in ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12"):
        with contextlib.suppress(metadata.PackageNotFoundError):  # NVRTC is the other wheel's, or a toolkit's
            versions.append(f"{name} {metadata.version(name)}")
    return tuple(versions)


def _check_arch(nvrtc: ModuleType, arch: str) -> None:
    match = re.fullmatch(r"sm_(\d+)[af]?", arch)
    known = checked(nvrtc, nvrtc.nvrtcGetSupportedArchs())
    if match is None or int(match[1]) not in known:
        names = ", ".join(f"sm_{number}" for number in known)
        raise ValueError(f"arch is {arch!r}: it must be one of {names}")


def _check_options(options: Sequence[str]) -> None:
    if isinstance(options, str):
        raise ValueError(f"options is the string {options!r}: it must be a sequence of strings")
    for option in options:
        if re.match(r"(-arch|--gpu-architecture|-dlto|--dlink-time-opt)\b", option):
            raise ValueError(f"options has {option!r}: arch gives the architecture, and link-time code is no PTX")


def _toolkit_headers() -> tuple[Path, ...]:
    """Return the directories of CUDA's own headers: those that NVRTC carries, unpacked once, else the toolkit's."""
    nvrtc = _nvrtc()
    if hasattr(nvrtc, "nvrtcInstallBundledHeaders"):
        status, info, _ = nvrtc.nvrtcGetBundledHeadersInfo()
        if status == nvrtc.nvrtcResult.NVRTC_SUCCESS and info.available:
            entry = f"cuda-headers/{info.cudaVersionMajor}.{info.cudaVersionMinor}"
            directory = cache.obtain(entry, _whole_headers, lambda: _unpack(nvrtc, entry))
            return (directory, directory / "cccl")
    from cuda import pathfinder

    found = (pathfinder.find_nvidia_header_directory(library) for library in ("cudart", "cccl"))
    return tuple(Path(directory) for directory in found if directory)


MANIFEST = "manifest.json"
"""In the directory of CUDA's headers: the size of each file."""


def _unpack(nvrtc: ModuleType, entry: str) -> Path:
    """Unpack the headers that NVRTC carries into a directory of the cache, which appears there once it is whole."""

    def write(path: Path) -> None:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="unpacking-") as folder:
            unpacked = Path(folder) / path.name
            status, message = nvrtc.nvrtcInstallBundledHeaders(
                os.fsencode(unpacked), nvrtc.NVRTC_INSTALL_HEADERS_SKIP_IF_EXISTS
            )
            if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
                raise OSError(0, f"CUDA's headers cannot be unpacked: {message}", str(path))
            (unpacked / MANIFEST).write_text(json.dumps(_sizes(unpacked)), encoding="utf-8")
            cache.share(unpacked, path.parent)
            with contextlib.suppress(OSError):  # nothing is there, as a rule
                path.rename(Path(folder) / "damaged")
            unpacked.rename(path)

    return cache.build(entry, write)


def _whole_headers(path: Path) -> Path | None:
    """Return the directory if all that was unpacked there is still there. It is gone through once a process."""
    return path if path.is_dir() and _is_whole(path) else None


@functools.cache
def _is_whole(path: Path) -> bool:
    try:
        return json.loads((path / MANIFEST).read_text(encoding="utf-8")) == _sizes(path)
    except (OSError, ValueError):
        return False


def _sizes(path: Path) -> dict[str, int]:
    """Return the size of each file in a directory and below, but for the manifest's."""
    files = (each for each in path.rglob("*") if each.name != MANIFEST and each.is_file())
    return {str(each.relative_to(path)): each.stat().st_size for each in files}


def _directories_in(options: Sequence[str]) -> list[Path]:
    """Return the directories that options name for #include: -Idir, -I=dir, -I dir, --include-path=dir."""
    return _paths_after(r"-I|--include-path", options)


def _files_in(options: Sequence[str]) -> list[Path]:
    """Return the files that options include before the source: -include file, --pre-include=file."""
    return _paths_after(r"-include|--pre-include", options)


def _paths_after(names: str, options: Sequence[str]) -> list[Path]:
    """Return what follows an option of these names: in the same word, after "=", or in the next word."""
    text = "\0".join(options)
    return [Path(match[1]) for match in re.finditer(rf"(?:^|\0)(?:{names})[=\0]?([^\0]+)", text)]


INCLUDE = r'^[ \t]*#[ \t]*(?:include|define[ \t]+\w+)[ \t]*["<]([^">]+)[">]'
"""An #include, or a macro that an #include may name."""


def _included_headers(source: str, directories: Sequence[Path]) -> list[tuple[Path, str]]:
    """Return the headers that a source can reach through #include in `directories`, with their text.

    Conditions around an #include are not evaluated: one header too many only costs a recompilation. CUDA's own headers
    are not among them, for the version of NVRTC stands for those.
    """
    found: dict[Path, str] = {}
    texts = [(source, list(directories))]
    while texts:
        text, searched = texts.pop()
        for included in re.findall(INCLUDE, text, re.MULTILINE):
            path = next((directory / included for directory in searched if _is_file(directory / included)), None)
            if path is not None and path.resolve() not in found:
                found[path.resolve()] = path.read_text(encoding="utf-8", errors="replace")
                texts.append((found[path.resolve()], [path.parent, *directories]))
    return sorted(found.items())


def _is_file(path: Path) -> bool:
    """Return whether there is such a file, as far as this user may see."""
    try:
        return path.is_file()
    except OSError:
        return False


def _digest(*parts: str) -> str:
    """Return a hash of texts that keeps the borders between them."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _compile(
    source: str, name: str, arch: str, options: Sequence[str], include_dirs: Sequence[Path], expressions: Sequence[str]
) -> dict[str, Any]:
    """Return what `compilers.compile_program` gives, with the paths in PTX and log as they are given."""
    folder = current_folder()
    given = [name, *map(str, include_dirs)]
    paths = [os.path.join(folder, path) for path in given]
    padded_name, *include = padded = [_padded(path) for path in paths]
    beside = os.path.dirname(padded_name), os.path.dirname(paths[0])  # of headers that NVRTC finds beside the source

    def unpadded(text: str, plain: Sequence[str]) -> str:
        pairs = [*zip(padded, plain, strict=True), beside]
        return functools.reduce(lambda text, pair: text.replace(*pair), pairs, text)

    try:
        made = process.call(
            "nvrtc",
            "compile_program",
            folder=folder if _names_a_file(options) else "/",
            source=source,
            name=padded_name,
            options=[*options, *(f"-I{path}" for path in include)],
            expressions=expressions,
        )
    except process.Refused as error:
        log = unpadded(error.log, given)
        raise CompileError(f"{name} does not compile for {arch} ({error.reason}):", log) from error
    return made | {"ptx": unpadded(made["ptx"], paths), "log": unpadded(made["log"], given)}


def _names_a_file(options: Sequence[str]) -> bool:
    """Return whether an option names a file or folder by a relative path: -Idir, -I dir, --include-path=dir."""
    parts = (part for option in options for part in (option, option.removeprefix("-I"), option.partition("=")[2]))
    return any(part and not os.path.isabs(part) and os.path.exists(part) for part in parts)


PATH_LENGTH = 511
"""Characters of a path as NVRTC gets it, and as it stands in the machine code. Shorter paths are filled up, as their
length would move NVRTC's data in memory. At 255, and sources as long as today's, one of 130 still moved it."""


def _padded(path: str) -> str:
    """Return an absolute path with as many slashes in front as it lacks characters."""
    return path.rjust(PATH_LENGTH, "/")


def _store(entry: str, made: Mapping[str, Any], arch: str) -> Compiled:
    """Write what a compilation gave to the cache, and return it."""
    resources = resources_from_log(made["log"])
    numbers: dict = {
        "arch": arch,
        "lowered_names": made["names"],
        "log": made["log"],
        "resources": {name: asdict(each) for name, each in resources.items()},
    }
    ptx = made["ptx"].encode()
    numbers["checksum"] = _checksum(made["cubin"], ptx, numbers)
    path = cache.store(entry, {".cubin": made["cubin"], ".ptx": ptx, ".json": json.dumps(numbers).encode()})
    return Compiled(arch, made["ptx"], made["cubin"], made["names"], made["log"], resources, path.with_suffix(".cubin"))


def read_compiled(cubin_path: Path) -> Compiled | None:
    """Return a cached compilation, or None if there is none or if its files do not belong together."""
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


def _checksum(cubin: bytes, ptx: bytes, entry: dict) -> str:
    digest = hashlib.sha256(cubin)
    digest.update(ptx)
    digest.update(json.dumps(entry, sort_keys=True).encode())
    return digest.hexdigest()
