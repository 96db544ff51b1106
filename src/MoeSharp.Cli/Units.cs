using System.Globalization;

namespace MoeSharp.Cli;

/// <summary>Numbers for human readers: three significant digits and a unit. Prefixes are decimal.</summary>
internal static class Units
{
    /// <summary>Three significant digits, never scientific: 0.0123, 1.23, 12.3, 123, 1,234.</summary>
    public static string Number(double value)
    {
        if (!double.IsFinite(value)) return "-";
        double magnitude = Math.Abs(value);
        int decimals = magnitude >= 100 || magnitude == 0 ? 0 : Math.Clamp(2 - (int)Math.Floor(Math.Log10(magnitude)), 0, 6);
        return value.ToString($"N{decimals}", CultureInfo.InvariantCulture);
    }

    /// <summary>An error: two significant digits, scientific; 0 when exact.</summary>
    public static string Error(double value) => value == 0 ? "0" : value.ToString("0.0e-0", CultureInfo.InvariantCulture);

    public static string Percent(double share) => double.IsFinite(share) ? share.ToString("0 %", CultureInfo.InvariantCulture) : "-";

    public static string Count(long value) => value.ToString("N0", CultureInfo.InvariantCulture);

    public static string Plural(long count, string noun) => count == 1 ? $"1 {noun}" : $"{Count(count)} {noun}s";

    public static string Bytes(double bytes) => bytes switch
    {
        >= 1e12 => $"{Number(bytes / 1e12)} TB",
        >= 1e9 => $"{Number(bytes / 1e9)} GB",
        >= 1e6 => $"{Number(bytes / 1e6)} MB",
        >= 1e3 => $"{Number(bytes / 1e3)} kB",
        _ => $"{Number(bytes)} B",
    };

    public static string Milliseconds(double ms) => ms >= 10_000 ? $"{Number(ms / 1000)} s" : $"{Number(ms)} ms";
}
