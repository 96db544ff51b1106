#pragma once
// What kernel sources see instead of CUDA's own names and of kernels/include/ptx.cuh when they are compiled for the CPU: the same functions with the
// same meaning. Copies into shared memory happen as late as they may, others at once; memory of a block starts filled with 0xFF.
#include "fibers.hpp"
#include <cmath>
#include <cstddef>

using emulator::u16;
using emulator::u32;
using emulator::u64;
using emulator::u8;

#define DEVICE inline
#define __device__
#define __global__
#define __grid_constant__
#define __launch_bounds__(...)
#define threadIdx (emulator::current->thread)
#define blockIdx (emulator::current->block->index)
#define blockDim (emulator::block_size)
#define gridDim (emulator::grid_size)
#define SHARED_MEMORY(type, alignment, name) type* name = (type*)emulator::current->block->shared
#define offset_of(type, field) offsetof(type, field)

struct alignas(16) uint4 { u32 x, y, z, w; };
struct alignas(8) uint2 { u32 x, y; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
DEVICE uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }
DEVICE uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
DEVICE float2 make_float2(float x, float y) { return {x, y}; }
DEVICE float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

template <class To, class From> To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
DEVICE u32 __float_as_uint(float x) { return bits_as<u32>(x); }
DEVICE float __uint_as_float(u32 x) { return bits_as<float>(x); }
DEVICE int __popc(u32 x) { return __builtin_popcount(x); }
DEVICE int __ffs(u32 x) { return __builtin_ffs((int)x); }
DEVICE float __frcp_rn(float x) { return 1.0f / x; }
DEVICE float __fdiv_rn(float x, float y) { return x / y; }
DEVICE float __fmul_rn(float x, float y) { return x * y; }
DEVICE u32 __byte_perm(u32 a, u32 b, u32 selector) {
    const u64 bytes = (u64)b << 32 | a;
    u32 result = 0;
    for (int i = 0; i < 4; i++) result |= (u32)(bytes >> (selector >> 4 * i & 7) * 8 & 0xFF) << 8 * i;
    return result;
}
template <class T> T atomicAdd(T* to, T value) {
    T old = *to;
    *to += value;
    return old;
}
template <class T> T atomicMin(T* to, T value) {
    T old = *to;
    if (value < old) *to = value;
    return old;
}
template <class T> T atomicOr(T* to, T value) {
    T old = *to;
    *to |= value;
    return old;
}

// Warps. Lanes of a mask meet before each exchange.
DEVICE u32 lane_of_warp() { return threadIdx.x % 32; }
DEVICE emulator::Warp& own_warp() { return emulator::current->block->warps[threadIdx.x / 32]; }
DEVICE u64 (*exchange(u32 mask, u64 a, u64 b, const char* where))[2] {
    emulator::Warp& warp = own_warp();
    const bool all = mask == ~0u;
    emulator::Meeting& meeting = warp.meetings[all ? 32 : __builtin_ctz(mask)];
    const u32 lane = lane_of_warp(), turn = (all ? meeting.generation : warp.turns[lane]++) & 1;
    if (!(mask >> lane & 1)) emulator::fault("a lane exchanges values under a mask that leaves it out");
    u64 (*values)[2] = all ? warp.all_values[turn] : warp.values[turn];
    values[lane][0] = a;
    values[lane][1] = b;
    emulator::meet(meeting, __builtin_popcount(mask), where);
    return values;
}
DEVICE void __syncwarp(u32 mask = ~0u) { exchange(mask, 0, 0, "__syncwarp"); }
template <class T> T __shfl_sync(u32 mask, T value, int lane) { return bits_as<T>((u32)exchange(mask, bits_as<u32>(value), 0, "__shfl_sync")[lane][0]); }
template <class T> T __shfl_xor_sync(u32 mask, T value, int bits) {
    return bits_as<T>((u32)exchange(mask, bits_as<u32>(value), 0, "__shfl_xor_sync")[lane_of_warp() ^ bits][0]);
}
template <class T> T __shfl_up_sync(u32 mask, T value, int step) {
    const int lane = (int)lane_of_warp(), from = lane < step ? lane : lane - step;
    return bits_as<T>((u32)exchange(mask, bits_as<u32>(value), 0, "__shfl_up_sync")[from][0]);
}
DEVICE u32 __match_any_sync(u32 mask, int value) {
    auto values = exchange(mask, (u32)value, 0, "__match_any_sync");
    u32 same = 0;
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1 && values[i][0] == (u32)value) same |= 1u << i;
    return same;
}
DEVICE u32 __match_all_sync(u32 mask, int value, int* all) {
    *all = __match_any_sync(mask, value) == mask;
    return *all ? mask : 0;
}
DEVICE int __reduce_add_sync(u32 mask, int value) {
    auto values = exchange(mask, (u32)value, 0, "__reduce_add_sync");
    u32 sum = 0;
    for (int lane = 0; lane < 32; lane++)
        if (mask >> lane & 1) sum += (u32)values[lane][0];
    return (int)sum;
}
DEVICE u32 __ballot_sync(u32 mask, bool value) {
    auto values = exchange(mask, value, 0, "__ballot_sync");
    u32 lanes = 0;
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1 && values[i][0]) lanes |= 1u << i;
    return lanes;
}
DEVICE bool __any_sync(u32 mask, bool value) {
    auto values = exchange(mask, value, 0, "__any_sync");
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1 && values[i][0]) return true;
    return false;
}
DEVICE void named_barrier(int id, int threads) { emulator::meet(emulator::current->block->named[id], threads, "named_barrier"); }
DEVICE void named_arrive(int id, int threads) { emulator::arrive(emulator::current->block->named[id], threads); }
DEVICE void __syncthreads() { named_barrier(0, (int)blockDim.x); }

