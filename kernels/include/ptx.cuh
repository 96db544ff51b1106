#pragma once
// The few PTX instructions of Hopper that the kernels use, one wrapper each. No header of the CUDA toolkit is needed.
#ifdef EMULATED
#include "../emulator/device.hpp" // the same functions for the CPU
#else

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define DEVICE __device__ __forceinline__
#define SHARED_MEMORY(type, alignment, name) extern __shared__ __align__(alignment) type name[]
#define offset_of(type, field) __INTADDR__(&((type*)0)->field) // what the compiler itself makes of offsetof

/// Through an exchange with itself: otherwise the compiler asks for it again and again, in the middle of loops, rather than keep it.
DEVICE u32 thread_index() {
    u32 x;
    asm volatile("{.reg .u32 t; mov.u32 t, %%tid.x; shfl.sync.bfly.b32 %0, t, 0, 31, 0xffffffff;}" : "=r"(x));
    return x;
}
/// Not known to be the same as before: nothing that follows from it is worked out ahead of a loop and held in registers.
DEVICE u32 thread_again() {
    u32 x;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
    return x;
}
/// One lane of a whole warp, always the same, which the compiler knows to be one: it then issues bulk copies as they are, not in a loop over lanes.
DEVICE bool elect_one() {
    u32 elected;
    asm volatile("{.reg .pred p; elect.sync _|p, 0xffffffff; selp.u32 %0, 1, 0, p;}" : "=r"(elected));
    return elected;
}
DEVICE u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// mbarriers: one phase per ring turn; a wait names the parity of the phase that must have completed.
DEVICE void barrier_init(u32 barrier, u32 arrivals) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals)); }
DEVICE void barrier_arrive(u32 barrier) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory"); }
/// Added to the address of a barrier at which a thread arrives when it has read a slot: 0, which the compiler does not know (of a number below 256). Without, a read that is still on its way, while products keep shared memory
/// busy, can come after the slot's next contents: neither compiler nor hardware hold the arrival back for it.
DEVICE u32 none_of(u32 read, u32 number) { return read & number >> 8; }
DEVICE void barrier_arrive_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
DEVICE void barrier_wait(u32 barrier, u32 parity) {
    asm volatile(
        "{\n.reg .pred done;\n"
        "WAIT: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@done bra DONE;\nbra WAIT;\nDONE:\n}" ::"r"(barrier), "r"(parity) : "memory");
}
DEVICE void fence_barrier_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEVICE void named_barrier(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
DEVICE void named_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// Bulk copies: contiguous, 16-byte aligned at both ends, performed by the copy engine (the "async proxy").
DEVICE void bulk_load(u32 to, const void* from, u32 bytes, u32 barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from), "r"(bytes),
                 "r"(barrier) : "memory");
}
DEVICE void bulk_load(u32 to, const void* from, u32 bytes, u32 barrier, u64 policy) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(to), "l"(from),
                 "r"(bytes), "r"(barrier), "l"(policy) : "memory");
}
struct alignas(64) TensorMap {
    u64 words[16];
};
/// A box of 128-byte rows from a tensor [rows][128], starting at this row, to the same offset of every block in the mask; each block's own barrier is
/// told. (A bulk copy without a tensor map can multicast too, but at a fraction of the speed.)
DEVICE void tensor_load_multicast(u32 to, const TensorMap* map, u32 row, u32 barrier, u16 mask) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
                 "l"(map), "r"(0), "r"(row), "r"(barrier), "h"(mask) : "memory");
}
DEVICE void prefetch_tensor_map(const TensorMap* map) { asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"); }
DEVICE u64 policy_evict_first() {
    u64 policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}
DEVICE u64 policy_evict_normal() { // as without a policy, so that one instruction serves both
    u64 policy;
    asm volatile("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}
DEVICE void bulk_store(void* to, u32 from, u32 bytes) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;\ncp.async.bulk.commit_group;" ::"l"(to), "r"(from), "r"(bytes) : "memory");
}
DEVICE void bulk_store_wait_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
DEVICE void bulk_store_wait() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }
/// Into the second-level cache; a hint, and whatever an earlier kernel still writes there is seen all the same.
DEVICE void prefetch(const void* from) { asm volatile("prefetch.global.L2 [%0];" ::"l"(from)); }
/// Into the first-level cache, where later reads of it by this multiprocessor are short.
DEVICE void touch(const void* from) {
    asm volatile("{.reg .u32 word; ld.global.ca.u32 word, [%0];}" ::"l"(from) : "memory");
}
DEVICE void fence_async_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
DEVICE void fence_async() { asm volatile("fence.proxy.async;" ::: "memory"); }

// Clusters: blocks that see each other's shared memory.
DEVICE u32 cluster_rank() {
    u32 rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
DEVICE u32 cluster_size() {
    u32 size;
    asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
    return size;
}
DEVICE void cluster_sync() { asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory"); }
DEVICE u32 remote_address(u32 shared, u32 rank) {
    u32 address;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared), "r"(rank));
    return address;
}
DEVICE void remote_arrive(u32 barrier) { asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory"); }
DEVICE void remote_store(u32 to, float value, u32 barrier) { // the barrier, of the same block as the target, is told of 4 bytes
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(to), "r"(__float_as_uint(value)), "r"(barrier) : "memory");
}

// Programmatic dependent launch: the next kernel's blocks may start, and this kernel may read what earlier kernels wrote.
DEVICE void launch_dependents() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
DEVICE void wait_for_earlier_kernels() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

// Counters in device memory that all blocks share, and in shared memory for the warps of one. Releasing: what this thread wrote, and what others wrote before a barrier
// that it passed, is visible to whoever then reads the count. Acquiring, for the threads behind the next barrier too. A count that reaches `last` goes back to zero with the
// next one. (atom.inc, not add: additions of a constant are gathered over the warp, which waits for the result at once.)
DEVICE u32 count_up(u32* counter, u32 last) { // the count so far; orders nothing
    u32 before;
    asm volatile("atom.relaxed.gpu.global.inc.u32 %0, [%1], %2;" : "=r"(before) : "l"(counter), "r"(last) : "memory");
    return before;
}
DEVICE void fence_gpu() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); } // before something is counted for other blocks, and after a count was read, for what it counts
DEVICE void count(u32* counter) { asm volatile("red.relaxed.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory"); }
DEVICE u32 read_count(const u32* counter) { // orders nothing
    u32 now;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(counter) : "memory");
    return now;
}
DEVICE void wait_for_count(const u32* counter, u32 count) { // exactly
    while (read_count(counter) != count) {}
}
DEVICE void doze_for_count(const u32* counter, u32 mask, u32 count) { // of these bits; orders nothing
    while (true) {
        if ((read_count(counter) & mask) >= count) return;
        asm volatile("nanosleep.u32 100;");
    }
}

