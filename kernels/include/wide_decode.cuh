#pragma once
#include "ptx.cuh"
// E4M3 codes as BF16 numbers, two per register. The bits of a code, moved to where BF16 has them, are its value times 2^-120 (subnormals included), so
// one exact multiplication by 2^120 times a power-of-two scale decodes it. NaN codes come out as 480: whoever may meet them looks for them.

/// Codes in bytes 1 and 3 of a word. Times 2^-120.
DEVICE u32 odd_codes(u32 word) { return (word >> 4 & 0x07F007F0u) | (word & 0x80008000u); }

/// Four codes woven into a word: two lie where BF16 has them; of the other two the exponents and, swapped, the signs come into place by a rotation by 4
/// and the mantissas by a shift by 4. Five instructions take all four out.
constexpr u32 woven_first = 0x87F087F0u, woven_exponents = 0x87808780u, woven_mantissas = 0x00700070u;
DEVICE u32 weave(u32 first0, u32 first1, u32 second0, u32 second1) {
    const u32 first = (first0 & 0x80) << 8 | (first0 & 0x7F) << 4 | (first1 & 0x80) << 24 | (first1 & 0x7F) << 20;
    const u32 signs = second0 >> 7 << 19 | second1 >> 7 << 3, exponents = (second0 >> 3 & 15) << 11 | (second1 >> 3 & 15) << 27;
    return first | signs | exponents | (second0 & 7) | (second1 & 7) << 16;
}
/// Pairs of codes out of a woven word. Times 2^-120.
DEVICE u32 first_codes(u32 word) { return word & woven_first; }
DEVICE u32 second_codes(u32 word) { return ((word >> 4 | word << 28) & woven_exponents) | (word << 4 & woven_mantissas); }

constexpr u32 both = 0x00010001u;
constexpr u32 decode_factor = (247u << 7) * both; // 2^120

/// A scale 2^(byte - 127) is applied by one factor, or by two for bytes above this.
constexpr u32 most_in_one = 134;
DEVICE u32 only_factor(u32 byte) { return byte * (0x80 * both) + (120u << 7) * both; }
DEVICE u32 first_factor(u32 byte) { return (byte < most_in_one ? byte + 120 : most_in_one + 120) << 7; }
DEVICE u32 second_factor(u32 byte) { return byte <= most_in_one ? 0x3F80u : byte == 255 ? 0x7FC0u : (byte - 7) << 7; }

/// The scale byte of values whose largest magnitude is this BF16 number: that of the smallest power of two >= it / 448. Infinity gives 255.
DEVICE u32 mx_scale(u32 absmax) {
    const int exponent = (int)(absmax >> 7), byte = exponent - 8 + ((absmax & 0x7F) > 0x60); // 448 = 1.75 x 2^8
    return exponent >= 255 ? 255u : byte < 0 ? 0u : (u32)byte;
}

/// The values of a pair of E4M3 codes, NaN among them, under two scales.
DEVICE u32 mx_values(u32 codes, u32 scale0, u32 scale1) {
    u32 value = multiply_bf16(odd_codes(__byte_perm(codes, 0, 0x1404)), first_factor(scale0) | first_factor(scale1) << 16);
    if (scale0 > most_in_one || scale1 > most_in_one) value = multiply_bf16(value, second_factor(scale0) | second_factor(scale1) << 16);
    if ((codes & 0x7F) == 0x7F) value = (value & 0xFFFF0000u) | 0x7FFFu;
    if ((codes & 0x7F00) == 0x7F00) value = (value & 0xFFFFu) | 0x7FFF0000u;
    return value;
}

/// A pair of BF16 numbers to E4M3 and back, under the scales of two largest magnitudes.
DEVICE u32 mx_round_any(u32 pair, u32 maxima) {
    const u32 scale0 = mx_scale(maxima & 0x7FFF), scale1 = mx_scale(maxima >> 16 & 0x7FFF);
    const float inverse0 = __uint_as_float(254 - scale0 << 23), inverse1 = __uint_as_float(254 - scale1 << 23);
    const u32 codes = pack_e4m3(low_bf16(pair) * inverse0, high_bf16(pair) * inverse1);
    return mx_values(codes, scale0, scale1);
}

/// The same of many pairs, both halves of a register at once: 2^8 times a scale is the largest magnitude plus what lets 1.75 through and no more, less its
/// mantissa. NaN, infinity and scales that take two factors come rarely enough to be done over.
template <int Count> DEVICE void mx_round(u32 (&pairs)[Count], const u32 (&maxima)[Count]) {
    u32 rounded[Count], rare = 0;
#pragma unroll
    for (int i = 0; i < Count; i++) {
        const u32 power = maximum_bf16((maxima[i] + 0x1F * both) & 0x7F80 * both, 0x0400 * both);
        rare |= (power + (0x8000 - (most_in_one + 9 << 7)) * both) | ((pairs[i] & 0x7FFF * both) + 0x7F * both); // their signs
        const u32 small = multiply_bf16(pairs[i], 0x8300 * both - power);
        const u32 codes = pack_e4m3(low_bf16(small), high_bf16(small));
        rounded[i] = multiply_bf16(odd_codes(__byte_perm(codes, 0, 0x1404)), power + 0x3800 * both);
    }
    if (rare & 0x8000 * both) {
#pragma unroll
        for (int i = 0; i < Count; i++) rounded[i] = mx_round_any(pairs[i], maxima[i]);
    }
#pragma unroll
    for (int i = 0; i < Count; i++) pairs[i] = rounded[i];
}
