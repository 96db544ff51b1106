namespace MoeSharp;

/// <summary>A stored matrix: a tensor, or one expert's slice of a stacked one. Gate and up that are fused are one slab.</summary>
/// <param name="Source">Names and slice.</param>
/// <param name="Layer">Decoder layer.</param>
/// <param name="Expert">Routed expert; null for shared experts.</param>
/// <param name="Rows">Rows of one half, as stored.</param>
/// <param name="Columns">Columns, as stored.</param>
internal sealed record Slab(MatrixSource Source, int Layer, int? Expert, int Rows, int Columns)
{
    /// <summary>Gate and up, one above the other.</summary>
    public int Halves => Source is { Half: >= 0, Transposed: false } ? 2 : 1;

    public long[] Shape => Source.Stacked < 0 ? [Rows * (long)Halves, Columns] : [Source.StackedCount, Rows * (long)Halves, Columns];

    public string Module => Source.Values.EndsWith(".weight", StringComparison.Ordinal) ? Source.Values[..^7] : Source.Values;

    /// <summary>This and the other slices of its stacked tensor, one after the other; itself alone where it is no slice.</summary>
    public IEnumerable<Slab> Slices()
    {
        yield return this;
        for (int slice = 1; slice < Source.StackedCount && Source.Stacked == 0; slice++)
            yield return this with { Source = Source with { Stacked = slice }, Expert = slice };
    }

    /// <summary>Turns a source and the matrix's size into what is stored.</summary>
    public static Slab Of(MatrixSource source, int layer, int? expert, int rows, int columns) => source switch
    {
        { Transposed: false } => new(source, layer, expert, rows, columns),
        { Half: >= 0 } => new(source, layer, expert, columns, 2 * rows),
        _ => new(source, layer, expert, columns, rows),
    };
}
