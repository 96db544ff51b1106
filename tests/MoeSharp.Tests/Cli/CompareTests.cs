using System.Text.Json;

namespace MoeSharp.Tests;

public sealed class CompareTests : IDisposable
{
    private const string Sample = "samples/tiny-qwen3-moe-fp8";
    private readonly TemporaryFolder _folder = new();

    private static string Model => Repository.PathOf(Sample);

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void ALayerEqualsItself()
    {
        JsonElement report = ToolRun.Of("compare", Model, "--layer", "0", "--a", "stored/reference", "--b", "as-is/reference", "--json").Json();
        Assert.Equal(0, report.GetProperty("whole_layer").GetProperty("relative_error").GetDouble());
        Assert.All(report.GetProperty("experts").EnumerateArray(), expert => Assert.Equal(0, expert.GetProperty("max_error").GetDouble()));
        Assert.Equal(16, report.GetProperty("experts").GetArrayLength());
        string words = ToolRun.Of("compare", Model, "--layer", "0", "--a", "stored/reference").Output;
        Assert.Contains("Every expert gives the same bits on both sides.", words);
        Assert.DoesNotContain("worst rows", words); // there are none
    }

    /// <summary>Only what differs is worth a row.</summary>
    [Fact]
    public void ExpertsThatAreEqualAreCountedAndNotListed()
    {
        string changed = _folder["changed"];
        Directory.CreateDirectory(changed);
        foreach (string file in Directory.GetFiles(Model)) File.Copy(file, Path.Combine(changed, Path.GetFileName(file)));
        string shard = Path.Combine(changed, "model-00001-of-00002.safetensors");
        using (SafetensorsFile file = SafetensorsFile.Open(shard))
        {
            TensorToWrite[] tensors = [.. file.Tensors.Values.Select(t => TensorToWrite.Of(t.Name, t.Type, t.Shape, file.Data(t.Name).ToArray()))];
            int at = Array.FindIndex(tensors, t => t.Name == "model.layers.0.mlp.experts.3.down_proj.weight");
            byte[] negated = [.. file.Data(tensors[at].Name).ToArray().Select(code => (byte)(code ^ 0x80))];
            tensors[at] = TensorToWrite.Of(tensors[at].Name, tensors[at].Type, tensors[at].Shape, negated);
            SafetensorsWriter.Write(_folder["shard"], tensors);
        }
        File.Move(_folder["shard"], shard, overwrite: true);
        string words = ToolRun.Of("compare", changed, Model, "--layer", "0").Output;
        Assert.Matches(@"expert 3 +\d", words);
        Assert.DoesNotContain("expert 4 ", words);
        Assert.Contains("15 more experts are closer", words);
    }

    [Fact]
    public void FormatsAreTypedAsReportsSpellThem()
    {
        foreach (WeightFormat format in Enum.GetValues<WeightFormat>()) Assert.Equal(format, Cli.Side.Parse("--a", Cli.Names.Of(format)).Format);
    }

    [Fact]
    public void FiguresOfAnExpertAreThoseOfItsRows()
    {
        JsonElement report = ToolRun.Of("compare", Model, "--layer", "1", "--a", "mxfp8/cpu", "--b", "stored/cpu/bf16", "--tokens", "9", "--worst", "1000", "--json").Json();
        Assert.Equal(("mxfp8", "block128", "fp8"), (Text("a", "format"), Text("a", "stored"), Text("a", "activations")));
        Assert.Equal(("block128", "bf16"), (Text("b", "format"), Text("b", "activations")));
        JsonElement[] experts = [.. report.GetProperty("experts").EnumerateArray()], rows = [.. report.GetProperty("worst_rows").EnumerateArray()];
        Assert.Equal(9 * 4, experts.Where(e => e.GetProperty("routed").GetBoolean()).Sum(e => e.GetProperty("rows").GetInt32()));
        double[] relative = [.. rows.Select(r => r.GetProperty("relative_error").GetDouble())];
        Assert.Equal(relative.OrderDescending(), relative);
        foreach (JsonElement expert in experts)
        {
            JsonElement[] own = [.. rows.Where(r => r.GetProperty("expert").GetInt32() == expert.GetProperty("expert").GetInt32())];
            Assert.Equal(expert.GetProperty("rows").GetInt32(), own.Length);
            double most = own.Max(r => Math.Abs(r.GetProperty("a").GetDouble() - r.GetProperty("b").GetDouble()));
            Assert.Equal(expert.GetProperty("max_error").GetDouble(), most, 1e-6);
            double error = expert.GetProperty("relative_error").GetDouble();
            Assert.InRange(error, 0.005, 0.2); // a second rounding of weights, and FP8 activations
            Assert.Equal(-20 * Math.Log10(error), expert.GetProperty("snr_db").GetDouble(), 1e-9);
            Assert.InRange(error, own.Min(r => r.GetProperty("relative_error").GetDouble()), own.Max(r => r.GetProperty("relative_error").GetDouble()));
        }

        string Text(string side, string member) => report.GetProperty(side).GetProperty(member).GetString()!;
    }

