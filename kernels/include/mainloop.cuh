#pragma once
#include "scheduler.cuh"
#include "wgmma.cuh"
// The pipeline of both grouped GEMMs. A cluster of two blocks takes a unit: each block one 128-row half of the weights, both the same rows, which
// each loads by halves for both (multicast). In clusters of four a second pair takes the next row tile and shares the weights in the same way. In a
// block one producer thread fills a ring of stages and three consumer warpgroups multiply and promote. Numbers follow one chain whatever the
// orientation or tile: per K block of 128 four products of 32 (the first overwrites), then final = fma(sa * sw, acc, final).

constexpr int consumer_warpgroups = 3;
constexpr int consumer_threads = consumer_warpgroups * 128;
constexpr int consumer_warps = consumer_threads / 32;
constexpr int block_threads = consumer_threads + 128; // registers are given to whole warpgroups: 3 x 128 x 160 + 128 x 32 = 65,536
constexpr int consumer_registers = 160;
constexpr int producer_registers = 32;
constexpr int weight_block_bytes = 128 * 128;
constexpr int rows_offset = weight_block_bytes; // in a stage
constexpr int box_rows = 32; // of the tensor map of rows
constexpr int stage_bytes = weight_block_bytes + tile_rows * 128;

struct alignas(16) StageHeader {
    Work work;               // valid in the first stage of a unit
    float weight_scales[4];
    float scales[tile_rows]; // of the rows
    float pad[52];
};
static_assert(sizeof(StageHeader) == 1024, "a stage header is 1 KB");

/// Shared memory: stages, their headers, barriers, then what the epilogue stages.
template <int Stages> struct Layout {
    static constexpr int headers = Stages * stage_bytes;
    static constexpr int barriers = headers + Stages * 1024; // full, empty of each stage; at 256 those of the epilogue
    static constexpr int staging = barriers + 512;
};

/// What a thread knows of its block, and its position in the ring.
template <int Stages> struct Pipeline {
    using Offsets = Layout<Stages>;
    u8* memory;
    u32 shared;
    u32 rank, size; // in the cluster
    int stage = 0;
    u32 phase = 0;

    DEVICE Pipeline(u8* m) : memory(m), shared(shared_address(m)), rank(cluster_rank()), size(cluster_size()) {}
    DEVICE u32 full() const { return shared + Offsets::barriers + stage * 16; }
    DEVICE u32 empty() const { return full() + 8; }
    DEVICE u32 epilogue_barrier(int i) const { return shared + Offsets::barriers + 256 + i * 8; }
    DEVICE u32 operands() const { return shared + stage * stage_bytes; }
    DEVICE StageHeader* header() const { return (StageHeader*)(memory + Offsets::headers + stage * 1024); }
    DEVICE u8* staging() const { return memory + Offsets::staging; }
    DEVICE u32 staging_address() const { return shared + Offsets::staging; }
    DEVICE void advance() {
        if (++stage == Stages) {
            stage = 0;
            phase ^= 1;
        }
    }
    /// A consumer warp has read the stage: every block of the cluster may load into it again.
    DEVICE void release() const {
        if (threadIdx.x % 32 < size) remote_arrive(remote_address(empty(), threadIdx.x % 32));
    }
    DEVICE void init() {
        if (threadIdx.x == 0) {
            for (int s = 0; s < Stages; s++) {
                barrier_init(shared + Offsets::barriers + s * 16, 1);
                barrier_init(shared + Offsets::barriers + s * 16 + 8, consumer_warps * size);
            }
            for (int i = 0; i <= consumer_warps; i++) barrier_init(epilogue_barrier(i), 1);
            fence_barrier_init();
        }
        cluster_sync();
    }
};

