#pragma once
#include "mainloop.cuh"
#include "numerics.cuh"
// What happens to a unit's FP32 results.

/// Rounds to BF16 and stores rows [blocks][capacity][128] as contiguous bulk stores: Down, and the plain GateUp of the tests. Both: of a
/// kernel that computes both GEMMs.
template <bool Both> struct StoreRows {
    static constexpr bool both = Both;
    static constexpr int works = tile_rows * 256; // after the rows
    static constexpr int staging_bytes = works + math_warps * sizeof(Work);

    static DEVICE u8* destination(const GemmArguments& g, const Work& work) {
        return (u8*)g.results + ((u64)(2 * work.unit + work.half) * g.capacity + work.row) * 256;
    }

    /// The work is kept in shared memory, one copy per warp, not in registers, which the products need.
    static DEVICE Work* kept(const Pipeline& p) { return (Work*)(p.staging() + works) + threadIdx.x / 32; }
    DEVICE void begin(const Work& work, const Pipeline& p) const {
        if (threadIdx.x % 32 == 0) *kept(p) = work;
        __syncwarp();
    }

    static DEVICE void stage_slab(const float (&final)[64], int first_row, const Pipeline& p) {
        stage_chunks(final, first_row, 0, p);
    }
    static DEVICE void stage_half_slab(const float (&final)[32], int first_row, const Pipeline& p) {
        stage_chunks(final, first_row, thread_again() / 128 * 128, p); // a half's chunks are swizzled within it
    }
    /// Eight columns are a chunk of 16 bytes, in one of 16 places of the row.
    template <int Count> static DEVICE void stage_chunks(const float (&final)[Count], int first_row, u32 begin, const Pipeline& p) {
        const u32 thread = thread_again(), lane = thread % 32, row = lane / 4, first = (first_row + thread % 128 / 32 * 16 + row) * 256 + begin + row * 16 + lane % 4 * 4;
#pragma unroll
        for (int j = 0; j < Count / 4; j++) {
            u8* chunk = p.staging() + (first ^ j * 16);
            *(u32*)chunk = pack_bf16(final[4 * j], final[4 * j + 1]);
            *(u32*)(chunk + 8 * 256) = pack_bf16(final[4 * j + 2], final[4 * j + 3]);
        }
    }
    template <int N> static DEVICE void stage_columns(const float (&final)[N / 2], int first_row, const Pipeline& p) {
        const int thread = thread_again(), warp = thread / 32, lane = thread % 32;
        u8* tile = p.staging() + first_row * 256;
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            const int row = i / 4 * 8 + lane % 4 * 2 + i % 2, output = warp * 16 + (i / 2 % 2) * 8 + lane / 4;
            *(u16*)(tile + row * 256 + ((output / 8 ^ (row & 7)) * 16) + output % 8 * 2) = (u16)pack_bf16(final[i], 0.0f);
        }
    }
    static DEVICE void before() {
        if (threadIdx.x == 0) bulk_store_wait_read();
        named_barrier(1, math_threads);
    }
    static DEVICE void store(const GemmArguments& g, const Work& work, const Pipeline& p) {
        fence_async_shared();
        named_barrier(1, math_threads);
        if (threadIdx.x == 0 && work.store) bulk_store(destination(g, work), p.staging_address(), round_up_8(work.rows) * 256);
    }

    template <int Slabs, int Rest, int Second, int Third>
    DEVICE void tall(float (&first)[64], float (&second)[Second], float (&rest)[Third], const GemmArguments& g, const Pipeline& p) {
        const int warpgroup = threadIdx.x / 128;
        before();
        stage_slab(first, warpgroup * slab_rows, p);
        if constexpr (Slabs == 3) stage_half_slab(second, 2 * slab_rows, p);
        if constexpr (Slabs == 4) stage_slab(second, (2 + warpgroup) * slab_rows, p);
        if constexpr (Rest > 0) stage_columns<Rest>(rest, Slabs * slab_rows, p);
        store(g, *kept(p), p);
    }

    template <int N> DEVICE void narrow(float (&final)[N / 2], const GemmArguments& g, const Work& work, const Pipeline& p) {
        before();
        stage_columns<N>(final, 0, p);
        store(g, work, p);
    }

    DEVICE void no_more(const Pipeline&) {
        if (threadIdx.x == 0) bulk_store_wait();
    }
    static DEVICE void finish(const GemmArguments&, Pipeline&) {}
};

