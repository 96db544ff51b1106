#pragma once
#include "arguments.cuh"
// Step 7: for every output element one FP32 chain over the token's slots in order, then the shared expert as one more slot, rounded once.

/// sum += eight values of a swizzled row, times a weight.
DEVICE void multiply_add(float (&sum)[8], uint4 values, float weight) {
    const u32 words[4] = {values.x, values.y, values.z, values.w};
#pragma unroll
    for (int j = 0; j < 8; j++) sum[j] = fmaf(from_bf16(j % 2 ? words[j / 2] >> 16 : words[j / 2] & 0xFFFF), weight, sum[j]);
}

/// Eight neighbouring elements of a token's output. rows: of its slots; -1 where the expert is elsewhere. Whole: the hidden size is known to be a multiple of 8.
/// So many loads are on their way at once.
template <bool Whole = false, int Loads = 4> DEVICE void combine_chunk(const CombineArguments& c, int token, int chunk, const int* rows) {
    const int block = chunk / 16;
    float sum[8] = {};
    for (int first = 0; first < c.top_k; first += Loads) {
        uint4 v[Loads];
        float weight[Loads];
        int row[Loads];
#pragma unroll
        for (int s = 0; s < Loads; s++) {
            row[s] = first + s < c.top_k ? rows[first + s] : -1;
            weight[s] = row[s] < 0 ? 0.0f : c.weights ? c.weights[token * c.top_k + first + s] : 1.0f;
            if (row[s] >= 0) v[s] = *(const uint4*)(c.results + ((u64)block * c.capacity + row[s]) * 128 + ((chunk % 16) ^ (row[s] & 7)) * 8);
        }
#pragma unroll
        for (int s = 0; s < Loads; s++) {
            if (row[s] >= 0) multiply_add(sum, v[s], weight[s]);
        }
    }
    if (c.shared_results) {
        const uint4 v = *(const uint4*)(c.shared_results + ((u64)block * c.shared_capacity + token) * 128 + ((chunk % 16) ^ (token & 7)) * 8);
        multiply_add(sum, v, c.shared_weights ? c.shared_weights[token] : 1.0f);
    }
    const u64 at = (u64)token * c.hidden_size + chunk * 8;
    const int left = Whole ? 8 : c.hidden_size - chunk * 8;
    float* f32 = (float*)c.output + at;
    u16* bf16 = (u16*)c.output + at;
    if (Whole && c.output_f32) {
        ((float4*)f32)[0] = make_float4(sum[0], sum[1], sum[2], sum[3]);
        ((float4*)f32)[1] = make_float4(sum[4], sum[5], sum[6], sum[7]);
    } else if (c.output_f32) {
        for (int j = 0; j < 8 && j < left; j++) f32[j] = sum[j];
    } else if (Whole || c.hidden_size % 8 == 0) {
        *(uint4*)bf16 = make_uint4(pack_bf16(sum[0], sum[1]), pack_bf16(sum[2], sum[3]), pack_bf16(sum[4], sum[5]), pack_bf16(sum[6], sum[7]));
    } else {
        for (int j = 0; j < 8 && j < left; j++) bf16[j] = (u16)pack_bf16(sum[j], 0.0f);
    }
}
