#pragma once
#include "ptx.cuh"
// What host and kernels share. The C# twins are in src/MoeSharp.Cuda/Kernels/Arguments.cs; sizes and offsets are checked on both sides.
//
// Layouts. Everything that the copy engine moves is contiguous:
//   rows    [K / 128][capacity][128]   E4M3 rows of one K block side by side; 16-byte chunk c of row r lies at c ^ (r & 7)
//   scales  [K / 128][capacity]        FP32, one per row and K block
//   weights [E][blocks][K / 128][128 rows][128]   E4M3, chunks swizzled as above. GateUp interleaves: 8 rows of gate, the 8 rows of up for
//                                      the same outputs, and so on, so a block of 128 rows makes 64 outputs and two blocks one group of 128
//   weight scales [E][blocks / 2][K / 128][4]     FP32: GateUp {gate, up, 0, 0}; Down {first block, second block, 0, 0}
//   results [H / 128][capacity][128]   BF16, 16-byte chunk c of row r at c ^ (r & 7)
// Each expert's rows start at a multiple of 8.

struct alignas(16) ActivationArguments {
    float limit;      // BF16-valued; infinity means none
    float alpha;
    float beta;
    int kind;         // 0 silu, 1 swiglustep, 2 gelu_tanh, 3 swigluoai and silu with a limit
    int rounding;     // 0 Bf16Staged, 1 Fp32Once
    int power_of_two; // scales of the second quantization
    int divide;       // 1: scale = absmax / 448 (swiglustep), 0: absmax * fl32(1/448)
    int reserved;
};

/// The row tiles of one expert; entry i describes the expert that owns tile i.
struct alignas(16) ExpertTiles {
    int expert;
    int first;  // first tile of this expert
    int tiles;  // how many
    int row;    // first row
    int rows;   // real rows
    u32 handed_on; // counts warps that handed on a part of this tile's intermediate
    int reserved[2];
};

/// Behind the number of tiles: how many units were given out, of both GEMMs or, where they are launches of their own, of each; warps that stored units of GateUp. Zero before the launch that lists the tiles lets the next one start.
enum { gateup_units = 1, down_units = 2, gateup_stored = 3, tile_counts = 4 };

struct alignas(16) QuantizeArguments {
    const u16* hidden;      // [T, H] BF16
    const int* ids;         // [T, K]
    const int* expert_map;  // [global experts] or null
    u8* rows;               // [H/128][capacity][128]
    float* scales;          // [H/128][capacity]
    int* row_of_slot;       // [T, K]
    ExpertTiles* tiles;
    int* tile_count;        // [tile_counts]
    int tokens;
    int top_k;
    int hidden_size;
    int experts;
    int capacity;
    int tokens_per_block;
    int power_of_two;
    int global_experts;
};

struct alignas(64) GemmArguments {
    TensorMap rows_map;     // [k_blocks * capacity][128], boxes of 32 rows
    const u8* weights;
    const float* weight_scales;
    const u8* rows;
    const float* scales;
    void* results;          // Down: BF16 results; GateUp: E4M3 rows of the next GEMM
    float* result_scales;   // GateUp only
    ExpertTiles* tiles;
    int* tile_count;        // [tile_counts]
    int k_blocks;
    int blocks;             // 128-row blocks of weights per expert
    int capacity;
    int reserved;
    ActivationArguments activation;
};

/// Both GEMMs in one launch, or one of them.
struct alignas(64) GemmsArguments {
    GemmArguments gateup, down;
    int* units;             // how many were given out
    u64 reserved[7];
};

struct alignas(16) CombineArguments {
    const u16* results;     // [H/128][capacity][128] BF16
    const int* row_of_slot; // [T, K]
    const float* weights;   // [T, K], or null: ones
    void* output;           // [T, H] BF16 or FP32
    const u16* shared_results;   // [H/128][shared_capacity][128] BF16, row t for token t: one more slot; or null
    const float* shared_weights; // [T], or null: ones
    int tokens;
    int top_k;
    int hidden_size;
    int capacity;
    int output_f32;
    int shared_capacity;
};

struct alignas(16) WeighArguments {
    const u16* hidden;      // [T, H] BF16
    const float* weights;   // [T]
    u16* weighed;           // [T, H] BF16
    int tokens;
    int hidden_size;
};

struct alignas(16) CodesArguments {
    const u8* codes;          // [T, H]
    const float* code_scales; // [T, H/128]
    const int* row_of_slot;   // [T, K]
    u8* rows;                 // [H/128][capacity][128]
    float* scales;            // [H/128][capacity]
    int tokens;
    int top_k;
    int hidden_size;
    int capacity;
};

struct alignas(16) WidenArguments {
    const u8* codes;        // [T, H]
    const u8* scales;       // [T, H/32]
    u16* hidden;            // [T, H] BF16
    int tokens;
    int hidden_size;
};

struct alignas(16) SharedGateArguments {
    const u16* hidden;      // [T, H] BF16
    const float* gate;      // [H]
    float* weights;         // [T]: sigmoid of the dot products
    int tokens;
    int hidden_size;
};

struct alignas(16) PrepareArguments {
    const u8* first;      // [rows, columns]: gate, or down
    const u8* second;     // [rows, columns]: up, or null
    u8* to;               // blocks of one expert
    u64* nan;             // [0] how many NaN codes, [1] lowest offset of one (second's after first's)
    int rows;
    int columns;
    int blocks;
    int k_blocks;
};

// The host's twins have these sizes and offsets.
static_assert(sizeof(ActivationArguments) == 32 && sizeof(ExpertTiles) == 32 && sizeof(QuantizeArguments) == 96, "");
static_assert(sizeof(GemmArguments) == 256 && sizeof(GemmsArguments) == 576 && sizeof(CombineArguments) == 80 && sizeof(PrepareArguments) == 48, "");
static_assert(offset_of(GemmArguments, weights) == 128 && offset_of(GemmArguments, results) == 160, "");
static_assert(offset_of(GemmArguments, tile_count) == 184 && offset_of(GemmArguments, k_blocks) == 192, "");
static_assert(offset_of(GemmsArguments, down) == 256 && offset_of(GemmsArguments, units) == 512, "");
static_assert(offset_of(GemmArguments, activation) == 208 && offset_of(ActivationArguments, divide) == 24, "");
static_assert(offset_of(QuantizeArguments, tile_count) == 56 && offset_of(QuantizeArguments, tokens) == 64, "");
static_assert(offset_of(CombineArguments, output) == 24 && offset_of(CombineArguments, output_f32) == 64, "");
static_assert(offset_of(PrepareArguments, nan) == 24 && offset_of(PrepareArguments, k_blocks) == 44, "");
static_assert(sizeof(SharedGateArguments) == 32 && offset_of(SharedGateArguments, hidden_size) == 28, "");
static_assert(sizeof(WeighArguments) == 32 && offset_of(WeighArguments, hidden_size) == 28, "");
static_assert(sizeof(WidenArguments) == 32 && offset_of(WidenArguments, hidden_size) == 28, "");
static_assert(sizeof(CodesArguments) == 64 && offset_of(CodesArguments, tokens) == 40 && offset_of(CodesArguments, capacity) == 52, "");
