"""An emulated CUDA device: it executes PTX on the CPU, to run and to check kernels where there is no GPU.

PTX is the code that NVRTC makes of CUDA C++ and that Numba makes of Python, and that both hand to NVIDIA's driver. The
emulator takes that PTX, compiled for a real architecture (`use("sm_80")`; sm_90 if nothing is said), and executes it
thread by thread, vectorised over threads in NumPy. It needs no GPU, no driver and no CuPy, and it knows nothing of
neural networks. Programs that use the real CuPy or Numba CUDA run on it as they are, by `python -m gpubp.emulator
program.py`. Kernel code alone runs on it by changing an import:

    import gpubp.emulator as cp             # instead of: import cupy as cp
    from gpubp.emulator import cuda         # instead of: from numba import cuda

For example, with a kernel in CUDA C++ (the text below is run by the tests):

>>> import numpy as np
>>> import gpubp.emulator as cp
>>> saxpy = cp.RawKernel(r'''
... extern "C" __global__ void saxpy(int n, float a, const float* x, float* y) {
...     int i = blockIdx.x * blockDim.x + threadIdx.x;
...     if (i < n) y[i] = a * x[i] + y[i];
... }''', "saxpy")
>>> x, y = cp.asarray(np.arange(5, dtype=np.float32)), cp.ones(5, np.float32)
>>> saxpy((1,), (32,), (5, np.float32(2), x, y))
>>> y.get()
array([1., 3., 5., 7., 9.], dtype=float32)

The same mistake that a GPU would pass over in silence is an error here, with the line it is in:

>>> saxpy((1,), (32,), (6, np.float32(2), x, y))   # doctest: +ELLIPSIS
Traceback (most recent call last):
    ...
gpubp.emulator.errors.MemoryAccessError: kernel saxpy, kernel.cu:4, block (0, 0, 0), thread (5, 0, 0): access out of ...

What it offers
--------------
- CuPy's names, the slice that kernel code needs: `ndarray`, `asarray`, `asnumpy`, `empty`, `zeros` and their kin,
  `RawKernel`, `RawModule`, and `cuda.Stream`, `cuda.Event`, `cuda.Device`. A stream can record launches and replay
  them. Arrays compute nothing by themselves: kernels do.
- Numba's names: `cuda.jit` for kernels and device functions, launched as `kernel[grid, block, stream, shared](...)` on
  emulated and on NumPy arrays; `cuda.to_device`, `cuda.device_array`, ...; inside kernels all that `numba.cuda` has.
- `observe()`, which turns observers on for a block of code and gives a report.
- `use(arch)`, which chooses the chip: kernels are compiled for it, and launches are held against its limits.
- `limits(...)`, which sets how long a launch may go on, and how large the stack and the heap of its threads are.

What it finds
-------------
Always: accesses out of bounds, misaligned, or to freed memory, in every memory space; launches that no GPU would
accept; arguments that do not fit the kernel; barriers that some live thread never reaches; warp instructions whose
threads do not all arrive; launches that never end. With observers: data races in shared memory and in global memory,
uses of what nothing has written, a missing wait for an asynchronous copy; the sectors that global accesses move
against the fewest possible, bank conflicts, instructions by class, bytes by memory space. Messages name kernel, source
line, block and thread. New memory, and the target of an asynchronous copy until it is waited for, hold NaN in every
float type.

What it claims, and what it does not
------------------------------------
- It runs PTX, not machine code. What ptxas and the hardware do after that (scheduling, register allocation) is not
  seen. Registers and spills are what ptxas reports for the same compilation.
- It measures no time. Counts of instructions and of memory traffic are exact for the PTX; they are no prediction of
  how long a GPU takes, and event times are refused.
- Integer arithmetic, conversions, and float32, float64, float16 and bfloat16 arithmetic with their roundings are those
  of the PTX ISA to the bit; fused multiply-add is fused. `ex2`, `lg2`, `sin`, `cos`, `rsqrt` and `tanh.approx` are
  computed in float64 and rounded once, which is more accurate than the hardware; they agree with it within the
  tolerance that the ISA states.
- Tensor-core products (`mma.sync`, `wmma`) of floats agree with the hardware within a tolerance: NVIDIA does not say in
  which order it adds or how it rounds between. Those of integers and single bits are exact.
- Threads take turns in one fixed order, or in one that a seed draws (`observe(order=seed)`). Weak memory ordering is
  not explored; the race observer finds what depends on it by another way, from which accesses nothing orders.
- Streams do not overlap: a launch has ended when it returns. Several GPUs, textures, surfaces, launches from kernels
  and Blackwell's `tcgen05` are not there.
- An instruction or a modifier that is not implemented raises `UnsupportedInstruction`, with its name and the line.
  None is ever ignored.
"""

from __future__ import annotations

import sys

_words = sys.orig_argv
# `python -m gpubp.emulator` runs a program in a process of its own (__main__.py), so that here all of this would be
# loaded in vain. While Python locates what is behind its -m, sys.argv[0] is "-m".
if not (sys.argv[:1] == ["-m"] and "-m" in _words and _words[_words.index("-m") + 1] == __name__):
    from numpy import (
        bool_,
        complex64,
        complex128,
        dtype,
        float16,
        float32,
        float64,
        int8,
        int16,
        int32,
        int64,
        uint8,
        uint16,
        uint32,
        uint64,
    )

    from gpubp.emulator import cuda
    from gpubp.emulator.chip import current_arch, use
    from gpubp.emulator.cupy.arrays import (
        arange,
        array,
        asarray,
        ascontiguousarray,
        asnumpy,
        copyto,
        empty,
        empty_like,
        from_dlpack,
        full,
        full_like,
        ndarray,
        ones,
        ones_like,
        zeros,
        zeros_like,
    )
    from gpubp.emulator.cupy.modules import RawKernel, RawModule
    from gpubp.emulator.errors import (
        BarrierError,
        CallError,
        DeadlockError,
        DivergenceError,
        EmulatorError,
        HangError,
        LaunchError,
        MemoryAccessError,
        PTXSyntaxError,
        RegisterError,
        TrapError,
        UnsupportedInstruction,
    )
    from gpubp.emulator.limits import limits
    from gpubp.emulator.observe.observers import observe

__all__ = [
    "BarrierError",
    "CallError",
    "DeadlockError",
    "DivergenceError",
    "EmulatorError",
    "HangError",
    "LaunchError",
    "MemoryAccessError",
    "PTXSyntaxError",
    "RawKernel",
    "RawModule",
    "RegisterError",
    "TrapError",
    "UnsupportedInstruction",
    "arange",
    "array",
    "asarray",
    "ascontiguousarray",
    "asnumpy",
    "bool_",
    "complex64",
    "complex128",
    "copyto",
    "cuda",
    "current_arch",
    "dtype",
    "empty",
    "empty_like",
    "float16",
    "float32",
    "float64",
    "from_dlpack",
    "full",
    "full_like",
    "int8",
    "int16",
    "int32",
    "int64",
    "limits",
    "ndarray",
    "observe",
    "ones",
    "ones_like",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "use",
    "zeros",
    "zeros_like",
]
