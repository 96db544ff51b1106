// All kernel sources compiled for the CPU, and their names. g++ -DEMULATED -I.. ; see build.sh.
#include "kernels.hpp"
#include "../ceilings.cu"
#include "../combine.cu"
#include "../down.cu"
#include "../experts_few.cu"
#include "../experts_few_wide.cu"
#include "../gateup_activate.cu"
#include "../gateup_down.cu"
#include "../gateup_down_wide.cu"
#include "../permute_codes.cu"
#include "../permute_wide.cu"
#include "../prepare.cu"
#include "../prepare_wide.cu"
#include "../quantize_permute.cu"
#include "../quantize_permute_runs.cu"
#include "../quantize_weigh.cu"
#include "../random.cu"
#include "../route.cu"
#include "../shared_gate.cu"
#include "../widen_codes.cu"

namespace emulator {
namespace {
template <auto Entry> struct Call;
template <class Arguments, void (*Entry)(Arguments)> struct Call<Entry> {
    static void run(const void* arguments) { Entry(*(const Arguments*)arguments); }
    static constexpr u32 bytes = sizeof(Arguments);
};
#define KERNEL(name) {#name, Call<name>::run, Call<name>::bytes}
const Kernel kernels[] = {
    KERNEL(combine), KERNEL(combine_many), KERNEL(gateup_down_silu), KERNEL(gateup_down_swiglustep), KERNEL(gateup_down_gelu_tanh), KERNEL(gateup_down_swigluoai), KERNEL(gateup_silu), KERNEL(gateup_swiglustep), KERNEL(gateup_gelu_tanh), KERNEL(gateup_swigluoai), KERNEL(gateup_plain), KERNEL(down), KERNEL(prepare),
    KERNEL(quantize_permute), KERNEL(quantize_permute_ragged), KERNEL(quantize_permute_runs), KERNEL(shared_gate), KERNEL(random_values), KERNEL(ceiling_read), KERNEL(ceiling_write), KERNEL(ceiling_fp8),
    KERNEL(route_logits), KERNEL(route_logits_few), KERNEL(route_select), KERNEL(quantize_weigh), KERNEL(permute_codes), KERNEL(permute_wide), KERNEL(widen_codes), KERNEL(prepare_wide), KERNEL(decode_wide),
    KERNEL(gateup_down_wide_mxfp8), KERNEL(gateup_down_wide_mxfp8_large), KERNEL(gateup_down_wide_block128), KERNEL(gateup_down_wide_bf16), KERNEL(experts_few_silu), KERNEL(experts_few_swiglustep),
    KERNEL(experts_few_gelu_tanh), KERNEL(experts_few_swigluoai),
    KERNEL(experts_few_wide_mxfp8), KERNEL(experts_few_wide_mxfp8_large), KERNEL(experts_few_wide_block128), KERNEL(experts_few_wide_bf16),
};

struct Constant { const char* name; const int* value; };
#define SHARED(name) {#name "_shared", &name##_shared}
const Constant constants[] = {SHARED(gateup_down_silu), SHARED(gateup_down_swiglustep), SHARED(gateup_down_gelu_tanh), SHARED(gateup_down_swigluoai), SHARED(gateup_silu), SHARED(gateup_swiglustep), SHARED(gateup_gelu_tanh), SHARED(gateup_swigluoai), SHARED(gateup_plain), SHARED(down), SHARED(quantize_permute_runs), SHARED(ceiling_read),
    SHARED(ceiling_fp8), SHARED(gateup_down_wide_mxfp8), SHARED(gateup_down_wide_mxfp8_large), SHARED(gateup_down_wide_block128), SHARED(gateup_down_wide_bf16), SHARED(experts_few_silu), SHARED(experts_few_swiglustep),
    SHARED(experts_few_gelu_tanh), SHARED(experts_few_swigluoai),
    SHARED(experts_few_wide_mxfp8), SHARED(experts_few_wide_mxfp8_large), SHARED(experts_few_wide_block128), SHARED(experts_few_wide_bf16)};
} // namespace

const Kernel* find_kernel(const char* name) {
    for (const Kernel& kernel : kernels)
        if (!strcmp(kernel.name, name)) return &kernel;
    return nullptr;
}

const int* find_constant(const char* name) {
    for (const Constant& constant : constants)
        if (!strcmp(constant.name, name)) return constant.value;
    return nullptr;
}
} // namespace emulator
