#pragma once
// The tensor core of Hopper as a model: the products of one instruction and the accumulator are cut off (toward zero) at a fixed number of bits below
// the largest exponent among them, summed exactly, and cut off again: 13 fraction bits for FP8, 25 and an FP32 result for BF16.
#include "device.hpp"
#include <algorithm>

namespace emulator {

struct Operands { // of the last products of a warpgroup, by turn
    struct Turn {
        u32 number = ~0u;
        int rows_a, rows_b;
        alignas(64) int significand[2][256][32]; // A, B; signed
        alignas(64) int exponent[2][256][32];
        bool nan[2][256];
    } turns[8];
};

constexpr int fp8_fraction = 13;

inline void decode_rows(Operands::Turn& turn, int which, int rows, u32 descriptor_address) {
    const u32 base = (descriptor_address & ~1023u), first_chunk = descriptor_address % 128 / 16;
    const u8* memory = current->block->shared;
    if (base + (u32)rows * 128 > usable_shared_bytes) fault("a matrix operand outside of shared memory");
    for (int r = 0; r < rows; r++) {
        turn.nan[which][r] = false;
        for (int k = 0; k < 32; k++) {
            const u8 code = memory[base + r * 128 + ((first_chunk + k / 16) ^ (r & 7)) * 16 + k % 16];
            const int exponent = code >> 3 & 15, mantissa = code & 7, magnitude = exponent ? 8 + mantissa : mantissa;
            turn.nan[which][r] |= (code & 0x7F) == 0x7F;
            turn.significand[which][r][k] = code & 0x80 ? -magnitude : magnitude;
            turn.exponent[which][r][k] = exponent ? exponent - 7 : -6;
        }
    }
}

inline int exponent_of(float x) { return (int)(__float_as_uint(x) >> 23 & 255) - 127; }

typedef int Ints __attribute__((vector_size(64)));

/// sum of 32 products and c.
inline float dot_fp8(const int* sa, const int* ea, const int* sb, const int* eb, float c) {
    const Ints none = Ints{} - 1000;
    Ints product[2], exponent[2], counts[2];
    for (int h = 0; h < 2; h++) {
        product[h] = ((const Ints*)sa)[h] * ((const Ints*)sb)[h]; // 6 fraction bits
        exponent[h] = ((const Ints*)ea)[h] + ((const Ints*)eb)[h];
        counts[h] = product[h] != 0 ? exponent[h] : none;
    }
    const Ints most = counts[0] > counts[1] ? counts[0] : counts[1];
    int largest = c == 0.0f ? -1000 : exponent_of(c);
    for (int k = 0; k < 16; k++) largest = most[k] > largest ? most[k] : largest;
    if (largest == -1000) return 0.0f;
    Ints sums = {};
    for (int h = 0; h < 2; h++) {
        Ints shift = largest - exponent[h];
        shift = shift > 31 ? Ints{} + 31 : shift < 0 ? Ints{} : shift;
        const Ints negative = product[h] < 0, magnitude = ((product[h] ^ negative) - negative) << (fp8_fraction - 6) >> shift;
        sums += (magnitude ^ negative) - negative;
    }
    int sum = 0;
    for (int k = 0; k < 16; k++) sum += sums[k];
    if (c != 0.0f) {
        const int magnitude = (int)(0x800000 | (__float_as_uint(c) & 0x7FFFFF)) >> (23 - fp8_fraction), shift = largest - exponent_of(c);
        const int part = shift > 31 ? 0 : magnitude >> shift;
        sum += c < 0 ? -part : part;
    }
    if (sum == 0) return 0.0f;
    const u32 magnitude = sum < 0 ? -sum : sum;
    const int bits = 32 - __builtin_clz(magnitude), excess = bits - (fp8_fraction + 1);
    const u32 kept = excess > 0 ? magnitude >> excess << excess : magnitude;
    const float result = ldexpf((float)kept, largest - fp8_fraction);
    return sum < 0 ? -result : result;
}

/// D[64, N] (+)= A[64, 32] B[N, 32]^T of one warpgroup; this thread's part.
inline void multiply_fp8(float* d, int n, u64 a, u64 b, int accumulate) {
    Block& block = *current->block;
    const u32 warpgroup = threadIdx.x / 128, number = current->products++;
    std::shared_ptr<Operands>& operands = block.operands[warpgroup];
    if (!operands) operands = std::make_shared<Operands>();
    Operands::Turn& turn = operands->turns[number % 8];
    if (turn.number != number) {
        turn.number = number;
        decode_rows(turn, 0, 64, (u32)(a & 0x3FFF) << 4);
        decode_rows(turn, 1, n, (u32)(b & 0x3FFF) << 4);
    }
    const int row = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
    for (int i = 0; i < n / 2; i++) {
        const int r = row + i / 2 % 2 * 8, c = i / 4 * 8 + column + i % 2;
        const float result = dot_fp8(turn.significand[0][r], turn.exponent[0][r], turn.significand[1][c], turn.exponent[1][c], accumulate ? d[i] : 0.0f);
        d[i] = turn.nan[0][r] || turn.nan[1][c] ? NAN : result;
    }
}

inline float dot_bf16(const float* a, const float* b, float c) {
    double exact = 0;
    int largest = c == 0.0f ? -100000 : exponent_of(c);
    for (int k = 0; k < 16; k++) {
        exact += (double)a[k] * b[k];
        if (a[k] != 0 && b[k] != 0) {
            const int e = std::max(exponent_of(a[k]), -126) + std::max(exponent_of(b[k]), -126);
            largest = e > largest ? e : largest;
        }
    }
    if (!std::isfinite(exact) || !std::isfinite(c)) return (float)(exact + c);
    if (largest == -100000) return 0.0f;
    const double unit = ldexp(1.0, largest - 25);
    double sum = std::trunc(c / unit);
    for (int k = 0; k < 16; k++) sum += std::trunc((double)a[k] * b[k] / unit);
    sum *= unit;
    float result = (float)sum; // then toward zero
    if (std::fabs((double)result) > std::fabs(sum)) result = nextafterf(result, 0.0f);
    return result;
}

/// D[64, N] (+)= A[64, 16] B[N, 16]^T in BF16: A in registers, B in shared memory; this thread's part.
inline void multiply_bf16_matrix(float* d, int n, const u32 (&a)[4], u64 b, int accumulate) {
    const u32 lane = threadIdx.x % 32, first = lane & ~3u;
    u64 (*low)[2] = exchange(~0u, (u64)a[2] << 32 | a[0], (u64)a[3] << 32 | a[1], "wgmma");
    float rows[2][16];
    for (u32 q = 0; q < 4; q++)
        for (int r = 0; r < 2; r++)
            for (int h = 0; h < 2; h++) {
                const u32 pair = (u32)(low[first + q][r] >> 32 * h);
                rows[r][8 * h + 2 * q] = low_bf16(pair);
                rows[r][8 * h + 2 * q + 1] = high_bf16(pair);
            }
    const u32 address = (u32)(b & 0x3FFF) << 4, base = address & ~1023u, first_chunk = address % 128 / 16;
    if (base + (u32)n * 128 > usable_shared_bytes) fault("a matrix operand outside of shared memory");
    const u8* memory = current->block->shared;
    for (int i = 0; i < n / 2; i++) {
        const int c = i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2;
        float column[16];
        for (int k = 0; k < 16; k++) {
            u16 bits;
            memcpy(&bits, memory + base + c * 128 + ((first_chunk + k / 8) ^ (c & 7)) * 16 + k % 8 * 2, 2);
            column[k] = from_bf16(bits);
        }
        d[i] = dot_bf16(rows[i / 2 % 2], column, accumulate ? d[i] : 0.0f);
    }
}
} // namespace emulator

constexpr bool products_are_dear = true;
DEVICE u64 operand_descriptor(u32 address) { return (u64)((address & 0x3FFFF) >> 4) | (1ull << 16) | (64ull << 32) | (1ull << 62); }
DEVICE u32 uniform(u32 x) { return __shfl_sync(~0u, x, 0); }
DEVICE void wgmma_fence() { __syncwarp(); } // the whole warp is here
DEVICE void wgmma_commit() {}
template <int Pending> void wgmma_wait() { __syncwarp(); } // all lanes have read their operands
template <class T, int Count> void settle(T (&)[Count]) {}
template <int N> struct Wgmma {
    static void multiply(float (&d)[N / 2], u64 a, u64 b, int accumulate) { emulator::multiply_fp8(d, N, a, b, accumulate); }
};
