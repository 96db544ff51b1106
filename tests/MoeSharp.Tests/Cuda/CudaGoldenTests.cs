using System.Runtime.InteropServices;

namespace MoeSharp.Tests;

/// <summary>Every stage against the recordings of DeepGEMM on the same kind of GPU: equality in every element, on poisoned workspaces.</summary>
[Trait("Category", "Cuda")]
public class CudaGoldenTests
{
    public static TheoryData<string, int, string> Cases
    {
        get
        {
            var cases = new TheoryData<string, int, string>();
            foreach (TheoryDataRow<string> name in Golden.Names)
                foreach (int copies in new[] { 1, 40 }) // few rows per expert, and many: both orientations
                    foreach (string build in KernelManifest.Builds) cases.Add(name.Data, copies, build);
            return cases;
        }
    }

    [Theory, MemberData(nameof(Cases))]
    public void EveryStageEqualsTheRecording(string name, int copies, string build)
    {
        Assert.SkipWhen(KernelManifest.Read(build) is null, $"This assembly carries no build {build}.");
        using CudaBackend backend = Gpu.Open();
        Assert.SkipWhen(build == "13.0" && DriverLibrary.Version < 13000, "The driver is older than build 13.0 needs.");
        Golden golden = Golden.OpenWhole(name);
        using ExpertWeights weights = golden.Load();
        ExpertsShape shape = ExpertsShape.From(golden.Options, weights);
        using var kernels = new KernelSet(backend.Context(), build);
        using var device = new DeviceWeights(kernels, weights, allowNaN: false);
        using var call = new DeviceCall(kernels, device, shape);
        int tokens = golden.Tokens * copies;
        call.Prepare(tokens);
        call.Workspace.Fill(0xFF, call.Stream);
        using DeviceBuffer hidden = Upload(call, Repeat(golden.Get<BFloat16>("hidden"), copies)), ids = Upload(call, Repeat(golden.Ids, copies));
        using DeviceBuffer map = Upload(call, golden.ExpertMap), routerWeights = Upload(call, Repeat(golden.Weights, copies)), output = new(backend.Context(), 2L * tokens * golden.Hidden, "output");
        call.Enqueue(hidden.Address, ids.Address, golden.ExpertMap.Length == 0 ? 0 : map.Address, routerWeights.Address, output.Address, false, call.Stream.Raw);
        var result = new BFloat16[tokens * golden.Hidden];
        output.Download<BFloat16>(result, call.Stream);
        Same(golden.Get<ushort>("output"), MemoryMarshal.Cast<BFloat16, ushort>(result), golden.Tokens * golden.Hidden, $"{name} x {copies}: output");
        CompareRows(golden, call, copies, name);
    }

    /// <summary>Results of Down and what Activate left, row by row through both permutations.</summary>
    private static void CompareRows(Golden golden, DeviceCall call, int copies, string name)
    {
        int[] rowOfSlot = Download<int>(call, Buffer.RowOfSlot), inverse = golden.Get<int>("inv_perm"), recorded = golden.RecordedRows;
        byte[] results = Download<byte>(call, Buffer.Results), intermediate = Download<byte>(call, Buffer.Intermediate);
        byte[] mm2 = golden.Get<byte>("mm2_out_rows"), a2q = golden.Get<byte>("a2q_rows");
        float[] scales = Download<float>(call, Buffer.IntermediateScales), a2s = golden.Get<float>("a2_scale_rows");
        int capacity = call.Sizes.Capacity, blocks = call.Sizes.IntermediateBlocks;
        for (int slot = 0; slot < rowOfSlot.Length; slot++)
        {
            int row = rowOfSlot[slot], at = Array.IndexOf(recorded, inverse[slot % inverse.Length]);
            if (row < 0) continue;
            string where = $"{name} x {copies}, slot {slot}: ";
            Same(mm2.AsSpan(at * 2 * golden.Hidden, 2 * golden.Hidden), Gpu.Row(results, call.Sizes.HiddenBlocks, capacity, 256, row), 2 * golden.Hidden, where + "results of Down");
            Same(a2q.AsSpan(at * golden.Intermediate, golden.Intermediate), Gpu.Row(intermediate, blocks, capacity, 128, row), golden.Intermediate, where + "intermediate");
            for (int b = 0; b < blocks; b++) Assert.True(a2s[at * blocks + b] == scales[b * capacity + row], where + $"scale {b} is {scales[b * capacity + row]:R}, recorded {a2s[at * blocks + b]:R}");
        }
    }

    private static void Same<T>(ReadOnlySpan<T> recorded, ReadOnlySpan<T> ours, int period, string what) where T : unmanaged, IEquatable<T>
    {
        for (int i = 0; i < ours.Length; i++)
            if (!ours[i].Equals(recorded[i % period])) Assert.Fail($"{what}: element {i} is {ours[i]}, recorded {recorded[i % period]}");
    }

    private static T[] Download<T>(DeviceCall call, Buffer buffer) where T : unmanaged
    {
        WorkspaceRow row = call.Plan.Rows[(int)buffer];
        var values = new T[row.Bytes / Marshal.SizeOf<T>()];
        call.Workspace.Download<T>(values, call.Stream, row.Offset);
        return values;
    }

    private static DeviceBuffer Upload<T>(DeviceCall call, T[] values) where T : unmanaged
    {
        var buffer = new DeviceBuffer(call.Stream.Context, (long)values.Length * Marshal.SizeOf<T>(), "a test's input");
        buffer.Upload<T>(values, call.Stream);
        return buffer;
    }

    private static T[] Repeat<T>(T[] values, int copies) => [.. Enumerable.Repeat(values, copies).SelectMany(v => v)];
}
