#pragma once
#include "producer.cuh"
// What the math warpgroups do with the ring (pipeline.cuh): they multiply and promote.

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
        constexpr bool narrower = !Epilogue::both; // GEMMs of their own meet more rows, where power decides, and products of fewer columns take less
        if (rows <= 8) narrow<8, TwoScales>(g, work, p, epilogue);
        else if (rows <= 16) narrow<16, TwoScales>(g, work, p, epilogue);
        else if (rows <= 32) narrow<32, TwoScales>(g, work, p, epilogue);
        else if (rows <= 48) narrow<48, TwoScales>(g, work, p, epilogue);
        else if (narrower && rows <= 56) narrow<narrower ? 56 : 64, TwoScales>(g, work, p, epilogue);
        else if (rows <= 64) narrow<64, TwoScales>(g, work, p, epilogue);
        else if (narrower && rows <= 72) narrow<narrower ? 72 : 80, TwoScales>(g, work, p, epilogue);
        else if (rows <= 80) narrow<80, TwoScales>(g, work, p, epilogue);
        else if (narrower && rows <= 88) narrow<narrower ? 88 : 96, TwoScales>(g, work, p, epilogue);
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
    const bool produces = uniform(threadIdx.x / 32) == producer_warp;
    UnitNumbers<has_gateup && has_down> numbers(a.units);
    const int number = produces ? numbers.first(p) : 0;
    wait_for_earlier_kernels();
    launch_dependents();
    if (uniform(threadIdx.x / 128) == math_warpgroups) {
        registers_decrease<other_registers>();
        if (!produces) GateUp::finish(a.gateup, p);
        else {
            fence_async(); // rows were written by ordinary stores of an earlier kernel
            produce<has_gateup, has_down>(a, p, numbers, number);
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
