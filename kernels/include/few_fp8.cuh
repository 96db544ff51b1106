#pragma once
#include "few_compute.cuh"
#include "few_producer.cuh"
#include "quantize.cuh"
// 128-block FP8 weights with FP8 activations in the one launch of few tokens. Rows are codes, quantized in groups of 128. Numbers follow the chain of mainloop.cuh:
// per K block four products of 32, then final = fma(sa * sw, acc, final).

template <int Kind> struct FewFp8 {
    static constexpr int row_block_bytes = few_tokens * 128;
    static constexpr int slot_bytes = few_slot_bytes;
    static constexpr int header_bytes = 2 * 16;         // a slot of 32 weight rows has two K blocks
    static constexpr int scale_bytes = few_tokens * 4;  // of rows, per K block
    static constexpr bool own_rings = false;
    static constexpr bool halves = true;
    static constexpr int half_bytes = few_slot_bytes / 2;
    using Block = FewBlock<FewFp8>;

    /// A unit's weights and scales into the ring.
    static DEVICE void load(const FewArguments& f, const Block& b, bool is_gateup, const FewUnit& unit, int, FewPlace& place, u64 stream) {
        const int k_blocks = is_gateup ? f.hidden_blocks : f.intermediate_blocks, blocks = is_gateup ? 2 * f.intermediate_blocks : f.hidden_blocks;
        const int shift = 1 + unit.halves, bytes = few_slot_bytes >> unit.halves, block = unit.index >> shift;
        const u64 expert = b.routes()->expert[unit.active];
        const u8* weights = (is_gateup ? f.gateup : f.down) + (expert * blocks + block) * k_blocks * 16384 + (unit.index & ((1 << shift) - 1)) * bytes;
        const float* scales = (is_gateup ? f.gateup_scales : f.down_scales) + (expert * ((blocks + 1) / 2) + block / 2) * k_blocks * 4;
        for (int k = 0; k < k_blocks;) {
            const u32 full = b.full(place.slot), to = b.shared + place.slot * few_slot_bytes;
            const int both = unit.halves && k + 1 < k_blocks;
            barrier_wait(b.empty(place.slot), place.phase ^ 1);
            barrier_arrive_expect(full, (bytes + 16) << both);
            bulk_load(to, weights + (u64)k * 16384, bytes, full, stream);
            if (both) bulk_load(to + half_bytes, weights + (u64)(k + 1) * 16384, bytes, full, stream);
            bulk_load(b.shared + b.headers + place.slot * header_bytes, scales + k * 4, 16 << both, full);
            k += 1 + both;
            place.advance(f.ring_slots);
        }
    }

    /// One of the 16-value chunks of a row: codes to where products read them, the scale of its group beside the other tokens' of the K block.
    static DEVICE void write_chunk(const FewArguments& f, const FewRows& q, int token, int chunk) {
        Chunk values = {};
        if (chunk * 16 < q.columns) values = load_whole_chunk(q.from + (u64)token * q.columns + chunk * 16);
        const Codes quantized = quantize_chunk(values, q.divide, q.power_of_two);
        const int at = chunk / 8 * few_tokens + token;
        *(uint4*)(q.rows + at * 128 + ((chunk % 8) ^ token) * 16) = quantized.codes;
        if (chunk % 8 == 0) q.scales[at] = quantized.scale;
    }

    static DEVICE float2 biases(const FewArguments&, const Block&, const FewUnit&) { return make_float2(0.0f, 0.0f); }
    static DEVICE void add_biases(float (&)[4], float2) {}

    /// So many K blocks from k on. All products are issued before the first is waited for.
    template <int Count> static DEVICE void multiply_blocks(float (&final)[4], int k, const FewOperands& o, FewPlace& place, const FewArguments& f, const Block& b) {
        float acc[Count][4], w0[Count], w1[Count];
        float2 c[Count];
        int slot[Count];
        bool ends[Count]; // its slot
#pragma unroll
        for (int i = 0; i < Count; i++) {
            slot[i] = uniform(place.slot);
            ends[i] = !o.halves || (k + i) % 2 || k + i + 1 == o.k_blocks;
            // A unit comes before its copies have begun. While the slot's last contents, another warpgroup's, are still on their way, `full` has the parity that is
            // waited for; so those must have been read first. (Those before them have been when a unit comes, so here the parity is certain.)
            barrier_wait(b.empty(place.slot), place.phase ^ 1);
            barrier_wait(b.full(place.slot), place.phase);
            if (ends[i]) place.advance(f.ring_slots);
        }
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < Count; i++)
            multiply_block<8>(acc[i], b.shared + slot[i] * few_slot_bytes + ((k + i) & o.halves) * half_bytes, o.rows + (k + i) * row_block_bytes);
        wgmma_commit();
#pragma unroll
        for (int i = 0; i < Count; i++) {
            const float* header = (const float*)(b.header(slot[i]) + ((k + i) & o.halves) * 16);
            w0[i] = header[o.first], w1[i] = header[o.second];
            c[i] = *(const float2*)(o.scales + (k + i) * few_tokens);
        }
        wgmma_wait<0>();
#pragma unroll
        for (int i = 0; i < Count; i++) {
            settle(acc[i]);
            if (ends[i] && threadIdx.x % 32 == 0) barrier_arrive(b.empty(slot[i]));
            final[0] = fmaf(c[i].x * w0[i], acc[i][0], final[0]);
            final[1] = fmaf(c[i].y * w0[i], acc[i][1], final[1]);
            final[2] = fmaf(c[i].x * w1[i], acc[i][2], final[2]);
            final[3] = fmaf(c[i].y * w1[i], acc[i][3], final[3]);
        }
    }

    static DEVICE void multiply(float (&final)[4], const FewOperands& o, const FewUnit& unit, FewPlace&, const FewArguments& f, const Block& b) {
        FewPlace place;
        place.slot = unit.slot;
        place.phase = unit.phase;
        int k = 0;
#pragma unroll 1
        for (; k + 4 <= o.k_blocks; k += 4) multiply_blocks<4>(final, k, o, place, f, b);
#pragma unroll 1
        for (; k < o.k_blocks; k++) multiply_blocks<1>(final, k, o, place, f, b);
    }

    static DEVICE u32 activate(u32 gate, u32 up, const ActivationArguments& a) { return activate_pair<Kind>(gate, up, a, a.rounding == 0); }
};
