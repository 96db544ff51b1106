using System.Runtime.InteropServices;

namespace MoeSharp.Tests;

/// <summary>What tests on a GPU share; they report themselves skipped on machines without one.</summary>
internal static class Gpu
{
    public static CudaBackend Open(bool checkSteps = false)
    {
        var backend = new CudaBackend(checkSteps: checkSteps);
        Support support = backend.SupportsDevice();
        if (!support.IsSupported) backend.Dispose();
        Assert.SkipUnless(support.IsSupported, support.Reason ?? "");
        return backend;
    }

    /// <summary>The first two GPUs; skips the test on machines with fewer.</summary>
    public static (CudaBackend First, CudaBackend Second) OpenTwo()
    {
        CudaBackend first = Open();
        int count = CudaContext.Count();
        if (count < 2) first.Dispose();
        Assert.SkipUnless(count >= 2, $"There is {count} GPU on this machine; two are needed.");
        return (first, new CudaBackend(1));
    }

    /// <summary>The emulator of kernels/emulator stands in for the driver: the same kernels, ten thousand times slower.</summary>
    public static bool IsEmulated => DriverLibrary.Override is not null;

    /// <summary>calc_diff: |x - y|^2 / (|x|^2 + |y|^2).</summary>
    public static double Difference(ReadOnlySpan<BFloat16> x, ReadOnlySpan<BFloat16> y)
    {
        double difference = 0, sum = 0;
        for (int i = 0; i < x.Length; i++)
        {
            double a = x[i].ToSingle(), b = y[i].ToSingle();
            difference += (a - b) * (a - b);
            sum += a * a + b * b;
        }
        return sum == 0 ? 0 : difference / sum;
    }

    /// <summary>Row r of a device buffer [blocks][capacity][bytes] whose 16-byte chunks are swizzled by the row.</summary>
    public static byte[] Row(byte[] buffer, int blocks, int capacity, int bytes, int row)
    {
        var result = new byte[blocks * bytes];
        for (int block = 0; block < blocks; block++)
            for (int chunk = 0; chunk < bytes / 16; chunk++)
                Array.Copy(buffer, ((long)block * capacity + row) * bytes + (chunk ^ (row & 7)) * 16, result, block * bytes + chunk * 16, 16);
        return result;
    }

    /// <summary>Device memory whose bits are all ones.</summary>
    public static DeviceBuffer Room(CudaStream stream, long bytes)
    {
        var buffer = new DeviceBuffer(stream.Context, bytes, "a test's output");
        buffer.Fill(0xFF, stream);
        return buffer;
    }

    public static DeviceBuffer Upload<T>(CudaStream stream, T[] values) where T : unmanaged
    {
        var buffer = new DeviceBuffer(stream.Context, (long)values.Length * Marshal.SizeOf<T>(), "a test's input");
        buffer.Upload<T>(values, stream);
        return buffer;
    }

    public static T[] Download<T>(DeviceBuffer buffer, CudaStream stream, int count) where T : unmanaged
    {
        var values = new T[count];
        buffer.Download<T>(values, stream);
        return values;
    }
}
