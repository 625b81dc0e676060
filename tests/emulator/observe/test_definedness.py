"""Undefined values, from where nothing was written to where they are used: planted faults, and right twins beside them.

A fault is found on the line that ends in `// use`; what has no such line must report nothing.
"""

import inspect

import numpy as np
import pytest

import gpubp.emulator as cp
from gpubp.emulator import cuda
from gpubp.emulator.observe.observers import observe

PRELUDE = """
#include <cuda_fp16.h>
#include <mma.h>
using namespace nvcuda;
struct Padded { char c; double d; int i; };
struct alignas(16) Four { float x, y, z, w; };
struct Fields { unsigned a : 3, b : 11, c : 18; };
union Word { unsigned whole; unsigned char bytes[4]; };
__device__ __noinline__ void start(Four* four, int t) { four->x = t; four->y = 2; four->z = 3; }
__device__ __noinline__ void begin(Padded* s, int t) { s->c = t; s->d = 2; s->i = 3; }
__device__ __noinline__ void set_field(Fields* f, int t) { f->b = t; }
__device__ __noinline__ int touch(int* p, int t) { if (t < 40) p[t % 4] = t; return t; }
"""

# name -> the body of a kernel of 64 threads with x, 64 floats that nothing has written beyond the 48th, and y, z, 256
# words of results. `t` is the thread.
CUDA = {
    # -- addresses
    "an index in shared memory": """
        __shared__ int s[64];
        if (t < 60) s[t] = t;
        __syncthreads();
        y[s[t] & 63] = 1;  // use""",
    "an index in local memory": """
        int p[4];
        touch(p, t);
        y[p[(t + 1) % 4] & 63] = 1;  // use""",
    "an index in global memory": """
        const int* index = (const int*)x;
        y[index[t] & 63] = 1;  // use""",
    # -- branches
    "a branch by shared memory": """
        __shared__ float s[64];
        if (t != 5) s[t] = t;
        __syncthreads();
        if (s[63 - t] > 3) z[atomicAdd(&y[0], 1)] = t;  // use""",
    "a branch by global memory": """
        if (x[t] > 3) z[atomicAdd(&y[0], 1)] = t;  // use""",
    "a loop by local memory": """
        int p[4];
        touch(p, t);
        for (int i = 0; i < p[t % 3]; i++) atomicAdd(&y[i & 63], 1);  // use""",
    "a branch on a field that was not set": """
        Fields f;
        set_field(&f, t);
        if (f.c == 9) z[atomicAdd(&y[0], 1)] = t;  // use""",
    # -- arithmetic, the result of which is stored
    "a sum of shared memory": """
        __shared__ float s[64];
        s[t & ~1] = t;
        __syncthreads();
        y[t] = 2 * s[t] + 1;  // use""",
    "a sum in a loop": """
        __shared__ float s[65];
        s[t] = t;
        __syncthreads();
        float sum = 0;
        for (int i = 0; i < 65; i++)
            sum += s[i];  // use
        y[t] = sum;""",
    "a product of global memory": """
        y[t] = x[t] * 3;  // use""",
    "a double of which four bytes are written": """
        __shared__ double s[64];
        ((int*)s)[2 * t] = t;
        __syncthreads();
        ((double*)y)[t] = s[63 - t] + 1;  // use""",
    "a byte in local memory": """
        unsigned char p[8];
        if (t < 60) p[t % 8] = t;
        y[t] = p[(t + 1) % 8] + 1;  // use""",
    "the half that nobody wrote": """
        __shared__ half2 s[64];
        s[t].x = __int2half_rn(t);
        __syncthreads();
        half2 v = __hadd2(s[t], s[t]);  // use
        y[t] = __high2float(v);""",
    "a sum over a warp": """
        __shared__ int s[64];
        if (t != 40) s[t] = t;
        __syncthreads();
        int sum = s[t];
        for (int i = 16; i; i /= 2)
            sum += __shfl_xor_sync(-1u, sum, i);  // use
        y[t] = sum;""",
    "a vote": """
        __shared__ int s[64];
        if (t != 40) s[t] = t;
        __syncthreads();
        y[t] = __ballot_sync(-1u, s[t] > 5);  // use""",
    "an atomic on memory that is not set to zero": """
        __shared__ unsigned s[4];
        if (t < 3) s[t] = 0;
        __syncthreads();
        atomicAdd(&s[t % 4], 1u);  // use
        __syncthreads();
        y[t] = s[t % 4];""",
    "an atomic by what is not defined": """
        __shared__ int s[64];
        if (t != 40) s[t] = t;
        __syncthreads();
        atomicAdd((int*)y, s[t]);  // use""",
    "a product of matrices": """
        __shared__ half a[256], b[256];
        __shared__ float c[256];
        for (int i = t; i < 9 * 16; i += 64) a[i] = __int2half_rn(i);
        for (int i = t; i < 256; i += 64) b[i] = __int2half_rn(i);
        __syncthreads();
        wmma::fragment<wmma::matrix_a, 16, 16, 16, half, wmma::row_major> fa;
        wmma::fragment<wmma::matrix_b, 16, 16, 16, half, wmma::col_major> fb;
        wmma::fragment<wmma::accumulator, 16, 16, 16, float> fc;
        wmma::fill_fragment(fc, 0);
        wmma::load_matrix_sync(fa, a, 16);
        wmma::load_matrix_sync(fb, b, 16);
        wmma::mma_sync(fc, fa, fb, fc);  // use
        wmma::store_matrix_sync(c, fc, 16, wmma::mem_row_major);
        __syncthreads();
        for (int i = t; i < 160; i += 64) y[i] = c[i];""",
    # -- results that are copies
    "a copy of shared memory": """
        __shared__ int s[64];
        if (t != 40) s[t] = t;
        __syncthreads();
        z[t] = s[63 - t];  // use""",
    "a copy of local memory": """
        int p[4];
        touch(p, t);
        z[t] = p[(t + 1) % 4];  // use""",
    "a copy of global memory that the host reads": """
        y[t] = x[t];  // use""",
    "the end of a copy in an unrolled loop": """
        __shared__ float s[256];
        for (int i = t; i < 250; i += 64) s[i] = i;
        __syncthreads();
        #pragma unroll
        for (int i = 0; i < 4; i++)
            y[t + 64 * i] = s[t + 64 * i];  // use""",
    "a copy by two others": """
        __shared__ float s[64];
        s[t] = x[t];
        __syncthreads();
        y[t] = s[63 - t];  // use""",
    "all of a struct": """
        __shared__ Four s[64];
        if (t != 40) start(&s[t], t), s[t].w = 4;
        __syncthreads();
        ((Four*)y)[t] = s[63 - t];  // use""",
    "a field that was not set": """
        __shared__ Fields f[64];
        f[t].a = 0;
        f[t].b = t;
        y[t] = f[t].c;  // use""",
    "printed text": """
        int p[4];
        touch(p, t);
        if (t == 41) printf("%d", p[2]);  // use""",
    # -- right twins
    "a struct with padding": """
        Padded p;
        begin(&p, t);
        __shared__ Padded s[64];
        s[t] = p;
        __syncthreads();
        ((Padded*)y)[t] = s[63 - t];
        z[t] = s[t].i + s[t].c;""",
    "the last lane of a float4": """
        __shared__ float4 s[64];
        s[t].x = t, s[t].y = 2, s[t].z = 3;
        __syncthreads();
        float4 v = s[63 - t];
        z[t] = v.x + v.y * v.z;
        ((float4*)y)[t] = v;""",
    "the last field of a struct that is copied by words": """
        __shared__ Four s[64];
        start(&s[t], t);
        __syncthreads();
        Four four = s[63 - t];
        z[t] = four.x;
        ((Four*)y)[t] = four;""",
    "a copy of a buffer that is written in part": """
        for (int i = t; i < 64; i += 64) y[i] = x[i];
        __syncthreads();
        if (t < 48) z[t] = y[t] + 1;""",
    "a copy by bytes within shared memory": """
        __shared__ char from[256], to[256];
        from[2 * t] = t;
        __syncthreads();
        for (int i = 4 * t; i < 4 * t + 4; i++) to[i] = from[i];
        __syncthreads();
        z[t] = to[2 * t] + 1;""",
    "half of a half2": """
        __shared__ half2 s[64];
        s[t].x = __int2half_rn(t);
        __syncthreads();
        half2 v = s[63 - t];
        v = __hadd2(v, v);
        z[t] = __low2float(v);""",
    "bytes of a union": """
        Word w;
        __shared__ Word s[64];
        s[t].bytes[1] = t;
        __syncthreads();
        w = s[63 - t];
        z[t] = w.bytes[1] + (w.whole >> 8 & 255);""",
    "a field that was set": """
        Fields f;
        set_field(&f, t);
        __shared__ Fields s[64];
        s[t] = f;
        __syncthreads();
        if (s[63 - t].b == 9) z[t] = s[t].b + 1;""",
    "a copy that is written over": """
        __shared__ float s[64], copy[64];
        copy[t] = s[t];
        copy[t] = t;
        z[t] = copy[t] + 1;""",
    "a register that is written over": """
        __shared__ float s[64];
        float v = s[t];
        if (t >= 0) v = y[t];
        z[t] = v + 1;""",
    "a variable that is set and used under one condition": """
        float v;
        if (t % 3 == z[200]) v = y[t] + 4;
        __syncthreads();
        if (t % 3 == z[200]) z[t] = v + 1;""",
    "neighbours that are there": """
        __shared__ float s[64];
        if (t > 3) s[t] = t;
        __syncthreads();
        float left = s[t];
        if (t > 3) z[t] = left * 2;""",
    "a choice of what is defined": """
        __shared__ float s[64];
        if (t > 3) s[t] = t;
        __syncthreads();
        float left = s[t] * 2;
        z[t] = t > 3 ? left : 0;""",
    "an edge that is computed and not stored": """
        __shared__ float s[64];
        if (t < 50) s[t] = x[t];
        __syncthreads();
        float sum = 0;
        for (int i = 0; i < 3; i++) sum += s[t] * i;
        if (t < 48) z[t] = sum;""",
    "undefined bits that a mask takes away": """
        __shared__ unsigned short s[128];
        s[2 * t] = t;
        __syncthreads();
        unsigned v = ((unsigned*)s)[63 - t];
        if ((v & 0xFFFF) > 5) z[t] = v & 0xFFFF;
        y[t] = (v << 16) + 1;""",
    "the rows of a product of matrices that are there": """
        __shared__ half a[256], b[256];
        __shared__ float c[256];
        for (int i = t; i < 10 * 16; i += 64) a[i] = __int2half_rn(i);
        for (int i = t; i < 256; i += 64) b[i] = __int2half_rn(i);
        __syncthreads();
        wmma::fragment<wmma::matrix_a, 16, 16, 16, half, wmma::row_major> fa;
        wmma::fragment<wmma::matrix_b, 16, 16, 16, half, wmma::col_major> fb;
        wmma::fragment<wmma::accumulator, 16, 16, 16, float> fc;
        wmma::fill_fragment(fc, 0);
        wmma::load_matrix_sync(fa, a, 16);
        wmma::load_matrix_sync(fb, b, 16);
        wmma::mma_sync(fc, fa, fb, fc);
        wmma::store_matrix_sync(c, fc, 16, wmma::mem_row_major);
        __syncthreads();
        for (int i = t; i < 160; i += 64) y[i] = c[i];""",
    "an exchange": """
        __shared__ unsigned s[2];
        unsigned old = atomicExch(&s[0], 3u);
        __syncthreads();
        z[t] = s[0] + (t > 64 ? old : 0);""",
    "a flag that decides alone": """
        __shared__ int s[64];
        if (t > 5) s[t] = t;
        __syncthreads();
        if (t > 5 && s[t] == 7) z[t] = 1;""",
}


