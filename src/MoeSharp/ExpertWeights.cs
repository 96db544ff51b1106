using System.Runtime.InteropServices;

namespace MoeSharp;

/// <summary>
/// The weights of E experts: gate [I, H], up [I, H], down [H, I] of each, all in one format, and optional biases. Immutable and shareable between
/// threads and layers. Keeps mapped files and buffers alive until disposed.
/// </summary>
public sealed class ExpertWeights : IDisposable
{
    private readonly List<SafeHandle> _held = [];
    private bool _disposed;

    /// <summary>Takes the matrices of every expert.</summary>
    /// <param name="gate">E matrices [I, H].</param>
    /// <param name="up">E matrices [I, H].</param>
    /// <param name="down">E matrices [H, I].</param>
    /// <param name="biases">Added in FP32 before each GEMM's rounding; null where the model has none.</param>
    /// <exception cref="ArgumentException">Counts, shapes or formats disagree; the message names the expert and the matrix.</exception>
    public ExpertWeights(BlockScaledMatrix[] gate, BlockScaledMatrix[] up, BlockScaledMatrix[] down, ExpertBiases? biases = null)
    {
        if (gate.Length == 0) throw new ArgumentException("At least one expert is needed.", nameof(gate));
        if (up.Length != gate.Length || down.Length != gate.Length)
            throw new ArgumentException($"There are {gate.Length} gate, {up.Length} up and {down.Length} down matrices; the counts must be equal.");
        Gate = gate;
        Up = up;
        Down = down;
        Biases = biases;
        for (int e = 0; e < gate.Length; e++)
        {
            Require(gate[e], IntermediateSize, HiddenSize, "gate", e);
            Require(up[e], IntermediateSize, HiddenSize, "up", e);
            Require(down[e], HiddenSize, IntermediateSize, "down", e);
        }
        biases?.Validate(Count, HiddenSize, IntermediateSize);
        Hold(gate);
        Hold(up);
        Hold(down);
    }

    /// <summary>E: experts held here.</summary>
    public int Count => Gate.Length;

    /// <summary>H.</summary>
    public int HiddenSize => Gate[0].Columns;

    /// <summary>I: per rank.</summary>
    public int IntermediateSize => Gate[0].Rows;

    /// <summary>The common format.</summary>
    public WeightFormat Format => Gate[0].Format;

    /// <summary>[E] matrices [I, H].</summary>
    public IReadOnlyList<BlockScaledMatrix> GateMatrices => Gate;

    /// <summary>[E] matrices [I, H].</summary>
    public IReadOnlyList<BlockScaledMatrix> UpMatrices => Up;

    /// <summary>[E] matrices [H, I].</summary>
    public IReadOnlyList<BlockScaledMatrix> DownMatrices => Down;

    /// <summary>Expert biases, where the model has them.</summary>
    public ExpertBiases? Biases { get; }

    /// <summary>Bytes of values and scales.</summary>
    public long Bytes => Gate.Sum(m => m.Bytes) + Up.Sum(m => m.Bytes) + Down.Sum(m => m.Bytes);

    /// <summary>Whether scale blocks of gate or up begin before their row 0.</summary>
    internal bool HasStraddlingScales => Gate.Concat(Up).Any(matrix => matrix.RowPhase != 0);

    /// <summary>Says which bytes of which files these are, and changes when the files do; null for weights made in memory.</summary>
    internal string? Source { get; init; }

    internal BlockScaledMatrix[] Gate { get; }
    internal BlockScaledMatrix[] Up { get; }
    internal BlockScaledMatrix[] Down { get; }

