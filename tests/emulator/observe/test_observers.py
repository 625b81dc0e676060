"""Races, reads of unwritten memory, missing waits; sectors, bank passes, counts: each on a kernel of a few lines."""

from collections import Counter

import numpy as np
import pytest

import gpubp.emulator as cp
from gpubp.emulator import cuda
from gpubp.emulator.device.memory import MEMORY
from gpubp.emulator.errors import MemoryAccessError
from gpubp.emulator.observe import observers, shadow
from gpubp.emulator.observe.observers import observe

OUT = np.zeros(64, np.uint32)
SHARED = ".shared .align 16 .b8 s[1024]; mov.u32 %r1, s; mad.lo.u32 %r2, %r0, 4, %r1;"
USE = "setp.eq.u32 %p9, {}, 7; @%p9 mov.u32 %r50, 0;"
"""A branch on a register."""
MINE = "mul.wide.u32 %rd6, %r0, 4; add.u64 %rd5, %rd1, %rd6;"


@pytest.fixture
def observed(run_ptx):
    """The report of a kernel run with all observers."""

    def run(body, *arrays, **options):
        with observe(races=True, uninitialised=True, traffic=True) as report:
            run_ptx(body, *arrays, **options)
        return report

    return run


def neighbour(barrier: str) -> str:
    """Each thread writes its word of shared memory and reads that of thread ^ 32 or thread ^ 1."""
    return f"{SHARED}\nst.shared.u32 [%r2], %r0;\n{barrier}\nxor.b32 %r3, %r2, DISTANCE;\nld.shared.u32 %r4, [%r3];"


# -- races ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("barrier", "distance", "races"),
    [
        ("", 128, [5]),  # another warp, nothing between
        ("bar.sync 0;", 128, []),
        ("bar.warp.sync -1;", 128, [5]),  # orders a warp alone
        ("bar.warp.sync -1;", 4, []),
        ("", 4, [5]),  # within a warp nothing is ordered by itself
        ("", 0, []),  # its own word
        ("bar.sync 0, 64;", 128, []),
        ("membar.cta;", 128, [5]),
    ],
)
def test_races_in_shared_memory_end_at_barriers(observed, barrier, distance, races):
    report = observed(neighbour(barrier).replace("DISTANCE", str(distance)), OUT, block=64)
    assert [finding.line for finding in report.races] == races
    assert report.findings == report.races


def test_a_write_after_other_threads_have_read(observed):
    body = f"{SHARED} setp.eq.u32 %p1, %r0, 0;\n@%p1 st.shared.u32 [s], 7;\nbar.sync 0;\nld.shared.u32 %r3, [s];\n\n"
    late = body + "@%p1 st.shared.u32 [s], 8;"
    report = observed(late, OUT, block=64)
    assert [finding.line for finding in report.races] == [6]
    assert "reads at test.cu:4" in report.races[0].message
    fixed = body + "bar.sync 0;\n@%p1 st.shared.u32 [s], 8;"
    assert observed(fixed, OUT, block=64).findings == []


def test_the_only_reader_may_write(observed):
    body = f"{SHARED}\nst.shared.u32 [%r2], 1;\nld.shared.u32 %r3, [%r2];\nst.shared.u32 [%r2], %r3;"
    assert observed(body, OUT, block=64).findings == []


def test_two_writers_of_one_word(observed):
    report = observed(f"{SHARED}\nst.shared.u32 [s], %r0;", OUT)
    assert [finding.line for finding in report.races] == [2]
    assert (
        "thread (1, 0, 0) writes shared memory that the same block, thread (0, 0, 0) writes" in report.races[0].message
    )


def test_neighbouring_bytes_are_no_race(observed):
    body = f"{SHARED}\nadd.u32 %r3, %r1, %r0;\nst.shared.u8 [%r3], %r0;"
    assert observed(body, OUT, block=64).findings == []