def line_of(source: str) -> int | None:
    return next((i for i, line in enumerate(source.splitlines(), 1) if line.endswith("// use")), None)


def launch(kernel, reads=True):
    """Run a kernel of x, y, z; x is written up to its 48th float. Returns the report."""
    with observe(uninitialised=True) as report:
        x, y, z = cp.empty(64, np.float32), cp.zeros(512, np.float32), cp.zeros(512, np.float32)
        x[:48].fill(2)
        kernel(x, y, z)
        z.get()
        if reads:
            y.get()
    return report


@pytest.mark.parametrize("name", CUDA)
def test_kernels_in_cuda(name):
    header = 'extern "C" __global__ void run(float* x, float* y, float* z) {\nconst int t = threadIdx.x;'
    source = f"{PRELUDE}{header}{CUDA[name]}\n}}\n"
    if "atomicAdd(&y" in source:
        source = source.replace("float* y", "unsigned* y").replace("z[atomicAdd", "((float*)z)[atomicAdd")
    compiled = cp.RawKernel(source, "run")

    def kernel(x, y, z):
        compiled((1,), (64,), (x, y, z))

    report = launch(kernel, reads=name != "a copy of a buffer that is written in part")
    found = [finding.line for finding in report.findings]
    assert found == ([] if line_of(source) is None else [line_of(source)]), report
    assert report.findings == report.uninitialised


