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

/// Numbers of units, for the producers' warps of a cluster. They come from a counter, since tiles differ in what they take: of the two blocks the first asks, and tells the second. Of one GEMM alone some go round the
/// clusters in order; of both none do, so that a cluster that waits for another's units knows that those are being computed.
template <bool Both> struct UnitNumbers {
    u32* counter;
    int clusters, in_order;
    u32 asked = 0, phase = 0;

    DEVICE UnitNumbers(int* counter, int units) : counter((u32*)counter), clusters(gridDim.x / 2) {
        const int rounds = units / clusters * eighths_in_order / 8;
        in_order = Both ? 0 : (rounds > 1 ? rounds : 1) * clusters;
    }
    DEVICE bool in_order_after(int number) const { return number + clusters < in_order; }
    DEVICE int first(const Pipeline& p) {
        if (!Both) return blockIdx.x / 2;
        ask(p, 0);
        return take(p, 0, tell(p, 0));
    }
    /// Asks for the unit after this one.
    DEVICE void ask(const Pipeline& p, int number) {
        if (!in_order_after(number) && p.rank == 0 && threadIdx.x % 32 == 0) asked = count_up(counter, ~0u);
    }
    /// What was asked for is there by now: the second block is told. Returns it, to the first.
    DEVICE int tell(const Pipeline& p, int number) {
        if (in_order_after(number)) return number + clusters;
        if (p.rank > 0) return number;
        number = in_order + uniform(asked);
        barrier_wait(p.epilogue_barrier(unit_heard), phase ^ 1);
        if (elect_one()) remote_store(remote_address(p.shared + next_unit_offset, 1), __uint_as_float(number), remote_address(p.epilogue_barrier(unit_told), 1));
        phase ^= 1;
        return number;
    }
    /// The unit after the one that was asked behind. told: what `tell` returned.
    DEVICE int take(const Pipeline& p, int number, int told) {
        if (p.rank == 0 || in_order_after(number)) return told;
        const u32 barrier = p.epilogue_barrier(unit_told);
        if (elect_one()) barrier_arrive_expect(barrier, 4);
        barrier_wait(barrier, phase);
        number = uniform(*(volatile int*)(p.memory + next_unit_offset));
        if (elect_one()) remote_arrive(remote_address(p.epilogue_barrier(unit_heard), 0));
        phase ^= 1;
        return number;
    }
};

