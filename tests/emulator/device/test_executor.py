"""Divergence, calls, atomics, special registers, printf and traps; the batch size changes nothing."""

import re

import numpy as np
import pytest

from gpubp.emulator.errors import DivergenceError, TrapError, UnsupportedInstruction

LANE = np.arange(32, dtype=np.uint32)
OUT = np.zeros(32, np.uint32)
STORE = "add.u64 %rd5, %rd1, %rd0; st.global.u32 [%rd5], %r9;\n"


# -- divergence -------------------------------------------------------------------------------------------------------


def test_both_sides_of_a_branch(run_ptx):
    body = """
    and.b32 %r1, %r0, 1; setp.eq.u32 %p1, %r1, 0;
    @%p1 bra EVEN;
    mul.lo.u32 %r9, %r0, 10; bra JOIN;
    EVEN: add.u32 %r9, %r0, 1000;
    JOIN: add.u32 %r9, %r9, 1;
    """
    (got,) = run_ptx(body + STORE, OUT)
    np.testing.assert_array_equal(got, np.where(LANE % 2, LANE * 10 + 1, LANE + 1001))


def test_a_loop_with_a_trip_count_of_each_threads_own(run_ptx):
    body = """
    mov.u32 %r9, 0; mov.u32 %r1, 0;
    LOOP: setp.ge.u32 %p1, %r1, %r0;
    @%p1 bra DONE;
    add.u32 %r9, %r9, %r1; add.u32 %r1, %r1, 1;
    bra LOOP;
    DONE: activemask.b32 %r2; setp.ne.u32 %p2, %r2, -1;
    @%p2 trap;
    """
    (got,) = run_ptx(body + STORE, OUT)  # the trap says that all lanes meet again after the loop
    np.testing.assert_array_equal(got, LANE * (LANE - 1) // 2)


def test_threads_that_return_early_are_left_alone(run_ptx):
    body = """
    mov.u32 %r9, 5; add.u64 %rd6, %rd1, %rd0; st.global.u32 [%rd6], %r9;
    setp.ge.u32 %p1, %r0, 20;
    @%p1 bra END;
    add.u32 %r9, %r0, 100;
    add.u64 %rd5, %rd1, %rd0; st.global.u32 [%rd5], %r9;
    END: ret;
    """
    (got,) = run_ptx(body, OUT)
    np.testing.assert_array_equal(got, np.where(LANE < 20, LANE + 100, 5))


def test_guards_on_every_kind_of_instruction(run_ptx):
    body = """
    mov.u32 %r9, 7; setp.lt.u32 %p1, %r0, 10;
    @%p1 add.u32 %r9, %r0, 1;
    add.u64 %rd5, %rd1, %rd0;
    @!%p1 st.global.u32 [%rd5], %r9;
    mov.u64 %rd6, 0; mov.u32 %r8, 3;
    @%p1 mov.u64 %rd6, %rd5;
    @%p1 ld.global.u32 %r8, [%rd6];
    @%p1 st.global.u32 [%rd6], %r8;
    @%p1 exit;
    st.global.u32 [%rd5], %r8;
    """
    (got,) = run_ptx(body, LANE + 50)
    np.testing.assert_array_equal(got, np.where(LANE < 10, LANE + 50, 3))


def test_branch_tables(run_ptx):
    body = """
    ts: .branchtargets A, B, C;
    rem.u32 %r1, %r0, 3;
    brx.idx %r1, ts;
    A: mov.u32 %r9, 10; bra JOIN;
    B: mov.u32 %r9, 20; bra JOIN;
    C: mov.u32 %r9, 30;
    JOIN: add.u32 %r9, %r9, %r1;
    """
    (got,) = run_ptx(body + STORE, OUT)
    np.testing.assert_array_equal(got, (LANE % 3 + 1) * 10 + LANE % 3)


def test_a_thread_that_spins_does_not_hold_up_the_one_it_waits_for(run_ptx):
    body = """
    SPIN: atom.global.cas.b32 %r1, [%rd2], 0, 1;
    setp.ne.u32 %p1, %r1, 0;
    @%p1 bra SPIN;
    ld.volatile.global.u32 %r2, [%rd1]; add.u32 %r2, %r2, 1; st.volatile.global.u32 [%rd1], %r2;
    membar.gl;
    atom.global.exch.b32 %r3, [%rd2], 0;
    """
    total, _ = run_ptx(body, np.zeros(1, np.uint32), np.zeros(1, np.uint32), block=4)
    assert total[0] == 4


# -- warp instructions under divergence -------------------------------------------------------------------------------


def test_a_shuffle_within_the_lanes_that_execute_it(run_ptx):
    body = """
    mov.u32 %r9, 0; setp.lt.u32 %p1, %r0, 16;
    @!%p1 bra END;
    shfl.sync.bfly.b32 %r9|%p2, %r0, 1, 0x1f, 0xffff;
    END:
    """
    (got,) = run_ptx(body + STORE, OUT)
    np.testing.assert_array_equal(got, np.where(LANE < 16, LANE ^ 1, 0))


@pytest.mark.parametrize(
    ("instruction", "what"),
    [
        ("shfl.sync.idx.b32 %r9, %r0, 0, 0x1f, -1;", "its mask names lanes 16-31"),
        ("vote.sync.any.pred %p3, %p1, 0x1ffff;", "its mask names lanes 16 "),
        ("redux.sync.add.s32 %r9, %r0, -1;", "its mask names lanes 16-31"),
        ("shfl.sync.idx.b32 %r9, %r0, 20, 0x1f, 0xffff;", "reads a lane that does not execute it"),
        ("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r9}, [%r0];", "lanes 16-31 of the warp do not execute it"),
    ],
)
def test_divergent_warp_instructions_are_reported(run_ptx, instruction, what):
    body = f".shared .align 16 .b8 s[1024];\nsetp.lt.u32 %p1, %r0, 16;\n@!%p1 bra END;\n{instruction}\n"
    body += "END: st.global.u32 [%rd1], %r0;"
    with pytest.raises(DivergenceError, match=rf"test.cu:4, .*{what}"):
        run_ptx(body, OUT)


def test_a_block_that_is_no_multiple_of_a_warp(run_ptx):
    body = "activemask.b32 %r9;\nredux.sync.add.u32 %r9, %r0, %r9;\n"
    (got,) = run_ptx(body + STORE, np.zeros(40, np.uint32), block=40)
    np.testing.assert_array_equal(got, [496] * 32 + [sum(range(32, 40))] * 8)


# -- atomics ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "start", "value", "expected"),
    [
        ("add.u32", 5, "%r0", 5 + 496),
        ("add.s32", 5, "-1", 5 - 64),
        ("min.s32", 5, "-3", -3),
        ("max.s32", -9, "%r0", 31),
        ("min.u32", 0xFFFFFFFF, "%r0", 0),
        ("and.b32", 0xFF, "0x0f", 0x0F),
        ("or.b32", 0, "%r0", 31),
        ("xor.b32", 3, "%r0", 3),
        ("exch.b32", 0, "%r0", 31),
        ("inc.u32", 0, "9", 64 % 10),
        ("dec.u32", 3, "9", (3 - 64) % 10),
    ],
)
@pytest.mark.parametrize("space", ["global", "shared"])
def test_integer_atomics(run_ptx, operation, start, value, expected, space):
    name = operation.split(".")[0]
    total = 64 if "%r0" not in value or name in ("max", "min", "or", "exch", "xor") else 32
    repeat = f"atom.SPACE.{operation} %r1, [ADDRESS], {value};\n" * (total // 32)
    if space == "shared":
        body = ".shared .align 4 .b8 s[4];\nld.global.u32 %r3, [%rd1]; st.shared.u32 [s], %r3; bar.sync 0;\n"
        body += repeat.replace("SPACE", "shared").replace("ADDRESS", "s")
        body += "bar.sync 0; ld.shared.u32 %r4, [s]; st.global.u32 [%rd1], %r4;"
    else:
        body = repeat.replace("SPACE", "global").replace("ADDRESS", "%rd1")
    start_bits = np.array([start % 2**32], np.uint32)
    (got,) = run_ptx(body, start_bits)
    assert got[0] == expected % 2**32


def test_an_atomic_gives_the_value_before_in_the_order_of_the_lanes(run_ptx):
    got, total = run_ptx("atom.global.add.u32 %r9, [%rd2], 2;\n" + STORE, OUT, np.zeros(1, np.uint32))
    np.testing.assert_array_equal(got, LANE * 2)
    assert total[0] == 64


@pytest.mark.parametrize(("kind", "dtype"), [("f32", np.float32), ("f64", np.float64)])
def test_float_atomics(run_ptx, kind, dtype):
    register = {"f32": "%f1", "f64": "%fd1"}[kind]
    body = f"cvt.rn.{kind}.u32 {register}, %r0;\nred.global.add.{kind} [%rd1], {register};"
    (got,) = run_ptx(body, np.full(1, 0.5, dtype))
    assert got[0] == 496.5


def test_half_atomics(run_ptx):
    body = "mov.b16 %h1, 0x3c00;\natom.global.add.noftz.f16 %h2, [%rd1], %h1;\n"
    body += "mov.b32 %r1, 0x40003c00; red.global.add.noftz.f16x2 [%rd1+4], %r1;"
    (got,) = run_ptx(body, np.array([0.5, 0, 0.25, 0], np.float16))
    np.testing.assert_array_equal(got, [32.5, 0, 32.25, 64])


def test_compare_and_swap_of_64_bits(run_ptx):
    body = "cvt.u64.u32 %rd6, %r0; add.u64 %rd7, %rd6, 1;\natom.global.cas.b64 %rd8, [%rd1], %rd6, %rd7;"
    (got,) = run_ptx(body, np.zeros(1, np.uint64))
    assert got[0] == 32


# -- calls ------------------------------------------------------------------------------------------------------------

SQUARE = """
.func (.param .b32 out) square_or_minus(.param .b32 x, .param .align 4 .b8 pair[8]) {
    .reg .b32 %r<9>; .reg .pred %p<3>;
    .loc 1 90 1
    ld.param.b32 %r1, [x]; ld.param.b32 %r2, [pair+4];
    setp.lt.u32 %p1, %r1, %r2;
    @%p1 bra SMALL;
    neg.s32 %r3, %r1; st.param.b32 [out], %r3; ret;
    SMALL: mul.lo.s32 %r3, %r1, %r1; st.param.b32 [out], %r3; ret;
}
.func (.reg .b32 out) twice(.reg .b32 x) { add.u32 out, x, x; ret; }
"""


def test_device_functions_with_parameters_in_memory(run_ptx):
    body = """
    { .param .b32 a; st.param.b32 [a], %r0; .param .align 4 .b8 b[8]; st.param.b32 [b], 0; st.param.b32 [b+4], 10;
    .param .b32 o; call.uni (o), square_or_minus, (a, b); ld.param.b32 %r9, [o]; }
    """
    (got,) = run_ptx(body + STORE, np.zeros(32, np.int32), module=SQUARE)
    signed = LANE.astype(np.int32)
    np.testing.assert_array_equal(got, np.where(signed < 10, signed**2, -signed))


def test_device_functions_with_parameters_in_registers_and_a_guard(run_ptx):
    body = "mov.u32 %r9, 1; setp.lt.u32 %p1, %r0, 4;\n@%p1 call (%r9), twice, (%r0);\n"
    (got,) = run_ptx(body + STORE, OUT, module=SQUARE)
    np.testing.assert_array_equal(got, np.where(LANE < 4, LANE * 2, 1))


# -- registers, moves -------------------------------------------------------------------------------------------------


def test_packing_and_unpacking(run_ptx):
    body = """
    mov.b64 %rd6, {%r0, 7}; mov.b64 {%r1, %r2}, %rd6;
    mov.b32 %r8, 0x00050003; mov.b32 {%h1, %h2}, %r8; mov.b32 %r3, {%h2, %h1};
    mov.b64 {_, %r4}, %rd6;
    add.u32 %r9, %r1, %r2; add.u32 %r9, %r9, %r3; add.u32 %r9, %r9, %r4;
    """
    (got,) = run_ptx(body + STORE, OUT)
    np.testing.assert_array_equal(got, LANE + 14 + 0x00030005)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tid.y", lambda t, b: t // 8 % 3),
        ("tid.z", lambda t, b: t // 24),
        ("ntid.x", lambda t, b: 8 + 0 * t),
        ("ctaid.x", lambda t, b: b % 2 + 0 * t),
        ("ctaid.y", lambda t, b: b // 2 + 0 * t),
        ("nctaid.x", lambda t, b: 2 + 0 * t),
        ("nctaid.y", lambda t, b: 3 + 0 * t),
        ("laneid", lambda t, b: t % 32),
        ("warpid", lambda t, b: t // 32),
        ("nwarpid", lambda t, b: 2 + 0 * t),
        ("lanemask_lt", lambda t, b: (1 << t % 32) - 1),
        ("lanemask_ge", lambda t, b: 0xFFFFFFFF & ~((1 << t % 32) - 1)),
    ],
)
def test_special_registers(run_ptx, name, expected):
    body = f"""
    mov.u32 %r1, %tid.y; mov.u32 %r2, %tid.z; mad.lo.u32 %r1, %r1, 8, %r0; mad.lo.u32 %r1, %r2, 24, %r1;
    mov.u32 %r3, %ctaid.y; mov.u32 %r4, %nctaid.x; mov.u32 %r5, %ctaid.x; mad.lo.u32 %r3, %r3, %r4, %r5;
    mad.lo.u32 %r1, %r3, 48, %r1; mul.wide.u32 %rd5, %r1, 4; add.u64 %rd5, %rd5, %rd1;
    mov.u32 %r9, %{name}; st.global.u32 [%rd5], %r9;
    """
    (got,) = run_ptx(body, np.zeros((6, 48), np.uint32), grid=(2, 3), block=(8, 3, 2))
    thread = np.arange(48, dtype=np.int64)
    for block in range(6):
        np.testing.assert_array_equal(got[block], expected(thread, block))


def test_the_clock_goes_on(run_ptx):
    body = "mov.u32 %r1, %clock; mov.u64 %rd6, %clock64; cvt.u32.u64 %r2, %rd6; sub.u32 %r9, %r2, %r1;\n"
    (got,) = run_ptx(body + STORE, OUT)
    assert (got > 0).all()


@pytest.mark.parametrize(
    "instruction",
    [
        "tex.1d.v4.f32.s32 {%f1,%f2,%f3,%f4}, [t, {%r1}];",
        "add.strange.u32 %r1, %r1, %r1;",
        "ld.global.sometimes.u32 %r1, [%rd1];",
        "atom.global.add.v2.f32 {%f1, %f2}, [%rd1], {%f1, %f2};",
        "atom.global.mul.u32 %r1, [%rd1], 2;",
        "mov.u32 %r1, %unknown;",
        "cp.async.bulk.strange;",
        "cp.async.bulk.tensor.6d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r1], [%rd1, {%r1}], [%r1];",
        "cp.async.bulk.tensor.3d.shared::cta.global.im2col.mbarrier::complete_tx::bytes [%r1], [%rd1, {%r1}], [%r1];",
        "cp.async.bulk.global.shared::cta.bulk_group.cp_mask [%rd1], [%r1], 16, 3;",
        "mma.sp.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f1,%f2,%f3,%f4}, {%r1,%r2}, {%r3,%r4}, %f5, %r6, 0;",
        "ldmatrix.sync.aligned.m16n16.x1.trans.shared.b8 {%r2,%r3}, [%r1];",
        "cvt.rn.satfinite.e2m1x2.f32 %h1, %f1, %f2;",
        "barrier.cluster.arrive.sometimes;",
        "barrier.cluster.wait.sometimes;",
        "fence.proxy.tensormap::generic.release.gpu;",
        "setmaxnreg.inc.sync.aligned.u32 100;",
        "griddepcontrol.sometimes;",
        "mapa.shared::cta.u32 %r1, %r1, 0;",
        "wgmma.strange.sync.aligned;",
        "wgmma.mma_async.sp.sync.aligned.m64n8k32.f32.bf16.bf16 {%f1,%f2,%f3,%f4}, %rd1, %rd1, %r1, 0, 1, 1, 1, 0, 0;",
        "tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r1], 32;",
        "mbarrier.sometimes.shared.b64 [%r1], 4;",
    ],
)
def test_what_is_not_implemented_names_the_kernel_the_line_and_the_instruction(run_ptx, instruction):
    with pytest.raises(UnsupportedInstruction, match=r"kernel test, test.cu:2: .*" + re.escape(instruction[:14])):
        run_ptx(f"mov.u32 %r1, 0;\n{instruction}", OUT)


# -- printf, assert, trap ---------------------------------------------------------------------------------------------

PRINTF = """
.extern .func (.param .b32 r) vprintf(.param .b64 a, .param .b64 b);
.global .align 1 .b8 form[40] = {37,51,100,32,37,117,32,37,46,50,102,32,37,115,32,37,99,37,37,32,37,108,108,120,10,0};
.global .align 1 .b8 word[4] = {97,98,99,0};
"""  # "%3d %u %.2f %s %c%% %llx\n"


def test_printf(run_ptx, capsys):
    body = """
    .local .align 8 .b8 buffer[48];
    setp.ne.u32 %p1, %r0, 3; @%p1 bra END;
    st.local.u32 [buffer], -5; st.local.u32 [buffer+4], -1; st.local.f64 [buffer+8], 0d3FF4000000000000;
    mov.u64 %rd6, word; st.local.u64 [buffer+16], %rd6; st.local.u32 [buffer+24], 120;
    st.local.u64 [buffer+32], 0xabcdef0123;
    mov.u64 %rd7, form; mov.u64 %rd8, buffer; cvta.local.u64 %rd8, %rd8;
    { .param .b64 f; st.param.b64 [f], %rd7; .param .b64 a; st.param.b64 [a], %rd8; .param .b32 n;
    call.uni (n), vprintf, (f, a); ld.param.b32 %r9, [n]; }
    add.u64 %rd5, %rd1, %rd0; st.global.u32 [%rd5], %r9;
    END:
    """
    (got,) = run_ptx(body, OUT, module=PRINTF)
    assert capsys.readouterr().out == " -5 4294967295 1.25 abc x% abcdef0123\n"
    assert got[3] == 6


def test_a_failed_assertion_says_what_and_where(run_ptx):
    module = """
    .extern .func __assertfail(.param .b64 a, .param .b64 b, .param .b32 c, .param .b64 d, .param .b64 e);
    .global .align 1 .b8 message[6] = {105,32,60,32,51,0};
    """
    body = """
    setp.lt.u32 %p1, %r0, 3; @%p1 bra END;
    mov.u64 %rd6, message;
    { .param .b64 a; st.param.b64 [a], %rd6; .param .b64 b; st.param.b64 [b], %rd6; .param .b32 c; st.param.b32 [c], 12;
    .param .b64 d; st.param.b64 [d], %rd6; .param .b64 e; st.param.b64 [e], 1;
    call.uni __assertfail, (a, b, c, d, e); }
    END:
    """
    with pytest.raises(TrapError, match=r"thread \(3, 0, 0\): .*:12: .*assertion `i < 3` failed"):
        run_ptx(body, OUT, module=module)


def test_a_trap_names_its_line(run_ptx):
    with pytest.raises(TrapError, match=r"test.cu:2, block \(0, 0, 0\), thread \(9, 0, 0\): .*trap"):
        run_ptx("setp.eq.u32 %p1, %r0, 9;\n@%p1 trap;", OUT)


# -- cp.async ---------------------------------------------------------------------------------------------------------

COPY = """
    .shared .align 16 .b8 s[2048];
    mov.u32 %r1, s; mad.lo.u32 %r2, %r0, 16, %r1; mad.wide.u32 %rd6, %r0, 16, %rd1;
    cp.async.cg.shared.global [%r2], [%rd6], 16;
    cp.async.commit_group;
    cp.async.ca.shared.global [%r2+1024], [%rd6], 8{size};
    cp.async.commit_group;
    {wait}
    ld.shared.f32 %f1, [%r2]; ld.shared.f32 %f2, [%r2+1028];
    mad.wide.u32 %rd7, %r0, 8, %rd2; st.global.v2.f32 [%rd7], {{%f1, %f2}};
"""


@pytest.mark.parametrize(
    ("wait", "first", "second"),
    [
        ("cp.async.wait_group 0;", True, True),
        ("cp.async.wait_group 1;", True, False),
        ("cp.async.wait_group 2;", False, False),
        ("cp.async.wait_all;", True, True),
        ("", False, False),
    ],
)
def test_an_asynchronous_copy_is_poison_until_it_is_waited_for(run_ptx, wait, first, second):
    data = np.arange(128, dtype=np.float32)
    _, got = run_ptx(COPY.format(size="", wait=wait), data, np.zeros((32, 2), np.float32))
    nothing = np.full(32, np.nan)
    np.testing.assert_array_equal(got[:, 0], data[::4] if first else nothing)
    np.testing.assert_array_equal(got[:, 1], data[1::4] if second else nothing)


def test_the_target_of_a_copy_loses_what_it_held(run_ptx):
    body = COPY.format(size="", wait="").replace("cp.async.cg", "st.shared.u32 [%r2], %r0;\ncp.async.cg", 1)
    _, got = run_ptx(body, np.arange(128, dtype=np.float32), np.zeros((32, 2), np.float32))
    assert np.isnan(got[:, 0]).all()


def test_a_short_asynchronous_copy_is_filled_up_with_zeros(run_ptx):
    data = np.arange(128, dtype=np.float32)
    _, got = run_ptx(COPY.format(size=", 4", wait="cp.async.wait_all;"), data, np.full((32, 2), 9, np.float32))
    np.testing.assert_array_equal(got[:, 1], 0)


def test_a_copy_of_no_bytes_does_not_touch_its_source(run_ptx):
    body = COPY.format(size=", 0", wait="cp.async.wait_all;").replace("[%rd6], 8", "[%rd0], 8")
    _, got = run_ptx(body, np.arange(128, dtype=np.float32), np.full((32, 2), 9, np.float32))
    np.testing.assert_array_equal(got[:, 1], 0)


def test_groups_belong_to_each_thread(run_ptx):
    """Odd lanes commit one group more, so waiting for all but one leaves them other copies than even lanes."""
    extra = "and.b32 %r5, %r0, 1; setp.eq.u32 %p1, %r5, 1; @%p1 cp.async.commit_group;\ncp.async.wait_group 1;"
    data = np.arange(128, dtype=np.float32)
    _, got = run_ptx(COPY.format(size="", wait=extra), data, np.zeros((32, 2), np.float32))
    np.testing.assert_array_equal(np.isnan(got[:, 1]), LANE % 2 == 0)


# -- the batch size ---------------------------------------------------------------------------------------------------

MIXTURE = """
    .shared .align 4 .b8 s[256];
    mov.u32 %r1, %ctaid.x; mad.lo.u32 %r2, %r1, 40, %r0;
    mov.u32 %r3, s; mad.lo.u32 %r4, %r0, 4, %r3;
    mul.lo.u32 %r5, %r2, 2654435761; mov.u32 %r9, 0;
    LOOP: and.b32 %r6, %r5, 1; setp.eq.u32 %p1, %r6, 1;
    @%p1 add.u32 %r9, %r9, %r5;
    shr.u32 %r5, %r5, 1; setp.gt.u32 %p2, %r5, %r1;
    @%p2 bra LOOP;
    st.shared.u32 [%r4], %r9;
    bar.sync 0;
    sub.u32 %r7, 39, %r0; mad.lo.u32 %r7, %r7, 4, %r3; ld.shared.u32 %r8, [%r7];
    xor.b32 %r9, %r9, %r8;
    setp.gt.u32 %p3, %r1, 20; @%p3 bra END;
    mad.wide.u32 %rd5, %r2, 4, %rd1; st.global.u32 [%rd5], %r9;
    atom.global.add.u32 %r10, [%rd2], %r9;
    END: ret;
"""


ATOMICS = """
    mov.u32 %r1, %ctaid.x; mad.lo.u32 %r2, %r1, 32, %r0;
    mul.lo.u32 %r3, %r2, 2654435761; cvt.rn.f32.u32 %f1, %r3; mul.f32 %f2, %f1, 0f38D1B717;
    red.global.add.f32 [%rd2], %f1;
    atom.global.add.u32 %r9, [%rd2+4], 1;
    red.global.add.f32 [%rd2], %f2;
    atom.global.exch.b32 %r8, [%rd2+8], %r3;
    mad.wide.u32 %rd5, %r9, 4, %rd1; st.global.u32 [%rd5], %r2;
"""


def test_the_order_of_atomics_does_not_depend_on_the_batch_size(run_ptx):
    def outcome(lanes: int | None) -> list[np.ndarray]:
        return run_ptx(ATOMICS, np.zeros(512, np.uint32), np.zeros(3, np.uint32), grid=16, lanes=lanes)

    expected = outcome(1)
    np.testing.assert_array_equal(expected[0], np.arange(512))
    for lanes in (96, None):
        for one, other in zip(expected, outcome(lanes), strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_batch_size_of_lanes_changes_no_result(run_ptx):
    def outcome(lanes: int | None) -> list[np.ndarray]:
        start = np.zeros((23, 40), np.uint32), np.zeros(1, np.uint32)
        return run_ptx(MIXTURE, *start, grid=23, block=40, lanes=lanes)

    expected = outcome(1)  # one block at a time
    for lanes in (128, 320, 1000, None):
        for one, other in zip(expected, outcome(lanes), strict=True):
            np.testing.assert_array_equal(one, other)
