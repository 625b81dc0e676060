"""The driver's functions against NVIDIA's declarations: the toolkit's header, and what cuda.bindings asks for."""

import ctypes
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gpubp.emulator.driver import api, calls, devices, linking, modules, pools, results

NOT_OF_THE_TYPEDEFS = {"cuProfilerStart", "cuProfilerStop"}
"""They are declared in a header of their own."""


def _header(name: str) -> str:
    spec = importlib.util.find_spec("nvidia")
    found = [file for folder in (spec.submodule_search_locations if spec else ()) for file in Path(folder).rglob(name)]
    assert found, f"numba-cuda brings nvidia-cuda-runtime, which has {name}"
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", found[0].read_text(), flags=re.DOTALL)


@pytest.fixture(scope="module")
def cuda_h() -> str:
    """CUDA's header, without its comments."""
    return _header("cuda.h")


@pytest.fixture(scope="module")
def version(cuda_h) -> int:
    """The CUDA version of the header."""
    return int(re.search(r"#define CUDA_VERSION (\d+)", cuda_h)[1])


@pytest.fixture(scope="module")
def declared() -> dict[str, dict[tuple[int, str], list[str]]]:
    """The types of each function's arguments: by its name, its version, and "_ptsz" for its per-thread twin."""
    found: dict[str, dict[tuple[int, str], list[str]]] = {}
    pattern = r"typedef CUresult\s*\(CUDAAPI \*PFN_(\w+?)_v(\d+)(_ptsz|_ptds)?\)\(([^;]*)\);"
    for name, since, twin, arguments in re.findall(pattern, _header("cudaTypedefs.h")):
        given = [] if arguments.strip() in ("", "void") else [_type(each) for each in arguments.split(",")]
        found.setdefault(name, {})[int(since), twin] = given
    assert len(found) > 300
    return found


def _type(declaration: str) -> str:
    """Return the type in a declaration of a parameter: "unsigned int" of "const unsigned int x"."""
    plain = re.sub(r"\b(const|struct|enum)\b", "", declaration).strip()
    return re.sub(
        r"\s+", " ", re.sub(r"\b\w+\s*(\[\w*\])?$", "", plain) if " " in plain or "*" in plain else plain
    ).strip()


NUMBERS = {
    "int": ctypes.c_int,
    "unsigned int": ctypes.c_uint,
    "unsigned short": ctypes.c_ushort,
    "unsigned char": ctypes.c_ubyte,
    "char": ctypes.c_char,
    "float": ctypes.c_float,
    "size_t": ctypes.c_size_t,
    "long long": ctypes.c_longlong,
    "unsigned long long": ctypes.c_ulonglong,
    "cuuint32_t": ctypes.c_uint32,
    "cuuint64_t": ctypes.c_uint64,
    "CUdeviceptr": ctypes.c_uint64,
    "CUdevice": ctypes.c_int,
}


@pytest.fixture(scope="module")
def sizes(cuda_h) -> dict[str, int]:
    """The bytes of each named type of the header: numbers, enums, handles, functions, some structs."""
    found = {name: ctypes.sizeof(kind) for name, kind in NUMBERS.items()}
    found.update(dict.fromkeys(re.findall(r"typedef enum \w+\s*\{[^}]*\}\s*(\w+);", cuda_h), 4))
    found.update(dict.fromkeys(re.findall(r"typedef struct \w+\s*\*\s*(\w+);", cuda_h), 8))
    found.update(dict.fromkeys(re.findall(r"typedef \w+ \(CUDA_CB \*(\w+)\)", cuda_h), 8))
    found.update(dict.fromkeys(re.findall(r"typedef size_t \(CUDA_CB \*(\w+)\)", cuda_h), 8))
    for original, name in re.findall(r"typedef ((?:unsigned )?\w+(?: long)?) (\w+);", cuda_h):
        if original in found:
            found.setdefault(name, found[original])
    found.setdefault("CUmemLocation", 8)  # two numbers of 4 bytes each, which the next test but one reads in the header
    found["CUuuid"] = 16
    return found


