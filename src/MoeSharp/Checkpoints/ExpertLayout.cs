using System.Globalization;

namespace MoeSharp;

/// <summary>How a block stores its experts: a tensor per expert, stacked over experts, or stacked with gate and up fused. Found by looking at
/// names.</summary>
internal sealed class ExpertLayout
{
    private static readonly string[] ScaleSuffixes = ["_scale_inv", "_scales_inv", "_scale"];
    private readonly TensorIndex _index;
    private readonly Family _family;
    private readonly string _perExpert, _stacked;
    private readonly string? _gateUp, _down;

    public ExpertLayout(TensorIndex index, Family family, string block, int experts, bool interleaved)
    {
        _index = index;
        _family = family;
        Experts = experts;
        Interleaved = interleaved;
        (string gate, string up, string down) = family.Projections;
        _perExpert = index.Has($"{block}0.{gate}.weight") ? block : $"{block}experts.";
        bool Stacked(string at) => index.Has($"{at}{gate}.weight") || index.Has($"{at}{up}.weight") || index.Has($"{at}{down}.weight");
        _stacked = Stacked(block) ? block : $"{block}experts.";
        _gateUp = FirstOf($"{block}experts.gate_up_proj", $"{block}experts.gate_up_proj.weight");
        if (_gateUp is not null)
        {
            _down = _gateUp.Replace("gate_up_proj", "down_proj", StringComparison.Ordinal);
            GateUpBias = FirstOf($"{block}experts.gate_up_proj_bias", $"{block}experts.gate_up_proj.bias");
            DownBias = GateUpBias?.Replace("gate_up_proj", "down_proj", StringComparison.Ordinal);
        }
        else
        {
            IsStacked = Stacked(_stacked);
        }
    }

    public int Experts { get; }
    public bool Interleaved { get; }
    public string? GateUpBias { get; }
    public string? DownBias { get; }
    private bool IsStacked { get; }

    public MatrixSource Gate(int expert) => _gateUp is null ? Apart(expert, _family.Projections.Gate) : Fused(_gateUp, expert, 0);

    public MatrixSource Up(int expert) => _gateUp is null ? Apart(expert, _family.Projections.Up) : Fused(_gateUp, expert, 1);

    public MatrixSource Down(int expert) => _gateUp is null
        ? Apart(expert, _family.Projections.Down)
        : new(_down!, ScaleOf(_index, _down!), expert, Experts, Transposed: _family.Transposed);

    /// <summary>Whether a tensor belongs to an expert outside the slice that was read; of those inside, every tensor must have been used.</summary>
    public bool OwnsOutside(string name, int first, int count)
    {
        if (_gateUp is not null || IsStacked || !name.StartsWith(_perExpert, StringComparison.Ordinal)) return false;
        ReadOnlySpan<char> rest = name.AsSpan(_perExpert.Length);
        int dot = rest.IndexOf('.');
        if (dot <= 0 || !int.TryParse(rest[..dot], NumberStyles.None, CultureInfo.InvariantCulture, out int expert)) return false;
        if (expert >= Experts || (expert >= first && expert < first + count) || (rest[0] == '0' && dot > 1)) return false;
        (string gate, string up, string down) = _family.Projections;
        ReadOnlySpan<char> tensor = rest[(dot + 1)..];
        int end = tensor.IndexOf('.');
        if (end < 0) return false;
        ReadOnlySpan<char> projection = tensor[..end], kind = tensor[(end + 1)..];
        return (projection.SequenceEqual(gate) || projection.SequenceEqual(up) || projection.SequenceEqual(down))
            && kind is "weight" or "weight_scale_inv" or "weight_scale";
    }

    /// <summary>The name of a tensor's scales; null where there are none.</summary>
    public static string? ScaleOf(TensorIndex index, string values)
    {
        foreach (string suffix in ScaleSuffixes)
            if (index.Has(values + suffix)) return values + suffix;
        return null;
    }

    private MatrixSource Apart(int expert, string projection)
    {
        string name = IsStacked ? $"{_stacked}{projection}.weight" : $"{_perExpert}{expert}.{projection}.weight";
        return new(name, ScaleOf(_index, name), IsStacked ? expert : -1, Experts);
    }

    private MatrixSource Fused(string name, int expert, int half) =>
        new(name, ScaleOf(_index, name), expert, Experts, half, Interleaved, _family.Transposed);

    private string? FirstOf(string first, string second) => _index.Has(first) ? first : _index.Has(second) ? second : null;
}
