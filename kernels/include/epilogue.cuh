#pragma once
#include "mainloop.cuh"
#include "numerics.cuh"
// What happens to a unit's FP32 results. All stores leave through shared memory as contiguous bulk stores.

/// Rounds to BF16 and stores rows [blocks][capacity][128]: Down, and the plain GateUp of the tests.
struct StoreRows {
    static constexpr int staging_bytes = consumer_threads / 32 * 4096;

    static DEVICE u8* destination(const GemmArguments& g, const Work& work, int half) {
        return (u8*)g.results + ((u64)(2 * work.unit + half) * g.capacity + work.row) * 256;
    }

    static DEVICE void many(float (&final)[64], int half, const GemmArguments& g, const Work& work, u8* memory, u32 shared) {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = lane / 4;
        const u32 tile = Shared::staging + warp * 4096; // 16 rows of this warp
        if (lane == 0) bulk_store_wait_read();
        named_barrier(2 + threadIdx.x / 128, 128); // a few-rows unit may have stored the warpgroup's whole tile
#pragma unroll
        for (int j = 0; j < 16; j++) {
            u8* chunk = memory + tile + row * 256 + ((j ^ row) * 16) + lane % 4 * 4;
            *(u32*)chunk = pack_bf16(final[4 * j], final[4 * j + 1]);
            *(u32*)(chunk + 8 * 256) = pack_bf16(final[4 * j + 2], final[4 * j + 3]);
        }
        fence_async_shared();
        __syncwarp();
        const int left = round_up_8(work.rows) - warp * 16, rows = left < 16 ? left : 16;
        if (lane == 0 && rows > 0) bulk_store(destination(g, work, half) + warp * 4096, shared + tile, rows * 256);
    }

    template <int N> static DEVICE void few(float (&final)[2][N / 2], bool active, const GemmArguments& g, const Work& work, u8* memory, u32 shared) {
        if (!active) return;
        const int warpgroup = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
        const u32 tile = Shared::staging + warpgroup * 16384; // N rows of 128 outputs
        if (lane == 0) bulk_store_wait_read();
        named_barrier(2 + warpgroup, 128);
#pragma unroll
        for (int slab = 0; slab < 2; slab++)
#pragma unroll
            for (int i = 0; i < N / 2; i++) {
                const int row = i / 4 * 8 + lane % 4 * 2 + i % 2, output = slab * 64 + warp * 16 + (i / 2 % 2) * 8 + lane / 4;
                *(u16*)(memory + tile + row * 256 + ((output / 8 ^ (row & 7)) * 16) + output % 8 * 2) = (u16)pack_bf16(final[slab][i], 0.0f);
            }
        fence_async_shared();
        named_barrier(2 + warpgroup, 128);
        if (threadIdx.x % 128 == 0) bulk_store(destination(g, work, warpgroup), shared + tile, round_up_8(work.rows) * 256);
    }

    static DEVICE void finish() {
        if (threadIdx.x % 32 == 0) bulk_store_wait();
    }
};

