namespace MoeSharp;

/// <summary>Where a matrix [rows, columns] of one expert lies: a tensor of its own, a slice of a stacked one, or half of a fused gate_up.</summary>
/// <param name="Values">Tensor name.</param>
/// <param name="Scales">Its scales, if the checkpoint has them.</param>
/// <param name="Stacked">Slice of a 3-D tensor; -1 for a 2-D tensor.</param>
/// <param name="StackedCount">Slices of the 3-D tensor.</param>
/// <param name="Half">0 or 1: gate or up of a fused tensor; -1 when not fused.</param>
/// <param name="Interleaved">Fused rows alternate.</param>
/// <param name="Transposed">Stored as [columns, rows].</param>
internal readonly record struct MatrixSource(string Values, string? Scales, int Stacked = -1, int StackedCount = 0, int Half = -1,
    bool Interleaved = false, bool Transposed = false);

/// <summary>The part of a matrix to read.</summary>
internal readonly record struct Range2(int FirstRow, int Rows, int FirstColumn, int Columns);

/// <summary>Turns tensors into matrices: views into the mapping where the layout allows, copies where it does not.</summary>
internal sealed unsafe class MatrixReader(TensorIndex index, ModelConfig config, QuantizationConfig? quantization, HashSet<string> used)
{
    /// <summary>Reads part of a matrix whose full size is [rows, columns]. A part that starts inside a scale block is widened to the block's start
    /// with zeros: rows by <paramref name="leadingRows"/>, columns by <paramref name="leadingColumns"/>.</summary>
    public BlockScaledMatrix Read(MatrixSource source, int rows, int columns, Range2 part, int leadingRows, int leadingColumns)
    {
        (SafetensorsFile file, TensorEntry entry, WeightFormat format, StoredScales? stored) = Look(source, rows, columns);
        int fileRows = source.Half >= 0 ? 2 * rows : rows;
        int valueBytes = format.ValueBytes();
        nint lineBytes = (nint)(source.Transposed ? fileRows : columns) * valueBytes;
        byte* start = file.Pointer(entry) + Math.Max(source.Stacked, 0) * (long)fileRows * columns * valueBytes;
        int step = source.Interleaved ? 2 : 1, offset = source.Half < 1 ? 0 : source.Interleaved ? 1 : rows;
        long firstRow = offset + (long)part.FirstRow * step;
        var values = source.Transposed
            ? new Strided(start + firstRow * valueBytes + part.FirstColumn * lineBytes, step * valueBytes, lineBytes)
            : new Strided(start + firstRow * lineBytes + (long)part.FirstColumn * valueBytes, step * lineBytes, valueBytes);
        Scales scales = stored is not { } s ? default
            : ReadScales(
                source, format, s, rows, part with { FirstRow = part.FirstRow - leadingRows, FirstColumn = part.FirstColumn - leadingColumns });
        bool view = values.ColumnBytes == valueBytes && leadingRows == 0 && leadingColumns == 0 && !scales.MustCopy;
        return view
            ? new(source.Values, format, part.Rows, part.Columns, new MatrixStorage
            {
                Values = values.Start,
                RowBytes = values.RowBytes,
                ValuesOwner = file.Mapping,
                Scales = scales.Start,
                ScaleRowBytes = scales.RowBytes,
                ScalesOwner = scales.File?.Mapping,
                ScaleType = scales.Type,
                RowPhase = scales.Phase,
            })
            : Copy(source.Values, format, values, part, leadingRows, leadingColumns, scales);
    }

    /// <summary>Checks a matrix whose full size is [rows, columns] by what headers say, and touches no data.</summary>
    public (WeightFormat Format, ScaleType Scales) Describe(MatrixSource source, int rows, int columns)
    {
        (_, _, WeightFormat format, StoredScales? scales) = Look(source, rows, columns);
        return (format, scales?.Type ?? ScaleType.None);
    }

    /// <summary>Checks a table by what headers say: [rows, columns], or a vector where <paramref name="rows"/> is null.</summary>
    public void Describe(string name, long? rows, long columns)
    {
        (SafetensorsFile file, TensorEntry entry) = rows is { } r ? FindTable(name, r, columns) : FindVector(name, columns);
        if (entry.Type is not ("F32" or "BF16" or "F16")) throw NoTable(file, entry);
    }

    private (SafetensorsFile File, TensorEntry Entry, WeightFormat Format, StoredScales? Scales) Look(MatrixSource source, int rows, int columns)
    {
        (SafetensorsFile file, TensorEntry entry) = index.Find(source.Values);
        used.Add(source.Values);
        int fileRows = source.Half >= 0 ? checked(2 * rows) : rows;
        CheckShape(file, entry, Expected(source, source.Transposed ? columns : fileRows, source.Transposed ? fileRows : columns));
        WeightFormat format = FormatOf(file, entry, source);
        if (source.Transposed && format != WeightFormat.Bf16)
            throw new CheckpointException($"{source.Values} in {file.Path} is stored transposed in {entry.Type}, which is supported in BF16 only.");
        return (file, entry, format, format == WeightFormat.Bf16 ? null : LookAtScales(source, format, rows, columns));
    }

