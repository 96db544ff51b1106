using System.Runtime.InteropServices;

namespace MoeSharp;

// Twins of the structs in kernels/include/bench_arguments.cuh.

[StructLayout(LayoutKind.Sequential, Size = 64)]
internal struct RandomArguments
{
    public ulong To, Table, TailTable, Chunks, Seed;
    public int ValueBytes, Period, Body;
}

[StructLayout(LayoutKind.Sequential, Size = 32)]
internal struct MemoryArguments
{
    public ulong From, To, Bytes;
}

[StructLayout(LayoutKind.Sequential, Size = 32)]
internal struct ProductArguments
{
    public ulong Codes, Sums;
    public int Turns;
}
