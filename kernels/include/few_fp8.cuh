#pragma once
#include "few_compute.cuh"
#include "few_producer.cuh"
#include "quantize.cuh"
// 128-block FP8 weights with FP8 activations in the one launch of few tokens. Rows are codes, quantized in groups of 128. Numbers follow the chain of mainloop.cuh:
// per K block four products of 32, then final = fma(sa * sw, acc, final).

template <int Kind> struct FewFp8 {
    static constexpr int row_block_bytes = few_tokens * 128;
    static constexpr int slot_k_blocks = 4; // whose products are issued together; of 32 weight rows they leave half a slot empty
    static constexpr int k_block_bytes = 64 * 128;
    static constexpr int slot_bytes = slot_k_blocks * k_block_bytes;
    static constexpr int header_bytes = slot_k_blocks * 16; // scales
    static constexpr int scale_bytes = few_tokens * 4; // of rows, per K block
    static constexpr bool own_rings = false;
    static constexpr bool halves = true;
    using Block = FewBlock<FewFp8>;

    /// A unit's weights and scales into the ring.
    static DEVICE void load(const FewArguments& f, const Block& b, bool is_gateup, const FewUnit& unit, int, int slots, FewPlace& place, u64 stream) {
        const int k_blocks = is_gateup ? f.hidden_blocks : f.intermediate_blocks, blocks = is_gateup ? 2 * f.intermediate_blocks : f.hidden_blocks;
        const int halves = halves_of<FewFp8>(f, unit), shift = 1 + halves, bytes = k_block_bytes >> halves, block = unit.index >> shift;
        const u64 expert = b.routes()->expert[unit.active];
        const u8* weights = (is_gateup ? f.gateup : f.down) + (expert * blocks + block) * k_blocks * 16384 + (unit.index & ((1 << shift) - 1)) * bytes;
        const float* scales = (is_gateup ? f.gateup_scales : f.down_scales) + (expert * ((blocks + 1) / 2) + block / 2) * k_blocks * 4;
#pragma unroll 1
        for (int k = 0; k < k_blocks; k += slot_k_blocks) {
            const u32 full = b.full(place.slot);
            u32 to = b.shared + place.slot * slot_bytes;
            const int count = k_blocks - k < slot_k_blocks ? k_blocks - k : slot_k_blocks;
            barrier_wait(b.empty(place.slot), place.phase ^ 1);
            barrier_arrive_expect(full, count * (bytes + 16));
#pragma unroll 1
            for (int i = 0; i < count; i++, to += bytes, weights += 16384) bulk_load(to, weights, bytes, full, stream);
            bulk_load(b.shared + b.headers + place.slot * header_bytes, scales + k * 4, count * 16, full);
            place.advance(slots);
        }
    }

    /// One of the 16-value chunks of a row: codes to where products read them, the scale of its group beside the other tokens' of the K block.
    static DEVICE void write_chunk(const FewArguments& f, const FewRows& q, const u16* row, int token, int chunk) {
        Chunk values = {};
        if (chunk * 16 < q.columns) {
            uint4 v[2];
            q.load(v, {row + chunk * 16, row + chunk * 16 + 8});
            values = Chunk{{v[0].x, v[0].y, v[0].z, v[0].w, v[1].x, v[1].y, v[1].z, v[1].w}};
        }
        const Codes quantized = quantize_chunk(values, q.divide, q.power_of_two);
        const int at = chunk / 8 * few_tokens + token;
        *(uint4*)(q.rows + at * 128 + ((chunk % 8) ^ token) * 16) = quantized.codes;
        if (chunk % 8 == 0) q.scales[at] = quantized.scale;
    }

    static DEVICE int turns(int) { return 0; } // units are not shared
    static DEVICE float2 biases(const FewArguments&, const Block&, const FewUnit&) { return make_float2(0.0f, 0.0f); }
    static DEVICE void add_biases(float (&)[4], float2) {}

    /// Four K blocks at a time. All their products are issued before the first is waited for. Of fewer than four all are multiplied, and the others dropped: so all are multiplied in
    /// one place, whose instructions are there.
    static DEVICE void multiply(float (&final)[4], const FewOperands& o, const FewUnit& unit, FewPlace&, const FewArguments& f, const Block& b) {
        FewPlace place(uniform(unit.slot));
        place.phase = uniform(unit.phase);
        const u32 step = k_block_bytes / 16 >> o.halves;
        u32 rows = operand_place(o.rows);
        const float* scales = o.scales;
#pragma unroll 1
        for (int k = 0; k < o.k_blocks; k += slot_k_blocks) {
            // A unit comes before its copies have begun. While the slot's last contents, another warpgroup's, are still on their way, `full` has the parity that is waited for;
            // so those must have been read first. (Those before them have been when a unit comes, so here the parity is certain.)
            barrier_wait(b.empty(place.slot), place.phase ^ 1);
            barrier_wait(b.full(place.slot), place.phase);
            const u32 weights = operand_place(b.shared) + place.slot * (slot_bytes / 16);
            const float* header = (const float*)b.header(place.slot);
            const int count = o.k_blocks - k;
            float acc[slot_k_blocks][4], s[slot_k_blocks][4];
            u32 read = 0;
            wgmma_fence();
#pragma unroll
            for (int i = 0; i < slot_k_blocks; i++)
                if (!products_are_dear || i < count) multiply_block_at<8>(acc[i], weights + i * step, rows + i * (row_block_bytes / 16));
            wgmma_commit();
#pragma unroll
            for (int i = 0; i < slot_k_blocks; i++) {
                const float w0 = header[4 * i + o.first], w1 = header[4 * i + o.second];
                const float2 c = *(const float2*)(scales + i * few_tokens);
                s[i][0] = c.x * w0, s[i][1] = c.y * w0, s[i][2] = c.x * w1, s[i][3] = c.y * w1;
                settle(s[i]);
                read ^= __float_as_uint(s[i][0]) ^ __float_as_uint(s[i][3]);
            }
            wgmma_wait<0>();
#pragma unroll
            for (int i = 0; i < slot_k_blocks; i++) settle(acc[i]);
            if (threadIdx.x % 32 == 0) barrier_arrive(b.empty(place.slot) + none_of(read, place.slot));
            place.advance(f.ring_slots);
#pragma unroll
            for (int i = 0; i < slot_k_blocks; i++) {
                if (i >= count) break;
#pragma unroll
                for (int j = 0; j < 4; j++) final[j] = fmaf(s[i][j], acc[i][j], final[j]);
            }
            rows += slot_k_blocks * (row_block_bytes / 16);
            scales += slot_k_blocks * few_tokens;
        }
    }

    static DEVICE u32 activate(u32 gate, u32 up, const ActivationArguments& a) { return activate_pair<Kind>(gate, up, a, a.rounding == 0); }
};
