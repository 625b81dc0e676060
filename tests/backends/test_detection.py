"""Detection tells apart what can be missing, each with the command that mends it; and the switch acts on it."""

import ctypes
import os
import re
import subprocess
import sys
from importlib import metadata
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from gpubp import backends
from gpubp.backends import detection
from gpubp.errors import ArgumentError, BackendError
from gpubp.toolchain.numba_package import NUMBA_CUDA_MLIR, NumbaPackage, choose

GPU = detection.Driver((13, 0), ("NVIDIA H100",))


@pytest.fixture(autouse=True)
def _forget():
    detection.probe.cache_clear()
    yield
    detection.probe.cache_clear()


def use_driver(monkeypatch, found):
    monkeypatch.setattr(detection, "driver", lambda: found)


def fake_cupy(runtime=13000, run=lambda x: np.copyto(x, 3 * np.arange(32)), nvrtc=lambda: (13, 0)):
    """As much of CuPy as detection asks for; `run` is what the tiny kernel does."""
    cupy = ModuleType("cupy")
    cupy.__version__ = "14.0"
    cupy.cuda = SimpleNamespace(
        runtime=SimpleNamespace(runtimeGetVersion=lambda: runtime), nvrtc=SimpleNamespace(getVersion=nvrtc)
    )
    cupy.empty = np.empty
    cupy.asnumpy = np.asarray
    cupy.RawKernel = lambda source, name: lambda grid, block, args: run(*args)
    return cupy


def fail(message):
    def raises(*_):
        raise RuntimeError(message)

    return raises


def test_a_working_gpu_is_named(monkeypatch):
    use_driver(monkeypatch, GPU)
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy())
    found = detection.probe("cupy", "gpu")
    assert found.works
    assert str(found) == "NVIDIA H100, CuPy 14.0, CUDA 13.0"


def test_numba_on_a_working_gpu_is_named(monkeypatch):
    """All but the kernel itself is the real numba.cuda, which knows its CUDA without a driver."""
    use_driver(monkeypatch, GPU)
    monkeypatch.setattr(detection, "_tiny_numba", lambda cuda: True)
    found = detection.probe("numba", "gpu")
    assert found.works
    assert re.fullmatch(r"NVIDIA H100, numba-cuda \d+\.\d+\.\d+, CUDA \d+\.\d+", str(found))


def use_package(monkeypatch, package, cuda=None):
    """Let numba-cuda-mlir be the package in use, with as much of it as detection asks for; None: it is not there."""
    monkeypatch.setattr(detection.numba_package, "chosen", lambda: package)
    monkeypatch.setitem(sys.modules, package.cuda, cuda)
    monkeypatch.setattr(detection.numba_package, "part", lambda name: SimpleNamespace())


def test_the_successor_of_numba_cuda_is_named(monkeypatch):
    use_driver(monkeypatch, GPU)
    cuda = ModuleType("numba_cuda_mlir.cuda")
    cuda.runtime = SimpleNamespace(get_version=lambda: (13, 0))
    use_package(monkeypatch, NumbaPackage("pytest", "numba_cuda_mlir.cuda", "", "", True, True), cuda)
    monkeypatch.setitem(sys.modules, "numba_cuda_mlir", ModuleType("numba_cuda_mlir"))
    monkeypatch.setattr(detection, "_tiny_numba", lambda found: found is cuda)
    assert str(detection.probe("numba", "gpu")) == f"NVIDIA H100, pytest {metadata.version('pytest')}, CUDA 13.0"


def test_the_successor_has_an_extra_of_its_own(monkeypatch):
    use_driver(monkeypatch, GPU)
    use_package(monkeypatch, NUMBA_CUDA_MLIR)
    monkeypatch.setitem(sys.modules, "numba_cuda_mlir", None)
    found = str(detection.probe("numba", "gpu"))
    assert found == ("numba_cuda_mlir.cuda, the compiler of this backend, is not installed; pip install 'gpubp[mlir]'")


@pytest.mark.parametrize("device", ["gpu", "emulator"])
def test_a_package_that_is_named_and_missing_is_told(monkeypatch, device):
    use_driver(monkeypatch, GPU)
    monkeypatch.setenv("GPUBP_NUMBA", "numba-cuda-mlir")
    monkeypatch.setattr(detection.numba_package, "chosen", lambda: choose("numba-cuda-mlir", ["numba-cuda"]))
    found = str(detection.probe("numba", device))
    assert found == "numba-cuda-mlir, which GPUBP_NUMBA names, is not installed; pip install 'gpubp[mlir]'"


@pytest.mark.parametrize(
    ("driver", "cupy", "detail", "remedy"),
    [
        (detection.Driver(fault="no NVIDIA driver is installed"), None, "no NVIDIA driver", "nvidia.com/drivers"),
        (detection.Driver((13, 0), fault="the NVIDIA driver finds no GPU"), None, "finds no GPU", "nvidia-smi"),
        (detection.Driver((11, 8), ("GTX",)), None, "too old: it offers CUDA 11.8", "nvidia.com/drivers"),
        (GPU, None, "cupy, .* is not installed", r"pip install 'gpubp\[cuda13\]'"),
        (detection.Driver((12, 4), ("T4",)), None, "cupy, .* is not installed", r"pip install 'gpubp\[cuda12\]'"),
        (
            detection.Driver((12, 4), ("T4",)),
            fake_cupy(runtime=13000),
            "CuPy is built for CUDA 13, and the driver offers 12.4",
            r"pip uninstall cupy-cuda13x, then pip install 'gpubp\[cuda12\]'",
        ),
        (GPU, fake_cupy(nvrtc=fail("libnvrtc.so.13: no such file")), "NVRTC.*libnvrtc", r"gpubp\[cuda13\]"),
        (GPU, fake_cupy(run=fail("out of memory")), "tiny kernel does not run on NVIDIA H100 .out of memory", "gpubp"),
        (GPU, fake_cupy(run=lambda x: x.fill(0)), "tiny kernel gives wrong results", "nvidia-smi"),
    ],
)
def test_what_is_missing_is_told_apart(monkeypatch, driver, cupy, detail, remedy):
    use_driver(monkeypatch, driver)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    found = detection.probe("cupy", "gpu")
    assert not found.works
    with pytest.raises(BackendError, match=f"cannot run on device 'gpu'.*{detail}.*{remedy}"):
        backends.get("cupy")


