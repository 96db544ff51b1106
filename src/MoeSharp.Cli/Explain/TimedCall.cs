using System.Text.Json;

namespace MoeSharp.Cli;

/// <summary>What a call took beside what the cost model expects. Times are milliseconds.</summary>
internal sealed record TimedCall
{
    /// <summary>Median of a call.</summary>
    public required double Call { get; init; }

    /// <summary>What the model expects, stage by stage; null where the backend has none.</summary>
    public required StageCost[]? Costs { get; init; }

    /// <summary>Medians of the same stages; null where the backend does not tell.</summary>
    public required double?[] Stages { get; init; }

    /// <summary>The rates that the model counts with, in words.</summary>
    public required string Ceilings { get; init; }

    /// <summary>How it was timed, in words.</summary>
    public required string Method { get; init; }

    /// <summary>The member "ceilings" of the report.</summary>
    public required Action<Utf8JsonWriter> WriteCeilings { get; init; }

    /// <summary>All stages, one after the other.</summary>
    public StageCost? Total => Costs is null ? null : new("call", Costs.Sum(cost => cost.Bytes), Costs.Sum(cost => cost.Flops), Costs.Sum(cost => cost.ByBytes),
        Costs.Sum(cost => cost.ByFlops), Costs.Sum(cost => cost.Predicted));
}
