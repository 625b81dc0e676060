// Tensor maps: how a matrix lies in memory, and the box of it that one copy moves.
//
// The copy engine (TMA) moves a whole box into shared memory for one instruction of one thread. It works out the
// addresses by itself, permutes 16-byte units as it writes them (the swizzle), and fills what lies outside of the matrix
// with zeros. So a ragged edge costs the kernel nothing, and no thread holds an address. Floats that a product multiplies
// as tf32 it rounds to that, as their map says.
//
// It moves boxes out of shared memory too, and leaves out what lies outside of the matrix.
//
// The host makes the maps (gpubp/backends/tensor_maps.py).
#pragma once

#include "mbarriers.cuh"

// As the driver encodes it; a parameter of a kernel that stays where it is (__grid_constant__).
template <typename T>
struct alignas(64) TensorMap {
    unsigned long long words[16];
};

// Copy the box that begins at column x and row y into shared memory. Its bytes arrive at `full`.
template <typename T>
__device__ __forceinline__ void fetch_box(unsigned to, const TensorMap<T>& map, int x, int y, Barrier full) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::
            "r"(to), "l"(&map), "r"(x), "r"(y), "r"(full.address)
        : "memory");
}

// Copy it to the same place of every block of the cluster whose bit is set. Each gets the bytes at its own barrier.
template <typename T>
__device__ __forceinline__ void fetch_box_for(
    unsigned short blocks, unsigned to, const TensorMap<T>& map, int x, int y, Barrier full) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
        "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
        "l"(&map), "r"(x), "r"(y), "r"(full.address), "h"(blocks)
        : "memory");
}

// Copy the box from shared memory to column x and row y. Whoever has written it has said so by `publish_box` before.
template <typename T>
__device__ __forceinline__ void store_box(const TensorMap<T>& map, int x, int y, unsigned from) {
    asm volatile(
        "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&map), "r"(x), "r"(y),
        "r"(from)
        : "memory");
}

// What this thread has written into shared memory is there for the copy engine.
__device__ __forceinline__ void publish_box() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Close the group of stores that this thread has issued since the last call.
__device__ __forceinline__ void commit_boxes() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

// Until the engine has read all but the last GROUPS groups of this thread's stores out of shared memory.
template <int GROUPS>
__device__ __forceinline__ void wait_for_boxes() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(GROUPS) : "memory");
}
