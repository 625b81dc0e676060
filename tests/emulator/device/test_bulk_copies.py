"""Bulk copies: what they move, against a model that goes element by element, and what is refused."""

import itertools
import random

import numpy as np
import pytest

from gpubp.emulator import launch, observe
from gpubp.emulator.device.memory import MEMORY
from gpubp.emulator.errors import BarrierError, HangError, MemoryAccessError, UnsupportedInstruction
from gpubp.emulator.tensor_maps import DataType, decode, encode_tiled
from tests.emulator.conftest import upload

MODULE = ".shared .align 8 .b8 bar[16];\n.shared .align 1024 .b8 tile[{}];"
BYTES = "mbarrier::complete_tx::bytes"
WIDTH = {0: 0, 1: 32, 2: 64, 3: 128}

# %r1: the mbarrier, %r2: the tile; thread 0 has made the barrier.
START = """mov.u32 %r1, bar; mov.u32 %r2, tile; setp.ne.u32 %p1, %r0, 0;
@!%p1 mbarrier.init.shared::cta.b64 [%r1], 1;
bar.sync 0;
"""
WAIT = """WAITS: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r1], 0;
@!%p2 bra WAITS;
"""


def dump(nbytes: int, target: str = "%rd1") -> str:
    """PTX by which a warp copies the tile to global memory, 16 bytes a thread."""
    return by_warp(nbytes, target, "ld.shared.v4.b32 {0}, [%r24+{1}];", "st.global.v4.b32 [%rd24+{1}], {0};")


def fill(nbytes: int, source: str = "%rd1") -> str:
    """PTX by which a warp copies global memory to the tile, for copies by thread 0."""
    moved = by_warp(nbytes, source, "ld.global.v4.b32 {0}, [%rd24+{1}];", "st.shared.v4.b32 [%r24+{1}], {0};")
    return f"{moved}\nfence.proxy.async;\nbar.sync 0;"


def by_warp(nbytes: int, address: str, *two: str) -> str:
    start = f"add.u64 %rd24, {address}, %rd24;"
    lines = [f"shl.b32 %r25, %r0, 4; add.u32 %r24, %r2, %r25; cvt.u64.u32 %rd24, %r25; {start}"]
    for place in range(0, nbytes, 512):
        lines.append(f"setp.lt.u32 %p5, %r25, {nbytes - place};")
        lines += ["@%p5 " + one.replace("{0}", "{%r20,%r21,%r22,%r23}").replace("{1}", str(place)) for one in two]
    return "\n".join(lines)


