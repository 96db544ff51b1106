// Steps 2 and 3: every block counts all ids, finds where its own tokens' rows go (stable: by token, then slot) and writes their quantized rows
// there. Block 0 also writes the row tiles of all experts. Nothing is exchanged between blocks.
#include "include/numerics.cuh"
#include "include/scheduler.cuh"

DEVICE int local_expert(const QuantizeArguments& q, int slot) {
    int id = q.ids[slot];
    if (id < 0 || id >= q.global_experts) return -1;
    return q.expert_map ? q.expert_map[id] : id;
}

/// counts[e] += slots in [first, last) that go to e. All threads of the block call it.
DEVICE void count_slots(const QuantizeArguments& q, int first, int last, int* counts) {
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

/// One warp: turns counts into first rows (multiples of 8); block 0 writes the tiles.
DEVICE void place_experts(const QuantizeArguments& q, const int* before, const int* after, int* cursor) {
    int rows = 0, tiles = 0;
    for (int base = 0; base < q.experts; base += 32) {
        const int e = base + threadIdx.x % 32;
        const int count = e < q.experts ? before[e] + after[e] : 0, padded = round_up_8(count), own = row_groups(count, q.tiles_per_group);
        const int row_end = rows + inclusive_scan(padded), tile_end = tiles + inclusive_scan(own);
        if (e < q.experts) cursor[e] = row_end - padded + before[e];
        if (blockIdx.x == 0)
            for (int t = tile_end - own; t < tile_end; t++) q.tiles[t] = ExpertTiles{e, tile_end - own, own, row_end - padded, count, {0, 0, 0}};
        rows = __shfl_sync(~0u, row_end, 31);
        tiles = __shfl_sync(~0u, tile_end, 31);
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) *q.tile_count = tiles;
}

/// One warp: rows of this block's slots, in order.
DEVICE void rank_slots(const QuantizeArguments& q, int first, int last, int* cursor, int* row_of_slot) {
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

/// 16 values per thread, eight neighbouring threads one group of 128.
DEVICE void quantize_chunk(const QuantizeArguments& q, int token, int chunk, const int* rows) {
    float x[16];
    const u16* from = q.hidden + (u64)token * q.hidden_size + chunk * 16;
    const int left = q.hidden_size - chunk * 16;
    if (left >= 16 && q.hidden_size % 8 == 0) {
        const uint4 a = *(const uint4*)from, b = *(const uint4*)(from + 8);
        const u32 words[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
        for (int i = 0; i < 16; i++) x[i] = from_bf16(i % 2 ? words[i / 2] >> 16 : words[i / 2] & 0xFFFF);
    } else {
#pragma unroll
        for (int i = 0; i < 16; i++) x[i] = i < left ? from_bf16(from[i]) : 0.0f;
    }
    float m = 0.0f;
#pragma unroll
    for (int i = 0; i < 16; i++) m = fmaxf(m, fabsf(x[i]));
#pragma unroll
    for (int step = 1; step < 8; step *= 2) m = fmaxf(m, __shfl_xor_sync(0xFFu << (threadIdx.x & 24), m, step));
    const float scale = group_scale(m, 1, q.power_of_two);
    const Divisor divisor(scale);
    u32 codes[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        codes[i] = divisor.quantize_pair(x[4 * i], x[4 * i + 1]) | divisor.quantize_pair(x[4 * i + 2], x[4 * i + 3]) << 16;
    const int block = chunk / 8;
    for (int s = 0; s < q.top_k; s++) {
        const int row = rows[s];
        if (row < 0) continue;
        const u64 at = (u64)block * q.capacity + row;
        *(uint4*)(q.rows + at * 128 + ((chunk % 8) ^ (row & 7)) * 16) = make_uint4(codes[0], codes[1], codes[2], codes[3]);
        if (chunk % 8 == 0) q.scales[at] = scale;
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
    for (int e = threadIdx.x; e < 2 * q.experts; e += blockDim.x) before[e] = 0;
    __syncthreads();
    count_slots(q, 0, first, before);
    count_slots(q, first, q.tokens * q.top_k, after);
    __syncthreads();
    if (threadIdx.x < 32) {
        place_experts(q, before, after, cursor);
        __syncwarp();
        rank_slots(q, first, last, cursor, row_of_slot);
    }
    __syncthreads();
    const int chunks = (q.hidden_size + 127) / 128 * 8;
    for (int i = threadIdx.x; i < (end_token - first_token) * chunks; i += blockDim.x) // whole groups of eight threads: chunks is a multiple of 8
        quantize_chunk(q, first_token + i / chunks, i % chunks, row_of_slot + i / chunks * q.top_k);
}