/// One thread: walks this cluster's units and keeps the ring full.
template <int Stages> DEVICE void produce(const GemmArguments& g, Pipeline<Stages>& p) {
    const u64 stream = policy_evict_first();
    const int sharers = p.size / 2, clusters = gridDim.x / p.size;
    const int units = *g.tile_count * ((g.blocks + 1) / 2);
    const u32 pair = p.rank & ~1u;
    for (int index = blockIdx.x / p.size;; index += clusters) {
        const Work work = index < units ? work_at(g, index, p.rank, sharers) : Work{};
        const int n = round_up_8(work.rows), block = 2 * work.unit + (2 * work.unit + work.half < g.blocks ? work.half : 0);
        const u32 row_bytes = work.kind == few_rows_unit ? n * 128 : (n + box_rows - 1) / box_rows * box_rows * 128;
        const u8* weights = g.weights + ((u64)work.expert * g.blocks + block) * g.k_blocks * weight_block_bytes;
        const float* weight_scales = g.weight_scales + ((u64)work.expert * ((g.blocks + 1) / 2) + work.unit) * g.k_blocks * 4;
        for (int k = 0; k < g.k_blocks; k++) {
            barrier_wait(p.empty(), p.phase ^ 1);
            StageHeader* header = p.header();
            const u32 full = p.full(), operands = p.operands(), head = shared_address(header);
            if (k == 0) header->work = work;
            if (work.kind == no_more_work) {
                barrier_arrive(full);
                return;
            }
            const u64 row = (u64)k * g.capacity + work.row;
            const u32 weight_row = (((u32)work.expert * g.blocks + block) * g.k_blocks + k) * 128;
            barrier_arrive_expect(full, weight_block_bytes + row_bytes + n * 4 + 16);
            if (sharers == 1 || work.kind == few_rows_unit) bulk_load(operands, weights + (u64)k * weight_block_bytes, weight_block_bytes, full, stream);
            else tensor_load_multicast(operands + pair * 4096, &g.weights_map, weight_row + pair * 32, full, (u16)(5 << (p.rank & 1)));
            if (work.kind == few_rows_unit) bulk_load(operands + rows_offset, g.rows + row * 128, row_bytes, full);
            else
                for (int box = p.rank & 1; box * box_rows < n; box += 2) // the pair takes turns
                    tensor_load_multicast(operands + rows_offset + box * box_rows * 128, &g.rows_map, (u32)row + box * box_rows, full, (u16)(3 << pair));
            bulk_load(head + 48, g.scales + row, n * 4, full);
            bulk_load(head + 32, weight_scales + k * 4, 16, full);
            p.advance();
        }
    }
}

/// Rows on the M side: 64 rows x 128 weight rows. TwoScales: 8-column blocks alternate between gate and up.
template <bool TwoScales, int Stages> DEVICE void consume_many(float (&final)[64], bool active, int k_blocks, Pipeline<Stages>& p) {
    const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
    const u32 own_rows = rows_offset + uniform(threadIdx.x / 128) * slab_rows * 128;
    p.stage = uniform(p.stage);
#pragma unroll
    for (int i = 0; i < 64; i++) final[i] = 0.0f;
    for (int k = 0; k < k_blocks; k++) {
        barrier_wait(p.full(), p.phase);
        if (active) {
            float acc[64];
            const StageHeader* header = p.header();
            wgmma_fence();
            multiply_block<128>(acc, p.operands() + own_rows, p.operands());
            wgmma_commit();
            const float a0 = header->scales[row], a1 = header->scales[row + 8];
            const float w0 = TwoScales ? header->weight_scales[0] : header->weight_scales[p.rank & 1], w1 = TwoScales ? header->weight_scales[1] : w0;
            const float s00 = a0 * w0, s01 = a0 * w1, s10 = a1 * w0, s11 = a1 * w1;
            wgmma_wait<0>();
            settle(acc);
            p.release();
#pragma unroll
            for (int j = 0; j < 16; j++) {
                const float s0 = j % 2 ? s01 : s00, s1 = j % 2 ? s11 : s10;
                final[4 * j] = fmaf(s0, acc[4 * j], final[4 * j]);
                final[4 * j + 1] = fmaf(s0, acc[4 * j + 1], final[4 * j + 1]);
                final[4 * j + 2] = fmaf(s1, acc[4 * j + 2], final[4 * j + 2]);
                final[4 * j + 3] = fmaf(s1, acc[4 * j + 3], final[4 * j + 3]);
            }
        } else {
            p.release();
        }
        p.advance();
    }
}

