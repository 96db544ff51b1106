#pragma once
#include "scheduler.cuh"
#include "wgmma.cuh"
// The pipeline of both grouped GEMMs: one producer warp fills a ring of stages, three consumer warpgroups multiply and promote. Numbers follow one
// chain whatever the orientation or tile: per K block of 128 four products of 32 (the first overwrites), then final = fma(sa * sw, acc, final).

constexpr int stages = 4;
constexpr int consumer_warpgroups = 3;
constexpr int consumer_threads = consumer_warpgroups * 128;
constexpr int block_threads = consumer_threads + 128; // registers are given to whole warpgroups: 3 x 128 x 160 + 128 x 32 = 65,536
constexpr int consumer_registers = 160;
constexpr int producer_registers = 32;
constexpr int stage_bytes = 40960;                 // 192 rows + one weight block, or two weight blocks + 64 rows, of 128 bytes each
constexpr int weight_block_bytes = 128 * 128;
constexpr int many_weights_offset = tile_rows * 128;
constexpr int few_rows_offset = 2 * weight_block_bytes;

struct alignas(16) StageHeader {
    Work work;               // valid in the first stage of a unit
    float weight_scales[4];
    float scales[tile_rows]; // of the rows
    float pad[52];
};
static_assert(sizeof(StageHeader) == 1024, "a stage header is 1 KB");

struct Shared { // offsets from the dynamic shared memory's start, which is aligned to 1024
    static constexpr int operands = 0;
    static constexpr int headers = stages * stage_bytes;
    static constexpr int barriers = headers + stages * 1024;
    static constexpr int staging = barriers + 1024;
};

struct Ring { // position in the ring of stages
    int stage = 0;
    u32 phase = 0;
    DEVICE void advance() {
        if (++stage == stages) {
            stage = 0;
            phase ^= 1;
        }
    }
};

DEVICE u32 full_barrier(u32 shared, int stage) { return shared + Shared::barriers + stage * 16; }
DEVICE u32 empty_barrier(u32 shared, int stage) { return shared + Shared::barriers + stage * 16 + 8; }

DEVICE void init_pipeline(u32 shared) {
    if (threadIdx.x == 0) {
        for (int s = 0; s < stages; s++) {
            barrier_init(full_barrier(shared, s), 1);
            barrier_init(empty_barrier(shared, s), consumer_threads / 32);
        }
        fence_barrier_init();
    }
    __syncthreads();
}

/// One thread: walks this block's units and keeps the ring full.
DEVICE void produce(const GemmArguments& g, u8* memory, u32 shared) {
    const u64 stream = policy_evict_first();
    Ring ring;
    const int units = *g.tile_count * ((g.blocks + 1) / 2);
    for (int index = blockIdx.x;; index += gridDim.x) {
        const Work work = index < units ? work_at(g, index) : Work{};
        const int n = round_up_8(work.rows), passes = work.few || work.rows == 0 ? 1 : work.halves;
        for (int pass = 0; pass < passes; pass++) {
            const u8* weights = g.weights + ((u64)work.expert * g.blocks + 2 * work.unit + pass) * g.k_blocks * weight_block_bytes;
            const float* weight_scales = g.weight_scales + ((u64)work.expert * ((g.blocks + 1) / 2) + work.unit) * g.k_blocks * 4;
            for (int k = 0; k < g.k_blocks; k++) {
                barrier_wait(empty_barrier(shared, ring.stage), ring.phase ^ 1);
                StageHeader* header = (StageHeader*)(memory + Shared::headers + ring.stage * 1024);
                const u32 full = full_barrier(shared, ring.stage), operands = shared + ring.stage * stage_bytes, head = shared_address(header);
                if (k == 0 && pass == 0) header->work = work;
                if (work.rows == 0) {
                    barrier_arrive(full);
                    return;
                }
                const int weight_bytes = work.few ? work.halves * weight_block_bytes : weight_block_bytes;
                barrier_arrive_expect(full, weight_bytes + n * 132 + 16);
                const u32 w = operands + (work.few ? 0 : many_weights_offset), a = operands + (work.few ? few_rows_offset : 0);
                bulk_load(w, weights + (u64)k * weight_block_bytes, weight_block_bytes, full, stream);
                if (work.few && work.halves == 2)
                    bulk_load(w + weight_block_bytes, weights + (u64)(g.k_blocks + k) * weight_block_bytes, weight_block_bytes, full, stream);
                const u64 row = (u64)k * g.capacity + work.row;
                bulk_load(a, g.rows + row * 128, n * 128, full);
                bulk_load(head + 48, g.scales + row, n * 4, full);
                bulk_load(head + 32, weight_scales + k * 4, 16, full);
                ring.advance();
            }
        }
    }
}

