namespace MoeSharp;

/// <summary>The CUDA driver refused or failed; the message is one sentence with the driver's own words.</summary>
public sealed class CudaException : MoeSharpException
{
    internal CudaException(string message, int code) : base(message) => Code = code;

    /// <summary>The driver's CUresult, or 0 where the failure is not the driver's.</summary>
    public int Code { get; }

    /// <summary>A kernel faulted earlier: the context is lost and the process must be restarted to use this GPU again.</summary>
    public bool IsContextLost => Code is 700 or 702 or 714 or 715 or 716 or 717 or 718 or 719;
}
