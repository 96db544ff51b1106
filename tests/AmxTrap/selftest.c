// Compares trapped AMX instructions with plain loops, and what evex.c does with what the machine does where it has AVX-512. Run with the library preloaded; exit code 0 means
// that all of it held.
#define _GNU_SOURCE
#include "evex.h"
#include <immintrin.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

typedef struct { uint8_t palette, start_row, reserved[14]; uint16_t colsb[16]; uint8_t rows[16]; } Config;

static int failures;
static void check(int holds, const char *what, int case_number)
{
    if (holds) return;
    __atomic_fetch_add(&failures, 1, __ATOMIC_RELAXED);
    fprintf(stderr, "selftest: %s, case %d\n", what, case_number);
}

static uint32_t next(uint32_t *seed) { return *seed = *seed * 1664525u + 1013904223u; }

static float widen(uint16_t bf16)
{
    uint32_t bits = (uint32_t)bf16 << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static float flush(float value) { return fabsf(value) < 0x1p-126f ? copysignf(0, value) : value; }

// D(m x n) += A(m x 2k) B(k x n pairs), as the instruction set reference has it, with subnormal numbers flushed by hand.
static void plain(float *d, const uint16_t *a, const uint16_t *b, int m, int n, int k)
{
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++)
        {
            float sums[2] = { 0, 0 };
            for (int p = 0; p < k; p++)
                for (int odd = 0; odd < 2; odd++)
                    sums[odd] = flush(fmaf(flush(widen(a[2 * (i * k + p) + odd])), flush(widen(b[2 * (p * n + j) + odd])), sums[odd]));
            d[i * n + j] = flush(flush(d[i * n + j]) + flush(sums[0] + sums[1]));
        }
}

static Config shape(int m, int n, int k)
{
    Config c = { .palette = 1 };
    c.rows[0] = m, c.colsb[0] = 4 * n;
    c.rows[1] = m, c.colsb[1] = 4 * k;
    c.rows[2] = k, c.colsb[2] = 4 * n;
    return c;
}

// Of two kinds: ordinary numbers, or such that products and sums fall around the least normal number.
static uint16_t value(uint32_t *seed, int tiny)
{
    uint32_t bits = next(seed);
    unsigned exponent = tiny ? 56 + (bits >> 28) : 120 + (bits >> 28);
    if ((bits & 0x700) == 0) exponent = 0; // subnormal: counts as zero
    return (uint16_t)((bits & 0x8000) | exponent << 7 | (bits & 0x7F));
}

static void multiply(uint32_t seed)
{
    for (int round = 0; round < 400; round++)
    {
        int m = 1 + (next(&seed) >> 16) % 16, n = 1 + (next(&seed) >> 16) % 16, k = 1 + (next(&seed) >> 16) % 16;
        uint16_t a[512], b[512];
        float d[256], got[256];
        for (int i = 0; i < 512; i++) a[i] = value(&seed, round & 1), b[i] = value(&seed, round & 1);
        for (int i = 0; i < 256; i++) d[i] = got[i] = widen((uint16_t)(value(&seed, 0) & (round & 1 ? 0x87FF : 0xFFFF)));
        Config c = shape(m, n, k), stored;
        _tile_loadconfig(&c);
        _tile_storeconfig(&stored);
        check(memcmp(&c, &stored, sizeof c) == 0, "STTILECFG does not return the configuration", round);
        _tile_loadd(0, got, 4 * n);
        _tile_stream_loadd(1, a, 4 * k);
        _tile_loadd(2, b, 4 * n);
        _tile_dpbf16ps(0, 1, 2);
        _tile_dpbf16ps(0, 1, 2);
        _tile_stored(0, got, 4 * n);
        plain(d, a, b, m, n, k);
        plain(d, a, b, m, n, k);
        check(memcmp(d, got, 4 * m * n) == 0, "TDPBF16PS differs from the plain loop", round);
        _tile_zero(0);
        _tile_stored(0, got, 4 * n);
        for (int i = 0; i < m * n; i++) check(got[i] == 0, "TILEZERO left something", i);
        _tile_release();
        _tile_storeconfig(&stored);
        check(stored.palette == 0, "TILERELEASE left a configuration", round);
    }
}

