using System.Runtime.InteropServices;

namespace MoeSharp;

/// <summary>Quantizes one matrix from a mapped tensor, and writes the result's bytes.</summary>
internal static unsafe class QuantizedPiece
{
    /// <exception cref="CheckpointException">The tensor is of another shape or type, or a weight is not finite.</exception>
    public static (BlockScaledMatrix Matrix, QuantizationError Error) Make(
        Piece piece, SafetensorsFile shard, TensorEntry entry, WeightFormat format, ScaleType scales)
    {
        MatrixSource source = piece.Source;
        long fileRows = source.Half >= 0 ? 2L * piece.Rows : piece.Rows;
        long[] expected = source.Stacked < 0 ? [fileRows, piece.Columns] : [source.StackedCount, fileRows, piece.Columns];
        if (!entry.Shape.AsSpan().SequenceEqual(expected))
            throw new CheckpointException($"{entry.Name} in {shard.Path} has shape {entry.ShapeText} but [{string.Join(", ", expected)}] is needed.");
        if (entry.Type is not ("BF16" or "F16" or "F32"))
            throw new CheckpointException($"{entry.Name} in {shard.Path} is {entry.Type}; only BF16, F16 and F32 weights are quantized.");
        int bytes = entry.Type == "F32" ? 4 : 2;
        long firstRow = Math.Max(source.Stacked, 0) * fileRows + Math.Max(source.Half, 0) * (long)piece.Rows;
        byte* start = shard.Pointer(entry) + firstRow * piece.Columns * bytes;
        BlockScaledMatrix matrix = Quantize(piece, start, entry.Type, format, scales);
        try
        {
            return (matrix, QuantizationError.Of(piece, matrix, Read));
        }
        catch
        {
            matrix.Storage.ValuesOwner.Dispose();
            throw;
        }

        void Read(int row, float[] values)
        {
            Widen(start + (long)row * piece.Columns * bytes, entry.Type, values);
            for (int c = 0; c < values.Length; c++)
                if (!float.IsFinite(values[c]))
                    throw new CheckpointException(
                        $"{entry.Name} in {shard.Path} holds {values[c]} at row {row}, column {c} of {piece.Name}; FP8 weights must be finite.");
        }
    }

    public static void WriteValues(Stream stream, BlockScaledMatrix matrix)
    {
        for (int r = 0; r < matrix.Rows; r++) stream.Write(matrix.Row(r));
    }

    public static void WriteScales(Stream stream, BlockScaledMatrix matrix)
    {
        int bytes = matrix.ScaleColumns * matrix.ScaleType.Bytes();
        MatrixStorage storage = matrix.Storage;
        for (int r = 0; r < matrix.ScaleRows; r++) stream.Write(new ReadOnlySpan<byte>(storage.Scales + r * storage.ScaleRowBytes, bytes));
    }

    private static BlockScaledMatrix Quantize(Piece piece, byte* start, string type, WeightFormat format, ScaleType scales)
    {
        int rows = piece.Rows, columns = piece.Columns, count = checked(rows * columns);
        if (type == "BF16") return WeightQuantizer.Quantize(format, scales, rows, columns, new ReadOnlySpan<BFloat16>(start, count), piece.Name);
        if (type == "F32") return WeightQuantizer.Quantize(format, scales, rows, columns, new ReadOnlySpan<float>(start, count), piece.Name);
        var wide = new float[count];
        Widen(start, type, wide);
        return WeightQuantizer.Quantize(format, scales, rows, columns, wide.AsSpan(), piece.Name);
    }

    private static void Widen(byte* from, string type, float[] values)
    {
        switch (type)
        {
            case "BF16":
                Conversions.ToSingle(new ReadOnlySpan<BFloat16>(from, values.Length), values);
                break;
            case "F16":
                Conversions.ToSingle(new ReadOnlySpan<Half>(from, values.Length), values);
                break;
            default:
                new ReadOnlySpan<byte>(from, 4 * values.Length).CopyTo(MemoryMarshal.AsBytes(values.AsSpan()));
                break;
        }
    }
}
