#pragma once
#include "ptx.cuh"
// Arguments of the kernels that only measure. The C# twins are in src/MoeSharp.Cuda/Bench/BenchArguments.cs; sizes are checked on both sides.

struct alignas(16) RandomArguments {
    u8* to;           // 16-byte chunks of values of 1, 2 or 4 bytes
    const u32* table; // [4096] values to draw from
    const u32* tail_table; // [4096] bytes that end each period, or null
    u64 chunks;
    u64 seed;
    int value_bytes;
    int period;       // chunks
    int body;         // chunks of a period before its tail
    int reserved;
};

struct alignas(16) MemoryArguments {
    const u8* from;   // null: fill
    u8* to;
    u64 bytes;        // a multiple of 16; of read_piece for reads
};

struct alignas(16) ProductArguments {
    const u8* codes;  // E4M3, product_shared bytes without NaN
    float* sums;      // [blocks][threads]
    int turns;
    int reserved[3];
};

static_assert(sizeof(RandomArguments) == 64 && sizeof(MemoryArguments) == 32 && sizeof(ProductArguments) == 32, "");