def place_of(address: int, width: int) -> int:
    """Where a byte of a box at an address lies: the swizzle exchanges bits of the address."""
    return address ^ (address >> 7 & max(0, width // 16 - 1)) << 4


def random_map(pick: random.Random, rank: int, swizzle: int, type_: DataType):
    """A random array with pads between its lines, a map of it, and coordinates."""
    item = type_.nbytes
    sides = [pick.randint(1, 40)] + [pick.randint(1, 6) for _ in range(rank - 1)]
    strides, pitch = [], sides[0] * item
    for side in sides[1:]:
        pitch = -(-pitch // 16) * 16 + 16 * pick.randint(0, 2)
        strides.append(pitch)
        pitch *= side
    memory = np.frombuffer(pick.randbytes(pitch), np.uint8).copy()
    inner = pick.choice([one for one in (16, 32, 64, 128) if not swizzle or one == WIDTH[swizzle]])
    box = [inner // item] + [pick.randint(1, 4) for _ in range(rank - 1)]
    steps = [1] + [pick.randint(1, 3) for _ in range(rank - 1)]
    at = [pick.randint(-3, side) for side in sides]
    return memory, (sides, strides, box, steps), at


def model(memory: np.ndarray, address: int, map_, at: list[int]) -> list[tuple[int, int | None]]:
    """For each byte of a box its place in a tile at 0, and in memory (None: outside of the array)."""
    item, pairs = map_.type.nbytes, []
    shape = [-(-side // step) for side, step in zip(map_.box, map_.steps, strict=True)]
    for number, index in enumerate(itertools.product(*(range(side) for side in shape[::-1]))):
        coordinates = [c + j * step for c, j, step in zip(at, index[::-1], map_.steps, strict=True)]
        inside = all(0 <= c < side for c, side in zip(coordinates, map_.sides, strict=True))
        place = sum(c * stride for c, stride in zip(coordinates, map_.strides, strict=True))
        for byte in range(item):
            to = place_of(number * item + byte, WIDTH[int(map_.swizzle)])
            pairs.append((to, place + byte if inside else None))
    return pairs


CASES = [(rank, swizzle) for rank in range(1, 6) for swizzle in range(4)]
TYPES = [DataType.UINT8, DataType.UINT16, DataType.FLOAT32, DataType.FLOAT64, DataType.BFLOAT16]


@pytest.mark.parametrize("order", ["late", "early"])
@pytest.mark.parametrize(("rank", "swizzle"), CASES)
def test_a_box_is_loaded_as_the_model_says(run_ptx, rank, swizzle, order):
    for seed in range(3):
        pick = random.Random(1000 * rank + 10 * swizzle + seed)
        memory, shape, at = random_map(pick, rank, swizzle, pick.choice(TYPES))
        memory, made, map_, address = made_map(pick, memory, shape, swizzle, rank)
        size = -(-map_.box_bytes // 1024) * 1024
        registers = ", ".join(f"%r{30 + i}" for i in range(rank))
        body = (
            START
            + "".join(f"mov.u32 %r{30 + i}, {one};" for i, one in enumerate(at))
            + f"""
@!%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], {map_.box_bytes};
@!%p1 cp.async.bulk.tensor.{rank}d.shared::cluster.global.tile.{BYTES} [%r2], [%rd2, {{{registers}}}], [%r1];
{WAIT}{dump(size)}"""
        )
        with observe(races=True, async_order=order) as report:
            out, _ = run_ptx(body, np.zeros(size, np.uint8), made, module=MODULE.format(size))
        MEMORY.free(address)
        assert not report.findings, report
        for to, place in model(memory, 0, map_, at):
            assert out[to] == (0 if place is None else memory[place]), (map_, at, to, place)


def made_map(pick, memory, shape, swizzle, rank):
    sides, strides, box, steps = shape
    type_ = next(one for one in TYPES if one.nbytes * box[0] in (16, 32, 64, 128) and memory.size >= one.nbytes)
    fitting = [one for one in TYPES if sides[0] * one.nbytes <= (strides[0] if strides else memory.size)]
    type_ = pick.choice(
        [one for one in fitting if one.nbytes * box[0] in ((WIDTH[swizzle],) if swizzle else (16, 32, 64, 128))]
    )
    address = upload(memory)
    made = encode_tiled(type_, rank, address, sides, strides, box, steps, 0, swizzle)
    return memory, made, decode(made.tobytes()), address


@pytest.mark.parametrize("order", ["late", "early"])
@pytest.mark.parametrize(("rank", "swizzle"), CASES)
def test_a_box_is_stored_as_the_model_says(run_ptx, rank, swizzle, order):
    pick = random.Random(77 + 1000 * rank + 10 * swizzle)
    memory, shape, at = random_map(pick, rank, swizzle, pick.choice(TYPES))
    memory, made, map_, address = made_map(pick, memory, shape, swizzle, rank)
    size = -(-map_.box_bytes // 1024) * 1024
    data = np.frombuffer(pick.randbytes(size), np.uint8)
    registers = ", ".join(f"%r{30 + i}" for i in range(rank))
    body = (
        START
        + "".join(f"mov.u32 %r{30 + i}, {one};" for i, one in enumerate(at))
        + f"""
{fill(size)}
@!%p1 cp.async.bulk.tensor.{rank}d.global.shared::cta.bulk_group [%rd2, {{{registers}}}], [%r2];
cp.async.bulk.commit_group;
cp.async.bulk.wait_group 0;"""
    )
    with observe(races=True, uninitialised=True, async_order=order) as report:
        run_ptx(body, data, made, module=MODULE.format(size))
    after = MEMORY.view(address, memory.size).copy()
    MEMORY.free(address)
    assert not report.findings, report
    expected = memory.copy()
    for to, place in model(memory, 0, map_, at):
        if place is not None:
            expected[place] = data[to]
    np.testing.assert_array_equal(after, expected)


@pytest.mark.parametrize(
    ("type_", "dtype", "name", "function"),
    [
        (DataType.FLOAT32, np.float32, "add", np.add),
        (DataType.FLOAT16, np.float16, "add", np.add),
        (DataType.FLOAT16, np.float16, "max", np.maximum),
        (DataType.INT32, np.int32, "min", np.minimum),
        (DataType.UINT32, np.uint32, "add", np.add),
        (DataType.UINT64, np.uint64, "xor", np.bitwise_xor),
    ],
)
def test_a_box_is_reduced(run_ptx, type_, dtype, name, function):
    rng = np.random.default_rng(5)
    old = rng.integers(-50, 50, (6, 32)).astype(dtype)
    new = rng.integers(-50, 50, (4, 16)).astype(dtype)
    address = upload(old)
    made = encode_tiled(type_, 2, address, [30, 6], [32 * old.itemsize], [16, 4], [1, 1])
    body = (
        START
        + f"""{fill(new.nbytes)}
mov.u32 %r30, 20; mov.u32 %r31, 3;
@!%p1 cp.reduce.async.bulk.tensor.2d.global.shared::cta.{name}.tile.bulk_group [%rd2, {{%r30, %r31}}], [%r2];
cp.async.bulk.commit_group;
cp.async.bulk.wait_group 0;"""
    )
    run_ptx(body, new, made, module=MODULE.format(new.nbytes))
    after = MEMORY.view(address, old.nbytes).view(dtype).reshape(old.shape).copy()
    MEMORY.free(address)
    expected = old.copy()
    expected[3:6, 20:30] = function(old[3:6, 20:30], new[:3, :10])
    np.testing.assert_array_equal(after, expected)


@pytest.mark.parametrize(
    ("name", "type_"),
    [("xor", DataType.FLOAT32), ("inc", DataType.FLOAT16), ("min", DataType.FLOAT64), ("dec", DataType.UINT64)],
)
def test_reductions_that_a_type_does_not_have_are_refused(run_ptx, name, type_):
    """Those of a box by the map's type, those of a range by the instruction's."""
    address = upload(np.zeros((4, 16), np.float64))
    made = encode_tiled(type_, 2, address, [16, 4], [128], [16, 4], [1, 1])
    box = f"cp.reduce.async.bulk.tensor.2d.global.shared::cta.{name}.bulk_group [%rd1, {{%r30, %r30}}], [%r2];"
    given = {"UINT64": "u64"}.get(type_.name, f"f{8 * type_.nbytes}")
    part = f"cp.reduce.async.bulk.global.shared::cta.bulk_group.{name}.{given} [%rd2], [%r2], 64;"
    for text, what in ((box, f"a reduction of {type_.name}"), (part, rf"does not execute.*\.{name}\.")):
        with pytest.raises(UnsupportedInstruction, match=f"test.cu:5.*{what}"):
            run_ptx(f"{START}mov.u32 %r30, 0;\n{text}", made, np.zeros(16), module=MODULE.format(1024))
    MEMORY.free(address)


def test_a_sum_of_float32_flushes_subnormals(run_ptx):
    """PTX ISA, cp.reduce.async.bulk: inputs and results, to zero of their sign; other types keep them."""
    tiny = np.float32(2**-127)
    old = np.array([tiny, -tiny, 1, 3 * tiny], np.float32)
    new = np.array([0, -0.0, tiny, -2 * tiny], np.float32)
    body = (
        START
        + f"""{fill(16)}
@!%p1 cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%rd2], [%r2], 16;
cp.async.bulk.commit_group;
cp.async.bulk.wait_group 0;"""
    )
    _, out = run_ptx(body, new, old, module=MODULE.format(1024))
    np.testing.assert_array_equal(out.view(np.uint32), np.array([0, -0.0, 1, 0], np.float32).view(np.uint32))


def test_a_copy_between_blocks_goes_to_another_one(run_ptx):
    """PTX ISA, cp.async.bulk: from the block's own shared memory to that of a different block of the cluster."""
    body = (
        START
        + """mov.u32 %r3, %cluster_ctarank; xor.b32 %r4, %r3, {other};
@!%p1 fence.mbarrier_init.release.cluster;
add.u32 %r9, %r2, %r0; add.u32 %r9, %r9, %r0; add.u32 %r9, %r9, %r0; add.u32 %r9, %r9, %r0;
mov.u32 %r10, %ctaid.x; st.shared.u32 [%r9], %r10; fence.proxy.async;
barrier.cluster.arrive.release.aligned;
barrier.cluster.wait.acquire.aligned;
mapa.shared::cluster.u32 %r5, %r2, %r4; mapa.shared::cluster.u32 %r6, %r1, %r4; add.u32 %r5, %r5, 128;
@!%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], 64;
@!%p1 cp.async.bulk.shared::cluster.shared::cta.{bytes} [%r5], [%r2], 64, [%r6];
""".replace("{bytes}", BYTES)
        + WAIT
        + """ld.shared.u32 %r7, [%r2+128];
mov.u32 %r4, %ctaid.x; mul.wide.u32 %rd6, %r4, 4; add.u64 %rd7, %rd1, %rd6; @!%p1 st.global.u32 [%rd7], %r7;
barrier.cluster.arrive.aligned;
barrier.cluster.wait.aligned;"""
    )
    how = {"grid": 4, "module": MODULE.format(1024), "directives": ".explicitcluster .reqnctapercluster 2, 1, 1"}
    with observe(races=True, uninitialised=True) as report:
        (out,) = run_ptx(body.replace("{other}", "1"), np.zeros(4, np.uint32), **how)
    assert not report.findings, report
    np.testing.assert_array_equal(out, np.arange(4) ^ 1)
    with pytest.raises(MemoryAccessError, match="the target lies in the block's own shared memory, and must"):
        run_ptx(body.replace("{other}", "0"), np.zeros(4, np.uint32), **how)


@pytest.mark.parametrize(("type_", "value", "expected"), [
    (DataType.TFLOAT32, 1 + 2**-11, 1.0), (DataType.TFLOAT32, 1 + 3 * 2**-11, 1 + 2**-9),
    (DataType.FLOAT32, 1e-40, np.float32(1e-40)), (DataType.FLOAT32_FTZ, 1e-40, 0.0),
])  # fmt: skip
def test_types_that_round_as_they_are_loaded(run_ptx, type_, value, expected):
    data = np.full(8, value, np.float32)
    address = upload(data)
    made = encode_tiled(type_, 1, address, [5], [], [8], [1], 0, 0, 0, 1)
    body = (
        START
        + f"""mov.u32 %r30, 0;
@!%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], 32;
@!%p1 cp.async.bulk.tensor.1d.shared::cta.global.mbarrier::complete_tx::bytes [%r2], [%rd2, {{%r30}}], [%r1];
{WAIT}{dump(32)}"""
    )
    out, _ = run_ptx(body, np.zeros(8, np.float32), made, module=MODULE.format(1024))
    MEMORY.free(address)
    np.testing.assert_array_equal(out[:5], np.float32(expected))
    assert np.isnan(out[5:]).all()


@pytest.mark.parametrize("order", ["late", "early"])
def test_ranges_without_a_map_go_there_and_back(run_ptx, order):
    data = np.arange(256, dtype=np.uint32)
    body = (
        START
        + f"""@!%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], 512;
add.u64 %rd5, %rd1, 256;
@!%p1 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%rd5], 512, [%r1];
{WAIT}
@!%p1 cp.async.bulk.global.shared::cta.bulk_group [%rd2], [%r2], 512;
@!%p1 cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%rd3], [%r2], 512;
cp.async.bulk.commit_group;
cp.async.bulk.wait_group.read 0;
cp.async.bulk.wait_group 0;"""
    )
    with observe(races=True, uninitialised=True, async_order=order) as report:
        _, out, added = run_ptx(body, data, np.zeros(128, np.uint32), data[:128], module=MODULE.format(1024))
    assert not report.findings, report
    np.testing.assert_array_equal(out, data[64:192])
    np.testing.assert_array_equal(added, data[:128] + data[64:192])


MULTICAST = (
    START
    + """mov.u32 %r3, %cluster_ctarank;
setp.ne.u32 %p3, %r3, 0;
@!%p1 fence.mbarrier_init.release.cluster;
barrier.cluster.arrive.release.aligned;
barrier.cluster.wait.acquire.aligned;
@!%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], 64;
mov.b16 %h1, {mask};
or.pred %p4, %p1, %p3;
@!%p4 cp.async.bulk.shared::cluster.global.{bytes}.multicast::cluster [%r2], [%rd2], 64, [%r1], %h1;
WAITS: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r1], 0;
@!%p2 bra WAITS;
mov.u32 %r4, %ctaid.x; mul.wide.u32 %rd6, %r4, 64; add.u64 %rd7, %rd1, %rd6;
"""
    + dump(64, "%rd7")
    + """
barrier.cluster.arrive.aligned;
barrier.cluster.wait.aligned;"""
)


def of_mask(mask: int) -> str:
    return MULTICAST.replace("{mask}", str(mask)).replace("{bytes}", BYTES)


@pytest.mark.parametrize("order", ["late", "early"])
def test_a_multicast_reaches_each_block_that_its_mask_names(run_ptx, order):
    data = np.arange(16, dtype=np.uint32)
    with observe(races=True, uninitialised=True, async_order=order) as report:
        out, _ = run_ptx(
            of_mask(7), np.zeros((6, 16), np.uint32), data, grid=6, module=MODULE.format(1024),
            directives=".explicitcluster .reqnctapercluster 3, 1, 1",
        )  # fmt: skip
    assert not report.findings, report
    np.testing.assert_array_equal(out, np.tile(data, (6, 1)))


def test_a_mask_that_leaves_a_block_out_leaves_it_waiting(run_ptx):
    with pytest.raises(HangError, match=r"block \(1, 0, 0\).*phase 0 of the mbarrier.*0 of 1 arrivals and 64 bytes"):
        run_ptx(
            of_mask(5), np.zeros((3, 16), np.uint32), np.zeros(16, np.uint32), grid=3,
            module=MODULE.format(1024), directives=".explicitcluster .reqnctapercluster 3, 1, 1",
        )  # fmt: skip


ONE = (
    START
    + """mov.u32 %r30, 0; mov.u32 %r31, 0; mov.u32 %r5, tile; add.u32 %r5, %r5, {at};
@!%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], 256;
@!%p1 {copy}
"""
)
BOX = (
    "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r5], [{map}, {{%r30, %r31}}], [%r1];"
)


@pytest.mark.parametrize(
    ("at", "copy", "what"),
    [
        (64, BOX.format(map="%rd1"), "misaligned access.*at 0x440.*multiple of 128"),
        (1024, BOX.format(map="%rd1"), "out of bounds.*shared memory.*past the end of tile"),
        (0, BOX.format(map="%rd2"), "is no tensor map that the emulator has encoded"),
        (0, BOX.format(map="%rd3"), "tensor map at 0x[0-9a-f]* must lie at a multiple of 64"),
        (0, BOX.format(map="%rd4"), "a tensor map lies in the kernel's parameters.*shared memory"),
        (0, BOX.format(map="%rd1").replace("2d", "1d").replace(", %r31", ""), "1 coordinates.*2 dimensions"),
        (
            0,
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r5], [%rd1], 24, [%r1];",
            "24 bytes.*16",
        ),
        (
            0,
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r5], [%rd1+8], 16, [%r1];",
            "misaligned",
        ),
        (
            0,
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r5], [%rd1], 4096, [%r1];",
            "out of b",
        ),
    ],
)
def test_what_is_refused(run_ptx, at, copy, what):
    data = np.zeros((8, 16), np.float32)
    address = upload(data)
    made = encode_tiled(7, 2, address, [16, 8], [64], [16, 4], [1, 1])
    body = ONE.format(at=at, copy=copy).replace(
        "mov.u32 %r30", "add.u64 %rd3, %rd1, 8; cvta.shared.u64 %rd4, 1024; mov.u32 %r30", 1
    )
    with pytest.raises(MemoryAccessError, match=f"kernel test, test.cu:6, .*thread .0, 0, 0.*{what}"):
        run_ptx(body, np.concatenate([made, made]), np.zeros(128, np.uint8), module=MODULE.format(1024))
    MEMORY.free(address)


def test_a_box_that_is_narrower_than_its_swizzle_is_refused(run_ptx):
    """The driver makes such a map; where in shared memory its rows lie is written nowhere."""
    address = upload(np.zeros((8, 16), np.float32))
    made = encode_tiled(7, 2, address, [16, 8], [64], [16, 4], [1, 1], 0, 3)
    with pytest.raises(UnsupportedInstruction, match=r"test.cu:6.*a box of 64 bytes, narrower than its swizzle of 128"):
        run_ptx(ONE.format(at=0, copy=BOX.format(map="%rd1")), made, module=MODULE.format(1024))
    MEMORY.free(address)


def test_an_array_that_was_freed_is_found(run_ptx):
    address = upload(np.zeros((8, 16), np.float32))
    made = encode_tiled(7, 2, address, [16, 8], [64], [16, 4], [1, 1])
    MEMORY.free(address)
    with pytest.raises(MemoryAccessError, match=r"out of bounds: reads 256 bytes of global memory.*freed"):
        run_ptx(ONE.format(at=0, copy=BOX.format(map="%rd1")), made, module=MODULE.format(1024))


def test_a_copy_needs_an_mbarrier(run_ptx):
    copy = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r5], [%rd1], 16, [%r1+8];"
    with pytest.raises(BarrierError, match=r"no mbarrier.init has made an mbarrier there"):
        run_ptx(ONE.format(at=0, copy=copy), np.zeros(16, np.uint8), module=MODULE.format(1024))


PARAMETER = """.version 8.5
.target sm_90
.address_size 64
.const .align 64 .b8 constant[128];
.shared .align 8 .b8 bar[8];
.shared .align 1024 .b8 tile[1024];
.visible .entry test(.param .u64 out, .param .align 64 .b8 map[128])
{
    .reg .pred %p<4>; .reg .b32 %r<8>; .reg .b64 %rd<8>;
    mov.u32 %r1, bar; mov.u32 %r2, tile; mov.u32 %r3, 0; ld.param.u64 %rd1, [out];
    mbarrier.init.shared::cta.b64 [%r1], 1;
    mov.b64 %rd2, map; cvta.param.u64 %rd3, %rd2;
    mov.b64 %rd4, constant; cvta.const.u64 %rd5, %rd4;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], 32;
    prefetch.tensormap [%rd3];
    cp.async.bulk.tensor.1d.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%rd3, {%r3}], [%r1];
WAITS: mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r1], 0;
    @!%p1 bra WAITS;
    ld.shared.u32 %r4, [%r2+28];
    st.global.u32 [%rd1], %r4;
    ret;
}
"""


@pytest.mark.parametrize("constant", [False, True])
def test_a_map_in_parameters_or_in_constant_memory(constant):
    data, out = upload(np.arange(8, dtype=np.uint32)), MEMORY.allocate(4)
    made = encode_tiled(2, 1, data, [8], [], [8], [1])
    text = PARAMETER.replace("[%rd3", "[%rd5") if constant else PARAMETER
    module = launch.load(text)
    other = np.zeros(128, np.uint8)
    if constant:
        MEMORY.view(module.global_address("constant"), 128)[:] = made
    params = [out.to_bytes(8, "little"), (other if constant else made).tobytes()]
    launch.launch(module.kernel("test"), (1, 1, 1), (1, 1, 1), params)
    assert MEMORY.view(out, 4).view(np.uint32)[0] == 7
    for address in (data, out):
        MEMORY.free(address)


def test_traffic_is_counted(run_ptx):
    """A box of 4 lines of 64 bytes, of which 3 lie inside: 192 bytes in 6 sectors, and 256 of shared memory."""
    address = upload(np.zeros((8, 16), np.float32))
    made = encode_tiled(7, 2, address, [16, 8], [64], [16, 4], [1, 1])
    body = ONE.format(at=0, copy=BOX.format(map="%rd1")).replace("%r31, 0", "%r31, 5") + WAIT
    with observe(traffic=True) as report:
        run_ptx(body, made, module=MODULE.format(1024))
    MEMORY.free(address)
    assert (report.bytes["global"].read, report.bytes["shared"].written) == (192, 256 + 3 * 8)  # the mbarrier, besides
    (line,) = report.global_accesses
    assert (line.kind, line.line, line.units, line.least_units) == ("load", 6, 6, 6)
    assert report.footprint.read == 192
