using Iced.Intel;

namespace MoeSharp;

/// <summary>Functions generated together. Lives as long as the process: layers keep bare pointers into it.</summary>
internal sealed unsafe class GeneratedCode
{
    private readonly ExecutableMemory _memory;
    private readonly int[] _offsets;

    private GeneratedCode(ExecutableMemory memory, int[] offsets)
    {
        _memory = memory;
        _offsets = offsets;
    }

    /// <summary>Address of the function that was added as number <paramref name="index"/>.</summary>
    public nint this[int index] => (nint)(_memory.Pointer + _offsets[index]);

    /// <summary>Collects functions, then loads them.</summary>
    internal sealed class Builder
    {
        private readonly List<Label> _functions = [];

        public Builder() => Constants = new(Assembler);

        public Assembler Assembler { get; } = new(64);

        public ConstantPool Constants { get; }

        public void Add(Action emit)
        {
            Label start = Assembler.CreateLabel();
            Assembler.Label(ref start);
            _functions.Add(start);
            emit();
        }

        public GeneratedCode Load()
        {
            Constants.Emit();
            using var bytes = new MemoryStream();
            AssemblerResult result = Assembler.Assemble(new StreamCodeWriter(bytes), rip: 0, BlockEncoderOptions.ReturnNewInstructionOffsets);
            int[] offsets = [.. _functions.Select(label => checked((int)result.GetLabelRIP(label)))];
            return new(new ExecutableMemory(bytes.GetBuffer().AsSpan(0, (int)bytes.Length)), offsets);
        }
    }
}
