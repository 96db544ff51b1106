#pragma once
#ifdef MANY_ROWS // the build for calls of many rows (KernelCompiler, DevicePlan.HasManyRows)
#include "coarse_ring.cuh"
#else
#include "fine_ring.cuh"
#endif
// The pipeline of both grouped GEMMs. A cluster of two blocks takes a unit: each block one 128-row half of the weights, both the same rows, which
// each loads by halves for both (multicast). In a block a producer's warp fills a ring of slots, two warpgroups multiply and promote, and three
// warps finish what a tile of more than 64 rows hands over while the next one is multiplied. Numbers follow one chain whatever the orientation or tile: per
// K block of 128 four products of 32 (the first overwrites), then final = fma(sa * sw, acc, final).

constexpr int math_warpgroups = 2;
constexpr int math_threads = math_warpgroups * 128;
constexpr int math_warps = math_threads / 32;
constexpr int producer_warp = math_warps;
constexpr int finish_warps = 3;
constexpr int first_finish_thread = math_threads + 32;
constexpr int finish_threads = finish_warps * 32;
constexpr int unit_warps = 2 * finish_warps; // of a cluster: each counts a unit of GateUp that is stored
constexpr int finish_barrier = 2; // named barriers: 1 of the math warps, 4 and 5 their turns
constexpr int block_threads = math_threads + 128; // started with 168 registers each (the most for 384), which then move: 2 x 224 + 56 = 3 x 168
constexpr int math_registers = 224;
constexpr int other_registers = 56;
constexpr int tiles_of_line = 128 / sizeof(ExpertTiles);
constexpr int weight_block_bytes = 128 * 128;
constexpr int rows_offset = weight_block_bytes; // in a slot
constexpr int box_rows = 32; // of the tensor map of rows

struct alignas(16) SlotHeader {
    Work work;               // valid where a unit begins
    float weight_scales[4];
    float scales[tile_rows]; // of the rows
};
constexpr int header_weight_scales = sizeof(Work), header_scales = header_weight_scales + 16;

/// Shared memory: slots, their headers, barriers, then what the epilogue stages.
constexpr int headers_offset = slots * slot_bytes;
constexpr int barriers_offset = headers_offset + slot_headers * sizeof(SlotHeader); // full, empty of each slot, then those of the epilogue
constexpr int epilogue_barriers_offset = barriers_offset + slots * 16;
enum { handed_over = 0, taken = 1, peer_told = 2, peer_told_few = 3, unit_told = 4, unit_heard = 5, epilogue_barriers = 6 };
constexpr int next_unit_offset = epilogue_barriers_offset + epilogue_barriers * 8; // a number, told by the other block
constexpr int staging_offset = (next_unit_offset + 8 + 255) / 256 * 256;

/// What a thread knows of its block, and its position in the ring.
struct Pipeline : Ring {
    u8* memory;
    u32 shared;
    u32 rank; // in the cluster
    u32 thread;

    DEVICE Pipeline(u8* m) : memory(m), shared(shared_address(m)), rank(cluster_rank()), thread(thread_index()) {}
    /// Of a unit: the position is known to be the same in all lanes.
    DEVICE void begin() {
        settle();
        if (!forgets) return;
        thread = thread_index();
        rank = cluster_rank();
    }
    DEVICE u32 full() const { return shared + barriers_offset + slot * 16; }
    DEVICE u32 empty() const { return full() + 8; }
    DEVICE u32 empty(int of) const { return shared + barriers_offset + of * 16 + 8; }
    DEVICE u32 epilogue_barrier(int i) const { return shared + epilogue_barriers_offset + i * 8; }
    DEVICE u32 operands() const { return shared + slot * slot_bytes; }
    DEVICE SlotHeader* header() const { return (SlotHeader*)(memory + headers_offset + header_index() * sizeof(SlotHeader)); }
    DEVICE u8* staging() const { return memory + staging_offset; }
    DEVICE u32 staging_address() const { return shared + staging_offset; }
    /// A math warp has read what begins at this slot, this among it: both blocks may load there again.
    template <int Barriers> DEVICE void release(u32 read = 0) const {
        const u32 lane = thread % 32, none = none_of(read, rank);
        if (lane < 2 * Barriers) remote_arrive(Barriers == 1 ? remote_address(empty() + none, lane) : remote_address(empty() + none + lane / 2 * 16, lane % 2));
    }
    DEVICE void init() {
        const int warp = uniform(threadIdx.x / 32);
        if (elect_one()) { // one thread of each warp: lanes would take turns
            if (warp < slots) {
                barrier_init(shared + barriers_offset + warp * 16, 1);
                barrier_init(empty(warp), math_warps * 2);
            }
            if (warp < epilogue_barriers) barrier_init(epilogue_barrier(warp), warp == handed_over ? math_warps : warp == taken ? finish_warps : 1);
            fence_barrier_init();
        }
        cluster_sync();
    }
};
