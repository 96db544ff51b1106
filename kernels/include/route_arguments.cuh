#pragma once
#include "ptx.cuh"
// Arguments of the router's kernels. The C# twins are in src/MoeSharp.Cuda/Kernels/RouteArguments.cs; sizes and offsets are checked on both sides.

struct alignas(16) LogitsArguments {
    const u16* hidden;   // [T, H] BF16
    const float* weight; // [E, stride], zeros from H on
    const float* bias;   // [E] or null
    float* logits;       // [T, E]
    int tokens;
    int hidden_size;
    int stride;          // H rounded up to a multiple of 16
    int experts;
};

struct alignas(16) SelectArguments {
    const float* logits;          // [T, E]
    const float* correction_bias; // [E] or null: added to scores for selection only
    int* ids;                     // [T, K]
    float* weights;               // [T, K]
    int tokens;
    int experts;
    int top_k;
    int scoring;                  // 0 softmax, 1 sigmoid, 2 softmax over the top-k
    int groups;
    int topk_groups;
    int renormalize;
    float epsilon;
    float minimum;
    float scaling;
    int warp_words;               // of shared memory
    int reserved;
};

static_assert(sizeof(LogitsArguments) == 48 && sizeof(SelectArguments) == 80, "");
static_assert(offset_of(LogitsArguments, tokens) == 32 && offset_of(SelectArguments, tokens) == 32 && offset_of(SelectArguments, warp_words) == 72, "");
