// Every AVX-512 instruction that evex.c knows, in several forms, for selftest.c to execute twice: as the machine does, and as evex.c does.

    .section .data.rel.ro, "aw"
    .balign 8
    .globl instructions
instructions:
    .bss
    .balign 64
    .globl instruction_memory
instruction_memory:
    .skip 4096
    .text

// What an instruction asks for: any numbers, numbers around 1, AVX512-BF16.
    ANY = 0
    MODERATE = 1
    BF16 = 2

    .macro one kind, instruction:vararg
1:  \instruction
2:  ret
    .pushsection .data.rel.ro, "aw"
    .quad 1b, 2b, \kind
    .popsection
    .endm

// With an operand in memory, in every way in which its address can be written; it comes first, or last.
    .macro loads kind, op, suffix, last:vararg
    .irp address, "(%rax)", "192(%rax)", "-256(%rax)", "4(%rax)", "0x60(%rax)", "516(%rax)", "0x800-64(%rax)", "(%r13)", "-64(%r12)", "32(%rax,%rcx,4)", "(%r13,%r9,2)", "instruction_memory+320(%rip)"
    one \kind, \op \address\suffix, \last
    .endr
    .endm

    .macro stores op:vararg
    .irp address, "(%rax)", "192(%rax)", "-256(%rax)", "16(%rax)", "33(%rax)", "(%r13)", "-64(%r12)", "32(%rax,%rcx,4)", "instruction_memory+320(%rip)"
    one ANY, \op, \address
    .endr
    .endm

// Two sources and a target. Below 16 and without a mask, shorter registers would be those of AVX.
    .macro three kind, op
    one \kind, \op %zmm18, %zmm5, %zmm17
    one \kind, \op %zmm2, %zmm25, %zmm9{%k1}
    one \kind, \op %zmm9, %zmm9, %zmm9{%k2}{z}
    one \kind, \op %ymm20, %ymm3, %ymm31{%k7}
    one \kind, \op %xmm4, %xmm19, %xmm6
    loads \kind, "\op", "", %zmm6, %zmm12
    one \kind, \op 32(%rax), %ymm16, %ymm0{%k3}{z}
    one \kind, \op -48(%rax), %xmm7, %xmm23
    .endm

// And with one element of memory in every lane.
    .macro spread kind, op
    three \kind, "\op"
    loads \kind, "\op", {1to16}, %zmm21, %zmm13
    one \kind, \op 12(%rax){1to16}, %zmm8, %zmm22{%k4}
    one \kind, \op -8(%rax){1to8}, %ymm8, %ymm8
    one \kind, \op 500(%rax){1to4}, %xmm30, %xmm1{%k5}{z}
    .endm

