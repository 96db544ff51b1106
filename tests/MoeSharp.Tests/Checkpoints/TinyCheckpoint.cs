using System.Runtime.InteropServices;

namespace MoeSharp.Tests;

/// <summary>
/// A checkpoint of one decoder layer in a real layout, written with the library's own writer: random expert matrices that are also at hand as
/// matrices, so that what is read can be compared with what was meant. Deterministic for a seed.
/// </summary>
internal sealed class TinyCheckpoint : IDisposable
{
    private readonly Random _random;
    private readonly List<(TensorToWrite Tensor, byte[] Data)> _tensors = [];

    public TinyCheckpoint(int experts, int hidden, int intermediate, WeightFormat format, int seed = 1)
    {
        _random = new Random(seed);
        Hidden = hidden;
        Intermediate = intermediate;
        Format = format;
        Gate = [.. Enumerable.Range(0, experts).Select(_ => Matrix(intermediate, hidden))];
        Up = [.. Enumerable.Range(0, experts).Select(_ => Matrix(intermediate, hidden))];
        Down = [.. Enumerable.Range(0, experts).Select(_ => Matrix(hidden, intermediate))];
        Folder = Directory.CreateTempSubdirectory("moesharp-").FullName;
    }

    public string Folder { get; }
    public int Hidden { get; }
    public int Intermediate { get; }
    public WeightFormat Format { get; }
    public BlockScaledMatrix[] Gate { get; }
    public BlockScaledMatrix[] Up { get; }
    public BlockScaledMatrix[] Down { get; }
    public ExpertBiases? Biases { get; private set; }
    public string Config { get; set; } = "{}";
    public IEnumerable<string> Names => _tensors.Select(t => t.Tensor.Name);

    /// <summary>Random values; scales that BF16 and E8M0 can both hold.</summary>
    private BlockScaledMatrix Matrix(int rows, int columns)
    {
        if (Format == WeightFormat.Bf16)
            return BlockScaledMatrix.CreateBf16(rows, columns,
                [.. Enumerable.Range(0, rows * columns).Select(_ => (BFloat16)(float)((_random.NextDouble() - 0.5) / 8))]);
        var values = new Float8E4M3[rows * columns];
        foreach (ref Float8E4M3 value in values.AsSpan()) value = (Float8E4M3)(float)((_random.NextDouble() - 0.5) * 600);
        var scales = new float[Formats.Blocks(rows, Format.BlockRows()) * Formats.Blocks(columns, Format.BlockColumns())];
        foreach (ref float scale in scales.AsSpan()) scale = MathF.ScaleB(1, _random.Next(-13, -10));
        return BlockScaledMatrix.Create(Format, rows, columns, values, scales);
    }

    public void Add(string name, string type, long[] shape, byte[] data) => _tensors.Add((TensorToWrite.Of(name, type, shape, data), data));

    /// <summary>A BF16 tensor, widened.</summary>
    public float[] Bf16(string name) =>
        [.. MemoryMarshal.Cast<byte, BFloat16>(_tensors.Single(t => t.Tensor.Name == name).Data).ToArray().Select(v => v.ToSingle())];

    /// <summary>A random BF16 tensor.</summary>
    public void AddBf16(string name, params long[] shape)
    {
        var values = new BFloat16[shape.Aggregate(1L, (a, b) => a * b)];
        foreach (ref BFloat16 value in values.AsSpan()) value = (BFloat16)(float)((_random.NextDouble() - 0.5) / 4);
        Add(name, "BF16", shape, MemoryMarshal.AsBytes(values.AsSpan()).ToArray());
    }

    /// <summary>One tensor per matrix: {prefix}{expert}.{projection}.weight.</summary>
    public void AddPerExpert(string prefix, (string Gate, string Up, string Down) names, string scaleSuffix, string scaleType)
    {
        for (int e = 0; e < Gate.Length; e++)
        {
            AddMatrix($"{prefix}{e}.{names.Gate}.weight", scaleSuffix, scaleType, Gate[e]);
            AddMatrix($"{prefix}{e}.{names.Up}.weight", scaleSuffix, scaleType, Up[e]);
            AddMatrix($"{prefix}{e}.{names.Down}.weight", scaleSuffix, scaleType, Down[e]);
        }
    }

    /// <summary>A shared expert: {prefix}{projection}.weight, with the matrices of expert 0.</summary>
    public void AddShared(string prefix, (string Gate, string Up, string Down) names, string scaleSuffix, string scaleType)
    {
        AddMatrix($"{prefix}{names.Gate}.weight", scaleSuffix, scaleType, Gate[0]);
        AddMatrix($"{prefix}{names.Up}.weight", scaleSuffix, scaleType, Up[0]);
        AddMatrix($"{prefix}{names.Down}.weight", scaleSuffix, scaleType, Down[0]);
    }

    /// <summary>A tensor and its scales: 2-D for one matrix, 3-D for several.</summary>
    public void AddMatrix(string name, string scaleSuffix, string scaleType, params BlockScaledMatrix[] stacked)
    {
        BlockScaledMatrix first = stacked[0];
        long[] leading = stacked.Length == 1 ? [] : [stacked.Length];
        Add(name, ValueType, [.. leading, first.Rows, first.Columns], [.. stacked.SelectMany(Values)]);
        if (Format != WeightFormat.Bf16)
            Add(name + scaleSuffix, scaleType, [.. leading, first.ScaleRows, first.ScaleColumns],
                [.. stacked.SelectMany(m => ScaleRows(m).SelectMany(r => Encode(r, scaleType)))]);
    }

