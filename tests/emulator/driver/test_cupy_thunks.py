"""C functions that call Python ones: called here as compiled code would, through the pointers in their capsules."""

import ctypes
import subprocess
import sys
from ctypes import PYFUNCTYPE, c_float, c_int, c_size_t, c_ssize_t, c_uint, c_void_p, py_object
from types import ModuleType

import pytest

pytest.importorskip("llvmlite", exc_type=ImportError)

from gpubp.emulator.driver.cupy import runtime as cupy_runtime
from gpubp.emulator.driver.cupy import thunks as cupy_thunks
from gpubp.emulator.driver.cupy.runtime import serving
from gpubp.emulator.driver.cupy.thunks import INT, Served
from gpubp.emulator.errors import EmulatorError

new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype, new_capsule.argtypes = py_object, [c_void_p, ctypes.c_char_p, c_void_p]
get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
get_pointer.restype, get_pointer.argtypes = c_void_p, [py_object, ctypes.c_char_p]
NAMES = []


def capsule(signature):
    """Return a capsule of a function that nobody calls."""
    NAMES.append(signature.encode())
    return new_capsule(1, NAMES[-1], None)


def replaced(signature, kind, function, **options):
    """Return the C function that calls a Python one, as ctypes calls it: with the interpreter's lock held, and raising
    what the function leaves behind."""
    capsules = {"f": capsule(signature)}
    cupy_thunks.replace(capsules, {"f": Served(function, **options)}, "CuPy 1")
    assert cupy_thunks.name_of(capsules["f"]) == signature
    return kind(get_pointer(capsules["f"], signature.encode()))


def test_arguments_and_results():
    seen = []
    function = replaced(
        "intptr_t (intptr_t, int, unsigned int, size_t, PyObject *, int __pyx_skip_dispatch)",
        PYFUNCTYPE(c_ssize_t, c_ssize_t, c_int, c_uint, c_size_t, py_object, c_int),
        lambda *given: seen.append(given) or -(2**62),
    )
    given = (-(2**63), -(2**31), 2**32 - 1, 2**64 - 1, "text")
    assert function(*given, 0) == -(2**62)
    assert seen == [given]


def test_objects_keep_their_counts():
    thing = object()
    function = replaced("PyObject *(PyObject *, int __pyx_skip_dispatch)", PYFUNCTYPE(py_object, py_object, c_int), id)
    before = sys.getrefcount(thing)
    for _ in range(10):
        assert function(thing, 0) == id(thing)
    assert sys.getrefcount(thing) == before


@pytest.mark.parametrize(
    ("result", "kind", "value"),
    [
        ("int", c_int, -5),
        ("unsigned int", c_uint, 2**32 - 1),
        ("size_t", c_size_t, 2**64 - 1),
        ("uintmax_t", c_size_t, 2**64 - 1),
        ("float", c_float, 0.25),
        ("struct __pyx_obj_4cupy_Thing *", py_object, "thing"),
    ],
)
def test_results(result, kind, value):
    function = replaced(f"{result} (int __pyx_skip_dispatch)", PYFUNCTYPE(kind, c_int), lambda: value)
    assert function(0) == value


def peek(address, result):
    """Return what a C function without arguments returns when it leaves an exception, and that exception's name."""
    clear = ctypes.cast(ctypes.pythonapi.PyErr_Clear, c_void_p).value
    wide = {"i32": "sext i32 %r to i64", "float": "fptosi float %r to i64", "ptr": "ptrtoint ptr %r to i64"}
    code = f"""
define i64 @peek() {{
  %r = call {result} inttoptr (i64 {address} to ptr)(i32 0)
  call void inttoptr (i64 {clear} to ptr)()
  %w = {wide.get(result, "add i64 %r, 0")}
  ret i64 %w
}}"""
    engine = cupy_thunks._compile(code)
    return PYFUNCTYPE(ctypes.c_int64)(engine.get_function_address("peek"))()


@pytest.mark.parametrize(
    ("result", "type_", "sentinel", "expected"),
    [
        ("int", "i32", "", -1),
        ("int", "i32", "0", 0),
        ("unsigned int", "i32", "", 0),
        ("intptr_t", "i64", "", 0),
        ("size_t", "i64", "-1", -1),
        ("float", "float", "", 0),
        ("PyObject *", "ptr", "", 0),
    ],
)
@pytest.mark.parametrize("raises", [True, False])
def test_what_fails_returns_the_sentinel_and_leaves_the_exception(result, type_, sentinel, expected, raises):
    """Be it the Python function that fails, or what it returns that is no number."""

    def function():
        if raises or result == "PyObject *":
            raise KeyError("why")
        return "text"

    signature = f"{result} (int __pyx_skip_dispatch)"
    capsules = {"f": capsule(signature)}
    cupy_thunks.replace(capsules, {"f": Served(function, sentinel)}, "CuPy 1")
    address = get_pointer(capsules["f"], signature.encode())
    with pytest.raises((KeyError, TypeError)):
        PYFUNCTYPE(py_object, c_int)(address)(0)
    assert peek(address, type_) == expected