/// One warp: walks this cluster's units and keeps the ring full. All lanes do the same, and one copies: so the compiler knows it all to be uniform, and keeps it where copies take their addresses
/// from. In ordinary registers the next K block comes a hundred cycles later.
///
/// Units of Down wait for those of GateUp. Their numbers are higher, so these were taken by clusters that run, which wait for nobody before they have done them: the launch ends however few of its clusters run at once.
template <bool HasGateUp, bool HasDown> DEVICE void produce(const GemmsArguments& a, Pipeline& p) {
    constexpr bool both = HasGateUp && HasDown;
    const GemmArguments& common = HasGateUp ? a.gateup : a.down;
    p.shared = uniform(p.shared); // otherwise it is asked for anew with each K block
    const int tiles = *common.tile_count, capacity = common.capacity, gateups = HasGateUp ? tiles * ((a.gateup.blocks + 1) / 2) : 0, units = gateups + (HasDown ? tiles * ((a.down.blocks + 1) / 2) : 0);
    UnitNumbers<both> numbers(a.units, units);
    Occupants ring;
    bool waits = both; // not all of GateUp is known to be there
    u32 stored = 0;
    const auto is_down = [&](int number) { return both ? number >= gateups : HasDown; };
    const auto tiles_at = [&](int number) {
        const bool down = is_down(number);
        return number < units ? common.tiles[(number - (down ? gateups : 0)) / (((down ? a.down.blocks : a.gateup.blocks) + 1) / 2)] : ExpertTiles{};
    };
    int number = numbers.first(p);
    ExpertTiles next = tiles_at(number);
    if (both)
        for (int t = threadIdx.x % 32 * tiles_of_line; t < tiles; t += 32 * tiles_of_line) touch(common.tiles + t); // each unit reads one
    while (true) {
        const bool down = is_down(number);
        const int blocks = down ? a.down.blocks : a.gateup.blocks, pairs = (blocks + 1) / 2, k_blocks = down ? a.down.k_blocks : a.gateup.k_blocks, index = down ? number - gateups : number;
        Work work = number < units ? work_at(next, index, blocks, p.rank, down) : Work{};
        const int expert = next.expert;
        const bool alone = next.tiles == 1;
        ring.announce(p, work);
        if (work.rows == 0) return;
        numbers.ask(p, number);
        const int n = round_up_8(work.rows), block = 2 * work.unit + (2 * work.unit + work.half < blocks ? work.half : 0);
        const bool few = work.rows <= few_rows;
        const u32 row_bytes = few ? n * 128 : (n + box_rows - 1) / box_rows * box_rows * 128, bytes = weight_block_bytes + row_bytes + n * 4 + 16;
        const u64 policy = alone ? policy_evict_first() : policy_evict_normal();
        const u8* weights = (down ? a.down.weights : a.gateup.weights) + ((u64)expert * blocks + block) * k_blocks * weight_block_bytes;
        const float* weight_scales = (down ? a.down.weight_scales : a.gateup.weight_scales) + ((u64)expert * pairs + work.unit) * k_blocks * 4;
        const u8* rows = (down ? a.down.rows : a.gateup.rows) + (u64)work.row * 128;
        const float* scales = (down ? a.down.scales : a.gateup.scales) + work.row;
        const TensorMap* map = down ? &a.down.rows_map : &a.gateup.rows_map;
        // What comes next is asked for while this unit is loaded: its number by the middle. With many rows its tiles are too, since a K block is missed if the next unit begins late; with few the second block would
        // wait for the number, and each K block's copies take most of the time there is, so both come at the end.
        const int tell_at = k_blocks / 2, take_at = both && few ? k_blocks - 1 : tell_at;
        int map_row = work.row, told = 0, after = 0;
        if (down && waits) {
            if (stored != (u32)gateups * unit_warps) wait_for_count(&common.tiles[work.tile].handed_on, a.gateup.blocks / 2 * unit_warps);
            else waits = false;
            fence_gpu();
            fence_async(); // they were written by ordinary stores
        }
#pragma unroll 1
        for (int k = 0; k < k_blocks; k++) {
            ring.claim(p);
            const u32 full = p.full(), operands = p.operands(), head = shared_address(p.header());
            if (elect_one()) {
                barrier_arrive_expect(full, bytes);
                bulk_load(operands, weights, weight_block_bytes, full, policy);
                if (few) bulk_load(operands + rows_offset, rows, row_bytes, full);
                else
#pragma unroll 1
                    for (int box = p.rank * box_rows; box < n; box += 2 * box_rows) // the blocks take turns
                        tensor_load_multicast(operands + rows_offset + box * 128, map, map_row + box, full, 3);
                bulk_load(head + header_scales, scales, n * 4, full);
                bulk_load(head + header_weight_scales, weight_scales, 16, full);
            }
            __syncwarp();
            weights += weight_block_bytes;
            rows += (u64)capacity * 128;
            map_row += capacity;
            scales += capacity;
            weight_scales += 4;
            p.advance(ring.count);
            if (k == tell_at) {
                told = numbers.tell(p, number);
                if (waits) stored = read_count((const u32*)common.tile_count + gateup_stored);
            }
            if (k == take_at) {
                after = numbers.take(p, number, told);
                next = tiles_at(after);
            }
        }
        number = after;
    }
}

/// The two math warpgroups issue their products by turns, so that one promotes while the other's are computed; left alone they would run in step.
constexpr int turn_barrier = 4; // and 5, for the second warpgroup
DEVICE void wait_for_turn(u32 warpgroup) { named_barrier(turn_barrier + warpgroup, math_threads); }
DEVICE void end_turn(u32 warpgroup) { named_arrive(turn_barrier + 1 - warpgroup, math_threads); }

