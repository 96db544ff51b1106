using System.Text.RegularExpressions;

namespace MoeSharp.Tests;

/// <summary>The table of docs/choose-a-format.md is what comes out here.</summary>
public class ChooseAFormatTests
{
    private const int E = 4, K = 2, H = 1024, I = 512, T = 16;
    private static readonly string s_page = Repository.ReadText("docs/choose-a-format.md");
    private readonly Random _random = new(1);

    [Fact]
    public void TableIsMeasured()
    {
        float[][] gate = Normal(I * H), up = Normal(I * H), down = Normal(H * I);
        BFloat16[] hidden = [.. Enumerable.Range(0, T * H).Select(_ => (BFloat16)Normal())];
        (float[] truth, _, double bf16Bytes) = Run(WeightFormat.Bf16, ActivationFormat.Bf16);
        Assert.Equal(2, Stated("bytes per weight", WeightFormat.Bf16));
        foreach (WeightFormat format in (WeightFormat[])[WeightFormat.Block128, WeightFormat.Block128PowerOfTwo, WeightFormat.MxFp8])
        {
            (float[] bf16, double weightError, double bytes) = Run(format, ActivationFormat.Bf16);
            Hold("bytes per weight", format, 2 * bytes / bf16Bytes, 0.0005);
            Hold("error of weights", format, 100 * weightError, 0.02);
            Hold("error of the output, BF16 activations", format, 100 * Error(bf16, truth), 0.08);
            Hold("error of the output, FP8 activations", format, 100 * Error(Run(format, ActivationFormat.Fp8).Output, truth), 0.08);
        }

        (float[] Output, double WeightError, double Bytes) Run(WeightFormat format, ActivationFormat activations)
        {
            BlockScaledMatrix Matrix(float[] values, int rows, int columns) => format == WeightFormat.Bf16
                ? BlockScaledMatrix.CreateBf16(rows, columns, [.. values.Select(BFloat16.FromSingle)]) : WeightQuantizer.Quantize(format, rows, columns, values);
            using var weights = new ExpertWeights([.. gate.Select(m => Matrix(m, I, H))], [.. up.Select(m => Matrix(m, I, H))], [.. down.Select(m => Matrix(m, H, I))]);
            using var experts = new FusedExperts(new() { TopK = K, Activations = activations }, weights);
            var output = new float[T * H];
            int[] ids = [.. Enumerable.Range(0, T * K).Select(i => (i * 3 + i / 2) % E)];
            experts.Forward(new ExpertsInput { Hidden = hidden, TopkIds = ids, TopkWeights = [.. Enumerable.Repeat(0.5f, T * K)] }, output);
            var read = new float[I * H];
            for (int r = 0; r < I; r++) weights.Gate[0].DequantizeRow(r, read.AsSpan(r * H, H));
            return (output, Error(read, gate[0]), weights.Bytes);
        }
    }

    private float[][] Normal(int count) => [.. Enumerable.Range(0, E).Select(_ => Enumerable.Range(0, count).Select(_ => (float)(BFloat16)(0.02f * Normal())).ToArray())];

    private float Normal() => MathF.Sqrt(-2 * MathF.Log(1 - _random.NextSingle())) * MathF.Cos(2 * MathF.PI * _random.NextSingle());

    private static double Error(float[] x, float[] truth) =>
        Math.Sqrt(x.Zip(truth, (a, b) => (double)(a - b) * (a - b)).Sum() / truth.Sum(b => (double)b * b));

    private static void Hold(string row, WeightFormat format, double measured, double tolerance)
    {
        double stated = Stated(row, format);
        Assert.True(Math.Abs(stated / measured - 1) < tolerance, $"docs/choose-a-format.md says {row} of {format} is {stated} but it is {measured:F4}.");
    }

    private static double Stated(string row, WeightFormat format)
    {
        string[] cells = s_page.Split('\n').Single(l => l.StartsWith($"| {row} |", StringComparison.Ordinal)).Split('|');
        return double.Parse(Regex.Match(cells[2 + (int)format], @"[\d.]+").Value);
    }
}
