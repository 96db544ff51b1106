using System.Buffers.Binary;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.Arm;
using System.Runtime.Intrinsics.X86;
using System.Text;
using System.Text.Json;

namespace MoeSharp.Cli;

/// <summary>The machine that a number was measured on.</summary>
internal static class Machine
{
    /// <summary>What the processor calls itself.</summary>
    public static string ProcessorName()
    {
        if (X86Base.IsSupported && unchecked((uint)X86Base.CpuId(unchecked((int)0x80000000), 0).Eax) >= 0x80000004)
        {
            Span<byte> brand = stackalloc byte[48];
            for (int leaf = 0; leaf < 3; leaf++)
            {
                (int a, int b, int c, int d) = X86Base.CpuId(unchecked((int)0x80000002) + leaf, 0);
                BinaryPrimitives.WriteInt32LittleEndian(brand[(16 * leaf)..], a);
                BinaryPrimitives.WriteInt32LittleEndian(brand[(16 * leaf + 4)..], b);
                BinaryPrimitives.WriteInt32LittleEndian(brand[(16 * leaf + 8)..], c);
                BinaryPrimitives.WriteInt32LittleEndian(brand[(16 * leaf + 12)..], d);
            }
            string name = Encoding.ASCII.GetString(brand).Trim('\0', ' ');
            if (name.Length > 0) return name;
        }
        return $"{RuntimeInformation.ProcessArchitecture} processor";
    }

    /// <summary>Instruction sets that compiled or generated code may use here.</summary>
    public static IReadOnlyList<(string Name, bool Present)> Features() => RuntimeInformation.ProcessArchitecture switch
    {
        Architecture.X64 or Architecture.X86 =>
        [
            ("SSE4.2", Sse42.IsSupported), ("AVX2", Avx2.IsSupported || CpuFeatures.Avx2Fma), ("FMA", Fma.IsSupported || CpuFeatures.Avx2Fma),
            ("AVX-512F", Avx512F.IsSupported || CpuFeatures.Avx512), ("AVX-512BW", Avx512BW.IsSupported || CpuFeatures.Avx512),
            ("AVX-512VBMI", Avx512Vbmi.IsSupported || CpuFeatures.Avx512Vbmi), ("AVX-512BF16", CpuFeatures.Avx512Bf16), ("AMX-BF16", CpuFeatures.AmxBf16),
        ],
        _ => [("AdvSimd", AdvSimd.IsSupported), ("DotProd", Dp.IsSupported), ("SVE", IsSve())],
    };

    /// <summary>Bits of the widest vectors that are worth using.</summary>
    public static int VectorBits => CpuFeatures.Avx512 ? 512 : CpuFeatures.Avx2Fma ? 256 :
        Vector512.IsHardwareAccelerated ? 512 : Vector256.IsHardwareAccelerated ? 256 : Vector128.IsHardwareAccelerated ? 128 : 64;

    /// <summary>Bytes that can be allocated before the system swaps or kills.</summary>
    public static long AvailableMemory()
    {
        long limit = GC.GetGCMemoryInfo().TotalAvailableMemoryBytes;
        const string file = "/proc/meminfo";
        if (OperatingSystem.IsLinux() && File.Exists(file))
            foreach (string line in File.ReadLines(file))
                if (line.StartsWith("MemAvailable:", StringComparison.Ordinal) && long.TryParse(line.Split(' ', StringSplitOptions.RemoveEmptyEntries)[1], out long kib))
                    return Math.Min(limit, kib * 1024);
        return limit;
    }

    /// <summary>The members of "machine" in reports.</summary>
    public static void Write(Utf8JsonWriter json, int threads)
    {
        json.WriteStartObject("machine");
        json.WriteString("processor", ProcessorName());
        json.WriteNumber("processors", Environment.ProcessorCount);
        json.WriteNumber("threads", threads);
        json.WriteNumber("vector_bits", VectorBits);
        json.WriteNumber("memory_bytes", GC.GetGCMemoryInfo().TotalAvailableMemoryBytes);
        json.WriteString("os", RuntimeInformation.OSDescription);
        json.WriteString("architecture", RuntimeInformation.ProcessArchitecture.ToString());
        json.WriteString("runtime", RuntimeInformation.FrameworkDescription);
        json.WriteEndObject();
    }

#pragma warning disable SYSLIB5003 // Sve is for evaluation; asking whether it is there is all that happens.
    private static bool IsSve() => Sve.IsSupported;
#pragma warning restore SYSLIB5003
}
