"""Mistakes in the text of the rung `wgmma` that one makes with engines that work on their own: a case fails on each.

Many leave the numbers right on the emulated device, or on most GPUs most of the time: then a finding fails the case.
Each case runs with copies and products as late as can be, and as early as can be.
"""

import pytest
from kernel_mistakes import Mistake, passes, require_caught

from gpubp.backends import tensor_maps

FORWARD, HIDDEN, WEIGHTS = "dense_forward", "hidden_delta", "weight_gradient"
RING, STORES, GROUPS = "product_wgmma.cuh", "result_stores.cuh", "warpgroups.cuh"


def case(primitive, variant, shape, mode="bias", dtype="bfloat16"):
    """The name of a case on random values."""
    option = "-" if primitive == WEIGHTS else "identity" if mode == "bias" else "gelu"
    mode = mode if primitive == FORWARD else "-"
    return f"{primitive}:wgmma{variant}:{dtype}:{shape}:{option}:{mode}:1:random:0:0"


DEEP = case(FORWARD, "+persistent", "72x136x712")
"""Twice around a ring of six stages, one tile a block."""
PAIR = case(FORWARD, "+large", "264x136x456")
"""Clusters of two, eight stages of six."""
TALL = case(FORWARD, "+persistent", "328x264x200")
BOTH = case(FORWARD, "+persistent", "72x136x136", "keep_z")
"""With z beside a: each has a buffer of its own."""
UNALIGNED = case(FORWARD, "", "40x140x136")
"""A result whose rows the copy engine cannot store."""
NN, TN = case(HIDDEN, "+large", "72x136x136"), case(WEIGHTS, "+large", "136x136x72")
TF32, TF32_PAIR = (
    case(FORWARD, variant, shape, dtype="tf32")
    for variant, shape in (("+persistent", "72x136x356"), ("+large", "264x136x228"))
)
"""`DEEP` and `PAIR` with numbers twice as wide: with a tile of 128 columns, and of 256."""


def mistake(name, file, old, new, fails=DEEP):
    """A mistake that most often shows where the ring goes around."""
    return Mistake(name, file, old, new, fails)


EMPTY_WAIT = "ring.empty(ring.stage).wait(ring.parity ^ 1);"
FULL_WAIT = "ring.full(ring.stage).wait(ring.parity);"
FIRST = "ring.empty(stage).arrive();"
GIVE = "if (used >= 0) give_back(ring, used, thread);"
LAST_GIVE = "wait_for_sums(sums);\n            give_back(ring, used, thread);"

FREE = "if (lane == 0) wait_for_boxes<OUTPUTS == 1 ? 1 : 0>();"

