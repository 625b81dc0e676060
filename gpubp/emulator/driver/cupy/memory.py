"""CuPy's memory pools on the virtual device: each array is an allocation of its own, of exactly its size.

CuPy rounds sizes up to 512 bytes, cuts arrays out of larger blocks, and keeps blocks that were freed for the next
array. An access past the end of an array, or to one that is gone, would then hit memory that is valid.

What the pools' figures mean here: `used_bytes` is what it is on a GPU, the sizes rounded up; so are the sizes that
memory hooks are told. Freed memory is given back at once, so there are never free blocks: `free_bytes` and
`n_free_blocks` are 0, `total_bytes` equals `used_bytes`, and hooks see each array allocated. Limits hold as on a GPU.
Memory that is freed while a stream is capturing stays as long as the graph, for a pool would not give it back either.
"""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from types import ModuleType
from typing import Any

from gpubp.emulator.driver import allocations, streams

_UNIT = 512
_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation


def _rounded(nbytes: int) -> int:
    return -(-nbytes // _UNIT) * _UNIT


def install(memory: ModuleType) -> None:
    """Replace the pools of CuPy's module `cupy.cuda.memory`."""
    from cupy.cuda import memory_hook

    class PooledMemory(memory.BaseMemory):  # type: ignore[name-defined]
        """Memory of one array of a pool."""

        def __init__(self, mem: Any, size: int, pool: Any) -> None:
            self.ptr, self.size, self.device_id = mem.ptr, size, mem.device_id
            self.identity = type(mem).__name__
            self.pool = weakref.ref(pool)
            self._mem = mem
            for name in ("prefetch", "advise"):
                if hasattr(mem, name):
                    setattr(self, name, getattr(mem, name))

        def free(self, is_ending: Callable[[], bool] = sys.is_finalizing) -> None:
            """Give the memory back; do nothing when Python ends, with half of its modules gone."""
            if not self.ptr or is_ending():
                return
            ptr, mem = self.ptr, self._mem
            self.ptr, self._mem = 0, None
            pool = self.pool()
            hooks = list(memory_hook.get_memory_hooks().values()) if pool is not None else []
            about = {"device_id": self.device_id, "mem_size": _rounded(self.size), "mem_ptr": ptr, "pmem_id": id(self)}
            for hook in hooks:
                hook.free_preprocess(**about)
            try:
                if pool is not None:
                    pool.give_back(self.size)
                streams.keep(mem)
            finally:
                del mem
                for hook in hooks:
                    hook.free_postprocess(**about)

        __del__ = free

    class Pool:
        """What a pool does; it is no subclass of CuPy's, whose size in memory compiled modules know."""

        def __init__(self, allocator: Callable[[int], Any] | None) -> None:
            self._allocate = allocator or memory._malloc
            self._lock = threading.RLock()
            self._used = self.limit = 0
            self._given_back: deque[int] = deque()
            self.set_limit(**memory._parse_limit_string())

        def malloc(self, size: int) -> Any:
            """Return a pointer to `size` new bytes."""
            hooks = list(memory_hook.get_memory_hooks().values())
            if not hooks:
                return self._malloc(size, hooks)
            made = None
            for hook in hooks:
                hook.malloc_preprocess(device_id=0, size=size, mem_size=_rounded(size))
            try:
                made = self._malloc(size, hooks)
            finally:
                ptr, number = (0, 0) if made is None else (made.ptr, id(made.mem))
                for hook in hooks:
                    hook.malloc_postprocess(
                        device_id=0, size=size, mem_size=_rounded(size), mem_ptr=ptr, pmem_id=number
                    )
            return made

        def _malloc(self, size: int, hooks: list[Any]) -> Any:
            if not size:
                return memory.MemoryPointer(memory.Memory(0), 0)
            self._take(size)
            mem = None
            try:
                mem = self._allocated(size, hooks)
            finally:
                if mem is None:
                    self.give_back(size)
            return memory.MemoryPointer(PooledMemory(mem, size, self), 0)

        def _allocated(self, size: int, hooks: list[Any]) -> Any:
            # A pool that has a free block allocates nothing, whatever is capturing.
            mode = streams.exchange_mode(streams.CAPTURE_MODE_RELAXED)
            try:
                for last in (False, True):
                    try:
                        return self._new(size, hooks)
                    except memory.CUDARuntimeError as error:
                        if error.status != _OUT_OF_MEMORY:
                            raise
                        if last:
                            used = self.used - _rounded(size)
                            raise memory.OutOfMemoryError(size, used, self.limit) from error
                    gc.collect()
            finally:
                streams.exchange_mode(mode)

        def _new(self, size: int, hooks: list[Any]) -> Any:
            if not hooks:
                return self._allocate(size).mem
            made = None
            for hook in hooks:
                hook.alloc_preprocess(device_id=0, mem_size=_rounded(size))
            try:
                made = self._allocate(size)
            finally:
                ptr = 0 if made is None else made.ptr
                for hook in hooks:
                    hook.alloc_postprocess(device_id=0, mem_size=_rounded(size), mem_ptr=ptr)
            return made.mem

        def _take(self, size: int) -> None:
            """Count bytes as used, if the limit allows it."""
            for last in (False, True):
                with self._lock:
                    if not self.limit or self.used + _rounded(size) <= self.limit:
                        self._used += _rounded(size)
                        return
                if not last:
                    gc.collect()
            raise memory.OutOfMemoryError(_rounded(size), self.used, self.limit)

        def give_back(self, size: int) -> None:
            """Count bytes as used no longer, at the next look: this must not wait, as Python calls it at any time."""
            self._given_back.append(_rounded(size))

        @property
        def used(self) -> int:
            """Return the bytes that are used."""
            with self._lock:
                while self._given_back:
                    self._used -= self._given_back.popleft()
                return self._used

        def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
            """Set the most bytes that may be in use, or the share of the device's memory; 0 for no limit."""
            if size is not None and fraction is not None:
                raise ValueError("size and fraction cannot be specified at one time")
            if fraction is not None:
                if not 0 <= fraction <= 1:
                    raise ValueError(f"memory limit fraction out of range: {fraction}")
                size = int(fraction * allocations.free_and_total()[1])
            if size is not None and size < 0:
                raise ValueError(f"memory limit size out of range: {size}")
            self.limit = size or 0

    pools: dict[int, Pool] = {}

    class MemoryPool(memory.MemoryPool):  # type: ignore[name-defined]
        """CuPy's memory pool, with an allocation of its own for each array."""

        __slots__ = ()

        def __init__(self, allocator: Callable[[int], Any] | None = None) -> None:
            super().__init__(allocator)
            pools[id(self)] = Pool(allocator)

        def __del__(self) -> None:
            pools.pop(id(self), None)

        def malloc(self, size: int) -> Any:
            """Return a pointer to `size` new bytes."""
            return pools[id(self)].malloc(size)

        def free_all_blocks(self, stream: Any = None) -> None:
            """Do nothing: no freed memory is kept."""

        def n_free_blocks(self) -> int:
            """Return 0: no freed memory is kept."""
            return 0

        def used_bytes(self) -> int:
            """Return the bytes in use, each array's rounded up as on a GPU."""
            return pools[id(self)].used

        def free_bytes(self) -> int:
            """Return 0: no freed memory is kept."""
            return 0

        def total_bytes(self) -> int:
            """Return the bytes in use: no freed memory is kept."""
            return pools[id(self)].used

        def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
            """Set the most bytes that may be in use, or the share of the device's memory; 0 for no limit."""
            pools[id(self)].set_limit(size, fraction)

        def get_limit(self) -> int:
            """Return the most bytes that may be in use, 0 for no limit."""
            return pools[id(self)].limit

    class MemoryAsyncPool(memory.MemoryAsyncPool):  # type: ignore[name-defined]
        """CuPy's pool of the driver, with sizes that are not rounded up."""

        def malloc(self, size: int) -> Any:
            """Return a pointer to `size` new bytes."""
            try:
                return memory.malloc_async(size)
            except memory.CUDARuntimeError as error:
                if error.status != _OUT_OF_MEMORY:
                    raise
                raise memory.OutOfMemoryError(size, -1) from error

    for replaced in (PooledMemory, MemoryPool, MemoryAsyncPool):
        _put(memory, replaced)


def install_pinned(pinned: ModuleType) -> None:
    """Replace the pool of CuPy's module `cupy.cuda.pinned_memory`."""

    class PooledPinnedMemory(pinned.PinnedMemory):  # type: ignore[name-defined]
        """Pinned memory of one array of a pool."""

        def __init__(self, mem: Any, pool: Any) -> None:
            self.ptr, self.size, self.mem, self.pool = mem.ptr, mem.size, mem, pool

        def free(self) -> None:
            """Give the memory back."""
            self.ptr = self.size = 0
            self.mem = None

        def __del__(self) -> None:
            """Do nothing: `mem` gives the memory back."""

    class PinnedMemoryPool(pinned.PinnedMemoryPool):  # type: ignore[name-defined]
        """CuPy's pool of pinned memory, with an allocation of its own for each array."""

        def __init__(self, allocator: Callable[[int], Any] = pinned._malloc) -> None:
            super().__init__(allocator)
            self._allocate = allocator

        def malloc(self, size: int) -> Any:
            """Return a pointer to `size` new bytes."""
            if not size:
                return pinned.PinnedMemoryPointer(pinned.PinnedMemory(0), 0)
            return pinned.PinnedMemoryPointer(PooledPinnedMemory(self._allocate(size).mem, weakref.ref(self)), 0)

    for replaced in (PooledPinnedMemory, PinnedMemoryPool):
        _put(pinned, replaced)


def _put(module: ModuleType, replaced: type) -> None:
    """Let a class stand in for the one of its name."""
    original = getattr(module, replaced.__name__)
    replaced.__module__, replaced.__qualname__ = module.__name__, replaced.__name__
    if "__pyx_vtable__" in vars(original):
        replaced.__pyx_vtable__ = vars(original)["__pyx_vtable__"]  # type: ignore[attr-defined]
    setattr(module, replaced.__name__, replaced)
