namespace MoeSharp.Cli;

/// <summary>Random values on the GPU: the distributions of <see cref="SyntheticWeights"/>, drawn there. Layouts do not matter, so neither do formats.</summary>
internal sealed class RandomTables(BenchKernels kernels) : IDisposable
{
    private const int HiddenSeed = 1, GateUpSeed = 2, DownSeed = 3, ScaleSeeds = 4;
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
    public void Fill(DeviceWeights weights, BenchShape shape, WeightFormat format)
    {
        Fill(weights.GateUp, SyntheticWeights.Words(format, shape.Hidden), format.ValueBytes(), GateUpSeed);
        Fill(weights.Down, SyntheticWeights.Words(format, shape.Intermediate), format.ValueBytes(), DownSeed);
        if (format == WeightFormat.Bf16) return;
        FillScales(weights.GateUpScales, shape.Hidden, format, ScaleSeeds);
        FillScales(weights.DownScales, shape.Intermediate, format, ScaleSeeds + 1);
    }

    private void FillScales(DeviceRange to, int columns, WeightFormat format, int seed)
    {
        float scale = SyntheticWeights.MeanScale(columns);
        var words = new uint[BenchKernels.TableLength];
        for (int i = 0; i < words.Length; i++)
        {
            float s = scale * (0.5f + (i + 0.5f) / words.Length);
            words[i] = format == WeightFormat.MxFp8 ? ScaleE8M0.RoundUp(s).Bits : BitConverter.SingleToUInt32Bits(s);
        }
        Fill(to, words, format == WeightFormat.MxFp8 ? 1 : sizeof(float), seed);
    }

    private void Fill(DeviceRange to, uint[] words, int valueBytes, int seed)
    {
        using DeviceBuffer table = Upload(words);
        kernels.Randomize(to, table, valueBytes, seed, _stream);
        _stream.Synchronize();
    }

    public void Dispose() => _stream.Dispose();
}
