#pragma once
#include "wide_arguments.cuh"
// Which part of which expert a block computes next, from counts that are only on the device. A tall unit is two blocks of 128 weight rows times a tile of
// rows, and takes 64 values of depth per stage. A deep unit, for few rows, is one block and takes 128: more units for few experts, longer copies. Units of
// one expert are neighbours, row tiles innermost.

constexpr int wide_few_rows = 16; // deep units up to here

/// Entries of an expert whose tiles have at most tile_rows rows.
DEVICE int wide_entries(int rows, int tile_rows) { return rows > wide_few_rows ? (rows + tile_rows - 1) / tile_rows : rows > 0 ? 2 : 0; }

struct alignas(16) WideWork {
    int kind;
    int expert;
    int block;
    int second; // tall: there is a block + 1
    int row;
    int rows;
    int alone;  // nobody else reads these weights
    int first;  // GateUp: of the expert's entries; Down: -1
};
enum { wide_end = 0, wide_deep = 1, wide_tall = 2, wide_nothing = 3 };

/// The unit of this number, of a GEMM with so many blocks of weights per expert.
DEVICE WideWork wide_work_at(const WideTiles& t, int index, int blocks) {
    const int pairs = (blocks + 1) / 2;
    const int local = index - t.first * pairs, pair = local / t.count, entry = local % t.count;
    WideWork w = {};
    const bool tall = t.rows > wide_few_rows;
    const int tiles = tall ? t.count : 1, tile = tall ? entry : 0, groups = (t.rows + 7) / 8;
    const int first = groups * tile / tiles * 8, last = groups * (tile + 1) / tiles * 8; // balanced
    w.expert = t.expert;
    w.block = 2 * pair + (tall ? 0 : entry);
    w.second = tall && w.block + 1 < blocks;
    w.kind = w.block >= blocks ? wide_nothing : tall ? wide_tall : wide_deep;
    w.row = t.row + first;
    w.rows = (last < t.rows ? last : t.rows) - first;
    w.alone = tiles == 1;
    return w;
}