@pytest.mark.parametrize(
    ("second", "races"),
    [("red.shared.add.u32 [s], 2;", []), ("ld.shared.u32 %r3, [s];", [4]), ("st.shared.u32 [s], 3;", [4])],
)
def test_atomics_race_with_plain_accesses_alone(observed, second, races):
    body = f"{SHARED}\nsetp.eq.u32 %p1, %r0, 9; @%p1 st.shared.u32 [s], 0; bar.sync 0;\n"
    body += f"red.shared.add.u32 [s], 1;\n{second}"
    report = observed(body, OUT, block=64)
    assert [finding.line for finding in report.races] == races


GLOBAL = "mov.u32 %r1, %ctaid.x; mul.wide.u32 %rd6, %r1, 4; add.u64 %rd7, %rd1, %rd6;"


@pytest.mark.parametrize("lanes", [32, 64, 1024])
def test_blocks_race_in_global_memory_whatever_the_batch(run_ptx, lanes):
    body = f"{GLOBAL}\nsetp.eq.u32 %p1, %r0, 0;\n@%p1 st.global.u32 [%rd1], %r1;"
    with observe(races=True) as report:
        run_ptx(body, OUT, grid=4, lanes=lanes)
    assert [finding.line for finding in report.races] == [3]
    assert (
        "block (1, 0, 0), thread (0, 0, 0) writes global memory that block (0, 0, 0), thread" in report.races[0].message
    )
    assert report.races[0].count == 3


def test_a_read_of_what_another_block_writes(observed):
    body = (
        f"{GLOBAL}\nld.global.u32 %r3, [%rd1];\nbar.sync 0;\nsetp.eq.u32 %p1, %r1, 3;\n@%p1 st.global.u32 [%rd1], %r0;"
    )
    report = observed(body, OUT, grid=5, block=1)
    assert [finding.line for finding in report.races] == [5]
    assert "block (3, 0, 0)" in report.races[0].message


def test_blocks_that_share_inputs_and_own_their_outputs_do_not_race(observed):
    body = f"{GLOBAL}\nsetp.eq.u32 %p1, %r0, 0;\nld.global.u32 %r3, [%rd2];\n@%p1 st.global.u32 [%rd7], %r3;"
    assert observed(body, OUT, OUT, grid=8).findings == []


def test_launches_follow_one_another(run_ptx):
    with observe(races=True) as report:
        for _ in range(2):
            run_ptx("setp.eq.u32 %p1, %r0, 0;\n@%p1 st.global.u32 [%rd1], %r0;", OUT)
    assert report.findings == []
    assert report.launches == {"test": 2}


def test_races_under_divergence(observed):
    """Threads of one warp that take two ways and write one word."""
    body = f"{SHARED}\nsetp.lt.u32 %p1, %r0, 1;\n@%p1 st.shared.u32 [s], 1;\n"
    body += "setp.gt.u32 %p2, %r0, 30;\n@%p2 st.shared.u32 [s], 2;"
    assert [finding.line for finding in observed(body, OUT).races] == [5]


# -- unwritten memory -------------------------------------------------------------------------------------------------


def fresh(count: int = 64) -> np.ndarray:
    """An array that looks as if nothing had written it."""
    return np.full(2 * count, 0xFFF5, np.uint16).view(np.uint32)


@pytest.mark.parametrize("space", ["shared", "local"])
def test_reads_of_unwritten_memory(observed, space):
    body = f".{space} .align 4 .b8 v[64];\nst.{space}.u32 [v+4], %r0;\n"
    body += f"ld.{space}.u16 %h1, [v+6]; cvt.u32.u16 %r2, %h1; {USE.format('%r2')}\n"
    body += f"ld.{space}.u32 %r1, [v+8]; {USE.format('%r1')}"
    report = observed(body, OUT, block=1)
    assert [finding.line for finding in report.uninitialised] == [4]
    assert report.findings == report.uninitialised


