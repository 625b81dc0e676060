"""The BLAS whose products the `cpu` backend takes: SciPy's, which is always there, or MKL where its wheel is installed.

Which of them is faster is a matter of the CPU: MKL doubles OpenBLAS's rate at middle sizes on Intel's, and falls behind
on others. So each is measured once a machine, for a fraction of a second, and the cache keeps what came of it. The
variable `VARIABLE` of the environment names one instead.

A library is two addresses, of `sgemm` and `dgemm` with the interface of Fortran (every argument is a pointer, integers
have 32 bits), so that compiled code calls it as Python does.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from gpubp.dtypes import ARITHMETIC, PLAIN
from gpubp.errors import BackendError, StateError, unknown_name
from gpubp.toolchain import cache

VARIABLE = "GPUBP_BLAS"
"""The variable of the environment that names the library."""

GEMM = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 13)
"""transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc."""

MEASURED = ((64, 128, 784), (128, 512, 784), (512, 1024, 1024))
"""Rows, outputs and inputs of the products that are measured: layers of small and of middle networks."""

TURNS = 8
"""Turns of each library at each of `MEASURED`. The fastest counts: what else the machine does makes turns slower."""

CALLS = 3
"""Calls of a turn, of which the fastest counts: the first wakes the library's threads."""

MKL_CONSISTENT = 2
"""MKL_CBWR_AUTO: the same bits from run to run, wherever the arrays lie, with the fastest code for this CPU."""


@dataclass(frozen=True)
class Blas:
    """One library.

    Attributes:
        name: what `VARIABLE` calls it.
        title: the library and its version.
        gemm: the address of its product, by dtype.
        threads: how many it uses.
    """

    name: str
    title: str
    gemm: Mapping[np.dtype, int]
    threads: int


@dataclass(frozen=True)
class Choice:
    """The library in use, and why: `rates` has what each was measured at, in GFLOP/s; empty if there was no choice."""

    blas: Blas
    rates: Mapping[str, float]

    def __str__(self) -> str:
        if not self.rates:
            return self.blas.title
        others = ", ".join(f"{name} {rate:.0f}" for name, rate in self.rates.items() if name != self.blas.name)
        return f"{self.blas.title} (measured at {self.rates[self.blas.name]:.0f} GFLOP/s; {others})"


@functools.cache
def chosen() -> Choice:
    """Return the library that products take in this process.

    Raises:
        ArgumentError: `VARIABLE` names no library.
        BackendError: it names one that is not installed.
    """
    name = os.environ.get(VARIABLE)
    if name is not None:
        if name not in _LIBRARIES:
            raise unknown_name(VARIABLE, name, _LIBRARIES)
        named = _LIBRARIES[name]()
        if named is None:
            raise BackendError(f"{VARIABLE} is {name!r}, which is not installed: pip install 'gpubp[{name}]'")
        return Choice(named, {})
    found = [blas for load in _LIBRARIES.values() if (blas := load()) is not None]
    if len(found) == 1:
        return Choice(found[0], {})
    rates = _kept_rates(found)
    return Choice(max(found, key=lambda blas: rates[blas.name]), rates)


def threads() -> int:
    """Return how many threads a library may use: OMP_NUM_THREADS, else the cores that this process may use."""
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(given) if given.isdecimal() and int(given) else cores


# --- the libraries ----------------------------------------------------------------------------------------------------
def _scipy() -> Blas:
    """Return SciPy's BLAS, which it offers to compiled code as capsules."""
    scipy, functions = importlib.import_module("scipy"), importlib.import_module("scipy.linalg.cython_blas")
    built: Any = scipy.show_config(mode="dicts")
    library = built["Build Dependencies"]["blas"]
    capsules = functions.__pyx_capi__
    gemm = {ARITHMETIC[kind].storage: _address_in(capsules[f"{ARITHMETIC[kind].blas}gemm"]) for kind in PLAIN}
    return Blas("scipy", f"SciPy's {library['name']} {library['version']}", gemm, threads())


def _address_in(capsule: Any) -> int:
    name_of, pointer_of = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    name_of.argtypes, name_of.restype = [ctypes.py_object], ctypes.c_char_p
    pointer_of.argtypes, pointer_of.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p
    return pointer_of(capsule, name_of(capsule))


def _mkl() -> Blas | None:
    """Return MKL from its wheel, with threads of its own and the same results from run to run; None without it."""
    path = _file_of("mkl", "libmkl_rt.so")
    if path is None:
        return None
    try:
        library = ctypes.CDLL(str(path))
    except OSError:  # a wheel for another CPU, or one without the libraries that it needs
        return None
    library.MKL_Set_Interface_Layer(0)  # integers of 32 bits, whatever the environment says
    library.MKL_CBWR_Set(MKL_CONSISTENT)
    count = int(library.MKL_Get_Max_Threads())
    library.MKL_Set_Num_Threads(count)
    library.MKL_Set_Dynamic(0)  # else a busy machine gets fewer threads, and other bits
    functions = {kind: getattr(library, f"{ARITHMETIC[kind].blas}gemm_") for kind in PLAIN}
    gemm = {
        ARITHMETIC[kind].storage: ctypes.cast(function, ctypes.c_void_p).value or 0
        for kind, function in functions.items()
    }
    return Blas("mkl", f"MKL {metadata.version('mkl')}", gemm, count)


