// How a warp's part of a result goes to memory, a piece of 8 rows at a time: by its threads, or by the copy engine.
//
// By the copy engine, the warp writes a piece into a buffer in shared memory, one lane says where it goes, and the warp
// goes on with the next. A piece is 128 bytes wide, as wide as the swizzle: its 16-byte units lie permuted, so that the
// rows of a run of columns meet no bank twice. What is outside of the matrix the engine leaves out.
//
// A warp has two buffers. One output takes them in turn, so that a piece is written while the engine reads the one
// before; two outputs have one each.
//
// Each lane has four columns of every 16, of one row, as `gather_row` (fragments.cuh) leaves them. These are 8 or 16
// bytes, which a store into shared memory moves whole; stmatrix would take the sums as the matrix units leave them, but
// the epilogue reads its own arrays by such runs.
#pragma once

#include "epilogues.cuh"
#include "fragments.cuh"
#include "tensor_maps.cuh"

struct ResultPiece {
    static constexpr int ROWS = 8, ROW = 128;  // bytes
    static constexpr int BYTES = ROWS * ROW;
    static constexpr int OF_WARP = 2 * BYTES;  // both buffers
};

__device__ __forceinline__ void store_shared(unsigned to, const float (&x)[4]) {
    asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to), "f"(x[0]), "f"(x[1]), "f"(x[2]), "f"(x[3])
                 : "memory");
}
template <typename T>
__device__ __forceinline__ void store_shared(unsigned to, const T (&x)[4]) {
    asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(to), "r"(pair_of(x[0], x[1])), "r"(pair_of(x[2], x[3]))
                 : "memory");
}

// A run that is stored into a piece's buffer.
template <int OUTPUTS>
struct BufferedRun : Run {
    unsigned buffer;  // address in shared memory of the first output's

    template <int OUTPUT, typename T, int W>
    __device__ __forceinline__ void store(T*, const Accumulator<T> (&x)[W]) const {
        if constexpr (OUTPUT < OUTPUTS) {
            int line = int(row % ResultPiece::ROWS), at = int(column * sizeof(T) % ResultPiece::ROW);
            unsigned to = buffer + OUTPUT * ResultPiece::BYTES + line * ResultPiece::ROW + (at ^ line * 16);
            T stored[W];
#pragma unroll
            for (int w = 0; w < W; ++w) stored[w] = T(x[w]);
            store_shared(to, stored);
        }
    }
};

template <class Epilogue, int OUTPUTS>
struct BufferedEpilogue {
    const Epilogue& epilogue;
    unsigned buffer;

    template <int W>
    __device__ bool aligned() const {
        return epilogue.template aligned<W>();
    }

    template <int W>
    __device__ void finish(const Run& run, const float (&sum)[W]) const {
        epilogue.finish(BufferedRun<OUTPUTS>{run, buffer}, sum);
    }
};

// By the copy engine, into these outputs.
template <typename... Maps>
struct ResultStores;

template <typename T, typename... Others>
struct ResultStores<TensorMap<T>, Others...> {
    static constexpr int OUTPUTS = 1 + sizeof...(Others);
    static constexpr int COLUMNS = ResultPiece::ROW / sizeof(T);  // of a piece
    static_assert(OUTPUTS <= 2, "as many as buffers");

    unsigned buffers;  // of this warp
    const TensorMap<T>&first, &last;

    __device__ __forceinline__ ResultStores(unsigned buffers, const TensorMap<T>& output)
        : buffers(buffers), first(output), last(output) {}
    __device__ __forceinline__ ResultStores(unsigned buffers, const TensorMap<T>& output, const TensorMap<T>& second)
        : buffers(buffers), first(output), last(second) {}

    // Piece number `turn`, which begins at this row and column: the lane's sums of its row.
    template <int COUNT, class Epilogue>
    __device__ __forceinline__ void put(
        float (&sums)[1][COUNT], int turn, int64 m, int64 n, int64 row, int64 column, const Epilogue& epilogue) const {
        int lane = threadIdx.x % 32, line = lane / 4;
        // Swizzled rows 2 i and 2 i + 1 have their 32 bytes at the same banks: odd rows store the halves in the other order.
        bool swapped = line % 2;
        constexpr int HALF = COUNT / 2;
#pragma unroll
        for (int i = 0; i < HALF; ++i) {
            float x = sums[0][i], y = sums[0][HALF + i];
            sums[0][i] = swapped ? y : x;
            sums[0][HALF + i] = swapped ? x : y;
        }
        int turned = swapped ? HALF / 4 : 0;
        unsigned buffer = OUTPUTS == 1 ? buffers + turn % 2 * ResultPiece::BYTES : buffers;
        if (lane == 0) wait_for_boxes<OUTPUTS == 1 ? 1 : 0>();
        __syncwarp();  // the buffer is free
        auto row_of = [=](int) { return row + line; };
        auto column_of = [=](int j) { return column + first_column_of<false>(lane) + (j ^ turned) * 16; };
        finish_sums<4>(sums, m, n, row_of, column_of, BufferedEpilogue<Epilogue, OUTPUTS>{epilogue, buffer});
        publish_box();
        __syncwarp();  // all lanes have written
        if (lane == 0) {
            store_box(first, int(column), int(row), buffer);
            if constexpr (OUTPUTS == 2) store_box(last, int(column), int(row), buffer + ResultPiece::BYTES);
            commit_boxes();
        }
    }

    // Nobody leaves while the engine reads.
    __device__ __forceinline__ void end() const {
        if (threadIdx.x % 32 == 0) wait_for_boxes<0>();
    }
};

// By threads: where rows of the result do not start on 16-byte boundaries, or a part of it is stored.
template <>
struct ResultStores<> {
    static constexpr int COLUMNS = 64;

    __device__ __forceinline__ explicit ResultStores(unsigned) {}

    template <int COUNT, class Epilogue>
    __device__ __forceinline__ void put(
        float (&sums)[1][COUNT], int, int64 m, int64 n, int64 row, int64 column, const Epilogue& epilogue) const {
        int lane = threadIdx.x % 32;
        auto row_of = [=](int) { return row + lane / 4; };
        auto column_of = [=](int j) { return column + first_column_of<false>(lane) + j * 16; };
        finish_sums<4>(sums, m, n, row_of, column_of, epilogue);
    }

    __device__ __forceinline__ void end() const {}
};