    /// <summary>A 1-D (or leading-1) tensor of a known length, widened to FP32.</summary>
    public float[] ReadVector(string name, long length, bool finite)
    {
        (SafetensorsFile file, TensorEntry entry) = FindVector(name, length);
        return Widen(file, entry, finite);
    }

    /// <summary>A [rows, columns] tensor (or a slice [expert] of stacked rows), widened to FP32.</summary>
    public float[] ReadTable(string name, long rows, long columns, bool finite)
    {
        (SafetensorsFile file, TensorEntry entry) = FindTable(name, rows, columns);
        return Widen(file, entry, finite);
    }

    private (SafetensorsFile File, TensorEntry Entry) FindVector(string name, long length)
    {
        (SafetensorsFile file, TensorEntry entry) = index.Find(name);
        used.Add(name);
        if (entry.Elements != length || entry.Shape.Count(d => d != 1) > 1)
            throw new CheckpointException($"{name} in {file.Path} has shape {entry.ShapeText} but [{length}] is needed.");
        return (file, entry);
    }

    private (SafetensorsFile File, TensorEntry Entry) FindTable(string name, long rows, long columns)
    {
        (SafetensorsFile file, TensorEntry entry) = index.Find(name);
        used.Add(name);
        CheckShape(file, entry, [rows, columns]);
        return (file, entry);
    }

    private static CheckpointException NoTable(SafetensorsFile file, TensorEntry entry) =>
        new($"{entry.Name} in {file.Path} is {entry.Type} but F32, BF16 or F16 is needed.");

    private static float[] Widen(SafetensorsFile file, TensorEntry entry, bool finite)
    {
        ReadOnlySpan<byte> data = file.Data(entry.Name);
        var values = new float[entry.Elements];
        for (int i = 0; i < values.Length; i++)
        {
            values[i] = entry.Type switch
            {
                "F32" => BitConverter.ToSingle(data[(4 * i)..]),
                "BF16" => BFloat16.FromBits(BitConverter.ToUInt16(data[(2 * i)..])).ToSingle(),
                "F16" => (float)BitConverter.ToHalf(data[(2 * i)..]),
                _ => throw NoTable(file, entry),
            };
            if (finite && !float.IsFinite(values[i]))
                throw new CheckpointException($"{entry.Name} in {file.Path} holds {values[i]} at element {i}; a router must be finite.");
        }
        return values;
    }

    private WeightFormat FormatOf(SafetensorsFile file, TensorEntry entry, MatrixSource source)
    {
        string module = source.Values.EndsWith(".weight", StringComparison.Ordinal) ? source.Values[..^7] : source.Values;
        if (entry.Type == "BF16")
        {
            if (quantization is not null && !quantization.Ignores(module))
                throw new CheckpointException(
                    $"{source.Values} in {file.Path} is BF16 but {config.Path} declares {quantization.Format} weights and does not leave this " +
                    "module out.");
            return WeightFormat.Bf16;
        }
        if (entry.Type != "F8_E4M3") throw new CheckpointException($"{source.Values} in {file.Path} is {entry.Type} but F8_E4M3 or BF16 is needed.");
        if (quantization is null)
            throw new CheckpointException($"{source.Values} in {file.Path} is F8_E4M3 but {config.Path} has no quantization_config.");
        if (source.Scales is null)
            throw new CheckpointException($"{source.Values} in {file.Path} is F8_E4M3 but {source.Values}_scale_inv (or _scale) is missing.");
        return quantization.Format;
    }

    private readonly record struct Strided(nint Address, nint RowBytes, nint ColumnBytes)
    {
        public Strided(byte* start, nint rowBytes, nint columnBytes) : this((nint)start, rowBytes, columnBytes) { }
        public byte* Start => (byte*)Address;
    }

    private readonly record struct Scales(nint Address, nint RowBytes, ScaleType Type, int Phase, SafetensorsFile? File, bool MustCopy)
    {
        public byte* Start => (byte*)Address;
    }

    /// <summary>A tensor of scales, checked against the weights it belongs to.</summary>
    /// <param name="File">Its file.</param>
    /// <param name="Entry">Its entry.</param>
    /// <param name="Type">Element type.</param>
    /// <param name="FileRows">Scale rows of one stored matrix, gate and up together where they are fused.</param>
    /// <param name="Columns">Scale columns.</param>
    /// <param name="Straddles">A fused tensor has one row per 128 fused rows instead of rows per half.</param>
    private readonly record struct StoredScales(SafetensorsFile File, TensorEntry Entry, ScaleType Type, int FileRows, int Columns, bool Straddles);