    [Fact]
    public void KernelsOfTheCpuAreChosenForBothSidesOrForOne()
    {
        string[] arguments = ["compare", Model, "--layer", "0", "--tokens", "4"];
        string managed = GemmKernels.All.Last(kernel => kernel.IsSupported).Name;
        Assert.Equal(0, ToolRun.Of([.. arguments, "--kernel", managed, "--b", "stored/cpu"]).ExitCode);
        Assert.Equal(0, ToolRun.Of([.. arguments, "--a", $"stored/cpu:{managed}", "--b", "stored/cpu/fp8", "--tolerance", "0.01"]).ExitCode);
        foreach (string[] unknown in (string[][])[["--kernel", "abacus"], ["--a", "stored/cpu:abacus"]])
            Assert.Contains("abacus", ToolRun.Of([.. arguments, .. unknown]).Sentence());
        Assert.Equal("moesharp: --kernel is 'abacus', a choice of the cpu backend, but no side runs on it; leave it out, or name cpu in --a or --b.",
            ToolRun.Of([.. arguments, "--kernel", "abacus", "--a", "stored/reference"]).Sentence());
    }

    [Fact]
    public void ASideOnAGpuIsComparedOrRefusedInASentence()
    {
        ToolRun run = ToolRun.Of("compare", Model, "--layer", "0", "--tokens", "3", "--a", "stored/cuda", "--b", "stored/cuda:0", "--tolerance", "0");
        using var gpu = new CudaBackend();
        if (gpu.SupportsDevice() is { Reason: { } reason }) Assert.Equal($"moesharp: {reason}", run.Sentence());
        else Assert.Equal((0, true), (run.ExitCode, run.Output.Contains("cuda", StringComparison.Ordinal)));
        Assert.Contains("no backend 'cuda:x'", ToolRun.Of("compare", Model, "--layer", "0", "--a", "stored/cuda:x").Sentence());
    }

    [Fact]
    public void OneWrongWeightIsFoundInItsTwin()
    {
        string twin = Twin();
        Corrupt(twin, "model.layers.0.mlp.experts.11.up_proj.weight", value => (byte)(value ^ 0x70));
        string[] arguments = ["compare", Model, twin, "--layer", "0", "--tokens", "32", "--a", "stored/cpu", "--b", "stored/cpu", "--worst", "1"];
        JsonElement report = ToolRun.Of([.. arguments, "--tolerance", "1e-6", "--json"]).Json(exitCode: 1);
        foreach (JsonElement expert in report.GetProperty("experts").EnumerateArray())
            Assert.Equal(expert.GetProperty("expert").GetInt32() == 11, expert.GetProperty("relative_error").GetDouble() > 0);
        Assert.Equal(11, report.GetProperty("worst_rows")[0].GetProperty("expert").GetInt32());
        ToolRun table = ToolRun.Of(arguments);
        Assert.Equal(0, table.ExitCode);
        Assert.Matches(@"expert 11 +\d+ +\S*e-\d", table.Output);
    }

    [Fact]
    public void NaNIsNamedOnTheSideThatHasIt()
    {
        string twin = Twin();
        Corrupt(twin, "model.layers.0.mlp.experts.4.down_proj.weight", _ => 0x7F);
        JsonElement report = ToolRun.Of("compare", Model, twin, "--layer", "0", "--tokens", "32", "--check-finite", "--json").Json(exitCode: 1);
        Assert.Equal(JsonValueKind.Null, report.GetProperty("non_finite_a").ValueKind);
        JsonElement found = report.GetProperty("non_finite_b");
        Assert.Equal(("Down", "routed experts", 4, 0), (found.GetProperty("step").GetString(), found.GetProperty("part").GetString(),
            found.GetProperty("expert").GetInt32(), found.GetProperty("layer").GetInt32()));
        Assert.Contains("experts.4.down_proj.weight holds NaN", found.GetProperty("cause").GetString());

        ToolRun run = ToolRun.Of("run", twin, "--layer", "0", "--tokens", "32", "--check-finite");
        Assert.Equal(1, run.ExitCode);
        foreach (string word in (string[])["NaN in down after Down", "layer 0", "expert 4", "row 0", "block", "down_proj"])
            Assert.Contains(word, string.Join(' ', run.Output.Split((char[])[' ', '\n', '\r'], StringSplitOptions.RemoveEmptyEntries)));
        Assert.Contains("0x7F", ToolRun.Of("run", twin, "--layer", "0").Error); // and without the option it is refused as before
    }

