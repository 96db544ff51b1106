namespace MoeSharp.Tests;

public class KernelManifestTests
{
    [Fact]
    public void TheFirstBuildIsMadeFromTheseSources()
    {
        KernelManifest manifest = KernelManifest.Read(KernelManifest.Builds[0])!;
        Assert.True(Kernels.Program.SourceHash(Repository.PathOf("kernels")) == manifest.SourceHash,
            "kernels/prebuilt/12.4 was made from other sources; run kernels/KernelCompiler (docs/cuda.md) and commit what it writes.");
    }

    [Fact]
    public void NoKernelSpills()
    {
        foreach (string build in KernelManifest.Builds)
            foreach (KernelReport kernel in KernelManifest.Read(build)?.Kernels ?? [])
                Assert.True(kernel.SpillBytes == 0, $"{kernel.Name} of build {build} spills {kernel.SpillBytes} bytes of registers.");
    }

    [Fact]
    public void EveryKernelFileIsCarried()
    {
        KernelManifest manifest = KernelManifest.Read(KernelManifest.Builds[0])!;
        foreach (string source in Directory.EnumerateFiles(Repository.PathOf("kernels"), "*.cu").Select(f => Path.GetFileNameWithoutExtension(f)!))
        {
            Assert.Contains(manifest.Kernels, k => k.File == source && k.Registers > 0);
            Assert.True(KernelManifest.Resource(KernelManifest.Builds[0], source + ".cubin")?.Length > 1000, $"{source}.cubin is not in the assembly.");
        }
    }

    [Fact]
    public void TheNewerBuildHoldsTheGemmsOfTheSameSources()
    {
        KernelManifest first = KernelManifest.Read(KernelManifest.Builds[0])!, newer = KernelManifest.Read(KernelManifest.Builds[1])!;
        Assert.SkipUnless(first.SourceHash == newer.SourceHash, "kernels/prebuilt/13.0 was made from other sources and is not used; run kernels/KernelCompiler with NVRTC 13.0 (docs/cuda.md).");
        Assert.Equal(["down", "gateup_activate"], newer.Kernels.Select(k => k.File).Distinct().Order());
        foreach (string build in KernelManifest.Builds) // the loader takes what lies there
            Assert.Equal(KernelManifest.Read(build)!.Kernels.Select(k => k.File).Distinct().Order(StringComparer.Ordinal),
                Directory.EnumerateFiles(Repository.PathOf($"kernels/prebuilt/{build}"), "*.cubin").Select(f => Path.GetFileNameWithoutExtension(f)!).Order(StringComparer.Ordinal));
        Assert.All(newer.Kernels, k => Assert.True(KernelManifest.Carries(KernelManifest.Builds[1], k.File), k.File));
        Assert.False(KernelManifest.Carries(KernelManifest.Builds[1], "combine"));
    }

    [Fact]
    public void NewDriversGetTheNewerBuild() => Assert.Equal("13.0", KernelManifest.Choose(13000));

    [Theory]
    [InlineData(12000)]
    [InlineData(12080)]
    public void OlderDriversGetTheOlderBuild(int driver) => Assert.Equal("12.4", KernelManifest.Choose(driver));

    [Fact]
    public void TheAssemblersReportIsRead()
    {
        const string log = """
            ptxas info    : Compiling entry function 'first' for 'sm_90a'
            ptxas info    : Function properties for first
            ptxas         .     8 bytes stack frame, 16 bytes spill stores, 24 bytes spill loads
            ptxas info    : Used 128 registers, 8 bytes cumulative stack size
            ptxas info    : Compiling entry function 'second' for 'sm_90a'
            ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
            ptxas info    : Used 48 registers, 64 bytes smem
            """;
        Assert.Equal([new("f", "first", 128, 16, 0), new("f", "second", 48, 0, 64)], Kernels.Program.Reports("f", log));
    }
}
