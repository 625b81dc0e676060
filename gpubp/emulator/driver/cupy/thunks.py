"""C functions that call Python ones, under the signatures by which Cython modules import each other's functions.

A Cython module offers its C functions in `__pyx_capi__`: a dict of capsules, each with a pointer and the C signature as
its name. The importing module takes the pointer if the signature is the one that it was compiled for. So a capsule of
the same name with another pointer replaces a function, as long as nobody has imported it.

A thunk turns C's arguments into Python's, calls, and turns the result back. If the call raises, the exception stays set
and the thunk returns the value that tells Cython to look for one (`except? -1`, `except? 0`).
"""

from __future__ import annotations

import ctypes
import inspect
import re
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm

from gpubp.emulator.errors import EmulatorError

OBJECT, INT, UINT, LONG, ULONG, FLOAT, STRUCT = "object", "int", "uint", "long", "ulong", "float", "struct"
"""Kinds of C values: a Python object, integers of 32 and 64 bits, a float, a structure that is returned by value."""

_KINDS = {
    "PyObject *": OBJECT,
    "int": INT,
    "unsigned int": UINT,
    "cudaMemcpyKind": UINT,  # an enum
    "intptr_t": LONG,
    "size_t": ULONG,
    "uintmax_t": ULONG,
    "float": FLOAT,
}
_TYPES = {OBJECT: "ptr", INT: "i32", UINT: "i32", LONG: "i64", ULONG: "i64", FLOAT: "float", STRUCT: "ptr"}
"""How LLVM calls them. A structure is written where the caller says: such functions only raise, and return that."""
_SENTINELS = {OBJECT: "null", INT: "-1", UINT: "0", LONG: "0", ULONG: "0", FLOAT: "0.0", STRUCT: "%a0"}
"""What CuPy's functions of a kind return if they raise, apart from those that say otherwise."""


_ended = ctypes.c_uint8(0)
"""Set when Python ends: objects may be given back after all modules are gone, and there is nothing to do for it."""
_LATE = ctypes.create_string_buffer(b"the virtual device is gone: Python is ending")


@dataclass(frozen=True)
class Signature:
    """A C function's type, as far as a thunk needs it.

    Attributes:
        result: a kind.
        arguments: their kinds.
        dispatches: True if an int follows, by which Cython skips a look-up of overriding methods.
        has_optional: True if a pointer to the optional arguments follows, null if none are given.
    """

    result: str
    arguments: tuple[str, ...]
    dispatches: bool
    has_optional: bool


@dataclass(frozen=True)
class Served:
    """A Python function in the place of a C function.

    Attributes:
        function: takes Python values and returns one.
        sentinel: what the C function returns if it raises; "" if that is usual for its type.
        optional: the kind of its optional argument: CuPy has at most one, of 32 bits.
    """

    function: Callable[..., Any]
    sentinel: str = ""
    optional: str = UINT


def parse(text: str) -> Signature | None:
    """Return what a capsule's name says of a function, None if it has a type that is not known here."""
    match = re.fullmatch(r"(\S.*?) ?\((.*)\)", text)
    if match is None:
        return None
    parts = [] if match[2] in ("", "void") else match[2].split(", ")
    has_optional = bool(parts) and parts[-1].startswith("struct __pyx_opt_args_")
    if has_optional:
        parts.pop()
    dispatches = bool(parts) and parts[-1] == "int __pyx_skip_dispatch"
    if dispatches:
        parts.pop()
    result = STRUCT if re.fullmatch(r"cuda\w+", match[1]) else _kind(match[1])
    arguments = [_kind(part) for part in parts]
    if not result or not all(arguments):
        return None
    return Signature(result, tuple(arguments), dispatches, has_optional)


def _kind(text: str) -> str:
    return OBJECT if re.fullmatch(r"struct __pyx_obj_\w+ \*", text) else _KINDS.get(text, "")


def replace(capsules: dict[str, Any], served: Mapping[str, Served], of: str) -> None:
    """Let capsules point to Python functions.

    Args:
        capsules: a module's `__pyx_capi__`.
        served: by their names, which `capsules` must have.
        of: what the module is, for messages: its name and version.

    Raises:
        EmulatorError: a function is missing, or has a signature that is not known here.
    """
    signatures = {name: _signature(capsules, name, each, of) for name, each in served.items()}
    code = "\n".join(_emit(f"thunk_{name}", signatures[name], each) for name, each in served.items())
    engine = _compile(_common() + code)
    for name in served:
        address = engine.get_function_address(f"thunk_{name}")
        capsules[name] = _new_capsule(address, name_of(capsules[name]))
    _kept.append((engine, [each.function for each in served.values()]))


