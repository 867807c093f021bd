// Collectives of a warp: shuffles, votes, matches, reductions, __syncwarp and the block barriers.
// A collective whose mask names a lane that returned, or that reads a lane outside the mask, is an error here.
#pragma once
#include "memory.h"

namespace cuda_on_cpu {

struct Exchange {
  uint64_t value, result;
  int source;
};

static inline void finish_shuffle(void** arguments, uint32_t mask) {
  for (uint32_t lanes = mask; lanes; lanes &= lanes - 1) {
    auto own = static_cast<Exchange*>(arguments[__builtin_ctz(lanes)]);
    if (!(mask >> own->source & 1))
      fail("shuffle: lane %u reads lane %d, which the mask %08x leaves out", __builtin_ctz(lanes), own->source, mask);
    own->result = static_cast<Exchange*>(arguments[own->source])->value;
  }
}

template <class T>
static inline T shuffle(uint32_t mask, T value, int source, const char* name, int line) {
  static_assert(sizeof(T) <= 8, "shuffles move 1, 2, 4 or 8 bytes");
  Exchange exchange{0, 0, source};
  memcpy(&exchange.value, &value, sizeof value);
  meet(mask, name, line, false, &exchange, finish_shuffle);
  memcpy(&value, &exchange.result, sizeof value);
  return value;
}

static inline void finish_nothing(void**, uint32_t) {}

static inline void finish_ballot(void** arguments, uint32_t mask) {
  uint32_t ballot = 0;
  for (uint32_t lanes = mask; lanes; lanes &= lanes - 1)
    if (static_cast<Exchange*>(arguments[__builtin_ctz(lanes)])->value) ballot |= lanes & -lanes;
  for (uint32_t lanes = mask; lanes; lanes &= lanes - 1)
    static_cast<Exchange*>(arguments[__builtin_ctz(lanes)])->result = ballot;
}

static inline void finish_match(void** arguments, uint32_t mask) {
  for (uint32_t lanes = mask; lanes; lanes &= lanes - 1) {
    auto own = static_cast<Exchange*>(arguments[__builtin_ctz(lanes)]);
    own->result = 0;
    for (uint32_t others = mask; others; others &= others - 1)
      if (static_cast<Exchange*>(arguments[__builtin_ctz(others)])->value == own->value)
        own->result |= 1u << __builtin_ctz(others);
  }
}

template <class T, T (*COMBINE)(T, T)>
static inline void finish_reduce(void** arguments, uint32_t mask) {
  T total{};
  for (uint32_t lanes = mask; lanes; lanes &= lanes - 1) {
    const T value = static_cast<T>(static_cast<Exchange*>(arguments[__builtin_ctz(lanes)])->value);
    total = lanes == mask ? value : COMBINE(total, value);
  }
  for (uint32_t lanes = mask; lanes; lanes &= lanes - 1)
    static_cast<Exchange*>(arguments[__builtin_ctz(lanes)])->result = static_cast<uint64_t>(total);
}

template <class T> static inline T add(T a, T b) { return static_cast<T>(a + b); }
template <class T> static inline T greater(T a, T b) { return a < b ? b : a; }
template <class T> static inline T smaller(T a, T b) { return b < a ? b : a; }

static inline uint64_t exchange(uint32_t mask, uint64_t value, const char* name, int line,
                                void (*finish)(void**, uint32_t)) {
  Exchange exchange{value, 0, 0};
  meet(mask, name, line, false, &exchange, finish);
  return exchange.result;
}

}  // namespace cuda_on_cpu

#define CUDA_ON_CPU_LINE int line = __builtin_LINE()

template <class T>
static inline T __shfl_sync(uint32_t mask, T value, int source, int width = 32, CUDA_ON_CPU_LINE) {
  const int first = cuda_on_cpu::lane_id() & ~(width - 1);
  return cuda_on_cpu::shuffle(mask, value, first | (source & (width - 1)), "__shfl_sync", line);
}

