using System.Runtime.InteropServices;

namespace MoeSharp;

/// <summary>An FP8 tensor [rows, columns] or [slices, rows, columns] with its scales, read row by row.</summary>
internal sealed unsafe class DequantizedTensor
{
    private readonly byte* _values;
    private readonly float[] _scales; // [slices, scale rows, scale columns]
    private readonly long _slices;
    private readonly int _rows, _columns, _blockRows, _blockColumns, _scaleRows, _scaleColumns, _halfRows;

    private DequantizedTensor(byte* values, float[] scales, long slices, int rows, int columns, WeightFormat format, int scaleRows, int halfRows)
    {
        _values = values;
        _scales = scales;
        _slices = slices;
        _rows = rows;
        _columns = columns;
        _blockRows = format.BlockRows();
        _blockColumns = format.BlockColumns();
        _scaleRows = scaleRows;
        _scaleColumns = Formats.Blocks(columns, _blockColumns);
        _halfRows = halfRows;
    }

    /// <exception cref="CheckpointException">The scales are missing, or of another shape or type than the format has.</exception>
    public static DequantizedTensor Open(TensorIndex index, SafetensorsFile shard, TensorEntry entry, WeightFormat format)
    {
        string name = ExpertLayout.ScaleOf(index, entry.Name)
            ?? throw new CheckpointException($"{entry.Name} in {shard.Path} is F8_E4M3 but its scales (..._scale_inv or ..._scale) are missing.");
        (SafetensorsFile file, TensorEntry scales) = index.Find(name);
        if (entry.Shape.Length is not (2 or 3))
            throw new CheckpointException(
                $"{entry.Name} in {shard.Path} has shape {entry.ShapeText}; FP8 weights of 2 or 3 dimensions can be dequantized.");
        long slices = entry.Shape.Length == 3 ? entry.Shape[0] : 1;
        int rows = checked((int)entry.Shape[^2]), columns = checked((int)entry.Shape[^1]), half = rows / 2;
        int whole = Formats.Blocks(rows, format.BlockRows()), halves = 2 * Formats.Blocks(half, format.BlockRows());
        bool Has(int scaleRows) =>
            scales.Shape.Length >= 2 && scales.Shape[^2] == scaleRows &&
            scales.Elements == slices * scaleRows * Formats.Blocks(columns, format.BlockColumns());
        // A fused gate_up has scale rows per half, or one row per 128 fused rows: the shape tells.
        bool isHalved = !Has(whole) && rows % 2 == 0 && Has(halves);
        if (!isHalved && !Has(whole))
            throw new CheckpointException(
                $"{name} in {file.Path} has shape {scales.ShapeText}, which does not fit {format} weights of shape {entry.ShapeText}.");
        return new(shard.Pointer(entry), Widen(file, scales), slices, rows, columns, format, isHalved ? halves : whole, isHalved ? half : 0);
    }

    /// <summary>Writes BF16.</summary>
    public void Write(Stream stream, CancellationToken cancel)
    {
        var wide = new float[_columns];
        var narrow = new BFloat16[_columns];
        for (long row = 0; row < _slices * _rows; row++)
        {
            if (row % 128 == 0) cancel.ThrowIfCancellationRequested();
            Conversions.ToSingle(new ReadOnlySpan<Float8E4M3>(_values + row * _columns, _columns), wide);
            long scaleRow = row / _rows * _scaleRows + ScaleRow((int)(row % _rows));
            ReadOnlySpan<float> scales = _scales.AsSpan(checked((int)(scaleRow * _scaleColumns)), _scaleColumns);
            for (int b = 0; b < scales.Length; b++)
                foreach (ref float value in wide.AsSpan(b * _blockColumns, Math.Min(_blockColumns, _columns - b * _blockColumns))) value *= scales[b];
            Conversions.ToBFloat16(wide, narrow);
            stream.Write(MemoryMarshal.AsBytes(narrow.AsSpan()));
        }
    }

    private int ScaleRow(int row) => _halfRows == 0 ? row / _blockRows : row / _halfRows * (_scaleRows / 2) + row % _halfRows / _blockRows;

    private static float[] Widen(SafetensorsFile file, TensorEntry entry)
    {
        var values = new float[entry.Elements];
        byte* data = file.Pointer(entry);
        switch (entry.Type)
        {
            case "F32":
                new ReadOnlySpan<byte>(data, 4 * values.Length).CopyTo(MemoryMarshal.AsBytes(values.AsSpan()));
                break;
            case "BF16":
                Conversions.ToSingle(new ReadOnlySpan<BFloat16>(data, values.Length), values);
                break;
            case "F16":
                Conversions.ToSingle(new ReadOnlySpan<Half>(data, values.Length), values);
                break;
            case "U8" or "F8_E8M0":
                Conversions.ToSingle(new ReadOnlySpan<ScaleE8M0>(data, values.Length), values);
                break;
            default:
                throw new CheckpointException($"{entry.Name} in {file.Path} is {entry.Type}; scales are F32, BF16, F16, U8 or F8_E8M0.");
        }
        return values;
    }
}
