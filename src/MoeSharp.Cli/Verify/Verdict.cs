using System.Text.Json;

namespace MoeSharp.Cli;

/// <summary>What counts as agreeing with the reference.</summary>
internal static class Verdict
{
    /// <summary>Largest calc_diff: what narrow accumulators flip in a second FP8 quantization, or else what the order of FP32 sums changes.</summary>
    public static double Tolerance(ExpertsShape shape) =>
        shape.Activations == ActivationFormat.Fp8 && shape.Format != WeightFormat.MxFp8 ? 5e-4 : 2e-5;

    /// <summary>False for NaN.</summary>
    public static bool IsWithin(this Accuracy accuracy, double tolerance) => accuracy.CalcDiff <= tolerance;

    /// <summary>The members max_error, relative_error, calc_diff and passed; null where a figure is not a number.</summary>
    public static void Write(this Accuracy accuracy, Utf8JsonWriter json, bool passed)
    {
        WriteFigure(json, "max_error", accuracy.MaxAbsolute);
        WriteFigure(json, "relative_error", accuracy.RelativeL2);
        WriteFigure(json, "calc_diff", accuracy.CalcDiff);
        json.WriteBoolean("passed", passed);
    }

    /// <summary>A number, or null where it is none.</summary>
    public static void WriteFigure(Utf8JsonWriter json, string name, double value)
    {
        if (double.IsFinite(value)) json.WriteNumber(name, value);
        else json.WriteNull(name);
    }
}
