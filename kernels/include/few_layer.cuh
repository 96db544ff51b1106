#pragma once
#include "few_compute.cuh"
#include "few_producer.cuh"
// Steps 2 to 7 of up to eight tokens in one launch: memory is read from the first ids to the last weights without a pause between steps.

template <class Format> DEVICE void experts_few(const FewArguments& f) {
    SHARED_MEMORY(u8, 1024, memory);
    const FewBlock<Format> block(f, memory);
    block.init(f);
    wait_for_earlier_kernels();
    launch_dependents();
    if (uniform(threadIdx.x / 32) == few_math_threads / 32) {
        u32 first = 0;
        if (threadIdx.x % 32 == 0) first = count_up(few_taken(f), few_endless); // on its way while the ids are read
        find_experts(f, block);
        if (threadIdx.x % 32 == 0) produce(f, block, first);
    } else {
        compute_few(f, block);
    }
}
