"""Cooperative launches, the barrier of the grid, and cooperative groups: of several warps, coalesced, labelled."""

import numpy as np
import pytest

import gpubp.emulator as cp
from gpubp.chips import architectures
from gpubp.emulator import cuda, observe
from gpubp.emulator.errors import HangError, LaunchError, TrapError

SOURCE = r"""
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>
#include <cooperative_groups/memcpy_async.h>
namespace cg = cooperative_groups;

// Each thread reads what another block's thread wrote, once with and once without a barrier of the grid between.
template <int syncs> __device__ void reverse(int* x, int* y) {
  auto grid = cg::this_grid();
  const int i = grid.thread_rank(), n = grid.size();
  for (int round = 0; round < 3; round++) {
    x[i] = i + round;
    if (syncs & 1) grid.sync();
    y[i] = x[n - 1 - i];
    if (syncs & 2) grid.sync();
  }
}
extern "C" __global__ void reverse_both(int* x, int* y) { reverse<3>(x, y); }
extern "C" __global__ void reverse_first(int* x, int* y) { reverse<1>(x, y); }
extern "C" __global__ void reverse_second(int* x, int* y) { reverse<2>(x, y); }

extern "C" __global__ void split(int* x, int* y) {  // arrives, does something else, waits
  auto grid = cg::this_grid();
  const int i = grid.thread_rank();
  x[i] = i;
  auto token = grid.barrier_arrive();
  y[i] = 100;
  grid.barrier_wait(static_cast<decltype(token)&&>(token));
  y[i] += x[grid.size() - 1 - i];
}

extern "C" __global__ void some_blocks(int* x) {
  if (blockIdx.x != 2) cg::this_grid().sync();
  x[blockIdx.x] = 1;
}

extern "C" __global__ void rank_only(int* x) {
  auto grid = cg::this_grid();
  x[grid.thread_rank()] = grid.is_valid() ? 2 : 1;
}

template <int n> __device__ void tile(int* y) {
  auto tile = cg::tiled_partition<n>(cg::this_thread_block());
  const int t = threadIdx.x;
  int sum = cg::reduce(tile, t, cg::plus<int>());
  int scan = cg::inclusive_scan(tile, t + 1);
  y[t] = sum;
  y[blockDim.x + t] = scan;
  y[2 * blockDim.x + t] = tile.shfl(t, n - 2) + 1000 * tile.meta_group_rank();
  y[3 * blockDim.x + t] = tile.any(t == n) + 2 * tile.all(t < n);
}
extern "C" __global__ void tile64(int* y) { tile<64>(y); }
extern "C" __global__ void tile128(int* y) { tile<128>(y); }

template <bool syncs> __device__ void exchange(int* y) {
  __shared__ int s[256];
  auto tile = cg::tiled_partition<64>(cg::this_thread_block());
  const int t = threadIdx.x;
  s[t] = t;
  if (syncs) tile.sync();
  y[t] = s[t ^ 63];
}
extern "C" __global__ void exchange_synced(int* y) { exchange<true>(y); }
extern "C" __global__ void exchange_alone(int* y) { exchange<false>(y); }

extern "C" __global__ void groups(int* y) {
  const int t = threadIdx.x, n = blockDim.x;
  auto warp = cg::tiled_partition<32>(cg::this_thread_block());
  y[t] = 0;
  if (t % 3) {
    auto some = cg::coalesced_threads();
    y[t] = cg::reduce(some, t, cg::plus<int>()) + 100000 * some.thread_rank() + 10000000 * some.size();
  }
  y[n + t] = cg::exclusive_scan(cg::labeled_partition(warp, t % 4), t, cg::plus<int>());
  auto two = cg::binary_partition(warp, t % 5 == 0);
  y[2 * n + t] = cg::reduce(two, t, cg::greater<int>()) + 1000 * two.size();
  y[3 * n + t] = cg::inclusive_scan(warp, t, cg::plus<int>());
}

template <bool waits> __device__ void copies(const int* x, int* y) {
  __shared__ int s[128];
  auto block = cg::this_thread_block();
  cg::memcpy_async(block, s, x, sizeof s);
  if (waits) cg::wait(block);
  y[threadIdx.x] = s[127 - threadIdx.x];
}
extern "C" __global__ void copies_waited(const int* x, int* y) { copies<true>(x, y); }
extern "C" __global__ void copies_alone(const int* x, int* y) { copies<false>(x, y); }
"""


