using System.Text.Json;

namespace MoeSharp.Cli;

/// <summary>How measured ceilings are shown.</summary>
internal static class CeilingsReport
{
    /// <summary>The highest arithmetic rate that any kernel could reach.</summary>
    public static double PeakGFlopPerS(this Ceilings ceilings) => Math.Max(ceilings.FmaGFlopPerS, Math.Max(ceilings.Bf16DotGFlopPerS ?? 0, ceilings.AmxGFlopPerS ?? 0));

    /// <summary>The highest arithmetic rate that this kernel's instructions could reach.</summary>
    public static double PeakGFlopPerS(this Ceilings ceilings, IGemmKernel kernel) => kernel switch
    {
        AmxKernel => ceilings.AmxGFlopPerS,
        { Operand: Operand.Bf16 } => ceilings.Bf16DotGFlopPerS,
        _ => null,
    } ?? ceilings.FmaGFlopPerS;

    public static string InWords(this Ceilings ceilings)
    {
        string words = $"read {Units.Number(ceilings.ReadGBPerS)} GB/s, FP32 FMA {Units.Number(ceilings.FmaGFlopPerS)} GFLOP/s";
        if (ceilings.Bf16DotGFlopPerS is { } dot) words += $", BF16 dot {Units.Number(dot)} GFLOP/s";
        return ceilings.AmxGFlopPerS is { } tiles ? $"{words}, AMX {Units.Number(tiles)} GFLOP/s" : words;
    }

    /// <summary>The member "ceilings" of reports.</summary>
    public static void WriteJson(this Ceilings ceilings, Utf8JsonWriter json)
    {
        json.WriteStartObject("ceilings");
        json.WriteNumber("read_gb_per_s", ceilings.ReadGBPerS);
        json.WriteNumber("fma_gflop_per_s", ceilings.FmaGFlopPerS);
        WriteNumberOrNull(json, "bf16_dot_gflop_per_s", ceilings.Bf16DotGFlopPerS);
        WriteNumberOrNull(json, "amx_gflop_per_s", ceilings.AmxGFlopPerS);
        json.WriteEndObject();
    }

    /// <summary>The same member, of a GPU.</summary>
    public static void WriteJson(this DeviceCeilings ceilings, Utf8JsonWriter json)
    {
        json.WriteStartObject("ceilings");
        json.WriteNumber("read_gb_per_s", ceilings.ReadGBPerS);
        json.WriteNumber("fill_gb_per_s", ceilings.FillGBPerS);
        json.WriteNumber("copy_gb_per_s", ceilings.CopyGBPerS);
        json.WriteNumber("fp8_tflop_per_s", ceilings.Fp8TFlopPerS);
        json.WriteEndObject();
    }

    private static void WriteNumberOrNull(Utf8JsonWriter json, string name, double? value)
    {
        if (value is { } number) json.WriteNumber(name, number);
        else json.WriteNull(name);
    }
}
