#pragma once
#include "combine.cuh"
#include "few_block.cuh"
#include "quantize.cuh"
#include "wgmma.cuh"
// What the math warpgroups do with a unit. Weights are on the M side, 64 rows (or 32 and what happens to lie behind them, which nobody reads); all tokens are on the
// N side, column t for token t, also those that do not go to the expert: columns do not touch each other, and theirs are not stored. So rows are quantized
// once for all experts. Numbers follow the chain of mainloop.cuh: per K block four products of 32, then final = fma(sa * sw, acc, final).

DEVICE void warpgroup_barrier(int warpgroup) { named_barrier(1 + warpgroup, 128); }

/// One of the 16-value chunks of a row: codes to where products read them, the scale of its group beside the other tokens' of the K block.
DEVICE void write_codes(u8* rows, float* scales, int token, int chunk, const Codes& quantized) {
    const int at = chunk / 8 * few_tokens + token;
    *(uint4*)(rows + at * 128 + ((chunk % 8) ^ token) * 16) = quantized.codes;
    if (chunk % 8 == 0) scales[at] = quantized.scale;
}

/// Rows of a matrix, one per bit of `tokens`, quantized into shared memory by so many threads.
struct FewRows {
    const u16* from;
    int columns;
    u32 tokens;
    u8* rows;
    float* scales;
    int divide, power_of_two;
};

DEVICE void quantize_rows(const FewRows& q, int thread, int threads) {
    const int chunks = (q.columns + 127) / 128 * 8;
    u32 tokens = q.tokens;
#pragma unroll 1
    for (int chunk = thread;; chunk += threads) { // whole groups of eight threads
        for (; tokens && chunk >= chunks; chunk -= chunks) tokens &= tokens - 1;
        if (!tokens) break;
        const int token = __ffs(tokens) - 1;
        Chunk values = {};
        if (chunk * 16 < q.columns) values = load_whole_chunk(q.from + (u64)token * q.columns + chunk * 16);
        write_codes(q.rows, q.scales, token, chunk, quantize_chunk(values, q.divide, q.power_of_two));
    }
    fence_async_shared(); // products read what ordinary stores wrote
}

/// A unit's rows and scales.
struct FewOperands {
    u32 rows;            // shared address
    const float* scales; // of the rows, at this lane's columns
    int first, second;   // which weight scale of a K block counts for the fragment's upper and lower rows
    int k_blocks, halves;
};

/// So many K blocks from k on. All products are issued before the first is waited for.
template <int Count>
DEVICE void multiply_few(float (&final)[4], int k, const FewOperands& o, FewPlace& place, const FewArguments& f, const FewBlock& b) {
    float acc[Count][4], w0[Count], w1[Count];
    float2 c[Count];
    int slot[Count];
    bool ends[Count]; // its slot
#pragma unroll
    for (int i = 0; i < Count; i++) {
        slot[i] = uniform(place.slot);
        ends[i] = !o.halves || (k + i) % 2 || k + i + 1 == o.k_blocks;
        // A unit comes before its copies have begun. While the slot's last contents, another warpgroup's, are still on their way, `full` has the parity that is
        // waited for; so those must have been read first. (Those before them have been when a unit comes, so here the parity is certain.)
        barrier_wait(b.empty(place.slot), place.phase ^ 1);
        barrier_wait(b.full(place.slot), place.phase);
        if (ends[i]) place.advance(f.ring_slots);
    }
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < Count; i++)
        multiply_block<8>(acc[i], b.shared + slot[i] * few_slot_bytes + ((k + i) & o.halves) * few_half_bytes, o.rows + (k + i) * few_row_block_bytes);
    wgmma_commit();
#pragma unroll
    for (int i = 0; i < Count; i++) {
        const float* header = (const float*)(b.memory + b.headers + slot[i] * 32 + ((k + i) & o.halves) * 16);
        w0[i] = header[o.first], w1[i] = header[o.second];
        c[i] = *(const float2*)(o.scales + (k + i) * few_tokens);
    }
    wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < Count; i++) {
        settle(acc[i]);
        if (ends[i] && threadIdx.x % 32 == 0) barrier_arrive(b.empty(slot[i]));
        final[0] = fmaf(c[i].x * w0[i], acc[i][0], final[0]);
        final[1] = fmaf(c[i].y * w0[i], acc[i][1], final[1]);
        final[2] = fmaf(c[i].x * w1[i], acc[i][2], final[2]);
        final[3] = fmaf(c[i].y * w1[i], acc[i][3], final[3]);
    }
}

DEVICE void multiply_unit(float (&final)[4], const FewOperands& o, const FewUnit& unit, const FewArguments& f, const FewBlock& b) {
    FewPlace place;
    place.slot = unit.slot;
    place.phase = unit.phase;
    int k = 0;
#pragma unroll 1
    for (; k + 4 <= o.k_blocks; k += 4) multiply_few<4>(final, k, o, place, f, b);
#pragma unroll 1
    for (; k < o.k_blocks; k++) multiply_few<1>(final, k, o, place, f, b);
}

