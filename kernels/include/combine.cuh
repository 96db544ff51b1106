#pragma once
#include "arguments.cuh"
// Step 7: for every output element one FP32 chain over the token's slots in order, then the shared expert as one more slot, rounded once.

/// BF16 values that are read at once: Words pairs.
template <int Words> struct Values;
template <> struct Values<4> { typedef uint4 type; };
template <> struct Values<2> { typedef uint2 type; };
DEVICE void unpack(u32 (&words)[4], uint4 v) { words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w; }
DEVICE void unpack(u32 (&words)[2], uint2 v) { words[0] = v.x, words[1] = v.y; }

/// sum += values times a weight.
template <int Count, class V> DEVICE void multiply_add(float (&sum)[Count], V values, float weight) {
    u32 words[Count / 2];
    unpack(words, values);
#pragma unroll
    for (int j = 0; j < Count; j++) sum[j] = fmaf(from_bf16(j % 2 ? words[j / 2] >> 16 : words[j / 2] & 0xFFFF), weight, sum[j]);
}

/// Results as Down stores them, [H/128][capacity][128], swizzled: values of a row from a column on, a multiple of four.
DEVICE const u16* stored_results(const u16* results, int capacity, int row, int column) {
    return results + ((u64)(column / 128) * capacity + row) * 128 + ((column % 128 / 8) ^ (row & 7)) * 8 + column % 8;
}

/// The shared experts' part of neighbouring elements.
template <int Count> DEVICE void add_shared(const CombineArguments& c, float (&sum)[Count], int token, int column) {
    if (!c.shared_results) return;
    const auto v = *(const typename Values<Count / 2>::type*)stored_results(c.shared_results, c.shared_capacity, token, column);
    multiply_add(sum, v, c.shared_weights ? c.shared_weights[token] : 1.0f);
}

/// Four or eight neighbouring elements of the output, from a multiple of as many on.
template <int Count> DEVICE void store_sums(const CombineArguments& c, u64 at, const float (&sum)[Count]) {
    if (c.output_f32) {
        float* to = (float*)c.output + at;
#pragma unroll
        for (int j = 0; j < Count; j += 4) *(float4*)(to + j) = make_float4(sum[j], sum[j + 1], sum[j + 2], sum[j + 3]);
    } else {
        u16* to = (u16*)c.output + at;
        const u32 first = pack_bf16(sum[0], sum[1]), second = pack_bf16(sum[2], sum[3]);
        if constexpr (Count == 8) *(uint4*)to = make_uint4(first, second, pack_bf16(sum[4], sum[5]), pack_bf16(sum[6], sum[7]));
        else *(uint2*)to = make_uint2(first, second);
    }
}