// Shared memory of a cluster: addresses hold the block's rank.
DEVICE u32 cluster_rank() { return emulator::current->block->rank; }
DEVICE u32 cluster_size() { return emulator::cluster_blocks; }
DEVICE u32 thread_index() { return threadIdx.x; }
DEVICE u32 thread_again() { return threadIdx.x; }
DEVICE bool elect_one() { return threadIdx.x % 32 == 0; }
DEVICE u32 shared_address(const void* p) {
    const u64 offset = (u64)((const u8*)p - emulator::current->block->shared);
    if (offset >= emulator::usable_shared_bytes) emulator::fault("an address outside of the block's shared memory");
    return cluster_rank() * emulator::shared_bytes + (u32)offset;
}
DEVICE u8* shared_pointer(u32 address, u32 bytes) {
    const u32 rank = address / emulator::shared_bytes, offset = address % emulator::shared_bytes;
    if (rank >= emulator::cluster_blocks || offset + bytes > emulator::usable_shared_bytes) emulator::fault("an address outside of the cluster's shared memory");
    return emulator::current->block->cluster[rank].shared + offset;
}
DEVICE u32 remote_address(u32 shared, u32 rank) { return shared % emulator::shared_bytes + rank * emulator::shared_bytes; }
DEVICE void cluster_sync() {
    emulator::Meeting& meeting = emulator::current->block->cluster[0].named[15];
    emulator::meet(meeting, emulator::cluster_blocks * blockDim.x, "cluster_sync");
}

// mbarriers in their 8 bytes: phase, arrivals of a phase, arrivals still missing; bytes still missing.
struct Barrier {
    u32 phase : 1, arrivals : 15, missing : 16;
    int bytes;
    void complete() {
        if (missing || bytes) return;
        phase ^= 1;
        missing = arrivals;
    }
    void arrive() {
        if (missing == 0) emulator::fault("more arrivals at a barrier than it expects");
        missing--;
        complete();
    }
};
DEVICE Barrier& barrier_at(u32 address) {
    if (address % 8) emulator::fault("a barrier is not at a multiple of 8");
    return *(Barrier*)shared_pointer(address, 8);
}
DEVICE void barrier_init(u32 barrier, u32 arrivals) {
    Barrier& b = barrier_at(barrier);
    b.phase = 0;
    b.arrivals = b.missing = arrivals;
    b.bytes = 0;
}
DEVICE void barrier_arrive(u32 barrier) { barrier_at(barrier).arrive(); }
DEVICE void remote_arrive(u32 barrier) { barrier_at(barrier).arrive(); }
DEVICE u32 none_of(u32 read, u32 number) { return read & number >> 8; }
DEVICE void barrier_arrive_expect(u32 barrier, u32 bytes) {
    barrier_at(barrier).bytes += (int)bytes;
    barrier_at(barrier).arrive();
}
DEVICE void complete_bytes(void* barrier, u32 bytes) {
    Barrier& b = *(Barrier*)barrier;
    b.bytes -= (int)bytes;
    b.complete();
}
DEVICE void barrier_wait(u32 barrier, u32 parity) {
    Barrier& b = barrier_at(barrier);
    if (b.phase == (parity & 1)) emulator::wait_while((const volatile u32*)&b, 1, parity & 1, "barrier_wait");
}
DEVICE void fence_barrier_init() {}

