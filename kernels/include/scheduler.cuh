#pragma once
#include "arguments.cuh"
// Which part of which expert a cluster computes next, from counts that are only on the device. A unit is 256 weight rows (one group of 128 outputs
// of GateUp, two 128-row blocks of Down), one half per block of the cluster, times a group of row tiles: one tile, or two in clusters of four.
// Units of one expert are neighbours, row tiles innermost, so that clusters running at the same time share weights through L2.

constexpr int few_rows = 64;      // up to here: weights on the M side, rows on the N side in steps of 8
constexpr int slab_rows = 64;     // beyond: rows on the M side, one slab per consumer warpgroup
constexpr int tile_slabs = 3;
constexpr int tile_rows = slab_rows * tile_slabs;

DEVICE int round_up_8(int x) { return (x + 7) & ~7; }

DEVICE int row_groups(int rows, int tiles_per_group) {
    const int most = tile_rows * tiles_per_group;
    return rows == 0 ? 0 : rows <= few_rows ? 1 : (rows + most - 1) / most;
}

struct alignas(16) Work {
    int expert;
    int unit;    // of the expert's weights
    int row;
    int rows;    // 0: nothing for this block
    int half;    // this block's 128 weight rows; 1 is missing at the end of an odd number
    int kind;
    int store;   // false: this block only helps to load
    int reserved;
};
enum { no_more_work = 0, few_rows_unit = 1, many_rows_unit = 2 };

DEVICE Work work_at(const GemmArguments& g, int index, int rank, int tiles_per_group) {
    const int units = (g.blocks + 1) / 2;
    Work w = {};
    const ExpertTiles t = g.tiles[index / units];
    const int local = index - t.first * units, group = local % t.groups;
    w.unit = local / t.groups;
    w.expert = t.expert;
    w.half = rank & 1;
    w.store = 2 * w.unit + w.half < g.blocks;
    if (t.rows <= few_rows) { // the second pair of a cluster of four computes the same and stores nothing
        w.kind = few_rows_unit;
        w.row = t.row;
        w.rows = t.rows;
        w.store &= rank < 2;
        return w;
    }
    const int slabs = (t.rows + slab_rows - 1) / slab_rows, tiles = t.groups * tiles_per_group, tile = group * tiles_per_group + rank / 2;
    const int first = slabs * tile / tiles * slab_rows, last = slabs * (tile + 1) / tiles * slab_rows; // balanced
    w.kind = many_rows_unit;
    w.row = t.row + first;
    w.rows = (last < t.rows ? last : t.rows) - first;
    return w;
}
