using System.Runtime.InteropServices;
using CsCheck;

namespace MoeSharp.Tests;

public class ActivationQuantizerTests
{
    private static readonly (QuantizationRule Rule, bool PowerOfTwo)[] Kinds =
        [(QuantizationRule.Input, false), (QuantizationRule.Input, true), (QuantizationRule.Activation, false), (QuantizationRule.Activation, true)];

    [Theory]
    [InlineData(3.0f, 0x7E, 0x7C)]
    [InlineData(-1.5f, 0xF6, 0xF4)]
    [InlineData(0f, 0x00, 0x00)]
    [InlineData(0.1015625f, 0x57, 0x55)]
    [InlineData(-0.001953125f, 0xA9, 0xA8)]
    public void WorkedExample(float x, int divided, int powerOfTwo)
    {
        BFloat16[] row = [(BFloat16)3f, (BFloat16)x];
        var codes = new Float8E4M3[2];
        var scale = new float[1];
        var e8m0 = new ScaleE8M0[1];
        ActivationQuantizer.QuantizeRow(row, QuantizationRule.Input, false, 128, codes, scale);
        Assert.Equal((0x3BDB6DB7u, divided), (BitConverter.SingleToUInt32Bits(scale[0]), codes[1].Bits));
        ActivationQuantizer.QuantizeRow(row, QuantizationRule.Activation, false, 128, codes, scale);
        Assert.Equal((0x3BDB6DB8u, divided), (BitConverter.SingleToUInt32Bits(scale[0]), codes[1].Bits));
        foreach (QuantizationRule rule in Enum.GetValues<QuantizationRule>())
        {
            ActivationQuantizer.QuantizeRow(row, rule, true, 128, codes, scale);
            Assert.Equal((0.0078125f, powerOfTwo), (scale[0], codes[1].Bits));
        }
        ActivationQuantizer.QuantizeRowMx(row, codes, e8m0);
        Assert.Equal((0x78, powerOfTwo), (e8m0[0].Bits, codes[1].Bits));
    }

    [Fact]
    public void ScalesOfAllBFloat16FollowTheirDefinitions()
    {
        var distinct = new HashSet<float>();
        int different = 0;
        for (int bits = 0; bits < 0x7F80; bits++)
        {
            float absMax = BFloat16.FromBits((ushort)bits).ToSingle();
            float floored = Math.Max(absMax, 1e-10f);
            float input = ActivationQuantizer.Scale(absMax, QuantizationRule.Input, false);
            float activation = ActivationQuantizer.Scale(absMax, QuantizationRule.Activation, false);
            Assert.True(input == (float)((double)floored / 448), $"input rule, absmax {absMax:R}");
            Assert.True(activation == (float)((double)floored * BitConverter.UInt32BitsToSingle(0x3B124925)), $"activation rule, absmax {absMax:R}");
            foreach (QuantizationRule rule in Enum.GetValues<QuantizationRule>())
            {
                double exact = (double)floored / 448; // 448 * 2^j gives 2^j under both rules, so the quotient decides for both
                float power = SmallestPower(rule == QuantizationRule.Input ? Math.Max(exact, 1e-10f) : exact);
                Assert.True(power == ActivationQuantizer.Scale(absMax, rule, true), $"power of two, {rule} rule, absmax {absMax:R}");
            }
            if (!distinct.Add(floored) || input == activation) continue;
            Assert.True(
                activation == MathF.BitIncrement(input) || activation == MathF.BitDecrement(input),
                $"absmax {absMax:R}: one unit in the last place");
            different++;
        }
        Assert.Equal((20_645, 11_450), (distinct.Count, different));
    }

