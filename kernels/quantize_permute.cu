// Steps 2 and 3: every block counts all ids, finds where its own tokens' rows go (stable: by token, then slot) and writes their quantized rows
// there. Block 0 also writes the row tiles of all experts. Nothing is exchanged between blocks.
#include "include/permute.cuh"
#include "include/quantize.cuh"
#include "include/scheduler.cuh"

DEVICE Chunk load_chunk(const QuantizeArguments& q, int token, int chunk) { return load_chunk(q.hidden + (u64)token * q.hidden_size, q.hidden_size, chunk); }

/// Quantizes 16 values of a token and writes them to the places of its slots.
DEVICE void write_chunk(const QuantizeArguments& q, const Chunk& c, int chunk, const int* rows) {
    const Codes quantized = quantize_chunk(c, 1, q.power_of_two);
    const int block = chunk / 8;
    for (int s = 0; s < q.top_k; s++) {
        const int row = rows[s];
        if (row < 0) continue;
        const u64 at = (u64)block * q.capacity + row;
        *(uint4*)(q.rows + at * 128 + ((chunk % 8) ^ (row & 7)) * 16) = quantized.codes;
        if (chunk % 8 == 0) q.scales[at] = quantized.scale;
    }
}

extern "C" __global__ void __launch_bounds__(1024, 1) quantize_permute(const __grid_constant__ QuantizeArguments q) {
    SHARED_MEMORY(int, 4, counters); // before [E], after [E], cursor [E], rows of this block's slots
    int *before = counters, *row_of_slot = counters + 3 * q.experts;
    wait_for_earlier_kernels();
    launch_dependents();
    const int first_token = blockIdx.x * q.tokens_per_block;
    const int end_token = first_token + q.tokens_per_block < q.tokens ? first_token + q.tokens_per_block : q.tokens;
    const int first = first_token * q.top_k, last = end_token * q.top_k;

    // A warp takes 512 columns of one token at a time. All blocks walk through the columns together: rows that are neighbours in the result, mostly
    // other blocks' work, are then written at about the same time, and sectors are whole before they leave the L2 cache.
    const int tokens = end_token - first_token, chunks = (q.hidden_size + 127) / 128 * 8, lane = threadIdx.x % 32;
    const int units = (chunks + 31) / 32 * tokens, warps = blockDim.x / 32;
    int unit = threadIdx.x / 32;
    Chunk next = {};
    if (unit < units && unit / tokens * 32 + lane < chunks) next = load_chunk(q, first_token + unit % tokens, unit / tokens * 32 + lane);

    find_rows(q, first, last, before, row_of_slot, row_tiles);
    for (; unit < units; unit += warps) {
        const Chunk own = next;
        const int chunk = unit / tokens * 32 + lane, after_this = unit + warps, next_chunk = after_this / tokens * 32 + lane;
        if (after_this < units && next_chunk < chunks) next = load_chunk(q, first_token + after_this % tokens, next_chunk);
        if (chunk < chunks) write_chunk(q, own, chunk, row_of_slot + unit % tokens * q.top_k); // whole groups of eight threads
    }
}
