#pragma once
#include "wide_arguments.cuh"
#include "wide_decode.cuh"
// How each weight format lies in a piece of 128 rows x 64 values, and how a thread turns its part into operand A of products of depth 16.
// A piece is two tiles of 64 rows, a tile two quarters of 32, a quarter what two warps feed, [2 warps][halves of 32 codes, or steps of 16 BF16 values][32 lanes][16 bytes], and
// then its MXFP8 scales; so one copy brings a piece, a tile or a quarter. Of a tile, thread t of a warpgroup feeds rows r = 16 (t / 32) + t % 32 / 4 and r + 8, and of each 16
// values those at c = 2 (t % 4), c + 1, c + 8 and c + 9. Operands are made for one or two halves of 32 values at a time.

/// Rows of products, for tall units: a tile takes the narrowest that hold it.
template <int...> struct WideWidths {};

constexpr int quarter_codes = 32 * 64;
constexpr int part_bytes = 32 * 16; // of a warp

/// Of a thread of a warpgroup, in a tile, or of half a warpgroup in a quarter.
template <class Format> DEVICE u32 parts_offset(u32 thread) {
    return thread / 32 * (Format::warp_parts * part_bytes) + thread / 64 * (Format::quarter_bytes - 2 * Format::warp_parts * part_bytes) + thread % 32 * 16;
}

template <class Format> DEVICE u32 scales_offset(u32 thread) { return quarter_codes + thread / 64 * Format::quarter_bytes + (thread & 0x3C); } // MXFP8

/// A thread's E4M3 codes of one half of a tile: woven words of codes c, c + 1, c + 8, c + 9 for row r, then r + 8, at two steps of 16 values.
/// Times 2^-120 and the factors of both rows.
DEVICE void decode_part(u32* a, uint4 v, u32 factor0, u32 factor1) {
    const u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        a[i / 2 * 4 + i % 2] = multiply_bf16(first_codes(words[i]), i % 2 ? factor1 : factor0);
        a[i / 2 * 4 + i % 2 + 2] = multiply_bf16(second_codes(words[i]), i % 2 ? factor1 : factor0);
    }
}

/// So many of a thread's parts, 16 bytes each.
template <int Count> struct WideParts {
    uint4 of[Count];
    DEVICE WideParts() {}
    DEVICE WideParts(const u8* first) {
#pragma unroll
        for (int i = 0; i < Count; i++) of[i] = *(const uint4*)(first + i * part_bytes);
    }
    DEVICE u32 read() const { // of each: 16 bytes come together
        u32 read = 0;
#pragma unroll
        for (int i = 0; i < Count; i++) read ^= of[i].x;
        return read;
    }
};

/// A thread's part of a tile, 64 weight rows x 64 values, as it lies.
template <class Format> struct WideTilePart {
    WideParts<Format::warp_parts> parts;
    u32 scales;
    DEVICE void fetch(const u8* tile, u32 thread) {
        parts = WideParts<Format::warp_parts>(tile + parts_offset<Format>(thread));
        scales = Format::mx ? *(const u32*)(tile + scales_offset<Format>(thread)) : 0;
    }
    DEVICE void decode(u32 (&a)[16]) const { Format::template decode<2>(a, parts, scales); }
};

struct MxFp8 {
    static constexpr bool promotes = false, mx = true, operands_as_they_lie = false; // mx: rows may be MXFP8 too
    static constexpr int tile_rows = 144;
    static constexpr int warp_parts = 2;
    static constexpr int quarter_bytes = quarter_codes + 64; // then scales: [warp][row % 8] words of four, two per half: rows r and r + 8
    static constexpr int tile_bytes = 2 * quarter_bytes;
    static constexpr int piece_bytes = 2 * tile_bytes;
    static constexpr int pair_bytes = 2 * piece_bytes;       // two pieces in a row, 128 values
    static constexpr int stages = 6;
    typedef WideWidths<24, 32, 48, 64, 72, 80, 96, 104, 112, 120, 128, 136, 144> Widths;

