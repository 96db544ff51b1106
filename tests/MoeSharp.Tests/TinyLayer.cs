namespace MoeSharp.Tests;

/// <summary>Small random layers, all from one seed.</summary>
internal sealed record TinyLayer
{
    public int Hidden { get; init; } = 160;
    public int Intermediate { get; init; } = 96;
    public int Experts { get; init; } = 6;
    public int TopK { get; init; } = 3;
    public WeightFormat Format { get; init; } = WeightFormat.Block128;
    public bool Shared { get; init; } = true;
    public bool Gated { get; init; } = true;
    public WeightFormat? SharedFormat { get; init; }
    public int Seed { get; init; } = 1;

    public LayerParts Parts()
    {
        var random = new Random(Seed);
        return new LayerParts
        {
            Layer = 3,
            Router = new RouterOptions { Experts = Experts, TopK = TopK, Scoring = RouterScoring.Sigmoid, Renormalize = true },
            RouterWeight = Floats(random, Experts * Hidden, 0.1f),
            RouterCorrectionBias = Floats(random, Experts, 0.1f),
            Experts = Weights(random, Format, Experts, Hidden, Intermediate),
            ExpertsOptions = new ExpertsOptions { TopK = TopK },
            SharedExperts = Shared ? Weights(random, SharedFormat ?? Format, 1, Hidden, 2 * Intermediate) : null,
            SharedGate = Shared && Gated ? Floats(random, Hidden, 0.1f) : null,
        };
    }

    public BFloat16[] HiddenStates(int tokens) => Floats(new Random(Seed + 1), tokens * Hidden, 1).Select(BFloat16.FromSingle).ToArray();

    public static ExpertWeights Weights(Random random, WeightFormat format, int experts, int hidden, int intermediate)
    {
        BlockScaledMatrix[] Make(string name, int rows, int columns) =>
            Enumerable.Range(0, experts).Select(e => Matrix(random, format, rows, columns, $"{name} {e}")).ToArray();
        return new ExpertWeights(Make("gate", intermediate, hidden), Make("up", intermediate, hidden), Make("down", hidden, intermediate));
    }

    private static BlockScaledMatrix Matrix(Random random, WeightFormat format, int rows, int columns, string name)
    {
        if (format == WeightFormat.Bf16)
            return BlockScaledMatrix.CreateBf16(rows, columns, Floats(random, rows * columns, 0.1f).Select(BFloat16.FromSingle).ToArray(), name);
        var values = new Float8E4M3[rows * columns];
        for (int i = 0; i < values.Length; i++) values[i] = Float8E4M3.FromBits((byte)(random.Next(0x70) | (random.Next(2) << 7)));
        float[] scales = new float[Formats.Blocks(rows, format.BlockRows()) * Formats.Blocks(columns, format.BlockColumns())];
        for (int i = 0; i < scales.Length; i++)
            scales[i] = format == WeightFormat.Block128 ? 0.001f * (1 + random.NextSingle()) : MathF.Pow(2, -random.Next(8, 11));
        return BlockScaledMatrix.Create(format, rows, columns, values, scales, name);
    }

    private static float[] Floats(Random random, int count, float scale) =>
        Enumerable.Range(0, count).Select(_ => (random.NextSingle() * 2 - 1) * scale).ToArray();
}