@pytest.mark.parametrize(
    ("setting", "places"),
    [
        ("ENABLE_CUDASIM", [("numba", "gpu"), ("numba", "emulator")]),
        ("DISABLE_JIT", [("numba", "gpu"), ("numba", "emulator"), ("cupy", "emulator")]),
        ("DISABLE_CUDA", [("numba", "gpu")]),
    ],
)
def test_a_setting_of_numba_that_is_in_the_way_is_named(monkeypatch, setting, places):
    import numba

    use_driver(monkeypatch, GPU)
    monkeypatch.setattr(numba.config, setting, 1)
    for backend, device in places:
        found = detection.probe(backend, device)
        assert not found.works
        assert found.detail.startswith(f"NUMBA_{setting} ")
        assert found.remedy == f"unset NUMBA_{setting}"
        with pytest.raises(BackendError, match=f"{backend!r} cannot run on device {device!r}: NUMBA_{setting} "):
            backends.get(backend, device)


def test_a_gpu_that_the_environment_hides_is_told(monkeypatch):
    use_driver(monkeypatch, detection.Driver((13, 0), fault="the NVIDIA driver finds no GPU"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for backend in ("cupy", "numba"):
        found = detection.probe(backend, "gpu")
        assert found.detail == "the NVIDIA driver finds no GPU: CUDA_VISIBLE_DEVICES is ''"
        assert found.remedy == "unset CUDA_VISIBLE_DEVICES"


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["NUMBA_ENABLE_CUDASIM", "NUMBA_DISABLE_JIT"])
@pytest.mark.parametrize("module", ["gpubp.emulator.numba.frontend", "gpubp.backends"])
def test_numba_without_its_compiler_says_which_setting_it_is(setting, module):
    """In a process of its own: Numba reads the environment as it is imported."""
    code = f"import {module}\nfrom gpubp import backends\nbackends.get('numba', 'emulator')"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, setting: "1"}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert setting in done.stderr.splitlines()[-1]


def test_no_extras_for_the_emulator(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(BackendError, match=r"numba.*is not installed.*pip install 'gpubp\[emulator\]'"):
        backends.get("cupy", "emulator")


@pytest.mark.parametrize(
    ("driver", "extras"),
    [
        (detection.Driver(fault="no NVIDIA driver is installed"), "emulator"),
        (detection.Driver((13, 0), fault="the NVIDIA driver finds no GPU"), "emulator"),
        (detection.Driver((12, 4), ("T4",)), "cuda12"),
        (GPU, "cuda13,emulator"),
        (detection.Driver((14, 1), ("NVIDIA H100",)), "cuda13,emulator"),
    ],
)
def test_the_extras_that_a_machine_can_use(monkeypatch, driver, extras):
    use_driver(monkeypatch, driver)
    assert detection.extras() == extras
    with_cupy = "cuda13,emulator" if extras == "emulator" else extras
    assert detection.extras(virtual=True) == with_cupy


def test_automatic_takes_the_cpu_without_a_gpu(monkeypatch):
    use_driver(monkeypatch, detection.Driver(fault="no NVIDIA driver is installed"))
    backend = backends.get("auto")
    assert (backend.name, backend.device) == ("cpu", "cpu")


def test_automatic_on_a_gpu_that_is_missing_says_why(monkeypatch):
    use_driver(monkeypatch, detection.Driver(fault="no NVIDIA driver is installed"))
    with pytest.raises(BackendError, match="no NVIDIA driver is installed"):
        backends.get("auto", "gpu")


def test_automatic_prefers_cupy_then_numba(monkeypatch):
    works = {"cupy", "numba"}
    monkeypatch.setattr(
        detection, "probe", lambda name, device: detection.Availability(name, device, name in works, "found")
    )
    detection.probe.cache_clear = lambda: None
    assert backends._automatic(None) == ("cupy", "gpu")
    works.remove("cupy")
    assert backends._automatic(None) == ("numba", "gpu")
    assert backends._automatic("cpu") == ("cpu", "cpu")


def test_automatic_never_takes_the_emulator():
    with pytest.raises(ArgumentError, match="device"):
        backends.get("auto", "emulator")


@pytest.mark.parametrize(("name", "device"), [("nunpy", None), ("numpy", "gpu"), ("cupy", "cpu")])
def test_unknown_names_are_named(name, device):
    with pytest.raises(ArgumentError, match=r"backend|device"):
        backends.get(name, device)


def test_the_driver_is_asked_without_any_package():
    found = detection.driver()
    assert bool(found.fault) == (not found.devices)


def test_a_gpu_is_known_by_what_the_driver_calls_it_and_no_other():
    class Library:
        def cuDeviceGet(self, device, ordinal):
            ctypes.cast(device, ctypes.POINTER(ctypes.c_int))[0] = 40 + ordinal

        def cuDeviceGetUuid_v2(self, buffer, device):
            ctypes.memmove(buffer, bytes([device.value]) + bytes(15), 16)  # it has zeros, which end no number

    assert detection._device_identity(Library(), 2) == "2a000000-0000-0000-0000-000000000000"
