namespace MoeSharp;

/// <summary>Audits one slab: type and shape of values and scales, then every scale and every value. One finding per code, at the first block, with a
/// count.</summary>
internal sealed unsafe class SlabAudit(Slab slab, ShardSurvey shards, QuantizationConfig? quantization, Action<Finding> report)
{
    /// <summary>Scales below this are far under anything that training gives.</summary>
    public const float Tiny = 1e-12f;

    private const int Tile = 128;
    private readonly Dictionary<FindingCode, (int Count, string First, Place At)> _seen = [];

    public void Run()
    {
        if (shards.Find(slab.Source.Values) is not var (file, entry)) return; // its shard is a finding already
        if (!entry.Shape.AsSpan().SequenceEqual(slab.Shape))
        {
            if (slab.Source.Stacked <= 0)
                Report(FindingCode.WeightShape, file, entry,
                    $"{entry.Name} has shape {entry.ShapeText} but [{string.Join(", ", slab.Shape)}] is needed.");
            return;
        }
        if (slab.Source.Stacked <= 0) CheckType(file, entry);
        if (entry.Type == "BF16") ScanBf16(file, entry);
        if (entry.Type == "F8_E4M3" && quantization is not null) AuditFp8(file, entry, quantization.Format);
        foreach ((FindingCode code, (int count, string first, Place at)) in _seen)
            report(new(code, count == 1 ? $"{first}." : $"{first}, the first of {count} such blocks of the matrix.", at));
    }

    private void CheckType(SafetensorsFile file, TensorEntry entry)
    {
        bool ignored = quantization is not null && Ignored();
        string? wrong = entry.Type switch
        {
            "BF16" when quantization is not null && !ignored =>
                $"is BF16 but config.json declares {quantization.Format} weights and does not leave this module out",
            "F8_E4M3" when quantization is null => "is F8_E4M3 but config.json has no quantization_config",
            "F8_E4M3" when ignored => "is F8_E4M3 but config.json leaves this module unquantized",
            "BF16" or "F8_E4M3" => null,
            _ => $"is {entry.Type} but F8_E4M3 or BF16 is needed",
        };
        if (wrong is not null) Report(FindingCode.WeightType, file, entry, $"{entry.Name} {wrong}.");
        if (entry.Type == "F8_E4M3" && slab.Source.Scales is null)
            Report(FindingCode.ScaleMissing, file, entry, $"{entry.Name} is F8_E4M3 but has no scales.");
    }

    private bool Ignored()
    {
        try
        {
            return quantization!.Ignores(slab.Module);
        }
        catch (CheckpointException)
        {
            return false; // a pattern that cannot be used is a finding of its own
        }
    }

    private void ScanBf16(SafetensorsFile file, TensorEntry entry)
    {
        long count = slab.Rows * (long)slab.Halves * slab.Columns;
        var values = (ushort*)(file.Pointer(entry) + Math.Max(slab.Source.Stacked, 0) * count * 2);
        long bad = PayloadScan.FirstNonFinite(values, count, out bool isAlive);
        if (bad >= 0)
            Report(FindingCode.PayloadNonFinite, file, entry,
                $"{entry.Name} holds {BFloat16.FromBits(values[bad]).ToSingle()} at row {bad / slab.Columns}, column {bad % slab.Columns}.");
        else if (!isAlive) Report(FindingCode.BlockZero, file, entry, $"{entry.Name} is all zero.");
    }

    private void AuditFp8(SafetensorsFile file, TensorEntry entry, WeightFormat format)
    {
        int blockRows = format.BlockRows(), rowsOfHalf = Formats.Blocks(slab.Rows, blockRows);
        int fused = Formats.Blocks(slab.Rows * slab.Halves, blockRows);
        int regions = slab.Halves;
        if (slab.Source.Scales is { } name && shards.Find(name) is var (scaleFile, scales))
        {
            // Fused tensors have scale rows per half, or (where they differ) one row per 128 fused rows: the file's shape tells.
            if (scales.Shape.Length >= 2 && scales.Shape[^2] == fused && fused != slab.Halves * rowsOfHalf) regions = 1;
            AuditScales(scaleFile, scales, format, regions == 1 ? fused : slab.Halves * rowsOfHalf);
        }
        byte* start = file.Pointer(entry) + Math.Max(slab.Source.Stacked, 0) * (long)slab.Rows * slab.Halves * slab.Columns;
        int rows = slab.Rows * slab.Halves / regions;
        for (int r = 0; r < regions; r++) ScanFp8(file, entry, format, start + (long)r * rows * slab.Columns, rows, r * rowsOfHalf);
    }

    private void ScanFp8(SafetensorsFile file, TensorEntry entry, WeightFormat format, byte* start, int rows, int firstScaleRow)
    {
        int blockRows = format.BlockRows(), width = format.BlockColumns(), blocks = Formats.Blocks(slab.Columns, width);
        Span<PayloadScan.Codes> codes = new PayloadScan.Codes[blocks];
        var tiles = new (int Largest, int Row, int Column)[Formats.Blocks(slab.Columns, Tile)];
        for (int row = 0; row < rows; row++)
        {
            byte* line = start + (long)row * slab.Columns;
            for (int b = 0; b < blocks; b++) PayloadScan.Add(ref codes[b], line + b * width, Math.Min(width, slab.Columns - b * width));
            if ((row + 1) % blockRows == 0 || row == rows - 1) EndBlocks(file, entry, firstScaleRow + row / blockRows, codes, width, tiles);
            if ((row + 1) % Tile == 0 || row == rows - 1) EndTiles(file, entry, row % Tile + 1, tiles);
        }
    }

