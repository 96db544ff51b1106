// Executes AMX-BF16 instructions on machines without AMX, and with evex.c AVX-512 where there is only AVX2: preloaded into a process, it traps the SIGILL that each of them raises there.
// See README.md beside this file.
#define _GNU_SOURCE
#include <dlfcn.h>
#include "evex.h"
#include <immintrin.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

enum { TILES = 8, ROWS = 16, ROW_BYTES = 64 };

typedef struct { uint8_t palette, start_row, reserved[14]; uint16_t colsb[16]; uint8_t rows[16]; } Config;
_Static_assert(sizeof(Config) == 64, "LDTILECFG reads 64 bytes");

// Of each thread, as registers are.
static __thread Config config;
static __thread _Alignas(64) uint8_t tiles[TILES][ROWS][ROW_BYTES];

static int (*real_sigaction)(int, const struct sigaction *, struct sigaction *);
static struct sigaction next_action; // what the program believes to have installed for SIGILL
static uint64_t executed_amx, executed_avx512; // by all threads

// A decoded instruction. Names as in the instruction set reference: reg and rm of ModRM, vvvv of VEX.
typedef struct { const uint8_t *at; int opcode, prefix, reg, rm, vvvv, length, in_register, has_sib; uint64_t address, stride; } Instruction;
enum { NONE, P66, PF3, PF2 };

__attribute__((noreturn, format(printf, 2, 3))) static void fault(const Instruction *i, const char *format, ...)
{
    char text[512];
    int n = snprintf(text, sizeof text, "amxtrap: at %p, opcode %02x: ", (const void *)i->at, i->opcode);
    va_list arguments;
    va_start(arguments, format);
    n += vsnprintf(text + n, sizeof text - n, format, arguments);
    va_end(arguments);
    text[n++] = '\n';
    if (write(STDERR_FILENO, text, n) != n) _exit(134);
    abort();
}

static uint64_t general(const greg_t *registers, int number)
{
    static const int order[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
        REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15 };
    return registers[order[number]];
}

// Address and length of a memory operand; p is behind ModRM.
static const uint8_t *decode_memory(Instruction *i, const uint8_t *p, int mod, int not_x, int not_b, const greg_t *registers)
{
    int base = i->rm & 7, rip_relative = 0;
    i->has_sib = base == 4;
    if (i->has_sib)
    {
        int index = ((*p >> 3) & 7) | (not_x ? 0 : 8);
        if (index != 4) i->stride = general(registers, index) << (*p >> 6);
        base = *p++ & 7;
    }
    if (base == 5 && mod == 0)
    {
        rip_relative = !i->has_sib;
        mod = 4; // no base, four bytes of displacement
    }
    else i->address = general(registers, base | (not_b ? 0 : 8));
    if (mod == 1) i->address += (int8_t)*p++;
    if (mod == 2 || mod == 4)
    {
        int32_t displacement;
        memcpy(&displacement, p, 4);
        i->address += (int64_t)displacement;
        p += 4;
    }
    if (rip_relative) i->address += (uint64_t)p;
    return p;
}

// VEX3 with map 0F38, 128 bits, W0; opcodes of AMX only. Zero: something else.
static int decode(Instruction *i, const uint8_t *p, const greg_t *registers)
{
    *i = (Instruction){ .at = p };
    if (p[0] != 0xC4 || (p[1] & 0x1F) != 2 || (p[2] & 0x84) != 0) return 0;
    i->opcode = p[3];
    if (i->opcode != 0x49 && i->opcode != 0x4B && i->opcode != 0x5C) return 0;
    int not_r = p[1] & 0x80, not_x = p[1] & 0x40, not_b = p[1] & 0x20, mod = p[4] >> 6;
    i->prefix = p[2] & 3;
    i->vvvv = (~p[2] >> 3) & 15;
    i->reg = ((p[4] >> 3) & 7) | (not_r ? 0 : 8);
    i->rm = p[4] & 7;
    i->in_register = mod == 3;
    if (i->in_register) i->rm |= not_b ? 0 : 8;
    else p = decode_memory(i, p + 5, mod, not_x, not_b, registers) - 5;
    if (i->opcode == 0x49) i->address += i->stride; // of a configuration the index is part of the address, not the distance of rows
    i->length = (int)(p + 5 - i->at);
    return 1;
}

