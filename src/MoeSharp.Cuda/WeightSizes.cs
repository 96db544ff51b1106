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
        MatrixBytes = (long)HiddenBlocks * IntermediateBlocks * BlockBytes;
        GateUp = 2 * experts * MatrixBytes;
        Down = experts * MatrixBytes;
        GateUpScales = (long)experts * IntermediateBlocks * HiddenBlocks * ScaleBytes;
        DownScales = (long)experts * ((HiddenBlocks + 1) / 2) * IntermediateBlocks * ScaleBytes;
        Padding = 3L * experts * (MatrixBytes - (long)hidden * intermediate);
    }

    /// <summary>⌈H/128⌉.</summary>
    internal int HiddenBlocks { get; }

    /// <summary>⌈I/128⌉.</summary>
    internal int IntermediateBlocks { get; }

    /// <summary>One expert's gate, up or down, filled up to whole blocks.</summary>
    internal long MatrixBytes { get; }

    internal long GateUp { get; }
    internal long Down { get; }
    internal long GateUpScales { get; }
    internal long DownScales { get; }

    /// <summary>Of <see cref="Total"/>: zeros that fill blocks up, none where H and I are multiples of 128.</summary>
    internal long Padding { get; }

    /// <summary>What the device holds from loading to disposal.</summary>
    internal long Total => GateUp + Down + GateUpScales + DownScales;
}

/// <summary>Part of a buffer on the device.</summary>
internal readonly record struct DeviceRange(ulong Address, long Bytes);
