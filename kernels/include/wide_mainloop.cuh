#pragma once
#include "wide_formats.cuh"
#include "wide_scheduler.cuh"
#include "wide_wgmma.cuh"
// The pipeline of the wide grouped GEMMs. In a block one producer thread fills a ring of stages with two pieces of weights and the rows they meet; two
// math warpgroups decode weights into registers (64 weight rows each, or 128 in tall units) and multiply. Weights are on the M side and rows on the N
// side whatever their number, so an output is one chain of products of depth 16 over ascending K; with scales of 128-blocks one chain per block, then
// final = fma(scale, sum, final).

constexpr int wide_math_threads = 256;
constexpr int wide_math_warps = wide_math_threads / 32;
constexpr int wide_threads = wide_math_threads + 128; // registers: 256 x 240 + 128 x 24
constexpr int wide_math_registers = 240;
constexpr int wide_producer_registers = 24;

template <class Format> struct WideLayout {
    static constexpr int deep_rows = (Format::promotes ? wide_tile_rows : wide_few_rows) * 128; // bytes of the rows of one piece in deep units
    static constexpr int weights = 2 * deep_rows; // in a stage; tall units have as many bytes of rows
    static constexpr int scales = weights + Format::pair_bytes;
    static constexpr int stage = (scales + 16 * Format::promotes + 1023) / 1024 * 1024;
    static constexpr int headers = Format::stages * stage;
    static constexpr int barriers = headers + Format::stages * 32; // full, empty of each stage
    static constexpr int staging = (barriers + Format::stages * 16 + 127) / 128 * 128;
    static_assert(weights >= wide_tile_rows * 128 && sizeof(WideWork) == 32, "");
};

template <class Format> struct WidePipeline {
    using Layout = WideLayout<Format>;
    u8* memory;
    u32 shared;
    int stage = 0;
    u32 phase = 0;

    DEVICE WidePipeline(u8* m) : memory(m), shared(shared_address(m)) {}
    DEVICE u32 full() const { return shared + Layout::barriers + stage * 16; }
    DEVICE u32 empty() const { return full() + 8; }
    DEVICE u32 rows() const { return shared + stage * Layout::stage; }
    DEVICE const u8* weights() const { return memory + stage * Layout::stage + Layout::weights; }
    DEVICE WideWork* work() const { return (WideWork*)(memory + Layout::headers + stage * 32); }
    DEVICE u8* staging() const { return memory + Layout::staging; }
    DEVICE void advance() {
        if (++stage == Format::stages) {
            stage = 0;
            phase ^= 1;
        }
    }
    /// A math warp has read the stage.
    DEVICE void release() const {
        __syncwarp();
        if (threadIdx.x % 32 == 0) barrier_arrive(empty());
    }
    DEVICE void init() {
        if (threadIdx.x == 0) {
            for (int s = 0; s < Format::stages; s++) {
                barrier_init(shared + Layout::barriers + s * 16, 1);
                barrier_init(shared + Layout::barriers + s * 16 + 8, wide_math_warps);
            }
            fence_barrier_init();
        }
        __syncthreads();
    }
};

/// One thread: walks this block's units and keeps the ring full.
template <class Format> DEVICE void wide_produce(const WideGemmArguments& g, WidePipeline<Format>& p) {
    using Layout = WideLayout<Format>;
    const u64 stream = policy_evict_first();
    const int units = *g.tile_count * ((g.blocks + 1) / 2);
    for (int index = blockIdx.x;; index += gridDim.x) {
        const WideWork work = index < units ? wide_work_at(g, index, !Format::promotes) : WideWork{};
        if (work.kind == wide_nothing) continue;
        const bool tall = work.kind == wide_tall;
        const int n = (work.rows + 7) / 8 * 8;
        const u64 block_bytes = (u64)g.k_blocks * Format::pair_bytes;
        const u8* weights = g.weights + ((u64)work.expert * g.blocks + work.block) * block_bytes;
        for (int k = 0; k < (tall ? 2 * g.k_blocks : g.k_blocks); k++) {
            barrier_wait(p.empty(), p.phase ^ 1);
            const u32 full = p.full(), rows = p.rows();
            if (k == 0) *p.work() = work;
            if (work.kind == wide_end) {
                barrier_arrive(full);
                return;
            }
            if (tall) {
                barrier_arrive_expect(full, (1 + work.second) * Format::piece_bytes + n * 128);
                for (int b = 0; b <= work.second; b++)
                    bulk_load(rows + Layout::weights + b * Format::piece_bytes, weights + b * block_bytes + (u64)k * Format::piece_bytes, Format::piece_bytes, full);
                bulk_load(rows, g.rows + ((u64)k * g.capacity + work.row) * 64, n * 128, full);
            } else {
                barrier_arrive_expect(full, Format::pair_bytes + 16 * Format::promotes + 2 * n * 128);
                const u8* from = weights + (u64)k * Format::pair_bytes;
                if (work.alone) bulk_load(rows + Layout::weights, from, Format::pair_bytes, full, stream);
                else bulk_load(rows + Layout::weights, from, Format::pair_bytes, full);
                if constexpr (Format::promotes)
                    bulk_load(rows + Layout::scales, g.scales + (((u64)work.expert * ((g.blocks + 1) / 2) + work.block / 2) * g.k_blocks + k) * 4, 16, full);
                for (int i = 0; i < 2; i++)
                    bulk_load(rows + i * Layout::deep_rows, g.rows + ((u64)(2 * k + i) * g.capacity + work.row) * 64, n * 128, full);
            }
            p.advance();
        }
    }
}

