namespace MoeSharp;

/// <summary>
/// Rows that enter a GEMM, exact in FP32: E4M3 codes with one scale per 128 values; MXFP8 with its scale already multiplied in (exact), so without scales;
/// or BF16, without scales.
/// </summary>
/// <param name="values">[rows, width].</param>
/// <param name="scales">[rows, groups]; unused where there are none.</param>
/// <param name="width">Values of a row.</param>
/// <param name="groups">Scales of a row.</param>
internal readonly ref struct Operand(Span<float> values, Span<float> scales, int width, int groups)
{
    private readonly Span<float> _values = values, _scales = scales;

    public int Width => width;
    public int Groups => groups;
    public int Count => width == 0 ? 0 : _values.Length / width;

    public Span<float> Row(int row) => _values.Slice(row * width, width);

    public Span<float> Scales(int row) => _scales.Slice(row * groups, groups);

    public Operand Rows(int first, int count) => new(_values.Slice(first * width, count * width), _scales.Slice(first * groups, count * groups), width, groups);
}
