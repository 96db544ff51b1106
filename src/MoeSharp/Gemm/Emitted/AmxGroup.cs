namespace MoeSharp;

/// <summary>32 rows or what is left, in one or two row tiles: between their tile products nothing else happens to sums.</summary>
/// <param name="Number">From 0.</param>
/// <param name="Units">Of the next block, decoded beside each 32 k.</param>
internal readonly record struct AmxGroup(int Number, int RowTiles, int Units)
{
    /// <summary>Rows of a whole group.</summary>
    public const int Rows = 2 * AmxEmitter.TileRows;

    public bool IsFirst => Number == 0;
}
