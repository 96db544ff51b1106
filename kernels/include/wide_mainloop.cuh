#pragma once
#include "wide_formats.cuh"
#include "wide_scheduler.cuh"
#include "wide_wgmma.cuh"
// The ring of the wide grouped GEMMs. In a block one producer's warp fills stages with two pieces of weights and the rows they meet; two math
// warpgroups (wide_products.cuh) decode weights into registers and multiply. Weights are on the M side and rows on the N side whatever their number.

constexpr int wide_math_threads = 256, wide_math_warpgroups = wide_math_threads / 128;
constexpr int wide_math_warps = wide_math_threads / 32;
constexpr int wide_threads = wide_math_threads + 128; // registers: 256 x 240 + 128 x 24
constexpr int wide_math_registers = 240;
constexpr int wide_producer_registers = 24;
static_assert(256 * wide_math_registers + 128 * wide_producer_registers <= 168 * wide_threads, "more than a block starts with would be waited for forever");

/// Shared memory: rows of all stages, which products need at multiples of 1024; weights of all stages; scales, work and barriers of each; staged results.
template <class Format> struct WideLayout {
    static constexpr int deep_rows = wide_few_rows * 128;     // bytes: rows of the second piece follow those of the first
    static constexpr int rows = Format::tile_rows * 128;      // of a stage
    static constexpr int weights = Format::stages * rows;
    static constexpr int scales = weights + Format::stages * Format::pair_bytes;
    static constexpr int headers = scales + Format::stages * 16;
    static constexpr int barriers = headers + Format::stages * 32; // full, empty of each stage
    static constexpr int units = barriers + Format::stages * 16; // what each math warpgroup computes
    static constexpr int staging = (units + 2 * 32 + 127) / 128 * 128;
    static_assert(rows % 1024 == 0 && deep_rows % 1024 == 0 && 2 * deep_rows <= rows && sizeof(WideWork) == 32, "");
};

/// A position in the ring.
struct WideStage {
    int stage;
    u32 phase;
};

template <class Format> struct WideRing {
    using Layout = WideLayout<Format>;
    u8* memory;
    u32 shared;
    int stage = 0;
    u32 phase = 0;

    DEVICE WideRing(u8* m) : memory(m), shared(shared_address(m)) {}
    DEVICE WideStage current() const { return {stage, phase}; }
    DEVICE u32 full(WideStage s) const { return shared + Layout::barriers + s.stage * 16; }
    DEVICE u32 empty(WideStage s) const { return full(s) + 8; }
    DEVICE u32 rows(WideStage s) const { return shared + s.stage * Layout::rows; }
    DEVICE const u8* weights(WideStage s) const { return memory + Layout::weights + s.stage * Format::pair_bytes; }
    DEVICE const float* scales(WideStage s) const { return (const float*)(memory + Layout::scales + s.stage * 16); }
    DEVICE WideWork* work() const { return (WideWork*)(memory + Layout::headers + stage * 32); }
    DEVICE WideWork& unit(int warpgroup) const { return ((WideWork*)(memory + Layout::units))[warpgroup]; }
    DEVICE u8* staging() const { return memory + Layout::staging; }
    DEVICE void wait(WideStage s) const { barrier_wait(full(s), s.phase); }
    /// A math warp has read it, this among it.
    DEVICE void release(WideStage s, u32 read = 0) const {
        __syncwarp();
        if (threadIdx.x % 32 == 0) barrier_arrive(empty(s) + none_of(read, s.stage));
    }
    DEVICE void advance() {
        if (++stage == Format::stages) {
            stage = 0;
            phase ^= 1;
        }
    }
    DEVICE void init() {
        const int warp = uniform(threadIdx.x / 32);
        if (warp < Format::stages && elect_one()) { // one thread of each warp: lanes would take turns
            barrier_init(full({warp, 0}), 1);
            barrier_init(empty({warp, 0}), wide_math_warps);
            fence_barrier_init();
        }
        __syncthreads();
    }
};

