namespace MoeSharp.Cli;

/// <summary>
/// Compares a layer with the reference on sampled rows: whole, then expert by expert, so that one wrong expert among hundreds cannot hide in a
/// single number. The reference sees the sampled rows only; rows are independent, so that is exact.
/// </summary>
internal sealed class LayerVerification
{
    private readonly MoeLayer _layer, _reference;
    private readonly BFloat16[] _hidden, _sampledHidden;
    private readonly int[] _rows;
    private readonly int _tokens;

    /// <param name="layer">To be checked.</param>
    /// <param name="reference">The same layer on the reference backend.</param>
    /// <param name="hidden">[T, H].</param>
    /// <param name="rows">How many rows to sample; all when there are not as many.</param>
    public LayerVerification(MoeLayer layer, MoeLayer reference, BFloat16[] hidden, int? rows)
    {
        _layer = layer;
        _reference = reference;
        _hidden = hidden;
        _tokens = hidden.Length / layer.HiddenSize;
        _rows = Sample(_tokens, rows ?? _tokens);
        _sampledHidden = Sampled<BFloat16>(hidden, layer.HiddenSize);
    }

    /// <summary>Runs everything; <paramref name="advance"/> hears how many of the E experts are done, from any thread.</summary>
    public LayerCheck Run(Action<int> advance, CancellationToken cancel)
    {
        (bool idsEqual, Accuracy whole) = CheckWhole();
        int done = 0;
        advance(done);
        var experts = new ExpertCheck[_layer.Experts.Shape.Experts];
        double tolerance = Verdict.Tolerance(_layer.Experts.Shape);
        Parallel.For(0, experts.Length, new ParallelOptions { CancellationToken = cancel }, e =>
        {
            Accuracy error = CheckExpert(e);
            experts[e] = new(e, error, error.IsWithin(tolerance));
            advance(Interlocked.Increment(ref done));
        });
        return new(_layer.Layer, _layer.Experts.Shape, idsEqual, whole, experts);
    }

    /// <summary>The whole layer with its own router.</summary>
    public (bool IdsEqual, Accuracy Error) CheckWhole()
    {
        var output = new float[_hidden.Length];
        var expected = new float[_sampledHidden.Length];
        _layer.Forward(_hidden, output);
        _reference.Forward(_sampledHidden, expected);
        int[] ids = Sampled<int>(Route(_layer.Router, _hidden), _layer.Router.TopK);
        bool idsEqual = ids.AsSpan().SequenceEqual(Route(_reference.Router, _sampledHidden));
        return (idsEqual, Accuracy.Of(Sampled<float>(output, _layer.HiddenSize), expected));
    }

    private Accuracy CheckExpert(int expert)
    {
        float[] output = RunAlone(_layer.Experts, expert, _hidden);
        float[] expected = RunAlone(_reference.Experts, expert, _sampledHidden);
        return Accuracy.Of(Sampled<float>(output, _layer.HiddenSize), expected);
    }

    /// <summary>All tokens to one expert with weight 1; the other slots of top-k stay empty.</summary>
    private static float[] RunAlone(FusedExperts experts, int expert, BFloat16[] hidden)
    {
        int tokens = hidden.Length / experts.HiddenSize, topK = experts.Shape.TopK;
        var ids = new int[tokens * topK];
        var weights = new float[ids.Length];
        Array.Fill(ids, -1);
        for (int t = 0; t < tokens; t++)
        {
            ids[t * topK] = expert;
            weights[t * topK] = 1f;
        }
        var output = new float[hidden.Length];
        experts.Forward(new ExpertsInput { Hidden = hidden, TopkIds = ids, TopkWeights = weights }, output);
        return output;
    }

    private static int[] Route(Router router, BFloat16[] hidden)
    {
        var ids = new int[hidden.Length / router.HiddenSize * router.TopK];
        router.Route(hidden, ids, new float[ids.Length]);
        return ids;
    }

    private T[] Sampled<T>(ReadOnlySpan<T> values, int width)
    {
        var rows = new T[_rows.Length * width];
        for (int r = 0; r < _rows.Length; r++) values.Slice(_rows[r] * width, width).CopyTo(rows.AsSpan(r * width));
        return rows;
    }

    /// <summary>Distinct rows in ascending order, the same ones every time.</summary>
    private static int[] Sample(int tokens, int count)
    {
        int[] rows = [.. Enumerable.Range(0, tokens).OrderBy(row => SplitMix64.Bits(0, row)).Take(count)];
        Array.Sort(rows);
        return rows;
    }
}
