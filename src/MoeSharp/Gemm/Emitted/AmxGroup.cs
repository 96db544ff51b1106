namespace MoeSharp;

/// <summary>32 rows or what is left, in one or two row tiles: between their tile products nothing else happens to sums.</summary>
/// <param name="Number">From 0.</param>
/// <param name="IsLast">Of its block: what its weights leave of the panel is free for the next block.</param>
internal readonly record struct AmxGroup(int Number, int RowTiles, bool IsLast)
{
    /// <summary>Rows of a whole group.</summary>
    public const int Rows = 2 * AmxEmitter.TileRows;

    public bool IsFirst => Number == 0;
}
