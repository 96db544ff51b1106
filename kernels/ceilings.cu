// What the GPU does at best, for the tables of bench: reading memory with the copy engine, filling and copying it, and FP8 products from shared memory.
#include "include/bench_arguments.cuh"
#include "include/wgmma.cuh"

constexpr int read_piece = 16384, read_stages = 12;
constexpr int product_warpgroups = 4, product_stages = 4;
constexpr int product_stage_bytes = (product_warpgroups * 64 + 128) * 128; // a 64-row operand for each warpgroup, 128 rows for all

/// One thread per block keeps the ring full; nobody looks at the bytes.
extern "C" __global__ void __launch_bounds__(32) ceiling_read(const __grid_constant__ MemoryArguments m) {
    SHARED_MEMORY(u8, 1024, memory);
    const u32 shared = shared_address(memory), barriers = shared + read_stages * read_piece;
    wait_for_earlier_kernels();
    launch_dependents();
    if (threadIdx.x != 0) return;
    for (int s = 0; s < read_stages; s++) barrier_init(barriers + 8 * s, 1);
    fence_barrier_init();
    fence_async_shared();
    const u64 pieces = m.bytes / read_piece;
    u64 issued = blockIdx.x, done = blockIdx.x;
    int stage = 0;
    u32 phase = 0;
    for (int s = 0; s < read_stages && issued < pieces; s++, issued += gridDim.x) {
        barrier_arrive_expect(barriers + 8 * s, read_piece);
        bulk_load(shared + s * read_piece, m.from + issued * read_piece, read_piece, barriers + 8 * s);
    }
    for (; done < pieces; done += gridDim.x) {
        barrier_wait(barriers + 8 * stage, phase);
        if (issued < pieces) {
            barrier_arrive_expect(barriers + 8 * stage, read_piece);
            bulk_load(shared + stage * read_piece, m.from + issued * read_piece, read_piece, barriers + 8 * stage);
            issued += gridDim.x;
        }
        if (++stage == read_stages) stage = 0, phase ^= 1;
    }
}
extern "C" __device__ const int ceiling_read_shared = read_stages * read_piece + 8 * read_stages;

/// Fills, or copies where there is something to copy from; four chunks in flight.
extern "C" __global__ void __launch_bounds__(512) ceiling_write(const __grid_constant__ MemoryArguments m) {
    wait_for_earlier_kernels();
    launch_dependents();
    const u64 chunks = m.bytes / 16, step = (u64)gridDim.x * blockDim.x;
    for (u64 first = (u64)blockIdx.x * blockDim.x + threadIdx.x; first < chunks; first += 4 * step) {
        uint4 v[4];
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] = m.from && first + i * step < chunks ? ((const uint4*)m.from)[first + i * step] : make_uint4(1, 2, 3, 4);
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (first + i * step < chunks) ((uint4*)m.to)[first + i * step] = v[i];
    }
}

/// 64 x 128 x 128 products of every warpgroup, over and over, on random codes: zeros would draw less power and flatter the clock.
extern "C" __global__ void __launch_bounds__(product_warpgroups * 128, 1) ceiling_fp8(const __grid_constant__ ProductArguments a) {
    SHARED_MEMORY(u8, 1024, memory);
    wait_for_earlier_kernels();
    launch_dependents();
    for (int i = threadIdx.x; i < product_stages * product_stage_bytes / 16; i += blockDim.x) ((uint4*)memory)[i] = ((const uint4*)a.codes)[i];
    fence_async_shared();
    __syncthreads();
    const u32 shared = shared_address(memory), own = uniform(threadIdx.x / 128) * 64 * 128;
    float acc[64];
#pragma unroll
    for (int i = 0; i < 64; i++) acc[i] = 0.0f;
    for (int turn = 0; turn < a.turns; turn++) {
        wgmma_fence();
#pragma unroll
        for (int s = 0; s < product_stages; s++) { // all are added: the assembler leaves out what is overwritten
            const u64 rows = operand_descriptor(shared + s * product_stage_bytes + own);
            const u64 columns = operand_descriptor(shared + s * product_stage_bytes + product_warpgroups * 64 * 128);
#pragma unroll
            for (int k = 0; k < 4; k++) Wgmma<128>::multiply(acc, rows + 2 * k, columns + 2 * k, 1);
        }
        wgmma_commit();
        wgmma_wait<0>();
        settle(acc);
    }
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 64; i++) sum += acc[i];
    a.sums[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}
extern "C" __device__ const int ceiling_fp8_shared = product_stages * product_stage_bytes;