_kept: list[object] = [_ended, _LATE]
"""Code, functions and data whose addresses were given away. They outlive this module, as what calls them may."""
ctypes.pythonapi.Py_IncRef(ctypes.py_object(_kept))
weakref.finalize(
    replace, setattr, _ended, "value", 1
)  # when Python ends; among finalizers the last one made goes first


def _signature(capsules: Mapping[str, Any], name: str, served: Served, of: str) -> Signature:
    if name not in capsules:
        raise EmulatorError(f"{of} has no function {name}: the virtual device does not know this version")
    text = name_of(capsules[name])
    found = parse(text)
    if found is None:
        raise EmulatorError(f"{of}: the type of {name}, {text!r}, is not known to the virtual device")
    given = len(found.arguments)
    try:
        inspect.signature(served.function).bind(*range(given))
        inspect.signature(served.function).bind(*range(given + found.has_optional))
    except TypeError as error:
        raise EmulatorError(
            f"{of}: the type of {name}, {text!r}, is not the one that the virtual device serves: {error}"
        ) from None
    return found


_get_name = ctypes.pythonapi.PyCapsule_GetName
_get_name.restype, _get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
_new = ctypes.pythonapi.PyCapsule_New
_new.restype, _new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


def name_of(capsule: Any) -> str:
    """Return a capsule's name: the C signature of what it points to."""
    return _get_name(capsule).decode()


def _new_capsule(address: int, name: str) -> Any:
    lasting = name.encode()
    _kept.append(lasting)  # a capsule has only a pointer to it
    return _new(address, lasting, None)


# --- machine code -----------------------------------------------------------------------------------------------------
_GIVES_BACK = re.compile("free|[dD]estroy|[uU]nregister")

_PYTHON = {
    "PyLong_FromLongLong": "ptr (i64)",
    "PyLong_FromUnsignedLongLong": "ptr (i64)",
    "PyLong_AsLongLong": "i64 (ptr)",
    "PyLong_AsUnsignedLongLong": "i64 (ptr)",
    "PyFloat_AsDouble": "double (ptr)",
    "PyObject_Vectorcall": "ptr (ptr, ptr, i64, ptr)",
    "Py_IncRef": "void (ptr)",
    "Py_DecRef": "void (ptr)",
    "PyErr_Occurred": "ptr ()",
    "PyErr_SetString": "void (ptr, ptr)",
}
"""What is used of Python's C API."""


def _pointer(address: int) -> str:
    return f"inttoptr (i64 {address} to ptr)"


def _api(name: str) -> str:
    return _pointer(ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0)


def _call(name: str, *arguments: str) -> str:
    """Return LLVM's call of a function of Python's C API."""
    kind = _PYTHON[name]
    result, types = kind.split(" ", 1)
    typed = ", ".join(f"{t} {a}" for t, a in zip(types.strip("()").split(", "), arguments, strict=False))
    return f"call {result} {_api(name)}({typed})"


def _common() -> str:
    """Return what all thunks call: `invoke` calls a Python function and takes the references to its arguments."""
    return f"""
define internal ptr @invoke(ptr %function, ptr %arguments, i64 %count) {{
entry:
  br label %check
check:
  %i = phi i64 [ 0, %entry ], [ %next, %more ]
  %end = icmp eq i64 %i, %count
  br i1 %end, label %call, label %more
more:
  %at = getelementptr ptr, ptr %arguments, i64 %i
  %one = load ptr, ptr %at
  %next = add i64 %i, 1
  %missing = icmp eq ptr %one, null
  br i1 %missing, label %failed, label %check
failed:
  ret ptr null
call:
  %result = {_call("PyObject_Vectorcall", "%function", "%arguments", "%count", "null")}
  br label %release
release:
  %j = phi i64 [ 0, %call ], [ %following, %drop ]
  %done = icmp eq i64 %j, %count
  br i1 %done, label %return, label %drop
drop:
  %where = getelementptr ptr, ptr %arguments, i64 %j
  %used = load ptr, ptr %where
  {_call("Py_DecRef", "%used")}
  %following = add i64 %j, 1
  br label %release
return:
  ret ptr %result
}}
"""


def _to_python(kind: str, value: str, target: str) -> list[str]:
    """Return the instructions that make a Python value of a C one."""
    if kind == OBJECT:
        return [_call("Py_IncRef", value), f"{target} = getelementptr i8, ptr {value}, i64 0"]
    wide, lines = value, []
    if kind in (INT, UINT):
        wide = f"{target}.wide"
        lines = [f"{wide} = {'sext' if kind == INT else 'zext'} i32 {value} to i64"]
    convert = "PyLong_FromLongLong" if kind in (INT, LONG) else "PyLong_FromUnsignedLongLong"
    return [*lines, f"{target} = {_call(convert, wide)}"]


