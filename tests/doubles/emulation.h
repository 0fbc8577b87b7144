// Run CUDA kernels on the CPU: the host side of the few CUDA built-ins that queryopt's kernels use.
//
// A .cu file that is compiled as C++ behind this header becomes a shared library whose kernels qo_launch runs, in one
// host thread. Every CUDA thread is a fiber. It runs until it needs others (a barrier, a vote, a shuffle) or touches
// what they may touch at the same time (an atomic, now and then), and then any other one goes on that can, drawn by a
// seed: of any warp of any of the few blocks that are resident at a time. So code that is right only for one order of
// threads fails for some seed, and a barrier that is missing shows as a thread that reads what nobody has written yet.
//
// Refused with a message, as the hardware would hang or be undefined: a barrier or a warp operation that some thread of
// those named never reaches, or reaches in another place. Shared memory starts as garbage, as on the hardware. Global
// memory is the host's, so that a sanitizer sees every access.
//
// With -fsanitize=thread a missing barrier is found whatever the schedule was: only barriers and __syncwarp order what
// threads of a block do (votes and shuffles don't, as in CUDA), nothing orders blocks, and atomics and volatile
// accesses race with nothing but plain ones. (GCC needs --param=tsan-distinguish-volatile=1.)
//
// What it does not show: speed, and what a device's weaker memory model does beyond that.

#ifndef QO_EMULATION_H
#define QO_EMULATION_H
#define QO_EMULATION 1

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define QO_ADDRESS_SANITIZER 1
#elif defined(__SANITIZE_THREAD__)
#define QO_THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define QO_ADDRESS_SANITIZER 1
#elif __has_feature(thread_sanitizer)
#define QO_THREAD_SANITIZER 1
#endif
#endif
#ifdef QO_ADDRESS_SANITIZER
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef QO_THREAD_SANITIZER
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
// With --param=tsan-distinguish-volatile=1: a volatile access means that others may write at the same time.
#define QO_VOLATILE(bytes)                                                         \
  __attribute__((weak)) void __tsan_volatile_read##bytes(void*) {}                 \
  __attribute__((weak)) void __tsan_volatile_write##bytes(void*) {}                \
  __attribute__((weak)) void __tsan_unaligned_volatile_read##bytes(void*) {}       \
  __attribute__((weak)) void __tsan_unaligned_volatile_write##bytes(void*) {}
QO_VOLATILE(1) QO_VOLATILE(2) QO_VOLATILE(4) QO_VOLATILE(8) QO_VOLATILE(16)
}
#endif

namespace emulation {

struct Dim3 {
  unsigned x, y, z;
};

enum class State { kReady, kBarrier, kWarp, kDone };
enum class Op { kNone, kSync, kBallot, kShuffle, kMatch };

// What the emulation itself does is no access of the kernel's, and orders nothing.
struct Unwatched {
#ifdef QO_THREAD_SANITIZER
  Unwatched() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~Unwatched() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
#else
  ~Unwatched() {}
#endif
};

// What was done before `release` has happened for who comes after `acquire` of the same thing.
#ifdef QO_THREAD_SANITIZER
inline void release(void* thing) { __tsan_release(thing); }
inline void acquire(void* thing) { __tsan_acquire(thing); }
#else
inline void release(void*) {}
inline void acquire(void*) {}
#endif

struct Block;

struct Fiber {
  State state = State::kDone;
  Dim3 thread{};
  unsigned warp = 0, lane = 0;
  Block* block = nullptr;
  // What it waits for.
  Op op = Op::kNone;
  int line = 0;
  unsigned mask = 0;
  std::uint64_t value = 0;
  int source = 0;  // of a shuffle: the lane it reads
  std::uint64_t result = 0;
  // How it goes on.
  bool started = false;
  unsigned syncs = 0, warp_syncs = 0;  // barriers and __syncwarp that it has come to
  char* stack = nullptr;
  ucontext_t context{};
  jmp_buf jump{};
  void* fake_stack = nullptr;
  void* watched = nullptr;  // the thread sanitizer's name for it
};

struct Block {
  Dim3 index{};
  std::vector<Fiber*> threads;
  unsigned running = 0;  // threads that haven't ended
  unsigned at_barrier = 0;
  int barrier_line = 0;
  // For release and acquire, two each in turn: who has left a barrier early may reach the next one before others leave.
  char ends = 0;
  char barriers[2] = {};
  std::vector<char> warps;
  std::map<int, std::vector<std::uint64_t>> shared;  // by the declaration's number
};

class Machine {
 public:
  static Machine& get() {
    static Machine machine;
    return machine;
  }

