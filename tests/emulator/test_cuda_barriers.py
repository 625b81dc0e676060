"""cuda::barrier and cuda::pipeline of libcu++: on mbarriers (sm_80, sm_90), and in software (sm_75)."""

import numpy as np
import pytest

import gpubp.emulator as cp
from gpubp.emulator import observe
from gpubp.emulator.errors import BarrierError, HangError

BARRIERS = r"""
#include <cuda/barrier>
#include <cuda/pipeline>
#include <cooperative_groups.h>
namespace cg = cooperative_groups;
using barrier = cuda::barrier<cuda::thread_scope_block>;

extern "C" __global__ void reverse(int* y, int arrives, int waits) {
  __shared__ barrier b;
  __shared__ int s[128];
  const int t = threadIdx.x;
  if (t == 0) init(&b, blockDim.x);
  __syncthreads();
  for (int round = 0; round < 3; round++) {
    s[t] = t + round;
    if (arrives) {
      auto token = b.arrive();
      if (waits) b.wait(static_cast<barrier::arrival_token&&>(token));
    }
    y[t] = s[blockDim.x - 1 - t];
    b.arrive_and_wait();
  }
}

extern "C" __global__ void first_half(int* y, int count) {
  __shared__ barrier b;
  __shared__ int s[64];
  const int t = threadIdx.x;
  if (t == 0) init(&b, count);
  __syncthreads();
  if (t < 32) { b.arrive_and_drop(); return; }
  s[t] = t;
  b.arrive_and_wait();
  b.arrive_and_wait();
  y[t] = s[95 - t];
}

extern "C" __global__ void pipeline(const int* x, int* y, int rounds, int waits) {
  constexpr int stages = 2;
  __shared__ cuda::pipeline_shared_state<cuda::thread_scope_block, stages> state;
  __shared__ alignas(16) int s[stages][64];
  auto block = cg::this_thread_block();
  auto pipe = cuda::make_pipeline(block, &state);
  for (int i = 0, fetch = 0; i < rounds; i++) {
    for (; fetch < rounds && fetch < i + stages; fetch++) {
      pipe.producer_acquire();
      cuda::memcpy_async(block, s[fetch % stages], x + 64 * fetch, cuda::aligned_size_t<16>(256), pipe);
      pipe.producer_commit();
    }
    if (waits) pipe.consumer_wait();
    y[64 * i + threadIdx.x] = s[i % stages][63 - threadIdx.x];
    pipe.consumer_release();
  }
}

extern "C" __global__ void roles(const int* x, int* y, int rounds) {
  constexpr int stages = 2;
  __shared__ cuda::pipeline_shared_state<cuda::thread_scope_block, stages> state;
  __shared__ int s[stages][32];
  auto block = cg::this_thread_block();
  const bool produces = threadIdx.x < 32;
  auto pipe = cuda::make_pipeline(
      block, &state, produces ? cuda::pipeline_role::producer : cuda::pipeline_role::consumer);
  const int t = threadIdx.x % 32;
  for (int i = 0; i < rounds; i++) {
    if (produces) {
      pipe.producer_acquire();
      s[i % stages][t] = x[32 * i + t];
      pipe.producer_commit();
    } else {
      pipe.consumer_wait();
      y[32 * i + t] = s[i % stages][31 - t];
      pipe.consumer_release();
    }
  }
}

extern "C" __global__ void own(const int* x, int* y, int waits) {
  __shared__ int s[64];
  const int t = threadIdx.x;
  auto pipe = cuda::make_pipeline();
  pipe.producer_acquire();
  cuda::memcpy_async(s + t, x + t, sizeof(int), pipe);
  pipe.producer_commit();
  if (waits) cuda::pipeline_consumer_wait_prior<0>(pipe);
  pipe.consumer_release();
  y[t] = s[t];
}

extern "C" __global__ void copied(const int* x, int* y, int waits) {
  __shared__ barrier b;
  __shared__ alignas(16) int s[64];
  auto block = cg::this_thread_block();
  if (block.thread_rank() == 0) init(&b, block.size());
  block.sync();
  cuda::memcpy_async(block, s, x, cuda::aligned_size_t<16>(256), b);
  if (waits) b.arrive_and_wait();
  y[threadIdx.x] = s[63 - threadIdx.x];
}
"""


@pytest.fixture(scope="module", params=["sm_80", "sm_90", pytest.param("sm_75", marks=pytest.mark.slow)])
def barriers(request):
    with cp.use(request.param):
        yield cp.RawModule(code=BARRIERS)


def observed(kernel: cp.RawKernel, threads: int, *arguments) -> set[str]:
    with observe(races=True, uninitialised=True) as report:
        kernel((1,), (threads,), arguments)
    return {finding.kind for finding in report.findings}


def test_cuda_barrier(barriers):
    kernel, y = barriers.get_function("reverse"), cp.zeros(64, np.int32)
    assert not observed(kernel, 64, y, 1, 1)
    np.testing.assert_array_equal(y.get(), np.arange(64)[::-1] + 2)
    assert observed(kernel, 64, y, 0, 0) == {"race"}


