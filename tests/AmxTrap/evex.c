// Executes the AVX-512 instructions that the library generates, on machines with AVX2 only. Registers 0-31 and k0-7 belong to the thread; the lower halves of
// 0-15 are the machine's own, taken from the signal's frame and put back, so that VEX instructions in between see what they should.
// An instruction that is not known here stays illegal, which ends a test with a message rather than with a wrong number.
#define _GNU_SOURCE
#include "evex.h"
#include <immintrin.h>
#include <math.h>
#include <string.h>

typedef union { uint8_t b[64]; uint16_t w[32]; uint32_t d[16]; int32_t i[16]; float f[16]; } Vector;
static __thread _Alignas(64) Vector vectors[32];
static __thread uint64_t masks[8];

// Names as in the instruction set reference. pp: 0 none, 1 66, 2 F3, 3 F2.
typedef struct { int map, pp, w, reg, vvvv, rm, mod, length, broadcast, zeroing, mask, opcode, imm; const uint8_t *end; uint64_t address; } Evex;

static uint64_t general(const greg_t *g, int number)
{
    static const int order[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
        REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15 };
    return g[order[number]];
}

static int key(const Evex *e) { return e->map << 12 | e->pp << 8 | e->opcode; }
enum { M0F = 0x1000, M0F38 = 0x2000, M0F3A = 0x3000, P66 = 0x100, PF3 = 0x200, PF2 = 0x300 };

static int has_imm(const Evex *e)
{
    int k = key(e);
    return e->map == 3 || k == (M0F | P66 | 0x72) || k == (M0F | P66 | 0x71) || k == (M0F | P66 | 0x70);
}

// What a displacement of one byte counts.
static int unit(const Evex *e)
{
    int bytes = e->length;
    if (e->broadcast) return e->w ? 8 : 4;
    switch (key(e))
    {
        case M0F38 | P66 | 0x18: case M0F38 | P66 | 0x58: return 4;
        case M0F38 | P66 | 0x31: case M0F38 | P66 | 0x21: return bytes / 4;              // byte to dword
        case M0F38 | P66 | 0x33: case M0F38 | P66 | 0x30: case M0F38 | P66 | 0x20:        // word to dword, byte to word
        case M0F38 | P66 | 0x13: case M0F38 | PF3 | 0x33: case M0F3A | P66 | 0x1B: return bytes / 2;
        case M0F3A | P66 | 0x19: return 16;
        default: return bytes;
    }
}

static int decode(Evex *e, const uint8_t *p, const greg_t *g)
{
    if (p[0] != 0x62) return 0;
    int p0 = p[1], p1 = p[2], p2 = p[3], modrm = p[5], base = modrm & 7, index = -1, scale = 0;
    *e = (Evex){ .map = p0 & 7, .pp = p1 & 3, .w = p1 >> 7, .opcode = p[4], .mod = modrm >> 6, .broadcast = p2 >> 4 & 1, .zeroing = p2 >> 7, .mask = p2 & 7 };
    e->length = 16 << (p2 >> 5 & 3);
    e->reg = (modrm >> 3 & 7) | (p0 & 0x80 ? 0 : 8) | (p0 & 0x10 ? 0 : 16);
    e->vvvv = (~p1 >> 3 & 15) | (p2 & 8 ? 0 : 16);
    p += 6;
    if (e->mod == 3) e->rm = base | (p0 & 0x20 ? 0 : 8) | (p0 & 0x40 ? 0 : 16);
    else
    {
        int relative = e->mod == 0 && base == 5, wide = e->mod == 2;
        if (base == 4)
        {
            index = (*p >> 3 & 7) | (p0 & 0x40 ? 0 : 8);
            scale = *p >> 6;
            base = *p++ & 7;
            if (base == 5 && e->mod == 0) { wide = 1; base = -1; }
        }
        if (!relative && base >= 0) e->address = general(g, base | (p0 & 0x20 ? 0 : 8));
        if (index >= 0 && index != 4) e->address += general(g, index) << scale;
        if (wide || relative) { int32_t d; memcpy(&d, p, 4); e->address += (int64_t)d; p += 4; }
        else if (e->mod == 1) e->address += (int64_t)(int8_t)*p++ * unit(e);
        if (has_imm(e)) e->imm = *p++;
        if (relative) e->address += (uint64_t)p;
        e->end = p;
        return 1;
    }
    if (has_imm(e)) e->imm = *p++;
    e->end = p;
    return 1;
}

