"""`gpubp profile --kernel`: from the words of the command line to a kernel, its arguments and its profile."""

from __future__ import annotations

import json
import math
import runpy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from gpubp.crosscheck.runner import require_grades
from gpubp.errors import ArgumentError, BackendError, GpubpError, nearest, shown, unknown_name
from gpubp.files import check_path, read_bytes, write_bytes
from gpubp.profiler.kernels import profile
from gpubp.profiler.profile_command import chip_of
from gpubp.profiler.profiles import Profile

if TYPE_CHECKING:
    from rich.console import Console

DTYPES = (
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128", "bool"),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
)
FILLS: dict[str, Callable[[tuple[int, ...]], np.ndarray]] = {
    "zeros": np.zeros,
    "ones": np.ones,
    "random": lambda shape: np.random.default_rng(0).standard_normal(shape),
    "arange": lambda shape: np.arange(math.prod(shape)).reshape(shape),
}
"""What an array may hold, by a word; random: normal numbers, always the same; of integers those from 0 to 99."""
MOST_BYTES = 2**33
"""Of one argument."""
MOST_SOURCE = 2**24
"""Bytes of a kernel's file."""
ARGUMENT = "VALUE:DTYPE, SHAPE:DTYPE:FILL, a .npy file or null, such as 1024:int32 or 64x64:float32:random"
FILE_NAME = "FILE.cu:NAME, FILE.ptx:NAME or FILE.py:NAME"


def run(
    console: Console,
    *,
    kernel: str,
    grid: str | None,
    block: str | None,
    arguments: Sequence[str],
    shared_mem: int,
    dtype: str | None,
    arch: str | None,
    chip: str | None,
    observe: bool,
    fail_at: str | None,
    suppressions: Path | None,
    as_json: bool,
    out: Path | None,
    html: Path | None,
    force: bool,
    page: Callable[[Profile], str],
) -> bool:
    """Profile a kernel of a file, show the profile and write the files.

    Returns:
        False if the kernel does something wrong, such as an access out of bounds, or a finding fails.

    Args:
        kernel, grid, block, arguments, shared_mem, ...: as on the command line.

    Raises:
        ArgumentError: an argument is wrong.
        BackendError: a compiler is missing.
        GpubpError: the kernel does not compile.
    """
    from gpubp.backends import detection

    require_grades(fail_at, suppressions)
    for name, path, suffixes in (("out", out, (".png",)), ("html", html, (".html", ".htm"))):
        if path is not None:
            check_path(name, path, *suffixes, replace=force)
    gpu = chip_of(chip)
    sizes = [_sides_of(name, text) for name, text in (("grid", grid), ("block", block))]
    given = [argument_of(text) for text in arguments]
    file, name = _file_and_name(kernel)
    found = detection.probe("numba" if file.suffix == ".py" else "cupy", "emulator")
    if not found.works:
        raise BackendError(f"profile needs the emulated device and its compilers: {found}")

    from rich.text import Text

    from gpubp.emulator.errors import EmulatorError, LaunchError
    from gpubp.toolchain.process import CompileError

    try:
        made = kernel_of(file, name)
        if shared_mem and file.suffix != ".py":
            made.max_dynamic_shared_size_bytes = shared_mem
        profiled = profile(
            made,
            sizes[0],
            sizes[1],
            given,
            gpu,
            arch=arch,
            shared_mem=shared_mem,
            dtype=dtype,
            observe=observe,
            suppressions=suppressions,
        )
    except (LaunchError, TypeError) as error:
        raise ArgumentError("kernel", kernel, "launched as it can be", str(error)) from None
    except EmulatorError as error:
        console.print(Text("failed", "red") + f": {error}", soft_wrap=True)
        return False
    except Exception as error:
        if isinstance(error, CompileError) or type(error).__module__.startswith("numba"):
            raise GpubpError(str(error)) from None
        raise
    if out is not None or not as_json:
        from gpubp.profiler import profile_tables
    if out is not None:
        write_bytes(out, profile_tables.picture([profiled]))
    if html is not None:
        write_bytes(html, page(profiled).encode())
    if as_json:
        print(json.dumps({"profiles": [profiled.to_dict()]}, indent=2))
    else:
        for part in profile_tables.tables(profiled, console.width):
            console.print(part)
    return not _fails(profiled, fail_at or "warning")


def _fails(profiled: Profile, fail_at: str) -> bool:
    """True if a finding that nobody means is of this grade or a worse one."""
    if not profiled.findings:
        return False
    from gpubp.emulator.observe.findings import Report

    return bool(Report([each for each in profiled.findings if not each.reason]).at_least(fail_at))


# -- kernels ----------------------------------------------------------------------------------------------------------


def _file_and_name(kernel: str) -> tuple[Path, str]:
    # a C++ name such as ns::f<3> has colons of its own
    for suffix in (".cu", ".ptx", ".py"):
        file, found, name = kernel.partition(f"{suffix}:")
        if found and file and name:
            return Path(file + suffix), name
    raise ArgumentError("kernel", kernel, FILE_NAME)


