#pragma once
#include "mainloop.cuh"
#include "numerics.cuh"
// What happens to a unit's FP32 results.

/// Rounds to BF16 and stores rows [blocks][capacity][128] as contiguous bulk stores: Down, and the plain GateUp of the tests.
struct StoreRows {
    static constexpr int stages = 4;
    static constexpr int staging_bytes = consumer_warps * 4096; // 16 rows of each warp; or all rows of a few-rows unit
    using P = Pipeline<stages>;
    bool after_few = false;

    static DEVICE u8* destination(const GemmArguments& g, const Work& work) {
        return (u8*)g.results + ((u64)(2 * work.unit + work.half) * g.capacity + work.row) * 256;
    }

    DEVICE void many(float (&final)[64], bool active, const GemmArguments& g, const Work& work, const P& p) {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = lane / 4;
        if (lane == 0) bulk_store_wait_read();
        if (after_few) named_barrier(2, consumer_threads); // thread 0 stored what lay in other warps' parts
        else __syncwarp();
        after_few = false;
        const int left = round_up_8(work.rows) - warp * 16, rows = left < 16 ? left : 16;
        if (!active || !work.store || rows <= 0) return;
        u8* tile = p.staging() + warp * 4096;
#pragma unroll
        for (int j = 0; j < 16; j++) {
            u8* chunk = tile + row * 256 + ((j ^ row) * 16) + lane % 4 * 4;
            *(u32*)chunk = pack_bf16(final[4 * j], final[4 * j + 1]);
            *(u32*)(chunk + 8 * 256) = pack_bf16(final[4 * j + 2], final[4 * j + 3]);
        }
        fence_async_shared();
        __syncwarp();
        if (lane == 0) bulk_store(destination(g, work) + warp * 4096, p.staging_address() + warp * 4096, rows * 256);
    }

    template <int N> DEVICE void few(float (&final)[N / 2], bool active, const GemmArguments& g, const Work& work, const P& p) {
        after_few = true;
        if (!active) return;
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        u8* tile = p.staging();
        if (lane == 0) bulk_store_wait_read();
        named_barrier(1, 256);
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            const int row = i / 4 * 8 + lane % 4 * 2 + i % 2, output = warp * 16 + (i / 2 % 2) * 8 + lane / 4;
            *(u16*)(tile + row * 256 + ((output / 8 ^ (row & 7)) * 16) + output % 8 * 2) = (u16)pack_bf16(final[i], 0.0f);
        }
        fence_async_shared();
        named_barrier(1, 256);
        if (threadIdx.x == 0 && work.store) bulk_store(destination(g, work), p.staging_address(), round_up_8(work.rows) * 256);
    }

    DEVICE void finish() {
        if (threadIdx.x % 32 == 0) bulk_store_wait();
    }
};