/// The last operand: a register, memory, or one element of memory in every lane.
static Vector source(const Evex *e, int bytes)
{
    Vector v;
    memset(&v, 0, sizeof v);
    if (e->mod == 3) v = vectors[e->rm];
    else if (!e->broadcast) memcpy(&v, (const void *)e->address, bytes);
    else for (int i = 0; i < 16; i++) memcpy(&v.d[i], (const void *)e->address, 4);
    return v;
}

/// Writes a register by 32-bit lanes, under the mask, and clears what is beyond the length.
static void write_lanes(const Evex *e, int target, const Vector *v)
{
    Vector *to = &vectors[target];
    for (int i = 0; i < 16; i++)
    {
        int on = e->mask == 0 || (masks[e->mask] >> i & 1);
        if (4 * i >= e->length) to->d[i] = 0;
        else if (on) to->d[i] = v->d[i];
        else if (e->zeroing) to->d[i] = 0;
    }
}

static float bf16(uint32_t bits)
{
    float f;
    bits <<= 16;
    memcpy(&f, &bits, 4);
    return f;
}

static Vector permute2(const Vector *index, const Vector *first, const Vector *second)
{
    Vector r;
    for (int i = 0; i < 64; i++) r.b[i] = (index->b[i] & 64 ? second : first)->b[index->b[i] & 63];
    return r;
}

static Vector unpack_bytes(const Vector *x, const Vector *y, int high)
{
    Vector r;
    for (int part = 0; part < 64; part += 16)
        for (int i = 0; i < 8; i++)
        {
            r.b[part + 2 * i] = x->b[part + 8 * high + i];
            r.b[part + 2 * i + 1] = y->b[part + 8 * high + i];
        }
    return r;
}

static uint32_t ternary(uint32_t a, uint32_t b, uint32_t c, int table)
{
    uint32_t r = 0;
    for (int i = 0; i < 32; i++) r |= (uint32_t)(table >> ((a >> i & 1) << 2 | (b >> i & 1) << 1 | (c >> i & 1)) & 1) << i;
    return r;
}

static int compare(int64_t x, int64_t y, int predicate)
{
    switch (predicate & 7)
    {
        case 0: return x == y;
        case 1: return x < y;
        case 2: return x <= y;
        case 4: return x != y;
        case 5: return x >= y;
        case 6: return x > y;
        default: return predicate & 4 ? 1 : 0;
    }
}

