namespace MoeSharp.Cli;

/// <summary>How a routing spreads over the local experts.</summary>
/// <param name="Rows">[E]: rows of each expert.</param>
/// <param name="Dropped">Slots without a local expert.</param>
internal sealed record ExpertLoad(int[] Rows, int Dropped)
{
    /// <summary>Counts.</summary>
    /// <param name="ids">[T, K].</param>
    /// <param name="expertMap">[global experts], empty when all are local.</param>
    /// <param name="experts">E.</param>
    public static ExpertLoad Of(ReadOnlySpan<int> ids, ReadOnlySpan<int> expertMap, int experts)
    {
        var rows = new int[experts];
        int dropped = 0;
        foreach (int id in ids)
        {
            int local = id < 0 || expertMap.IsEmpty ? id : expertMap[id];
            if (local < 0) dropped++;
            else rows[local]++;
        }
        return new(rows, dropped);
    }

    public int Total => Rows.Sum();

    /// <summary>Experts with a row.</summary>
    public int Active => Rows.Count(rows => rows > 0);

    public double Mean => (double)Total / Rows.Length;

    public int Most => Rows.Max();

    /// <summary>The first of those with most rows.</summary>
    public int Busiest => Array.IndexOf(Rows, Most);

    public double Median
    {
        get
        {
            int[] sorted = [.. Rows.Order()];
            return (sorted[(sorted.Length - 1) / 2] + sorted[sorted.Length / 2]) / 2.0;
        }
    }

    /// <summary>Experts by number of rows: none, then up to a dozen even ranges.</summary>
    public IReadOnlyList<(int Least, int Most, int Experts)> Histogram()
    {
        int step = 1;
        while (Most / step > 12) step = step.ToString()[0] == '2' ? step / 2 * 5 : 2 * step; // 1, 2, 5, 10 ...
        var bins = new List<(int, int, int)> { (0, 0, Rows.Count(rows => rows == 0)) };
        for (int least = 1; least <= Most; least += step)
            bins.Add((least, least + step - 1, Rows.Count(rows => rows >= least && rows < least + step)));
        return bins;
    }
}
