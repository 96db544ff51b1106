// Steps 2 and 3 of many rows, with the bits of quantize_permute: rows that are neighbours in the result come from tokens that are near, so a block takes a
// long run of tokens and part of the columns, and writes from shared memory in the order of rows. Nothing is exchanged between blocks.
#include "include/quantize.cuh"
#include "include/scheduler.cuh"
#include "include/permute_runs.cuh"

namespace runs {
constexpr int stage_units = 256; // groups of 128 values quantized before rows are written, at least; or one of each token

struct alignas(8) Place {
    int row, token; // the token counts from the block's first
};

/// Codes and scales of a stage, [K blocks][tokens].
struct Stage {
    u8* codes;
    float* scales;
    DEVICE Stage(u8* memory, int units) : codes(memory), scales((float*)(memory + units * 128)) {}
    /// Eight threads have one group; whole warps call it.
    DEVICE void put(const QuantizeArguments& q, const Chunk& c, int unit, int units) const {
        const int part = threadIdx.x % 8;
        const Codes quantized = quantize_chunk(c, 1, q.power_of_two, ~0u);
        if (unit >= units) return;
        *(uint4*)(codes + unit * 128 + part * 16) = quantized.codes;
        if (part == 0) scales[unit] = quantized.scale;
    }
};
} // namespace runs

extern "C" __global__ void __launch_bounds__(1024, 1) quantize_permute_runs(const __grid_constant__ QuantizeArguments q) {
    SHARED_MEMORY(u8, 16, memory); // counters, then two stages; what finding rows takes; [slots] places. The host's twin is DevicePlan.RunsGrid
    wait_for_earlier_kernels();
    launch_dependents();
    // A block has a run of tokens and every so many-th block of 128 columns. All blocks walk through the columns together.
    const int groups = (q.tokens + q.tokens_per_block - 1) / q.tokens_per_block, parts = gridDim.x / groups, part = blockIdx.x % parts;
    const int first_token = blockIdx.x / parts * q.tokens_per_block;
    const int tokens = first_token + q.tokens_per_block < q.tokens ? q.tokens_per_block : q.tokens - first_token;
    const int k_blocks = ((q.hidden_size + 127) / 128 - part + parts - 1) / parts; // of this block

    const int most_units = q.tokens_per_block > runs::stage_units ? (q.tokens_per_block + 3) / 4 * 4 : runs::stage_units, stage_bytes = most_units * 132;
    const int counter_ints = stage_bytes / 2 > 2 * (q.experts + 1) ? stage_bytes / 2 : 2 * (q.experts + 1);
    const runs::PlacesMemory m((int*)memory, counter_ints, q.experts, q.tokens * q.top_k);
    runs::Place* const places = (runs::Place*)(m.expert_of_slot + (q.tokens_per_block * q.top_k + 1) / 2 * 2);

    // A stage is some K blocks of all tokens: unit u is token u % tokens of K block u / tokens. Its first units are loaded while the stage before is written.
    const int stage_blocks = tokens < runs::stage_units ? runs::stage_units / tokens : 1, units = stage_blocks * tokens;
    const int unit = threadIdx.x / 8, warp_unit = threadIdx.x / 32 * 4, eighth = threadIdx.x % 8, groups_of_8 = 128;
    constexpr int ahead = 2;
    Chunk next[ahead] = {};
    int next_token[ahead], next_block[ahead];
    auto load = [&](int token, int k_block) { return load_chunk(q.hidden + (u64)(first_token + token) * q.hidden_size, q.hidden_size, (k_block * parts + part) * 8 + eighth); };
#pragma unroll
    for (int i = 0; i < ahead; i++) {
        const int u = unit + i * groups_of_8;
        next_block[i] = u < units ? u / tokens : k_blocks; // no such block
        next_token[i] = u % tokens;
        if (next_block[i] < k_blocks) next[i] = load(next_token[i], next_block[i]);
    }

    const int rows = runs::find_rows(q, first_token * q.top_k, (first_token + tokens) * q.top_k, m, [&](int slot, int row, int place) {
        if (part == 0) q.row_of_slot[first_token * q.top_k + slot] = row;
        if (row >= 0) places[place] = {row, slot / q.top_k};
    });
    int shift = 7; // 2^shift rows of a K block are written at once; few rows leave threads for other K blocks
    while (shift > 3 && 1 << (shift - 1) >= rows) shift--;

    for (int first_block = 0, turn = 0; first_block < k_blocks; first_block += stage_blocks, turn ^= 1) {
        const runs::Stage stage(memory + turn * stage_bytes, most_units);
        const int blocks = k_blocks - first_block < stage_blocks ? k_blocks - first_block : stage_blocks, own_units = blocks * tokens;
#pragma unroll
        for (int i = 0; i < ahead; i++)
            if (warp_unit + i * groups_of_8 < own_units) stage.put(q, next[i], unit + i * groups_of_8, own_units);
        for (int base = warp_unit + ahead * groups_of_8; base < own_units; base += groups_of_8) { // more tokens than that: one K block
            const int u = base + unit % 4;
            stage.put(q, load(u < tokens ? u : 0, first_block), u, own_units);
        }
#pragma unroll
        for (int i = 0; i < ahead; i++) {
            next_block[i] += stage_blocks;
            if (next_block[i] < k_blocks) next[i] = load(next_token[i], next_block[i]);
        }
        __syncthreads(); // the only one: whoever is here has written the stage before, so its memory may be filled again behind it

        for (int b = unit >> shift; b < blocks; b += groups_of_8 >> shift) {
            u8* const to = q.rows + (u64)((first_block + b) * parts + part) * q.capacity * 128;
            const u8* const from = stage.codes + b * tokens * 128 + eighth * 16;
#pragma unroll 2
            for (int i = unit & ((1 << shift) - 1); i < rows; i += 1 << shift) {
                const runs::Place p = places[i];
                *(uint4*)(to + (u64)p.row * 128 + (eighth ^ (p.row & 7)) * 16) = *(const uint4*)(from + p.token * 128);
            }
        }
        for (int b = 0; b < blocks; b++) {
            float* const to = q.scales + (u64)((first_block + b) * parts + part) * q.capacity;
            for (int i = threadIdx.x; i < rows; i += 1024) to[places[i].row] = stage.scales[b * tokens + places[i].token];
        }
    }
}

extern "C" __device__ const int quantize_permute_runs_shared = 227 * 1024; // at most; the host says how much