template <class T>
static inline T __shfl_xor_sync(uint32_t mask, T value, int bits, int width = 32, CUDA_ON_CPU_LINE) {
  const int lane = cuda_on_cpu::lane_id(), source = lane ^ bits;
  const bool inside = source < (lane & ~(width - 1)) + width;  // an earlier group may be read, a later one not
  return cuda_on_cpu::shuffle(mask, value, inside ? source : lane, "__shfl_xor_sync", line);
}

template <class T>
static inline T __shfl_up_sync(uint32_t mask, T value, unsigned delta, int width = 32, CUDA_ON_CPU_LINE) {
  const unsigned lane = cuda_on_cpu::lane_id();
  return cuda_on_cpu::shuffle(mask, value, (lane & (width - 1)) >= delta ? lane - delta : lane, "__shfl_up_sync", line);
}

template <class T>
static inline T __shfl_down_sync(uint32_t mask, T value, unsigned delta, int width = 32, CUDA_ON_CPU_LINE) {
  const unsigned lane = cuda_on_cpu::lane_id();
  const bool inside = (lane & (width - 1)) + delta < static_cast<unsigned>(width);
  return cuda_on_cpu::shuffle(mask, value, inside ? lane + delta : lane, "__shfl_down_sync", line);
}

static inline unsigned __ballot_sync(uint32_t mask, int predicate, CUDA_ON_CPU_LINE) {
  return cuda_on_cpu::exchange(mask, predicate != 0, "__ballot_sync", line, cuda_on_cpu::finish_ballot);
}
static inline int __any_sync(uint32_t mask, int predicate, CUDA_ON_CPU_LINE) {
  return cuda_on_cpu::exchange(mask, predicate != 0, "__any_sync", line, cuda_on_cpu::finish_ballot) != 0;
}
static inline int __all_sync(uint32_t mask, int predicate, CUDA_ON_CPU_LINE) {
  return cuda_on_cpu::exchange(mask, predicate != 0, "__all_sync", line, cuda_on_cpu::finish_ballot) == mask;
}

template <class T>
static inline unsigned __match_any_sync(uint32_t mask, T value, CUDA_ON_CPU_LINE) {
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  return cuda_on_cpu::exchange(mask, bits, "__match_any_sync", line, cuda_on_cpu::finish_match);
}

#define CUDA_ON_CPU_REDUCE(NAME, COMBINE)                                                                      \
  template <class T>                                                                                           \
  static inline T NAME(uint32_t mask, T value, CUDA_ON_CPU_LINE) {                                             \
    static_assert(sizeof(T) == 4 && std::is_integral_v<T>, #NAME " takes int or unsigned");                    \
    return static_cast<T>(cuda_on_cpu::exchange(mask, static_cast<uint32_t>(value), #NAME, line,               \
                                                cuda_on_cpu::finish_reduce<T, cuda_on_cpu::COMBINE<T>>));      \
  }
CUDA_ON_CPU_REDUCE(__reduce_add_sync, add)
CUDA_ON_CPU_REDUCE(__reduce_max_sync, greater)
CUDA_ON_CPU_REDUCE(__reduce_min_sync, smaller)
#undef CUDA_ON_CPU_REDUCE

static inline void __syncwarp(uint32_t mask = 0xFFFFFFFFu, CUDA_ON_CPU_LINE) {
  cuda_on_cpu::meet(mask, "__syncwarp", line, false, nullptr, cuda_on_cpu::finish_nothing);
}
static inline unsigned __activemask() { return cuda_on_cpu::own_warp().live; }

static inline void __syncthreads(CUDA_ON_CPU_LINE) { cuda_on_cpu::barrier("__syncthreads", line, false); }
static inline int __syncthreads_or(int predicate, CUDA_ON_CPU_LINE) {
  return cuda_on_cpu::barrier("__syncthreads_or", line, predicate != 0) != 0;
}
static inline int __syncthreads_and(int predicate, CUDA_ON_CPU_LINE) {
  return cuda_on_cpu::barrier("__syncthreads_and", line, predicate == 0) == 0;
}
static inline int __syncthreads_count(int predicate, CUDA_ON_CPU_LINE) {
  return static_cast<int>(cuda_on_cpu::barrier("__syncthreads_count", line, predicate != 0));
}
