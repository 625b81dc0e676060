"""The trace of a block: line after line, which threads took part, and what they touched."""

import sys

import numpy as np
import pytest

import gpubp.emulator as cp
from gpubp.emulator.errors import MemoryAccessError
from gpubp.emulator.observe.observers import observe
from gpubp.emulator.observe.trace import Trace, places_in

REVERSE = r"""
extern "C" __global__ void reverse(const float *x, float *y) {
    __shared__ float s[64];
    int i = threadIdx.x, first = blockIdx.x * 64;
    if (i < 40)
        s[i] = x[first + i];
    else
        s[i] = 1;
    __syncthreads();
    y[first + i] = s[63 - i];
}"""


def traced(source, name, grid, threads, *arguments, **options):
    """The trace and the report of a kernel of these lines, the first of which is line 1."""
    trace = Trace(**options)
    kernel = cp.RawKernel(source, name)
    with observe(races=True, uninitialised=True, trace=trace) as report:
        kernel((grid,), (threads,), arguments)
    return trace, report


def lines(trace, kind="code"):
    return [step.line[1] for step in trace.steps if step.kind == kind]


def accesses(trace, line, kind):
    """What the steps of a line, or of all, access in one way: (space, threads, addresses)."""
    return [
        (access.space, access.threads.tolist(), access.addresses.tolist())
        for step in trace.steps
        if line in (None, step.line[1])
        for access in step.accesses
        if access.kind == kind and access.space in ("global", "shared")
    ]


def test_each_line_with_its_threads_and_addresses():
    x, y = cp.asarray(np.arange(128, dtype=np.float32)), cp.zeros(128, np.float32)
    trace, _ = traced(REVERSE, "reverse", 2, 64, x, y, block=(1, 0, 0))
    assert y.get()[64:].tolist() == [1.0] * 24 + list(range(103, 63, -1))
    some, all_ = range(40), range(64)
    assert accesses(trace, 6, "load") == [("global", [*some], [x.data.ptr + 4 * (64 + i) for i in some])]
    stores = [each for each in accesses(trace, None, "store") if each[0] == "shared"]
    assert sorted(thread for _, threads, _ in stores for thread in threads) == [*all_]
    assert all(addresses == [4 * i for i in threads] for _, threads, addresses in stores)
    assert accesses(trace, 10, "load") == [("shared", [*all_], [4 * (63 - i) for i in all_])]
    assert accesses(trace, 10, "store") == [("global", [*all_], [y.data.ptr + 4 * (64 + i) for i in all_])]
    arrive, opened = (next(step for step in trace.steps if step.kind == kind) for kind in ("arrive", "open"))
    assert arrive.line[1] == opened.line[1] == 9
    assert arrive.threads.sum() == opened.threads.sum() == 64
    places = {step.line[1]: number for number, step in enumerate(trace.steps)}
    assert places[6] < trace.steps.index(arrive) < trace.steps.index(opened) < places[10]
    launch = trace.launches[0]
    assert (launch.kernel, launch.grid, launch.block) == ("reverse", (2, 1, 1), (64, 1, 1))
    assert [(start, size) for start, size, _ in launch.shared] == [(0, 256)]


def test_sectors_and_passes_of_an_access():
    source = r"""
extern "C" __global__ void strided(float *x) {
    __shared__ float s[1024];
    s[32 * threadIdx.x] = x[2 * threadIdx.x];
    x[2 * threadIdx.x] = s[32 * threadIdx.x] + 1;
}"""
    trace, _ = traced(source, "strided", 1, 32, cp.zeros(64, np.float32))
    found = [access for step in trace.steps for access in step.accesses]
    assert {(a.units, a.least_units) for a in found if a.space == "global"} == {(8, 4)}
    assert {(a.units, a.least_units) for a in found if a.space == "shared"} == {(32, 1)}


