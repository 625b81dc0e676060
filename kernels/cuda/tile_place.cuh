// Where in the result a block works.
#pragma once

// Which tile of the result block number `block` computes. Blocks that run at the same time should share operands in the
// second-level cache: they go down GROUP rows of tiles before they go to the next column of tiles.
struct TilePlace {
    unsigned row, column;

    __device__ __forceinline__ TilePlace(unsigned block, unsigned rows, unsigned columns) {
        constexpr unsigned GROUP = 8;
        unsigned group = block / (GROUP * columns);
        unsigned height = rows - group * GROUP < GROUP ? rows - group * GROUP : GROUP;
        unsigned place = block - group * GROUP * columns;
        row = group * GROUP + place % height;
        column = place / height;
    }
};