// The copy engine.
struct alignas(64) TensorMap { u64 words[16]; }; // emulated: address, rows, rows of a box
DEVICE void require_aligned(u64 to, const void* from, u64 bytes) {
    if (to % 16 || (u64)from % 16 || bytes % 16) emulator::fault("a bulk copy that is not aligned to 16 bytes");
}
DEVICE void begin_copy(u32 to, const u8* from, u32 bytes, u32 zeros, u32 barrier) {
    emulator::begin({&emulator::current->block->cluster[to / emulator::shared_bytes], shared_pointer(to, bytes + zeros), from, bytes, zeros, &barrier_at(barrier), complete_bytes});
}
DEVICE void bulk_load(u32 to, const void* from, u32 bytes, u32 barrier, u64 = 0) {
    require_aligned(to, from, bytes);
    emulator::require_global(from, bytes, "bulk_load");
    begin_copy(to, (const u8*)from, bytes, 0, barrier);
}
DEVICE void tensor_load_multicast(u32 to, const TensorMap* map, u32 row, u32 barrier, u16 mask) {
    const u8* from = (const u8*)map->words[0] + (u64)row * 128;
    const u64 rows = map->words[1], box = map->words[2], inside = row >= rows ? 0 : rows - row < box ? rows - row : box;
    emulator::require_global(from, inside * 128, "tensor_load_multicast");
    for (u32 rank = 0; rank < emulator::cluster_blocks; rank++) {
        if (!(mask >> rank & 1)) continue;
        begin_copy(remote_address(to, rank), from, (u32)inside * 128, (u32)(box - inside) * 128, remote_address(barrier, rank));
    }
}
DEVICE void prefetch_tensor_map(const TensorMap*) {}
DEVICE void prefetch(const void*) {}
DEVICE void touch(const void*) {}
DEVICE u64 policy_evict_first() { return 0; }
DEVICE u64 policy_evict_normal() { return 0; }
DEVICE void bulk_store(void* to, u32 from, u32 bytes) {
    require_aligned(from, to, bytes);
    emulator::require_global(to, bytes, "bulk_store");
    memcpy(to, shared_pointer(from, bytes), bytes);
}
DEVICE void bulk_store_wait_read() {}
DEVICE void bulk_store_wait() {}
DEVICE void fence_async_shared() {}
DEVICE void fence_async() {}
DEVICE void remote_store(u32 to, float value, u32 barrier) {
    memcpy(shared_pointer(to, 4), &value, 4);
    complete_bytes(&barrier_at(barrier), 4);
}

// Counters.
DEVICE void wait_for_count_at(const u32* counter, u32 count, const char* where) {
    while (*(const volatile u32*)counter < count) emulator::wait_while(counter, ~0u, *counter, where);
}
DEVICE u32 count_up(u32* counter, u32 last) {
    const u32 before = *counter;
    *counter = before >= last ? 0 : before + 1;
    return before;
}
DEVICE void count_shared(u32 counter) { ++*(u32*)shared_pointer(counter, 4); }
DEVICE void count_release_shared(u32 counter) { ++*(u32*)shared_pointer(counter, 4); }
DEVICE void wait_for_count_shared(u32 counter, u32 count) { wait_for_count_at((const u32*)shared_pointer(counter, 4), count, "wait_for_count_shared"); }
DEVICE void count(u32* counter) { ++*counter; }
DEVICE void fence_gpu() {}
DEVICE u32 read_count(const u32* counter) { return *(const volatile u32*)counter; }
DEVICE void wait_for_count(const u32* counter, u32 count) {
    while (read_count(counter) != count) emulator::wait_while(counter, ~0u, *counter, "wait_for_count");
}
DEVICE void doze_for_count_shared(u32 counter, u32 count) { wait_for_count_at((const u32*)shared_pointer(counter, 4), count, "doze_for_count_shared"); }
DEVICE void doze_for_count(const u32* counter, u32 mask, u32 count) {
    while ((read_count(counter) & mask) < count) emulator::wait_while(counter, ~0u, *counter, "doze_for_count");
}

