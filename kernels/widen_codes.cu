// Before step 2 where the caller quantized hidden states to MXFP8: their values as BF16, which holds all of them from a scale of 2^-117 on. Quantizing them again gives the same values: a group's largest asks
// for the same scale or a smaller one, and what has four significant bits still has them.
#include "include/arguments.cuh"

DEVICE float e4m3_value(u32 code) {
    const float size = (code & 0x7Fu) == 0x7Fu ? __uint_as_float(0x7FC00000u) : __uint_as_float((code & 0x7Fu) << 20) * __uint_as_float(0x7B800000u); // 2^120
    return __uint_as_float(__float_as_uint(size) | (code & 0x80u) << 24);
}

DEVICE float e8m0_value(u32 byte) { return __uint_as_float(byte == 255 ? 0x7FC00000u : byte == 0 ? 0x00400000u : byte << 23); }

extern "C" __global__ void __launch_bounds__(256) widen_codes(const __grid_constant__ WidenArguments w) {
    const int pairs = (w.hidden_size + 1) / 2, groups = (w.hidden_size + 31) / 32;
    wait_for_earlier_kernels();
    launch_dependents();
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < (u64)w.tokens * pairs; i += (u64)gridDim.x * blockDim.x) {
        const u64 token = i / pairs, column = i % pairs * 2, at = token * w.hidden_size + column;
        const float scale = e8m0_value(w.scales[token * groups + column / 32]);
        const bool both = column + 1 < w.hidden_size;
        const u32 values = pack_bf16(e4m3_value(w.codes[at]) * scale, both ? e4m3_value(w.codes[at + 1]) * scale : 0.0f);
        if (w.hidden_size % 2 == 0) {
            *(u32*)(w.hidden + at) = values;
        } else {
            w.hidden[at] = (u16)values;
            if (both) w.hidden[at + 1] = (u16)(values >> 16);
        }
    }
}
