using System.Diagnostics;
using System.Net;
using System.Net.Http.Headers;
using System.Runtime.InteropServices;
using System.Text.RegularExpressions;

namespace MoeSharp.Tests;

/// <summary>The samples do what samples/README.md says of them.</summary>
public partial class SampleTests
{
    private const string Model = "samples/tiny-qwen3-moe-fp8";

    /// <summary>The router written there routes as the library's does: the sums are those of layer 1 under its own router.</summary>
    [Fact]
    public void OwnRouterAllocatesNothing()
    {
        (int exitCode, string output) = Repository.Run("OwnRouter", []);
        Assert.True(exitCode == 0, output);
        using var model = Checkpoint.Open(Repository.PathOf(Model));
        using var layer = MoeLayer.Load(model, 1);
        var hidden = new BFloat16[32 * layer.HiddenSize];
        for (int i = 0; i < hidden.Length; i++) hidden[i] = (BFloat16)MathF.Sin(i);
        var sums = new float[hidden.Length];
        layer.Forward(hidden, sums);
        Assert.Equal($"2 layers, 32 tokens, 100 times: sums[0] is {sums[0]:F3}, 0 bytes allocated", output.Trim());
    }

    /// <summary>What it does with a GPU is tested where there is one, or the emulator.</summary>
    [Fact]
    public void OwnStreamSaysWhyItCannotRun()
    {
        using var gpu = new CudaBackend();
        Assert.SkipWhen(gpu.SupportsDevice().IsSupported, "There is a GPU.");
        (int exitCode, string output) = Repository.Run("OwnStream", []);
        Assert.Equal((0, gpu.SupportsDevice().Reason), (exitCode, output.Trim()));
    }

    [Fact]
    public async Task EndpointServesALayerAndItsMetrics()
    {
        CancellationToken stop = TestContext.Current.CancellationToken;
        using var server = Start("Endpoint", "--urls", "http://127.0.0.1:0", "--layer", "1");
        try
        {
            using var client = new HttpClient { BaseAddress = await Address(server, stop), Timeout = TimeSpan.FromSeconds(30) };
            Assert.Matches(@"^.*layer 1: H 256, 16 experts, top-4\. \w+", await client.GetStringAsync("/", stop));
            using var model = Checkpoint.Open(Repository.PathOf(Model));
            using var layer = MoeLayer.Load(model, 1);
            for (int tokens = 0; tokens <= 7; tokens += 7)
            {
                BFloat16[] hidden = [.. Enumerable.Range(0, tokens * layer.HiddenSize).Select(i => (BFloat16)MathF.Cos(i))], expected = new BFloat16[hidden.Length];
                layer.Forward(hidden, expected);
                HttpResponseMessage answer = await client.PostAsync("/forward", Body(MemoryMarshal.AsBytes(hidden.AsSpan()).ToArray()), stop);
                Assert.Equal(HttpStatusCode.OK, answer.StatusCode);
                Assert.Equal(MemoryMarshal.AsBytes(expected.AsSpan()).ToArray(), await answer.Content.ReadAsByteArrayAsync(stop));
            }
            await AnswersManyAtOnce(client, layer, stop);
            HttpResponseMessage refused = await client.PostAsync("/forward", Body(new byte[100]), stop);
            Assert.Equal(HttpStatusCode.BadRequest, refused.StatusCode);
            Assert.StartsWith("The body has 100 bytes; 512 per token", await refused.Content.ReadAsStringAsync(stop), StringComparison.Ordinal);
            string metrics = await client.GetStringAsync("/metrics", stop);
            const string tags = "backend=\"cpu\",format=\"Block128\",activations=\"Fp8\",layer=\"1\"";
            Assert.Contains($"\nmoesharp_tokens_total{{{tags}}} 47\n", metrics, StringComparison.Ordinal);
            Assert.Contains($"\nmoesharp_expert_rows_sum{{{tags}}} 188\n", metrics, StringComparison.Ordinal);
            Assert.Contains($"\nmoesharp_call_duration_seconds_bucket{{{tags},le=\"+Inf\"}} 9\n", metrics, StringComparison.Ordinal);
            Assert.Matches(@"\nmoesharp_memory_bytes \d{4,}\n", metrics);
        }
        finally
        {
            server.Kill();
        }
    }

    private static async Task AnswersManyAtOnce(HttpClient client, MoeLayer layer, CancellationToken stop)
    {
        var hidden = new BFloat16[8][];
        for (int i = 0; i < hidden.Length; i++) hidden[i] = [.. Enumerable.Range(0, 5 * layer.HiddenSize).Select(j => (BFloat16)MathF.Cos(i + j))];
        byte[][] answers = await Task.WhenAll(hidden.Select(async rows =>
        {
            HttpResponseMessage answer = await client.PostAsync("/forward", Body(MemoryMarshal.AsBytes(rows.AsSpan()).ToArray()), stop);
            return await answer.Content.ReadAsByteArrayAsync(stop);
        }));
        for (int i = 0; i < hidden.Length; i++)
        {
            var expected = new BFloat16[hidden[i].Length];
            layer.Forward(hidden[i], expected);
            Assert.Equal(MemoryMarshal.AsBytes(expected.AsSpan()).ToArray(), answers[i]);
        }
    }

    private static ByteArrayContent Body(byte[] bytes) => new(bytes) { Headers = { ContentType = new MediaTypeHeaderValue("application/octet-stream") } };

    private static Process Start(string assembly, params string[] arguments)
    {
        string outputs = Path.GetRelativePath(Repository.PathOf("tests/MoeSharp.Tests"), AppContext.BaseDirectory); // bin/Release/net10.0
        string program = Path.Combine(Repository.PathOf($"samples/{assembly}"), outputs, OperatingSystem.IsWindows() ? assembly + ".exe" : assembly);
        return Process.Start(new ProcessStartInfo(program, arguments) { WorkingDirectory = Repository.Root, RedirectStandardOutput = true, RedirectStandardError = true })
            ?? throw new InvalidOperationException($"{program} did not start.");
    }

    private static async Task<Uri> Address(Process server, CancellationToken stop)
    {
        var seen = new List<string>();
        using var late = CancellationTokenSource.CreateLinkedTokenSource(stop);
        late.CancelAfter(TimeSpan.FromSeconds(30));
        while (await server.StandardOutput.ReadLineAsync(late.Token) is string line)
        {
            seen.Add(line);
            if (Listening().Match(line) is { Success: true } match) return new Uri(match.Groups[1].Value);
        }
        throw new InvalidOperationException($"The server ended:\n{string.Join('\n', seen)}\n{await server.StandardError.ReadToEndAsync(stop)}");
    }

    [GeneratedRegex(@"listening on: (\S+)")]
    private static partial Regex Listening();
}
