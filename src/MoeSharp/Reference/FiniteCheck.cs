namespace MoeSharp;

/// <summary>
/// Looks at what each step of the reference wrote, before the next one reads it, until it finds a value that is NaN or infinite. As all values before it
/// are finite, either a weight is to blame or the step itself left the range of its number type.
/// </summary>
internal sealed class FiniteCheck
{
    private const int BlockWithoutScales = 128;

    /// <summary>The first one, in the order of steps, experts, rows and columns; null so far.</summary>
    public NonFinite? First { get; private set; }

    /// <summary>Rows of tokens after Quantize.</summary>
    public void Quantized(Rows hidden)
    {
        for (int t = 0; t < hidden.Count && First is null; t++) Look(Step.Quantize, "hidden", hidden, t, new(-1, t, t), "the hidden state or its router weight is not finite");
    }

    /// <summary>Rows of experts after GateUp: gate, then up, of one row after the other.</summary>
    public void GateUp(ExpertsShape shape, ExpertWeights weights, Grouping grouping, ReadOnlySpan<BFloat16> gate, ReadOnlySpan<BFloat16> up)
    {
        if (First is not null) return;
        int width = shape.Intermediate;
        foreach (Place at in new Places(grouping))
        {
            ReadOnlySpan<float> gateBias = weights.Biases is { } b ? b.GateOf(at.Expert, width) : default;
            ReadOnlySpan<float> upBias = weights.Biases is { } c ? c.UpOf(at.Expert, width) : default;
            if (Look(Step.GateUp, "gate", gate.Slice(at.Permuted * width, width), Block(shape), at) is var g and >= 0) Blame(weights.Gate[at.Expert], gateBias, g);
            if (First is not null) break;
            if (Look(Step.GateUp, "up", up.Slice(at.Permuted * width, width), Block(shape), at) is var u and >= 0) Blame(weights.Up[at.Expert], upBias, u);
            if (First is not null) break;
        }
        Locate(shape, grouping);
    }

    /// <summary>Rows of experts after Activate.</summary>
    public void Activated(ExpertsShape shape, Grouping grouping, Rows activated)
    {
        if (First is not null) return;
        foreach (Place at in new Places(grouping))
        {
            Look(Step.Activate, "activated", activated, at.Permuted, at, "gate and up are finite but their product is not");
            if (First is not null) break;
        }
        Locate(shape, grouping);
    }

    /// <summary>Rows of experts after Down.</summary>
    public void Down(ExpertsShape shape, ExpertWeights weights, Grouping grouping, ReadOnlySpan<BFloat16> down)
    {
        if (First is not null) return;
        int width = shape.Hidden;
        foreach (Place at in new Places(grouping))
        {
            ReadOnlySpan<float> bias = weights.Biases is { } b ? b.DownOf(at.Expert, width) : default;
            if (Look(Step.Down, "down", down.Slice(at.Permuted * width, width), Block(shape), at) is var column and >= 0) Blame(weights.Down[at.Expert], bias, column);
            if (First is not null) break;
        }
        Locate(shape, grouping);
    }

    /// <summary>Rows of tokens after Combine.</summary>
    public void Combined(ExpertsShape shape, in ExpertsCall call)
    {
        const string cause = "the experts' rows are finite, so a router weight is not, or their weighted sum leaves the range of the output";
        for (int t = 0; t < call.Tokens && First is null; t++)
        {
            var at = new Place(-1, t, t);
            int column = call.OutputF32.IsEmpty
                ? Look(Step.Combine, "output", call.Output.Slice(t * shape.Hidden, shape.Hidden), BlockWithoutScales, at)
                : Look(Step.Combine, "output", call.OutputF32.Slice(t * shape.Hidden, shape.Hidden), BlockWithoutScales, at);
            if (column >= 0) First = First!.Value with { Cause = cause };
        }
    }

    /// <summary>The token of what was found. Slots of rows are gone after Activate, rows of slots stay.</summary>
    private void Locate(ExpertsShape shape, Grouping grouping)
    {
        if (First is { } first) First = first with { Token = grouping.RowOfSlot.IndexOf(grouping.First(first.Expert) + first.Row) / shape.TopK };
    }

