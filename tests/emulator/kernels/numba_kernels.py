"""The test kernels in Python, for the emulator and, where it can run them, for Numba's own simulator."""

import math
import os
import sys

import numpy as np

# The one line by which a Numba program moves to the emulator.
if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
    from numba import cuda
else:
    from gpubp.emulator import cuda

THREADS = 256
WARPS = 8


@cuda.jit
def saxpy(a, x, y):
    """y = a x + y, one thread an element."""
    i = cuda.grid(1)
    if i < x.size:
        y[i] = a * x[i] + y[i]


TILE, STEP, EACH = 128, 8, 8


@cuda.jit
def sgemm(a, b, c):
    """C = A B: a block of 256 threads computes 128 x 128 in steps of 8 along K, a thread 8 x 8."""
    tile_a = cuda.shared.array((STEP, TILE), np.float32)
    tile_b = cuda.shared.array((STEP, TILE), np.float32)
    sums = cuda.local.array((EACH, EACH), np.float32)
    column = cuda.local.array(EACH, np.float32)
    row = cuda.local.array(EACH, np.float32)
    m, k = a.shape
    n = b.shape[1]
    row0 = cuda.blockIdx.y * TILE
    col0 = cuda.blockIdx.x * TILE
    thread = cuda.threadIdx.x
    thread_row = thread // 16 * EACH
    thread_col = thread % 16 * EACH
    for i in range(EACH):
        for j in range(EACH):
            sums[i, j] = np.float32(0)
    for k0 in range(0, k, STEP):
        for i in range(thread, TILE * STEP, THREADS):
            inside = row0 + i // STEP < m and k0 + i % STEP < k
            tile_a[i % STEP, i // STEP] = a[row0 + i // STEP, k0 + i % STEP] if inside else np.float32(0)
        for i in range(thread, TILE * STEP, THREADS):
            inside = k0 + i // TILE < k and col0 + i % TILE < n
            tile_b[i // TILE, i % TILE] = b[k0 + i // TILE, col0 + i % TILE] if inside else np.float32(0)
        cuda.syncthreads()
        for inner in range(STEP):
            for i in range(EACH):
                column[i] = tile_a[inner, thread_row + i]
                row[i] = tile_b[inner, thread_col + i]
            for i in range(EACH):
                for j in range(EACH):
                    sums[i, j] += column[i] * row[j]
        cuda.syncthreads()
    for i in range(EACH):
        for j in range(EACH):
            if row0 + thread_row + i < m and col0 + thread_col + j < n:
                c[row0 + thread_row + i, col0 + thread_col + j] = sums[i, j]


@cuda.jit
def tree_sum(x, partial):
    """The sum of each block's 256 elements, by a tree in shared memory."""
    sums = cuda.shared.array(THREADS, np.float32)
    thread = cuda.threadIdx.x
    i = cuda.grid(1)
    sums[thread] = x[i] if i < x.size else np.float32(0)
    cuda.syncthreads()
    half = THREADS // 2
    while half > 0:
        if thread < half:
            sums[thread] += sums[thread + half]
        cuda.syncthreads()
        half //= 2
    if thread == 0:
        partial[cuda.blockIdx.x] = sums[0]


@cuda.jit(device=True)
def warp_total(value):
    offset = 16
    while offset > 0:
        value += cuda.shfl_down_sync(0xFFFFFFFF, value, offset)
        offset //= 2
    return value


@cuda.jit
def shuffle_sum(x, partial):
    """The same by warp shuffles."""
    warps = cuda.shared.array(WARPS, np.float32)
    i = cuda.grid(1)
    lane, warp = cuda.threadIdx.x % 32, cuda.threadIdx.x // 32
    total = warp_total(x[i] if i < x.size else np.float32(0))
    if lane == 0:
        warps[warp] = total
    cuda.syncthreads()
    if warp == 0:
        total = warp_total(warps[lane] if lane < WARPS else np.float32(0))
        if lane == 0:
            partial[cuda.blockIdx.x] = total


@cuda.jit
def histogram(x, counts):
    """How often each value 0..255 occurs: counted in shared memory, then added to global memory."""
    own = cuda.shared.array(256, np.uint32)
    for i in range(cuda.threadIdx.x, 256, cuda.blockDim.x):
        own[i] = 0
    cuda.syncthreads()
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        cuda.atomic.add(own, x[i], 1)
    cuda.syncthreads()
    for i in range(cuda.threadIdx.x, 256, cuda.blockDim.x):
        cuda.atomic.add(counts, i, own[i])


@cuda.jit
def transpose(x, y):
    """y = x transposed, by tiles of 32 x 32 and blocks of 32 x 8 threads."""
    tile = cuda.shared.array((32, 33), np.float32)
    rows, cols = x.shape
    col = cuda.blockIdx.x * 32 + cuda.threadIdx.x
    for i in range(cuda.threadIdx.y, 32, cuda.blockDim.y):
        row = cuda.blockIdx.y * 32 + i
        if row < rows and col < cols:
            tile[i, cuda.threadIdx.x] = x[row, col]
    cuda.syncthreads()
    row = cuda.blockIdx.y * 32 + cuda.threadIdx.x
    for i in range(cuda.threadIdx.y, 32, cuda.blockDim.y):
        col = cuda.blockIdx.x * 32 + i
        if row < rows and col < cols:
            y[col, row] = tile[cuda.threadIdx.x, i]


@cuda.jit(device=True, inline="always")
def larger(a, b):
    return a if a > b else b


@cuda.jit
def softmax(x, y):
    """y = softmax of each row of x; a block of 128 threads takes a row."""
    scratch = cuda.shared.array(128, np.float32)
    thread = cuda.threadIdx.x
    row = cuda.blockIdx.x
    cols = x.shape[1]
    largest = np.float32(-np.inf)
    for j in range(thread, cols, 128):
        largest = larger(largest, x[row, j])
    scratch[thread] = largest
    cuda.syncthreads()
    half = 64
    while half > 0:
        if thread < half:
            scratch[thread] = larger(scratch[thread], scratch[thread + half])
        cuda.syncthreads()
        half //= 2
    largest = scratch[0]
    cuda.syncthreads()
    total = np.float32(0)
    for j in range(thread, cols, 128):
        total += math.exp(x[row, j] - largest)
    scratch[thread] = total
    cuda.syncthreads()
    half = 64
    while half > 0:
        if thread < half:
            scratch[thread] += scratch[thread + half]
        cuda.syncthreads()
        half //= 2
    total = scratch[0]
    for j in range(thread, cols, 128):
        y[row, j] = math.exp(x[row, j] - largest) / total


@cuda.jit
def elementwise(x, exponential, tangent, error):
    """exp, tanh and erf of each element, in the dtype of x."""
    i = cuda.grid(1)
    if i < x.size:
        exponential[i] = math.exp(x[i])
        tangent[i] = math.tanh(x[i])
        error[i] = math.erf(x[i])


@cuda.jit
def collatz(start, steps):
    """Steps of the Collatz sequence from each start to 1."""
    i = cuda.grid(1)
    if i >= start.size:
        return
    value = start[i]
    count = 0
    while value != 1:
        value = value // 2 if value % 2 == 0 else 3 * value + 1
        count += 1
    steps[i] = count


def blocks(elements, threads):
    return -(-elements // threads)


def run_saxpy(a, x, y):
    result = y.copy()
    saxpy[blocks(x.size, 128), 128](a, x, result)
    return result


def run_sgemm(a, b):
    result = np.full((a.shape[0], b.shape[1]), np.nan, np.float32)
    sgemm[(blocks(b.shape[1], TILE), blocks(a.shape[0], TILE)), THREADS](a, b, result)
    return result


def run_tree_sum(x):
    result = np.full(blocks(x.size, THREADS), np.nan, np.float32)
    tree_sum[result.size, THREADS](x, result)
    return result


def run_shuffle_sum(x):
    result = np.full(blocks(x.size, THREADS), np.nan, np.float32)
    shuffle_sum[result.size, THREADS](x, result)
    return result


def run_histogram(x):
    result = np.zeros(256, np.uint32)
    histogram[3, 128](x, result)
    return result


def run_transpose(x):
    result = np.full(x.shape[::-1], np.nan, np.float32)
    transpose[(blocks(x.shape[1], 32), blocks(x.shape[0], 32)), (32, 8)](x, result)
    return result


def run_softmax(x):
    result = np.full_like(x, np.nan)
    softmax[x.shape[0], 128](x, result)
    return result


def run_elementwise(x):
    result = np.full((3, x.size), np.nan, x.dtype)
    elementwise[blocks(x.size, 128), 128](x, result[0], result[1], result[2])
    return result


def run_collatz(start):
    result = np.full(start.size, -1, np.int32)
    collatz[blocks(start.size, 128), 128](start, result)
    return result


RUNS = {name.removeprefix("run_"): run for name, run in list(globals().items()) if name.startswith("run_")}


if __name__ == "__main__":
    # Under the simulator: inputs from one file, named kernel:argument; results to another.
    inputs: dict = {}
    for key, value in np.load(sys.argv[1]).items():
        name, argument = key.split(":")
        inputs.setdefault(name, {})[argument] = value[()]
    np.savez(sys.argv[2], **{name: RUNS[name](**arguments) for name, arguments in inputs.items()})
