namespace MoeSharp.Cli;

/// <summary>Progress of loading as one step of a bar.</summary>
/// <param name="step">Takes what is being done, and how many steps lie behind.</param>
/// <param name="first">Steps before this one.</param>
/// <param name="what">Written before what is being done.</param>
internal sealed class LoadSteps(Action<string, double> step, int first = 0, string what = "") : IProgress<LoadProgress>
{
    private const double ReadShare = 0.1; // files are mapped: most of the work is laying them out

    public void Report(LoadProgress value)
    {
        double part = (double)value.Done / value.Total;
        if (value.Stage == LoadStage.Read) step($"{what}finding tensors", first + ReadShare * part);
        else step($"{what}laying out weights", first + ReadShare + (1 - ReadShare) * part);
    }
}
