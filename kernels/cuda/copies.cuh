// Copies from global into shared memory that overlap with arithmetic.
//
// sm_80 and up: cp.async, which needs no register on the way. Before that: a load into registers now (`issue`) and a
// store into shared memory later (`land`), with the arithmetic of a whole tile in between. `TileCopies` are all those
// that a thread makes of one operand's tiles.
#pragma once

#include "forms.cuh"

#if __CUDA_ARCH__ >= 800
#define GPUBP_CP_ASYNC 1
#else
#define GPUBP_CP_ASYNC 0
#endif

// One copy of W elements; a thread owns as many of these as it has copies to make for a tile.
template <typename T, int W, bool ASYNC = GPUBP_CP_ASYNC && sizeof(T) * W >= 4>
struct Copy;

template <typename T, int W>
struct Copy<T, W, true> {
    static constexpr int bytes = sizeof(T) * W;
    static_assert(bytes == 4 || bytes == 8 || bytes == 16, "cp.async moves 4, 8 or 16 bytes");

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
};

// Through a register: on chips without cp.async, and for single elements of 2 bytes, which it does not move.
template <typename T, int W>
struct Copy<T, W, false> {
    Vector<T, W> staged;

    __device__ __forceinline__ void issue(const T* from, T*) {
        staged = *reinterpret_cast<const Vector<T, W>*>(from);
    }

    __device__ __forceinline__ void issue_guarded(const T* from, T*, bool inside) {
        staged = Vector<T, W>{};
        if (inside) staged = *reinterpret_cast<const Vector<T, W>*>(from);
    }

    __device__ __forceinline__ void land(T* to) { *reinterpret_cast<Vector<T, W>*>(to) = staged; }
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

// A number that the compiler computes here, and keeps in a register: it cannot see that each lane gets its own number
// back. So it neither computes it anew in every turn of a loop, nor all that follows from it before an outer loop.
__device__ __forceinline__ int pinned(int x) {
    return __shfl_sync(~0u, x, int(threadIdx.x % 32));
}

// One operand's tiles: SIDE rows (or columns) of it, TILE_K deep, copied by all threads of the block.
//
// In shared memory a tile is rows of WIDTH elements, as in global memory: [slot][depth] of a depth-contiguous operand,
// one slot for each of its rows; [depth][side] of a side-contiguous one. A Place says what makes reading it fast:
//   side_of(slot)  which row of the operand's tile lies in this slot
//   swizzle(row)   what the numbers of the row's 16-byte units are combined with by an exclusive or, if `swizzled`
//
// Nothing is guarded but the first tile, which is the one that depth does not fill. Rows and columns outside the operand
// are clamped to its last ones: their sums are never stored.
template <typename T, Layout LAYOUT, int SIDE, int TILE_K, int VECTOR, int BLOCK_THREADS, class Place>
struct TileCopies {
    static constexpr bool by_depth = LAYOUT == Layout::depth_contiguous;
    static constexpr int UNIT = WIDEST<T>;  // elements of 16 bytes
    static constexpr int WIDTH = by_depth ? TILE_K : SIDE;
    static constexpr int SIZE = SIDE * TILE_K;
    static constexpr int COPIES = SIZE / VECTOR / BLOCK_THREADS;  // that a thread makes of each tile
    static_assert(WIDTH % UNIT == 0, "16-byte units fit");
    static_assert(SIZE % (VECTOR * BLOCK_THREADS) == 0, "every thread makes the same number of copies");

    int thread;  // of the block
    const T* source[COPIES];
    int64 step;  // from a tile to the next, in elements of the source
    Copy<T, VECTOR> copy[COPIES];

    // Copy number c of this thread: its row of the tile, and the first of its elements there.
    __device__ __forceinline__ int row_of(int c) const {
        int q = thread + c * BLOCK_THREADS;
        return q / (WIDTH / VECTOR);
    }
    __device__ __forceinline__ int element_of(int c) const {
        int q = thread + c * BLOCK_THREADS;
        return q % (WIDTH / VECTOR) * VECTOR;
    }
    __device__ __forceinline__ int depth_of(int c) const { return by_depth ? element_of(c) : row_of(c); }

    // Where it goes in the tile.
    __device__ __forceinline__ int target(int c) const {
        int q = thread + c * BLOCK_THREADS;
        if (!Place::swizzled) return q * VECTOR;
        int row = row_of(c), element = element_of(c);
        return row * WIDTH + (element / UNIT ^ Place::swizzle(row)) * UNIT + element % UNIT;
    }

    __device__ __forceinline__ TileCopies(
        const Operand<LAYOUT, T>& x, int64 first_side, int64 first_depth, int thread)
        : thread(thread) {
        step = by_depth ? TILE_K : TILE_K * x.side;
#pragma unroll
        for (int c = 0; c < COPIES; ++c) {
            int s = by_depth ? Place::side_of(row_of(c)) : element_of(c);
            int64 last = by_depth ? x.side - 1 : x.side - VECTOR;
            int64 clamped = first_side + s < last ? first_side + s : last;
            source[c] = x.start + x.offset(clamped, first_depth + depth_of(c));
        }
    }

    // Fetch the first tile, of which only `present` of the depth exist; the tiles after it are whole.
    __device__ __forceinline__ void fetch_first(T* tile, int present) {
        int64 back = step / TILE_K * (TILE_K - present);
#pragma unroll
        for (int c = 0; c < COPIES; ++c) {
            bool inside = depth_of(c) < present;
            // what is not read still has an address: that of the tile's depth 0, which exists
            const T* from = inside ? source[c] : source[c] - step / TILE_K * depth_of(c);
            copy[c].issue_guarded(from, tile + target(c), inside);
            source[c] += step - back;
        }
    }

    __device__ __forceinline__ void fetch(T* tile) {
#pragma unroll
        for (int c = 0; c < COPIES; ++c) {
            copy[c].issue(source[c], tile + target(c));
            source[c] += step;
        }
    }

    __device__ __forceinline__ void land(T* tile) {
#pragma unroll
        for (int c = 0; c < COPIES; ++c) copy[c].land(tile + target(c));
    }
};