/// Rows on the M side: 64 rows x 128 weight rows of one half. TwoScales: 8-column blocks alternate between gate and up.
template <bool TwoScales>
DEVICE void consume_many(float (&final)[64], int half, bool active, int k_blocks, u8* memory, u32 shared, Ring& ring) {
    const int warpgroup = threadIdx.x / 128, lane = threadIdx.x % 32;
    const int row = threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
    for (int i = 0; i < 64; i++) final[i] = 0.0f;
    for (int k = 0; k < k_blocks; k++) {
        barrier_wait(full_barrier(shared, ring.stage), ring.phase);
        if (active) {
            float acc[64];
            const u32 operands = shared + ring.stage * stage_bytes;
            const StageHeader* header = (const StageHeader*)(memory + Shared::headers + ring.stage * 1024);
            wgmma_fence();
            multiply_block<128>(acc, operands + warpgroup * slab_rows * 128, operands + many_weights_offset);
            wgmma_commit();
            const float a0 = header->scales[row], a1 = header->scales[row + 8];
            const float w0 = TwoScales ? header->weight_scales[0] : header->weight_scales[half], w1 = TwoScales ? header->weight_scales[1] : w0;
            const float s00 = a0 * w0, s01 = a0 * w1, s10 = a1 * w0, s11 = a1 * w1;
            wgmma_wait<0>();
            if (lane == 0) barrier_arrive(empty_barrier(shared, ring.stage));
#pragma unroll
            for (int j = 0; j < 16; j++) {
                const float s0 = j % 2 ? s01 : s00, s1 = j % 2 ? s11 : s10;
                final[4 * j] = fmaf(s0, acc[4 * j], final[4 * j]);
                final[4 * j + 1] = fmaf(s0, acc[4 * j + 1], final[4 * j + 1]);
                final[4 * j + 2] = fmaf(s1, acc[4 * j + 2], final[4 * j + 2]);
                final[4 * j + 3] = fmaf(s1, acc[4 * j + 3], final[4 * j + 3]);
            }
        } else if (lane == 0) {
            barrier_arrive(empty_barrier(shared, ring.stage));
        }
        ring.advance();
    }
}

