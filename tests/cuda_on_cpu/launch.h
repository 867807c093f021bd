// The door for the runner: describes a kernel's parameters, launches it, and says what went wrong. Included after the
// .cu by the generated file, which also gives the table of kernels.
#pragma once
#include <csetjmp>
#include <csignal>
#include <link.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>
#include <utility>

thread_local __attribute__((aligned(128))) unsigned char
    shared_bytes[cuda_on_cpu::SHARED_CAPACITY + cuda_on_cpu::SHARED_CANARY];

#define CUDA_ON_CPU_EXPORT extern "C" __attribute__((visibility("default")))

namespace cuda_on_cpu {

struct Argument {  // mirrored by the runner's ctypes.Structure
  void* host;      // the array's or the number's bytes; nullptr for a null pointer
  uint64_t bytes, bytes_read;
};

struct Launch {  // likewise
  const char* kernel;
  uint32_t grid[3], block[3];
  uint64_t shared_bytes, seed;
  uint32_t resident_blocks, preempt_every;
  double time_limit_s;
  Argument* arguments;
  uint64_t switches;
  const char* error;
};

constexpr size_t STACK_BYTES = 64 << 10;
constexpr size_t MAX_FIBERS = 16384;  // Linux lets a process have 65530 mappings; a stack and its guard take two
static const size_t PAGE = static_cast<size_t>(sysconf(_SC_PAGESIZE));
constexpr size_t GUARD_BYTES = 16 << 20;  // no access on either side of an array

struct Kernel {
  const char* name;
  void (*invoke)(void**);
  void (*describe)(char*);
};

template <class T>
static void describe_parameter(char* text) {
  using P = std::remove_pointer_t<T>;
  size_t bytes = sizeof(T);
  char kind = std::is_floating_point_v<T> ? 'f' : std::is_unsigned_v<T> ? 'u' : std::is_integral_v<T> ? 'i' : '?';
  if constexpr (std::is_pointer_v<T>) {
    kind = std::is_const_v<P> ? 'c' : 'p';
    bytes = 0;
    if constexpr (!std::is_void_v<P>) bytes = sizeof(P);
  }
  sprintf(text + strlen(text), "%c%zu ", kind, bytes);
}

template <class... A, size_t... I>
static void invoke_with(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_reference_t<A>*>(arguments[I])...);
}

template <auto KERNEL>
struct Door;
template <class... A, void (*KERNEL)(A...)>
struct Door<KERNEL> {
  static void invoke(void** arguments) { invoke_with(KERNEL, arguments, std::index_sequence_for<A...>{}); }
  static void describe(char* text) { (describe_parameter<A>(text), ...); }
};

extern const Kernel kernels[];

static const Kernel* running;
static void* argument_values[64];
static void* pointer_values[64];
static std::vector<char*> stacks;
static std::vector<Block> resident;
static Block* loaded;  // whose shared memory lies in the thread-local storage
static sigjmp_buf out_of_signal;
static pthread_t launching_thread;

static void enter_kernel() {
  running->invoke(argument_values);
  retire();
}

static char* stack_end(size_t number) {
  while (stacks.size() <= number) {
    char* map = static_cast<char*>(mmap(nullptr, PAGE + STACK_BYTES, PROT_READ | PROT_WRITE,
                                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    mprotect(map, PAGE, PROT_NONE);
    stacks.push_back(map + PAGE + STACK_BYTES);
  }
  return stacks[number];
}

static void find_shared_memory() {
  dynamic_begin = shared_bytes;
  dynamic_begin[0] = POISON;  // makes the loader allocate this thread's storage
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void*) {
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          auto storage = static_cast<unsigned char*>(info->dlpi_tls_data);
          const size_t bytes = info->dlpi_phdr[i].p_memsz;
          if (info->dlpi_phdr[i].p_type != PT_TLS) continue;
          if (dynamic_begin < storage || dynamic_begin >= storage + bytes) continue;
          shared_begin = storage;
          shared_end = storage + bytes;
          return 1;
        }
        return 0;
      },
      nullptr);
}

// The three stretches of storage that a block owns: before the dynamic array, its used part, and behind it.
template <class F>
static void for_shared_stretches(F each) {
  unsigned char* behind = dynamic_begin + SHARED_CAPACITY + SHARED_CANARY;
  each(shared_begin, static_cast<size_t>(dynamic_begin - shared_begin));
  each(dynamic_begin, dynamic_bytes);
  each(behind, static_cast<size_t>(shared_end - behind));
}

static void load_shared(Block* block) {
  if (loaded == block) return;
  for (Block* owner : {loaded, block}) {
    if (!owner) continue;
    unsigned char* saved = owner->shared.data();
    for_shared_stretches([&](unsigned char* storage, size_t bytes) {
      if (owner == block)
        memcpy(storage, saved, bytes);
      else
        memcpy(saved, storage, bytes);
      saved += bytes;
    });
  }
  loaded = block;
}

