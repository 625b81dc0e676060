"""Barriers of blocks and of warps: who waits for whom, and what can never end."""

import re

import numpy as np
import pytest

from gpubp.emulator.errors import DeadlockError, DivergenceError

LANE = np.arange(32, dtype=np.uint32)
OUT = np.zeros(32, np.uint32)
STORE = "add.u64 %rd5, %rd1, %rd0; st.global.u32 [%rd5], %r9;\n"


REVERSE = """
    .shared .align 4 .b8 s[256];
    mov.u32 %r1, s; mad.lo.u32 %r2, %r0, 4, %r1; st.shared.u32 [%r2], %r0;
    {barrier}
    sub.u32 %r3, 63, %r0; mad.lo.u32 %r2, %r3, 4, %r1; ld.shared.u32 %r9, [%r2];
"""


@pytest.mark.parametrize(
    "barrier",
    [
        "bar.sync 0;",
        "barrier.sync 3;",
        "bar.sync 1, 64;",
        "mov.u32 %r7, 2; bar.sync %r7;",
        "barrier.cta.sync.aligned 0;",
    ],
)
def test_a_barrier_lets_the_block_see_what_its_threads_wrote(run_ptx, barrier):
    (got,) = run_ptx(REVERSE.format(barrier=barrier) + STORE, np.zeros(64, np.uint32), block=64)
    np.testing.assert_array_equal(got, np.arange(64)[::-1])


def test_threads_that_come_to_a_barrier_by_two_ways(run_ptx):
    """Each warp takes another way; both ways meet at one barrier after some work."""
    diverge = """
    setp.lt.u32 %p1, %r0, 32;
    @%p1 bra ONE;
    mov.u32 %r5, 0; bra MEET;
    ONE: mov.u32 %r5, 1;
    MEET: bar.sync 0;
    """
    (got,) = run_ptx(REVERSE.format(barrier=diverge) + STORE, np.zeros(64, np.uint32), block=64)
    np.testing.assert_array_equal(got, np.arange(64)[::-1])


def test_two_warps_at_two_barriers_pass_a_value_along(run_ptx):
    """A producer arrives and goes on; the consumer waits."""
    body = """
    .shared .align 4 .b8 s[128];
    setp.ge.u32 %p1, %r0, 32; mov.u32 %r1, s; and.b32 %r2, %r0, 31; mad.lo.u32 %r1, %r2, 4, %r1;
    @%p1 bra CONSUME;
    add.u32 %r3, %r0, 500; st.shared.u32 [%r1], %r3;
    bar.arrive 1, 64;
    bra END;
    CONSUME: bar.sync 1, 64;
    ld.shared.u32 %r9, [%r1];
    mad.wide.u32 %rd5, %r2, 4, %rd1; st.global.u32 [%rd5], %r9;
    END: ret;
    """
    (got,) = run_ptx(body, OUT, block=64)
    np.testing.assert_array_equal(got, LANE + 500)


def test_two_warps_that_end_after_meeting_at_two_barriers(run_ptx):
    body = "setp.ge.u32 %p1, %r0, 32;\n@%p1 bra B;\nbar.sync 1, 64;\nret;\nB: bar.sync 1, 64;\nret;"
    run_ptx(body, OUT, block=64)


def test_shared_memory_is_poisoned_in_every_block(run_ptx):
    body = """
    .shared .align 4 .b8 s[4];
    ld.shared.u32 %r9, [s]; bar.sync 0; st.shared.u32 [s], %r0;
    mov.u32 %r1, %ctaid.x; mul.wide.u32 %rd5, %r1, 4; add.u64 %rd5, %rd5, %rd1; st.global.u32 [%rd5], %r9;
    """
    for lanes in (32, None):
        (got,) = run_ptx(body, np.zeros(4, np.uint32), grid=4, lanes=lanes)
        assert (got == 0xFFF5FFF5).all()


@pytest.mark.parametrize(("mode", "expected"), [("popc.u32", 20), ("and.pred", 0), ("or.pred", 1)])
def test_reductions_at_a_barrier(run_ptx, mode, expected):
    target = "%r9" if mode.startswith("popc") else "%p2"
    body = f"setp.lt.u32 %p1, %r0, 20;\nbar.red.{mode} {target}, 0, %p1;\n"
    body += "" if target == "%r9" else "selp.u32 %r9, 1, 0, %p2;\n"
    (got,) = run_ptx(body + STORE, np.zeros(96, np.uint32), block=96)
    assert (got == expected).all()


