using System.Runtime.ExceptionServices;

namespace MoeSharp;

/// <summary>
/// Streams the matrices of E experts to the device. Several lanes, each a thread with a stream and two slots of staging, take pieces in order: while the
/// thread reads the file into one slot's pinned memory, the other slot's piece is copied to the device and laid out there. Counts NaN codes on the way.
/// </summary>
internal sealed class WeightUpload : IDisposable
{
    private readonly KernelSet _kernels;
    private readonly ExpertWeights _weights;
    private readonly DeviceWeights _target;
    private readonly LoadContext _context;
    private readonly UploadPlan _plan;
    private readonly LoadPiece _progress;
    private readonly UploadLane?[] _lanes;
    private DeviceBuffer? _found;
    private Exception? _failure;
    private int _next = -1;

    internal WeightUpload(KernelSet kernels, ExpertWeights weights, DeviceWeights target, LoadContext context)
    {
        _kernels = kernels;
        _weights = weights;
        _target = target;
        _context = context;
        _plan = new(weights);
        _progress = new(context, 0, 1, _plan.Pieces);
        _lanes = new UploadLane?[_plan.Lanes];
    }

    /// <summary>Loads everything and waits for it; returns whether a code is NaN, and whether an MXFP8 scale is above 2^7.</summary>
    internal (bool HasNaN, bool HasLargeScales) Run()
    {
        _found = new DeviceBuffer(_kernels.Context, UploadPlan.CountBytes, "what is found in weights");
        for (int i = 0; i < _lanes.Length; i++) _lanes[i] = new UploadLane(_kernels.Context, _plan.SlotBytes);
        CudaStream stream = _lanes[0]!.Stream;
        _found.Upload<ulong>([0, ulong.MaxValue, 0], stream);
        stream.Synchronize();
        Task.WaitAll([.. _lanes.Select(lane => Task.Factory.StartNew(() => Work(lane!), CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default))]);
        if (_failure is OperationCanceledException) _context.Cancellation.ThrowIfCancellationRequested();
        if (_failure is not null) ExceptionDispatchInfo.Throw(_failure);
        Span<ulong> found = stackalloc ulong[3];
        _found.Download(found, stream);
        return (found[0] > 0, found[2] > 0);
    }

    /// <summary>Takes pieces until none is left or one of the lanes failed; what it says then is the reason.</summary>
    private void Work(UploadLane lane)
    {
        try
        {
            _context.Cancellation.ThrowIfCancellationRequested();
            for (int piece; Volatile.Read(ref _failure) is null && (piece = Interlocked.Increment(ref _next)) < _plan.Pieces;)
            {
                UploadSlot slot = lane.NextSlot();
                Place(piece, slot, lane.Stream);
                slot.Passed.Record(lane.Stream);
                _progress.Finish();
            }
            lane.Stream.Synchronize();
        }
        catch (Exception reason)
        {
            Interlocked.CompareExchange(ref _failure, reason, null);
        }
    }

    /// <summary>Reads a piece into the slot, queues its copy, and has the device lay it out.</summary>
    private void Place(int piece, UploadSlot slot, CudaStream stream)
    {
        (int expert, int rest) = Math.DivRem(piece, _plan.PiecesPerExpert);
        bool isDown = rest >= _plan.GateUp.Pieces;
        WeightCut cut = isDown ? _plan.Down : _plan.GateUp;
        BlockScaledMatrix first = isDown ? _weights.Down[expert] : _weights.Gate[expert];
        (int index, int pass) = Math.DivRem(isDown ? rest - _plan.GateUp.Pieces : rest, cut.Passes);
        int block = index * cut.Blocks, blocks = Math.Min(cut.Blocks, cut.AllBlocks - block), kBlocks = Formats.Blocks(first.Columns, 128);
        int row = block * cut.RowsPerBlock, rows = Math.Clamp(first.Rows - row, 0, blocks * cut.RowsPerBlock);
        long matrix = cut.MatrixBytes, used = (long)rows * first.Columns * first.Format.ValueBytes();
        ReadPass(slot, first, row, rows, 0, cut, pass);
        if (!isDown) ReadPass(slot, _weights.Up[expert], row, rows, matrix, cut, pass);
        if (first.Format == WeightFormat.MxFp8) used = cut.ScaleOffset + (long)rows * first.ScaleColumns;
        slot.Copy(isDown ? used : matrix + used, stream);
        ulong from = slot.Device.Address, second = isDown ? 0 : from + (ulong)matrix;
        ulong to = (isDown ? _target.Down : _target.GateUp).Address
            + (ulong)((((long)expert * cut.AllBlocks + block) * cut.Passes + pass) * kBlocks * _target.BlockBytes);
        long chunks = (long)blocks * kBlocks * 1024 * first.Format.ValueBytes();
        int grid = (int)Math.Min((chunks + 255) / 256, 16 * _kernels.Context.Multiprocessors);
        using CudaContext.Scope scope = _kernels.Context.Enter();
        if (_target.IsWide)
        {
            _kernels.Wide.Prepare.Launch(new WidePrepareArguments
            {
                First = from,
                Second = second,
                FirstScales = from + (ulong)cut.ScaleOffset,
                SecondScales = second + (ulong)cut.ScaleOffset,
                To = to,
                Found = _found!.Address,
                Rows = rows,
                Columns = first.Columns,
                Blocks = blocks,
                KBlocks = kBlocks,
                Format = WideKernels.IndexOf(first.Format),
            }, grid, stream.Raw);
            return;
        }
        _kernels.Prepare.Launch(new PrepareArguments
        {
            First = from,
            Second = second,
            To = to,
            NaN = _found!.Address,
            Rows = rows,
            Columns = first.Columns,
            Blocks = blocks,
            KBlocks = kBlocks,
        }, grid, stream.Raw);
    }

    /// <summary>All rows; or with two passes those that use the first scale of their 128 rows, then those that use the second, with zeros in place of the others.</summary>
    private static void ReadPass(UploadSlot slot, BlockScaledMatrix matrix, int row, int rows, long offset, WeightCut cut, int pass)
    {
        if (cut.Passes == 1)
        {
            slot.Read(matrix, row, rows, offset);
            if (matrix.Format == WeightFormat.MxFp8) slot.ReadScales(matrix, row, rows, offset + cut.ScaleOffset);
            return;
        }
        int secondScale = Math.Clamp((row / 128 + 1) * 128 - matrix.RowPhase, row, row + rows) - row;
        (int from, int to) = pass == 0 ? (0, secondScale) : (secondScale, rows);
        slot.Clear(offset, (long)rows * matrix.Columns);
        slot.Read(matrix, row + from, to - from, offset + (long)from * matrix.Columns);
    }

    public void Dispose()
    {
        foreach (UploadLane? lane in _lanes) lane?.Dispose();
        _found?.Dispose();
    }
}