static void load_config(const Instruction *i)
{
    Config c;
    memcpy(&c, (const void *)i->address, sizeof c);
    if (c.palette > 1) fault(i, "LDTILECFG with palette %d", c.palette);
    if (c.palette == 0) memset(&c, 0, sizeof c);
    if (c.start_row != 0) fault(i, "LDTILECFG with start row %d, which is not emulated", c.start_row);
    for (int r = 0; r < 14; r++)
        if (c.reserved[r] != 0) fault(i, "LDTILECFG with %d in reserved byte %d", c.reserved[r], 2 + r);
    for (int t = 0; t < 16; t++)
    {
        int rows = c.rows[t], colsb = c.colsb[t];
        if (rows > (t < TILES ? ROWS : 0) || colsb > (t < TILES ? ROW_BYTES : 0) || (rows == 0) != (colsb == 0))
            fault(i, "LDTILECFG with %d rows of %d bytes for tile %d", rows, colsb, t);
    }
    config = c;
    memset(tiles, 0, sizeof tiles);
}

static int tile(const Instruction *i, int t)
{
    if (config.palette == 0) fault(i, "tile %d used before LDTILECFG", t);
    if (t >= TILES || config.rows[t] == 0) fault(i, "tile %d has no rows in the configuration", t);
    return t;
}

static void load_tile(const Instruction *i)
{
    int t = tile(i, i->reg);
    memset(tiles[t], 0, sizeof tiles[t]);
    for (int r = 0; r < config.rows[t]; r++) memcpy(tiles[t][r], (const void *)(i->address + r * i->stride), config.colsb[t]);
}

static void store_tile(const Instruction *i)
{
    int t = tile(i, i->reg);
    for (int r = 0; r < config.rows[t]; r++) memcpy((void *)(i->address + r * i->stride), tiles[t][r], config.colsb[t]);
}

// The reference sums the products of even and of odd elements in two chains from zero, adds these, then adds that to the accumulator; each step is
// rounded to nearest even, with subnormal numbers flushed on both sides. The caller has set MXCSR so.
static void dot_bf16(const Instruction *i)
{
    int d = tile(i, i->reg), a = tile(i, i->rm), b = tile(i, i->vvvv);
    const uint16_t *colsb = config.colsb;
    const uint8_t *rows = config.rows;
    if (d == a || d == b || a == b) fault(i, "TDPBF16PS with tiles %d, %d, %d, which must differ", d, a, b);
    if (colsb[d] % 4 || colsb[a] % 4 || colsb[d] != colsb[b] || rows[d] != rows[a] || colsb[a] / 4 != rows[b])
        fault(i, "TDPBF16PS with sizes that do not fit: %d x %d += %d x %d times %d x %d (rows x bytes)",
            rows[d], colsb[d], rows[a], colsb[a], rows[b], colsb[b]);
    for (int m = 0; m < rows[d]; m++)
    {
        __m256 even[2] = { _mm256_setzero_ps(), _mm256_setzero_ps() }, odd[2] = { even[0], even[0] };
        for (int k = 0; k < rows[b]; k++)
        {
            uint32_t pair;
            memcpy(&pair, &tiles[a][m][4 * k], 4);
            __m256 left0 = _mm256_castsi256_ps(_mm256_set1_epi32((int)(pair << 16)));
            __m256 left1 = _mm256_castsi256_ps(_mm256_set1_epi32((int)(pair & 0xFFFF0000)));
            for (int half = 0; half < 2; half++)
            {
                __m256i right = _mm256_load_si256((const __m256i *)&tiles[b][k][32 * half]);
                even[half] = _mm256_fmadd_ps(left0, _mm256_castsi256_ps(_mm256_slli_epi32(right, 16)), even[half]);
                __m256i high = _mm256_and_si256(right, _mm256_set1_epi32((int)0xFFFF0000));
                odd[half] = _mm256_fmadd_ps(left1, _mm256_castsi256_ps(high), odd[half]);
            }
        }
        float sums[16];
        for (int half = 0; half < 2; half++)
        {
            __m256 sum = _mm256_load_ps((const float *)&tiles[d][m][32 * half]);
            _mm256_storeu_ps(sums + 8 * half, _mm256_add_ps(sum, _mm256_add_ps(even[half], odd[half])));
        }
        memcpy(tiles[d][m], sums, colsb[d]); // what lies behind stays zero
    }
    memset(tiles[d][rows[d]], 0, (ROWS - rows[d]) * ROW_BYTES);
}

