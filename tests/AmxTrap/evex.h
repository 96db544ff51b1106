// AVX-512 instructions for a machine without them; see README.md.
#pragma once
#include <stdint.h>
#include <ucontext.h>

/// Executes the EVEX instruction, or that of masks, at RIP and moves RIP behind it. Zero: not one that is known here.
int evex_execute(ucontext_t *context);

/// For tests: this thread's 32 registers of 64 bytes, of which the lower halves of the first 16 come from a context, and its eight masks.
void *evex_vectors(void);
uint64_t *evex_masks(void);