def test_a_structure_is_only_raised_for():
    """It is returned where the caller says: x86-64 wants that address back."""

    def fail(*_given):
        raise KeyError("why")

    function = replaced("cudaExtent (size_t, size_t, size_t)", PYFUNCTYPE(py_object, c_void_p, *[c_size_t] * 3), fail)
    place = ctypes.create_string_buffer(24)
    with pytest.raises(KeyError, match="why"):
        function(ctypes.addressof(place), 1, 2, 3)


@pytest.mark.parametrize(
    ("optional", "kind", "value", "expected"), [("u", c_uint, 2**32 - 1, 2**32 - 1), ("i", c_int, -2, -2)]
)
def test_an_optional_argument(optional, kind, value, expected):
    class Optional(ctypes.Structure):
        _fields_ = (("n", c_int), ("field", kind))

    seen = []
    function = replaced(
        "PyObject *(intptr_t, int __pyx_skip_dispatch, struct __pyx_opt_args_4cupy_f *__pyx_optional_args)",
        PYFUNCTYPE(py_object, c_ssize_t, c_int, c_void_p),
        lambda first, second="default": seen.append((first, second)),
        **({"optional": INT} if optional == "i" else {}),
    )
    function(1, 0, None)
    for n in (0, 1):
        function(2, 0, ctypes.addressof(Optional(n, value)))
    assert seen == [(1, "default"), (2, "default"), (2, expected)]


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ("PyObject *(double, int __pyx_skip_dispatch)", r"CuPy 1: the type of f, 'PyObject \*\(double, .*is not known"),
        ("struct Other *(int)", "is not known to the virtual device"),
        ("int", "is not known to the virtual device"),
        ("PyObject *(int, int, int __pyx_skip_dispatch)", "is not the one that the virtual device serves"),
        (
            "PyObject *(int, int __pyx_skip_dispatch, struct __pyx_opt_args_f *__pyx_optional_args)",
            "is not the one that the virtual device serves",
        ),
    ],
)
def test_a_type_that_is_not_known(signature, message):
    capsules = {"f": capsule(signature)}
    before = capsules["f"]
    with pytest.raises(EmulatorError, match=message):
        cupy_thunks.replace(capsules, {"f": Served(lambda one: None)}, "CuPy 1")
    assert capsules["f"] is before


def test_a_function_that_is_missing():
    with pytest.raises(EmulatorError, match="CuPy 1 has no function f: the virtual device does not know this version"):
        cupy_thunks.replace({}, {"f": Served(lambda: None)}, "CuPy 1")


# --- versions of CuPy -------------------------------------------------------------------------------------------------
def runtime_module(folder, version, names=()):
    """Return a module that looks like CuPy's runtime of a version."""
    (folder / "cupy").mkdir()
    (folder / "cupy" / "_version.py").write_text(f"__version__ = {version!r}\n")
    module = ModuleType("cupy_backends.cuda.api.runtime")
    module.__file__ = str(folder / "cupy_backends" / "cuda" / "api" / "runtime.so")
    module.__pyx_capi__ = {name: capsule("PyObject *(int __pyx_skip_dispatch)") for name in names}
    module.CUDARuntimeError = RuntimeError
    return module


def test_a_version_that_is_not_known(tmp_path):
    with pytest.raises(
        EmulatorError, match=r"CuPy 15\.0\.0 is not known to the virtual device, which serves CuPy 14\.2\."
    ):
        cupy_runtime.install(runtime_module(tmp_path, "15.0.0"))


def test_a_function_that_is_not_known(tmp_path):
    module = runtime_module(tmp_path, "14.2.9", ["malloc", "brandNew", "another"])
    with pytest.raises(EmulatorError, match=r"CuPy 14\.2\.9: .* does not know the functions another, brandNew"):
        cupy_runtime.install(module)


def test_a_known_version_that_lacks_functions(tmp_path):
    with pytest.raises(EmulatorError, match=r"CuPy 14\.2\.9 has no function check_status"):
        cupy_runtime.install(runtime_module(tmp_path, "14.2.9"))
    assert not serving.CUPY


def test_a_package_without_a_version(tmp_path):
    module = runtime_module(tmp_path, "14.2.0")
    (tmp_path / "cupy" / "_version.py").unlink()
    with pytest.raises(EmulatorError, match="CuPy's version is not known"):
        cupy_runtime.install(module)


# --- in processes of their own ----------------------------------------------------------------------------------------
def run(program):
    return subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)


def test_cupy_that_was_imported_before():
    pytest.importorskip("cupy", exc_type=ImportError)
    done = run("import cupy; from gpubp.emulator import driver; driver.install()")
    assert done.returncode
    assert "EmulatorError: this process has imported CuPy already: the virtual device must come first" in done.stderr


def test_arrays_that_live_as_long_as_python_and_longer():
    """What they give back then is no error, and what is asked for then is one."""
    pytest.importorskip("cupy", exc_type=ImportError)
    done = run("""
from gpubp.emulator import driver
driver.install()
import builtins, cupy
from cupy.cuda import runtime

class Late:
    def __init__(self):
        self.parts = (cupy.arange(5), cupy.cuda.Stream(), cupy.cuda.alloc_pinned_memory(8), cupy.cuda.malloc_managed(8))
        self.malloc, self.print = cupy.cuda.memory.Memory, print

    def __del__(self):
        try:
            self.malloc(8)
        except RuntimeError as error:
            self.print(error)

builtins.late = Late()
""")
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert done.stdout == "the virtual device is gone: Python is ending\n"
