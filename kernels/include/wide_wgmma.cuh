#pragma once
#include "wgmma.cuh"
// BF16 matrix products of one warpgroup: D[64, N] (+)= A[64, 16] B[N, 16]^T with A in registers (wide_formats.cuh) and B in shared memory as wgmma.cuh
// has it, 64 values to a row. D as there.

#ifdef EMULATED
template <int N> struct WideWgmma {
    static void multiply(float (&d)[N / 2], const u32* a, u64 b, int accumulate) { emulator::multiply_bf16_matrix(d, N, {a[0], a[1], a[2], a[3]}, b, accumulate); }
};
#else
template <int N> struct WideWgmma;

#define WIDE_REGS8(a, b, c, d, e, f, g, h) ",%" #a ",%" #b ",%" #c ",%" #d ",%" #e ",%" #f ",%" #g ",%" #h
#define WIDE_REGS12 REGS8 ",%8,%9,%10,%11"
#define WIDE_REGS52 REGS48 ",%48,%49,%50,%51"
#define WIDE_REGS56 REGS48 WIDE_REGS8(48, 49, 50, 51, 52, 53, 54, 55)
#define WIDE_REGS60 WIDE_REGS56 ",%56,%57,%58,%59"
#define WIDE_REGS64 WIDE_REGS56 WIDE_REGS8(56, 57, 58, 59, 60, 61, 62, 63)
#define WIDE_REGS68 WIDE_REGS64 ",%64,%65,%66,%67"
#define WIDE_REGS72 WIDE_REGS64 WIDE_REGS8(64, 65, 66, 67, 68, 69, 70, 71)
#define WIDE_WGMMA(N, REGS, A, B, P, ...)                                                                                                        \
    template <> struct WideWgmma<N> {                                                                                                            \
        static DEVICE void multiply(float (&d)[N / 2], const u32* a, u64 b, int accumulate) {                                                    \
            asm volatile("{.reg .pred p; setp.ne.b32 p, " P ", 0; wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" REGS "}, {" A      \
                         "}, " B ", p, 1, 1, 0;}" : __VA_ARGS__                                                                                   \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate) : "memory");                                      \
        }                                                                                                                                        \
    };
WIDE_WGMMA(8, REGS4, "%4,%5,%6,%7", "%8", "%9", OUT4(0))
WIDE_WGMMA(16, REGS8, "%8,%9,%10,%11", "%12", "%13", OUT8(0))
WIDE_WGMMA(24, WIDE_REGS12, "%12,%13,%14,%15", "%16", "%17", OUT8(0), OUT4(8))
WIDE_WGMMA(32, REGS16, "%16,%17,%18,%19", "%20", "%21", OUT16(0))
WIDE_WGMMA(48, REGS24, "%24,%25,%26,%27", "%28", "%29", OUT16(0), OUT8(16))
WIDE_WGMMA(64, REGS32, "%32,%33,%34,%35", "%36", "%37", OUT32(0))
WIDE_WGMMA(72, REGS36, "%36,%37,%38,%39", "%40", "%41", OUT32(0), OUT4(32))
WIDE_WGMMA(80, REGS40, "%40,%41,%42,%43", "%44", "%45", OUT32(0), OUT8(32))
WIDE_WGMMA(88, REGS44, "%44,%45,%46,%47", "%48", "%49", OUT32(0), OUT8(32), OUT4(40))
WIDE_WGMMA(96, REGS48, "%48,%49,%50,%51", "%52", "%53", OUT32(0), OUT16(32))
WIDE_WGMMA(104, WIDE_REGS52, "%52,%53,%54,%55", "%56", "%57", OUT32(0), OUT16(32), OUT4(48))
WIDE_WGMMA(112, WIDE_REGS56, "%56,%57,%58,%59", "%60", "%61", OUT32(0), OUT16(32), OUT8(48))
WIDE_WGMMA(120, WIDE_REGS60, "%60,%61,%62,%63", "%64", "%65", OUT32(0), OUT16(32), OUT8(48), OUT4(56))
WIDE_WGMMA(128, WIDE_REGS64, "%64,%65,%66,%67", "%68", "%69", OUT32(0), OUT32(32))
WIDE_WGMMA(136, WIDE_REGS68, "%68,%69,%70,%71", "%72", "%73", OUT32(0), OUT32(32), OUT4(64))
WIDE_WGMMA(144, WIDE_REGS72, "%72,%73,%74,%75", "%76", "%77", OUT32(0), OUT32(32), OUT8(64))
#endif

/// 32 values of depth per half: two products. Issues only; the caller fences before and commits after.
template <int N, int Halves> DEVICE void multiply_wide(float (&d)[N / 2], const u32 (&a)[8 * Halves], u64 b, bool first) {
#pragma unroll
    for (int step = 0; step < 2 * Halves; step++) WideWgmma<N>::multiply(d, a + 4 * step, b + 2 * step, !first || step != 0);
}

/// What a thread holds of rows r and r + 8, by a scale each.
template <int Count> DEVICE void promote(float (&final)[Count], const float (&sum)[Count], float scale0, float scale1) {
#pragma unroll
    for (int i = 0; i < Count; i++) final[i] = fmaf(i / 2 % 2 ? scale1 : scale0, sum[i], final[i]);
}
