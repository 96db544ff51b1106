// The experts of two layers under a router of one's own, in buffers of one's own: calls allocate nothing.
using MoeSharp;
using OwnRouter;

using var model = Checkpoint.Open("samples/tiny-qwen3-moe-fp8");
LayerParts[] parts = [.. model.MoeLayers.Select(layer => model.ReadLayer(layer))];
SoftmaxRouter[] routers = [.. parts.Select(p => new SoftmaxRouter(p.RouterWeight, p.Router.Experts, p.Router.TopK))];
FusedExperts[] experts = [.. parts.Select(p => new FusedExperts(p.ExpertsOptions, p.Experts))];

const int tokens = 32;
int h = model.HiddenSize, k = model.Router.TopK;
using var workspace = new Workspace(experts.Max(e => e.WorkspaceBytes(tokens)));   // one for all layers, as calls come one after the other
var hidden = new BFloat16[tokens * h];                                              // [T, H]
var sums = new float[tokens * h];                                                   // [T, H], FP32 as the residual stream is
var ids = new int[tokens * k];                                                      // [T, K]
var weights = new float[tokens * k];                                                // [T, K]
for (int i = 0; i < hidden.Length; i++) hidden[i] = (BFloat16)MathF.Sin(i);

Forward();                                                                          // the first call compiles code and starts threads
long before = GC.GetAllocatedBytesForCurrentThread();
for (int n = 0; n < 100; n++) Forward();
long allocated = GC.GetAllocatedBytesForCurrentThread() - before;
Console.WriteLine($"{experts.Length} layers, {tokens} tokens, 100 times: sums[0] is {sums[0]:F3}, {allocated} bytes allocated");

foreach (FusedExperts e in experts) e.Dispose();
foreach (LayerParts p in parts) p.Dispose();

void Forward()
{
    for (int layer = 0; layer < experts.Length; layer++)
    {
        routers[layer].Route(hidden, ids, weights);
        experts[layer].Forward(new ExpertsInput { Hidden = hidden, TopkIds = ids, TopkWeights = weights }, sums, workspace);
    }
}
