namespace MoeSharp.Cli;

/// <summary>
/// Rounds over all rows and the ceilings in turn, so that a machine that slows down or speeds up does so for all of them.
/// </summary>
internal sealed class BenchRounds(BenchLayer layer, IReadOnlyList<BenchCase> cases, Ceilings ceilings)
{
    private const int Rounds = 5, RepetitionsPerRound = 8, FewestRepetitions = 3;
    private const double MillisecondsPerRound = 250, EnoughMilliseconds = 20_000, WarmUpMilliseconds = 300;

    /// <summary>Steps that <see cref="Run"/> reports.</summary>
    public int Steps => (Rounds + 1) * cases.Count + Rounds;

    /// <summary>Fills the cases and the ceilings; calls <paramref name="step"/> with what comes next and how many steps are done.</summary>
    public void Run(Action<string, double> step, CancellationToken cancel)
    {
        int done = 0;
        using var workspace = new Workspace(layer.Experts.WorkspaceBytes(cases.Max(c => c.Tokens)));
        foreach (BenchCase row in cases)
        {
            step($"warm-up, {row.Tokens} tokens", done++);
            cancel.ThrowIfCancellationRequested();
            WarmUp(row, workspace);
        }
        for (int round = 1; round <= Rounds; round++)
        {
            foreach (BenchCase row in cases)
            {
                step($"round {round} of {Rounds}, {row.Tokens} tokens", done++);
                Repeat(row, workspace, cancel);
            }
            step($"round {round} of {Rounds}, ceilings", done++);
            cancel.ThrowIfCancellationRequested();
            ceilings.Round();
        }
    }

    private static void WarmUp(BenchCase row, Workspace workspace)
    {
        long until = Environment.TickCount64 + (long)WarmUpMilliseconds;
        do row.Run(workspace, record: false);
        while (Environment.TickCount64 < until);
    }

    private static void Repeat(BenchCase row, Workspace workspace, CancellationToken cancel)
    {
        double before = row.TotalMilliseconds;
        for (int i = 0; i < RepetitionsPerRound; i++)
        {
            cancel.ThrowIfCancellationRequested();
            if (row.Repetitions >= FewestRepetitions && row.TotalMilliseconds > EnoughMilliseconds) return;
            row.Run(workspace, record: true);
            if (row.TotalMilliseconds - before > MillisecondsPerRound) return;
        }
    }
}
