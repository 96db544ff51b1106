using System.Runtime.InteropServices;
using CsCheck;

namespace MoeSharp.Tests;

public class ConversionsTests
{
    private const int LongestSpan = 67, Guard = 64;

    private delegate void Convert<TFrom, TTo>(ReadOnlySpan<TFrom> source, Span<TTo> destination);

    [Fact]
    public void EveryFloat8CodeDecodesAsItsScalar() => AllPatterns<byte, Float8E4M3, float>(
        256, Conversions.ToSingle, code => BitConverter.SingleToUInt32Bits(Float8E4M3.FromBits(code).ToSingle()));

    [Fact]
    public void EveryScaleDecodesAsItsScalar() => AllPatterns<byte, ScaleE8M0, float>(
        256, Conversions.ToSingle, code => BitConverter.SingleToUInt32Bits(ScaleE8M0.FromBits(code).ToSingle()));

    [Fact]
    public void EveryBFloat16DecodesAsItsScalar() =>
        AllPatterns<ushort, BFloat16, float>(65536, Conversions.ToSingle, bits => (uint)bits << 16);

    [Fact]
    public void EveryHalfDecodesAsTheFrameworkDoes() => AllPatterns<ushort, Half, float>(65536, Conversions.ToSingle, bits =>
    {
        Half half = BitConverter.UInt16BitsToHalf(bits);
        uint expected = BitConverter.SingleToUInt32Bits((float)half);
        return Half.IsNaN(half) ? expected | 0x00400000 : expected; // quiet
    });

    [Fact]
    public void EveryHalfDecodesAsItsScalarToo()
    {
        for (int bits = 0; bits < 65536; bits++)
        {
            var half = BitConverter.UInt16BitsToHalf((ushort)bits);
            float value = HalfCodec.Decode((uint)bits);
            Assert.True(((float)half).Equals(value) && Half.IsNegative(half) == float.IsNegative(value), $"0x{bits:X4}: {value}");
        }
    }

    [Fact]
    public void EveryBFloat16EncodesAsItsScalar()
    {
        float[] values = [.. Enumerable.Range(0, 65536).Select(bits => BFloat16.FromBits((ushort)bits).ToSingle())];
        var codes = new Float8E4M3[values.Length];
        var back = new BFloat16[values.Length];
        Conversions.ToFloat8(values, codes);
        Conversions.ToBFloat16(values, back);
        for (int i = 0; i < values.Length; i++)
            Assert.True(
                codes[i].Equals(Float8E4M3.FromSingle(values[i])) && back[i].Equals(BFloat16.FromSingle(values[i])),
                $"0x{i:X4} = {values[i]}: {codes[i].Bits:X2}, {back[i].Bits:X4}");
    }

    [Fact]
    public void TiesEncodeAsTheirScalars()
    {
        var values = new List<float>();
        for (int code = 0; code < 256; code++)
        {
            float a = Float8E4M3.FromBits((byte)code).ToSingle(), b = Float8E4M3.FromBits((byte)((code & 0x80) | ((code + 1) & 0x7F))).ToSingle();
            values.AddRange([(a + b) / 2, MathF.BitIncrement((a + b) / 2), MathF.BitDecrement((a + b) / 2)]);
        }
        for (uint bits = 0; bits < 65536; bits++)
            for (uint low = 0x7FFF; low <= 0x8001; low++) values.Add(BitConverter.UInt32BitsToSingle((bits << 16) | low));
        float[] array = [.. values];
        var codes = new Float8E4M3[array.Length];
        var halves = new BFloat16[array.Length];
        Conversions.ToFloat8(array, codes);
        Conversions.ToBFloat16(array, halves);
        for (int i = 0; i < array.Length; i++)
            Assert.True(
                codes[i].Equals(Float8E4M3.FromSingle(array[i])) && halves[i].Equals(BFloat16.FromSingle(array[i])),
                $"{array[i]:R}: {codes[i].Bits:X2}, {halves[i].Bits:X4}");
    }

