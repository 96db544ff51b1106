namespace MoeSharp.Cli;

/// <summary>Random numbers as a pure function of (seed, index): the same on every machine, in any order, on any number of threads.</summary>
internal static class SplitMix64
{
    /// <summary>A well mixed 64-bit hash.</summary>
    public static ulong Hash(ulong x)
    {
        ulong z = x + 0x9E3779B97F4A7C15;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
        return z ^ (z >> 31);
    }

    /// <summary>64 random bits; index below 2^40.</summary>
    public static ulong Bits(long seed, long index) => Hash(((ulong)seed << 40) + (ulong)index);

    /// <summary>Uniform in [0, 1).</summary>
    public static double Uniform(long seed, long index) => (Bits(seed, index) >> 11) * (1.0 / (1L << 53));

    /// <summary>Standard normal (Box-Muller).</summary>
    public static double Normal(long seed, long index)
    {
        double radius = Math.Sqrt(-2 * Math.Log(1 - Uniform(seed, 2 * index)));
        return radius * Math.Cos(2 * Math.PI * Uniform(seed, 2 * index + 1));
    }

    /// <summary>Fills with standard normal values rounded to BF16.</summary>
    public static void FillNormal(long seed, Span<BFloat16> values)
    {
        for (int i = 0; i < values.Length; i++) values[i] = (BFloat16)(float)Normal(seed, i);
    }
}
