#pragma once
#include "wide_arguments.cuh"
// Which part of which expert a block computes next, from counts that are only on the device. A deep unit is one block of 128 weight rows times a tile
// of rows, and takes 128 values of depth per stage; a tall unit is two blocks of weights and takes 64. Deep units serve few rows (more units, longer
// copies), and weights whose products need a second set of registers. Units of one expert are neighbours, row tiles innermost.

constexpr int wide_few_rows = 64;   // deep units up to here
constexpr int wide_tile_rows = 128; // of a tall unit; and of a deep one where no unit is tall

/// Entries of an expert.
DEVICE int wide_entries(int rows, int tall) {
    const int tiles = (rows + wide_tile_rows - 1) / wide_tile_rows;
    return tall && rows > wide_few_rows ? tiles : 2 * tiles;
}

struct alignas(16) WideWork {
    int kind;
    int expert;
    int block;
    int second; // tall: there is a block + 1
    int row;
    int rows;
    int alone;  // nobody else reads these weights
    int reserved;
};
enum { wide_end = 0, wide_deep = 1, wide_tall = 2, wide_nothing = 3 };

DEVICE WideWork wide_work_at(const WideGemmArguments& g, int index, bool can_be_tall) {
    const int pairs = (g.blocks + 1) / 2;
    const WideTiles t = g.tiles[index / pairs];
    const int local = index - t.first * pairs, pair = local / t.count, entry = local % t.count;
    WideWork w = {};
    const bool tall = can_be_tall && t.rows > wide_few_rows;
    const int tiles = tall ? t.count : t.count / 2, tile = tall ? entry : entry % tiles, groups = (t.rows + 7) / 8;
    const int first = groups * tile / tiles * 8, last = groups * (tile + 1) / tiles * 8; // balanced
    w.expert = t.expert;
    w.block = 2 * pair + (tall ? 0 : entry / tiles);
    w.second = tall && w.block + 1 < g.blocks;
    w.kind = w.block >= g.blocks ? wide_nothing : tall ? wide_tall : wide_deep;
    w.row = t.row + first;
    w.rows = (last < t.rows ? last : t.rows) - first;
    w.alone = tiles == 1;
    return w;
}
