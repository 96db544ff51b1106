namespace MoeSharp;

/// <summary>The CUDA driver refused or failed; the message is one sentence with the driver's own words.</summary>
public sealed class CudaException : MoeSharpException
{
    internal CudaException(string message, int code, Step? step = null) : base(message)
    {
        Code = code;
        Step = step;
    }

    /// <summary>The driver's CUresult, or 0 where the failure is not the driver's.</summary>
    public int Code { get; }

    /// <summary>The step whose kernel failed, where <see cref="CudaBackend"/> checks steps; otherwise null.</summary>
    public Step? Step { get; }

    /// <summary>A kernel faulted earlier: the context is lost and the process must be restarted to use this GPU again.</summary>
    public bool IsContextLost => LosesContext(Code);

    internal static bool LosesContext(int code) => code is 214 or 700 or 702 or 710 or >= 714 and <= 719;
}
