using System.Diagnostics;
using System.Reflection;
using System.Runtime.InteropServices;

namespace MoeSharp;

/// <summary>Finds the NVIDIA driver's library once, when first asked; a machine without one gets a sentence.</summary>
internal static unsafe class DriverLibrary
{
    internal const string Name = "cuda";

    /// <summary>Another library with the driver's interface: the emulator of kernels/emulator; null on users' machines.</summary>
    internal static string? Override { get; } = Environment.GetEnvironmentVariable("MOESHARP_CUDA_DRIVER");

    /// <summary>CUDA 12.0, which drivers 525 and newer offer: launch attributes and tensor maps came with it.</summary>
    internal const int MinimumVersion = 12000;

    private static readonly Lazy<Support> State = new(Load);
    private static nint s_handle;

    /// <summary>Yes, or why there is no driver to use.</summary>
    internal static Support Availability => State.Value;

    /// <summary>The CUDA version that the driver offers, as 1000 major + 10 minor; 0 without a driver.</summary>
    internal static int Version { get; private set; }

    /// <summary>How long the driver took to start.</summary>
    internal static TimeSpan StartTime { get; private set; }

    internal static void Require()
    {
        if (Availability.Reason is { } reason) throw new CudaException(reason, 0);
    }

    private static Support Load()
    {
        string file = Override ?? (OperatingSystem.IsWindows() ? "nvcuda.dll" : "libcuda.so.1");
        if (!NativeLibrary.TryLoad(file, out s_handle))
            return Support.No($"There is no NVIDIA driver on this machine ({file} was not found); install one (525 or newer) or use the CPU.");
        NativeLibrary.SetDllImportResolver(Assembly.GetExecutingAssembly(), (name, _, _) => name == Name ? s_handle : 0);
        return Ask();
    }

    /// <summary>What the driver says of itself and of GPUs.</summary>
    internal static Support Ask()
    {
        try
        {
            int version = 0;
            if (Native.cuDriverGetVersion(&version) != 0) version = 0;
            Version = version;
            if (version < MinimumVersion)
                return Support.No($"The NVIDIA driver offers CUDA {Text(version)} but {Text(MinimumVersion)} is needed; install driver 525 or newer.");
            long started = Stopwatch.GetTimestamp();
            int result = Native.cuInit(0);
            StartTime = Stopwatch.GetElapsedTime(started);
            return result switch
            {
                0 => Support.Yes,
                100 => Support.No("There is an NVIDIA driver on this machine but no GPU that it can use."),
                _ => Support.No($"The NVIDIA driver could not start: {Native.Failure(result, nameof(Native.cuInit)).Message}"),
            };
        }
        catch (EntryPointNotFoundException missing)
        {
            return Support.No($"The NVIDIA driver is too old ({missing.Message.TrimEnd('.')}); install driver 525 or newer.");
        }
    }

    /// <summary>A function of the library that is not the driver's: the emulator has some.</summary>
    internal static nint Export(string name) => NativeLibrary.GetExport(s_handle, name);

    internal static string Text(int version) => $"{version / 1000}.{version % 1000 / 10}";
}
