"""What is particular to fused blocks: every width and sign of an access, guards, in place, faults, and the cache."""

import os
import re
import signal

import numpy as np
import pytest

import gpubp.emulator as cp
from gpubp.emulator.device import fused
from gpubp.emulator.errors import HangError, MemoryAccessError

LANE = np.arange(32, dtype=np.uint32)
OUT = np.zeros(32, np.uint32)
STORE = "add.u64 %rd5, %rd1, %rd0; st.global.u32 [%rd5], %r9;\n"


@pytest.mark.parametrize("kind", ["u8", "s8", "u16", "s16", "u32", "s32"])
def test_loads_extend_by_their_sign(run_ptx, kind):
    dtype = np.dtype(f"{'i' if kind[0] == 's' else 'u'}{int(kind[1:]) // 8}")
    values = np.random.default_rng(0).integers(0, 256, 32 * dtype.itemsize, np.uint8).view(dtype)
    body = f"""
    mul.wide.u32 %rd6, %r0, {dtype.itemsize}; add.u64 %rd7, %rd2, %rd6;
    ld.global.{kind} %r9, [%rd7];
    """
    got, _ = run_ptx(body + STORE, OUT, values)
    np.testing.assert_array_equal(got.view(np.int32 if kind[0] == "s" else np.uint32), values)


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("space", ["global", "shared"])
def test_vectors_of_items(run_ptx, count, space):
    given = np.arange(32 * count, dtype=np.uint32) * 3 + 1
    names = ", ".join(f"%r{10 + i}" for i in range(count))
    turned = ", ".join(f"%r{9 + count - i}" for i in range(count))
    body = f"""
    .shared .align 16 .b8 s[{128 * count}];
    mul.wide.u32 %rd6, %r0, {4 * count}; add.u64 %rd7, %rd2, %rd6; add.u64 %rd8, %rd1, %rd6;
    ld.global.v{count}.u32 {{{names}}}, [%rd7];
    mul.lo.u32 %r1, %r0, {4 * count}; mov.u32 %r2, s; add.u32 %r2, %r2, %r1;
    st.shared.v{count}.u32 [%r2], {{{names}}};
    ld.shared.v{count}.u32 {{{names}}}, [%r2];
    st.{space}.v{count}.u32 [{"%rd8" if space == "global" else "%r2"}], {{{turned}}};
    ld.{space}.v{count}.u32 {{{names}}}, [{"%rd8" if space == "global" else "%r2"}];
    st.global.v{count}.u32 [%rd8], {{{names}}};
    """
    got, _ = run_ptx(body, np.zeros_like(given), given)
    np.testing.assert_array_equal(got.reshape(-1, count), given.reshape(-1, count)[:, ::-1])


def test_an_address_may_be_loaded_over_itself(run_ptx):
    """A list of indices: each thread follows it, its address in the register that it loads."""
    following = np.roll(np.arange(32, dtype=np.uint64), 1)
    body = """
    cvt.u64.u32 %rd6, %r0;
    shl.b64 %rd6, %rd6, 3; add.u64 %rd6, %rd2, %rd6; ld.global.u64 %rd6, [%rd6];
    shl.b64 %rd6, %rd6, 3; add.u64 %rd6, %rd2, %rd6; ld.global.u64 %rd6, [%rd6];
    cvt.u32.u64 %r9, %rd6;
    """
    got, _ = run_ptx(body + STORE, OUT, following)
    np.testing.assert_array_equal(got, following[following[LANE].astype(int)])


def test_an_address_in_shared_memory_wraps_around(run_ptx):
    """What NVRTC makes of `s[i - 64]` in an unrolled loop: a register below zero, and an offset that leads back."""
    body = """
    .shared .b32 s[32];
    shl.b32 %r1, %r0, 2; mov.u32 %r2, s; add.u32 %r2, %r2, %r1; sub.u32 %r2, %r2, 256;
    st.shared.u32 [%r2+256], %r0; ld.shared.u32 %r9, [%r2+256];
    """
    (got,) = run_ptx(body + STORE, OUT)
    np.testing.assert_array_equal(got, LANE)