/// Weights on the M side: warpgroups 0 and 1 take 64 weight rows each, times N rows.
template <int N, bool TwoScales, int Stages> DEVICE void consume_few(float (&final)[N / 2], bool active, int k_blocks, Pipeline<Stages>& p) {
    const u32 own_weights = uniform(threadIdx.x / 128) * slab_rows * 128;
    p.stage = uniform(p.stage);
#pragma unroll
    for (int i = 0; i < N / 2; i++) final[i] = 0.0f;
    for (int k = 0; k < k_blocks; k++) {
        barrier_wait(p.full(), p.phase);
        if (active) {
            float acc[N / 2];
            const StageHeader* header = p.header();
            wgmma_fence();
            multiply_block<N>(acc, p.operands() + own_weights, p.operands() + rows_offset);
            wgmma_commit();
            const float w0 = TwoScales ? header->weight_scales[0] : header->weight_scales[p.rank & 1], w1 = TwoScales ? header->weight_scales[1] : w0;
            const float2* scales = (const float2*)header->scales + threadIdx.x % 4;
            float2 c[N / 8];
#pragma unroll
            for (int j = 0; j < N / 8; j++) c[j] = scales[4 * j];
            wgmma_wait<0>();
            settle(acc);
            p.release();
#pragma unroll
            for (int j = 0; j < N / 8; j++) {
                const float g0 = c[j].x * w0, g1 = c[j].y * w0, u0 = TwoScales ? c[j].x * w1 : g0, u1 = TwoScales ? c[j].y * w1 : g1;
                final[4 * j] = fmaf(g0, acc[4 * j], final[4 * j]);
                final[4 * j + 1] = fmaf(g1, acc[4 * j + 1], final[4 * j + 1]);
                final[4 * j + 2] = fmaf(u0, acc[4 * j + 2], final[4 * j + 2]);
                final[4 * j + 3] = fmaf(u1, acc[4 * j + 3], final[4 * j + 3]);
            }
        } else {
            p.release();
        }
        p.advance();
    }
}

template <int N, bool TwoScales, class Epilogue>
DEVICE void few_unit(const GemmArguments& g, const Work& work, Pipeline<Epilogue::stages>& p, Epilogue& epilogue) {
    float final[N / 2];
    const bool active = uniform(threadIdx.x / 128) < 2;
    consume_few<N, TwoScales>(final, active, g.k_blocks, p);
    epilogue.template few<N>(final, active, g, work, p);
}

/// A consumer thread: takes units from the ring until the producer says that there are no more.
template <bool TwoScales, class Epilogue> DEVICE void consume(const GemmArguments& g, Pipeline<Epilogue::stages>& p) {
    Epilogue epilogue;
    while (true) {
        barrier_wait(p.full(), p.phase);
        Work work = p.header()->work;
        work.kind = uniform(work.kind), work.rows = uniform(work.rows);
        if (work.kind == no_more_work) break;
        if (work.kind == few_rows_unit) {
            if (work.rows <= 8) few_unit<8, TwoScales>(g, work, p, epilogue);
            else if (work.rows <= 16) few_unit<16, TwoScales>(g, work, p, epilogue);
            else if (work.rows <= 32) few_unit<32, TwoScales>(g, work, p, epilogue);
            else if (work.rows <= 48) few_unit<48, TwoScales>(g, work, p, epilogue);
            else few_unit<64, TwoScales>(g, work, p, epilogue);
        } else {
            float final[64];
            const bool active = (int)uniform(threadIdx.x / 128) * slab_rows < work.rows;
            consume_many<TwoScales>(final, active, g.k_blocks, p);
            epilogue.many(final, active, g, work, p);
        }
    }
    epilogue.finish();
}

template <bool TwoScales, class Epilogue> DEVICE void grouped_gemm(const GemmArguments& g) {
    SHARED_MEMORY(u8, 1024, memory);
    Pipeline<Epilogue::stages> p(memory);
    p.init();
    wait_for_earlier_kernels();
    launch_dependents();
    if (uniform(threadIdx.x / 128) == consumer_warpgroups) {
        registers_decrease<producer_registers>();
        if (threadIdx.x == consumer_threads) {
            fence_async(); // rows were written by ordinary stores of an earlier kernel
            produce(g, p);
        }
        __syncwarp();
    } else {
        registers_increase<consumer_registers>();
        consume<TwoScales, Epilogue>(g, p);
    }
    cluster_sync(); // nobody leaves while others may still write to it
}