    /// Bytes of rows r and r + 8 for each half.
    static DEVICE u32 scales(const u8* tile, u32 thread) { return *(const u32*)(tile + scales_offset<MxFp8>(thread)); }
    /// Of parts and scale bytes, from the first half on.
    template <int Halves> static DEVICE void decode(u32 (&a)[8 * Halves], const WideParts<Halves>& parts, u32 bytes) {
#pragma unroll
        for (int h = 0; h < Halves; h++) decode_part(a + 8 * h, parts.of[h], only_factor(bytes >> 16 * h & 0xFF), only_factor(bytes >> (16 * h + 8) & 0xFF));
    }
    template <int Halves> static DEVICE void operand(u32 (&a)[8 * Halves], const u8* piece, int tile, int first, u32 thread) {
        const u8* from = piece + tile * tile_bytes;
        decode<Halves>(a, WideParts<Halves>(from + first * part_bytes + parts_offset<MxFp8>(thread)), scales(from, thread) >> 16 * first);
    }
};

/// Of layers with scales that take two factors.
struct LargeMxFp8 : MxFp8 {
    typedef WideWidths<48, 96, 144> Widths;

    template <int Halves> static DEVICE void decode(u32 (&a)[8 * Halves], const WideParts<Halves>& parts, u32 bytes) {
#pragma unroll
        for (int h = 0; h < Halves; h++) {
            const u32 byte0 = bytes >> 16 * h & 0xFF, byte1 = bytes >> (16 * h + 8) & 0xFF;
            decode_part(a + 8 * h, parts.of[h], first_factor(byte0) * both, first_factor(byte1) * both);
#pragma unroll
            for (int i = 0; i < 8; i++) a[8 * h + i] = multiply_bf16(a[8 * h + i], second_factor(i % 2 ? byte1 : byte0) * both);
        }
    }
    template <int Halves> static DEVICE void operand(u32 (&a)[8 * Halves], const u8* piece, int tile, int first, u32 thread) {
        const u8* from = piece + tile * tile_bytes;
        decode<Halves>(a, WideParts<Halves>(from + first * part_bytes + parts_offset<MxFp8>(thread)), scales(from, thread) >> 16 * first);
    }
};

struct Block128 {
    static constexpr bool promotes = true, mx = false, operands_as_they_lie = false;
    static constexpr int tile_rows = 128;
    static constexpr int warp_parts = 2;
    static constexpr int quarter_bytes = quarter_codes;
    static constexpr int tile_bytes = 2 * quarter_bytes;
    static constexpr int piece_bytes = 2 * tile_bytes;
    static constexpr int pair_bytes = 2 * piece_bytes;
    static constexpr int stages = 6;
    typedef WideWidths<24, 32, 48, 64, 80, 88, 96, 104, 112, 120, 128> Widths;

    template <int Halves> static DEVICE void decode(u32 (&a)[8 * Halves], const WideParts<Halves>& parts, u32) {
#pragma unroll
        for (int h = 0; h < Halves; h++) decode_part(a + 8 * h, parts.of[h], decode_factor, decode_factor);
    }
    template <int Halves> static DEVICE void operand(u32 (&a)[8 * Halves], const u8* piece, int tile, int first, u32 thread) {
        decode<Halves>(a, WideParts<Halves>(piece + tile * tile_bytes + first * part_bytes + parts_offset<Block128>(thread)), 0);
    }
};

struct Bf16 {
    static constexpr bool promotes = false, mx = false, operands_as_they_lie = true; // nothing is computed between a read and the products
    static constexpr int tile_rows = 128;
    static constexpr int warp_parts = 4; // rows r, r + 8 at c, then at c + 8
    static constexpr int quarter_bytes = 2 * quarter_codes;
    static constexpr int tile_bytes = 2 * quarter_bytes;
    static constexpr int piece_bytes = 2 * tile_bytes;
    static constexpr int pair_bytes = 2 * piece_bytes;
    static constexpr int stages = 4;
    typedef WideWidths<24, 32, 48, 64, 96, 128> Widths;

    template <int Halves> static DEVICE void decode(u32 (&a)[8 * Halves], const WideParts<2 * Halves>& parts, u32) {
#pragma unroll
        for (int step = 0; step < 2 * Halves; step++) {
            const uint4 v = parts.of[step];
            a[4 * step] = v.x, a[4 * step + 1] = v.y, a[4 * step + 2] = v.z, a[4 * step + 3] = v.w;
        }
    }
    template <int Halves> static DEVICE void operand(u32 (&a)[8 * Halves], const u8* piece, int tile, int first, u32 thread) {
#pragma unroll
        for (int step = 0; step < 2 * Halves; step++) {
            const uint4 v = *(const uint4*)(piece + tile * tile_bytes + (2 * first + step) * part_bytes + parts_offset<Bf16>(thread));
            a[4 * step] = v.x, a[4 * step + 1] = v.y, a[4 * step + 2] = v.z, a[4 * step + 3] = v.w;
        }
    }
};
