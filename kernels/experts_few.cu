// The layer of up to eight tokens in one launch: 128-block FP8 weights with FP8 activations.
#include "include/few_fp8.cuh"
#include "include/few_layer.cuh"

#define EXPERTS_FEW(kind)                                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(FewBlock<FewFp8<kind>>::threads, 1) experts_few_##kind(const __grid_constant__ FewArguments f) { experts_few<FewFp8<kind>>(f); } \
    extern "C" __device__ const int experts_few_##kind##_shared = few_shared_bytes;

EXPERTS_FEW(silu)
EXPERTS_FEW(swiglustep)
EXPERTS_FEW(gelu_tanh)
EXPERTS_FEW(swigluoai)
#undef EXPERTS_FEW
