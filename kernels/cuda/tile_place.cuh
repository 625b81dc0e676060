// Where in the result a block works.
#pragma once

using int64 = long long;

// The first row and column of tile number `tile`. Blocks that run at the same time should share operands
// in the second-level cache: they go down GROUP rows of tiles before they go to the next column of tiles.
template <int TILE_M, int TILE_N>
struct TilePlace {
    int64 row, column;

    __device__ __forceinline__ TilePlace(unsigned tile, int64 m, int64 n) {
        constexpr unsigned GROUP = 8;
        unsigned rows = unsigned((m + TILE_M - 1) / TILE_M), columns = unsigned((n + TILE_N - 1) / TILE_N);
        unsigned group = tile / (GROUP * columns);
        unsigned height = rows - group * GROUP < GROUP ? rows - group * GROUP : GROUP;
        unsigned place = tile - group * GROUP * columns;
        row = int64(group * GROUP + place % height) * TILE_M;
        column = int64(place / height) * TILE_N;
    }
};
