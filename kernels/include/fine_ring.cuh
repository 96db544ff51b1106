#pragma once
#include "scheduler.cuh"
#include "wgmma.cuh"
// The ring for all but many rows. A K block, weights and then rows, takes two slots with up to 64 rows, three with up to 160, four with up to 256; six, four or
// three K blocks are there or on their way. It begins at a multiple of its slots, and uses the barriers of its first slot only.

constexpr int slots = 12;
constexpr int slot_bytes = 12 * 1024;
constexpr int slot_headers = slots / 2; // a K block has two slots at least, so two share a header
constexpr int middle_rows = 160;
constexpr bool forgets = true; // what follows from the thread and the block is worked out for each unit, not for those of all widths and then held in registers
constexpr int eighths_in_order = 7; // of the units of one GEMM alone; the others go to whoever is free
DEVICE constexpr int slots_of(int rows) { return rows <= few_rows ? 2 : rows <= middle_rows ? 3 : 4; }
DEVICE constexpr int barriers_of(int) { return 1; } // that a K block uses
DEVICE int slots_to_multiple(int slot, int count) { return count == 3 ? 0x618618 >> 2 * slot & 3 : -slot & (count - 1); } // 0 2 1, 0 2 1, two bits each
static_assert(2 * slot_bytes == 128 * 128 + few_rows * 128 && 3 * slot_bytes == 128 * 128 + middle_rows * 128, "");
static_assert(4 * slot_bytes == 128 * 128 + tile_rows * 128 && slots % 3 == 0 && slots % 4 == 0 && slot_bytes % 1024 == 0, "");

/// A thread's position.
struct Ring {
    int slot = 0;
    u32 phases = 0; // of the slots' barriers, a bit each: every one has turns of its own
    DEVICE u32 phase() const { return phases >> slot & 1; }
    DEVICE int header_index() const { return slot / 2; }
    DEVICE void advance(int count) {
        phases ^= 1u << slot;
        slot += count;
        if (slot == slots) slot = 0;
    }
    /// The same in all lanes of a warp, and known as such.
    DEVICE void settle() { slot = uniform(slot), phases = uniform(phases); }
    /// Slots ahead of a unit's first K block.
    DEVICE int skipped(const Work& work) const { return uniform(work.skipped); }
};

/// The producer's knowledge of who lies in the ring. The whole warp has it; one lane writes and arrives.
struct Occupants {
    u64 began = 0;            // for each slot four bits: the slot at which the K block that covered it last began
    int count = 0, alike = 0; // slots of a K block now, and K blocks of that size in a row, as far as they fit into the ring

    DEVICE void change(int size) {
        if (count == 0) { // an empty ring has room for K blocks of any size
            began = size == 2 ? 0xAA8866442200 : size == 3 ? 0x999666333000 : 0x888844440000;
            alike = size == 2 ? 6 : size == 3 ? 4 : 3;
        } else if (size != count) alike = 0;
        count = size;
    }
    /// Whether so many K blocks of this size have come that each lies where one of them lay: then its own barrier tells when that has been read.
    DEVICE bool settled() const { return alike * count == slots; }
    /// What lay in slots up to this one last time has been read: K blocks are read in order, so the last of them tells of all.
    template <class P> DEVICE void wait(const P& p, int last) const {
        const int slot = (int)(began >> 4 * last) & 15;
        barrier_wait(p.empty(slot), ~p.phases >> slot & 1);
    }
    DEVICE void cover(int slot, int size) {
        const u64 each = 0x1111 & ((1 << 4 * size) - 1);
        began = (began & ~(each * 15 << 4 * slot)) | each * slot << 4 * slot;
    }
    /// Waits for the place of a K block.
    template <class P> DEVICE void wait(const P& p) const {
        if (settled()) barrier_wait(p.empty(), p.phase() ^ 1);
        else wait(p, p.slot + count - 1);
    }
    template <class P> DEVICE void add(const P& p) {
        if (settled()) return;
        cover(p.slot, count);
        alike++;
    }
    /// Where no slot is skipped, a unit's work comes with its first K block.
    template <class P> DEVICE void announce(P& p, Work& work) {
        change(slots_of(work.rows));
        work.skipped = work.rows > 0 ? slots_to_multiple(p.slot, count) : 1;
        if (work.skipped > 0) { // a slot with nothing but the news
            wait(p, p.slot | 1); // whose header it is too
            if (elect_one()) p.header()->work = work;
            cover(p.slot, work.skipped);
            if (elect_one()) barrier_arrive(p.full());
            p.advance(work.skipped);
        } else {
            wait(p);
            if (elect_one()) p.header()->work = work;
        }
    }
    /// The place of the next K block.
    template <class P> DEVICE void claim(P& p) {
        wait(p);
        add(p);
    }
};
