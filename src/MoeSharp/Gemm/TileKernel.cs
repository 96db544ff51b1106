using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.Arm;
using System.Runtime.Intrinsics.X86;

namespace MoeSharp;

/// <summary>How many rows a kernel does at once; a type, so that the compiler drops the code of the others.</summary>
internal interface IRowCount
{
    static abstract int Count { get; }
}

/// <summary>The microkernel in managed SIMD: up to 14 rows x 2 vectors of FP32 sums stay in registers over a block.</summary>
internal static unsafe class TileKernel
{
    /// <summary>Rows in one pass: 28 sums, two operands, a broadcast and what is half decoded fill 32 registers; 16 hold six rows.</summary>
    public static int MaxRows => Vector512.IsHardwareAccelerated || AdvSimd.Arm64.IsSupported ? 14 : 6;

    // Optimized at once: the slow first tier would keep all sums in memory.
    [MethodImpl(MethodImplOptions.AggressiveOptimization), SkipLocalsInit]
    public static void Run<T, TCodec, TScaling, TRows>(TileBlock* block)
        where T : unmanaged, ISimd<T> where TCodec : struct, IWeightCodec where TScaling : struct, IWeightScaling where TRows : struct, IRowCount
    {
        const int Stride = TileBlock.MaxDepth;
        int depth = (block->Depth + 1) & -2;
        for (int column = 0; column < TileBlock.Columns; column += 2 * T.Count)
        {
            T zero = default;
            T a0 = zero, b0 = zero, a1 = zero, b1 = zero, a2 = zero, b2 = zero, a3 = zero, b3 = zero, a4 = zero, b4 = zero,
                a5 = zero, b5 = zero, a6 = zero, b6 = zero, a7 = zero, b7 = zero, a8 = zero, b8 = zero, a9 = zero, b9 = zero,
                a10 = zero, b10 = zero, a11 = zero, b11 = zero, a12 = zero, b12 = zero, a13 = zero, b13 = zero;
            float* sums = block->Sums + column;
            if (!TScaling.Promotes)
            {
                const int next = TileBlock.Columns;
                float* s = sums;
                { a0 = T.Load(s); b0 = T.Load(s + T.Count); s += next; }
                if (TRows.Count > 1) { a1 = T.Load(s); b1 = T.Load(s + T.Count); s += next; }
                if (TRows.Count > 2) { a2 = T.Load(s); b2 = T.Load(s + T.Count); s += next; }
                if (TRows.Count > 3) { a3 = T.Load(s); b3 = T.Load(s + T.Count); s += next; }
                if (TRows.Count > 4) { a4 = T.Load(s); b4 = T.Load(s + T.Count); s += next; }
                if (TRows.Count > 5) { a5 = T.Load(s); b5 = T.Load(s + T.Count); s += next; }
                if (TRows.Count > 6) { a6 = T.Load(s); b6 = T.Load(s + T.Count); s += next; }
                if (TRows.Count > 7) { a7 = T.Load(s); b7 = T.Load(s + T.Count); s += next; }
                if (TRows.Count > 8) { a8 = T.Load(s); b8 = T.Load(s + T.Count); s += next; }
                if (TRows.Count > 9) { a9 = T.Load(s); b9 = T.Load(s + T.Count); s += next; }
                if (TRows.Count > 10) { a10 = T.Load(s); b10 = T.Load(s + T.Count); s += next; }
                if (TRows.Count > 11) { a11 = T.Load(s); b11 = T.Load(s + T.Count); s += next; }
                if (TRows.Count > 12) { a12 = T.Load(s); b12 = T.Load(s + T.Count); s += next; }
                if (TRows.Count > 13) { a13 = T.Load(s); b13 = T.Load(s + T.Count); s += next; }
            }
            byte* w = block->Weights + column * TCodec.ValueBytes;
            byte* scales = block->Scales + column;
            float* x = (float*)block->Operands;
            byte* tables = block->Tables;
            byte* ahead = block->Ahead;
            int group = TScaling.HasColumnScales ? 32 : Stride;
            for (int first = 0; first < depth; first += group, scales += TileBlock.Columns)
            {
                T scaleA = TScaling.HasColumnScales ? T.LoadE8M0((sbyte*)scales) : zero;
                T scaleB = TScaling.HasColumnScales ? T.LoadE8M0((sbyte*)scales + T.Count) : zero;
                float* end = (float*)block->Operands + Math.Min(depth, first + group);
                for (; x < end; x += 2, w += 2 * TileBlock.Columns * TCodec.ValueBytes)
                {
                    T p, q, v;
                    if (Sse.IsSupported && column == 0)
                    {
                        Sse.Prefetch0(ahead);
                        if (TCodec.ValueBytes == 2) Sse.Prefetch0(ahead + 64);
                        ahead += block->AheadStep / 2;
                    }
                    T rest = TCodec.First(w, tables, out p, out q);
                    if (TScaling.HasColumnScales) { p = T.Multiply(p, scaleA); q = T.Multiply(q, scaleB); }
                    { v = T.Create(x[0]); a0 = T.MultiplyAdd(v, p, a0); b0 = T.MultiplyAdd(v, q, b0); }
                    if (TRows.Count > 1) { v = T.Create(x[1 * Stride]); a1 = T.MultiplyAdd(v, p, a1); b1 = T.MultiplyAdd(v, q, b1); }
                    if (TRows.Count > 2) { v = T.Create(x[2 * Stride]); a2 = T.MultiplyAdd(v, p, a2); b2 = T.MultiplyAdd(v, q, b2); }
                    if (TRows.Count > 3) { v = T.Create(x[3 * Stride]); a3 = T.MultiplyAdd(v, p, a3); b3 = T.MultiplyAdd(v, q, b3); }
                    if (TRows.Count > 4) { v = T.Create(x[4 * Stride]); a4 = T.MultiplyAdd(v, p, a4); b4 = T.MultiplyAdd(v, q, b4); }
                    if (TRows.Count > 5) { v = T.Create(x[5 * Stride]); a5 = T.MultiplyAdd(v, p, a5); b5 = T.MultiplyAdd(v, q, b5); }
                    if (TRows.Count > 6) { v = T.Create(x[6 * Stride]); a6 = T.MultiplyAdd(v, p, a6); b6 = T.MultiplyAdd(v, q, b6); }
                    if (TRows.Count > 7) { v = T.Create(x[7 * Stride]); a7 = T.MultiplyAdd(v, p, a7); b7 = T.MultiplyAdd(v, q, b7); }
                    if (TRows.Count > 8) { v = T.Create(x[8 * Stride]); a8 = T.MultiplyAdd(v, p, a8); b8 = T.MultiplyAdd(v, q, b8); }
                    if (TRows.Count > 9) { v = T.Create(x[9 * Stride]); a9 = T.MultiplyAdd(v, p, a9); b9 = T.MultiplyAdd(v, q, b9); }
                    if (TRows.Count > 10) { v = T.Create(x[10 * Stride]); a10 = T.MultiplyAdd(v, p, a10); b10 = T.MultiplyAdd(v, q, b10); }
                    if (TRows.Count > 11) { v = T.Create(x[11 * Stride]); a11 = T.MultiplyAdd(v, p, a11); b11 = T.MultiplyAdd(v, q, b11); }
                    if (TRows.Count > 12) { v = T.Create(x[12 * Stride]); a12 = T.MultiplyAdd(v, p, a12); b12 = T.MultiplyAdd(v, q, b12); }
                    if (TRows.Count > 13) { v = T.Create(x[13 * Stride]); a13 = T.MultiplyAdd(v, p, a13); b13 = T.MultiplyAdd(v, q, b13); }
                    TCodec.Second(w, rest, out p, out q);
                    if (TScaling.HasColumnScales) { p = T.Multiply(p, scaleA); q = T.Multiply(q, scaleB); }
                    { v = T.Create(x[1]); a0 = T.MultiplyAdd(v, p, a0); b0 = T.MultiplyAdd(v, q, b0); }
                    if (TRows.Count > 1) { v = T.Create(x[1 * Stride + 1]); a1 = T.MultiplyAdd(v, p, a1); b1 = T.MultiplyAdd(v, q, b1); }
                    if (TRows.Count > 2) { v = T.Create(x[2 * Stride + 1]); a2 = T.MultiplyAdd(v, p, a2); b2 = T.MultiplyAdd(v, q, b2); }
                    if (TRows.Count > 3) { v = T.Create(x[3 * Stride + 1]); a3 = T.MultiplyAdd(v, p, a3); b3 = T.MultiplyAdd(v, q, b3); }
                    if (TRows.Count > 4) { v = T.Create(x[4 * Stride + 1]); a4 = T.MultiplyAdd(v, p, a4); b4 = T.MultiplyAdd(v, q, b4); }
                    if (TRows.Count > 5) { v = T.Create(x[5 * Stride + 1]); a5 = T.MultiplyAdd(v, p, a5); b5 = T.MultiplyAdd(v, q, b5); }
                    if (TRows.Count > 6) { v = T.Create(x[6 * Stride + 1]); a6 = T.MultiplyAdd(v, p, a6); b6 = T.MultiplyAdd(v, q, b6); }
                    if (TRows.Count > 7) { v = T.Create(x[7 * Stride + 1]); a7 = T.MultiplyAdd(v, p, a7); b7 = T.MultiplyAdd(v, q, b7); }
                    if (TRows.Count > 8) { v = T.Create(x[8 * Stride + 1]); a8 = T.MultiplyAdd(v, p, a8); b8 = T.MultiplyAdd(v, q, b8); }
                    if (TRows.Count > 9) { v = T.Create(x[9 * Stride + 1]); a9 = T.MultiplyAdd(v, p, a9); b9 = T.MultiplyAdd(v, q, b9); }
                    if (TRows.Count > 10) { v = T.Create(x[10 * Stride + 1]); a10 = T.MultiplyAdd(v, p, a10); b10 = T.MultiplyAdd(v, q, b10); }
                    if (TRows.Count > 11) { v = T.Create(x[11 * Stride + 1]); a11 = T.MultiplyAdd(v, p, a11); b11 = T.MultiplyAdd(v, q, b11); }
                    if (TRows.Count > 12) { v = T.Create(x[12 * Stride + 1]); a12 = T.MultiplyAdd(v, p, a12); b12 = T.MultiplyAdd(v, q, b12); }
                    if (TRows.Count > 13) { v = T.Create(x[13 * Stride + 1]); a13 = T.MultiplyAdd(v, p, a13); b13 = T.MultiplyAdd(v, q, b13); }
                }
            }
            T wa = TScaling.Promotes ? T.Load((float*)block->Scales + column) : zero;
            T wb = TScaling.Promotes ? T.Load((float*)block->Scales + column + T.Count) : zero;
            float* rowScales = block->RowScales;
            const int stride = TileBlock.Columns;
            Finish<T, TScaling>(a0, b0, wa, wb, rowScales, 0, sums + 0 * stride);
            if (TRows.Count > 1) Finish<T, TScaling>(a1, b1, wa, wb, rowScales, 1, sums + 1 * stride);
            if (TRows.Count > 2) Finish<T, TScaling>(a2, b2, wa, wb, rowScales, 2, sums + 2 * stride);
            if (TRows.Count > 3) Finish<T, TScaling>(a3, b3, wa, wb, rowScales, 3, sums + 3 * stride);
            if (TRows.Count > 4) Finish<T, TScaling>(a4, b4, wa, wb, rowScales, 4, sums + 4 * stride);
            if (TRows.Count > 5) Finish<T, TScaling>(a5, b5, wa, wb, rowScales, 5, sums + 5 * stride);
            if (TRows.Count > 6) Finish<T, TScaling>(a6, b6, wa, wb, rowScales, 6, sums + 6 * stride);
            if (TRows.Count > 7) Finish<T, TScaling>(a7, b7, wa, wb, rowScales, 7, sums + 7 * stride);
            if (TRows.Count > 8) Finish<T, TScaling>(a8, b8, wa, wb, rowScales, 8, sums + 8 * stride);
            if (TRows.Count > 9) Finish<T, TScaling>(a9, b9, wa, wb, rowScales, 9, sums + 9 * stride);
            if (TRows.Count > 10) Finish<T, TScaling>(a10, b10, wa, wb, rowScales, 10, sums + 10 * stride);
            if (TRows.Count > 11) Finish<T, TScaling>(a11, b11, wa, wb, rowScales, 11, sums + 11 * stride);
            if (TRows.Count > 12) Finish<T, TScaling>(a12, b12, wa, wb, rowScales, 12, sums + 12 * stride);
            if (TRows.Count > 13) Finish<T, TScaling>(a13, b13, wa, wb, rowScales, 13, sums + 13 * stride);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Finish<T, TScaling>(T a, T b, T scaleA, T scaleB, float* rowScales, int row, float* sums)
        where T : unmanaged, ISimd<T> where TScaling : struct, IWeightScaling
    {
        if (TScaling.Promotes)
        {
            if (rowScales != null)
            {
                T rowScale = T.Create(rowScales[row]);
                scaleA = T.Multiply(rowScale, scaleA);
                scaleB = T.Multiply(rowScale, scaleB);
            }
            a = T.MultiplyAdd(scaleA, a, T.Load(sums));
            b = T.MultiplyAdd(scaleB, b, T.Load(sums + T.Count));
        }
        T.Store(a, sums);
        T.Store(b, sums + T.Count);
    }
}
