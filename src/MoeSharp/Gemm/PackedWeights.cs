namespace MoeSharp;

/// <summary>
/// One GEMM's weights of all experts in the order in which kernels read them:
/// [expert][chunk][K block][tile of the chunk][scales, then values in a <see cref="TileOrder"/>].
/// A chunk is what one task multiplies, so each task reads one run of memory from end to end. Columns missing in a last tile are zeros.
/// </summary>
internal sealed unsafe class PackedWeights : IDisposable
{
    private readonly PackedMemory _memory;
    private readonly WeightFormat _format;
    private readonly delegate*<byte**, int, byte*, void> _arrange;

    private PackedWeights(WeightFormat format, TileOrder order, int experts, int tiles, int tilesPerChunk, int depth, PackedMemory? stored)
    {
        _format = format;
        _arrange = Arrangement.For(order, format);
        Tiles = tiles;
        TilesPerChunk = tilesPerChunk;
        Depth = depth;
        Blocks = Formats.Blocks(depth, TileBlock.MaxDepth);
        ScaleBytes = TileBlock.ScaleBytesOf(format);
        BlockBytes = TileBlock.BytesOf(format);
        long bytes = checked((long)experts * tiles * Blocks * BlockBytes);
        if (stored is { } memory && memory.Bytes != bytes) throw new ArgumentException($"Stored weights have {memory.Bytes} bytes but {bytes} are needed.");
        _memory = stored ?? Allocate(bytes);
    }

    /// <summary>Tiles of an expert.</summary>
    public int Tiles { get; }
    /// <summary>Tiles of a chunk; the last one may have fewer.</summary>
    public int TilesPerChunk { get; }
    /// <summary>Chunks of an expert.</summary>
    public int Chunks => (Tiles + TilesPerChunk - 1) / TilesPerChunk;
    /// <summary>K.</summary>
    public int Depth { get; }
    /// <summary>Blocks of 128 along K.</summary>
    public int Blocks { get; }
    /// <summary>Bytes of scales at the start of a block.</summary>
    public int ScaleBytes { get; }
    /// <summary>Bytes of a block.</summary>
    public int BlockBytes { get; }
    /// <summary>All bytes.</summary>
    public long Bytes => _memory.Bytes;
    /// <summary>First byte.</summary>
    public byte* Pointer => _memory.Pointer;

    /// <summary>Tiles of 16 gate columns and the 16 up columns that belong to them, 8 tiles a chunk: 128 intermediate values,
    /// one quantization group.</summary>
    /// <param name="stored">What an earlier call with the same arguments packed; null packs.</param>
    public static PackedWeights GateUp(ExpertWeights weights, TileOrder order, PackedMemory? stored = null, LoadContext context = default)
    {
        const int half = TileBlock.Columns / 2;
        var packed = new PackedWeights(
            weights.Format, order, weights.Count, Formats.Blocks(weights.IntermediateSize, half), TileBlock.MaxDepth / half, weights.HiddenSize, stored);
        if (stored is null) packed.Pack(weights.Count, new(context, 1, CpuExperts.Pieces, weights.Count * packed.Tiles), (expert, tile, column) =>
            (column < half ? weights.Gate[expert] : weights.Up[expert], tile * half + column % half));
        return packed;
    }

    /// <summary>Tiles of 32 hidden columns.</summary>
    /// <param name="stored">As for GateUp.</param>
    public static PackedWeights Down(ExpertWeights weights, TileOrder order, int tilesPerChunk, PackedMemory? stored = null, LoadContext context = default)
    {
        var packed = new PackedWeights(
            weights.Format, order, weights.Count, Formats.Blocks(weights.HiddenSize, TileBlock.Columns), tilesPerChunk, weights.IntermediateSize, stored);
        if (stored is null) packed.Pack(weights.Count, new(context, 2, CpuExperts.Pieces, weights.Count * packed.Tiles), (expert, tile, column) => (weights.Down[expert], tile * TileBlock.Columns + column));
        return packed;
    }

    private static PackedMemory Allocate(long bytes)
    {
        var buffer = new NativeBuffer(bytes, hugePages: true);
        return new(buffer.Pointer, bytes, buffer);
    }

    /// <summary>Where a chunk's block of a tile starts, from the first byte of all.</summary>
    private long Offset(int expert, int tile, int block)
    {
        int chunk = tile / TilesPerChunk, first = chunk * TilesPerChunk, tiles = Math.Min(TilesPerChunk, Tiles - first);
        return (((long)expert * Tiles + first) * Blocks + (long)block * tiles + (tile - first)) * BlockBytes;
    }

    /// <summary>All tiles; what is not finished is freed.</summary>
    private void Pack(int experts, LoadPiece piece, Func<int, int, int, (BlockScaledMatrix Matrix, int Row)> source)
    {
        try
        {
            Parallel.For(0, experts * Tiles, piece.Options, i =>
            {
                PackTile(i / Tiles, i % Tiles, source);
                piece.Finish();
            });
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    private void PackTile(int expert, int tile, Func<int, int, int, (BlockScaledMatrix Matrix, int Row)> source)
    {
        byte** rows = stackalloc byte*[TileBlock.Columns];
        int valueBytes = _format.ValueBytes();
        for (int block = 0; block < Blocks; block++)
        {
            byte* target = Pointer + Offset(expert, tile, block);
            int firstK = block * TileBlock.MaxDepth, depth = Math.Min(TileBlock.MaxDepth, Depth - firstK);
            for (int column = 0; column < TileBlock.Columns; column++)
            {
                (BlockScaledMatrix matrix, int row) = source(expert, tile, column);
                bool exists = row < matrix.Rows;
                rows[column] = exists ? matrix.Storage.Values + row * matrix.Storage.RowBytes + (nint)firstK * valueBytes : null;
                if (exists && ScaleBytes > 0) PackScales(matrix, matrix.ScaleRowOf(row), block, column, target);
            }
            _arrange(rows, depth, target + ScaleBytes);
        }
    }

    private void PackScales(BlockScaledMatrix matrix, int scaleRow, int block, int column, byte* target)
    {
        if (_format != WeightFormat.MxFp8)
        {
            ((float*)target)[column] = matrix.ScaleAt(scaleRow, block);
            return;
        }
        const int groups = TileBlock.MaxDepth / 32;
        for (int group = 0; group < groups && block * groups + group < matrix.ScaleColumns; group++)
        {
            float scale = matrix.ScaleAt(scaleRow, block * groups + group);
            target[group * TileBlock.Columns + column] = ScaleE8M0.RoundUp(scale).Bits;
        }
    }

    /// <summary>Frees the memory.</summary>
    public void Dispose() => _memory.Owner.Dispose();
}
