#pragma once
#include "wide_mainloop.cuh"
// What a math warpgroup does with the ring. A deep unit gives it 64 weight rows, a tall one 128: two tiles, with sums of their own. Of a tall unit the weights of the next group of products are decoded while a group is
// computed, so one at least is always under way; a deep one has few products, and decodes a stage when those of the stage before are done. An output is one chain of products of depth 16 over ascending K; with scales of
// 128-blocks one chain per block, then final = fma(scale, sum, final).

/// 0, but not known before here: what is known when registers are few stays in those.
DEVICE u32 wide_zero() {
#ifdef EMULATED
    return 0;
#else
    u32 zero;
    asm volatile("mov.u32 %0, 0;" : "=r"(zero));
    return zero;
#endif
}

/// The same, but not known to be: worked out again rather than held in registers.
DEVICE u32 wide_again(u32 x) {
#ifndef EMULATED
    asm volatile("" : "+r"(x));
#endif
    return x;
}

DEVICE void wide_meet(int warpgroup) { named_barrier(1 + warpgroup, 128); }

template <int Count> DEVICE void wide_clear(float (&values)[Count]) {
#pragma unroll
    for (int i = 0; i < Count; i++) values[i] = 0.0f;
}

/// Halves in a group of products whose sums are promoted: one where registers are needed for those.
DEVICE constexpr int promoted_halves(int n) { return n > 96 ? 1 : 2; }

/// 128 weight rows of `count` stages times N rows: two tiles with sums of their own. A stage holds two halves of 32 values of each. Products are waited for at the end of a stage: the assembler does not follow those
/// that are pending there through a kernel of many widths, and would serialize all of them.
template <int N, class Format> DEVICE void wide_tall_sums(float (&low)[N / 2], float (&high)[N / 2], int count, WideRing<Format>& ring) {
    const u32 thread = thread_again(), piece = uniform(thread / 128) * Format::piece_bytes;
    u32 a[2][16];
    wide_clear(low);
    wide_clear(high);
    ring.stage = uniform(ring.stage);
    ring.wait(ring.current());
    Format::template operand<2>(a[0], ring.weights(ring.current()) + piece, 0, 0, thread % 128);
    int k = 0;
    do {
        const WideStage s = ring.current();
        ring.advance();
#pragma unroll
        for (int tile = 0; tile < 2; tile++) {
            wgmma_fence();
            multiply_wide<N, 2>(tile == 0 ? low : high, a[tile], operand_descriptor(ring.rows(s)), false);
            wgmma_commit();
            if (tile > 0) wgmma_wait<1>(); // the other operand is free
            if (tile == 0) {
                Format::template operand<2>(a[1], ring.weights(s) + piece, 1, 0, thread % 128);
            } else if (k + 1 < count) {
                ring.wait(ring.current());
                Format::template operand<2>(a[0], ring.weights(ring.current()) + piece, 0, 0, thread % 128);
            }
        }
        wgmma_wait<0>();
        ring.release(s);
    } while (++k < count);
    settle(low);
    settle(high);
}

/// 64 weight rows times few rows. A stage's products are few: while they are computed the next stage is waited for and read; it is decoded when they are done, while the other warpgroup's are computed.
/// Scale: which of a block's scales rows r and r + 8 take.
template <int N, class Format> DEVICE void wide_deep_sums(float (&final)[N / 2], int k_blocks, int scale0, int scale1, WideRing<Format>& ring) {
    const u32 thread = thread_again();
    const int own = uniform(thread / 128);
    u32 a[2][16];
    wide_clear(final);
    ring.stage = uniform(ring.stage);
    WideTilePart<Format> parts[2]; // of both pieces, one tile
    const auto fetch = [&] {
        ring.wait(ring.current());
#pragma unroll
        for (int i = 0; i < 2; i++) parts[i].fetch(ring.weights(ring.current()) + i * Format::piece_bytes + own * Format::tile_bytes, thread % 128);
    };
    const auto decode = [&] {
#pragma unroll
        for (int i = 0; i < 2; i++) parts[i].decode(a[i]);
    };
    fetch();
    decode();
    int k = 0;
    do {
        const WideStage s = ring.current();
        const bool more = k + 1 < k_blocks;
        float sum[N / 2], s0 = 0.0f, s1 = 0.0f;
        float (&to)[N / 2] = Format::promotes ? sum : final;
        ring.advance();
        wgmma_fence();
        multiply_wide<N, 2>(to, a[0], operand_descriptor(ring.rows(s)), Format::promotes);
        multiply_wide<N, 2>(to, a[1], operand_descriptor(ring.rows(s) + WideLayout<Format>::deep_rows), false);
        wgmma_commit();
        if (Format::promotes) s0 = ring.scales(s)[scale0], s1 = ring.scales(s)[scale1];
        if (more) fetch();
        wgmma_wait<0>();
        settle(a[0]);
        settle(a[1]);
        if constexpr (Format::promotes) settle(sum);
        ring.release(s, __float_as_uint(s1) | __float_as_uint(s0)); // they may be one and the same
        if (more) decode();
        if (Format::promotes) promote(final, sum, s0, s1);
    } while (++k < k_blocks);
    settle(final);
}

