namespace MoeSharp;

/// <summary>Base of the library's own errors. The message is one sentence: what was wrong, where, what to do.</summary>
public class MoeSharpException(string message, Exception? inner = null) : Exception(message, inner);

/// <summary>A file of a checkpoint (safetensors, index, config) is malformed, incomplete or of a kind that is not supported.</summary>
public sealed class CheckpointException(string message, Exception? inner = null) : MoeSharpException(PlainText.Of(message), inner);

/// <summary>A backend was asked for something it does not do; the message is the reason its capability predicate gave.</summary>
public sealed class UnsupportedException(string message) : MoeSharpException(message);

/// <summary>Yes, or no with a reason in one sentence.</summary>
/// <param name="Reason">Null means yes.</param>
public readonly record struct Support(string? Reason)
{
    /// <summary>Supported.</summary>
    public static Support Yes => default;

    /// <summary>Not supported, because of this sentence.</summary>
    public static Support No(string reason) => new(reason);

    /// <summary>True when supported.</summary>
    public bool IsSupported => Reason is null;

    /// <summary>Throws <see cref="UnsupportedException"/> with the reason when not supported.</summary>
    public void ThrowIfNot()
    {
        if (Reason is not null) throw new UnsupportedException(Reason);
    }

    /// <summary>The first of two answers that is a no.</summary>
    public static Support operator &(Support left, Support right) => left.IsSupported ? right : left;
}
