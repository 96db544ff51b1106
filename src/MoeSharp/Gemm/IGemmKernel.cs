namespace MoeSharp;

/// <summary>
/// A way to multiply packed tiles: an entry per row count, all reading the same packed blocks. Chosen once per layer from the machine, never from the
/// number of tokens, since another kernel may sum in another order.
/// </summary>
internal interface IGemmKernel
{
    /// <summary>Short name, as reports show it.</summary>
    string Name { get; }
    /// <summary>Why this machine would or would not use it, in one sentence.</summary>
    string Reason { get; }
    /// <summary>Whether this machine can run it.</summary>
    bool IsSupported { get; }
    /// <summary>What rows must be made of.</summary>
    Operand Operand { get; }
    /// <summary>How the values of a packed block must lie.</summary>
    TileOrder Order { get; }
    /// <summary>The kernel for layers with these activations: itself, or one of the same name and the same bits that suits them better.</summary>
    IGemmKernel ForActivations(ActivationFormat activations) => this;
    /// <summary>Entries for a format.</summary>
    /// <param name="withNaN">Whether NaN codes must decode to NaN.</param>
    TileKernels For(WeightFormat format, bool withNaN);
    /// <summary>What it has for the steps around the GEMMs of a layer.</summary>
    /// <param name="downColumns">Columns of a chunk of Down.</param>
    RowKernels RowsFor(ExpertsShape shape, bool hasBiases, int downColumns) => default;
}

/// <summary>Order of the values of a packed block, 128 k by 32 columns.</summary>
internal enum TileOrder : byte
{
    /// <summary>[k][32 columns].</summary>
    Plain,
    /// <summary>FP8 as [k][8][4], columns that lie 8 apart beside each other: a load that begins up to three bytes earlier brings any of the four to the top of every 32-bit lane. BF16 as in
    /// <see cref="Plain"/>.</summary>
    Woven,
    /// <summary>Pairs of k beside each other, 16 columns at a time, as BF16 dot products want them.</summary>
    Pairs,
    /// <summary>FP8 as [k / 4][32 columns][4], each code a <see cref="QuadCode"/>; BF16 as in <see cref="Pairs"/>.</summary>
    Quads,
}
