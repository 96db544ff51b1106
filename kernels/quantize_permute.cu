// Steps 2 and 3: every block counts all ids, finds where its own tokens' rows go (stable: by token, then slot) and writes their quantized rows
// there. Block 0 also writes the row tiles of all experts. Nothing is exchanged between blocks.
#include "include/permute.cuh"
#include "include/quantize.cuh"
#include "include/scheduler.cuh"

namespace quantizing {
/// Quantizes 16 values of a token and writes them to the places of its slots. Whole warps call it.
DEVICE void write(const QuantizeArguments& q, const Chunk& c, int chunk, int chunks, const int* rows) {
    const Codes quantized = quantize_chunk(c, 1, q.power_of_two, ~0u);
    if (chunk >= chunks) return;
    const u64 block = (u64)(chunk / 8) * q.capacity;
    u8* const codes = q.rows + block * 128;
    float* const scales = q.scales + block;
#pragma unroll 4
    for (int s = 0; s < q.top_k; s++) {
        const int row = rows[s];
        if (row < 0) continue;
        *(uint4*)(codes + (u64)row * 128 + ((chunk % 8) ^ (row & 7)) * 16) = quantized.codes;
        if (chunk % 8 == 0) scales[row] = quantized.scale;
    }
}

template <bool Whole> DEVICE void block(const QuantizeArguments& q) {
    SHARED_MEMORY(int, 4, memory);
    const RowsMemory m(memory, q.experts);
    wait_for_earlier_kernels();
    begin_counts(q.tile_count);
    const int first_token = blockIdx.x * q.tokens_per_block, end_token = first_token + q.tokens_per_block;
    const int tokens = (end_token < q.tokens ? end_token : q.tokens) - first_token;

    // A warp takes 512 columns of one token at a time. All blocks walk through the columns together: rows that are neighbours in the result, mostly
    // other blocks' work, are then written at about the same time, and sectors are whole before they leave the L2 cache.
    const int chunks = (q.hidden_size + 127) / 128 * 8, units = (chunks + 31) / 32 * tokens, lane = threadIdx.x % 32;
    int own_chunk = 0, own_token = -1;
    Chunk own = {};
#pragma unroll 1
    for (int unit = uniform(threadIdx.x / 32);; unit += permute_warps) { // one more than there are
        const int token = unit % tokens, chunk = unit / tokens * 32 + lane;
        Chunk next = {};
        if (unit < units) next = load_chunk<Whole>(q.hidden + (u64)(first_token + token) * q.hidden_size, q.hidden_size, chunk);
        if (own_token < 0) find_rows(q, first_token * q.top_k, (first_token + tokens) * q.top_k, m, row_tiles); // while the first are on their way
        else write(q, own, own_chunk, chunks, m.row_of_slot + own_token * q.top_k);
        if (unit >= units) return;
        own = next, own_token = token, own_chunk = chunk;
    }
}
} // namespace quantizing

extern "C" __global__ void __launch_bounds__(permute_threads, 1) quantize_permute(const __grid_constant__ QuantizeArguments q) { quantizing::block<true>(q); }
/// Hidden sizes that are no multiples of 16.
extern "C" __global__ void __launch_bounds__(permute_threads, 1) quantize_permute_ragged(const __grid_constant__ QuantizeArguments q) { quantizing::block<false>(q); }
