#pragma once
#include "arguments.cuh"
// Which part of which expert a block computes next, from counts that are only on the device. A unit is 256 weight rows (one group of 128 outputs
// of GateUp, two 128-row blocks of Down) times a tile of rows. Units of one expert are neighbours, its row tiles innermost: blocks that run at the
// same time share weights through L2.

constexpr int few_rows = 64;      // up to here: weights on the M side, rows on the N side in steps of 8
constexpr int slab_rows = 64;     // beyond: rows on the M side, one slab per consumer warpgroup
constexpr int tile_slabs = 3;
constexpr int tile_rows = slab_rows * tile_slabs;

DEVICE int round_up_8(int x) { return (x + 7) & ~7; }

DEVICE int row_tiles(int rows) { return rows == 0 ? 0 : rows <= few_rows ? 1 : (rows + tile_rows - 1) / tile_rows; }

struct alignas(16) Work {
    int expert;
    int unit;    // of the expert's weights
    int row;
    int rows;    // 0: no more work
    int halves;  // 128-row blocks of weights in this unit: 2, or 1 at the end of an odd number
    int few;     // orientation
    int reserved[2];
};

DEVICE Work work_at(const GemmArguments& g, int index) {
    const int units = (g.blocks + 1) / 2;
    Work w;
    const ExpertTiles t = g.tiles[index / units];
    const int local = index - t.first * units;
    const int tile = local % t.tiles, slabs = (t.rows + slab_rows - 1) / slab_rows;
    w.unit = local / t.tiles;
    w.expert = t.expert;
    const int first = slabs * tile / t.tiles * slab_rows, last = slabs * (tile + 1) / t.tiles * slab_rows; // balanced
    w.row = t.row + first;
    w.rows = (last < t.rows ? last : t.rows) - first;
    w.halves = g.blocks - 2 * w.unit > 1 ? 2 : 1;
    w.few = t.rows <= few_rows;
    return w;
}
