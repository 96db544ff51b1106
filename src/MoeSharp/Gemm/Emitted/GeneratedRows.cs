using System.Collections.Concurrent;

namespace MoeSharp;

/// <summary>Generated row kernels, made once for each kind of layer.</summary>
internal static unsafe class GeneratedRows
{
    private readonly record struct Kind(
        WeightFormat Format, int Group, bool PowerOfTwo, Activation Activation, RoundingMode Rounding, bool HasBiases, int DownColumns);

    private static readonly ConcurrentDictionary<Kind, GeneratedCode> s_code = new();

    public static RowKernels For(ExpertsShape shape, bool hasBiases, int downColumns)
    {
        var kind = new Kind(shape.Format, shape.Group, shape.PowerOfTwoScales, shape.Activation, shape.Rounding, hasBiases, downColumns);
        GeneratedCode code = s_code.GetOrAdd(kind, _ => Generate(shape, hasBiases, downColumns));
        return new RowKernels
        {
            Quantize = (delegate* unmanaged<QuantizeBlocks*, void>)code[0],
            Activate = (delegate* unmanaged<ActivateRows*, void>)code[1],
            Round = (delegate* unmanaged<RoundRows*, void>)code[2],
            CombineToBf16 = (delegate* unmanaged<CombineRows*, void>)code[3],
        };
    }

    private static GeneratedCode Generate(ExpertsShape shape, bool hasBiases, int downColumns)
    {
        var code = new GeneratedCode.Builder();
        var rows = new RowEmitter(code.Assembler, code.Constants, shape, hasBiases);
        var combine = new CombineEmitter(code.Assembler, code.Constants, downColumns);
        code.Add(rows.EmitQuantize);
        code.Add(rows.EmitActivate);
        code.Add(() => combine.EmitRound(hasBiases));
        code.Add(combine.EmitCombine);
        return code.Load();
    }
}
