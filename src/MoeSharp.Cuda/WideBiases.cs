namespace MoeSharp;

/// <summary>
/// What the wide kernels add to each output in FP32: expert biases, in the order of weight rows (kernels/include/wide_arguments.cuh). A weight row with a NaN code, where such are
/// allowed, makes NaN of all its outputs, and that is said here too: the decode does not know NaN codes.
/// </summary>
internal static class WideBiases
{
    /// <summary>[E][2 ⌈I/128⌉][128]: 8 of gate, 8 of up, and so on.</summary>
    internal static float[] GateUp(ExpertWeights weights, bool findNaN)
    {
        int blocks = 2 * Formats.Blocks(weights.IntermediateSize, 128), intermediate = weights.IntermediateSize;
        var table = new float[weights.Count * blocks * 128];
        for (int e = 0; e < weights.Count; e++)
            for (int i = 0; i < intermediate; i++)
            {
                int at = (e * blocks + i / 64) * 128 + i % 64 / 8 * 16 + i % 8;
                table[at] = Of(weights.Gate[e], i, weights.Biases?.Gate[e * intermediate + i] ?? 0, findNaN);
                table[at + 8] = Of(weights.Up[e], i, weights.Biases?.Up[e * intermediate + i] ?? 0, findNaN);
            }
        return table;
    }

    /// <summary>[E][⌈H/128⌉][128].</summary>
    internal static float[] Down(ExpertWeights weights, bool findNaN)
    {
        int hidden = weights.HiddenSize, rows = 128 * Formats.Blocks(hidden, 128);
        var table = new float[weights.Count * rows];
        for (int e = 0; e < weights.Count; e++)
            for (int i = 0; i < hidden; i++) table[e * rows + i] = Of(weights.Down[e], i, weights.Biases?.Down[e * hidden + i] ?? 0, findNaN);
        return table;
    }

    private static float Of(BlockScaledMatrix matrix, int row, float bias, bool findNaN) =>
        findNaN && matrix.Format != WeightFormat.Bf16 && matrix.Row(row).IndexOfAny((byte)0x7F, (byte)0xFF) >= 0 ? float.NaN : bias;
}
