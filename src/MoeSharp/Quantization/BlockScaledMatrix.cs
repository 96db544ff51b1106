using System.Runtime.InteropServices;

namespace MoeSharp;

/// <summary>
/// A weight matrix [rows, columns], columns contiguous: values, their scales, and everything needed to pair the two. Immutable. It may be a view
/// into a mapped checkpoint or own its memory; <see cref="ExpertWeights"/> keeps either alive. The scale of element (r, c) is
/// scales[(r + <see cref="RowPhase"/>) / block rows, c / block columns]; last blocks may be ragged. BF16 matrices have no scales.
/// </summary>
public sealed unsafe class BlockScaledMatrix
{
    internal BlockScaledMatrix(string name, WeightFormat format, int rows, int columns, MatrixStorage storage)
    {
        Name = name;
        Format = format;
        Rows = rows;
        Columns = columns;
        Storage = storage;
    }

    /// <summary>Where it came from, for messages: a tensor name, or what the caller called it.</summary>
    public string Name { get; }

    /// <summary>Format of values and granularity of scales.</summary>
    public WeightFormat Format { get; }

    /// <summary>Output features of the linear layer.</summary>
    public int Rows { get; }

    /// <summary>Input features of the linear layer: the dimension that is summed over.</summary>
    public int Columns { get; }

    /// <summary>How scales are stored.</summary>
    public ScaleType ScaleType => Storage.ScaleType;

    /// <summary>Rows of the first scale block before row 0 (non-zero for the up half of a packed w13 whose I is not a multiple of 128).</summary>
    public int RowPhase => Storage.RowPhase;

    /// <summary>Rows of the scale matrix that this matrix touches.</summary>
    public int ScaleRows => Format.BlockRows() == 0 ? 0 : Formats.Blocks(Rows + RowPhase, Format.BlockRows());

    /// <summary>Columns of the scale matrix.</summary>
    public int ScaleColumns => Formats.Blocks(Columns, Format.BlockColumns());

    /// <summary>Bytes of values and scales.</summary>
    public long Bytes => (long)Rows * Columns * Format.ValueBytes() + (long)ScaleRows * ScaleColumns * ScaleType.Bytes();

    internal MatrixStorage Storage { get; }

    /// <summary>Copies values and FP32 scales into memory of the matrix's own.</summary>
    /// <param name="format">A format with FP8 values.</param>
    /// <param name="rows">Output features.</param>
    /// <param name="columns">Input features.</param>
    /// <param name="values">[rows, columns], row-major.</param>
    /// <param name="scales">[⌈rows / block rows⌉, ⌈columns / block columns⌉], row-major; multipliers.</param>
    /// <param name="name">For messages.</param>
    /// <exception cref="ArgumentException">A length is wrong, or a scale cannot be represented in the format.</exception>
    public static BlockScaledMatrix Create(
        WeightFormat format, int rows, int columns, ReadOnlySpan<Float8E4M3> values, ReadOnlySpan<float> scales, string name = "matrix")
    {
        if (format == WeightFormat.Bf16) throw new ArgumentException("BF16 matrices have no scales; use CreateBf16.", nameof(format));
        bool e8m0 = format == WeightFormat.MxFp8;
        BlockScaledMatrix matrix = Allocate(name, format, e8m0 ? ScaleType.E8M0 : ScaleType.F32, rows, columns);
        RequireLength(values.Length, (long)rows * columns, "values", name);
        RequireLength(scales.Length, (long)matrix.ScaleRows * matrix.ScaleColumns, "scales", name);
        MemoryMarshal.AsBytes(values).CopyTo(new Span<byte>(matrix.Storage.Values, values.Length));
        if (format != WeightFormat.Block128) RequirePowersOfTwo(scales, format, name);
        if (!e8m0) scales.CopyTo(new Span<float>(matrix.Storage.Scales, scales.Length));
        else for (int i = 0; i < scales.Length; i++) matrix.Storage.Scales[i] = ScaleE8M0.RoundUp(scales[i]).Bits;
        return matrix;
    }

    /// <summary>Copies BF16 values into memory of the matrix's own.</summary>
    public static BlockScaledMatrix CreateBf16(int rows, int columns, ReadOnlySpan<BFloat16> values, string name = "matrix")
    {
        BlockScaledMatrix matrix = Allocate(name, WeightFormat.Bf16, ScaleType.None, rows, columns);
        RequireLength(values.Length, (long)rows * columns, "values", name);
        MemoryMarshal.AsBytes(values).CopyTo(new Span<byte>(matrix.Storage.Values, values.Length * 2));
        return matrix;
    }