/// Activates pairs of gate and up rounded to BF16 and quantizes groups of 128 outputs: the rows and scales of Down. A group's outputs are spread over
/// the two blocks of a cluster, which tell each other the largest magnitude of each row. Tiles of more than 64 rows are handed over to the finishing warps. Both: Down follows in the same kernel, and those warps count
/// for it what has been stored, of all tiles.
template <int Kind, bool Both> struct ActivateAndQuantize {
    static constexpr bool both = Both;
    static constexpr int own_maxima = tile_rows * 256;                     // after the pairs: [256 rows][64 outputs] of gate, up
    static constexpr int peer_maxima = own_maxima + tile_rows * 4;         // [2 turns][256 rows], written by the other block
    static constexpr int work_slot = peer_maxima + 2 * tile_rows * 4;
    static constexpr int few_tile = work_slot + 2 * sizeof(Work);          // [64 rows][64 outputs] of codes
    static constexpr int few_maxima = few_tile + few_rows * 64;            // [2 turns][64 rows], written by the other block
    static constexpr int warp_maxima = few_maxima + 2 * few_rows * 4;      // [8 warps][64 rows]
    static constexpr int row_scales = warp_maxima + math_warps * few_rows * 4; // [64 rows]
    static constexpr int staging_bytes = row_scales + few_rows * 4;
    u32 handovers = 0, turns_few = 0; // parities

    /// 8 outputs of a row lie together in 32 bytes, gate and up of two of them by turns; these chunks are spread over the banks.
    static DEVICE int pairs_at(int row, int chunk) { return row * 256 + (chunk ^ (row & 7)) * 32; }

    template <int N> static DEVICE void stage_slab(const float (&final)[N / 2], int first_row, int first_chunk, const Pipeline& p) {
        const u32 thread = thread_again(), lane = thread % 32, first = pairs_at(first_row + thread % 128 / 32 * 16 + lane / 4, first_chunk) + lane % 4 * 8;
#pragma unroll
        for (int i = 0; i < N / 16; i++) {
            const float* v = final + 8 * i;
            u8* pairs = p.staging() + (first ^ pairs_at(0, i));
            *(uint2*)pairs = make_uint2(pack_bf16(v[0], v[1]), pack_bf16(v[4], v[5]));
            *(uint2*)(pairs + 8 * 256) = make_uint2(pack_bf16(v[2], v[3]), pack_bf16(v[6], v[7]));
        }
    }
    /// A lane holds one output of two rows; with its neighbour of the next output it makes up two outputs of one row each.
    template <int N> static DEVICE void stage_columns(const float (&final)[N / 2], int first_row, const Pipeline& p) {
        const int thread = thread_again(), lane = thread % 32, odd = lane / 4 % 2, chunk = thread / 32;
#pragma unroll
        for (int j = 0; j < N / 8; j++) {
            const float* v = final + 4 * j;
            const int row = first_row + j * 8 + lane % 4 * 2 + odd;
            const float gate = __shfl_xor_sync(~0u, odd ? v[0] : v[1], 4), up = __shfl_xor_sync(~0u, odd ? v[2] : v[3], 4);
            *(uint2*)(p.staging() + pairs_at(row, chunk) + lane / 8 * 8) =
                odd ? make_uint2(pack_bf16(gate, v[1]), pack_bf16(up, v[3])) : make_uint2(pack_bf16(v[0], gate), pack_bf16(v[2], up));
        }
    }

    DEVICE void wait_until_taken(const Pipeline& p) const { barrier_wait(p.epilogue_barrier(taken), ~handovers & 1); }
    DEVICE void hand_over(const Pipeline& p) {
        __syncwarp();
        if (threadIdx.x % 32 == 0) barrier_arrive(p.epilogue_barrier(handed_over));
        handovers ^= 1;
    }

    /// The work is kept in shared memory, by turns, not in registers, which the products need.
    DEVICE void begin(const Work& work, const Pipeline& p) const {
        if (threadIdx.x == 0) ((Work*)(p.staging() + work_slot))[handovers] = work;
    }
    template <int Slabs, int Rest, int Second, int Third>
    DEVICE void tall(float (&first)[64], float (&second)[Second], float (&rest)[Third], const GemmArguments&, const Pipeline& p) {
        const int warpgroup = threadIdx.x / 128;
        wait_until_taken(p);
        stage_slab<128>(first, warpgroup * slab_rows, 0, p);
        if constexpr (Slabs == 3) stage_slab<64>(second, 2 * slab_rows, 4 * warpgroup, p);
        if constexpr (Slabs == 4) stage_slab<128>(second, (2 + warpgroup) * slab_rows, 0, p);
        if constexpr (Rest > 0) stage_columns<Rest>(rest, Slabs * slab_rows, p);
        hand_over(p);
    }

    DEVICE void no_more(const Pipeline& p) {
        begin(Work{}, p);
        wait_until_taken(p);
        hand_over(p);
    }

    static DEVICE void finish(const GemmArguments& g, Pipeline& p) {
        if (g.activation.rounding == 0) finish<true>(g, p);
        else finish<false>(g, p);
    }

    /// Of a tile with more than 64 rows, eight threads per row: first all activations and the largest magnitudes, which travel meanwhile; then a thread per row: the scale; then all codes.
    template <bool Staged> static DEVICE void finish(const GemmArguments& g, Pipeline& p) {
        constexpr int step = finish_threads / 8;
        const int thread = threadIdx.x - first_finish_thread, part = thread % 8;
        float* own = (float*)(p.staging() + own_maxima);
        const u32 told = p.epilogue_barrier(peer_told), peer = p.rank ^ 1, told_peer = remote_address(told, peer);
        for (u32 handover = 0, turn = 0;; handover ^= 1) {
            barrier_wait(p.epilogue_barrier(handed_over), handover);
            const Work work = ((const Work*)(p.staging() + work_slot))[handover];
            if (work.rows == 0) return; // no more work
            if (Both && work.rows <= few_rows) {
                stored(g, work, p);
                continue;
            }
            const int rows = round_up_8(work.rows), peer_slots = peer_maxima + turn * tile_rows * 4;
            if (thread == 0) barrier_arrive_expect(told, rows * 4);
            for (int row = thread / 8; row < rows; row += step) {
                u8* at = p.staging() + pairs_at(row, part);
                const uint4 low = *(const uint4*)at, high = *(const uint4*)(at + 16);
                u32 y[4] = {low.x, low.z, high.x, high.z};
                activate_pairs<Kind>(y, {low.y, low.w, high.y, high.w}, g.activation, Staged);
                *(uint4*)at = make_uint4(y[0], y[1], y[2], y[3]);
                float largest = larger_of_pair(maximum_bf16(maximum_bf16(absolute_bf16(y[0]), absolute_bf16(y[1])), maximum_bf16(absolute_bf16(y[2]), absolute_bf16(y[3]))));
#pragma unroll
                for (int lanes = 1; lanes < 8; lanes *= 2) largest = fmaxf(largest, __shfl_xor_sync(0xFFu << (threadIdx.x & 24), largest, lanes));
                if (part == 0) {
                    own[row] = largest;
                    remote_store(remote_address(p.staging_address() + peer_slots + row * 4, peer), largest, told_peer);
                }
            }
            named_barrier(finish_barrier, finish_threads); // all have written their maxima
            barrier_wait(told, turn);
            const u64 first = (u64)work.unit * g.capacity + work.row;
            float* others = (float*)(p.staging() + peer_slots); // maxima, then reciprocals
            for (int row = thread; row < rows; row += finish_threads) {
                const float scale = group_scale(fmaxf(own[row], others[row]), g.activation.divide, g.activation.power_of_two);
                own[row] = scale;
                others[row] = Divisor(scale).r;
                if (work.store && work.half == 0) g.result_scales[first + row] = scale;
            }
            named_barrier(finish_barrier, finish_threads);
            for (int row = thread / 8; row < (work.store ? rows : 0); row += step) {
                const Divisor divisor(own[row], others[row]);
                const uint4 y = *(const uint4*)(p.staging() + pairs_at(row, part));
                const u32 low = divisor.quantize_pair(low_bf16(y.x), high_bf16(y.x)) | divisor.quantize_pair(low_bf16(y.y), high_bf16(y.y)) << 16;
                const u32 high = divisor.quantize_pair(low_bf16(y.z), high_bf16(y.z)) | divisor.quantize_pair(low_bf16(y.w), high_bf16(y.w)) << 16;
                *(uint2*)((u8*)g.results + (first + row) * 128 + ((work.half * 4 + part / 2) ^ (row & 7)) * 16 + part % 2 * 8) = make_uint2(low, high);
            }
            stored(g, work, p);
            turn ^= 1;
        }
    }
    /// A finishing warp has stored its part, or knows that the math warps have.
    static DEVICE void stored(const GemmArguments& g, const Work& work, const Pipeline& p) {
        __syncwarp();
        if (threadIdx.x % 32) return;
        barrier_arrive(p.epilogue_barrier(taken));
        if (!Both) return;
        fence_gpu();
        count(&g.tiles[work.tile].handed_on);
        count((u32*)g.tile_count + gateup_stored);
    }

    /// 16-byte chunks of a staged row of 64 codes, spread over the banks.
    static DEVICE int staged(int row, int chunk) { return row * 64 + (chunk ^ (row / 2 & 3)) * 16; }

    template <int N> DEVICE void narrow(float (&final)[N / 2], const GemmArguments& g, const Work& work, const Pipeline& p) {
        if constexpr (N <= few_rows) few<N>(final, g, work, p);
        if (N <= few_rows && !Both) return;
        wait_until_taken(p);
        if constexpr (N > few_rows) stage_columns<N>(final, 0, p);
        hand_over(p);
    }

    /// Up to 64 rows: the math warps finish them themselves. A row's group is spread over eight warps of each block.
    template <int N> DEVICE void few(float (&final)[N / 2], const GemmArguments& g, const Work& work, const Pipeline& p) {
        const int thread = thread_again(), warp = thread / 32, lane = thread % 32, rows = round_up_8(work.rows);
        u8* tile = p.staging() + few_tile;
        float* maxima = (float*)(p.staging() + warp_maxima);
        float* scales = (float*)(p.staging() + row_scales);
        u32 y[N / 8]; // the pair of rows of this lane, one output
#pragma unroll
        for (int j = 0; j < N / 8; j++) {
            const float* v = final + 4 * j;
            y[j] = activate_pair<Kind>(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), g.activation, g.activation.rounding == 0);
            u32 m = absolute_bf16(y[j]);
#pragma unroll
            for (int step = 4; step < 32; step *= 2) m = maximum_bf16(m, __shfl_xor_sync(~0u, m, step));
            if (lane < 4) *(float2*)(maxima + warp * few_rows + j * 8 + lane * 2) = make_float2(low_bf16(m), high_bf16(m));
        }
        const u32 barrier = p.epilogue_barrier(peer_told_few), turn = turns_few;
        turns_few ^= 1;
        if (threadIdx.x == 0) barrier_arrive_expect(barrier, rows * 4);
        named_barrier(1, math_threads);
        if ((int)threadIdx.x < rows) {
            float m = 0.0f;
#pragma unroll
            for (int w = 0; w < math_warps; w++) m = fmaxf(m, maxima[w * few_rows + threadIdx.x]);
            const int slot = few_maxima + (turn * few_rows + threadIdx.x) * 4;
            const u32 peer = p.rank ^ 1;
            remote_store(remote_address(p.staging_address() + slot, peer), m, remote_address(barrier, peer));
            barrier_wait(barrier, turn);
            m = fmaxf(m, *(const float*)(p.staging() + slot));
            const float scale = group_scale(m, g.activation.divide, g.activation.power_of_two);
            scales[threadIdx.x] = scale;
            if (work.store && work.half == 0) g.result_scales[(u64)work.unit * g.capacity + work.row + threadIdx.x] = scale;
        }
        named_barrier(1, math_threads);
#pragma unroll
        for (int j = 0; j < N / 8; j++) {
            const int row = j * 8 + lane % 4 * 2, output = warp * 8 + lane / 4;
            const Divisor d0(scales[row]), d1(scales[row + 1]);
            const u32 codes = pack_e4m3(d0.divide(low_bf16(y[j])), d1.divide(high_bf16(y[j])));
            tile[staged(row, output / 16) + output % 16] = (u8)codes;
            tile[staged(row + 1, output / 16) + output % 16] = (u8)(codes >> 8);
        }
        named_barrier(1, math_threads);
        if (work.store && (int)threadIdx.x < rows * 4) {
            const int row = threadIdx.x / 4, chunk = threadIdx.x % 4;
            u8* to = (u8*)g.results + ((u64)work.unit * g.capacity + work.row + row) * 128 + ((work.half * 4 + chunk) ^ (row & 7)) * 16;
            *(uint4*)to = *(const uint4*)(tile + staged(row, chunk));
        }
    }
};
