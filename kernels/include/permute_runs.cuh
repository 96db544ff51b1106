#pragma once
#include "permute.cuh"
// The same for long runs of tokens: many slots of a block's own, ranked by several warps and listed by row. Bits are those of permute.cuh.

namespace runs {
constexpr int shared_bytes = 227 * 1024; // of a block
constexpr int threads = 512; // that find rows
constexpr int rankers = 8;   // warps that rank the block's slots, each a run of them
DEVICE void sync() { named_barrier(1, threads); }

/// Shared memory for finding rows. The host's twin is DevicePlan.SharedOfRuns.
struct PlacesMemory {
    int* cursors;        // [rankers][E]: slots of each run, then where its next one goes
    int* shifts;         // [E]: from a row to its place among the block's own rows, in order
    int* sums;           // [3][32]
    int* expert_of_slot; // [slots of the block]
    int* counters;       // [2][1 + E][columns]: slots ahead of and behind the block's own, the first without an expert. Lanes add in columns of their own,
    int columns;         // a power of two: neither a crowd at one expert nor experts that share a bank serialize a warp's additions
    DEVICE PlacesMemory(int* memory, int own_slots, int bytes, int experts, int slots) : columns(32) {
        cursors = memory;
        shifts = cursors + rankers * experts;
        sums = shifts + experts;
        expert_of_slot = sums + 96;
        counters = expert_of_slot + own_slots;
        const int room = bytes / 4 - (int)(counters - memory);
        while (columns > 1 && (2 * (experts + 1) * columns > room || 8 * experts * columns > slots)) columns /= 2; // few slots are not worth many columns
    }
};

/// Counts all slots but [first, last).
DEVICE void count_slots(const QuantizeArguments& q, int first, int last, const PlacesMemory& m) {
    constexpr int batch = 8; // loads of a thread in flight
    const int total = q.tokens * q.top_k, row = 4 * m.columns;
    const u32 ahead = shared_address(m.counters + (threadIdx.x & (m.columns - 1))) + row, behind = ahead + (q.experts + 1) * row; // of expert 0
#pragma unroll 1
    for (int base = 0; base < total; base += batch * threads) {
        const int slot = base + threadIdx.x;
        int expert[batch];
        load_experts(q, slot, threads, total, expert);
#pragma unroll
        for (int i = 0; i < batch; i++) { // no branches: those without an expert are counted too
            const int at = slot + i * threads;
            count_shared((at < first ? ahead : behind) + (at >= first && at < last ? -1 : expert[i]) * row);
        }
    }
}

/// Turns counts into where each run's rows go (experts begin at multiples of 8); block 0 writes the tiles. Returns how many of the block's slots have a row.
DEVICE int place_experts(const QuantizeArguments& q, const PlacesMemory& m) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int rows = 0, tiles = 0, places = 0; // of the experts so far
    for (int base = 0; base < q.experts; base += threads) { // an expert per thread
        const int e = base + threadIdx.x;
        int before = 0, count = 0, own = 0;
        if (e < q.experts) {
#pragma unroll 8
            for (int c = 0; c < m.columns; c++) {
                const int at = (e + 1) * m.columns + ((c + lane) & (m.columns - 1)); // different banks
                before += m.counters[at];
                count += m.counters[(q.experts + 1) * m.columns + at];
            }
            for (int r = 0; r < rankers; r++) own += m.cursors[r * q.experts + e];
        }
        count += before + own;
        const int padded = (count + 7) / 8 * 8, own_tiles = row_tiles(count);
        int row = inclusive_scan(padded), tile = inclusive_scan(own_tiles), place = inclusive_scan(own);
        if (lane == 31) m.sums[warp] = row, m.sums[32 + warp] = tile, m.sums[64 + warp] = place;
        sync();
        const bool counts = lane * 32 < threads;
        const int row_sum = inclusive_scan(counts ? m.sums[lane] : 0), tile_sum = inclusive_scan(counts ? m.sums[32 + lane] : 0);
        const int place_sum = inclusive_scan(counts ? m.sums[64 + lane] : 0), below = warp - 1;
        row += rows - padded + (warp > 0 ? __shfl_sync(~0u, row_sum, below) : 0); // the expert's first
        tile += tiles - own_tiles + (warp > 0 ? __shfl_sync(~0u, tile_sum, below) : 0);
        place += places - own + (warp > 0 ? __shfl_sync(~0u, place_sum, below) : 0);
        rows += __shfl_sync(~0u, row_sum, 31);
        tiles += __shfl_sync(~0u, tile_sum, 31);
        places += __shfl_sync(~0u, place_sum, 31);
        if (e < q.experts) {
            int next = row + before;
            m.shifts[e] = place - next;
            for (int r = 0; r < rankers; r++) {
                int& cursor = m.cursors[r * q.experts + e];
                const int of_run = cursor;
                cursor = next;
                next += of_run;
            }
            if (blockIdx.x == 0)
                for (int t = 0; t < own_tiles; t++) q.tiles[tile + t] = {e, tile, own_tiles, row, count};
        }
        sync();
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) q.tile_count[0] = tiles;
    return places;
}

/// Tells of each slot in [first, last), counted from the first, its row (-1: none) and the row's place among the block's rows in ascending order; returns how many rows there
/// are. The first `threads` of the block call it.
template <class Tell> DEVICE int find_rows(const QuantizeArguments& q, int first, int last, const PlacesMemory& m, Tell tell) {
    const int slots = last - first, run = ((slots + rankers - 1) / rankers + 31) / 32 * 32, warp = threadIdx.x / 32;
    for (int i = threadIdx.x; i < 2 * (q.experts + 1) * m.columns; i += threads) m.counters[i] = 0;
    for (int i = threadIdx.x; i < rankers * q.experts; i += threads) m.cursors[i] = 0;
    sync();
    for (int slot = threadIdx.x; slot < slots; slot += threads) {
        const int e = local_expert(q.expert_map, q.global_experts, q.ids[first + slot]);
        m.expert_of_slot[slot] = e;
        if (e >= 0) atomicAdd(&m.cursors[slot / run * q.experts + e], 1);
    }
    count_slots(q, first, last, m);
    sync();
    const int rows = place_experts(q, m);
    if (warp < rankers) {
        const int begin = warp * run < slots ? warp * run : slots, end = begin + run < slots ? begin + run : slots;
        rank_slots(begin, end, m.cursors + warp * q.experts, [=](int slot) { return m.expert_of_slot[slot]; },
            [=](int slot, int expert, int row) { tell(slot, row, expert < 0 ? 0 : row + m.shifts[expert]); });
    }
    sync();
    return rows;
}
} // namespace runs
