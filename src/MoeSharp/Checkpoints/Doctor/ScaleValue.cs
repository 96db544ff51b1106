namespace MoeSharp;

/// <summary>Judges one stored scale.</summary>
internal static unsafe class ScaleValue
{
    public static bool IsAllowed(string type, WeightFormat format) =>
        type is "U8" or "F8_E8M0" || (type is "F32" or "BF16" or "F16" && format != WeightFormat.MxFp8);

    public static int Bytes(string type) => type switch { "F32" => 4, "BF16" or "F16" => 2, _ => 1 };

    /// <summary>What is wrong with it; null when nothing is.</summary>
    public static (FindingCode Code, string What)? Judge(string type, byte* at, bool powersOfTwo)
    {
        if (Bytes(type) == 1) return JudgeE8M0(*at);
        (float value, bool isSubnormal) = Read(type, at);
        FindingCode? code = value switch
        {
            float.NaN => FindingCode.ScaleNaN,
            float.PositiveInfinity or float.NegativeInfinity => FindingCode.ScaleInfinite,
            0 => FindingCode.ScaleZero,
            < 0 => FindingCode.ScaleNegative,
            _ when powersOfTwo && !float.IsPow2(value) => FindingCode.ScaleNotPowerOfTwo,
            _ when isSubnormal => FindingCode.ScaleSubnormal,
            < SlabAudit.Tiny => FindingCode.ScaleTiny,
            _ => null,
        };
        return code is null ? null : (code, FormattableString.Invariant($"{value}"));
    }

    private static (FindingCode, string)? JudgeE8M0(byte code) => code switch
    {
        255 => (FindingCode.ScaleE8M0NaN, "code 255"),
        0 => (FindingCode.ScaleSubnormal, "code 0 (2^-127)"),
        < 127 - 40 => (FindingCode.ScaleTiny, $"code {code} (2^{code - 127})"),
        _ => null,
    };

    /// <summary>Files may start a tensor at any address.</summary>
    private static (float Value, bool IsSubnormal) Read(string type, byte* at)
    {
        switch (type)
        {
            case "F32":
                float single = BitConverter.ToSingle(new ReadOnlySpan<byte>(at, 4));
                return (single, float.IsSubnormal(single));
            case "BF16":
                float brain = BFloat16.FromBits(BitConverter.ToUInt16(new ReadOnlySpan<byte>(at, 2))).ToSingle();
                return (brain, float.IsSubnormal(brain));
            default:
                Half half = BitConverter.ToHalf(new ReadOnlySpan<byte>(at, 2));
                return ((float)half, Half.IsSubnormal(half));
        }
    }
}
