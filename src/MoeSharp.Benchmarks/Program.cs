return MoeSharp.Benchmarks.CompareCommand.Run(args);
