// Executes the AVX-512 instructions that the library generates, on machines with AVX2 only. Registers 0-31 and k0-7 belong to the thread; the lower halves of
// 0-15 are the machine's own, taken from the signal's frame and put back, so that VEX instructions in between see what they should. That these clear the upper halves is not seen here.
// An instruction that is not known here stays illegal, which ends a test with a message rather than with a wrong number.
#define _GNU_SOURCE
#include "evex.h"
#include <immintrin.h>
#include <math.h>
#include <string.h>

typedef union { uint8_t b[64]; uint16_t w[32]; uint32_t d[16]; int32_t i[16]; float f[16]; uint64_t q[8]; } Vector;
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

// With W, since the other W is another instruction, mostly of wider elements.
static int key(const Evex *e) { return e->map << 12 | e->w << 11 | e->pp << 8 | e->opcode; }
enum { M0F = 0x1000, M0F38 = 0x2000, M0F3A = 0x3000, W1 = 0x800, P66 = 0x100, PF3 = 0x200, PF2 = 0x300 };

static int has_imm(const Evex *e)
{
    int k = key(e);
    return e->map == 3 || k == (M0F | P66 | 0x72) || k == (M0F | P66 | 0x71) || k == (M0F | 0xC6);
}

// What a displacement of one byte counts.
static int unit(const Evex *e)
{
    int bytes = e->length;
    if (e->broadcast) return e->w ? 8 : 4;
    switch (key(e))
    {
        case M0F38 | P66 | 0x18: case M0F38 | P66 | 0x58: return 4;
        case M0F38 | P66 | 0x31: return bytes / 4;                   // byte to dword
        case M0F38 | P66 | 0x33: case M0F38 | P66 | 0x20:            // word to dword, byte to word
        case M0F38 | P66 | 0x13: case M0F38 | PF3 | 0x33: case M0F3A | W1 | P66 | 0x1B: return bytes / 2;
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
    if (e->mod == 3)
    {
        if (e->broadcast) return 0; // a rounding mode
        e->rm = base | (p0 & 0x20 ? 0 : 8) | (p0 & 0x40 ? 0 : 16);
        e->address = general(g, e->rm & 15); // for instructions whose operand is a general register: its value
    }
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
    else for (int i = 0, size = e->w ? 8 : 4; i < 64; i += size) memcpy(&v.b[i], (const void *)e->address, size);
    return v;
}

static int is_on(const Evex *e, int element) { return e->mask == 0 || (masks[e->mask] >> element & 1); }

/// Writes a register by elements of so many bytes, under the mask, and clears what is beyond the length. Returns that the instruction is known.
static int write_register(const Evex *e, int target, const Vector *v, int size)
{
    Vector *to = &vectors[target];
    for (int i = 0; i < 64; i++)
    {
        if (i >= e->length) to->b[i] = 0;
        else if (is_on(e, i / size)) to->b[i] = v->b[i];
        else if (e->zeroing) to->b[i] = 0;
    }
    return 1;
}

/// Writes a mask: a bit for each element of so many bytes, where the instruction's own mask has one.
static int write_mask(const Evex *e, uint64_t bits, int size)
{
    for (int i = 0; i < 64; i++) if (i * size >= e->length || !is_on(e, i)) bits &= ~(1ull << i);
    masks[e->reg & 7] = bits;
    return 1;
}

static float bf16(uint32_t bits)
{
    float f;
    bits <<= 16;
    memcpy(&f, &bits, 4);
    return f;
}

/// Of several NaN operands the first becomes the result, with its sign; which one is the first of a C expression is up to the compiler.
static float unless_nan(float a, float b, float c, float result) { return isnan(a) ? a + a : isnan(b) ? b + b : isnan(c) ? c + c : result; }
static float multiply_add(float a, float b, float c) { return unless_nan(a, b, c, fmaf(a, b, c)); }

static Vector permute2(const Evex *e, const Vector *index, const Vector *first, const Vector *second)
{
    Vector r;
    for (int i = 0; i < 64; i++) r.b[i] = (index->b[i] & e->length ? second : first)->b[index->b[i] & (e->length - 1)];
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
    uint64_t bits = 0;
    memset(&r, 0, sizeof r);
    _mm_setcsr(0x1F80); // as a program starts; the dot product has a mode of its own
#define SOURCE y = source(e, e->length)
#define EACH(elements, size, expression) for (int i = 0; i < elements; i++) { expression; } return write_register(e, e->reg, &r, size)
#define LANES(expression) SOURCE; EACH(16, 4, expression)
#define BYTES(expression) SOURCE; EACH(64, 1, expression)
#define COMPARE(elements, size, expression) SOURCE; for (int i = 0; i < elements; i++) if (expression) bits |= 1ull << i; return write_mask(e, bits, size)
    switch (key(e))
    {
        case M0F | 0x10: case M0F | P66 | 0x6F: case M0F | PF3 | 0x6F: SOURCE; return write_register(e, e->reg, &y, 4); // moves
        case M0F | W1 | P66 | 0x6F: case M0F | W1 | PF3 | 0x6F: SOURCE; return write_register(e, e->reg, &y, 8);
        case M0F | PF2 | 0x6F: SOURCE; return write_register(e, e->reg, &y, 1);
        case M0F | 0x11: case M0F | P66 | 0x7F: case M0F | PF3 | 0x7F: case M0F | W1 | P66 | 0x7F: case M0F | W1 | PF3 | 0x7F: case M0F | PF2 | 0x7F:
            if (e->mask != 0) return 0;
            if (e->mod == 3) return write_register(e, e->rm, d, 4);
            memcpy((void *)e->address, d, e->length);
            return 1;
        case M0F38 | P66 | 0x18: case M0F38 | P66 | 0x58: y = source(e, 4); EACH(16, 4, r.d[i] = y.d[0]); // VBROADCASTSS, VPBROADCASTD
        case M0F38 | P66 | 0x7C: EACH(16, 4, r.d[i] = (uint32_t)e->address);                              // VPBROADCASTD of a general register
        case M0F38 | P66 | 0x75: SOURCE; r = permute2(e, d, x, &y); return write_register(e, e->reg, &r, 1); // VPERMI2B
        case M0F38 | P66 | 0x7D: SOURCE; r = permute2(e, x, d, &y); return write_register(e, e->reg, &r, 1); // VPERMT2B
        case M0F38 | P66 | 0x8D: BYTES(r.b[i] = y.b[x->b[i] & (e->length - 1)]);                             // VPERMB
        case M0F | P66 | 0x60: case M0F | P66 | 0x68: // VPUNPCKLBW, VPUNPCKHBW
            SOURCE;
            r = unpack_bytes(x, &y, e->opcode == 0x68);
            return write_register(e, e->reg, &r, 1);
        case M0F38 | W1 | P66 | 0x83: // VPMULTISHIFTQB: eight bits from any bit of a qword on, around its end
            BYTES(r.b[i] = (uint8_t)(y.q[i / 8] >> (x->b[i] & 63) | y.q[i / 8] << (-x->b[i] & 63)));
        case M0F | 0xC6: LANES(r.d[i] = (i & 2 ? &y : x)->d[(i & ~3) | (e->imm >> 2 * (i & 3) & 3)]); // VSHUFPS
        case M0F3A | P66 | 0x25: LANES(r.d[i] = ternary(d->d[i], x->d[i], y.d[i], e->imm));           // VPTERNLOGD
        case M0F38 | PF3 | 0x52: // VDPBF16PS: the odd products first
            _mm_setcsr(0x9FC0); // FTZ, DAZ
            LANES(r.f[i] = multiply_add(bf16(x->w[2 * i]), bf16(y.w[2 * i]), multiply_add(bf16(x->w[2 * i + 1]), bf16(y.w[2 * i + 1]), d->f[i])));
        case M0F | 0x59: LANES(r.f[i] = unless_nan(x->f[i], y.f[i], 0, x->f[i] * y.f[i]));
        case M0F | 0x58: LANES(r.f[i] = unless_nan(x->f[i], y.f[i], 0, x->f[i] + y.f[i]));
        case M0F | 0x5C: LANES(r.f[i] = unless_nan(x->f[i], y.f[i], 0, x->f[i] - y.f[i]));
        case M0F | 0x5E: LANES(r.f[i] = unless_nan(x->f[i], y.f[i], 0, x->f[i] / y.f[i]));
        case M0F | 0x5D: LANES(r.f[i] = x->f[i] < y.f[i] ? x->f[i] : y.f[i]);
        case M0F | 0x5F: LANES(r.f[i] = x->f[i] > y.f[i] ? x->f[i] : y.f[i]);
        case M0F38 | P66 | 0xA8: LANES(r.f[i] = multiply_add(x->f[i], d->f[i], y.f[i]));         // VFMADD213PS
        case M0F38 | P66 | 0xB8: LANES(r.f[i] = multiply_add(x->f[i], y.f[i], d->f[i]));         // VFMADD231PS
        case M0F38 | P66 | 0x98: LANES(r.f[i] = multiply_add(d->f[i], y.f[i], x->f[i]));         // VFMADD132PS
        case M0F38 | P66 | 0xBC: LANES(r.f[i] = unless_nan(x->f[i], y.f[i], d->f[i], fmaf(-x->f[i], y.f[i], d->f[i]))); // VFNMADD231PS
        case M0F38 | P66 | 0x2C: LANES(r.f[i] = ldexpf(x->f[i], (int)floorf(y.f[i])));           // VSCALEFPS of moderate numbers
        case M0F3A | P66 | 0x08: if (e->imm != 0) return 0; LANES(r.f[i] = nearbyintf(y.f[i]));  // VRNDSCALEPS to integers, nearest even
        case M0F | P66 | 0xEF: LANES(r.d[i] = x->d[i] ^ y.d[i]);
        case M0F | P66 | 0xDB: LANES(r.d[i] = x->d[i] & y.d[i]);
        case M0F | P66 | 0xEB: LANES(r.d[i] = x->d[i] | y.d[i]);
        case M0F | P66 | 0xFE: LANES(r.d[i] = x->d[i] + y.d[i]);
        case M0F | P66 | 0xFD: SOURCE; EACH(32, 2, r.w[i] = (uint16_t)(x->w[i] + y.w[i]));       // VPADDW
        case M0F38 | P66 | 0x3F: LANES(r.d[i] = x->d[i] > y.d[i] ? x->d[i] : y.d[i]);            // VPMAXUD
        case M0F38 | P66 | 0x39: LANES(r.i[i] = x->i[i] < y.i[i] ? x->i[i] : y.i[i]);            // VPMINSD
        case M0F | P66 | 0x72: // VPSLLD, VPSRLD by a constant
            SOURCE;
            if ((e->reg & 7) != 6 && (e->reg & 7) != 2) return 0;
            for (int i = 0; i < 16 && e->imm < 32; i++) r.d[i] = (e->reg & 7) == 6 ? y.d[i] << e->imm : y.d[i] >> e->imm;
            return write_register(e, e->vvvv, &r, 4);
        case M0F | P66 | 0x71: // VPSLLW by a constant
            SOURCE;
            if ((e->reg & 7) != 6) return 0;
            for (int i = 0; i < 32 && e->imm < 16; i++) r.w[i] = (uint16_t)(y.w[i] << e->imm);
            return write_register(e, e->vvvv, &r, 2);
        case M0F38 | P66 | 0x31: y = source(e, e->length / 4); EACH(16, 4, r.d[i] = y.b[i]);                   // VPMOVZXBD
        case M0F38 | P66 | 0x33: y = source(e, e->length / 2); EACH(16, 4, r.d[i] = y.w[i]);                   // VPMOVZXWD
        case M0F38 | P66 | 0x20: y = source(e, e->length / 2); EACH(32, 2, r.w[i] = (uint16_t)(int8_t)y.b[i]); // VPMOVSXBW
        case M0F38 | P66 | 0x13: y = source(e, e->length / 2); EACH(16, 4, r.f[i] = _cvtsh_ss(y.w[i]));        // VCVTPH2PS
        case M0F38 | PF3 | 0x33: // VPMOVDW
            for (int i = 0; i < 16; i++) r.w[i] = d->w[2 * i];
            if (e->mod == 3 || e->mask != 0) return 0;
            memcpy((void *)e->address, &r, e->length / 2);
            return 1;
        case M0F3A | W1 | P66 | 0x1B: case M0F3A | P66 | 0x19: // VEXTRACTF64X4, VEXTRACTF32X4
        {
            int bytes = e->opcode == 0x1B ? 32 : 16;
            if (e->mask != 0) return 0;
            memcpy(&r, d->b + (e->imm & (e->length / bytes - 1)) * bytes, bytes);
            if (e->mod == 3) vectors[e->rm] = r;
            else memcpy((void *)e->address, &r, bytes);
            return 1;
        }
        case M0F | P66 | 0x76: COMPARE(16, 4, x->d[i] == y.d[i]);                          // VPCMPEQD
        case M0F | P66 | 0x66: COMPARE(16, 4, x->i[i] > y.i[i]);                           // VPCMPGTD
        case M0F3A | P66 | 0x1F: COMPARE(16, 4, compare(x->i[i], y.i[i], e->imm));         // VPCMPD
        case M0F3A | P66 | 0x1E: COMPARE(16, 4, compare(x->d[i], y.d[i], e->imm));         // VPCMPUD
        case M0F3A | P66 | 0x3E: COMPARE(64, 1, compare(x->b[i], y.b[i], e->imm));         // VPCMPUB
        case M0F38 | PF3 | 0x26: COMPARE(64, 1, (x->b[i] & y.b[i]) == 0);                  // VPTESTNMB
        default: return 0;
    }
}

/// KORTESTB, W, D and Q, the instructions of masks that are generated: VEX-encoded, and illegal where there is no AVX-512 all the same.
static int test_masks(const uint8_t *p, greg_t *g)
{
    int bytes = p[0] == 0xC5 ? 4 : 5;
    if (bytes == 5 && (p[0] != 0xC4 || (p[1] & 0x1F) != 1)) return 0;
    int fields = p[bytes - 3], modrm = p[bytes - 1], wide = bytes == 5 && fields & 0x80;
    if (p[bytes - 2] != 0x98 || (fields & 0x7E) != 0x78 || modrm < 0xC0) return 0;
    uint64_t all = ~0ull >> (64 - ((fields & 1 ? 8 : 16) << (wide ? 2 : 0))), any = (masks[modrm >> 3 & 7] | masks[modrm & 7]) & all;
    enum { CF = 1, ZF = 0x40, OTHERS = 0x894 };
    g[REG_EFL] = (g[REG_EFL] & ~(CF | ZF | OTHERS)) | (any == 0 ? ZF : 0) | (any == all ? CF : 0);
    g[REG_RIP] += bytes;
    return 1;
}

// The upper halves of registers 0-15 as the machine knows them lie in the extended part of the frame, at a fixed place in this format.
enum { UPPER = 576 };

int evex_execute(ucontext_t *context)
{
    greg_t *g = context->uc_mcontext.gregs;
    uint8_t *frame = (uint8_t *)context->uc_mcontext.fpregs;
    Evex e;
    if (test_masks((const uint8_t *)g[REG_RIP], g)) return 1;
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

void *evex_vectors(void) { return vectors; }
uint64_t *evex_masks(void) { return masks; }
