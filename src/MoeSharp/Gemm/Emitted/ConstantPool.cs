using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace MoeSharp;

/// <summary>32-bit constants behind the code that uses them, each stored once.</summary>
internal sealed class ConstantPool(Assembler a)
{
    private readonly Dictionary<uint, Label> _labels = [];

    /// <summary>The constant in every lane, as an operand.</summary>
    public AssemblerMemoryOperand Every(uint bits) => __dword_bcst[LabelOf(bits)];

    /// <summary>The constant in every lane, as an operand.</summary>
    public AssemblerMemoryOperand Every(float value) => Every(BitConverter.SingleToUInt32Bits(value));

    /// <summary>The constant alone, as an operand.</summary>
    public AssemblerMemoryOperand One(float value) => __dword_ptr[LabelOf(BitConverter.SingleToUInt32Bits(value))];

    /// <summary>The constant alone, as an operand.</summary>
    public AssemblerMemoryOperand One(uint bits) => __dword_ptr[LabelOf(bits)];

    private Label LabelOf(uint bits)
    {
        if (!_labels.TryGetValue(bits, out Label label)) _labels.Add(bits, label = a.CreateLabel());
        return label;
    }

    /// <summary>Writes what was asked for.</summary>
    public void Emit()
    {
        foreach ((uint bits, Label label) in _labels)
        {
            Label here = label;
            a.Label(ref here);
            a.dd(bits);
        }
    }
}
