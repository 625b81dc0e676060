"""RawKernel and RawModule: CuPy's rules for arguments and launches, held against the kernel."""

import io

import numpy as np
import pytest

import gpubp.emulator as cp
from gpubp.emulator import LaunchError
from gpubp.emulator.errors import EmulatorError
from gpubp.toolchain.nvrtc import compile_source
from gpubp.toolchain.process import CompileError

SAXPY = """extern "C" __global__ void saxpy(int n, float a, const float* x, float* y) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = a * x[i] + y[i];
}
"""
TEMPLATE = """
template <typename T, int N>
__global__ void times(T* x) { x[threadIdx.x] *= N; }

__device__ int counter[4] = {1, 2, 3, 4};
__constant__ float factor = 2.5f;

extern "C" __global__ void count(float* out) {
    out[threadIdx.x] = counter[threadIdx.x] * factor;
    counter[threadIdx.x]++;
}
"""


@pytest.fixture(scope="module")
def saxpy():
    return cp.RawKernel(SAXPY, "saxpy")


def test_launch(saxpy):
    x, y = cp.asarray(np.arange(100, dtype=np.float32)), cp.ones(100, np.float32)
    saxpy((4,), (32,), (100, np.float32(2), x, y))
    np.testing.assert_array_equal(y.get(), 2 * np.arange(100) + 1)


X, Y, TWO = cp.zeros(8, np.float32), cp.zeros(8, np.float32), np.float32(2)


@pytest.mark.parametrize("count", [8, np.int32(8), np.uint32(8), True and 8])
def test_counts_it_takes(saxpy, count):
    saxpy((1,), (32,), (count, TWO, X, Y))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((8, TWO, X), "3 arguments given, the kernel has 4"),
        ((8, TWO, X, Y, Y), "5 arguments given, the kernel has 4"),
        ((8, 2.0, X, Y), "argument 1 is float64 .8 bytes., and the parameter is .f32"),
        ((8, 2, X, Y), "argument 1 is int64"),
        ((8, np.int32(2), X, Y), "argument 1 is int32 .4 bytes., and the parameter is .f32"),
        ((np.int64(8), TWO, X, Y), "argument 0 is int64"),
        ((np.float32(8), TWO, X, Y), "argument 0 is float32"),
        ((2**32, TWO, X, Y), "argument 0 is 4294967296"),
        ((8, X, X, Y), "argument 1 is a pointer"),
        ((X, TWO, X, Y), "argument 0 is a pointer"),
        ((8, TWO, np.zeros(8, np.float32), Y), r"argument 2 is a NumPy array of shape \(8,\).*asarray"),
        ((8, TWO, "x", Y), "argument 2 is a str"),
        ((8, TWO, [1.0], Y), "argument 2 is a list"),
    ],
)
def test_arguments_that_do_not_fit(saxpy, arguments, complaint):
    with pytest.raises(LaunchError, match=f"kernel saxpy: .*{complaint}"):
        saxpy((1,), (32,), arguments)


@pytest.mark.parametrize(
    ("grid", "block"),
    [((0,), (32,)), ((1,), (0,)), ((1,), (1025,)), ((1,), (32, 33)), ((1, 1, 1, 1), (32,)), ((), (32,)), (1, (32,))],
)
def test_launches_no_gpu_accepts(saxpy, grid, block):
    with pytest.raises(LaunchError):
        saxpy(grid, block, (8, TWO, X, Y))


def test_none_is_a_null_pointer(saxpy):
    with pytest.raises(EmulatorError, match=r"kernel saxpy, kernel.cu:3"):
        saxpy((1,), (32,), (8, TWO, None, Y))


def test_scalars_of_every_size():
    types = ["signed char", "unsigned short", "int", "long long", "float", "double", "bool"]
    values = [np.int8(-5), np.uint16(65535), np.int32(-7), np.int64(-(2**40)), np.float32(1.5), np.float64(1e300), True]
    parameters = ", ".join(f"{name} v{i}" for i, name in enumerate(types))
    writes = " ".join(f"out[{i}] = v{i};" for i in range(len(types)))
    kernel = cp.RawKernel(f'extern "C" __global__ void k({parameters}, double* out) {{ {writes} }}', "k")
    out = cp.empty(len(types))
    kernel((1,), (1,), (*values, out))
    np.testing.assert_array_equal(out.get(), [float(value) for value in values])