def test_shared_memory_is_fresh_in_every_block(observed):
    body = f"{SHARED}\nmov.u32 %r3, %ctaid.x; setp.eq.u32 %p1, %r3, 0;\n"
    body += "@%p1 st.shared.u32 [%r2], 1;\n"
    body += f"ld.shared.u32 %r4, [%r2]; {USE.format('%r4')}"
    report = observed(body, OUT, grid=2, lanes=32)
    assert [finding.line for finding in report.uninitialised] == [4]
    assert "block (1, 0, 0)" in report.uninitialised[0].message


def test_global_memory_from_before_counts_by_its_poison(run_ptx, ptx_text):
    from gpubp.emulator import launch

    address = MEMORY.allocate(128)
    MEMORY.view(address, 64)[:] = 0
    kernel = launch.load(ptx_text(f"{MINE}\nld.global.u32 %r3, [%rd5]; {USE.format('%r3')}", 1)).kernel("test")
    for threads, found in ((16, 0), (17, 1)):
        with observe(uninitialised=True) as report:
            launch.launch(kernel, (1, 1, 1), (threads, 1, 1), [address.to_bytes(8, "little")])
        assert len(report.uninitialised) == found
    MEMORY.free(address)


def test_what_a_kernel_or_the_host_wrote_is_written(ptx_text):
    from gpubp.emulator import launch

    reading = launch.load(ptx_text(f"{MINE}\nld.global.u32 %r3, [%rd5]; {USE.format('%r3')}", 1)).kernel("test")
    writing = launch.load(ptx_text(f"{MINE}\nst.global.u32 [%rd5], -656886;", 1)).kernel("test")
    with observe(uninitialised=True) as report:
        by_kernel, by_host, by_none = (MEMORY.allocate(128) for _ in range(3))
        MEMORY.mark_written(by_host, 128)
        launch.launch(writing, (1, 1, 1), (32, 1, 1), [by_kernel.to_bytes(8, "little")])
        for address in (by_kernel, by_host):
            launch.launch(reading, (1, 1, 1), (32, 1, 1), [address.to_bytes(8, "little")])
        assert report.findings == []
        launch.launch(reading, (1, 1, 1), (32, 1, 1), [by_none.to_bytes(8, "little")])
        assert len(report.uninitialised) == 1
    for address in (by_kernel, by_host, by_none):
        MEMORY.free(address)


# -- calls that are not inlined ---------------------------------------------------------------------------------------

PAIR = """
.func (.param .b32 out) second(.param .align 4 .b8 pair[8]) {
    .reg .b32 %r<3>;
    .loc 1 90 1
    ld.param.b32 %r1, [pair+4]; st.param.b32 [out], %r1; ret;
}
"""


@pytest.mark.parametrize(("written", "found"), [("st.param.b32 [b+4], %r0;", []), ("", [3])])
def test_parameters_of_device_functions(observed, written, found):
    body = f"""
    {{ .param .align 4 .b8 b[8]; st.param.b32 [b], %r0; {written}
    .param .b32 o; call.uni (o), second, (b); ld.param.b32 %r9, [o]; }}
    {USE.format("%r9")}
    """
    report = observed(body, OUT, module=PAIR)
    assert [finding.line for finding in report.uninitialised] == found
    assert report.bytes["local"].read == 32 * 8


CALLS = """
struct Parts { int a, b, c; };
__device__ __noinline__ Parts take_apart(Parts whole, const int* table, int at) {
    Parts parts = {whole.a + table[at % 4], whole.b, whole.c - at};  // reads
    return parts;
}
extern "C" __global__ void calls(int* y) {
    const int t = threadIdx.x;
    int table[4] = {1, 2, 3, t};
    EDIT
    Parts parts = take_apart({t, y[t], 7}, table, t);
    y[t] = parts.a + parts.b + parts.c;
    if (t == 3) printf("%d %s\\n", y[t], "three");
    assert(y[t] >= 0);
}
"""


