#pragma once
#include "arguments.cuh"
// Which part of which expert a cluster of two blocks computes next, from counts that are only on the device. A unit is 256 weight rows (one group of
// 128 outputs of GateUp, two 128-row blocks of Down), one half per block, times one tile of rows. Units of one expert are neighbours, row tiles
// innermost, so that clusters running at the same time share weights through L2.

constexpr int tile_rows = 256;   // at most; an expert's rows are cut evenly
constexpr int few_rows = 64;     // up to here a K block of a tile fits in one slot of the ring
constexpr int narrow_rows = 96;  // up to here: weights on the M side, rows on the N side in steps of 8
constexpr int slab_rows = 64;    // beyond: rows on the M side in slabs of 64, what is left on the N side

DEVICE int round_up_8(int x) { return (x + 7) & ~7; }

DEVICE int row_tiles(int rows) { return (rows + tile_rows - 1) / tile_rows; }

struct alignas(16) Work {
    int tile;  // of all experts'
    int unit;  // of the expert's weights
    int row;
    int rows;  // 0: no more work
    int half;  // this block's 128 weight rows; 1 is missing at the end of an odd number
    int skipped; // slots of the ring ahead of the first K block
    int store;   // false: this block only helps to load
    int down;    // of the second GEMM
};

/// The unit of this number, of a GEMM with so many blocks of weights per expert.
DEVICE Work work_at(const ExpertTiles& t, int number, int blocks, int rank, bool down) {
    Work w = {};
    const int local = number - t.first * ((blocks + 1) / 2), tile = local % t.tiles;
    w.unit = local / t.tiles;
    w.tile = t.first + tile;
    w.half = rank;
    w.store = 2 * w.unit + w.half < blocks;
    w.down = down;
    const int size = round_up_8((t.rows + t.tiles - 1) / t.tiles), left = t.rows - tile * size;
    w.row = t.row + tile * size;
    w.rows = left < size ? left : size;
    return w;
}
