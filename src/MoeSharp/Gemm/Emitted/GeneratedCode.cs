using Iced.Intel;

namespace MoeSharp;

/// <summary>The entries of one kernel for one format, loaded. Lives as long as the process: layers keep bare pointers into it.</summary>
internal sealed unsafe class GeneratedCode
{
    private readonly ExecutableMemory _memory;
    private readonly (int Rows, int Width, int Offset)[] _entries;

    private GeneratedCode(ExecutableMemory memory, (int Rows, int Width, int Offset)[] entries)
    {
        _memory = memory;
        _entries = entries;
    }

    /// <summary>The entries as a job carries them.</summary>
    public TileKernels Kernels(WeightFormat format, Operand operand)
    {
        var kernels = new TileKernels(format, operand, _entries.Max(entry => entry.Rows), isUnmanaged: true);
        foreach ((int rows, int width, int offset) in _entries) kernels.Set(rows, width, (nint)(_memory.Pointer + offset));
        return kernels;
    }

    /// <summary>Collects entries, then loads them.</summary>
    internal sealed class Builder
    {
        private readonly List<(int Rows, int Width, Label Start)> _entries = [];

        public Assembler Assembler { get; } = new(64);

        public void Entry(int rows, int width, Action emit)
        {
            Label start = Assembler.CreateLabel();
            Assembler.Label(ref start);
            _entries.Add((rows, width, start));
            emit();
        }

        public GeneratedCode Load()
        {
            using var bytes = new MemoryStream();
            AssemblerResult result = Assembler.Assemble(new StreamCodeWriter(bytes), rip: 0, BlockEncoderOptions.ReturnNewInstructionOffsets);
            var entries = _entries.Select(entry => (entry.Rows, entry.Width, checked((int)result.GetLabelRIP(entry.Start)))).ToArray();
            return new(new ExecutableMemory(bytes.GetBuffer().AsSpan(0, (int)bytes.Length)), entries);
        }
    }
}
