// AVX-512 instructions for a machine without them; see README.md.
#pragma once
#include <stdint.h>
#include <ucontext.h>

/// Executes the EVEX instruction at RIP and moves RIP behind it. Zero: not one that is known here.
int evex_execute(ucontext_t *context);