/// 64 weight rows times N rows. Scale: which of a block's scales rows r and r + 8 take.
template <int N, class Format> DEVICE void wide_deep_sums(float (&final)[N / 2], int k_blocks, int scale0, int scale1, WidePipeline<Format>& p) {
    const int tile = uniform(threadIdx.x / 128);
    p.stage = uniform(p.stage);
#pragma unroll
    for (int i = 0; i < N / 2; i++) final[i] = 0.0f;
    for (int k = 0; k < k_blocks; k++) {
        barrier_wait(p.full(), p.phase);
        const u8* weights = p.weights();
        u32 a[2][16];
        Format::operand(a[0], weights, tile);
        Format::operand(a[1], weights + Format::piece_bytes, tile);
        if constexpr (Format::promotes) {
            float sum[N / 2];
            wgmma_fence();
            multiply_wide<N>(sum, a[0], p.rows(), true);
            multiply_wide<N>(sum, a[1], p.rows() + WideLayout<Format>::deep_rows, false);
            wgmma_commit();
            const float* scales = (const float*)(weights + Format::pair_bytes);
            const float s0 = scales[scale0], s1 = scales[scale1];
            wgmma_wait<0>();
            settle(sum);
            p.release();
#pragma unroll
            for (int i = 0; i < N / 2; i++) final[i] = fmaf(i / 2 % 2 ? s1 : s0, sum[i], final[i]);
        } else {
            wgmma_fence();
            multiply_wide<N>(final, a[0], p.rows(), false);
            multiply_wide<N>(final, a[1], p.rows() + WideLayout<Format>::deep_rows, false);
            wgmma_commit();
            wgmma_wait<0>();
            settle(final);
            p.release();
        }
        p.advance();
    }
}

/// 128 weight rows times N rows: two tiles.
template <int N, class Format> DEVICE void wide_tall_sums(float (&low)[N / 2], float (&high)[N / 2], bool active, int k_blocks, WidePipeline<Format>& p) {
    const int piece = uniform(threadIdx.x / 128) * Format::piece_bytes;
    p.stage = uniform(p.stage);
#pragma unroll
    for (int i = 0; i < N / 2; i++) low[i] = high[i] = 0.0f;
    for (int k = 0; k < 2 * k_blocks; k++) {
        barrier_wait(p.full(), p.phase);
        if (active) {
            u32 a[2][16];
            Format::operand(a[0], p.weights() + piece, 0);
            Format::operand(a[1], p.weights() + piece, 1);
            wgmma_fence();
            multiply_wide<N>(low, a[0], p.rows(), false);
            multiply_wide<N>(high, a[1], p.rows(), false);
            wgmma_commit();
            wgmma_wait<0>();
            settle(low);
            settle(high);
        }
        p.release();
        p.advance();
    }
}

template <int N, class Format, class Epilogue>
DEVICE void wide_deep_unit(const WideGemmArguments& g, const WideWork& work, WidePipeline<Format>& p) {
    float sums[N / 2];
    const int odd = work.block % 2;
    wide_deep_sums<N>(sums, g.k_blocks, Epilogue::gate_and_up ? 0 : odd, Epilogue::gate_and_up ? 1 : odd, p);
    Epilogue::template tile<N>(sums, g, work, work.block, uniform(threadIdx.x / 128), p.staging());
}

template <int N, class Format, class Epilogue>
DEVICE void wide_tall_unit(const WideGemmArguments& g, const WideWork& work, WidePipeline<Format>& p) {
    float low[N / 2], high[N / 2];
    const int own = uniform(threadIdx.x / 128);
    const bool active = own <= work.second;
    wide_tall_sums<N>(low, high, active, g.k_blocks, p);
    if (!active) return;
    Epilogue::template tile<N>(low, g, work, work.block + own, 0, p.staging());
    Epilogue::template tile<N>(high, g, work, work.block + own, 1, p.staging());
}

/// A math thread: takes units from the ring until the producer says that there are no more.
template <class Format, class Epilogue> DEVICE void wide_consume(const WideGemmArguments& g, WidePipeline<Format>& p) {
    while (true) {
        barrier_wait(p.full(), p.phase);
        WideWork work = *p.work();
        work.kind = uniform(work.kind), work.rows = uniform(work.rows), work.second = uniform(work.second);
        if (work.kind == wide_end) return;
        if constexpr (!Format::promotes) {
            if (work.kind == wide_tall) {
                if (work.rows <= 96) wide_tall_unit<96, Format, Epilogue>(g, work, p);
                else wide_tall_unit<128, Format, Epilogue>(g, work, p);
                continue;
            }
        } else if (work.rows > wide_few_rows) {
            if (work.rows <= 96) wide_deep_unit<96, Format, Epilogue>(g, work, p);
            else wide_deep_unit<128, Format, Epilogue>(g, work, p);
            continue;
        }
        if (work.rows <= 8) wide_deep_unit<8, Format, Epilogue>(g, work, p);
        else if (work.rows <= 16) wide_deep_unit<16, Format, Epilogue>(g, work, p);
        else if (work.rows <= 32) wide_deep_unit<32, Format, Epilogue>(g, work, p);
        else wide_deep_unit<64, Format, Epilogue>(g, work, p);
    }
}

template <class Format, class Epilogue> DEVICE void wide_gemm(const WideGemmArguments& g) {
    SHARED_MEMORY(u8, 1024, memory);
    WidePipeline<Format> p(memory);
    p.init();
    wait_for_earlier_kernels();
    launch_dependents();
    if (uniform(threadIdx.x / 128) == wide_math_threads / 128) {
        registers_decrease<wide_producer_registers>();
        if (threadIdx.x == wide_math_threads) {
            fence_async(); // rows were written by ordinary stores of an earlier kernel
            wide_produce(g, p);
        }
    } else {
        registers_increase<wide_math_registers>();
        wide_consume<Format, Epilogue>(g, p);
    }
}