def _size(name: str, sizes: dict[str, int]) -> int:
    if name.endswith("*"):
        return 8
    return sizes.get(name) or sizes[re.sub(r"_v\d+$", "", name)]


NORMAL = [each for each in calls.EXPORTS.values() if not each.is_per_thread]


def _faults(export: calls.Export, wanted: list[str], sizes: dict[str, int]) -> list[str]:
    """Return what differs: the number of arguments; one's size, whether it is a pointer, what is written through it."""
    if len(export.types) != len(wanted):
        return [f"{export.name} has {len(export.types)} arguments, declared are {wanted}"]
    found = []
    for index, (given, kind) in enumerate(zip(export.types, wanted, strict=True)):
        is_pointer = hasattr(given, "contents")
        fits = ctypes.sizeof(given) == _size(kind, sizes) and (given is ctypes.c_float) == (kind == "float")
        if is_pointer:
            fits &= kind.endswith("*")
            if fits and not issubclass(given._type_, ctypes.Structure):
                fits &= ctypes.sizeof(given._type_) == _size(kind[:-1].strip(), sizes)
        if given is calls.TEXT:
            fits &= kind == "char *"
        if not fits:
            found.append(f"{export.name}: argument {index} is {given.__name__}, declared is {kind}")
    return found


def test_arguments(declared, sizes, version):
    here = [each for each in NORMAL if each.since <= version and each.base not in NOT_OF_THE_TYPEDEFS]
    assert len(here) > 150
    missing = [each.name for each in here if (each.since, "") not in declared[each.base]]
    assert not missing, "of another version than the header's"
    assert not [fault for each in here for fault in _faults(each, declared[each.base][each.since, ""], sizes)]


def test_no_later_interface_of_a_name_is_missing(declared, version):
    """Else a program that knows the later one would call the earlier one with other arguments."""
    for base in {each.base for each in NORMAL if each.since <= version} - NOT_OF_THE_TYPEDEFS:
        served = {each.since for each in NORMAL if each.base == base}
        later = {since for since, twin in declared[base] if not twin and since > min(served)}
        assert later <= served, base


def test_per_thread_twins(declared, cuda_h, version):
    """Every function whose stream 0 the header redirects has its twin, by the header's name; no other has one."""
    streams = set(re.findall(r"__CUDA_API_PTSZ\((cu\w+)\)", cuda_h))
    synchronous = set(re.findall(r"__CUDA_API_PTDS\((cu\w+)\)", cuda_h))
    old = {"cuMemPrefetchAsync", "cuStreamGetCaptureInfo", "cuStreamGetCaptureInfo_v2"}  # twins of the typedefs alone
    wanted = {f"{each.name}_ptds" for each in NORMAL if each.name in synchronous}
    wanted |= {f"{each.name}_ptsz" for each in NORMAL if each.name in streams | old}
    assert {name for name, each in calls.EXPORTS.items() if each.is_per_thread and each.since <= version} == wanted
    for name in old:
        base = calls.EXPORTS[name].base
        assert (calls.EXPORTS[name].since, "_ptsz") in declared[base] or (10_000, "_ptsz") in declared[base]


