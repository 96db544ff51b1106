using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace MoeSharp;

/// <summary>32-bit constants behind the code that uses them, each stored once or once in eight lanes.</summary>
internal sealed class ConstantPool(Assembler a)
{
    private const int WideLanes = 8;
    private readonly Dictionary<uint, Label> _labels = [], _wide = [];

    /// <summary>The constant in every lane, as an operand.</summary>
    public AssemblerMemoryOperand Every(uint bits) => __dword_bcst[LabelOf(bits)];

    /// <summary>The constant in every lane, as an operand.</summary>
    public AssemblerMemoryOperand Every(float value) => Every(BitConverter.SingleToUInt32Bits(value));

    /// <summary>The constant alone, as an operand.</summary>
    public AssemblerMemoryOperand One(float value) => __dword_ptr[LabelOf(BitConverter.SingleToUInt32Bits(value))];

    /// <summary>The constant alone, as an operand.</summary>
    public AssemblerMemoryOperand One(uint bits) => __dword_ptr[LabelOf(bits)];

    /// <summary>The constant in eight lanes, for instructions that cannot repeat an operand.</summary>
    public AssemblerMemoryOperand Wide(uint bits) => __ymmword_ptr[LabelIn(_wide, bits)];

    /// <summary>The constant in eight lanes, for instructions that cannot repeat an operand.</summary>
    public AssemblerMemoryOperand Wide(float value) => Wide(BitConverter.SingleToUInt32Bits(value));

    private Label LabelOf(uint bits) => LabelIn(_labels, bits);

    private Label LabelIn(Dictionary<uint, Label> labels, uint bits)
    {
        if (!labels.TryGetValue(bits, out Label label)) labels.Add(bits, label = a.CreateLabel());
        return label;
    }

    /// <summary>Writes what was asked for.</summary>
    public void Emit()
    {
        Emit(_labels, 1);
        Emit(_wide, WideLanes);
    }

    private void Emit(Dictionary<uint, Label> labels, int lanes)
    {
        foreach ((uint bits, Label label) in labels)
        {
            Label here = label;
            a.Label(ref here);
            for (int lane = 0; lane < lanes; lane++) a.dd(bits);
        }
    }
}
