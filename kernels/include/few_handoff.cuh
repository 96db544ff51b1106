#pragma once
#include "few_arguments.cuh"
// What blocks of the one launch hand to each other, the intermediate and the results, through memory whose contents tell whether they are there: words are absent (all bits one, a pair of NaNs that nobody
// makes) until they are written, and whoever needs them reads until they are not. So nobody waits until the whole GPU sees what was written, which takes as long as to read it.
//
// Memory that many read is written slowly. So the intermediate is counted too, and nobody reads it before: the count may still come before what it counts, by a little. Results have one reader.
//
// There are two sides. A launch writes one, and makes absent what the launch before wrote on the other; the side is the highest bit of the counter of units, which the end of each launch turns over.
// They lie apart from workspaces, which others may overwrite. A row is a slot's: its intermediate, then its results.

constexpr u32 few_absent = 0xFFFFFFFFu;
constexpr u32 few_side_bit = 0x80000000u;

DEVICE u32* few_taken(const FewArguments& f) { return (u32*)f.handoff; }          // units that blocks took, and the side
DEVICE u32* few_written(const FewArguments& f) { return (u32*)f.handoff + 1; }    // bytes of the other side that the launch before may have written
DEVICE u8* few_side(const FewArguments& f, int side) { return f.handoff + few_handoff_header + side * f.handoff_bytes; }
DEVICE int few_row_values(const FewArguments& f) { return (f.intermediate_blocks + f.hidden_blocks) * 128; }
DEVICE u32 few_rows_offset(const FewArguments& f) { return f.combine.tokens * f.combine.top_k * few_counter_bytes; } // not more experts have tokens
DEVICE u32 few_bytes(const FewArguments& f) { return few_rows_offset(f) + (u32)(f.combine.tokens * f.combine.top_k * few_row_values(f)) * 2; }
DEVICE u16* few_row(const FewArguments& f, int side, int row) { return (u16*)(few_side(f, side) + few_rows_offset(f)) + (u64)row * few_row_values(f); }
/// Counts units that handed on their part of an expert's intermediate. Begins with all ones.
DEVICE u32* few_counter(const FewArguments& f, int side, int active) { return (u32*)(few_side(f, side) + active * few_counter_bytes); }

/// Two values, for others to see.
DEVICE void hand_on(u16* to, u32 pair) { store_relaxed((u32*)to, pair == few_absent ? 0x7FFF7FFFu : pair); }

DEVICE bool is_absent(uint4 v) { return v.x == few_absent || v.y == few_absent || v.z == few_absent || v.w == few_absent; }
DEVICE bool is_absent(uint2 v) { return v.x == few_absent || v.y == few_absent; }
/// What was read from several places: again, together, until all of it is there. (One after the other each would take its way to the cache and back.)
template <class V, int Count> DEVICE void wait_until_there(V (&v)[Count], const u16* const (&from)[Count]) {
    bool waits;
    do {
        waits = false;
#pragma unroll
        for (int i = 0; i < Count; i++) {
            if (!is_absent(v[i])) continue;
            waits = true;
            wait_for_change(v[i], from[i]);
            load_relaxed(v[i], from[i]);
        }
    } while (waits);
}

/// So many threads of each block: the other side, for the launch after this one.
DEVICE void blank_other_side(const FewArguments& f, int side, u32 written, int thread, int threads) {
    uint4* other = (uint4*)few_side(f, side ^ 1);
#pragma unroll 1
    for (u32 i = blockIdx.x * threads + thread; i < written / 16; i += gridDim.x * threads) other[i] = make_uint4(few_absent, few_absent, few_absent, few_absent);
}
