// One layer behind HTTP. POST /forward takes [T, H] BF16 values, little-endian, and answers with as many; GET /metrics is for a scraper.
using System.Runtime.InteropServices;
using Endpoint;
using MoeSharp;

WebApplicationBuilder builder = WebApplication.CreateSlimBuilder(args);
string path = builder.Configuration["model"] ?? "samples/tiny-qwen3-moe-fp8";
int index = int.Parse(builder.Configuration["layer"] ?? "0"), maxTokens = int.Parse(builder.Configuration["max-tokens"] ?? "4096");
using var metrics = new MetricsText();                              // listens from here on
using WebApplication app = builder.Build();
ILogger logger = app.Services.GetRequiredService<ILoggerFactory>().CreateLogger("MoeSharp");

using var model = Checkpoint.Open(path, logger);
using var layer = MoeLayer.Load(
    model, index, new() { Logger = logger, MaxWorkspaceBytes = 256 << 20 }, cancellation: app.Lifetime.ApplicationStopping);

app.MapGet("/", context => context.Response.WriteAsync(
    $"{model.FamilyName}, layer {layer.Layer}: H {layer.HiddenSize}, {layer.Router.Experts} experts, top-{layer.Router.TopK}. {layer.Experts.Description}\n"));
app.MapGet("/metrics", context =>
{
    context.Response.ContentType = "text/plain; version=0.0.4";
    return context.Response.WriteAsync(metrics.Read());
});
app.MapPost("/forward", async context =>
{
    int tokenBytes = layer.HiddenSize * sizeof(ushort);
    if (context.Request.ContentLength is not long bytes || bytes % tokenBytes != 0 || bytes / tokenBytes > maxTokens)
    {
        context.Response.StatusCode = StatusCodes.Status400BadRequest;
        await context.Response.WriteAsync(
            $"The body has {context.Request.ContentLength?.ToString() ?? "an unknown number of"} bytes; " +
            $"{tokenBytes} per token ({layer.HiddenSize} BF16 values) and at most {maxTokens} tokens are needed.\n");
        return;
    }
    var hidden = new byte[bytes];                                   // [T, H]
    await context.Request.Body.ReadExactlyAsync(hidden, context.RequestAborted);
    var output = new byte[bytes];                                   // [T, H]
    layer.Forward(MemoryMarshal.Cast<byte, BFloat16>(hidden), MemoryMarshal.Cast<byte, BFloat16>(output.AsSpan()));
    context.Response.ContentType = "application/octet-stream";
    context.Response.ContentLength = output.Length;
    await context.Response.Body.WriteAsync(output, context.RequestAborted);
});

app.Run();
