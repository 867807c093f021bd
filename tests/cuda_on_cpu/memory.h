// Device memory: which addresses a launch may touch, bytes read through wrappers, atomics, cp.async, shared memory.
#pragma once
#include <algorithm>

#include "scheduler.h"

namespace cuda_on_cpu {

constexpr size_t SHARED_CAPACITY = 232448;  // 227 KiB, the most any target gives one block (sm_90)
constexpr size_t SHARED_CANARY = 4096;      // watched behind what the launch asked for
constexpr unsigned char POISON = 0xA5;

struct Buffer {  // one array argument of the launch
  char *begin, *end;
  char *map, *map_end;  // the pages around it, guard pages included
  unsigned argument;
  bool writable;
  uint64_t bytes_read;
};

static std::vector<Buffer> buffers;
static Buffer* last_buffer;
static unsigned char *shared_begin, *shared_end;  // this module's thread-local storage, where shared memory lives
static unsigned char* dynamic_begin;
static size_t dynamic_bytes;

static inline bool is_shared(const void* address, size_t bytes) {
  auto p = static_cast<const unsigned char*>(address);
  if (p < shared_begin || p + bytes > shared_end) return false;
  const bool in_dynamic_array = p + bytes > dynamic_begin && p < dynamic_begin + SHARED_CAPACITY;
  return !in_dynamic_array || (p >= dynamic_begin && p + bytes <= dynamic_begin + dynamic_bytes);
}

static inline void check_alignment(const void* address, size_t bytes, const char* what) {
  if (reinterpret_cast<uintptr_t>(address) % bytes) fail("%s at an address that is no multiple of %zu", what, bytes);
}

static inline Buffer& check_global(const void* address, size_t bytes, const char* what) {
  auto p = static_cast<const char*>(address);
  if (!last_buffer || p < last_buffer->begin || p >= last_buffer->end) {
    last_buffer = nullptr;
    for (Buffer& buffer : buffers)
      if (p >= buffer.begin && p < buffer.end) last_buffer = &buffer;
    if (!last_buffer) {
      for (Buffer& buffer : buffers)
        if (p >= buffer.map && p < buffer.map_end)
          fail("%s out of bounds: byte %td of argument %u, which has %td", what, p - buffer.begin, buffer.argument,
               buffer.end - buffer.begin);
      fail("%s at an address outside every array of the launch", what);
    }
  }
  if (p + bytes > last_buffer->end)
    fail("%s out of bounds: bytes %td to %td of argument %u, which has %td", what, p - last_buffer->begin,
         p - last_buffer->begin + static_cast<ptrdiff_t>(bytes), last_buffer->argument,
         last_buffer->end - last_buffer->begin);
  check_alignment(address, bytes, what);
  return *last_buffer;
}

template <class T>
static inline T read_global(const void* address, const char* what) {
  check_global(address, sizeof(T), what).bytes_read += sizeof(T);
  T value;
  memcpy(&value, address, sizeof value);
  may_switch();  // the value may be old when it is used
  return value;
}

template <class T>
static inline T* atomic_target(T* address, const char* what) {
  static_assert(sizeof(T) == 4 || std::is_same_v<T, unsigned long long>, "CUDA has this atomic for (unsigned) int, "
                "unsigned long long and float only");
  if (is_shared(address, sizeof(T)))
    check_alignment(address, sizeof(T), what);
  else if (!check_global(address, sizeof(T), what).writable)
    fail("%s on argument %u, a pointer to const", what, last_buffer->argument);
  may_switch();
  return address;
}

static inline void deliver_copies(unsigned below_group) {
  std::vector<Copy>& copies = current->copies;
  size_t kept = 0;
  for (const Copy& copy : copies) {
    if (copy.group < below_group)
      memcpy(copy.shared, copy.global, 16);
    else
      copies[kept++] = copy;
  }
  copies.resize(kept);
}

}  // namespace cuda_on_cpu

// ---- atomics: each returns the old value -------------------------------------------------------------------------
#define CUDA_ON_CPU_ATOMIC(NAME, NEW_VALUE)                          \
  template <class T, class U>                                        \
  static inline T NAME(T* address, U operand) {                      \
    const T value = static_cast<T>(operand);                         \
    T* target = cuda_on_cpu::atomic_target(address, #NAME);          \
    const T old = *target;                                           \
    *target = NEW_VALUE;                                             \
    cuda_on_cpu::may_switch();                                       \
    return old;                                                      \
  }
CUDA_ON_CPU_ATOMIC(atomicAdd, static_cast<T>(old + value))
CUDA_ON_CPU_ATOMIC(atomicSub, static_cast<T>(old - value))
CUDA_ON_CPU_ATOMIC(atomicMax, old < value ? value : old)
CUDA_ON_CPU_ATOMIC(atomicMin, value < old ? value : old)
CUDA_ON_CPU_ATOMIC(atomicAnd, static_cast<T>(old & value))
CUDA_ON_CPU_ATOMIC(atomicOr, static_cast<T>(old | value))
CUDA_ON_CPU_ATOMIC(atomicExch, value)
CUDA_ON_CPU_ATOMIC(atomicInc, old >= value ? T(0) : static_cast<T>(old + 1))
#undef CUDA_ON_CPU_ATOMIC

template <class T, class U, class V>
static inline T atomicCAS(T* address, U expected, V desired) {
  T* target = cuda_on_cpu::atomic_target(address, "atomicCAS");
  const T old = *target;
  if (old == static_cast<T>(expected)) *target = static_cast<T>(desired);
  cuda_on_cpu::may_switch();
  return old;
}

// Blocks run on one core in program order: a fence has nothing to order, but others may run here.
static inline void __threadfence() { cuda_on_cpu::may_switch(); }
static inline void __threadfence_block() { cuda_on_cpu::may_switch(); }
static inline void __nanosleep(unsigned) { cuda_on_cpu::step_aside(); }

template <class T>
static inline T __ldg(const T* address) { return cuda_on_cpu::read_global<T>(address, "__ldg"); }
template <class T>
static inline T __ldcs(const T* address) { return cuda_on_cpu::read_global<T>(address, "__ldcs"); }
template <class T>
static inline T __ldcg(const T* address) { return cuda_on_cpu::read_global<T>(address, "__ldcg"); }

// ---- the CPU side of dphr_infer/cuda/device_ops.cuh -----------------------------------------------------------
static inline uint4 load16(const void* global) { return cuda_on_cpu::read_global<uint4>(global, "load16"); }

static inline unsigned long long load_relaxed(const unsigned long long* global) {
  return cuda_on_cpu::read_global<unsigned long long>(global, "load_relaxed");
}

// The data arrives at the wait, never before: until then the target reads as poison.
static inline void cp_async16(void* shared, const void* global) {
  using namespace cuda_on_cpu;
  if (!is_shared(shared, 16)) fail("cp_async16 to an address outside shared memory");
  check_alignment(shared, 16, "cp_async16 to shared memory");
  check_global(global, 16, "cp_async16").bytes_read += 16;
  may_switch();
  memset(shared, POISON, 16);
  current->copies.push_back({shared, global, current->commits});
}

static inline void cp_async_commit() { ++cuda_on_cpu::current->commits; }

template <int PENDING>
static inline void cp_async_wait() {
  const unsigned commits = cuda_on_cpu::current->commits;
  cuda_on_cpu::deliver_copies(commits > PENDING ? commits - PENDING : 0);
  cuda_on_cpu::may_switch();
}
