// Random weights for timing, made where they are needed: a layer of DeepSeek-V3 is 11 GB. Each value is drawn from a table by twelve bits of a hash of
// its place, so the same seed gives the same bytes on every GPU.
#include "include/bench_arguments.cuh"

DEVICE u64 mixed(u64 x) { // splitmix64
    x += 0x9E3779B97F4A7C15ull;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ x >> 27) * 0x94D049BB133111EBull;
    return x ^ x >> 31;
}

extern "C" __global__ void __launch_bounds__(256) random_values(const __grid_constant__ RandomArguments r) {
    wait_for_earlier_kernels();
    launch_dependents();
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < r.chunks; i += (u64)gridDim.x * blockDim.x) {
        const bool tail = r.tail_table && (int)(i % r.period) >= r.body;
        const u32* table = tail ? r.tail_table : r.table;
        const int value_bits = tail ? 8 : 8 * r.value_bytes;
        u32 words[4];
#pragma unroll
        for (int w = 0; w < 4; w++) {
            u64 bits = mixed((r.seed << 40) + 4 * i + w);
            words[w] = 0;
            for (int shift = 0; shift < 32; shift += value_bits, bits >>= 12) words[w] |= table[bits & 4095] << shift;
        }
        *(uint4*)(r.to + 16 * i) = make_uint4(words[0], words[1], words[2], words[3]);
    }
}
