// Steps 2 and 3 with BF16 rows: every block counts all ids, finds where its own tokens' rows go (stable: by token, then slot) and writes their rows
// there: as they are, or as the numbers that their MXFP8 codes stand for. Block 0 also lists the work of all experts.
#include "include/numerics.cuh"
#include "include/wide_decode.cuh"
#include "include/wide_scheduler.cuh"

namespace wide {
DEVICE int local_expert(const WidePermuteArguments& q, int slot) {
    int id = q.ids[slot];
    if (id < 0 || id >= q.global_experts) return -1;
    return q.expert_map ? q.expert_map[id] : id;
}

/// counts[e] += slots in [first, last) that go to e. All threads of the block call it.
DEVICE void count_slots(const WidePermuteArguments& q, int first, int last, int* counts) {
    constexpr int batch = 8; // loads in flight
    for (int base = first + threadIdx.x; base < last + (int)threadIdx.x % 32; base += batch * blockDim.x) { // whole warps
        int expert[batch];
#pragma unroll
        for (int i = 0; i < batch; i++) {
            const int slot = base + i * blockDim.x;
            expert[i] = slot < last ? local_expert(q, slot) : -1;
        }
#pragma unroll
        for (int i = 0; i < batch; i++) {
            int same;
            __match_all_sync(~0u, expert[i], &same); // a crowd at one expert must not serialize 32 additions
            if (expert[i] >= 0 && (!same || threadIdx.x % 32 == 0)) atomicAdd(&counts[expert[i]], same ? 32 : 1);
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

/// One warp: rows of this block's slots, in order.
DEVICE void rank_slots(const WidePermuteArguments& q, int first, int last, int* cursor, int* row_of_slot) {
    const int lane = threadIdx.x % 32;
    int next = first + lane < last ? local_expert(q, first + lane) : -1;
    for (int base = first; base < last; base += 32) {
        const int slot = base + lane, expert = next;
        next = slot + 32 < last ? local_expert(q, slot + 32) : -1;
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

/// 8 values per thread, four neighbouring threads one MXFP8 group of 32.
DEVICE void copy_chunk(const WidePermuteArguments& q, int token, int chunk, const int* rows) {
    u32 pairs[4] = {};
    const u16* from = q.hidden + (u64)token * q.hidden_size + chunk * 8;
    const int left = q.hidden_size - chunk * 8;
    if (left >= 8 && q.hidden_size % 8 == 0) {
        const uint4 v = *(const uint4*)from;
        pairs[0] = v.x, pairs[1] = v.y, pairs[2] = v.z, pairs[3] = v.w;
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++) pairs[i / 2] |= i < left ? (u32)from[i] << i % 2 * 16 : 0;
    }
    if (q.quantize) {
        u32 m = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) m = maximum_bf16(m, absolute_bf16(pairs[i]));
#pragma unroll
        for (int step = 1; step < 4; step *= 2) m = maximum_bf16(m, __shfl_xor_sync(0xFu << (threadIdx.x & 28), m, step));
        const u32 low = m & 0x7FFF, high = m >> 16 & 0x7FFF, scale = mx_scale(low > high ? low : high);
#pragma unroll
        for (int i = 0; i < 4; i++) pairs[i] = mx_round(pairs[i], scale, scale);
    }
    for (int s = 0; s < q.top_k; s++) {
        const int row = rows[s];
        if (row >= 0)
            *(uint4*)(q.rows + ((u64)(chunk / 8) * q.capacity + row) * 64 + ((chunk % 8) ^ (row & 7)) * 8) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
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
    for (int e = threadIdx.x; e < 2 * q.experts; e += blockDim.x) before[e] = 0;
    __syncthreads();
    wide::count_slots(q, 0, first, before);
    wide::count_slots(q, first, q.tokens * q.top_k, after);
    __syncthreads();
    if (threadIdx.x < 32) {
        wide::place_experts(q, before, after, cursor);
        __syncwarp();
        wide::rank_slots(q, first, last, cursor, row_of_slot);
    }
    __syncthreads();
    const int chunks = (q.hidden_size + 127) / 128 * 16;
    for (int i = threadIdx.x; i < (end_token - first_token) * chunks; i += blockDim.x) // whole groups of four threads: chunks is a multiple of 16
        wide::copy_chunk(q, first_token + i / chunks, i % chunks, row_of_slot + i / chunks * q.top_k);
}