    [Fact]
    public void FiniteLayersPassTheCheck()
    {
        JsonElement report = ToolRun.Of("run", Model, "--layer", "1", "--tokens", "4", "--check-finite", "--json").Json();
        Assert.Equal(JsonValueKind.Null, report.GetProperty("non_finite").ValueKind);
        Assert.False(ToolRun.Of("run", Model, "--layer", "1", "--tokens", "4", "--json").Json().TryGetProperty("non_finite", out _));
    }

    [Fact]
    public void InfiniteInputIsTheRoutersFirst()
    {
        var values = new float[3 * 256];
        values[256 + 130] = float.PositiveInfinity;
        string input = new TensorFile().Add("hidden_states", "F32", [3, 256], values).Save(_folder["x.safetensors"]);
        JsonElement found = ToolRun.Of("run", Model, "--layer", "0", "--input", input, "--check-finite", "--json").Json(exitCode: 1).GetProperty("non_finite");
        Assert.Equal(("Route", "hidden_states", 1, 1, 130), (found.GetProperty("step").GetString(), found.GetProperty("buffer").GetString(),
            found.GetProperty("token").GetInt32(), found.GetProperty("block").GetInt32(), found.GetProperty("column").GetInt32()));
        Assert.Equal(JsonValueKind.Null, found.GetProperty("expert").ValueKind);
    }

    [Theory]
    [InlineData("mxfp4", "--a is 'mxfp4' but there is no format 'mxfp4'; use stored, block128, block128-pow2, mxfp8, bf16.")]
    [InlineData("mxfp8/gpu9", "--a is 'mxfp8/gpu9' but there is no backend 'gpu9'; use auto, cpu, reference, cuda or cuda:1.")]
    [InlineData("mxfp8/cpu/int8", "no activations 'int8'; use fp8 or bf16")]
    [InlineData("mxfp8/cpu/fp8/x", "it must be FORMAT[/BACKEND[/ACTIVATIONS]]")]
    [InlineData("bf16/cpu/fp8", "FP8 activations need FP8 weights")]
    public void BadSidesAreOneSentence(string side, string expected) =>
        Assert.Contains(expected, ToolRun.Of("compare", Model, "--layer", "0", "--a", side).Sentence());

    [Fact]
    public void LayersOfOtherSizesAreRefused()
    {
        WideCheckpoint.WriteQwen3(_folder["wide"], "BF16", layers: 1, experts: 2, hidden: 64, intermediate: 64);
        Assert.Contains("differ in size", ToolRun.Of("compare", Model, _folder["wide"], "--layer", "0").Sentence());
    }

    private string Twin()
    {
        string twin = _folder["twin"];
        Directory.CreateDirectory(twin);
        foreach (string file in Directory.GetFiles(Model)) File.Copy(file, Path.Combine(twin, Path.GetFileName(file)));
        return twin;
    }

    /// <summary>Changes one code in the middle of a tensor.</summary>
    private static void Corrupt(string folder, string tensor, Func<byte, byte> change)
    {
        foreach (string path in Directory.GetFiles(folder, "model-*.safetensors"))
        {
            long at;
            using (SafetensorsFile file = SafetensorsFile.Open(path))
            {
                if (!file.Tensors.TryGetValue(tensor, out TensorEntry? entry)) continue;
                byte[] bytes = File.ReadAllBytes(path);
                at = 8 + BitConverter.ToInt64(bytes) + entry.Offset + entry.Bytes / 2;
            }
            byte[] all = File.ReadAllBytes(path);
            all[at] = change(all[at]);
            File.WriteAllBytes(path, all);
            return;
        }
        Assert.Fail($"{folder} has no tensor {tensor}.");
    }
}
