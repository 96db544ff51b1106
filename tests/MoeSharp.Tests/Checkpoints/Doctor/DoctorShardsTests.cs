using System.Text.Json.Nodes;

namespace MoeSharp.Tests;

/// <summary>Indexes and shards that do not fit each other.</summary>
public sealed class DoctorShardsTests : PlantedFindings
{
    [Fact]
    public void IndexAndShards()
    {
        void Plant(string code, string? file, string? tensor, Action<JsonObject> change)
        {
            Split();
            JsonObject index = JsonNode.Parse(File.ReadAllText(Folder["model.safetensors.index.json"]))!.AsObject();
            change(index["weight_map"]!.AsObject());
            if (code == "index-total-size") index["metadata"] = new JsonObject { ["total_size"] = 7 };
            File.WriteAllText(Folder["model.safetensors.index.json"], index.ToJsonString());
            AssertOne(code, file, tensor, null, null, null, Run());
        }

        const string a = "model-a.safetensors", b = "model-b.safetensors", index = "model.safetensors.index.json";
        Split();
        Assert.Empty(Run());
        Plant("index-stale", b, Router, map => map[Router] = b);
        Plant("index-path", index, "x", map => map["x"] = "../" + a);
        Plant("index-path", index, "x", map => map["x"] = "/etc/passwd");
        Plant("index-invalid", index, "x", map => map["x"] = 3);
        Plant("index-total-size", index, null, _ => { });
        Plant("shard-missing", "model-c.safetensors", null, map => map["x"] = "model-c.safetensors");
        Plant("tensor-unlisted", a, Router, map => map.Remove(Router));
        Plant("shard-unlisted", "extra.safetensors", null, _ => Write("extra.safetensors", name => name == Router));
        Plant("tensor-duplicated", b, Router, _ => Write(b, name => !IsOfFirstShard(name) || name == Router));
        Plant("shard-unreadable", b, null, _ => File.WriteAllBytes(Folder[b], File.ReadAllBytes(Folder[b])[..^1]));
        Plant("shard-unreadable", b, null, _ => File.WriteAllBytes(Folder[b],
            [.. BitConverter.GetBytes(40L), .. "{ this is not JSON and never will be :-)"u8]));
        Plant("shard-unreadable", b, null, _ => File.WriteAllBytes(Folder[b], []));

        Split();
        string text = File.ReadAllText(Folder[index]);
        File.WriteAllText(Folder[index], text.Replace("{\"weight_map\":{", $"{{\"weight_map\":{{\"{Router}\":\"{a}\",", StringComparison.Ordinal));
        AssertOne("index-duplicate", index, Router, null, null, null, Run());
        File.WriteAllText(Folder[index], text[..^9]);
        AssertOne("index-invalid", index, null, null, null, null, Run());
        File.Delete(Folder[index]);
        AssertOne("index-missing", index, null, null, null, null, Run());
    }

    [Fact]
    public void KeepsGoingAfterATruncatedShard()
    {
        Stored[Gate5].Data[9] = 0x7F;
        Split();
        File.WriteAllBytes(Folder["model-b.safetensors"], File.ReadAllBytes(Folder["model-b.safetensors"])[..5000]);
        Assert.Equal(["payload-nan", "shard-unreadable"], Run().Select(f => f.Code.Name).Order());
    }
}
