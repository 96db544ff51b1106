using System.Globalization;
using ScottPlot;

namespace MoeSharp.Cli;

/// <summary>Logarithmic axes: data is drawn by its logarithm, ticks say the numbers.</summary>
internal static class LogAxis
{
    /// <summary>Ticks at 1, 2, 5, 10 ... of every decade that the values touch, or at powers of ten where these would be too many.</summary>
    public static void Set(IAxis axis, double least, double most)
    {
        double low = Math.Log10(least), high = Math.Log10(most), margin = Math.Max(0.08, 0.06 * (high - low));
        double[] steps = high - low > 4 ? [1] : high - low > 2.5 ? [1, 3] : [1, 2, 5];
        var at = new List<double>();
        for (int decade = (int)Math.Floor(low) - 1; decade <= Math.Ceiling(high); decade++)
            foreach (double step in steps)
                if (Math.Log10(step) + decade is var tick && tick >= low - margin && tick <= high + margin) at.Add(tick);
        axis.SetTicks([.. at], [.. at.Select(tick => Math.Pow(10, tick).ToString("#,0.#####", CultureInfo.InvariantCulture))]);
        axis.Range.Set(low - margin, high + margin);
    }
}
