namespace MoeSharp;

/// <summary>Exact bytes of a layer's weights on the device: one allocation [gate and up | down | their scales], as kernels/include/arguments.cuh lays them out.</summary>
internal readonly struct WeightSizes
{
    /// <summary>128 rows of 128 values.</summary>
    internal const int BlockBytes = 128 * 128;
    private const int ScaleBytes = 16;

    internal WeightSizes(ExpertWeights weights)
    {
        int experts = weights.Count, hidden = weights.HiddenSize, intermediate = weights.IntermediateSize;
        HiddenBlocks = Formats.Blocks(hidden, 128);
        IntermediateBlocks = Formats.Blocks(intermediate, 128);
        Passes = weights.HasStraddlingScales ? 2 : 1;
        MatrixBytes = (long)HiddenBlocks * IntermediateBlocks * BlockBytes;
        GateUp = 2L * Passes * experts * MatrixBytes;
        Down = experts * MatrixBytes;
        GateUpScales = (long)Passes * experts * IntermediateBlocks * HiddenBlocks * ScaleBytes;
        DownScales = (long)experts * ((HiddenBlocks + 1) / 2) * IntermediateBlocks * ScaleBytes;
        Padding = GateUp + Down - 3L * experts * hidden * intermediate;
    }

    /// <summary>⌈H/128⌉.</summary>
    internal int HiddenBlocks { get; }

    /// <summary>⌈I/128⌉.</summary>
    internal int IntermediateBlocks { get; }

    /// <summary>2 where 128 rows of gate or up have two scales: GateUp then sums over H twice, first the rows of the first scale, with zeros for the others, then
    /// the others.</summary>
    internal int Passes { get; }

    /// <summary>One expert's gate, up or down, filled up to whole blocks.</summary>
    internal long MatrixBytes { get; }

    internal long GateUp { get; }
    internal long Down { get; }
    internal long GateUpScales { get; }
    internal long DownScales { get; }

    /// <summary>Of <see cref="Total"/>: zeros that fill blocks up, none where H and I are multiples of 128 and scale blocks begin at row 0.</summary>
    internal long Padding { get; }

    /// <summary>What the device holds from loading to disposal.</summary>
    internal long Total => GateUp + Down + GateUpScales + DownScales;
}

/// <summary>Part of a buffer on the device.</summary>
internal readonly record struct DeviceRange(ulong Address, long Bytes);
