namespace MoeSharp.Tests;

public class UsageTests
{
    public static TheoryData<string> Verbs => [.. Cli.Tool.Root().Subcommands.Select(verb => verb.Name)];

    [Theory]
    [MemberData(nameof(Verbs))]
    public void EveryVerbExplainsItselfWithAnExample(string verb)
    {
        ToolRun run = ToolRun.Of(verb, "--help");
        Assert.Equal(0, run.ExitCode);
        Assert.Equal("", run.Error);
        Assert.Matches(@"Description:\r?\n  \w{3}", run.Output);
        Assert.Contains($"moesharp {verb}", run.Output);
        Assert.Contains("--json", run.Output);
        Assert.DoesNotContain('{', run.Output); // a value that only code can read
        string[] examples = run.Output[run.Output.IndexOf("Example", StringComparison.Ordinal)..].Split('\n', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries)[1..];
        Assert.NotEmpty(examples);
        Assert.All(examples, example => Assert.StartsWith("moesharp ", example)); // one may make what the next needs
        Assert.StartsWith($"moesharp {verb} ", examples[^1] + " ");
        Assert.All(run.Output.Split('\n'), line => Assert.True(line.TrimEnd().Length <= 100, $"longer than 100 columns: {line}"));
    }

    [Fact]
    public void TheToolListsItsVerbsAndExitCodes()
    {
        ToolRun run = ToolRun.Of("--help");
        Assert.Equal(0, run.ExitCode);
        foreach (string word in (string[])[.. Cli.Tool.Root().Subcommands.Select(verb => verb.Name), "Example:", "Exit codes:"]) Assert.Contains(word, run.Output);
    }

    [Fact]
    public void VersionIsANumber() => Assert.Matches(@"^\d+\.\d+\.\d+", ToolRun.Of("--version").Output);

    [Theory]
    [InlineData("bench --nope", "There is no option '--nope'")]
    [InlineData("bench --tokens -5", "--tokens is '-5'; it must be a whole number from 1")]
    [InlineData("bench --tokens 1,x", "--tokens is 'x'")]
    [InlineData("bench --tokens", "--tokens")]
    [InlineData("bench --backend fpga", "--backend is 'fpga'; use auto, cpu, reference, cuda or cuda:1.")]
    [InlineData("bench --shape 8,2,64", "--shape is '8,2,64'; it must be four positive numbers E,K,H,I or one of qwen3-30b-a3b, ")]
    [InlineData("bench --shape 8,9,64,32", "top-k 9 is above the number of experts 8")]
    [InlineData("bench --shape 8,2,64,32 --format int4", "--format is 'int4'; use block128, mxfp8, bf16")]
    [InlineData("bench --shape 8,2,64,32 --routing rare", "--routing is 'rare'; use uniform or zipf")]
    [InlineData("bench --shape 8,2,64,32 --threads 0", "--threads is '0'")]
    [InlineData("bench --shape 8,2,64,32 --activations int8", "--activations is 'int8'; use fp8 or bf16")]
    [InlineData("bench --shape 8,2,64,32 --format bf16 --activations fp8", "FP8 activations need FP8 weights")]
    [InlineData("bench", "Give either MODEL or --shape")]
    [InlineData("bench folder --shape 8,2,64,32", "Give either MODEL or --shape")]
    [InlineData("bench --shape 896,16,65536,65536", "of memory are available; choose a smaller shape")]
    [InlineData("bench folder --format mxfp8", "--format is for random weights")]
    [InlineData("bench --shape 8,2,64,32 --layer 1", "--layer chooses a layer of MODEL")]
    [InlineData("inspect", "MODEL")]
    [InlineData("inspect a b", "'b'")]
    [InlineData("run folder", "--layer")]
    [InlineData("run folder --layer -1", "--layer is '-1'; it must be a whole number from 0")]
    [InlineData("run folder --layer 0 --tokens -3", "--tokens is '-3'; it must be a whole number from 0")]
    [InlineData("run folder --layer 0 --output-dtype f16", "--output-dtype is 'f16'; use bf16 or f32")]
    [InlineData("run folder --layer 0 --input x.safetensors --tokens 3", "--input and --tokens exclude each other")]
    [InlineData("run folder --layer 0 --backend gpu9", "--backend is 'gpu9'; use auto, ")]
    [InlineData("verify folder --layer some", "--layer is 'some'; it must be all or a whole number from 0")]
    [InlineData("verify folder --rows 0", "--rows is '0'; it must be a whole number from 1")]
    [InlineData("verify folder --backend gpu9", "--backend is 'gpu9'; use auto, ")]
    [InlineData("quantize folder --out x", "--format")]
    [InlineData("quantize folder --format int4 --out x", "--format is 'int4'; use block128, block128-pow2, mxfp8")]
    [InlineData("quantize folder --format mxfp8", "--out")]
    [InlineData("dequantize folder --out x", "folder does not exist")]
    [InlineData("info extra", "'extra'")]
    public void BadUsageIsOneSentence(string line, string expected) =>
        Assert.Contains(expected, ToolRun.Of(line.Split(' ', StringSplitOptions.RemoveEmptyEntries)).Sentence());
}
