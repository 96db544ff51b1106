namespace MoeSharp.Cli;

/// <summary>How far one expert of a is from b's.</summary>
/// <param name="Expert">-1 for the shared experts.</param>
/// <param name="Rows">Tokens that it computed.</param>
/// <param name="IsRouted">Whether the router sent them; an expert without tokens computes token 0, so that none goes unseen.</param>
/// <param name="Error">Of a against b.</param>
internal sealed record ExpertDifference(int Expert, int Rows, bool IsRouted, Accuracy Error);

/// <summary>One row of one expert.</summary>
/// <param name="Expert">-1 for the shared experts.</param>
/// <param name="Token">Index of the token.</param>
/// <param name="Column">Where a and b differ most.</param>
/// <param name="Relative">Norm of the row's difference over norm of b's row.</param>
/// <param name="A">a's value there.</param>
/// <param name="B">b's value there.</param>
internal sealed record RowDifference(int Expert, int Token, int Column, double Relative, float A, float B);

/// <summary>
/// Two sides on the same tokens with the same routing. b is what a is measured against. Beside the whole layer, each expert alone computes the tokens
/// routed to it with weight 1, so that one wrong expert among hundreds cannot hide in a sum; one call does them all.
/// </summary>
internal sealed class Comparison
{
    private readonly MoeLayer _a, _b;
    private readonly RunInput _input;
    private readonly int _tokens, _hidden, _topK;

    public Comparison(MoeLayer a, MoeLayer b, RunInput input)
    {
        _a = a;
        _b = b;
        _input = input;
        (_hidden, _topK) = (a.HiddenSize, a.Router.TopK);
        CheckSizes();
        _tokens = input.Hidden.Length / _hidden;
        (Ids, Weights) = input.Ids is null || input.Weights is null ? Route(a.Router) : (input.Ids, input.Weights);
        DifferentIds = input.Ids is not null ? 0 : Ids.Zip(Route(b.Router).Ids).Count(pair => pair.First != pair.Second);
    }

    /// <summary>[T, K]: a's routing, for both.</summary>
    public int[] Ids { get; }

    /// <summary>[T, K].</summary>
    public float[] Weights { get; }

    /// <summary>Slots for which b's router would have picked another expert.</summary>
    public int DifferentIds { get; }

    /// <summary>Routed and shared experts together, in FP32.</summary>
    public Accuracy Whole { get; private set; }

    /// <summary>One per routed expert, then the shared ones.</summary>
    public List<ExpertDifference> Experts { get; } = [];

    /// <summary>The rows of all experts, worst first.</summary>
    public List<RowDifference> Rows { get; } = [];

    /// <summary>Runs both sides.</summary>
    public void Run(CancellationToken cancel)
    {
        float[] a = new float[_input.Hidden.Length], b = new float[a.Length];
        _a.Forward(_input.Hidden, Ids, Weights, a);
        cancel.ThrowIfCancellationRequested();
        _b.Forward(_input.Hidden, Ids, Weights, b);
        cancel.ThrowIfCancellationRequested();
        Whole = Accuracy.Of(a, b);
        CompareExperts(cancel);
        if (_a.SharedExperts is not null) CompareShared();
        Rows.Sort((x, y) => Badness(y).CompareTo(Badness(x)));
    }

    /// <summary>Every row is of one expert; experts ascend.</summary>
    private void CompareExperts(CancellationToken cancel)
    {
        int experts = _a.Experts.Shape.Experts;
        List<int>[] tokens = [.. Enumerable.Range(0, experts).Select(_ => new List<int>())];
        for (int slot = 0; slot < Ids.Length; slot++)
            if (Ids[slot] >= 0) tokens[Ids[slot]].Add(slot / _topK);
        bool[] routed = [.. tokens.Select(list => list.Count > 0)];
        if (_tokens > 0)
            foreach (List<int> list in tokens.Where(list => list.Count == 0)) list.Add(0);

        (int Expert, int Token)[] rows = [.. tokens.SelectMany((list, expert) => list.Select(token => (expert, token)))];
        if ((long)rows.Length * _hidden > Array.MaxLength) throw new ArgumentException($"{_tokens} tokens of hidden size {_hidden} are more than one comparison takes; lower --tokens.");
        float[] a = RunAlone(_a.Experts, rows);
        cancel.ThrowIfCancellationRequested();
        float[] b = RunAlone(_b.Experts, rows);
        for (int expert = 0, first = 0; expert < experts; first += tokens[expert++].Count)
            Experts.Add(Compare(expert, [.. tokens[expert]], routed[expert], a.AsSpan(first * _hidden), b.AsSpan(first * _hidden)));
    }

