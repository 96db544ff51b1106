using MoeSharp.Benchmarks;

return args is ["micro", .. string[] rest] ? MicroCommand.Run(rest) : CompareCommand.Run(args);
