#pragma once
#include "few_block.cuh"
#include "local_expert.cuh"
// A producer's warp: the first finds out from the ids which experts have tokens; then one thread of each takes units and keeps its ring full.
//
// Units are numbered: GateUp expert by expert, then Down. A producer takes the next number when it begins to load the one before, from a counter that all
// blocks share. Only Down waits for other blocks, for GateUp units; their numbers are lower, so they were taken in blocks that run, and those wait for nobody
// before they have done them. So the launch ends whatever else runs on the GPU and however few of its blocks run at once.

/// The whole warp. Experts are numbered in the order in which slots name them first.
template <class Format> DEVICE void find_experts(const FewArguments& f, const FewBlock<Format>& b) {
    const int lane = threadIdx.x % 32, slots = f.combine.tokens * f.combine.top_k;
    FewRouting* r = b.routes();
    int count = 0;
#pragma unroll
    for (int i = 0; i < few_slots / 32; i++) r->tokens[i * 32 + lane] = 0;
#pragma unroll 1
    for (int slot = lane; slot - lane < slots; slot += 32) {
        const int expert = slot < slots ? local_expert(f.expert_map, f.global_experts, f.ids[slot]) : -1;
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
        if (slot < slots) {
            const int token = slot / f.combine.top_k;
            r->row_of_slot[slot] = number < 0 ? -1 : number * few_tokens + token;
            if (number >= 0) atomicOr(&r->tokens[number], 1u << token);
        }
        __syncwarp();
    }
    if (lane == 0) r->experts = count;
    __syncwarp();
}

/// Whether the math warpgroups share each unit, K block after K block: of units that are few each is long on its way, and decoding it is what takes the time. All rings are one then, and one producer fills it.
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
    u32 gateups = 0, passed = 0; // GateUp units that this producer took; units of the steps and experts before this one
    int active = 0, kind = experts ? few_gateup : few_zeros;
    constexpr int warpgroups = Format::own_rings ? 1 : few_math_warpgroups; // of each
    for (int turn = 0, warpgroup = producer, left = warpgroups; left > 0;) {
        const bool more = number < total;
        FewUnit unit = {};
        if (!more) {
            // every producer takes one number too many; the very last taker knows that nobody takes another
            if (left-- == warpgroups && number == total + (shared ? 1 : b.rings) * gridDim.x - 1) *few_taken(f) = 0;
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
        if (!shared) number = count_up(few_taken(f), few_endless);
        if (kind == few_zeros) continue;
        const bool is_gateup = kind == few_gateup;
        gateups += is_gateup;
        Format::load(f, b, is_gateup, unit, first_slot, slots, place, stream);
        if (shared) number = count_up(few_taken(f), few_endless);
        sharer = (sharer + (is_gateup ? f.hidden_blocks : f.intermediate_blocks)) % few_math_warpgroups;
    }
}