    [Fact]
    public void ExactMultiplesOf448HaveExactScales()
    {
        for (int j = -33; j < 119; j++)
        {
            float power = MathF.ScaleB(1, j);
            foreach ((QuantizationRule rule, bool powerOfTwo) in Kinds)
            {
                BFloat16[] row = [(BFloat16)(448f * power), (BFloat16)(-power)];
                var codes = new Float8E4M3[2];
                var scale = new float[1];
                ActivationQuantizer.QuantizeRow(row, rule, powerOfTwo, 128, codes, scale);
                Assert.True(
                    scale[0] == power && codes[0].Bits == 0x7E && codes[1].Bits == 0xB8,
                    $"{rule}, power of two {powerOfTwo}, 448 * 2^{j}: {scale[0]}, {codes[0]}, {codes[1]}");
            }
        }
    }

    [Fact]
    public void GroupsOfZerosTakeTheFloor()
    {
        foreach ((QuantizationRule rule, bool powerOfTwo) in Kinds)
        {
            var codes = new Float8E4M3[128];
            codes.AsSpan().Fill(Float8E4M3.FromBits(0x55));
            var scale = new float[1];
            ActivationQuantizer.QuantizeRow(new BFloat16[128], rule, powerOfTwo, 128, codes, scale);
            float expected = powerOfTwo ? MathF.ScaleB(1, rule == QuantizationRule.Input ? -33 : -42) : rule == QuantizationRule.Input ? 2.2321428e-13f : 2.2321430e-13f;
            Assert.True(scale[0] == expected, $"{rule}, power of two {powerOfTwo}: {scale[0]:R}");
            Assert.All(codes, c => Assert.Equal(0, c.Bits));
        }
        var mxCodes = new Float8E4M3[33];
        ScaleE8M0[] bytes = [ScaleE8M0.FromBits(7), ScaleE8M0.FromBits(7)];
        ActivationQuantizer.QuantizeRowMx(new BFloat16[33], mxCodes, bytes);
        Assert.All(bytes, b => Assert.Equal(0, b.Bits));
        Assert.All(mxCodes, c => Assert.Equal(0, c.Bits));
    }

    [Fact]
    public void MxScalesAndCodesOfAllBFloat16FollowTheirDefinition()
    {
        for (int bits = 0; bits < 0x7F80; bits++)
        {
            float absMax = BFloat16.FromBits((ushort)bits).ToSingle();
            BFloat16[] row = [(BFloat16)absMax, (BFloat16)(-absMax / 3), (BFloat16)(absMax / 100), (BFloat16)(-absMax / 5000)];
            var codes = new Float8E4M3[4];
            var scale = new ScaleE8M0[1];
            ActivationQuantizer.QuantizeRowMx(row, codes, scale);
            int e = 0;
            while (e < 254 && absMax > 448 * Math.Pow(2, e - 127)) e++; // exact in binary64
            Assert.True(scale[0].Bits == e, $"absmax {absMax:R}: byte {scale[0].Bits}, expected {e}");
            for (int i = 0; i < row.Length; i++)
            {
                byte expected = Float8E4M3Tests.Nearest((float)(row[i] / Math.Pow(2, e - 127)));
                Assert.True(codes[i].Bits == expected, $"absmax {absMax:R}, value {row[i]}: 0x{codes[i].Bits:X2}, expected 0x{expected:X2}");
            }
        }
    }

    [Fact]
    public void CodesAreTheNearestToTheQuotient() => Gen.Select(Rows(1, 300), Gen.Int[0, 3]).Sample((row, kind) =>
    {
        (QuantizationRule rule, bool powerOfTwo) = Kinds[kind];
        var codes = new Float8E4M3[row.Length];
        var scales = new float[Formats.Blocks(row.Length, 128)];
        ActivationQuantizer.QuantizeRow(row, rule, powerOfTwo, 128, codes, scales);
        for (int i = 0; i < row.Length; i++)
        {
            float absMax = row.Skip(i / 128 * 128).Take(128).Select(x => Math.Abs(x.ToSingle())).Where(x => !float.IsNaN(x)).DefaultIfEmpty().Max();
            float scale = ActivationQuantizer.Scale(absMax, rule, powerOfTwo), x = row[i];
            byte expected = float.IsInfinity(x) ? (byte)(x < 0 ? 0xFF : 0x7F) : Float8E4M3Tests.Nearest((float)((double)x / scale));
            Assert.True(
                scale == scales[i / 128] && codes[i].Bits == expected,
                $"{rule}, {powerOfTwo}, [{i}] {x:R} / {scale:R}: 0x{codes[i].Bits:X2}, expected 0x{expected:X2}");
        }
    });

