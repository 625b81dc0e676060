"""The rules of asynchronous copies and products: bugs that are planted in kernels which are right, each told by kind,
line, thread, the other party's line and what to do; and nothing is told of the right ones, in either order."""

import re

import numpy as np
import pytest

import gpubp.emulator as cp
from gpubp.emulator import BarrierError, DeadlockError, DivergenceError, HangError, RegisterError, observe
from gpubp.emulator.observe.trace import Trace
from gpubp.emulator.tensor_maps import encode_tiled
from gpubp.toolchain.nvrtc import compile_file

BUGS = {
    "ring": 16, "direct": 9, "results": 9, "leaves": 2, "again": 9, "edge": 3, "pair": 9, "both": 6, "roles": 8,
    "polls": 3, "reload": 3,
}  # fmt: skip
THREADS = {
    "ring": 160,
    "direct": 128,
    "roles": 384,
    **dict.fromkeys(("reload", "results", "leaves", "again", "polls"), 64),
}
ROUNDS = 6


@pytest.fixture(scope="module")
def kernels(kernel_folder):
    names = [f"{kernel}<{bug}>" for kernel, count in BUGS.items() for bug in range(count)]
    compiled = compile_file(kernel_folder / "hopper.cu", "sm_90a", name_expressions=names)
    module = cp.RawModule(path=str(compiled.cubin_path))
    text = (kernel_folder / "hopper.cu").read_text()
    return lambda name: module.get_function(compiled.lowered_names[name]), text


def matrix(rows: int, columns: int, seed: int) -> cp.ndarray:
    """Small whole numbers as bfloat16, which a float32 sum holds exactly."""
    values = np.random.default_rng(seed).integers(-3, 4, (rows, columns)).astype(np.float32)
    return cp.asarray((values.view(np.uint32) >> 16).astype(np.uint16))


def numbers(array: cp.ndarray) -> np.ndarray:
    return (array.get().astype(np.uint32) << 16).view(np.float32)


def map_of(array: cp.ndarray, type_: int, box: list[int], swizzle: int) -> np.void:
    sides = list(array.shape[::-1])
    pitch = [array.strides[0]]
    made = encode_tiled(type_, 2, array.data.ptr, sides, pitch, box, [1, 1], 0, swizzle)
    return made.view("V128")[0]


def launch(get, kernel: str, bug: int):
    """Launch a kernel; return its results and what they should be."""
    function, block = get(f"{kernel}<{bug}>"), (THREADS.get(kernel, 32),)
    if kernel == "ring":
        a, b, c = matrix(64, 64 * ROUNDS, 1), matrix(8, 64 * ROUNDS, 2), cp.zeros((64, 8), np.float32)
        function((1,), block, (map_of(a, 9, [64, 64], 3), map_of(b, 9, [64, 8], 3), c, np.int32(ROUNDS)))
        return c, numbers(a) @ numbers(b).T
    if kernel == "direct":
        c = cp.zeros((2, 128), np.float32)
        function((1,), block, (c,))
        return c, np.full((2, 128), 64)
    if kernel == "results":
        out, seen = cp.zeros(128, np.int32), cp.zeros(64, np.int32)
        function((1,), block, (out, seen))
        return out, np.arange(128)
    if kernel == "leaves":
        out = cp.zeros(64, np.int32)
        function((1,), block, (out,))
        return out, np.arange(64)
    if kernel == "again":
        given, out = cp.asarray(np.arange(64 * ROUNDS, dtype=np.int32)), cp.zeros(64, np.int32)
        function((1,), block, (given, out, np.int32(ROUNDS)))
        return out, given.get().reshape(ROUNDS, 64).sum(axis=0)[::-1]
    if kernel == "reload":
        given, out = cp.asarray(np.arange(128, dtype=np.int32)), cp.zeros(64, np.int32)
        function((1,), block, (given, out))
        return out, given.get().reshape(2, 64).sum(axis=0)[np.arange(64) ^ 7]
    if kernel == "edge":
        given, out = cp.asarray(np.arange(8 * 16, dtype=np.float32).reshape(8, 16)), cp.zeros(32, np.float32)
        function((1,), block, (map_of(given, 7, [16, 4], 0), out))
        return out, given.get()[6:].reshape(-1)
    if kernel in ("pair", "both"):
        given, out = cp.asarray(np.arange(32, dtype=np.int32)), cp.zeros(64, np.int32)
        if kernel == "both":
            function((2,), block, (given, out))
            return out, np.tile(np.arange(32), 2)
        function((2,), block, (out,))
        return out, np.concatenate([131 - np.arange(32), 31 - np.arange(32)])
    out = cp.zeros(block, np.int32)
    if kernel == "roles":
        function((1,), block, (out,))
        return out, np.arange(384)
    function((1,), block, (cp.asarray(np.arange(32, dtype=np.int32)), out))
    return out[:32], np.arange(32)


