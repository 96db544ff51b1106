// Step 1: router logits, then the top-k experts of each token and their weights. Every number is made as Router and ExpertSelector of the library make it, bit
// for bit: dot products in sixteen chains of fused multiply-adds that are folded 8, 4, 2, 1; exponentials through FP64, rounded once; sums in order.
#include "include/route_arguments.cuh"

constexpr int route_threads = 128;

/// Four BF16 values of a hidden state, zeros behind its end.
DEVICE uint2 load_hidden(const LogitsArguments& a, const u16* hidden, int i) {
    if (a.hidden_size % 4 == 0) return i < a.hidden_size ? *(const uint2*)(hidden + i) : make_uint2(0, 0);
    u32 v[4];
#pragma unroll
    for (int j = 0; j < 4; j++) v[j] = i + j < a.hidden_size ? hidden[i + j] : 0;
    return make_uint2(v[0] | v[1] << 16, v[2] | v[3] << 16);
}

/// A quad of threads makes the dots of some tokens with some experts; thread q holds chains 4q .. 4q+3 of each. Loads of so many steps are in flight.
template <int Tokens, int Experts, int Ahead> DEVICE void dot_tile(const LogitsArguments& a, int token, int expert) {
    const int q = threadIdx.x % 4;
    const u16* hidden[Tokens];
    const float* weight[Experts];
#pragma unroll
    for (int t = 0; t < Tokens; t++) hidden[t] = a.hidden + (u64)(token + t < a.tokens ? token + t : a.tokens - 1) * a.hidden_size;
#pragma unroll
    for (int e = 0; e < Experts; e++) weight[e] = a.weight + (u64)(expert + e < a.experts ? expert + e : a.experts - 1) * a.stride;
    float sums[Tokens][Experts][4] = {};
    for (int first = 4 * q; first < a.stride; first += 16 * Ahead) {
        uint2 x[Ahead][Tokens];
        uint4 w[Ahead][Experts];
#pragma unroll
        for (int s = 0; s < Ahead; s++) {
            const int i = first + 16 * s;
            if (i >= a.stride) continue;
#pragma unroll
            for (int t = 0; t < Tokens; t++) x[s][t] = load_hidden(a, hidden[t], i);
#pragma unroll
            for (int e = 0; e < Experts; e++) w[s][e] = *(const uint4*)(weight[e] + i);
        }
#pragma unroll
        for (int s = 0; s < Ahead; s++) {
            if (first + 16 * s >= a.stride) continue;
#pragma unroll
            for (int t = 0; t < Tokens; t++) {
                const float h[4] = {low_bf16(x[s][t].x), high_bf16(x[s][t].x), low_bf16(x[s][t].y), high_bf16(x[s][t].y)};
#pragma unroll
                for (int e = 0; e < Experts; e++) {
                    const u32 bits[4] = {w[s][e].x, w[s][e].y, w[s][e].z, w[s][e].w};
#pragma unroll
                    for (int j = 0; j < 4; j++) sums[t][e][j] = fmaf(h[j], __uint_as_float(bits[j]), sums[t][e][j]);
                }
            }
        }
    }
#pragma unroll
    for (int t = 0; t < Tokens; t++)
#pragma unroll
        for (int e = 0; e < Experts; e++) {
            float four[4];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const float eight = sums[t][e][j] + __shfl_xor_sync(~0u, sums[t][e][j], 2);
                four[j] = eight + __shfl_xor_sync(~0u, eight, 1);
            }
            const float dot = (four[0] + four[2]) + (four[1] + four[3]);
            if (q == 0 && token + t < a.tokens && expert + e < a.experts)
                a.logits[(u64)(token + t) * a.experts + expert + e] = a.bias ? dot + a.bias[expert + e] : dot;
        }
}

/// Blocks of 32 tokens by 16 experts.
extern "C" __global__ void __launch_bounds__(route_threads) route_logits(const __grid_constant__ LogitsArguments a) {
    wait_for_earlier_kernels();
    launch_dependents();
    const int columns = (a.experts + 15) / 16, quad = threadIdx.x % 32 / 4;
    const int token = blockIdx.x / columns * 32 + threadIdx.x / 32 * 8 + quad / 4 * 4, expert = blockIdx.x % columns * 16 + quad % 4 * 4;
    dot_tile<4, 4, 1>(a, token, expert);
}

/// For few tokens: blocks of one token by 32 experts.
extern "C" __global__ void __launch_bounds__(route_threads) route_logits_few(const __grid_constant__ LogitsArguments a) {
    wait_for_earlier_kernels();
    launch_dependents();
    const int columns = (a.experts + 31) / 32;
    dot_tile<1, 1, 16>(a, blockIdx.x / columns, blockIdx.x % columns * 32 + threadIdx.x / 4);
}

/// One warp, values in shared memory. Equal to the largest is exactly 1, also where both are infinite.
DEVICE void softmax(float* values, int count) {
    const int lane = threadIdx.x % 32;
    float most = __uint_as_float(0xFF800000u), sum = 0.0f;
    for (int i = lane; i < count; i += 32) most = fmaxf(most, values[i]);
#pragma unroll
    for (int step = 16; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, step));
    for (int i = lane; i < count; i += 32) values[i] = values[i] == most ? 1.0f : (float)exp((double)values[i] - (double)most);
    __syncwarp();
    for (int i = 0; i < count; i++) sum += values[i];
    __syncwarp();
    for (int i = lane; i < count; i += 32) values[i] = __fdiv_rn(values[i], sum);
    __syncwarp();
}