@pytest.mark.parametrize("kind", ["int", "unsigned long long", "float", "double"])
def test_atomics_with_a_constant(kind):
    kernel = cp.RawKernel(f'extern "C" __global__ void k({kind}* x) {{ atomicAdd(x, ({kind})3); }}', "k")
    dtype = {"int": np.int32, "unsigned long long": np.uint64, "float": np.float32, "double": np.float64}[kind]
    x = cp.ones(1, dtype)
    kernel((2,), (40,), (x,))
    assert x.item() == 241


def test_structures_and_halves_by_value():
    code = """
    #include <cuda_fp16.h>
    struct Pair { int first; double second; };
    extern "C" __global__ void k(Pair p, __half h, float2 v, double* out) {
        out[0] = p.first; out[1] = p.second; out[2] = __half2float(h); out[3] = v.x; out[4] = v.y;
    }"""
    pair = np.array((3, 4.5), np.dtype([("first", np.int32), ("second", np.float64)], align=True))
    out = cp.empty(5)
    kernel = cp.RawKernel(code, "k")
    kernel((1,), (1,), (pair[()], np.float16(0.25), np.array((6, 7), np.dtype("f4,f4")), out))
    np.testing.assert_array_equal(out.get(), [3, 4.5, 0.25, 6, 7])
    with pytest.raises(LaunchError, match="argument 0"):
        kernel((1,), (1,), (np.float64(1), np.float16(0.25), np.complex64(1), out))


def test_templates_by_name_expression():
    module = cp.RawModule(code=TEMPLATE, name_expressions=["times<float, 3>", "times<double, 5>"])
    for expression, dtype, factor in (("times<float, 3>", np.float32, 3), ("times<double, 5>", np.float64, 5)):
        x = cp.ones(4, dtype)
        module.get_function(expression)((1,), (4,), (x,))
        np.testing.assert_array_equal(x.get(), np.full(4, factor))


def test_unknown_kernel():
    with pytest.raises(EmulatorError, match="absent"):
        cp.RawModule(code=SAXPY).get_function("absent")


def test_globals_keep_their_values_and_can_be_written():
    module = cp.RawModule(code=TEMPLATE)
    count, out = module.get_function("count"), cp.empty(4, np.float32)
    for start in (1, 2):
        count((1,), (4,), (out,))
        np.testing.assert_array_equal(out.get(), 2.5 * (start + np.arange(4)))
    cp.ndarray(4, np.int32, module.get_global("counter")).set(np.full(4, 100, np.int32))
    cp.ndarray((), np.float32, module.get_global("factor")).fill(0.5)
    count((1,), (4,), (out,))
    np.testing.assert_array_equal(out.get(), np.full(4, 50))


def test_attributes_are_the_compilers(saxpy):
    resources = compile_source(SAXPY).resources["saxpy"]
    attributes = saxpy.attributes
    assert attributes["num_regs"] == resources.registers > 0
    assert attributes["local_size_bytes"] == attributes["shared_size_bytes"] == 0
    assert attributes["binary_version"] == attributes["ptx_version"] == 90
    assert attributes["max_threads_per_block"] == 1024
    tiled = cp.RawKernel(
        'extern "C" __global__ void __launch_bounds__(64) k(float* x) { __shared__ float t[256];'
        "t[threadIdx.x] = x[threadIdx.x]; __syncthreads(); x[threadIdx.x] = t[63 - threadIdx.x]; }",
        "k",
    )
    assert (tiled.shared_size_bytes, tiled.max_threads_per_block) == (1024, 64)
    assert tiled.max_dynamic_shared_size_bytes == 47 * 1024


DYNAMIC = """extern "C" __global__ void reverse(float* x) {
    extern __shared__ float own[];
    own[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = own[blockDim.x - 1 - threadIdx.x];
}
"""


