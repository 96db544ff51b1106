using BenchmarkDotNet.Configs;
using BenchmarkDotNet.Jobs;
using BenchmarkDotNet.Running;
using BenchmarkDotNet.Toolchains.InProcess.Emit;

namespace MoeSharp.Benchmarks;

/// <summary>BenchmarkDotNet on parts of the library, in this process, since the parts are internal.</summary>
internal static class MicroCommand
{
    /// <summary>Takes BenchmarkDotNet's own arguments, such as --filter *ForkJoin*.</summary>
    public static int Run(string[] arguments)
    {
        IConfig config = DefaultConfig.Instance.AddJob(Job.ShortRun.WithToolchain(InProcessEmitToolchain.Instance));
        return BenchmarkSwitcher.FromAssembly(typeof(MicroCommand).Assembly).Run(arguments.Length == 0 ? ["--filter", "*"] : arguments, config).Any() ? 0 : 1;
    }
}