@pytest.mark.parametrize(
    ("edit", "found"), [("", []), ("int other[4]; if (t > 5) other[t % 4] = 1; table = other;", [4])]
)
def test_calls_printf_and_assert_under_every_observer(capsys, edit, found):
    source = CALLS.replace("EDIT", edit)
    if edit:
        source = source.replace("int table[4] = {1, 2, 3, t};", "int* table;").replace("assert(y[t] >= 0);", "")
    kernel = cp.RawKernel(source, "calls")
    plain, watched = cp.zeros(32, np.int32), cp.zeros(32, np.int32)
    kernel((1,), (32,), (plain,))
    with observe(races=True, uninitialised=True, traffic=True) as report:
        kernel((1,), (32,), (watched,))
    assert [finding.line for finding in report.findings] == found
    np.testing.assert_array_equal(plain.get(), watched.get())
    assert capsys.readouterr().out.count("three") == 2


def test_numbas_print_under_every_observer(capsys):
    @cuda.jit
    def kernel(y):
        i = cuda.grid(1)
        y[i] = i
        print("thread", i, y[i])

    with observe(races=True, uninitialised=True, traffic=True) as report:
        kernel[1, 4](np.zeros(4, np.float32))
    assert report.findings == []
    assert capsys.readouterr().out.splitlines()[2] == "thread 2 2.000000"


@pytest.mark.parametrize("address", [99, 197, 1 << 40])
def test_no_access_goes_beyond_the_shadow_memory(address):
    states = np.full(100, shadow.DEFINED, np.uint8)
    pointers, lanes = np.array([100, address]), np.arange(2)
    assert shadow.first_undefined(states, 100, pointers[:1], 4, 1) == -1
    with pytest.raises(IndexError):
        shadow.first_undefined(states, 100, pointers, 4, 2)
    with pytest.raises(IndexError):
        shadow.set_state(states, 100, pointers, 4, 2, shadow.UNWRITTEN)
    cells, found = np.zeros((25, shadow.CELL), np.int32), np.zeros((8, shadow.FOUND), np.int64)
    numbers, rows = np.ones(2, np.int32), np.zeros((2, 0), np.int32)
    with pytest.raises(IndexError):
        shadow.check_races(
            cells,
            2,
            100,
            pointers,
            4,
            numbers,
            numbers,
            numbers,
            numbers,
            rows,
            rows,
            False,
            32,
            lanes,
            True,
            0,
            2,
            1,
            0,
            found,
        )


# -- asynchronous copies ----------------------------------------------------------------------------------------------

ASYNC = """
{shared}
mad.lo.u32 %r3, %r0, 12, %r2; mad.wide.u32 %rd6, %r0, 16, %rd1;
cp.async.cg.shared.global [%r3], [%rd6], 16;
cp.async.commit_group;
{wait}
{barrier}
xor.b32 %r4, %r3, {distance};
ld.shared.u32 %r5, [%r4];
"""


@pytest.mark.parametrize(
    ("wait", "barrier", "distance", "kinds"),
    [
        ("cp.async.wait_group 0;", "bar.sync 0;", 512, []),
        ("cp.async.wait_group 0;", "", 0, []),
        ("cp.async.wait_group 0;", "", 512, ["race"]),
        ("", "bar.sync 0;", 512, ["missing wait"]),
        ("cp.async.wait_group 1;", "bar.sync 0;", 512, ["missing wait"]),
        ("", "", 0, ["missing wait"]),
    ],
)
def test_asynchronous_copies_need_a_wait_and_a_barrier(observed, wait, barrier, distance, kinds):
    body = ASYNC.format(shared=SHARED, wait=wait, barrier=barrier, distance=distance)
    report = observed(body, np.ones(256, np.uint32), block=64)
    assert [finding.kind for finding in report.findings] == kinds
    assert [finding.kind for finding in report.missing_waits] == [kind for kind in kinds if kind == "missing wait"]
    assert all(finding.line == 8 for finding in report.findings)