def test_guarded_accesses_and_computations(run_ptx):
    body = """
    mov.u32 %r9, 7; add.u64 %rd6, %rd2, %rd0; setp.lt.u32 %p1, %r0, 10;
    @%p1 ld.global.u32 %r9, [%rd6];
    @!%p1 add.u32 %r9, %r9, %r0;
    @!%p1 st.global.u32 [%rd6], %r9;
    """
    got, given = run_ptx(body + STORE, OUT, LANE + 100)
    np.testing.assert_array_equal(got, np.where(LANE < 10, LANE + 100, LANE + 7))
    np.testing.assert_array_equal(given, np.where(LANE < 10, LANE + 100, LANE + 7))


def test_threads_beside_a_branch_keep_their_registers(run_ptx):
    body = """
    mov.u32 %r9, 1; add.u64 %rd6, %rd2, %rd0; and.b32 %r1, %r0, 3; setp.ne.u32 %p1, %r1, 0;
    @%p1 bra BESIDE;
    ld.global.u32 %r9, [%rd6]; mul.lo.u32 %r9, %r9, 5; add.u32 %r9, %r9, 2; st.global.u32 [%rd6], %r9;
    BESIDE: add.u32 %r9, %r9, 1;
    """
    got, given = run_ptx(body + STORE, OUT, LANE)
    np.testing.assert_array_equal(got, np.where(LANE % 4, 2, 5 * LANE + 3))
    np.testing.assert_array_equal(given, np.where(LANE % 4, LANE, 5 * LANE + 2))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "ld.global.u32 %r9, [%rd6+4];",
            "test.cu:2, block (0, 0, 0), thread (31, 0, 0): access out of bounds: reads 4",
        ),
        (
            "st.global.u32 [%rd6+4], %r9;",
            "test.cu:2, block (0, 0, 0), thread (31, 0, 0): access out of bounds: writes 4",
        ),
        ("ld.global.u32 %r9, [%rd6+2];", "test.cu:2, block (0, 0, 0), thread (0, 0, 0): misaligned access: reads 4"),
        ("ld.global.u64 %rd7, [%rd6];", "test.cu:2, block (0, 0, 0), thread (1, 0, 0): misaligned access: reads 8"),
        ("@%p1 ld.global.u32 %r9, [%rd6+64];", "thread (16, 0, 0): access out of bounds: reads 4"),
        (
            "st.shared.u32 [%r1+4], %r9;",
            "thread (31, 0, 0): access out of bounds: writes 4 bytes of shared memory at 0x80",
        ),
        ("ld.shared.u32 %r9, [%r1-4];", "thread (0, 0, 0): access out of bounds: reads 4 bytes of shared memory"),
    ],
)
def test_a_fault_names_the_first_thread_that_has_it(run_ptx, line, message):
    ready = "mov.u32 %r9, 1; mov.u32 %r1, s; shl.b32 %r2, %r0, 2; add.u32 %r1, %r1, %r2; add.u64 %rd6, %rd2, %rd0;"
    body = f".shared .b32 s[32]; {ready} setp.gt.u32 %p1, %r0, 9;\n{line}\n"
    with pytest.raises(MemoryAccessError, match=re.escape(message)):
        run_ptx(body, OUT, LANE)


def test_the_first_instruction_with_a_fault_is_named(run_ptx):
    """Thread 20 fails at line 2 and thread 0 at line 3: all threads execute line 2 before."""
    body = """add.u64 %rd6, %rd2, %rd0; setp.eq.u32 %p1, %r0, 20; setp.eq.u32 %p2, %r0, 0;
    @%p1 ld.global.u32 %r9, [%rd6+4096];
    @%p2 ld.global.u32 %r9, [%rd6+4096];
    """
    with pytest.raises(MemoryAccessError, match=re.escape("test.cu:2, block (0, 0, 0), thread (20, 0, 0)")):
        run_ptx(body, OUT, LANE)


def test_a_global_address_that_was_cut_to_32_bits_is_no_address(run_ptx):
    body = "cvt.u32.u64 %r1, %rd2; ld.global.u32 %r9, [%r1];\n"
    with pytest.raises(MemoryAccessError, match="access out of bounds: reads 4 bytes of global memory"):
        run_ptx(body + STORE, OUT, LANE)


