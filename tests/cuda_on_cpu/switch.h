// Leaves one stack for another: callee-saved registers on the old stack, its pointer to *from, the new stack's back.
#pragma once
#include <cstddef>
#include <cstdint>

extern "C" void cuda_on_cpu_switch(void** from, void* to);

namespace cuda_on_cpu {

#if defined(__x86_64__)
// System V AMD64: rbx, rbp, r12-r15. The x87 and MXCSR control words are the same for every fiber.
asm(R"(
.text
.hidden cuda_on_cpu_switch
.globl cuda_on_cpu_switch
.type cuda_on_cpu_switch, @function
cuda_on_cpu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cuda_on_cpu_switch, .-cuda_on_cpu_switch
)");

// A function begins with its stack pointer 8 below a multiple of 16, so the return address lies on one.
static inline void* first_frame(char* stack_end, void (*entry)()) {
  void** address = reinterpret_cast<void**>(stack_end - 64);
  *address = reinterpret_cast<void*>(entry);
  return address - 6;
}
#elif defined(__aarch64__)
// AAPCS64: x19-x28, frame pointer x29, link register x30, d8-d15; sp stays a multiple of 16.
asm(R"(
.text
.hidden cuda_on_cpu_switch
.globl cuda_on_cpu_switch
.type cuda_on_cpu_switch, %function
cuda_on_cpu_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size cuda_on_cpu_switch, .-cuda_on_cpu_switch
)");

static inline void* first_frame(char* stack_end, void (*entry)()) {
  uint64_t* frame = reinterpret_cast<uint64_t*>(stack_end - 64 - 160);
  for (size_t i = 0; i < 20; ++i) frame[i] = 0;
  frame[11] = reinterpret_cast<uint64_t>(entry);  // x30, where ret goes
  return frame;
}
#else
#error "cuda_on_cpu switches stacks on x86-64 and aarch64 only"
#endif

}  // namespace cuda_on_cpu
