#pragma once
#include "combine.cuh"
#include "few_block.cuh"
#include "numerics.cuh"
#include "wgmma.cuh"
// What the math warpgroups do with a unit. Weights are on the M side, 64 rows (or 32 and what happens to lie behind them, which nobody reads); all tokens are on the
// N side, column t for token t, also those that do not go to the expert: columns do not touch each other, and theirs are not stored. So rows are written once
// for all experts. What rows are and how they are multiplied, a Format says: FewFp8 or FewWide.

DEVICE void warpgroup_barrier(int warpgroup) { named_barrier(1 + warpgroup, 128); }

/// Rows of a matrix, one per bit of `tokens`, as products read them, into shared memory.
struct FewRows {
    const u16* from;
    int columns;
    u32 tokens;
    u8* rows;
    float* scales;
    int divide, power_of_two;
};

/// By so many threads.
template <class Format> DEVICE void write_rows(const FewArguments& f, const FewRows& q, int thread, int threads) {
    const int chunks = (q.columns + 127) / 128 * 8; // of 16 values
    u32 tokens = q.tokens;
#pragma unroll 1
    for (int chunk = thread;; chunk += threads) { // whole groups of eight threads
        for (; tokens && chunk >= chunks; chunk -= chunks) tokens &= tokens - 1;
        if (!tokens) break;
        Format::write_chunk(f, q, __ffs(tokens) - 1, chunk);
    }
    fence_async_shared(); // products read what ordinary stores wrote
}

constexpr int few_turn_barrier = few_math_warpgroups + 4; // named, and those after it: of math warpgroups that share units, who hand on their sums
DEVICE int turns_after(int warpgroup) { return warpgroup + 1 < few_math_warpgroups ? warpgroup + 1 : 0; }
DEVICE int turns_between(int first, int warpgroup) { return warpgroup < first ? warpgroup + few_math_warpgroups - first : warpgroup - first; }

/// A unit's rows and scales.
struct FewOperands {
    u32 rows;            // shared address
    const float* scales; // of the rows, at this lane's columns
    int first, second;   // which weight scale of a K block counts for the fragment's upper and lower rows
    int k_blocks;
    int halves; // 1: 32 weight rows; 0: 64
};

DEVICE int halves_of(const FewArguments& f, const FewUnit& unit) { return unit.kind == few_gateup && unit.gateups_of_expert > (u32)(4 * f.intermediate_blocks); }

/// With own rings: a math warpgroup, one that has written, tells the finishing warp that a unit is stored. What must wait until all of the GPU sees it, that warp does.
template <class Format> DEVICE void post(const FewBlock<Format>& b, const FewUnit& unit, int warpgroup) {
    const u32 posted = b.shared + b.routing + offset_of(FewRouting, is_last) + warpgroup * 4;
    wait_for_zero_shared(posted); // the one before is taken; all wait, since the assembler would not believe that one thread's loop ends before products
    warpgroup_barrier(warpgroup);
    if (threadIdx.x % 128 > 0) return;
    add_release_shared(posted, 4 + unit.kind + unit.active * 8 + unit.index * (8 * few_slots));
    count_release_shared(b.shared + b.routing + offset_of(FewRouting, posts));
}

/// Activated outputs of the expert's tokens, rounded to BF16 and not yet quantized: a group of 128 is spread over several blocks.
template <class Format> DEVICE void activate_few(const float (&final)[4], const FewArguments& f, const FewBlock<Format>& b, const FewUnit& unit, int warpgroup) {
    const int warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32, token = lane % 4 * 2;
    const u32 tokens = b.routes()->tokens[unit.active];
    const int halves = Format::halves ? halves_of(f, unit) : 0;
    if (!halves || warp < 2) {
        const u32 y = Format::activate(pack_bf16(final[0], final[1]), pack_bf16(final[2], final[3]), f.activation);
        const int size = f.intermediate_blocks * 128, output = unit.index * (32 >> halves) + warp * 8 + lane / 4;
        u16* to = f.activated + (u64)(unit.active * few_tokens + token) * size + output;
        if (tokens >> token & 1) *to = (u16)y;
        if (tokens >> token & 2) to[size] = (u16)(y >> 16);
    }
    if (Format::own_rings) return;
    warpgroup_barrier(warpgroup); // all have read the hidden rows and written
    if (threadIdx.x % 128 == 0) {
        count_release_shared(b.shared + b.routing + offset_of(FewRouting, gateups_done));
        count_release(few_activated(f, unit.active));
    }
}

