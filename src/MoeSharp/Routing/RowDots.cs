using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace MoeSharp;

/// <summary>
/// Dot products of BF16 hidden states with the rows of a small FP32 matrix [rows, H]: router logits, and the gate of a shared expert. Element i goes
/// to lane i mod 16 by a fused multiply-add, in ascending order; then the sixteen lanes are folded. So the bits depend on the two operands alone: not
/// on batch, thread or machine. Rows are zero-padded to whole lanes and kept in BF16 when that loses nothing.
/// </summary>
internal sealed unsafe class RowDots
{
    private const int Lanes = 16;
    private readonly BFloat16[]? _bf16;
    private readonly float[]? _fp32;
    private readonly int _stride;

    public RowDots(ReadOnlySpan<float> weight, int rows, int hidden)
    {
        Rows = rows;
        Hidden = hidden;
        _stride = (hidden + Lanes - 1) / Lanes * Lanes;
        if (IsExactInBf16(weight)) _bf16 = new BFloat16[checked(rows * _stride)];
        else _fp32 = new float[checked(rows * _stride)];
        for (int r = 0; r < rows; r++)
        {
            ReadOnlySpan<float> row = weight.Slice(r * hidden, hidden);
            if (_bf16 is null) row.CopyTo(_fp32.AsSpan(r * _stride));
            else for (int i = 0; i < hidden; i++) _bf16[r * _stride + i] = BFloat16.FromSingle(row[i]);
        }
    }

    public int Rows { get; }

    public int Hidden { get; }

    /// <summary>Elements of a padded row.</summary>
    public int Stride => _stride;

    /// <summary>[rows, <see cref="Stride"/>] in FP32, zeros from H on.</summary>
    public void CopyTo(Span<float> to)
    {
        if (_bf16 is null) _fp32.CopyTo(to);
        else for (int i = 0; i < _bf16.Length; i++) to[i] = _bf16[i].ToSingle();
    }

    /// <summary>Products of hidden states [T, H] with rows first .. last-1; only those columns of <paramref name="dots"/> [T, rows] change.</summary>
    public void Compute(ReadOnlySpan<BFloat16> hidden, int first, int last, Span<float> dots)
    {
        if (GeneratedDots.IsPreferred) Compute<Lanes128>(hidden, first, last, dots, generated: true);
        else if (Vector512.IsHardwareAccelerated) Compute<Lanes512>(hidden, first, last, dots);
        else if (Vector256.IsHardwareAccelerated) Compute<Lanes256>(hidden, first, last, dots);
        else Compute<Lanes128>(hidden, first, last, dots);
    }

    /// <summary>Same, with lanes of the caller's choice, whole steps of 16 by generated code or not; all give the same bits.</summary>
    internal void Compute<TLanes>(ReadOnlySpan<BFloat16> hidden, int first, int last, Span<float> dots, bool generated = false)
        where TLanes : unmanaged, ILanes16<TLanes>
    {
        int tokens = hidden.Length / Hidden;
        if (hidden.Length != tokens * Hidden || dots.Length < tokens * Rows)
            throw new ArgumentException("Hidden states and dots do not fit together.");
        if (_bf16 is not null) Compute<TLanes, BFloat16>(hidden, tokens, _bf16, first, last, dots, generated);
        else Compute<TLanes, float>(hidden, tokens, _fp32!, first, last, dots, generated);
    }

    /// <summary>sums += row * weight by fused multiply-adds.</summary>
    public static void MultiplyAdd(ReadOnlySpan<BFloat16> row, float weight, Span<float> sums)
    {
        if (GeneratedDots.IsPreferred) MultiplyAddGenerated(row, weight, sums);
        else if (Vector512.IsHardwareAccelerated) MultiplyAdd<Lanes512>(row, weight, sums);
        else if (Vector256.IsHardwareAccelerated) MultiplyAdd<Lanes256>(row, weight, sums);
        else MultiplyAdd<Lanes128>(row, weight, sums);
    }

    /// <summary>The same bits by generated code.</summary>
    internal static void MultiplyAddGenerated(ReadOnlySpan<BFloat16> row, float weight, Span<float> sums)
    {
        int whole = row.Length / Lanes * Lanes;
        fixed (BFloat16* r = row)
        fixed (float* s = sums)
        {
            var loop = new GeneratedDots.Arguments { Hidden0 = r, Sums = s, Steps = whole / Lanes, Weight = weight };
            if (whole > 0) GeneratedDots.MultiplyAdd(&loop);
        }
        for (int i = whole; i < row.Length; i++) sums[i] = MathF.FusedMultiplyAdd(row[i], weight, sums[i]);
    }

    private static void MultiplyAdd<TLanes>(ReadOnlySpan<BFloat16> row, float weight, Span<float> sums)
        where TLanes : unmanaged, ILanes16<TLanes>
    {
        TLanes w = TLanes.Broadcast(weight);
        int i = 0;
        fixed (BFloat16* r = row)
        fixed (float* s = sums)
        {
            for (; i + Lanes <= row.Length; i += Lanes)
                TLanes.Store(TLanes.FusedMultiplyAdd(TLanes.Load(r + i), w, TLanes.Load(s + i)), s + i);
        }
        for (; i < row.Length; i++) sums[i] = MathF.FusedMultiplyAdd(row[i], weight, sums[i]);
    }

