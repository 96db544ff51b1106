#pragma once
#include "scheduler.cuh"
#include "wgmma.cuh"
// The ring for many rows. A K block with up to 64 rows takes one slot: weights, then rows. One with up to 256 rows takes two, from an even one on, and all their barriers.

constexpr int slots = 6;
constexpr int slot_bytes = 128 * 128 + few_rows * 128;
constexpr int slot_headers = slots;
constexpr bool forgets = false; // as there: registers suffice
constexpr int eighths_in_order = 0; // of the units: all but the first go to whoever is free
DEVICE constexpr int slots_of(int rows) { return rows <= few_rows ? 1 : 2; }
DEVICE constexpr int barriers_of(int rows) { return slots_of(rows); } // that a K block uses
static_assert(2 * slot_bytes == 128 * 128 + tile_rows * 128 && slots % 2 == 0 && slot_bytes % 1024 == 0, "two slots hold a large tile");

/// A thread's position.
struct Ring {
    int slot = 0;
    u32 turn = 0;
    DEVICE u32 phase() const { return turn; }
    DEVICE int header_index() const { return slot; }
    DEVICE void advance(int count) {
        slot += count;
        if (slot == slots) {
            slot = 0;
            turn ^= 1;
        }
    }
    /// The same in all lanes of a warp, and known as such.
    DEVICE void settle() { slot = uniform(slot); }
    /// Slots ahead of a unit's first K block.
    DEVICE int skipped(const Work& work) const { return work.rows > few_rows && slot % 2 != 0; }
};

/// What the producer does for room in the ring. The whole warp waits; one lane writes and arrives.
struct Occupants {
    int count = 0;
    /// Where no slot is skipped, a unit's work comes with its first K block.
    template <class P> DEVICE void announce(P& p, Work& work) {
        count = slots_of(work.rows);
        barrier_wait(p.empty(), p.phase() ^ 1);
        if (elect_one()) p.header()->work = work;
        if (work.rows == 0 || p.skipped(work)) { // a slot with nothing but the news
            if (elect_one()) barrier_arrive(p.full());
            p.advance(1);
        }
    }
    /// The place of the next K block.
    template <class P> DEVICE void claim(P& p) {
        barrier_wait(p.empty(), p.phase() ^ 1);
        if (count == 2) {
            barrier_wait(p.empty() + 16, p.phase() ^ 1);
            if (elect_one()) barrier_arrive(p.full() + 16); // nobody waits for it; its turns must stay in step
        }
    }
};
