using CsCheck;

namespace MoeSharp.Tests;

public class RowDotsTests
{
    [Fact]
    public void EveryVectorWidthGivesTheBitsOfTheScalarSum() =>
        Gen.Select(Gen.Int[1, 5], Gen.Int[1, 7], Gen.Int[1, 100], Gen.Bool, Gen.Int[0, 1_000_000]).Sample((tokens, rows, hidden, bf16, seed) =>
        {
            var random = new Random(seed);
            float[] weight = Values(random, rows * hidden, bf16);
            BFloat16[] states = Values(random, tokens * hidden, true).Select(BFloat16.FromSingle).ToArray();
            var dots = new RowDots(weight, rows, hidden);
            float[] a = new float[tokens * rows], b = new float[tokens * rows], c = new float[tokens * rows], d = new float[tokens * rows];
            dots.Compute<Lanes512>(states, 0, rows, a);
            dots.Compute<Lanes256>(states, 0, rows, b);
            dots.Compute<Lanes128>(states, 0, rows, c);
            if (GeneratedDots.IsSupported) dots.Compute<Lanes128>(states, 0, rows, d, generated: true);
            else dots.Compute(states, 0, rows, d);
            for (int t = 0; t < tokens; t++)
                for (int r = 0; r < rows; r++)
                {
                    float want = Scalar(states.AsSpan(t * hidden, hidden), weight.AsSpan(r * hidden, hidden));
                    int i = t * rows + r;
                    Assert.True(a[i] == want && b[i] == want && c[i] == want && d[i] == want,
                        $"T {tokens} rows {rows} H {hidden} bf16 {bf16} seed {seed}: token {t} row {r}: {a[i]} {b[i]} {c[i]} {d[i]}, want {want}");
                }
        }, iter: 500);

    [Fact]
    public void OnlyTheRowsAskedForAreWritten()
    {
        float[] dots = Enumerable.Repeat(float.NaN, 2 * 5).ToArray();
        new RowDots(Enumerable.Repeat(1f, 5 * 3).ToArray(), 5, 3).Compute(Enumerable.Repeat((BFloat16)1f, 6).ToArray(), 1, 4, dots);
        Assert.Equal([float.NaN, 3, 3, 3, float.NaN, float.NaN, 3, 3, 3, float.NaN], dots);
    }

    private static float Scalar(ReadOnlySpan<BFloat16> x, ReadOnlySpan<float> w)
    {
        Span<float> lanes = stackalloc float[16];
        for (int i = 0; i < x.Length; i++) lanes[i % 16] = MathF.FusedMultiplyAdd(x[i], w[i], lanes[i % 16]);
        for (int width = 8; width > 0; width /= 2)
            for (int i = 0; i < width; i++) lanes[i] += lanes[i + width];
        return lanes[0];
    }

    private static float[] Values(Random random, int count, bool bf16)
    {
        var values = new float[count];
        for (int i = 0; i < count; i++)
        {
            float value = (random.NextSingle() - 0.5f) * MathF.Pow(2, random.Next(-12, 12));
            values[i] = bf16 ? BFloat16.FromSingle(value).ToSingle() : value;
        }
        return values;
    }

    [Fact]
    public void GeneratedMultiplyAddGivesTheSameBits()
    {
        Assert.SkipUnless(GeneratedDots.IsSupported, "no code is generated here");
        foreach (int hidden in (int[])[1, 15, 16, 17, 64, 101])
        {
            var random = new Random(hidden);
            BFloat16[] row = Values(random, hidden, true).Select(BFloat16.FromSingle).ToArray();
            float[] sums = Values(random, hidden, false), expected = [.. sums];
            RowDots.MultiplyAddGenerated(row, 0.7f, sums);
            for (int i = 0; i < hidden; i++) expected[i] = MathF.FusedMultiplyAdd(row[i], 0.7f, expected[i]);
            Assert.True(sums.AsSpan().SequenceEqual(expected), $"H {hidden}");
        }
    }
}
