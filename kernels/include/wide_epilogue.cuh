#pragma once
#include "numerics.cuh"
#include "wide_products.cuh"
// What happens to a tile's FP32 sums: 64 weight rows times N rows, held by one warpgroup. They are taken in chunks of a few rows by a loop that is not
// unrolled, since a unit passes here once and code that is run once is waited for. Results are transposed through shared memory and leave 16 bytes at a time.

constexpr int wide_staged_rows = 32;
constexpr int wide_maxima = wide_staged_rows * 128;                 // [16 pairs of rows][4 warps], behind the staged rows
constexpr int wide_staging_bytes = wide_maxima + 4 * 16 * 4;        // of one warpgroup

/// Biases of the weight rows r and r + 8 that this thread holds.
DEVICE float2 wide_biases(const WideGemmArguments& g, const WideWork& work, int block, int tile, int thread) {
    if (!g.biases) return make_float2(0.0f, 0.0f);
    const float* b = g.biases + ((u64)work.expert * g.blocks + block) * 128 + tile * 64 + thread / 32 * 16 + thread % 32 / 4;
    return make_float2(b[0], b[8]);
}

/// Groups of 8 rows in a chunk: as many as divide N well.
DEVICE constexpr int wide_chunk(int n) { return n < 32 ? n / 8 : n % 32 == 0 ? 4 : n % 24 == 0 ? 3 : 4; }

/// BF16 pairs of a chunk: of each 8 rows two neighbours of weight row r, and of r + 8.
template <int N, int Chunk> DEVICE void wide_take(u32 (&first)[Chunk], u32 (&second)[Chunk], const float (&sums)[N / 2], int chunk, float2 bias) {
    float biases[2] = {bias.x, bias.y};
    settle(biases); // or the pairs of all chunks would be made ahead of the loop
#pragma unroll
    for (int c = 0; c * Chunk < N / 8; c++)
        if (c == chunk) {
#pragma unroll
            for (int j = 0; j < Chunk; j++) {
                const int i = 4 * (c * Chunk + j);
                first[j] = i < N / 2 ? pack_bf16(sums[i] + biases[0], sums[i + 1] + biases[0]) : 0;
                second[j] = i < N / 2 ? pack_bf16(sums[i + 2] + biases[1], sums[i + 3] + biases[1]) : 0;
            }
        }
}

/// Down: rounds to BF16 and stores rows.
struct WideStoreRows {
    static constexpr bool gate_and_up = false;
    static constexpr int pitch = 128; // bytes of a staged row: 64 outputs

    template <int N, class Format> static DEVICE void tile(const float (&sums)[N / 2], const WideGemmArguments& g, const WideWork& work, int block, int tile, u8* staging) {
        constexpr int count = wide_chunk(N), chunks = (N / 8 + count - 1) / count;
        const u32 all = thread_again(), thread = all % 128;
        const int warp = thread / 32, lane = thread % 32, rows = (work.rows + 7) / 8 * 8;
        const float2 bias = wide_biases(g, work, block, tile, thread);
        u8* own = staging + all / 128 * wide_staging_bytes;
        u8* to = (u8*)g.results + ((u64)block * g.capacity + work.row) * 256;
#pragma unroll 1
        for (int c = 0; c < chunks; c++, to += count * 8 * 256) {
            u32 low[count], high[count];
            wide_take<N>(low, high, sums, c, bias);
            wide_meet(all / 128); // the rows staged before have left
#pragma unroll
            for (int j = 0; j < count; j++) {
                const int row = 8 * j + lane % 8, part = 2 * warp + lane / 8 % 2;
                const u32 pairs[2] = {low[j], high[j]};
                store_transposed(shared_address(own + row * pitch + (part ^ (row & 7)) * 16), pairs);
            }
            wide_meet(all / 128);
#pragma unroll
            for (int i = 0; i < count * 64; i += 128) {
                const int row = (i + thread) / 8, part = thread % 8;
                if (row < count * 8 && c * count * 8 + row < rows)
                    *(uint4*)(to + row * 256 + ((tile * 8 + part) ^ (row & 7)) * 16) = *(const uint4*)(own + row * pitch + (part ^ (row & 7)) * 16);
            }
        }
    }
};

/// GateUp: rounds gate and up to BF16 and activates, a chunk's values step by step; for MXFP8 activations then rounds each group of 32 outputs, which is what a tile makes, to MXFP8.
struct WideActivate {
    static constexpr bool gate_and_up = true;
    static constexpr int pitch = 64; // 32 outputs

    /// 16-byte parts of a staged row, spread over the banks.
    static DEVICE int staged(int row, int part) { return row * pitch + (part ^ (row / 2 & 3)) * 16; }

    template <int Count> static DEVICE void round_to_mx(u32 (&y)[Count], u32* maxima, int warpgroup, int warp, int lane) {
#pragma unroll
        for (int j = 0; j < Count; j++) {
            u32 m = absolute_bf16(y[j]);
#pragma unroll
            for (int step = 4; step < 32; step *= 2) m = maximum_bf16(m, __shfl_xor_sync(~0u, m, step));
            if (lane < 4) maxima[(4 * j + lane) * 4 + warp] = m;
        }
        wide_meet(warpgroup);
        u32 largest[Count];
#pragma unroll
        for (int j = 0; j < Count; j++) {
            const uint4 of = *(const uint4*)(maxima + (4 * j + lane % 4) * 4);
            largest[j] = maximum_bf16(maximum_bf16(of.x, of.y), maximum_bf16(of.z, of.w));
        }
        mx_round(y, largest);
    }

    template <int N, class Format> static DEVICE void tile(const float (&sums)[N / 2], const WideGemmArguments& g, const WideWork& work, int block, int tile, u8* staging) {
        constexpr int count = wide_chunk(N), chunks = (N / 8 + count - 1) / count;
        const u32 all = thread_again(), thread = all % 128;
        const int warp = thread / 32, lane = thread % 32, rows = (work.rows + 7) / 8 * 8;
        const float2 bias = wide_biases(g, work, block, tile, thread);
        u8* own = staging + all / 128 * wide_staging_bytes;
        u8* to = (u8*)g.results + ((u64)block * g.capacity + work.row) * 128;
#pragma unroll 1
        for (int c = 0; c < chunks; c++, to += count * 8 * 128) {
            u32 y[count], up[count]; // y: gate, then results
            wide_take<N>(y, up, sums, c, bias);
            const bool rounds = g.activation.rounding == 0;
            if (g.activation.kind == silu) activate_pairs<silu>(y, up, g.activation, rounds);
            else if (g.activation.kind == swigluoai) activate_pairs<swigluoai>(y, up, g.activation, rounds);
            else if (g.activation.kind == swiglustep) activate_pairs<swiglustep>(y, up, g.activation, rounds);
            else activate_pairs<gelu_tanh>(y, up, g.activation, rounds);
            if (Format::mx && g.quantize) round_to_mx(y, (u32*)(own + wide_maxima), all / 128, warp, lane);
            else wide_meet(all / 128); // the rows staged before have left
#pragma unroll
            for (int j = 0; j < count; j++) {
                const u32 pairs[1] = {y[j]};
                store_transposed(shared_address(own + staged(8 * j + lane % 8, warp)), pairs);
            }
            wide_meet(all / 128);
            const int row = thread / 4, part = thread % 4;
            if (row < count * 8 && c * count * 8 + row < rows)
                *(uint4*)(to + row * 128 + ((tile * 4 + part) ^ (row & 7)) * 16) = *(const uint4*)(own + staged(row, part));
        }
    }
};