    /// <summary>Two rows stay in the first-level cache while all tokens pass; two tokens at a time use each loaded row twice.</summary>
    private void Compute<TLanes, TWeight>(ReadOnlySpan<BFloat16> hidden, int tokens, TWeight[] weights, int first, int last, Span<float> dots, bool generated)
        where TLanes : unmanaged, ILanes16<TLanes> where TWeight : unmanaged
    {
        fixed (BFloat16* h = hidden)
        fixed (float* d = dots)
        fixed (TWeight* weight = weights)
        {
            for (int r = first; r < last; r += 2)
            {
                int next = Math.Min(r + 1, last - 1);
                for (int t = 0; t < tokens; t += 2)
                {
                    int other = Math.Min(t + 1, tokens - 1);
                    var tile = new Tile<TWeight>
                    {
                        Hidden0 = h + (nint)t * Hidden,
                        Hidden1 = h + (nint)other * Hidden,
                        Row0 = weight + (nint)r * _stride,
                        Row1 = weight + (nint)next * _stride,
                        Dot00 = d + (nint)t * Rows + r,
                        Dot01 = d + (nint)t * Rows + next,
                        Dot10 = d + (nint)other * Rows + r,
                        Dot11 = d + (nint)other * Rows + next,
                    };
                    Dot2x2<TLanes, TWeight>(tile, Hidden, generated);
                }
            }
        }
    }

    /// <summary>Two tokens by two rows; at an odd end both are the same one, computed twice with the same result.</summary>
    private static void Dot2x2<TLanes, TWeight>(in Tile<TWeight> tile, int hidden, bool generated)
        where TLanes : unmanaged, ILanes16<TLanes> where TWeight : unmanaged
    {
        TLanes s00 = TLanes.Broadcast(0), s01 = s00, s10 = s00, s11 = s00;
        BFloat16* h0 = tile.Hidden0, h1 = tile.Hidden1;
        TWeight* w0 = tile.Row0, w1 = tile.Row1;
        int i = 0;
        if (generated && hidden >= Lanes)
        {
            float* sums = stackalloc float[4 * Lanes];
            i = hidden / Lanes * Lanes;
            var loop = new GeneratedDots.Arguments { Hidden0 = h0, Hidden1 = h1, Row0 = w0, Row1 = w1, Sums = sums, Steps = i / Lanes };
            GeneratedDots.Dot2x2(typeof(TWeight) == typeof(BFloat16))(&loop);
            (s00, s01) = (TLanes.Load(sums), TLanes.Load(sums + Lanes));
            (s10, s11) = (TLanes.Load(sums + 2 * Lanes), TLanes.Load(sums + 3 * Lanes));
        }
        for (; i + Lanes <= hidden; i += Lanes)
        {
            TLanes x0 = TLanes.Load(h0 + i), x1 = TLanes.Load(h1 + i), y0 = Load<TLanes, TWeight>(w0 + i), y1 = Load<TLanes, TWeight>(w1 + i);
            s00 = TLanes.FusedMultiplyAdd(x0, y0, s00);
            s01 = TLanes.FusedMultiplyAdd(x0, y1, s01);
            s10 = TLanes.FusedMultiplyAdd(x1, y0, s10);
            s11 = TLanes.FusedMultiplyAdd(x1, y1, s11);
        }
        if (i < hidden)
        {
            BFloat16* tail = stackalloc BFloat16[2 * Lanes];
            new Span<BFloat16>(tail, 2 * Lanes).Clear();
            for (int j = i; j < hidden; j++) (tail[j - i], tail[Lanes + j - i]) = (h0[j], h1[j]);
            TLanes x0 = TLanes.Load(tail), x1 = TLanes.Load(tail + Lanes), y0 = Load<TLanes, TWeight>(w0 + i), y1 = Load<TLanes, TWeight>(w1 + i);
            s00 = TLanes.FusedMultiplyAdd(x0, y0, s00);
            s01 = TLanes.FusedMultiplyAdd(x0, y1, s01);
            s10 = TLanes.FusedMultiplyAdd(x1, y0, s10);
            s11 = TLanes.FusedMultiplyAdd(x1, y1, s11);
        }
        *tile.Dot00 = TLanes.Sum(s00);
        *tile.Dot01 = TLanes.Sum(s01);
        *tile.Dot10 = TLanes.Sum(s10);
        *tile.Dot11 = TLanes.Sum(s11);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static TLanes Load<TLanes, TWeight>(TWeight* from) where TLanes : unmanaged, ILanes16<TLanes> where TWeight : unmanaged =>
        typeof(TWeight) == typeof(BFloat16) ? TLanes.Load((BFloat16*)from) : TLanes.Load((float*)from);

    private static bool IsExactInBf16(ReadOnlySpan<float> values)
    {
        foreach (float value in values)
            if ((BitConverter.SingleToUInt32Bits(value) & 0xFFFF) != 0) return false;
        return true;
    }

    private struct Tile<TWeight> where TWeight : unmanaged
    {
        public BFloat16* Hidden0, Hidden1;
        public TWeight* Row0, Row1;
        public float* Dot00, Dot01, Dot10, Dot11;
    }
}
