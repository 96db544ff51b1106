using System.Runtime.Intrinsics.X86;

namespace MoeSharp.Tests;

public unsafe class TileKernelTests
{
    private const int Columns = TileBlock.Columns, Depth = TileBlock.MaxDepth;

    public static TheoryData<string> Kernels => [.. GemmKernels.All.Where(kernel => kernel.IsSupported).Select(kernel => kernel.Name)];

    /// <summary>Whether AVX-512 instructions are trapped in this process: at some microseconds each, a part of the cases must do.</summary>
    private static bool IsSlow => Environment.GetEnvironmentVariable("MOESHARP_TEST_AMX") == "trap" && !Avx512F.IsSupported;

    private static IGemmKernel Kernel(string name) => GemmKernels.All.Single(kernel => kernel.Name == name);

    [Fact]
    public void AmxIsAmongThemWhereItIsTrapped()
    {
        Assert.SkipUnless(Environment.GetEnvironmentVariable("MOESHARP_TEST_AMX") == "trap", "AMX is not trapped in this process; AmxTrapTests starts one where it is");
        Assert.Equal("amx-bf16", GemmKernels.All.First(kernel => kernel.IsSupported).Name);
    }

    /// <summary>What measures the peak of AMX must at least run: a fault would end the process.</summary>
    [Fact]
    public void AmxPeakIsMeasurable()
    {
        Assert.SkipUnless(CpuFeatures.AmxBf16, "This machine has no AMX.");
        AmxBurn.Code(3);
    }

    /// <summary>A few tiles' block of E4M3 weights and rows to multiply it with, laid out as a kernel wants them.</summary>
    private sealed class Problem(IGemmKernel kernel, WeightFormat format, int tiles, int rows) : IDisposable
    {
        private readonly NativeBuffer _packed = new(tiles * TileBlock.BytesOf(format)), _values = new((long)tiles * Columns * Depth),
            _operands = new((rows + 16) * Depth * 4L), _rowScales = new(4L * rows), _sums = new(4L * rows * tiles * Columns),
            _decoded = new(Math.Max(AmxPanel.Bytes, FmaEmitter.PanelBytes));

        public byte* Code(int tile, int column, int k) => _values.Pointer + (tile * Columns + column) * Depth + k;
        public byte* Scales(int tile) => _packed.Pointer + tile * TileBlock.BytesOf(format);
        /// <summary>A bit of the packed block that is inverted before it is multiplied.</summary>
        public (int Byte, int Bit)? Flip { get; set; }
        public Span<float> RowScales => _rowScales.Span<float>(0, rows);
        /// <summary>[tiles, rows, 32].</summary>
        public Span<float> Sums => _sums.Span<float>(0, rows * tiles * Columns);

        public void SetOperand(int row, int k, float value)
        {
            if (kernel.Operand == Operand.F32) ((float*)_operands.Pointer)[row * Depth + k] = value;
            else ((BFloat16*)_operands.Pointer)[row * Depth + k] = BFloat16.FromSingle(value);
        }

        public void Multiply(bool withNaN = false, int first = 0, int? count = null, int depth = Depth, bool scaled = false)
        {
            byte** columns = stackalloc byte*[Columns];
            for (int tile = 0; tile < tiles; tile++)
            {
                for (int n = 0; n < Columns; n++) columns[n] = Code(tile, n, 0);
                Arrangement.For(kernel.Order, format)(columns, depth, Scales(tile) + TileBlock.ScaleBytesOf(format));
            }
            if (Flip is { } flip) _packed.Pointer[flip.Byte] ^= (byte)(1 << flip.Bit);
            TileKernels kernels = kernel.For(format, withNaN);
            var block = new TileBlock
            {
                Operands = _operands.Pointer + first * kernels.OperandRowBytes,
                RowScales = scaled ? (float*)_rowScales.Pointer + first : null,
                Sums = (float*)_sums.Pointer + first * Columns,
                Depth = depth,
            };
            var run = new BlockRun(Scales(0), tiles, kernels.BlockBytes, following: null);
            kernels.Begin(ref block, _decoded.Pointer, run);
            RowsAhead none = default;
            for (int tile = 0; tile < tiles; tile++, run.Advance(), block.Sums += rows * Columns) kernels.Multiply(ref block, count ?? rows, run, ref none, share: 0);
            kernels.End();
        }