  Fiber* current = nullptr;
  Dim3 grid{}, block_size{};

  std::string run(void (*kernel)(void**), void** args, Dim3 grid_size, Dim3 block, std::uint64_t seed,
                  unsigned resident) {
    const Unwatched unwatched;
#ifdef QO_THREAD_SANITIZER
    home_watched_ = __tsan_get_current_fiber();
#endif
    kernel_ = kernel;
    args_ = args;
    grid = grid_size;
    block_size = block;
    random_ = seed * 0x9e3779b97f4a7c15ull + 0x2545f4914f6cdd1dull;
    error_.clear();
    const unsigned threads = block.x * block.y * block.z;
    std::vector<unsigned> waiting(std::size_t(grid.x) * grid.y * grid.z);
    for (std::size_t i = 0; i < waiting.size(); ++i) waiting[i] = unsigned(i);
    for (std::size_t i = waiting.size(); i > 1; --i) std::swap(waiting[i - 1], waiting[draw(i)]);
    std::vector<std::unique_ptr<Block>> blocks;
    ready_.clear();
    while (error_.empty()) {
      blocks.erase(std::remove_if(blocks.begin(), blocks.end(), [&](auto& b) { return retire(*b); }), blocks.end());
      while (blocks.size() < resident && !waiting.empty()) {
        blocks.push_back(admit(waiting.back(), threads));
        waiting.pop_back();
      }
      if (blocks.empty()) break;
      ended_ = false;
      while (error_.empty() && !ended_ && !ready_.empty()) step();
      if (error_.empty() && !ended_) error_ = stuck(blocks);
    }
    // Fibers that never ended hold nothing but their stacks, and begin anew.
    for (auto& block_left : blocks) {
      for (Fiber* fiber : block_left->threads) idle_.push_back(fiber);
    }
    return error_;
  }

  std::uint64_t draw(std::uint64_t below) {
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    return (random_ >> 11) % below;
  }

  void yield() {
    const Unwatched unwatched;
    ready_.push_back(current);
    leave();
  }

  void barrier(int line) {
    const Unwatched unwatched;
    Block& block = *current->block;
    char* const order = &block.barriers[current->syncs++ % 2];
    release(order);
    if (block.at_barrier && block.barrier_line != line) {
      return fail("__syncthreads of line " + std::to_string(line) + " while others of the block wait at line " +
                  std::to_string(block.barrier_line));
    }
    block.barrier_line = line;
    current->state = State::kBarrier;
    if (++block.at_barrier == block.threads.size()) {
      block.at_barrier = 0;
      for (Fiber* fiber : block.threads) wake(fiber);
    }
    leave();
    acquire(order);
  }

  std::uint64_t warp(Op op, int line, unsigned mask, std::uint64_t value, int source) {
    const Unwatched unwatched;
    Fiber& me = *current;
    if (!(mask >> me.lane & 1)) {
      fail("line " + std::to_string(line) + ": lane " + std::to_string(me.lane) + " is not in its own mask");
      return 0;
    }
    me.op = op;
    me.line = line;
    me.mask = mask;
    me.value = value;
    me.source = source;
    me.state = State::kWarp;
    char* const order = op == Op::kSync ? &me.block->warps[2 * me.warp + me.warp_syncs++ % 2] : nullptr;
    if (order) release(order);
    meet(me);
    leave();
    if (order) acquire(order);
    return me.result;
  }

  void* shared(int number, std::size_t bytes) {
    const Unwatched unwatched;
    std::vector<std::uint64_t>& memory = current->block->shared[number];
    if (memory.empty()) {
      memory.resize((bytes + 7) / 8);
      for (std::uint64_t& word : memory) word = draw(~0ull);
    }
    return memory.data();
  }

