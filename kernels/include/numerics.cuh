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

/// g / (1 + exp(-alpha g)) of each within 3 ulp: the rounding to BF16 that follows hides nearly all of it. The power is held at 2^126, where g / d is far below
/// what a scale of at least 1e-10 / 448 can show. Step by step, so that all of them are on their way at once.
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

/// act(gate) * up of pairs of outputs: inputs and results are BF16, gate becomes the result; staged: the activated gate is rounded before the product too.
template <int Kind, int Count> DEVICE void activate_pairs(u32 (&gate)[Count], const u32 (&up)[Count], const ActivationArguments& a, bool staged) {
    float g[2 * Count];
#pragma unroll
    for (int i = 0; i < Count; i++) g[2 * i] = low_bf16(gate[i]), g[2 * i + 1] = high_bf16(gate[i]);
#pragma unroll
    for (int i = 0; i < 2 * Count; i++) {
        if (Kind == swigluoai) g[i] = at_most(g[i], a.limit);
        if (Kind == gelu_tanh) g[i] = 0.5f * g[i] * (1.0f + tanhf(0.7978845608028654f * fmaf(0.044715f * g[i] * g[i], g[i], g[i])));
    }
    if (Kind != gelu_tanh) sigmoids_times(g, Kind == swigluoai ? -log2e * a.alpha : -log2e);
#pragma unroll
    for (int i = 0; i < Count; i++) {
        float g0 = g[2 * i], g1 = g[2 * i + 1], u0 = low_bf16(up[i]), u1 = high_bf16(up[i]);
        if (Kind == swiglustep) g0 = at_most(g0, a.limit), g1 = at_most(g1, a.limit);
        if (Kind == swiglustep || Kind == swigluoai) u0 = within(u0, a.limit), u1 = within(u1, a.limit);
        if (Kind == swigluoai) u0 += a.beta, u1 += a.beta;
        gate[i] = !staged || Kind == swiglustep ? pack_bf16(g0 * u0, g1 * u1) : multiply_bf16(pack_bf16(g0, g1), Kind == silu ? up[i] : pack_bf16(u0, u1));
    }
}

template <int Kind> DEVICE u32 activate_pair(u32 gate, u32 up, const ActivationArguments& a, bool staged) {
    u32 y[1] = {gate};
    activate_pairs<Kind>(y, {up}, a, staged);
    return y[0];
}

DEVICE u32 absolute_bf16(u32 pair) { return pair & 0x7FFF7FFFu; }
DEVICE float larger_of_pair(u32 pair) { return fmaxf(low_bf16(pair), high_bf16(pair)); }