@pytest.mark.parametrize("observers", [{"races": True}, {"uninitialised": True}])
@pytest.mark.parametrize(("wait", "kinds"), [("cp.async.wait_all;", []), ("", ["missing wait"])])
def test_either_observer_finds_a_missing_wait(run_ptx, observers, wait, kinds):
    """Reported at the load, also of a word that nothing uses, and no second time where it is used."""
    body = ASYNC.format(shared=SHARED, wait=wait, barrier="bar.sync 0;", distance=512) + USE.format("%r5")
    with observe(**observers) as report:
        run_ptx(body, np.ones(256, np.uint32), block=64)
    assert [finding.kind for finding in report.findings] == kinds


# -- traffic ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "offset", "sectors", "least"),
    [(4, 0, 4, 4), (4, 4, 5, 4), (8, 0, 8, 4), (32, 0, 32, 4), (128, 0, 32, 4), (0, 0, 1, 1)],
)
def test_sectors_of_a_warp(observed, scale, offset, sectors, least):
    body = f"mul.wide.u32 %rd5, %r0, {scale}; add.u64 %rd5, %rd5, %rd1;\nld.global.u32 %r1, [%rd5+{offset}];"
    report = observed(body, np.zeros(1100, np.uint32))
    (line,) = report.global_accesses
    assert (line.line, line.kind, line.warps, line.units, line.least_units) == (2, "load", 1, sectors, least)
    assert (line.nbytes, line.threads) == (128, 32)


def test_vector_loads_move_no_more_sectors_than_they_need(observed):
    body = "mad.wide.u32 %rd5, %r0, 16, %rd1;\nld.global.v4.u32 {%r1,%r2,%r3,%r4}, [%rd5];"
    (line,) = observed(body, np.zeros(256, np.uint32), block=64).global_accesses
    assert (line.warps, line.units, line.least_units, line.excess) == (2, 32, 32, 0)


@pytest.mark.parametrize(
    ("scale", "vector", "passes", "least"),
    [
        (4, "u32", 1, 1),
        (8, "u32", 2, 1),
        (128, "u32", 32, 1),
        (0, "u32", 1, 1),  # a broadcast
        (132, "u32", 1, 1),  # padded rows
        (16, "v4.u32", 4, 4),
        (8, "v2.u32", 2, 2),
        (32, "v4.u32", 8, 4),
    ],
)
def test_passes_through_the_banks(observed, scale, vector, passes, least):
    registers = {"u32": "%r3", "v2.u32": "{%r3, %r4}", "v4.u32": "{%r3, %r4, %r5, %r6}"}[vector]
    body = f".shared .align 16 .b8 s[8192];\nmov.u32 %r1, s; mad.lo.u32 %r2, %r0, {scale}, %r1;\n"
    body += f"ld.shared.{vector} {registers}, [%r2];"
    (line,) = observed(body, OUT).shared_accesses
    assert (line.line, line.warps, line.units, line.least_units) == (3, 1, passes, least)


def test_instructions_flops_and_bytes_are_counted_over_threads(observed):
    body = f"""{MINE}
    ld.global.f32 %f1, [%rd5];
    fma.rn.f32 %f2, %f1, %f1, %f1; add.f32 %f3, %f2, %f1; mul.f64 %fd1, %fd1, %fd1;
    setp.lt.u32 %p1, %r0, 10;
    @%p1 st.global.f32 [%rd5], %f3;
    bar.sync 0;
    """
    report = observed(body, np.zeros(40, np.float32), block=40)
    counts = report.instructions
    assert counts["FMA"] == 40
    assert counts["other float"] == 80
    assert counts["load global"] == 40
    assert counts["store global"] == 10
    assert counts["barrier"] == 40
    assert counts["compare and select"] == 40
    assert report.flops == 40 * (2 + 1 + 1)
    assert (report.bytes["global"].read, report.bytes["global"].written) == (160, 40)
    (fma,) = [classes for classes in report.lines.values() if "FMA" in classes]
    assert fma == {"FMA": 40, "other float": 80}  # those on one line
    assert sum(report.lines.values(), Counter()) == counts


def test_tensor_flops(observed):
    fragments = "{%f1,%f2,%f3,%f4}, {%r1,%r2,%r3,%r4}, {%r5,%r6}, {%f1,%f2,%f3,%f4}"
    body = f"mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {fragments};"
    report = observed(body, OUT, block=64)
    assert report.flops == 2 * (2 * 16 * 8 * 8)
    assert report.instructions["tensor"] == 64