/// Sums up a token's slots at eight of 64 output columns.
template <class Format> DEVICE void combine_item(const FewArguments& f, const FewBlock<Format>& b, int column_unit, int i) {
    const int token = i / 8, chunk = column_unit * 8 + i % 8;
    if (chunk * 8 < f.combine.hidden_size) combine_chunk<true, 8>(f.combine, token, chunk, b.routes()->row_of_slot + token * f.combine.top_k);
}

/// Of all tokens.
template <class Format> DEVICE void combine_columns(const FewArguments& f, const FewBlock<Format>& b, int column_unit) {
    for (int i = threadIdx.x % 128; i < f.combine.tokens * 8; i += 128) combine_item(f, b, column_unit, i);
}

/// These results are stored. Sets is_last, where outputs are wanted: whether those of all experts are at these columns.
template <class Format> DEVICE void count_stored(const FewArguments& f, const FewBlock<Format>& b, int active, int column_unit, u32 gateups_of_expert, int* is_last) {
    const u32 others = b.routes()->experts - 1;
    if (f.combine.output) *is_last = count_acquire_release(few_added(f, column_unit), others) == others;
    // At the expert's counter Down units count too: the last of them, which sets it back, comes when all are past their wait.
    count_up(few_activated(f, active), gateups_of_expert + 2 * f.hidden_blocks - 1);
}

/// BF16 results of the expert's tokens. True in all threads of whoever finishes these columns for the last expert.
template <class Format> DEVICE bool store_results(const float (&final)[4], const FewArguments& f, const FewBlock<Format>& b, const FewUnit& unit, int warpgroup) {
    const int warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
    const u32 tokens = b.routes()->tokens[unit.active];
    u16* rows = f.results + ((u64)(unit.index / 2) * f.combine.capacity + unit.active * few_tokens) * 128 + lane / 4;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int token = lane % 4 * 2 + i % 2, chunk = (unit.index % 2 * 8 + warp * 2 + i / 2) ^ token;
        if (tokens >> token & 1) rows[token * 128 + chunk * 8] = (u16)pack_bf16(final[i], 0.0f);
    }
    if (Format::own_rings) return false;
    warpgroup_barrier(warpgroup);
    int* is_last = &b.routes()->is_last[warpgroup];
    if (threadIdx.x % 128 == 0) count_stored(f, b, unit.active, unit.index, unit.gateups_of_expert, is_last);
    if (!f.combine.output) return false;
    warpgroup_barrier(warpgroup);
    return *is_last;
}

/// All math warpgroups have written the hidden states, and the warp that reads the ids knows the experts and where rows go, which a finishing warp reads too.
constexpr int few_begin_barrier = 1 + few_math_warpgroups;
template <class Format> constexpr int few_begin_threads = few_math_threads + (Format::own_rings ? 64 : 32);