 private:
  static constexpr std::size_t kStack = 64 << 10;

  void (*kernel_)(void**) = nullptr;
  void** args_ = nullptr;
  std::uint64_t random_ = 1;
  std::string error_;
  bool ended_ = false;
  std::vector<Fiber*> ready_, idle_;
  // Each way to switch fibers needs some of these.
  [[maybe_unused]] ucontext_t home_{};
  [[maybe_unused]] jmp_buf home_jump_{};
  [[maybe_unused]] void* home_watched_ = nullptr;
  [[maybe_unused]] void* home_fake_stack_ = nullptr;
  [[maybe_unused]] const void* home_stack_ = nullptr;
  [[maybe_unused]] std::size_t home_stack_size_ = 0;

  std::unique_ptr<Block> admit(unsigned number, unsigned threads) {
    auto block = std::make_unique<Block>();
    release(this);
    block->index = {number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y};
    block->running = threads;
    block->warps.resize(2 * ((threads + 31) / 32));
    for (unsigned i = 0; i < threads; ++i) {
      if (idle_.empty()) {
        idle_.push_back(new Fiber);
        idle_.back()->stack = static_cast<char*>(std::malloc(kStack));
#ifdef QO_THREAD_SANITIZER
        idle_.back()->watched = __tsan_create_fiber(0);
#endif
      }
      Fiber* fiber = idle_.back();
      idle_.pop_back();
      fiber->state = State::kReady;
      fiber->thread = {i % block_size.x, i / block_size.x % block_size.y, i / block_size.x / block_size.y};
      fiber->warp = i / 32;
      fiber->lane = i % 32;
      fiber->block = block.get();
      fiber->started = false;
      fiber->syncs = fiber->warp_syncs = 0;
      block->threads.push_back(fiber);
      ready_.push_back(fiber);
    }
    return block;
  }

  bool retire(Block& block) {
    if (block.running) return false;
    acquire(&block.ends);
    for (Fiber* fiber : block.threads) idle_.push_back(fiber);
    return true;
  }

  void wake(Fiber* fiber) {
    fiber->state = State::kReady;
    ready_.push_back(fiber);
  }

  // Let one fiber run until it waits.
  void step() {
    std::swap(ready_[draw(ready_.size())], ready_.back());
    current = ready_.back();
    ready_.pop_back();
    enter(current);
    current = nullptr;
  }

  // If all lanes that `me` names wait at the same place, give them their results.
  void meet(Fiber& me) {
    Fiber* lanes[32] = {};
    Block& block = *me.block;
    for (unsigned lane = 0; lane < 32; ++lane) {
      if (!(me.mask >> lane & 1)) continue;
      const std::size_t thread = me.warp * 32 + lane;
      if (thread >= block.threads.size()) {
        return fail("line " + std::to_string(me.line) + ": the mask names lanes that the block's last warp hasn't");
      }
      Fiber* other = block.threads[thread];
      const bool there = other->state == State::kWarp && other->op == me.op && other->line == me.line;
      if (!there || other->mask != me.mask) return;
      lanes[lane] = other;
    }
    std::uint64_t results[32] = {};
    for (unsigned lane = 0; lane < 32; ++lane) {
      if (!lanes[lane]) continue;
      if (me.op == Op::kBallot) {
        for (unsigned other = 0; other < 32; ++other) {
          if (lanes[other] && lanes[other]->value) results[lane] |= 1u << other;
        }
      } else if (me.op == Op::kMatch) {
        for (unsigned other = 0; other < 32; ++other) {
          if (lanes[other] && lanes[other]->value == lanes[lane]->value) results[lane] |= 1u << other;
        }
      } else if (me.op == Op::kShuffle) {
        const int source = lanes[lane]->source;
        // A lane that takes no part has no value: what it would give is garbage.
        results[lane] = source >= 0 && source < 32 && lanes[source] ? lanes[source]->value : draw(~0ull);
      }
    }
    for (unsigned lane = 0; lane < 32; ++lane) {
      if (!lanes[lane]) continue;
      lanes[lane]->result = results[lane];
      wake(lanes[lane]);
    }
  }