    /// <summary>Splits packed w13 [E, 2I, H] (gate rows first) and takes w2 [E, H, I], copying both.</summary>
    /// <param name="format">A format with FP8 values.</param>
    /// <param name="experts">E.</param>
    /// <param name="hidden">H.</param>
    /// <param name="intermediate">I.</param>
    /// <param name="w13">[E, 2I, H].</param>
    /// <param name="w13Scale">[E, scale rows, ⌈H / block columns⌉]; how many scale rows there are depends on <paramref name="rule"/>.</param>
    /// <param name="w2">[E, H, I].</param>
    /// <param name="w2Scale">[E, ⌈H / block rows⌉, ⌈I / block columns⌉].</param>
    /// <param name="rule">How scale rows of w13 pair with its rows; matters when I is not a multiple of 128.</param>
    public static ExpertWeights FromPacked(WeightFormat format, int experts, int hidden, int intermediate, ReadOnlySpan<Float8E4M3> w13,
        ReadOnlySpan<float> w13Scale, ReadOnlySpan<Float8E4M3> w2, ReadOnlySpan<float> w2Scale, PackedScaleRows rule = PackedScaleRows.PerHalf)
    {
        if (format == WeightFormat.Bf16)
            throw new ArgumentException("Packed BF16 weights have no scales; build the matrices with BlockScaledMatrix.CreateBf16.", nameof(format));
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(experts);
        int blockRows = format.BlockRows(), scaleColumns = Formats.Blocks(hidden, format.BlockColumns());
        int halfRows = Formats.Blocks(intermediate, blockRows);
        int scaleRows = rule == PackedScaleRows.PerHalf ? 2 * halfRows : Formats.Blocks(checked(2 * intermediate), blockRows);
        int upFirst = rule == PackedScaleRows.PerHalf ? halfRows : intermediate / blockRows;
        int upPhase = rule == PackedScaleRows.PerHalf ? 0 : intermediate % blockRows;
        long half = (long)intermediate * hidden;
        long w2Scales = (long)Formats.Blocks(hidden, blockRows) * Formats.Blocks(intermediate, format.BlockColumns());
        RequireLength(w13.Length, experts * 2 * half, nameof(w13));
        RequireLength(w2.Length, experts * half, nameof(w2));
        RequireLength(w13Scale.Length, (long)experts * scaleRows * scaleColumns, nameof(w13Scale));
        RequireLength(w2Scale.Length, experts * w2Scales, nameof(w2Scale));
        var gate = new BlockScaledMatrix[experts];
        var up = new BlockScaledMatrix[experts];
        var down = new BlockScaledMatrix[experts];
        for (int e = 0; e < experts; e++)
        {
            ReadOnlySpan<Float8E4M3> values = w13.Slice((int)(e * 2 * half), (int)(2 * half));
            ReadOnlySpan<float> scales = w13Scale.Slice(e * scaleRows * scaleColumns, scaleRows * scaleColumns);
            gate[e] = BlockScaledMatrix.Create(format, intermediate, hidden, values[..(int)half], scales[..(halfRows * scaleColumns)],
                $"w13[{e}] gate");
            up[e] = CreateUp(format, intermediate, hidden, values[(int)half..], scales[(upFirst * scaleColumns)..], upPhase, $"w13[{e}] up");
            down[e] = BlockScaledMatrix.Create(format, hidden, intermediate, w2.Slice((int)(e * half), (int)half),
                w2Scale.Slice((int)(e * w2Scales), (int)w2Scales), $"w2[{e}]");
        }
        return new(gate, up, down);
    }

    private static unsafe BlockScaledMatrix CreateUp(WeightFormat format, int rows, int columns, ReadOnlySpan<Float8E4M3> values,
        ReadOnlySpan<float> scales, int phase, string name)
    {
        if (phase == 0)
            return BlockScaledMatrix.Create(format, rows, columns, values,
                scales[..(Formats.Blocks(rows, format.BlockRows()) * Formats.Blocks(columns, format.BlockColumns()))], name);
        BlockScaledMatrix matrix = BlockScaledMatrix.Allocate(name, format, ScaleType.F32, rows, columns, phase);
        if (format == WeightFormat.Block128PowerOfTwo) BlockScaledMatrix.RequirePowersOfTwo(scales, format, name);
        MemoryMarshal.AsBytes(values).CopyTo(new Span<byte>(matrix.Storage.Values, values.Length));
        scales[..(matrix.ScaleRows * matrix.ScaleColumns)].CopyTo(new Span<float>(matrix.Storage.Scales, matrix.ScaleRows * matrix.ScaleColumns));
        return matrix;
    }

