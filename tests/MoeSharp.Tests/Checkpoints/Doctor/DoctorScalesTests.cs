namespace MoeSharp.Tests;

/// <summary>Scales that are wrong.</summary>
public sealed class DoctorScalesTests : PlantedFindings
{
    [Fact]
    public void ScalesThatAreWrong()
    {
        void Plant(string code, string type, byte[] bits, bool powersOfTwo = false)
        {
            Quantization()["scale_fmt"] = powersOfTwo ? "ue8m0" : "float";
            (string, long[], byte[]) before = Stored[Scale5];
            // Block (0, 1) is the second of two; all others are 1.
            byte[] one = type switch
            {
                "F32" => BitConverter.GetBytes(1f),
                "F16" => BitConverter.GetBytes((Half)1),
                "BF16" => [0x80, 0x3F],
                _ => [127],
            };
            Stored[Scale5] = (type, [1, 2], [.. one, .. bits]);
            if (powersOfTwo) MakeScalesPowersOfTwo();
            ExpectOne(code, Shard, Scale5, 1, 5, (0, 1));
            Stored[Scale5] = before;
        }

        Plant("scale-zero", "F32", BitConverter.GetBytes(0f));
        Plant("scale-subnormal", "F32", BitConverter.GetBytes(1e-40f));
        Plant("scale-subnormal", "F16", [1, 0]);
        Plant("scale-subnormal", "F8_E8M0", [0]);
        Plant("scale-nan", "F32", BitConverter.GetBytes(float.NaN));
        Plant("scale-nan", "BF16", [0xC0, 0x7F]);
        Plant("scale-inf", "F32", BitConverter.GetBytes(float.PositiveInfinity));
        Plant("scale-inf", "F16", BitConverter.GetBytes(Half.NegativeInfinity));
        Plant("scale-negative", "F32", BitConverter.GetBytes(-0.5f));
        Plant("scale-tiny", "F32", BitConverter.GetBytes(1e-23f));
        Plant("scale-tiny", "U8", [127 - 77]);
        Plant("scale-e8m0-nan", "U8", [255]);
        Plant("scale-not-pow2", "F32", BitConverter.GetBytes(0.3f), powersOfTwo: true);
    }

    [Fact]
    public void TypesAndShapesOfScales()
    {
        (string Type, long[] Shape, byte[] Data) scales = Stored[Scale5];
        Stored[Scale5] = ("I32", [1, 2], scales.Data);
        ExpectOne("scale-dtype", Shard, Scale5, 1, 5);
        Stored[Scale5] = ("F32", [1, 7], new byte[28]);
        ExpectOne("scale-shape", Shard, Scale5, 1, 5);
        foreach (long[] shape in (long[][])[[1], [128, 1], [128, 8], [128, 2]])
        {
            Stored[Scale5] = ("F32", shape, new byte[4 * shape.Aggregate((a, b) => a * b)]);
            ExpectOne("scale-granularity", Shard, Scale5, 1, 5);
        }
        Stored.Remove(Scale5);
        ExpectOne("scale-missing", Shard, Gate5, 1, 5);
    }
}
