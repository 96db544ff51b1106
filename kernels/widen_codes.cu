// Before step 2 where the caller quantized hidden states to MXFP8: their values as BF16, which holds all of them from a scale of 2^-117 on. Quantizing them again gives the same values: a group's largest asks
// for the same scale or a smaller one, and what has four significant bits still has them.
#include "include/arguments.cuh"
#include "include/wide_decode.cuh"

extern "C" __global__ void __launch_bounds__(256) widen_codes(const __grid_constant__ WidenArguments w) {
    const int pairs = (w.hidden_size + 1) / 2, groups = (w.hidden_size + 31) / 32;
    wait_for_earlier_kernels();
    launch_dependents();
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < (u64)w.tokens * pairs; i += (u64)gridDim.x * blockDim.x) {
        const u64 token = i / pairs, column = i % pairs * 2, at = token * w.hidden_size + column;
        const bool second = column + 1 < w.hidden_size;
        const u32 codes = w.codes[at] | (second ? w.codes[at + 1] : 0u) << 8, scale = w.scales[token * groups + column / 32];
        const u32 values = mx_values(codes, scale, scale);
        if (w.hidden_size % 2 == 0) {
            *(u32*)(w.hidden + at) = values;
        } else {
            w.hidden[at] = (u16)values;
            if (second) w.hidden[at + 1] = (u16)(values >> 16);
        }
    }
}
