#pragma once
#include "pipeline.cuh"
// What the producer's warp does: which units its cluster computes, and their weights and rows into the ring.

/// Numbers of units, for the producers' warps of a cluster. They come from a counter, since tiles differ in what they take: of the two blocks the first asks, and tells the second. Of one GEMM alone some go round the
/// clusters in order; of both none do, so that a cluster that waits for another's units knows that those are being computed.
template <bool Both> struct UnitNumbers {
    u32* counter;
    int clusters, in_order = 0;
    u32 asked = 0, phase = 0;

    DEVICE UnitNumbers(int* counter) : counter((u32*)counter), clusters(gridDim.x / 2) {}
    DEVICE void out_of(int units) {
        if (Both) return;
        const int rounds = units / clusters * eighths_in_order / 8;
        in_order = (rounds > 1 ? rounds : 1) * clusters;
    }
    DEVICE bool in_order_after(int number) const { return number + clusters < in_order; }
    /// Of both GEMMs: may be asked for before the launch ahead has ended.
    DEVICE int first(const Pipeline& p) {
        if (!Both) return blockIdx.x / 2;
        ask(p, 0);
        return take(p, 0, tell(p, 0));
    }
    /// Asks for the unit after this one.
    DEVICE void ask(const Pipeline& p, int number) {
        if (!in_order_after(number) && p.rank == 0 && threadIdx.x % 32 == 0) asked = count_up(counter, ~0u);
    }
    /// What was asked for is there by now: the second block is told. Returns it, to the first.
    DEVICE int tell(const Pipeline& p, int number) {
        if (in_order_after(number)) return number + clusters;
        if (p.rank > 0) return number;
        number = in_order + uniform(asked);
        barrier_wait(p.epilogue_barrier(unit_heard), phase ^ 1);
        if (elect_one()) remote_store(remote_address(p.shared + next_unit_offset, 1), __uint_as_float(number), remote_address(p.epilogue_barrier(unit_told), 1));
        phase ^= 1;
        return number;
    }
    /// The unit after the one that was asked behind. told: what `tell` returned.
    DEVICE int take(const Pipeline& p, int number, int told) {
        if (p.rank == 0 || in_order_after(number)) return told;
        const u32 barrier = p.epilogue_barrier(unit_told);
        if (elect_one()) barrier_arrive_expect(barrier, 4);
        barrier_wait(barrier, phase);
        number = uniform(*(volatile int*)(p.memory + next_unit_offset));
        if (elect_one()) remote_arrive(remote_address(p.epilogue_barrier(unit_heard), 0));
        phase ^= 1;
        return number;
    }
};