/// Activated outputs of the expert's tokens, rounded to BF16 and not yet quantized: a group of 128 is spread over several blocks.
template <int Kind> DEVICE void activate_few(const float (&final)[4], const FewArguments& f, const FewBlock& b, const FewUnit& unit, int warpgroup) {
    const int warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32, token = lane % 4 * 2;
    const u32 tokens = b.routes()->tokens[unit.active];
    if (!unit.halves || warp < 2) {
        const u32 y = activate_pair<Kind>(pack_bf16(final[0], final[1]), pack_bf16(final[2], final[3]), f.activation, f.activation.rounding == 0);
        const int size = f.intermediate_blocks * 128, output = unit.index * (32 >> unit.halves) + warp * 8 + lane / 4;
        u16* to = f.activated + (u64)(unit.active * few_tokens + token) * size + output;
        if (tokens >> token & 1) *to = (u16)y;
        if (tokens >> token & 2) to[size] = (u16)(y >> 16);
    }
    warpgroup_barrier(warpgroup); // all have read the hidden rows and written
    if (threadIdx.x % 128 == 0) {
        count_release_shared(b.shared + b.routing + offset_of(FewRouting, gateups_done));
        count_release(few_activated(f, unit.active));
    }
}

/// Sums up all tokens' slots at 64 output columns.
DEVICE void combine_columns(const FewArguments& f, const FewBlock& b, int column_unit) {
    const int* rows = b.routes()->row_of_slot;
    for (int i = threadIdx.x % 128; i < f.combine.tokens * 8; i += 128) {
        const int token = i / 8, chunk = column_unit * 8 + i % 8;
        if (chunk * 8 < f.combine.hidden_size) combine_chunk<true>(f.combine, token, chunk, rows + token * f.combine.top_k);
    }
}

/// BF16 results of the expert's tokens. True in all threads of whoever finishes these columns for the last expert.
DEVICE bool store_results(const float (&final)[4], const FewArguments& f, const FewBlock& b, const FewUnit& unit, int warpgroup) {
    const int warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
    const u32 tokens = b.routes()->tokens[unit.active];
    u16* rows = f.results + ((u64)(unit.index / 2) * f.combine.capacity + unit.active * few_tokens) * 128 + lane / 4;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int token = lane % 4 * 2 + i % 2, chunk = (unit.index % 2 * 8 + warp * 2 + i / 2) ^ token;
        if (tokens >> token & 1) rows[token * 128 + chunk * 8] = (u16)pack_bf16(final[i], 0.0f);
    }
    warpgroup_barrier(warpgroup);
    int* is_last = &b.routes()->is_last[warpgroup];
    if (threadIdx.x % 128 == 0) {
        const u32 others = b.routes()->experts - 1;
        if (f.combine.output) *is_last = count_acquire_release(few_added(f, unit.index), others) == others;
        // At the expert's counter Down units count too: the last of them, which sets it back, comes when all are past their wait.
        count_up(few_activated(f, unit.active), unit.gateups_of_expert + 2 * f.hidden_blocks - 1);
    }
    if (!f.combine.output) return false;
    warpgroup_barrier(warpgroup);
    return *is_last;
}

/// A math warpgroup: quantizes the hidden states together with the others, then takes its turn's units until there are no more. Quantizing, for either step, and multiplying
/// are in one place each, so that their instructions have long come from memory when Down begins.
template <int Kind> DEVICE void compute_few(const FewArguments& f, const FewBlock& b) {
    const int warpgroup = uniform(threadIdx.x / 128), thread = threadIdx.x % 128, columns = threadIdx.x % 4 * 2, at = warpgroup * f.intermediate_blocks;
    u8* hidden_rows = b.memory + b.rows;
    float* hidden_scales = (float*)(b.memory + b.hidden_scales);
    FewRows q = {f.hidden, f.combine.hidden_size, (1u << f.combine.tokens) - 1, hidden_rows, hidden_scales, 1, f.power_of_two};
    FewUnit unit = {};
    for (u32 turn = 0;; turn++) { // turn 0: the hidden states
        if (turn > 0) {
            barrier_wait(b.unit_full(warpgroup), ~turn & 1);
            unit = *b.unit(warpgroup);
            unit.kind = uniform(unit.kind);
            __syncwarp(); // all lanes have read
            if (threadIdx.x % 32 == 0) barrier_arrive(b.unit_empty(warpgroup));
            if (unit.kind == few_no_more) return;
        }
        if (unit.kind == few_down) {
            if (thread == 0) {
                wait_for_count_shared(b.shared + b.routing + offset_of(FewRouting, gateups_done), unit.gateups); // until then the hidden states lie there
                wait_for_count(few_activated(f, unit.active), unit.gateups_of_expert);
            }
            warpgroup_barrier(warpgroup);
            const int size = f.intermediate_blocks * 128;
            q = {f.activated + (u64)unit.active * few_tokens * size, size, b.routes()->tokens[unit.active], hidden_rows + at * few_row_block_bytes,
                 (float*)(b.memory + b.scales) + at * few_tokens, f.activation.divide, f.activation.power_of_two};
        }
        if (turn == 0 || unit.kind == few_down) {
            quantize_rows(q, turn == 0 ? threadIdx.x : thread, turn == 0 ? few_math_threads : 128);
            named_barrier(turn == 0 ? 1 + few_math_warpgroups : 1 + warpgroup, turn == 0 ? few_math_threads : 128);
        }
        if (turn == 0) continue;
        float final[4] = {};
        if (unit.kind != few_zeros) {
            const int second = unit.index / 2 % 2;
            const bool down = unit.kind == few_down;
            const FewOperands o = {shared_address(down ? q.rows : hidden_rows), (down ? q.scales : hidden_scales) + columns, down ? second : 0, down ? second : 1,
                                   down ? f.intermediate_blocks : f.hidden_blocks, unit.halves};
            multiply_unit(final, o, unit, f, b);
        }
        bool completes = unit.kind == few_zeros && f.combine.output;
        if (unit.kind == few_gateup) activate_few<Kind>(final, f, b, unit, warpgroup);
        else if (unit.kind == few_down) completes = store_results(final, f, b, unit, warpgroup);
        if (completes) combine_columns(f, b, unit.index);
    }
}