def kernel_of(file: Path, name: str) -> Any:
    """Return the kernel of a file by its name; of a .cu file also a C++ name such as "scale<float>".

    Raises:
        ArgumentError: the file cannot be read, or it has no such kernel.
    """
    from gpubp import emulator

    try:
        text = read_bytes(file, MOST_SOURCE).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ArgumentError("kernel", str(file), "a file of code", reason) from None
    if file.suffix == ".py":
        return _of_python(file, name)
    if file.suffix == ".ptx":
        module = emulator.RawModule(path=str(file))
    else:
        path = file.resolve()
        # compiled as a text: so lines must be told to be the file's, and its folder to be that of what it includes
        quoted = str(path).replace("\\", "\\\\").replace('"', '\\"')
        code = f'#line 1 "{quoted}"\n{text}'
        plain = name.isidentifier() and f" {name}" in text.replace("\n", " ") and 'extern "C"' in text
        module = emulator.RawModule(
            code=code, options=(f"-I{path.parent}",), name_expressions=None if plain else (name,)
        )
    try:
        return module.get_function(name)
    except emulator.EmulatorError as error:
        raise ArgumentError("kernel", name, f"a kernel of {file.name}", str(error)) from None


def _of_python(file: Path, name: str) -> Any:
    """Return what a Python file calls by this name, a Numba kernel; the file is executed."""
    try:
        names = runpy.run_path(str(file), run_name=file.stem)
    except Exception as error:
        raise ArgumentError("kernel", str(file), "a file that runs", f"{type(error).__name__}: {error}") from None
    kernels = [each for each, value in names.items() if hasattr(value, "py_func") and hasattr(value, "__getitem__")]
    if name not in kernels:
        match = nearest(name, kernels)
        hint = f"did you mean {match!r}?" if match else f"it has {', '.join(kernels) or 'none'}"
        raise ArgumentError("kernel", name, f"a Numba kernel of {file.name}", hint)
    return names[name]


# -- arguments --------------------------------------------------------------------------------------------------------


def argument_of(text: str) -> Any:
    """Return a kernel's argument: a NumPy scalar of "1024:int32", an array of "64x64:float32:random" or of a .npy file,
    or None, a null pointer, of "null".

    Raises:
        ArgumentError: the text is nothing of these.
    """
    if text == "null":
        return None
    if text.lower().endswith(".npy"):
        return _of_file(text)
    first, *rest = text.split(":")
    if not 1 <= len(rest) <= 2 or not first:
        raise ArgumentError("arg", text, ARGUMENT)
    if rest[0] not in DTYPES:
        raise unknown_name("dtype of arg", rest[0], DTYPES)
    dtype = np.dtype(ml_dtypes.bfloat16 if rest[0] == "bfloat16" else rest[0])
    if len(rest) == 1:
        return _scalar(text, first, dtype)
    if rest[1] not in FILLS:
        raise unknown_name("fill of arg", rest[1], FILLS)
    shape = _shape(text, first)
    if math.prod(shape) * dtype.itemsize > MOST_BYTES:
        raise ArgumentError("arg", text, f"an array of at most {MOST_BYTES:,} bytes")
    if rest[1] == "random" and dtype.kind in "iu":
        return np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    return FILLS[rest[1]](shape).astype(dtype)


def _scalar(text: str, value: str, dtype: np.dtype) -> Any:
    try:
        if dtype.kind == "b":
            return np.bool_({"true": True, "1": True, "false": False, "0": False}[value.lower()])
        if dtype.kind not in "iu":
            return dtype.type(complex(value) if dtype.kind == "c" else float(value))
        number = int(value, 0)
    except (ValueError, KeyError):
        raise ArgumentError("arg", text, f"a number of {dtype}") from None
    limits = np.iinfo(dtype)
    if not limits.min <= number <= limits.max:
        raise ArgumentError("arg", text, f"from {limits.min} to {limits.max}, as {dtype} has no others")
    return dtype.type(number)


def _of_file(text: str) -> np.ndarray:
    try:
        if Path(text).stat().st_size > MOST_BYTES or not Path(text).is_file():
            raise ArgumentError("arg", text, f"a regular file of at most {MOST_BYTES:,} bytes")
        found = np.load(text, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        if isinstance(error, ArgumentError):
            raise
        reason = getattr(error, "strerror", None) or shown(error)
        raise ArgumentError("arg", text, "a .npy file of numbers", reason) from None
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "biufcV" or found.ndim == 0:
        raise ArgumentError("arg", text, "a .npy file of an array of numbers")
    return found


def _sides_of(name: str, text: str | None) -> tuple[int, ...]:
    if text is None:
        raise ArgumentError(name, None, f"given with a kernel, such as --{name} 128 or --{name} 16x16")
    found = _shape(name, text)
    if len(found) > 3:
        raise ArgumentError(name, text, "one to three numbers ≥ 1 with x between them")
    return found


def _shape(whole: str, text: str) -> tuple[int, ...]:
    """Return the sides in a text such as "128x64"."""
    sides = text.lower().replace("×", "x").split("x")
    if not all(side.isdecimal() and len(side) <= 12 and int(side) >= 1 for side in sides):
        if whole in ("grid", "block"):
            raise ArgumentError(whole, text, "one to three numbers ≥ 1 with x between them")
        raise ArgumentError("arg", whole, "an array of sides ≥ 1 with x between them, such as 64x64:float32:random")
    return tuple(map(int, sides))