static int execute(const Evex *e)
{
    const Vector *x = &vectors[e->vvvv], *d = &vectors[e->reg];
    Vector y, r;
    memset(&r, 0, sizeof r);
    _mm_setcsr(0x1F80); // as a program starts; the dot product has a mode of its own
#define LANES(expression) for (int i = 0; i < 16; i++) { expression; } write_lanes(e, e->reg, &r); return 1
    switch (key(e))
    {
        case M0F | 0x10: case M0F | P66 | 0x6F: case M0F | PF3 | 0x6F: case M0F | PF2 | 0x6F: // moves
            r = source(e, e->length);
            write_lanes(e, e->reg, &r);
            return 1;
        case M0F | 0x11: case M0F | P66 | 0x7F: case M0F | PF3 | 0x7F: case M0F | PF2 | 0x7F:
            if (e->mod == 3) write_lanes(e, e->rm, d);
            else if (e->mask != 0) return 0;
            else memcpy((void *)e->address, d, e->length);
            return 1;
        case M0F38 | P66 | 0x18: case M0F38 | P66 | 0x58: // VBROADCASTSS, VPBROADCASTD
            y = source(e, 4);
            LANES(r.d[i] = y.d[0]);
        case M0F38 | P66 | 0x7C: return 0;
        case M0F38 | P66 | 0x75: // VPERMI2B
            y = source(e, e->length);
            r = permute2(d, x, &y);
            write_lanes(e, e->reg, &r);
            return 1;
        case M0F38 | P66 | 0x7D: // VPERMT2B
            y = source(e, e->length);
            r = permute2(x, d, &y);
            write_lanes(e, e->reg, &r);
            return 1;
        case M0F38 | P66 | 0x8D: // VPERMB
            y = source(e, e->length);
            for (int i = 0; i < 64; i++) r.b[i] = y.b[x->b[i] & 63];
            write_lanes(e, e->reg, &r);
            return 1;
        case M0F | P66 | 0x60: case M0F | P66 | 0x68: // VPUNPCKLBW, VPUNPCKHBW
            y = source(e, e->length);
            r = unpack_bytes(x, &y, e->opcode == 0x68);
            write_lanes(e, e->reg, &r);
            return 1;
        case M0F3A | P66 | 0x25: // VPTERNLOGD
            y = source(e, e->length);
            LANES(r.d[i] = ternary(d->d[i], x->d[i], y.d[i], e->imm));
        case M0F38 | PF3 | 0x52: // VDPBF16PS: the odd products first
            y = source(e, e->length);
            _mm_setcsr(0x9FC0); // FTZ, DAZ
            LANES(r.f[i] = fmaf(bf16(x->w[2 * i]), bf16(y.w[2 * i]), fmaf(bf16(x->w[2 * i + 1]), bf16(y.w[2 * i + 1]), d->f[i])));
        case M0F | 0x59: y = source(e, e->length); LANES(r.f[i] = x->f[i] * y.f[i]);
        case M0F | 0x58: y = source(e, e->length); LANES(r.f[i] = x->f[i] + y.f[i]);
        case M0F | 0x5C: y = source(e, e->length); LANES(r.f[i] = x->f[i] - y.f[i]);
        case M0F | 0x5E: y = source(e, e->length); LANES(r.f[i] = x->f[i] / y.f[i]);
        case M0F | 0x5D: y = source(e, e->length); LANES(r.f[i] = x->f[i] < y.f[i] ? x->f[i] : y.f[i]);
        case M0F | 0x5F: y = source(e, e->length); LANES(r.f[i] = x->f[i] > y.f[i] ? x->f[i] : y.f[i]);
        case M0F38 | P66 | 0xA8: y = source(e, e->length); LANES(r.f[i] = fmaf(x->f[i], d->f[i], y.f[i])); // VFMADD213PS
        case M0F38 | P66 | 0xB8: y = source(e, e->length); LANES(r.f[i] = fmaf(x->f[i], y.f[i], d->f[i])); // VFMADD231PS
        case M0F38 | P66 | 0x98: y = source(e, e->length); LANES(r.f[i] = fmaf(d->f[i], y.f[i], x->f[i])); // VFMADD132PS
        case M0F38 | P66 | 0xBC: y = source(e, e->length); LANES(r.f[i] = fmaf(-x->f[i], y.f[i], d->f[i])); // VFNMADD231PS
        case M0F38 | P66 | 0x2C: y = source(e, e->length); LANES(r.f[i] = ldexpf(x->f[i], (int)floorf(y.f[i]))); // VSCALEFPS of moderate numbers
        case M0F3A | P66 | 0x08: // VRNDSCALEPS to integers, nearest even
            if (e->imm != 0) return 0;
            y = source(e, e->length);
            LANES(r.f[i] = nearbyintf(y.f[i]));
        case M0F | P66 | 0xEF: y = source(e, e->length); LANES(r.d[i] = x->d[i] ^ y.d[i]);
        case M0F | P66 | 0xDB: y = source(e, e->length); LANES(r.d[i] = x->d[i] & y.d[i]);
        case M0F | P66 | 0xEB: y = source(e, e->length); LANES(r.d[i] = x->d[i] | y.d[i]);
        case M0F | P66 | 0xFE: y = source(e, e->length); LANES(r.d[i] = x->d[i] + y.d[i]);
        case M0F38 | P66 | 0x3F: y = source(e, e->length); LANES(r.d[i] = x->d[i] > y.d[i] ? x->d[i] : y.d[i]); // VPMAXUD
        case M0F38 | P66 | 0x39: y = source(e, e->length); LANES(r.i[i] = x->i[i] < y.i[i] ? x->i[i] : y.i[i]); // VPMINSD
        case M0F | P66 | 0x72: // VPSLLD, VPSRLD by a constant
            y = source(e, e->length);
            if ((e->reg & 7) != 6 && (e->reg & 7) != 2) return 0;
            for (int i = 0; i < 16; i++) r.d[i] = (e->reg & 7) == 6 ? y.d[i] << e->imm : y.d[i] >> e->imm;
            write_lanes(e, e->vvvv, &r);
            return 1;
        case M0F | P66 | 0x71: // VPSLLW by a constant
            y = source(e, e->length);
            if ((e->reg & 7) != 6) return 0;
            for (int i = 0; i < 32; i++) r.w[i] = (uint16_t)(y.w[i] << e->imm);
            write_lanes(e, e->vvvv, &r);
            return 1;
        case M0F38 | P66 | 0x31: y = source(e, e->length / 4); LANES(r.d[i] = y.b[i]); // VPMOVZXBD
        case M0F38 | P66 | 0x33: y = source(e, e->length / 2); LANES(r.d[i] = y.w[i]); // VPMOVZXWD
        case M0F38 | P66 | 0x20: // VPMOVSXBW
            y = source(e, e->length / 2);
            for (int i = 0; i < 32; i++) r.w[i] = (uint16_t)(int8_t)y.b[i];
            write_lanes(e, e->reg, &r);
            return 1;
        case M0F38 | P66 | 0x13: y = source(e, e->length / 2); LANES(r.f[i] = _cvtsh_ss(y.w[i])); // VCVTPH2PS
        case M0F38 | PF3 | 0x33: // VPMOVDW
            for (int i = 0; i < 16; i++) r.w[i] = d->w[2 * i];
            if (e->mod == 3 || e->mask != 0) return 0;
            memcpy((void *)e->address, &r, e->length / 2);
            return 1;
        case M0F3A | P66 | 0x1B: case M0F3A | P66 | 0x19: // VEXTRACTF64X4, VEXTRACTF32X4
        {
            int bytes = e->opcode == 0x1B ? 32 : 16;
            memcpy(&r, d->b + (e->imm & (e->length / bytes - 1)) * bytes, bytes);
            if (e->mod == 3) vectors[e->rm] = r;
            else memcpy((void *)e->address, &r, bytes);
            return 1;
        }
        case M0F | P66 | 0x76: case M0F | P66 | 0x66: case M0F3A | P66 | 0x1F: case M0F3A | P66 | 0x1E: // VPCMPEQD, VPCMPGTD, VPCMPD, VPCMPUD
        {
            uint64_t mask = 0;
            int predicate = e->map == 3 ? e->imm : e->opcode == 0x66 ? 6 : 0, isUnsigned = e->map == 3 && e->opcode == 0x1E;
            y = source(e, e->length);
            for (int i = 0; 4 * i < e->length; i++)
                if ((e->mask == 0 || (masks[e->mask] >> i & 1)) && (isUnsigned ? compare(x->d[i], y.d[i], predicate) : compare(x->i[i], y.i[i], predicate))) mask |= 1ull << i;
            masks[e->reg & 7] = mask;
            return 1;
        }
        default: return 0;
    }
}

// The upper halves of registers 0-15 as the machine knows them lie in the extended part of the frame, at a fixed place in this format.
enum { UPPER = 576 };

int evex_execute(ucontext_t *context)
{
    greg_t *g = context->uc_mcontext.gregs;
    uint8_t *frame = (uint8_t *)context->uc_mcontext.fpregs;
    Evex e;
    if (!decode(&e, (const uint8_t *)g[REG_RIP], g)) return 0;
    for (int i = 0; i < 16; i++)
    {
        memcpy(vectors[i].b, context->uc_mcontext.fpregs->_xmm[i].element, 16);
        memcpy(vectors[i].b + 16, frame + UPPER + 16 * i, 16);
    }
    if (!execute(&e)) return 0;
    for (int i = 0; i < 16; i++)
    {
        memcpy(context->uc_mcontext.fpregs->_xmm[i].element, vectors[i].b, 16);
        memcpy(frame + UPPER + 16 * i, vectors[i].b + 16, 16);
    }
    uint64_t saved;
    memcpy(&saved, frame + 512, 8);
    saved |= 7; // x87, XMM and YMM are there to be restored, even where the registers were all zero
    memcpy(frame + 512, &saved, 8);
    g[REG_RIP] = (greg_t)e.end;
    return 1;
}