ALWAYS = [
    mistake("producer does not wait for a free stage", RING, EMPTY_WAIT, ""),
    mistake(
        "a stage is given back while it may be read",
        RING,
        "used = ring.stage;",
        "give_back(ring, used = ring.stage, thread); used = -1;",
    ),
    mistake("too few bytes expected", RING, "full.expect(STAGE);", "full.expect(STAGE - 128);"),
    mistake("sums read before their products are done", RING, "wait_for_sums(sums);", ""),
]
MISTAKES = [
    # phases and barriers
    mistake("producer waits for the wrong parity", RING, EMPTY_WAIT, EMPTY_WAIT.replace(" ^ 1", "")),
    mistake("consumers wait for the wrong parity", RING, FULL_WAIT, FULL_WAIT.replace("parity)", "parity ^ 1)")),
    mistake("consumers do not wait for a full stage", RING, FULL_WAIT, ""),
    mistake("parity never changes", RING, "parity ^= 1;", ""),
    mistake(
        "parity changes at every stage",
        RING,
        "if (++stage == STAGES) {",
        "parity ^= 1;\n            if (++stage == STAGES) {",
    ),
    mistake("the ring is one stage too long", RING, "if (++stage == STAGES) {", "if (++stage > STAGES) {"),
    mistake(
        "too few arrivals free a stage",
        RING,
        ".make(CLUSTER * CONSUMERS * WARPGROUP / 32)",
        ".make(CLUSTER * CONSUMERS)",
    ),
    mistake(
        "too many arrivals free a stage",
        RING,
        ".make(CLUSTER * CONSUMERS * WARPGROUP / 32)",
        ".make(CLUSTER * CONSUMERS * WARPGROUP)",
    ),
    mistake("every lane gives a stage back", RING, "if (lane == 0) " + FIRST, FIRST),
    mistake("two arrivals at a full stage", RING, "ring.full(stage).make(1);", "ring.full(stage).make(2);"),
    mistake("the first stage is given back before any product", RING, "if (used >= 0) give_back", "give_back"),
    mistake("a stage is not given back", RING, GIVE, ""),
    mistake("the last stage of a tile is not given back", RING, LAST_GIVE, "wait_for_sums(sums);", TALL),
    mistake(
        "the last stage is given back before its products are done",
        RING,
        LAST_GIVE,
        "give_back(ring, used, thread);\n            wait_for_sums(sums);",
        TALL,
    ),
    mistake("no wait for the products of the stage before", RING, "wait_for_products<1>();", ""),
    mistake("two groups under way", RING, "wait_for_products<1>();", "wait_for_products<2>();"),
    mistake("barriers are not published", RING, "publish_barriers();", "", PAIR),
    mistake("nobody waits for the barriers", RING, "sync();  // the barriers", "// the barriers"),
    mistake("full and empty lie on each other", RING, "return full(STAGES + of);", "return full(of);"),
    mistake(
        "barriers lie in the last warp's buffers",
        RING,
        "{pieces(4 * CONSUMERS) + of * Barrier::BYTES}",
        "{pieces(4 * CONSUMERS - 1) + of * Barrier::BYTES}",
        PAIR,
    ),
    mistake(
        "buffers lie in the last stage",
        RING,
        "return base + STAGES * STAGE + warp * ResultPiece::OF_WARP;",
        "return base + STAGES * STAGE - (4 * CONSUMERS - warp) * ResultPiece::OF_WARP;",
    ),
    # bytes and places
    mistake("too many bytes expected", RING, "full.expect(STAGE);", "full.expect(STAGE + 128);"),
    mistake(
        "only what is inside is expected",
        RING,
        "full.expect(STAGE);",
        "full.expect(int(product.m() < TILE_M ? STAGE / 2 : STAGE));",
        case(FORWARD, "", "40x136x136"),
    ),
    mistake("B lies on A", RING, "fetch<CLUSTER>(ring.tiles() + ATile::BYTES,", "fetch<CLUSTER>(ring.tiles(),"),
    mistake("B is read where A lies", RING, "BTile::descriptor(tiles + ATile::BYTES)", "BTile::descriptor(tiles)"),
    mistake("both consumers read the same rows", RING, "tiles + consumer * 64 * ATile::ROW", "tiles", PAIR),
    mistake("stages begin anywhere", RING, "+ 1023) / 1024 * 1024}", "+ 15) / 16 * 16 + 64}"),
    mistake(
        "rows and depths exchanged for the copy",
        RING,
        "x = by_depth ? int(depth) : there",
        "x = by_depth ? there : int(depth)",
    ),
    mistake(
        "panels lie on each other",
        RING,
        "to + first * ROW, map, x, y, full);\n            else",
        "to, map, x, y, full);\n            else",
        case(HIDDEN, "", "40x136x136"),
    ),
    # descriptors
    mistake("another swizzle than the copy's", RING, "| 1ull << 62;", "| 2ull << 62;"),
    mistake("no swizzle", RING, " | 1ull << 62;", ";"),
    mistake(
        "leading and stride offsets exchanged",
        RING,
        "NEXT_PANEL / 16 << 16 | (unsigned long long)(GROUP / 16) << 32",
        "NEXT_PANEL / 16 << 32 | (unsigned long long)(GROUP / 16) << 16",
        TN,
    ),
    mistake("stride offset of one row", RING, "(GROUP / 16) << 32", "(ROW / 16) << 32"),
    mistake(
        "leading offset of half a panel", RING, "by_depth ? 0 : DEPTH * ROW;", "by_depth ? 0 : DEPTH * ROW / 2;", TN
    ),
    mistake("depths go on as if contiguous", RING, "STEP = by_depth ? 32 : 16 * ROW;", "STEP = 32;", TN),
    mistake(
        "a transpose bit dropped, of A",
        GROUPS,
        "A_BY_SIDE = Form::a == Layout::side_contiguous;",
        "A_BY_SIDE = false;",
        TN,
    ),
    mistake(
        "a transpose bit dropped, of B",
        GROUPS,
        "B_BY_SIDE = Form::b == Layout::side_contiguous;",
        "B_BY_SIDE = false;",
        NN,
    ),
    mistake(
        "a step of the depth left out",
        RING,
        "for (int step = 0; step < 4; ++step)",
        "for (int step = 0; step < 3; ++step)",
    ),
    mistake("bfloat16 taken for float16", GROUPS, 'WARPGROUP_OF(bfloat16, "bf16")', 'WARPGROUP_OF(bfloat16, "f16")'),
    mistake(
        "a stage of floats is as deep as one of 16 bits", RING, "DEPTH = ROW / sizeof(T),", "DEPTH = ROW / 2,", TF32
    ),
    mistake("steps of floats are as long as sixteen of them", RING, "by_depth ? 32 :", "by_depth ? 64 :", TF32),
    mistake(
        "A and B exchanged, of floats",
        GROUPS,
        '"tf32", "") : FRAGMENTS_16(0) : "l"(a), "l"(b)',
        '"tf32", "") : FRAGMENTS_16(0) : "l"(b), "l"(a)',
        TF32,
    ),
    mistake(
        "A taken for B, of floats",
        GROUPS,
        'FRAGMENTS_16(16) : "l"(a), "l"(b));',
        'FRAGMENTS_16(16) : "l"(a), "l"(a));',
        TF32_PAIR,
    ),
    mistake(
        "floats are not multiplied in the last quarter of a stage",
        RING,
        "for (int step = 0; step < 4; ++step)",
        "for (int step = 0; step < (sizeof(T) == 4 ? 3 : 4); ++step)",
        TF32_PAIR,
    ),
    # the order of products
    mistake("no fence before the products", RING, "begin_products();\n", "\n"),
    mistake("no group is closed", RING, "end_products();\n", "\n"),
    mistake(
        "sums are not set to 0", RING, "Sums sums = {};\n            int used", "Sums sums;\n            int used", TALL
    ),
    # registers
    mistake("nobody gives registers back", RING, "give_registers_back<PRODUCER_REGISTERS>();", "", PAIR),
    mistake("more registers than there are", RING, "CONSUMERS == 2 ? 240", "CONSUMERS == 2 ? 248", PAIR),
    mistake(
        "one warp alone gives registers back",
        RING,
        "give_registers_back<PRODUCER_REGISTERS>();",
        "if (threadIdx.x < 32) give_registers_back<PRODUCER_REGISTERS>();",
    ),
    # clusters
    mistake("copies for this block alone", RING, "fetch_box_for((1 << CLUSTER) - 1,", "fetch_box_for(1 << rank,", PAIR),
    mistake(
        "copies for the other block alone",
        RING,
        "fetch_box_for((1 << CLUSTER) - 1,",
        "fetch_box_for(1 << (1 - rank),",
        PAIR,
    ),
    mistake("both blocks bring the same half", RING, "int first = rank * PART + s,", "int first = s,", PAIR),
    mistake(
        "stages are given back to this block alone",
        RING,
        "ring.empty(stage).arrive_at(lane);",
        "ring.empty(stage).arrive_at(rank());",
        PAIR,
    ),
    mistake(
        "stages are given back to the first block alone", RING, "if (lane < CLUSTER) ring", "if (lane < 1) ring", PAIR
    ),
    mistake("a block leaves while the other arrives", RING, "if constexpr (CLUSTER > 1) sync();", "", PAIR),
    mistake(
        "both blocks compute the same rows",
        RING,
        "work(place.row + rank() * TILE_M, place.column);",
        "work(place.row, place.column);",
        PAIR,
    ),
    mistake(
        "the blocks of a cluster do not meet",
        RING,
        "if constexpr (CLUSTER == 1)\n            __syncthreads();",
        "if constexpr (CLUSTER == 2)\n            __syncthreads();",
        PAIR,
    ),
    # tiles and edges
    mistake("only the first tile", RING, "tile += gridDim.x / CLUSTER) {", "tile += tiles) {", TALL),
    mistake(
        "every block computes every tile", RING, "unsigned tile = blockIdx.x / CLUSTER;", "unsigned tile = 0;", TALL
    ),
    mistake("the last tile is left out", RING, "tile < tiles; tile +=", "tile + 1 < tiles; tile +=", TALL),
    mistake("rows eight apart are neighbours", RING, "warp * 16 + 8 * h, column =", "warp * 16 + h, column ="),
    mistake("both halves are the first", RING, "fragments, h, lane);", "fragments, 0, lane);"),
    mistake("both consumers finish the same rows", RING, "row + consumer * 64, column", "row, column", PAIR),
    mistake(
        "a tail unmasked",
        "epilogues.cuh",
        "if (row < m && column < n) {",
        "if (row < m) {",
        UNALIGNED,
    ),
    # the way out
    mistake("no fence before a store", STORES, "publish_box();\n", "\n"),
    mistake("a piece is stored before all lanes have written", STORES, "__syncwarp();  // all", "// all"),
    mistake("a buffer is written while the engine reads it", STORES, FREE, ""),
    mistake("a buffer is written after two pieces", STORES, "? 1 : 0>();", "? 2 : 0>();"),
    mistake("of two outputs one may still be read", STORES, "? 1 : 0>();", "? 1 : 1>();", BOTH),
    mistake("one lane alone knows that the buffer is free", STORES, "__syncwarp();  // the", "// the"),
    mistake("stores are no group", STORES, "commit_boxes();", ""),
    mistake(
        "every lane stores the piece", STORES, "if (lane == 0) {\n            store_box", "{\n            store_box"
    ),
    mistake("a block leaves while the engine reads", STORES, "if (threadIdx.x % 32 == 0) wait_for_boxes<0>();", ""),
    mistake("both pieces lie in one buffer", STORES, "buffers + turn % 2 * ResultPiece::BYTES", "buffers"),
    mistake("units are not permuted", STORES, "(at ^ line * 16)", "at"),
    mistake("runs change places, and their columns do not", STORES, "(j ^ turned) * 16", "j * 16"),
    mistake("both outputs are the first", STORES, "buffer + ResultPiece::BYTES);", "buffer);", BOTH),
    mistake(
        "both outputs go to one matrix", STORES, "first(output), last(second)", "first(output), last(output)", BOTH
    ),
    mistake(
        "rows and columns exchanged for a store",
        STORES,
        "store_box(first, int(column), int(row)",
        "store_box(first, int(row), int(column)",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", [DEEP, PAIR, TALL, BOTH, UNALIGNED, NN, TN, TF32, TF32_PAIR])
def test_the_cases_pass_as_it_stands(name):
    assert passes(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [TF32, TF32_PAIR])
def test_a_case_fails_where_the_maps_do_not_round(name, monkeypatch):
    """The matrix units would cut the floats off."""
    monkeypatch.setitem(tensor_maps.DATA_TYPES, "tf32", tensor_maps.DATA_TYPES["float32"])
    assert not passes(name)


@pytest.mark.slow
@pytest.mark.parametrize("planted", ALWAYS, ids=str)
def test_a_case_fails_on_the_mistake(planted, tmp_path):
    require_caught(planted, tmp_path / "cuda")


@pytest.mark.exhaustive
@pytest.mark.parametrize("planted", MISTAKES, ids=str)
def test_a_case_fails_on_each_mistake(planted, tmp_path):
    require_caught(planted, tmp_path / "cuda")
