// Steps 4 and 5: the grouped GEMM with gate and up, the gated activation and the second quantization in one kernel.
#include "include/epilogue.cuh"

#define ENTRY(name, epilogue)                                                                                                      \
    extern "C" __global__ void __launch_bounds__(block_threads, 1) name(const __grid_constant__ GemmArguments g) {                 \
        grouped_gemm<true, epilogue>(g);                                                                                           \
    }                                                                                                                              \
    extern "C" __device__ const int name##_shared = staging_offset + epilogue::staging_bytes;

ENTRY(gateup_silu, ActivateAndQuantize<silu>)
ENTRY(gateup_swiglustep, ActivateAndQuantize<swiglustep>)
ENTRY(gateup_gelu_tanh, ActivateAndQuantize<gelu_tanh>)
ENTRY(gateup_swigluoai, ActivateAndQuantize<swigluoai>)

/// For tests: the same mainloop with BF16 results, columns still interleaved as the weight rows are.
ENTRY(gateup_plain, StoreRows)
