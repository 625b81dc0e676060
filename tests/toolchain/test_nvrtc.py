"""compile_source: PTX and cubin from one call, names, resources, errors and the cache."""

import os
import shutil
import subprocess
import sys

import pytest

from gpubp.toolchain import nvrtc as compiling
from gpubp.toolchain.nvrtc import compile_file, compile_source, read_compiled
from gpubp.toolchain.process import CompileError

SCALE = """template <typename T>
__global__ void scale(T* x, T factor, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] *= factor;
}
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own for every test."""
    monkeypatch.setenv("GPUBP_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def nvrtc_calls(monkeypatch):
    """A list that grows by one with every real compilation."""
    calls = []
    original = compiling._compile

    def counted(*arguments):
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(compiling, "_compile", counted)
    return calls


def test_one_call_gives_ptx_cubin_and_lowered_names():
    compiled = compile_source(SCALE, "sm_80", name="scale.cu", name_expressions=["scale<float>", "scale<double>"])
    assert compiled.arch == "sm_80"
    assert ".target sm_80" in compiled.ptx
    assert compiled.cubin[:4] == b"\x7fELF"
    for expression, name in compiled.lowered_names.items():
        assert f".entry {name}(" in compiled.ptx, expression
        assert name.encode() in compiled.cubin
    assert compiled.lowered_names["scale<float>"] != compiled.lowered_names["scale<double>"]


def test_ptx_has_line_information():
    compiled = compile_source(SCALE, name="scale.cu", name_expressions=["scale<float>"])
    assert "\t.loc\t1 4 " in compiled.ptx or "\t.loc 1 4 " in compiled.ptx.replace("\t.loc\t", "\t.loc ")
    assert "scale.cu" in compiled.ptx


def test_files_beside_each_other_on_disk():
    compiled = compile_source(SCALE, name_expressions=["scale<float>"])
    assert compiled.cubin_path.read_bytes() == compiled.cubin
    assert compiled.cubin_path.with_suffix(".ptx").read_text() == compiled.ptx
    assert read_compiled(compiled.cubin_path) == compiled


def test_resources_of_each_kernel():
    source = """
    extern "C" __global__ void shares(float* x) {
        __shared__ float tile[300];
        tile[threadIdx.x] = x[threadIdx.x];
        __syncthreads();
        x[threadIdx.x] = tile[299 - threadIdx.x];
    }
    extern "C" __global__ void indexes(float* x, int k) {
        float own[32];
        for (int i = 0; i < 32; i++) own[i] = x[i];
        for (int i = 0; i < k; i++) own[(i * k) & 31] += own[(i + k) & 31];
        for (int i = 0; i < 32; i++) x[i] = own[i];
    }
    """
    resources = compile_source(source).resources
    assert set(resources) == {"shares", "indexes"}
    assert resources["shares"].shared_bytes == 1200
    assert resources["shares"].local_bytes == 0
    assert resources["indexes"].local_bytes >= 128
    assert resources["indexes"].shared_bytes == 0
    assert all(0 < used.registers <= 255 and not used.spills for used in resources.values())


def test_spills_are_seen():
    source = """extern "C" __global__ void __launch_bounds__(1024, 2) spill(double* x) {
        double v[64];
        for (int j = 0; j < 64; j++) v[j] = x[threadIdx.x * j];
        for (int j = 0; j < 64; j++) for (int i = 0; i < 64; i++) v[j] += v[i] * v[j];
        for (int j = 0; j < 64; j++) x[j * threadIdx.x] = v[j];
    }"""
    assert compile_source(source).resources["spill"].spills


@pytest.mark.parametrize("header", ["cuda_fp16.h", "cuda_bf16.h", "mma.h", "cuda_pipeline.h", "cuda/std/type_traits"])
def test_cuda_headers_are_found(header):
    assert compile_source(f'#include <{header}>\nextern "C" __global__ void k() {{}}').resources["k"].registers > 0


def test_error_quotes_the_line():
    with pytest.raises(CompileError) as caught:
        compile_source('extern "C" __global__ void k(float* x) {\n    x[0] = missing;\n}', name="wrong.cu")
    assert "wrong.cu(2)" in str(caught.value)
    assert "x[0] = missing;" in caught.value.log


def test_a_failed_compilation_is_not_cached(nvrtc_calls):
    for _ in range(2):
        with pytest.raises(CompileError):
            compile_source("nonsense")
    assert len(nvrtc_calls) == 2


def test_an_unknown_name_expression_is_an_error():
    with pytest.raises(CompileError, match="absent"):
        compile_source(SCALE, name_expressions=["absent<float>"])


@pytest.mark.parametrize("arch", ["sm_99", "compute_90", "90", "sm_", ""])
def test_unknown_architecture(arch):
    with pytest.raises(ValueError, match=r"arch is .*must be one of sm_75"):
        compile_source(SCALE, arch)


@pytest.mark.parametrize("options", [("-arch=sm_80",), ("--gpu-architecture=sm_80",), ("-dlto",), "-DX"])
def test_options_it_decides_itself(options):
    with pytest.raises(ValueError, match="options"):
        compile_source(SCALE, options=options)


def test_every_supported_architecture_compiles():
    for arch in compiling.supported_architectures():
        assert f".target {arch}" in compile_source('extern "C" __global__ void k() {}', arch).ptx


def test_second_compilation_comes_from_the_cache(nvrtc_calls):
    first = compile_source(SCALE, name_expressions=["scale<float>"])
    assert compile_source(SCALE, name_expressions=["scale<float>"]) == first
    assert len(nvrtc_calls) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"source": SCALE + "// changed"},
        {"arch": "sm_80"},
        {"name": "other.cu"},
        {"options": ("-DX=1",)},
        {"name_expressions": ("scale<double>",)},
    ],
)
def test_whatever_changes_the_result_changes_the_key(nvrtc_calls, changed):
    given = {"source": SCALE, "arch": "sm_90", "name": "scale.cu", "options": (), "name_expressions": ("scale<float>",)}
    for arguments in (given, given | changed):
        compile_source(arguments.pop("source"), **arguments)
    assert len(nvrtc_calls) == 2


