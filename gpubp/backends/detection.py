"""Can a backend run here, and if not, what is missing and which command mends it?

A GPU, or the emulated device, counts as working once a tiny kernel has run on it and its result was right.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import json
import os
import subprocess
import sys
import uuid
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from gpubp.errors import ArgumentError, BackendError, CacheError, shown
from gpubp.toolchain import numba_package
from gpubp.toolchain.numba_package import NUMBA_CUDA_MLIR, PACKAGES, NumbaPackage

EXTRAS = {12: "cuda12", 13: "cuda13"}
"""The extra of gpubp for each major version of CUDA."""

LEAST_DRIVER = {12: (12, 0), 13: (13, 0)}
"""The oldest version of CUDA that the driver must offer for wheels of a major version."""


@dataclass(frozen=True)
class Availability:
    """Whether a backend runs on a device.

    detail: what was found, or what is missing. remedy: the command or the step that mends it; "" if it works, or if
    the detail says what to do.
    """

    backend: str
    device: str
    works: bool
    detail: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.detail}; {self.remedy}" if self.remedy else self.detail


@dataclass(frozen=True)
class Driver:
    """What the NVIDIA driver says.

    version: the newest CUDA that it offers, (0, 0) without a driver. devices, identities: of each GPU that this process
    sees, its name, and the number that no other GPU or part of a GPU has.
    """

    version: tuple[int, int] = (0, 0)
    devices: tuple[str, ...] = ()
    fault: str = ""
    identities: tuple[str, ...] = ()


class _Missing(Exception):
    """Something that a backend needs is not there: what, and what mends it."""

    def __init__(self, detail: str, remedy: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.remedy = remedy


@functools.cache
def driver() -> Driver:
    """Ask the NVIDIA driver, through its own library and nothing else."""
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return Driver(fault="no NVIDIA driver is installed")
    version = ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(version))
    offered = (version.value // 1000, version.value % 1000 // 10)
    status = library.cuInit(0)
    if status:
        return Driver(offered, fault=f"the NVIDIA driver does not start ({_error_name(library, status)})")
    count = ctypes.c_int()
    library.cuDeviceGetCount(ctypes.byref(count))
    names = tuple(_device_name(library, ordinal) for ordinal in range(count.value))
    identities = tuple(_device_identity(library, ordinal) for ordinal in range(count.value))
    return Driver(offered, names, "" if names else "the NVIDIA driver finds no GPU", identities)


def _device_name(library: ctypes.CDLL, ordinal: int) -> str:
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    library.cuDeviceGet(ctypes.byref(device), ordinal)
    library.cuDeviceGetName(name, len(name), device)
    return name.value.decode()


def _device_identity(library: ctypes.CDLL, ordinal: int) -> str:
    device, identity = ctypes.c_int(), ctypes.create_string_buffer(16)
    library.cuDeviceGet(ctypes.byref(device), ordinal)
    library.cuDeviceGetUuid_v2(identity, device)
    return str(uuid.UUID(bytes=identity.raw))


def _error_name(library: ctypes.CDLL, status: int) -> str:
    text = ctypes.c_char_p()
    library.cuGetErrorName(status, ctypes.byref(text))
    return (text.value or b"").decode() or f"error {status}"


@functools.cache
def probe(backend: str, device: str) -> Availability:
    """Find out whether the backend runs on the device, as far as running a tiny kernel."""
    try:
        detail = _PROBES[backend, device]()
    except _Missing as missing:
        return Availability(backend, device, False, missing.detail, missing.remedy)
    return Availability(backend, device, True, detail)


def _probe_numpy() -> str:
    numpy = importlib.import_module("numpy")
    blas = numpy.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"NumPy {numpy.__version__} with {blas['name']} {blas['version']}"


def _probe_cpu() -> str:
    from gpubp.backends import blas, cpu_backend

    try:
        products = blas.chosen()
    except (ArgumentError, BackendError) as error:  # what the environment names
        raise _Missing(str(error), "") from error
    if not cpu_backend.has_numba():
        return f"products by {products}, all else by NumPy in blocks: {INSTALL_CPU} has it compiled"
    return f"products by {products}, all else compiled by Numba {metadata.version('numba')}"


EMULATED = "the emulated device"
VIRTUAL = "the virtual device"
INSTALL_EMULATOR = "pip install 'gpubp[emulator]'"
INSTALL_CPU = "pip install 'gpubp[cpu]'"
INSTALL_MLIR = "pip install 'gpubp[mlir]'"


def _probe_emulated_cupy() -> str:
    _import("numba", "what runs the emulated device", INSTALL_EMULATOR)
    _require_unset("DISABLE_JIT")
    _import("cuda.bindings.nvrtc", "NVRTC", INSTALL_EMULATOR)
    emulator = _import("gpubp.emulator", EMULATED, INSTALL_EMULATOR)
    _run_tiny_kernel(lambda: _tiny_cupy(emulator), EMULATED, INSTALL_EMULATOR)
    return f"{EMULATED}: the kernels' PTX executed on the CPU, for checks and not for speed"


def _probe_emulated_numba() -> str:
    _import("numba", "what runs the emulated device", INSTALL_EMULATOR)
    package = _numba_package(INSTALL_EMULATOR)
    remedy = _remedy(package, INSTALL_EMULATOR)
    _import(package.cuda, "the compiler of this backend", remedy)
    _require_unset("ENABLE_CUDASIM", "DISABLE_JIT")
    cuda = _import("gpubp.emulator.cuda", EMULATED, remedy)
    _run_tiny_kernel(lambda: _tiny_numba(cuda), EMULATED, remedy)
    by = f"{package.name} {package.version}"
    return f"{EMULATED}: the kernels' PTX, by {by}, executed on the CPU, for checks and not for speed"


def use_virtual_device() -> None:
    """Give this process the virtual device's driver library, for good.

    Raises:
        BackendError: what runs it is missing, or the process has a driver already.
    """
    try:
        _install_virtual_device()
    except _Missing as missing:
        raise BackendError(str(Availability("", "virtual", False, missing.detail, missing.remedy))) from missing
    driver.cache_clear()
    probe.cache_clear()


def _install_virtual_device() -> None:
    _import("numba", "what runs the emulated device", INSTALL_EMULATOR)
    _require_unset("DISABLE_JIT")
    virtual = _import("gpubp.emulator.driver", VIRTUAL, INSTALL_EMULATOR)
    try:
        virtual.install()
    except RuntimeError as error:
        raise _Missing(str(error), "") from error


def _probe_virtual(backend: str) -> str:
    """Do what is done for a GPU, in a process that has the virtual device: this one, if it has it already."""
    virtual = sys.modules.get("gpubp.emulator.driver")
    if virtual is not None and virtual.is_installed():
        return f"{VIRTUAL}: {_PROBES[backend, 'gpu']()}"
    code = (
        "import dataclasses, json\nfrom gpubp.backends import detection\ndetection.use_virtual_device()\n"
        f"print(json.dumps(dataclasses.asdict(detection.probe({backend!r}, 'virtual'))))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    try:
        found = Availability(**json.loads(ended.stdout.splitlines()[-1]))
    except (IndexError, ValueError, TypeError):
        raise _Missing(f"{VIRTUAL} does not start ({_last_line(ended.stderr)})", INSTALL_EMULATOR) from None
    if not found.works:
        raise _Missing(found.detail, found.remedy)
    return found.detail


def _probe_cupy() -> str:
    found = _require_gpu()
    cupy: Any = _import("cupy", "the array library of this backend", _install(found))
    try:
        runtime = cupy.cuda.runtime.runtimeGetVersion()
    except Exception as error:  # CuPy raises errors of its own for each thing that a broken wheel lacks
        raise _Missing(f"CuPy does not load its CUDA libraries ({_first_line(error)})", _install(found)) from error
    _require_version("CuPy", runtime // 1000, found)
    try:
        cupy.cuda.nvrtc.getVersion()
    except Exception as error:
        raise _Missing(
            f"NVRTC, which compiles the kernels, does not load ({_first_line(error)})", _install(found)
        ) from error
    _run_tiny_kernel(lambda: _tiny_cupy(cupy), found.devices[0], _install(found))
    return f"{found.devices[0]}, CuPy {cupy.__version__}, CUDA {runtime // 1000}.{runtime % 1000 // 10}"


def _tiny_cupy(cupy: Any) -> bool:
    source = 'extern "C" __global__ void fill(int* x) { x[threadIdx.x] = 3 * threadIdx.x; }'
    x = cupy.empty(32, "int32")
    cupy.RawKernel(source, "fill")((1,), (32,), (x,))
    return cupy.asnumpy(x).tolist() == list(range(0, 96, 3))


def _probe_numba() -> str:
    found = _require_gpu()
    package = _numba_package(_install(found))
    remedy = _remedy(package, _install(found))
    cuda: Any = _import(package.cuda, "the compiler of this backend", remedy)
    _require_unset("ENABLE_CUDASIM", "DISABLE_CUDA", "DISABLE_JIT", config=numba_package.part("core.config"))
    try:
        runtime = cuda.runtime.get_version()
    except Exception as error:
        raise _Missing(f"Numba does not load its CUDA libraries ({_first_line(error)})", remedy) from error
    _require_version("Numba's CUDA toolkit", runtime[0], found)
    _run_tiny_kernel(lambda: _tiny_numba(cuda), found.devices[0], remedy)
    return f"{found.devices[0]}, {package.name} {package.version}, CUDA {runtime[0]}.{runtime[1]}"


def _numba_package(remedy: str) -> NumbaPackage:
    try:
        return numba_package.chosen()
    except ArgumentError as error:  # the variable that names the package
        raise _Missing(str(error), "") from error
    except BackendError as error:
        named = PACKAGES.get(os.environ.get(numba_package.VARIABLE, ""))
        raise _Missing(str(error), _remedy(named, remedy) if named else remedy) from error


def _remedy(package: NumbaPackage, remedy: str) -> str:
    """Return the command that brings what this package needs; `remedy` is the one for numba-cuda."""
    return INSTALL_MLIR if package is NUMBA_CUDA_MLIR else remedy


def _tiny_numba(cuda: Any) -> bool:
    import numpy as np

    @cuda.jit("void(int32[::1])")
    def fill(x):
        i = cuda.threadIdx.x
        x[i] = 3 * i

    x = cuda.device_array(32, np.int32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the grid is small
        fill[1, 32](x)
    return x.copy_to_host().tolist() == list(range(0, 96, 3))


_PROBES: dict[tuple[str, str], Callable[[], str]] = {
    ("numpy", "cpu"): _probe_numpy,
    ("cpu", "cpu"): _probe_cpu,
    ("cupy", "gpu"): _probe_cupy,
    ("numba", "gpu"): _probe_numba,
    ("cupy", "emulator"): _probe_emulated_cupy,
    ("numba", "emulator"): _probe_emulated_numba,
    ("cupy", "virtual"): functools.partial(_probe_virtual, "cupy"),
    ("numba", "virtual"): functools.partial(_probe_virtual, "numba"),
}


def _require_gpu() -> Driver:
    found = driver()
    if not found.version[0]:
        raise _Missing(
            found.fault, "install one: https://www.nvidia.com/drivers (on Debian: apt install nvidia-driver)"
        )
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if found.fault and hidden is not None:
        raise _Missing(f"{found.fault}: CUDA_VISIBLE_DEVICES is {shown(repr(hidden))}", "unset CUDA_VISIBLE_DEVICES")
    if found.fault:
        raise _Missing(found.fault, "see what nvidia-smi says; the driver may wait for a reboot")
    if found.version < LEAST_DRIVER[min(LEAST_DRIVER)]:
        raise _Missing(
            f"the NVIDIA driver is too old: it offers CUDA {found.version[0]}.{found.version[1]}, not 12.0 or newer",
            "install a newer one: https://www.nvidia.com/drivers",
        )
    return found


_KEEPS = {
    "ENABLE_CUDASIM": "puts Numba's simulator, which runs Python and no kernels, in the place of its compiler",
    "DISABLE_JIT": "keeps Numba from compiling",
    "DISABLE_CUDA": "keeps Numba from CUDA",
}
"""What a setting of Numba does, by the name of its environment variable without NUMBA_."""


def _require_unset(*settings: str, config: Any = None) -> None:
    """Raise unless Numba, which is installed, has none of these settings, from the environment or its own file.

    `config` is what holds them: by default that of the package numba.
    """
    config = importlib.import_module("numba").config if config is None else config
    for setting in settings:
        if getattr(config, setting, 0):
            raise _Missing(f"NUMBA_{setting} {_KEEPS[setting]}", f"unset NUMBA_{setting}")


def _require_version(what: str, major: int, found: Driver) -> None:
    """Wheels of CUDA `major` need a driver that offers it."""
    if found.version[0] < major:
        raise _Missing(
            f"{what} is built for CUDA {major}, and the driver offers {found.version[0]}.{found.version[1]}",
            f"pip uninstall cupy-cuda{major}x, then {_install(found)}",
        )


def extras(virtual: bool = False) -> str:
    """The extras of gpubp that bring all that this machine can use, as pip takes them.

    virtual: the real CuPy too, which the virtual device runs where there is no GPU.
    """
    found = driver()
    if not found.devices:
        return f"{EXTRAS[max(EXTRAS)]},emulator" if virtual else "emulator"
    extra = _extra(found)
    # the emulator's compilers are those of CUDA 13; those of CUDA 12 come with its own extra
    return extra if extra == EXTRAS[12] else f"{extra},emulator"


def _install(found: Driver) -> str:
    """The command that brings what fits the driver."""
    return f"pip install 'gpubp[{_extra(found)}]'"


def _extra(found: Driver) -> str:
    """The extra that fits the driver; a newer driver runs what the newest wheels need."""
    return EXTRAS[max((major for major in EXTRAS if major <= found.version[0]), default=min(EXTRAS))]


def _import(module: str, purpose: str, remedy: str) -> Any:
    try:
        return importlib.import_module(module)
    except Exception as error:  # a package that is too old or too new for another raises what it likes
        missing = isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == module.split(".")[0]
        detail = "is not installed" if missing else f"does not load ({_first_line(error)})"
        raise _Missing(f"{module}, {purpose}, {detail}", remedy) from error


def _run_tiny_kernel(run: Callable[[], bool], device: str, remedy: str) -> None:
    try:
        right = run()
    except CacheError as error:  # no package mends that
        raise _Missing(str(error), "") from error
    except Exception as error:
        raise _Missing(f"a tiny kernel does not run on {device} ({_first_line(error)})", remedy) from error
    if not right:
        what_to_do = remedy if device == EMULATED else "see what nvidia-smi says"
        raise _Missing(f"a tiny kernel gives wrong results on {device}", what_to_do)


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "it said nothing"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