@pytest.fixture(scope="module")
def kernels():
    return cp.RawModule(code=SOURCE, enable_cooperative_groups=True)


def observed(kernel, grid: int, block: int, *arguments) -> set[str]:
    with observe(races=True, uninitialised=True) as report:
        kernel((grid,), (block,), arguments)
    return {finding.kind for finding in report.findings}


# -- the grid ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [1, 7])
def test_a_barrier_of_the_grid_orders_all_blocks(kernels, blocks):
    n = 64 * blocks
    x, y = cp.zeros(n, np.int32), cp.zeros(n, np.int32)
    assert not observed(kernels.get_function("reverse_both"), blocks, 64, x, y)
    np.testing.assert_array_equal(y.get(), np.arange(n)[::-1] + 2)


def test_blocks_of_many_waves_have_a_barrier(kernels):
    """The emulator runs some 64 blocks of 64 threads at once; the chip holds these 400."""
    n = 64 * 400
    x, y = cp.zeros(n, np.int32), cp.zeros(n, np.int32)
    kernels.get_function("reverse_both")((400,), (64,), (x, y))
    np.testing.assert_array_equal(y.get(), np.arange(n)[::-1] + 2)


def test_a_barrier_whose_arrival_and_wait_are_apart(kernels):
    x, y = cp.zeros(640, np.int32), cp.zeros(640, np.int32)
    assert not observed(kernels.get_function("split"), 10, 64, x, y)
    np.testing.assert_array_equal(y.get(), 739 - np.arange(640))


@pytest.mark.parametrize("name", ["reverse_first", "reverse_second"])
def test_a_missing_barrier_of_the_grid_is_a_race(kernels, name):
    x, y = cp.zeros(448, np.int32), cp.zeros(448, np.int32)
    assert observed(kernels.get_function(name), 7, 64, x, y) == {"race"}


def test_a_block_that_does_not_come_hangs_the_others(kernels):
    with pytest.raises(HangError, match=r"kernel some_blocks, kernel.cu:\d+ \(in sync.h:\d+"):
        kernels.get_function("some_blocks")((5,), (32,), (cp.zeros(5, np.int32),))


def test_as_many_blocks_as_the_chip_holds_and_no_more(kernels):
    kernel, held = kernels.get_function("rank_only"), architectures()["sm_90"].resident_blocks(1024, 0)
    x = cp.zeros((held + 1) * 1024, np.int32)
    kernel((held,), (1024,), (x,))
    assert (x.get()[: held * 1024] == 2).all()
    says = rf"rank_only: a cooperative launch of {held + 1} blocks of 1,024 threads; sm_90 holds {held} of them at once"
    with pytest.raises(LaunchError, match=says):
        kernel((held + 1,), (1024,), (x,))
    kernel.max_dynamic_shared_size_bytes = 120 * 1024
    kernel((132,), (32,), (x,), shared_mem=120 * 1024)
    with pytest.raises(LaunchError, match="of 133 blocks of 32 threads; sm_90 holds 132 of them at once"):
        kernel((133,), (32,), (x,), shared_mem=120 * 1024)


def test_the_barrier_needs_a_cooperative_launch():
    module = cp.RawModule(code=SOURCE)
    x = cp.zeros(64, np.int32)
    module.get_function("rank_only")((1,), (64,), (x,))
    assert (x.get() == 1).all()
    kernel = module.get_function("some_blocks")
    with pytest.raises(TrapError, match=r"kernel some_blocks, kernel.cu:.*as the launch is not cooperative"):
        kernel((2,), (32,), (x,))
    kernel((2,), (32,), (x,), enable_cooperative_groups=True)
    assert x.get()[:2].tolist() == [1, 1]


def test_a_raw_kernel_may_be_cooperative_by_itself():
    kernel = cp.RawKernel(SOURCE, "rank_only", enable_cooperative_groups=True)
    x = cp.zeros(64, np.int32)
    kernel((1,), (64,), (x,))
    assert (x.get() == 2).all()
    assert cp.cuda.Device().attributes["CooperativeLaunch"] == 1


# -- Numba ------------------------------------------------------------------------------------------------------------