LEAVE_EARLY = """
    .shared .align 4 .b8 s[384];
    mov.u32 %r1, s; mad.lo.u32 %r2, %r0, 4, %r1; st.shared.u32 [%r2], %r0;
    setp.ge.u32 %p1, %r0, {first};
    @%p1 bra END;
    {barrier}
    sub.u32 %r3, {first} - 1, %r0; mad.lo.u32 %r2, %r3, 4, %r1; ld.shared.u32 %r9, [%r2];
    add.u64 %rd5, %rd1, %rd0; st.global.u32 [%rd5], %r9;
    END: ret;
"""


def leave_early(first: int, barrier: str) -> str:
    """Threads from `first` on return, and the others reverse their numbers through shared memory."""
    return LEAVE_EARLY.replace("{first} - 1", str(first - 1)).format(first=first, barrier=barrier)


@pytest.mark.parametrize("barrier", ["bar.sync 0;", "barrier.sync 5;", "bar.red.popc.u32 %r8, 0, %p1;"])
@pytest.mark.parametrize(("first", "block"), [(32, 64), (32, 96), (1, 96), (40, 96), (50, 70), (7, 7)])
def test_threads_that_have_returned_are_not_waited_for(run_ptx, barrier, first, block):
    (got,) = run_ptx(leave_early(first, barrier), np.zeros(block, np.uint32), block=block)
    np.testing.assert_array_equal(got, [*range(first)[::-1], *[0] * (block - first)])


def test_an_exit_releases_those_who_wait(run_ptx):
    """The second warp leaves long after the first one waits, in some blocks, and not at all in others."""
    body = """
    mov.u32 %r1, 0; mov.u32 %r2, %ctaid.x; mad.lo.u32 %r3, %r2, 64, %r0; mul.wide.u32 %rd5, %r3, 4;
    add.u64 %rd5, %rd5, %rd1; setp.lt.u32 %p1, %r0, 32; mov.u32 %r9, 1;
    @%p1 bra MEET;
    SPIN: add.u32 %r1, %r1, 1; setp.lt.u32 %p2, %r1, 100;
    @%p2 bra SPIN;
    and.b32 %r4, %r2, 1; setp.eq.u32 %p3, %r4, 0;
    @%p3 exit;
    mov.u32 %r9, 2;
    MEET: bar.sync 0;
    st.global.u32 [%rd5], %r9;
    """
    for lanes in (64, None):
        (got,) = run_ptx(body, np.zeros((4, 64), np.uint32), grid=4, block=64, lanes=lanes)
        np.testing.assert_array_equal(got[:, 0], [1] * 4)
        np.testing.assert_array_equal(got[:, 32], [0, 2, 0, 2])


@pytest.mark.parametrize("reaches", ["bar.sync 1, 64;", "bar.arrive 1, 64;"])
def test_a_warp_of_which_threads_have_returned_arrives_as_a_whole(run_ptx, reaches):
    """A count of threads is one of whole warps: 20 threads of the first warp and 8 of the second are 64."""
    body = f"""
    and.b32 %r1, %r0, 31; setp.ge.u32 %p1, %r1, 20;
    @%p1 exit;
    setp.lt.u32 %p2, %r0, 32; mov.u32 %r9, 1;
    @%p2 bra ONE;
    bar.sync 1, 64;
    mov.u32 %r9, 2; bra STORE;
    ONE: {reaches}
    STORE: add.u64 %rd5, %rd1, %rd0; st.global.u32 [%rd5], %r9;
    """
    (got,) = run_ptx(body, np.zeros(40, np.uint32), block=40)
    np.testing.assert_array_equal(got, [1] * 20 + [0] * 12 + [2] * 8)


def test_a_producer_may_leave_once_it_has_arrived(run_ptx):
    body = """
    setp.lt.u32 %p1, %r0, 32; mov.u32 %r9, 3;
    @%p1 bra CONSUME;
    bar.arrive 2, 64;
    exit;
    CONSUME: bar.sync 2, 64;
    """
    (got,) = run_ptx(body + STORE, np.zeros(64, np.uint32), block=64)
    np.testing.assert_array_equal(got, [3] * 32 + [0] * 32)


