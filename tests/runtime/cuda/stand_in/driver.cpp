// A stand-in for NVIDIA's driver library (libcuda.so.1), so that what calls it can be tested where there is none: one
// device whose memory is the host's and whose kernels are those of PROGRAM, run by tests/doubles/emulation.h.
//
// It has what cuda-core and PyCUDA call for the interface of runtime/cuda. Like the real one it refuses calls of a thread
// that has no current context, copies nothing while a stream is captured, and keeps its own copies of a launch's
// arguments. A function that isn't here says its name and that it is not supported.

#include EMULATION
#include PROGRAM

QO_LIBRARY_BEGIN
KERNELS
QO_LIBRARY_END

#include <dlfcn.h>

#include <functional>
#include <map>

namespace {

enum Status {
  kSuccess = 0,
  kOutOfMemory = 2,
  kInvalidDevice = 101,
  kInvalidImage = 200,
  kInvalidContext = 201,
  kNotFound = 500,
  kNotSupported = 801,
};

using Pointer = unsigned long long;
using Steps = std::vector<std::function<void()>>;

struct Stream {
  Steps* capture = nullptr;
};

struct InstantiateParams {
  Pointer flags;
  Stream* stream;
  void* error_node;
  int result;
};

struct LaunchConfig {
  unsigned grid[3], block[3], shared;
  Stream* stream;
  void* attributes;
  unsigned attribute_count;
};

constexpr size_t kMemory = size_t(8) << 30;
int the_context, the_module;
thread_local std::vector<void*> contexts;
std::map<Pointer, size_t> allocations;
size_t used = 0;
Stream default_stream;

Stream& real(Stream* stream) { return reinterpret_cast<std::uintptr_t>(stream) <= 2 ? default_stream : *stream; }

int add(Stream* stream, std::function<void()> step) {
  if (contexts.empty() || !contexts.back()) return kInvalidContext;
  Stream& one = real(stream);
  if (one.capture) {
    one.capture->push_back(std::move(step));
  } else {
    step();
  }
  return kSuccess;
}

int launch(Stream* stream, void* function, const unsigned* grid, const unsigned* block, void** arguments) {
  const auto* kernel = static_cast<const emulation::Kernel*>(function);
  std::vector<std::vector<char>> values;
  for (size_t i = 0; i < kernel->argument_bytes.size(); ++i) {
    const char* value = static_cast<const char*>(arguments[i]);
    values.emplace_back(value, value + kernel->argument_bytes[i]);
  }
  const emulation::Dim3 grid_size{grid[0], grid[1], grid[2]}, block_size{block[0], block[1], block[2]};
  return add(stream, [kernel, values, grid_size, block_size]() mutable {
    static unsigned long long seed = 0;
    std::vector<void*> pointers;
    for (auto& value : values) pointers.push_back(value.data());
    const std::string error =
        emulation::Machine::get().run(kernel->call, pointers.data(), grid_size, block_size, seed++, 3);
    if (!error.empty()) {
      std::fprintf(stderr, "%s: %s\n", kernel->name, error.c_str());
      std::abort();
    }
  });
}

}  // namespace

extern "C" {

int cuInit(unsigned) { return kSuccess; }
int cuDriverGetVersion(int* version) { return *version = 13000, kSuccess; }
int cuDeviceGetCount(int* count) { return *count = 1, kSuccess; }
int cuDeviceGet(int* device, int number) { return *device = 0, number == 0 ? kSuccess : kInvalidDevice; }
int cuDeviceGetName(char* name, int size, int) { return std::snprintf(name, size_t(size), "Stand-in"), kSuccess; }
int cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = kMemory, kSuccess; }
int cuDeviceComputeCapability(int* major, int* minor, int) { return *major = 9, *minor = 0, kSuccess; }
int cuDeviceGetAttribute(int* value, int attribute, int) {
  static const std::map<int, int> values = {{1, 1024}, {10, 32}, {13, 1755000}, {16, 2},      {39, 2048},
                                            {36, 2619000}, {37, 5120}, {75, 9},   {76, 0},  {81, 233472},  {82, 65536}};
  const auto found = values.find(attribute);
  return *value = found == values.end() ? 0 : found->second, kSuccess;
}

