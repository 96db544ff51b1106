#pragma once
// A GPU's threads on one CPU thread: every CUDA thread of the resident blocks is a fiber; one that must wait names the word that must change and steps aside.
// When nobody can go on, the kernel is deadlocked and faults with a list of what its threads wait for.
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

namespace emulator {

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;

constexpr u32 shared_bytes = 1 << 18; // of one block; shared addresses are rank * shared_bytes + offset
constexpr u32 usable_shared_bytes = 227 * 1024;

struct Dim { u32 x, y, z; };

/// Threads that wait for each other.
struct Meeting {
    u32 generation = 0, arrived = 0;
};

/// FP8 operands of one product, decoded by the first thread of a warpgroup that needs them.
struct Operands;

struct Warp {
    Meeting meetings[33];         // by the lowest lane of the mask; the last of all lanes
    u64 values[2][32][2];         // what lanes of a part of the warp tell each other; two turns
    u32 turns[32] = {};           // by lane: a part may exchange more often than another
    u64 all_values[2][32][2];     // the same for all lanes
};

struct Block {
    u8* shared;
    u32 running;                 // threads that have not ended
    Block* cluster;              // its blocks, by rank
    Dim index;
    u32 rank;
    Warp warps[32];
    Meeting named[16];
    std::shared_ptr<Operands> operands[8]; // by warpgroup
};

struct Fiber {
    void* stack_pointer;
    Dim thread;
    Block* block;
    const volatile u32* word; // waits while (*word & mask) == value
    u32 mask, value;
    const char* where;
    u32 products;             // matrix products issued so far
    bool done;
};

/// A copy into a block's shared memory, and whom to tell of it.
struct Copy {
    Block* block;
    u8* to;
    const u8* from;
    u32 bytes, zeros; // behind the bytes
    void* barrier;
    void (*landed)(void* barrier, u32 bytes);
};

struct Launch {
    void (*entry)(const void* arguments);
    const void* arguments;
    Dim grid, block;
    u32 cluster;
    u32 resident; // blocks at a time, in whole clusters
};

extern Fiber* current;
extern Dim grid_size, block_size;
extern u32 cluster_blocks;

/// Runs a whole grid: so many blocks side by side, the others when all of those have ended. Returns an empty string, or what went wrong.
std::string run(const Launch& launch);

/// Ends the kernel that is running: what a GPU reports as a fault.
[[noreturn]] void fault(const std::string& what);

/// Begins a copy. It reads and writes as late as it may: when no thread can go on without it, one of those under way.
void begin(const Copy& copy);

/// Steps aside while (*word & mask) == value.
void wait_while(const volatile u32* word, u32 mask, u32 value, const char* where);

/// Counts without waiting.
inline bool arrive(Meeting& meeting, u32 count) {
    if (++meeting.arrived != count) return false;
    meeting.arrived = 0;
    meeting.generation++;
    return true;
}
inline void meet(Meeting& meeting, u32 count, const char* where) {
    const u32 generation = meeting.generation;
    if (arrive(meeting, count)) wait_while(nullptr, 0, 0, where); // who comes last goes on with the others, as lanes of a warp do, and not ahead of them
    else wait_while(&meeting.generation, ~0u, generation, where);
}

/// Whether the bytes lie in memory that the emulated driver gave out; faults otherwise.
void require_global(const void* from, u64 bytes, const char* what);

} // namespace emulator