/// One warp: walks this block's units and keeps the ring full. All lanes do the same, and one copies. Units go to whoever is free, since they differ in what they take; of one GEMM alone the first is that of the block's own
/// number. Of both, Down's units wait for GateUp's: their numbers are higher, so those were taken by blocks that run, which wait for nobody before they have done them.
/// asked: lane 0's first number of both, which may be asked for before the launch ahead has ended.
template <class Format> DEVICE void wide_produce(const WideGemmsArguments& a, WideRing<Format>& ring, u32 asked) {
    using Layout = WideLayout<Format>;
    const int entries = *a.gateup.tile_count, gateup_pairs = (a.gateup.blocks + 1) / 2, gateups = entries * gateup_pairs, units = gateups + entries * ((a.down.blocks + 1) / 2);
    bool waits = a.gateup.hands_on;
    const int in_order = waits ? 0 : gridDim.x;
    u32 stored = 0;
    for (int number = in_order > 0 ? blockIdx.x : uniform(asked);; number = in_order + uniform(asked)) {
        const bool down = number >= gateups;
        const int blocks = down ? a.down.blocks : a.gateup.blocks, pairs = (blocks + 1) / 2, k_blocks = down ? a.down.k_blocks : a.gateup.k_blocks, index = down ? number - gateups : number;
        WideWork work = {};
        if (number < units) {
            WideTiles* tiles = a.gateup.tiles + index / pairs;
            const WideTiles t = *tiles;
            work = wide_work_at(t, index, blocks);
            work.first = down ? -1 : t.first;
            if (threadIdx.x % 32 == 0) asked = count_up((u32*)a.units, ~0u); // needed only after this unit's loads
            if (down && waits) {
                if (stored != (u32)gateups * wide_math_warpgroups) wait_for_count(&a.gateup.tiles[t.first].handed_on, t.count * gateup_pairs * wide_math_warpgroups);
                else waits = false;
                fence_gpu();
                fence_async(); // they were written by ordinary stores
            }
        }
        if (work.kind == wide_nothing) continue;
        if (work.kind == wide_end) {
            const WideStage s = ring.current();
            barrier_wait(ring.empty(s), s.phase ^ 1);
            if (elect_one()) {
                *ring.work() = work;
                barrier_arrive(ring.full(s));
            }
            return;
        }
        const bool tall = work.kind == wide_tall;
        const u32 row_bytes = (work.rows + 7) / 8 * 8 * 128;
        const u64 block_bytes = (u64)k_blocks * Format::pair_bytes, once = policy_evict_first(), policy = work.alone ? once : policy_evict_normal();
        const u8* weights = (down ? a.down.weights : a.gateup.weights) + ((u64)work.expert * blocks + work.block) * block_bytes;
        const float* scales = (down ? a.down.scales : a.gateup.scales) + ((u64)work.expert * pairs + work.block / 2) * k_blocks * 4;
        const u16* from = (down ? a.down.rows : a.gateup.rows) + (u64)work.row * 64;
        for (int k = 0; k < (tall ? 2 * k_blocks : k_blocks); k++) {
            const WideStage s = ring.current();
            const u32 full = ring.full(s), rows = ring.rows(s), to = shared_address(ring.weights(s));
            barrier_wait(ring.empty(s), s.phase ^ 1);
            if (k == 0 && elect_one()) *ring.work() = work;
            const bool has_scales = Format::promotes && (!tall || k % 2 == 0); // of 128 values
            if (elect_one()) {
                if (tall) {
                    barrier_arrive_expect(full, (1 + work.second) * Format::piece_bytes + row_bytes + 16 * has_scales);
                    for (int b = 0; b <= work.second; b++)
                        bulk_load(to + b * Format::piece_bytes, weights + b * block_bytes + (u64)k * Format::piece_bytes, Format::piece_bytes, full, policy);
                    bulk_load(rows, from + (u64)k * a.gateup.capacity * 64, row_bytes, full);
                } else {
                    barrier_arrive_expect(full, Format::pair_bytes + 2 * row_bytes + 16 * has_scales);
                    bulk_load(to, weights + (u64)k * Format::pair_bytes, Format::pair_bytes, full, once);
                    for (int i = 0; i < 2; i++) bulk_load(rows + i * Layout::deep_rows, from + (u64)(2 * k + i) * a.gateup.capacity * 64, row_bytes, full);
                }
                if (has_scales) bulk_load(shared_address(ring.scales(s)), scales + (tall ? k / 2 : k) * 4, 16, full);
            }
            __syncwarp();
            ring.advance();
        }
        if (waits) stored = read_count((const u32*)a.gateup.tile_count + gateup_stored);
    }
}