int cuDevicePrimaryCtxRetain(void** context, int) { return *context = &the_context, kSuccess; }
int cuDevicePrimaryCtxRelease_v2(int) { return kSuccess; }
int cuCtxSetCurrent(void* context) { return contexts.assign(1, context), kSuccess; }
int cuCtxGetCurrent(void** context) { return *context = contexts.empty() ? nullptr : contexts.back(), kSuccess; }
int cuCtxPushCurrent_v2(void* context) { return contexts.push_back(context), kSuccess; }
int cuCtxPopCurrent_v2(void** context) {
  if (contexts.empty()) return kInvalidContext;
  *context = contexts.back();
  contexts.pop_back();
  return kSuccess;
}
int cuCtxGetDevice(int* device) { return *device = 0, contexts.empty() ? kInvalidContext : kSuccess; }
int cuCtxGetStreamPriorityRange(int* least, int* greatest) { return *least = 0, *greatest = -5, kSuccess; }

int cuMemGetInfo_v2(size_t* free, size_t* total) {
  if (contexts.empty()) return kInvalidContext;
  return *free = kMemory - used, *total = kMemory, kSuccess;
}
int cuMemAlloc_v2(Pointer* pointer, size_t bytes) {
  if (contexts.empty()) return kInvalidContext;
  if (bytes > kMemory - used) return kOutOfMemory;
  *pointer = Pointer(std::malloc(bytes));
  allocations[*pointer] = bytes;
  used += bytes;
  return kSuccess;
}
int cuMemFree_v2(Pointer pointer) {
  if (contexts.empty()) return kInvalidContext;
  used -= allocations.at(pointer);
  allocations.erase(pointer);
  std::free(reinterpret_cast<void*>(pointer));
  return kSuccess;
}
int cuMemAllocHost_v2(void** pointer, size_t bytes) { return *pointer = std::malloc(bytes), kSuccess; }
int cuMemHostAlloc(void** pointer, size_t bytes, unsigned) { return *pointer = std::malloc(bytes), kSuccess; }
int cuMemFreeHost(void* pointer) { return std::free(pointer), kSuccess; }
int cuMemcpyHtoDAsync_v2(Pointer to, const void* from, size_t bytes, Stream* stream) {
  return add(stream, [=] { std::memcpy(reinterpret_cast<void*>(to), from, bytes); });
}
int cuMemcpyDtoHAsync_v2(void* to, Pointer from, size_t bytes, Stream* stream) {
  return add(stream, [=] { std::memcpy(to, reinterpret_cast<const void*>(from), bytes); });
}

int cuStreamCreate(Stream** stream, unsigned) { return *stream = new Stream, kSuccess; }
int cuStreamCreateWithPriority(Stream** stream, unsigned, int) { return *stream = new Stream, kSuccess; }
int cuStreamDestroy_v2(Stream* stream) { return delete stream, kSuccess; }
int cuStreamSynchronize(Stream*) { return contexts.empty() ? kInvalidContext : kSuccess; }
int cuStreamBeginCapture_v2(Stream* stream, int) { return real(stream).capture = new Steps, kSuccess; }
int cuStreamEndCapture(Stream* stream, Steps** graph) {
  return *graph = real(stream).capture, real(stream).capture = nullptr, kSuccess;
}
int cuStreamGetCaptureInfo_v3(Stream* stream, int* status, Pointer* id, Steps** graph, void*, void*, void*) {
  *status = real(stream).capture != nullptr;
  if (id) *id = 1;
  if (graph) *graph = real(stream).capture;
  return kSuccess;
}
int cuGraphInstantiate(Steps** executable, Steps* graph, Pointer) { return *executable = new Steps(*graph), kSuccess; }
int cuGraphInstantiateWithFlags(Steps** executable, Steps* graph, Pointer) {
  return *executable = new Steps(*graph), kSuccess;
}
int cuGraphInstantiateWithParams(Steps** executable, Steps* graph, InstantiateParams* params) {
  return *executable = new Steps(*graph), params->result = 0, kSuccess;
}
int cuGraphLaunch(Steps* executable, Stream* stream) {
  for (const auto& step : *executable) {
    if (const int status = add(stream, step)) return status;
  }
  return kSuccess;
}
int cuGraphExecDestroy(Steps* executable) { return delete executable, kSuccess; }
int cuGraphDestroy(Steps* graph) { return delete graph, kSuccess; }
int cuUserObjectCreate(void** object, void* pointer, void (*)(void*), unsigned, unsigned) {
  return *object = pointer, kSuccess;
}
int cuUserObjectRelease(void*, unsigned) { return kSuccess; }
int cuGraphRetainUserObject(void*, void*, unsigned, unsigned) { return kSuccess; }
int cuGraphReleaseUserObject(void*, void*, unsigned) { return kSuccess; }

