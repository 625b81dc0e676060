"""What the emulated device does not do: each is refused by name and line, and nothing is ignored."""

import numpy as np
import pytest

import gpubp.emulator as cp
from gpubp.emulator import UnsupportedInstruction

TEXTURES = """
extern "C" __global__ void sample(cudaTextureObject_t image, float* out) {
    out[0] = tex2D<float>(image, 1.0f, 2.0f);
}
extern "C" __global__ void fetch(cudaTextureObject_t image, float* out) {
    out[0] = tex1Dfetch<float>(image, 3);
}
extern "C" __global__ void gather(cudaTextureObject_t image, float4* out) {
    out[0] = tex2Dgather<float4>(image, 1.0f, 2.0f, 0);
}
extern "C" __global__ void load(cudaSurfaceObject_t image, float* out) {
    out[0] = surf2Dread<float>(image, 4, 2);
}
extern "C" __global__ void store(cudaSurfaceObject_t image, float* out) {
    surf2Dwrite(out[0], image, 4, 2);
}
extern "C" __global__ void beside(cudaTextureObject_t image, float* out) {
    if (threadIdx.x == 100)
        out[1] = tex2D<float>(image, 1.0f, 2.0f);
    out[0] = 5;
}
"""


@pytest.fixture(scope="module")
def textures():
    return cp.RawModule(code=TEXTURES)


@pytest.mark.parametrize(
    ("kernel", "line", "what"),
    [
        ("sample", 3, r"`tex\.2d\..*textures are not emulated"),
        ("fetch", 6, r"`tex\.1d\..*textures are not emulated"),
        ("gather", 9, r"`tld4\..*textures are not emulated"),
        ("load", 12, r"`suld\..*surfaces are not emulated"),
        ("store", 15, r"`sust\..*surfaces are not emulated"),
    ],
)
def test_textures_and_surfaces(textures, kernel, line, what):
    with pytest.raises(UnsupportedInstruction, match=f"kernel {kernel}, kernel.cu:{line}.*{what}"):
        textures.get_function(kernel)((1,), (32,), (np.uint64(1), cp.zeros(4, np.float32)))


def test_a_kernel_that_does_not_come_to_its_texture_runs(textures):
    out = cp.zeros(4, np.float32)
    textures.get_function("beside")((1,), (32,), (np.uint64(1), out))
    assert out.get()[0] == 5


PARENT = """
__global__ void child(int* x) { x[threadIdx.x] = 1; }
extern "C" __global__ void parent(int* x) {
    child<<<1, 32>>>(x);
}
extern "C" __global__ void grandparent(int* x) {
    if (threadIdx.x == 0)
        child<<<2, 16, 64>>>(x);
}
"""


@pytest.mark.parametrize(("kernel", "line"), [("parent", 4), ("grandparent", 8)])
def test_dynamic_parallelism(kernel, line):
    module = cp.RawModule(code=PARENT, options=("-rdc=true",))
    with pytest.raises(UnsupportedInstruction, match=f"kernel {kernel}, kernel.cu:{line}.*dynamic parallelism"):
        module.get_function(kernel)((1,), (32,), (cp.zeros(32, np.int32),))
