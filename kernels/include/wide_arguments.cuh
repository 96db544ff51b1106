#pragma once
#include "arguments.cuh"
// The wide kernels multiply BF16 rows by weights that are decoded to BF16 in registers: MXFP8 weights, FP8 weights with BF16 activations, BF16
// weights. The C# twins are in src/MoeSharp.Cuda/Kernels/WideArguments.cs.
//
// Layouts:
//   rows    [K / 64][capacity][64]  BF16; 16-byte chunk c of row r lies at c ^ (r & 7). MXFP8 activations are stored as the numbers that they are.
//   weights [E][blocks][K / 64] pieces of 128 rows x 64 values, in the order in which threads feed them to the tensor core (wide_formats.cuh).
//           GateUp interleaves 8 rows of gate with the 8 rows of up for the same outputs, so a block of 128 rows makes 64 outputs
//   scales  [E][blocks / 2][K / 128][4] FP32, 128-blocks only: GateUp {gate, up, 0, 0}; Down {first block, second block, 0, 0}
//   biases  [E][blocks][128]        FP32, in the order of weight rows
//   results GateUp: rows of Down. Down: [H / 128][capacity][128] BF16, chunk c of row r at c ^ (r & 7)

/// Work on one expert is cut into `count` entries of equal length, starting at `first`; entry i describes the expert that owns it. An entry is a row
/// tile times all pairs of weight blocks; of few rows, whose units are one block only, there are two entries: first and second blocks of pairs.
struct alignas(16) WideTiles {
    int expert;
    int first;
    int count;
    int row;   // first row
    int rows;  // real rows
    u32 handed_on; // counts warpgroups that handed on a part of this expert's intermediate; of the first entry
    int reserved[2];
};

struct alignas(16) WidePermuteArguments {
    const u16* hidden;      // [T, H] BF16
    const int* ids;         // [T, K]
    const int* expert_map;  // [global experts] or null
    u16* rows;              // [H/64][capacity][64]
    int* row_of_slot;       // [T, K]
    WideTiles* tiles;
    int* tile_count;        // [tile_counts]
    int tokens;
    int top_k;
    int hidden_size;
    int experts;
    int capacity;
    int tokens_per_block;
    int global_experts;
    int quantize;           // to MXFP8 and back
    int tile_rows;          // of a tile at most
    int reserved;
};

struct alignas(16) WideGemmArguments {
    const u8* weights;
    const float* scales;    // 128-blocks only
    const float* biases;    // or null
    const u16* rows;
    u16* results;
    WideTiles* tiles;
    int* tile_count;        // [tile_counts]
    int k_blocks;           // of 128
    int blocks;             // 128-row blocks of weights per expert; 0: nothing to do
    int capacity;
    int quantize;           // GateUp: results go to MXFP8 and back
    int hands_on;           // GateUp: to Down of the same launch
    int reserved;
    ActivationArguments activation;
};

/// Both GEMMs in one launch, or one of them.
struct alignas(16) WideGemmsArguments {
    WideGemmArguments gateup, down;
    int* units;             // how many were given out
    u64 reserved;
};

struct alignas(16) WidePrepareArguments {
    const u8* first;         // [rows, columns]: gate, or down
    const u8* second;        // [rows, columns]: up, or null
    const u8* first_scales;  // MXFP8: [rows, columns / 32] E8M0
    const u8* second_scales;
    u8* to;
    u64* found;              // [0] how many NaN codes, [1] lowest offset of one (second's after first's), [2] whether a scale is above 2^7
    int rows;
    int columns;
    int blocks;
    int k_blocks;
    int format;              // 0 MXFP8, 1 128-blocks, 2 BF16
    int reserved[3];
};

static_assert(sizeof(WideTiles) == 32 && sizeof(WidePermuteArguments) == 96 && sizeof(WideGemmArguments) == 112 && sizeof(WideGemmsArguments) == 240, "");
static_assert(offset_of(WideGemmsArguments, down) == 112 && offset_of(WideGemmsArguments, units) == 224, "");
static_assert(sizeof(WidePrepareArguments) == 80, "");
static_assert(offset_of(WidePermuteArguments, tokens) == 56 && offset_of(WidePermuteArguments, tile_rows) == 88, "");
static_assert(offset_of(WideGemmArguments, k_blocks) == 56 && offset_of(WideGemmArguments, activation) == 80, "");
static_assert(offset_of(WidePrepareArguments, rows) == 48 && offset_of(WidePrepareArguments, format) == 64, "");