def test_one_warp_alone():
    x, y = cp.zeros(64, np.float32), cp.zeros(64, np.float32)
    trace, _ = traced(REVERSE, "reverse", 1, 64, x, y, warp=1)
    assert all(set(np.flatnonzero(step.threads)) <= set(range(32, 64)) for step in trace.steps)
    assert accesses(trace, 6, "load")[0][1] == list(range(32, 40))


def test_a_loop_is_not_fused_away():
    """A block that is hot is compiled without an observer: under a trace each turn is there."""
    source = r"""
extern "C" __global__ void many(int *x, int n) {
    int sum = 0;
    #pragma unroll 1
    for (int i = 0; i < n; ++i)
        sum = sum * 3 + i;
    x[threadIdx.x] = sum;
}"""
    for turns in (3, 500):
        trace = Trace()
        with observe(traffic=True, trace=trace) as report:
            cp.RawKernel(source, "many")((1,), (32,), (cp.zeros(32, np.int32), turns))
        executed = sum(step.instructions * int(step.threads.sum()) for step in trace.steps)
        assert executed == sum(report.instructions.values()) > 32 * turns


def test_steps_that_do_not_fit_are_counted(monkeypatch):
    monkeypatch.setattr(sys.modules[Trace.__module__], "MOST_STEPS", 2)
    x, y = cp.zeros(64, np.float32), cp.zeros(64, np.float32)
    trace, _ = traced(REVERSE, "reverse", 1, 64, x, y)
    assert len(trace.steps) == 2
    assert trace.lost > 0


def test_each_launch_has_its_steps():
    x, y = cp.zeros(64, np.float32), cp.zeros(64, np.float32)
    trace, kernel = Trace(), cp.RawKernel(REVERSE, "reverse")
    with observe(trace=trace):
        kernel((1,), (64,), (x, y))
        kernel((1,), (64,), (y, x))
    assert len(trace.launches) == 2
    first, second = ([step for step in trace.steps if step.launch == launch] for launch in (0, 1))
    assert [step.line for step in first] == [step.line for step in second]
    assert len(first) > 5


def test_asynchronous_copies_begin_and_arrive():
    source = r"""
extern "C" __global__ void copied(const float *x, float *y) {
    __shared__ float s[32];
    unsigned to = __cvta_generic_to_shared(s + threadIdx.x);
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(x + threadIdx.x));
    asm volatile("cp.async.wait_all;" ::: "memory");
    y[threadIdx.x] = s[threadIdx.x];
}"""
    trace, _ = traced(source, "copied", 1, 32, cp.ones(32, np.float32), cp.zeros(32, np.float32))
    begun, arrived = (
        [step for step in trace.steps if any(a.kind == kind for a in step.accesses)] for kind in ("async", "arrived")
    )
    assert [step.line[1] for step in begun] == [5]
    assert [step.line[1] for step in arrived] == [6]
    assert arrived[0].accesses[-1].addresses.tolist() == [4 * i for i in range(32)]


BULK = r"""
extern "C" __global__ void bulk(const float *x, float *y) {
    __shared__ alignas(128) float s[64];
    __shared__ alignas(8) unsigned long long bar;
    unsigned at = __cvta_generic_to_shared(&bar), to = __cvta_generic_to_shared(s);
    if (threadIdx.x == 0) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(at) : "memory");
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], 256;" ::"r"(at) : "memory");
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], 256, [%2];"
                     ::"r"(to), "l"(x), "r"(at) : "memory");
    }
    __syncthreads();
    asm volatile("{\n.reg .pred p;\nL:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], 0;\n@!p bra L;\n}"
                 ::"r"(at) : "memory");
    y[threadIdx.x] = s[threadIdx.x];
}"""


