using System.Reflection;
using System.Text.Json;

namespace MoeSharp;

/// <summary>What one compiled set of kernels was made from, and with what.</summary>
/// <param name="SourceHash">SHA-256 over the kernel sources, in hexadecimal.</param>
/// <param name="Compiler">Version of NVRTC, as 1000 major + 10 minor.</param>
/// <param name="Kernels">What the assembler reported of each entry point.</param>
internal sealed record KernelManifest(string SourceHash, int Compiler, IReadOnlyList<KernelReport> Kernels)
{
    /// <summary>The builds in this assembly, oldest compiler first, and all kernels are in the first. Both give the same bits; the newer holds those that gain, and needs a driver of its own generation.</summary>
    internal static IReadOnlyList<string> Builds { get; } = ["12.4", "13.0"];

    /// <summary>The build for a driver: the newest that it runs and that was made from the same sources as the first, which is refreshed with every change.</summary>
    internal static string Choose(int driverVersion)
    {
        KernelManifest first = Read(Builds[0]) ?? throw new CudaException("The assembly carries no compiled kernels; build it with kernels/prebuilt in place.", 0);
        string chosen = Builds[0];
        foreach (string build in Builds.Skip(1))
            if (Read(build) is { } manifest && manifest.SourceHash == first.SourceHash && driverVersion >= manifest.Compiler / 1000 * 1000) chosen = build;
        return chosen;
    }

    /// <summary>The build for a driver, and why not a newer one.</summary>
    internal static string Explain(int driverVersion)
    {
        string chosen = Choose(driverVersion), newest = Builds[^1];
        if (chosen == newest) return $"{Builds[0]}, and {newest} for GEMMs of many rows";
        KernelManifest? newer = Read(newest);
        string why = newer is null ? "is not carried"
            : driverVersion < newer.Compiler / 1000 * 1000 ? $"needs a driver that offers CUDA {newer.Compiler / 1000}"
            : "was made from other sources";
        return $"{chosen} (build {newest} {why})";
    }

    /// <summary>The manifest of a build, or null where the assembly does not carry it.</summary>
    internal static KernelManifest? Read(string build) => Resource(build, "manifest.json") is { } json ? Parse(json) : null;

    /// <summary>Whether a build holds a kernel file.</summary>
    internal static bool Carries(string build, string file) => Assembly.GetExecutingAssembly().GetManifestResourceInfo($"kernels/{build}/{file}.cubin") is not null;

    /// <summary>A file of a build, or null.</summary>
    internal static byte[]? Resource(string build, string file)
    {
        using Stream? stream = Assembly.GetExecutingAssembly().GetManifestResourceStream($"kernels/{build}/{file}");
        if (stream is null) return null;
        var bytes = new byte[stream.Length];
        stream.ReadExactly(bytes);
        return bytes;
    }

    internal static KernelManifest Parse(ReadOnlyMemory<byte> json)
    {
        using JsonDocument document = JsonDocument.Parse(json);
        JsonElement root = document.RootElement;
        return new(root.GetProperty("sourceHash").GetString()!, root.GetProperty("compiler").GetInt32(),
            [.. root.GetProperty("kernels").EnumerateArray().Select(k => new KernelReport(k.GetProperty("file").GetString()!, k.GetProperty("name").GetString()!,
                k.GetProperty("registers").GetInt32(), k.GetProperty("spillBytes").GetInt32(), k.GetProperty("staticSharedBytes").GetInt32()))]);
    }
}

/// <summary>What the assembler reported of an entry point.</summary>
internal sealed record KernelReport(string File, string Name, int Registers, int SpillBytes, int StaticSharedBytes);
