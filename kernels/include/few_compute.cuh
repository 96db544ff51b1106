#pragma once
#include "few_combine.cuh"
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
    const u8* places; // of tokens' rows, which others hand on; null: row t is token t's, and there
    int stride;       // values
    int columns;
    u32 tokens;
    u8* rows;
    float* scales;
    int divide, power_of_two;

    DEVICE const u16* row(int token) const { return from + (u64)(places ? places[token] : token) * stride; }
    /// Twice eight values, when they are there; zeros where there are none.
    DEVICE void load(uint4 (&v)[2], const u16* const (&at)[2]) const {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            v[i] = make_uint4(0, 0, 0, 0);
            if (at[i]) load_relaxed(v[i], at[i]);
        }
        if (places) wait_until_there(v, at);
    }
};

/// By so many threads.
template <class Format> DEVICE void write_rows(const FewArguments& f, const FewRows& q, int thread, int threads) {
    const int chunks = (q.columns + 127) / 128 * 8; // of 16 values
    u32 tokens = q.tokens;
#pragma unroll 1
    for (int chunk = thread;; chunk += threads) { // whole groups of eight threads
        for (; tokens && chunk >= chunks; chunk -= chunks) tokens &= tokens - 1;
        if (!tokens) break;
        const int token = __ffs(tokens) - 1;
        Format::write_chunk(f, q, q.row(token), token, chunk);
    }
    fence_async_shared(); // products read what ordinary stores wrote
}

constexpr int few_turn_barrier = few_math_warpgroups + 4; // named, and those after it: of math warpgroups that share units, who hand on their sums
constexpr int few_turn_threads = 256;
DEVICE int next_warpgroup(int warpgroup) { return warpgroup + 1 < few_math_warpgroups ? warpgroup + 1 : 0; }
DEVICE int turns_between(int first, int warpgroup) { return warpgroup < first ? warpgroup + few_math_warpgroups - first : warpgroup - first; }

/// A unit's rows and scales.
struct FewOperands {
    u32 rows;            // shared address
    const float* scales; // of the rows, at this lane's columns
    int first, second;   // which weight scale of a K block counts for the fragment's upper and lower rows
    int k_blocks;
    int halves; // 1: 32 weight rows; 0: 64
};

/// Activated outputs of the expert's tokens, rounded to BF16 and not yet quantized: a group of 128 is spread over several blocks.
template <class Format> DEVICE void activate_few(const float (&final)[4], const FewArguments& f, const FewBlock<Format>& b, const FewUnit& unit, int warpgroup) {
    const FewRouting* r = b.routes();
    const int warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32, token = lane / 4, halves = halves_of<Format>(f, unit);
    const u32 y = transpose(Format::activate(pack_bf16(final[0], final[1]), pack_bf16(final[2], final[3]), f.activation)); // two outputs of a token
    const int output = unit.index * (32 >> halves) + warp * 8 + lane % 4 * 2;
    if ((!halves || warp < 2) && r->tokens[unit.active] >> token & 1) hand_on(few_row(f, r->side, r->rows[unit.active * few_tokens + token]) + output, y);
    warpgroup_barrier(warpgroup); // all have multiplied the hidden rows, and handed on
    if (threadIdx.x % 128 > 0) return;
    count(few_counter(f, r->side, unit.active));
    if (!Format::own_rings) count_release_shared(b.shared + b.routing + offset_of(FewRouting, gateups_done));
}

/// BF16 results of the expert's tokens.
template <class Format> DEVICE void store_results(const float (&final)[4], const FewArguments& f, const FewBlock<Format>& b, const FewUnit& unit) {
    const FewRouting* r = b.routes();
    const int warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32, token = lane / 4, column = unit.index * 64 + warp * 16 + lane % 4 * 2;
    const u32 upper = transpose(pack_bf16(final[0], final[1])), lower = transpose(pack_bf16(final[2], final[3]));
    if (!(r->tokens[unit.active] >> token & 1)) return;
    const int row = r->rows[unit.active * few_tokens + token];
    if (f.combine.output) {
        u16* to = few_row(f, r->side, row) + f.intermediate_blocks * 128 + column;
        hand_on(to, upper);
        hand_on(to + 8, lower);
    } else {
        u16* to = f.results + ((u64)(column / 128) * f.combine.capacity + row) * 128 + column % 8;
        *(u32*)(to + ((column % 128 / 8) ^ row % 8) * 8) = upper;
        *(u32*)(to + ((column % 128 / 8 + 1) ^ row % 8) * 8) = lower;
    }
}

/// Results that units of any block hand on.
struct HandedResults {
    const u16* rows;
    int stride;
    DEVICE const u16* at(int row, int column) const { return rows + (u64)row * stride + column; }
    template <class V> DEVICE void load(V& v, int row, int column) const { load_relaxed(v, at(row, column)); }
    template <class V, int Count> DEVICE void wait(V (&v)[Count], const int (&row)[Count], int column) const {
        const u16* from[Count];
#pragma unroll
        for (int i = 0; i < Count; i++) from[i] = at(row[i], column);
        wait_until_there(v, from);
    }
};

