"""The emulator's names, parameters and defaults are those of the real CuPy and numba.cuda.

Both import without a driver. CuPy is compiled: where Python cannot see a signature, the first line of the docstring
has it.
"""

import contextlib
import ctypes
import importlib
import inspect
import re
import warnings
from pathlib import Path

import cupy
import numba.cuda
import numpy as np
import pytest
from numba.cuda.cudadrv import devices
from numba.cuda.cudadrv.devicearray import DeviceNDArray
from numba.cuda.cudadrv.driver import Event, Stream
from numba.cuda.dispatcher import CUDADispatcher
from numba.cuda.typing.typeof import Purpose, typeof

import gpubp.emulator as cp
from gpubp.emulator import cuda
from gpubp.emulator.numba import frontend as numba_frontend

# What the emulator has beyond CuPy.
OWN_NAMES = {"current_arch", "limits", "observe", "use"} | {
    name for name in cp.__all__ if name.endswith(("Error", "Instruction"))
}


# Where CuPy's docstring is not what its constructor takes: see `test_what_is_refused_is_what_cupy_refuses`.
KEYWORDS_ONLY = {cupy.RawModule: "code", cupy.RawKernel: "translate_cucomplex"}


def parameters(function):
    """[(name, kind, default)] of a function, from its signature or from its docstring; without self."""
    if function in KEYWORDS_ONLY:
        name = KEYWORDS_ONLY[function]
        return [(n, "KEYWORD_ONLY" if n == name else kind, d) for n, kind, d in from_docstring(function.__doc__)]
    try:
        signature = inspect.signature(function)
    except ValueError:
        return from_docstring(function.__doc__)
    found = [(p.name, p.kind.name, p.default) for p in signature.parameters.values()]
    if any(kind == "VAR_KEYWORD" and name == "kwargs" for name, kind, _ in found):
        return from_docstring(function.__doc__)
    return [entry for entry in found if entry[0] not in ("self", "cls")]


def from_docstring(text):
    """The same of a signature such as `f(self, str name, *, bool flag=False) -> int`."""
    inside = re.match(r"[\w.]*\((.*)\)(\s*->.*)?$", text.strip().splitlines()[0])[1]
    kind, found = "POSITIONAL_OR_KEYWORD", []
    for part in re.split(r",\s*(?![^()]*\))", inside):
        declared, _, default = part.partition("=")
        name = declared.split()[-1] if declared.split() else ""
        if name.startswith("*"):
            found += [(name[1:], "VAR_POSITIONAL", inspect.Parameter.empty)] if name[1:] else []
            kind = "KEYWORD_ONLY"
        elif name and name != "self":
            found.append((name, kind, eval(default) if default else inspect.Parameter.empty))
    return found


def test_a_docstring_is_read_as_a_signature():
    assert from_docstring("A.f(self, str a, int b=-1, *, tuple c=(), d=None) -> int\nMore.") == [
        ("a", "POSITIONAL_OR_KEYWORD", inspect.Parameter.empty),
        ("b", "POSITIONAL_OR_KEYWORD", -1),
        ("c", "KEYWORD_ONLY", ()),
        ("d", "KEYWORD_ONLY", None),
    ]


def members(cls):
    """The public attributes that a class of the emulator offers."""
    return [name for name in dir(cls) if not name.startswith("_")]