        public void Dispose()
        {
            foreach (NativeBuffer buffer in (NativeBuffer[])[_packed, _values, _operands, _rowScales, _sums, _decoded]) buffer.Dispose();
        }
    }

    /// <summary>Among zeros, and among codes that nothing is special about: a kernel may decode those in another way.</summary>
    [Theory]
    [MemberData(nameof(Kernels))]
    public void EveryCodeDecodesExactly(string name)
    {
        foreach (byte others in (byte[])[0, 0x38]) // 0x38 is 1
        {
            using var problem = new Problem(Kernel(name), WeightFormat.Block128, tiles: 1, rows: 1);
            new Span<float>(problem.Scales(0), Columns).Fill(1);
            new Span<byte>(problem.Code(0, 0, 0), Columns * Depth).Fill(others);
            for (int code = 0; code < 256; code++)
            {
                bool isNaN = (code & 0x7F) == 0x7F;
                for (int k = code % 17 + (IsSlow ? code % 7 * 17 : 0); k < Depth; k += IsSlow ? Depth : 17)
                {
                    for (int i = 0; i < Depth; i++) problem.SetOperand(0, i, i == k ? 1 : 0);
                    for (int n = 0; n < Columns; n++) *problem.Code(0, n, k) = (byte)(n % 2 == 0 ? code : 0x38);
                    problem.Sums.Clear();
                    problem.Multiply(withNaN: isNaN || code % 5 == 0);
                    for (int n = 0; n < Columns; n++)
                    {
                        float expected = n % 2 == 0 ? Float8E4M3.FromBits((byte)code).ToSingle() : 1f;
                        Assert.True(problem.Sums[n].Equals(expected), $"code 0x{code:X2} at k={k}, n={n} among 0x{others:X2}: {problem.Sums[n]} instead of {expected}");
                    }
                    for (int n = 0; n < Columns; n++) *problem.Code(0, n, k) = others;
                }
            }
        }
    }

    [Theory]
    [MemberData(nameof(Kernels))]
    public void EveryMxScaleIsAPowerOfTwo(string name)
    {
        using var problem = new Problem(Kernel(name), WeightFormat.MxFp8, tiles: 1, rows: 1);
        for (int n = 0; n < Columns; n++) new Span<byte>(problem.Code(0, n, 0), Depth).Fill(0x39); // 1.125
        for (int first = 0; first < 256; first += Columns)
        {
            for (int k = 5; k < Depth; k += 32)
            {
                new Span<byte>(problem.Scales(0), 4 * Columns).Fill(0x7F);
                for (int i = 0; i < Depth; i++) problem.SetOperand(0, i, i == k ? 1 : 0);
                for (int n = 0; n < Columns; n++) problem.Scales(0)[k / 32 * Columns + n] = (byte)(first + n);
                problem.Sums.Clear();
                problem.Multiply();
                for (int n = 0; n < Columns; n++)
                {
                    float expected = 1.125f * ScaleE8M0.FromBits((byte)(first + n)).ToSingle();
                    Assert.True(problem.Sums[n].Equals(expected), $"scale {first + n} in group {k / 32}: {problem.Sums[n]} instead of {expected}");
                }
            }
        }
    }