def test_cuda_barrier_whose_threads_leave(barriers):
    kernel, y = barriers.get_function("first_half"), cp.zeros(64, np.int32)
    assert not observed(kernel, 64, y, 64)
    assert y.get().tolist() == [0] * 32 + list(range(63, 31, -1))
    with pytest.raises(HangError, match=r"misses 1 of 33 arrivals|shared memory, 0 bytes into"):
        kernel((1,), (64,), (y, 65))


def test_cuda_pipeline_of_a_block(barriers):
    kernel, x, y = barriers.get_function("pipeline"), cp.arange(320, dtype=np.int32), cp.zeros(320, np.int32)
    assert not observed(kernel, 64, x, y, 5, 1)
    np.testing.assert_array_equal(y.get().reshape(5, 64), np.arange(320).reshape(5, 64)[:, ::-1])
    if kernel.ptx_version < 80:
        assert "race" in observed(kernel, 64, x, y, 1, 0)
    else:
        with pytest.raises(BarrierError, match=r"kernel.cu:.*: it waits for copies"):
            observed(kernel, 64, x, y, 1, 0)


def test_cuda_pipeline_with_roles(barriers):
    kernel, x, y = barriers.get_function("roles"), cp.arange(320, dtype=np.int32), cp.zeros(320, np.int32)
    assert not observed(kernel, 64, x, y, 10)
    np.testing.assert_array_equal(y.get().reshape(10, 32), np.arange(320).reshape(10, 32)[:, ::-1])


def test_cuda_pipeline_of_a_thread_and_copies_with_a_barrier(barriers):
    x, y = cp.arange(64, dtype=np.int32), cp.zeros(64, np.int32)
    own, copied = barriers.get_function("own"), barriers.get_function("copied")
    assert not observed(own, 64, x, y, 1)
    np.testing.assert_array_equal(y.get(), np.arange(64))
    assert not observed(copied, 64, x, y, 1)
    np.testing.assert_array_equal(y.get(), np.arange(64)[::-1])
    if own.ptx_version >= 80:  # software copies at once
        assert observed(own, 64, x, y, 0) == {"missing wait"}
        bulk = own.ptx_version >= 90
        assert observed(copied, 64, x, y, 0) == {"missing wait", "early exit" if bulk else "race"}


@pytest.mark.parametrize("order", range(3))
def test_any_order_of_execution_gives_the_same(order):
    x, y = cp.arange(320, dtype=np.int32), cp.zeros(320, np.int32)
    with observe(races=True, order=order) as report:
        cp.RawModule(code=BARRIERS).get_function("roles")((1,), (64,), (x, y, 10))
    np.testing.assert_array_equal(y.get().reshape(10, 32), np.arange(320).reshape(10, 32)[:, ::-1])
    assert not report.findings


PRIMITIVES = r"""
#include <cuda_awbarrier_primitives.h>
#include <cuda_pipeline.h>

extern "C" __global__ void reverse(int* y, int waits) {
  __shared__ __mbarrier_t b;
  __shared__ int s[64];
  const int t = threadIdx.x;
  if (t == 0) __mbarrier_init(&b, blockDim.x);
  __syncthreads();
  s[t] = t;
  __mbarrier_token_t token = __mbarrier_arrive(&b);
  while (waits && !__mbarrier_test_wait(&b, token));
  y[t] = s[63 - t] + 1000 * __mbarrier_token_pending_count(token);
  token = __mbarrier_arrive(&b);
  while (!__mbarrier_test_wait(&b, token));
  if (t == 0) __mbarrier_inval(&b);
}

extern "C" __global__ void copied(const int* x, int* y, int arrives) {
  __shared__ __mbarrier_t b;
  __shared__ int s[64];
  const int t = threadIdx.x;
  if (t == 0) __mbarrier_init(&b, blockDim.x);
  __syncthreads();
  __pipeline_memcpy_async(&s[t], &x[t], sizeof(int));
  if (arrives) __pipeline_arrive_on(&b);
  __mbarrier_token_t token = __mbarrier_arrive(&b);
  while (!__mbarrier_test_wait(&b, token));
  y[t] = s[63 - t];
}

extern "C" __global__ void grouped(const int* x, int* y, int newest) {
  __shared__ int s[2][64];
  const int t = threadIdx.x;
  for (int i = 0; i < 2; i++) {
    __pipeline_memcpy_async(&s[i][t], &x[64 * i + t], sizeof(int));
    __pipeline_commit();
  }
  __pipeline_wait_prior(1);
  __syncthreads();
  y[t] = s[newest][63 - t];
}
"""


def test_primitives():
    with cp.use("sm_80"):
        module = cp.RawModule(code=PRIMITIVES)
        x, y = cp.arange(128, dtype=np.int32), cp.zeros(64, np.int32)
        reverse, copied, grouped = map(module.get_function, ("reverse", "copied", "grouped"))
        assert not observed(reverse, 64, y, 1)
        t = np.arange(64)
        np.testing.assert_array_equal(y.get(), 63 - t + 1000 * (64 - t))
        assert observed(reverse, 64, y, 0) == {"race"}
        for kernel in (copied, grouped):
            wrong, right = (0, 1) if kernel is copied else (1, 0)
            assert not observed(kernel, 64, x, y, right)
            np.testing.assert_array_equal(y.get(), 63 - t)
            assert "missing wait" in observed(kernel, 64, x, y, wrong)
