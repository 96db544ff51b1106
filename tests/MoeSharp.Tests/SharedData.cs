namespace MoeSharp.Tests;

/// <summary>Optional data beside a checkout, too large to be in it: a folder "shared" in some folder above the tests.</summary>
internal static class SharedData
{
    private static readonly string? Root = FindRoot();

    /// <summary>The path of a file or folder under "shared", or null where it is not there.</summary>
    public static string? Find(string relativePath)
    {
        if (Root is null) return null;
        string path = Path.Combine(Root, relativePath);
        return Path.Exists(path) ? path : null;
    }

    private static string? FindRoot()
    {
        for (DirectoryInfo? d = new(AppContext.BaseDirectory); d is not null; d = d.Parent)
            if (Directory.Exists(Path.Combine(d.FullName, "shared", "golden"))) return Path.Combine(d.FullName, "shared");
        return null;
    }
}
