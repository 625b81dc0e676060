"""Clocks and sleep, which are no time, and hints to caches, whose addresses are checked."""

import re

import numpy as np
import pytest

import gpubp.emulator as cp
from gpubp.emulator import cuda, observe
from gpubp.emulator.errors import HangError, MemoryAccessError, UnsupportedInstruction

OUT = np.zeros(64, np.uint64)
LINES = np.arange(128, dtype=np.float32)  # four lines of 128 bytes


# -- clocks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clock64", "globaltimer"])
def test_a_clock_grows_with_every_look_and_with_sleep(run_ptx, name):
    body = f"""mov.u64 %rd2, %{name};
mov.u64 %rd3, %{name};
nanosleep.u32 5000;
mov.u64 %rd4, %{name};
sub.u64 %rd5, %rd3, %rd2;
sub.u64 %rd6, %rd4, %rd3;
st.global.v2.u64 [%rd1], {{%rd5, %rd6}};
st.global.u64 [%rd1+16], %rd4;
"""
    (first,), (second,) = run_ptx(body, OUT, block=1), run_ptx(body, OUT, block=1)
    assert 0 < first[0] < 5000 <= first[1]
    assert second[2] > first[2]  # from launch to launch


@pytest.mark.parametrize(("whole", "low", "high"), [
    ("clock64", "clock", "clock_hi"), ("globaltimer", "globaltimer_lo", "globaltimer_hi"),
])  # fmt: skip
def test_the_halves_of_a_clock_belong_together(run_ptx, whole, low, high):
    body = f"mov.u64 %rd2, %{whole};\nmov.u32 %r1, %{low};\nmov.u32 %r2, %{high};\nmov.u64 %rd3, %{whole};\n"
    body += "mov.b64 %rd4, {%r1, %r2};\nst.global.v2.u64 [%rd1], {%rd2, %rd3};\nst.global.u64 [%rd1+16], %rd4;"
    (out,) = run_ptx(body, OUT, block=1)
    assert out[0] < out[2] < out[1]


CLOCKS = r"""
extern "C" __global__ void times(unsigned* y, unsigned long long limit) {
  unsigned long long start = clock64();
  volatile unsigned* v = y;
  while (v[0] == 0 && clock64() - start < limit) __nanosleep(100);
  if (threadIdx.x == 0) y[1] = v[0] == 0 ? 7 : 8;
}
extern "C" __global__ void sleeps(unsigned* y) {
  volatile unsigned* v = y;
  unsigned pause = 8;
  while (v[0] == 0) { __nanosleep(pause); pause = min(2 * pause, 256); }  // here
  if (threadIdx.x == 0) y[1] = 7;
}
extern "C" __global__ void looks(unsigned* y) {
  volatile unsigned* v = y;
  unsigned now = 0;
  while (v[0] == 0) now = clock();  // here
  y[1] = now;
}
extern "C" __global__ void two(unsigned* y) {
  volatile unsigned* v = y;
  unsigned long long start = clock64();
  if (threadIdx.x == 40) v[0] = 3;
  else if (threadIdx.x < 32) while (v[0] == 0) if (clock64() - start > 1ull << 50) __trap();
  if (threadIdx.x == 0) y[1] = v[0];
}
"""


def clocks(name: str, *arguments) -> int:
    y = cp.zeros(2, np.uint32)
    cp.RawModule(code=CLOCKS).get_function(name)((1,), (64,), (y, *arguments))
    return int(y[1].get())


@pytest.mark.parametrize("limit", [1000, 10**6, 10**12])
def test_who_waits_for_some_time_comes_to_its_end(limit):
    """10^12 is a quarter of an hour."""
    assert clocks("times", np.uint64(limit)) == 7


@pytest.mark.parametrize("name", ["sleeps", "looks"])
def test_who_waits_for_ever_hangs_although_the_clock_goes_on(name):
    source = CLOCKS[: CLOCKS.index("// here", CLOCKS.index(name))]
    with pytest.raises(HangError, match=f"kernel {name}, kernel.cu:{source.count(chr(10)) + 1}, .*nobody changes"):
        clocks(name)


def test_time_does_not_run_away_while_others_are_about_to_act():
    assert clocks("two") == 3


def test_sleep_in_numba():
    @cuda.jit
    def rest(x):
        cuda.nanosleep(np.uint32(50))
        x[cuda.threadIdx.x] = 1

    x = np.zeros(4, np.int32)
    rest[1, 4](x)
    assert x.tolist() == [1, 1, 1, 1]


# -- hints ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hint",
    [
        "prefetch.global.L1 [%rd1+256];",
        "prefetch.global.L2 [%rd1+4096];",  # what is not there is skipped
        "prefetch.L2 [%rd1];",
        "prefetch.local.L1 [0];",
        "prefetch.global.L2::evict_last [%rd1];",
        "prefetchu.L1 [%rd1];",
        "applypriority.global.L2::evict_normal [%rd1+128], 128;",
        "applypriority.L2::evict_normal [%rd1+384], 128;",
    ],
)
def test_hints_change_nothing(run_ptx, hint):
    with observe(races=True, uninitialised=True) as report:
        (out,) = run_ptx(hint, LINES)
    np.testing.assert_array_equal(out, LINES)
    assert not report.findings


def test_what_is_discarded_has_no_value(run_ptx):
    (out,) = run_ptx("discard.global.L2 [%rd1+128], 128;", LINES, block=1)
    assert np.isnan(out[32:64]).all()
    np.testing.assert_array_equal(np.delete(out, slice(32, 64)), np.delete(LINES, slice(32, 64)))


def test_a_discard_is_a_write(run_ptx):
    body = "setp.eq.u32 %p1, %r0, 0;\n@%p1 discard.L2 [%rd1], 128;\n{0}add.u64 %rd2, %rd1, %rd0;\n"
    body += "st.global.f32 [%rd2], 0f00000000;"
    for between, kinds in (("", {"race"}), ("bar.sync 0;\n", set())):
        with observe(races=True) as report:
            run_ptx(body.format(between), LINES)
        assert {finding.kind for finding in report.findings} == kinds


@pytest.mark.parametrize("name", ["discard.global.L2", "applypriority.global.L2::evict_normal"])
def test_the_addresses_of_lines_are_checked(run_ptx, name):
    with pytest.raises(MemoryAccessError, match=r"test.cu:1, .*misaligned access: .*must be a multiple of 128"):
        run_ptx(f"{name} [%rd1+64], 128;", LINES)
    with pytest.raises(MemoryAccessError, match=r"test.cu:1, .*out of bounds: .* bytes past the end of test array"):
        run_ptx(f"{name} [%rd1+512], 128;", LINES)
    with pytest.raises(MemoryAccessError, match=r"test.cu:1, .*out of bounds: "):
        run_ptx(f"{name} [%rd1+384], 128;", LINES[:100])


@pytest.mark.parametrize(
    "instruction",
    ["prefetch.shared.L1 [%r0];", "prefetch.global.L3 [%rd1];", "discard.global.L2 [%rd1], 64;",
     "applypriority.global.L2::evict_first [%rd1], 128;", "nanosleep.u64 %rd1;"],
)  # fmt: skip
def test_other_forms_are_refused_by_name(run_ptx, instruction):
    with pytest.raises(UnsupportedInstruction, match=rf"test.cu:1: .*{re.escape(instruction[:16])}"):
        run_ptx(instruction, LINES)
