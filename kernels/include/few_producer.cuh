#pragma once
#include "few_block.cuh"
#include "local_expert.cuh"
// A producer's warp: the first finds out from the ids which experts have tokens; then one thread of each takes units and keeps its ring full.
//
// Units are numbered: GateUp expert by expert, then Down. A producer takes the next number when it begins to load the one before, from a counter that all
// blocks share. Only Down waits for other blocks, for GateUp units; their numbers are lower, so they were taken in blocks that run, and those wait for nobody
// before they have done them. So the launch ends whatever else runs on the GPU and however few of its blocks run at once.

/// The number of a unit.
DEVICE u32 take_unit(const FewArguments& f) { return count_up(few_taken(f), ~0u); }

/// What the first producer's warp asks memory for before anything else.
struct FewStart {
    u32 unit, written; // in one lane
    int id;            // of the lane's first slot
};
DEVICE FewStart start_few(const FewArguments& f) {
    const int lane = threadIdx.x % 32;
    FewStart s = {0, 0, -1};
    if (lane < f.combine.tokens * f.combine.top_k) s.id = f.ids[lane];
    if (lane == 0) {
        s.unit = take_unit(f);
        s.written = *few_written(f);
    }
    return s;
}

/// The whole warp. Experts are numbered in the order in which slots name them first.
template <class Format> DEVICE void find_experts(const FewArguments& f, const FewBlock<Format>& b, int id) {
    const int lane = threadIdx.x % 32, slots = f.combine.tokens * f.combine.top_k;
    FewRouting* r = b.routes();
    int count = 0, token = lane / f.combine.top_k; // a division before ids are there
#pragma unroll 1
    for (int slot = lane; slot - lane < slots; token = (slot += 32) / f.combine.top_k) {
        const int expert = slot < slots ? local_expert(f.expert_map, f.global_experts, id) : -1;
        if (slot + 32 < slots) id = f.ids[slot + 32]; // on its way
        int number = -1;
#pragma unroll 1
        for (int n = 0; n < count; n++) number = r->expert[n] == expert ? n : number;
        const u32 same = __match_any_sync(~0u, expert);
        const int first = __ffs(same) - 1;
        const bool is_new = expert >= 0 && number < 0;
        const u32 firsts = __ballot_sync(~0u, is_new && lane == first);
        if (is_new) {
            number = count + __popc(firsts & ((1u << first) - 1));
            r->expert[number] = expert;
        }
        count += __popc(firsts);
        const int first_of_token = token * f.combine.top_k - (slot - lane); // lane
        int row = slot - lane + __ffs(same & ~0u << (first_of_token > 0 ? first_of_token : 0)) - 1;
        if (slot >= 32 && number >= 0 && r->tokens[number] >> token & 1) row = r->rows[number * few_tokens + token]; // named before these slots
        __syncwarp();
        if (slot < slots) r->row_of_slot[slot] = number < 0 ? -1 : row;
        if (number >= 0) {
            r->rows[number * few_tokens + token] = (u8)row;
            atomicOr(&r->tokens[number], 1u << token);
        }
        __syncwarp();
    }
    if (lane == 0) r->experts = count;
    __syncwarp();
}

/// Whether the math warpgroups share each unit, turn after turn: of units that are few each is long on its way, and decoding it is what takes the time. All rings are one then, and one producer fills it.
template <class Format> DEVICE bool shares_units(const FewArguments& f, const FewRouting* r) {
    return Format::own_rings && r->experts && r->experts * few_gateups<Format>(f, r->experts) <= (u32)f.most_shared;
}

/// One thread of each producer's warp.
template <class Format> DEVICE void produce(const FewArguments& f, const FewBlock<Format>& b, int producer, u32 number) {
    const u64 stream = policy_evict_first();
    const FewRouting* r = b.routes();
    const int experts = r->experts;
    const u32 per_gateup = few_gateups<Format>(f, experts), per_down = 2 * f.hidden_blocks;
    const u32 total = experts ? experts * (per_gateup + per_down) : per_down; // nobody has tokens: zeros are written all the same
    const bool shared = shares_units<Format>(f, r);
    const int first_slot = Format::own_rings ? producer * f.ring_slots : 0, slots = shared ? b.rings * f.ring_slots : f.ring_slots;
    FewPlace place(first_slot);
    int sharer = 0;
    bool waits = experts > 1;
    u32 gateups = 0, passed = 0; // GateUp units that this producer took; units of the steps and experts before this one
    int active = 0, kind = experts ? few_gateup : few_zeros;
    constexpr int warpgroups = Format::own_rings ? 1 : few_math_warpgroups; // of each
    for (int turn = 0, warpgroup = producer, left = warpgroups; left > 0;) {
        number &= ~few_side_bit;
        const bool more = number < total;
        FewUnit unit = {};
        if (!more) {
            // every producer takes one number too many; the very last taker knows that nobody takes another
            if (left-- == warpgroups && number == total + (shared ? 1 : b.rings) * gridDim.x - 1) {
                *few_taken(f) = r->side ? 0 : few_side_bit;
                *few_written(f) = few_bytes(f);
            }
        } else {
            for (u32 count; experts && number - passed >= (count = kind == few_gateup ? per_gateup : per_down); passed += count)
                if (++active == experts) active = 0, kind = few_down;
            unit.kind = kind;
            unit.active = active;
            unit.index = number - passed;
        }
        unit.slot = place.slot;
        unit.phase = place.phase;
        unit.gateups = gateups;
        unit.gateups_of_expert = per_gateup;
        unit.sharer = shared ? sharer : -1;
#pragma unroll 1
        for (int w = warpgroup; w < (shared ? few_math_warpgroups : warpgroup + 1); w++) {
            barrier_wait(b.unit_empty(w), ~turn & 1);
            *b.unit(w) = unit;
            barrier_arrive(b.unit_full(w));
        }
        if (warpgroups == 1) turn++;
        else if (++warpgroup == warpgroups) warpgroup = 0, turn++;
        if (!more) continue;
        // The next number is needed only after this unit's loads. Shared units are not hoarded: whoever waits for room takes no other.
        if (!shared) number = take_unit(f);
        if (kind == few_zeros) continue;
        const bool is_gateup = kind == few_gateup;
        // A block's own products come first: what Down loads now would keep other blocks' last weights of GateUp waiting. (Not of one expert: then all that Down has fits the rings.)
        if (!Format::own_rings && !is_gateup && waits) {
            doze_for_count_shared(b.shared + b.routing + offset_of(FewRouting, gateups_done), gateups);
            waits = false;
        }
        gateups += is_gateup;
        Format::load(f, b, is_gateup, unit, first_slot, slots, place, stream);
        if (shared) number = take_unit(f);
        sharer = (sharer + Format::turns(is_gateup ? f.hidden_blocks : f.intermediate_blocks)) % few_math_warpgroups;
    }
}