    [Fact]
    public void NaNDoesNotCountAndInfinityTakesTheGroup()
    {
        BFloat16[] row = [(BFloat16)1f, BFloat16.FromBits(0x7FC0), BFloat16.FromBits(0xFFC0), (BFloat16)(-2f)];
        BFloat16[] infinite = [(BFloat16)1f, (BFloat16)float.PositiveInfinity, (BFloat16)float.NegativeInfinity, (BFloat16)(-2f)];
        var codes = new Float8E4M3[4];
        var scale = new float[1];
        var e8m0 = new ScaleE8M0[1];
        foreach ((QuantizationRule rule, bool powerOfTwo) in Kinds)
        {
            ActivationQuantizer.QuantizeRow(row, rule, powerOfTwo, 128, codes, scale);
            Assert.Equal((powerOfTwo ? 0.0078125f : 2f / 448, 0x7F, 0xFF), (scale[0], codes[1].Bits, codes[2].Bits));
            ActivationQuantizer.QuantizeRow(infinite, rule, powerOfTwo, 128, codes, scale);
            Assert.Equal((float.PositiveInfinity, 0x00, 0x7F, 0xFF, 0x80), (scale[0], codes[0].Bits, codes[1].Bits, codes[2].Bits, codes[3].Bits));
        }
        ActivationQuantizer.QuantizeRowMx(row, codes, e8m0);
        Assert.Equal((120, 0x7F, 0xFF), (e8m0[0].Bits, codes[1].Bits, codes[2].Bits));
        ActivationQuantizer.QuantizeRowMx(infinite, codes, e8m0);
        Assert.Equal((255, 0x00, 0x7F, 0xFF, 0x80), (e8m0[0].Bits, codes[0].Bits, codes[1].Bits, codes[2].Bits, codes[3].Bits));
    }

    [Fact]
    public void VectorisedRowsEqualScalarRows() =>
        Gen.Select(Rows(0, 400), Gen.Int[0, 3], Gen.Int[0, 1].Select(i => i == 0 ? 32 : 128), Gen.Int[0, 5]).Sample((row, kind, group, offset) =>
        {
            (QuantizationRule rule, bool powerOfTwo) = Kinds[kind];
            int groups = Formats.Blocks(row.Length, group), mxGroups = Formats.Blocks(row.Length, 32);
            float[] wide = [.. row.Select(x => x.ToSingle())];
            BFloat16[] shifted = [.. new BFloat16[offset], .. row];
            var scalar = new Outputs(row.Length, groups, mxGroups);
            var vector = new Outputs(row.Length, groups, mxGroups);
            var single = new Outputs(row.Length, groups, mxGroups);
            ActivationQuantizer.QuantizeRowScalar(row, rule, powerOfTwo, group, scalar.Codes, scalar.Scales);
            ActivationQuantizer.QuantizeRowMxScalar(row, scalar.MxCodes, scalar.MxScales);
            ActivationQuantizer.QuantizeRow(shifted.AsSpan(offset), rule, powerOfTwo, group, vector.Codes, vector.Scales);
            ActivationQuantizer.QuantizeRowMx(shifted.AsSpan(offset), vector.MxCodes, vector.MxScales);
            ActivationQuantizer.QuantizeRow(wide, rule, powerOfTwo, group, single.Codes, single.Scales);
            ActivationQuantizer.QuantizeRowMx(wide, single.MxCodes, single.MxScales);
            Assert.True(scalar.Same(vector), $"BF16, {rule}, {powerOfTwo}, group {group}, length {row.Length}");
            Assert.True(scalar.Same(single), $"FP32, {rule}, {powerOfTwo}, group {group}, length {row.Length}");
        }, iter: 3000);

