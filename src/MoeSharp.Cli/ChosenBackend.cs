namespace MoeSharp.Cli;

/// <summary>The backend behind --backend and --threads.</summary>
internal sealed class ChosenBackend : IDisposable
{
    private readonly CpuBackend? _own;

    /// <summary>Only the cpu backend has threads, so a number of threads makes one of its own and turns auto into it.</summary>
    public ChosenBackend(string name, int? threads)
    {
        if (threads is { } limit && name is "auto" or "cpu") _own = new CpuBackend(limit);
        Backend = _own ?? (name == "auto" ? null : ExpertsBackends.ByName(name));
    }

    /// <summary>Null stands for auto: the library chooses.</summary>
    public IExpertsBackend? Backend { get; }

    public void Dispose() => _own?.Dispose();
}
