"""wgmma: every type, layout and swizzle against products whose operands are looked up element by element."""

import random

import numpy as np
import pytest

from gpubp.emulator import observe
from gpubp.emulator.errors import DivergenceError, MemoryAccessError, UnsupportedInstruction

SHARED = ".shared .align 1024 .b8 tile[{}];"
BYTES = {"bf16": 2, "f16": 2, "tf32": 4, "e4m3": 1, "e5m2": 1, "s8": 1, "u8": 1}
MODES = {0: 0, 128: 1, 64: 2, 32: 3}


def value(raw: int, type_: str) -> float:
    """The number that some bits are in a type, by its definition."""
    if type_ == "s8":
        return raw - 256 * (raw >= 128)
    if type_ == "u8":
        return raw
    exponent, mantissa, bias = {
        "bf16": (8, 7, 127), "f16": (5, 10, 15), "tf32": (8, 23, 127), "e4m3": (4, 3, 7), "e5m2": (5, 2, 15),
    }[type_]  # fmt: skip
    if type_ == "tf32":
        raw &= 0xFFFFE000  # the hardware ignores these bits
    sign = -1 if raw >> exponent + mantissa else 1
    e, m = raw >> mantissa & (1 << exponent) - 1, raw & (1 << mantissa) - 1
    return sign * (m * 2.0 ** (1 - bias - mantissa) if e == 0 else (1 + m / 2**mantissa) * 2.0 ** (e - bias))


def small(rng: np.random.Generator, type_: str, count: int) -> np.ndarray:
    """Random bits of numbers near 1, as bytes."""
    bits = rng.integers(0, 256, count * BYTES[type_]).astype(np.uint8)
    words = bits.view(f"u{BYTES[type_]}")
    if type_ == "bf16":
        words[:] = words & 0x80FF | 0x3F00
    elif type_ == "f16":
        words[:] = words & 0x83FF | 0x3C00
    elif type_ == "tf32":
        words[:] = words & 0x807FFFFF | 0x3F000000
    elif type_ == "e4m3":
        words[:] = words & 0x8F | 0x30
    elif type_ == "e5m2":
        words[:] = words & 0x87 | 0x38
    return bits


