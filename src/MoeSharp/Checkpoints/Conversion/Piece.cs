namespace MoeSharp;

/// <summary>A linear layer to be quantized: where its weights lie, what they are called afterwards, and whose they are.</summary>
/// <param name="Source">Tensor that holds them, and which part of it.</param>
/// <param name="Name">Tensor that is written.</param>
/// <param name="Rows">Output features.</param>
/// <param name="Columns">Input features.</param>
/// <param name="Layer">Decoder layer.</param>
/// <param name="Part">Expert, or one of <see cref="QuantizationError"/>'s other parts.</param>
internal sealed record Piece(MatrixSource Source, string Name, int Rows, int Columns, int Layer, int Part)
{
    /// <summary>The module of a tensor: its name without ".weight".</summary>
    public static string Module(string tensor) => tensor.EndsWith(".weight", StringComparison.Ordinal) ? tensor[..^".weight".Length] : tensor;
}

/// <summary>Finds what to quantize in a checkpoint: routed and shared experts, and on demand the other linear layers of the decoder.</summary>
internal sealed class Pieces
{
    /// <summary>Linear layers that serving engines fuse: they are quantized together or not at all.</summary>
    private static readonly string[][] Fused = [["q_proj", "k_proj", "v_proj"], ["q_a_proj", "kv_a_proj_with_mqa"], ["gate_proj", "up_proj"]];
    private readonly Checkpoint _model;
    private readonly WeightFormat _format;
    private readonly Dictionary<string, List<Piece>> _byTensor = [];

    public Pieces(Checkpoint model, WeightFormat format, bool linears)
    {
        _model = model;
        _format = format;
        foreach (int layer in model.MoeLayers)
        {
            AddExperts(layer);
            AddShared(layer);
        }
        if (linears) AddLinears();
    }

    /// <summary>What lies in a tensor; none where it stays as it is.</summary>
    public IReadOnlyList<Piece> In(string tensor) => _byTensor.TryGetValue(tensor, out List<Piece>? pieces) ? pieces : [];

    private void AddExperts(int layer)
    {
        int experts = _model.Router.Experts, hidden = _model.HiddenSize, intermediate = _model.IntermediateSize;
        string block = _model.BlockPrefix(layer);
        var layout = new ExpertLayout(_model.Index, _model.Family, block, experts, _model.ActivationOf(layer).Interleaved);
        MatrixSource first = layout.Gate(0);
        if (first.Transposed || first.Interleaved || layout.GateUpBias is not null)
            throw new UnsupportedException(
                $"{_model.FamilyName} keeps its experts transposed, with gate and up interleaved and biases ({first.Values}); no FP8 form of " +
                "that layout exists that anything would load, so it is not quantized.");
        (string gate, string up, string down) = _model.Family.Projections;
        for (int e = 0; e < experts; e++)
        {
            string Name(MatrixSource source, string projection) => first.Half < 0 ? source.Values : $"{block}experts.{e}.{projection}.weight";
            Add(new(layout.Gate(e), Name(layout.Gate(e), gate), intermediate, hidden, layer, e));
            Add(new(layout.Up(e), Name(layout.Up(e), up), intermediate, hidden, layer, e));
            Add(new(layout.Down(e), Name(layout.Down(e), down), hidden, intermediate, layer, e));
        }
    }

    private void AddShared(int layer)
    {
        int intermediate = _model.SharedIntermediateSize, hidden = _model.HiddenSize;
        if (intermediate == 0) return;
        string at = _model.SharedPrefix(layer);
        (string gate, string up, string down) =
            _model.Index.Has($"{at}gate_proj.weight") ? ("gate_proj", "up_proj", "down_proj") : _model.Family.Projections;
        Shared(gate, intermediate, hidden);
        Shared(up, intermediate, hidden);
        Shared(down, hidden, intermediate);

        void Shared(string projection, int rows, int columns)
        {
            string name = $"{at}{projection}.weight";
            Add(new(new(name, null), name, rows, columns, layer, QuantizationError.Shared));
        }
    }

    private void AddLinears()
    {
        var found = new Dictionary<string, Piece>();
        for (int layer = 0; layer < _model.LayerCount; layer++)
        {
            string block = _model.BlockPrefix(layer), decoder = block[..^(_model.Family.Block.Length + 1)];
            foreach (string name in _model.Index.Names)
            {
                if (!name.StartsWith(decoder, StringComparison.Ordinal) || !name.EndsWith(".weight", StringComparison.Ordinal)) continue;
                if (_byTensor.ContainsKey(name) || name == block + _model.Family.RouterWeight || name == block + _model.Family.SharedGate) continue;
                if (_model.Index.Find(name).Entry.Shape is [long rows, long columns] && IsWorthwhile(rows, columns))
                    found.Add(name, new(new(name, null), name, (int)rows, (int)columns, layer, QuantizationError.Linear));
            }
        }
        foreach (Piece piece in found.Values)
            if (Siblings(piece.Name).All(s => found.ContainsKey(s) || !_model.Index.Has(s))) Add(piece);
    }

    /// <summary>At least one whole block: narrower layers (gates of all kinds) are left alone, as published checkpoints do.</summary>
    private bool IsWorthwhile(long rows, long columns) => rows >= 128 && columns >= 128 && columns % _format.BlockColumns() == 0;

    private static IEnumerable<string> Siblings(string name)
    {
        string module = Piece.Module(name);
        int dot = module.LastIndexOf('.') + 1;
        return Fused.FirstOrDefault(f => f.Contains(module[dot..]))?.Select(s => $"{module[..dot]}{s}.weight") ?? [];
    }

    private void Add(Piece piece)
    {
        if (!_model.Index.Has(piece.Source.Values)) throw new CheckpointException($"{_model.Path} has no tensor {piece.Source.Values}.");
        if (!_byTensor.TryGetValue(piece.Source.Values, out List<Piece>? pieces)) _byTensor.Add(piece.Source.Values, pieces = []);
        pieces.Add(piece);
    }
}
