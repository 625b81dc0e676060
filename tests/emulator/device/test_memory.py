"""Device memory: allocation, red zones, freed memory, layouts; and accesses in every space with what they report."""

import mmap

import numpy as np
import pytest

from gpubp.emulator.device.memory import (
    ARENA_BASE,
    GRANULE,
    MEMORY,
    POISON,
    DeviceMemory,
    layout,
    sparse_grown,
    sparse_zeros,
)
from gpubp.emulator.errors import EmulatorError, MemoryAccessError
from gpubp.emulator.program.ptx import Variable

THREADS = np.arange(32, dtype=np.uint32)


@pytest.fixture
def memory():
    return DeviceMemory(1 << 20)


def test_fresh_memory_is_aligned_and_poisoned(memory):
    address = memory.allocate(100)
    assert address % 256 == 0
    assert (memory.view(address, 100).view(np.uint16) == POISON).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_poison_is_not_a_number(memory, dtype):
    assert np.isnan(memory.view(memory.allocate(64), 64).view(dtype)).all()


def test_the_poison_is_not_a_number_in_bfloat16():
    assert POISON & 0x7F80 == 0x7F80
    assert POISON & 0x7F


def test_allocations_never_touch(memory):
    first, second = memory.allocate(GRANULE), memory.allocate(1)
    assert second - first >= 2 * GRANULE


@pytest.mark.parametrize(("start", "nbytes"), [(0, 11), (8, 4), (-4, 4), (10, 1)])
def test_a_host_view_stays_inside_one_allocation(memory, start, nbytes):
    address = memory.allocate(10)
    with pytest.raises(MemoryAccessError, match="host access"):
        memory.view(address + start, nbytes)


def test_freed_memory_cannot_be_viewed_or_freed_again(memory):
    address = memory.allocate(1 << 13)
    memory.free(address)
    with pytest.raises(MemoryAccessError, match="which was freed"):
        memory.view(address, 4)
    with pytest.raises(EmulatorError, match="not that of a live allocation"):
        memory.free(address)


def test_address_space_is_used_again_when_it_runs_out(memory):
    kept = memory.allocate(1000, "kept")
    memory.view(kept, 1000)[:] = 7
    for _ in range(100):
        memory.free(memory.allocate(100_000))
    assert (memory.view(kept, 1000) == 7).all()


def test_running_out_of_memory_says_how_much_is_in_use(memory):
    memory.allocate(600_000)
    with pytest.raises(EmulatorError, match=r"out of memory: 6.*600,000 in use"):
        memory.allocate(600_000)


def test_zeros_may_be_more_than_the_memory():
    """As what observers keep of each address, in a process that has allocated much and freed it."""
    zeros = sparse_zeros((2**37, 10), np.int32)
    zeros[-1, -1] = 7
    assert (zeros[2**36].any(), zeros[-1, -1]) == (False, 7)


