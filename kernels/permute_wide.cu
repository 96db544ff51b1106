// Steps 2 and 3 with BF16 rows: every block counts all ids, finds where its own tokens' rows go (stable: by token, then slot) and writes their rows
// there: as they are, or as the numbers that their MXFP8 codes stand for. Block 0 also lists the work of all experts.
#include "include/numerics.cuh"
#include "include/permute.cuh"
#include "include/wide_decode.cuh"
#include "include/wide_scheduler.cuh"

namespace wide {
constexpr int parts = 1; // of 16 bytes, 512 bytes apart: with one a warp takes 256 columns of a token
struct Columns {
    u32 pairs[parts][4]; // zeros beyond the end of the row
};

DEVICE Columns load_columns(const WidePermuteArguments& q, int token, int chunk) {
    Columns c = {};
#pragma unroll
    for (int p = 0; p < parts; p++) {
        const int part = chunk + 32 * p, left = q.hidden_size - part * 8;
        const u16* from = q.hidden + (u64)token * q.hidden_size + part * 8;
        if (left >= 8 && q.hidden_size % 8 == 0) {
            const uint4 v = *(const uint4*)from;
            c.pairs[p][0] = v.x, c.pairs[p][1] = v.y, c.pairs[p][2] = v.z, c.pairs[p][3] = v.w;
        } else {
#pragma unroll
            for (int i = 0; i < 8; i++) c.pairs[p][i / 2] |= i < left ? (u32)from[i] << i % 2 * 16 : 0;
        }
    }
    return c;
}

/// Four neighbouring threads have one MXFP8 group of 32.
DEVICE void round_to_mx(u32 (&pairs)[4]) {
    u32 m = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) m = maximum_bf16(m, absolute_bf16(pairs[i]));
#pragma unroll
    for (int step = 1; step < 4; step *= 2) m = maximum_bf16(m, __shfl_xor_sync(~0u, m, step));
    m = maximum_bf16(m, m >> 16 | m << 16);
    const u32 maxima[4] = {m, m, m, m};
    mx_round(pairs, maxima);
}

/// All lanes of a warp call it.
DEVICE void store_columns(const WidePermuteArguments& q, Columns& c, int chunk, int chunks, const int* rows) {
    if (q.quantize) {
#pragma unroll
        for (int p = 0; p < parts; p++) round_to_mx(c.pairs[p]);
    }
    const u64 block = (u64)q.capacity * 64;
    for (int s = 0; s < q.top_k; s++) {
        const int row = rows[s];
        if (row < 0) continue;
        u16* to = q.rows + chunk / 8 * block + (u64)row * 64 + ((chunk % 8) ^ (row & 7)) * 8;
#pragma unroll
        for (int p = 0; p < parts; p++)
            if (chunk + 32 * p < chunks) *(uint4*)(to + 4 * p * block) = make_uint4(c.pairs[p][0], c.pairs[p][1], c.pairs[p][2], c.pairs[p][3]);
    }
}
} // namespace wide

extern "C" __global__ void __launch_bounds__(permute_threads, 1) permute_wide(const __grid_constant__ WidePermuteArguments q) {
    SHARED_MEMORY(int, 4, memory);
    const RowsMemory m(memory, q.experts);
    wait_for_earlier_kernels();
    begin_counts(q.tile_count);
    const int first_token = blockIdx.x * q.tokens_per_block;
    const int end_token = first_token + q.tokens_per_block < q.tokens ? first_token + q.tokens_per_block : q.tokens;
    const int first = first_token * q.top_k, last = end_token * q.top_k;

    // All blocks walk through the columns together: rows that are neighbours in the result, mostly other blocks' work, are then written at about the same time.
    const int tokens = end_token - first_token, chunks = (q.hidden_size + 127) / 128 * 16, lane = threadIdx.x % 32;
    const int units = (chunks + 32 * wide::parts - 1) / (32 * wide::parts) * tokens, warps = blockDim.x / 32;
    int unit = threadIdx.x / 32;
    wide::Columns next = {};
    if (unit < units) next = wide::load_columns(q, first_token + unit % tokens, unit / tokens * 32 * wide::parts + lane);

    find_rows(q, first, last, m, [&q](int count) { return wide_entries(count, q.tile_rows); });
    for (; unit < units; unit += warps) {
        wide::Columns own = next;
        const int after_this = unit + warps;
        if (after_this < units) next = wide::load_columns(q, first_token + after_this % tokens, after_this / tokens * 32 * wide::parts + lane);
        wide::store_columns(q, own, unit / tokens * 32 * wide::parts + lane, chunks, m.row_of_slot + unit % tokens * q.top_k);
    }
}
