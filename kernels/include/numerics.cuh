#pragma once
#include "arguments.cuh"
// Quantization and activation with their rounding points: spec 5 and 6, one function per rule.

DEVICE float round_up_to_power_of_two(float x) { // x positive, finite
    u32 bits = __float_as_uint(x);
    return __uint_as_float(((bits + 0x7FFFFFu) & 0x7F800000u));
}

/// Scale of a group whose absmax counts as at least 1e-10: absmax / 448 (layer inputs, swiglustep) or absmax * fl32(1/448) (other activations). For
/// powers of two it is rounded up; there the division's rule has a floor of 1e-10 on the scale too, the multiplication's has none (golden g3).
DEVICE float group_scale(float absmax, int divide, int power_of_two) {
    absmax = fmaxf(absmax, 1e-10f);
    float scale = divide ? __fdiv_rn(absmax, 448.0f) : __fmul_rn(absmax, __uint_as_float(0x3B124925u)); // fl32(1/448)
    return power_of_two ? round_up_to_power_of_two(divide ? fmaxf(scale, 1e-10f) : scale) : scale;
}

// Comparisons, not fminf: a NaN stays one.
DEVICE float at_most(float x, float limit) { return x > limit ? limit : x; }
DEVICE float within(float x, float limit) { return x > limit ? limit : x < -limit ? -limit : x; }

DEVICE float with_sign(float x, float sign) { return __uint_as_float(__float_as_uint(x) | (__float_as_uint(sign) & 0x80000000u)); } // keeps -0

/// x / s for many x and one positive s, correctly rounded: a rounded reciprocal and one correction. s = Inf makes finite x zero and Inf NaN.
struct Divisor {
    float s, r;
    DEVICE explicit Divisor(float scale) : Divisor(scale, scale > 3e38f ? 0.0f : __frcp_rn(scale)) {}
    DEVICE Divisor(float scale, float reciprocal) : s(scale > 3e38f ? 1.0f : scale), r(reciprocal) {} // the first constructor's
    DEVICE float divide(float x) const {
        const float q = x * r;
        return with_sign(fmaf(fmaf(-q, s, x), r, q), x);
    }
    DEVICE u32 quantize_pair(float low, float high) const { return pack_e4m3(divide(low), divide(high)); }
};

/// g / (1 + exp(-alpha g)) within 3 ulp: the rounding to BF16 that follows hides nearly all of it. The power is held at 2^126, where g / d is far below
/// what a scale of at least 1e-10 / 448 can show.
DEVICE float sigmoid_times(float g, float minus_alpha_log2e) {
    const float d = 1.0f + power_of_two(fminf(g * minus_alpha_log2e, 126.0f)), r = reciprocal(d), q = g * r;
    return with_sign(fmaf(fmaf(-q, d, g), r, q), g);
}

/// The same of many values, step by step, so that all of them are on their way at once.
template <int Count> DEVICE void sigmoids_times(float (&g)[Count], float minus_alpha_log2e) {
    float d[Count], r[Count];
#pragma unroll
    for (int i = 0; i < Count; i++) d[i] = power_of_two(fminf(g[i] * minus_alpha_log2e, 126.0f));
#pragma unroll
    for (int i = 0; i < Count; i++) d[i] += 1.0f;
#pragma unroll
    for (int i = 0; i < Count; i++) r[i] = reciprocal(d[i]);
#pragma unroll
    for (int i = 0; i < Count; i++) {
        const float q = g[i] * r[i];
        g[i] = with_sign(fmaf(fmaf(-q, d[i], g[i]), r[i], q), g[i]);
    }
}

enum { silu = 0, swiglustep = 1, gelu_tanh = 2, swigluoai = 3 }; // silu: no limit; the last: with alpha, beta (-0 for none) and limit

constexpr float log2e = 1.4426950408889634f;

/// act(gate) * up of a pair of outputs: inputs and results are BF16; staged: the activated gate is rounded before the product too.
template <int Kind> DEVICE u32 activate_pair(u32 gate, u32 up, const ActivationArguments& a, bool staged) {
    float g0 = low_bf16(gate), g1 = high_bf16(gate), u0 = low_bf16(up), u1 = high_bf16(up);
    if (Kind == silu) {
        g0 = sigmoid_times(g0, -log2e), g1 = sigmoid_times(g1, -log2e);
        return staged ? multiply_bf16(pack_bf16(g0, g1), up) : pack_bf16(g0 * u0, g1 * u1);
    }
    if (Kind == swiglustep)
        return pack_bf16(at_most(sigmoid_times(g0, -log2e), a.limit) * within(u0, a.limit), at_most(sigmoid_times(g1, -log2e), a.limit) * within(u1, a.limit));
    if (Kind == gelu_tanh) {
        const float c = 0.7978845608028654f;
        g0 = 0.5f * g0 * (1.0f + tanhf(c * fmaf(0.044715f * g0 * g0, g0, g0)));
        g1 = 0.5f * g1 * (1.0f + tanhf(c * fmaf(0.044715f * g1 * g1, g1, g1)));
    } else {
        const float m = -log2e * a.alpha;
        g0 = sigmoid_times(at_most(g0, a.limit), m), g1 = sigmoid_times(at_most(g1, a.limit), m);
        u0 = within(u0, a.limit) + a.beta, u1 = within(u1, a.limit) + a.beta;
    }
    return staged ? multiply_bf16(pack_bf16(g0, g1), pack_bf16(u0, u1)) : pack_bf16(g0 * u0, g1 * u1);
}

/// The same of many pairs: gate becomes the result.
template <int Kind, int Count> DEVICE void activate_pairs(u32 (&gate)[Count], const u32 (&up)[Count], const ActivationArguments& a, bool staged) {
    if (Kind == silu || Kind == swigluoai) {
        float g[2 * Count];
#pragma unroll
        for (int i = 0; i < Count; i++) {
            g[2 * i] = low_bf16(gate[i]), g[2 * i + 1] = high_bf16(gate[i]);
            if (Kind == swigluoai) g[2 * i] = at_most(g[2 * i], a.limit), g[2 * i + 1] = at_most(g[2 * i + 1], a.limit);
        }
        sigmoids_times(g, Kind == silu ? -log2e : -log2e * a.alpha);
#pragma unroll
        for (int i = 0; i < Count; i++) {
            float u0 = low_bf16(up[i]), u1 = high_bf16(up[i]);
            if (Kind == swigluoai) u0 = within(u0, a.limit) + a.beta, u1 = within(u1, a.limit) + a.beta;
            gate[i] = !staged ? pack_bf16(g[2 * i] * u0, g[2 * i + 1] * u1)
                              : multiply_bf16(pack_bf16(g[2 * i], g[2 * i + 1]), Kind == silu ? up[i] : pack_bf16(u0, u1));
        }
    } else {
#pragma unroll
        for (int i = 0; i < Count; i++) gate[i] = activate_pair<Kind>(gate[i], up[i], a, staged);
    }
}

DEVICE u32 absolute_bf16(u32 pair) { return pair & 0x7FFF7FFFu; }
DEVICE float larger_of_pair(u32 pair) { return fmaxf(low_bf16(pair), high_bf16(pair)); }
