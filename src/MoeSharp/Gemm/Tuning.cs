namespace MoeSharp;

/// <summary>For measurements on this branch only: numbers from the environment.</summary>
internal static class Tuning
{
    public static int Number(string name, int otherwise = 0) => int.TryParse(Environment.GetEnvironmentVariable(name), out int number) ? number : otherwise;

    /// <summary>0: into the first cache. 1: into the second. 2: not at all.</summary>
    public static void Ask(Iced.Intel.Assembler a, Iced.Intel.AssemblerMemoryOperand line)
    {
        int hint = Number("MOESHARP_HINT");
        if (hint == 0) a.prefetcht0(line);
        else if (hint == 1) a.prefetcht1(line);
    }
}
