// Steps 4 and 5: the grouped GEMM with gate and up, the gated activation and the second quantization in one kernel.
#include "include/epilogue.cuh"

template <int Kind> using ActivateAlone = ActivateAndQuantize<Kind, false>;

#define ENTRY(name, epilogue)                                                                                                      \
    extern "C" __global__ void __launch_bounds__(block_threads, 1) name(const __grid_constant__ GemmsArguments a) {                \
        grouped_gemms<epilogue, Absent>(a);                                                                                        \
    }                                                                                                                              \
    extern "C" __device__ const int name##_shared = staging_offset + epilogue::staging_bytes;

ENTRY(gateup_silu, ActivateAlone<silu>)
ENTRY(gateup_swiglustep, ActivateAlone<swiglustep>)
ENTRY(gateup_gelu_tanh, ActivateAlone<gelu_tanh>)
ENTRY(gateup_swigluoai, ActivateAlone<swigluoai>)

/// For tests: the same mainloop with BF16 results, columns still interleaved as the weight rows are.
ENTRY(gateup_plain, StoreRows<false>)
#undef ENTRY
