// At load: one expert's E4M3 rows from row-major staging into the blocks that the GEMMs stream (arguments.cuh), zeros where a block exceeds the
// matrix. Counts NaN codes on the way.
#include "include/arguments.cuh"

DEVICE u32 nan_bytes(u32 word) { // 0x80 in each byte that is 0x7F or 0xFF
    const u32 magnitude = word & 0x7F7F7F7Fu;
    return (magnitude + 0x01010101u) & 0x80808080u;
}

DEVICE void report_nan(const PrepareArguments& p, u32 word, u64 offset) {
    const u32 found = nan_bytes(word);
    if (found == 0) return;
    atomicAdd(p.nan, (u64)__popc(found));
    atomicMin(p.nan + 1, offset + (__ffs(found) - 1) / 8);
}

extern "C" __global__ void __launch_bounds__(256) prepare(const __grid_constant__ PrepareArguments p) {
    const u64 chunks = (u64)p.blocks * p.k_blocks * 1024;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < chunks; i += (u64)gridDim.x * blockDim.x) {
        const int place = (int)(i % 8), r = (int)(i / 8 % 128), k = (int)(i / 1024 % p.k_blocks), block = (int)(i / 1024 / p.k_blocks);
        const int column = k * 128 + (place ^ (r & 7)) * 16;
        const int row = p.second ? block * 64 + r / 16 * 8 + r % 8 : block * 128 + r;
        const bool up = p.second && r / 8 % 2;
        u32 words[4] = {};
        if (row < p.rows && column < p.columns) {
            const u64 offset = (u64)row * p.columns + column;
            const u8* from = (up ? p.second : p.first) + offset;
            const u64 reported = offset + (up ? (u64)p.rows * p.columns : 0);
            if (p.columns % 16 == 0) {
                const uint4 v = *(const uint4*)from;
                words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w;
            } else {
                for (int b = 0; b < 16 && column + b < p.columns; b++) words[b / 4] |= (u32)from[b] << b % 4 * 8;
            }
            for (int w = 0; w < 4; w++) report_nan(p, words[w], reported + 4 * w);
        }
        *(uint4*)(p.to + i * 16) = make_uint4(words[0], words[1], words[2], words[3]);
    }
}
