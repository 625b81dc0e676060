// Copies from global into shared memory that overlap with arithmetic.
//
// sm_80 and up: cp.async, which needs no register on the way. Before that: a load into registers now (`issue`) and a
// store into shared memory later (`land`), with the arithmetic of a whole tile in between.
#pragma once

#include "runs.cuh"

#if __CUDA_ARCH__ >= 800
#define GPUBP_CP_ASYNC 1
#else
#define GPUBP_CP_ASYNC 0
#endif

// One copy of W elements; a thread owns as many of these as it has copies to make for a tile.
template <typename T, int W>
struct AsyncCopy {
    static constexpr int bytes = sizeof(T) * W;
    static_assert(bytes == 4 || bytes == 8 || bytes == 16, "a copy moves 4, 8 or 16 bytes");

#if GPUBP_CP_ASYNC
    __device__ __forceinline__ void issue(const T* from, T* to) {
        unsigned shared = unsigned(__cvta_generic_to_shared(to));
        // .cg keeps what is read once out of the first-level cache; it exists for 16 bytes only
        if constexpr (bytes == 16)
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(from) : "memory");
        else
            asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(shared), "l"(from), "n"(bytes) : "memory");
    }

    // The same, but zeros where not `inside`.
    __device__ __forceinline__ void issue_guarded(const T* from, T* to, bool inside) {
        unsigned shared = unsigned(__cvta_generic_to_shared(to));
        int size = inside ? bytes : 0;  // of the source; the rest of the destination is filled with zeros
        if constexpr (bytes == 16)
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(from), "r"(size)
                         : "memory");
        else
            asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared), "l"(from), "n"(bytes), "r"(size)
                         : "memory");
    }

    __device__ __forceinline__ void land(T*) {}
#else
    Vector<T, W> staged;

    __device__ __forceinline__ void issue(const T* from, T*) {
        staged = *reinterpret_cast<const Vector<T, W>*>(from);
    }

    __device__ __forceinline__ void issue_guarded(const T* from, T*, bool inside) {
        staged = Vector<T, W>{};
        if (inside) staged = *reinterpret_cast<const Vector<T, W>*>(from);
    }

    __device__ __forceinline__ void land(T* to) { *reinterpret_cast<Vector<T, W>*>(to) = staged; }
#endif
};

// Close the group of copies issued since the last call; a group may be empty.
__device__ __forceinline__ void commit_copies() {
#if GPUBP_CP_ASYNC
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Wait until at most `pending` of the latest groups are still on their way.
template <int pending>
__device__ __forceinline__ void wait_for_copies() {
#if GPUBP_CP_ASYNC
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#endif
}
