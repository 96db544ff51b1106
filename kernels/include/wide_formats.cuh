#pragma once
#include "wide_arguments.cuh"
#include "wide_decode.cuh"
// How each weight format lies in a piece of 128 rows x 64 values, and how a thread turns its part into operand A of four products of depth 16.
// A piece is two tiles of 64 rows. Of a tile, thread t of a warpgroup feeds rows r = 16 (t / 32) + t % 32 / 4 and r + 8, and of each 16 values those at
// c = 2 (t % 4), c + 1, c + 8 and c + 9.

constexpr int tile_codes = 64 * 64;

/// E4M3 codes of one tile: [2 halves of 32 values][128 threads][16 bytes]. A word holds four codes of one row: c + 8, c, c + 9, c + 1.
DEVICE void load_codes(u32 (&words)[8], const u8* tile) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const uint4 v = *(const uint4*)(tile + half * 2048 + threadIdx.x % 128 * 16);
        words[4 * half] = v.x, words[4 * half + 1] = v.y, words[4 * half + 2] = v.z, words[4 * half + 3] = v.w;
    }
}

struct MxFp8 {
    static constexpr bool promotes = false;
    static constexpr int piece_bytes = 2 * tile_codes + 256; // then scales: [tile][warp][row % 8] words of four, two per half: rows r and r + 8
    static constexpr int pair_bytes = 2 * piece_bytes;       // two pieces in a row, 128 values
    static constexpr int stages = 6;

    static DEVICE u32 scales(const u8* piece, int tile) {
        return *(const u32*)(piece + 2 * tile_codes + tile * 128 + threadIdx.x % 128 / 32 * 32 + threadIdx.x % 32 / 4 * 4);
    }

    static DEVICE void operand(u32 (&a)[16], const u8* piece, int tile) {
        u32 words[8];
        load_codes(words, piece + tile * tile_codes);
        const u32 bytes = scales(piece, tile);
#pragma unroll
        for (int i = 0; i < 8; i++) { // steps of 16 values are pairs of words, of rows r and r + 8
            const u32 factor = first_factor(bytes >> (i / 4 * 2 + i % 2) * 8 & 0xFF) * both;
            a[i / 2 * 4 + i % 2] = multiply_bf16(odd_codes(words[i]), factor);
            a[i / 2 * 4 + i % 2 + 2] = multiply_bf16(even_codes(words[i]), factor);
        }
        if (!__any_sync(~0u, needs_second(bytes))) return;
#pragma unroll
        for (int i = 0; i < 16; i++) a[i] = multiply_bf16(a[i], second_factor(bytes >> (i / 8 * 2 + i % 2) * 8 & 0xFF) * both);
    }
};

struct Block128 {
    static constexpr bool promotes = true;
    static constexpr int piece_bytes = 2 * tile_codes;
    static constexpr int pair_bytes = 2 * piece_bytes;
    static constexpr int stages = 4;

    static DEVICE void operand(u32 (&a)[16], const u8* piece, int tile) {
        u32 words[8];
        load_codes(words, piece + tile * tile_codes);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            a[i / 2 * 4 + i % 2] = multiply_bf16(odd_codes(words[i]), decode_factor);
            a[i / 2 * 4 + i % 2 + 2] = multiply_bf16(even_codes(words[i]), decode_factor);
        }
    }
};

struct Bf16 {
    static constexpr bool promotes = false;
    static constexpr int piece_bytes = 4 * tile_codes; // [tile][step of 16 values][128 threads][16 bytes]: rows r, r + 8 at c, then at c + 8
    static constexpr int pair_bytes = 2 * piece_bytes;
    static constexpr int stages = 4;

    static DEVICE void operand(u32 (&a)[16], const u8* piece, int tile) {
#pragma unroll
        for (int step = 0; step < 4; step++) {
            const uint4 v = *(const uint4*)(piece + (tile * 4 + step) * 2048 + threadIdx.x % 128 * 16);
            a[4 * step] = v.x, a[4 * step + 1] = v.y, a[4 * step + 2] = v.z, a[4 * step + 3] = v.w;
        }
    }
};