/// Order of floats as order of integers, above 0; both zeros are one.
DEVICE u32 sort_key(float x) {
    const u32 bits = __float_as_uint(x + 0.0f);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

DEVICE float selection_score(const SelectArguments& s, const float* scores, int e) { return s.correction_bias ? scores[e] + s.correction_bias[e] : scores[e]; }

/// The sum of the two best selection scores of a group; of a single expert, its score.
DEVICE float group_score(const SelectArguments& s, const float* scores, int group, int size) {
    float first = __uint_as_float(0xFF800000u), second = first;
    for (int e = group * size; e < (group + 1) * size; e++) {
        const float score = selection_score(s, scores, e);
        if (score > first) second = first, first = score;
        else if (score > second) second = score;
    }
    return size == 1 ? first : first + second;
}

/// One warp: chosen[g] for every group. Insertion in order, the first come first among equals, as the library does it.
DEVICE void choose_groups(const SelectArguments& s, const float* scores, float* group_scores, int* best, int* chosen) {
    const int lane = threadIdx.x % 32, size = s.experts / s.groups;
    for (int g = lane; g < s.groups; g += 32) {
        group_scores[g] = group_score(s, scores, g, size);
        chosen[g] = 0;
    }
    __syncwarp();
    if (lane == 0) {
        int count = 0;
        for (int g = 0; g < s.groups; g++) {
            int at = count;
            while (at > 0 && group_scores[g] > group_scores[best[at - 1]]) at--;
            if (at == s.topk_groups) continue;
            if (count < s.topk_groups) count++;
            for (int i = count - 1; i > at; i--) best[i] = best[i - 1];
            best[at] = g;
        }
        for (int i = 0; i < count; i++) chosen[best[i]] = 1;
    }
    __syncwarp();
}

/// One warp: the largest key that is left, the lowest index among equals; it is taken.
DEVICE int take_best(u32* keys, int experts) {
    const int lane = threadIdx.x % 32;
    u32 key = 0;
    int best = experts;
    for (int e = lane; e < experts; e += 32)
        if (keys[e] > key) key = keys[e], best = e;
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        const u32 other = __shfl_xor_sync(~0u, key, step);
        const int other_best = __shfl_xor_sync(~0u, best, step);
        if (other > key || (other == key && other_best < best)) key = other, best = other_best;
    }
    if (best % 32 == lane) keys[best] = 0;
    __syncwarp();
    return best;
}

/// A warp per token.
extern "C" __global__ void __launch_bounds__(route_threads) route_select(const __grid_constant__ SelectArguments s) {
    SHARED_MEMORY(float, 16, memory);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, token = blockIdx.x * (route_threads / 32) + warp, size = s.experts / s.groups;
    float* scores = memory + warp * s.warp_words; // [E]
    u32* keys = (u32*)(scores + s.experts);       // [E]
    float* picked = scores + 2 * s.experts;       // [K]
    int* ids = (int*)(picked + s.top_k);          // [K]
    float* group_scores = picked + 2 * s.top_k;   // [groups], then best [groups], chosen [groups]
    int *best = (int*)(group_scores + s.groups), *chosen = best + s.groups;
    wait_for_earlier_kernels();
    launch_dependents();
    if (token >= s.tokens) return; // whole warps
    for (int e = lane; e < s.experts; e += 32) {
        const float logit = s.logits[(u64)token * s.experts + e];
        scores[e] = logit != logit ? __uint_as_float(0xFF800000u) : logit;
    }
    __syncwarp();
    if (s.scoring == 0) softmax(scores, s.experts);
    if (s.scoring == 1)
        for (int e = lane; e < s.experts; e += 32) scores[e] = (float)(1.0 / (1.0 + exp(-(double)scores[e])));
    __syncwarp();
    const bool grouped = s.topk_groups < s.groups;
    if (grouped) choose_groups(s, scores, group_scores, best, chosen);
    for (int e = lane; e < s.experts; e += 32) keys[e] = grouped && !chosen[e / size] ? 0 : sort_key(selection_score(s, scores, e));
    __syncwarp();
    for (int k = 0; k < s.top_k; k++) {
        const int id = take_best(keys, s.experts);
        if (lane == 0) ids[k] = id, picked[k] = scores[id];
    }
    __syncwarp();
    if (s.scoring == 2) softmax(picked, s.top_k);
    float sum = 1.0f;
    if (s.renormalize) {
        sum = 0.0f;
        for (int k = 0; k < s.top_k; k++) sum += picked[k];
        sum = fmaxf(sum + s.epsilon, s.minimum);
    }
    for (int k = lane; k < s.top_k; k += 32) {
        const float weight = s.renormalize && sum != 0.0f ? __fdiv_rn(picked[k], sum) : picked[k];
        s.ids[(u64)token * s.top_k + k] = ids[k];
        s.weights[(u64)token * s.top_k + k] = weight * s.scaling;
    }
}