def test_the_message_says_what_is_read_where_and_how_much():
    source = """extern "C" __global__ void mix(double* y) {
        __shared__ double s[4];
        for (int i = 0; i < 5; i++) ((char*)s)[8 + i] = i;
        double v = s[1];
        y[0] = 1;
        y[threadIdx.x] =
            v + y[0];
    }"""
    kernel = cp.RawKernel(source, "mix")
    with observe(uninitialised=True) as report:
        kernel((1,), (1,), (cp.zeros(4),))
    (finding,) = report.findings
    assert finding.line == 7
    assert finding.message.startswith(
        "kernel mix, kernel.cu:7, block (0, 0, 0), thread (0, 0, 0) computes with 3 of 8 bytes of shared memory that "
        "nothing has written (read at kernel.cu:4, 8 bytes into "
    )
    assert finding.message.endswith(" of 32 bytes); the result is stored at kernel.cu:6")


# -- the same in Python -----------------------------------------------------------------------------------------------


def numba_index(x, y, z):
    s = cuda.shared.array(64, "int32")
    t = cuda.threadIdx.x
    if t < 60:
        s[t] = t
    cuda.syncthreads()
    y[s[t] & 63] = 1  # use


def numba_branch(x, y, z):
    t = cuda.threadIdx.x
    if x[t] > 3:  # use
        cuda.atomic.add(y, 0, 1)


