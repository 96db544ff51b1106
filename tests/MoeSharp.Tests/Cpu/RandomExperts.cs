namespace MoeSharp.Tests;

/// <summary>A layer with random weights and calls to it, from a seed.</summary>
internal sealed class RandomExperts(int experts, int topK, int hidden, int intermediate, WeightFormat format, int seed = 1)
{
    private readonly Random _random = new(seed);

    public int Hidden => hidden;
    public int TopK => topK;

    public ExpertWeights Weights(bool biases = false)
    {
        BlockScaledMatrix[] Matrices(int rows, int columns, string name) => [.. Enumerable.Range(0, experts).Select(e => Matrix(rows, columns, $"{name}{e}"))];
        float[] Bias(int length) => [.. Enumerable.Range(0, length).Select(_ => Gaussian())];
        return new(Matrices(intermediate, hidden, "gate"), Matrices(intermediate, hidden, "up"), Matrices(hidden, intermediate, "down"),
            biases ? new ExpertBiases(Bias(experts * intermediate), Bias(experts * intermediate), Bias(experts * hidden)) : null);
    }

    /// <summary>Every code but NaN appears, subnormals and zeros too; sums come out near 1.</summary>
    private BlockScaledMatrix Matrix(int rows, int columns, string name)
    {
        if (format == WeightFormat.Bf16)
            return BlockScaledMatrix.CreateBf16(rows, columns, [.. Enumerable.Range(0, rows * columns).Select(_ => BFloat16.FromSingle(Gaussian() / MathF.Sqrt(columns)))], name);
        var codes = new Float8E4M3[rows * columns];
        for (int i = 0; i < codes.Length; i++)
            codes[i] = _random.Next(8) == 0 ? Float8E4M3.FromBits((byte)(_random.Next(0x7F) | (_random.Next(2) << 7))) : Float8E4M3.FromSingle(Gaussian() * 64);
        var scales = new float[Formats.Blocks(rows, format.BlockRows()) * Formats.Blocks(columns, format.BlockColumns())];
        float typical = 1f / (80f * MathF.Sqrt(columns));
        for (int i = 0; i < scales.Length; i++)
            scales[i] = format == WeightFormat.Block128 ? typical * (0.5f + _random.NextSingle()) : MathF.Pow(2, MathF.Round(MathF.Log2(typical)) + _random.Next(-1, 2));
        return BlockScaledMatrix.Create(format, rows, columns, codes, scales, name);
    }

    public (BFloat16[] Hidden, int[] Ids, float[] Weights) Call(int tokens, bool someDropped = true)
    {
        var states = new BFloat16[tokens * hidden];
        for (int i = 0; i < states.Length; i++) states[i] = BFloat16.FromSingle(Gaussian());
        var ids = new int[tokens * topK];
        var weights = new float[tokens * topK];
        for (int i = 0; i < ids.Length; i++)
        {
            ids[i] = someDropped && _random.Next(10) == 0 ? -1 : _random.Next(experts);
            weights[i] = _random.NextSingle();
        }
        return (states, ids, weights);
    }

    private float Gaussian() => MathF.Sqrt(-2 * MathF.Log(1 - _random.NextSingle())) * MathF.Cos(2 * MathF.PI * _random.NextSingle());
}