@pytest.mark.parametrize("order", [None, 3])
@pytest.mark.parametrize("async_order", ["late", "early"])
@pytest.mark.parametrize("kernel", list(BUGS))
def test_of_right_kernels_nothing_is_told(kernels, kernel, async_order, order):
    with observe(races=True, uninitialised=True, async_order=async_order, order=order) as report:
        found, expected = launch(kernels[0], kernel, 0)
    assert not report.findings, report
    np.testing.assert_array_equal(found.get(), expected)


@pytest.mark.parametrize("async_order", ["late", "early"])
def test_a_trace_has_the_stages_that_copies_fill_and_products_read(kernels, async_order):
    """Of `ring`: each product reads what has arrived, and nothing that is on its way."""
    trace = Trace()
    with observe(async_order=async_order, trace=trace):
        found, expected = launch(kernels[0], "ring", 0)
    np.testing.assert_array_equal(found.get(), expected)
    there: set[int] = set()
    filled, products = 0, 0
    for step in trace.steps:
        for access in step.accesses:
            chunks = {at // 16 for first in access.addresses.tolist() for at in range(first, first + access.nbytes, 16)}
            if access.kind == "async":
                there -= chunks
            elif access.kind == "arrived":
                there |= chunks
                filled += len(chunks)
            elif access.kind == "product":
                assert chunks <= there
                products += 1
    assert filled == ROUNDS * (64 * 128 + 8 * 128) // 16
    assert products >= 4 * ROUNDS  # of 16 along K, of the 64 of a round


def test_a_trace_has_copies_that_leave(kernels):
    trace = Trace()
    with observe(trace=trace):
        launch(kernels[0], "results", 0)
    leaving = [access for step in trace.steps for access in step.accesses if access.kind == "leaves"]
    assert sum(access.nbytes for access in leaving) == 128 * 4


@pytest.mark.parametrize("bug", range(3))
def test_strictly_a_fence_comes_between_reads_and_a_copy_that_overwrites(kernels, bug):
    with observe(races=True) as usual:
        launch(kernels[0], "reload", bug)
    assert not usual.findings, usual
    with observe(races=True, strict=True) as report:
        launch(kernels[0], "reload", bug)
    assert bool(report.findings) == bool(bug)
    for finding in report.findings:
        assert finding.kind == "missing proxy fence"
        assert re.search(r"hopper.cu:.*thread .* reads at .*let that thread execute fence.proxy.async", finding.message)


# kernel, bug, kind, the line where it is told, what the message says besides: the other party's line, what to do.
FOUND = [
    # -- what threads have written, and the async proxy
    ("results", 1, "missing proxy fence", "store_range.out . 64", "writes at .*fence.proxy.async"),
    ("results", 2, "async race", "store_range.out . 64", "writes at .*with nothing to order the two: put a barrier"),
    ("direct", 1, "missing proxy fence", "product.d, left, right, 0", "writes at .*fence.proxy.async"),
    ("direct", 2, "async race", "product.d, left, right, 0", "writes at .*nothing to order"),
    ("direct", 3, "missing proxy fence", "product.d, left, right, 0", "writes at .*fence.proxy.async"),
    # -- mbarriers of other blocks
    ("pair", 1, "mbarrier init", "arrive_remote.address", "without a fence: .*fence.mbarrier_init"),
    ("both", 1, "mbarrier init", "cp.async.bulk.shared::cluster.*multicast", "without a fence: .*fence.mbarrier_init"),
    ("pair", 2, "race", "ld.shared::cluster", "block .* writes at"),
    ("both", 2, "mbarrier init", "multicast::cluster", "with nothing to order the two: .*barrier of the cluster"),
    ("ring", 2, "race", "", "nothing to order the two"),
    # -- phases
    ("ring", 3, "mbarrier phase", "expect.full . 8 . s, bytes", "does not know that phase 0 is over: let it wait"),
    ("ring", 8, "missing wait", "product.d, descriptor", "a copy may still be writing.*issued at .*wait at"),
    ("again", 4, "async race", "load_range.address.tile", "thread .* reads at"),
    ("again", 5, "mbarrier phase", "BUG == 5 && i. arrive", "does not know that phase 0 is over"),
    ("again", 6, "missing wait", "sum . = tile|sum .. tile", "wait at the mbarrier that the copy completes"),
    # -- bytes
    ("ring", 4, "mbarrier bytes", "load.to . A_BYTES", "1,024 bytes .* are counted in phase 1 .*issued in phase 0"),
    # -- targets and sources of copies
    ("again", 7, "missing wait", "sum .. tile", "a copy may still be writing, .*load|issued at"),
    ("again", 8, "race", "", ""),
    ("ring", 7, "missing wait", "product.d, descriptor", "issued at .*wait at the mbarrier"),
    ("ring", 9, "missing wait", "product.d, descriptor", "issued at .*wait at the mbarrier"),
    ("results", 3, "async race", "tile.threadIdx.x. = 64", "a copy to global memory may .*reading.*wait_group.read"),
    ("results", 4, "async race", "tile.threadIdx.x. = 64", "a copy to global memory may .*reading.*wait_group.read"),
    ("results", 5, "async race", "tile.threadIdx.x. = 64", "let the thread that has issued it execute"),
    ("results", 6, "async race", "tile.threadIdx.x. = 64", "then order the two"),
    ("results", 7, "missing wait", "seen.threadIdx.x. = out", "wait_group without .read"),
    ("results", 8, "race", "seen.threadIdx.x. = out", "nothing to order the two"),
    ("leaves", 1, "early exit", "store_range.out, address", "the block ends while a copy .*wait for it by"),
    # -- products
    ("ring", 6, "wgmma registers", "product.d, descriptor", "have executed no wgmma.fence"),
    ("ring", 10, "wgmma registers", "product.d, descriptor", "accumulators have been accessed since"),
    ("ring", 11, "missing wait", "product.d, descriptor", "nobody waits for this product"),
    ("ring", 12, "async race", "load.to, &a", "a product may still be reading.*issued at .*wgmma.wait_group"),
    ("ring", 13, "async race", "load.to, &a", "a product may still be reading.*issued at .*wgmma.wait_group"),
    ("direct", 4, "wgmma registers", "add.f32", "reads the accumulators .*wgmma.wait_group"),
    ("direct", 5, "wgmma registers", "int i = 0; i < 2|a.1. .= threadIdx", "writes an operand .*issued at"),
    ("direct", 6, "async race", "tile.threadIdx.x. = 7", "a product may still be reading.*wgmma.wait_group"),
    ("direct", 7, "missing wait", "product.d, left, right, 0", "nobody waits for this product"),
    ("direct", 8, "wgmma registers", "product.d, left, right, 1", "accumulators have been accessed since"),
    # -- the ends of blocks
    ("pair", 3, "early exit", "arrive_remote.address|ld.shared::cluster", "may have ended before: let the threads"),
    ("pair", 6, "early exit", "st.shared::cluster", "may have ended before: let the threads"),
    ("pair", 4, "race", "value.threadIdx.x. = 5", ""),
]  # fmt: skip


@pytest.mark.parametrize(("kernel", "bug", "kind", "where", "what"), FOUND, ids=[f"{k}{b}" for k, b, *_ in FOUND])
def test_a_planted_bug_is_told(kernels, kernel, bug, kind, where, what):
    get, text = kernels
    own, seen, told = text.splitlines(), [], []
    for async_order in ("late", "early"):  # some show in one of them alone
        with observe(races=True, async_order=async_order) as report:
            try:
                launch(get, kernel, bug)
            except (HangError, DeadlockError, BarrierError) as error:
                seen.append(str(error))
        seen += [f"{async_order}, {f.kind}: {f.message}" for f in report.findings]
        told += [f for f in report.findings if f.kind == kind and re.search(what, f.message, re.S)]
    assert told, "\n".join(seen)
    assert all(re.search(r"hopper\.cu:\d+.*block \(.*thread \(", f.message) for f in told)
    numbers = (int(n) for f in told for n in re.findall(r"hopper\.cu:(\d+)", f.message.split(" block ")[0]))
    # of a statement in two lines, compilers name either
    lines = {own[n - 2] + own[n - 1] if own[n - 1].lstrip().startswith('"') else own[n - 1] for n in numbers}
    assert any(re.search(where, line) for line in lines), (lines, seen)


STOPS = [
    ("ring", 1, HangError, "misses 1 of 2 arrivals"),
    ("ring", 5, HangError, r"phase 0 of the mbarrier .* misses 0 of 1 arrivals and 64 bytes"),
    ("ring", 14, HangError, "misses 1 of 1 arrivals"),
    ("ring", 15, (BarrierError, HangError), "more arrivals than the phase misses|misses 1 of 1 arrivals"),
    ("again", 1, BarrierError, "no mbarrier.init has made an mbarrier there"),
    ("again", 2, BarrierError, "it is an mbarrier already"),
    ("again", 3, BarrierError, "something else has been stored"),
    ("edge", 1, HangError, "phase 0 .* and -128 bytes"),
    ("edge", 2, HangError, "phase 0 .* and -16 bytes"),
    ("pair", 5, HangError, "misses 1 of 1 arrivals"),
    ("pair", 7, BarrierError, "the barrier of the cluster before and has not waited there since"),
    ("both", 3, HangError, "misses 1 of 1 arrivals and -128 bytes"),
    ("both", 4, HangError, "misses 0 of 1 arrivals and 128 bytes"),
    ("roles", 1, DivergenceError, "the warps 0 to 3 of the block are a warpgroup"),
    ("roles", 2, DivergenceError, "the warps 0 to 3 .*2, 1, 1, 1 times"),
    ("roles", 3, DeadlockError, "launched with 168 a thread, 64,512"),
    ("roles", 4, DeadlockError, "launched with 168 a thread"),
    ("roles", 5, RegisterError, "dec.* 176`: .dec gives some back, and the warp has 168 "),
    ("roles", 6, RegisterError, "inc.* 160`: .inc asks for more, and the warp has 168 "),
    ("roles", 7, RegisterError, "dec.* 48`: .dec gives some back, and the warp has 40 "),
    ("polls", 1, HangError, "misses 0 of 1 arrivals and 128 bytes"),
    ("polls", 2, HangError, "goes round in a loop.*flag"),
]


@pytest.mark.parametrize("async_order", ["late", "early"])
@pytest.mark.parametrize(("kernel", "bug", "error", "what"), STOPS, ids=[f"{k}{b}" for k, b, *_ in STOPS])
def test_a_planted_bug_stops_the_kernel(kernels, kernel, bug, error, what, async_order):
    with pytest.raises(error, match=rf"hopper.cu:\d+.*{what}"), observe(async_order=async_order):
        launch(kernels[0], kernel, bug)
