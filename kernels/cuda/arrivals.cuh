// Who comes last: several blocks, or warps, compute parts, and the last one to arrive finishes what all have begun, in
// the same launch.
//
// Nobody waits for another, so it does not matter which of them the chip runs at once. Whoever is last, the parts are
// added in the order of their numbers: the order of execution does not decide the bits of a result.
#pragma once

// True for the last of `count` callers to arrive. Whoever sees that another one has arrived sees what that one stored
// before; with the last one the count is 0 again.
__device__ __forceinline__ bool arrives_last(unsigned* arrivals, unsigned count) {
    __threadfence();
    bool last = atomicInc(arrivals, count - 1) == count - 1;
    __threadfence();
    return last;
}

// The same for blocks; every thread gets the answer.
__device__ __forceinline__ bool block_arrives_last(unsigned* arrivals, unsigned count) {
    __syncthreads();  // all parts of this block are stored
    bool last = threadIdx.x == 0 && threadIdx.y == 0 && arrives_last(arrivals, count);
    return __syncthreads_or(last);
}

// The same for warps.
__device__ __forceinline__ bool warp_arrives_last(unsigned* arrivals, unsigned count, int lane) {
    __syncwarp();
    bool last = lane == 0 && arrives_last(arrivals, count);
    last = __any_sync(~0u, last);
    __syncwarp();  // what lane 0 sees, all lanes see
    return last;
}