    [Fact]
    public void LongRowsAllocateNothing()
    {
        BFloat16[] row = [.. Enumerable.Range(0, 4096).Select(i => (BFloat16)MathF.Sin(i))];
        var outputs = new Outputs(row.Length, 32, 128);
        long before = 0;
        for (int round = 0; round < 3; round++)
        {
            before = GC.GetAllocatedBytesForCurrentThread();
            ActivationQuantizer.QuantizeRow(row, QuantizationRule.Input, false, 128, outputs.Codes, outputs.Scales);
            ActivationQuantizer.QuantizeRowMx(row, outputs.MxCodes, outputs.MxScales);
            before = GC.GetAllocatedBytesForCurrentThread() - before;
        }
        Assert.Equal(0, before);
    }

    /// <summary>Rows at some magnitude, with zeros, subnormals, NaN and infinities here and there.</summary>
    private static Gen<BFloat16[]> Rows(int shortest, int longest) =>
        from exponent in Gen.Int[-130, 110]
        from specials in Gen.Int[0, 3]
        from values in Gen.Select(Gen.Double[-8, 8], Gen.Int[0, 499]).Array[shortest, longest]
        select values.Select(v => v.Item2 switch
        {
            0 when specials == 3 => (BFloat16)float.PositiveInfinity,
            1 when specials == 3 => (BFloat16)float.NegativeInfinity,
            2 or 3 when specials >= 2 => BFloat16.FromBits((ushort)(v.Item2 == 2 ? 0x7F81 : 0xFFC1)),
            >= 4 and < 20 when specials >= 1 => BFloat16.FromBits((ushort)(v.Item2 % 2 << 15)),
            _ => (BFloat16)(float)(v.Item1 * Math.Pow(2, exponent)),
        }).ToArray();

    private static float SmallestPower(double least)
    {
        int exponent = -126;
        while (Math.Pow(2, exponent) < least) exponent++;
        return (float)Math.Pow(2, exponent);
    }

    /// <summary>Room for results with a guarded end.</summary>
    private sealed class Outputs
    {
        private const int Guard = 40;
        private readonly int _length, _groups, _mxGroups;
        private readonly Float8E4M3[] _codes, _mxCodes;
        private readonly float[] _scales;
        private readonly ScaleE8M0[] _mxScales;

        public Outputs(int length, int groups, int mxGroups)
        {
            (_length, _groups, _mxGroups) = (length, groups, mxGroups);
            (_codes, _mxCodes) = (new Float8E4M3[length + Guard], new Float8E4M3[length + Guard]);
            (_scales, _mxScales) = (new float[groups + Guard], new ScaleE8M0[mxGroups + Guard]);
            _codes.AsSpan().Fill(Float8E4M3.FromBits(0x5A));
            _mxCodes.AsSpan().Fill(Float8E4M3.FromBits(0x5A));
        }

        public Span<Float8E4M3> Codes => _codes.AsSpan(0, _length);
        public Span<Float8E4M3> MxCodes => _mxCodes.AsSpan(0, _length);
        public Span<float> Scales => _scales.AsSpan(0, _groups);
        public Span<ScaleE8M0> MxScales => _mxScales.AsSpan(0, _mxGroups);

        public bool Same(Outputs other) =>
            _codes.AsSpan().SequenceEqual(other._codes) && _mxCodes.AsSpan().SequenceEqual(other._mxCodes)
            && MemoryMarshal.AsBytes(_scales.AsSpan()).SequenceEqual(MemoryMarshal.AsBytes(other._scales.AsSpan()))
            && _mxScales.AsSpan().SequenceEqual(other._mxScales);
    }
}