/// Weights on the M side: warpgroup w takes half w as two slabs of 64 weight rows, times N rows.
template <int N, bool TwoScales>
DEVICE void consume_few(float (&final)[2][N / 2], bool active, int k_blocks, u8* memory, u32 shared, Ring& ring) {
    const int warpgroup = threadIdx.x / 128, lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < N / 2; i++) final[0][i] = final[1][i] = 0.0f;
    for (int k = 0; k < k_blocks; k++) {
        barrier_wait(full_barrier(shared, ring.stage), ring.phase);
        if (active) {
            float acc[2][N / 2];
            const u32 operands = shared + ring.stage * stage_bytes, weights = operands + warpgroup * weight_block_bytes;
            const StageHeader* header = (const StageHeader*)(memory + Shared::headers + ring.stage * 1024);
            wgmma_fence();
            multiply_block<N>(acc[0], weights, operands + few_rows_offset);
            multiply_block<N>(acc[1], weights + slab_rows * 128, operands + few_rows_offset);
            wgmma_commit();
            const float w0 = TwoScales ? header->weight_scales[0] : header->weight_scales[warpgroup];
            const float w1 = TwoScales ? header->weight_scales[1] : w0;
            const float2* scales = (const float2*)header->scales + lane % 4;
            float2 c[N / 8];
#pragma unroll
            for (int j = 0; j < N / 8; j++) c[j] = scales[4 * j];
            wgmma_wait<0>();
            if (lane == 0) barrier_arrive(empty_barrier(shared, ring.stage));
#pragma unroll
            for (int j = 0; j < N / 8; j++) {
                const float g0 = c[j].x * w0, g1 = c[j].y * w0, u0 = TwoScales ? c[j].x * w1 : g0, u1 = TwoScales ? c[j].y * w1 : g1;
#pragma unroll
                for (int slab = 0; slab < 2; slab++) {
                    final[slab][4 * j] = fmaf(g0, acc[slab][4 * j], final[slab][4 * j]);
                    final[slab][4 * j + 1] = fmaf(g1, acc[slab][4 * j + 1], final[slab][4 * j + 1]);
                    final[slab][4 * j + 2] = fmaf(u0, acc[slab][4 * j + 2], final[slab][4 * j + 2]);
                    final[slab][4 * j + 3] = fmaf(u1, acc[slab][4 * j + 3], final[slab][4 * j + 3]);
                }
            }
        } else if (lane == 0) {
            barrier_arrive(empty_barrier(shared, ring.stage));
        }
        ring.advance();
    }
}

/// One unit in the few-rows orientation, for N rounded up to a compiled width.
template <int N, bool TwoScales, class Epilogue>
DEVICE void few_unit(const GemmArguments& g, const Work& work, u8* memory, u32 shared, Ring& ring) {
    float final[2][N / 2];
    const bool active = (int)threadIdx.x / 128 < work.halves;
    consume_few<N, TwoScales>(final, active, g.k_blocks, memory, shared, ring);
    Epilogue::template few<N>(final, active, g, work, memory, shared);
}

/// A consumer thread: takes units from the ring until the producer says that there are no more.
template <bool TwoScales, class Epilogue> DEVICE void consume(const GemmArguments& g, u8* memory, u32 shared) {
    Ring ring;
    while (true) {
        barrier_wait(full_barrier(shared, ring.stage), ring.phase);
        const Work work = ((const StageHeader*)(memory + Shared::headers + ring.stage * 1024))->work;
        if (work.rows == 0) break;
        if (work.few) {
            if (work.rows <= 8) few_unit<8, TwoScales, Epilogue>(g, work, memory, shared, ring);
            else if (work.rows <= 16) few_unit<16, TwoScales, Epilogue>(g, work, memory, shared, ring);
            else if (work.rows <= 32) few_unit<32, TwoScales, Epilogue>(g, work, memory, shared, ring);
            else if (work.rows <= 48) few_unit<48, TwoScales, Epilogue>(g, work, memory, shared, ring);
            else few_unit<64, TwoScales, Epilogue>(g, work, memory, shared, ring);
            continue;
        }
        const bool active = (int)threadIdx.x / 128 * slab_rows < work.rows;
        for (int half = 0; half < work.halves; half++) {
            float final[64];
            consume_many<TwoScales>(final, half, active, g.k_blocks, memory, shared, ring);
            if (active) Epilogue::many(final, half, g, work, memory, shared);
        }
    }
    Epilogue::finish();
}

template <bool TwoScales, class Epilogue> DEVICE void grouped_gemm(const GemmArguments& g) {
    extern __shared__ __align__(1024) u8 memory[];
    const u32 shared = shared_address(memory);
    init_pipeline(shared);
    wait_for_earlier_kernels();
    launch_dependents();
    if (threadIdx.x >= consumer_threads) {
        registers_decrease<producer_registers>();
        if (threadIdx.x == consumer_threads) {
            fence_async(); // rows were written by ordinary stores of an earlier kernel
            produce(g, memory, shared);
        }
    } else {
        registers_increase<consumer_registers>();
        consume<TwoScales, Epilogue>(g, memory, shared);
    }
}
