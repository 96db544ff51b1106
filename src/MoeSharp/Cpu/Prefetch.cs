using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics.X86;

namespace MoeSharp;

/// <summary>Asks for memory that will be needed soon, where the hardware cannot guess it; does nothing where there is no such instruction.</summary>
internal static unsafe class Prefetch
{
    private const int CacheLine = 64;

    /// <summary>Into the first cache, or the second, for what would not stay in the first until it is read. Any address will do.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Bytes(byte* first, int count, bool toSecond = false)
    {
        if (!Sse.IsSupported) return;
        for (int at = 0; at < count; at += CacheLine)
        {
            if (toSecond) Sse.Prefetch1(first + at);
            else Sse.Prefetch0(first + at);
        }
    }
}