    private StoredScales LookAtScales(MatrixSource source, WeightFormat format, int rows, int columns)
    {
        (SafetensorsFile file, TensorEntry entry) = index.Find(source.Scales!);
        used.Add(source.Scales!);
        int blockRows = format.BlockRows(), scaleRows = Formats.Blocks(rows, blockRows);
        int scaleColumns = Formats.Blocks(columns, format.BlockColumns());
        if (source.Interleaved && blockRows != 1)
            throw new CheckpointException(
                $"{source.Values} in {file.Path} interleaves gate and up rows under 128-row scales, which is not supported.");
        int fused = Formats.Blocks(checked(2 * rows), blockRows);
        // A fused tensor has scale rows per half, or (where they differ) one row per 128 fused rows: the file's shape tells.
        bool straddles = source.Half >= 0 && fused != 2 * scaleRows && entry.Shape is [.., var stored, _] && stored == fused;
        int fileRows = source.Half < 0 ? scaleRows : straddles ? fused : 2 * scaleRows;
        CheckShape(file, entry, Expected(source, fileRows, scaleColumns));
        return new(file, entry, ScaleTypeOf(file, entry, format), fileRows, scaleColumns, straddles);
    }

    private Scales ReadScales(MatrixSource source, WeightFormat format, StoredScales stored, int rows, Range2 part)
    {
        (SafetensorsFile file, TensorEntry entry, ScaleType type, int fileRows, int scaleColumns, bool straddles) = stored;
        int blockRows = format.BlockRows(), half = Math.Max(source.Half, 0);
        int firstRow = (straddles ? half * rows : 0) + part.FirstRow, step = source.Interleaved ? 2 : 1;
        long row = source.Interleaved ? half + 2L * firstRow : (straddles ? 0 : half * (fileRows / 2)) + firstRow / blockRows;
        nint lineBytes = (nint)scaleColumns * type.Bytes();
        byte* start = file.Pointer(entry) + (Math.Max(source.Stacked, 0) * (long)fileRows + row) * lineBytes
            + (long)(part.FirstColumn / format.BlockColumns()) * type.Bytes();
        bool unaligned = (nint)start % type.Bytes() != 0;
        var scales = new Scales((nint)start, step * lineBytes, type, firstRow % blockRows, file, unaligned);
        if (format == WeightFormat.Block128PowerOfTwo) CheckPowersOfTwo(file, entry);
        return scales;
    }

    private ScaleType ScaleTypeOf(SafetensorsFile file, TensorEntry entry, WeightFormat format) => entry.Type switch
    {
        "U8" or "F8_E8M0" => ScaleType.E8M0,
        "F32" when format != WeightFormat.MxFp8 => ScaleType.F32,
        "BF16" when format != WeightFormat.MxFp8 => ScaleType.BF16,
        "F16" when format != WeightFormat.MxFp8 => ScaleType.F16,
        _ => throw new CheckpointException(
            $"{entry.Name} in {file.Path} is {entry.Type}, which {format} scales cannot be " +
            $"({(format == WeightFormat.MxFp8 ? "U8 or F8_E8M0" : "F32, BF16, F16, U8 or F8_E8M0")} can)."),
    };

    private readonly HashSet<string> _checked = [];

    private void CheckPowersOfTwo(SafetensorsFile file, TensorEntry entry)
    {
        if (entry.Type is "U8" or "F8_E8M0" || !_checked.Add(entry.Name)) return;
        float[] scales = Widen(file, entry, finite: false);
        for (int i = 0; i < scales.Length; i++)
            if (!float.IsPow2(scales[i]) && !float.IsNaN(scales[i]))
                throw new CheckpointException(
                    $"{entry.Name} in {file.Path} holds {scales[i]} at element {i}, but {config.Path} promises powers of two (scale_fmt ue8m0).");
    }

    private static BlockScaledMatrix Copy(string name, WeightFormat format, Strided values, Range2 part, int leadingRows, int leadingColumns,
        Scales scales)
    {
        int rows = leadingRows + part.Rows, columns = leadingColumns + part.Columns, bytes = format.ValueBytes();
        BlockScaledMatrix matrix = BlockScaledMatrix.Allocate(name, format, scales.Type, rows, columns, scales.Phase);
        for (int r = 0; r < part.Rows; r++)
        {
            byte* from = values.Start + r * values.RowBytes, to = matrix.Storage.Values + (leadingRows + r) * matrix.Storage.RowBytes
                + (nint)leadingColumns * bytes;
            if (values.ColumnBytes == bytes) Buffer.MemoryCopy(from, to, (long)part.Columns * bytes, (long)part.Columns * bytes);
            else for (int c = 0; c < part.Columns; c++) ((ushort*)to)[c] = *(ushort*)(from + c * values.ColumnBytes);
        }
        long line = (long)matrix.ScaleColumns * scales.Type.Bytes();
        for (int r = 0; r < matrix.ScaleRows; r++)
            Buffer.MemoryCopy(scales.Start + r * scales.RowBytes, matrix.Storage.Scales + r * matrix.Storage.ScaleRowBytes, line, line);
        return matrix;
    }

    private static long[] Expected(MatrixSource source, long rows, long columns) =>
        source.Stacked < 0 ? [rows, columns] : [source.StackedCount, rows, columns];

    private static void CheckShape(SafetensorsFile file, TensorEntry entry, long[] expected)
    {
        if (!entry.Shape.AsSpan().SequenceEqual(expected))
            throw new CheckpointException($"{entry.Name} in {file.Path} has shape {entry.ShapeText} but [{string.Join(", ", expected)}] is needed.");
    }
}
