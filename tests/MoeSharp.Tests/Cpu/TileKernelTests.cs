namespace MoeSharp.Tests;

public unsafe class TileKernelTests
{
    public static TheoryData<string> Kernels => [.. GemmKernels.All.Where(kernel => kernel.IsSupported).Select(kernel => kernel.Name)];

    private static IGemmKernel Kernel(string name) => GemmKernels.All.Single(kernel => kernel.Name == name);

    [Theory]
    [MemberData(nameof(Kernels))]
    public void EveryCodeDecodesExactly(string name)
    {
        using var memory = new NativeBuffer(4096 + 128 + 4 * (128 + 32));
        byte* codes = memory.Pointer, scales = codes + 4096;
        float* row = (float*)(scales + 128), sums = row + 128;
        new Span<float>(scales, 32).Fill(1);
        for (int code = 0; code < 256; code++)
        {
            bool isNaN = (code & 0x7F) == 0x7F;
            TileKernels kernels = Kernel(name).For(WeightFormat.Block128, withNaN: isNaN || code % 5 == 0);
            for (int k = 0; k < 128; k += 17)
            {
                new Span<byte>(codes, 4096).Clear();
                new Span<float>(row, 160).Clear();
                row[k] = 1;
                for (int n = 0; n < 32; n++) codes[k * 32 + n] = (byte)(n % 2 == 0 ? code : 0x38); // 0x38 is 1
                kernels.Multiply(new TileBlock { Weights = codes, Scales = scales, Rows = row, Sums = sums, SumStride = 32, Depth = 128 }, 1);
                for (int n = 0; n < 32; n++)
                {
                    float expected = n % 2 == 0 ? Float8E4M3.FromBits((byte)code).ToSingle() : 1f;
                    Assert.True(sums[n].Equals(expected), $"code 0x{code:X2} at k={k}, n={n}: {sums[n]} instead of {expected}");
                }
            }
        }
    }

    [Theory]
    [MemberData(nameof(Kernels))]
    public void EveryMxScaleIsAPowerOfTwo(string name)
    {
        using var memory = new NativeBuffer(4096 + 128 + 4 * (128 + 32));
        byte* codes = memory.Pointer, scales = codes + 4096;
        float* row = (float*)(scales + 128), sums = row + 128;
        TileKernels kernels = Kernel(name).For(WeightFormat.MxFp8, withNaN: false);
        new Span<byte>(codes, 4096).Fill(0x39); // 1.125
        for (int first = 0; first < 256; first += 32)
        {
            for (int k = 5; k < 128; k += 32)
            {
                new Span<byte>(scales, 128).Fill(0x7F);
                new Span<float>(row, 160).Clear();
                row[k] = 1;
                for (int n = 0; n < 32; n++) scales[k / 32 * 32 + n] = (byte)(first + n);
                kernels.Multiply(new TileBlock { Weights = codes, Scales = scales, Rows = row, Sums = sums, SumStride = 32, Depth = 128 }, 1);
                for (int n = 0; n < 32; n++)
                {
                    float expected = 1.125f * ScaleE8M0.FromBits((byte)(first + n)).ToSingle();
                    Assert.True(sums[n].Equals(expected), $"scale {first + n} in group {k / 32}: {sums[n]} instead of {expected}");
                }
            }
        }
    }

    [Theory]
    [MemberData(nameof(Kernels))]
    public void AnyNumberOfRowsGivesTheBitsOfOne(string name)
    {
        const int most = 40, stride = 32;
        var random = new Random(5);
        using var memory = new NativeBuffer(4096 + 128 + 4 * most * (128 + 1 + 2 * stride));
        byte* codes = memory.Pointer, scales = codes + 4096;
        float* rows = (float*)(scales + 128), rowScales = rows + most * 128, sums = rowScales + most, alone = sums + most * stride;
        for (int i = 0; i < 4096; i++) codes[i] = (byte)(random.Next(0x7F) | (random.Next(2) << 7));
        for (int i = 0; i < 32; i++) ((float*)scales)[i] = random.NextSingle();
        for (int i = 0; i < most * 129; i++) rows[i] = random.NextSingle() - 0.5f;
        TileKernels kernels = Kernel(name).For(WeightFormat.Block128, withNaN: false);
        var block = new TileBlock { Weights = codes, Scales = scales, Rows = rows, RowScales = rowScales, SumStride = stride, Depth = 128 };
        for (int r = 0; r < most; r++)
            kernels.Multiply(block with { Rows = rows + r * 128, RowScales = rowScales + r, Sums = alone + r * stride }, 1);
        for (int count = 1; count <= most; count++)
        {
            new Span<float>(sums, most * stride).Clear();
            kernels.Multiply(block with { Sums = sums }, count);
            Assert.True(new Span<float>(sums, count * stride).SequenceEqual(new Span<float>(alone, count * stride)), $"{count} rows");
            Assert.True(new Span<float>(sums, most * stride)[(count * stride)..].IndexOfAnyExcept(0f) < 0, $"{count} rows wrote beyond");
        }
    }
}