    [Fact]
    public void RandomSpansMatchScalarsAndLeaveTheirSurroundingsAlone() =>
        Gen.Select(Gen.UInt.Array[LongestSpan], Gen.Int[0, LongestSpan], Gen.Int[0, 31]).Sample((bits, length, offset) =>
        {
            // Half of the random patterns are scaled into the range that E4M3 resolves.
            float[] values = [.. bits.Select((b, i) => i % 2 == 0 ? BitConverter.UInt32BitsToSingle(b) : (b % 100_000 - 50_000f) / 97)];
            ushort[] shorts = [.. bits.Select(b => (ushort)b)];
            byte[] bytes = [.. bits.Select(b => (byte)b)];
            Guarded<float, Float8E4M3>(values, length, offset, Conversions.ToFloat8, Float8E4M3.FromSingle);
            Guarded<float, BFloat16>(values, length, offset, Conversions.ToBFloat16, BFloat16.FromSingle);
            Guarded<BFloat16, float>(MemoryMarshal.Cast<ushort, BFloat16>(shorts), length, offset, Conversions.ToSingle, x => x.ToSingle());
            Guarded<Half, float>(
                MemoryMarshal.Cast<ushort, Half>(shorts), length, offset, Conversions.ToSingle,
                x => HalfCodec.Decode(BitConverter.HalfToUInt16Bits(x)));
            Guarded<Float8E4M3, float>(MemoryMarshal.Cast<byte, Float8E4M3>(bytes), length, offset, Conversions.ToSingle, x => x.ToSingle());
            Guarded<ScaleE8M0, float>(MemoryMarshal.Cast<byte, ScaleE8M0>(bytes), length, offset, Conversions.ToSingle, x => x.ToSingle());
        }, iter: 2000);

    [Fact]
    public void EveryLengthMatchesAndLeavesItsSurroundingsAlone()
    {
        var random = new Random(1);
        for (int length = 0; length <= LongestSpan; length++)
            for (int offset = 0; offset < 8; offset++)
            {
                float[] values = new float[LongestSpan];
                random.NextBytes(MemoryMarshal.AsBytes(values.AsSpan()));
                Guarded<float, Float8E4M3>(values, length, offset, Conversions.ToFloat8, Float8E4M3.FromSingle);
                Guarded<float, BFloat16>(values, length, offset, Conversions.ToBFloat16, BFloat16.FromSingle);
            }
    }

    [Fact]
    public void ShortDestinationsAreRefused()
    {
        var error = Assert.Throws<ArgumentException>(() => Conversions.ToFloat8(new float[3], new Float8E4M3[2]));
        Assert.Contains("2 elements but the source has 3", error.Message);
        Assert.Throws<ArgumentException>(() => Conversions.ToBFloat16(new float[3], new BFloat16[2]));
        Assert.Throws<ArgumentException>(() => Conversions.ToSingle(new BFloat16[3], new float[2]));
        Assert.Throws<ArgumentException>(() => Conversions.ToSingle(new Float8E4M3[3], new float[2]));
    }

    private static void AllPatterns<TBits, TFrom, TTo>(int count, Convert<TFrom, TTo> convert, Func<TBits, uint> expected)
        where TBits : unmanaged, System.Numerics.INumberBase<TBits> where TFrom : unmanaged where TTo : unmanaged
    {
        TBits[] patterns = [.. Enumerable.Range(0, count).Select(TBits.CreateTruncating)];
        var converted = new TTo[count];
        convert(MemoryMarshal.Cast<TBits, TFrom>(patterns), converted);
        Span<uint> bits = MemoryMarshal.Cast<TTo, uint>(converted.AsSpan());
        for (int i = 0; i < count; i++)
            Assert.True(expected(patterns[i]) == bits[i], $"pattern 0x{i:X}: 0x{bits[i]:X8}, expected 0x{expected(patterns[i]):X8}");
    }

    /// <summary>Converts a part of a larger array into a part of another and looks at every byte of that other.</summary>
    private static void Guarded<TFrom, TTo>(ReadOnlySpan<TFrom> values, int length, int offset, Convert<TFrom, TTo> convert, Func<TFrom, TTo> scalar)
        where TFrom : unmanaged where TTo : unmanaged
    {
        var source = new TFrom[offset + length];
        values[..length].CopyTo(source.AsSpan(offset));
        var actual = new TTo[offset + length + Guard];
        MemoryMarshal.AsBytes(actual.AsSpan()).Fill(0xA5);
        TTo[] expected = [.. actual];
        for (int i = 0; i < length; i++) expected[offset + i] = scalar(values[i]);
        convert(source.AsSpan(offset), actual.AsSpan(offset, length));
        Assert.True(MemoryMarshal.AsBytes(actual.AsSpan()).SequenceEqual(MemoryMarshal.AsBytes(expected.AsSpan())),
            $"{typeof(TFrom).Name} to {typeof(TTo).Name}, length {length}, offset {offset}: [{string.Join(", ", actual)}], " +
            $"expected [{string.Join(", ", expected)}]");
    }
}
