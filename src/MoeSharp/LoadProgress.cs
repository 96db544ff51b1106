namespace MoeSharp;

/// <summary>What loading does at the moment.</summary>
public enum LoadStage : byte
{
    /// <summary>Finds, checks and maps (where needed: copies) the tensors of each expert.</summary>
    Read,
    /// <summary>Lays the weights out for the backend, which reads the files.</summary>
    Prepare,
}

/// <summary>How far loading a layer has come.</summary>
/// <param name="Stage">What is being done.</param>
/// <param name="Done">Units of work done in this stage; only the ratio to <paramref name="Total"/> means something.</param>
/// <param name="Total">Units of work in this stage.</param>
public readonly record struct LoadProgress(LoadStage Stage, int Done, int Total);

/// <summary>Who watches a load and who may stop it.</summary>
/// <param name="Layer">Index of the decoder layer; null where nobody knows.</param>
/// <param name="Progress">Null: nobody watches.</param>
/// <param name="Cancellation">Stops between units of work.</param>
internal readonly record struct LoadContext(int? Layer, IProgress<LoadProgress>? Progress, CancellationToken Cancellation)
{
    /// <summary>After this many units.</summary>
    public void Step(LoadStage stage, int done, int total)
    {
        Progress?.Report(new(stage, done, total));
        Cancellation.ThrowIfCancellationRequested();
    }
}

/// <summary>One of several equal pieces of laying weights out, done by several threads: reports every hundredth of it, and stops between units of work.</summary>
/// <param name="context">Who watches and who may stop it.</param>
/// <param name="piece">Which piece, from 0.</param>
/// <param name="pieces">How many pieces there are.</param>
/// <param name="units">Units of work in this piece.</param>
internal sealed class LoadPiece(LoadContext context, int piece, int pieces, int units)
{
    private const int Parts = 100;
    private readonly Lock _lock = new();
    private int _done, _reported = -1;

    /// <summary>For loops that several threads share.</summary>
    public ParallelOptions Options { get; } = new() { CancellationToken = context.Cancellation };

    /// <summary>After each unit, on any thread.</summary>
    public void Finish()
    {
        int part = (int)((long)Interlocked.Increment(ref _done) * Parts / units);
        if (context.Progress is not null && part > Volatile.Read(ref _reported)) Report(part);
        context.Cancellation.ThrowIfCancellationRequested();
    }

    private void Report(int part)
    {
        lock (_lock)
        {
            if (part <= _reported) return;
            _reported = part;
            context.Progress!.Report(new(LoadStage.Prepare, piece * Parts + part, pieces * Parts));
        }
    }
}