def test_grid_groups_in_numba():
    @cuda.jit
    def reverse(x, y):
        i = cuda.grid(1)
        x[i] = i
        cuda.cg.this_grid().sync()
        y[i] = x[x.size - 1 - i]

    @cuda.jit
    def alone(x, y):
        i = cuda.grid(1)
        x[i] = i
        y[i] = x[x.size - 1 - i]

    for kernel, kinds in ((reverse, set()), (alone, {"race"})):
        x, y = np.zeros(640, np.int32), np.zeros(640, np.int32)
        with observe(races=True) as report:
            kernel[10, 64](x, y)
        assert {finding.kind for finding in report.findings} == kinds
        if not kinds:
            np.testing.assert_array_equal(y, np.arange(640)[::-1])
    (overload,) = reverse.overloads.values()
    held = overload.max_cooperative_grid_blocks((32, 32))
    assert held == overload.max_cooperative_grid_blocks(1024) == architectures()["sm_90"].resident_blocks(1024, 0)
    x = np.zeros((held + 1) * 1024, np.int32)
    with pytest.raises(LaunchError, match=f"a cooperative launch of {held + 1} blocks"):
        reverse[held + 1, 1024](x, x.copy())
    alone[held + 1, 1024](x, x.copy())


# -- groups of threads ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "n"), [("tile64", 64), ("tile128", 128)])
def test_tiles_of_several_warps(kernels, name, n):
    y = cp.zeros((4, 256), np.int32)
    assert not observed(kernels.get_function(name), 1, 256, y)
    t = np.arange(256)
    tiles = t.reshape(-1, n)
    total, scan, taken, votes = y.get()
    np.testing.assert_array_equal(total, tiles.sum(1).repeat(n))
    np.testing.assert_array_equal(scan, np.cumsum(tiles + 1, 1).ravel())
    np.testing.assert_array_equal(taken, (tiles[:, n - 2] + 1000 * np.arange(256 // n)).repeat(n))
    np.testing.assert_array_equal(votes, ((tiles == n).any(1) + 2 * (tiles < n).all(1)).repeat(n))


def test_a_tile_of_several_warps_orders_its_threads(kernels):
    y = cp.zeros(256, np.int32)
    assert not observed(kernels.get_function("exchange_synced"), 1, 256, y)
    np.testing.assert_array_equal(y.get(), np.arange(256) ^ 63)
    assert observed(kernels.get_function("exchange_alone"), 1, 256, y) == {"race"}


def test_coalesced_labelled_and_binary_groups(kernels):
    y = cp.zeros((4, 64), np.int32)
    assert not observed(kernels.get_function("groups"), 1, 64, y)
    t = np.arange(64)
    coalesced, labelled, two, warp = np.zeros((4, 64), int)
    for w in (t[:32], t[32:]):
        some = w[w % 3 > 0]
        coalesced[some] = some.sum() + 100000 * np.arange(some.size) + 10000000 * some.size
        for label in range(4):
            those = w[w % 4 == label]
            labelled[those] = np.cumsum(those) - those
        for those in (w[w % 5 == 0], w[w % 5 > 0]):
            two[those] = those.max() + 1000 * those.size
        warp[w] = np.cumsum(w)
    np.testing.assert_array_equal(y.get(), [coalesced, labelled, two, warp])


def test_copies_of_a_group(kernels):
    x, y = cp.arange(128, dtype=np.int32), cp.zeros(128, np.int32)
    assert not observed(kernels.get_function("copies_waited"), 1, 128, x, y)
    np.testing.assert_array_equal(y.get(), np.arange(128)[::-1])
    assert observed(kernels.get_function("copies_alone"), 1, 128, x, y) == {"race", "missing wait"}


@pytest.mark.parametrize("order", range(2))
def test_any_order_of_execution_gives_the_same(kernels, order):
    x, y, z = (cp.zeros(256, np.int32) for _ in range(3))
    with observe(races=True, order=order) as report:
        kernels.get_function("reverse_both")((4,), (64,), (x, y))
        kernels.get_function("exchange_synced")((1,), (256,), (z,))
    assert not report.findings
    np.testing.assert_array_equal(y.get(), np.arange(256)[::-1] + 2)
    np.testing.assert_array_equal(z.get(), np.arange(256) ^ 63)
