using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace MoeSharp;

/// <summary>
/// What this machine can do at most, measured with the team that runs the kernels. Call <see cref="Round"/> between the rounds of a benchmark, five
/// times at least, so that both see the same machine; the best round counts.
/// </summary>
internal sealed unsafe class Ceilings : IDisposable
{
    private const int ReadTaskBytes = 4 << 20, FmaTaskSteps = 1 << 15, TileTaskSteps = 1 << 11;
    private const long MostReadBytes = 1L << 30;
    private const double BurnSeconds = 0.05;
    private readonly Team _team;
    private readonly NativeBuffer _memory;
    private readonly int _fmaWidth;
    private int _fmaTasks, _dotTasks, _tileTasks;

    /// <summary>Allocates what the read passes go over.</summary>
    /// <param name="bytes">Must be far more than all caches hold; null takes 1 GiB, or an eighth of a small machine's memory.</param>
    public Ceilings(Team team, long? bytes = null)
    {
        _team = team;
        _memory = new NativeBuffer((bytes ?? Math.Min(MostReadBytes, GC.GetGCMemoryInfo().TotalAvailableMemoryBytes / 8)) / ReadTaskBytes * ReadTaskBytes, hugePages: true); // as weights have
        new Span<byte>(_memory.Pointer, (int)Math.Min(_memory.Bytes, int.MaxValue)).Fill(1); // untouched pages would all be one zero page
        _fmaWidth = Simd512.IsSupported ? Simd512.Count : Simd256.IsSupported ? Simd256.Count : Simd128.Count;
        _fmaTasks = _dotTasks = _tileTasks = 8 * team.Threads;
    }

    /// <summary>Rounds measured so far.</summary>
    public int Rounds { get; private set; }

    /// <summary>10^9 bytes per second read from memory by all threads.</summary>
    public double ReadGBPerS { get; private set; }

    /// <summary>10^9 FP32 operations per second of independent fused multiply-adds on all threads, an FMA counting two.</summary>
    public double FmaGFlopPerS { get; private set; }

    /// <summary>The same for BF16 dot products; null where no kernel here uses them.</summary>
    public double? Bf16DotGFlopPerS { get; private set; }

    /// <summary>The same for AMX tile products of BF16; null on a machine without them.</summary>
    public double? AmxGFlopPerS { get; private set; }

    /// <summary>One pass over the memory and one burst of each kind of chains.</summary>
    public void Round()
    {
        int readTasks = (int)(_memory.Bytes / ReadTaskBytes);
        double seconds = Time(new ReadJob { Memory = _memory.Pointer }, readTasks);
        ReadGBPerS = Math.Max(ReadGBPerS, (double)readTasks * ReadTaskBytes / seconds * 1e-9);
        FmaGFlopPerS = Math.Max(FmaGFlopPerS, CpuFeatures.Avx2Fma
            ? Rate(new BurnJob { Code = FmaBurn.Code, Steps = FmaTaskSteps }, (double)FmaBurn.StepOperations * FmaTaskSteps, ref _fmaTasks)
            : Rate(new FmaJob { Width = _fmaWidth }, 2.0 * FmaJob.Chains * _fmaWidth * FmaTaskSteps, ref _fmaTasks));
        if (CpuFeatures.Avx512Bf16)
        {
            var dot = new BurnJob { Code = Bf16DotBurn.Code, Steps = FmaTaskSteps };
            Bf16DotGFlopPerS = Math.Max(Bf16DotGFlopPerS ?? 0, Rate(dot, (double)Bf16DotBurn.StepOperations * FmaTaskSteps, ref _dotTasks));
        }
        if (CpuFeatures.AmxBf16)
        {
            var tiles = new BurnJob { Code = AmxBurn.Code, Steps = TileTaskSteps };
            AmxGFlopPerS = Math.Max(AmxGFlopPerS ?? 0, Rate(tiles, (double)AmxBurn.StepOperations * TileTaskSteps, ref _tileTasks));
        }
        Rounds++;
    }

