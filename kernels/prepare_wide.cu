// At load: rows of one expert's weights from row-major staging into the pieces that the wide GEMMs stream (wide_formats.cuh), zeros where a block exceeds
// the matrix. Counts NaN codes and looks for large scales on the way.
#include "include/wide_formats.cuh"

namespace wide {
enum { mxfp8 = 0, block128 = 1, bf16 = 2 };

struct Source {
    const u8* values;
    const u8* scales;
    u64 reported; // offset of the first value in the count of NaN codes
    int row;      // -1: beyond the matrix
};

/// Row r of a block: with two matrices 8 rows of the first, 8 of the second, and so on.
DEVICE Source source_of(const WidePrepareArguments& p, int block, int r) {
    const bool second = p.second && r / 8 % 2;
    const int row = p.second ? block * 64 + r / 16 * 8 + r % 8 : block * 128 + r;
    return {second ? p.second : p.first, second ? p.second_scales : p.first_scales, second ? (u64)p.rows * p.columns : 0, row < p.rows ? row : -1};
}

DEVICE u32 code(const WidePrepareArguments& p, const Source& s, int column) {
    if (s.row < 0 || column >= p.columns) return 0;
    const u64 at = (u64)s.row * p.columns + column;
    const u32 value = s.values[at];
    if ((value & 0x7F) == 0x7F) {
        atomicAdd(p.found, (u64)1);
        atomicMin(p.found + 1, at + s.reported);
    }
    return value;
}

DEVICE u32 pair(const WidePrepareArguments& p, const Source& s, int column) { // BF16
    const u16* from = (const u16*)s.values + (u64)(s.row < 0 ? 0 : s.row) * p.columns;
    u32 value = 0;
    if (s.row >= 0 && column < p.columns) value = from[column];
    if (s.row >= 0 && column + 1 < p.columns) value |= (u32)from[column + 1] << 16;
    return value;
}

/// 16 bytes of one thread: E4M3 values of two rows at two steps of 16, or BF16 values at one.
DEVICE uint4 part(const WidePrepareArguments& p, int block, int depth, int warp, int group, int lane) {
    const int r = warp * 16 + lane / 4;
    const Source low = source_of(p, block, r), high = source_of(p, block, r + 8);
    if (p.format == bf16) {
        const int c = depth * 64 + group * 16 + lane % 4 * 2;
        return make_uint4(pair(p, low, c), pair(p, high, c), pair(p, low, c + 8), pair(p, high, c + 8));
    }
    u32 words[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int c = depth * 64 + group * 32 + i / 2 * 16 + lane % 4 * 2;
        const Source& s = i % 2 ? high : low;
        words[i] = weave(code(p, s, c), code(p, s, c + 1), code(p, s, c + 8), code(p, s, c + 9));
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
}

/// Four scale bytes: of rows r and r + 8 for the first 32 values, then for the next.
DEVICE u32 scale_bytes(const WidePrepareArguments& p, int block, int depth, int r) {
    const int columns = (p.columns + 31) / 32;
    u32 bytes = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const Source s = source_of(p, block, r + i % 2 * 8);
        const int column = depth * 2 + i / 2;
        const u32 byte = s.row < 0 || column >= columns ? 127u : s.scales[(u64)s.row * columns + column];
        if (byte > most_in_one) p.found[2] = 1;
        bytes |= byte << i * 8;
    }
    return bytes;
}
} // namespace wide

extern "C" __global__ void __launch_bounds__(256) prepare_wide(const __grid_constant__ WidePrepareArguments p) {
    const int piece_chunks = p.format == wide::bf16 ? Bf16::piece_bytes / 16 : Block128::piece_bytes / 16;
    const int piece_bytes = p.format == wide::bf16 ? Bf16::piece_bytes : p.format == wide::mxfp8 ? MxFp8::piece_bytes : Block128::piece_bytes;
    const u64 chunks = (u64)p.blocks * p.k_blocks * 2 * piece_chunks;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < chunks; i += (u64)gridDim.x * blockDim.x) {
        const int index = (int)(i % piece_chunks), depth = (int)(i / piece_chunks % (2 * p.k_blocks)), block = (int)(i / piece_chunks / (2 * p.k_blocks));
        const int warp = index / (piece_chunks / 8), group = index / 32 % (piece_chunks / 256), chunk = index % (piece_chunks / 4); // of a quarter
        u8* piece = p.to + ((u64)block * 2 * p.k_blocks + depth) * piece_bytes;
        u8* quarter = piece + warp / 2 * (piece_bytes / 4);
        *(uint4*)(quarter + chunk * 16) = wide::part(p, block, depth, warp, group, index % 32);
        if (p.format == wide::mxfp8 && chunk < 16) // 16 rows have 8 words
            ((u32*)(quarter + quarter_codes))[chunk] = wide::scale_bytes(p, block, depth, warp / 2 * 32 + chunk / 8 * 16 + chunk % 8);
    }
}

/// For tests: what the decode makes of every code under every scale, [256 scales][256 codes] BF16, by the instructions that the GEMMs use.
extern "C" __global__ void __launch_bounds__(256) decode_wide(const __grid_constant__ WidePrepareArguments p) {
    const u32 scale = blockIdx.x, code = threadIdx.x, word = weave(code, code, code, code), factor = first_factor(scale) * both;
    u32 first = multiply_bf16(first_codes(word), factor), second = multiply_bf16(second_codes(word), factor);
    if (scale > most_in_one) {
        first = multiply_bf16(first, second_factor(scale) * both);
        second = multiply_bf16(second, second_factor(scale) * both);
    }
    const u32 alone = weave(code, 0, 0, 0) | weave(0, 0, 0, code ^ 0x80); // others' bits stay away
    const bool apart = first_codes(alone) == (first_codes(word) & 0xFFFF) && second_codes(alone) == (second_codes(word) & 0xFFFF0000u ^ 0x80000000u);
    const bool same = first == second && first >> 16 == (first & 0xFFFF) && apart && (scale > most_in_one || factor == only_factor(scale));
    ((u16*)p.to)[scale * 256 + code] = same ? (u16)first : (u16)0x1234;
}