def test_dynamic_shared_memory():
    kernel, x = cp.RawKernel(DYNAMIC, "reverse"), cp.asarray(np.arange(64, dtype=np.float32))
    kernel((1,), (64,), (x,), shared_mem=256)
    np.testing.assert_array_equal(x.get(), np.arange(64)[::-1])
    with pytest.raises(EmulatorError, match="shared"):
        kernel((1,), (64,), (x,), shared_mem=252)


def test_more_than_48_kib_must_be_asked_for():
    kernel, x = cp.RawKernel(DYNAMIC, "reverse"), cp.zeros(64, np.float32)
    with pytest.raises(LaunchError, match="max_dynamic_shared_size_bytes"):
        kernel((1,), (64,), (x,), shared_mem=100_000)
    kernel.max_dynamic_shared_size_bytes = 100_000
    kernel((1,), (64,), (x,), shared_mem=100_000)
    with pytest.raises(LaunchError, match="on sm_90"):
        kernel.max_dynamic_shared_size_bytes = 300_000
    with cp.use("sm_75"), pytest.raises(LaunchError, match="sm_75"):
        kernel((1,), (64,), (x,), shared_mem=100_000)


def test_a_stream_records_launches_and_replays_them(saxpy):
    stream = cp.cuda.Stream(non_blocking=True)
    x, y = cp.ones(8, np.float32), cp.zeros(8, np.float32)
    with stream:
        stream.begin_capture()
        saxpy((1,), (32,), (8, TWO, x, y))
        saxpy((1,), (32,), (8, TWO, y, x))
        graph = stream.end_capture()
    assert (y.get() == 0).all()
    graph.launch()
    assert (y.get() == 2).all()
    assert (x.get() == 5).all()
    x.fill(1)
    graph.launch()
    assert (y.get() == 4).all()
    saxpy((1,), (32,), (8, TWO, x, y), stream=stream)
    assert (y.get() == 22).all()


def test_a_bad_launch_is_refused_while_recording(saxpy):
    stream = cp.cuda.Stream()
    stream.begin_capture()
    with pytest.raises(LaunchError):
        saxpy((1,), (32,), (8, TWO, X), stream=stream)
    stream.end_capture()


def test_replaying_on_freed_memory_is_found(saxpy):
    stream, y = cp.cuda.Stream(), cp.zeros(8, np.float32)
    x = cp.ones(8, np.float32)
    stream.begin_capture()
    saxpy((1,), (32,), (8, TWO, x, y), stream=stream)
    graph = stream.end_capture()
    del x
    with pytest.raises(EmulatorError, match="freed"):
        graph.launch()


@pytest.mark.parametrize("suffix", [".cubin", ".ptx"])
def test_a_module_from_a_file(suffix):
    compiled = compile_source(SAXPY)
    kernel = cp.RawModule(path=str(compiled.cubin_path.with_suffix(suffix))).get_function("saxpy")
    y = cp.zeros(8, np.float32)
    kernel((1,), (32,), (8, TWO, cp.ones(8, np.float32), y))
    assert (y.get() == 2).all()
    assert kernel.num_regs == compiled.resources["saxpy"].registers


def test_a_cubin_without_its_ptx(tmp_path):
    (tmp_path / "x.cubin").write_bytes(b"\x7fELF")
    with pytest.raises(FileNotFoundError, match="executes PTX"):
        cp.RawModule(path=str(tmp_path / "x.cubin")).get_function("saxpy")


def test_a_module_for_another_chip():
    compiled = compile_source(SAXPY, "sm_90")
    with cp.use("sm_80"):
        for suffix in (".cubin", ".ptx"):
            with pytest.raises(LaunchError, match="built for sm_90"):
                cp.RawModule(path=str(compiled.cubin_path.with_suffix(suffix))).get_function("saxpy")
    old = compile_source(SAXPY, "sm_80").cubin_path
    with pytest.raises(LaunchError, match="built for sm_80"):
        cp.RawModule(path=str(old)).get_function("saxpy")
    cp.RawModule(path=str(old.with_suffix(".ptx"))).get_function("saxpy")


def test_kernels_are_compiled_for_the_chip_in_use():
    code = 'extern "C" __global__ void k(int* x) { x[0] = __CUDA_ARCH__; }'
    kernel, x = cp.RawKernel(code, "k"), cp.zeros(1, np.int32)
    for arch in ("sm_75", "sm_80", "sm_120"):
        with cp.use(arch):
            kernel((1,), (1,), (x,))
            assert x.item() == int(arch[3:]) * 10
            assert kernel.binary_version == int(arch[3:])


