#include "fibers.hpp"
#include <csetjmp>
#include <sys/mman.h>
#include <thread>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulator {

Fiber* current;
Dim grid_size, block_size;
u32 cluster_blocks;

namespace {
constexpr size_t stack_bytes = 96 * 1024;
constexpr u32 most_fibers = 4096;
u8* stacks;
const Launch* running;
std::string failure;
void* scheduler;
std::vector<Copy> copies; // under way
u32 lot;

void body() {
    running->entry(running->arguments);
    current->done = true;
    wait_while(nullptr, 0, 0, "");
}

#if defined(__x86_64__)
extern "C" void emulator_switch(void** save, void* restore);
asm(R"(
.text
.type emulator_switch,@function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");

void prepare(Fiber& fiber, u8* stack) {
    void** top = (void**)(stack + stack_bytes) - 1; // a called function finds the stack pointer 8 below a multiple of 16
    *--top = (void*)body;
    top -= 6;
    memset(top, 0, 48);
    fiber.stack_pointer = top;
}
void resume(Fiber& fiber) { emulator_switch(&scheduler, fiber.stack_pointer); }
void leave() { emulator_switch(&current->stack_pointer, scheduler); }
#else
ucontext_t contexts[most_fibers], scheduler_context;
void prepare(Fiber& fiber, u8* stack) {
    const size_t index = (stack - stacks) / stack_bytes;
    ucontext_t& context = contexts[index];
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = stack_bytes;
    makecontext(&context, body, 0);
    fiber.stack_pointer = &context;
}
void resume(Fiber& fiber) { swapcontext(&scheduler_context, (ucontext_t*)fiber.stack_pointer); }
void leave() { swapcontext((ucontext_t*)current->stack_pointer, &scheduler_context); }
#endif

bool runnable(const Fiber& fiber) { return !fiber.done && (!fiber.word || (*fiber.word & fiber.mask) != fiber.value); }

std::string deadlock(const std::vector<Fiber>& fibers) {
    std::string text = "deadlock:";
    const char* last = "";
    for (const Fiber& f : fibers)
        if (!f.done && f.where != last) {
            last = f.where;
            text += " block " + std::to_string(f.block->index.x) + " thread " + std::to_string(f.thread.x) + " waits at " + f.where + ";";
            if (text.size() > 600) break;
        }
    return text;
}

/// Any of the copies under way, for what is right must not depend on their order; the same ones in every run.
void land_one() {
    lot = lot * 1664525 + 1013904223;
    const size_t index = (lot >> 8) % copies.size();
    const Copy copy = copies[index];
    copies[index] = copies.back();
    copies.pop_back();
    if (copy.block->running == 0) {
        failure = "block " + std::to_string(copy.block->index.x) + " has ended before a copy into its shared memory has";
        return;
    }
    memcpy(copy.to, copy.from, copy.bytes);
    memset(copy.to + copy.bytes, 0, copy.zeros);
    copy.landed(copy.barrier, copy.bytes + copy.zeros);
}

/// Blocks [first, first + blocks.size()) side by side.
void run_blocks(std::vector<Fiber>& fibers, std::vector<Block>& blocks, u8* shared, u32 first) {
    const u32 threads = block_size.x;
    memset(shared, 0xFF, blocks.size() * shared_bytes); // nobody may count on zeros
    for (u32 i = 0; i < blocks.size(); i++) {
        Block& block = blocks[i];
        block = Block{};
        block.shared = shared + (size_t)i * shared_bytes;
        block.running = threads;
        block.cluster = &blocks[i / cluster_blocks * cluster_blocks];
        block.index = {first + i, 0, 0};
        block.rank = i % cluster_blocks;
        for (u32 t = 0; t < threads; t++) {
            Fiber& fiber = fibers[i * threads + t];
            fiber = Fiber{};
            fiber.thread = {t, 0, 0};
            fiber.block = &block;
            fiber.where = "";
            prepare(fiber, stacks + (size_t)(i * threads + t) * stack_bytes);
        }
    }
    for (u32 left = (u32)fibers.size(); left > 0;) {
        bool moved = false;
        for (Fiber& fiber : fibers) {
            if (!runnable(fiber)) continue;
            moved = true;
            current = &fiber;
            resume(fiber);
            if (!failure.empty()) return;
            if (fiber.done) fiber.block->running--, left--;
        }
        if (moved) continue;
        if (copies.empty()) failure = deadlock(fibers);
        else land_one();
        if (!failure.empty()) return;
    }
    if (!copies.empty()) land_one(); // into a block that has ended
}

void run_grid() {
    if (!stacks) stacks = (u8*)mmap(nullptr, most_fibers * stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    const u32 most = most_fibers / block_size.x, clusters = (running->resident < most ? running->resident : most) / cluster_blocks;
    const u32 resident = (clusters ? clusters : 1) * cluster_blocks;
    std::vector<Fiber> fibers;
    std::vector<Block> blocks;
    u8* shared = (u8*)aligned_alloc(4096, (size_t)resident * shared_bytes);
    for (u32 first = 0; first < grid_size.x && failure.empty(); first += resident) {
        blocks.resize(grid_size.x - first < resident ? grid_size.x - first : resident);
        fibers.resize(blocks.size() * block_size.x);
        run_blocks(fibers, blocks, shared, first);
    }
    free(shared);
}
} // namespace

void wait_while(const volatile u32* word, u32 mask, u32 value, const char* where) {
    Fiber& self = *current;
    self.word = word;
    self.mask = mask;
    self.value = value;
    self.where = where;
    do leave(); while (word && (*word & mask) == value);
    self.word = nullptr;
}

void begin(const Copy& copy) { copies.push_back(copy); }

void fault(const std::string& what) {
    failure = "block " + std::to_string(current->block->index.x) + " thread " + std::to_string(current->thread.x) + ": " + what;
    while (true) leave();
}

std::string run(const Launch& launch) {
    if (launch.cluster * launch.block.x > most_fibers) return "too many threads in a cluster";
    running = &launch;
    failure.clear();
    copies.clear();
    lot = 0;
    grid_size = launch.grid;
    block_size = launch.block;
    cluster_blocks = launch.cluster;
    std::thread(run_grid).join(); // a thread of our own: the host's signals never meet a fiber's stack
    return failure;
}

} // namespace emulator