/// 128 weight rows times N rows; a block of 128 values takes two stages. Halves: of 32 values, in a group.
template <int N, int Halves, class Format>
DEVICE void wide_tall_promoted(float (&low)[N / 2], float (&high)[N / 2], int k_blocks, int scale0, int scale1, WideRing<Format>& ring) {
    constexpr int groups = 4 / Halves; // of a tile in a block
    const u32 thread = thread_again(), piece = uniform(thread / 128) * Format::piece_bytes;
    u32 a[2][8 * Halves];
    wide_clear(low);
    wide_clear(high);
    ring.stage = uniform(ring.stage);
    ring.wait(ring.current());
    Format::template operand<Halves>(a[0], ring.weights(ring.current()) + piece, 0, 0, thread % 128);
    int k = 0;
    do {
        const WideStage even = ring.current();
        ring.advance();
        const WideStage odd = ring.current();
        ring.advance();
#pragma unroll
        for (int tile = 0; tile < 2; tile++) {
            float sum[N / 2];
#pragma unroll
            for (int group = 0; group < groups; group++) {
                const int half = group * Halves, next = half + Halves;
                wgmma_fence();
                multiply_wide<N, Halves>(sum, a[group % 2], operand_descriptor(wide_again(ring.rows(half < 2 ? even : odd))) + half % 2 * 4, group == 0);
                wgmma_commit();
                if (group > 0) wgmma_wait<1>(); // its operand is free
                if (group + 1 < groups) {
                    if (tile == 0 && next == 2) ring.wait(odd);
                    Format::template operand<Halves>(a[(group + 1) % 2], ring.weights({(int)wide_again((next < 2 ? even : odd).stage), 0}) + piece, tile, next % 2, thread % 128);
                } else if (tile == 0) {
                    Format::template operand<Halves>(a[0], ring.weights(even) + piece, 1, 0, thread % 128);
                } else if (k + 1 < k_blocks) {
                    ring.wait(ring.current());
                    Format::template operand<Halves>(a[0], ring.weights(ring.current()) + piece, 0, 0, thread % 128);
                }
            }
            const float s0 = ring.scales(even)[scale0], s1 = ring.scales(even)[scale1];
            wgmma_wait<0>();
            settle(sum);
            if (tile == 1) {
                ring.release(even, __float_as_uint(s1) | __float_as_uint(s0)); // they may be one and the same
                ring.release(odd);
            }
            promote(tile == 0 ? low : high, sum, s0, s1);
        }
    } while (++k < k_blocks);
}

/// Stages of a tall unit that has no second block: nothing to do for the second warpgroup.
template <class Format> DEVICE void wide_pass(int count, WideRing<Format>& ring) {
    for (int k = 0; k < count; k++) {
        ring.wait(ring.current());
        ring.release(ring.current());
        ring.advance();
    }
}

/// A warpgroup has stored its part of the intermediate.
template <class Epilogue> DEVICE void wide_hand_on(const WideGemmArguments& g, const WideWork& work, int warpgroup) {
    if (!Epilogue::gate_and_up || !g.hands_on) return;
    wide_meet(warpgroup); // all threads have
    if (thread_again() % 128) return;
    fence_gpu();
    count(&g.tiles[work.first].handed_on);
    count((u32*)g.tile_count + gateup_stored);
}

