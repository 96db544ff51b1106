using System.Text.Json;

namespace MoeSharp.Tests;

public class InfoTests
{
    [Fact]
    public void JsonNamesMachineFeaturesCeilingsAndKernels()
    {
        JsonElement info = ToolRun.Of("info", "--json").Json();
        Assert.Equal(["machine", "features", "memory_nodes", "ceilings", "gpus", "kernels", "cpu_kernels"], info.EnumerateObject().Select(member => member.Name));
        Assert.NotEmpty(info.GetProperty("machine").GetProperty("processor").GetString()!);
        Assert.Equal(5, info.GetProperty("kernels").GetArrayLength());
        foreach (JsonElement kernel in info.GetProperty("kernels").EnumerateArray())
        {
            string backend = kernel.GetProperty("backend").GetString()!;
            if (backend != "cuda") Assert.NotNull(ExpertsBackends.ByName(backend));
            if (backend != "cuda") Assert.StartsWith("cuda: ", kernel.GetProperty("passed_over")[0].GetString());
            Assert.NotEmpty(kernel.GetProperty("kernel").GetString()!);
        }
        foreach (JsonElement kernel in info.GetProperty("cpu_kernels").EnumerateArray())
        {
            JsonElement ready = kernel.GetProperty("ready_ms");
            Assert.True(kernel.GetProperty("usable").GetBoolean() ? ready.GetDouble() > 0 : ready.ValueKind == JsonValueKind.Null, kernel.ToString());
        }
        Assert.Equal(Topology.Machine.Nodes.Count, info.GetProperty("memory_nodes").GetArrayLength());
        foreach (JsonElement gpu in info.GetProperty("gpus").EnumerateArray())
        {
            if (gpu.GetProperty("usable").GetBoolean()) Assert.NotEmpty(gpu.GetProperty("compute_capability").GetString()!);
            else Assert.Matches("(NVIDIA|GPU).*\\.$", gpu.GetProperty("reason").GetString());
        }
    }
}