    [Theory]
    [MemberData(nameof(Kernels))]
    public void AnyNumberOfRowsAndTilesGivesTheBitsOfOne(string name)
    {
        const int most = 128;
        int[] counts = IsSlow ? [12, 13, 17, 32, 33, 65, 97, 128] : [.. Enumerable.Range(1, 18), 23, 24, 25, 31, 32, 33, 34, 40, 47, 48, 49, 50, 63, 64, 65, 81, 96, 97, 112, 113, 128]; // around what kernels do at once
        foreach (int tiles in IsSlow ? (int[])[2] : [1, 2, 3, 7])
        {
            var random = new Random(5);
            using var problem = new Problem(Kernel(name), WeightFormat.Block128, tiles, most);
            for (int i = 0; i < tiles * Columns * Depth; i++) *problem.Code(0, 0, i) = (byte)(random.Next(0x7F) | (random.Next(2) << 7));
            for (int i = 0; i < tiles * Columns; i++) ((float*)problem.Scales(i / Columns))[i % Columns] = random.NextSingle();
            for (int i = 0; i < most * Depth; i++) problem.SetOperand(i / Depth, i % Depth, random.Next(-448, 449));
            for (int i = 0; i < most; i++) problem.RowScales[i] = random.NextSingle();
            for (int r = 0; r < most; r++) problem.Multiply(first: r, count: 1, scaled: true);
            float[] alone = problem.Sums.ToArray();
            Assert.All(alone, sum => Assert.NotEqual(0, sum));
            foreach (int count in counts)
            {
                problem.Sums.Clear();
                problem.Multiply(count: count, scaled: true);
                for (int tile = 0; tile < tiles; tile++)
                {
                    int first = tile * most * Columns, written = count * Columns;
                    Span<float> sums = problem.Sums.Slice(first, most * Columns);
                    Assert.True(sums[..written].SequenceEqual(alone.AsSpan(first, written)), $"{count} rows, tile {tile} of {tiles}");
                    Assert.True(sums[written..].IndexOfAnyExcept(0f) < 0, $"{count} rows, tile {tile} of {tiles}: wrote beyond");
                }
            }
        }
    }

    [Theory]
    [MemberData(nameof(Kernels))]
    public void AgreesWithAPlainSum(string name)
    {
        const int rows = 13, tiles = 3;
        foreach (WeightFormat format in (WeightFormat[])[WeightFormat.Block128, WeightFormat.MxFp8])
        {
            foreach (int depth in (int[])[128, 96, 64, 33, 5, 1])
            {
                var random = new Random(depth);
                using var problem = new Problem(Kernel(name), format, tiles, rows);
                var x = new float[rows * Depth];
                for (int i = 0; i < rows * Depth; i++) problem.SetOperand(i / Depth, i % Depth, x[i] = i % Depth < depth ? random.Next(-448, 449) / 8 : 0);
                for (int c = 0; c < tiles * Columns; c++)
                    for (int k = 0; k < depth; k++) *problem.Code(0, c, k) = (byte)(random.Next(0x7F) | (random.Next(2) << 7));
                for (int t = 0; t < tiles; t++)
                {
                    for (int i = 0; i < Columns; i++) ((float*)problem.Scales(t))[i] = random.NextSingle();
                    if (format == WeightFormat.MxFp8) for (int i = 0; i < 4 * Columns; i++) problem.Scales(t)[i] = (byte)random.Next(120, 134);
                }
                for (int i = 0; i < problem.Sums.Length; i++) problem.Sums[i] = i % 5;
                problem.Multiply(depth: depth);
                for (int i = 0; i < problem.Sums.Length; i++)
                {
                    int tile = i / (rows * Columns), row = i / Columns % rows, n = i % Columns, column = tile * Columns + n;
                    double expected = i % 5, magnitude = 5;
                    for (int k = 0; k < depth; k++)
                    {
                        double scale = format == WeightFormat.MxFp8
                            ? ScaleE8M0.FromBits(problem.Scales(tile)[k / 32 * Columns + n]).ToSingle() : ((float*)problem.Scales(tile))[n];
                        double term = (double)Float8E4M3.FromBits(*problem.Code(0, column, k)).ToSingle() * x[row * Depth + k] * scale;
                        expected += term;
                        magnitude += Math.Abs(term);
                    }
                    Assert.True(Math.Abs(problem.Sums[i] - expected) <= 2e-6 * magnitude,
                        $"{format} depth {depth}, row {row}, column {column}: {problem.Sums[i]} instead of {expected}");
                }
            }
        }
    }

