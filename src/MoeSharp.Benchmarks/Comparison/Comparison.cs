using MoeSharp.Cli;

namespace MoeSharp.Benchmarks;

/// <summary>One layer beside a peer: all token counts and the ceilings in turn, round after round, so that a machine that changes speed does so for all.</summary>
internal sealed class Comparison : IDisposable
{
    private readonly CpuBackend _backend;
    private readonly BenchLayer _layer;
    private readonly IPeer _peer;
    private readonly Ceilings _ceilings;
    private readonly Contest[] _contests;

    /// <summary>Makes random weights and gives both sides the same; <paramref name="threads"/> each.</summary>
    public Comparison(BenchShape shape, Func<BenchLayer, int, IPeer> peer, int[] tokens, int threads, CancellationToken cancel)
    {
        _backend = new CpuBackend(threads);
        _layer = BenchLayer.Random(shape, WeightFormat.Block128, null, _backend, cancel);
        _peer = peer(_layer, threads);
        _ceilings = new Ceilings(_backend.Team);
        _contests = [.. tokens.Select(t => new Contest(_layer, _peer, t))];
    }

    /// <summary>Checks that both sides agree, then measures.</summary>
    public ComparisonRun Run(int rounds, Action<string> progress, CancellationToken cancel)
    {
        progress("checking that both sides compute the same");
        Agreement agreement = Agreement.Check(_layer, _peer);
        using var workspace = new Workspace(_layer.Experts.WorkspaceBytes(_contests.Max(c => c.Tokens)));
        foreach (Contest contest in _contests)
        {
            progress($"warm-up, {contest.Tokens} tokens");
            cancel.ThrowIfCancellationRequested();
            contest.WarmUp(workspace);
        }
        for (int round = 1; round <= rounds; round++)
        {
            progress($"round {round} of {rounds}");
            foreach (Contest contest in _contests)
            {
                cancel.ThrowIfCancellationRequested();
                contest.Round(workspace);
            }
            _ceilings.Round();
        }
        return new()
        {
            Shape = _layer.Name,
            Sizes = Names.Of(_layer.Shape),
            Kernel = _layer.Experts.Description,
            Peer = _peer.Name,
            PeerFormat = _peer.Format,
            Threads = _backend.Threads,
            Rounds = rounds,
            ReadGBPerS = _ceilings.ReadGBPerS,
            FmaGFlopPerS = _ceilings.FmaGFlopPerS,
            Bf16DotGFlopPerS = _ceilings.Bf16DotGFlopPerS,
            AmxGFlopPerS = _ceilings.AmxGFlopPerS,
            OurError = agreement.Ours,
            PeerError = agreement.Peer,
            Results = [.. _contests.Select(c => c.Result)],
        };
    }

    public void Dispose()
    {
        _ceilings.Dispose();
        _peer.Dispose();
        _layer.Dispose();
        _backend.Dispose();
    }
}