# --- structs ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("CUDA_MEMCPY2D_st", api.memory.Copy2D),
        ("CUlaunchConfig_st", api.launches.LaunchConfig),
        ("CUDA_GRAPH_INSTANTIATE_PARAMS_st", api.graphs.InstantiateParams),
        ("CUctxCreateParams_st", api.contexts.ContextParams),
    ],
)
def test_structs(name, ours, cuda_h, sizes):
    """Each field's name, place and size."""
    body = re.search(rf"typedef struct {name}\s*\{{([^}}]*)\}}", cuda_h)[1]
    wanted = [(re.search(r"(\w+)$", each.strip())[1], _type(each)) for each in body.split(";") if each.strip()]
    assert [field for field, _ in ours._fields_] == [field for field, _ in wanted]
    place = 0
    for field, kind in wanted:
        size = _size(kind, sizes)
        place = -(-place // size) * size
        assert (getattr(ours, field).offset, getattr(ours, field).size) == (place, size), field
        place += size
    assert ctypes.sizeof(ours) == -(-place // 8) * 8


def test_the_struct_of_pools(cuda_h):
    """It has one of places within, which is passed by value elsewhere."""
    location = re.search(r"typedef struct CUmemLocation_st\s*\{(.*?)\}\s*CUmemLocation_v1;", cuda_h, re.DOTALL)[1]
    assert re.findall(r"(\w+) (\w+);", location)[0] == ("CUmemLocationType", "type")
    assert re.findall(r"int (\w+);", location)[0] == "id"
    body = re.search(r"typedef struct CUmemPoolProps_st\s*\{([^}]*)\}", cuda_h)[1]
    assert [each.split()[-1].lstrip("*") for each in body.split(";") if each.strip()][:5] == [
        "allocType",
        "handleTypes",
        "location",
        "win32SecurityAttributes",
        "maxSize",
    ]
    assert api.pools.PoolProperties.win32SecurityAttributes.offset == 16
    assert api.pools.PoolProperties.maxSize.offset == 24


def test_attributes_of_launches(cuda_h):
    """The bytes of one in an array, and where its value begins."""
    body = re.search(r"typedef struct CUlaunchAttribute_st\s*\{([^}]*)\}", cuda_h)[1]
    assert re.sub(r"\s+", " ", body).strip() == (
        "CUlaunchAttributeID id; char pad[8 - sizeof(CUlaunchAttributeID)]; CUlaunchAttributeValue value;"
    )
    assert (
        "char pad[64];" in re.search(r"typedef union CUlaunchAttributeValue_union\s*\{(.*?)\n\}", cuda_h, re.DOTALL)[1]
    )
    assert (api.launches._ATTRIBUTE_BYTES, api.launches._VALUE_AT) == (72, 8)


# --- numbers ----------------------------------------------------------------------------------------------------------
def enumerators(cuda_h: str, name: str) -> dict[str, int]:
    """Return the names of an enum with their numbers."""
    body = re.search(rf"typedef enum {name}\s*\{{(.*?)\}}\s*\w+;", cuda_h, re.DOTALL)[1]
    found, number = {}, -1
    for each, value in re.findall(
        r"(CU(?:DA)?_\w+)\s*(?:=\s*([\w<>-]+))?\s*(?:,|$)", re.sub(r"\s+", " ", body).strip()
    ):
        number = found[value] if value in found else int(value, 0) if value else number + 1
        found[each] = number
    return found


def test_results(cuda_h, version):
    wanted = enumerators(cuda_h, "cudaError_enum")
    assert len(wanted) > 80
    assert {name: number for name, (number, _) in results.RESULTS.items() if name in wanted} == {
        name: wanted[name] for name in results.RESULTS if name in wanted
    }
    assert version < 13_000 or not set(results.RESULTS) - set(wanted)


def test_every_result_that_the_driver_names_is_known():
    sources = Path(calls.__file__).parent.rglob("*.py")
    named = {name for file in sources for name in re.findall(r'"(CUDA_ERROR_\w+)"', file.read_text())}
    assert named <= set(results.RESULTS)


DEVICE = {
    1: "MAX_THREADS_PER_BLOCK",
    2: "MAX_BLOCK_DIM_X",
    3: "MAX_BLOCK_DIM_Y",
    4: "MAX_BLOCK_DIM_Z",
    5: "MAX_GRID_DIM_X",
    6: "MAX_GRID_DIM_Y",
    7: "MAX_GRID_DIM_Z",
    8: "MAX_SHARED_MEMORY_PER_BLOCK",
    9: "TOTAL_CONSTANT_MEMORY",
    10: "WARP_SIZE",
    11: "MAX_PITCH",
    12: "MAX_REGISTERS_PER_BLOCK",
    14: "TEXTURE_ALIGNMENT",
    15: "GPU_OVERLAP",
    16: "MULTIPROCESSOR_COUNT",
    19: "CAN_MAP_HOST_MEMORY",
    31: "CONCURRENT_KERNELS",
    39: "MAX_THREADS_PER_MULTIPROCESSOR",
    40: "ASYNC_ENGINE_COUNT",
    41: "UNIFIED_ADDRESSING",
    75: "COMPUTE_CAPABILITY_MAJOR",
    76: "COMPUTE_CAPABILITY_MINOR",
    78: "STREAM_PRIORITIES_SUPPORTED",
    79: "GLOBAL_L1_CACHE_SUPPORTED",
    80: "LOCAL_L1_CACHE_SUPPORTED",
    81: "MAX_SHARED_MEMORY_PER_MULTIPROCESSOR",
    82: "MAX_REGISTERS_PER_MULTIPROCESSOR",
    83: "MANAGED_MEMORY",
    89: "CONCURRENT_MANAGED_ACCESS",
    90: "COMPUTE_PREEMPTION_SUPPORTED",
    95: "COOPERATIVE_LAUNCH",
    97: "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN",
    99: "HOST_REGISTER_SUPPORTED",
    106: "MAX_BLOCKS_PER_MULTIPROCESSOR",
    111: "RESERVED_SHARED_MEMORY_PER_BLOCK",
    115: "MEMORY_POOLS_SUPPORTED",
}


def test_attributes_of_the_device(cuda_h):
    wanted = enumerators(cuda_h, "CUdevice_attribute_enum")
    assert {number: wanted[f"CU_DEVICE_ATTRIBUTE_{name}"] for number, name in DEVICE.items()} == {n: n for n in DEVICE}
    assert set(devices._attributes()) == set(DEVICE)
    known = {number for name, number in wanted.items() if not name.endswith("_MAX")}
    assert [devices.attribute(number) >= 0 for number in known] == [True] * len(known)
    with pytest.raises(results.DriverError, match="attrib is 999: it is no device attribute"):
        devices.attribute(999)


def test_attributes_of_functions(cuda_h, version):
    wanted = enumerators(cuda_h, "CUfunction_attribute_enum")
    prefix = "CU_FUNC_ATTRIBUTE_"
    assert {
        "MAX_THREADS_PER_BLOCK": modules.MAX_THREADS_PER_BLOCK,
        "SHARED_SIZE_BYTES": modules.SHARED_BYTES,
        "CONST_SIZE_BYTES": modules.CONST_BYTES,
        "LOCAL_SIZE_BYTES": modules.LOCAL_BYTES,
        "NUM_REGS": modules.REGISTERS,
        "PTX_VERSION": modules.PTX_VERSION,
        "BINARY_VERSION": modules.BINARY_VERSION,
        "CACHE_MODE_CA": modules.CACHE_MODE,
        "MAX_DYNAMIC_SHARED_SIZE_BYTES": modules.MAX_DYNAMIC_SHARED,
        "PREFERRED_SHARED_MEMORY_CARVEOUT": modules.CARVEOUT,
        "REQUIRED_CLUSTER_WIDTH": modules.CLUSTER_SIDES[0],
        "REQUIRED_CLUSTER_HEIGHT": modules.CLUSTER_SIDES[1],
        "REQUIRED_CLUSTER_DEPTH": modules.CLUSTER_SIDES[2],
        "NON_PORTABLE_CLUSTER_SIZE_ALLOWED": modules.LARGE_CLUSTERS,
        "CLUSTER_SCHEDULING_POLICY_PREFERENCE": modules.CLUSTER_ORDER,
    }.items() <= {name.removeprefix(prefix): number for name, number in wanted.items()}.items()
    assert version < 13_050 or wanted[f"{prefix}MAX"] == modules._COUNT


def test_attributes_of_pointers_and_pools_and_kinds_of_inputs(cuda_h):
    pointers = enumerators(cuda_h, "CUpointer_attribute_enum")
    names = (
        "CONTEXT MEMORY_TYPE DEVICE_POINTER HOST_POINTER SYNC_MEMOPS BUFFER_ID IS_MANAGED DEVICE_ORDINAL "
        "RANGE_START_ADDR RANGE_SIZE MAPPED"
    )
    assert [pointers[f"CU_POINTER_ATTRIBUTE_{name}"] for name in names.split()] == [
        api.memory._CONTEXT,
        api.memory._MEMORY_TYPE,
        api.memory._DEVICE_POINTER,
        api.memory._HOST_POINTER,
        api.memory._SYNC,
        api.memory._BUFFER_ID,
        api.memory._IS_MANAGED,
        api.memory._ORDINAL,
        api.memory._START,
        api.memory._RANGE_SIZE,
        api.memory._MAPPED,
    ]
    attributes = enumerators(cuda_h, "CUmemPool_attribute_enum")
    names = (
        "REUSE_FOLLOW_EVENT_DEPENDENCIES REUSE_ALLOW_OPPORTUNISTIC REUSE_ALLOW_INTERNAL_DEPENDENCIES RELEASE_THRESHOLD "
        "RESERVED_MEM_CURRENT RESERVED_MEM_HIGH USED_MEM_CURRENT USED_MEM_HIGH"
    )
    assert [attributes[f"CU_MEMPOOL_ATTR_{name}"] for name in names.split()] == [
        *pools.REUSE,
        pools.RELEASE_THRESHOLD,
        pools.RESERVED,
        pools.RESERVED_HIGH,
        pools.USED,
        pools.USED_HIGH,
    ]
    kinds = enumerators(cuda_h, "CUjitInputType_enum")
    assert [kinds[f"CU_JIT_INPUT_{name}"] for name in ["CUBIN", "PTX", "FATBINARY", "OBJECT", "LIBRARY", "NVVM"]] == [
        linking.CUBIN,
        linking.PTX,
        linking.FATBINARY,
        linking.OBJECT,
        linking.LIBRARY,
        linking.NVVM,
    ]


# --- what cuda.bindings asks for --------------------------------------------------------------------------------------
ASK = """
import json, sys
from gpubp.emulator import driver
from gpubp.emulator.driver.api import general
asked, answer = [], general._procedure
def note(name, address, version, flags):
    status = answer(name, address, version, flags)
    asked.append((name.decode(), version, flags, status))
    return status
general._procedure = note
driver.install()
from cuda.bindings import driver as cuda
assert cuda.cuInit(0) == (0,)
print(json.dumps(asked))
"""


@pytest.mark.parametrize("flags", [0, 2], ids=["legacy", "per thread"])
def test_what_cuda_bindings_asks_for(flags, declared, monkeypatch):
    """Each name with the version whose interface it will call: it gets that one or none, and its twin."""
    variable = "CUDA_PYTHON_CUDA_PER_THREAD_DEFAULT_STREAM"
    monkeypatch.setenv(variable, "1") if flags == 2 else monkeypatch.delenv(variable, raising=False)
    run = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
    asked = json.loads(run.stdout)
    served = [(name, version, given) for name, version, given, status in asked if status == 0]
    assert len(served) > 150
    for name, version, given in served:
        assert given in (flags, 0)
        found = calls.find(name, version, given == 2)
        if name not in NOT_OF_THE_TYPEDEFS:
            newest = max(since for since, twin in declared[name] if since <= version and not (twin and not given))
            plain = max((since for since, twin in declared[name] if since <= version and not twin), default=newest)
            assert found.since == plain, name
            assert found.is_per_thread == (given == 2 and any(twin for _, twin in declared[name])), name


def test_versions():
    assert calls.find("cuMemAlloc", 3020).name == "cuMemAlloc_v2"
    assert calls.find("cuMemAlloc", 2000) is None
    assert calls.is_known("cuMemAlloc")
    assert not calls.is_known("cuMemAlloc_v2")
    assert calls.find("cuStreamGetCtx", 12_040).name == "cuStreamGetCtx"
    assert calls.find("cuStreamGetCtx", 12_050).name == "cuStreamGetCtx_v2"
    assert calls.find("cuLaunchKernel", 7000, per_thread=True).name == "cuLaunchKernel_ptsz"
    assert calls.find("cuMemcpyHtoD", 7000, per_thread=True).name == "cuMemcpyHtoD_v2_ptds"
    assert calls.find("cuInit", 12_000, per_thread=True).name == "cuInit"
