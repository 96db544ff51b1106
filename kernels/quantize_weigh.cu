// Before step 2 where the router weight goes onto the input (K = 1): hidden states times their weight, both BF16, rounded to BF16.
#include "include/arguments.cuh"

extern "C" __global__ void __launch_bounds__(256) quantize_weigh(const __grid_constant__ WeighArguments w) {
    wait_for_earlier_kernels();
    launch_dependents();
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < (u64)w.tokens * w.hidden_size; i += (u64)gridDim.x * blockDim.x) {
        const float weight = round_bf16(w.weights[i / w.hidden_size]);
        w.weighed[i] = (u16)pack_bf16(from_bf16(w.hidden[i]) * weight, 0.0f);
    }
}