    private static int Block(ExpertsShape shape) => shape.Group == 0 ? BlockWithoutScales : shape.Group;

    /// <summary>A row that enters a GEMM: a block's scale first, since its codes mean nothing without.</summary>
    private void Look(Step step, string what, Rows rows, int row, Place at, string cause)
    {
        if (!rows.Values.IsEmpty)
        {
            Look(step, what, rows.Values.Slice(row * rows.Width, rows.Width), BlockWithoutScales, at);
        }
        else
        {
            int group = rows.ScalesE8M0.IsEmpty ? WeightFormat.Block128.BlockColumns() : WeightFormat.MxFp8.BlockColumns();
            for (int c = 0; c < rows.Width && First is null; c++)
            {
                int block = c / group;
                float scale = rows.ScalesE8M0.IsEmpty ? rows.Scales[row * rows.Groups + block] : rows.ScalesE8M0[row * rows.Groups + block].ToSingle();
                float value = rows.Codes[row * rows.Width + c].ToSingle();
                if (!float.IsFinite(scale)) Found(step, $"{what}_scales", at, block, -1, scale);
                else if (!float.IsFinite(value)) Found(step, what, at, block, c, value);
            }
        }
        if (First is { } first) First = first with { Cause = cause };
    }

    private int Look(Step step, string what, ReadOnlySpan<BFloat16> row, int block, Place at)
    {
        for (int c = 0; c < row.Length; c++)
            if (!float.IsFinite(row[c].ToSingle())) return Found(step, what, at, c / block, c, row[c].ToSingle());
        return -1;
    }

    private int Look(Step step, string what, ReadOnlySpan<float> row, int block, Place at)
    {
        for (int c = 0; c < row.Length; c++)
            if (!float.IsFinite(row[c])) return Found(step, what, at, c / block, c, row[c]);
        return -1;
    }

    private int Found(Step step, string what, Place at, int block, int column, float value)
    {
        First = new(step, what, at.Expert, at.Row, at.Token, block, column, value, "");
        return column;
    }

    /// <summary>The operands of column n are finite, so its row of weights has something, or else the sum left the range of BF16.</summary>
    private void Blame(BlockScaledMatrix weights, ReadOnlySpan<float> bias, int n)
    {
        var row = new float[weights.Columns];
        weights.DequantizeRow(n, row);
        int column = Array.FindIndex(row, value => !float.IsFinite(value));
        string cause = "weights and operands are finite but their sum leaves the range of BF16";
        if (column >= 0)
        {
            string scale = weights.ScaleType == ScaleType.None ? "" : Scale(weights, weights.ScaleRowOf(n), column / weights.Format.BlockColumns());
            cause = $"{weights.Name} holds {row[column]} at row {n}, column {column}{scale}";
        }
        else if (!bias.IsEmpty && !float.IsFinite(bias[n]))
        {
            cause = $"the bias of {weights.Name} holds {bias[n]} at {n}";
        }
        First = First!.Value with { Cause = cause };
    }

    private static string Scale(BlockScaledMatrix weights, int row, int column) =>
        FormattableString.Invariant($", scale {weights.ScaleAt(row, column)} of block ({row}, {column})");

    /// <summary>A row: of an expert, or of a token where the expert is -1.</summary>
    private readonly record struct Place(int Expert, int Row, int Token, int Permuted = 0);

    /// <summary>The rows of all experts in order, without padding.</summary>
    private ref struct Places(Grouping grouping)
    {
        private readonly Grouping _grouping = grouping;
        private int _expert, _row = -1;

        public readonly Places GetEnumerator() => this;

        public readonly Place Current => new(_expert, _row, -1, _grouping.First(_expert) + _row);

        public bool MoveNext()
        {
            for (_row++; _expert < _grouping.Counts.Length; _expert++, _row = 0)
                if (_row < _grouping.Counts[_expert]) return true;
            return false;
        }
    }
}