# The functions and classes of CuPy whose parameters can be compared.
CUPY = [
    *(("", name) for name in sorted(set(cp.__all__) - OWN_NAMES) if inspect.isfunction(getattr(cp, name))),
    *(("", name) for name in ("RawKernel", "RawModule", "ndarray")),
    *(("cuda", name) for name in ("Device", "Event", "ExternalStream", "MemoryPointer", "Stream", "UnownedMemory")),
    *(("cuda", name) for name in ("alloc_pinned_memory", "get_current_stream", "get_elapsed_time")),
    *(("cuda.runtime", name) for name in ("deviceSynchronize", "getDevice", "getDeviceCount", "getDeviceProperties")),
    *(("cuda.runtime", name) for name in ("deviceGetLimit", "deviceSetLimit")),
    *(("ndarray", name) for name in ("astype", "copy", "fill", "get", "item", "ravel", "reshape", "set", "view")),
    *(("RawModule", name) for name in ("compile", "get_function", "get_global")),
    ("RawKernel", "compile"),
    *(
        ("cuda.Stream", name)
        for name in members(cp.cuda.Stream)
        if inspect.isfunction(getattr(cupy.cuda.Stream, name, 0))
    ),
    *(("cuda.Event", name) for name in ("record", "synchronize")),
    *(("cuda.Graph", name) for name in ("launch", "upload")),
    *(("cuda.Device", name) for name in ("synchronize", "use")),
]
# ndarray.item takes the place of the element in CuPy; the emulator has it for arrays of one element.
CUPY.remove(("ndarray", "item"))

# Parameters that an older CuPy may lack: from 14.2 on.
LATER = {("ndarray", "reshape"): ("copy",)}