// Zero: not an instruction of AMX-TILE or AMX-BF16 (TDPFP16PS, say, is not one either).
static int execute(const Instruction *i)
{
    if (i->opcode == 0x5C && i->prefix == PF3 && i->in_register) return dot_bf16(i), 1;
    if (i->vvvv != 0) return 0;
    if (i->opcode == 0x49 && !i->in_register && i->reg == 0 && i->prefix == NONE) return load_config(i), 1;
    if (i->opcode == 0x49 && !i->in_register && i->reg == 0 && i->prefix == P66) return memcpy((void *)i->address, &config, sizeof config), 1;
    if (i->opcode == 0x49 && i->in_register && i->reg == 0 && i->rm == 0 && i->prefix == NONE)
        return memset(&config, 0, sizeof config), memset(tiles, 0, sizeof tiles), 1;
    if (i->opcode == 0x49 && i->in_register && i->rm == 0 && i->prefix == PF2) return memset(tiles[tile(i, i->reg)], 0, sizeof tiles[0]), 1;
    if (i->opcode != 0x4B || i->in_register || !i->has_sib) return 0;
    if (i->prefix == PF2 || i->prefix == P66) return load_tile(i), 1;
    if (i->prefix == PF3) return store_tile(i), 1;
    return 0;
}

static void pass_on(int signal_number, siginfo_t *information, void *context)
{
    if (next_action.sa_flags & SA_SIGINFO) next_action.sa_sigaction(signal_number, information, context);
    else if (next_action.sa_handler != SIG_DFL && next_action.sa_handler != SIG_IGN) next_action.sa_handler(signal_number);
    else // the instruction runs again, and ends the process
    {
        struct sigaction standard = { .sa_handler = SIG_DFL };
        real_sigaction(SIGILL, &standard, NULL);
    }
}

static void on_illegal_instruction(int signal_number, siginfo_t *information, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    Instruction i;
    _mm_setcsr(0x9FC0); // FTZ, DAZ, round to nearest, nothing trapped; the kernel restores the thread's own
    if (decode(&i, (const uint8_t *)registers[REG_RIP], registers) && execute(&i))
    {
        registers[REG_RIP] += i.length;
        __atomic_fetch_add(&executed_amx, 1, __ATOMIC_RELAXED);
    }
    else if (evex_execute(context)) __atomic_fetch_add(&executed_avx512, 1, __ATOMIC_RELAXED);
    else pass_on(signal_number, information, context);
}

__attribute__((destructor)) static void report(void)
{
    if (getenv("AMXTRAP_REPORT") == NULL) return;
    fprintf(stderr, "amxtrap: %llu AMX and %llu AVX-512 instructions\n", (unsigned long long)executed_amx, (unsigned long long)executed_avx512);
}

__attribute__((constructor)) static void install(void)
{
    if (real_sigaction != NULL) return;
    real_sigaction = (int (*)(int, const struct sigaction *, struct sigaction *))dlsym(RTLD_NEXT, "sigaction");
    struct sigaction action = { .sa_sigaction = on_illegal_instruction, .sa_flags = SA_SIGINFO | SA_RESTART };
    sigfillset(&action.sa_mask); // a runtime that suspends threads by signals must find them in the program, not here
    sigdelset(&action.sa_mask, SIGSEGV);
    sigdelset(&action.sa_mask, SIGBUS);
    real_sigaction(SIGILL, &action, &next_action);
}

__attribute__((visibility("default"))) int sigaction(int signal_number, const struct sigaction *action, struct sigaction *previous)
{
    install();
    if (signal_number != SIGILL) return real_sigaction(signal_number, action, previous);
    struct sigaction old = next_action;
    if (action != NULL) next_action = *action;
    if (previous != NULL) *previous = old;
    return 0;
}

__attribute__((visibility("default"))) __sighandler_t signal(int signal_number, __sighandler_t handler)
{
    struct sigaction action = { .sa_handler = handler, .sa_flags = SA_RESTART }, previous;
    sigemptyset(&action.sa_mask);
    return sigaction(signal_number, &action, &previous) == 0 ? previous.sa_handler : SIG_ERR;
}