    /// <summary>Also the orders of weights that other processors get.</summary>
    /// <param name="rarity">One code in so many may be zero or subnormal, which a kernel may decode in another way.</param>
    [Theory]
    [InlineData(WeightFormat.Block128, true, 16)]
    [InlineData(WeightFormat.Block128, false, 16)]
    [InlineData(WeightFormat.MxFp8, true, 16)]
    [InlineData(WeightFormat.MxFp8, false, 16)]
    [InlineData(WeightFormat.Block128, true, 2000)]
    [InlineData(WeightFormat.MxFp8, true, 2000)]
    public void GeneratedFp32KernelsGiveTheBitsOfManagedOnes(WeightFormat format, bool areCodes, int rarity)
    {
        const int rows = 29, tiles = 2;
        float[]? expected = null;
        foreach (IGemmKernel kernel in GemmKernels.All.Concat([GemmKernels.Avx512(TileOrder.Plain), GemmKernels.Avx2(TileOrder.Plain), GemmKernels.Avx2(TileOrder.Woven)]).Where(kernel => kernel is { IsSupported: true, Operand: Operand.F32 }))
        {
            var random = new Random(11);
            using var problem = new Problem(kernel.ForActivations(areCodes ? ActivationFormat.Fp8 : ActivationFormat.Bf16), format, tiles, rows);
            for (int i = 0; i < tiles * Columns * Depth; i++) *problem.Code(0, 0, i) = (byte)((random.Next(rarity) == 0 ? random.Next(8) : random.Next(8, 0x7F)) | (random.Next(2) << 7));
            for (int i = 0; i < tiles * TileBlock.ScaleBytes; i++) problem.Scales(i / TileBlock.ScaleBytes)[i % TileBlock.ScaleBytes] = (byte)random.Next(100, i / Columns % 3 == 0 ? 140 : 134); // some groups with and some without scales of 2^8 or more
            for (int i = 0; i < tiles * Columns && format == WeightFormat.Block128; i++) ((float*)problem.Scales(i / Columns))[i % Columns] = random.NextSingle();
            for (int i = 0; i < rows * Depth; i++) problem.SetOperand(i / Depth, i % Depth, areCodes ? Float8E4M3.FromBits((byte)(random.Next(0x7F) | (random.Next(2) << 7))).ToSingle() : Any(random, i / Depth));
            for (int i = 0; i < rows; i++) problem.RowScales[i] = random.NextSingle();
            problem.Multiply(scaled: areCodes);
            expected ??= problem.Sums.ToArray();
            Assert.True(problem.Sums.SequenceEqual(expected), $"{kernel.Name} {kernel.Order} {format}, one rare code in {rarity}, {(areCodes ? "codes" : "any operands")}");
        }
    }

    /// <summary>Of a row: from where products barely stay normal numbers to large ones.</summary>
    private static float Any(Random random, int row) => MathF.ScaleB(random.NextSingle() - 0.5f, 4 * row - 100);

    [Theory]
    [MemberData(nameof(Kernels))]
    public void AnyFlippedBitOfAPackedCodeIsSeen(string name)
    {
        const int rows = 3;
        var random = new Random(3);
        using var problem = new Problem(Kernel(name), WeightFormat.Block128, tiles: 1, rows);
        for (int i = 0; i < Columns * Depth; i++) *problem.Code(0, 0, i) = (byte)(0x20 + random.Next(0x18) | (random.Next(2) << 7)); // away from NaN
        for (int i = 0; i < Columns; i++) ((float*)problem.Scales(0))[i] = 1;
        for (int i = 0; i < rows * Depth; i++) problem.SetOperand(i / Depth, i % Depth, 1 + random.Next(8));
        problem.Multiply();
        float[] intact = problem.Sums.ToArray();
        for (int code = 0; code < Columns * Depth; code += IsSlow ? 93 : 3)
        {
            problem.Flip = (TileBlock.ScaleBytes + code, code / 3 % 8);
            problem.Sums.Clear();
            problem.Multiply();
            int changed = 0;
            for (int i = 0; i < intact.Length; i++) changed += problem.Sums[i] != intact[i] ? 1 : 0;
            Assert.True(changed == rows, $"bit {code / 3 % 8} of packed byte {code} changed {changed} sums instead of one of each of {rows} rows");
        }
    }
}