def numba_sum(x, y, z):
    s = cuda.shared.array(65, "float32")
    t = cuda.threadIdx.x
    s[t] = t
    cuda.syncthreads()
    total = 0.0
    for i in range(65):
        total += s[i]  # use
    y[t] = total


def numba_local(x, y, z):
    """Numba fills local arrays with zeros."""
    p = cuda.local.array(8, "float32")
    t = cuda.threadIdx.x
    if t < 60:
        p[t % 8] = t
    y[t] = p[(t + int(z[t])) % 8] * 3


def numba_copy(x, y, z):
    s = cuda.shared.array(64, "float32")
    t = cuda.threadIdx.x
    if t != 5:
        s[t] = x[0]
    cuda.syncthreads()
    z[t] = s[63 - t]  # use


def numba_copy_for_the_host(x, y, z):
    z[cuda.threadIdx.x] = x[cuda.threadIdx.x]  # use


def numba_edges(x, y, z):
    s = cuda.shared.array(66, "float32")
    t = cuda.threadIdx.x
    if t < 50:
        s[t + 1] = x[t] if t < 48 else 0
    cuda.syncthreads()
    total = s[t] + s[t + 2]
    if 0 < t < 48:
        z[t] = total


def numba_choice(x, y, z):
    t = cuda.threadIdx.x
    if t % 3 == 1:
        value = x[t % 48] + 1
    cuda.syncthreads()
    if t % 3 == 1:
        z[t] = value


def numba_scratch(x, y, z):
    """Copy all of a buffer, and use what is written."""
    p = cuda.local.array(8, "float32")
    q = cuda.local.array(8, "float32")
    t = cuda.threadIdx.x
    for i in range(t % 8):
        p[i] = i
    for i in range(8):
        q[i] = p[i]
    total = 0.0
    for i in range(t % 8):
        total += q[i]
    z[t] = total


NUMBA = (
    numba_index,
    numba_branch,
    numba_sum,
    numba_local,
    numba_copy,
    numba_copy_for_the_host,
    numba_edges,
    numba_choice,
    numba_scratch,
)


@pytest.mark.parametrize("kernel", NUMBA)
def test_kernels_in_python(kernel):
    text, first = inspect.getsourcelines(kernel)
    lines = [first + i for i, line in enumerate(text) if line.endswith("# use\n")]
    report = launch(cuda.jit(kernel)[1, 64])
    assert [finding.line for finding in report.findings] == lines, report
