using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Security.Cryptography;

namespace MoeSharp.Tests;

/// <summary>The emulated driver of kernels/emulator: builds it, and changes the machine it pretends to be.</summary>
internal static unsafe class Emulator
{
    /// <summary>Path of the library, built when its sources changed; skips the test where there is no C++ compiler.</summary>
    public static string Build()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux() && RuntimeInformation.ProcessArchitecture == Architecture.X64, "The emulator is for x64 Linux.");
        Assert.SkipUnless(File.Exists("/usr/bin/g++"), "There is no g++ on this machine to build the emulator with.");
        string sources = Repository.PathOf("kernels");
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        foreach (string file in Directory.EnumerateFiles(sources, "*", SearchOption.AllDirectories).Order(StringComparer.Ordinal))
            if (Path.GetExtension(file) is ".cu" or ".cuh" or ".cpp" or ".hpp" or ".sh") hash.AppendData(File.ReadAllBytes(file));
        string library = Path.Combine(Path.GetTempPath(), $"moesharp-emulator-{Convert.ToHexStringLower(hash.GetHashAndReset())[..16]}.so");
        if (File.Exists(library)) return library;
        using Process build = Process.Start(Path.Combine(sources, "emulator", "build.sh"), [library]);
        build.WaitForExit();
        Assert.Equal(0, build.ExitCode);
        return library;
    }

    /// <summary>Skips the test in a process without the emulator, and makes its machine the usual one.</summary>
    public static void Start()
    {
        Assert.SkipUnless(Gpu.IsEmulated, "MOESHARP_CUDA_DRIVER names no emulator.");
        DriverLibrary.Require();
        Set("reset", 1);
    }

    /// <summary>Changes a member of the emulator's Machine.</summary>
    public static void Set(string member, long value)
    {
        var set = (delegate* unmanaged<byte*, long, int>)DriverLibrary.Export("emulator_set");
        fixed (byte* name = System.Text.Encoding.ASCII.GetBytes(member + '\0')) Assert.Equal(0, set(name, value));
    }

    /// <summary>What is in use: see emulator_get.</summary>
    public static long Get(string what, int device = 0)
    {
        var get = (delegate* unmanaged<byte*, int, long>)DriverLibrary.Export("emulator_get");
        fixed (byte* name = System.Text.Encoding.ASCII.GetBytes(what + '\0'))
        {
            long value = get(name, device);
            Assert.True(value >= 0, $"the emulator counts no '{what}'");
            return value;
        }
    }

    /// <summary>Everything that a device and the host hold for it, as one line.</summary>
    public static string InUse(int device = 0) => string.Join(", ", new[] { "bytes", "allocations", "retained", "pinned", "streams", "events", "modules" }.Select(what => $"{Get(what, device)} {what}"));
}