def test_nccls_parameters_are_cupys():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a library that is not there
        theirs = importlib.import_module("cupy.cuda.nccl")
    if not theirs.available:
        pytest.skip("CuPy knows NCCL's names only where NCCL is installed")
    ours = cp.cuda.nccl
    for name in ("get_unique_id", "NcclCommunicator"):
        assert parameters(getattr(ours, name)) == parameters(getattr(theirs, name))
    assert parameters(ours.NcclCommunicator.allReduce) == parameters(theirs.NcclCommunicator.allReduce)
    for name in ("NCCL_SUM", "NCCL_FLOAT32", "NCCL_FLOAT64"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert len(ours.get_unique_id()) == len(theirs.get_unique_id())


def resolve(module, path):
    for name in filter(None, path.split(".")):
        module = getattr(module, name)
    return module


@pytest.mark.parametrize(("path", "name"), CUPY, ids=".".join)
def test_parameters_are_cupys(path, name):
    ours, theirs = (getattr(resolve(module, path), name) for module in (cp, cupy))
    later = LATER.get((path, name), ())
    expected = parameters(theirs)
    assert [each for each in parameters(ours) if each in expected or each[0] not in later] == expected


def test_limits_have_cupys_numbers():
    for name in ("cudaLimitStackSize", "cudaLimitMallocHeapSize"):
        assert getattr(cp.cuda.runtime, name) == getattr(cupy.cuda.runtime, name)


def on_the_host(shape, dtype):
    """A real array of CuPy whose memory is the host's: what it refuses, it refuses before it asks for a device."""
    memory = np.empty(int(np.prod(shape)), dtype)
    unowned = cupy.cuda.UnownedMemory(memory.ctypes.data, memory.nbytes, memory, 0)
    return cupy.ndarray(shape, dtype, memptr=cupy.cuda.MemoryPointer(unowned, 0))


def test_an_array_says_where_it_lies():
    for x in (cp.empty((2, 3), "float32"), on_the_host((2, 3), "float32")):
        assert x.data.mem.device_id == 0
        assert x[1:].data.ptr == x.data.ptr + 12
        assert (x.shape, x.strides) == ((2, 3), (12, 4))


WRONG = {
    "code by position": lambda cp, x: cp.RawModule("code"),
    "a path that is no str": lambda cp, x: cp.RawModule(path=Path("kernel.cubin")),
    "options in a list": lambda cp, x: cp.RawModule(code="", options=["-G"]),
    "a kernel's options in a list": lambda cp, x: cp.RawKernel("", "f", ["-G"]),
    "translate_cucomplex by position": lambda cp, x: cp.RawKernel("", "f", (), "nvrtc", False),
    "a list set": lambda cp, x: x.set([[0, 1, 2]] * 4),
    "another dtype set": lambda cp, x: x.set(np.zeros((4, 3))),
    "another shape set": lambda cp, x: x.set(np.zeros((3, 4), "float32")),
    "an array set that is not contiguous": lambda cp, x: x[:, :2].set(np.zeros((4, 2), "float32")),
    "a view of items that do not fit": lambda cp, x: x.view("float64"),
    "a flag that there is not": lambda cp, x: x.flags["WRITEABLE"],
    **{
        f"dtype {dtype}": lambda cp, x, dtype=dtype: cp.ndarray((3,), dtype)
        for dtype in ("U3", "M8[s]", "longdouble", ">f4", "O", "clongdouble", "float8_e5m2")
    },
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_refused_is_what_cupy_refuses(what):
    with pytest.raises(Exception) as theirs:
        WRONG[what](cupy, on_the_host((4, 3), "float32"))
    with pytest.raises(theirs.type):
        WRONG[what](cp, cp.empty((4, 3), "float32"))


@pytest.mark.parametrize("dtype", ["?", *"bhilqBHILQefdFD", "bfloat16", "f4, i4"])
def test_dtypes_that_are_taken_are_those_of_cupy(dtype):
    dtype = np.dtype(dtype)
    assert cp.ndarray((3,), dtype).dtype == dtype
    # all that may be missing there is the driver
    with contextlib.suppress(cupy.cuda.runtime.CUDARuntimeError):
        assert cupy.ndarray((3,), dtype).dtype == dtype


def test_views_are_cupys():
    ours, theirs = cp.empty((40,), "uint8"), on_the_host((40,), "uint8")
    for view in (
        lambda x: x[8:40].view("bfloat16").reshape(4, 4),
        lambda x: x[:40].view("float64").reshape((5, 1))[:3],
        lambda x: x.view("float32")[2:3],
        lambda x: x.reshape(8, 5)[1:, 2:4],
        lambda x: x.reshape(8, 5)[:1],
        lambda x: x.reshape(8, 5).T,
    ):
        mine, its = view(ours), view(theirs)
        assert (mine.shape, mine.strides, mine.dtype, mine.nbytes) == (its.shape, its.strides, its.dtype, its.nbytes)
        assert mine.data.ptr - ours.data.ptr == its.data.ptr - theirs.data.ptr
        for flag in ("C_CONTIGUOUS", "F_CONTIGUOUS"):
            assert mine.flags[flag] == its.flags[flag]


def test_enough_is_compared():
    assert len(CUPY) > 45


def test_parameters_of_a_launch_are_cupys():
    # RawKernel.__call__ hands its keywords on to cupy.cuda.Function.__call__ (cupy/cuda/function.pyx).
    expected = {"shared_mem": 0, "stream": None, "enable_cooperative_groups": False}
    positional = [name for name, _, default in parameters(cp.RawKernel.__call__) if default is inspect.Parameter.empty]
    keywords = {name: default for name, _, default in parameters(cp.RawKernel.__call__) if name not in positional}
    assert positional == ["grid", "block", "args"]
    assert keywords == expected
    assert "RawKernel.__call__(self, grid, block, args, **kwargs)" in cupy.RawKernel.__call__.__doc__
    assert "shared_mem=0" in cupy.RawKernel.__call__.__doc__


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (cp.ndarray, cupy.ndarray),
        (cp.RawKernel, cupy.RawKernel),
        (cp.RawModule, cupy.RawModule),
        (cp.cuda.Stream, cupy.cuda.Stream),
        (cp.cuda.Event, cupy.cuda.Event),
        (cp.cuda.Graph, cupy.cuda.Graph),
        (cp.cuda.Device, cupy.cuda.Device),
    ],
    ids=lambda cls: cls.__module__,
)
def test_no_attribute_of_its_own(ours, theirs):
    # submit and check_not_capturing are how the emulator's own modules talk to a stream.
    assert set(members(ours)) - set(members(theirs)) <= {"submit", "check_not_capturing"}


def test_every_name_is_cupys():
    assert [name for name in cp.__all__ if not hasattr(cupy, name) and name not in OWN_NAMES] == []
    assert [name for name in cuda.__all__ if not hasattr(cupy.cuda, name)] == []