int cuEventCreate(void** event, unsigned) { return *event = std::malloc(1), kSuccess; }
int cuEventRecord(void*, Stream*) { return contexts.empty() ? kInvalidContext : kSuccess; }
int cuEventSynchronize(void*) { return kSuccess; }
int cuEventElapsedTime(float* milliseconds, void*, void*) { return *milliseconds = 1.5F, kSuccess; }
int cuEventElapsedTime_v2(float* milliseconds, void*, void*) { return *milliseconds = 1.5F, kSuccess; }
int cuEventDestroy_v2(void* event) { return std::free(event), kSuccess; }

int cuLibraryLoadData(void** library, const void* image, void*, void*, unsigned, void*, void*, unsigned) {
  return *library = &the_module, std::memcmp(image, "\x7f" "ELF", 4) ? kInvalidImage : kSuccess;
}
int cuLibraryUnload(void*) { return kSuccess; }
int cuLibraryGetKernel(void** kernel, void*, const char* name) {
  *kernel = const_cast<emulation::Kernel*>(emulation::find_kernel(name));
  return *kernel ? kSuccess : kNotFound;
}
int cuKernelGetFunction(void** function, void* kernel) { return *function = kernel, kSuccess; }
int cuKernelGetLibrary(void** library, void*) { return *library = &the_module, kSuccess; }
int cuModuleLoadDataEx(void** module, const void* image, unsigned, void*, void*) {
  return cuLibraryLoadData(module, image, nullptr, nullptr, 0, nullptr, nullptr, 0);
}
int cuModuleUnload(void*) { return kSuccess; }
int cuModuleGetFunction(void** function, void* module, const char* name) {
  return cuLibraryGetKernel(function, module, name);
}
int cuFuncGetAttribute(int* value, int attribute, void*) { return *value = attribute == 4 ? 32 : 0, kSuccess; }
int cuFuncSetBlockShape(void*, int, int, int) { return kSuccess; }
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void*, int threads, size_t) {
  return *blocks = 1024 / threads, kSuccess;
}
int cuLaunchKernelEx(const LaunchConfig* config, void* function, void** arguments, void**) {
  return launch(config->stream, function, config->grid, config->block, arguments);
}
int cuLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                   unsigned block_z, unsigned, Stream* stream, void** arguments, void** packed) {
  const unsigned grid[3] = {grid_x, grid_y, grid_z}, block[3] = {block_x, block_y, block_z};
  if (arguments) return launch(stream, function, grid, block, arguments);
  // PyCUDA gives one buffer, laid out like a struct: {1, buffer, 2, size, 0}.
  std::vector<void*> pointers;
  auto at = reinterpret_cast<std::uintptr_t>(packed[1]);
  for (const int bytes : static_cast<const emulation::Kernel*>(function)->argument_bytes) {
    at = (at + unsigned(bytes) - 1) / unsigned(bytes) * unsigned(bytes);
    pointers.push_back(reinterpret_cast<void*>(at));
    at += unsigned(bytes);
  }
  return launch(stream, function, grid, block, pointers.data());
}

int cuGetErrorName(int status, const char** name) {
  static const std::map<int, const char*> names = {{kOutOfMemory, "CUDA_ERROR_OUT_OF_MEMORY"},
                                                   {kInvalidDevice, "CUDA_ERROR_INVALID_DEVICE"},
                                                   {kInvalidContext, "CUDA_ERROR_INVALID_CONTEXT"}};
  const auto found = names.find(status);
  return *name = found == names.end() ? "CUDA_ERROR_OF_THE_STAND_IN" : found->second, kSuccess;
}
int cuGetErrorString(int status, const char** text) { return cuGetErrorName(status, text); }
}

// cuda-core asks for every function that the driver has; most of them it never calls.
namespace {

constexpr int kMissing = 1000;
std::vector<std::string> missing;

template <int kNumber>
int not_here() {
  std::fprintf(stderr, "the stand-in has no %s\n", missing[kNumber].c_str());
  return kNotSupported;
}

template <int... kNumber>
void* not_here_at(std::size_t number, std::integer_sequence<int, kNumber...>) {
  static void* const functions[] = {reinterpret_cast<void*>(&not_here<kNumber>)...};
  return functions[number];
}

}  // namespace

extern "C" int cuGetProcAddress_v2(const char* name, void** function, int, Pointer, int* found) {
  static void* const self = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
  *function = nullptr;
  for (const char* version : {"_v3", "_v2", ""}) {
    if (!*function) *function = dlsym(self, (std::string(name) + version).c_str());
  }
  if (!*function) {
    if (missing.size() == kMissing) return kNotFound;
    missing.push_back(name);
    *function = not_here_at(missing.size() - 1, std::make_integer_sequence<int, kMissing>());
  }
  if (found) *found = 0;
  return kSuccess;
}
