#pragma once
#include "numerics.cuh"
// Groups of 128 BF16 values to E4M3 codes and a scale: 16 values per thread, eight neighbouring threads one group.

struct Chunk {
    u32 words[8]; // 16 BF16 values; zeros beyond the end of the row
};

/// 16 values at a multiple of 16 bytes.
DEVICE Chunk load_whole_chunk(const u16* from) {
    const uint4 a = *(const uint4*)from, b = *(const uint4*)(from + 8);
    return Chunk{{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

/// Whole: sizes are multiples of 16.
template <bool Whole> DEVICE Chunk load_chunk(const u16* row, int size, int chunk) {
    Chunk c = {};
    const u16* from = row + chunk * 16;
    const int left = size - chunk * 16;
    if (left >= 16 && (Whole || size % 8 == 0)) c = load_whole_chunk(from);
    else if (!Whole) {
#pragma unroll
        for (int i = 0; i < 8; i++) c.words[i] = (2 * i < left ? from[2 * i] : 0u) | (2 * i + 1 < left ? (u32)from[2 * i + 1] << 16 : 0u);
    }
    return c;
}

struct Codes {
    uint4 codes;
    float scale;
};

/// All threads of the mask call it, whole groups of eight.
DEVICE Codes quantize_chunk(const Chunk& c, int divide, int power_of_two, u32 mask) {
    float x[16];
#pragma unroll
    for (int i = 0; i < 8; i++) x[2 * i] = low_bf16(c.words[i]), x[2 * i + 1] = high_bf16(c.words[i]);
    float m = 0.0f;
#pragma unroll
    for (int i = 0; i < 16; i++) m = fmaxf(m, fabsf(x[i]));
#pragma unroll
    for (int step = 1; step < 8; step *= 2) m = fmaxf(m, __shfl_xor_sync(mask, m, step));
    const float scale = group_scale(m, divide, power_of_two);
    const Divisor divisor(scale);
    u32 codes[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        codes[i] = divisor.quantize_pair(x[4 * i], x[4 * i + 1]) | divisor.quantize_pair(x[4 * i + 2], x[4 * i + 3]) << 16;
    return Codes{make_uint4(codes[0], codes[1], codes[2], codes[3]), scale};
}

/// All eight threads of the group call it.
DEVICE Codes quantize_chunk(const Chunk& c, int divide, int power_of_two) { return quantize_chunk(c, divide, power_of_two, 0xFFu << (threadIdx.x & 24)); }
