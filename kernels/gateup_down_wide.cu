// Steps 4 to 6 with BF16 rows: the grouped GEMM with gate and up, the gated activation, and the grouped GEMM with down (BF16 rows, unweighted).
#include "include/wide_epilogue.cuh"

#define WIDE_ENTRY(name, format)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(wide_threads, 1) name(const __grid_constant__ WideGemmsArguments a) {            \
        wide_gemms<format, WideActivate, WideStoreRows>(a);                                                                       \
    }                                                                                                                             \
    extern "C" __device__ const int name##_shared = WideLayout<format>::staging + 2 * wide_staging_bytes;

WIDE_ENTRY(gateup_down_wide_mxfp8, MxFp8)
WIDE_ENTRY(gateup_down_wide_mxfp8_large, LargeMxFp8)
WIDE_ENTRY(gateup_down_wide_block128, Block128)
WIDE_ENTRY(gateup_down_wide_bf16, Bf16)
#undef WIDE_ENTRY