  std::string stuck(const std::vector<std::unique_ptr<Block>>& blocks) {
    std::map<std::string, int> where;
    for (const auto& block : blocks) {
      for (const Fiber* fiber : block->threads) {
        if (fiber->state == State::kBarrier) where["__syncthreads of line " + std::to_string(block->barrier_line)] += 1;
        if (fiber->state == State::kWarp) where["a warp operation of line " + std::to_string(fiber->line)] += 1;
        if (fiber->state == State::kDone) where["the kernel's end"] += 1;
      }
    }
    std::string text = "the threads wait for each other for ever:";
    for (const auto& [place, count] : where) text += " " + std::to_string(count) + " at " + place + ";";
    text.pop_back();
    return text;
  }

  void fail(const std::string& message) {
    if (error_.empty()) error_ = message;
    leave();
  }

  static void main() {
    Machine& machine = get();
    machine.arrived(machine.current);
    acquire(&machine);
    machine.kernel_(machine.args_);
    {
      const Unwatched unwatched;
      Fiber* me = machine.current;
      release(&me->block->ends);
      me->state = State::kDone;
      if (--me->block->running == 0) machine.ended_ = true;
    }
    machine.leave();
  }

#ifdef QO_ADDRESS_SANITIZER
  void enter(Fiber* fiber) {
    __sanitizer_start_switch_fiber(&home_fake_stack_, fiber->stack, kStack);
    if (!fiber->started) prepare(fiber);
    swapcontext(&home_, &fiber->context);
    __sanitizer_finish_switch_fiber(home_fake_stack_, nullptr, nullptr);
  }

  void leave() {
    Fiber* me = current;
    void** const fake_stack = me->state == State::kDone ? nullptr : &me->fake_stack;
    __sanitizer_start_switch_fiber(fake_stack, home_stack_, home_stack_size_);
    swapcontext(&me->context, &home_);
    arrived(me);
  }

  void arrived(Fiber* me) {
    __sanitizer_finish_switch_fiber(me->fake_stack, &home_stack_, &home_stack_size_);
    me->fake_stack = nullptr;
  }
#elif defined(QO_THREAD_SANITIZER)
  static constexpr unsigned kNoOrder = 1;  // a switch orders nothing

  void enter(Fiber* fiber) {
    if (!fiber->started) prepare(fiber);
    __tsan_switch_to_fiber(fiber->watched, kNoOrder);
    swapcontext(&home_, &fiber->context);
  }

  void leave() {
    Fiber* me = current;
    __tsan_switch_to_fiber(home_watched_, kNoOrder);
    swapcontext(&me->context, &home_);
  }

  void arrived(Fiber*) {}
#else
  // swapcontext asks the kernel for the signal mask each time; a jump between two running stacks doesn't.
  void enter(Fiber* fiber) {
    if (_setjmp(home_jump_)) return;
    if (fiber->started) _longjmp(fiber->jump, 1);
    prepare(fiber);
    setcontext(&fiber->context);
  }

  void leave() {
    Fiber* me = current;
    if (!_setjmp(me->jump)) _longjmp(home_jump_, 1);
  }

  void arrived(Fiber*) {}
#endif

  void prepare(Fiber* fiber) {
    fiber->started = true;
    fiber->fake_stack = nullptr;
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack;
    fiber->context.uc_stack.ss_size = kStack;
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, &Machine::main, 0);
  }
};

// A kernel's parameters, taken from where the launch's pointers point.
template <auto kKernel>
struct Launcher;
template <typename... Args, void (*kKernel)(Args...)>
struct Launcher<kKernel> {
  static void call(void** args) { call(args, std::index_sequence_for<Args...>()); }
  template <std::size_t... kIndex>
  static void call(void** args, std::index_sequence<kIndex...>) {
    kKernel(*static_cast<std::remove_cv_t<Args>*>(args[kIndex])...);
  }
};

struct Kernel {
  const char* name;
  void (*call)(void**);
  std::vector<int> argument_bytes;
};

template <typename... Args>
std::vector<int> argument_bytes(void (*)(Args...)) {
  return {int(sizeof(Args))...};
}

template <typename T>
struct Type {
  using type = T;
};