def test_loops_count_each_time_round(observed):
    body = "mov.u32 %r1, 0;\nLOOP: add.u32 %r1, %r1, 1; setp.lt.u32 %p1, %r1, 10;\n@%p1 bra LOOP;"
    report = observed(body, OUT)
    assert report.instructions["compare and select"] == 320


# -- the report -------------------------------------------------------------------------------------------------------


def test_the_report_prints_what_it_holds(observed, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    report = observed(neighbour("").replace("DISTANCE", "128"), OUT, block=64)
    text = str(report)
    for part in ("race", "test.cu:5", "load shared", "Bytes by memory space", "passes"):
        assert part in text


def test_observers_are_chosen_one_by_one(run_ptx):
    body = f"{SHARED}\nst.shared.u32 [s], %r0;\nld.shared.u32 %r3, [s+4]; {USE.format('%r3')}"
    for chosen, races, unwritten in (("races", 1, 0), ("uninitialised", 0, 1), ("traffic", 0, 0)):
        with observe(**{chosen: True}) as report:
            run_ptx(body, OUT)
        assert (len(report.races), len(report.uninitialised)) == (races, unwritten)
        assert bool(report.bytes) == (chosen == "traffic")


def test_a_report_may_be_taken_and_another_begun(run_ptx):
    """What was found before is found again, and what was written before is known still."""
    body = neighbour("").replace("DISTANCE", "128")
    words = np.zeros(64, np.uint32)
    with observe(races=True, uninitialised=True, traffic=True) as whole:
        observer = observers.current()
        taken = []
        for _ in range(2):
            run_ptx(body, words, block=64)
            taken.append(observer.take_report())
    first, second = taken
    assert first is whole
    assert [each.line for each in first.findings] == [each.line for each in second.findings] == [5]
    assert first.launches == second.launches == {"test": 1}
    assert first.instructions == second.instructions
    assert observer.report.findings == []


def test_a_finding_has_its_line_of_code():
    """Of a source that is at hand, here the one that the kernel was compiled from."""
    kernel = cp.RawKernel(
        """extern "C" __global__ void shift(int* x) {
    __shared__ int s[64];
    s[threadIdx.x] = x[threadIdx.x];
    x[threadIdx.x] = s[63 - threadIdx.x];  // too early
}""",
        "shift",
    )
    with observe(races=True) as report:
        kernel((1,), (64,), (cp.zeros(64, np.int32),))
    assert [(each.line, each.code) for each in report.findings] == [
        (4, "x[threadIdx.x] = s[63 - threadIdx.x];  // too early")
    ]


def test_nothing_is_watched_afterwards(run_ptx):
    with observe(races=True) as report:
        pass
    run_ptx(f"{SHARED}\nst.shared.u32 [s], %r0;", OUT)
    assert report.findings == []
    assert not report.launches


def test_a_fault_ends_the_launch_and_keeps_what_was_found(run_ptx):
    body = f"{SHARED}\nst.shared.u32 [s], %r0;\nld.global.u32 %r3, [%rd1+-4];"  # other arrays lie further off
    with observe(races=True) as report, pytest.raises(MemoryAccessError):
        run_ptx(body, OUT)
    assert len(report.races) == 1


def test_results_are_the_same_under_observation(run_ptx):
    body = f"{SHARED}\nst.shared.u32 [%r2], %r0; bar.sync 0; xor.b32 %r3, %r2, 128; ld.shared.u32 %r9, [%r3];\n"
    body += f"{MINE}\nst.global.u32 [%rd5], %r9;"
    (plain,) = run_ptx(body, OUT, block=64)
    with observe(races=True, uninitialised=True, traffic=True) as report:
        (watched,) = run_ptx(body, OUT, block=64)
    np.testing.assert_array_equal(plain, watched)
    assert report.findings == []