def resident() -> int:
    """Return this process's memory in bytes."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE


def test_what_is_grown_keeps_what_it_holds_and_costs_no_memory_for_the_rest():
    kept = sparse_zeros((2**21, 10), np.int32)  # 80 MiB
    kept[5], kept[2**20, 3], kept[-1, -1] = 1, 2, 3
    before = resident()
    grown = sparse_grown(kept, 2**37)
    assert resident() - before < 2**23
    assert np.array_equal(grown[: 2**21], kept)
    assert not grown[2**21 : 2**21 + 1000].any()
    assert sparse_grown(np.zeros((0, 10), np.int32), 3).shape == (3, 10)


def test_an_empty_allocation_has_an_address_of_its_own(memory):
    assert memory.allocate(0) != memory.allocate(0)


def variable(name: str, nbytes: int, align: int) -> Variable:
    return Variable(name, "shared", "b8", align, nbytes)


def test_a_layout_keeps_the_banks_of_a_gpu_and_adds_red_zones():
    found = layout([variable("a", 12, 4), variable("b", 100, 16), variable("c", 4, 4)])
    assert found.nbytes == 16 + 100 + 4
    for name, real in (("a", 0), ("b", 16), ("c", 116)):
        assert found.addresses[name] % 128 == real % 128
    ends = {"a": found.addresses["a"] + 12, "b": found.addresses["b"] + 100}
    assert found.addresses["b"] - ends["a"] >= 16
    assert found.addresses["c"] - ends["b"] >= 16


def test_dynamic_shared_memory_lies_behind_the_static():
    found = layout([variable("a", 20, 4)], [variable("dynamic", 0, 16)], 64)
    assert found.nbytes == 32 + 64
    assert found.addresses["dynamic"] % 16 == 0
    assert found.describe(found.addresses["dynamic"] + 64) == "0 bytes past the end of dynamic of 64 bytes"


# -- accesses of kernels ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("u8", np.uint8),
        ("s8", np.int8),
        ("u16", np.uint16),
        ("s16", np.int16),
        ("u32", np.uint32),
        ("f32", np.float32),
        ("u64", np.uint64),
        ("f64", np.float64),
    ],
)
def test_every_size_of_load_and_store(run_ptx, kind, dtype):
    data = (np.arange(32) * 7 - 100).astype(dtype)
    wide = kind[0] == "s"
    register = {1: "%h1", 2: "%h1", 4: "%r1", 8: "%rd9"}[data.itemsize]
    if kind[0] == "f":
        register = {4: "%f1", 8: "%fd1"}[data.itemsize]
    body = f"""
    mul.wide.u32 %rd5, %r0, {data.itemsize};
    add.u64 %rd6, %rd1, %rd5; add.u64 %rd7, %rd2, %rd5;
    ld.global.{kind} {register}, [%rd6];
    st.global.{kind.replace("s", "u")} [%rd7], {register};
    """
    _, got = run_ptx(body, data, np.zeros_like(data))
    np.testing.assert_array_equal(got, data)
    if wide and data.itemsize < 4:  # a signed load fills the register with the sign
        body = f"mul.wide.u32 %rd5, %r0, {data.itemsize}; add.u64 %rd6, %rd1, %rd5; add.u64 %rd7, %rd2, %rd0;\n"
        body += f"ld.global.{kind} %r1, [%rd6]; st.global.u32 [%rd7], %r1;"
        _, got = run_ptx(body, data, np.zeros(32, np.int32))
        np.testing.assert_array_equal(got, data)


@pytest.mark.parametrize(("vector", "size"), [(2, 4), (4, 4), (2, 8), (4, 2)])
def test_vectors(run_ptx, vector, size):
    data = np.arange(32 * vector).astype(f"u{size}")
    names = ", ".join(f"%{ {2: 'h', 4: 'r', 8: 'rd'}[size] }{n + 10}" for n in range(vector))
    body = f"""
    mul.wide.u32 %rd5, %r0, {vector * size};
    add.u64 %rd6, %rd1, %rd5; add.u64 %rd7, %rd2, %rd5;
    ld.global.nc.L2::128B.v{vector}.b{8 * size} {{{names}}}, [%rd6];
    st.global.cs.v{vector}.b{8 * size} [%rd7], {{{names}}};
    """
    _, got = run_ptx(body, data, np.zeros_like(data))
    np.testing.assert_array_equal(got, data)


SPACES = """
    .shared .align 4 .b8 s[128];
    .local .align 4 .b8 l[16];
    mov.u64 %rd10, {address};
    {to_generic}
    {index}
    st.u32 [%rd10], %r0;
    {barrier}
    ld.{space}.u32 %r1, [{direct}];
    add.u64 %rd7, %rd1, %rd0;
    st.global.u32 [%rd7], %r1;
