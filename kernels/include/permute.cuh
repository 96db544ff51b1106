#pragma once
#include "arguments.cuh"
#include "local_expert.cuh"
#include "wgmma.cuh"
// Where the rows of a block's own slots go: every block counts all ids, so nothing is exchanged between blocks; stable, by token, then slot. Whatever the format of the rows.
// The code is short because it is cold: with few tokens, fetching it takes as long as running it.

constexpr int permute_threads = 1024, permute_warps = permute_threads / 32;

/// The launch behind may start, and count units before this one has ended: its counts are zero by then.
DEVICE void begin_counts(int* tile_count) {
    if (threadIdx.x > 0) return; // one thread speaks for its block
    if (blockIdx.x == 0) {
        tile_count[gateup_units] = tile_count[down_units] = tile_count[gateup_stored] = 0;
        fence_gpu();
    }
    launch_dependents();
}

/// Local experts of slots that lie a step apart; -1 where there is none.
template <int Count, class Arguments> DEVICE void load_experts(const Arguments& q, int slot, int step, int total, int (&expert)[Count]) {
#pragma unroll
    for (int i = 0; i < Count; i++) expert[i] = slot + i * step < total ? q.ids[slot + i * step] : -1;
#pragma unroll
    for (int i = 0; i < Count; i++) expert[i] = local_expert(nullptr, q.global_experts, expert[i]);
    if (!q.expert_map) return;
#pragma unroll
    for (int i = 0; i < Count; i++)
        if (expert[i] >= 0) expert[i] = q.expert_map[expert[i]];
}

/// Counts the slots of each expert: those before `first` in counts[0 .. E), the others in counts[E .. 2E). All threads of the block call it.
template <class Arguments> DEVICE void count_slots(const Arguments& q, int first, int* counts) {
    constexpr int batch = 8; // loads of a thread in flight
    const int total = q.tokens * q.top_k;
#pragma unroll 1
    for (int base = 0; base < total; base += batch * permute_threads) {
        const int slot = base + threadIdx.x;
        int expert[batch];
        load_experts(q, slot, permute_threads, total, expert);
#pragma unroll
        for (int i = 0; i < batch; i++) {
            if (base + i * permute_threads >= total) break;
            const int counter = expert[i] < 0 ? -1 : slot + i * permute_threads < first ? expert[i] : expert[i] + q.experts;
            int same;
            __match_all_sync(~0u, counter, &same); // a crowd at one expert must not serialize 32 additions
            if (counter >= 0 && (!same || threadIdx.x % 32 == 0)) atomicAdd(&counts[counter], same ? 32 : 1);
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

/// Turns counts into first rows (multiples of 8), in place of `after`; block 0 writes the tiles. sums: [2][32]. All threads of the block call it.
template <class Arguments, class TilesOf> DEVICE void place_experts(const Arguments& q, const int* before, int* after, int* sums, TilesOf tiles_of) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int rows = 0, tiles = 0; // of the experts so far
#pragma unroll 1
    for (int base = 0; base < q.experts; base += permute_threads) { // an expert per thread
        const int e = base + threadIdx.x, own_before = e < q.experts ? before[e] : 0, count = e < q.experts ? own_before + after[e] : 0;
        const int padded = (count + 7) / 8 * 8, own_tiles = tiles_of(count), row_end = inclusive_scan(padded), tile_end = inclusive_scan(own_tiles);
        if (base > 0) __syncthreads();
        if (lane == 31) sums[warp] = row_end, sums[32 + warp] = tile_end;
        __syncthreads();
        const int row_sum = sums[lane], tile_sum = sums[32 + lane];
        const int row = rows + __reduce_add_sync(~0u, lane < warp ? row_sum : 0) + row_end - padded;
        const int tile = tiles + __reduce_add_sync(~0u, lane < warp ? tile_sum : 0) + tile_end - own_tiles;
        rows += __reduce_add_sync(~0u, row_sum);
        tiles += __reduce_add_sync(~0u, tile_sum);
        if (e >= q.experts) continue;
        after[e] = row + own_before;
        if (blockIdx.x == 0)
            for (int t = 0; t < own_tiles; t++) q.tiles[tile + t] = {e, tile, own_tiles, row, count};
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) q.tile_count[0] = tiles;
}

/// One warp: tells of each slot in [begin, end), in order, its expert and row (-1: none).
template <class ExpertOf, class Tell> DEVICE void rank_slots(int begin, int end, int* cursor, ExpertOf expert_of, Tell tell) {
    const int lane = threadIdx.x % 32;
#pragma unroll 1
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

/// Shared memory of finding rows; the host's twin is DevicePlan.QuantizeGrid.
struct RowsMemory {
    int *before, *after; // [E]: slots ahead of the block's own, and the others; then where an expert's next row goes
    int* sums;           // [2][32]
    int* row_of_slot;    // of the block's own slots
    DEVICE RowsMemory(int* memory, int experts) : before(memory), after(before + experts), sums(after + experts), row_of_slot(sums + 64) {}
};

/// The rows of slots [first, last). All threads of the block call it.
template <class Arguments, class TilesOf> DEVICE void find_rows(const Arguments& q, int first, int last, const RowsMemory& m, TilesOf tiles_of) {
#pragma unroll 1
    for (int e = threadIdx.x; e < 2 * q.experts; e += permute_threads) m.before[e] = 0;
    __syncthreads();
    count_slots(q, first, m.before);
#pragma unroll 1
    for (int slot = first + threadIdx.x; slot < last; slot += permute_threads) {
        int expert[1];
        load_experts(q, slot, 0, last, expert);
        m.row_of_slot[slot - first] = expert[0];
    }
    __syncthreads();
    place_experts(q, m.before, m.after, m.sums, tiles_of);
    __syncthreads();
    if (uniform(threadIdx.x / 32) == 0)
        rank_slots(first, last, m.after, [&](int slot) { return m.row_of_slot[slot - first]; }, [&](int slot, int, int row) {
            m.row_of_slot[slot - first] = row;
            q.row_of_slot[slot] = row;
        });
    __syncthreads();
}
