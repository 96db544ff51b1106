namespace MoeSharp;

public sealed partial class MoeLayer
{
    private const int WorthATeam = 1 << 16; // elements: some 20 microseconds of one thread

    /// <summary>Routes, runs the routed and the shared experts, and adds up; <paramref name="output"/> is written completely.</summary>
    /// <param name="hidden">[T, H].</param>
    /// <param name="output">[T, H].</param>
    /// <param name="workspace">Null rents one.</param>
    /// <exception cref="ArgumentException">A length is wrong; nothing was computed.</exception>
    /// <exception cref="InvalidOperationException">The workspace is too small for one token, or in use.</exception>
    public void Forward(ReadOnlySpan<BFloat16> hidden, Span<BFloat16> output, Workspace? workspace = null) =>
        Forward(new Call { Hidden = hidden, Output = output }, workspace);

    /// <summary>Same, with FP32 output: the sums before their last rounding.</summary>
    public void Forward(ReadOnlySpan<BFloat16> hidden, Span<float> output, Workspace? workspace = null) =>
        Forward(new Call { Hidden = hidden, OutputF32 = output }, workspace);

    /// <summary>Same with ids and weights from elsewhere, or from an earlier call of <see cref="Router"/>; shared experts are still added.</summary>
    /// <param name="hidden">[T, H].</param>
    /// <param name="topkIds">[T, K]; -1 means no expert.</param>
    /// <param name="topkWeights">[T, K].</param>
    /// <param name="output">[T, H].</param>
    /// <param name="workspace">Null rents one.</param>
    /// <exception cref="ArgumentException">A length is wrong or an id is out of range; nothing was computed.</exception>
    /// <exception cref="InvalidOperationException">The workspace is too small for one token, or in use.</exception>
    public void Forward(
        ReadOnlySpan<BFloat16> hidden, ReadOnlySpan<int> topkIds, ReadOnlySpan<float> topkWeights, Span<BFloat16> output,
        Workspace? workspace = null) =>
        Forward(new Call { Hidden = hidden, IsRouted = true, Ids = topkIds, Weights = topkWeights, Output = output }, workspace);

    /// <summary>Same, with FP32 output.</summary>
    public void Forward(
        ReadOnlySpan<BFloat16> hidden, ReadOnlySpan<int> topkIds, ReadOnlySpan<float> topkWeights, Span<float> output,
        Workspace? workspace = null) =>
        Forward(new Call { Hidden = hidden, IsRouted = true, Ids = topkIds, Weights = topkWeights, OutputF32 = output }, workspace);

    private void Forward(in Call call, Workspace? workspace)
    {
        int tokens = call.Check(HiddenSize, Router.TopK);
        if (call.IsRouted) Permutation.CheckIds(call.Ids, Router.Experts, Router.TopK);
        if (tokens == 0) return;
        Workspace ws = workspace ?? _pool.Rent(tokens);
        ws.Enter();
        CallMeter.CallTimer timer = _meter.Start(tokens);
        try
        {
            int chunk = _pool.Chunk(tokens, ws.Bytes, ws.Plan);
            if (chunk == 0)
                throw new InvalidOperationException(
                    $"The workspace has {ws.Bytes:N0} bytes but one token needs {PlanBytes(1, ws.Plan):N0}; PlanBytes tells how much a call takes.");
            if (chunk < tokens) Log.CallRunsInChunks(_logger, tokens, chunk, ws.Bytes);
            for (int first = 0; first < tokens; first += chunk)
                ForwardChunk(call.Slice(first, Math.Min(chunk, tokens - first), HiddenSize, Router.TopK), ws);
            timer.Complete();
        }
        finally
        {
            timer.Dispose();
            ws.Leave();
            if (workspace is null) _pool.Return(ws);
        }
    }

    /// <summary>Route, routed experts, shared experts as one more slot of the same FP32 chain, one rounding.</summary>
    private void ForwardChunk(Call call, Workspace ws)
    {
        int tokens = call.Hidden.Length / HiddenSize;
        var own = new OwnRows(this, tokens, ws.Bytes);
        if (!call.IsRouted)
        {
            Span<int> ids = ws.Span<int>(own.Ids, tokens * Router.TopK);
            Span<float> weights = ws.Span<float>(own.Weights, tokens * Router.TopK);
            Router.Route(call.Hidden, ids, weights, ws.Span<float>(own.Logits, Router.ScratchLength(tokens)), _team);
            call.Ids = ids;
            call.Weights = weights;
        }
        var input = new ExpertsInput { Hidden = call.Hidden, TopkIds = call.Ids, TopkWeights = call.Weights, ExpertMap = _expertMap };
        if (SharedExperts is null)
        {
            Experts.ForwardEntered(input, call.Output, call.OutputF32, ws);
            return;
        }
        Span<float> sums = call.OutputF32.IsEmpty ? ws.Span<float>(own.Sums, call.Hidden.Length) : call.OutputF32;
        Experts.ForwardEntered(input, default, sums, ws);
        Span<BFloat16> rows = ws.Span<BFloat16>(own.SharedRows, call.Hidden.Length);
        Span<float> ones = ws.Span<float>(own.SharedWeights, tokens);
        ForwardShared(call.Hidden, rows, ones, ws.Span<int>(own.SharedIds, tokens), ws);
        if (_sharedGate is not null) Gate(call.Hidden, weights: ones);
        AddShared(rows, ones, sums, call.Output);
    }

