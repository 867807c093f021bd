// The launch itself: arrays between guard pages, signal handlers for its duration, results back to the host.
#pragma once

namespace cuda_on_cpu {

// Puts an array between two stretches without access, at the end of its pages up to 16-byte alignment, slack poisoned.
static void map_array(unsigned number, const Argument& argument, bool writable) {
  const size_t room = (argument.bytes + 15) / 16 * 16, pages = (room + PAGE - 1) / PAGE * PAGE;
  char* map = static_cast<char*>(
      mmap(nullptr, pages + 2 * GUARD_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  char* begin = map + GUARD_BYTES + pages - room;
  mprotect(map + GUARD_BYTES, pages, PROT_READ | PROT_WRITE);
  memset(map + GUARD_BYTES, POISON, pages - room);
  memcpy(begin, argument.host, argument.bytes);
  memset(begin + argument.bytes, POISON, room - argument.bytes);
  if (!writable) mprotect(map + GUARD_BYTES, pages, PROT_READ);
  buffers.push_back({begin, begin + argument.bytes, map, map + pages + 2 * GUARD_BYTES, number, writable, 0});
}

static void take_arguments(Argument* arguments) {
  char kinds[1024] = "";
  running->describe(kinds);
  unsigned number = 0;
  for (char* kind = strtok(kinds, " "); kind; kind = strtok(nullptr, " "), ++number) {
    Argument& argument = arguments[number];
    argument_values[number] = argument.host;
    if (kind[0] != 'p' && kind[0] != 'c') continue;
    pointer_values[number] = nullptr;
    argument_values[number] = &pointer_values[number];
    if (!argument.host) continue;
    map_array(number, argument, kind[0] == 'p');
    pointer_values[number] = buffers.back().begin;
  }
}

static void give_back(Argument* arguments) {
  for (const Buffer& buffer : buffers) {
    Argument& argument = arguments[buffer.argument];
    argument.bytes_read = buffer.bytes_read;
    if (buffer.writable) memcpy(argument.host, buffer.begin, argument.bytes);
    auto poisoned = [](char byte) { return static_cast<unsigned char>(byte) == POISON; };
    if (!error_text[0] && !(std::all_of(buffer.map + GUARD_BYTES, buffer.begin, poisoned) &&
                            std::all_of(buffer.end, buffer.map_end - GUARD_BYTES, poisoned)))
      snprintf(error_text, sizeof error_text, "%s seed %llu: wrote out of bounds around argument %u, which has %td "
               "bytes", kernel_name, seed, buffer.argument, buffer.end - buffer.begin);
    munmap(buffer.map, static_cast<size_t>(buffer.map_end - buffer.map));
  }
  buffers.clear();
  last_buffer = nullptr;
}

struct Handlers {  // a second stack for signals, ours for faults and time; the former ones return at the end
  struct sigaction segv, bus, time;
  stack_t former_stack;
  char* stack;

  explicit Handlers(double time_limit_s) {
    constexpr size_t bytes = 128 << 10;
    stack = static_cast<char*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    stack_t own{};
    own.ss_sp = stack;
    own.ss_size = bytes;
    sigaltstack(&own, &former_stack);
    struct sigaction action{};
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    action.sa_sigaction = on_fault;
    sigaction(SIGSEGV, &action, &segv);
    sigaction(SIGBUS, &action, &bus);
    action.sa_flags = SA_ONSTACK;
    action.sa_handler = on_timeout;
    sigaction(SIGVTALRM, &action, &time);
    set_timer(time_limit_s);
  }
  ~Handlers() {
    set_timer(0);
    sigaction(SIGSEGV, &segv, nullptr);
    sigaction(SIGBUS, &bus, nullptr);
    sigaction(SIGVTALRM, &time, nullptr);
    sigaltstack(&former_stack, nullptr);
    munmap(stack, 128 << 10);
  }
  static void set_timer(double seconds) {
    itimerval value{};
    value.it_value.tv_sec = static_cast<time_t>(seconds);
    value.it_value.tv_usec = static_cast<suseconds_t>((seconds - std::floor(seconds)) * 1e6);
    setitimer(ITIMER_VIRTUAL, &value, nullptr);
  }
};

static void run_guarded(const Launch& launch) {
  Handlers handlers(launch.time_limit_s);
  if (sigsetjmp(out_of_signal, 1) == 0) run_blocks(launch.resident_blocks);
  current = nullptr;
}

static const Kernel* find_kernel(const char* name) {
  for (const Kernel* kernel = kernels; kernel->name; ++kernel)
    if (!strcmp(kernel->name, name)) return kernel;
  return nullptr;
}

}  // namespace cuda_on_cpu

// Kinds and sizes of a kernel's parameters, as "c2 p8 i4 ": pointer to const, pointer, signed, unsigned, float.
CUDA_ON_CPU_EXPORT void cuda_on_cpu_describe(const char* name, char* text) {
  text[0] = 0;
  cuda_on_cpu::find_kernel(name)->describe(text);
}

CUDA_ON_CPU_EXPORT void cuda_on_cpu_launch(cuda_on_cpu::Launch* launch) {
  using namespace cuda_on_cpu;
  running = find_kernel(launch->kernel);
  kernel_name = running->name;
  grid_dim = {launch->grid[0], launch->grid[1], launch->grid[2]};
  block_dim = {launch->block[0], launch->block[1], launch->block[2]};
  dynamic_bytes = launch->shared_bytes;
  seed = launch->seed;
  random_state = 0x9E3779B97F4A7C15ull * (2 * seed + 1);
  preempt_every = launch->preempt_every;
  until_preempt = seed == 0 ? 65536 : preempt_every;
  switches = 0;
  error_text[0] = 0;
  launching_thread = pthread_self();
  loaded = nullptr;
  find_shared_memory();
  memset(dynamic_begin, POISON, SHARED_CAPACITY + SHARED_CANARY);
  take_arguments(launch->arguments);
  run_guarded(*launch);
  give_back(launch->arguments);
  launch->switches = switches;
  launch->error = error_text;
}