/// One warp: walks this cluster's units and keeps the ring full. All lanes do the same, and one copies: so the compiler knows it all to be uniform, and keeps it where copies take their addresses
/// from. In ordinary registers the next K block comes a hundred cycles later.
///
/// Units of Down wait for those of GateUp. Their numbers are higher, so these were taken by clusters that run, which wait for nobody before they have done them: the launch ends however few of its clusters run at once.
template <bool HasGateUp, bool HasDown> DEVICE void produce(const GemmsArguments& a, Pipeline& p, UnitNumbers<HasGateUp && HasDown>& numbers, int number) {
    constexpr bool both = HasGateUp && HasDown;
    const GemmArguments& common = HasGateUp ? a.gateup : a.down;
    p.shared = uniform(p.shared); // otherwise it is asked for anew with each K block
    ExpertTiles next = {};
    if (both) { // most likely of GateUp; read before the number of tiles is known, where in any case memory of tiles is
        const int tile = number / ((a.gateup.blocks + 1) / 2), least = common.capacity / 8;
        next = common.tiles[tile < least ? tile : least - 1];
    }
    const int tiles = *common.tile_count, capacity = common.capacity, gateups = HasGateUp ? tiles * ((a.gateup.blocks + 1) / 2) : 0, units = gateups + (HasDown ? tiles * ((a.down.blocks + 1) / 2) : 0);
    numbers.out_of(units);
    Occupants ring;
    bool waits = both; // not all of GateUp is known to be there
    u32 stored = 0;
    const auto is_down = [&](int number) { return both ? number >= gateups : HasDown; };
    const auto tiles_at = [&](int number) {
        const bool down = is_down(number);
        return number < units ? common.tiles[(number - (down ? gateups : 0)) / (((down ? a.down.blocks : a.gateup.blocks) + 1) / 2)] : ExpertTiles{};
    };
    if (!both || number >= gateups) next = tiles_at(number);
    if (both)
        for (int t = threadIdx.x % 32 * tiles_of_line; t < tiles; t += 32 * tiles_of_line) touch(common.tiles + t); // each unit reads one
    while (true) {
        const bool down = is_down(number);
        const int blocks = down ? a.down.blocks : a.gateup.blocks, pairs = (blocks + 1) / 2, k_blocks = down ? a.down.k_blocks : a.gateup.k_blocks, index = down ? number - gateups : number;
        Work work = number < units ? work_at(next, index, blocks, p.rank, down) : Work{};
        const int expert = next.expert;
        const bool alone = next.tiles == 1;
        ring.announce(p, work);
        if (work.rows == 0) return;
        numbers.ask(p, number);
        const int n = round_up_8(work.rows), block = 2 * work.unit + (2 * work.unit + work.half < blocks ? work.half : 0);
        const bool few = work.rows <= few_rows;
        const u32 row_bytes = few ? n * 128 : (n + box_rows - 1) / box_rows * box_rows * 128, bytes = weight_block_bytes + row_bytes + n * 4 + 16;
        const u64 policy = alone ? policy_evict_first() : policy_evict_normal();
        const u8* weights = (down ? a.down.weights : a.gateup.weights) + ((u64)expert * blocks + block) * k_blocks * weight_block_bytes;
        const float* weight_scales = (down ? a.down.weight_scales : a.gateup.weight_scales) + ((u64)expert * pairs + work.unit) * k_blocks * 4;
        const u8* rows = (down ? a.down.rows : a.gateup.rows) + (u64)work.row * 128;
        const float* scales = (down ? a.down.scales : a.gateup.scales) + work.row;
        const TensorMap* map = down ? &a.down.rows_map : &a.gateup.rows_map;
        // What comes next is asked for while this unit is loaded: its number by the middle. With many rows its tiles are too, since a K block is missed if the next unit begins late; with few the second block would
        // wait for the number, and each K block's copies take most of the time there is, so both come at the end.
        const int tell_at = k_blocks / 2, take_at = both && few ? k_blocks - 1 : tell_at;
        int map_row = work.row, told = 0, after = 0;
        if (down && waits) {
            if (stored != (u32)gateups * unit_warps) wait_for_count(&common.tiles[work.tile].handed_on, a.gateup.blocks / 2 * unit_warps);
            else waits = false;
            fence_gpu();
            fence_async(); // they were written by ordinary stores
        }
#pragma unroll 1
        for (int k = 0; k < k_blocks; k++) {
            ring.claim(p);
            const u32 full = p.full(), operands = p.operands(), head = shared_address(p.header());
            if (elect_one()) {
                barrier_arrive_expect(full, bytes);
                bulk_load(operands, weights, weight_block_bytes, full, policy);
                if (few) bulk_load(operands + rows_offset, rows, row_bytes, full);
                else
#pragma unroll 1
                    for (int box = p.rank * box_rows; box < n; box += 2 * box_rows) // the blocks take turns
                        tensor_load_multicast(operands + rows_offset + box * 128, map, map_row + box, full, 3);
                bulk_load(head + header_scales, scales, n * 4, full);
                bulk_load(head + header_weight_scales, weight_scales, 16, full);
            }
            __syncwarp();
            weights += weight_block_bytes;
            rows += (u64)capacity * 128;
            map_row += capacity;
            scales += capacity;
            weight_scales += 4;
            p.advance(ring.count);
            if (k == tell_at) {
                told = numbers.tell(p, number);
                if (waits) stored = read_count((const u32*)common.tile_count + gateup_stored);
            }
            if (k == take_at) {
                after = numbers.take(p, number, told);
                next = tiles_at(after);
            }
        }
        number = after;
    }
}