def _file_of(distribution: str, name: str) -> Path | None:
    """Return the path of an installed distribution's file whose name begins so; None if there is none."""
    try:
        listed = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        return None
    for file in listed:
        if file.name.startswith(name):
            return Path(str(file.locate())).resolve()
    return None


_LIBRARIES: dict[str, Callable[[], Blas | None]] = {"scipy": _scipy, "mkl": _mkl}
"""What loads each library, by the name that `VARIABLE` calls it; None if it is not installed."""


# --- the choice -------------------------------------------------------------------------------------------------------
def _kept_rates(found: Sequence[Blas]) -> dict[str, float]:
    """Return the rate of each library from the cache, or measured now, and then kept."""
    conditions = [_processor(), *(f"{blas.title}, {blas.threads} threads" for blas in found)]
    entry = f"blas/{hashlib.sha256(json.dumps(conditions).encode()).hexdigest()[:32]}"

    def read(path: Path) -> dict[str, float] | None:
        try:
            kept = json.loads(path.with_name(f"{path.name}.json").read_text(encoding="utf-8"))
            return {blas.name: float(kept[blas.name]) for blas in found}
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def make() -> dict[str, float]:
        rates = measure(found)
        cache.keep(entry, {".json": json.dumps(rates).encode()})
        return rates

    return cache.obtain(entry, read, make)


def measure(found: Sequence[Blas]) -> dict[str, float]:
    """Return the GFLOP/s of each library: the geometric mean over `MEASURED`, each the best of calls in turns."""
    rates: dict[str, list[float]] = {blas.name: [] for blas in found}
    for rows, outputs, inputs in MEASURED:
        a, w = np.ones((rows, inputs), np.float32), np.ones((outputs, inputs), np.float32)
        z = np.zeros((rows, outputs), np.float32)
        best = dict.fromkeys(rates, math.inf)
        for _ in range(TURNS):
            for blas in found:
                for _ in range(CALLS):
                    start = time.perf_counter()
                    multiply(blas, False, True, 1.0, a, w, 0.0, z)
                    best[blas.name] = min(best[blas.name], time.perf_counter() - start)
        for name, seconds in best.items():
            rates[name].append(2 * rows * outputs * inputs / seconds / 1e9)
    return {name: math.exp(sum(map(math.log, each)) / len(each)) for name, each in rates.items()}


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    told = [line for line in lines if line.startswith(("model name", "flags"))]
    return "\n".join(told[:2])


# --- a product --------------------------------------------------------------------------------------------------------
def multiply(
    blas: Blas,
    a_transposed: bool,
    b_transposed: bool,
    alpha: float,
    a: np.ndarray,
    b: np.ndarray,
    beta: float,
    c: np.ndarray,
) -> None:
    """c ← α A B + β c, with A or B transposed, by a call from Python; all C-contiguous and of one dtype."""
    for name, x in (("a", a), ("b", b), ("c", c)):
        if x.dtype != c.dtype or not x.flags.c_contiguous:
            raise StateError(name, f"is an array of {x.dtype} with strides {x.strides}", f"be C-contiguous {c.dtype}")
    (m, k), (k_of_b, n) = (
        x.shape[::-1] if flipped else x.shape for x, flipped in ((a, a_transposed), (b, b_transposed))
    )
    if k != k_of_b or (m, n) != c.shape:
        raise StateError("c", f"has shape {c.shape}, with operands of {a.shape} and {b.shape}", "fit to both")
    scalar = ctypes.c_float if c.dtype == np.float32 else ctypes.c_double
    integers = {side: ctypes.c_int(side) for side in {m, n, k}}

    def number(side: int) -> int:
        return ctypes.addressof(integers[side])

    letters = ctypes.create_string_buffer(b"NT")
    letter = {False: ctypes.addressof(letters), True: ctypes.addressof(letters) + 1}
    factor, kept = scalar(alpha), scalar(beta)
    # BLAS counts columns first: it sees aᵀ, bᵀ and cᵀ, and cᵀ = bᵀ aᵀ
    _function(blas.gemm[c.dtype])(
        letter[b_transposed], letter[a_transposed], number(n), number(m), number(k),
        ctypes.addressof(factor), b.ctypes.data, number(k if b_transposed else n),
        a.ctypes.data, number(m if a_transposed else k), ctypes.addressof(kept), c.ctypes.data, number(n),
    )  # fmt: skip


@functools.cache
def _function(address: int) -> Callable[..., None]:
    return GEMM(address)
