using System.Numerics;
using System.Runtime.Intrinsics;

namespace MoeSharp;

/// <summary>Looks at every byte of weights once, at memory speed: almost all pieces of a row hold no code worth counting, and a few vector operations
/// show it.</summary>
internal static unsafe class PayloadScan
{
    /// <summary>Codes of note among E4M3 values.</summary>
    public struct Codes
    {
        /// <summary>0x7F and 0xFF.</summary>
        public int NaN;
        /// <summary>0x7E and 0xFE: +-448.</summary>
        public int Largest;
        /// <summary>Something is not +-0.</summary>
        public bool IsAlive;
    }

    /// <summary>Adds what a piece of a row holds.</summary>
    public static void Add(ref Codes codes, byte* values, int count)
    {
        int i = 0;
        Vector256<byte> all = default, magnitude = Vector256.Create((byte)0x7F), below = Vector256.Create((byte)0x7D);
        for (; i + 64 <= count; i += 64)
        {
            Vector256<byte> a = Vector256.Load(values + i) & magnitude, b = Vector256.Load(values + i + 32) & magnitude;
            all |= a | b;
            if (!Vector256.GreaterThanAny(Vector256.Max(a, b), below)) continue;
            Count(ref codes, a);
            Count(ref codes, b);
        }
        for (; i + 32 <= count; i += 32)
        {
            Vector256<byte> a = Vector256.Load(values + i) & magnitude;
            all |= a;
            if (Vector256.GreaterThanAny(a, below)) Count(ref codes, a);
        }
        codes.IsAlive |= all != default;
        for (; i < count; i++)
        {
            int code = values[i] & 0x7F;
            codes.IsAlive |= code != 0;
            if (code == 0x7F) codes.NaN++;
            if (code == 0x7E) codes.Largest++;
        }
    }

    private static void Count(ref Codes codes, Vector256<byte> magnitudes)
    {
        codes.NaN += BitOperations.PopCount(Vector256.Equals(magnitudes, Vector256.Create((byte)0x7F)).ExtractMostSignificantBits());
        codes.Largest += BitOperations.PopCount(Vector256.Equals(magnitudes, Vector256.Create((byte)0x7E)).ExtractMostSignificantBits());
    }

    /// <summary>Index of the first NaN or infinity among BF16 values, -1 without; and whether something is not +-0.</summary>
    public static long FirstNonFinite(ushort* values, long count, out bool isAlive)
    {
        Vector256<ushort> all = default, exponent = Vector256.Create((ushort)0x7F80), magnitude = Vector256.Create((ushort)0x7FFF);
        long i = 0, first = -1;
        for (; i + 16 <= count && first < 0; i += 16)
        {
            var a = Vector256.Load(values + i);
            all |= a & magnitude;
            uint bits = Vector256.Equals(a & exponent, exponent).ExtractMostSignificantBits();
            if (bits != 0) first = i + BitOperations.TrailingZeroCount(bits);
        }
        isAlive = all != default;
        for (; i < count && first < 0; i++)
        {
            isAlive |= (values[i] & 0x7FFF) != 0;
            if ((values[i] & 0x7F80) == 0x7F80) first = i;
        }
        return first;
    }
}
