using MoeSharp.Cli;

namespace MoeSharp.Benchmarks;

/// <summary>
/// Whether both sides of a comparison compute the same layer: each is held to the reference backend with BF16 activations, which adds no rounding of
/// its own worth mentioning, so that an error is what a side's quantization costs.
/// </summary>
/// <param name="Ours">Relative error (L2) of the worst token.</param>
/// <param name="Peer">The same of the peer.</param>
internal readonly record struct Agreement(double Ours, double Peer)
{
    /// <summary>FP8 activations round twice to three bits of mantissa, int8 weights and activations to seven bits below the largest of a block.</summary>
    private const double MostOurs = 0.08, MostPeer = 0.03;
    private const int Tokens = 2;

    /// <summary>Runs a few tokens through all three.</summary>
    /// <exception cref="InvalidOperationException">An error is larger than quantization explains.</exception>
    public static Agreement Check(BenchLayer layer, IPeer peer)
    {
        using var exact = new FusedExperts(
            new ExpertsOptions { TopK = layer.Shape.TopK, Activation = layer.Shape.Activation, Activations = ActivationFormat.Bf16 }, layer.Weights, ExpertsBackends.Reference);
        var call = new RoutedCall(layer.Shape, Tokens);
        call.Route(seed: 1);
        var expected = new BFloat16[call.Hidden.Length];
        using (var workspace = new Workspace(exact.WorkspaceBytes(Tokens))) exact.Forward(call.Input, expected, workspace);
        var actual = new BFloat16[call.Hidden.Length];
        using (var workspace = new Workspace(layer.Experts.WorkspaceBytes(Tokens))) layer.Experts.Forward(call.Input, actual, workspace);
        peer.Set(call.Hidden, call.Ids, call.Weights);
        peer.Run();
        var agreement = new Agreement(WorstRow([.. actual.Select(v => v.ToSingle())], expected), WorstRow(peer.Output, expected));
        return agreement is { Ours: < MostOurs, Peer: < MostPeer }
            ? agreement
            : throw new InvalidOperationException($"The sides do not compute the same layer: relative errors are {agreement.Ours:E1} here and {agreement.Peer:E1} for {peer.Name}.");
    }

    private static double WorstRow(ReadOnlySpan<float> actual, ReadOnlySpan<BFloat16> expected)
    {
        int width = expected.Length / Tokens;
        double worst = 0;
        for (int t = 0; t < Tokens; t++)
        {
            double error = 0, norm = 0;
            for (int i = t * width; i < (t + 1) * width; i++)
            {
                double value = expected[i].ToSingle(), difference = actual[i] - value;
                error += difference * difference;
                norm += value * value;
            }
            worst = Math.Max(worst, Math.Sqrt(error / norm));
        }
        return worst;
    }
}