static void *multiply_on_thread(void *seed)
{
    multiply((uint32_t)(uintptr_t)seed);
    return NULL;
}

// Every way to write an address: base, displacement of one and four bytes, scale, no index, negative stride, r12, r13, rsp, RIP.
static void addresses(void)
{
    static Config c;
    static uint8_t data[16 * 64], out[16 * 64];
    c = (Config){ .palette = 1 };
    c.rows[3] = c.rows[7] = 4, c.colsb[3] = c.colsb[7] = 16;
    for (int i = 0; i < 1024; i++) data[i] = (uint8_t)(i * 7 + i / 256);
    __asm__ volatile("ldtilecfg %0" : : "m"(c)); // RIP-relative
    __asm__ volatile("ldtilecfg -64(%0,%1,2)" : : "r"(&c), "r"(32l) : "memory");
    const uint8_t *at = data + 512;
    #define LOAD(address, offset, step, ...) \
        memset(out, 0, sizeof out); \
        __asm__ volatile(__VA_ARGS__ "tileloadd " address ", %%tmm7\n tilestored %%tmm7, (%[out],%[stride],1)" \
            : : [at] "r"(at), [out] "r"(out), [stride] "r"(16l) : "memory", "r9", "r11", "r12", "r13", "r15"); \
        for (int r = 0; r < 4; r++) check(memcmp(out + 16 * r, at + (offset) + r * (step), 16) == 0, "wrong bytes through " address, r)
    LOAD("(%%r12,%%r9,1)", 0, 32, "mov %[at], %%r12\n mov $32, %%r9\n");
    LOAD("(%%r13,%%r9,8)", 0, 64, "mov %[at], %%r13\n mov $8, %%r9\n");
    LOAD("0x11(%%r12,%%r15,2)", 17, 20, "mov %[at], %%r12\n mov $10, %%r15\n");
    LOAD("-0x11(%%r13,%%r11,4)", -17, 8, "mov %[at], %%r13\n mov $2, %%r11\n");
    LOAD("0x100(%[at],%%r9,1)", 256, -64, "mov $-64, %%r9\n");
    LOAD("-0x90(%[at],%%r9,1)", -144, 48, "mov $48, %%r9\n");
    LOAD("0x20(%[at])", 32, 0, "");
    at = mmap((void *)0x10000000, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    check(at == (void *)0x10000000, "no memory at a low address", 0);
    memcpy((void *)at, data, 1024);
    LOAD("0x10000010(,%%r11,2)", 16, 16, "mov $8, %%r11\n");
    #undef LOAD
    _tile_release();
}

static volatile sig_atomic_t seen;
static void own_handler(int signal_number, siginfo_t *information, void *context)
{
    (void)signal_number, (void)information;
    seen++;
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 2;
}

static void handler_of_the_program(void)
{
    struct sigaction mine = { .sa_sigaction = own_handler, .sa_flags = SA_SIGINFO }, old, now;
    sigaction(SIGILL, &mine, &old);
    check(old.sa_handler == SIG_DFL, "a handler was there before the program's", 0);
    sigaction(SIGILL, NULL, &now);
    check(now.sa_sigaction == own_handler, "the program's handler is not reported", 0);
    __asm__ volatile("ud2");
    check(seen == 1, "the program's handler did not get its signal", seen);
    multiply(5);
    check(seen == 1, "the program's handler got an AMX instruction", seen);
    check(signal(SIGILL, SIG_DFL) == mine.sa_handler, "signal does not return the handler", 0);
}

static void must_end(int expected, const char *what, int case_number, void (*program)(int))
{
    pid_t child = fork();
    if (child == 0)
    {
        if (freopen("/dev/null", "w", stderr) == NULL) _exit(1);
        program(case_number);
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    check(WIFSIGNALED(status) && WTERMSIG(status) == expected, what, case_number);
}

static void bad_program(int case_number)
{
    static uint8_t memory[1024];
    Config c = shape(4, 4, 4);
    switch (case_number)
    {
        case 0: c.palette = 2; break;
        case 1: c.reserved[13] = 1; break;
        case 2: c.rows[0] = 17; break;
        case 3: c.colsb[0] = 65; break;
        case 4: c.rows[5] = 1; break;
        case 5: c.colsb[9] = 4; c.rows[9] = 1; break;
        case 6: c.rows[2] = 3; break;     // k of A and B differ
        case 7: c.colsb[2] = 12; break;   // n of B and D differ
        case 8: c.rows[1] = 3; break;     // m of A and D differ
        case 9: c.colsb[1] = 14; break;   // half a pair
    }
    if (case_number == 13) _tile_dpbf16ps(0, 1, 2); // before any configuration
    _tile_loadconfig(&c);
    if (case_number == 10) _tile_loadd(6, memory, 16);
    if (case_number == 11) __asm__ volatile(".byte 0xC4, 0xE2, 0x72, 0x5C, 0xC1"); // TDPBF16PS 0, 1, 1: assemblers refuse it
    if (case_number == 12) { _tile_release(); _tile_zero(0); }
    _tile_dpbf16ps(0, 1, 2);
}

static void no_handler(int unused)
{
    (void)unused;
    __asm__ volatile("ud2");
}

// As in instructions.S.
typedef struct { _Alignas(64) uint8_t vectors[32][64]; uint64_t masks[8], flags, rax, rcx, r9, r12, r13; } Registers;
typedef struct { const uint8_t *begin, *end; uint64_t needs; } Instruction;
enum { MODERATE = 1, BF16 = 2, KINDS = 3, MEMORY = 4096, ARITHMETIC_FLAGS = 0x8D5 };
extern const Instruction instructions[], instructions_end[];
extern uint8_t instruction_memory[MEMORY];
void run_natively(Registers *registers, const uint8_t *code);

// Any bits; numbers around 1; what numbers there are beside ordinary ones, and a few of these.
static void fill(void *to, int bytes, int kind, uint32_t *seed)
{
    static const uint32_t special[] = { 0, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00001, 0xFFE12345, 0x7F812345, 0xFF800001, 1, 0x807FFFFF, 0x00800000, 0x7F7FFFFF, 0x3F800000, 0x7F907FB0 };
    for (int at = 0; at < bytes; at += 4)
    {
        uint32_t bits = next(seed) & 0xFFFF0000, choice = next(seed) >> 16;
        bits |= next(seed) >> 16;
        if (kind == 1) bits = (bits & 0x80FFFFFF) | (0x3C + choice % 6) << 24;
        if (kind == 2 && choice % 32 < sizeof special / 4) bits = special[choice % 32];
        memcpy((uint8_t *)to + at, &bits, 4);
    }
}

// As a signal handler would, with registers below 16 in a frame.
static int emulate(Registers *r, const Instruction *instruction)
{
    static _Alignas(64) uint8_t frame[1024];
    ucontext_t context = { .uc_mcontext.fpregs = (fpregset_t)frame };
    greg_t *g = context.uc_mcontext.gregs;
    memcpy(evex_vectors(), r->vectors, sizeof r->vectors);
    memcpy(evex_masks(), r->masks, sizeof r->masks);
    for (int i = 0; i < 16; i++)
    {
        memcpy(frame + 160 + 16 * i, r->vectors[i], 16);
        memcpy(frame + 576 + 16 * i, r->vectors[i] + 16, 16);
        memset((uint8_t *)evex_vectors() + 64 * i, 0xAA, 32);
    }
    g[REG_RIP] = (greg_t)instruction->begin, g[REG_EFL] = (greg_t)r->flags;
    g[REG_RAX] = (greg_t)r->rax, g[REG_RCX] = (greg_t)r->rcx, g[REG_R9] = (greg_t)r->r9, g[REG_R12] = (greg_t)r->r12, g[REG_R13] = (greg_t)r->r13;
    if (!evex_execute(&context) || g[REG_RIP] != (greg_t)instruction->end) return 0;
    memcpy(r->vectors, evex_vectors(), sizeof r->vectors);
    memcpy(r->masks, evex_masks(), sizeof r->masks);
    for (int i = 0; i < 16; i++)
    {
        memcpy(r->vectors[i], frame + 160 + 16 * i, 16);
        memcpy(r->vectors[i] + 16, frame + 576 + 16 * i, 16);
    }
    r->flags = (uint64_t)g[REG_EFL];
    return 1;
}

static void agree(const Instruction *instruction, int kind, uint32_t *seed)
{
    static uint8_t before[MEMORY], after[MEMORY];
    Registers r = { .rcx = 24, .r9 = (uint64_t)-72 }, native;
    fill(r.vectors, sizeof r.vectors, kind, seed);
    fill(r.masks, sizeof r.masks, 0, seed);
    for (int i = 0, bits = 64; i < 8; i++, bits = 8 << (next(seed) >> 30)) // about half of them all zero or all one, as far as a test may look
        if (next(seed) >> 31) r.masks[i] = next(seed) >> 31 ? ~0ull >> (64 - bits) : bits == 64 ? 0 : ~0ull << bits;
    r.flags = (next(seed) >> 16 & ARITHMETIC_FLAGS) | 2;
    r.rax = (uint64_t)instruction_memory + MEMORY / 2, r.r12 = r.rax + 72, r.r13 = r.rax - 444;
    fill(before, MEMORY, kind, seed);
    memcpy(instruction_memory, before, MEMORY);
    native = r;
    _mm_setcsr(0x1F80);
    run_natively(&native, instruction->begin);
    memcpy(after, instruction_memory, MEMORY);
    memcpy(instruction_memory, before, MEMORY);
    native.flags = (native.flags & ARITHMETIC_FLAGS) | 2;
    int known = emulate(&r, instruction);
    _mm_setcsr(0x1F80);
    if (known && memcmp(&native, &r, sizeof r) == 0 && memcmp(after, instruction_memory, MEMORY) == 0) return;
    char what[100] = "the machine disagrees:";
    if (!known) strcpy(what, "not known, or of another length:");
    for (const uint8_t *p = instruction->begin; p < instruction->end; p++) sprintf(what + strlen(what), " %02x", *p);
    check(0, what, kind);
}

static void machine_agrees(void)
{
    if (!__builtin_cpu_supports("avx512vbmi") || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl")) return;
    uint32_t seed = 1;
    for (const Instruction *i = instructions; i < instructions_end; i++)
        if (!(i->needs & BF16) || __builtin_cpu_supports("avx512bf16"))
            for (int round = 0; round < 20 * KINDS; round++) agree(i, i->needs & MODERATE ? 1 : round % KINDS, &seed);
}

int main(void)
{
    machine_agrees();
    if (getenv("LD_PRELOAD") == NULL)
    {
        if (failures == 0) puts("amxtrap: all held; AMX is to be tested with the library preloaded");
        return failures != 0;
    }
    multiply(1);
    pthread_t threads[4];
    for (uintptr_t t = 0; t < 4; t++) pthread_create(&threads[t], NULL, multiply_on_thread, (void *)(t + 2));
    for (int t = 0; t < 4; t++) pthread_join(threads[t], NULL);
    addresses();
    handler_of_the_program();
    for (int i = 0; i <= 13; i++) must_end(SIGABRT, "a bad program was not stopped", i, bad_program);
    must_end(SIGILL, "an illegal instruction did not end the process", 0, no_handler);
    if (failures == 0) puts("amxtrap: all held");
    return failures != 0;
}