/// Rounds gate and up to BF16, activates, quantizes groups of 128 outputs: the rows and scales of Down. A group's outputs are spread over the two
/// blocks of a pair, which tell each other the largest magnitude of each row.
template <int Kind> struct ActivateAndQuantize {
    static constexpr int stages = 5;
    static constexpr int few_tile = consumer_warps * 1024;              // after the warps' own tiles of 16 rows x 64 outputs
    static constexpr int peer_maxima = few_tile + few_rows * 64;        // [2 turns][192 rows], written by the other block
    static constexpr int few_maxima = peer_maxima + 2 * tile_rows * 4;  // [2 turns][64 rows], likewise
    static constexpr int warp_maxima = few_maxima + 2 * few_rows * 4;   // [8 warps][64 rows]
    static constexpr int row_scales = warp_maxima + 8 * few_rows * 4;   // [64 rows]
    static constexpr int staging_bytes = row_scales + few_rows * 4;
    using P = Pipeline<stages>;
    u32 turns_many = 0, turns_few = 0;

    static DEVICE float over_columns(float m) {
        m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
        return fmaxf(m, __shfl_xor_sync(~0u, m, 2));
    }
    /// 16-byte chunks of a staged row of 64 outputs, spread over the banks.
    static DEVICE int staged(int row, int chunk) { return row * 64 + (chunk ^ (row / 2 & 3)) * 16; }

    static DEVICE void store_chunk(const GemmArguments& g, const Work& work, int row, int chunk, const u8* tile, int tile_row) {
        u8* to = (u8*)g.results + ((u64)work.unit * g.capacity + work.row + row) * 128 + ((work.half * 4 + chunk) ^ (row & 7)) * 16;
        *(uint4*)to = *(const uint4*)(tile + staged(tile_row, chunk));
    }

    DEVICE void many(float (&final)[64], bool active, const GemmArguments& g, const Work& work, const P& p) {
        if (!active) return;
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = lane / 4;
        u32 y[16], m[2] = {0, 0};
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const float* v = final + 8 * i;
            y[2 * i] = activate_pair<Kind>(v[0], v[1], v[4], v[5], g.activation);
            y[2 * i + 1] = activate_pair<Kind>(v[2], v[3], v[6], v[7], g.activation);
            m[0] = maximum_bf16(m[0], absolute_bf16(y[2 * i]));
            m[1] = maximum_bf16(m[1], absolute_bf16(y[2 * i + 1]));
        }
        float m0 = over_columns(larger_of_pair(m[0])), m1 = over_columns(larger_of_pair(m[1]));
        const u32 barrier = p.epilogue_barrier(warp), turn = turns_many++;
        const int slot = peer_maxima + ((turn & 1) * tile_rows + warp * 16 + row) * 4;
        if (lane == 0) barrier_arrive_expect(barrier, 64);
        if (lane % 4 == 0) {
            const u32 peer = p.rank ^ 1, at = remote_address(p.staging_address() + slot, peer), told = remote_address(barrier, peer);
            remote_store(at, m0, told);
            remote_store(at + 32, m1, told);
        }
        barrier_wait(barrier, turn & 1);
        m0 = fmaxf(m0, *(const float*)(p.staging() + slot));
        m1 = fmaxf(m1, *(const float*)(p.staging() + slot + 32));
        const float s0 = group_scale(m0, g.activation.divide, g.activation.power_of_two);
        const float s1 = group_scale(m1, g.activation.divide, g.activation.power_of_two);
        const Divisor d0(s0), d1(s1);
        u8* tile = p.staging() + warp * 1024;
        __syncwarp();
#pragma unroll
        for (int i = 0; i < 8; i++) {
            u8* at = tile + i % 2 * 8 + lane % 4 * 2;
            *(u16*)(at + staged(row, i / 2)) = (u16)d0.quantize_pair(low_bf16(y[2 * i]), high_bf16(y[2 * i]));
            *(u16*)(at + staged(row + 8, i / 2)) = (u16)d1.quantize_pair(low_bf16(y[2 * i + 1]), high_bf16(y[2 * i + 1]));
        }
        __syncwarp();
        const int rows = work.store ? round_up_8(work.rows) : 0;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int r = lane / 4 + 8 * i;
            if (warp * 16 + r < rows) store_chunk(g, work, warp * 16 + r, lane % 4, tile, r);
        }
        float* scales = g.result_scales + (u64)work.unit * g.capacity + work.row + warp * 16 + row;
        if (lane % 4 == 0 && work.half == 0) {
            if (warp * 16 + row < rows) scales[0] = s0;
            if (warp * 16 + row + 8 < rows) scales[8] = s1;
        }
    }

    /// A row's group is spread over eight warps of each block.
    template <int N> DEVICE void few(float (&final)[N / 2], bool active, const GemmArguments& g, const Work& work, const P& p) {
        if (!active) return;
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, rows = round_up_8(work.rows);
        u8* tile = p.staging() + few_tile;
        float* maxima = (float*)(p.staging() + warp_maxima);
        float* scales = (float*)(p.staging() + row_scales);
        u32 y[N / 8]; // the pair of rows of this lane, one output
#pragma unroll
        for (int j = 0; j < N / 8; j++) {
            const float* v = final + 4 * j;
            y[j] = activate_pair<Kind>(v[0], v[1], v[2], v[3], g.activation);
            u32 m = absolute_bf16(y[j]);
#pragma unroll
            for (int step = 4; step < 32; step *= 2) m = maximum_bf16(m, __shfl_xor_sync(~0u, m, step));
            if (lane < 4) *(float2*)(maxima + warp * few_rows + j * 8 + lane * 2) = make_float2(low_bf16(m), high_bf16(m));
        }
        const u32 barrier = p.epilogue_barrier(consumer_warps), turn = turns_few++;
        if (threadIdx.x == 0) barrier_arrive_expect(barrier, rows * 4);
        named_barrier(1, 256);
        if ((int)threadIdx.x < rows) {
            float m = 0.0f;
#pragma unroll
            for (int w = 0; w < 8; w++) m = fmaxf(m, maxima[w * few_rows + threadIdx.x]);
            const int slot = few_maxima + ((turn & 1) * few_rows + threadIdx.x) * 4;
            const u32 peer = p.rank ^ 1;
            remote_store(remote_address(p.staging_address() + slot, peer), m, remote_address(barrier, peer));
            barrier_wait(barrier, turn & 1);
            m = fmaxf(m, *(const float*)(p.staging() + slot));
            const float scale = group_scale(m, g.activation.divide, g.activation.power_of_two);
            scales[threadIdx.x] = scale;
            if (work.store && work.half == 0) g.result_scales[(u64)work.unit * g.capacity + work.row + threadIdx.x] = scale;
        }
        named_barrier(1, 256);
#pragma unroll
        for (int j = 0; j < N / 8; j++) {
            const int row = j * 8 + lane % 4 * 2, output = warp * 8 + lane / 4;
            const Divisor d0(scales[row]), d1(scales[row + 1]);
            const u32 codes = pack_e4m3(d0.divide(low_bf16(y[j])), d1.divide(high_bf16(y[j])));
            tile[staged(row, output / 16) + output % 16] = (u8)codes;
            tile[staged(row + 1, output / 16) + output % 16] = (u8)(codes >> 8);
        }
        named_barrier(1, 256);
        if (work.store && (int)threadIdx.x < rows * 4) store_chunk(g, work, threadIdx.x / 4, threadIdx.x % 4, tile, threadIdx.x / 4);
    }

    DEVICE void finish() {}
};
