// The part of the CUDA driver's interface that MoeSharp uses, on the CPU. Work runs as late as the driver may run it: when somebody waits for its
// stream or an event behind it; so a program that reuses a buffer too early computes wrong numbers here too. Device memory is host memory, filled
// with 0xFF and followed by none; contexts, streams, captures and faults follow the driver's rules, so that a program that breaks one is told. emulator_set changes the
// machine (see `Machine`), emulator_get tells what is in use.
#include "fibers.hpp"
#include "kernels.hpp"
#include <thread>
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <deque>
#include <elf.h>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <sstream>
#include <sys/mman.h>

using namespace emulator;

namespace {
enum Result {
    success = 0, invalid_value = 1, out_of_memory = 2, no_device = 100, invalid_device = 101, invalid_image = 200, invalid_context = 201,
    invalid_handle = 400, not_found = 500, launch_failed = 719, not_supported = 801, capture_unsupported = 900
};

struct Machine {
    long driver_version = 12040, gpus = 1, capability = 90, memory_bytes = 8l << 30, multiprocessors = 4, init_result = 0;
    long fault = 0; // the launch that fails, counted down; 0 none
    long deferred = 1; // 0: work runs when it is queued
    long resident = 4; // blocks of a launch that run side by side
    long idle = 0; // 1: kernels do nothing, for timing the host
} machine;

struct Device { long used = 0; bool lost = false; int retained = 0; } devices[8];
struct Context { int device; } contexts[8] = {{0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}};
using Work = std::function<void()>;
struct Graph { std::vector<Work> nodes; };
struct Stream {
    Context* context;
    std::unique_ptr<Graph> capture;
    std::thread::id captures_for; // the thread that began it, where others may go on (thread-local mode); else none
    std::deque<Work> pending;
    u64 queued = 0, done = 0;
    int pinned_copies = 0; // of those pending
};
struct Event { Context* context; void* stream; u64 ticket; std::chrono::steady_clock::time_point time; };
struct Module { Context* context; std::string image; };
struct Function { const Kernel* kernel; Context* context; int shared_limit = 48 * 1024; };

constexpr u64 round_up(u64 bytes, u64 to) { return (bytes + to - 1) / to * to; }

struct Allocation {
    u64 bytes; // that may be used: up to the next multiple of 256
    int device;
    u64 taken() const { return round_up(bytes, 512); } // of the device
};

constexpr u64 page = 4096;
/// Memory that ends where no memory is, so that a kernel which reads or writes behind it ends the process, as it may end a context.
void* fenced_alloc(u64 bytes) {
    const u64 pages = round_up(bytes, page);
    u8* first = (u8*)mmap(nullptr, pages + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (first == MAP_FAILED) return nullptr;
    mprotect(first + pages, page, PROT_NONE);
    return first + pages - bytes;
}
void fenced_free(void* block, u64 bytes) {
    const u64 pages = round_up(bytes, page);
    munmap((u8*)block + bytes - pages, pages + page);
}

std::recursive_mutex lock;
std::map<u64, Allocation> memory;
std::map<u64, u64> pinned; // address, bytes
std::map<void*, std::unique_ptr<Stream>> streams;
long events = 0, modules = 0, pageable_bytes = 0, most_pinned_copies = 0;
std::string last_fault;
thread_local std::vector<Context*> current_contexts;

Context* context() { return current_contexts.empty() ? nullptr : current_contexts.back(); }

const Allocation* allocation_of(u64 address, u64 bytes) {
    auto next = memory.upper_bound(address);
    if (next == memory.begin()) return nullptr;
    --next;
    return address + bytes <= next->first + next->second.bytes ? &next->second : nullptr;
}

/// 0, or why nothing can be done in the current context.
int state() { return !context() ? invalid_context : devices[context()->device].lost ? launch_failed : success; }

bool is_pinned(u64 address, u64 bytes) {
    auto next = pinned.upper_bound(address);
    if (next == pinned.begin()) return false;
    --next;
    return address + bytes <= next->first + next->second;
}

/// Runs a stream's work up to this place.
void run_until(void* handle, u64 ticket) {
    auto found = streams.find(handle);
    if (found == streams.end()) return;
    Stream& stream = *found->second;
    while (stream.done < ticket && !stream.pending.empty()) {
        Work work = std::move(stream.pending.front());
        stream.pending.pop_front();
        stream.done++;
        work();
    }
}

void run_all(const Context* of) {
    for (auto& [handle, stream] : streams)
        if (stream->context == of) run_until(handle, stream->queued);
}

/// Runs later, or is recorded; the stream must belong to the current context.
int queue(void* handle, Work work) {
    if (int bad = state()) return bad;
    if (handle) {
        auto found = streams.find(handle);
        if (found == streams.end()) return invalid_handle;
        Stream& stream = *found->second;
        if (stream.context != context()) return invalid_handle;
        if (stream.capture) {
            stream.capture->nodes.push_back(std::move(work));
            return success;
        }
        stream.pending.push_back(std::move(work));
        stream.queued++;
        if (!machine.deferred) run_until(handle, stream.queued);
        return success;
    }
    work();
    return success;
}

bool capturing() { // so that this thread must not do what could not be part of a graph
    for (auto& [handle, stream] : streams)
        if (stream->capture && stream->context == context() && (stream->captures_for == std::thread::id() || stream->captures_for == std::this_thread::get_id())) return true;
    return false;
}

/// Memory of the device whose context is current; no peer access is ever asked for.
bool is_own(u64 address, u64 bytes) {
    const Allocation* found = allocation_of(address, bytes);
    return found && context() && found->device == context()->device;
}

/// Whether an argument struct holds an address of another device.
bool names_another_device(const std::vector<u8>& arguments, int device) {
    for (size_t at = 0; at + 8 <= arguments.size(); at += 8) {
        u64 word;
        memcpy(&word, arguments.data() + at, 8);
        const Allocation* found = allocation_of(word, 1);
        if (found && found->device != device) return true;
    }
    return false;
}

void execute(const Kernel& kernel, Dim grid, Dim block, u32 cluster, const std::vector<u8>& arguments, int device) {
    if (devices[device].lost || machine.idle) return;
    alignas(64) u8 aligned[4096];
    memcpy(aligned, arguments.data(), arguments.size());
    last_fault = machine.fault > 0 && --machine.fault == 0 ? "a fault that was asked for"
        : names_another_device(arguments, device)          ? "an argument points to memory of another device"
                                                           : run({kernel.entry, aligned, grid, block, cluster, (u32)machine.resident});
    if (last_fault.empty()) return;
    last_fault = std::string(kernel.name) + ": " + last_fault;
    devices[device].lost = true;
}

/// A copy that must find its host memory as it was pinned.
void copy_pinned(void* to, const void* from, u64 host, u64 bytes, int device) {
    if (devices[device].lost) return;
    if (is_pinned(host, bytes)) {
        memcpy(to, from, bytes);
        return;
    }
    last_fault = "a copy whose pinned memory was freed before it ran";
    devices[device].lost = true;
}

struct LaunchConfig { u32 grid[3], block[3], shared; void* stream; struct Attribute* attributes; u32 count; };
struct Attribute { int id, pad; u32 value[16]; };

bool change_machine(const std::string& name, long value) {
    const std::map<std::string, long*> members = {{"driver_version", &machine.driver_version}, {"gpus", &machine.gpus}, {"capability", &machine.capability},
        {"memory_bytes", &machine.memory_bytes}, {"multiprocessors", &machine.multiprocessors}, {"init_result", &machine.init_result}, {"fault", &machine.fault},
        {"deferred", &machine.deferred}, {"resident", &machine.resident}, {"idle", &machine.idle}};
    auto found = members.find(name);
    return found != members.end() && (*found->second = value, true);
}

/// A process may start with another machine: MOESHARP_EMULATED="gpus=0 fault=3". What is no member ends it.
const bool started = [] {
    const char* all = getenv("MOESHARP_EMULATED");
    std::istringstream words(all ? all : "");
    for (std::string word; words >> word;) {
        const size_t equals = word.find('=');
        if (equals == std::string::npos || !change_machine(word.substr(0, equals), atol(word.c_str() + equals + 1))) {
            fprintf(stderr, "MOESHARP_EMULATED: the machine has no '%s'\n", word.c_str());
            abort();
        }
    }
    return true;
}();
} // namespace

void emulator::require_global(const void* from, u64 bytes, const char* what) {
    if (bytes && !allocation_of((u64)from, bytes)) fault(std::string(what) + " outside of device memory");
}

#define GUARD std::lock_guard<std::recursive_mutex> guard(lock)
#define REQUIRE_STATE if (int bad = state()) return bad

extern "C" {
/// Changes the machine by the name of a member of `Machine`; "reset" makes it as it was in the beginning, and lost
/// contexts usable again, as a new process would. 0 when there is such a name.
int emulator_set(const char* name, long value) {
    GUARD;
    if (std::string(name) == "reset") {
        machine = {};
        pageable_bytes = most_pinned_copies = 0;
        for (Device& device : devices) device.lost = false;
        return 0;
    }
    return change_machine(name, value) ? 0 : 1;
}

/// What is in use of a device, or of the host: "bytes" and "allocations" of a device, "retained" contexts; "pinned" bytes, "streams", "events", "modules".
/// And what was seen since the reset: "pageable" bytes copied to devices, and the most "pinned copies" that one stream had pending.
/// -1 where there is no such name.
long emulator_get(const char* name, int device) {
    GUARD;
    const std::string what = name;
    if (what == "bytes") return devices[device].used;
    if (what == "allocations") return std::count_if(memory.begin(), memory.end(), [=](const auto& m) { return m.second.device == device; });
    if (what == "retained") return devices[device].retained;
    if (what == "streams") return (long)streams.size();
    if (what == "events") return events;
    if (what == "modules") return modules;
    if (what == "pageable") return pageable_bytes;
    if (what == "pinned copies") return most_pinned_copies;
    if (what != "pinned") return -1;
    long bytes = 0;
    for (auto& [address, size] : pinned) bytes += (long)size;
    return bytes;
}

int cuInit(u32) { return machine.init_result ? (int)machine.init_result : machine.gpus == 0 ? no_device : success; }
int cuDriverGetVersion(int* version) { return *version = (int)machine.driver_version, success; }
int cuGetErrorString(int error, const char** text) {
    static std::string fault_text;
    switch (error) {
    case success: *text = "no error"; return success;
    case invalid_value: *text = "invalid argument"; return success;
    case out_of_memory: *text = "out of memory"; return success;
    case no_device: *text = "no CUDA-capable device is detected"; return success;
    case invalid_device: *text = "invalid device ordinal"; return success;
    case invalid_image: *text = "device kernel image is invalid"; return success;
    case invalid_context: *text = "invalid device context"; return success;
    case invalid_handle: *text = "invalid resource handle"; return success;
    case not_found: *text = "named symbol not found"; return success;
    case launch_failed:
        fault_text = "unspecified launch failure" + (last_fault.empty() ? "" : " [emulator: " + last_fault + "]");
        *text = fault_text.c_str();
        return success;
    case capture_unsupported: *text = "operation not permitted when stream is capturing"; return success;
    }
    return *text = nullptr, invalid_value;
}
int cuGetErrorName(int error, const char** text) {
    static const std::map<int, const char*> names = {{1, "CUDA_ERROR_INVALID_VALUE"}, {2, "CUDA_ERROR_OUT_OF_MEMORY"}, {100, "CUDA_ERROR_NO_DEVICE"},
        {200, "CUDA_ERROR_INVALID_IMAGE"}, {201, "CUDA_ERROR_INVALID_CONTEXT"}, {400, "CUDA_ERROR_INVALID_HANDLE"}, {500, "CUDA_ERROR_NOT_FOUND"},
        {719, "CUDA_ERROR_LAUNCH_FAILED"}, {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"}};
    auto found = names.find(error);
    *text = found == names.end() ? nullptr : found->second;
    return success;
}
int cuDeviceGetCount(int* count) { return *count = (int)machine.gpus, success; }
int cuDeviceGet(int* device, int ordinal) { return ordinal < 0 || ordinal >= machine.gpus ? (int)invalid_device : (*device = ordinal, (int)success); }
int cuDeviceGetName(char* name, int length, int device) { return snprintf(name, length, "Emulated Hopper %d", device), success; }
int cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = (size_t)machine.memory_bytes, success; }
int cuDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
    case 16: *value = (int)machine.multiprocessors; return success;
    case 38: *value = 64 << 10; return success; // second-level cache
    case 75: *value = (int)machine.capability / 10; return success;
    case 76: *value = (int)machine.capability % 10; return success;
    default: *value = 0; return success;
    }
}

int cuDevicePrimaryCtxRetain(void** context, int device) {
    if (device < 0 || device >= machine.gpus) return invalid_device;
    devices[device].retained++;
    return *context = &contexts[device], success;
}
int cuDevicePrimaryCtxRelease_v2(int device) { return devices[device].retained-- > 0 ? success : invalid_context; }
int cuCtxPushCurrent_v2(void* context) { return context ? (current_contexts.push_back((Context*)context), (int)success) : (int)invalid_value; }
int cuCtxPopCurrent_v2(void** popped) {
    if (current_contexts.empty()) return invalid_context;
    *popped = current_contexts.back();
    current_contexts.pop_back();
    return success;
}
int cuCtxGetDevice(int* device) { return context() ? (*device = context()->device, (int)success) : (int)invalid_context; }
int cuCtxSetCurrent(void* context) {
    if (!current_contexts.empty()) current_contexts.pop_back();
    if (context) current_contexts.push_back((Context*)context);
    return success;
}
int cuCtxGetCurrent(void** result) { return *result = context(), success; }

int cuMemAlloc_v2(u64* pointer, size_t bytes) {
    GUARD;
    REQUIRE_STATE;
    if (capturing()) return capture_unsupported;
    const Allocation allocation = {round_up(bytes, 256), context()->device};
    Device& device = devices[context()->device];
    if (bytes == 0) return invalid_value;
    if (device.used + (long)allocation.taken() > machine.memory_bytes) return out_of_memory;
    void* block = fenced_alloc(allocation.bytes);
    if (!block) return out_of_memory;
    memset(block, 0xFF, allocation.bytes);
    device.used += (long)allocation.taken();
    memory[(u64)block] = allocation;
    return *pointer = (u64)block, success;
}
int cuMemFree_v2(u64 pointer) {
    GUARD;
    auto found = memory.find(pointer);
    if (found == memory.end()) return invalid_value;
    const Allocation allocation = found->second;
    run_all(&contexts[allocation.device]);
    devices[allocation.device].used -= (long)allocation.taken();
    memory.erase(found);
    fenced_free((void*)pointer, allocation.bytes);
    return success;
}
int cuMemGetInfo_v2(size_t* free_bytes, size_t* total) {
    GUARD;
    REQUIRE_STATE;
    *total = (size_t)machine.memory_bytes;
    *free_bytes = (size_t)(machine.memory_bytes - devices[context()->device].used);
    return success;
}
int cuMemHostAlloc(void** pointer, size_t bytes, u32) {
    GUARD;
    REQUIRE_STATE;
    const u64 taken = (bytes + 4095) / 4096 * 4096;
    *pointer = aligned_alloc(4096, taken);
    if (!*pointer) return out_of_memory;
    pinned[(u64)*pointer] = taken;
    return success;
}
int cuMemFreeHost(void* pointer) { // does not wait: a copy still under way is the caller's mistake
    GUARD;
    if (!pinned.erase((u64)pointer)) return invalid_value;
    return free(pointer), success;
}
int cuMemcpyHtoDAsync_v2(u64 to, const void* from, size_t bytes, void* stream) {
    GUARD;
    if (bytes && !is_own(to, bytes)) return invalid_value;
    const int device = context() ? context()->device : 0;
    if (is_pinned((u64)from, bytes)) {
        auto found = streams.find(stream);
        Stream* on = found == streams.end() ? nullptr : found->second.get();
        if (on) most_pinned_copies = std::max<long>(most_pinned_copies, ++on->pinned_copies);
        return queue(stream, [=] {
            if (on) on->pinned_copies--;
            copy_pinned((void*)to, from, (u64)from, bytes, device);
        });
    }
    pageable_bytes += (long)bytes;
    auto taken = std::make_shared<std::vector<u8>>((const u8*)from, (const u8*)from + bytes); // pageable memory is read before the call returns
    return queue(stream, [=] { memcpy((void*)to, taken->data(), bytes); });
}
int cuMemcpyDtoHAsync_v2(void* to, u64 from, size_t bytes, void* stream) {
    GUARD;
    if (bytes && !is_own(from, bytes)) return invalid_value;
    const int device = context() ? context()->device : 0;
    if (is_pinned((u64)to, bytes)) return queue(stream, [=] { copy_pinned(to, (void*)from, (u64)to, bytes, device); });
    return queue(stream, [=] { memcpy(to, (void*)from, bytes); });
}
int cuMemcpyDtoDAsync_v2(u64 to, u64 from, size_t bytes, void* stream) {
    GUARD;
    if (bytes && (!is_own(from, bytes) || !is_own(to, bytes))) return invalid_value;
    return queue(stream, [=] { memcpy((void*)to, (void*)from, bytes); });
}
int cuMemcpyDtoH_v2(void* to, u64 from, size_t bytes) { // also of a module's constants
    REQUIRE_STATE;
    return memcpy(to, (void*)from, bytes), success;
}
int cuMemsetD8Async(u64 to, u8 value, size_t count, void* stream) {
    GUARD;
    if (count && !is_own(to, count)) return invalid_value;
    return queue(stream, [=] { memset((void*)to, value, count); });
}
int cuPointerGetAttribute(void* data, int attribute, u64 pointer) {
    GUARD;
    const Allocation* found = allocation_of(pointer, 0);
    if (!found) return invalid_value;
    switch (attribute) {
    case 1: *(void**)data = &contexts[found->device]; return success;
    case 2: *(u32*)data = 2; return success; // device memory
    case 9: *(int*)data = found->device; return success;
    }
    return invalid_value;
}

int cuPointerGetAttributes(u32 count, const int* attributes, void** data, u64 pointer) { // what is not known has no memory type
    GUARD;
    REQUIRE_STATE;
    const Allocation* found = allocation_of(pointer, 1);
    for (u32 i = 0; i < count; i++) {
        const int answer = attributes[i] == 2 ? found ? 2 : is_pinned(pointer, 1) ? 1 : 0 : attributes[i] == 9 ? found ? found->device : -2 : 0;
        *(int*)data[i] = answer;
    }
    return success;
}

int cuStreamCreate(void** stream, u32) {
    GUARD;
    REQUIRE_STATE;
    auto made = std::make_unique<Stream>();
    made->context = context();
    *stream = made.get();
    streams[*stream] = std::move(made);
    return success;
}
int cuStreamDestroy_v2(void* stream) {
    GUARD;
    auto found = streams.find(stream);
    if (found == streams.end()) return invalid_handle;
    run_until(stream, found->second->queued);
    return streams.erase(stream), success;
}
int cuStreamGetCtx(void* stream, void** result) {
    GUARD;
    if (!stream) return *result = context(), success;
    auto found = streams.find(stream);
    if (found == streams.end()) return invalid_handle;
    return *result = found->second->context, success;
}
int cuStreamSynchronize(void* stream) {
    GUARD;
    REQUIRE_STATE;
    if (!stream) return run_all(context()), state();
    auto found = streams.find(stream);
    if (found == streams.end()) return invalid_handle;
    if (found->second->capture) return capture_unsupported;
    return run_until(stream, found->second->queued), state();
}
int cuStreamWaitEvent(void* stream, void* handle, u32) {
    GUARD;
    const Event event = *(Event*)handle;
    return queue(stream, [=] { run_until(event.stream, event.ticket); });
}
int cuStreamIsCapturing(void* stream, int* status) {
    GUARD;
    auto found = streams.find(stream);
    *status = found != streams.end() && found->second->capture;
    return success;
}
int cuStreamBeginCapture_v2(void* stream, int mode) {
    constexpr int thread_local_mode = 1;
    GUARD;
    REQUIRE_STATE;
    auto found = streams.find(stream);
    if (found == streams.end()) return invalid_handle;
    found->second->capture = std::make_unique<Graph>();
    found->second->captures_for = mode == thread_local_mode ? std::this_thread::get_id() : std::thread::id();
    return success;
}
int cuStreamEndCapture(void* stream, void** graph) {
    GUARD;
    auto found = streams.find(stream);
    if (found == streams.end() || !found->second->capture) return invalid_handle;
    *graph = found->second->capture.release();
    return success;
}
int cuGraphGetNodes(void* graph, void**, size_t* count) { return *count = ((Graph*)graph)->nodes.size(), success; }
int cuGraphInstantiateWithFlags(void** executable, void* graph, u64) { return *executable = new Graph(*(Graph*)graph), success; }
int cuGraphLaunch(void* executable, void* stream) {
    GUARD;
    return queue(stream, [=] {
        for (const Work& work : ((Graph*)executable)->nodes) work();
    });
}
int cuGraphExecDestroy(void* executable) { return delete (Graph*)executable, success; }
int cuGraphDestroy(void* graph) { return delete (Graph*)graph, success; }

int cuEventCreate(void** event, u32) {
    GUARD;
    REQUIRE_STATE;
    events++;
    return *event = new Event{context(), nullptr, 0, {}}, success;
}
int cuEventDestroy_v2(void* event) {
    GUARD;
    run_until(((Event*)event)->stream, ((Event*)event)->ticket);
    events--;
    return delete (Event*)event, success;
}
int cuEventRecord(void* handle, void* stream) {
    GUARD;
    auto* event = (Event*)handle;
    if (event->context != context()) return invalid_handle;
    const int result = queue(stream, [=] { event->time = std::chrono::steady_clock::now(); });
    auto found = streams.find(stream);
    if (found != streams.end() && !found->second->capture) event->stream = stream, event->ticket = found->second->queued;
    return result;
}
int cuEventSynchronize(void* handle) {
    GUARD;
    REQUIRE_STATE;
    run_until(((Event*)handle)->stream, ((Event*)handle)->ticket);
    return state();
}
int cuEventElapsedTime(float* milliseconds, void* first, void* last) {
    *milliseconds = std::chrono::duration<float, std::milli>(((Event*)last)->time - ((Event*)first)->time).count();
    return success;
}

/// A real cubin: only kernels that it names are found, and what runs is their sources compiled for the CPU.
int cuModuleLoadData(void** module, const void* image) {
    REQUIRE_STATE;
    const auto* header = (const Elf64_Ehdr*)image;
    if (memcmp(header->e_ident, ELFMAG, SELFMAG) || header->e_machine != 190) return invalid_image;
    const u64 bytes = std::max(header->e_shoff + (u64)header->e_shnum * header->e_shentsize, header->e_phoff + (u64)header->e_phnum * header->e_phentsize);
    modules++;
    return *module = new Module{context(), std::string((const char*)image, bytes)}, success;
}
int cuModuleUnload(void* module) { return modules--, delete (Module*)module, success; }
int cuModuleGetFunction(void** function, void* handle, const char* name) {
    const Module& module = *(Module*)handle;
    const Kernel* kernel = find_kernel(name);
    if (!kernel || module.image.find(std::string(".text.") + name + '\0') == std::string::npos) return not_found;
    return *function = new Function{kernel, module.context}, success;
}
int cuModuleGetGlobal_v2(u64* pointer, size_t* bytes, void*, const char* name) {
    const int* constant = find_constant(name);
    if (!constant) return not_found;
    *bytes = sizeof(int);
    return *pointer = (u64)constant, success;
}
int cuFuncSetAttribute(void* function, int attribute, int value) {
    if (attribute == 8 && value > (int)usable_shared_bytes) return invalid_value;
    if (attribute == 8) ((Function*)function)->shared_limit = value;
    return success;
}
int cuLaunchKernelEx(const LaunchConfig* config, void* handle, void** arguments, void**) {
    GUARD;
    REQUIRE_STATE;
    const Function& function = *(Function*)handle;
    if (function.context != context()) return invalid_handle;
    u32 cluster = 1;
    for (u32 i = 0; i < config->count; i++)
        if (config->attributes[i].id == 4) cluster = config->attributes[i].value[0];
    if (config->grid[0] == 0 || config->grid[0] % cluster || config->block[0] == 0 || config->block[0] > 1024 || (int)config->shared > function.shared_limit) return invalid_value;
    const Kernel& kernel = *function.kernel;
    std::vector<u8> copy((const u8*)arguments[0], (const u8*)arguments[0] + kernel.argument_bytes);
    const Dim grid{config->grid[0], 1, 1}, block{config->block[0], 1, 1};
    const int device = context()->device;
    return queue(config->stream, [=, &kernel] { execute(kernel, grid, block, cluster, copy, device); });
}

int cuTensorMapEncodeTiled(u64* map, int, u32 rank, u64 address, const u64* sizes, const u64* strides, const u32* box, const u32*, int, int swizzle, int, int) {
    if ((u64)map % 64 || rank != 2 || sizes[0] != 128 || strides[0] != 128 || box[0] != 128 || box[1] > 256 || address % 16 || swizzle) return invalid_value;
    memset(map, 0, 128);
    map[0] = address;
    map[1] = sizes[1];
    map[2] = box[1];
    return success;
}
}