class Layout:
    """How an operand lies in shared memory: where each element is, by the formulas of the PTX ISA."""

    def __init__(self, rows: int, k: int, item: int, k_major: bool, width: int, at: int, pick: random.Random) -> None:
        self.rows, self.k, self.item, self.k_major, self.width, self.at = rows, k, item, k_major, width, at
        groups = -(-rows // 8)
        if k_major and width:
            self.leading, self.stride = 0, 8 * width + 1024 * pick.randint(0, 1)
            self.nbytes = groups * self.stride
        elif k_major:
            self.leading = 128 * pick.randint(1, 2)
            self.stride = 2 * self.leading
            self.nbytes = groups * self.stride
        else:
            line = width or 16
            per, halves = line // item, k // 8
            one = 8 * line + 1024 * pick.randint(0, 1)  # from 8 lines of k to the next
            other = one * halves  # from a panel along M or N to the next
            self.leading, self.stride = (other, one) if width else (one, other)
            self.nbytes = -(-rows // per) * other
        self.nbytes += 1024

    def address(self, i: int, k: int) -> int:
        if self.k_major and self.width:
            place = i % 8 * self.width + i // 8 * self.stride + self.item * k
        elif self.k_major:
            per = 16 // self.item
            place = i % 8 * 16 + i // 8 * self.stride + k % per * self.item + k // per * self.leading
        elif self.width:
            per = self.width // self.item
            place = i % per * self.item + i // per * self.leading + k % 8 * self.width + k // 8 * self.stride
        else:
            place = i % 8 * 2 + i // 8 * self.stride + k % 8 * 16 + k // 8 * self.leading
        found = self.at + place
        return found ^ (found >> 7 & max(0, self.width // 16 - 1)) << 4

    @property
    def descriptor(self) -> int:
        return self.at >> 4 | self.leading >> 4 << 16 | self.stride >> 4 << 32 | MODES[self.width] << 62

    def matrix(self, memory: bytes, type_: str) -> np.ndarray:
        def one(i: int, k: int) -> float:
            address = self.address(i, k)
            return value(int.from_bytes(memory[address : address + self.item], "little"), type_)

        return np.array([[one(i, k) for k in range(self.k)] for i in range(self.rows)])


def program(form: str, a: str, b: int, d: list[str], tail: str, scale: str, size: int) -> str:
    """PTX that copies operands to shared memory, adds a product to registers that come from memory, and stores them."""
    load = "f32" if d[0].startswith("%f") else "b32"
    lines = [f".reg .f32 %fa<{len(d)}>; .reg .b32 %ra<{len(d)}>; .reg .b32 %q<8>;"]
    lines.append(f"mov.u32 %r1, tile; shl.b32 %r2, %r0, 4; setp.ge.u32 %p1, %r2, {size};")
    for start in range(0, size, 2048):
        lines.append(
            f"add.u32 %r3, %r2, {start}; setp.ge.u32 %p1, %r3, {size}; cvt.u64.u32 %rd5, %r3; add.u64 %rd5, %rd1, %rd5;"
        )
        lines.append("add.u32 %r3, %r3, %r1;")
        lines.append(
            "@!%p1 ld.global.v4.b32 {%r4,%r5,%r6,%r7}, [%rd5];\n@!%p1 st.shared.v4.b32 [%r3], {%r4,%r5,%r6,%r7};"
        )
    lines.append(f"fence.proxy.async; bar.sync 0; mul.wide.u32 %rd6, %r0, {4 * len(d)}; add.u64 %rd7, %rd2, %rd6;")
    lines += [f"ld.global.{load} {one}, [%rd7+{4 * i}];" for i, one in enumerate(d)]
    lines.append("mul.wide.u32 %rd8, %r0, 16; add.u64 %rd8, %rd3, %rd8; ld.global.v4.b32 {%q0,%q1,%q2,%q3}, [%rd8];")
    lines.append(f"mov.u64 %rd9, {a if a.isdigit() else 0}; mov.u64 %rd10, {b}; setp.eq.u32 %p2, %r0, %r0;")
    lines.append("wgmma.fence.sync.aligned;")
    left = "%rd9" if a.isdigit() else a
    lines.append(f"wgmma.mma_async.sync.aligned.{form} {{{','.join(d)}}}, {left}, %rd10, {scale}{tail};")
    lines.append("wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;")
    lines += [f"st.global.{load} [%rd7+{4 * i}], {one};" for i, one in enumerate(d)]
    return "\n".join(line for one in lines for line in one.split("\n"))


def accumulators(registers: np.ndarray, n: int, type_: str) -> np.ndarray:
    """The matrix that registers (128, r) hold, by the formula of the PTX ISA."""
    found = np.zeros((64, n))
    for lane in range(128):
        warp, t = divmod(lane, 32)
        for r in range(registers.shape[1]):
            if type_ == "f16":
                for half, one in enumerate(registers[lane, r : r + 1].view(np.float16)):
                    found[16 * warp + t // 4 + 8 * (r % 2), 8 * (r // 2) + 2 * (t % 4) + half] = one
            else:
                found[16 * warp + t // 4 + 8 * (r // 2 % 2), 8 * (r // 4) + 2 * (t % 4) + r % 2] = registers[lane, r]
    return found


def check(run_ptx, d_type, a_type, b_type, n, seed, *, majors=(True, True), widths=(128, 128), registers=False,
          scales=(1, 1), keeps=True, order="late", flags=""):  # fmt: skip
    pick, rng = random.Random(seed), np.random.default_rng(seed)
    item = BYTES[a_type]
    k = 32 // item
    one = Layout(64, k, item, majors[0], widths[0], 0, pick)
    other = Layout(n, k, item, majors[1], widths[1], -(-one.nbytes // 1024) * 1024, pick)
    size = -(-(other.at + other.nbytes) // 1024) * 1024
    memory = small(rng, a_type, size // item)
    memory[other.at :] = small(rng, b_type, (size - other.at) // item)
    count = n // 4 if d_type == "f16" else n // 2
    name = "%fa" if d_type == "f32" else "%ra"
    kind = {"f32": np.float32, "s32": np.int32, "f16": np.uint32}[d_type]
    start = rng.integers(-40, 40, (128, count)).astype(kind)
    if d_type == "f16":
        start = rng.integers(-40, 40, (128, 2 * count)).astype(np.float16).view(np.uint32)
    fragments = small(rng, a_type, 128 * 16 // item).view(np.uint32).reshape(128, 4)
    tail = "" if d_type == "s32" else f", {scales[0]}, {scales[1]}"
    if item == 2:
        tail += "" if registers else f", {int(not majors[0])}"
        tail += f", {int(not majors[1])}"
    a = "{%q0,%q1,%q2,%q3}" if registers else str(one.descriptor)
    form = f"m64n{n}k{k}{flags}.{d_type}.{a_type}.{b_type}"
    text = program(
        form, a, other.descriptor, [f"{name}{i}" for i in range(count)], tail, "%p2" if keeps else "!%p2", size
    )
    with observe(races=True, uninitialised=True, async_order=order) as report:
        _, out, _ = run_ptx(text, memory, start, fragments, block=128, module=SHARED.format(size))
    assert not report.findings, report
    left = one.matrix(memory.tobytes(), a_type)
    if registers:
        per = 4 // item
        for lane in range(128):
            warp, t = divmod(lane, 32)
            for r in range(4):
                for e in range(per):
                    raw = int(fragments[lane, r]) >> 8 * item * e & (1 << 8 * item) - 1
                    left[16 * warp + t // 4 + 8 * (r % 2), r // 2 * 4 * per + t % 4 * per + e] = value(raw, a_type)
    right = other.matrix(memory.tobytes(), b_type)
    product = scales[0] * scales[1] * (left @ right.T)
    expected = product + (accumulators(start, n, d_type) if keeps else 0)
    found = accumulators(out, n, d_type)
    if d_type == "s32":
        np.testing.assert_array_equal(found, expected)
    else:
        size_of = np.abs(left) @ np.abs(right).T + 40
        assert (np.abs(found - expected) <= size_of * (2**-20 if d_type == "f32" else 2**-9)).all()


@pytest.mark.parametrize("order", ["late", "early"])
@pytest.mark.parametrize(("d", "a", "b"), [
    ("f32", "bf16", "bf16"), ("f32", "f16", "f16"), ("f16", "f16", "f16"), ("f32", "tf32", "tf32"),
    ("f32", "e4m3", "e5m2"), ("f16", "e5m2", "e5m2"), ("s32", "s8", "s8"), ("s32", "u8", "s8"),
])  # fmt: skip
def test_every_type(run_ptx, d, a, b, order):
    check(run_ptx, d, a, b, 24, 1, order=order)
    check(run_ptx, d, a, b, 8, 2, registers=True, order=order)


@pytest.mark.parametrize("widths", [(0, 0), (32, 64), (64, 32), (128, 0), (0, 128)])
@pytest.mark.parametrize("majors", [(True, True), (True, False), (False, True), (False, False)])
def test_every_layout_of_sixteen_bits(run_ptx, majors, widths):
    check(run_ptx, "f32", "bf16", "bf16", 72, sum(widths), majors=majors, widths=widths)


@pytest.mark.parametrize("width", [0, 32, 64, 128])
@pytest.mark.parametrize("type_", ["tf32", "e4m3", "s8"])
def test_every_swizzle_of_other_types(run_ptx, type_, width):
    check(run_ptx, "s32" if type_ == "s8" else "f32", type_, type_, 32, width, widths=(width, width))


def test_signs_and_replaced_accumulators(run_ptx):
    check(run_ptx, "f32", "bf16", "bf16", 8, 3, scales=(-1, 1))
    check(run_ptx, "f32", "bf16", "bf16", 8, 4, scales=(-1, -1), keeps=False)
    check(run_ptx, "f32", "f16", "f16", 256, 5, registers=True, majors=(True, False))


@pytest.mark.parametrize("form", ["m64n12k16.f32.bf16.bf16", "m64n264k16.f32.f16.f16", "m64n8k16.f16.bf16.bf16",
                                  "m64n40k32.s32.s8.s8", "m64n8k8.f32.bf16.bf16", "m64n8k16.f32.bf16.f16"])  # fmt: skip
def test_other_products_are_refused(run_ptx, form):
    text = f"mov.u64 %rd9, 0;\nwgmma.mma_async.sync.aligned.{form} {{%f1,%f2,%f3,%f4}}, %rd9, %rd9, 1, 1, 1, 0, 0;"
    with pytest.raises(UnsupportedInstruction, match=f"test.cu:2.*{form}"):
        run_ptx(text, np.zeros(4), block=128)


PRODUCT = """mov.u32 %r1, tile; wgmma.fence.sync.aligned;
mov.u64 %rd9, {a};
{guard}
wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {{%f1,%f2,%f3,%f4}}, %rd9, %rd9, 0, 1, 1, 0, 0;
wgmma.commit_group.sync.aligned;
wgmma.wait_group.sync.aligned 0;
OVER:"""


@pytest.mark.parametrize(
    ("a", "block", "guard", "error", "what"),
    [
        (
            1 << 62 | 64 << 32 | 8,
            128,
            "",
            MemoryAccessError,
            "begins at 0x80, and its pattern must at a multiple of 1024",
        ),
        (
            1 << 62 | 1024 << 32,
            128,
            "",
            MemoryAccessError,
            r"out of bounds: the descriptor \(start 0x0.*stride offset 16384",
        ),
        (1 << 62 | 64 << 32, 96, "", DivergenceError, "belongs to no warpgroup of 4 warps"),
        (
            1 << 62 | 64 << 32,
            128,
            "setp.lt.u32 %p1, %r0, 16;\n@%p1 bra OVER;",
            DivergenceError,
            "all threads of the warp",
        ),
        (
            1 << 62 | 64 << 32,
            128,
            "setp.lt.u32 %p1, %r0, 32;\n@%p1 bra OVER;",
            DivergenceError,
            "warp 0 .* has not exec",
        ),
        (
            1 << 62 | 64 << 32,
            128,
            "cvt.u64.u32 %rd8, %r0;\nadd.u64 %rd9, %rd9, %rd8;",
            DivergenceError,
            "different values",
        ),
    ],
)
def test_what_is_wrong_is_said(run_ptx, a, block, guard, error, what):
    with pytest.raises(error, match=f"kernel test, test.cu.*{what}"):
        run_ptx(PRODUCT.format(a=a, guard=guard), np.zeros(4), block=block, module=SHARED.format(8192))


@pytest.mark.parametrize("order", ["late", "early"])
def test_accumulators_that_are_moved_between_products_keep_their_sum(run_ptx, order):
    """As a compiler moves them at the end of a loop; the machine code has no such moves."""
    one = "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {{{}}}, %rd9, %rd9, {}, 1, 1, 0, 0;"
    moved = "".join(f"mov.f32 %f{i + 4}, %f{i};" for i in range(1, 5))
    body = f"""mov.u32 %r1, tile; shl.b32 %r2, %r0, 4; add.u32 %r1, %r1, %r2; mov.b32 %r3, 0x3f803f80;
st.shared.v4.b32 [%r1], {{%r3,%r3,%r3,%r3}}; fence.proxy.async; bar.sync 0;
mov.u64 %rd9, {1 << 62 | 64 << 32}; wgmma.fence.sync.aligned;
{one.format("%f1,%f2,%f3,%f4", 0)}
wgmma.commit_group.sync.aligned;
{moved}
{one.format("%f5,%f6,%f7,%f8", 1)}
wgmma.commit_group.sync.aligned;
wgmma.wait_group.sync.aligned 1;
wgmma.wait_group.sync.aligned 0;
add.u64 %rd2, %rd1, %rd0;
st.global.f32 [%rd2], %f7;"""
    with observe(races=True, async_order=order) as report:
        (out,) = run_ptx(body, np.zeros(128, np.float32), block=128,
                         module=SHARED.format(8192))  # fmt: skip
    assert not report.findings, report
    assert (out[:32] == 32).all()


def test_results_do_not_depend_on_how_many_blocks_run_at_once(run_ptx):
    """To the bit: each block multiplies other numbers, whose sums are rounded."""
    body = f"""mov.u32 %r1, tile; shl.b32 %r2, %r0, 4; add.u32 %r1, %r1, %r2; mov.u32 %r3, %ctaid.x;
mad.lo.u32 %r4, %r3, 77, %r0; mul.lo.u32 %r5, %r4, 0x10201; and.b32 %r5, %r5, 0x007f007f; or.b32 %r5, %r5, 0x3f803f80;
{"".join(f"st.shared.v4.b32 [%r1+{at}], {{%r5,%r5,%r5,%r5}}; " for at in range(0, 8192, 2048))}
fence.proxy.async; bar.sync 0;
mov.u64 %rd9, {1 << 62 | 64 << 32}; wgmma.fence.sync.aligned;
wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {{%f1,%f2,%f3,%f4}}, %rd9, %rd9, 0, 1, 1, 0, 0;
wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;
mad.lo.u32 %r6, %r3, 128, %r0; mul.wide.u32 %rd5, %r6, 4; add.u64 %rd5, %rd1, %rd5; st.global.f32 [%rd5], %f3;"""
    found = []
    for lanes in (1, 300, None):
        how = {"grid": 5, "block": 128, "module": SHARED.format(8192), "lanes": lanes}
        found.append(run_ptx(body, np.zeros((5, 128), np.float32), **how)[0])
    np.testing.assert_array_equal(found[0].view(np.uint32), found[1].view(np.uint32))
    np.testing.assert_array_equal(found[0].view(np.uint32), found[2].view(np.uint32))
    assert np.isfinite(found[0]).all()
    assert len(np.unique(found[0])) > 100
