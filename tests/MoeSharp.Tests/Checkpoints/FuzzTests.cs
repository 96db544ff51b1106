using System.Buffers.Binary;
using System.Text;
using System.Text.Json.Nodes;
using CsCheck;

namespace MoeSharp.Tests;

/// <summary>Random damage to the JSON of a checkpoint ends in a <see cref="CheckpointException"/> or in a layer, and never hurts the
/// doctor.</summary>
public sealed class FuzzTests : IDisposable
{
    private const int Rounds = 400;
    private static readonly string[] Hostile =
    [
        "null", "true", "false", "-1", "0", "1", "3", "0.5", "1e0", "1e308", "1e999", "65536", "1048576", "2147483647", "2147483648", "-2147483648",
        "9223372036854775807", "18446744073709551616", "\"\"", "\"silu\"", "\"\\u0000\"", "\"\\ud800\"", "\"\\u001b[2J\"", "\"re:(\"", "\"re:(a+)+$\"", "\"*\"",
        "\"../x\"", "\"F32\"", "\"F4\"", "\"deepseek_v3\"", "\"gpt_oss\"", "[]", "{}", "[[]]", "[0,0]", "[-1,5]", "[1,32]", "[128,128]", "[9223372036854775807,2]",
        "{\"a\":{\"a\":{\"a\":1}}}", "[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]",
    ];

    private readonly TinyCheckpoint _tiny = new(2, 32, 32, WeightFormat.MxFp8);
    private readonly string _config, _index;
    private readonly byte[] _shard;

    public FuzzTests()
    {
        const string block = "language_model.model.layers.0.block_sparse_moe.";
        _tiny.AddPerExpert(block + "experts.", ("w1", "w3", "w2"), "_scale_inv", "U8");
        _tiny.AddShared(block + "shared_experts.", ("gate_proj", "up_proj", "down_proj"), "_scale_inv", "U8");
        _tiny.AddBf16(block + "gate.weight", 2, 32);
        _tiny.AddBf16(block + "e_score_correction_bias", 2);
        _tiny.Config = _config = """
            {"model_type":"minimax_m3_vl","text_config":{"model_type":"minimax_m3","num_hidden_layers":1,"hidden_size":32,"intermediate_size":32,"num_local_experts":2,
             "num_experts_per_tok":1,"routed_scaling_factor":2.0,"n_shared_experts":1,"hidden_act":"swigluoai","swiglu_limit":7.0,"swiglu_alpha":1.702,
             "moe_layer_freq":[1],"norm_topk_prob":true,"use_routing_bias":true},
             "quantization_config":{"quant_method":"mxfp8","activation_scheme":"dynamic","weight_block_size":[1,32],"ignored_layers":["lm_head","re:.*norm$"]}}
            """;
        _shard = File.ReadAllBytes(Path.Combine(_tiny.Write(), "model.safetensors"));
        var map = new JsonObject();
        foreach (string name in _tiny.Names) map[name] = "model.safetensors";
        _index = new JsonObject { ["metadata"] = new JsonObject { ["total_size"] = 1 }, ["weight_map"] = map }.ToJsonString();
    }

    public void Dispose() => _tiny.Dispose();

    [Fact]
    public void Configs() => Check(_config, damaged => File.WriteAllBytes(Path.Combine(_tiny.Folder, "config.json"), damaged));

    [Fact]
    public void Indexes() => Check(_index, damaged => File.WriteAllBytes(Path.Combine(_tiny.Folder, "model.safetensors.index.json"), damaged));

    [Fact]
    public void Headers()
    {
        int length = (int)BinaryPrimitives.ReadInt64LittleEndian(_shard);
        Check(Encoding.UTF8.GetString(_shard, 8, length), damaged =>
        {
            byte[] size = new byte[8];
            BinaryPrimitives.WriteInt64LittleEndian(size, damaged.Length);
            File.WriteAllBytes(Path.Combine(_tiny.Folder, "model.safetensors"), [.. size, .. damaged, .. _shard.AsSpan(8 + length)]);
        });
    }