def test_a_changed_header_is_noticed_through_another_header(tmp_path, nvrtc_calls):
    (tmp_path / "outer.cuh").write_text('#pragma once\n# include "inner.cuh"\n')
    kernel = tmp_path / "kernel.cu"
    kernel.write_text('#include "outer.cuh"\nextern "C" __global__ void k(int* x) { x[0] = VALUE; }\n')
    for value in (1, 2, 2):
        (tmp_path / "inner.cuh").write_text(f"#define VALUE {value + 40}\n")
        assert f", {value + 40};" in compile_file(kernel).ptx
    assert len(nvrtc_calls) == 2


@pytest.mark.parametrize("form", [("-I{}",), ("-I", "{}"), ("-I={}",), ("--include-path={}",)])
def test_headers_given_by_an_option_are_noticed(tmp_path, nvrtc_calls, form):
    options = tuple(part.format(tmp_path) for part in form)
    for value in (41, 42):
        (tmp_path / "value.cuh").write_text(f"#define VALUE {value}\n")
        source = '#include <value.cuh>\nextern "C" __global__ void k(int* x) { x[0] = VALUE; }\n'
        assert f", {value};" in compile_source(source, options=options).ptx
    assert len(nvrtc_calls) == 2


@pytest.mark.parametrize("form", [("-include", "{}"), ("-include={}",), ("--pre-include={}",)])
def test_headers_before_the_source_are_noticed(tmp_path, nvrtc_calls, form):
    options = tuple(part.format(tmp_path / "value.cuh") for part in form)
    for value in (41, 42):
        (tmp_path / "value.cuh").write_text(f"#define VALUE {value}\n")
        source = 'extern "C" __global__ void k(int* x) { x[0] = VALUE; }\n'
        assert f", {value};" in compile_source(source, options=options).ptx
    assert len(nvrtc_calls) == 2


def test_headers_that_a_macro_names_are_noticed(tmp_path, nvrtc_calls):
    for value in (41, 42):
        (tmp_path / "value.cuh").write_text(f"#define VALUE {value}\n")
        source = '#define HEADER "value.cuh"\n#include HEADER\nextern "C" __global__ void k(int* x) { x[0] = VALUE; }\n'
        assert f", {value};" in compile_source(source, include_dirs=[tmp_path]).ptx
    assert len(nvrtc_calls) == 2


def test_headers_in_the_working_directory_are_noticed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value in (41, 42):
        (tmp_path / "value.cuh").write_text(f"#define VALUE {value}\n")
        source = '#include "value.cuh"\nextern "C" __global__ void k(int* x) { x[0] = VALUE; }\n'
        assert f", {value};" in compile_source(source).ptx


@pytest.mark.parametrize("suffix", [".cubin", ".ptx", ".json"])
@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_damaged_entry_is_compiled_again(nvrtc_calls, suffix, damage):
    first = compile_source(SCALE, name_expressions=["scale<float>"])
    file = first.cubin_path.with_suffix(suffix)
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage)
    assert compile_source(SCALE, name_expressions=["scale<float>"]) == first
    assert len(nvrtc_calls) == 2
    assert read_compiled(first.cubin_path) == first


def test_a_lie_in_the_entry_is_noticed():
    first = compile_source(SCALE, name_expressions=["scale<float>"])
    entry = first.cubin_path.with_suffix(".json")
    entry.write_text(entry.read_text().replace('"registers": ', '"registers": 1'))
    assert read_compiled(first.cubin_path) is None


def test_nothing_half_written_is_left(cache):
    compile_source(SCALE, name_expressions=["scale<float>"])
    assert not list(cache.rglob("*.part"))
    assert len(list((cache / "cuda").iterdir())) == 3


@pytest.fixture
def headers(cache):
    """Where the headers that NVRTC carries are unpacked."""
    compile_source(SCALE)
    if not (cache / "cuda-headers").is_dir():
        pytest.skip("this NVRTC carries no headers, those of the toolkit's wheels are used")
    (folder,) = (cache / "cuda-headers").iterdir()
    return folder


def test_headers_are_unpacked_again_if_they_are_damaged_or_gone(cache, headers):
    half = '#include <cuda_fp16.h>\nextern "C" __global__ void k(__half* x) { x[0] = x[1]; }\n'
    compile_source(half)
    (headers / "cuda_fp16.h").write_text("/* cut off")
    compiling._is_whole.cache_clear()
    compile_source(half, "sm_80")
    shutil.rmtree(cache)
    compile_source(half, "sm_75")
    assert len(list((cache / "cuda-headers").iterdir())) == 1


def test_headers_that_another_process_has_unpacked_meanwhile_are_taken(headers):
    assert compiling._unpack(compiling._nvrtc(), f"cuda-headers/{headers.name}") == headers
    assert compiling._whole_headers(headers) == headers


def test_neither_cupy_nor_a_driver_is_loaded():
    program = (
        "import sys\nfrom gpubp.toolchain.nvrtc import compile_source\n"
        "compile_source('extern \"C\" __global__ void k() {}')\n"
        "assert not {'cupy', 'numba'} & set(sys.modules)\n"
        "assert 'libcuda.so' not in open('/proc/self/maps').read()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env=dict(os.environ))
