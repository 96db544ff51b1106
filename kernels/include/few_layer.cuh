#pragma once
#include "few_compute.cuh"
#include "few_producer.cuh"
// Steps 2 to 7 of up to eight tokens in one launch: memory is read from the first ids to the last weights without a pause between steps.

constexpr int few_producers_barrier = few_math_warpgroups + 2, few_order_barrier = few_math_warpgroups + 3; // named; those before are the math warpgroups'

constexpr int few_long_unit = 24; // K blocks

/// The producers' warps.
template <class Format> DEVICE void produce_few(const FewArguments& f, const FewBlock<Format>& b, const FewStart& start) {
    const int producer = Format::own_rings ? uniform(threadIdx.x / 32) - few_math_threads / 32 : 0;
    const bool leads = threadIdx.x % 32 == 0;
    u32 first = start.unit;
    if (producer == 0) {
        find_experts(f, b, start.id);
        if (leads) b.routes()->side = first >> 31, b.routes()->written = start.written;
        named_arrive(few_begin_barrier, few_begin_threads);
    }
    if (Format::own_rings) {
        // Of few units each block shall take one before any takes two, roughly. And of long ones that are few, two at a time: the sooner the first experts are through, the sooner Down begins.
        named_barrier(few_producers_barrier, b.rings * 32);
        const bool shared = shares_units<Format>(f, b.routes());
        if (shared && producer > 0) return;
        if (producer == 2) {
            named_barrier(few_order_barrier, 64);
            const u32 gateups = b.routes()->experts * few_gateups<Format>(f, b.routes()->experts);
            if (leads && f.hidden_blocks >= few_long_unit && gateups <= 4 * gridDim.x) doze_for_count(few_taken(f), ~few_side_bit, gateups);
        }
        if (leads && producer > 0) first = take_unit(f);
        if (producer == 1) {
            first = uniform(first); // it is there
            named_arrive(few_order_barrier, 64);
        }
    }
    first = uniform(first);
    if (elect_one()) produce(f, b, producer, first);
}

/// Ids, the map and weights come from memory into the cache meanwhile, lines of 32 by threads of the first producer's warp.
DEVICE void prefetch_routing(const FewArguments& f) {
    const int first = ((int)threadIdx.x - few_math_threads) * 32;
    if (first < 0) return;
    if (f.expert_map && first < f.global_experts) prefetch(f.expert_map + first);
    if (first >= f.combine.tokens * f.combine.top_k) return;
    prefetch(f.ids + first);
    if (f.combine.weights) prefetch(f.combine.weights + first);
}

template <class Format> DEVICE void experts_few(const FewArguments& f) {
    SHARED_MEMORY(u8, 1024, memory);
    const FewBlock<Format> block(f, memory);
    const int warp = uniform(threadIdx.x / 32), first_producer = few_math_threads / 32;
    FewStart start = {};
    prefetch_routing(f);
    if (warp == first_producer) { // while the others make barriers
        wait_for_earlier_kernels();
        start = start_few(f);
    }
    block.init(f);
    wait_for_earlier_kernels();
    launch_dependents();
    if (Format::own_rings ? warp >= first_producer : warp == first_producer) produce_few(f, block, start);
    else compute_few(f, block);
}
