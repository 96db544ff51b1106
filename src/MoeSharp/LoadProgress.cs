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