/// Rows on the M side: scales of one K block. TwoScales: 8-column blocks alternate between gate and up.
template <bool TwoScales> struct SlabScales {
    float of[4]; // rows r and r + 8 by gate, by up
    DEVICE SlabScales(float a0, float a1, float w0, float w1) : of{a0 * w0, a1 * w0, TwoScales ? a0 * w1 : 0.0f, TwoScales ? a1 * w1 : 0.0f} { settle(of); }
    DEVICE u32 read() const { return __float_as_uint(of[0]) ^ __float_as_uint(of[1]) ^ (TwoScales ? __float_as_uint(of[2]) : 0); } // of all that was read
};
/// Promotes a slab of 64 rows x N weight rows.
template <int N, bool TwoScales> DEVICE void promote_slab(float (&final)[N / 2], const float (&acc)[N / 2], const SlabScales<TwoScales>& scales) {
#pragma unroll
    for (int j = 0; j < N / 8; j++) {
        const float s0 = scales.of[TwoScales ? j % 2 * 2 : 0], s1 = scales.of[TwoScales ? j % 2 * 2 + 1 : 1];
        final[4 * j] = fmaf(s0, acc[4 * j], final[4 * j]);
        final[4 * j + 1] = fmaf(s0, acc[4 * j + 1], final[4 * j + 1]);
        final[4 * j + 2] = fmaf(s1, acc[4 * j + 2], final[4 * j + 2]);
        final[4 * j + 3] = fmaf(s1, acc[4 * j + 3], final[4 * j + 3]);
    }
}

/// Weights on the M side: scales of one K block.
template <int N, bool TwoScales> struct ColumnScales {
    static constexpr int each = TwoScales ? 4 : 2; // columns c and c + 1 by gate, by up
    float of[N / 8 * each];
    DEVICE ColumnScales(const float2* c, float w0, float w1) {
#pragma unroll
        for (int j = 0; j < N / 8; j++) {
            const float2 columns = c[4 * j];
            of[each * j] = columns.x * w0, of[each * j + 1] = columns.y * w0;
            if constexpr (TwoScales) of[each * j + 2] = columns.x * w1, of[each * j + 3] = columns.y * w1;
        }
        settle(of);
    }
    DEVICE u32 read() const { // of all: the compiler reads in any order
        u32 read = TwoScales ? __float_as_uint(of[2]) : 0;
#pragma unroll
        for (int j = 0; j < N / 8; j++) read ^= __float_as_uint(of[each * j]);
        return read;
    }
};
/// Promotes 64 weight rows x N rows.
template <int N, bool TwoScales> DEVICE void promote_columns(float (&final)[N / 2], const float (&acc)[N / 2], const ColumnScales<N, TwoScales>& scales) {
    constexpr int each = ColumnScales<N, TwoScales>::each;
#pragma unroll
    for (int i = 0; i < N / 2; i++) final[i] = fmaf(scales.of[i / 4 * each + i % each], acc[i], final[i]);
}