    /// <summary>Releases mapped files and buffers. A layer built from these weights must not be used afterwards unless its backend made its own
    /// copy.</summary>
    public void Dispose()
    {
        if (_disposed) return;
        _disposed = true;
        foreach (SafeHandle handle in _held) handle.DangerousRelease();
        Free([.. Gate, .. Up, .. Down]);
    }

    /// <summary>Frees copies; null where a matrix was never made.</summary>
    internal static void Free(ReadOnlySpan<BlockScaledMatrix?> matrices)
    {
        foreach (BlockScaledMatrix? matrix in matrices)
            if (matrix?.Storage.ValuesOwner is NativeBuffer own) own.Dispose();
    }

    private void Hold(BlockScaledMatrix[] matrices)
    {
        foreach (BlockScaledMatrix matrix in matrices)
        {
            Hold(matrix.Storage.ValuesOwner);
            if (matrix.Storage.ScalesOwner is { } scales && scales != matrix.Storage.ValuesOwner) Hold(scales);
        }
    }

    private void Hold(SafeHandle handle)
    {
        bool held = false;
        handle.DangerousAddRef(ref held);
        if (held) _held.Add(handle);
    }

    private void Require(BlockScaledMatrix matrix, int rows, int columns, string what, int expert)
    {
        if (matrix.Rows != rows || matrix.Columns != columns)
            throw new ArgumentException(
                $"{what} of expert {expert} ({matrix.Name}) is [{matrix.Rows}, {matrix.Columns}] but [{rows}, {columns}] is needed to match gate " +
                "of expert 0.");
        if (matrix.Format != Format)
            throw new ArgumentException(
                $"{what} of expert {expert} ({matrix.Name}) is {matrix.Format} but gate of expert 0 is {Format}; one layer has one format.");
    }

    private static void RequireLength(int actual, long expected, string what)
    {
        if (actual != expected) throw new ArgumentException($"{what} needs {expected} elements but {actual} were given.", what);
    }
}

/// <summary>How the scale rows of a packed w13 [2I, H] pair with its rows.</summary>
public enum PackedScaleRows : byte
{
    /// <summary>⌈I/128⌉ scale rows for gate, then as many for up: how checkpoints store them.</summary>
    PerHalf,
    /// <summary>⌈2I/128⌉ scale rows over the fused rows: row n uses ⌊n/128⌋, and a block may straddle gate and up.</summary>
    Fused,
}

/// <summary>Biases of E experts in FP32, contiguous.</summary>
/// <param name="Gate">[E, I].</param>
/// <param name="Up">[E, I].</param>
/// <param name="Down">[E, H].</param>
public sealed record ExpertBiases(float[] Gate, float[] Up, float[] Down)
{
    /// <summary>[I] of one expert.</summary>
    internal ReadOnlySpan<float> GateOf(int expert, int intermediate) => Gate.AsSpan(expert * intermediate, intermediate);

    /// <summary>[I] of one expert.</summary>
    internal ReadOnlySpan<float> UpOf(int expert, int intermediate) => Up.AsSpan(expert * intermediate, intermediate);

    /// <summary>[H] of one expert.</summary>
    internal ReadOnlySpan<float> DownOf(int expert, int hidden) => Down.AsSpan(expert * hidden, hidden);

    internal void Validate(int experts, int hidden, int intermediate)
    {
        if (Gate.LongLength != (long)experts * intermediate || Up.LongLength != Gate.LongLength || Down.LongLength != (long)experts * hidden)
            throw new ArgumentException(
                $"Biases need {experts} x {intermediate} gate, as many up and {experts} x {hidden} down values but {Gate.Length}, {Up.Length} " +
                $"and {Down.Length} were given.");
    }
}
