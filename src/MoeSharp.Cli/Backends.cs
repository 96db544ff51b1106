namespace MoeSharp.Cli;

/// <summary>Turns --backend and --threads into a backend.</summary>
internal static class Backends
{
    /// <summary>Null stands for auto: the library chooses.</summary>
    public static IExpertsBackend? Open(string name, int? threads) => name == "auto" ? null : ExpertsBackends.ByName(name);
}
