// Step 3 for hidden states that the caller quantized: quantize_permute, told of no hidden size, has found the places; codes and scales are copied there.
#include "include/arguments.cuh"

extern "C" __global__ void __launch_bounds__(256) permute_codes(const __grid_constant__ CodesArguments c) {
    const int blocks = (c.hidden_size + 127) / 128, chunks = blocks * 8; // of 16 bytes
    wait_for_earlier_kernels();
    launch_dependents();
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < (u64)c.tokens * chunks; i += (u64)gridDim.x * blockDim.x) {
        const int token = (int)(i / chunks), chunk = (int)(i % chunks), left = c.hidden_size - chunk * 16;
        const u8* from = c.codes + (u64)token * c.hidden_size + chunk * 16;
        uint4 codes = make_uint4(0, 0, 0, 0); // zeros fill the last block up
        if (left >= 16 && c.hidden_size % 16 == 0) {
            codes = *(const uint4*)from;
        } else {
            u32 words[4] = {};
#pragma unroll
            for (int j = 0; j < 16; j++)
                if (j < left) words[j / 4] |= (u32)from[j] << j % 4 * 8;
            codes = make_uint4(words[0], words[1], words[2], words[3]);
        }
        for (int s = 0; s < c.top_k; s++) {
            const int row = c.row_of_slot[token * c.top_k + s];
            if (row < 0) continue;
            const u64 at = (u64)(chunk / 8) * c.capacity + row;
            *(uint4*)(c.rows + at * 128 + ((chunk % 8) ^ (row & 7)) * 16) = codes;
            if (chunk % 8 == 0) c.scales[at] = c.code_scales[(u64)token * blocks + chunk / 8];
        }
    }
}