    /// <summary>10^9 operations per second of so many tasks that they take a while.</summary>
    private double Rate<TJob>(TJob job, double taskOperations, ref int tasks) where TJob : unmanaged, ITeamJob
    {
        double seconds;
        while ((seconds = Time(job, tasks)) < BurnSeconds) tasks *= 2;
        return taskOperations * tasks / seconds * 1e-9;
    }

    private double Time<TJob>(TJob job, int tasks) where TJob : unmanaged, ITeamJob
    {
        long start = Stopwatch.GetTimestamp();
        _team.Run(job, tasks);
        return Stopwatch.GetElapsedTime(start).TotalSeconds;
    }

    /// <summary>Frees the memory.</summary>
    public void Dispose() => _memory.Dispose();

    private struct ReadJob : ITeamJob
    {
        public byte* Memory;

        // Optimized at once: the loop would run whole passes in the slow first tier before being replaced.
        [MethodImpl(MethodImplOptions.AggressiveOptimization)]
        public void Execute(int task, int thread)
        {
            byte* p = Memory + (long)task * ReadTaskBytes, end = p + ReadTaskBytes;
            Vector512<byte> a = default, b = default, c = default, d = default;
            for (; p < end; p += 256)
            {
                a |= Vector512.Load(p);
                b |= Vector512.Load(p + 64);
                c |= Vector512.Load(p + 128);
                d |= Vector512.Load(p + 192);
            }
            if ((a | b | c | d) == Vector512<byte>.AllBitsSet) throw new InvalidOperationException("The memory of a read pass was written to.");
        }
    }

    /// <summary>Chains of generated code.</summary>
    private struct BurnJob : ITeamJob
    {
        public delegate* unmanaged<long, void> Code;
        public long Steps;

        public readonly void Execute(int task, int thread) => Code(Steps);
    }

    /// <summary>Chains of what the compiler makes of C#.</summary>
    private struct FmaJob : ITeamJob
    {
        public const int Chains = 12;
        public int Width;

        public void Execute(int task, int thread)
        {
            if (Width == Simd512.Count) Burn<Simd512>();
            else if (Width == Simd256.Count) Burn<Simd256>();
            else Burn<Simd128>();
        }

        /// <summary>Twelve chains: more than latency times throughput of any core known, fewer than sixteen registers.</summary>
        [MethodImpl(MethodImplOptions.AggressiveOptimization)]
        private static void Burn<T>() where T : unmanaged, ISimd<T>
        {
            T x = T.Create(0.5f), y = T.Create(1f);
            T a = y, b = y, c = y, d = y, e = y, f = y, g = y, h = y, i = y, j = y, k = y, l = y;
            for (int step = 0; step < FmaTaskSteps; step++)
            {
                a = T.MultiplyAdd(a, x, y);
                b = T.MultiplyAdd(b, x, y);
                c = T.MultiplyAdd(c, x, y);
                d = T.MultiplyAdd(d, x, y);
                e = T.MultiplyAdd(e, x, y);
                f = T.MultiplyAdd(f, x, y);
                g = T.MultiplyAdd(g, x, y);
                h = T.MultiplyAdd(h, x, y);
                i = T.MultiplyAdd(i, x, y);
                j = T.MultiplyAdd(j, x, y);
                k = T.MultiplyAdd(k, x, y);
                l = T.MultiplyAdd(l, x, y);
            }
            float* sink = stackalloc float[T.Count];
            T sum = T.MultiplyAdd(a, b, T.MultiplyAdd(c, d, T.MultiplyAdd(e, f, T.MultiplyAdd(g, h, T.MultiplyAdd(i, j, T.MultiplyAdd(k, l, y))))));
            T.Store(sum, sink);
            if (sink[0] < 0) throw new InvalidOperationException("Chains of positive numbers became negative.");
        }
    }
}