/// Sums up all tokens' slots at 64 output columns, by whoever has those of the last expert. The others' have lower numbers, so they are there or come.
template <class Format> DEVICE void combine_few(const FewArguments& f, const FewBlock<Format>& b, int column_unit) {
    const FewRouting* r = b.routes();
    const HandedResults results = {few_row(f, r->side, 0) + f.intermediate_blocks * 128, few_row_values(f)};
#pragma unroll 1
    for (int i = threadIdx.x % 128; i < f.combine.tokens * 16; i += 128) {
        const int token = i / 16, column = column_unit * 64 + i % 16 * 4;
        if (column < f.combine.hidden_size) combine_columns<true, 8, 4>(f.combine, results, token, column, r->row_of_slot + token * f.combine.top_k);
    }
}

/// When that of the last expert is there, the others' most likely are too, and nobody asks any more.
DEVICE void wait_for_intermediate(const FewArguments& f, FewRouting* r, const FewUnit& unit) {
    if (*(volatile int*)&r->all_there) return;
    const u32 full = unit.gateups_of_expert - 1, last = read_count(few_counter(f, r->side, r->experts - 1)); // on its way meanwhile
    wait_for_count(few_counter(f, r->side, unit.active), full);
    if (last == full) *(volatile int*)&r->all_there = 1;
}

/// All math warpgroups have written the hidden states, and the warp that reads the ids knows the experts and where rows go.
constexpr int few_begin_barrier = 1 + few_math_warpgroups;
constexpr int few_begin_threads = few_math_threads + 32;

/// A math warpgroup: writes the hidden states together with the others, then takes its turn's units until there are no more. Writing rows, for either step, and multiplying
/// are in one place each, so that their instructions have long come from memory when Down begins.
template <class Format> DEVICE void compute_few(const FewArguments& f, const FewBlock<Format>& b) {
    const int warpgroup = uniform(threadIdx.x / 128), thread = threadIdx.x % 128, columns = threadIdx.x % 4 * 2, at = warpgroup * f.intermediate_blocks;
    u8* hidden_rows = b.memory + b.rows;
    float* hidden_scales = (float*)(b.memory + b.hidden_scales);
    FewRows q = {f.hidden, nullptr, f.combine.hidden_size, f.combine.hidden_size, (1u << f.combine.tokens) - 1, hidden_rows, hidden_scales, 1, f.power_of_two};
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
            if (Format::own_rings && turn == 1 && unit.sharer == 0 && warpgroup == few_math_warpgroups - 1) named_arrive(few_turn_barrier, few_turn_threads); // units are shared, and the first turn is the first warpgroup's
            if (unit.kind == few_no_more) {
                if (Format::own_rings && unit.sharer == warpgroup) named_barrier(few_turn_barrier + warpgroup, few_turn_threads); // it has been handed the last turn
                return;
            }
        }
        if (unit.kind == few_down) {
            FewRouting* r = b.routes();
            if (thread == 0) wait_for_intermediate(f, r, unit);
            wait_for_count_shared(b.shared + b.routing + offset_of(FewRouting, gateups_done), Format::own_rings ? few_math_warpgroups : unit.gateups); // until then the hidden states lie there
            warpgroup_barrier(warpgroup); // all have multiplied the rows before
            q = {few_row(f, r->side, 0), r->rows + unit.active * few_tokens, few_row_values(f), f.intermediate_blocks * 128, r->tokens[unit.active], hidden_rows + at * Format::row_block_bytes,
                 (float*)(b.memory + b.scales) + at * few_tokens, f.activation.divide, f.activation.power_of_two};
        }
        if (turn == 0 || unit.kind == few_down) {
            write_rows<Format>(f, q, turn == 0 ? threadIdx.x : thread, turn == 0 ? few_math_threads : 128);
            named_barrier(turn == 0 ? few_begin_barrier : 1 + warpgroup, turn == 0 ? few_begin_threads : 128);
        }
        if (turn == 0) {
            blank_other_side(f, b.routes()->side, b.routes()->written, threadIdx.x, few_math_threads);
            continue;
        }
        float final[4] = {};
        if (unit.kind != few_zeros) {
            const int second = unit.index / 2 % 2;
            const bool down = unit.kind == few_down;
            const FewOperands o = {shared_address(down ? q.rows : hidden_rows), (down ? q.scales : hidden_scales) + columns, down ? second : 0, down ? second : 1,
                                   down ? f.intermediate_blocks : f.hidden_blocks, halves_of<Format>(f, unit)};
            const float2 bias = Format::biases(f, b, unit);
            Format::multiply(final, o, unit, place, f, b);
            Format::add_biases(final, bias);
            if (Format::own_rings && unit.sharer >= 0 && turns_between(unit.sharer, warpgroup) != (Format::turns(o.k_blocks) - 1) % few_math_warpgroups) continue; // another has the sums
        }
        if (unit.kind == few_gateup) activate_few<Format>(final, f, b, unit, warpgroup);
        else if (unit.kind == few_down) store_results(final, f, b, unit);
        if (f.combine.output && unit.kind != few_gateup && unit.active + 1 >= b.routes()->experts) {
            combine_few(f, b, unit.index);
            warpgroup_barrier(warpgroup); // or the compiler takes all that follows for what lanes do by themselves, and moves each descriptor of the products
        }
    }
}
