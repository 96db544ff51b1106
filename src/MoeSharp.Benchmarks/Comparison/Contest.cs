using System.Diagnostics;
using MoeSharp.Cli;

namespace MoeSharp.Benchmarks;

/// <summary>
/// One token count, timed on both sides. A round is a few calls of one side, then the same calls of the other; who begins changes with the round. Each
/// call of a round routes with a new seed, so that weights come from memory; both sides get the same routings.
/// </summary>
internal sealed class Contest
{
    private const int SeedStep = 10_000, MostCalls = 16;
    private const double MillisecondsPerSide = 250;
    private static readonly TimeSpan UntilThreadsPark = TimeSpan.FromMilliseconds(200); // those of ONNX Runtime spin for 115 ms after a call, and would take processors from the other side
    private readonly BenchLayer _layer;
    private readonly IPeer _peer;
    private readonly RoutedCall _call;
    private readonly BFloat16[] _output;
    private readonly List<double> _ours = [], _peers = [];
    private readonly List<long> _ourBytes = [], _peerBytes = [];
    private int _calls;

    public Contest(BenchLayer layer, IPeer peer, int tokens)
    {
        _layer = layer;
        _peer = peer;
        Tokens = tokens;
        _call = new RoutedCall(layer.Shape, tokens);
        _output = new BFloat16[_call.Hidden.Length];
    }

    /// <summary>T.</summary>
    public int Tokens { get; }

    /// <summary>What was measured so far.</summary>
    public ContestResult Result => new(Tokens, [.. _ours], [.. _peers], Median(_ourBytes), Median(_peerBytes), 6L * _call.Ids.Length * _layer.Shape.Hidden * _layer.Shape.Intermediate);

    /// <summary>Compiles what is to be compiled and finds out how many calls a round takes.</summary>
    public void WarmUp(Workspace workspace)
    {
        double slower = 0;
        for (int i = 0; i < 3; i++) slower = Math.Max(TimeOurs(workspace, -i), TimePeer(-i));
        _calls = (int)Math.Clamp(MillisecondsPerSide / slower, 1, MostCalls);
    }

    /// <summary>Times a round of both sides.</summary>
    public void Round(Workspace workspace)
    {
        int round = _ours.Count;
        var ours = new double[_calls];
        var peers = new double[_calls];
        for (int side = 0; side < 2; side++)
        {
            bool isPeer = (side + round) % 2 != 0;
            Thread.Sleep(UntilThreadsPark);
            Time(-1); // wakes the threads
            for (int i = 0; i < _calls; i++) (isPeer ? peers : ours)[i] = Time(round * MostCalls + i);

            double Time(int call) => isPeer ? TimePeer(call) : TimeOurs(workspace, call);
        }
        _ours.Add(Median(ours));
        _peers.Add(Median(peers));
    }

    private double TimeOurs(Workspace workspace, int call)
    {
        Route(call);
        _ourBytes.Add(LayerWork.Routed(_layer.Shape, _layer.Weights, _call.Ids, []).Bytes);
        _peerBytes.Add(_call.TouchedExperts() * _peer.ExpertBytes + 2L * sizeof(float) * _call.Hidden.Length);
        long start = Stopwatch.GetTimestamp();
        _layer.Experts.Forward(_call.Input, _output, workspace);
        return Stopwatch.GetElapsedTime(start).TotalMilliseconds;
    }

    private double TimePeer(int call)
    {
        Route(call);
        _peer.Set(_call.Hidden, _call.Ids, _call.Weights);
        long start = Stopwatch.GetTimestamp();
        _peer.Run();
        return Stopwatch.GetElapsedTime(start).TotalMilliseconds;
    }

    private void Route(int call) => _call.Route(SyntheticRouting.DefaultSeed(RoutingKind.Uniform, Tokens) + (long)SeedStep * (call + MostCalls));

    private static double Median(double[] values) => ContestResult.Median(values);

    private static long Median(List<long> values) => (long)ContestResult.Median([.. values.Select(v => (double)v)]);
}

/// <summary>What a <see cref="Contest"/> measured.</summary>
/// <param name="Tokens">T.</param>
/// <param name="Ours">Median milliseconds of each round.</param>
/// <param name="Peers">The same of the peer.</param>
/// <param name="OurBytes">Values and scales of the experts touched, hidden states in and out; median call.</param>
/// <param name="PeerBytes">The same in the peer's format.</param>
/// <param name="Flops">6 * T * K * H * I.</param>
internal sealed record ContestResult(int Tokens, double[] Ours, double[] Peers, long OurBytes, long PeerBytes, long Flops)
{
    public double OurMilliseconds => Median(Ours);

    public double PeerMilliseconds => Median(Peers);

    /// <summary>The peer's time over ours, of each round: above 1 we are faster.</summary>
    public double[] Ratios => [.. Ours.Zip(Peers, (ours, peer) => peer / ours)];

    /// <summary>Median of <see cref="Ratios"/>.</summary>
    public double Ratio => Median(Ratios);

    public static double Median(double[] values)
    {
        double[] sorted = [.. values.Order()];
        return (sorted[(sorted.Length - 1) / 2] + sorted[sorted.Length / 2]) / 2;
    }
}
