using System.Text.Json;

namespace MoeSharp.Cli;

/// <summary>How measured ceilings are shown.</summary>
internal static class CeilingsReport
{
    /// <summary>The highest arithmetic rate that any kernel could reach.</summary>
    public static double PeakGFlopPerS(this Ceilings ceilings) => Math.Max(ceilings.FmaGFlopPerS, ceilings.Bf16DotGFlopPerS ?? 0);

    public static string InWords(this Ceilings ceilings)
    {
        string words = $"read {Units.Number(ceilings.ReadGBPerS)} GB/s, FP32 FMA {Units.Number(ceilings.FmaGFlopPerS)} GFLOP/s";
        return ceilings.Bf16DotGFlopPerS is { } dot ? $"{words}, BF16 dot {Units.Number(dot)} GFLOP/s" : words;
    }

    /// <summary>The member "ceilings" of reports.</summary>
    public static void WriteJson(this Ceilings ceilings, Utf8JsonWriter json)
    {
        json.WriteStartObject("ceilings");
        json.WriteNumber("read_gb_per_s", ceilings.ReadGBPerS);
        json.WriteNumber("fma_gflop_per_s", ceilings.FmaGFlopPerS);
        if (ceilings.Bf16DotGFlopPerS is { } dot) json.WriteNumber("bf16_dot_gflop_per_s", dot);
        else json.WriteNull("bf16_dot_gflop_per_s");
        json.WriteEndObject();
    }
}
