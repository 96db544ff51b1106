namespace MoeSharp.Tests;

public class ActivationQuantizerTests
{
    [Theory]
    [InlineData(3.0f, 0x7E, 0x7C)]
    [InlineData(-1.5f, 0xF6, 0xF4)]
    [InlineData(0f, 0x00, 0x00)]
    [InlineData(0.1015625f, 0x57, 0x55)]
    [InlineData(-0.001953125f, 0xA9, 0xA8)]
    public void WorkedExample(float x, int divided, int powerOfTwo)
    {
        BFloat16[] row = [(BFloat16)3f, (BFloat16)x];
        var codes = new Float8E4M3[2];
        var scale = new float[1];
        var e8m0 = new ScaleE8M0[1];
        ActivationQuantizer.QuantizeRow(row, QuantizationRule.Input, false, 128, codes, scale);
        Assert.Equal((0x3BDB6DB7u, divided), (BitConverter.SingleToUInt32Bits(scale[0]), codes[1].Bits));
        ActivationQuantizer.QuantizeRow(row, QuantizationRule.Activation, false, 128, codes, scale);
        Assert.Equal(0x3BDB6DB8u, BitConverter.SingleToUInt32Bits(scale[0]));
        foreach (QuantizationRule rule in Enum.GetValues<QuantizationRule>())
        {
            ActivationQuantizer.QuantizeRow(row, rule, true, 128, codes, scale);
            Assert.Equal((0.0078125f, powerOfTwo), (scale[0], codes[1].Bits));
        }
        ActivationQuantizer.QuantizeRowMx(row, codes, e8m0);
        Assert.Equal((0x78, powerOfTwo), (e8m0[0].Bits, codes[1].Bits));
    }
}
