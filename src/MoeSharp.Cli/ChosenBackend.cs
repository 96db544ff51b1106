namespace MoeSharp.Cli;

/// <summary>The backend behind --backend, --threads and --kernel.</summary>
internal sealed class ChosenBackend : IDisposable
{
    private readonly CpuBackend? _own;

    /// <summary>Only the cpu backend has threads and kernels to choose from, so either makes one of its own and turns auto into it.</summary>
    public ChosenBackend(string name, int? threads, string? kernel)
    {
        if ((threads is not null || kernel is not null) && name is "auto" or "cpu") _own = new CpuBackend(threads, kernel);
        Backend = _own ?? (name == "auto" ? null : ExpertsBackends.ByName(name));
    }

    /// <summary>Null stands for auto: the library chooses.</summary>
    public IExpertsBackend? Backend { get; }

    public void Dispose() => _own?.Dispose();
}
