#pragma once
#include "wide_arguments.cuh"
#include "wide_decode.cuh"
// How each weight format lies in a piece of 128 rows x 64 values, and how a thread turns its part into operand A of products of depth 16.
// A piece is two tiles of 64 rows. Of a tile, thread t of a warpgroup feeds rows r = 16 (t / 32) + t % 32 / 4 and r + 8, and of each 16 values those at
// c = 2 (t % 4), c + 1, c + 8 and c + 9. Operands are made for one or two halves of 32 values at a time.

/// Rows of products, for tall units: a tile takes the narrowest that hold it.
template <int...> struct WideWidths {};

constexpr int tile_codes = 64 * 64;
constexpr int half_codes = 64 * 32;

/// 16 bytes of one thread of a warpgroup.
DEVICE uint4 thread_part(const u8* parts, u32 thread) { return *(const uint4*)(parts + thread * 16); }

/// A thread's E4M3 codes of one half of a tile, [128 threads][16 bytes]: woven words of codes c, c + 1, c + 8, c + 9 for row r, then r + 8, at two steps of 16 values.
/// Times 2^-120 and the factors of both rows.
DEVICE void decode_part(u32* a, uint4 v, u32 factor0, u32 factor1) {
    const u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        a[i / 2 * 4 + i % 2] = multiply_bf16(first_codes(words[i]), i % 2 ? factor1 : factor0);
        a[i / 2 * 4 + i % 2 + 2] = multiply_bf16(second_codes(words[i]), i % 2 ? factor1 : factor0);
    }
}

/// The parts of so many halves.
template <int Halves> struct HalfParts {
    uint4 of[Halves];
    DEVICE HalfParts(const u8* codes, u32 thread) {
#pragma unroll
        for (int h = 0; h < Halves; h++) of[h] = thread_part(codes + h * half_codes, thread);
    }
};

struct MxFp8 {
    static constexpr bool promotes = false, mx = true; // mx: rows may be MXFP8 too
    static constexpr int tile_rows = 144;
    static constexpr int tile_bytes = tile_codes;            // 64 rows x 64 values
    static constexpr int piece_bytes = 2 * tile_codes + 256; // then scales: [tile][warp][row % 8] words of four, two per half: rows r and r + 8
    static constexpr int pair_bytes = 2 * piece_bytes;       // two pieces in a row, 128 values
    static constexpr int stages = 6;
    typedef WideWidths<24, 32, 48, 64, 72, 80, 96, 104, 112, 120, 128, 136, 144> Widths;

    /// Bytes of rows r and r + 8 for each half, from `first` on.
    static DEVICE u32 scales(const u8* piece, int tile, int first, u32 thread) {
        return *(const u32*)(piece + 2 * tile_codes + tile * 128 + (thread & 0x7C)) >> 16 * first;
    }
    /// Of parts and scale bytes, from the first half on.
    template <int Halves> static DEVICE void decode(u32 (&a)[8 * Halves], const HalfParts<Halves>& parts, u32 bytes) {
#pragma unroll
        for (int h = 0; h < Halves; h++) decode_part(a + 8 * h, parts.of[h], only_factor(bytes >> 16 * h & 0xFF), only_factor(bytes >> (16 * h + 8) & 0xFF));
    }
    template <int Halves> static DEVICE void operand(u32 (&a)[8 * Halves], const u8* piece, int tile, int first, u32 thread) {
        decode<Halves>(a, HalfParts<Halves>(piece + tile * tile_bytes + first * half_codes, thread), scales(piece, tile, first, thread));
    }
};

/// Of layers with scales that take two factors.
struct LargeMxFp8 : MxFp8 {
    typedef WideWidths<48, 96, 144> Widths;

    template <int Halves> static DEVICE void decode(u32 (&a)[8 * Halves], const HalfParts<Halves>& parts, u32 bytes) {
#pragma unroll
        for (int h = 0; h < Halves; h++) {
            const u32 byte0 = bytes >> 16 * h & 0xFF, byte1 = bytes >> (16 * h + 8) & 0xFF;
            decode_part(a + 8 * h, parts.of[h], first_factor(byte0) * both, first_factor(byte1) * both);
#pragma unroll
            for (int i = 0; i < 8; i++) a[8 * h + i] = multiply_bf16(a[8 * h + i], second_factor(i % 2 ? byte1 : byte0) * both);
        }
    }
    template <int Halves> static DEVICE void operand(u32 (&a)[8 * Halves], const u8* piece, int tile, int first, u32 thread) {
        decode<Halves>(a, HalfParts<Halves>(piece + tile * tile_bytes + first * half_codes, thread), scales(piece, tile, first, thread));
    }
};

struct Block128 {
    static constexpr bool promotes = true, mx = false;
    static constexpr int tile_rows = 128;
    static constexpr int tile_bytes = tile_codes;
    static constexpr int piece_bytes = 2 * tile_codes;
    static constexpr int pair_bytes = 2 * piece_bytes;
    static constexpr int stages = 6;
    typedef WideWidths<24, 32, 48, 64, 80, 88, 96, 104, 112, 120, 128> Widths;

    template <int Halves> static DEVICE void decode(u32 (&a)[8 * Halves], const HalfParts<Halves>& parts, u32) {
#pragma unroll
        for (int h = 0; h < Halves; h++) decode_part(a + 8 * h, parts.of[h], decode_factor, decode_factor);
    }
    template <int Halves> static DEVICE void operand(u32 (&a)[8 * Halves], const u8* piece, int tile, int first, u32 thread) {
        decode<Halves>(a, HalfParts<Halves>(piece + tile * tile_bytes + first * half_codes, thread), 0);
    }
};

struct Bf16 {
    static constexpr bool promotes = false, mx = false;
    static constexpr int tile_rows = 128;
    static constexpr int tile_bytes = 2 * tile_codes;
    static constexpr int piece_bytes = 4 * tile_codes; // [tile][step of 16 values][128 threads][16 bytes]: rows r, r + 8 at c, then at c + 8
    static constexpr int pair_bytes = 2 * piece_bytes;
    static constexpr int stages = 4;
    typedef WideWidths<24, 32, 48, 64, 96, 128> Widths;

    template <int Halves> static DEVICE void decode(u32 (&a)[8 * Halves], const HalfParts<2 * Halves>& parts, u32) { // steps of 16 values lie as halves of codes do
#pragma unroll
        for (int step = 0; step < 2 * Halves; step++) {
            const uint4 v = parts.of[step];
            a[4 * step] = v.x, a[4 * step + 1] = v.y, a[4 * step + 2] = v.z, a[4 * step + 3] = v.w;
        }
    }
    template <int Halves> static DEVICE void operand(u32 (&a)[8 * Halves], const u8* piece, int tile, int first, u32 thread) {
#pragma unroll
        for (int step = 0; step < 2 * Halves; step++) {
            const uint4 v = thread_part(piece + (tile * 4 + 2 * first + step) * 2048, thread);
            a[4 * step] = v.x, a[4 * step + 1] = v.y, a[4 * step + 2] = v.z, a[4 * step + 3] = v.w;
        }
    }
};