    /// <summary>Zeroed memory of the matrix's own, to be filled through <see cref="Storage"/> before anyone else sees it.</summary>
    internal static BlockScaledMatrix Allocate(string name, WeightFormat format, ScaleType scaleType, int rows, int columns, int rowPhase = 0)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(rows);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(columns);
        int blockRows = format.BlockRows();
        long valueBytes = checked((long)rows * columns * format.ValueBytes());
        long scaleColumns = Formats.Blocks(columns, format.BlockColumns());
        long scaleBytes = blockRows == 0 ? 0 : checked(Formats.Blocks(rows + rowPhase, blockRows) * scaleColumns * scaleType.Bytes());
        long scaleOffset = checked((valueBytes + 63) / 64 * 64);
        var owner = new NativeBuffer(scaleOffset + scaleBytes);
        return new(name, format, rows, columns, new MatrixStorage
        {
            Values = owner.Pointer,
            RowBytes = (nint)columns * format.ValueBytes(),
            ValuesOwner = owner,
            Scales = owner.Pointer + scaleOffset,
            ScaleRowBytes = (nint)(scaleColumns * scaleType.Bytes()),
            ScalesOwner = owner,
            ScaleType = scaleType,
            RowPhase = rowPhase,
        });
    }

    /// <summary>The raw bytes of a row's values: columns x value bytes.</summary>
    internal ReadOnlySpan<byte> Row(int row) => new(Storage.Values + row * Storage.RowBytes, Columns * Format.ValueBytes());

    /// <summary>The scale of block (scaleRow, scaleColumn), in FP32 (exact for every scale type).</summary>
    public float ScaleAt(int scaleRow, int scaleColumn)
    {
        if ((uint)scaleRow >= (uint)ScaleRows) throw new ArgumentOutOfRangeException(nameof(scaleRow));
        if ((uint)scaleColumn >= (uint)ScaleColumns) throw new ArgumentOutOfRangeException(nameof(scaleColumn));
        byte* row = Storage.Scales + scaleRow * Storage.ScaleRowBytes;
        return ScaleType switch
        {
            ScaleType.F32 => ((float*)row)[scaleColumn],
            ScaleType.BF16 => ((BFloat16*)row)[scaleColumn].ToSingle(),
            ScaleType.F16 => (float)((Half*)row)[scaleColumn],
            ScaleType.E8M0 => ((ScaleE8M0*)row)[scaleColumn].ToSingle(),
            _ => 1f,
        };
    }

    /// <summary>The scale row that row r of this matrix uses.</summary>
    public int ScaleRowOf(int row) => Format.BlockRows() == 0 ? 0 : (row + RowPhase) / Format.BlockRows();

    /// <summary>The stored values of a row, without scales, in FP32 (exact).</summary>
    public void DecodeRow(int row, Span<float> values)
    {
        if ((uint)row >= (uint)Rows) throw new ArgumentOutOfRangeException(nameof(row));
        ReadOnlySpan<byte> raw = Row(row);
        if (Format == WeightFormat.Bf16) Conversions.ToSingle(MemoryMarshal.Cast<byte, BFloat16>(raw), values);
        else Conversions.ToSingle(MemoryMarshal.Cast<byte, Float8E4M3>(raw), values);
    }

    /// <summary>Value times scale of every element of a row, rounded to FP32.</summary>
    public void DequantizeRow(int row, Span<float> values)
    {
        DecodeRow(row, values);
        if (ScaleType == ScaleType.None) return;
        int scaleRow = ScaleRowOf(row), block = Format.BlockColumns();
        for (int b = 0; b < ScaleColumns; b++)
        {
            float scale = ScaleAt(scaleRow, b);
            foreach (ref float value in values[(b * block)..Math.Min((b + 1) * block, Columns)]) value *= scale;
        }
    }

    internal static void RequirePowersOfTwo(ReadOnlySpan<float> scales, WeightFormat format, string name)
    {
        for (int i = 0; i < scales.Length; i++)
            if (ScaleE8M0.RoundUp(scales[i]).ToSingle() != scales[i] && !float.IsNaN(scales[i]))
                throw new ArgumentException(
                    $"Scale {i} of {name} is {scales[i]} but scales of {format} are powers of two; requantize the weights instead.");
    }

    private static void RequireLength(int actual, long expected, string what, string name)
    {
        if (actual != expected) throw new ArgumentException($"{name} needs {expected} {what} but {actual} were given.");
    }
}

/// <summary>Where a matrix's bytes lie. Pointers may be unaligned; strides are in bytes; owners keep the memory alive.</summary>
internal sealed unsafe class MatrixStorage
{
    public required byte* Values { get; init; }
    public required nint RowBytes { get; init; }
    public required SafeHandle ValuesOwner { get; init; }
    public byte* Scales { get; init; }
    public nint ScaleRowBytes { get; init; }
    public SafeHandle? ScalesOwner { get; init; }
    public ScaleType ScaleType { get; init; }
    public int RowPhase { get; init; }
}
