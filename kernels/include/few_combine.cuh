#pragma once
#include "combine.cuh"
// Step 7 within the one launch of few tokens, from results that come meanwhile.
//
// Whole is always true here; a shorter form gave wrong results for BF16 weights, for a reason that has since been found and mended (docs/cuda.md, the log): it can be tried again on a GPU.

/// Results as Down stores them: values of a row from a column on, which are there.
struct StoredResults {
    const u16* results; // [H/128][capacity][128], swizzled
    int capacity;
    template <class V> DEVICE void load(V& v, int row, int column) const { v = *(const V*)stored_results(results, capacity, row, column); }
};

/// So many neighbouring elements (eight or four) of a token's output, from a multiple of as many on. rows: of its slots; -1 where the expert is elsewhere. Whole: the hidden size is known to be a multiple of that.
/// So many loads are on their way at once.
template <bool Whole = false, int Loads = 4, int Count = 8, class Results> DEVICE void combine_columns(const CombineArguments& c, const Results& results, int token, int column, const int* rows) {
    typedef typename Values<Count / 2>::type V;
    float sum[Count] = {};
    for (int first = 0; first < c.top_k; first += Loads) {
        V v[Loads];
        float weight[Loads];
        int row[Loads];
#pragma unroll
        for (int s = 0; s < Loads; s++) {
            row[s] = first + s < c.top_k ? rows[first + s] : -1;
            weight[s] = row[s] < 0 ? 0.0f : c.weights ? c.weights[token * c.top_k + first + s] : 1.0f;
            v[s] = V{};
            if (row[s] >= 0) results.load(v[s], row[s], column);
        }
        results.wait(v, row, column);
#pragma unroll
        for (int s = 0; s < Loads; s++) {
            if (row[s] >= 0) multiply_add(sum, v[s], weight[s]);
        }
    }
    if (c.shared_results) {
        V v;
        StoredResults{c.shared_results, c.shared_capacity}.load(v, token, column);
        multiply_add(sum, v, c.shared_weights ? c.shared_weights[token] : 1.0f);
    }
    const u64 at = (u64)token * c.hidden_size + column;
    const int left = Whole ? Count : c.hidden_size - column;
    float* f32 = (float*)c.output + at;
    u16* bf16 = (u16*)c.output + at;
    if (Whole && c.output_f32) {
#pragma unroll
        for (int j = 0; j < Count; j += 4) *(float4*)(f32 + j) = make_float4(sum[j], sum[j + 1], sum[j + 2], sum[j + 3]);
    } else if (c.output_f32) {
        for (int j = 0; j < Count && j < left; j++) f32[j] = sum[j];
    } else if (Whole || c.hidden_size % Count == 0) {
        const u32 first = pack_bf16(sum[0], sum[1]), second = pack_bf16(sum[2], sum[3]);
        if constexpr (Count == 8) *(uint4*)bf16 = make_uint4(first, second, pack_bf16(sum[4], sum[5]), pack_bf16(sum[6], sum[7]));
        else *(uint2*)bf16 = make_uint2(first, second);
    } else {
        for (int j = 0; j < Count && j < left; j++) bf16[j] = (u16)pack_bf16(sum[j], 0.0f);
    }
}