def test_a_source_that_does_not_compile():
    with pytest.raises(CompileError, match="missing"):
        cp.RawKernel('extern "C" __global__ void k() { missing(); }', "k")((1,), (1,), ())


def test_options_and_log():
    kernel = cp.RawKernel('extern "C" __global__ void k(int* x) { int y; x[0] = VALUE; }', "k", ("-DVALUE=42",))
    log, x = io.StringIO(), cp.zeros(1, np.int32)
    kernel.compile(log)
    kernel((1,), (1,), (x,))
    assert x.item() == 42
    assert "never referenced" in log.getvalue()


@pytest.mark.parametrize(
    "arguments",
    [{"backend": "nvcc"}, {"jitify": True}, {"translate_cucomplex": True}],
)
def test_what_is_not_there_says_so(arguments):
    with pytest.raises(NotImplementedError, match="emulator"):
        cp.RawKernel(SAXPY, "saxpy", **arguments)


def test_code_or_path():
    with pytest.raises(TypeError, match="exactly one"):
        cp.RawModule()
    with pytest.raises(TypeError, match="exactly one"):
        cp.RawModule(code=SAXPY, path="x.ptx")


CUPY_PROGRAM = r"""
import cupy as cp

add = cp.RawKernel(r'''
extern "C" __global__ void add(const float* a, const float* b, float* c) {
    int i = blockDim.x * blockIdx.x + threadIdx.x;
    c[i] = a[i] + b[i];
}''', "add")
a = cp.arange(25, dtype=cp.float32).reshape(5, 5)
b = cp.ones_like(a)
c = cp.empty((5, 5), dtype=cp.float32)
start = cp.cuda.Event()
with cp.cuda.Stream(non_blocking=True) as stream:
    start.record()
    add((5,), (5,), (a, b, c))
    stream.synchronize()
cp.cuda.runtime.deviceSynchronize()
cp.cuda.Device().synchronize()
result = cp.asnumpy(c)
"""


def test_a_program_runs_by_changing_an_import():
    names = {}
    exec(CUPY_PROGRAM.replace("import cupy as cp", "import gpubp.emulator as cp"), names)
    np.testing.assert_array_equal(names["result"], np.arange(25).reshape(5, 5) + 1)


def test_printf(capsys):
    kernel = cp.RawKernel('extern "C" __global__ void k(float x) { printf("%d %.2f\\n", threadIdx.x, x); }', "k")
    kernel((1,), (2,), (np.float32(1.5),))
    assert capsys.readouterr().out == "0 1.50\n1 1.50\n"


def test_the_docstrings_example():
    import doctest

    result = doctest.testmod(cp)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("view", [lambda x: x[:, ::2], lambda x: x.T, lambda x: x[::-1]])
def test_the_strides_of_a_view_are_a_note(view):
    kernel = cp.RawKernel('extern "C" __global__ void fill(float* x) { x[threadIdx.x] = 1; }', "fill")
    x = cp.zeros((4, 6), np.float32)
    with cp.observe(races=True) as report:
        kernel((1,), (2,), (x,))
        kernel((1,), (2,), (x[1:],))
        assert report.findings == []
        kernel((1,), (2,), (view(x),))
        kernel((1,), (2,), (view(x),))
    (note,) = report.findings
    assert (note.kind, note.grade, note.count) == ("strides", "note", 2)
    assert f"argument 0 is an array of shape {view(x).shape} and strides {view(x).strides}" in note.message
    assert report.at_least("warning") == []


def test_the_constant_memory_of_a_kernel_is_what_it_uses():
    module = cp.RawModule(
        code="""
__constant__ float used[10];
__constant__ double unused[10];
extern "C" __global__ void k(float* x) { x[threadIdx.x] = used[threadIdx.x]; }
extern "C" __global__ void none(float* x) { x[threadIdx.x] = 1; }"""
    )
    assert module.get_function("k").const_size_bytes == 40
    assert module.get_function("none").const_size_bytes == 0
