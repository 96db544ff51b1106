namespace MoeSharp;

/// <summary>Packed blocks that lie one behind the other, and those that a thread will want after them: what to fetch and to decode ahead.</summary>
/// <param name="first">The first block: scales, then values.</param>
/// <param name="following">The run that comes next; null where nobody knows.</param>
internal unsafe struct BlockRun(byte* first, int count, int blockBytes, byte* following)
{
    /// <summary>Blocks between the one that is multiplied and the one that is asked for.</summary>
    public const int Distance = 1;

    // Where nothing is known to follow, the last block is there to be decoded once more, and what lies behind it may be asked for in vain.
    private readonly byte* _following = following != null ? following : first + (nint)(count - 1) * blockBytes;
    private int _left = count;

    /// <summary>The block at hand.</summary>
    public byte* Current { get; private set; } = first;

    /// <summary>The block so many further on.</summary>
    public readonly byte* At(int ahead) => ahead < _left ? Current + (nint)ahead * blockBytes : _following + (nint)(ahead - _left) * blockBytes;

    /// <summary>Goes on to the next block.</summary>
    public void Advance()
    {
        Current += blockBytes;
        _left--;
    }
}