/// Rounds gate and up to BF16, activates, quantizes groups of 128 outputs: the rows and scales of Down.
template <int Kind> struct ActivateAndQuantize {
    static constexpr int few_staging = consumer_threads / 32 * 2048;             // after the warps' own tiles
    static constexpr int maxima = few_staging + few_rows * 128;                  // [8 warps][64 rows]
    static constexpr int staging_bytes = maxima + 8 * few_rows * 4 + few_rows * 4; // and [64] scales

    static DEVICE u32 activate_pair(float g0, float g1, float u0, float u1, const ActivationArguments& a) {
        return pack_bf16(activate<Kind>(round_bf16(g0), round_bf16(u0), a), activate<Kind>(round_bf16(g1), round_bf16(u1), a));
    }
    static DEVICE float larger(float m, u32 pair) { return fmaxf(m, fmaxf(fabsf(from_bf16(pair & 0xFFFF)), fabsf(from_bf16(pair >> 16)))); }
    static DEVICE float over_columns(float m) {
        m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
        return fmaxf(m, __shfl_xor_sync(~0u, m, 2));
    }
    static DEVICE u16 quantize_pair(u32 pair, float scale) {
        return (u16)pack_e4m3(__fdiv_rn(from_bf16(pair & 0xFFFF), scale), __fdiv_rn(from_bf16(pair >> 16), scale));
    }

    /// Half 0 leaves its 64 outputs per row in shared memory as BF16; half 1 completes the group. A row's group lies in four lanes.
    static DEVICE void many(float (&final)[64], int half, const GemmArguments& g, const Work& work, u8* memory, u32 shared) {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = lane / 4;
        const u32 tile = Shared::staging + warp * 2048; // 16 rows of 128 bytes; before that 16 words of each lane
        u32* kept = (u32*)(memory + tile) + lane;
        u32 y[16];
#pragma unroll
        for (int p = 0; p < 8; p++) {
            const float* v = final + 8 * p;
            y[2 * p] = activate_pair(v[0], v[1], v[4], v[5], g.activation);
            y[2 * p + 1] = activate_pair(v[2], v[3], v[6], v[7], g.activation);
        }
        if (half == 0) {
            if (lane == 0) bulk_store_wait_read();
            __syncwarp();
#pragma unroll
            for (int i = 0; i < 16; i++) kept[32 * i] = y[i];
            return;
        }
        u32 x[16];
        float m0 = 0.0f, m1 = 0.0f;
#pragma unroll
        for (int i = 0; i < 16; i++) {
            x[i] = kept[32 * i];
            if (i % 2) m1 = larger(larger(m1, x[i]), y[i]);
            else m0 = larger(larger(m0, x[i]), y[i]);
        }
        const float s0 = group_scale(over_columns(m0), g.activation.divide, g.activation.power_of_two);
        const float s1 = group_scale(over_columns(m1), g.activation.divide, g.activation.power_of_two);
        __syncwarp();
#pragma unroll
        for (int p = 0; p < 8; p++) {
            u8* at = memory + tile + row * 128 + p % 2 * 8 + lane % 4 * 2;
            const int low = (p / 2 ^ row) * 16, high = ((4 + p / 2) ^ row) * 16;
            *(u16*)(at + low) = quantize_pair(x[2 * p], s0);
            *(u16*)(at + 1024 + low) = quantize_pair(x[2 * p + 1], s1);
            *(u16*)(at + high) = quantize_pair(y[2 * p], s0);
            *(u16*)(at + 1024 + high) = quantize_pair(y[2 * p + 1], s1);
        }
        fence_async_shared();
        __syncwarp();
        const u64 first = (u64)work.unit * g.capacity + work.row + warp * 16;
        const int left = round_up_8(work.rows) - warp * 16, rows = left < 16 ? left : 16;
        if (lane % 4 == 0 && row < rows) g.result_scales[first + row] = s0;
        if (lane % 4 == 0 && row + 8 < rows) g.result_scales[first + row + 8] = s1;
        if (lane == 0 && rows > 0) bulk_store((u8*)g.results + first * 128, shared + tile, rows * 128);
    }

    /// A row's group is spread over the eight warps of two warpgroups: maxima meet in shared memory.
    template <int N> static DEVICE void few(float (&final)[2][N / 2], bool active, const GemmArguments& g, const Work& work, u8* memory, u32 shared) {
        if (!active) return;
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        u8* tile = memory + Shared::staging + few_staging;
        float* warp_maxima = (float*)(memory + Shared::staging + maxima);
        float* row_scales = warp_maxima + 8 * few_rows;
        float y[2][N / 4]; // [slab][2 j + column]
#pragma unroll
        for (int i = 0; i < N / 4; i++) {
            const int at = i / 2 * 4 + i % 2;
#pragma unroll
            for (int slab = 0; slab < 2; slab++)
                y[slab][i] = activate<Kind>(round_bf16(final[slab][at]), round_bf16(final[slab][at + 2]), g.activation);
            float m = fmaxf(fabsf(y[0][i]), fabsf(y[1][i]));
#pragma unroll
            for (int step = 4; step < 32; step *= 2) m = fmaxf(m, __shfl_xor_sync(~0u, m, step));
            if (lane < 4) warp_maxima[warp * few_rows + i / 2 * 8 + lane * 2 + i % 2] = m;
        }
        if (threadIdx.x == 0) bulk_store_wait_read();
        named_barrier(1, 256);
        const int rows = round_up_8(work.rows);
        if (threadIdx.x < rows) {
            float m = 0.0f;
#pragma unroll
            for (int w = 0; w < 8; w++) m = fmaxf(m, warp_maxima[w * few_rows + threadIdx.x]);
            const float scale = group_scale(m, g.activation.divide, g.activation.power_of_two);
            row_scales[threadIdx.x] = scale;
            g.result_scales[(u64)work.unit * g.capacity + work.row + threadIdx.x] = scale;
        }
        named_barrier(1, 256);
#pragma unroll
        for (int i = 0; i < N / 4; i++) {
            const int row = i / 2 * 8 + lane % 4 * 2 + i % 2;
            const float scale = row_scales[row];
#pragma unroll
            for (int slab = 0; slab < 2; slab++) {
                const int output = warp / 4 * 64 + slab * 32 + warp % 4 * 8 + lane / 4;
                tile[row * 128 + ((output / 16 ^ (row & 7)) * 16) + output % 16] = (u8)pack_e4m3(__fdiv_rn(y[slab][i], scale), 0.0f);
            }
        }
        fence_async_shared();
        named_barrier(1, 256);
        if (threadIdx.x == 0)
            bulk_store((u8*)g.results + ((u64)work.unit * g.capacity + work.row) * 128, shared + Shared::staging + few_staging, rows * 128);
    }

    static DEVICE void finish() {
        if (threadIdx.x % 32 == 0) bulk_store_wait();
    }
};
