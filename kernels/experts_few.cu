// Steps 2 to 7 of up to eight tokens in one launch: memory is read from the first ids to the last weights without a pause between steps.
#include "include/few_compute.cuh"
#include "include/few_producer.cuh"

template <int Kind> DEVICE void experts_few(const FewArguments& f) {
    SHARED_MEMORY(u8, 1024, memory);
    const FewBlock block(f, memory);
    block.init(f);
    wait_for_earlier_kernels();
    launch_dependents();
    if (uniform(threadIdx.x / 32) == few_math_threads / 32) {
        u32 first = 0;
        if (threadIdx.x % 32 == 0) first = count_up(few_taken(f), few_endless); // on its way while the ids are read
        find_experts(f, block);
        if (threadIdx.x % 32 == 0) produce(f, block, first);
    } else {
        compute_few<Kind>(f, block);
    }
}

#define EXPERTS_FEW(kind)                                                                                                                          \
    extern "C" __global__ void __launch_bounds__(few_threads, 1) experts_few_##kind(const __grid_constant__ FewArguments f) { experts_few<kind>(f); } \
    extern "C" __device__ const int experts_few_##kind##_shared = few_shared_bytes;

EXPERTS_FEW(silu)
EXPERTS_FEW(swiglustep)
EXPERTS_FEW(gelu_tanh)
EXPERTS_FEW(swigluoai)
