using System.Text.RegularExpressions;

namespace MoeSharp.Kernels;

/// <summary>
/// Finds instructions that write registers which products on their way still read: operand A of wgmma is read while it is computed, so its registers belong to it until its group has been waited for. The compiler does not keep them:
/// where a value is used as an operand just as it was loaded, it loads the next one into the same registers, wherever the source does so before the wait.
/// </summary>
internal static partial class PendingProducts
{
    /// <summary>One line per such instruction: the kernel, the line of the assembly and what it says. Lines are taken in order, as straight code.</summary>
    internal static IEnumerable<string> Overwritten(string ptx)
    {
        string kernel = "";
        var groups = new List<HashSet<string>>(); // committed, the oldest first
        var open = new HashSet<string>();
        int number = 0;
        foreach (string line in ptx.Split('\n'))
        {
            number++;
            if (Entry().Match(line) is { Success: true } entry)
            {
                kernel = entry.Groups[1].Value;
                groups.Clear();
                open.Clear();
            }
            else if (Product().Match(line) is { Success: true } product)
                open.UnionWith(Register().Matches(product.Groups[1].Value).Select(m => m.Value));
            else if (line.Contains("wgmma.commit_group", StringComparison.Ordinal))
            {
                groups.Add([.. open]);
                open.Clear();
            }
            else if (Wait().Match(line) is { Success: true } wait)
                groups.RemoveRange(0, Math.Max(0, groups.Count - int.Parse(wait.Groups[1].Value)));
            else if (Write().Match(line) is { Success: true } write
                && Register().Matches(write.Groups[1].Value).Any(m => open.Contains(m.Value) || groups.Exists(g => g.Contains(m.Value))))
                yield return $"{kernel}, line {number} of its PTX: {line.Trim()}";
        }
    }

    [GeneratedRegex(@"\.entry (\w+)")]
    private static partial Regex Entry();

    /// <summary>With operand A in registers: the second list.</summary>
    [GeneratedRegex(@"wgmma\.mma_async.*\{[^{}]*\}\s*,\s*\{([^{}]*)\}")]
    private static partial Regex Product();

    [GeneratedRegex(@"wgmma\.wait_group\.sync\.aligned (\d+)")]
    private static partial Regex Wait();

    /// <summary>What an instruction writes comes first; stores, reductions and branches write no registers.</summary>
    [GeneratedRegex(@"^\s*(?:@!?%p\d+\s+)?(?!st\.|red\.|bra)[a-z][\w.:]*\s+(\{[^}]*\}|%r\d+)\s*,")]
    private static partial Regex Write();

    [GeneratedRegex(@"%r\d+")]
    private static partial Regex Register();
}
