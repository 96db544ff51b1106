// The weight of the shared expert: sigmoid of a dot product of each token with a vector, in the order of the CPU (src/MoeSharp/Routing/RowDots.cs): element i goes to
// lane i mod 16 by a fused multiply-add, in ascending order; then the sixteen lanes are folded.
#include "include/arguments.cuh"

extern "C" __global__ void __launch_bounds__(256) shared_gate(const __grid_constant__ SharedGateArguments g) {
    const int lane = threadIdx.x % 16, token = blockIdx.x * 16 + threadIdx.x / 16;
    wait_for_earlier_kernels();
    launch_dependents();
    float dot = 0.0f;
    if (token < g.tokens) {
        const u16* hidden = g.hidden + (u64)token * g.hidden_size;
#pragma unroll 8
        for (int i = lane; i < g.hidden_size; i += 16) dot = fmaf(from_bf16(hidden[i]), g.gate[i], dot);
    }
#pragma unroll
    for (int step = 8; step > 0; step /= 2) dot += __shfl_xor_sync(~0u, dot, step);
    if (token < g.tokens && lane == 0) g.weights[token] = 1.0f / (1.0f + expf(-dot));
}
