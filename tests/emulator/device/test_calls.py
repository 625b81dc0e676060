"""Calls that are not inlined: recursion, function pointers, virtual functions; and what can go wrong with them."""

import re
from pathlib import Path

import numpy as np
import pytest
from planted import changed, line_of

import gpubp.emulator as cp
from gpubp.emulator import (
    CallError,
    DivergenceError,
    HangError,
    MemoryAccessError,
    TrapError,
    launch,
    limits,
    observe,
)

SOURCE = (Path(__file__).parents[1] / "kernels" / "calls.cu").read_text()


@pytest.fixture(scope="module")
def kernels() -> cp.RawModule:
    return cp.RawModule(code=SOURCE)


def ints(*shape: int, low: int = 0, high: int = 100) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(low, high, shape, np.int32)


# --- right programs


@pytest.mark.usefixtures("watched")
class TestRight:
    @pytest.mark.parametrize("threads", [1, 32, 200])
    def test_tables_of_functions_in_device_and_constant_memory(self, kernels, threads):
        n = 500
        which, a, b = ints(n, high=3), ints(n).astype(np.float32), ints(n, low=1).astype(np.float32)
        c = cp.empty(n, np.float32)
        arguments = (cp.asarray(which), cp.asarray(a), cp.asarray(b), c, np.int32(n))
        kernels.get_function("by_table")((-(-n // threads),), (threads,), arguments)
        first = np.choose(which, [a + b, a * b, a - b])
        second = np.where(which % 2, first * b, first + b)
        assert np.array_equal(c.get(), second - np.where(which % 2, 2, 1).astype(np.float32))

    def test_a_pointer_that_the_host_read_back_is_an_argument(self, kernels):
        pointers = cp.empty(2, np.uint64)
        kernels.get_function("hand_out")((1,), (1,), (pointers,))
        x = cp.asarray(np.arange(40, dtype=np.float32))
        kernels.get_function("by_argument")((1,), (40,), (pointers.get()[0], x))
        assert np.array_equal(x.get(), np.arange(40) * 3)
        kernels.get_function("by_argument")((1,), (40,), (pointers.get()[1], x))
        assert np.array_equal(x.get(), np.arange(40) * 3 - 3)

    def test_a_pointer_that_the_host_writes_into_a_variable(self, kernels):
        pointers = cp.empty(2, np.uint64)
        kernels.get_function("hand_out")((1,), (1,), (pointers,))
        chosen = cp.ndarray((1,), np.uint64, kernels.get_global("chosen"))
        before = chosen.get()
        which, one, out = cp.zeros(1, np.int32), cp.ones(1, np.float32), cp.empty(1, np.float32)
        arguments = (which, one, one, out, np.int32(1))
        try:
            chosen[...] = pointers[:1]
            kernels.get_function("by_table")((1,), (1,), arguments)
            assert out.get() == 3
        finally:
            chosen.set(before)
        kernels.get_function("by_table")((1,), (1,), arguments)
        assert out.get() == 2

    def test_virtual_functions(self, kernels):
        out = cp.empty(64, np.float32)
        kernels.get_function("shapes")((1,), (64,), (out,))
        side = np.arange(64)
        assert np.array_equal(out.get(), np.where(side % 3, side * side + 4 * side, 0))

    def test_recursion_with_arrays_of_each_call(self, kernels):
        out = cp.empty(40, np.int32)
        kernels.get_function("fibonaccis")((1,), (40,), (out,))
        assert np.array_equal(out.get(), [[0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55][i % 11] for i in range(40)])

    def test_functions_that_call_each_other(self, kernels):
        out = cp.empty(33, np.int32)
        kernels.get_function("parity")((1,), (33,), (out,))
        assert np.array_equal(out.get(), 1 - np.arange(33) % 2)

    def test_quicksort(self, kernels):
        x = ints(96, 21)
        x[:4] = [np.arange(21), np.arange(21)[::-1], np.zeros(21), np.arange(21) % 2]
        rows = cp.asarray(x)
        kernels.get_function("sort_rows")((3,), (32,), (rows, np.int32(21)))
        assert np.array_equal(rows.get(), np.sort(x, axis=1))

    def test_traversal_of_trees(self, kernels):
        n = 200
        node = np.arange(n, dtype=np.int32)
        children = [np.where(child < n, child, -1).astype(np.int32) for child in (2 * node + 1, 2 * node + 2)]
        values = ints(n)
        out = cp.empty(n, np.int32)
        nodes = cp.asarray(np.stack([values, *children], axis=1))
        kernels.get_function("totals")((7,), (32,), (nodes, out, np.int32(n)))
        expected = values.copy()
        for i in range(n - 1, 0, -1):
            expected[(i - 1) // 2] += expected[i]
        assert np.array_equal(out.get(), expected)

    def test_structures_by_value(self, kernels):
        six = np.arange(6.0)
        out = cp.empty((12, 6), np.float64)
        kernels.get_function("by_value")((1,), (12,), (six.view([("v", "f8", 6)])[0], out))
        expected = np.tile(six, (12, 1))
        for thread in range(12):
            for n in range(1, thread + 1):
                expected[thread, n % 6] += n
        assert np.array_equal(out.get(), expected)

    def test_threads_in_different_functions_meet_again(self, kernels):
        together, inside = cp.empty(32, np.int32), cp.empty(32, np.int32)
        kernels.get_function("meet")((1,), (32,), (together, inside))
        odd = np.arange(32) % 2
        assert np.array_equal(inside.get(), np.where(odd, 0, 16))
        assert np.array_equal(together.get(), 32 + np.where(odd, 16, 0))

    def test_a_barrier_within_a_function(self, kernels):
        x = cp.asarray(np.arange(64, dtype=np.float32))
        kernels.get_function("read")((1,), (64,), (x, np.int32(0)))
        assert np.array_equal(x.get(), np.arange(64)[::-1])

    def test_printf(self, kernels, capsys):
        out = cp.zeros(40, np.int32)
        kernels.get_function("acts")((1,), (40,), (np.int32(0), out))
        said = capsys.readouterr().out.splitlines()
        assert said == [f"thread {i} says {i}, and that is that" for i in range(40)]
        assert out.get().all()

    def test_exit_ends_the_thread_however_deep_it_is(self, kernels):
        out = cp.zeros(40, np.int32)
        kernels.get_function("acts")((1,), (40,), (np.int32(1), out))
        assert np.array_equal(out.get(), 1 - np.arange(40) % 2)


def test_the_number_of_lanes_changes_no_result(kernels):
    x = ints(256, 30)
    results = []
    kernel = kernels.get_function("sort_rows")
    for lanes in (32, 64, 4096):
        rows = cp.asarray(x)
        params = [int(rows.data.ptr).to_bytes(8, "little"), (30).to_bytes(4, "little")]
        launch.launch(kernel.kernel, (8, 1, 1), (32, 1, 1), params, lanes=lanes)
        results.append(rows.get())
    assert all(np.array_equal(result, np.sort(x, axis=1)) for result in results)


# --- what ends a launch, with line, calls, block and thread


@pytest.mark.parametrize(
    ("which", "what", "text"),
    [
        (2, "assertion `x < 3` failed", "assert(x < 3)"),
        (3, "trap", "if (x == 5) __trap()"),
        (4, "breakpoint, and no debugger is there", "if (x == 6) __brkpt()"),
    ],
)
def test_a_function_that_stops_the_kernel_is_named_with_its_call(kernels, which, what, text):
    with pytest.raises(TrapError, match=what) as error:
        kernels.get_function("acts")((1,), (40,), (np.int32(which), cp.zeros(40, np.int32)))
    call = line_of("actions[which](x)", SOURCE)
    assert f"kernel.cu:{line_of(text, SOURCE)}, called at kernel.cu:{call} (inlined at" in str(error.value)
    assert f"thread ({[3, 5, 6][which - 2]}, 0, 0)" in str(error.value)


def pointers_of(kernels: cp.RawModule) -> np.ndarray:
    out = cp.empty(2, np.uint64)
    kernels.get_function("hand_out")((1,), (1,), (out,))
    return out.get()


@pytest.mark.parametrize(
    ("pointer", "what"),
    [
        (0, "a call through a null pointer"),
        (0xFFF5_FFF5_FFF5_FFF5, "a call through a pointer that nothing has written"),
        (0x1234, "a call through 0x1234, which is no function of this module"),
    ],
)
def test_a_call_of_what_is_no_function(kernels, pointer, what):
    with pytest.raises(CallError, match=what) as error:
        kernels.get_function("by_argument")((2,), (40,), (np.uint64(pointer), cp.zeros(40, np.float32)))
    at = line_of("= function(x[threadIdx.x], 3)", SOURCE)
    assert f"kernel by_argument, kernel.cu:{at}, block (0, 0, 0), thread (0, 0, 0)" in str(error.value)


def test_a_call_of_data_and_of_the_middle_of_a_function(kernels):
    x = cp.zeros(40, np.float32)
    with pytest.raises(CallError, match=r"no function of this module: 0 bytes into .* of 160 bytes"):
        kernels.get_function("by_argument")((1,), (40,), (np.uint64(x.data.ptr), x))
    with pytest.raises(CallError, match="no function of this module"):
        kernels.get_function("by_argument")((1,), (40,), (pointers_of(kernels)[0] + np.uint64(8), x))


def test_a_module_without_any_function():
    code = 'extern "C" __global__ void k(int (*f)(int), int* x) { x[0] = f(x[0]); }'
    with pytest.raises(CallError, match="a call through 0x64, which is no function of this module"):
        cp.RawKernel(code, "k")((1,), (1,), (np.uint64(100), cp.zeros(1, np.int32)))


def test_a_call_through_a_pointer_of_another_type(kernels):
    other = cp.ndarray((1,), np.uint64, kernels.get_global("other")).get()[0]
    what = "a call of halve through a pointer for functions with parameters of 4 and 4 bytes and results of 4 bytes"
    with pytest.raises(CallError, match=what):
        kernels.get_function("by_argument")((1,), (40,), (other, cp.zeros(40, np.float32)))


TWO_TYPES = """
__device__ int twice(int x) { return 2 * x; }
__device__ double half(double x) { return x / 2; }
typedef int (*Whole)(int);
typedef double (*Real)(double);
extern "C" __global__ void hand_out(void** out) { out[0] = (void*)twice; out[1] = (void*)half; }
extern "C" __global__ void both(Whole whole, Real real, double* x) {
    x[0] = whole(3);
    x[1] = real(3.0);
}
"""


def test_two_types_of_pointers_in_one_kernel_are_told_apart():
    module = cp.RawModule(code=TWO_TYPES)
    pointers = cp.empty(2, np.uint64)
    module.get_function("hand_out")((1,), (1,), (pointers,))
    twice, half = pointers.get()
    x = cp.zeros(2, np.float64)
    module.get_function("both")((1,), (1,), (twice, half, x))
    assert x.get().tolist() == [6, 1.5]
    for arguments, name, line, has in (
        ((half, half, x), "half", 8, "8 bytes and results of 8 bytes"),
        ((twice, twice, x), "twice", 9, "4 bytes and results of 4 bytes"),
    ):
        what = (
            f"kernel.cu:{line}, .*a call of {name}, which has parameters of {has} through a pointer for functions with"
        )
        with pytest.raises(CallError, match=what):
            module.get_function("both")((1,), (1,), arguments)


ALIGNED = """
struct alignas(64) Line { float v[16]; };
__device__ int bad(int n) {
    char odd[3];
    Line line;
    for (int i = 0; i < 16; i++) line.v[i] = n;
    odd[n % 3] = n;
    int wrong = reinterpret_cast<unsigned long long>(&line) % 64 != 0;
    int below = n > 0 ? bad(n - 1) : 0;
    return below + wrong + (odd[n % 3] != n) + (line.v[(n + threadIdx.x) % 16] != n);
}
extern "C" __global__ void k(int* out) { out[threadIdx.x] = bad(threadIdx.x % 8) + 100; }
"""


def test_local_variables_keep_their_alignment_in_every_call():
    out = cp.zeros(64, np.int32)
    with limits(stack=2048):
        cp.RawKernel(ALIGNED, "k")((1,), (64,), (out,))
    assert (out.get() == 100).all()


def test_a_pointer_of_another_module_is_no_function_of_this_one(kernels):
    module, _ = changed(SOURCE, "{ return a - b; }", "{ return b - a; }")
    with pytest.raises(CallError, match="no function of this module: the function _Z8multiplyff"):
        kernels.get_function("by_argument")((1,), (40,), (pointers_of(module)[0], cp.zeros(40, np.float32)))


def test_the_index_of_a_function_out_of_a_table(kernels):
    which = np.zeros(40, np.int32)
    which[37] = 3
    ones = cp.ones(40, np.float32)
    with pytest.raises(MemoryAccessError, match=r"thread \(5, 0, 0\).*0 bytes past the end of table of 24 bytes"):
        kernels.get_function("by_table")((2,), (32,), (cp.asarray(which), ones, ones, ones, np.int32(40)))


def test_code_is_no_data(kernels):
    pointer = pointers_of(kernels)[0]
    module = cp.RawModule(code='extern "C" __global__ void read(const int* x, int* y) { y[0] = x[0]; }')
    with pytest.raises(MemoryAccessError, match="the function _Z8multiplyff"):
        module.get_function("read")((1,), (1,), (pointer, cp.zeros(1, np.int32)))


# --- the stack


def test_recursion_without_an_end_overflows_the_stack():
    module, source = changed(SOURCE, "if (n < 2) return n;", "if (n == -1) return n;")
    with pytest.raises(CallError, match="stack overflow") as error:
        module.get_function("fibonaccis")((1,), (40,), (cp.zeros(40, np.int32),))
    line = line_of("int sum = fibonacci", source)
    text = str(error.value)
    assert re.search(rf"kernel fibonaccis, kernel.cu:{line}, called at kernel.cu:{line} \(\d+ times\)", text)
    assert "a call of fibonacci takes" in text
    assert "of 1,024 are in use by" in text
    assert "limits(stack=...)" in text


def test_quicksort_of_equal_halves_that_never_shrink_overflows_the_stack():
    module, source = changed(SOURCE, "quicksort(x, low, j);", "quicksort(x, low, high);")
    with pytest.raises(CallError, match="a call of quicksort takes") as error:
        module.get_function("sort_rows")((1,), (32,), (cp.asarray(ints(32, 21)), np.int32(21)))
    assert f"kernel.cu:{line_of('quicksort(x, low, high)', source)}" in str(error.value)


def test_the_limit_of_the_stack_can_be_set(kernels):
    out = cp.empty(400, np.int32)
    with pytest.raises(CallError, match="stack overflow"):
        kernels.get_function("parity")((1,), (400,), (out,))
    with limits(stack=1 << 16):
        kernels.get_function("parity")((1,), (400,), (out,))
    assert np.array_equal(out.get(), 1 - np.arange(400) % 2)
    with limits(stack=64), pytest.raises(CallError, match="of 64 are in use"):
        kernels.get_function("parity")((1,), (40,), (out,))
    with pytest.raises(ValueError, match="stack is 0: it must be at least 1"):
        limits(stack=0)


# --- local memory of a call


OUTLIVED = """
__device__ __noinline__ int* room(int n) {
    int here[4] = {n, n, n, n};
    if (n > 0) return room(n - 1);
    here[threadIdx.x & 3] = 1;
    int* out = here;
    asm volatile("" : "+l"(out));
    return out;
}
extern "C" __global__ void outlived(int* out) {
    int* gone = room(3);
    out[threadIdx.x] = gone[1];
}
__device__ int filled(int n, int end) {
    int here[4];
    for (int i = 0; i < end; i++) here[i] = n + i;
    int below = n > 0 ? filled(n - 1, end) : 0;
    return below + here[threadIdx.x % 4];
}
extern "C" __global__ void fills(int* out, int end) { out[threadIdx.x] = filled(2, end); }
"""


def test_a_variable_of_a_function_that_has_returned():
    module = cp.RawModule(code=OUTLIVED)
    with pytest.raises(MemoryAccessError, match="reads 4 bytes of local memory") as error:
        module.get_function("outlived")((1,), (32,), (cp.zeros(32, np.int32),))
    assert "in the frame of a function that has returned" in str(error.value)
    assert f"kernel.cu:{line_of('gone[1]', OUTLIVED)}" in str(error.value)


@pytest.mark.parametrize("end", [5, 8])
def test_an_array_of_a_call_that_is_overrun(end):
    module = cp.RawModule(code=OUTLIVED)
    with pytest.raises(MemoryAccessError, match=r"0 bytes past the end of .* of 16 bytes, of a call of filled"):
        module.get_function("fills")((1,), (32,), (cp.zeros(32, np.int32), np.int32(end)))


def test_an_array_of_a_call_that_is_half_written_is_reported_and_a_full_one_is_not():
    module = cp.RawModule(code=OUTLIVED)
    with observe(uninitialised=True) as report:
        module.get_function("fills")((1,), (32,), (cp.zeros(32, np.int32), np.int32(3)))
    (finding,) = report.findings
    assert finding.kind == "uninitialised read"
    assert f"kernel fills, kernel.cu:{line_of('return below + ', OUTLIVED)}" in finding.message
    out = cp.zeros(32, np.int32)
    with observe(uninitialised=True) as report:
        module.get_function("fills")((1,), (32,), (out, np.int32(4)))
    assert not report.findings
    assert np.array_equal(out.get(), 3 + 3 * (np.arange(32) % 4))


# --- races


@pytest.mark.parametrize("which", [0, 1])
def test_a_race_within_a_function_called_through_a_pointer_is_told_with_its_call(which):
    module, source = changed(SOURCE, "shared[threadIdx.x]; }", "shared[63 - threadIdx.x]; }")
    x = cp.asarray(np.arange(64, dtype=np.float32))
    with observe(races=True) as report:
        module.get_function("read")((1,), (64,), (x, np.int32(which)))
    if which == 0:
        assert not report.findings
        return
    (finding,) = report.findings
    assert finding.kind == "race"
    assert finding.location.line == line_of("shared[63 - threadIdx.x]", source)
    assert f"called at kernel.cu:{line_of('readers[which](shared, 64)', SOURCE)}" in finding.message


@pytest.mark.parametrize(
    ("which", "kind", "text"), [(0, "same-value race", "{ x[i] = i; }"), (1, "race", "{ x[i] += threadIdx.x + 1; }")]
)
def test_a_race_for_global_memory_in_functions(kernels, which, kind, text):
    for share in (1, 2):
        with observe(races=True, uninitialised=True) as report:
            kernels.get_function("store")((1,), (64,), (cp.zeros(64, np.int32), np.int32(which), np.int32(share)))
        assert {finding.kind for finding in report.findings} == ({kind} if share == 2 else set())
        for finding in report.findings:
            assert finding.location.line == line_of(text, SOURCE)
            assert f"called at kernel.cu:{line_of('stores[which](x, ', SOURCE)}" in finding.message


# --- threads that wait


def wait(kernels, which):
    kernels.get_function("wait")((1,), (which.size,), (cp.zeros(1, np.int32), cp.asarray(which.astype(np.int32))))


def test_barriers_in_two_functions_meet_if_each_warp_is_in_one(kernels):
    wait(kernels, np.arange(64) // 32)


def test_barriers_in_two_functions_under_divergence(kernels):
    with pytest.raises(DivergenceError, match="barrier under divergence") as error:
        wait(kernels, np.arange(64) % 2)
    lines = [line_of("void first_wait(", SOURCE), line_of("void second_wait(", SOURCE)]
    assert all(f"kernel.cu:{line}" in str(error.value) for line in lines)
    assert f"called at kernel.cu:{line_of('waits[which[threadIdx.x]](x)', SOURCE)}" in str(error.value)


def test_a_loop_without_an_end_in_a_function(kernels):
    with pytest.raises(HangError, match="never ends") as error:
        wait(kernels, np.full(32, 2))
    waits, called = line_of("while (*x == 0)", SOURCE), line_of("waits[which[threadIdx.x]](x)", SOURCE)
    assert f"kernel.cu:{waits}, called at kernel.cu:{called}, block" in str(error.value)


def test_a_barrier_that_threads_in_a_loop_of_another_function_never_reach(kernels):
    with pytest.raises(
        HangError, match=rf"32 threads of the block wait at kernel.cu:{line_of('void first_wait(', SOURCE)}"
    ):
        wait(kernels, np.where(np.arange(64) < 32, 2, 0))


KEPT = """
__device__ __noinline__ int deep(int n) {
    int a = n * 3, b = n % 5, c = n ^ 9, d = n / 3;
    return n < 1 ? n : deep(n - 1) + a * b + c * d + (a ^ c) % (d + 1);
}
extern "C" __global__ void keeps(const int* x, int* out, int n) {
    int kept = *static_cast<const volatile int*>(x + threadIdx.x);
    int sum = deep(n);
    out[threadIdx.x] = sum;
    if (n > 5) out[threadIdx.x] += kept;
}
"""


def test_a_register_that_holds_an_undefined_value_keeps_it_across_a_call():
    module = cp.RawModule(code=KEPT)
    for n, lines in ((3, []), (8, [line_of("+= kept", KEPT)])):
        with observe(uninitialised=True) as report:
            x, out = cp.empty(32, np.int32), cp.zeros(32, np.int32)
            x[:16] = cp.zeros(16, np.int32)
            module.get_function("keeps")((1,), (32,), (x, out, np.int32(n)))
        assert [finding.location.line for finding in report.findings] == lines
        assert all("thread (16, 0, 0)" in finding.message for finding in report.findings)
