namespace MoeSharp;

/// <summary>The closed set of formats in which expert weights are stored and computed with.</summary>
public enum WeightFormat : byte
{
    /// <summary>E4M3 values, one scale per 128 x 128 block.</summary>
    Block128,
    /// <summary>E4M3 values, one scale per 128 x 128 block, every scale a power of two.</summary>
    Block128PowerOfTwo,
    /// <summary>E4M3 values, one UE8M0 scale per 32 values of a row (OCP MXFP8).</summary>
    MxFp8,
    /// <summary>BF16 values without scales.</summary>
    Bf16,
}

/// <summary>How activations enter the two grouped GEMMs.</summary>
public enum ActivationFormat : byte
{
    /// <summary>Quantized to E4M3 with one scale per 128 values (32 for <see cref="WeightFormat.MxFp8"/>) of a row: W8A8.</summary>
    Fp8,
    /// <summary>Kept in BF16: W8A16, or plain BF16 for <see cref="WeightFormat.Bf16"/> weights.</summary>
    Bf16,
}

/// <summary>How scales are stored.</summary>
public enum ScaleType : byte
{
    /// <summary>No scales (<see cref="WeightFormat.Bf16"/>).</summary>
    None,
    /// <summary>IEEE binary32.</summary>
    F32,
    /// <summary>BF16.</summary>
    BF16,
    /// <summary>IEEE binary16.</summary>
    F16,
    /// <summary>Power of two, one byte; files call it U8 or F8_E8M0.</summary>
    E8M0,
}

/// <summary>Facts about the formats.</summary>
public static class Formats
{
    /// <summary>Rows that share one weight scale: 128, or 1 for MXFP8 (0 without scales).</summary>
    public static int BlockRows(this WeightFormat format) => format switch
    {
        WeightFormat.Block128 or WeightFormat.Block128PowerOfTwo => 128,
        WeightFormat.MxFp8 => 1,
        _ => 0,
    };

    /// <summary>Values of a row that share one scale, for weights and for activations: 128, or 32 for MXFP8 (0 without scales).</summary>
    public static int BlockColumns(this WeightFormat format) => format switch
    {
        WeightFormat.Block128 or WeightFormat.Block128PowerOfTwo => 128,
        WeightFormat.MxFp8 => 32,
        _ => 0,
    };

    /// <summary>Bytes of one stored value: 2 for BF16, else 1.</summary>
    public static int ValueBytes(this WeightFormat format) => format == WeightFormat.Bf16 ? 2 : 1;

    /// <summary>Bytes of one stored scale.</summary>
    public static int Bytes(this ScaleType type) => type switch
    {
        ScaleType.F32 => 4,
        ScaleType.BF16 or ScaleType.F16 => 2,
        ScaleType.E8M0 => 1,
        _ => 0,
    };

    /// <summary>Scales along one dimension of this length; the last block may be ragged.</summary>
    public static int Blocks(int length, int block) => block == 0 ? 0 : (length + block - 1) / block;

    /// <summary>What activations become when nothing is said: FP8 for FP8 weights, BF16 for BF16 weights.</summary>
    public static ActivationFormat DefaultActivations(this WeightFormat format) =>
        format == WeightFormat.Bf16 ? ActivationFormat.Bf16 : ActivationFormat.Fp8;

    /// <summary>Whether the two belong together at all: the answer of a backend that does every format.</summary>
    internal static Support Pair(WeightFormat format, ActivationFormat activations) =>
        format == WeightFormat.Bf16 && activations == ActivationFormat.Fp8
            ? Support.No("BF16 weights take BF16 activations; FP8 activations need FP8 weights.")
            : Support.Yes;
}