// One source; its register may be shorter.
    .macro two kind, op, z, y
    one \kind, \op %\z\()18, %zmm17
    one \kind, \op %\z\()2, %zmm9{%k1}
    one \kind, \op %\z\()9, %zmm9{%k2}{z}
    one \kind, \op %\y\()20, %ymm31{%k7}
    loads \kind, "\op", "", %zmm12
    one \kind, \op 32(%rax), %ymm16
    .endm

    .macro compares op
    one ANY, \op %zmm18, %zmm5, %k3
    one ANY, \op %zmm2, %zmm25, %k4{%k1}
    one ANY, \op %ymm20, %ymm3, %k1{%k7}
    one ANY, \op %xmm4, %xmm19, %k6
    loads ANY, "\op", "", %zmm6, %k2
    one ANY, \op 32(%rax), %ymm16, %k5{%k3}
    .endm

    .irp op, vmovups, vmovdqu8, vmovdqu32, vmovdqu64
    two ANY, \op, zmm, ymm
    stores \op %zmm19
    stores \op %ymm29
    .endr
    .irp op, vmovdqa32, vmovdqa64
    one ANY, \op %zmm18, %zmm17
    one ANY, \op %zmm8, %zmm7{%k1}
    one ANY, \op 64(%rax), %zmm3{%k2}{z}
    one ANY, \op %zmm30, -128(%rax)
    .endr
    .irp op, vbroadcastss, vpbroadcastd, vpmovzxbd
    two ANY, \op, xmm, xmm
    .endr
    .irp op, vpmovzxwd, vpmovsxbw, vcvtph2ps
    two ANY, \op, ymm, xmm
    .endr
    one ANY, vpbroadcastd %eax, %zmm4
    one ANY, vpbroadcastd %r13d, %ymm19{%k3}
    two ANY, "vrndscaleps $0,", zmm, ymm
    loads ANY, "vrndscaleps $0,", {1to16}, %zmm3{%k6}
    .irp op, vpslld, vpsrld, vpsllw
    .irp count, 1, 7, 16, 31, 32, 255
    one ANY, \op $\count, %zmm5, %zmm20
    .endr
    two ANY, "\op $5,", zmm, ymm
    .endr
    loads ANY, "vpslld $3,", {1to16}, %zmm3{%k6}{z}
    .irp op, vpermi2b, vpermt2b, vpermb, vpunpcklbw, vpunpckhbw, vpaddw
    three ANY, \op
    .endr
    .irp op, vmulps, vaddps, vsubps, vdivps, vminps, vmaxps, vfmadd132ps, vfmadd213ps, vfmadd231ps, vfnmadd231ps, vpxord, vpandd, vpord, vpaddd, vpmaxud, vpminsd
    spread ANY, \op
    .endr
    .irp op, "vpternlogd $0x96,", "vpternlogd $0xEA,", "vpternlogd $0xF8,", "vpternlogd $0x1D,", "vshufps $0x88,", "vshufps $0xDD,", "vshufps $0x1B,"
    spread ANY, "\op"
    .endr
    spread MODERATE, vscalefps
    spread BF16, vdpbf16ps
    three ANY, vpmultishiftqb
    loads ANY, vpmultishiftqb, {1to8}, %zmm21, %zmm13
    one ANY, vpmultishiftqb -16(%rax){1to4}, %ymm21, %ymm13{%k1}
    stores vpmovdw %zmm3
    stores vpmovdw %ymm20
    .irp part, 0, 1, 2, 3, 255
    one ANY, vextractf64x4 $\part, %zmm5, %ymm20
    one ANY, vextractf32x4 $\part, %zmm21, %xmm4
    one ANY, vextractf32x4 $\part, %ymm22, %xmm5
    .endr
    stores vextractf64x4 $1, %zmm7
    stores vextractf32x4 $3, %zmm8
    .irp op, vpcmpeqd, vpcmpgtd, "vpcmpd $1,", "vpcmpd $5,", "vpcmpud $1,", "vpcmpud $6,"
    compares "\op"
    loads ANY, "\op", {1to16}, %zmm6, %k2{%k5}
    .endr
    .irp predicate, 0, 1, 2, 3, 4, 5, 6, 7
    one ANY, vpcmpd $\predicate, %zmm5, %zmm8, %k2
    one ANY, vpcmpud $\predicate, %zmm5, %zmm8, %k2
    compares "vpcmpub $\predicate,"
    .endr
    compares vptestnmb
    .irp op, kortestb, kortestw, kortestd, kortestq
    one ANY, \op %k1, %k2
    one ANY, \op %k3, %k3
    one ANY, \op %k7, %k0
    .endr

    .section .data.rel.ro, "aw"
    .globl instructions_end
instructions_end:
    .text

// void run_natively(Registers *, const void *code): loads them all, calls, stores vectors, masks and flags.
    .altmacro
    .macro vector n
    vmovdqu64 64*\n(%rbx), %zmm\n
    .endm
    .macro store_vector n
    vmovdqu64 %zmm\n, 64*\n(%rbx)
    .endm
    .macro mask n
    kmovq 2048+8*\n(%rbx), %k\n
    .endm
    .macro store_mask n
    kmovq %k\n, 2048+8*\n(%rbx)
    .endm
    .macro each count, what
    number = 0
    .rept \count
    \what %number
    number = number + 1
    .endr
    .endm
    .globl run_natively
run_natively:
    push %rbx
    push %r12
    push %r13
    mov %rdi, %rbx
    each 32, vector
    each 8, mask
    mov 2120(%rbx), %rax
    mov 2128(%rbx), %rcx
    mov 2136(%rbx), %r9
    mov 2144(%rbx), %r12
    mov 2152(%rbx), %r13
    push 2112(%rbx)
    popf
    call *%rsi
    pushf
    pop 2112(%rbx)
    each 32, store_vector
    each 8, store_mask
    vzeroupper
    pop %r13
    pop %r12
    pop %rbx
    ret

    .section .note.GNU-stack, "", @progbits
