using System.Text.Json;

namespace MoeSharp.Cli;

/// <summary>The GPU that a number was measured on.</summary>
internal static class GpuMachine
{
    /// <summary>Name, size and what runs it, in one line.</summary>
    public static string InWords(CudaBackend backend)
    {
        CudaContext gpu = backend.Context();
        (long free, long total) = gpu.Memory();
        return $"GPU {gpu.Ordinal}: {gpu.Name}, compute capability {Capability(gpu)}, {gpu.Multiprocessors} multiprocessors, {Units.Bytes(total)} of memory " +
            $"({Units.Bytes(free)} free), driver {Driver()}, kernels of NVRTC {KernelManifest.Explain(DriverLibrary.Version)}";
    }

    /// <summary>Every GPU in a line of its own, or why none can be used.</summary>
    public static string AllInWords() => string.Join('\n', All().Select(gpu => gpu.Support.Reason ?? InWords(gpu.Backend)));

    /// <summary>The member "gpus" of reports.</summary>
    public static void WriteAll(Utf8JsonWriter json)
    {
        json.WriteStartArray("gpus");
        foreach ((CudaBackend backend, Support support) in All())
        {
            json.WriteStartObject();
            if (support.IsSupported) WriteMembers(json, backend);
            json.WriteBoolean("usable", support.IsSupported);
            json.WriteString("reason", support.Reason);
            json.WriteEndObject();
        }
        json.WriteEndArray();
    }

    /// <summary>As many as the driver shows; without a driver one that says why.</summary>
    private static IEnumerable<(CudaBackend Backend, Support Support)> All()
    {
        int count = DriverLibrary.Availability.IsSupported ? CudaContext.Count() : 1;
        for (int i = 0; i < count; i++)
        {
            using var backend = new CudaBackend(i);
            yield return (backend, backend.SupportsDevice());
        }
    }

    /// <summary>The member "gpu" of reports.</summary>
    public static void Write(Utf8JsonWriter json, CudaBackend backend)
    {
        json.WriteStartObject("gpu");
        WriteMembers(json, backend);
        json.WriteEndObject();
    }

    private static void WriteMembers(Utf8JsonWriter json, CudaBackend backend)
    {
        CudaContext gpu = backend.Context();
        (long free, long total) = gpu.Memory();
        json.WriteString("name", gpu.Name);
        json.WriteNumber("ordinal", gpu.Ordinal);
        json.WriteString("compute_capability", Capability(gpu));
        json.WriteNumber("multiprocessors", gpu.Multiprocessors);
        json.WriteNumber("memory_bytes", total);
        json.WriteNumber("free_bytes", free);
        json.WriteString("driver", Driver());
        json.WriteString("kernels", KernelManifest.Choose(DriverLibrary.Version));
    }

    private static string Capability(CudaContext gpu) => $"{gpu.Capability / 10}.{gpu.Capability % 10}";

    /// <summary>The driver's version where the system tells it, and the CUDA version that it offers.</summary>
    private static string Driver()
    {
        const string file = "/proc/driver/nvidia/version"; // "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  ..."
        string cuda = $"CUDA {DriverLibrary.Text(DriverLibrary.Version)}";
        if (DriverLibrary.Override is not null || !OperatingSystem.IsLinux() || !File.Exists(file)) return cuda;
        string? number = File.ReadLines(file).FirstOrDefault()?.Split(' ').FirstOrDefault(word => word.Contains('.') && word.All(c => c == '.' || char.IsAsciiDigit(c)));
        return number is null ? cuda : $"{number} ({cuda})";
    }
}
