// Step 7 as a launch of its own: a warp computes a token's elements from a column on, 256 or 512 of them.
#include "include/combine.cuh"

namespace combining {
constexpr int part = 256; // elements: eight neighbouring ones per lane

/// Rows: results that are on their way at once, each in all parts.
template <int Parts, int Rows> DEVICE void warps(const CombineArguments& c) {
    constexpr int span = Parts * part;
    const int spans = (c.hidden_size + span - 1) / span, lane = threadIdx.x % 32;
    const u32 warp = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    const int token = warp / spans, column = warp % spans * span + lane * 8;
    launch_dependents();
    if (token >= c.tokens) return; // whole warps
    if (lane < c.top_k) { // both come from launches that had ended when the one ahead began
        touch(c.row_of_slot + token * c.top_k + lane);
        if (c.weights) touch(c.weights + token * c.top_k + lane);
    }
    wait_for_earlier_kernels();
    float sum[Parts][8] = {};
    for (int first = 0; first < c.top_k; first += 32) { // a slot per lane
        const int slot = token * c.top_k + first + lane;
        int row = -1;
        float weight = 1.0f;
        if (first + lane < c.top_k) {
            row = c.row_of_slot[slot];
            if (c.weights) weight = c.weights[slot];
        }
        for (u32 left = __ballot_sync(~0u, row >= 0); left;) { // experts that are elsewhere cost nothing
            uint4 v[Rows][Parts];
            float by[Rows];
            bool there[Rows];
#pragma unroll
            for (int r = 0; r < Rows; r++) {
                there[r] = left != 0;
                const int from = there[r] ? __ffs(left) - 1 : 0;
                left = there[r] ? left & (left - 1) : 0;
                by[r] = __shfl_sync(~0u, weight, from);
                const u16* at = stored_results(c.results, c.capacity, __shfl_sync(~0u, row, from), column);
#pragma unroll
                for (int p = 0; p < Parts; p++) {
                    v[r][p] = uint4{};
                    if (there[r] && column + p * part < c.hidden_size) v[r][p] = *(const uint4*)(at + (u64)p * part * c.capacity);
                }
            }
#pragma unroll
            for (int r = 0; r < Rows; r++)
                if (there[r])
#pragma unroll
                    for (int p = 0; p < Parts; p++) multiply_add(sum[p], v[r][p], by[r]);
        }
    }
#pragma unroll
    for (int p = 0; p < Parts; p++)
        if (column + p * part < c.hidden_size) add_shared(c, sum[p], token, column + p * part);
#pragma unroll
    for (int p = 0; p < Parts; p++) {
        const int at = column + p * part;
        if (at >= c.hidden_size) continue;
        const u64 to = (u64)token * c.hidden_size + at;
        if (c.hidden_size % 8 == 0) store_sums(c, to, sum[p]);
        else
            for (int j = 0; j < 8 && at + j < c.hidden_size; j++) {
                if (c.output_f32) ((float*)c.output)[to + j] = sum[p][j];
                else ((u16*)c.output)[to + j] = (u16)pack_bf16(sum[p][j], 0.0f);
            }
    }
}
} // namespace combining

extern "C" __global__ void __launch_bounds__(256) combine(const __grid_constant__ CombineArguments c) { combining::warps<1, 4>(c); }
extern "C" __global__ void __launch_bounds__(256) combine_many(const __grid_constant__ CombineArguments c) { combining::warps<2, 4>(c); }
