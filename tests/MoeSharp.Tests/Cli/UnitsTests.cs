using MoeSharp.Cli;

namespace MoeSharp.Tests;

public class UnitsTests
{
    [Theory]
    [InlineData(0, "0")]
    [InlineData(0.01234, "0.0123")]
    [InlineData(1.234, "1.23")]
    [InlineData(99.94, "99.9")]
    [InlineData(123.4, "123")]
    [InlineData(1234.4, "1,234")]
    [InlineData(double.NaN, "-")]
    public void NumbersShowThreeDigits(double value, string expected) => Assert.Equal(expected, Units.Number(value));

    [Theory]
    [InlineData(999, "999 B")]
    [InlineData(1500, "1.50 kB")]
    [InlineData(604e6, "604 MB")]
    [InlineData(11.3e9, "11.3 GB")]
    public void BytesHaveDecimalUnits(double bytes, string expected) => Assert.Equal(expected, Units.Bytes(bytes));

    [Theory]
    [InlineData(0, "0")]
    [InlineData(0.00042, "4.2e-4")]
    public void ErrorsAreScientific(double error, string expected) => Assert.Equal(expected, Units.Error(error));
}