    /// <summary>Three stacked 3-D tensors.</summary>
    public void AddStacked(string prefix, (string Gate, string Up, string Down) names, string scaleSuffix, string scaleType)
    {
        AddMatrix($"{prefix}{names.Gate}.weight", scaleSuffix, scaleType, Gate);
        AddMatrix($"{prefix}{names.Up}.weight", scaleSuffix, scaleType, Up);
        AddMatrix($"{prefix}{names.Down}.weight", scaleSuffix, scaleType, Down);
    }

    /// <summary>gate_up [E, 2I, H] with scale rows per half.</summary>
    public void AddFused(string prefix, string scaleSuffix, string scaleType)
    {
        long e = Gate.Length, i = Intermediate, h = Hidden;
        Add($"{prefix}gate_up_proj", ValueType, [e, 2 * i, h], [.. Gate.Zip(Up).SelectMany(p => Values(p.First).Concat(Values(p.Second)))]);
        Add($"{prefix}down_proj", ValueType, [e, h, i], [.. Down.SelectMany(Values)]);
        if (Format == WeightFormat.Bf16) return;
        IEnumerable<byte> GateUpScales() =>
            Gate.Zip(Up).SelectMany(p => ScaleRows(p.First).Concat(ScaleRows(p.Second)).SelectMany(r => Encode(r, scaleType)));
        Add($"{prefix}gate_up_proj{scaleSuffix}", scaleType, [e, 2 * Gate[0].ScaleRows, Gate[0].ScaleColumns], [.. GateUpScales()]);
        Add($"{prefix}down_proj{scaleSuffix}", scaleType, [e, Down[0].ScaleRows, Down[0].ScaleColumns],
            [.. Down.SelectMany(m => ScaleRows(m).SelectMany(r => Encode(r, scaleType)))]);
    }

    /// <summary>gpt-oss: gate_up [E, H, 2I] with gate and up alternating, down [E, I, H], biases.</summary>
    public void AddInterleavedTransposed(string prefix)
    {
        int e = Gate.Length, i = Intermediate, h = Hidden;
        var gateUp = new BFloat16[e * h * 2 * i];
        var down = new BFloat16[e * i * h];
        for (int x = 0; x < e; x++)
        {
            for (int r = 0; r < i; r++)
            {
                for (int c = 0; c < h; c++)
                {
                    gateUp[(x * h + c) * 2 * i + 2 * r] = At(Gate[x], r, c);
                    gateUp[(x * h + c) * 2 * i + 2 * r + 1] = At(Up[x], r, c);
                    down[(x * i + r) * h + c] = At(Down[x], c, r);
                }
            }
        }
        Add($"{prefix}gate_up_proj", "BF16", [e, h, 2 * i], MemoryMarshal.AsBytes(gateUp.AsSpan()).ToArray());
        Add($"{prefix}down_proj", "BF16", [e, i, h], MemoryMarshal.AsBytes(down.AsSpan()).ToArray());
        BFloat16[] Bias(int n) => [.. Enumerable.Range(0, n).Select(_ => (BFloat16)(float)(_random.NextDouble() - 0.5))];
        BFloat16[] gateUpBias = Bias(e * 2 * i), downBias = Bias(e * h);
        Add($"{prefix}gate_up_proj_bias", "BF16", [e, 2 * i], MemoryMarshal.AsBytes(gateUpBias.AsSpan()).ToArray());
        Add($"{prefix}down_proj_bias", "BF16", [e, h], MemoryMarshal.AsBytes(downBias.AsSpan()).ToArray());
        Biases = new([.. gateUpBias.Where((_, n) => n % 2 == 0).Select(b => b.ToSingle())],
            [.. gateUpBias.Where((_, n) => n % 2 == 1).Select(b => b.ToSingle())],
            [.. downBias.Select(b => b.ToSingle())]);
    }

    /// <summary>Writes config.json and model.safetensors, without the tensors named.</summary>
    public string Write(params string[] without)
    {
        File.WriteAllText(Path.Combine(Folder, "config.json"), Config);
        SafetensorsWriter.Write(Path.Combine(Folder, "model.safetensors"), [.. _tensors.Select(t => t.Tensor).Where(t => !without.Contains(t.Name))]);
        return Folder;
    }

    private string ValueType => Format == WeightFormat.Bf16 ? "BF16" : "F8_E4M3";

    private static BFloat16 At(BlockScaledMatrix m, int r, int c) => MemoryMarshal.Cast<byte, BFloat16>(m.Row(r))[c];

    private static IEnumerable<byte> Values(BlockScaledMatrix m) => Enumerable.Range(0, m.Rows).SelectMany(r => m.Row(r).ToArray());

    private static IEnumerable<float[]> ScaleRows(BlockScaledMatrix m) =>
        Enumerable.Range(0, m.ScaleRows).Select(r => Enumerable.Range(0, m.ScaleColumns).Select(c => m.ScaleAt(r, c)).ToArray());

    private static IEnumerable<byte> Encode(float[] scales, string type) => scales.SelectMany(s => type switch
    {
        "F32" => BitConverter.GetBytes(s),
        "BF16" => BitConverter.GetBytes(((BFloat16)s).Bits),
        "F16" => BitConverter.GetBytes((Half)s),
        _ => [ScaleE8M0.RoundUp(s).Bits],
    });

    public void Dispose()
    {
        Directory.Delete(Folder, recursive: true);
        foreach (BlockScaledMatrix m in Gate.Concat(Up).Concat(Down)) m.Storage.ValuesOwner.Dispose();
    }
}
