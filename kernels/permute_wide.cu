// Steps 2 and 3 with BF16 rows: every block counts all ids, finds where its own tokens' rows go (stable: by token, then slot) and writes their rows
// there: as they are, or as the numbers that their MXFP8 codes stand for. Block 0 also lists the work of all experts.
#include "include/numerics.cuh"
#include "include/wide_decode.cuh"
#include "include/wide_scheduler.cuh"

namespace wide {
DEVICE int local_expert(const WidePermuteArguments& q, int id) {
    if (id < 0 || id >= q.global_experts) return -1;
    return q.expert_map ? q.expert_map[id] : id;
}

/// Counts the slots of each expert: those before `first` in counts[0 .. E), the others in counts[E .. 2E); keeps the experts of slots
/// [first, last). All threads of the block call it.
DEVICE void count_slots(const WidePermuteArguments& q, int first, int last, int* counts, int* expert_of_slot) {
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

/// One warp: turns counts into first rows (multiples of 8); block 0 writes the work list.
DEVICE void place_experts(const WidePermuteArguments& q, const int* before, const int* after, int* cursor) {
    int rows = 0, entries = 0;
    for (int base = 0; base < q.experts; base += 32) {
        const int e = base + threadIdx.x % 32;
        const int count = e < q.experts ? before[e] + after[e] : 0, padded = (count + 7) / 8 * 8, own = wide_entries(count, q.tile_rows);
        const int row_end = rows + inclusive_scan(padded), entry_end = entries + inclusive_scan(own);
        if (e < q.experts) cursor[e] = row_end - padded + before[e];
        if (blockIdx.x == 0)
            for (int t = entry_end - own; t < entry_end; t++) q.tiles[t] = WideTiles{e, entry_end - own, own, row_end - padded, count, {0, 0, 0}};
        rows = __shfl_sync(~0u, row_end, 31);
        entries = __shfl_sync(~0u, entry_end, 31);
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) *q.tile_count = entries;
}

/// One warp: turns the experts of this block's slots into their rows, in order.
DEVICE void rank_slots(const WidePermuteArguments& q, int first, int last, int* cursor, int* row_of_slot) {
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

constexpr int parts = 2; // 16 bytes each, 512 apart: a warp takes 512 columns of one token
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

extern "C" __global__ void __launch_bounds__(1024, 1) permute_wide(const __grid_constant__ WidePermuteArguments q) {
    SHARED_MEMORY(int, 4, counters); // before [E], after [E], cursor [E], rows of this block's slots
    int *before = counters, *after = before + q.experts, *cursor = after + q.experts, *row_of_slot = cursor + q.experts;
    wait_for_earlier_kernels();
    launch_dependents();
    const int first_token = blockIdx.x * q.tokens_per_block;
    const int end_token = first_token + q.tokens_per_block < q.tokens ? first_token + q.tokens_per_block : q.tokens;
    const int first = first_token * q.top_k, last = end_token * q.top_k;

    // All blocks walk through the columns together: rows that are neighbours in the result, mostly other blocks' work, are then written at about the same time.
    const int tokens = end_token - first_token, chunks = (q.hidden_size + 127) / 128 * 16, lane = threadIdx.x % 32;
    const int units = (chunks + 32 * wide::parts - 1) / (32 * wide::parts) * tokens, warps = blockDim.x / 32;
    int unit = threadIdx.x / 32;
    wide::Columns next = {};
    if (unit < units) next = wide::load_columns(q, first_token + unit % tokens, unit / tokens * 32 * wide::parts + lane);

    for (int e = threadIdx.x; e < 2 * q.experts; e += blockDim.x) before[e] = 0;
    __syncthreads();
    wide::count_slots(q, first, last, before, row_of_slot);
    __syncthreads();
    if (threadIdx.x < 32) {
        wide::place_experts(q, before, after, cursor);
        __syncwarp();
        wide::rank_slots(q, first, last, cursor, row_of_slot);
    }
    __syncthreads();
    for (; unit < units; unit += warps) {
        wide::Columns own = next;
        const int after_this = unit + warps;
        if (after_this < units) next = wide::load_columns(q, first_token + after_this % tokens, after_this / tokens * 32 * wide::parts + lane);
        wide::store_columns(q, own, unit / tokens * 32 * wide::parts + lane, chunks, row_of_slot + unit % tokens * q.top_k);
    }
}
