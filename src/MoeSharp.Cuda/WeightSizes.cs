namespace MoeSharp;

/// <summary>Exact bytes of a layer's weights on the device: one allocation [gate and up | down | their scales], as kernels/include/arguments.cuh lays them out.</summary>
internal readonly struct WeightSizes
{
    /// <summary>128 rows of 128 FP8 values.</summary>
    internal const int BlockBytes = 128 * 128;
    private const int ScaleBytes = 16;

    internal WeightSizes(ExpertWeights weights)
    {
        int experts = weights.Count, hidden = weights.HiddenSize, intermediate = weights.IntermediateSize;
        HiddenBlocks = Formats.Blocks(hidden, 128);
        IntermediateBlocks = Formats.Blocks(intermediate, 128);
        Passes = weights.HasStraddlingScales ? 2 : 1;
        int valueBytes = weights.Format.ValueBytes();
        Block = BlockBytes * valueBytes + (weights.Format == WeightFormat.MxFp8 ? BlockBytes / 32 : 0);
        MatrixBytes = (long)HiddenBlocks * IntermediateBlocks * Block;
        GateUp = 2L * Passes * experts * MatrixBytes;
        Down = experts * MatrixBytes;
        int scaleBytes = weights.Format is WeightFormat.MxFp8 or WeightFormat.Bf16 ? 0 : ScaleBytes;
        GateUpScales = (long)Passes * experts * IntermediateBlocks * HiddenBlocks * scaleBytes;
        DownScales = (long)experts * ((HiddenBlocks + 1) / 2) * IntermediateBlocks * scaleBytes;
        long biases = weights.Biases is null ? 0 : (long)experts * 128 * sizeof(float);
        GateUpBiases = biases * 2 * IntermediateBlocks;
        DownBiases = biases * HiddenBlocks;
        Padding = GateUp + Down - experts * (3L * hidden * intermediate * valueBytes + (weights.Format == WeightFormat.MxFp8 ? MxScales(hidden, intermediate) : 0));
    }

    /// <summary>⌈H/128⌉.</summary>
    internal int HiddenBlocks { get; }

    /// <summary>⌈I/128⌉.</summary>
    internal int IntermediateBlocks { get; }

    /// <summary>2 where 128 rows of gate or up have two scales: GateUp then sums over H twice, first the rows of the first scale, with zeros for the others, then
    /// the others.</summary>
    internal int Passes { get; }

    /// <summary>128 rows of 128 values in this format, with the scales that lie among them.</summary>
    internal int Block { get; }

    /// <summary>One expert's gate, up or down, filled up to whole blocks.</summary>
    internal long MatrixBytes { get; }

    internal long GateUp { get; }
    internal long Down { get; }
    internal long GateUpScales { get; }
    internal long DownScales { get; }
    internal long GateUpBiases { get; }
    internal long DownBiases { get; }

    /// <summary>Of <see cref="Total"/>: zeros that fill blocks up, none where H and I are multiples of 128 and scale blocks begin at row 0.</summary>
    internal long Padding { get; }

    /// <summary>What the device holds from loading to disposal.</summary>
    internal long Total => GateUp + Down + GateUpScales + DownScales + GateUpBiases + DownBiases;

    private static long MxScales(int hidden, int intermediate) =>
        2L * intermediate * Formats.Blocks(hidden, 32) + (long)hidden * Formats.Blocks(intermediate, 32);
}

/// <summary>Part of a buffer on the device.</summary>
internal readonly record struct DeviceRange(ulong Address, long Bytes)
{
    /// <summary>Its address, or 0 where it is empty.</summary>
    internal ulong OrNull => Bytes == 0 ? 0 : Address;
}
