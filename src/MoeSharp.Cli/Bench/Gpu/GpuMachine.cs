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
            $"({Units.Bytes(free)} free), driver {Driver()}, kernels of NVRTC {backend.Kernels().Build}";
    }

    /// <summary>The member "gpu" of reports.</summary>
    public static void Write(Utf8JsonWriter json, CudaBackend backend)
    {
        CudaContext gpu = backend.Context();
        (long free, long total) = gpu.Memory();
        json.WriteStartObject("gpu");
        json.WriteString("name", gpu.Name);
        json.WriteNumber("ordinal", gpu.Ordinal);
        json.WriteString("compute_capability", Capability(gpu));
        json.WriteNumber("multiprocessors", gpu.Multiprocessors);
        json.WriteNumber("memory_bytes", total);
        json.WriteNumber("free_bytes", free);
        json.WriteString("driver", Driver());
        json.WriteString("kernels", backend.Kernels().Build);
        json.WriteEndObject();
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