    private float[] RunAlone(FusedExperts experts, (int Expert, int Token)[] rows)
    {
        var hidden = new BFloat16[rows.Length * _hidden];
        var ids = new int[rows.Length * _topK];
        var weights = new float[ids.Length];
        Array.Fill(ids, -1);
        for (int r = 0; r < rows.Length; r++)
        {
            _input.Hidden.AsSpan(rows[r].Token * _hidden, _hidden).CopyTo(hidden.AsSpan(r * _hidden));
            ids[r * _topK] = rows[r].Expert;
            weights[r * _topK] = 1f;
        }
        var output = new float[hidden.Length];
        experts.Forward(new ExpertsInput { Hidden = hidden, TopkIds = ids, TopkWeights = weights }, output);
        return output;
    }

    private void CompareShared()
    {
        float[] a = Shared(_a.SharedExperts!), b = Shared(_b.SharedExperts!);
        Experts.Add(Compare(-1, [.. Enumerable.Range(0, _tokens)], true, a, b));

        float[] Shared(FusedExperts experts)
        {
            var output = new float[_input.Hidden.Length];
            float[] ones = [.. Enumerable.Repeat(1f, _tokens)];
            experts.Forward(new ExpertsInput { Hidden = _input.Hidden, TopkIds = new int[_tokens], TopkWeights = ones }, output);
            return output;
        }
    }

    private ExpertDifference Compare(int expert, int[] tokens, bool isRouted, ReadOnlySpan<float> a, ReadOnlySpan<float> b)
    {
        for (int r = 0; r < tokens.Length; r++)
            Rows.Add(CompareRow(expert, tokens[r], a.Slice(r * _hidden, _hidden), b.Slice(r * _hidden, _hidden)));
        int length = tokens.Length * _hidden;
        return new(expert, tokens.Length, isRouted, Accuracy.Of(a[..length], b[..length]));
    }

    private static RowDifference CompareRow(int expert, int token, ReadOnlySpan<float> a, ReadOnlySpan<float> b)
    {
        int worst = 0;
        for (int c = 1; c < a.Length && !float.IsNaN(a[worst] - b[worst]); c++)
            if (!(Math.Abs(a[c] - b[c]) <= Math.Abs(a[worst] - b[worst]))) worst = c;
        return new(expert, token, worst, Accuracy.Of(a, b).RelativeL2, a[worst], b[worst]);
    }

    /// <summary>NaN is worse than any number.</summary>
    private static double Badness(RowDifference row) => double.IsNaN(row.Relative) ? double.PositiveInfinity : row.Relative;

    private (int[] Ids, float[] Weights) Route(Router router)
    {
        var ids = new int[_tokens * _topK];
        var weights = new float[ids.Length];
        router.Route(_input.Hidden, ids, weights);
        return (ids, weights);
    }

    private void CheckSizes()
    {
        (ExpertsShape a, ExpertsShape b) = (_a.Experts.Shape, _b.Experts.Shape);
        string InWords(ExpertsShape shape, MoeLayer layer) =>
            $"{shape.Experts} experts, top-{shape.TopK}, hidden {shape.Hidden}, intermediate {shape.Intermediate}{(layer.SharedExperts is { } s ? $", shared {s.Shape.Intermediate}" : "")}";
        if (InWords(a, _a) != InWords(b, _b))
            throw new ArgumentException($"The two layers differ in size, so there is nothing to compare: MODEL has {InWords(a, _a)} but MODEL2 has {InWords(b, _b)}.");
    }
}
