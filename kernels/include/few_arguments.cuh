#pragma once
#include "arguments.cuh"
// The layer of few tokens in one launch: what host and kernel share. The C# twins are in src/MoeSharp.Cuda/Kernels/FewArguments.cs.

constexpr int few_tokens = 8;      // one N = 8 tile holds them all
constexpr int few_slots = 128;     // tokens * top_k is less, and so the number of experts with tokens
constexpr int few_columns = 512;   // units of 64 output columns at most
constexpr int few_handoff_header = 128; // bytes
constexpr int few_counter_bytes = 128; // each in a line of its own

struct alignas(16) FewArguments {
    const u16* hidden;      // [T, H] BF16, H a multiple of 16
    const int* ids;         // [T, K]
    const int* expert_map;  // [global experts] or null
    const u8* gateup;       // weights and scales as GateUp and Down have them
    const float* gateup_scales; // of 128-blocks
    const u8* down;
    const float* down_scales;
    u16* results;           // [H/128][capacity][128] BF16, row t for token t: where no output is wanted, of the only expert
    u8* handoff;            // [few_handoff_header + 2 * handoff_bytes]: what blocks tell each other (few_handoff.cuh)
    u64 handoff_bytes;      // of each of two sides
    int experts;
    int global_experts;
    int hidden_blocks;
    int intermediate_blocks;
    int power_of_two;       // scales of the first quantization
    int ring_slots;         // of each ring
    int quantize;           // wide: activations go to MXFP8 and back
    int most_shared;        // wide: up to so many GateUp units the math warpgroups of a block share each unit
    u32 halves[few_slots / 32]; // bit n: with n experts GateUp units have 32 weight rows, not 64, so that blocks end closer together
    ActivationArguments activation;
    CombineArguments combine; // tokens, top_k, hidden_size, capacity hold for all steps; results and row_of_slot are not used; without output this step is left out
    const float* gateup_biases; // wide, or null
    const float* down_biases;
};

static_assert(sizeof(FewArguments) == 256 && offset_of(FewArguments, experts) == 80 && offset_of(FewArguments, ring_slots) == 100, "");
static_assert(offset_of(FewArguments, halves) == 112 && offset_of(FewArguments, activation) == 128 && offset_of(FewArguments, combine) == 160, "");
static_assert(offset_of(FewArguments, quantize) == 104 && offset_of(FewArguments, most_shared) == 108 && offset_of(FewArguments, gateup_biases) == 240, "");