def test_nothing_is_stored_if_one_thread_may_not(run_ptx):
    out = cp.zeros(20, np.uint32)
    body = f"mov.u64 %rd6, {out.data.ptr}; add.u64 %rd6, %rd6, %rd0; mov.u32 %r9, 7; st.global.u32 [%rd6], %r9;"
    with pytest.raises(MemoryAccessError, match=re.escape("thread (20, 0, 0): access out of bounds: writes 4")):
        run_ptx(body, OUT)
    assert not out.get().any()


def test_what_threads_that_have_ended_hold_is_no_progress(run_ptx):
    """A guard holds for them alone."""
    body = """
    setp.gt.u32 %p2, %r0, 20;
    @%p2 exit;
    mov.u32 %r3, 0;
    LOOP: ld.volatile.global.u32 %r1, [%rd1];
    @%p2 add.u32 %r3, %r3, 1;
    add.u32 %r4, %r3, 1; setp.ne.u32 %p1, %r1, 12345;
    @%p1 bra LOOP;
    """
    with cp.limits(idle=30_000, total=60_000), pytest.raises(HangError, match="nobody changes what it reads there"):
        run_ptx(body, OUT)


def test_a_store_that_changes_nothing_is_no_progress(run_ptx):
    body = """
    mov.u32 %r9, 3; add.u64 %rd6, %rd1, %rd0;
    LOOP: st.global.u32 [%rd6], %r9; ld.global.u32 %r1, [%rd6]; setp.eq.u32 %p1, %r1, 3;
    @%p1 bra LOOP;
    """
    with pytest.raises(HangError, match="never ends"):
        run_ptx(body, OUT)


def test_machine_code_that_was_damaged_is_made_anew(run_ptx, tmp_path, monkeypatch):
    monkeypatch.setattr(fused, "HOT", 1)
    monkeypatch.setenv("GPUBP_CACHE_DIR", str(tmp_path))
    made = []
    object_code = fused._object_code
    monkeypatch.setattr(fused, "_object_code", lambda text: made.append(text) or object_code(text))
    body = "add.u32 %r9, %r0, 12345; mul.lo.u32 %r9, %r9, 3;\n"
    for damaged, expected in ((False, 1), (False, 1), (True, 2)):
        fused._compiled.cache_clear()
        entries = list(tmp_path.glob("loops/fused-*.o"))
        if damaged:
            for entry in entries:
                content = bytearray(entry.read_bytes())
                content[100] ^= 1
                entry.write_bytes(content)
        (got,) = run_ptx(body + STORE, OUT)
        np.testing.assert_array_equal(got, 3 * (LANE + 12345))
        assert len(made) == expected


def test_an_interrupt_waits_until_the_machine_code_is_made(monkeypatch):
    """In the midst of LLVM's work it would end the process by a double free, now and then."""
    object_code, done = fused._object_code, []

    def interrupted(text):
        os.kill(os.getpid(), signal.SIGINT)
        code = object_code(text)
        done.append(len(code))
        return code

    monkeypatch.setattr(fused, "_object_code", interrupted)
    usual = signal.getsignal(signal.SIGINT)
    text = f"define i64 @fused(i64 %a, i8* %b, i8* %c) {{ ret i64 {os.getpid()} }}"
    monkeypatch.setattr(fused.cache, "find", lambda entry, read: None)
    monkeypatch.setattr(fused.cache, "keep", lambda entry, files: None)
    with pytest.raises(KeyboardInterrupt):
        fused._compiled(text)
    assert len(done) == 1
    assert signal.getsignal(signal.SIGINT) is usual


def test_a_product_and_a_sum_are_rounded_twice(run_ptx):
    x = np.random.default_rng(1).standard_normal(32).astype(np.float32)
    body = """
    add.u64 %rd6, %rd2, %rd0; ld.global.f32 %f1, [%rd6];
    mul.rn.f32 %f2, %f1, %f1; sub.rn.f32 %f3, %f2, %f1; mov.b32 %r9, %f3;
    """
    got, _ = run_ptx(body + STORE, OUT, x)
    np.testing.assert_array_equal(got.view(np.float32), x * x - x)
    assert (x.astype(np.float64) * x - x).astype(np.float32).tolist() != (x * x - x).tolist()
