namespace MoeSharp.Tests;

/// <summary>Layers and inputs made from a seed: normally distributed, in sizes that keep every activation in its interesting range.</summary>
internal static class RandomLayer
{
    public static ExpertWeights Weights(WeightFormat format, int experts, int hidden, int intermediate, int seed, bool biases = false)
    {
        var random = new Random(seed);
        BlockScaledMatrix[] gate = Matrices("gate", intermediate, hidden), up = Matrices("up", intermediate, hidden), down = Matrices("down", hidden, intermediate);
        ExpertBiases? bias = biases ? new(Normal(random, experts * intermediate, 0.5f), Normal(random, experts * intermediate, 0.5f), Normal(random, experts * hidden, 0.5f)) : null;
        return new(gate, up, down, bias);

        BlockScaledMatrix[] Matrices(string what, int rows, int columns) =>
            [.. Enumerable.Range(0, experts).Select(e => Matrix(format, rows, columns, random, $"{what}[{e}]"))];
    }

    /// <summary>Codes over the whole range of E4M3 but NaN, with scales that bring products of a row to about 1.</summary>
    public static BlockScaledMatrix Matrix(WeightFormat format, int rows, int columns, Random random, string name)
    {
        float deviation = 1.5f / MathF.Sqrt(columns);
        float[] values = Normal(random, rows * columns, format == WeightFormat.Bf16 ? deviation : 60f);
        if (format == WeightFormat.Bf16) return BlockScaledMatrix.CreateBf16(rows, columns, Bf16(values), name);
        int scaleRows = Formats.Blocks(rows, format.BlockRows()), scaleColumns = Formats.Blocks(columns, format.BlockColumns());
        var scales = new float[scaleRows * scaleColumns];
        for (int i = 0; i < scales.Length; i++)
        {
            float scale = deviation / 60f * (0.5f + random.NextSingle());
            scales[i] = format == WeightFormat.Block128 ? scale : ScaleE8M0.RoundUp(scale).ToSingle();
        }
        return BlockScaledMatrix.Create(format, rows, columns, [.. values.Select(Float8E4M3.FromSingle)], scales, name);
    }

    public static ExpertWeights Zeros(WeightFormat format, int experts, int hidden, int intermediate) => new(
        [.. Enumerable.Range(0, experts).Select(_ => Zero(format, intermediate, hidden))],
        [.. Enumerable.Range(0, experts).Select(_ => Zero(format, intermediate, hidden))],
        [.. Enumerable.Range(0, experts).Select(_ => Zero(format, hidden, intermediate))]);

    public static BFloat16[] Hidden(int tokens, int hidden, int seed) => Bf16(Normal(new Random(seed), tokens * hidden, 1));

    /// <summary>Distinct experts per token, some slots without one.</summary>
    public static int[] Ids(int tokens, int topK, int experts, int seed, double dropped = 0)
    {
        var random = new Random(seed);
        var ids = new int[tokens * topK];
        for (int t = 0; t < tokens; t++)
        {
            int[] order = [.. Enumerable.Range(0, experts)];
            random.Shuffle(order);
            for (int k = 0; k < topK; k++) ids[t * topK + k] = random.NextDouble() < dropped ? -1 : order[k];
        }
        return ids;
    }

    public static float[] TopkWeights(int tokens, int topK, int seed)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, tokens * topK).Select(_ => 0.05f + random.NextSingle())];
    }

    public static float[] Normal(Random random, int count, float deviation)
    {
        var values = new float[count];
        for (int i = 0; i < count; i++)
            values[i] = deviation * (float)(Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble()));
        return values;
    }

    public static BFloat16[] Bf16(float[] values) => [.. values.Select(BFloat16.FromSingle)];

    private static BlockScaledMatrix Zero(WeightFormat format, int rows, int columns) => BlockScaledMatrix.Allocate(
        "zero", format, format switch { WeightFormat.MxFp8 => ScaleType.E8M0, WeightFormat.Bf16 => ScaleType.None, _ => ScaleType.F32 }, rows, columns);
}