/// One turn with rows on the M side: a slab, and where Half or Rest is more than zero, half the columns of the third slab or, behind two slabs, that many
/// rows on the N side, with this warpgroup's half of the weights. Issued together: what follows a turn (promotion, barriers) takes about as long as the other's
/// products, so a turn of a few products only would leave the tensor core idle.
template <int Half, int Rest, bool TwoScales, bool Last>
DEVICE void multiply_turn(float (&final)[64], float (&half)[Half > 0 ? 32 : 1], float (&rest)[Rest > 0 ? Rest / 2 : 1], u32 warpgroup, u32 slab, const Pipeline& p) {
    constexpr int third = 2 * slab_rows; // row
    float acc[64], half_acc[Half > 0 ? 32 : 1], rest_acc[Rest > 0 ? Rest / 2 : 1];
    const SlotHeader* header = p.header();
    const u32 rows = p.operands() + rows_offset, weights = p.operands();
    const int row = p.thread % 128 / 32 * 16 + p.thread % 32 / 4;
    wait_for_turn(warpgroup);
    wgmma_fence();
    if constexpr (Rest > 0) multiply_block<Rest>(rest_acc, weights + warpgroup * 64 * 128, rows + third * 128);
    if constexpr (Half > 0) multiply_block<64>(half_acc, rows + third * 128, weights + warpgroup * 64 * 128);
    if constexpr (Half > 0 || Rest > 0) wgmma_commit();
    multiply_block<128>(acc, rows + slab * slab_rows * 128, weights);
    wgmma_commit();
    end_turn(warpgroup);
    const float w0 = header->weight_scales[TwoScales ? 0 : p.rank], w1 = TwoScales ? header->weight_scales[1] : w0;
    const SlabScales<TwoScales> scales(header->scales[slab * slab_rows + row], header->scales[slab * slab_rows + row + 8], w0, w1);
    u32 read = scales.read();
    if constexpr (Half > 0 || Rest > 0) wgmma_wait<1>();
    if constexpr (Rest > 0) {
        const ColumnScales<Rest, TwoScales> columns((const float2*)(header->scales + third) + p.thread % 4, w0, w1);
        read ^= columns.read();
        settle(rest_acc);
        promote_columns(rest, rest_acc, columns);
    }
    if constexpr (Half > 0) {
        const SlabScales<TwoScales> rows_of_half(header->scales[third + row], header->scales[third + row + 8], w0, w1);
        read ^= rows_of_half.read();
        settle(half_acc);
        promote_slab<64>(half, half_acc, rows_of_half);
    }
    wgmma_wait<0>();
    settle(acc);
    if (Last) p.release<barriers_of(tile_rows)>(read);
    promote_slab<128>(final, acc, scales);
}

/// Weights on the M side: the warpgroup's 64 weight rows x N rows of one K block.
template <int N, bool TwoScales> DEVICE void multiply_columns(float (&final)[N / 2], u32 warpgroup, const Pipeline& p) {
    float acc[N / 2];
    const SlotHeader* header = p.header();
    if (N > few_rows) wait_for_turn(warpgroup);
    wgmma_fence();
    multiply_block<N>(acc, p.operands() + warpgroup * 64 * 128, p.operands() + rows_offset);
    wgmma_commit();
    if (N > few_rows) end_turn(warpgroup);
    const float w0 = header->weight_scales[TwoScales ? 0 : p.rank], w1 = TwoScales ? header->weight_scales[1] : w0;
    const ColumnScales<N, TwoScales> scales((const float2*)header->scales + p.thread % 4, w0, w1);
    wgmma_wait<0>();
    settle(acc);
    p.release<barriers_of(N)>(scales.read());
    promote_columns(final, acc, scales);
}

template <int Count> DEVICE void clear(float (&values)[Count]) {
#pragma unroll
    for (int i = 0; i < Count; i++) values[i] = 0.0f;
}

/// More than 96 rows. Each warpgroup takes one slab; of four slabs another, of three half the columns of the third. A rest behind two slabs is multiplied
/// with its rows on the N side, half the weights by each. (Three slabs and a rest need more registers than there are.)
template <int Slabs, int Rest, bool TwoScales, class Epilogue>
DEVICE void tall(const GemmArguments& g, const Work& work, Pipeline& p, Epilogue& epilogue) {
    float first[64], second[Slabs == 4 ? 64 : Slabs == 3 ? 32 : 1], rest[Rest > 0 ? Rest / 2 : 1], none[1] = {};
    clear(first);
    clear(second);
    clear(rest);
    const u32 warpgroup = uniform(threadIdx.x / 128);
    p.begin();
    epilogue.begin(work, p);
    for (int k = 0; k < g.k_blocks; k++) {
        barrier_wait(p.full(), p.phase());
        if constexpr (Slabs == 4) {
            multiply_turn<0, 0, TwoScales, false>(first, none, none, warpgroup, warpgroup, p);
            multiply_turn<0, 0, TwoScales, true>(second, none, none, warpgroup, 2 + warpgroup, p);
        } else multiply_turn<Slabs == 3 ? 64 : 0, Rest, TwoScales, true>(first, second, rest, warpgroup, warpgroup, p);
        p.advance(slots_of(Slabs * slab_rows + Rest));
    }
    epilogue.template tall<Slabs, Rest>(first, second, rest, g, p);
}

