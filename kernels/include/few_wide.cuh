#pragma once
#include "few_compute.cuh"
#include "few_producer.cuh"
#include "wide_formats.cuh"
#include "wide_wgmma.cuh"
// Weights that are decoded to BF16 in registers in the one launch of few tokens: one of the formats of wide_formats.cuh. Rows are BF16, two blocks of
// [8 tokens][64 values] per K block; for MXFP8 activations they go to MXFP8 and back where they are written. Numbers follow the chains of wide_products.cuh.

template <class Weights> struct FewWide {
    static constexpr int row_bytes = few_tokens * 128; // 64 values of depth
    static constexpr int row_block_bytes = 2 * row_bytes;
    static constexpr int depths = 4 / Weights::warp_parts; // of 64 values, in a slot
    static constexpr int k_block_slots = 2 / depths;
    static constexpr int slot_bytes = depths * Weights::tile_bytes;
    static constexpr int header_bytes = Weights::promotes ? 2 * 16 : 0;
    static constexpr int scale_bytes = 0;
    static constexpr bool own_rings = true; // one warpgroup cannot decode as fast as memory brings, and units may be longer than a ring
    static constexpr bool halves = false; // decoding 32 weight rows takes a warpgroup as long as 64
    using Block = FewBlock<FewWide>;

    /// A unit's tiles of 64 weight rows and scales, into the ring.
    static DEVICE void load(const FewArguments& f, const Block& b, bool is_gateup, const FewUnit& unit, int first_slot, int slots, FewPlace& place, u64 stream) {
        const int k_blocks = is_gateup ? f.hidden_blocks : f.intermediate_blocks, blocks = is_gateup ? 2 * f.intermediate_blocks : f.hidden_blocks;
        const int block = unit.index / 2;
        constexpr int bytes = Weights::tile_bytes;
        const u64 expert = b.routes()->expert[unit.active];
        const u8* weights = (is_gateup ? f.gateup : f.down) + (expert * blocks + block) * 2 * k_blocks * Weights::piece_bytes + unit.index % 2 * bytes;
        const float* scales = (is_gateup ? f.gateup_scales : f.down_scales) + (expert * ((blocks + 1) / 2) + block / 2) * k_blocks * 4;
#pragma unroll 1
        for (int depth = 0; depth < 2 * k_blocks;) {
            const u32 full = b.full(place.slot), to = b.shared + place.slot * slot_bytes;
            const int left = 2 * k_blocks - depth, count = left < depths ? left : depths;
            barrier_wait(b.empty(place.slot), place.phase ^ 1);
            barrier_arrive_expect(full, count * (Weights::promotes ? bytes + 8 : bytes));
            if (Weights::promotes) bulk_load(b.shared + b.headers + place.slot * header_bytes, scales + depth * 2, count * 8, full);
#pragma unroll 1
            for (int i = 0; i < count; i++, depth++) bulk_load(to + i * bytes, weights + (u64)depth * Weights::piece_bytes, bytes, full, stream);
            place.advance(slots, first_slot);
        }
    }

    /// Four neighbouring threads have a group of 32 in each of both parts.
    static DEVICE void round_to_mx(u32 (&pairs)[8]) {
        u32 maxima[8];
#pragma unroll
        for (int part = 0; part < 2; part++) {
            u32 m = 0;
#pragma unroll
            for (int i = 0; i < 4; i++) m = maximum_bf16(m, absolute_bf16(pairs[4 * part + i]));
#pragma unroll
            for (int step = 1; step < 4; step *= 2) m = maximum_bf16(m, __shfl_xor_sync(0xFFu << (threadIdx.x & 24), m, step));
            m = maximum_bf16(m, m >> 16 | m << 16);
#pragma unroll
            for (int i = 0; i < 4; i++) maxima[4 * part + i] = m;
        }
        mx_round(pairs, maxima);
    }

    /// 16 values of a row, eight of either half of a K block.
    static DEVICE void write_chunk(const FewArguments& f, const FewRows& q, const u16* row, int token, int chunk) {
        u32 pairs[8];
        uint4 values[2];
        const int column = chunk / 8 * 128 + chunk % 8 * 8;
        q.load(values, {column < q.columns ? row + column : nullptr, column + 64 < q.columns ? row + column + 64 : nullptr});
#pragma unroll
        for (int part = 0; part < 2; part++) {
            const uint4 v = values[part];
            pairs[4 * part] = v.x, pairs[4 * part + 1] = v.y, pairs[4 * part + 2] = v.z, pairs[4 * part + 3] = v.w;
        }
        if (Weights::mx && f.quantize) round_to_mx(pairs);
#pragma unroll
        for (int part = 0; part < 2; part++)
            *(uint4*)(q.rows + (chunk / 8 * 2 + part) * row_bytes + token * 128 + ((chunk % 8) ^ token) * 16) =
                make_uint4(pairs[4 * part], pairs[4 * part + 1], pairs[4 * part + 2], pairs[4 * part + 3]);
    }

    /// Of the weight rows r and r + 8 that this thread holds. Asked for before the products, since they come from cold memory.
    static DEVICE float2 biases(const FewArguments& f, const Block& b, const FewUnit& unit) {
        const bool is_gateup = unit.kind == few_gateup;
        const float* from = is_gateup ? f.gateup_biases : f.down_biases;
        if (!from) return make_float2(0.0f, 0.0f);
        const int blocks = is_gateup ? 2 * f.intermediate_blocks : f.hidden_blocks;
        from += (u64)b.routes()->expert[unit.active] * blocks * 128 + unit.index * 64 + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
        return make_float2(from[0], from[8]);
    }
    static DEVICE void add_biases(float (&final)[4], float2 bias) { // also zeros, which make 0 of -0
        final[0] += bias.x;
        final[1] += bias.x;
        final[2] += bias.y;
        final[3] += bias.y;
    }

    /// What a thread decodes of 64 values of depth.
    struct Parts : WideTilePart<Weights> {
        DEVICE Parts() {}
        DEVICE Parts(const Block& b, int slot, int depth) { this->fetch(b.memory + slot * slot_bytes + depth * Weights::tile_bytes, threadIdx.x % 128); }
        /// Of what nothing is computed from before the slot is left.
        DEVICE u32 read() const { return Weights::operands_as_they_lie ? this->parts.read() : 0; }
    };

    /// A warp has read all of the slot, this among it.
    static DEVICE void leave(const Block& b, FewPlace& place, int first_slot, int slots, const Parts& last, float s0 = 0.0f, float s1 = 0.0f) {
        const u32 none = none_of(last.read() | __float_as_uint(s0) | __float_as_uint(s1), place.slot);
        __syncwarp(); // all lanes have read
        if (threadIdx.x % 32 == 0) barrier_arrive(b.empty(place.slot) + none);
        place.advance(slots, first_slot);
    }
    static DEVICE Parts enter(const Block& b, const FewPlace& place) {
        barrier_wait(b.full(place.slot), place.phase);
        return Parts(b, place.slot, 0);
    }
    /// The second 64 values of a K block: in a slot of their own, or behind the first.
    static DEVICE Parts second(const Block& b, FewPlace& place, int first_slot, int slots, const Parts& first) {
        if (depths > 1) return Parts(b, place.slot, 1);
        leave(b, place, first_slot, slots, first);
        return enter(b, place);
    }

    /// While 64 values are multiplied, the next 64 are decoded, and those after them are on their way from shared memory.
    static DEVICE void multiply(float (&final)[4], const FewOperands& o, const FewUnit& unit, FewPlace& place, const FewArguments& f, const Block& b) {
        if (unit.sharer >= 0) {
            multiply_shared(final, o, unit, f, b);
            return;
        }
        const int slots = f.ring_slots, first_slot = uniform(threadIdx.x / 128) * slots;
        u32 a[2][16];
        Parts even = enter(b, place);
        even.decode(a[0]);
        Parts odd = second(b, place, first_slot, slots, even);
        int k = 0;
        do {
            float sum[4], s0 = 0.0f, s1 = 0.0f;
            float (&to)[4] = Weights::promotes ? sum : final;
            const u32 rows = o.rows + k * row_block_bytes;
            const bool more = k + 1 < o.k_blocks;
            wgmma_fence();
            multiply_wide<8, 2>(to, a[0], operand_descriptor(rows), Weights::promotes);
            wgmma_commit();
            if (Weights::promotes) {
                const float* header = (const float*)b.header(place.slot);
                s0 = header[o.first], s1 = header[o.second];
            }
            odd.decode(a[1]);
            leave(b, place, first_slot, slots, odd, s0, s1);
            if (more) even = enter(b, place);
            wgmma_fence();
            multiply_wide<8, 2>(to, a[1], operand_descriptor(rows + row_bytes), false);
            wgmma_commit();
            wgmma_wait<1>(); // the first operand is free
            if constexpr (Weights::operands_as_they_lie) settle(a[0]);
            if (more) {
                even.decode(a[0]);
                odd = second(b, place, first_slot, slots, even);
            }
            wgmma_wait<0>();
            if constexpr (Weights::operands_as_they_lie) settle(a[1]); // or the compiler loads what comes next into the registers that products still read
            settle(to);
            if (Weights::promotes) promote(final, sum, s0, s1);
        } while (++k < o.k_blocks);
    }

    /// Turns of a shared unit: two K blocks each, the last perhaps one. Handing on the sums takes a turn longer than the products of a K block.
    static DEVICE int turns(int k_blocks) { return (k_blocks + 1) / 2; }

    /// A K block for a turn: both halves' operands.
    static DEVICE void decode_block(u32 (&a)[2][16], float (&s)[2], const FewOperands& o, FewPlace& place, int slots, const Block& b) {
        Parts even = enter(b, place), odd;
        if (depths > 1) odd = second(b, place, 0, slots, even); // on its way
        even.decode(a[0]);
        if (depths == 1) odd = second(b, place, 0, slots, even);
        if (Weights::promotes) {
            const float* header = (const float*)b.header(place.slot);
            s[0] = header[o.first], s[1] = header[o.second];
        }
        odd.decode(a[1]);
        leave(b, place, 0, slots, odd, s[0], s[1]);
    }
    static DEVICE void multiply_decoded(float (&to)[4], u32 (&a)[2][16], u32 rows, bool begins) {
        multiply_wide<8, 2>(to, a[0], operand_descriptor(rows), begins);
        multiply_wide<8, 2>(to, a[1], operand_descriptor(rows + row_bytes), false);
    }

    /// A math warpgroup's part of a shared unit: every third turn. Sums go from one to the next, so that numbers follow the same chain; what is decoded, is so before its turn, and what is promoted is multiplied too. Turns go on from
    /// unit to unit, so that nobody writes sums before those ahead are read. (A slot's parity is certain: whoever waits for it has had a turn after the slot's last contents, since the ring holds three turns.)
    static DEVICE void multiply_shared(float (&final)[4], const FewOperands& o, const FewUnit& unit, const FewArguments& f, const Block& b) {
        constexpr int turn_slots = 2 * k_block_slots;
        const int warpgroup = uniform(threadIdx.x / 128), slots = b.rings * f.ring_slots, first = uniform(turns_between(unit.sharer, warpgroup));
        float4* sums = (float4*)(b.memory + b.sums) + threadIdx.x % 128;
        FewPlace place(uniform(unit.slot));
        place.phase = uniform(unit.phase);
        place.skip(first * turn_slots, slots);
#pragma unroll 1
        for (int k = 2 * first; k < o.k_blocks; k += 2 * few_math_warpgroups) {
            u32 a[2][2][16];
            float sum[2][4], s[2][2] = {};
            const u32 rows = o.rows + k * row_block_bytes;
            const bool two = k + 1 < o.k_blocks;
            decode_block(a[0], s[0], o, place, slots, b);
            if (Weights::promotes) {
                wgmma_fence();
                multiply_decoded(sum[0], a[0], rows, true);
                wgmma_commit();
            }
            if (two) decode_block(a[1], s[1], o, place, slots, b);
            place.skip((few_math_warpgroups - 1) * turn_slots, slots);
            if (Weights::promotes) {
                if (two) {
                    wgmma_fence();
                    multiply_decoded(sum[1], a[1], rows + row_block_bytes, true);
                    wgmma_commit();
                }
                wgmma_wait<0>();
                settle(sum[0]);
                if (two) settle(sum[1]);
                take_turn(final, sums, warpgroup, k);
                promote(final, sum[0], s[0][0], s[0][1]);
                if (two) promote(final, sum[1], s[1][0], s[1][1]);
            } else {
                take_turn(final, sums, warpgroup, k);
                wgmma_fence();
                multiply_decoded(final, a[0], rows, false);
                if (two) multiply_decoded(final, a[1], rows + row_block_bytes, false);
                wgmma_commit();
                wgmma_wait<0>();
                settle(final);
            }
            if (k + 2 < o.k_blocks) *sums = make_float4(final[0], final[1], final[2], final[3]);
            named_arrive(few_turn_barrier + next_warpgroup(warpgroup), few_turn_threads);
        }
    }
    static DEVICE void take_turn(float (&final)[4], const float4* sums, int warpgroup, int k) {
        named_barrier(few_turn_barrier + warpgroup, few_turn_threads);
        const float4 before = k > 0 ? *sums : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        final[0] = before.x, final[1] = before.y, final[2] = before.z, final[3] = before.w;
    }

    static DEVICE u32 activate(u32 gate, u32 up, const ActivationArguments& a) {
        const bool rounds = a.rounding == 0;
        return a.kind == silu ? activate_pair<silu>(gate, up, a, rounds)
            : a.kind == swigluoai ? activate_pair<swigluoai>(gate, up, a, rounds)
            : a.kind == swiglustep ? activate_pair<swiglustep>(gate, up, a, rounds)
                                   : activate_pair<gelu_tanh>(gate, up, a, rounds);
    }
};