    private void ForwardShared(ReadOnlySpan<BFloat16> hidden, Span<BFloat16> rows, Span<float> ones, Span<int> zeros, Workspace ws)
    {
        zeros.Clear();
        ones.Fill(1f);
        SharedExperts!.ForwardEntered(new ExpertsInput { Hidden = hidden, TopkIds = zeros, TopkWeights = ones }, rows, default, ws);
    }

    private void Gate(ReadOnlySpan<BFloat16> hidden, Span<float> weights)
    {
        _sharedGate!.Compute(hidden, 0, 1, weights);
        foreach (ref float weight in weights) weight = ExpertSelector.Sigmoid(weight);
    }

    private unsafe void AddShared(ReadOnlySpan<BFloat16> rows, ReadOnlySpan<float> weights, Span<float> sums, Span<BFloat16> output)
    {
        fixed (BFloat16* r = rows, o = output)
        fixed (float* w = weights, s = sums)
        {
            var job = new AddSharedJob { Hidden = HiddenSize, Rows = r, Weights = w, Sums = s, Output = o };
            if (_team is not null && sums.Length >= WorthATeam) _team.Run(job, weights.Length);
            else for (int t = 0; t < weights.Length; t++) job.Execute(t, 0);
        }
    }

    /// <summary>One task is one token: its shared row, times its weight, onto its sums, which are then rounded where BF16 is asked for.</summary>
    private unsafe struct AddSharedJob : ITeamJob
    {
        public int Hidden;
        public BFloat16* Rows, Output;
        public float* Weights, Sums;

        public readonly void Execute(int task, int thread)
        {
            nint first = (nint)task * Hidden;
            var sums = new Span<float>(Sums + first, Hidden);
            RowDots.MultiplyAdd(new(Rows + first, Hidden), Weights[task], sums);
            if (Output != null) Conversions.ToBFloat16(sums, new Span<BFloat16>(Output + first, Hidden));
        }
    }

    private long PlanBytes(int tokens, WorkspacePlan plan)
    {
        long experts = Experts.PlanWorkspace(tokens, plan).Bytes;
        long shared = SharedExperts?.PlanWorkspace(tokens, plan).Bytes ?? 0;
        return Math.Max(experts, shared) + new OwnRows(this, tokens, 0).Bytes;
    }

    /// <summary>The layer's own buffers, at the end of the workspace; the experts' plans begin at its start.</summary>
    private readonly struct OwnRows
    {
        public OwnRows(MoeLayer layer, int tokens, long end)
        {
            long at = end / WorkspacePlan.Alignment * WorkspacePlan.Alignment;
            bool shared = layer.SharedExperts is not null;
            Ids = at -= Padded((long)tokens * layer.Router.TopK * sizeof(int));
            Weights = at -= Padded((long)tokens * layer.Router.TopK * sizeof(float));
            Logits = at -= Padded((long)layer.Router.ScratchLength(tokens) * sizeof(float));
            if (shared)
            {
                SharedIds = at -= Padded((long)tokens * sizeof(int));
                SharedWeights = at -= Padded((long)tokens * sizeof(float));
                SharedRows = at -= Padded((long)tokens * layer.HiddenSize * sizeof(ushort));
                Sums = at -= Padded((long)tokens * layer.HiddenSize * sizeof(float));
            }
            Bytes = end / WorkspacePlan.Alignment * WorkspacePlan.Alignment - at;
        }

        public long Ids { get; }
        public long Weights { get; }
        public long Logits { get; }
        public long SharedIds { get; }
        public long SharedWeights { get; }
        public long SharedRows { get; }
        public long Sums { get; }
        public long Bytes { get; }

        private static long Padded(long bytes) => (bytes + WorkspacePlan.Alignment - 1) / WorkspacePlan.Alignment * WorkspacePlan.Alignment;
    }

    /// <summary>One call, or a chunk of it; exactly one of the outputs is given.</summary>
    private ref struct Call
    {
        public ReadOnlySpan<BFloat16> Hidden;
        public bool IsRouted;
        public ReadOnlySpan<int> Ids;
        public ReadOnlySpan<float> Weights;
        public Span<BFloat16> Output;
        public Span<float> OutputF32;

        /// <summary>Checks every length; returns T.</summary>
        public readonly int Check(int hidden, int topK)
        {
            if (Hidden.Length % hidden != 0)
                throw new ArgumentException($"hidden_states has {Hidden.Length} elements, not a multiple of the hidden size {hidden}.");
            int outputs = Output.Length + OutputF32.Length, tokens = Hidden.Length / hidden;
            if (outputs != Hidden.Length)
                throw new ArgumentException($"output has {outputs} elements but hidden_states has {Hidden.Length}; both are [T, H].");
            long routed = (long)tokens * topK;
            if (IsRouted && Ids.Length != routed)
                throw new ArgumentException($"topk_ids has {Ids.Length} elements but {tokens} tokens x top-k {topK} need {routed}.");
            if (IsRouted && Weights.Length != routed)
                throw new ArgumentException($"topk_weights has {Weights.Length} elements but {tokens} tokens x top-k {topK} need {routed}.");
            return tokens;
        }

        public readonly Call Slice(int first, int count, int hidden, int topK) => new()
        {
            Hidden = Hidden.Slice(first * hidden, count * hidden),
            IsRouted = IsRouted,
            Ids = IsRouted ? Ids.Slice(first * topK, count * topK) : default,
            Weights = IsRouted ? Weights.Slice(first * topK, count * topK) : default,
            Output = Output.IsEmpty ? default : Output.Slice(first * hidden, count * hidden),
            OutputF32 = OutputF32.IsEmpty ? default : OutputF32.Slice(first * hidden, count * hidden),
        };
    }
}
