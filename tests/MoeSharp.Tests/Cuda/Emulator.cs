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

    /// <summary>Changes a member of the emulator's Machine.</summary>
    public static void Set(string member, long value)
    {
        var set = (delegate* unmanaged<byte*, long, int>)DriverLibrary.Export("emulator_set");
        fixed (byte* name = System.Text.Encoding.ASCII.GetBytes(member + '\0')) Assert.Equal(0, set(name, value));
    }
}
