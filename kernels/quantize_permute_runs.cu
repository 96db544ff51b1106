// Steps 2 and 3 of many rows, with the bits of quantize_permute, for hidden sizes that are multiples of 16: rows that are neighbours in the result come from tokens that are near, so a block takes a
// long run of tokens and part of the columns, and writes from shared memory in the order of rows. Nothing is exchanged between blocks.
#include "include/quantize.cuh"
#include "include/scheduler.cuh"
#include "include/permute_runs.cuh"

namespace runs {
constexpr int block_threads = 1024, quantize_threads = block_threads - threads; // the first find rows and write them, the others quantize
constexpr int stage_units = 256; // groups of 128 values quantized before rows are written, at least; or one of each token
constexpr int unit_bytes = 128 + sizeof(float);
enum { stage_filled = 2, stage_free = 4 }; // named barriers of all threads; 3 and 5 of the second stage

struct alignas(8) Place {
    int row, token; // the token counts from the block's first
};

/// Codes and scales, [K blocks][tokens].
struct Stage {
    u8* codes;
    float* scales;
    DEVICE Stage(u8* memory, int turn, int units) : codes(memory + turn * units * unit_bytes), scales((float*)(codes + units * 128)) {}
    /// Eight threads have one group; whole warps call it.
    DEVICE void put(const QuantizeArguments& q, const Chunk& c, int unit, int units) const {
        const int part = threadIdx.x % 8;
        const Codes quantized = quantize_chunk(c, 1, q.power_of_two, ~0u);
        if (unit >= units) return;
        *(uint4*)(codes + unit * 128 + part * 16) = quantized.codes;
        if (part == 0) scales[unit] = quantized.scale;
    }
};

/// What a block does: a run of tokens and every so many-th block of 128 columns. All blocks walk through the columns together.
struct Share {
    int parts, part; // blocks that have the same run
    int first_token, tokens;
    int k_blocks;    // of this block
    int stage_blocks; // a stage is so many K blocks of all tokens: unit u is token u % tokens of K block u / tokens
    DEVICE Share(const QuantizeArguments& q) {
        const int runs = (q.tokens + q.tokens_per_block - 1) / q.tokens_per_block;
        parts = gridDim.x / runs, part = blockIdx.x % parts;
        first_token = blockIdx.x / parts * q.tokens_per_block;
        tokens = first_token + q.tokens_per_block < q.tokens ? q.tokens_per_block : q.tokens - first_token;
        k_blocks = ((q.hidden_size + 127) / 128 - part + parts - 1) / parts;
        stage_blocks = tokens < stage_units ? stage_units / tokens : 1;
    }
    DEVICE int column_block(int k_block) const { return k_block * parts + part; }
    DEVICE int blocks_of_stage(int first) const { return k_blocks - first < stage_blocks ? k_blocks - first : stage_blocks; }
};

/// Of a thread that quantizes: so many units after the other make a stage, each thread an eighth of one.
struct Round {
    int first_block = 0, round = 0;
    DEVICE void advance(const Share& own, int rounds) {
        if (++round < rounds) return;
        round = 0;
        first_block += own.stage_blocks;
    }
};

DEVICE void quantize_stages(const QuantizeArguments& q, const Share& own, u8* memory, int most_units) {
    constexpr int ahead = 2, at_once = quantize_threads / 8; // loads on their way, units of a round
    const int unit = (threadIdx.x - threads) / 8, rounds = (own.stage_blocks * own.tokens + at_once - 1) / at_once;
    auto load = [&](Round r) {
        const int u = r.round * at_once + unit, k_block = r.first_block + u / own.tokens;
        if (k_block >= own.k_blocks || u >= own.stage_blocks * own.tokens) return Chunk{};
        return load_chunk<true>(q.hidden + (u64)(own.first_token + u % own.tokens) * q.hidden_size, q.hidden_size, own.column_block(k_block) * 8 + threadIdx.x % 8);
    };
    Round now, later;
    Chunk next[ahead];
#pragma unroll
    for (int i = 0; i < ahead; i++, later.advance(own, rounds)) next[i] = load(later);
    for (int turn = 0;;) {
#pragma unroll
        for (int i = 0; i < ahead; i++) {
            if (now.first_block >= own.k_blocks) return;
            if (now.round == 0 && now.first_block >= 2 * own.stage_blocks) named_barrier(stage_free + turn, block_threads);
            const Chunk c = next[i];
            next[i] = load(later);
            later.advance(own, rounds);
            Stage(memory, turn, most_units).put(q, c, now.round * at_once + unit, own.blocks_of_stage(now.first_block) * own.tokens);
            now.advance(own, rounds);
            if (now.round > 0) continue;
            named_arrive(stage_filled + turn, block_threads);
            turn ^= 1;
        }
    }
}

DEVICE void write_stages(const QuantizeArguments& q, const Share& own, u8* memory, int most_units) {
    constexpr int at_once = threads / 8;
    Place* const places = (Place*)(memory + 2 * most_units * unit_bytes);
    const int slots = q.tokens_per_block * q.top_k, places_end = 2 * most_units * unit_bytes + slots * (int)sizeof(Place);
    const PlacesMemory m((int*)(memory + places_end), slots, shared_bytes - places_end, q.experts, q.tokens * q.top_k);
    const int rows = find_rows(q, own.first_token * q.top_k, (own.first_token + own.tokens) * q.top_k, m, [&](int slot, int row, int place) {
        if (own.part == 0) q.row_of_slot[own.first_token * q.top_k + slot] = row;
        if (row >= 0) places[place] = {row, slot / q.top_k};
    });
    const int unit = threadIdx.x / 8, eighth = threadIdx.x % 8;
    int shift = 6; // 2^shift rows of a K block are written at once; few rows leave threads for other K blocks
    while (shift > 3 && 1 << (shift - 1) >= rows) shift--;
    for (int first_block = 0, turn = 0; first_block < own.k_blocks; first_block += own.stage_blocks, turn ^= 1) {
        const Stage stage(memory, turn, most_units);
        const int blocks = own.blocks_of_stage(first_block);
        named_barrier(stage_filled + turn, block_threads);
        for (int b = unit >> shift; b < blocks; b += at_once >> shift) {
            u8* const to = q.rows + (u64)own.column_block(first_block + b) * q.capacity * 128;
            const u8* const from = stage.codes + b * own.tokens * 128 + eighth * 16;
#pragma unroll 4
            for (int i = unit & ((1 << shift) - 1); i < rows; i += 1 << shift) {
                const Place p = places[i];
                *(uint4*)(to + (u64)p.row * 128 + (eighth ^ (p.row & 7)) * 16) = *(const uint4*)(from + p.token * 128);
            }
        }
        for (int b = 0; b < blocks; b++) {
            float* const to = q.scales + (u64)own.column_block(first_block + b) * q.capacity;
#pragma unroll 2
            for (int i = threadIdx.x; i < rows; i += threads) to[places[i].row] = stage.scales[b * own.tokens + places[i].token];
        }
        if (first_block + 2 * own.stage_blocks < own.k_blocks) named_arrive(stage_free + turn, block_threads);
    }
}
} // namespace runs

extern "C" __global__ void __launch_bounds__(runs::block_threads, 1) quantize_permute_runs(const __grid_constant__ QuantizeArguments q) {
    SHARED_MEMORY(u8, 16, memory); // two stages; [slots] places; what finding rows takes. The host's twin is DevicePlan.SharedOfRuns
    wait_for_earlier_kernels();
    begin_counts(q.tile_count);
    const runs::Share own(q);
    const int most_units = q.tokens_per_block > runs::stage_units ? (q.tokens_per_block + 3) / 4 * 4 : runs::stage_units;
    if (threadIdx.x >= runs::threads) runs::quantize_stages(q, own, memory, most_units);
    else runs::write_stages(q, own, memory, most_units);
}

extern "C" __device__ const int quantize_permute_runs_shared = runs::shared_bytes;
