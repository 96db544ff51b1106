using MoeSharp.Cli;

namespace MoeSharp.Tests;

public class PeerTimesTests
{
    /// <summary>Same formula and seeds, so our columns may stand beside theirs: each row's slots, experts, busiest expert and floor come out the same.</summary>
    [Fact]
    public void OurRoutingIsThatOfEveryRowOfTheTable()
    {
        Assert.Equal(60, PeerTimes.All.Count);
        var routings = new Dictionary<(RoutingKind, int, int), int[]>();
        foreach (PeerTimes row in PeerTimes.All)
        {
            BenchShape shape = BenchShape.Parse(row.Shape);
            if (!routings.TryGetValue((row.Routing, row.Tokens, shape.Experts), out int[]? ids))
            {
                ids = new int[row.Tokens * shape.TopK];
                SyntheticRouting.Fill(row.Routing, SyntheticRouting.DefaultSeed(row.Routing, row.Tokens), shape.Experts, shape.TopK, ids, new float[ids.Length]);
                routings[(row.Routing, row.Tokens, shape.Experts)] = ids;
            }
            ExpertLoad load = ExpertLoad.Of(ids, shape.ExpertMap(), shape.LocalExperts);
            Assert.True((load.Total, load.Active, load.Most) == (row.Slots, row.ExpertsHit, row.MostRows), $"{row} but here {load.Total}, {load.Active}, {load.Most}");
        }
    }

    [Theory]
    [InlineData("qwen3-30b-a3b", 1, 29.4, "alpha")]
    [InlineData("deepseek-v3-ep8", 8192, 1027, "dg_tight")]
    [InlineData("minimax-m2", 512, 931.7, "triton_best")]
    public void TheBestPeerIsThatOfTheTable(string shape, int tokens, double time, string name)
    {
        PeerTimes row = PeerTimes.Of(shape, RoutingKind.Uniform, tokens)!;
        Assert.Equal((time, name), (row.Best, row.BestName));
    }

    [Fact]
    public void WhatNobodyMeasuredIsNotThere()
    {
        Assert.Null(PeerTimes.Of("kimi-k2", RoutingKind.Uniform, 1));
        Assert.Null(PeerTimes.Of("qwen3-30b-a3b", RoutingKind.Zipf, 1));
        Assert.True(double.IsNaN(PeerTimes.Of("deepseek-v3-ep8", RoutingKind.Uniform, 8)!.Times[^1])); // alpha knows no expert map
        Assert.Equal(["qwen3-30b-a3b", "deepseek-v3", "deepseek-v3-ep8", "qwen3-235b-a22b", "minimax-m2"], PeerTimes.Shapes.Select(shape => shape.Name));
        Assert.Contains("H200", PeerTimes.Notes[0]);
    }

    /// <summary>Bytes and operations of sizes alone give the floor that the table states.</summary>
    [Fact]
    public void FloorsAreThoseOfTheTable()
    {
        foreach (PeerTimes row in PeerTimes.All.Where(row => row.Tokens <= 512 && row.Shape is "qwen3-30b-a3b" or "deepseek-v3-ep8"))
        {
            BenchShape shape = BenchShape.Parse(row.Shape);
            using ExpertWeights sizes = SyntheticWeights.OnlySizes(shape, WeightFormat.Block128);
            var ids = new int[row.Tokens * shape.TopK];
            SyntheticRouting.Fill(row.Routing, SyntheticRouting.DefaultSeed(row.Routing, row.Tokens), shape.Experts, shape.TopK, ids, new float[ids.Length]);
            LayerWork work = LayerWork.Routed(ExpertsShape.From(BenchLayer.Options(shape, null), sizes), sizes, ids, shape.ExpertMap());
            double floor = GpuCase.FloorOf(work);
            Assert.True(Math.Abs(floor - row.Floor) <= 0.06 + 5e-4 * row.Floor, $"{row}: the floor here is {floor}");
        }
    }
}
