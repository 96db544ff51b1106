using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace MoeSharp;

/// <summary>Puts a block's values, 32 rows of a weight matrix and up to 128 k, into a <see cref="TileOrder"/>. Rows may be null; what they lack stays zero.</summary>
internal static unsafe class Arrangement
{
    /// <summary>void(rows, depth, target).</summary>
    public static delegate*<byte**, int, byte*, void> For(TileOrder order, WeightFormat format) => (order.Of(format), format.ValueBytes()) switch
    {
        (TileOrder.Plain, 1) => &PlainBytes,
        (TileOrder.Plain, _) => &PlainWords,
        (TileOrder.Woven, _) => &WovenBytes,
        (TileOrder.Quads, _) => &QuadBytes,
        (_, 1) => &PairBytes,
        _ => &PairWords,
    };

    /// <summary>The order that a format's values have.</summary>
    public static TileOrder Of(this TileOrder order, WeightFormat format) => (order, format) switch
    {
        (TileOrder.Woven, WeightFormat.Bf16) => TileOrder.Plain,
        (TileOrder.Quads, WeightFormat.Bf16) => TileOrder.Pairs,
        _ => order,
    };

    /// <summary>[32][depth] bytes to [depth][32], in squares of 8 x 8.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void PlainBytes(byte** rows, int depth, byte* target)
    {
        ulong* square = stackalloc ulong[8];
        for (int column = 0; column < TileBlock.Columns; column += 8)
        {
            for (int k = 0; k < depth; k += 8)
            {
                int steps = Math.Min(8, depth - k);
                for (int i = 0; i < 8; i++)
                {
                    byte* row = rows[column + i];
                    square[i] = row == null ? 0 : steps == 8 ? Unsafe.ReadUnaligned<ulong>(row + k) : Partial(row + k, steps);
                }
                Swap(square, 4, 32, 0x00000000FFFFFFFF);
                Swap(square, 2, 16, 0x0000FFFF0000FFFF);
                Swap(square, 1, 8, 0x00FF00FF00FF00FF);
                for (int i = 0; i < steps; i++) *(ulong*)(target + (k + i) * TileBlock.Columns + column) = square[i];
            }
        }
    }

    /// <summary>[32][depth] bytes to [depth][8][4]: columns that lie 8 apart beside each other.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void WovenBytes(byte** rows, int depth, byte* target)
    {
        PlainBytes(rows, depth, target);
        for (byte* k = target; k < target + depth * TileBlock.Columns; k += TileBlock.Columns)
        {
            Vector256<uint> words = default;
            for (int part = 0; part < 4; part++)
                words |= Vector256.WidenLower(Vector128.WidenLower(Vector128.CreateScalar(*(ulong*)(k + 8 * part)).AsByte()).ToVector256()) << 8 * part;
            words.AsByte().Store(k);
        }
    }

    /// <summary>Swaps the off-diagonal parts of pairs of rows that lie this far apart.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Swap(ulong* square, int distance, int shift, ulong mask)
    {
        for (int i = 0; i < 8; i++)
        {
            if ((i & distance) != 0) continue;
            ulong difference = ((square[i] >> shift) ^ square[i + distance]) & mask;
            square[i + distance] ^= difference;
            square[i] ^= difference << shift;
        }
    }

    private static ulong Partial(byte* source, int bytes)
    {
        ulong value = 0;
        for (int i = 0; i < bytes; i++) value |= (ulong)source[i] << (8 * i);
        return value;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void PlainWords(byte** rows, int depth, byte* target)
    {
        for (int column = 0; column < TileBlock.Columns; column++)
            for (int k = 0; k < depth && rows[column] != null; k++)
                ((ushort*)target)[k * TileBlock.Columns + column] = Unsafe.ReadUnaligned<ushort>(rows[column] + 2 * k);
    }

    /// <summary>Per 4 k two lines of 16 columns; a 16-byte part of a line has 4 columns' pairs k, k + 1, then their pairs k + 2, k + 3, so that unpacking
    /// a line's low and high bytes, which works within such parts, gives pairs in the order of the columns.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void PairBytes(byte** rows, int depth, byte* target)
    {
        var parts = (ulong*)target;
        for (int k = 0; k < depth; k += 4)
        {
            for (int column = 0; column < TileBlock.Columns; column += 4, parts += 2)
            {
                ulong first = 0, second = 0;
                for (int i = 0; i < 4; i++)
                {
                    byte* row = rows[column + i];
                    if (row == null) continue;
                    ulong four = depth - k >= 4 ? Unsafe.ReadUnaligned<uint>(row + k) : Partial(row + k, depth - k);
                    first |= (four & 0xFFFF) << (16 * i);
                    second |= four >> 16 << (16 * i);
                }
                parts[0] = first;
                parts[1] = second;
            }
        }
    }

    /// <summary>[k / 4][32 columns][4].</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void QuadBytes(byte** rows, int depth, byte* target)
    {
        var quads = (uint*)target;
        for (int column = 0; column < TileBlock.Columns; column++)
            for (int k = 0; k < depth && rows[column] != null; k += 4)
                quads[k / 4 * TileBlock.Columns + column] = QuadCode.Of(depth - k >= 4 ? Unsafe.ReadUnaligned<uint>(rows[column] + k) : (uint)Partial(rows[column] + k, depth - k));
    }

    /// <summary>[k / 2][32 columns][2].</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void PairWords(byte** rows, int depth, byte* target)
    {
        var words = (ushort*)target;
        for (int column = 0; column < TileBlock.Columns; column++)
            for (int k = 0; k < depth && rows[column] != null; k++)
                words[(k / 2 * TileBlock.Columns + column) * 2 + k % 2] = Unsafe.ReadUnaligned<ushort>(rows[column] + 2 * k);
    }
}
