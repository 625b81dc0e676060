"""Kernels of a few lines of PTX, launched by the driver API alone: what programs of the tests import.

`run("fine")` launches one kernel in one block of 64 threads on 64 numbers, and returns the driver's result.
"""

import ctypes

HEADER = """.version 8.5
.target sm_80
.address_size 64
.file 1 "tiny.cu"
.visible .entry {name}(.param .u64 x)
{{
    .reg .pred %p<4>;
    .reg .b32 %r<8>;
    .reg .b64 %rd<8>;
    .reg .f32 %f<4>;
    .shared .align 4 .b8 s[256];
    ld.param.u64 %rd1, [x];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd2, %r1, 4;
    add.s64 %rd3, %rd1, %rd2;
    mov.u64 %rd4, s;
    add.s64 %rd4, %rd4, %rd2;
"""

BODIES = {
    "fine": """
    .loc 1 1 1
    st.global.u32 [%rd3], %r1;""",
    "race": """
    .loc 1 11 1
    st.shared.u32 [%rd4], %r1;
    .loc 1 12 1
    xor.b32 %r2, %r1, 63;
    mul.wide.u32 %rd5, %r2, 4;
    mov.u64 %rd6, s;
    add.s64 %rd6, %rd6, %rd5;
    ld.shared.u32 %r3, [%rd6];
    st.global.u32 [%rd3], %r3;""",
    "unwritten": """
    .loc 1 21 1
    ld.global.f32 %f1, [%rd3];
    add.f32 %f2, %f1, %f1;
    st.global.f32 [%rd3], %f2;""",
    "overrun": """
    .loc 1 31 1
    st.global.u32 [%rd3+4], %r1;""",
    "spin": """
    mov.u32 %r2, 77;
    st.global.u32 [%rd3], %r2;
again:
    .loc 1 41 1
    add.u32 %r2, %r2, 1;
    setp.lt.u32 %p1, %r2, 1000000000;
    @%p1 bra again;
    st.global.u32 [%rd3], %r2;""",
}


def check(result, name):
    if result:
        raise RuntimeError(f"{name}: {result}")


class Device:
    """The driver, with a context and 256 bytes of device memory."""

    def __init__(self):
        self.cuda = ctypes.CDLL("libcuda.so.1")
        context, self.memory = ctypes.c_void_p(), ctypes.c_uint64()
        check(self.cuda.cuInit(0), "cuInit")
        check(self.cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0), "cuDevicePrimaryCtxRetain")
        check(self.cuda.cuCtxSetCurrent(context), "cuCtxSetCurrent")
        check(self.cuda.cuMemAlloc_v2(ctypes.byref(self.memory), 256), "cuMemAlloc")

    def run(self, name):
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        text = f"{HEADER.format(name=name)}{BODIES[name]}\n    ret;\n}}\n".encode()
        check(self.cuda.cuModuleLoadData(ctypes.byref(module), text), "cuModuleLoadData")
        check(self.cuda.cuModuleGetFunction(ctypes.byref(function), module, name.encode()), "cuModuleGetFunction")
        address = ctypes.byref(self.memory)
        arguments = (ctypes.c_void_p * 1)(ctypes.cast(address, ctypes.c_void_p))
        return self.cuda.cuLaunchKernel(function, 1, 1, 1, 64, 1, 1, 0, None, arguments, None)

    def read(self):
        found = (ctypes.c_uint32 * 64)()
        check(self.cuda.cuMemcpyDtoH_v2(found, self.memory, 256), "cuMemcpyDtoH")
        return list(found)


def run(name):
    return Device().run(name)
