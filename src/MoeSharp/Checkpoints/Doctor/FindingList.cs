using System.Collections.Concurrent;

namespace MoeSharp;

/// <summary>Findings from several threads. Of each code so many are kept that a reader has enough, and the rest is counted: files may give cause for any number.</summary>
internal sealed class FindingList
{
    /// <summary>Findings of one code that are kept.</summary>
    public const int MostOfACode = 10_000;

    private readonly ConcurrentBag<Finding> _kept = [];
    private readonly ConcurrentDictionary<FindingCode, int> _counts = [];

    public void Add(Finding finding)
    {
        if (_counts.AddOrUpdate(finding.Code, 1, (_, count) => count + 1) <= MostOfACode) _kept.Add(finding);
    }

    /// <summary>In no order; codes of which some were not kept have one finding more that says how many.</summary>
    public IEnumerable<Finding> All => _kept.Concat(_counts.Where(code => code.Value > MostOfACode).Select(
        code => new Finding(code.Key, $"{code.Value - MostOfACode} more findings of this kind are not listed.", new())));
}
