#pragma once
#include "few_handoff.cuh"
#include "wgmma.cuh"
// A block of the one launch: its warps, its shared memory and its ring, or rings: a Format says (own_rings) whether the math warpgroups share a producer and a ring, or
// each has its own.

constexpr int few_math_warpgroups = 3;
constexpr int few_math_threads = few_math_warpgroups * 128;
constexpr int few_shared_bytes = 227 * 1024;

enum FewKind { few_no_more = 0, few_gateup = 1, few_down = 2, few_zeros = 3 };

/// What the producer tells a warpgroup: which weight rows, and where in the ring they come.
struct alignas(16) FewUnit {
    int kind;
    int active;  // number of the expert among those with tokens
    int index;   // of the unit among the expert's
    int slot;    // of its first K block
    u32 phase;
    u32 gateups; // GateUp units that this block took before
    u32 gateups_of_expert;
    int sharer;  // where math warpgroups share units: the one that has its first K block; else -1
};

/// Who goes where, from the ids alone; every block finds the same.
struct FewRouting {
    int experts;                 // with tokens
    u32 gateups_done;            // units of GateUp whose products are there, of this block; with own rings: warpgroups that have no more such units
    int side;                    // of the handoff
    u32 written;                 // bytes of its other side
    int all_there;               // the last expert's intermediate is
    int expert[few_slots];       // by number
    u32 tokens[few_slots];       // by number, a bit each
    int row_of_slot[few_slots];  // of the handoff: the slot, the first of those where a token names an expert twice; or -1
    u8 rows[few_slots * few_tokens]; // the same by number and token
};

static_assert(sizeof(FewRouting) == 20 + 12 * few_slots + few_slots * few_tokens, "the host counts them too");

/// A place in a ring, of so many slots from the first on.
struct FewPlace {
    int slot;
    u32 phase = 0;
    DEVICE explicit FewPlace(int first = 0) : slot(first) {}
    DEVICE void advance(int slots, int first = 0) {
        if (++slot == first + slots) {
            slot = first;
            phase ^= 1;
        }
    }
    DEVICE void skip(int count, int slots) { // of a ring of at least as many
        slot += count;
        if (slot >= slots) {
            slot -= slots;
            phase ^= 1;
        }
    }
};

/// Shared memory, from the start: ring, or rings one after the other | rows | weight scales of the ring's slots | scales of rows | barriers | units | routing | with own rings, sums handed on.
/// Rows are those of the hidden states, a K block of all tokens after the other; once all GateUp units of the block have multiplied, each warpgroup has
/// as many of the same bytes as the intermediate takes. The host's twin is FewPlan. How many bytes all these have, a Format says: FewFp8 or FewWide.
template <class Format> struct FewBlock {
    u8* memory;
    u32 shared;
    int rows, headers, hidden_scales, scales, barriers, unit_barriers, units, routing, sums;

    static constexpr int rings = Format::own_rings ? few_math_warpgroups : 1;
    static constexpr int threads = few_math_threads + rings * 32; // a producer's warp for each

    DEVICE FewBlock(const FewArguments& f, u8* m) : memory(m), shared(shared_address(m)) {
        const int most = f.hidden_blocks > few_math_warpgroups * f.intermediate_blocks ? f.hidden_blocks : few_math_warpgroups * f.intermediate_blocks;
        rows = f.ring_slots * (rings * Format::slot_bytes);
        if (Format::slot_bytes % 1024) rows = (rows + 1023) & ~1023;
        headers = rows + (most > 4 ? most : 4) * Format::row_block_bytes; // products of 32 weight rows read 4096 bytes beyond the last slot
        hidden_scales = headers + f.ring_slots * (rings * Format::header_bytes);
        scales = hidden_scales + f.hidden_blocks * Format::scale_bytes;
        barriers = scales + few_math_warpgroups * f.intermediate_blocks * Format::scale_bytes;
        unit_barriers = barriers + f.ring_slots * (rings * 16);
        units = unit_barriers + few_math_warpgroups * 16;
        routing = units + few_math_warpgroups * (int)sizeof(FewUnit);
        sums = (routing + (int)sizeof(FewRouting) + 15) & ~15;
    }
    DEVICE u32 full(int slot) const { return shared + barriers + slot * 16; }
    DEVICE u32 empty(int slot) const { return full(slot) + 8; }
    DEVICE u32 unit_full(int warpgroup) const { return shared + unit_barriers + warpgroup * 16; }
    DEVICE u32 unit_empty(int warpgroup) const { return unit_full(warpgroup) + 8; }
    DEVICE u8* header(int slot) const { return memory + headers + slot * Format::header_bytes; }
    DEVICE FewUnit* unit(int warpgroup) const { return (FewUnit*)(memory + units) + warpgroup; }
    DEVICE FewRouting* routes() const { return (FewRouting*)(memory + routing); }

    /// One thread of each warp: lanes would take turns.
    DEVICE void init(const FewArguments& f) const {
        const int warp = uniform(threadIdx.x / 32);
        if (elect_one()) {
#pragma unroll 1
            for (int s = warp; s < rings * f.ring_slots; s += threads / 32) {
                barrier_init(full(s), 1);
                barrier_init(empty(s), 4);
            }
            if (warp < few_math_warpgroups) {
                barrier_init(unit_full(warp), 1);
                barrier_init(unit_empty(warp), 128);
            }
            if (warp == 0) routes()->gateups_done = routes()->all_there = 0;
            fence_barrier_init();
        }
        if (threadIdx.x < few_slots) routes()->tokens[threadIdx.x] = 0;
        __syncthreads();
    }
};

/// GateUp units of each of so many experts.
template <class Format> DEVICE u32 few_gateups(const FewArguments& f, int experts) {
    const int halves = Format::halves ? f.halves[experts / 32] >> experts % 32 & 1 : 0;
    return (u32)(4 * f.intermediate_blocks) << halves;
}
/// 1 where units have 32 weight rows, of 64 else.
template <class Format> DEVICE int halves_of(const FewArguments& f, const FewUnit& unit) {
    return Format::halves && unit.kind == few_gateup && unit.gateups_of_expert > (u32)(4 * f.intermediate_blocks);
}
