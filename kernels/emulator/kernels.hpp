#pragma once
#include "fibers.hpp"

namespace emulator {
struct Kernel {
    const char* name;
    void (*entry)(const void* arguments);
    u32 argument_bytes;
};
const Kernel* find_kernel(const char* name);
const int* find_constant(const char* name);
} // namespace emulator