/// A math warpgroup: writes the hidden states together with the others, then takes its turn's units until there are no more. Writing rows, for either step, and multiplying
/// are in one place each, so that their instructions have long come from memory when Down begins.
template <class Format> DEVICE void compute_few(const FewArguments& f, const FewBlock<Format>& b) {
    const int warpgroup = uniform(threadIdx.x / 128), thread = threadIdx.x % 128, columns = threadIdx.x % 4 * 2, at = warpgroup * f.intermediate_blocks;
    u8* hidden_rows = b.memory + b.rows;
    float* hidden_scales = (float*)(b.memory + b.hidden_scales);
    FewRows q = {f.hidden, f.combine.hidden_size, (1u << f.combine.tokens) - 1, hidden_rows, hidden_scales, 1, f.power_of_two};
    FewUnit unit = {};
    FewPlace place(Format::own_rings ? warpgroup * f.ring_slots : 0);
    bool reads_hidden = true;
    for (u32 turn = 0;; turn++) { // turn 0: the hidden states
        if (turn > 0) {
            barrier_wait(b.unit_full(warpgroup), ~turn & 1);
            unit = *b.unit(warpgroup);
            unit.kind = uniform(unit.kind);
            barrier_arrive(b.unit_empty(warpgroup)); // each for itself, which compute-sanitizer can follow
            if (Format::own_rings && reads_hidden && unit.kind != few_gateup) { // numbers of units grow, so no more of those come
                reads_hidden = false;
                if (thread == 0) count_release_shared(b.shared + b.routing + offset_of(FewRouting, gateups_done));
            }
            if (Format::own_rings && turn == 1 && unit.sharer == 0) { // units are shared
                place = FewPlace(warpgroup * Format::k_block_slots);
                if (warpgroup == few_math_warpgroups - 1) named_arrive(few_turn_barrier, 256); // the first turn is the first warpgroup's
            }
            if (unit.kind == few_no_more) {
                if (Format::own_rings && unit.sharer == warpgroup) named_barrier(few_turn_barrier + warpgroup, 256); // it has been handed the last turn
                if (Format::own_rings) post(b, unit, warpgroup);
                return;
            }
        }
        if (unit.kind == few_down) {
            if (thread == 0) {
                wait_for_count_shared(b.shared + b.routing + offset_of(FewRouting, gateups_done), Format::own_rings ? few_math_warpgroups : unit.gateups); // until then the hidden states lie there
                wait_for_count(few_activated(f, unit.active), unit.gateups_of_expert);
            }
            warpgroup_barrier(warpgroup);
            const int size = f.intermediate_blocks * 128;
            q = {f.activated + (u64)unit.active * few_tokens * size, size, b.routes()->tokens[unit.active], hidden_rows + at * Format::row_block_bytes,
                 (float*)(b.memory + b.scales) + at * few_tokens, f.activation.divide, f.activation.power_of_two};
        }
        if (turn == 0 || unit.kind == few_down) {
            write_rows<Format>(f, q, turn == 0 ? threadIdx.x : thread, turn == 0 ? few_math_threads : 128);
            named_barrier(turn == 0 ? few_begin_barrier : 1 + warpgroup, turn == 0 ? few_begin_threads<Format> : 128);
        }
        if (turn == 0) continue;
        float final[4] = {};
        if (unit.kind != few_zeros) {
            const int second = unit.index / 2 % 2;
            const bool down = unit.kind == few_down;
            const FewOperands o = {shared_address(down ? q.rows : hidden_rows), (down ? q.scales : hidden_scales) + columns, down ? second : 0, down ? second : 1,
                                   down ? f.intermediate_blocks : f.hidden_blocks, Format::halves ? halves_of(f, unit) : 0};
            const float2 bias = Format::biases(f, b, unit);
            Format::multiply(final, o, unit, place, f, b);
            Format::add_biases(final, bias);
            if (Format::own_rings && unit.sharer >= 0 && turns_between(unit.sharer, warpgroup) != (o.k_blocks - 1) % few_math_warpgroups) continue; // another has the sums
        }
        bool completes = unit.kind == few_zeros && f.combine.output;
        if (unit.kind == few_gateup) activate_few<Format>(final, f, b, unit, warpgroup);
        else if (unit.kind == few_down) completes = store_results(final, f, b, unit, warpgroup);
        if (Format::own_rings) post(b, unit, warpgroup);
        else if (completes) combine_columns(f, b, unit.index);
    }
}

/// With own rings, a warp: tells other blocks what the math warpgroups have stored, which takes the time of several slots and is beside theirs, and sums up columns.
/// Lane w is for warpgroup w, so that those that end together do not wait for each other.
template <class Format> DEVICE void finish_few(const FewArguments& f, const FewBlock<Format>& b) {
    const u32 lane = threadIdx.x % 32, posted = b.shared + b.routing + offset_of(FewRouting, is_last) + lane * 4;
    const int items = f.combine.tokens * 8; // of 64 columns
    named_barrier(few_begin_barrier, few_begin_threads<Format>);
    for (u32 taken = 0, ended = 0; ended < few_math_warpgroups;) {
        if (lane == 0) doze_for_count_shared(b.shared + b.routing + offset_of(FewRouting, posts), taken + 1);
        __syncwarp();
        u32 what = 0;
        if (lane < few_math_warpgroups) what = load_acquire_shared(posted);
        if (what) add_release_shared(posted, 0 - what);
        const int kind = what & 3, active = what / 8 % few_slots, index = what / (8 * few_slots);
        taken += __popc(__ballot_sync(~0u, what != 0));
        ended += __popc(__ballot_sync(~0u, what == 4 + few_no_more));
        const int experts = b.routes()->experts;
        const u32 gateups_of_expert = few_gateups<Format>(f, experts);
        int last = kind == few_zeros && f.combine.output;
        if (kind == few_gateup) count_release(few_activated(f, active));
        if (kind == few_down) count_stored(f, b, active, index, gateups_of_expert, &last);
        if (!__any_sync(~0u, last)) continue;
        __syncwarp(); // what that lane sees, all see
        const int columns = last ? index : -1, first = __shfl_sync(~0u, columns, 0), second = __shfl_sync(~0u, columns, 1), third = __shfl_sync(~0u, columns, 2);
#pragma unroll 1
        for (int i = lane; i < few_math_warpgroups * items; i += 32) {
            const int column_unit = i < items ? first : i < 2 * items ? second : third;
            if (column_unit >= 0) combine_item(f, b, column_unit, i % items);
        }
    }
}