def test_a_warp_that_arrives_twice_counts_twice(run_ptx):
    body = """
    setp.lt.u32 %p1, %r0, 32;
    @%p1 bra CONSUME;
    bar.arrive 2, 96;
    bar.arrive 2, 96;
    exit;
    CONSUME: bar.sync 2, 96;
    """
    run_ptx(body, np.zeros(64, np.uint32), block=64)


@pytest.mark.parametrize("barrier", ["bar.sync 0, 64;", "barrier.sync 3, 64;", "bar.red.popc.u32 %r8, 1, 64, %p1;"])
def test_a_barrier_with_a_count_waits_for_threads_that_have_returned_in_vain(run_ptx, barrier):
    with pytest.raises(
        DeadlockError, match=r"test.cu:5, .*waits for 64 threads of the block: 32 wait at test.cu:5, 32 have exited"
    ):
        run_ptx(leave_early(32, barrier), OUT, block=64)


def test_a_warp_barrier_does_not_count_for_the_block(run_ptx):
    body = """
    setp.lt.u32 %p1, %r0, 32; setp.lt.u32 %p2, %r0, 16;
    @!%p1 bra OTHER;
    bar.sync 0; bra END;
    OTHER: @%p2 exit;
    setp.eq.u32 %p3, %r0, 40;
    @%p3 bra ALONE;
    bar.warp.sync -1; bra END;
    ALONE: bar.sync 0;
    END: ret;
    """
    with pytest.raises((DeadlockError, DivergenceError), match=r"test.cu:[379]"):
        run_ptx(body, OUT, block=64)


def test_two_barriers_that_wait_for_each_other_are_a_deadlock(run_ptx):
    body = "setp.lt.u32 %p1, %r0, 32;\n@!%p1 bra B;\nbar.sync 1;\nB: bar.sync 2;"
    with pytest.raises(DeadlockError, match=r"32 wait at test.cu:3, 32 wait at test.cu:4"):
        run_ptx(body, OUT, block=64)


def test_a_barrier_on_both_sides_of_a_branch_within_a_warp(run_ptx):
    body = "setp.lt.u32 %p1, %r0, 7;\n@!%p1 bra B;\nbar.sync 0;\nbra END;\nB: bar.sync 0;\nEND: ret;"
    with pytest.raises(DivergenceError, match=r"test.cu:5.*barrier under divergence.*others at test.cu:3"):
        run_ptx(body, OUT)


def test_a_warp_barrier_waits_for_the_lanes_it_names(run_ptx):
    body = """
    .shared .align 4 .b8 s[128];
    mov.u32 %r1, s; mad.lo.u32 %r2, %r0, 4, %r1; xor.b32 %r3, %r0, 16; mad.lo.u32 %r3, %r3, 4, %r1;
    setp.lt.u32 %p1, %r0, 16;
    @%p1 bra LOW;
    add.u32 %r4, %r0, 100; st.shared.u32 [%r2], %r4;
    bar.warp.sync -1;
    bra JOIN;
    LOW: add.u32 %r4, %r0, 200; st.shared.u32 [%r2], %r4;
    bar.warp.sync 0xffffffff;
    JOIN: ld.shared.u32 %r9, [%r3];
    """
    (got,) = run_ptx(body + STORE, OUT)
    np.testing.assert_array_equal(got, np.where(LANE < 16, LANE + 116, LANE + 184))


def test_a_warp_barrier_of_a_lane_that_its_mask_leaves_out(run_ptx):
    with pytest.raises(DivergenceError, match=re.escape("thread (16, 0, 0): bar.warp.sync by a thread that its mask")):
        run_ptx("bar.warp.sync 0xffff;", OUT)


def test_a_warp_barrier_that_a_named_lane_never_reaches(run_ptx):
    body = "setp.lt.u32 %p1, %r0, 16;\n@%p1 bra LOW;\nbar.sync 0;\nLOW: bar.warp.sync -1;"
    with pytest.raises((DivergenceError, DeadlockError), match=r"test.cu:[34]"):
        run_ptx(body, OUT)
