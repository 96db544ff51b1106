namespace MoeSharp.Cli;

/// <summary>What the process returns.</summary>
internal static class ExitCode
{
    public const int Ok = 0;
    public const int CheckFailed = 1;
    public const int BadInput = 2;
    /// <summary>What shells show for a process that ended by Ctrl-C.</summary>
    public const int Cancelled = 130;
}
