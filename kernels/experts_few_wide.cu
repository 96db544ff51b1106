// The layer of up to eight tokens in one launch: weights that are decoded to BF16.
#include "include/few_layer.cuh"
#include "include/few_wide.cuh"

#define EXPERTS_FEW_WIDE(name, format)                                                                                                                       \
    extern "C" __global__ void __launch_bounds__(FewBlock<FewWide<format>>::threads, 1) experts_few_wide_##name(const __grid_constant__ FewArguments f) { experts_few<FewWide<format>>(f); } \
    extern "C" __device__ const int experts_few_wide_##name##_shared = few_shared_bytes;

EXPERTS_FEW_WIDE(mxfp8, MxFp8)
EXPERTS_FEW_WIDE(mxfp8_large, LargeMxFp8)
EXPERTS_FEW_WIDE(block128, Block128)
EXPERTS_FEW_WIDE(bf16, Bf16)
#undef EXPERTS_FEW_WIDE