def test_dtypes_and_constants_are_cupys():
    for name in cp.__all__:
        if isinstance(getattr(cp, name), type) and name[-1].isdigit():
            assert getattr(cp, name) is getattr(cupy, name)
    for name in dir(cp.cuda.runtime):
        if name.startswith("streamCapture"):
            assert getattr(cp.cuda.runtime, name) == getattr(cupy.cuda.runtime, name)


# Numba


@pytest.mark.parametrize("name", numba_frontend.HOST_NAMES)
def test_parameters_are_numbas(name):
    assert parameters(getattr(cuda, name)) == parameters(getattr(numba.cuda, name))


METHODS = [
    *((numba_frontend.Dispatcher, CUDADispatcher, name) for name in members(numba_frontend.Dispatcher)),
    *((numba_frontend.DeviceNDArray, DeviceNDArray, name) for name in ("copy_to_host", "copy_to_device")),
    *((numba_frontend.DeviceNDArray, DeviceNDArray, name) for name in ("is_c_contiguous", "is_f_contiguous")),
    *((numba_frontend.NumbaStream, Stream, name) for name in ("synchronize", "auto_synchronize")),
    *((numba_frontend.NumbaEvent, Event, name) for name in members(numba_frontend.NumbaEvent)),
]
METHODS = [(ours, theirs, name) for ours, theirs, name in METHODS if name not in ("overload_for", "done")]


@pytest.mark.parametrize(("ours", "theirs", "name"), METHODS, ids=lambda value: getattr(value, "__name__", value))
def test_methods_are_numbas(ours, theirs, name):
    own = getattr(ours, name)
    if inspect.isfunction(own):
        assert parameters(own) == parameters(getattr(theirs, name))
    else:
        assert hasattr(theirs, name) or name in INSTANCE_ATTRIBUTES


class HostMemory:
    """What a device array of Numba needs of its memory to be sliced."""

    def __init__(self, address):
        self.device_ctypes_pointer = ctypes.c_size_t(address)

    def view(self, start, stop=None):
        return HostMemory(self.device_ctypes_pointer.value + start)


def test_views_are_numbas(monkeypatch):
    monkeypatch.setattr(devices._runtime, "ensure_context", contextlib.nullcontext)  # which is the driver's
    ours, theirs = cuda.device_array(40, np.uint8), DeviceNDArray((40,), (1,), "u1", gpu_data=HostMemory(4096))
    for view in (
        lambda x: x[:40].view(np.float64).reshape((5, 1))[:3],
        lambda x: x.view(np.float32)[2:3],
        lambda x: x[8:].reshape(4, -1)[:1],
        lambda x: x.reshape(8, 5)[1:, 2:4],
    ):
        mine, its = view(ours), view(theirs)
        assert (mine.shape, mine.strides, mine.dtype, mine.nbytes) == (its.shape, its.strides, its.dtype, its.nbytes)
        assert len(mine) == len(its)
        assert typeof(mine, Purpose.argument) == typeof(its, Purpose.argument)
        for flag in ("C_CONTIGUOUS", "F_CONTIGUOUS"):
            assert mine.flags[flag] == its.flags[flag]
        start, its_start = (x.__cuda_array_interface__["data"][0] for x in (mine, its))
        assert start - ours.data.ptr == its_start - 4096
        assert (mine.device_ctypes_pointer.value, its.device_ctypes_pointer.value) == (start, its_start)


# Set in CUDADispatcher.__init__, so not visible in the class.
INSTANCE_ATTRIBUTES = {"overloads"}


def test_what_kernels_use_is_numbas_own():
    for name in (
        "grid",
        "gridsize",
        "threadIdx",
        "shared",
        "local",
        "const",
        "syncthreads",
        "atomic",
        "shfl_sync",
    ):
        assert getattr(cuda, name) is getattr(numba.cuda, name)
