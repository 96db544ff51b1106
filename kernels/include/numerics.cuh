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

DEVICE float sigmoid_times(float g, float alpha) { return __fdiv_rn(g, 1.0f + expf(-(g * alpha))); }

enum { gated_sigmoid = 0, swiglustep = 1, gelu_tanh = 2 };

/// act(gate) * up of two BF16-valued inputs, rounded to BF16.
template <int Kind> DEVICE float activate(float g, float u, const ActivationArguments& a) {
    if (Kind == swiglustep) {
        float y = __fmul_rn(at_most(sigmoid_times(g, 1.0f), a.limit), within(u, a.limit));
        return round_bf16(y);
    }
    float glu;
    if (Kind == gelu_tanh) {
        float inner = 0.7978845608028654f * (g + 0.044715f * g * g * g);
        glu = 0.5f * g * (1.0f + tanhf(inner));
    } else {
        g = at_most(g, a.limit);
        u = within(u, a.limit);
        glu = sigmoid_times(g, a.alpha);
    }
    if (a.rounding == 0) return round_bf16(__fmul_rn(round_bf16(glu), round_bf16(u + a.beta)));
    return round_bf16(__fmul_rn(u + a.beta, glu));
}