// Words of device memory that one block writes while another reads them. They come in any order, each as a whole.
DEVICE void store_relaxed(u32* to, u32 value) { asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory"); }
DEVICE void load_relaxed(uint4& v, const void* from) {
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from) : "memory");
}
DEVICE void load_relaxed(uint2& v, const void* from) { asm volatile("ld.relaxed.gpu.global.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(from) : "memory"); }
template <class V> DEVICE void wait_for_change(const V&, const void*) {} // of the words that were all ones there: whoever calls it reads again
DEVICE void count_shared(u32 counter) { asm volatile("red.relaxed.cta.shared::cta.add.u32 [%0], 1;" ::"r"(counter) : "memory"); } // atomicAdd works out the address anew each time
DEVICE void count_release_shared(u32 counter) { asm volatile("red.release.cta.shared::cta.add.u32 [%0], 1;" ::"r"(counter) : "memory"); }
DEVICE u32 read_count_shared(u32 counter) {
    u32 now;
    asm volatile("ld.acquire.cta.shared::cta.u32 %0, [%1];" : "=r"(now) : "r"(counter) : "memory");
    return now;
}
DEVICE void wait_for_count_shared(u32 counter, u32 count) {
    while (read_count_shared(counter) < count) {}
}
DEVICE void doze_for_count_shared(u32 counter, u32 count) { // by whoever must not take issue slots from others
    while (read_count_shared(counter) < count) asm volatile("nanosleep.u32 32;");
}

/// A matrix of 8 x 8 16-bit values, as products leave it (lane l has two neighbours of row l / 4), as its columns: two neighbours of column l / 4.
DEVICE u32 transpose(u32 pair) {
    u32 column;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(column) : "r"(pair));
    return column;
}

// Matrices of 8 x 8 16-bit values, as products leave them (two neighbours of row lane / 4 per lane), to shared memory as columns: lane 8 i + c gives the
// address of column c of matrix i, 16 bytes.
DEVICE void store_transposed(u32 to, const u32 (&pairs)[1]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%0], {%1};" ::"r"(to), "r"(pairs[0]) : "memory");
}
DEVICE void store_transposed(u32 to, const u32 (&pairs)[2]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(to), "r"(pairs[0]), "r"(pairs[1]) : "memory");
}

// Registers move between warpgroups; all warps of one execute it.
template <int Count> DEVICE void registers_increase() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Count)); }
template <int Count> DEVICE void registers_decrease() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Count)); }

// Conversions.
DEVICE float from_bf16(u32 bits) { return __uint_as_float(bits << 16); }
DEVICE u32 pack_bf16(float low, float high) {
    u32 packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}
DEVICE float round_bf16(float x) { return from_bf16(pack_bf16(x, 0.0f) & 0xFFFFu); }
DEVICE u32 multiply_bf16(u32 a, u32 b) { // pairs; exact products rounded once
    u32 product;
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(product) : "r"(a), "r"(b));
    return product;
}
DEVICE u32 maximum_bf16(u32 a, u32 b) { // pairs; ignores NaN
    u32 larger;
    asm("max.bf16x2 %0, %1, %2;" : "=r"(larger) : "r"(a), "r"(b));
    return larger;
}
DEVICE float low_bf16(u32 pair) { return __uint_as_float(pair << 16); }
DEVICE float high_bf16(u32 pair) { return __uint_as_float(pair & 0xFFFF0000u); }
DEVICE float power_of_two(float x) { // 2^x, 2 ulp; zero below 2^-126
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
DEVICE float reciprocal(float x) { // 1 ulp, for x up to 2^126
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
DEVICE u32 pack_e4m3(float low, float high) { // saturates at +-448, NaN becomes 0x7F
    u16 packed;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(packed) : "f"(high), "f"(low));
    return packed;
}
#endif
