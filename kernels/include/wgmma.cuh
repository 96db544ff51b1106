#pragma once
#include "ptx.cuh"
// FP8 matrix products of one warpgroup: D[64, N] (+)= A[64, 32] B[N, 32]^T, operands in shared memory in rows of 128 bytes whose 16-byte chunks
// are swizzled by the row number modulo 8. Thread t of the warpgroup holds, of each 8-column block j, D[r][c], D[r][c+1], D[r+8][c], D[r+8][c+1] in
// d[4j .. 4j+3], with r = 16 (t / 32) + (t % 32) / 4 and c = 8j + 2 (t % 4).

#ifdef EMULATED
#include "../emulator/wgmma.hpp"
#else
constexpr bool products_are_dear = false; // as they are in the emulator
DEVICE u64 operand_descriptor(u32 address) { // rows of 128 bytes, 8-row groups 1024 bytes apart, 128-byte swizzle
    return (u64)((address & 0x3FFFF) >> 4) | (1ull << 16) | (64ull << 32) | (1ull << 62);
}
/// The same value in all lanes, known as such to the compiler: descriptors must lie in uniform registers, so that products issue back to back.
DEVICE u32 uniform(u32 x) { return __shfl_sync(~0u, x, 0); }
DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int Pending> DEVICE void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory"); }

/// After a wait: operands in registers were read until here (the compiler takes them to be free as soon as products are issued, and KernelCompiler looks for what comes of that).
template <int Count> DEVICE void settle(u32 (&a)[Count]) {
#pragma unroll
    for (int i = 0; i < Count; i++) asm volatile("" : "+r"(a[i])::"memory");
}
/// Results are read from here on, not earlier (the compiler does not know that a wait makes them).
template <int Count> DEVICE void settle(float (&d)[Count]) {
#pragma unroll
    for (int i = 0; i < Count; i++) asm volatile("" : "+f"(d[i])::"memory");
}

template <int N> struct Wgmma;

#define REGS4 "%0,%1,%2,%3"
#define REGS8 REGS4 ",%4,%5,%6,%7"
#define REGS16 REGS8 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define REGS24 REGS16 ",%16,%17,%18,%19,%20,%21,%22,%23"
#define REGS28 REGS24 ",%24,%25,%26,%27"
#define REGS32 REGS24 ",%24,%25,%26,%27,%28,%29,%30,%31"
#define REGS36 REGS32 ",%32,%33,%34,%35"
#define REGS40 REGS32 ",%32,%33,%34,%35,%36,%37,%38,%39"
#define REGS44 REGS40 ",%40,%41,%42,%43"
#define REGS48 REGS40 ",%40,%41,%42,%43,%44,%45,%46,%47"
#define REGS56 REGS48 ",%48,%49,%50,%51,%52,%53,%54,%55"
#define REGS64 REGS56 ",%56,%57,%58,%59,%60,%61,%62,%63"
#define OUT4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define OUT8(i) OUT4(i), OUT4(i + 4)
#define OUT16(i) OUT8(i), OUT8(i + 8)
#define OUT32(i) OUT16(i), OUT16(i + 16)
#define WGMMA(N, REGS, A, B, P, ...)                                                                                                             \
    template <> struct Wgmma<N> {                                                                                                                \
        static DEVICE void multiply(float (&d)[N / 2], u64 a, u64 b, int accumulate) {                                                           \
            asm volatile("{.reg .pred p; setp.ne.b32 p, " P ", 0; wgmma.mma_async.sync.aligned.m64n" #N "k32.f32.e4m3.e4m3 {" REGS "}, " A       \
                         ", " B ", p, 1, 1;}" : __VA_ARGS__ : "l"(a), "l"(b), "r"(accumulate) : "memory");                                                  \
        }                                                                                                                                        \
    };
WGMMA(8, REGS4, "%4", "%5", "%6", OUT4(0))
WGMMA(16, REGS8, "%8", "%9", "%10", OUT8(0))
WGMMA(32, REGS16, "%16", "%17", "%18", OUT16(0))
WGMMA(48, REGS24, "%24", "%25", "%26", OUT16(0), OUT8(16))
WGMMA(56, REGS28, "%28", "%29", "%30", OUT16(0), OUT8(16), OUT4(24))
WGMMA(64, REGS32, "%32", "%33", "%34", OUT32(0))
WGMMA(72, REGS36, "%36", "%37", "%38", OUT32(0), OUT4(32))
WGMMA(80, REGS40, "%40", "%41", "%42", OUT32(0), OUT8(32))
WGMMA(88, REGS44, "%44", "%45", "%46", OUT32(0), OUT8(32), OUT4(40))
WGMMA(96, REGS48, "%48", "%49", "%50", OUT32(0), OUT16(32))
WGMMA(128, REGS64, "%64", "%65", "%66", OUT32(0), OUT32(32))
#endif

/// The half of a descriptor that tells the address, in units of 16 bytes: where places of operands are added up, this is what to add up.
DEVICE u32 operand_place(u32 address) { return (u32)operand_descriptor(address); }
DEVICE u64 operand_at(u32 place) { return (operand_descriptor(0) & ~0xFFFFFFFFull) | place; }

/// One 128-wide K block, from places: four products of 32, the first overwriting. Issues only; the caller fences before and commits after.
template <int N> DEVICE void multiply_block_at(float (&d)[N / 2], u32 a, u32 b) {
#pragma unroll
    for (int k = 0; k < 4; k++) Wgmma<N>::multiply(d, operand_at(a + 2 * k), operand_at(b + 2 * k), k != 0);
}

/// The same from addresses.
template <int N> DEVICE void multiply_block(float (&d)[N / 2], u32 a, u32 b) { multiply_block_at<N>(d, operand_place(a), operand_place(b)); }