    private void Check(string json, Action<byte[]> write)
    {
        write(Encoding.UTF8.GetBytes(json));
        Refusal.Reads(_tiny.Folder);
        int read = 0, refused = 0;
        Gen.Int.Sample(seed =>
        {
            byte[] damaged = Damage(json, new Random(seed));
            write(damaged);
            try
            {
                Refusal.Reads(_tiny.Folder);
                read++;
            }
            catch (CheckpointException e)
            {
                Assert.True(!e.Message.Any(char.IsControl) && e.Message.EndsWith('.'), e.Message);
                refused++;
            }
            catch (Exception e)
            {
                Assert.Fail($"{e.GetType().Name}: {e.Message} at {e.StackTrace} from {Encoding.UTF8.GetString(damaged)}");
            }
            Examine(damaged);
        }, iter: Rounds, threads: 1);
        Assert.True(refused > Rounds / 4, $"{read} read, {refused} refused");
    }

    private void Examine(byte[] damaged)
    {
        try
        {
            using var doctor = new Doctor(_tiny.Folder);
            doctor.Scan((_, _) => { }, TestContext.Current.CancellationToken);
            Assert.All(doctor.Findings, f => Assert.DoesNotContain(f.Message, char.IsControl));
        }
        catch (CheckpointException)
        {
            // config.json cannot be read
        }
        catch (Exception e) when (e is not Xunit.Sdk.XunitException)
        {
            Assert.Fail($"doctor: {e.GetType().Name}: {e.Message} at {e.StackTrace} from {Encoding.UTF8.GetString(damaged)}");
        }
    }

    /// <summary>One to three changes: to the tree, or to the text.</summary>
    private static byte[] Damage(string json, Random random)
    {
        for (int i = random.Next(3); i >= 0; i--)
        {
            if (random.Next(4) == 0) return DamageBytes(Encoding.UTF8.GetBytes(json), random);
            json = DamageTree(json, random);
        }
        return Encoding.UTF8.GetBytes(json);
    }

    private static string DamageTree(string json, Random random)
    {
        // Values and keys of the text as it stands; hostile values are no JsonNodes, since some of them no JsonNode can hold.
        var places = new List<(int Start, int End, bool IsKey)>();
        Collect(json, places);
        (int start, int end, bool isKey) = places[random.Next(places.Count)];
        string other = json[places[random.Next(places.Count)].Start..];
        string put = isKey
            ? random.Next(2) == 0
                ? "\"__metadata__\""
                : json[start..end].Replace("\"", random.Next(2) == 0 ? "\"x" : "\"\\u001b", StringComparison.Ordinal)
            : random.Next(8) == 0 ? $"{json[start..end]},\"{other[..Math.Min(9, other.Length)].Trim('"')}\":{Hostile[random.Next(Hostile.Length)]}"
            : Hostile[random.Next(Hostile.Length)];
        return $"{json[..start]}{put}{json[end..]}";
    }

    /// <summary>Where strings, numbers and words lie in well-formed JSON; in anything else, wherever it looks so.</summary>
    private static void Collect(string json, List<(int, int, bool)> places)
    {
        for (int i = 0; i < json.Length; i++)
        {
            int start = i;
            if (json[i] == '"') for (i++; i < json.Length - 1 && json[i] != '"'; i++) i += json[i] == '\\' ? 1 : 0;
            else if (char.IsAsciiLetterOrDigit(json[i]))
                while (i + 1 < json.Length && (char.IsAsciiLetterOrDigit(json[i + 1]) || json[i + 1] is '.' or '-')) i++;
            else if (json[i] == '[' && json.IndexOf(']', i) is > 0 and int close) i = close;
            else continue;
            int end = Math.Min(i + 1, json.Length);
            places.Add((start, end, json[start] == '"' && end < json.Length && json[end] == ':'));
        }
        if (places.Count == 0) places.Add((0, json.Length, false));
    }

    private static byte[] DamageBytes(byte[] bytes, Random random)
    {
        int at = random.Next(bytes.Length), length = Math.Min(random.Next(1, 40), bytes.Length - at);
        return random.Next(5) switch
        {
            0 => [.. bytes[..at], (byte)(bytes[at] ^ (1 << random.Next(8))), .. bytes[(at + 1)..]],
            1 => [.. bytes[..at], .. bytes[(at + length)..]],
            2 => [.. bytes[..at], .. bytes.AsSpan(random.Next(bytes.Length - length), length), .. bytes[at..]],
            3 => bytes[..at],
            _ => [.. bytes, .. bytes.AsSpan(at, length)],
        };
    }
}
