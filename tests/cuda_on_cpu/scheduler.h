// One fiber per CUDA thread: who runs next, barriers, meetings of a warp's lanes, and what goes wrong there.
//
// Inside a block fibers hand over to each other; between blocks the launcher's own stack decides, and exchanges the
// blocks' shared memory. Every choice comes from one seeded generator, so a seed is a schedule.
#pragma once
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <vector>

#include "switch.h"

namespace cuda_on_cpu {

struct Index {
  unsigned x, y, z;
};

struct Copy {  // one cp.async on its way; group counts the commits before it
  void* shared;
  const void* global;
  unsigned group;
};

struct Block;

struct Fiber {
  void* stack_pointer;
  Block* block;
  Index thread;
  unsigned flat;
  char* stack_end;
  const char* waits_at;  // name of the call it waits in, nullptr when it can run
  int line;
  uint32_t mask;
  void (*finish)(void**, uint32_t);
  unsigned commits;
  std::vector<Copy> copies;
};

struct Warp {
  uint32_t ready, arrived, live;  // lanes that can run, that wait in a collective, that have not returned
  Fiber* lanes;
  void* arguments[32];
};

struct Block {
  Index index;
  unsigned live, at_barrier, votes, vote_result, threads;
  uint32_t warps_ready;
  int barrier_line;
  const char* barrier_name;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<unsigned char> shared;  // what its shared memory holds while another block runs
};

static Fiber* current;
static void* launcher_stack_pointer;
static Index block_dim, grid_dim;
static uint64_t random_state, switches;
static unsigned long long seed;
static unsigned preempt_every;
static uint64_t until_preempt;
static char error_text[2048];
static const char* kernel_name;

static inline uint32_t random_bits() {  // xorshift64*, Vigna 2016
  random_state ^= random_state >> 12;
  random_state ^= random_state << 25;
  random_state ^= random_state >> 27;
  return static_cast<uint32_t>((random_state * 0x2545F4914F6CDD1Dull) >> 32);
}

static inline unsigned pick_bit(uint32_t bits) {
  if (seed == 0) return __builtin_ctz(bits);
  const unsigned turn = random_bits() >> 27;
  const uint32_t turned = (bits >> turn) | (bits << ((32 - turn) & 31));
  return (__builtin_ctz(turned) + turn) & 31;
}

static void describe_failure(const char* format, va_list values) {
  int used = 0;
  if (current) {
    const Index b = current->block->index, t = current->thread;
    used = snprintf(error_text, sizeof error_text, "%s block (%u, %u, %u) thread (%u, %u, %u) seed %llu: ", kernel_name,
                    b.x, b.y, b.z, t.x, t.y, t.z, seed);
  } else {
    used = snprintf(error_text, sizeof error_text, "%s seed %llu: ", kernel_name, seed);
  }
  vsnprintf(error_text + used, sizeof error_text - used, format, values);
}

// Ends the launch with this message; the fibers' stacks are abandoned where they stand.
[[noreturn]] static void fail(const char* format, ...) __attribute__((format(printf, 1, 2), noinline, cold));
[[noreturn]] static void fail(const char* format, ...) {
  va_list values;
  va_start(values, format);
  describe_failure(format, values);
  va_end(values);
  cuda_on_cpu_switch(&current->stack_pointer, launcher_stack_pointer);
  __builtin_unreachable();
}

static inline unsigned lane_id() { return current->flat & 31; }
static inline Warp& own_warp() { return current->block->warps[current->flat >> 5]; }

static inline void wake(Block& block, Warp& warp, uint32_t lanes) {
  warp.ready |= lanes;
  block.warps_ready |= 1u << (warp.lanes->flat >> 5);
}

static inline void run(Fiber* next) {
  Fiber* self = current;
  if (next == self) return;
  current = next;
  ++switches;
  cuda_on_cpu_switch(&self->stack_pointer, next->stack_pointer);
}

static inline Fiber* any_ready(Block& block) {
  Warp& warp = block.warps[pick_bit(block.warps_ready)];
  return warp.lanes + pick_bit(warp.ready);
}

// Another fiber of the warp, else of the block, else the launcher chooses another block.
static inline void run_another() {
  Warp& warp = own_warp();
  if (warp.ready) return run(warp.lanes + pick_bit(warp.ready));
  if (current->block->warps_ready) return run(any_ready(*current->block));
  ++switches;
  cuda_on_cpu_switch(&current->stack_pointer, launcher_stack_pointer);
}

static inline void not_ready() {
  Warp& warp = own_warp();
  warp.ready &= ~(1u << lane_id());
  if (!warp.ready) current->block->warps_ready &= ~(1u << (current->flat >> 5));
}

static inline void wait_in(const char* name, int line) {
  current->waits_at = name;
  current->line = line;
  not_ready();
  run_another();
  current->waits_at = nullptr;
}

static __attribute__((noinline)) void step_aside() {
  until_preempt = seed == 0 ? 65536 : 1 + random_bits() % (2 * preempt_every);
  if (random_bits() & 1) return run(any_ready(*current->block));
  ++switches;
  cuda_on_cpu_switch(&current->stack_pointer, launcher_stack_pointer);
}

// A place where the hardware could run somebody else: global accesses, atomics, the end of a collective.
static inline void may_switch() {
  if (--until_preempt == 0) step_aside();
}

// Every thread of the block must come here, from one line. Returns how many brought a true predicate.
static __attribute__((noinline)) unsigned barrier(const char* name, int line, bool predicate) {
  Block& block = *current->block;
  if (block.live < block.threads)
    fail("waits at %s (line %d), which %u of %u threads left out by returning", name, line, block.threads - block.live,
         block.threads);
  if (block.at_barrier && (block.barrier_line != line || strcmp(block.barrier_name, name)))
    fail("divergent barrier: waits at %s in line %d while %u threads of the block wait at %s in line %d", name, line,
         block.at_barrier, block.barrier_name, block.barrier_line);
  block.barrier_line = line;
  block.barrier_name = name;
  block.votes += predicate;
  if (++block.at_barrier < block.threads) {
    wait_in(name, line);
    return block.vote_result;
  }
  block.vote_result = block.votes;
  block.at_barrier = block.votes = 0;
  for (Warp& warp : block.warps) wake(block, warp, warp.live);
  if (seed != 0 && (random_bits() & 3) == 0) step_aside();
  may_switch();
  return current->block->vote_result;
}

// Lanes of mask meet; the last one to come runs finish on everybody's argument. aligned: all from one line.
static inline void meet(uint32_t mask, const char* name, int line, bool aligned, void* argument,
                        void (*finish)(void**, uint32_t)) {
  Fiber* self = current;
  Warp& warp = own_warp();
  const uint32_t own = 1u << lane_id();
  if (!(mask & own))
    fail("%s (line %d) with mask %08x, which leaves out the calling lane %u", name, line, mask, lane_id());
  if (const uint32_t absent = mask & ~warp.live)
    fail("%s (line %d) with mask %08x names lanes %08x that returned or never were", name, line, mask, absent);
  for (uint32_t others = warp.arrived; others; others &= others - 1) {
    const unsigned lane = __builtin_ctz(others);
    const Fiber& other = warp.lanes[lane];
    if (!(other.mask & own) || !(mask >> lane & 1)) continue;  // one of the two may meet the other later
    if (other.mask != mask)
      fail("lanes disagree on the mask: %s (line %d) with %08x, lane %u waits at %s (line %d) with %08x", name, line,
           mask, lane, other.waits_at, other.line, other.mask);
    if (other.finish != finish || (aligned && other.line != line))
      fail("divergent collective: calls %s in line %d while lane %u waits at %s in line %d", name, line, lane,
           other.waits_at, other.line);
    break;  // whoever else waits with this mask was compared with that lane
  }
  warp.arguments[lane_id()] = argument;
  warp.arrived |= own;
  if ((warp.arrived & mask) == mask) {
    warp.arrived &= ~mask;
    finish(warp.arguments, mask);
    wake(*self->block, warp, mask);
    return may_switch();
  }
  self->mask = mask;
  self->finish = finish;
  wait_in(name, line);
}

// A fiber's last act: leaves the block's books, never returns.
static void retire() {
  Block& block = *current->block;
  Warp& warp = own_warp();
  if (!current->copies.empty())
    fail("returns with %zu cp.async copies that it never waited for", current->copies.size());
  if (block.at_barrier)
    fail("returns while %u threads of the block wait at %s (line %d)", block.at_barrier, block.barrier_name,
         block.barrier_line);
  for (uint32_t others = warp.arrived; others; others &= others - 1) {
    const Fiber& other = warp.lanes[__builtin_ctz(others)];
    if (other.mask >> lane_id() & 1)
      fail("returns while lane %u waits for it at %s (line %d)", other.flat & 31, other.waits_at, other.line);
  }
  warp.live &= ~(1u << lane_id());
  not_ready();
  if (--block.live == 0) cuda_on_cpu_switch(&current->stack_pointer, launcher_stack_pointer);
  run_another();
  __builtin_unreachable();
}

}  // namespace cuda_on_cpu
