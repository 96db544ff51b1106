using MoeSharp;

using var model = Checkpoint.Open("samples/tiny-qwen3-moe-fp8");
using var layer = MoeLayer.Load(model, layer: 1);                // the fastest kernels of this CPU; GPUs: MoeSharp.Cuda

const int tokens = 4;
var hidden = new BFloat16[tokens * layer.HiddenSize];            // [T, H]
for (int i = 0; i < hidden.Length; i++) hidden[i] = (BFloat16)MathF.Sin(i);

var output = new BFloat16[hidden.Length];                        // [T, H]
layer.Forward(hidden, output);                                   // router, experts, shared experts

int[] topkIds = [3, 0, 7, 15, 2, 9, 1, 4, 11, 5, 0, 8, -1, -1, 6, 12];  // [T, K]; -1: no expert
var topkWeights = Enumerable.Repeat(0.25f, topkIds.Length).ToArray();
var own = new BFloat16[hidden.Length];
layer.Experts.Forward(hidden, topkIds, topkWeights, own);        // or your own router

Console.WriteLine($"{tokens} tokens: routed {output[0].ToSingle()}, routed by hand {own[0].ToSingle()}");