// Words that one block writes while another reads them.
DEVICE void store_relaxed(u32* to, u32 value) {
    emulator::require_global(to, 4, "store_relaxed");
    *to = value;
}
template <class V> DEVICE void load_relaxed(V& v, const void* from) {
    emulator::require_global(from, sizeof v, "load_relaxed");
    v = *(const V*)from;
}
template <class V> DEVICE void wait_for_change(const V& v, const void* from) { // of the first word that was all ones
    u32 words[sizeof v / 4], i = 0;
    memcpy(words, &v, sizeof v);
    while (i + 1 < sizeof v / 4 && words[i] != ~0u) i++;
    emulator::wait_while((const u32*)from + i, ~0u, words[i], "wait_for_change");
}

DEVICE u32 transpose(u32 pair) {
    auto values = exchange(~0u, pair, 0, "transpose");
    const u32 lane = lane_of_warp(), column = lane / 4, row = lane % 4 * 2;
    return (u32)(values[4 * row + column / 2][0] >> column % 2 * 16 & 0xFFFF) | (u32)(values[4 * row + 4 + column / 2][0] >> column % 2 * 16) << 16;
}

/// Lane 8 i + c writes column c of matrix i, whose rows are spread over the lanes.
template <int Count> void store_transposed(u32 to, const u32 (&pairs)[Count]) {
    static_assert(Count <= 2);
    auto values = exchange(~0u, pairs[0], pairs[Count - 1], "store_transposed");
    const u32 lane = lane_of_warp(), matrix = lane / 8, column = lane % 8;
    if (matrix >= Count) return;
    if (to % 16) emulator::fault("a column of a matrix is not at a multiple of 16");
    u16 rows[8];
    for (int r = 0; r < 8; r++) rows[r] = (u16)(values[4 * r + column / 2][matrix] >> column % 2 * 16);
    memcpy(shared_pointer(to, 16), rows, 16);
}

// Kernels run one after another, and registers are plenty.
DEVICE void launch_dependents() {}
DEVICE void wait_for_earlier_kernels() {}
template <int Count> void registers_increase() {}
template <int Count> void registers_decrease() {}

// Conversions.
DEVICE u32 bf16_bits(float x) {
    const u32 bits = __float_as_uint(x);
    return x != x ? 0x7FFF : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}
DEVICE u32 e4m3_bits(float x) {
    const u32 sign = __float_as_uint(x) >> 24 & 0x80;
    if (x != x) return 0x7F;
    float m = fabsf(x);
    if (m >= 448.0f) return sign | 0x7E;
    if (m < 0.015625f) return sign | (u32)nearbyintf(m * 512.0f); // subnormal; 8 is the smallest normal's code
    const u32 bits = __float_as_uint(m), rounded = bits + 0x7FFFF + (bits >> 20 & 1);
    return sign | ((rounded >> 20) - (120 << 3));
}
DEVICE float from_bf16(u32 bits) { return __uint_as_float(bits << 16); }
DEVICE u32 pack_bf16(float low, float high) { return bf16_bits(low) | bf16_bits(high) << 16; }
DEVICE float round_bf16(float x) { return from_bf16(bf16_bits(x)); }
DEVICE float low_bf16(u32 pair) { return __uint_as_float(pair << 16); }
DEVICE float high_bf16(u32 pair) { return __uint_as_float(pair & 0xFFFF0000u); }
DEVICE u32 multiply_bf16(u32 a, u32 b) { return pack_bf16(low_bf16(a) * low_bf16(b), high_bf16(a) * high_bf16(b)); }
DEVICE u32 maximum_bf16(u32 a, u32 b) { return pack_bf16(fmaxf(low_bf16(a), low_bf16(b)), fmaxf(high_bf16(a), high_bf16(b))); }
DEVICE float power_of_two(float x) { return exp2f(x); }
DEVICE float reciprocal(float x) { return 1.0f / x; }
DEVICE u32 pack_e4m3(float low, float high) { return e4m3_bits(low) | e4m3_bits(high) << 8; }
