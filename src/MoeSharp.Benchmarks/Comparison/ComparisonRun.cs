using System.Text.Json.Serialization;

namespace MoeSharp.Benchmarks;

/// <summary>What one comparison found out; also the form in which it is stored.</summary>
internal sealed record ComparisonRun
{
    public required string Shape { get; init; }
    public required string Sizes { get; init; }

    /// <summary>Ours: name, threads and why it was chosen.</summary>
    public required string Kernel { get; init; }

    public required string Peer { get; init; }
    public required string PeerFormat { get; init; }

    /// <summary>Of each side.</summary>
    public required int Threads { get; init; }

    public required int Rounds { get; init; }
    public required double ReadGBPerS { get; init; }
    public required double FmaGFlopPerS { get; init; }
    public required double? Bf16DotGFlopPerS { get; init; }
    public double? AmxGFlopPerS { get; init; }

    /// <summary>Relative errors against BF16 activations; see <see cref="Agreement"/>.</summary>
    public required double OurError { get; init; }

    public required double PeerError { get; init; }
    public required ContestResult[] Results { get; init; }

    /// <summary>The highest arithmetic rate that our kernels could reach.</summary>
    [JsonIgnore]
    public double PeakGFlopPerS => Math.Max(FmaGFlopPerS, Math.Max(Bf16DotGFlopPerS ?? 0, AmxGFlopPerS ?? 0));
}

/// <summary>All comparisons on one machine.</summary>
internal sealed record MachineResults(string Processor, int Processors, string Os, string Runtime, ComparisonRun[] Runs)
{
    /// <summary>With this run instead of the one of the same shape.</summary>
    public MachineResults With(ComparisonRun run) => this with { Runs = [.. Runs.Where(r => r.Shape != run.Shape), run] };
}

/// <summary>Stored as JSON by the compiler's own code.</summary>
[JsonSourceGenerationOptions(WriteIndented = true, PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower)]
[JsonSerializable(typeof(MachineResults))]
internal sealed partial class ResultsJson : JsonSerializerContext;
