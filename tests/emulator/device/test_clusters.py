"""Clusters: ranks, addresses of each other's shared memory, their barrier, and what is refused."""

import numpy as np
import pytest

from gpubp.emulator import BarrierError, LaunchError, MemoryAccessError, UnsupportedInstruction, launch, observe

OUT = np.zeros((8, 32), np.uint32)
# %rd5: the place of the block's thread in the output, by the number of the block in the grid.
PLACE = """mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ctaid.y; mov.u32 %r3, %nctaid.x; mad.lo.u32 %r4, %r2, %r3, %r1;
shl.b32 %r5, %r4, 5; add.u32 %r5, %r5, %r0; mul.wide.u32 %rd5, %r5, 4; add.u64 %rd5, %rd1, %rd5;
"""
SYNC = "barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;\n"


def of_cluster(x: int, y: int = 1, z: int = 1) -> str:
    return f".explicitcluster .reqnctapercluster {x}, {y}, {z}"


@pytest.mark.parametrize(("sides", "grid"), [((2, 1), (4, 2)), ((2, 2), (4, 2)), ((1, 2), (2, 4)), ((1, 1), (4, 2))])
def test_ranks_and_indices(run_ptx, sides, grid):
    names = ["cluster_ctarank", "cluster_ctaid.x", "cluster_ctaid.y", "clusterid.x", "clusterid.y", "cluster_nctarank"]
    body = PLACE + "mov.u32 %r10, 0;\n"
    for name in names:
        body += f"mov.u32 %r11, %{name};\nmad.lo.u32 %r10, %r10, 10, %r11;\n"
    (out,) = run_ptx(body + "st.global.u32 [%rd5], %r10;", OUT, grid=grid, directives=of_cluster(*sides))
    width, height = sides
    for y in range(grid[1]):
        for x in range(grid[0]):
            rank = x % width + y % height * width
            expected = [rank, x % width, y % height, x // width, y // height, width * height]
            assert out[y * grid[0] + x, 0] == int("".join(map(str, expected)))


@pytest.mark.parametrize("order", [None, 0, 1, 2])
@pytest.mark.parametrize("generic", [False, True])
def test_threads_read_write_and_update_each_others_memory(run_ptx, generic, order):
    """Each block stores in the next one's memory, adds to the one after that, and reads its own."""
    target = "u64" if generic else "shared::cluster.u32"
    there = "%rd8" if generic else "%r8"
    space = "" if generic else ".shared::cluster"
    own = "cvta.shared.u64 %rd7, %rd6;" if generic else ""
    base = "%rd7" if generic else "%r7"
    body = (
        PLACE
        + f"""mov.u32 %r7, data; shl.b32 %r9, %r0, 2; add.u32 %r7, %r7, %r9; cvt.u64.u32 %rd6, %r7; {own}
mov.u32 %r10, %cluster_ctarank; mov.u32 %r15, 0; st.shared.u32 [%r7], %r15;
{SYNC}
add.u32 %r11, %r10, 1; and.b32 %r11, %r11, 3; mapa.{target} {there}, {base}, %r11;
mad.lo.u32 %r12, %r4, 100, %r0; atom{space}.add.u32 %r13, [{there}], %r12;
getctarank.{target} %r14, {there}; setp.ne.u32 %p1, %r14, %r11; @%p1 trap;
{SYNC}
add.u32 %r11, %r10, 3; and.b32 %r11, %r11, 3; mapa.{target} {there}, {base}, %r11;
ld{space}.u32 %r13, [{there}];
{SYNC}
st{space}.u32 [{there}], %r13;
{SYNC}
ld.shared.u32 %r13, [%r7];
st.global.u32 [%rd5], %r13;"""
    )
    with observe(races=True, uninitialised=True, order=order) as report:
        (out,) = run_ptx(body, OUT, grid=8, module=".shared .align 16 .b8 data[128];", directives=of_cluster(4))
    assert not report.findings, report
    block = np.arange(8)
    before = block - block % 4 + (block - 1) % 4
    np.testing.assert_array_equal(out, 100 * before[:, None] + np.arange(32))


def test_results_do_not_depend_on_how_many_blocks_run_at_once(run_ptx):
    body = (
        PLACE
        + f"""mov.u32 %r7, data; shl.b32 %r9, %r0, 2; add.u32 %r7, %r7, %r9; st.shared.u32 [%r7], %r4;
{SYNC}mov.u32 %r10, %cluster_ctarank; xor.b32 %r10, %r10, 1; mapa.shared::cluster.u32 %r8, %r7, %r10;
ld.shared::cluster.u32 %r13, [%r8]; st.global.u32 [%rd5], %r13;
{SYNC}"""
    )
    for lanes in (1, 64, 200, None):
        (out,) = run_ptx(
            body, OUT, grid=8, module=".shared .align 16 .b8 data[128];", directives=of_cluster(2), lanes=lanes
        )
        np.testing.assert_array_equal(out[:, 0], np.arange(8) ^ 1)


def test_who_has_exited_is_not_waited_for(run_ptx):
    body = f"{PLACE}setp.lt.u32 %p1, %r0, 7; @%p1 exit;\n{SYNC}st.global.u32 [%rd5], %r0;"
    (out,) = run_ptx(body, OUT, grid=2, directives=of_cluster(2))
    np.testing.assert_array_equal(out[1], np.where(np.arange(32) < 7, 0, np.arange(32)))


@pytest.mark.parametrize(
    ("body", "error", "what"),
    [
        ("barrier.cluster.wait;", BarrierError, "has not arrived at the barrier of the cluster"),
        ("barrier.cluster.arrive;\nbarrier.cluster.arrive;", BarrierError, "has not waited there since"),
        ("mov.u32 %r1, data;\nmapa.shared::cluster.u32 %r1, %r1, 2;", BarrierError, "block 2 of a cluster of 2"),
        ("mov.u32 %r1, data;\nadd.u32 %r1, %r1, 0x3000000;\nld.shared::cluster.u32 %r2, [%r1];",
         MemoryAccessError, "out of bounds"),
        ("mov.u32 %r1, data;\nmapa.shared::cluster.u32 %r1, %r1, 1;\nld.shared::cluster.u32 %r2, [%r1+32];",
         MemoryAccessError, "past the end of data"),
        ("mov.u32 %r1, data;\nmapa.shared::cluster.u32 %r1, %r1, 1;\nst.async.shared::cluster.u32 [%r1], %r1;",
         UnsupportedInstruction, "st.async"),
    ],
)  # fmt: skip
def test_what_is_refused(run_ptx, body, error, what):
    with pytest.raises(error, match=rf"kernel test, test.cu:\d.*{what}"):
        run_ptx(body, OUT, grid=2, module=".shared .align 16 .b8 data[32];", directives=of_cluster(2))


def test_memory_of_a_block_that_has_ended(run_ptx):
    body = """mov.u32 %r1, %cluster_ctarank; setp.eq.u32 %p1, %r1, 1; @%p1 exit;
mov.u32 %r1, data; mov.u32 %r3, 0;
AGAIN: add.u32 %r3, %r3, 1; setp.lt.u32 %p1, %r3, 100; @%p1 bra AGAIN;
mapa.shared::cluster.u32 %r1, %r1, 1; st.shared::cluster.u32 [%r1], %r3;"""
    with pytest.raises(MemoryAccessError, match=r"test.cu:4, block \(0, 0, 0\).*block \(1, 0, 0\), which has ended"):
        run_ptx(body, OUT, grid=2, module=".shared .align 16 .b8 data[32];", directives=of_cluster(2))


@pytest.mark.parametrize(("arch", "grid", "cluster", "what"), [
    ("sm_90", 3, 2, r"grid.x is 3; it must be a multiple of the cluster's, 2"),
    ("sm_80", 2, 2, "clusters of .2, 1, 1. blocks, which sm_80 does not have"),
    ("sm_90", 16, 16, "clusters of 16 blocks; a cluster has at most 8"),
])  # fmt: skip
def test_launches_that_no_chip_takes(ptx_text, arch, grid, cluster, what):
    kernel = launch.load(ptx_text("ret;", 0, "", of_cluster(cluster))).kernel("test")
    with pytest.raises(LaunchError, match=what):
        launch.launch(kernel, (grid, 1, 1), (32, 1, 1), [], arch=arch)


def test_shared_memory_keeps_its_alignment(run_ptx):
    """As copies and products need it: a variable lies at a multiple of what it asks for."""
    body = "mov.u32 %r1, a; mov.u32 %r2, b; mov.u32 %r3, c; and.b32 %r2, %r2, 1023; and.b32 %r3, %r3, 511;\n"
    body += "or.b32 %r4, %r2, %r3; st.global.u32 [%rd1], %r4;"
    module = ".shared .align 4 .b8 a[20];\n.shared .align 1024 .b8 b[2000];\n.extern .shared .align 512 .b8 c[];"
    (out,) = run_ptx(body, np.ones(1, np.uint32), block=1, module=module, shared=100)
    assert out[0] == 0