def test_a_bulk_copy_begins_and_arrives():
    x, y = cp.asarray(np.arange(64, dtype=np.float32)), cp.zeros(64, np.float32)
    trace, report = traced(BULK, "bulk", 1, 64, x, y)
    assert report.findings == []
    assert y.get().tolist() == list(range(64))
    found = [
        (a.kind, step.line[1], a.nbytes)
        for step in trace.steps
        for a in step.accesses
        if a.kind in ("async", "arrived")
    ]
    (begun, line, nbytes), (arrived, *_) = found
    assert (begun, nbytes, arrived) == ("async", 256, "arrived")
    assert line in (10, 11)  # compilers name either line of the statement
    (access,) = (a for step in trace.steps for a in step.accesses if a.kind == "arrived")
    assert access.threads.tolist() == [0]
    used = next(number for number, step in enumerate(trace.steps) if step.line[1] == 16 and step.accesses)
    came = next(n for n, step in enumerate(trace.steps) if any(a.kind == "arrived" for a in step.accesses))
    assert came < used


def test_the_trace_changes_no_result_and_no_finding():
    x = np.random.default_rng(0).standard_normal(64).astype(np.float32)
    plain, under = cp.zeros(64, np.float32), cp.zeros(64, np.float32)
    source = REVERSE.replace("__syncthreads();", "")
    with observe(races=True, uninitialised=True) as without:
        cp.RawKernel(source, "reverse")((1,), (64,), (cp.asarray(x), plain))
    trace, report = traced(source, "reverse", 1, 64, cp.asarray(x), under)
    np.testing.assert_array_equal(plain.get(), under.get())
    assert [each.message for each in report.findings] == [each.message for each in without.findings]
    assert [each.finding for each in trace.findings] == report.findings


def test_a_race_is_marked_at_its_step_with_its_other_party():
    source = REVERSE.replace("__syncthreads();", "")
    trace, _ = traced(source, "reverse", 1, 64, cp.zeros(64, np.float32), cp.zeros(64, np.float32))
    (found, *_) = trace.findings
    assert trace.steps[found.step].line[1] == 10
    here, there = places_in(found.finding.message)
    assert here.block == there.block == (0, 0, 0)
    assert here.thread[0] + there.thread[0] == 63
    other = trace.other_party(found.step, here.thread[0], there.thread[0])
    assert trace.steps[other].line[1] in (6, 8)
    assert there.thread[0] in np.concatenate([a.threads for a in trace.steps[other].accesses if a.kind == "store"])


def test_the_other_party_is_found_where_it_was_last():
    source = r"""
extern "C" __global__ void twice(float *x) {
    volatile __shared__ float s[64];
    int i = threadIdx.x;
    s[i] = 1;
    s[i] = 2;
    x[i] = s[63 - i];
}"""
    trace, _ = traced(source, "twice", 1, 64, cp.zeros(64, np.float32))
    step = next(number for number, step in enumerate(trace.steps) if step.line[1] == 7 and step.accesses)
    assert trace.steps[trace.other_party(step, 3, 60)].line[1] == 6
    assert trace.other_party(step, 3, 61) is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("x[i < 60 ? i : 100] = s[i];", [((1, 0, 0), (60, 0, 0))]),
        ("if (i == 3) s[i] = 0; x[i] = s[i];", None),
    ],
)
def test_messages_name_places(body, expected):
    """Errors and findings of the emulated device are read for the threads that they name."""
    source = f"""
extern "C" __global__ void wrong(float *x) {{
    __shared__ float s[64];
    int i = threadIdx.x;
    if (blockIdx.x == 0) return;
    {body}
}}"""
    trace = Trace((1, 0, 0))
    kernel = cp.RawKernel(source, "wrong")
    with observe(uninitialised=True, trace=trace) as report:
        if expected is None:
            kernel((2,), (64,), (cp.zeros(64, np.float32),))
            assert [place.block for place in places_in(report.findings[0].message)] == [(1, 0, 0)]
            assert trace.steps[trace.findings[0].step].line[1] == 6
        else:
            with pytest.raises(MemoryAccessError) as caught:
                kernel((2,), (64,), (cp.zeros(64, np.float32),))
            assert places_in(str(caught.value)) == expected
            assert trace.steps[-1].line[1] == 6
