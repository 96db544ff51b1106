// Step 6: the grouped GEMM with down; BF16 rows, unweighted.
#include "include/epilogue.cuh"

extern "C" __global__ void __launch_bounds__(block_threads, 1) down(const __grid_constant__ GemmsArguments a) { grouped_gemms<Absent, StoreRows<false>>(a); }

extern "C" __device__ const int down_shared = staging_offset + StoreRows<false>::staging_bytes;
