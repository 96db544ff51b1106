#pragma once
#include "numerics.cuh"
#include "wide_mainloop.cuh"
// What happens to a tile's FP32 sums: 64 weight rows times N rows, held by one warpgroup. Results are transposed through shared memory, at most 64 rows
// at a time, and leave in chunks of 16 bytes.

constexpr int wide_staged_rows = 64;
constexpr int wide_maxima = wide_staged_rows * 128;                 // [4 warps][32 pairs of rows], behind the staged rows
constexpr int wide_staging_bytes = wide_maxima + 4 * 32 * 4;        // of one warpgroup

/// Biases of the weight rows r and r + 8 that this thread holds.
DEVICE float2 wide_biases(const WideGemmArguments& g, const WideWork& work, int block, int tile) {
    if (!g.biases) return make_float2(0.0f, 0.0f);
    const float* b = g.biases + ((u64)work.expert * g.blocks + block) * 128 + tile * 64 + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
    return make_float2(b[0], b[8]);
}

DEVICE void wide_meet() { named_barrier(1 + uniform(threadIdx.x / 128), 128); }

/// Down: rounds to BF16 and stores rows.
struct WideStoreRows {
    static constexpr bool gate_and_up = false;
    static constexpr int pitch = 128; // bytes of a staged row: 64 outputs

    template <int N, int First>
    static DEVICE void part(float (&sums)[N / 2], float2 bias, const WideWork& work, int tile, u8* own, u8* to) {
        constexpr int count = (N - First < wide_staged_rows ? N - First : wide_staged_rows) / 8;
        const int warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32, rows = (work.rows + 7) / 8 * 8;
        wide_meet(); // the rows staged before have left
#pragma unroll
        for (int j = 0; j < count; j++) {
            const float* v = sums + First / 2 + 4 * j;
            const int row = 8 * j + lane % 8, chunk = 2 * warp + lane / 8 % 2;
            const u32 pairs[2] = {pack_bf16(v[0] + bias.x, v[1] + bias.x), pack_bf16(v[2] + bias.y, v[3] + bias.y)};
            store_transposed(shared_address(own + row * pitch + (chunk ^ (row & 7)) * 16), pairs);
        }
        wide_meet();
        for (int i = threadIdx.x % 128; i < count * 64; i += 128) {
            const int row = i / 8, chunk = i % 8;
            if (First + row >= rows) break;
            *(uint4*)(to + (First + row) * 256 + ((tile * 8 + chunk) ^ (row & 7)) * 16) = *(const uint4*)(own + row * pitch + (chunk ^ (row & 7)) * 16);
        }
    }

    template <int N> static DEVICE void tile(float (&sums)[N / 2], const WideGemmArguments& g, const WideWork& work, int block, int tile, u8* staging) {
        const float2 bias = wide_biases(g, work, block, tile);
        u8* own = staging + uniform(threadIdx.x / 128) * wide_staging_bytes;
        u8* to = (u8*)g.results + ((u64)block * g.capacity + work.row) * 256;
        part<N, 0>(sums, bias, work, tile, own, to);
        if constexpr (N > wide_staged_rows) part<N, wide_staged_rows>(sums, bias, work, tile, own, to);
    }
};

/// GateUp: rounds gate and up to BF16 and activates; for MXFP8 activations then rounds each group of 32 outputs, which is what a tile makes, to MXFP8.
template <int Kind> DEVICE void wide_activate(u32* y, const float* sums, int count, float2 bias, const ActivationArguments& a) {
#pragma unroll
    for (int j = 0; j < count; j++) {
        const float* v = sums + 4 * j;
        y[j] = activate_pair<Kind>(pack_bf16(v[0] + bias.x, v[1] + bias.x), pack_bf16(v[2] + bias.y, v[3] + bias.y), a, a.rounding == 0);
    }
}

struct WideActivate {
    static constexpr bool gate_and_up = true;
    static constexpr int pitch = 64; // 32 outputs

    /// 16-byte chunks of a staged row, spread over the banks.
    static DEVICE int staged(int row, int chunk) { return row * pitch + (chunk ^ (row / 2 & 3)) * 16; }

    template <int Count> static DEVICE void round_to_mx(u32* y, u32* maxima) {
        const int warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
#pragma unroll
        for (int j = 0; j < Count; j++) {
            u32 m = absolute_bf16(y[j]);
#pragma unroll
            for (int step = 4; step < 32; step *= 2) m = maximum_bf16(m, __shfl_xor_sync(~0u, m, step));
            if (lane < 4) maxima[warp * 32 + 4 * j + lane] = m;
        }
        wide_meet();
#pragma unroll
        for (int j = 0; j < Count; j++) {
            const u32* of = maxima + 4 * j + lane % 4;
            const u32 m = maximum_bf16(maximum_bf16(of[0], of[32]), maximum_bf16(of[64], of[96]));
            y[j] = mx_round(y[j], mx_scale(m & 0x7FFF), mx_scale(m >> 16 & 0x7FFF));
        }
    }

    template <int N, int First>
    static DEVICE void part(float (&sums)[N / 2], float2 bias, const WideGemmArguments& g, const WideWork& work, int tile, u8* own, u8* to) {
        constexpr int count = (N - First < wide_staged_rows ? N - First : wide_staged_rows) / 8;
        const int warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32, rows = (work.rows + 7) / 8 * 8;
        u32 y[count];
        if (g.activation.kind == silu) wide_activate<silu>(y, sums + First / 2, count, bias, g.activation);
        else if (g.activation.kind == swigluoai) wide_activate<swigluoai>(y, sums + First / 2, count, bias, g.activation);
        else if (g.activation.kind == swiglustep) wide_activate<swiglustep>(y, sums + First / 2, count, bias, g.activation);
        else wide_activate<gelu_tanh>(y, sums + First / 2, count, bias, g.activation);
        if (g.quantize) round_to_mx<count>(y, (u32*)(own + wide_maxima));
        else wide_meet(); // the rows staged before have left
#pragma unroll
        for (int j = 0; j < count; j++) {
            const u32 pairs[1] = {y[j]};
            store_transposed(shared_address(own + staged(8 * j + lane % 8, warp)), pairs);
        }
        wide_meet();
        for (int i = threadIdx.x % 128; i < count * 32; i += 128) {
            const int row = i / 4, chunk = i % 4;
            if (First + row >= rows) break;
            *(uint4*)(to + (First + row) * 128 + ((tile * 4 + chunk) ^ (row & 7)) * 16) = *(const uint4*)(own + staged(row, chunk));
        }
    }

    template <int N> static DEVICE void tile(float (&sums)[N / 2], const WideGemmArguments& g, const WideWork& work, int block, int tile, u8* staging) {
        const float2 bias = wide_biases(g, work, block, tile);
        u8* own = staging + uniform(threadIdx.x / 128) * wide_staging_bytes;
        u8* to = (u8*)g.results + ((u64)block * g.capacity + work.row) * 128;
        part<N, 0>(sums, bias, g, work, tile, own, to);
        if constexpr (N > wide_staged_rows) part<N, wide_staged_rows>(sums, bias, g, work, tile, own, to);
    }
};
