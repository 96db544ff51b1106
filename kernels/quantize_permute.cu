// Steps 2 and 3: every block counts all ids, finds where its own tokens' rows go (stable: by token, then slot) and writes their quantized rows
// there. Block 0 also writes the row tiles of all experts. Nothing is exchanged between blocks.
#include "include/local_expert.cuh"
#include "include/quantize.cuh"
#include "include/scheduler.cuh"

DEVICE int local_expert(const QuantizeArguments& q, int id) { return local_expert(q.expert_map, q.global_experts, id); }

/// Counts the slots of each expert: those before `first` in counts[0 .. E), the others in counts[E .. 2E); keeps the experts of slots
/// [first, last). All threads of the block call it.
DEVICE void count_slots(const QuantizeArguments& q, int first, int last, int* counts, int* expert_of_slot) {
    constexpr int batch = 4; // loads of four ids in flight
    const int total = q.tokens * q.top_k, lane = threadIdx.x % 32, step = 4 * blockDim.x;
    const bool aligned = (u64)q.ids % 16 == 0;
    for (int base = threadIdx.x / 32 * 128; base < total; base += batch * step) { // whole warps
        int expert[batch][4];
#pragma unroll
        for (int i = 0; i < batch; i++) {
            const int slot = base + i * step + lane * 4;
            if (aligned && slot + 3 < total) {
                const uint4 ids = *(const uint4*)(q.ids + slot);
                expert[i][0] = (int)ids.x, expert[i][1] = (int)ids.y, expert[i][2] = (int)ids.z, expert[i][3] = (int)ids.w;
            } else {
#pragma unroll
                for (int j = 0; j < 4; j++) expert[i][j] = slot + j < total ? q.ids[slot + j] : -1;
            }
        }
#pragma unroll
        for (int i = 0; i < batch; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) expert[i][j] = local_expert(q, expert[i][j]);
#pragma unroll
        for (int i = 0; i < batch; i++) {
            if (base + i * step >= total) break;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int slot = base + i * step + lane * 4 + j, e = expert[i][j];
                if (slot >= first && slot < last) expert_of_slot[slot - first] = e;
                const int counter = e < 0 ? -1 : slot < first ? e : e + q.experts;
                int same;
                __match_all_sync(~0u, counter, &same); // a crowd at one expert must not serialize 32 additions
                if (counter < 0) continue;
                if (!same) atomicAdd(&counts[counter], 1);
                else if (lane == 0) atomicAdd(&counts[counter], 32);
            }
        }
    }
}

DEVICE int inclusive_scan(int x) {
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const int below = __shfl_up_sync(~0u, x, step);
        if ((int)(threadIdx.x % 32) >= step) x += below;
    }
    return x;
}

/// One warp: turns counts into first rows (multiples of 8); block 0 writes the tiles.
DEVICE void place_experts(const QuantizeArguments& q, const int* before, const int* after, int* cursor) {
    int rows = 0, tiles = 0;
    for (int base = 0; base < q.experts; base += 32) {
        const int e = base + threadIdx.x % 32;
        const int count = e < q.experts ? before[e] + after[e] : 0, padded = round_up_8(count), own = row_tiles(count);
        const int row_end = rows + inclusive_scan(padded), tile_end = tiles + inclusive_scan(own);
        if (e < q.experts) cursor[e] = row_end - padded + before[e];
        if (blockIdx.x == 0)
            for (int t = tile_end - own; t < tile_end; t++) q.tiles[t] = ExpertTiles{e, tile_end - own, own, row_end - padded, count, {0, 0, 0}};
        rows = __shfl_sync(~0u, row_end, 31);
        tiles = __shfl_sync(~0u, tile_end, 31);
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) *q.tile_count = tiles;
}

/// One warp: turns the experts of this block's slots into their rows, in order.
DEVICE void rank_slots(const QuantizeArguments& q, int first, int last, int* cursor, int* row_of_slot) {
    const int lane = threadIdx.x % 32;
    for (int base = first; base < last; base += 32) {
        const int slot = base + lane, expert = slot < last ? row_of_slot[slot - first] : -1;
        const u32 same = __match_any_sync(~0u, expert);
        const int rank = __popc(same & ((1u << lane) - 1));
        const int row = expert < 0 ? -1 : cursor[expert] + rank;
        __syncwarp();
        if (expert >= 0 && rank == 0) cursor[expert] += __popc(same);
        __syncwarp();
        if (slot < last) {
            row_of_slot[slot - first] = row;
            q.row_of_slot[slot] = row;
        }
    }
}

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
    int *before = counters, *after = before + q.experts, *cursor = after + q.experts, *row_of_slot = cursor + q.experts;
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

    for (int e = threadIdx.x; e < 2 * q.experts; e += blockDim.x) before[e] = 0;
    __syncthreads();
    count_slots(q, first, last, before, row_of_slot);
    __syncthreads();
    if (threadIdx.x < 32) {
        place_experts(q, before, after, cursor);
        __syncwarp();
        rank_slots(q, first, last, cursor, row_of_slot);
    }
    __syncthreads();
    for (; unit < units; unit += warps) {
        const Chunk own = next;
        const int chunk = unit / tokens * 32 + lane, after_this = unit + warps, next_chunk = after_this / tokens * 32 + lane;
        if (after_this < units && next_chunk < chunks) next = load_chunk(q, first_token + after_this % tokens, next_chunk);
        if (chunk < chunks) write_chunk(q, own, chunk, row_of_slot + unit % tokens * q.top_k); // whole groups of eight threads
    }
}