template <typename T>
std::uint64_t bits_of(T value) {
  static_assert(sizeof(T) <= 8);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}

template <typename T>
T value_of(std::uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

template <typename T>
T shuffle(int line, unsigned mask, T value, int source) {
  return value_of<T>(Machine::get().warp(Op::kShuffle, line, mask, bits_of(value), source));
}

inline void maybe_yield() {
  const Unwatched unwatched;
  if (Machine::get().draw(4) == 0) Machine::get().yield();
}

}  // namespace emulation

#define __global__
#define __device__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __align__(bytes) alignas(bytes)
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define QO_SHARED(type_, name)                                           \
  auto& name = *static_cast<typename emulation::Type<type_>::type*>( \
      emulation::Machine::get().shared(__COUNTER__, sizeof(type_)))

#define threadIdx (emulation::Machine::get().current->thread)
#define blockIdx (emulation::Machine::get().current->block->index)
#define blockDim (emulation::Machine::get().block_size)
#define gridDim (emulation::Machine::get().grid)

using std::max;
using std::min;

inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __popcll(unsigned long long value) { return __builtin_popcountll(value); }
inline int __ffs(int value) { return __builtin_ffs(value); }

inline void __syncthreads(int line = __builtin_LINE()) { emulation::Machine::get().barrier(line); }
inline void __syncwarp(unsigned mask = ~0u, int line = __builtin_LINE()) {
  emulation::Machine::get().warp(emulation::Op::kSync, line, mask, 0, 0);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  return unsigned(emulation::Machine::get().warp(emulation::Op::kBallot, line, mask, predicate != 0, 0));
}
inline int __any_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  return __ballot_sync(mask, predicate, line) != 0;
}
template <typename T>
unsigned __match_any_sync(unsigned mask, T value, int line = __builtin_LINE()) {
  return unsigned(emulation::Machine::get().warp(emulation::Op::kMatch, line, mask, emulation::bits_of(value), 0));
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int line = __builtin_LINE()) {
  return emulation::shuffle(line, mask, value, source & 31);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int line = __builtin_LINE()) {
  const int lane = int(emulation::Machine::get().current->lane);
  return emulation::shuffle(line, mask, value, lane < int(delta) ? lane : lane - int(delta));
}

template <typename T>
T atomicAdd(T* address, T value) {
  emulation::maybe_yield();
  return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}
template <typename T>
T atomicMin(T* address, T value) {
  emulation::maybe_yield();
  T old = __atomic_load_n(address, __ATOMIC_RELAXED);
  while (value < old && !__atomic_compare_exchange_n(address, &old, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}

// List the library's kernels after the .cu file: QO_KERNEL(name) ... between QO_LIBRARY_BEGIN and QO_LIBRARY_END.
#define QO_LIBRARY_BEGIN                                 \
  namespace emulation {                                  \
  static const Kernel* find_kernel(const char* name) {   \
    static const Kernel kernels[] = {
#define QO_KERNEL(name) {#name, &Launcher<&::name>::call, argument_bytes(&::name)},
#define QO_LIBRARY_END                                                                                            \
  }                                                                                                               \
  ;                                                                                                               \
  for (const Kernel& kernel : kernels) {                                                                          \
    if (!std::strcmp(kernel.name, name)) return &kernel;                                                          \
  }                                                                                                               \
  return nullptr;                                                                                                 \
  }                                                                                                               \
  }                                                                                                               \
  extern "C" int qo_argument_bytes(const char* name, int index) {                                                 \
    const auto& bytes = emulation::find_kernel(name)->argument_bytes;                                             \
    return std::size_t(index) < bytes.size() ? bytes[std::size_t(index)] : 0;                                     \
  }                                                                                                               \
  extern "C" int qo_launch(const char* name, const unsigned* grid, const unsigned* block, void** args,            \
                           unsigned long long seed, unsigned resident, char* message, unsigned long long size) {  \
    const std::string error = emulation::Machine::get().run(                                                      \
        emulation::find_kernel(name)->call, args, {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]},    \
        seed, resident);                                                                                          \
    std::snprintf(message, std::size_t(size), "%s", error.c_str());                                               \
    return error.empty() ? 0 : 1;                                                                                 \
  }

#endif
