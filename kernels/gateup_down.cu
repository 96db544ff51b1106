// Steps 4 to 6 in one launch: Down's weights come while the last of GateUp's are multiplied.
#include "include/epilogue.cuh"

template <int Kind> using ActivateForDown = ActivateAndQuantize<Kind, true>;
typedef StoreRows<true> StoreBehind;

#define ENTRY(kind)                                                                                                                \
    extern "C" __global__ void __launch_bounds__(block_threads, 1) gateup_down_##kind(const __grid_constant__ GemmsArguments a) {  \
        grouped_gemms<ActivateForDown<kind>, StoreBehind>(a);                                                                    \
    }                                                                                                                              \
    extern "C" __device__ const int gateup_down_##kind##_shared = staging_offset + ActivateForDown<kind>::staging_bytes;                  \
    static_assert(ActivateForDown<kind>::staging_bytes >= StoreBehind::staging_bytes, "");

ENTRY(silu)
ENTRY(swiglustep)
ENTRY(gelu_tanh)
ENTRY(swigluoai)
#undef ENTRY
