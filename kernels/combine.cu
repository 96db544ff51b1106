// Step 7 as a launch of its own: a thread computes eight neighbouring elements of a token.
#include "include/combine.cuh"

extern "C" __global__ void __launch_bounds__(256) combine(const __grid_constant__ CombineArguments c) {
    const int chunks = (c.hidden_size + 7) / 8;
    wait_for_earlier_kernels();
    launch_dependents();
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < (u64)c.tokens * chunks; i += (u64)gridDim.x * blockDim.x) {
        const int token = (int)(i / chunks);
        combine_columns(c, StoredResults{c.results, c.capacity}, token, (int)(i % chunks) * 8, c.row_of_slot + token * c.top_k);
    }
}
