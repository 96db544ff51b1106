namespace MoeSharp.Cli;

/// <summary>Random values on the GPU: the distributions of <see cref="SyntheticWeights"/>, drawn there. What matters of a layout is where MXFP8 has its scales, and whether
/// codes are woven.</summary>
internal sealed class RandomTables(BenchKernels kernels) : IDisposable
{
    private const int HiddenSeed = 1, GateUpSeed = 2, DownSeed = 3, ScaleSeeds = 4;
    private const int MxCodes = 2048, MxPiece = MxCodes + 64; // kernels/include/wide_formats.cuh: codes of 32 rows x 64 values, then their scales
    private readonly CudaStream _stream = new(kernels.Context);

    /// <summary>A table on the device.</summary>
    public DeviceBuffer Upload(ReadOnlySpan<uint> words)
    {
        var table = new DeviceBuffer(kernels.Context, sizeof(uint) * BenchKernels.TableLength, "a table of random values");
        table.Upload(words, _stream);
        _stream.Synchronize();
        return table;
    }

    /// <summary>E4M3 codes of a normal distribution.</summary>
    public DeviceBuffer Codes() => Upload(SyntheticWeights.Words(WeightFormat.Block128, 1));

    /// <summary>Standard normal BF16 values.</summary>
    public void FillHidden(DeviceBuffer hidden) => Fill(new(hidden.Address, hidden.Bytes), SyntheticWeights.Words(WeightFormat.Bf16, 1), 2, HiddenSeed);

    /// <summary>Values and scales.</summary>
    /// <param name="wide">For the wide kernels, in whose words four codes are woven.</param>
    public void Fill(DeviceWeights weights, BenchShape shape, WeightFormat format, bool wide)
    {
        Fill(weights.GateUp, weights.GateUpScales, shape.Hidden, format, wide, GateUpSeed);
        Fill(weights.Down, weights.DownScales, shape.Intermediate, format, wide, DownSeed);
    }

    private void Fill(DeviceRange values, DeviceRange scales, int columns, WeightFormat format, bool wide, int seed)
    {
        uint[] words = SyntheticWeights.Words(format, columns);
        bool woven = wide && format != WeightFormat.Bf16;
        if (woven) words = Woven(words);
        if (format == WeightFormat.MxFp8)
        {
            using DeviceBuffer table = Upload(words), scaleTable = Upload(Scales(columns, format));
            kernels.Randomize(values, table, scaleTable, woven ? sizeof(uint) : 1, MxPiece, MxCodes, seed, _stream);
            _stream.Synchronize();
            return;
        }
        Fill(values, words, woven ? sizeof(uint) : format.ValueBytes(), seed);
        if (format != WeightFormat.Bf16) Fill(scales, Scales(columns, format), sizeof(float), seed + ScaleSeeds);
    }

    /// <summary>Words of four codes each, every code as often as before at each of the four places: <c>weave</c> in kernels/include/wide_decode.cuh.</summary>
    private static uint[] Woven(uint[] codes)
    {
        var words = new uint[codes.Length];
        for (int i = 0; i < words.Length; i++)
        {
            uint a = codes[i], b = codes[(5 * i + 1) % codes.Length], c = codes[(9 * i + 2) % codes.Length], d = codes[(13 * i + 3) % codes.Length];
            uint first = (a & 0x80) << 8 | (a & 0x7F) << 4 | (b & 0x80) << 24 | (b & 0x7F) << 20;
            words[i] = first | c >> 7 << 19 | d >> 7 << 3 | (c >> 3 & 15) << 11 | (d >> 3 & 15) << 27 | (c & 7) | (d & 7) << 16;
        }
        return words;
    }

    private static uint[] Scales(int columns, WeightFormat format)
    {
        float scale = SyntheticWeights.MeanScale(columns);
        var words = new uint[BenchKernels.TableLength];
        for (int i = 0; i < words.Length; i++)
        {
            float s = scale * (0.5f + (i + 0.5f) / words.Length);
            words[i] = format == WeightFormat.MxFp8 ? ScaleE8M0.RoundUp(s).Bits : BitConverter.SingleToUInt32Bits(s);
        }
        return words;
    }

    private void Fill(DeviceRange to, uint[] words, int valueBytes, int seed)
    {
        using DeviceBuffer table = Upload(words);
        kernels.Randomize(to, table, valueBytes, seed, _stream);
        _stream.Synchronize();
    }

    public void Dispose() => _stream.Dispose();
}
