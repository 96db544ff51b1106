#pragma once
#include "arguments.cuh"
#include "local_expert.cuh"
// Where the rows of a block's own slots go: every block counts all ids, so nothing is exchanged between blocks; stable, by token, then slot. Whatever the format of the rows.

/// Ids of four neighbouring slots; -1 beyond the last.
template <class Arguments> DEVICE void load_ids(const Arguments& q, int slot, int total, bool aligned, int (&id)[4]) {
    if (aligned && slot + 3 < total) {
        const uint4 ids = *(const uint4*)(q.ids + slot);
        id[0] = (int)ids.x, id[1] = (int)ids.y, id[2] = (int)ids.z, id[3] = (int)ids.w;
    } else {
#pragma unroll
        for (int j = 0; j < 4; j++) id[j] = slot + j < total ? q.ids[slot + j] : -1;
    }
}

/// Counts the slots of each expert: those before `first` in counts[0 .. E), the others in counts[E .. 2E); keeps the experts of slots
/// [first, last). All threads of the block call it.
template <class Arguments> DEVICE void count_slots(const Arguments& q, int first, int last, int* counts, int* expert_of_slot) {
    constexpr int batch = 4; // loads of four ids in flight
    const int total = q.tokens * q.top_k, lane = threadIdx.x % 32, step = 4 * blockDim.x;
    const bool aligned = (u64)q.ids % 16 == 0;
    for (int base = threadIdx.x / 32 * 128; base < total; base += batch * step) { // whole warps
        int expert[batch][4];
#pragma unroll
        for (int i = 0; i < batch; i++) load_ids(q, base + i * step + lane * 4, total, aligned, expert[i]);
#pragma unroll
        for (int i = 0; i < batch; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) expert[i][j] = local_expert(q.expert_map, q.global_experts, expert[i][j]);
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

DEVICE void count_tiles(int* tile_count, int tiles) {
    tile_count[0] = tiles;
    tile_count[gateup_units] = tile_count[down_units] = tile_count[gateup_stored] = 0;
}

/// One warp: turns counts into first rows (multiples of 8); block 0 writes the tiles.
template <class Arguments, class TilesOf> DEVICE void place_experts(const Arguments& q, const int* before, const int* after, int* cursor, TilesOf tiles_of) {
    int rows = 0, tiles = 0;
    for (int base = 0; base < q.experts; base += 32) {
        const int e = base + threadIdx.x % 32;
        const int count = e < q.experts ? before[e] + after[e] : 0, padded = (count + 7) / 8 * 8, own = tiles_of(count);
        const int row_end = rows + inclusive_scan(padded), tile_end = tiles + inclusive_scan(own);
        if (e < q.experts) cursor[e] = row_end - padded + before[e];
        if (blockIdx.x == 0)
            for (int t = tile_end - own; t < tile_end; t++) q.tiles[t] = {e, tile_end - own, own, row_end - padded, count};
        rows = __shfl_sync(~0u, row_end, 31);
        tiles = __shfl_sync(~0u, tile_end, 31);
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) count_tiles(q.tile_count, tiles);
}

/// One warp: tells of each slot in [begin, end), in order, its expert and row (-1: none).
template <int unrolled, class ExpertOf, class Tell> DEVICE void rank_slots(int begin, int end, int* cursor, ExpertOf expert_of, Tell tell) {
    const int lane = threadIdx.x % 32;
#pragma unroll unrolled
    for (int base = begin; base < end; base += 32) {
        const int slot = base + lane, expert = slot < end ? expert_of(slot) : -1;
        const u32 same = __match_any_sync(~0u, expert);
        const int rank = __popc(same & ((1u << lane) - 1));
        const int row = expert < 0 ? -1 : cursor[expert] + rank;
        __syncwarp();
        if (expert >= 0 && rank == 0) cursor[expert] += __popc(same);
        __syncwarp();
        if (slot < end) tell(slot, expert, row);
    }
}

/// The rows of slots [first, last) into row_of_slot, in shared memory, where before [E], after [E] and cursor [E] lie ahead of it. All threads of the block call it.
template <class Arguments, class TilesOf> DEVICE void find_rows(const Arguments& q, int first, int last, int* before, int* row_of_slot, TilesOf tiles_of) {
    int *after = before + q.experts, *cursor = after + q.experts;
    for (int e = threadIdx.x; e < 2 * q.experts; e += blockDim.x) before[e] = 0;
    __syncthreads();
    count_slots(q, first, last, before, row_of_slot);
    __syncthreads();
    if (threadIdx.x < 32) {
        place_experts(q, before, after, cursor, tiles_of);
        __syncwarp();
        rank_slots<4>(first, last, cursor, [&](int slot) { return row_of_slot[slot - first]; }, [&](int slot, int, int row) {
            row_of_slot[slot - first] = row;
            q.row_of_slot[slot] = row;
        });
    }
    __syncthreads();
}