def _emit(name: str, signature: Signature, served: Served) -> str:
    """Return a thunk as LLVM's text."""
    kinds = (LONG,) if signature.result == STRUCT else signature.arguments
    parameters = [f"{_TYPES[kind]} %a{i}" for i, kind in enumerate(kinds)]
    if signature.result == STRUCT:
        parameters = ["ptr %a0"]
    if signature.dispatches:
        parameters.append("i32 %skip")
    if signature.has_optional:
        parameters.append("ptr %optional")
    given = () if signature.result == STRUCT else signature.arguments
    result = _TYPES[signature.result]
    sentinel = served.sentinel or _SENTINELS[signature.result]
    lines = [
        f"define {result} @{name}({', '.join(parameters)}) {{",
        "entry:",
        f"%arguments = alloca [{len(given) + 1} x ptr]",
        f"%flag = load volatile i8, ptr {_pointer(ctypes.addressof(_ended))}",
        "%over = icmp ne i8 %flag, 0",
        "br i1 %over, label %ended, label %begin",
        "ended:",
        *_ended_result(name, signature.result, sentinel),
        "begin:",
    ]
    for i, kind in enumerate(given):
        lines += _to_python(kind, f"%a{i}", f"%v{i}")
        lines += [f"%p{i} = getelementptr ptr, ptr %arguments, i64 {i}", f"store ptr %v{i}, ptr %p{i}"]
    count = str(len(given))
    if signature.has_optional:
        lines += [
            "%none = icmp eq ptr %optional, null",
            "br i1 %none, label %call, label %look",
            "look:",
            "%n = load i32, ptr %optional",
            "%few = icmp slt i32 %n, 1",
            "br i1 %few, label %call, label %take",
            "take:",
            "%field.at = getelementptr i8, ptr %optional, i64 4",
            "%field = load i32, ptr %field.at",
            *_to_python(served.optional, "%field", "%last"),
            f"%last.at = getelementptr ptr, ptr %arguments, i64 {len(given)}",
            "store ptr %last, ptr %last.at",
            "br label %call",
            "call:",
            f"%count = phi i64 [ {len(given)}, %begin ], [ {len(given)}, %look ], [ {len(given) + 1}, %take ]",
        ]
        count = "%count"
    lines.append(f"%found = call ptr @invoke(ptr {_pointer(id(served.function))}, ptr %arguments, i64 {count})")
    lines += _from_python(signature.result, sentinel)
    return "\n".join([*lines, "}"])


def _ended_result(name: str, kind: str, sentinel: str) -> list[str]:
    """Return the instructions of a call after Python has ended: nothing is done, or an error is set."""
    if kind == OBJECT and _GIVES_BACK.search(name):
        return [_call("Py_IncRef", _pointer(id(None))), f"ret ptr {_pointer(id(None))}"]
    text = _pointer(ctypes.addressof(_LATE))
    return [_call("PyErr_SetString", _pointer(id(RuntimeError)), text), f"ret {_TYPES[kind]} {sentinel}"]


def _from_python(kind: str, sentinel: str) -> list[str]:
    """Return the instructions that return a Python value to C."""
    if kind == OBJECT:
        return ["ret ptr %found"]
    if kind == STRUCT:
        return ["ret ptr %a0"]
    convert = {FLOAT: "PyFloat_AsDouble", ULONG: "PyLong_AsUnsignedLongLong"}.get(kind, "PyLong_AsLongLong")
    narrow = {
        FLOAT: "%value = fptrunc double %wide to float",
        INT: "%value = trunc i64 %wide to i32",
        UINT: "%value = trunc i64 %wide to i32",
    }.get(kind, "%value = add i64 %wide, 0")
    return [
        "%failed = icmp eq ptr %found, null",
        "br i1 %failed, label %raised, label %convert",
        "convert:",
        f"%wide = {_call(convert, '%found')}",
        _call("Py_DecRef", "%found"),
        narrow,
        f"%error = {_call('PyErr_Occurred')}",
        "%fine = icmp eq ptr %error, null",
        "br i1 %fine, label %return, label %raised",
        "return:",
        f"ret {_TYPES[kind]} %value",
        "raised:",
        f"ret {_TYPES[kind]} {sentinel}",
    ]


def _compile(text: str) -> llvm.ExecutionEngine:
    try:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        machine = llvm.Target.from_default_triple().create_target_machine(opt=0)
        module = llvm.parse_assembly(text)
        engine = llvm.create_mcjit_compiler(module, machine)
        engine.finalize_object()
    except RuntimeError as error:
        raise EmulatorError(f"the virtual device's functions for CuPy do not compile: {error}") from error
    return engine
