namespace MoeSharp;

/// <summary>What a job needs to know of packed weights; unmanaged.</summary>
internal readonly unsafe struct PackedPointer(PackedWeights weights)
{
    private readonly byte* _first = weights.Pointer;
    private readonly int _tiles = weights.Tiles, _blockBytes = weights.BlockBytes;

    public readonly int TilesPerChunk = weights.TilesPerChunk, Chunks = weights.Chunks;
    /// <summary>K, and blocks of 128 along it.</summary>
    public readonly int Depth = weights.Depth, Blocks = weights.Blocks;

    /// <summary>First byte of a chunk: its blocks follow each other, the tiles of a K block first.</summary>
    public byte* Chunk(int expert, int chunk, out int tiles)
    {
        tiles = TilesOf(chunk);
        return _first + ((long)expert * _tiles + chunk * TilesPerChunk) * Blocks * _blockBytes;
    }

    /// <summary>Tiles of a chunk: the last may have fewer than the others.</summary>
    public int TilesOf(int chunk) => Math.Min(TilesPerChunk, _tiles - chunk * TilesPerChunk);
}