"""


def test_shared_memory_through_a_generic_address(run_ptx):
    body = SPACES.format(
        address="s",
        to_generic="cvta.shared.u64 %rd10, %rd10;",
        index="add.u64 %rd10, %rd10, %rd0;",
        barrier="bar.sync 0; sub.u32 %r5, 31, %r0; mov.u32 %r6, s; mad.lo.u32 %r5, %r5, 4, %r6;",
        space="shared",
        direct="%r5",
    )
    (got,) = run_ptx(body, np.zeros(64, np.uint32), grid=2)
    np.testing.assert_array_equal(got[:32], THREADS[::-1])


def test_local_memory_is_each_threads_own(run_ptx):
    body = SPACES.format(
        address="l", to_generic="cvta.local.u64 %rd10, %rd10;", index="", barrier="", space="local", direct="l"
    )
    (got,) = run_ptx(body, np.zeros(32, np.uint32))
    np.testing.assert_array_equal(got, THREADS)


def test_one_instruction_may_touch_three_spaces(run_ptx):
    body = """
    .shared .align 4 .b8 s[128];
    .local .align 4 .b8 l[4];
    mov.u64 %rd10, s; cvta.shared.u64 %rd10, %rd10; add.u64 %rd10, %rd10, %rd0;
    mov.u64 %rd11, l; cvta.local.u64 %rd11, %rd11;
    add.u64 %rd12, %rd1, %rd0;
    and.b32 %r1, %r0, 3;
    setp.eq.u32 %p1, %r1, 1; selp.b64 %rd13, %rd10, %rd12, %p1;
    setp.eq.u32 %p2, %r1, 2; selp.b64 %rd13, %rd11, %rd13, %p2;
    isspacep.shared %p3, %rd13; isspacep.local %p4, %rd13; isspacep.global %p5, %rd13;
    selp.u32 %r5, 1, 0, %p3; selp.u32 %r6, 2, 0, %p4; selp.u32 %r7, 4, 0, %p5;
    add.u32 %r5, %r5, %r6; add.u32 %r5, %r5, %r7;
    st.u32 [%rd13], %r5;
    ld.u32 %r8, [%rd13];
    add.u64 %rd14, %rd2, %rd0;
    st.global.u32 [%rd14], %r8;
    """
    changed, got = run_ptx(body, np.zeros(32, np.uint32), np.zeros(32, np.uint32))
    np.testing.assert_array_equal(got, np.tile([4, 1, 2, 4], 8))
    np.testing.assert_array_equal(changed, np.tile([4, 0, 0, 4], 8))


def test_constant_and_global_variables(run_ptx):
    module = """
    .const .align 4 .b8 table[128] = {5, 0, 0, 0, 6};
    .global .align 4 .u32 counter = 40;
    .global .align 8 .u64 pointer = counter;
    """
    body = """
    mov.u64 %rd5, table; add.u64 %rd5, %rd5, %rd0;
    ld.const.u32 %r1, [%rd5];
    ld.const.u32 %r2, [table+4];
    ld.global.u64 %rd6, [pointer]; ld.u32 %r3, [%rd6];
    add.u32 %r1, %r1, %r2; add.u32 %r1, %r1, %r3;
    add.u64 %rd7, %rd1, %rd0; st.global.u32 [%rd7], %r1;
    """
    (got,) = run_ptx(body, np.zeros(32, np.uint32), module=module)
    np.testing.assert_array_equal(got[:3], [51, 52, 46])


def test_stores_of_several_lanes_to_one_address_leave_the_last(run_ptx):
    (got,) = run_ptx("st.global.u32 [%rd1], %r0;", np.zeros(1, np.uint32))
    assert got[0] == 31


SHARED_PAIR = ".shared .align 4 .b8 s[64]; .shared .align 4 .b8 t[64];\n"
ADDRESS = "add.u64 %rd5, %rd1, %rd0;\n"


@pytest.mark.parametrize(
    ("body", "line", "thread", "what"),
    [
        (ADDRESS + "ld.global.u32 %r1, [%rd5];", 2, 16, "reads 4 bytes of global .* 0 bytes past the end of test"),
        (ADDRESS + "\nst.global.u32 [%rd5+4], %r0;", 3, 15, "writes 4 bytes .* past the end"),
        (ADDRESS + "red.global.add.u32 [%rd5+-4], 1;", 2, 0, "updates 4 bytes .* (before the start|past the end)"),
        (ADDRESS + "ld.global.u32 %r1, [%rd5+2];", 2, 0, "misaligned access.* multiple of 4"),
        (ADDRESS + "ld.global.v4.u32 {%r1,%r2,%r3,%r4}, [%rd5];", 2, 1, "misaligned access.* multiple of 16"),
        ("mov.u64 %rd5, 0;\nld.global.u32 %r1, [%rd5];", 2, 0, "a null pointer"),
        ("mov.u64 %rd5, 0x123456780;\nld.u32 %r1, [%rd5];", 2, 0, "outside every allocation"),
        (".shared .align 4 .b8 s[64];\nmov.u32 %r1, s; mad.lo.u32 %r1, %r0, 4, %r1;\nst.shared.u32 [%r1], %r0;", 3, 16,
         "writes 4 bytes of shared memory .* 0 bytes past the end of s of 64 bytes"),
        (".shared .align 4 .b8 s[64];\nmov.u32 %r1, s;\nld.shared.u32 %r2, [%r1+1];", 3, 0, "misaligned"),
        (".local .align 4 .b8 l[8];\nst.local.u32 [l+8], %r0;", 2, 0, "local memory .* past the end of l of 8 bytes"),
        (SHARED_PAIR + "st.shared.u32 [s+64], %r0;", 2, 0, "past the end of s"),
    ],
)  # fmt: skip
def test_faults_name_line_block_and_thread(run_ptx, body, line, thread, what):
    with pytest.raises(MemoryAccessError, match=what) as error:
        run_ptx(body, np.zeros(16, np.uint32))
    assert str(error.value).startswith(f"kernel test, test.cu:{line}, block (0, 0, 0), thread ({thread}, 0, 0): ")


def test_a_fault_in_a_later_block_names_it(run_ptx):
    body = "mov.u32 %r1, %ctaid.y; mul.wide.u32 %rd5, %r1, 4; add.u64 %rd5, %rd5, %rd1;\nst.global.u32 [%rd5], %r0;"
    with pytest.raises(MemoryAccessError, match=r"block \(0, 5, 0\), thread \(0, 0, 0\)"):
        run_ptx(body, np.zeros(5, np.uint32), grid=(1, 8), lanes=64)


def test_use_after_free(ptx_text):
    from gpubp.emulator import launch

    address = MEMORY.allocate(64, "weights")
    MEMORY.free(address)
    kernel = launch.load(ptx_text("ld.global.u32 %r1, [%rd1];", 1)).kernel("test")
    with pytest.raises(MemoryAccessError, match=r"inside weights of 64 bytes at .*, which was freed"):
        launch.launch(kernel, (1, 1, 1), (32, 1, 1), [address.to_bytes(8, "little")])


def test_messages_do_not_speak_of_the_emulators_own_memory(memory):
    address = memory.allocate(100, "mine")
    memory.allocate(8, "hidden", internal=True)
    after = memory.allocate(100, "after")
    assert memory.describe(address + 700) == f"324 bytes before the start of after of 100 bytes at {after:#x}"
    assert memory.describe(address + 200) == f"100 bytes past the end of mine of 100 bytes at {address:#x}"


def test_without_line_information_the_instruction_is_named(ptx_text):
    from gpubp.emulator import launch

    text = ptx_text("ld.global.u32 %r1, [%rd1];", 1).replace(".loc", "//")
    with pytest.raises(MemoryAccessError, match=r"kernel test, `ld.global.u32 %r1, \[%rd1\]`, block"):
        launch.launch(launch.load(text).kernel("test"), (1, 1, 1), (32, 1, 1), [bytes(8)])


def test_the_arena_begins_above_the_null_page():
    assert MEMORY.allocate(1) > ARENA_BASE