static void start_block(size_t slot, Index index) {
  Block& block = resident[slot];
  block.index = index;
  block.threads = block.live = block_dim.x * block_dim.y * block_dim.z;
  block.at_barrier = block.votes = 0;
  block.shared.assign(static_cast<size_t>(shared_end - shared_begin) - SHARED_CAPACITY - SHARED_CANARY + dynamic_bytes,
                      POISON);
  if (loaded == &block) loaded = nullptr;
  block.fibers.resize(block.threads);
  block.warps.assign((block.threads + 31) / 32, Warp{});
  block.warps_ready = 0;
  for (unsigned flat = 0; flat < block.threads; ++flat) {
    Fiber& fiber = block.fibers[flat];
    fiber.block = &block;
    fiber.thread = {flat % block_dim.x, flat / block_dim.x % block_dim.y, flat / block_dim.x / block_dim.y};
    fiber.flat = flat;
    fiber.stack_end = stack_end(slot * block.threads + flat);
    fiber.waits_at = nullptr;
    fiber.commits = 0;
    fiber.copies.clear();
    fiber.stack_pointer = first_frame(fiber.stack_end, enter_kernel);
    Warp& warp = block.warps[flat / 32];
    if (flat % 32 == 0) warp.lanes = &fiber;
    warp.live |= 1u << flat % 32;
    wake(block, warp, 1u << flat % 32);
  }
}

static bool canary_lives() {
  const unsigned char* canary = dynamic_begin + dynamic_bytes;
  return std::all_of(canary, canary + SHARED_CANARY, [](unsigned char byte) { return byte == POISON; });
}

// Nobody can run: who waits where, the places in the order in which they are met.
static void report_deadlock() {
  size_t used = snprintf(error_text, sizeof error_text, "%s seed %llu: deadlock", kernel_name,
                         seed);
  for (const Block& block : resident) {
    if (!block.live) continue;
    std::vector<std::pair<const Fiber*, unsigned>> places;
    for (const Fiber& fiber : block.fibers) {
      if (!fiber.waits_at) continue;
      auto place = std::find_if(places.begin(), places.end(), [&](auto& other) {
        return other.first->line == fiber.line && other.first->waits_at == fiber.waits_at;
      });
      place == places.end() ? places.push_back({&fiber, 1u}) : void(++place->second);
    }
    for (auto& [fiber, count] : places)
      if (used < sizeof error_text)
        used += snprintf(error_text + used, sizeof error_text - used,
                         "; block (%u, %u, %u): %u threads (first: %u) wait at %s in line %d", block.index.x,
                         block.index.y, block.index.z, count, fiber->flat, fiber->waits_at, fiber->line);
  }
}

static void run_blocks(unsigned at_once) {
  std::vector<Index> waiting;
  for (unsigned z = grid_dim.z; z-- > 0;)
    for (unsigned y = grid_dim.y; y-- > 0;)
      for (unsigned x = grid_dim.x; x-- > 0;) waiting.push_back({x, y, z});
  if (seed != 0)
    for (size_t i = waiting.size(); i > 1; --i) std::swap(waiting[i - 1], waiting[random_bits() % i]);
  const size_t threads = block_dim.x * block_dim.y * block_dim.z;
  resident.resize(std::min({size_t{at_once}, waiting.size(), MAX_FIBERS / threads}));
  for (Block& block : resident) block.live = 0;
  size_t turn = 0;
  while (!error_text[0]) {
    size_t alive = 0;
    for (size_t slot = 0; slot < resident.size(); ++slot) {
      if (!resident[slot].live && !waiting.empty()) {
        start_block(slot, waiting.back());
        waiting.pop_back();
      }
      alive += resident[slot].live != 0;
    }
    if (alive == 0) return;
    turn = seed == 0 ? turn : random_bits();
    Block* next = nullptr;
    for (size_t i = 0; i < resident.size() && !next; ++i) {
      Block& block = resident[(turn + i) % resident.size()];
      if (block.live && block.warps_ready) next = &block;
    }
    if (!next) return report_deadlock();
    if (seed == 0) turn = static_cast<size_t>(next - resident.data()) + 1;
    load_shared(next);
    current = any_ready(*next);
    cuda_on_cpu_switch(&launcher_stack_pointer, current->stack_pointer);
    if (!error_text[0] && !canary_lives())
      snprintf(error_text, sizeof error_text, "%s seed %llu: block (%u, %u, %u) wrote behind its %zu bytes of dynamic "
               "shared memory", kernel_name, seed, next->index.x, next->index.y,
               next->index.z, dynamic_bytes);
    current = nullptr;
  }
}

[[noreturn]] static void fail_in_signal(const char* format, ...) {
  va_list values;
  va_start(values, format);
  describe_failure(format, values);
  va_end(values);
  siglongjmp(out_of_signal, 1);
}

static void on_fault(int number, siginfo_t* info, void*) {
  if (!current || !pthread_equal(pthread_self(), launching_thread)) {
    signal(number, SIG_DFL);  // not a kernel's fault: happens again and ends the process
    return;
  }
  auto address = static_cast<const char*>(info->si_addr);
  if (address >= current->stack_end - STACK_BYTES - PAGE && address < current->stack_end - STACK_BYTES)
    fail_in_signal("its local variables need more than %zu bytes", STACK_BYTES);
  for (const Buffer& buffer : buffers) {
    if (address < buffer.map || address >= buffer.map_end) continue;
    if (address >= buffer.begin && address < buffer.end)
      fail_in_signal("writes to argument %u, a pointer to const", buffer.argument);
    fail_in_signal("out of bounds: byte %td of argument %u, which has %td", address - buffer.begin, buffer.argument,
                   buffer.end - buffer.begin);
  }
  fail_in_signal("accesses %p, which belongs to no array of the launch", static_cast<const void*>(address));
}

static void on_timeout(int number) {
  if (!pthread_equal(pthread_self(), launching_thread)) {
    pthread_kill(launching_thread, number);
  } else if (current) {
    fail_in_signal("the launch ran past its time limit: an endless loop?");
  }
}

}  // namespace cuda_on_cpu

#include "guard.h"