/// Up to 96 rows, all on the N side.
template <int N, bool TwoScales, class Epilogue> DEVICE void narrow(const GemmArguments& g, const Work& work, Pipeline& p, Epilogue& epilogue) {
    float final[N / 2];
    clear(final);
    const u32 warpgroup = uniform(threadIdx.x / 128);
    p.begin();
    if (N > few_rows || Epilogue::both) epilogue.begin(work, p);
    for (int k = 0; k < g.k_blocks; k++) {
        barrier_wait(p.full(), p.phase());
        multiply_columns<N, TwoScales>(final, warpgroup, p);
        p.advance(slots_of(N));
    }
    epilogue.template narrow<N>(final, g, work, p);
}

/// A math thread: takes a GEMM's units from the ring until the producer says that there are no more.
template <bool TwoScales, class Epilogue> DEVICE void compute(const GemmArguments& g, Pipeline& p) {
    Epilogue epilogue;
    while (true) {
        barrier_wait(p.full(), p.phase());
        Work work = p.header()->work;
        const int rows = work.rows = uniform(work.rows);
        if (rows == 0 || (Epilogue::both && TwoScales && uniform(work.down))) break; // no more of this GEMM
        if (const int skipped = p.skipped(work)) {
            p.begin();
            __syncwarp(); // all lanes have read
            p.release<1>();
            p.advance(skipped);
        }
        if (rows <= 8) narrow<8, TwoScales>(g, work, p, epilogue);
        else if (rows <= 16) narrow<16, TwoScales>(g, work, p, epilogue);
        else if (rows <= 32) narrow<32, TwoScales>(g, work, p, epilogue);
        else if (rows <= 48) narrow<48, TwoScales>(g, work, p, epilogue);
        else if (rows <= 64) narrow<64, TwoScales>(g, work, p, epilogue);
        else if (rows <= 80) narrow<80, TwoScales>(g, work, p, epilogue);
        else if (rows <= 96) narrow<96, TwoScales>(g, work, p, epilogue);
        else if (rows <= 128) tall<2, 0, TwoScales>(g, work, p, epilogue);
        else if (rows <= 144) tall<2, 16, TwoScales>(g, work, p, epilogue);
        else if (rows <= 160) tall<2, 32, TwoScales>(g, work, p, epilogue);
        else if (rows <= 192) tall<3, 0, TwoScales>(g, work, p, epilogue);
        else tall<4, 0, TwoScales>(g, work, p, epilogue);
    }
    epilogue.no_more(p);
}

/// Where a kernel leaves out one of the GEMMs.
struct Absent {
    static DEVICE void finish(const GemmArguments&, Pipeline&) {}
};
template <class Epilogue> struct IsPresent { static constexpr bool value = true; };
template <> struct IsPresent<Absent> { static constexpr bool value = false; };

/// GateUp, then Down, or one of them: what happens to their results.
template <class GateUp, class Down> DEVICE void grouped_gemms(const GemmsArguments& a) {
    constexpr bool has_gateup = IsPresent<GateUp>::value, has_down = IsPresent<Down>::value;
    SHARED_MEMORY(u8, 1024, memory);
    Pipeline p(memory);
    p.init();
    wait_for_earlier_kernels();
    launch_dependents();
    if (uniform(threadIdx.x / 128) == math_warpgroups) {
        registers_decrease<other_registers>();
        if (uniform(threadIdx.x / 32) != producer_warp) GateUp::finish(a.gateup, p);
        else {
            fence_async(); // rows were written by ordinary stores of an earlier kernel
            produce<has_gateup, has_down>(a, p);
        }
        __syncwarp();
    } else {
        registers_increase<math_registers>();
        if (threadIdx.x >= 128) end_turn(1); // the first warpgroup begins
        if constexpr (has_gateup) compute<true, GateUp>(a.gateup, p);
        if constexpr (has_down) compute<false, Down>(a.down, p);
    }
    cluster_sync(); // nobody leaves while the other may still write to it
}