    private void EndBlocks(SafetensorsFile file, TensorEntry entry, int scaleRow, Span<PayloadScan.Codes> codes, int width,
        (int Largest, int Row, int Column)[] tiles)
    {
        for (int b = 0; b < codes.Length; b++)
        {
            PayloadScan.Codes c = codes[b];
            if (c.NaN > 0)
                See(FindingCode.PayloadNaN, file, entry, (scaleRow, b), $"{entry.Name} holds {c.NaN} NaN code{(c.NaN == 1 ? "" : "s")} in block ({scaleRow}, {b})");
            if (!c.IsAlive) See(FindingCode.BlockZero, file, entry, (scaleRow, b), $"{entry.Name} is all zero in block ({scaleRow}, {b})");
            ref (int Largest, int Row, int Column) tile = ref tiles[b * width / Tile];
            if (c.Largest > 0 && tile.Largest == 0) (tile.Row, tile.Column) = (scaleRow, b);
            tile.Largest += c.Largest;
        }
        codes.Clear();
    }

    /// <summary>Saturation is judged in 128 x 128 blocks in every format: one value at the limit is as it should be, and 1 % of 32 values is less
    /// than one.</summary>
    private void EndTiles(SafetensorsFile file, TensorEntry entry, int rows, (int Largest, int Row, int Column)[] tiles)
    {
        for (int t = 0; t < tiles.Length; t++)
        {
            (int largest, int row, int column) = tiles[t];
            int codes = rows * Math.Min(Tile, slab.Columns - t * Tile);
            if (largest > 1 && largest * 100L > codes)
                See(FindingCode.PayloadSaturated, file, entry, (row, column),
                    $"{entry.Name} has {largest} of {codes} codes at +-448 around block ({row}, {column})");
        }
        Array.Clear(tiles);
    }

    private void AuditScales(SafetensorsFile file, TensorEntry entry, WeightFormat format, int rows)
    {
        int columns = Formats.Blocks(slab.Columns, format.BlockColumns());
        long[] needed = slab.Source.Stacked < 0 ? [rows, columns] : [slab.Source.StackedCount, rows, columns];
        bool first = slab.Source.Stacked <= 0;
        bool typed = ScaleValue.IsAllowed(entry.Type, format), shaped = entry.Shape.AsSpan().SequenceEqual(needed);
        if (first && !typed) Report(FindingCode.ScaleType, file, entry, $"{entry.Name} is {entry.Type}, which {format} scales cannot be.");
        if (first && !shaped)
        {
            string text = $"{entry.Name} has shape {entry.ShapeText} but [{string.Join(", ", needed)}] is needed";
            if (Granularity(entry) is { } kind) Report(FindingCode.ScaleGranularity, file, entry, $"{text}: these are scales {kind}.");
            else Report(FindingCode.ScaleShape, file, entry, $"{text}.");
        }
        if (!typed || !shaped) return;
        int bytes = ScaleValue.Bytes(entry.Type);
        byte* start = file.Pointer(entry) + Math.Max(slab.Source.Stacked, 0) * (long)rows * columns * bytes;
        for (long i = 0; i < (long)rows * columns; i++)
        {
            if (ScaleValue.Judge(entry.Type, start + i * bytes, format == WeightFormat.Block128PowerOfTwo) is not var (code, what)) continue;
            (int Row, int Column) block = ((int)(i / columns), (int)(i % columns));
            See(code, file, entry, block, $"{entry.Name} holds {what} for block ({block.Row}, {block.Column})");
        }
    }

    /// <summary>What scales of another shape would be one per; null when no known kind has it.</summary>
    private string? Granularity(TensorEntry scales)
    {
        int rows = slab.Rows * slab.Halves, stack = Math.Max(slab.Source.StackedCount, 1);
        long[] shape = scales.Shape.Length > 0 && scales.Shape[0] == slab.Source.StackedCount && slab.Source.Stacked >= 0
            ? scales.Shape[1..]
            : scales.Shape;
        if (scales.Elements == 1 || scales.Elements == stack) return "per tensor";
        if (shape is [var n] && n == rows || shape is [var m, 1] && m == rows) return "per channel";
        foreach ((int height, int width) in ((int, int)[])[(1, 32), (1, 128), (128, 128), (64, 64), (32, 32)])
            if (shape is [var r, var c] && r == Formats.Blocks(rows, height) && c == Formats.Blocks(slab.Columns, width))
                return $"of {height} x {width} blocks";
        return null;
    }

    private void Report(FindingCode code, SafetensorsFile file, TensorEntry entry, string what) => report(new(code, what, At(file, entry, null)));

    private void See(FindingCode code, SafetensorsFile file, TensorEntry entry, (int Row, int Column) block, string what) =>
        _seen[code] = _seen.TryGetValue(code, out (int Count, string First, Place At) seen)
            ? seen with { Count = seen.Count + 1 }
            : (1, what, At(file, entry, block));

    private Place At(SafetensorsFile file, TensorEntry entry, (int, int)? block) =>
        new(Path.GetFileName(file.Path), entry.Name, slab.Layer, slab.Expert, block);
}
