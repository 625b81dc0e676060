"""Loops over lanes that Numba compiles for this CPU, when each is first called with arguments of some types.

Their machine code is kept in gpubp's cache and not in Numba's, whose files several processes may mix up when they
compile at the same time. An entry here holds one function for one signature, and is read only if it is whole.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import json
import pickle
import platform
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import llvmlite
import numba
import numpy as np
from numba import njit, vectorize
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.compiler_lock import global_compiler_lock
from numba.core.serialize import dumps

from gpubp.toolchain import cache

CACHE_FORMAT = "1"

if numba.config.DISABLE_JIT:
    raise RuntimeError("NUMBA_DISABLE_JIT keeps Numba from compiling: unset it to use the emulator")


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Keep Python from looking for garbage, which takes a third of the time while Numba compiles, and finds little."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def interrupts_wait() -> Iterator[None]:
    """Let a Ctrl-C wait until the block is over: llvmlite, interrupted as it frees something, frees it again.

    Python handles signals in the main thread alone: in another thread nothing has to wait.
    """
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(usual):
        yield
        return
    heard: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda *told: heard.append(told))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
        if heard:
            usual(*heard[0])


def loop(function: Callable, **options: Any) -> Callable:
    """Compile a function with `numba.njit` and these options of it; it runs without the interpreter's lock."""
    dispatcher = njit(nogil=True, **options)(function)
    dispatcher._cache = kept = _KeptCode(dispatcher)
    dispatcher.compile = kept.in_turn(dispatcher.compile)
    return dispatcher


def elementwise(function: Callable, signatures: Sequence[str]) -> np.ufunc:
    """Compile a function of numbers with `numba.vectorize`, now, and return the ufunc of these signatures."""
    built = vectorize(function)
    dispatcher = built._dispatcher
    dispatcher.cache = kept = _KeptCode(dispatcher)
    dispatcher.compile = kept.in_turn(dispatcher.compile)
    with interrupts_wait():
        for signature in signatures:
            built.add(signature)
    _OWNERS.append(built)
    return built.ufunc


_OWNERS: list[Any] = []
"""What owns the machine code of the ufuncs: calling them through it would take twice as long."""


class _KeptCode(NullCache):
    """Keep machine code: Numba asks for it before it compiles a function, and hands it over afterwards.

    Args:
        dispatcher: Numba's object that compiles the function.
    """

    def __init__(self, dispatcher: Any) -> None:
        self._function = dispatcher.py_func
        # Now, while it is what Python has loaded: somebody may change the file before the first call.
        self._source = _source(self._function.__code__.co_filename)
        self._target = dispatcher.targetdescr.target_context

    def in_turn(self, compile_: Callable) -> Callable:
        """Return `compile_` so that of processes and threads which need the same signature one compiles it."""

        @functools.wraps(compile_)
        def compile_in_turn(signature: Any, *arguments: Any, **options: Any) -> Any:
            with interrupts_wait():
                entry = self._entry(signature)
            # In this order: who compiles a function needs both for those that it calls.
            with (
                global_compiler_lock,
                cache.turn(entry),
                without_garbage_collection(),
                interrupts_wait(),
            ):
                return compile_(signature, *arguments, **options)

        return compile_in_turn

    def load_overload(self, sig: Any, target_context: Any) -> CompileResult | None:
        """Return the function for this signature, ready to run, if its code is kept."""
        target_context.refresh()
        states = cache.find(self._entry(sig), _read)
        return None if states is None else CompileResult._rebuild(target_context, *states)

    def save_overload(self, sig: Any, data: CompileResult) -> None:
        """Keep the code of this signature."""
        content = dumps(data._reduce())
        cache.keep(self._entry(sig), {".code": hashlib.sha256(content).digest() + content})

    def _entry(self, signature: Any) -> str:
        """Return the name of the entry, by all that the machine code depends on."""
        # The module's name, as what is kept names the function by it.
        parts = (str(signature), self._target.codegen().magic_tuple(), self._function.__module__, self._source)
        digest = hashlib.sha256(json.dumps([*parts, *_versions()]).encode()).hexdigest()
        return f"loops/{self._function.__name__}-{digest[:32]}"


def _read(path: Path) -> tuple | None:
    """Return what `CompileResult._reduce` gave, or None if the file is absent or damaged."""
    try:
        content = path.with_name(f"{path.name}.code").read_bytes()
    except OSError:
        return None
    checksum, states = content[:32], content[32:]
    return pickle.loads(states) if hashlib.sha256(states).digest() == checksum else None


@functools.cache
def _source(path: str) -> str:
    """Return the text of a module: what a function calls stands in its own module, or in Numba."""
    return Path(path).read_text(encoding="utf-8")


@functools.cache
def _versions() -> tuple[str, ...]:
    return (
        CACHE_FORMAT,
        numba.__version__,
        llvmlite.__version__,
        np.__version__,
        f"{platform.python_implementation()} {platform.python_version()}",
    )