template <int N, class Format, class Epilogue> DEVICE void wide_deep_unit(const WideGemmArguments& g, int odd, WideRing<Format>& ring) {
    float sums[N / 2];
    wide_deep_sums<N>(sums, g.k_blocks, Epilogue::gate_and_up ? 0 : odd, Epilogue::gate_and_up ? 1 : odd, ring);
    const int own = thread_again() / 128;
    wide_meet(own); // somebody wrote it
    const WideWork work = ring.unit(own);
    Epilogue::template tile<N, Format>(sums, g, work, work.block, own, ring.staging());
    wide_hand_on<Epilogue>(g, work, own);
}

template <int N, class Format, class Epilogue> DEVICE void wide_tall_unit(const WideGemmArguments& g, WideRing<Format>& ring) {
    float low[N / 2], high[N / 2];
    if constexpr (Format::promotes) {
        const int own = Epilogue::gate_and_up ? 0 : thread_again() / 128;
        wide_tall_promoted<N, promoted_halves(N)>(low, high, g.k_blocks, own, Epilogue::gate_and_up ? 1 : own, ring);
    } else {
        wide_tall_sums<N>(low, high, 2 * g.k_blocks, ring);
    }
    const int own = thread_again() / 128;
    wide_meet(own); // somebody wrote it
    const WideWork work = ring.unit(own);
    Epilogue::template tile<N, Format>(low, g, work, work.block + own, 0, ring.staging());
    Epilogue::template tile<N, Format>(high, g, work, work.block + own, 1, ring.staging());
    wide_hand_on<Epilogue>(g, work, own);
}

template <class Format, class Epilogue, int N, int... Wider>
DEVICE void wide_tall_of(WideWidths<N, Wider...>, const WideGemmArguments& g, int rows, WideRing<Format>& ring) {
    if constexpr (sizeof...(Wider) > 0) {
        if (rows > N) return wide_tall_of<Format, Epilogue>(WideWidths<Wider...>{}, g, rows, ring);
    }
    wide_tall_unit<N, Format, Epilogue>(g, ring);
}

/// A math thread: takes units from the ring until the producer says that there are no more.
template <class Format, class Epilogue> DEVICE void wide_consume(const WideGemmArguments& g, WideRing<Format>& ring) {
    while (true) {
        ring.wait(ring.current());
        const WideWork work = *ring.work();
        const int own = uniform(thread_again() / 128), kind = uniform(work.kind), rows = uniform(work.rows), first = uniform(work.first);
        if (kind == wide_end || (Epilogue::gate_and_up && first < 0)) return; // no more of this GEMM
        if (kind == wide_tall && own > uniform(work.second)) {
            wide_pass(2 * g.k_blocks, ring);
            continue;
        }
        if (thread_again() % 128 == 0) ring.unit(own) = work; // what the end needs; the ring forgets it, and registers are for sums
        if (kind == wide_tall) wide_tall_of<Format, Epilogue>(typename Format::Widths{}, g, rows, ring);
        else if (rows <= 8) wide_deep_unit<8, Format, Epilogue>(g, uniform(work.block) % 2, ring);
        else wide_deep_unit<16, Format, Epilogue>(g, uniform(work.block) % 2, ring);
    }
}

/// GateUp, then Down, or the one that there are units of.
template <class Format, class GateUp, class Down> DEVICE void wide_gemms(const WideGemmsArguments& a) {
    SHARED_MEMORY(u8, 1024, memory);
    WideRing<Format> ring(memory);
    ring.init();
    const u32 asked = a.gateup.hands_on && threadIdx.x == wide_math_threads ? count_up((u32*)a.units, ~0u) : 0;
    wait_for_earlier_kernels();
    launch_dependents();
    if (uniform(threadIdx.x / 128) == wide_math_threads / 128) {
        registers_decrease<wide_producer_registers>();
        if (uniform(threadIdx.x / 32) == wide_math_threads / 32) {
            fence_async(); // rows were written by ordinary stores of an earlier kernel
            wide_produce(a, ring, asked);
        }
    } else {
        registers_increase<wide_math_registers>();
        ring.stage = wide_zero(), ring.phase = wide_zero();
        wide_consume<Format, GateUp>(a.gateup, ring);
        wide_consume<Format, Down>(a.down, ring);
    }
}
