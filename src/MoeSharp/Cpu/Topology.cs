using System.Globalization;
using System.Runtime.InteropServices;

namespace MoeSharp;

/// <summary>
/// The processors that this process may use, by memory node. One node where the system tells nothing, or where it is not Linux; threads are then left
/// to the scheduler. A container's processor set is part of the affinity mask.
/// </summary>
internal sealed partial class Topology
{
    private const int MaxProcessors = 8192, MaxNodes = 1024;
    private const int PreferNode = 1, MovePages = 2; // MPOL_PREFERRED, MPOL_MF_MOVE
    private readonly int[] _numbers, _nodeOf; // the system's name of a node; a processor's node, -1 where none is

    private Topology((int Number, int[] Processors)[] nodes)
    {
        _numbers = [.. nodes.Select(n => n.Number)];
        Nodes = [.. nodes.Select(n => n.Processors)];
        _nodeOf = new int[Nodes.SelectMany(p => p).DefaultIfEmpty(-1).Max() + 1];
        Array.Fill(_nodeOf, -1);
        for (int n = 0; n < Nodes.Count; n++)
            foreach (int processor in Nodes[n]) _nodeOf[processor] = n;
    }

    /// <summary>Of this process at its first use.</summary>
    public static Topology Machine { get; } = Read("/sys/devices/system/node", OperatingSystem.IsLinux() ? Allowed() : null);

    /// <summary>Processors of each node that has any; at least one node.</summary>
    public IReadOnlyList<int[]> Nodes { get; }

    /// <summary>Reads a folder laid out like Linux's /sys/devices/system/node.</summary>
    /// <param name="root">Holds node0/cpulist and so on; may be missing.</param>
    /// <param name="allowed">Processors that count; null: all.</param>
    public static Topology Read(string root, IReadOnlySet<int>? allowed)
    {
        var nodes = new List<(int Number, int[] Processors)>();
        if (Directory.Exists(root))
            foreach (string folder in Directory.EnumerateDirectories(root, "node*"))
            {
                string list = Path.Combine(folder, "cpulist");
                if (!int.TryParse(Path.GetFileName(folder)[4..], CultureInfo.InvariantCulture, out int number) || number >= MaxNodes || !File.Exists(list)) continue;
                int[] processors = [.. Parse(File.ReadAllText(list)).Where(p => allowed?.Contains(p) ?? true)];
                if (processors.Length > 0) nodes.Add((number, processors)); // nodes of memory only have none
            }
        return new(nodes.Count == 0 ? [(0, [])] : [.. nodes.OrderBy(n => n.Number)]);
    }

    /// <summary>The node on which the calling thread runs at this moment.</summary>
    public int CurrentNode()
    {
        if (Nodes.Count == 1) return 0;
        int processor = Thread.GetCurrentProcessorId();
        return (uint)processor < (uint)_nodeOf.Length ? Math.Max(_nodeOf[processor], 0) : 0;
    }

    /// <summary>Keeps the calling thread on a node; false where the system refuses.</summary>
    public bool Pin(int node)
    {
        if (!OperatingSystem.IsLinux() || Nodes[node].Length == 0) return false;
        Span<byte> mask = stackalloc byte[MaxProcessors / 8];
        mask.Clear();
        foreach (int processor in Nodes[node]) mask[processor / 8] |= (byte)(1 << processor % 8);
        return SetAffinity(0, (nuint)mask.Length, mask) == 0;
    }

    /// <summary>Moves memory to a node, as far as whole pages and the system allow; its contents stay.</summary>
    public void Move(nint address, nint bytes, int node)
    {
        if (!OperatingSystem.IsLinux() || Nodes.Count == 1) return;
        long call = RuntimeInformation.ProcessArchitecture switch { Architecture.X64 => 237, Architecture.Arm64 => 235, _ => 0 };
        nint page = Environment.SystemPageSize, first = (address + page - 1) / page * page, end = (address + bytes) / page * page;
        if (call == 0 || first >= end) return;
        Span<byte> mask = stackalloc byte[MaxNodes / 8];
        mask.Clear();
        mask[_numbers[node] / 8] |= (byte)(1 << _numbers[node] % 8);
        _ = BindMemory(call, first, end - first, PreferNode, mask, MaxNodes, MovePages); // refusal changes nothing but speed
    }

    /// <summary>Processors on which the calling thread may run; null where the system does not say.</summary>
    internal static HashSet<int>? Allowed()
    {
        Span<byte> mask = stackalloc byte[MaxProcessors / 8];
        mask.Clear();
        if (GetAffinity(0, (nuint)mask.Length, mask) != 0) return null;
        var allowed = new HashSet<int>();
        for (int p = 0; p < MaxProcessors; p++)
            if ((mask[p / 8] >> p % 8 & 1) != 0) allowed.Add(p);
        return allowed;
    }

    /// <summary>"0-3,8" as 0, 1, 2, 3, 8.</summary>
    private static IEnumerable<int> Parse(string list)
    {
        foreach (string part in list.Split(',', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries))
        {
            string[] ends = part.Split('-');
            int first = int.Parse(ends[0], CultureInfo.InvariantCulture), last = int.Parse(ends[^1], CultureInfo.InvariantCulture);
            for (int p = first; p <= last && p < MaxProcessors; p++) yield return p;
        }
    }

    /// <summary>mbind, which the C library has no name for.</summary>
    [LibraryImport("libc", EntryPoint = "syscall")]
    private static partial long BindMemory(long call, nint address, nint bytes, int mode, ReadOnlySpan<byte> nodes, nuint maxNodes, uint flags);

    [LibraryImport("libc", EntryPoint = "sched_setaffinity")]
    private static partial int SetAffinity(int thread, nuint bytes, ReadOnlySpan<byte> mask);

    [LibraryImport("libc", EntryPoint = "sched_getaffinity")]
    private static partial int GetAffinity(int thread, nuint bytes, Span<byte> mask);
}
