// The machine instructions that the kernels name one by one: inline PTX (PTX ISA 8.x, sm_80 and later).
//
// A kernel includes this file for all that differs between compilers. Under g++ the tests put
// tests/cuda_on_cpu/cuda_on_cpu.h before it, which gives the same functions in C++: here all stands under __CUDACC__.
//
//   uint4 load16(global)             16 bytes that no one writes during the launch, read once: not kept in L1
//   load_relaxed(global)             an unsigned long long that other blocks change by atomics, read past L1
//   cp_async16(shared, global)       16 bytes from global to shared memory, on their way until waited for
//   cp_async_commit()                closes a group of copies
//   cp_async_wait<n>()               until all groups of this thread but the last n have arrived; then a barrier makes
//                                    them visible to others
//   mma_m16n8k16(d, a, b)            d += a*b for fp16 a (16, 16) and b (16, 8), float32 d (16, 8)
//   mma_m16n8k32(d, a, b)            d += a*b for int8 a (16, 32) and b (32, 8), int32 d (16, 8), wrapping
//   ldmatrix_x4(registers, row)      four 8x8 matrices of 16-bit elements; lanes 8i..8i+7 give the rows of matrix i
//
// Which lane holds what, with group = lane / 4, t = lane % 4, and P = 2 (fp16) or 4 (int8) elements a register:
//   a[r]: row group + 8 * (r % 2), columns P*t .. P*t + P-1, plus K/2 for r >= 2
//   b[r]: rows P*t .. P*t + P-1, plus K/2 for r = 1, column group
//   d[i]: row group + 8 * (i / 2), column 2*t + i % 2
//   ldmatrix: registers[i] = elements 2*t, 2*t + 1 of row group of matrix i
// (PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type", "... mma.m16n8k32", "ldmatrix").
#pragma once
#ifdef __CUDACC__
#include <cuda_fp16.h>

#include <cstdint>

__device__ __forceinline__ uint4 load16(const void* global) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(__cvta_generic_to_global(global)));
  return v;
}

__device__ __forceinline__ unsigned long long load_relaxed(const unsigned long long* global) {
  unsigned long long v;
  asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(v) : "l"(__cvta_generic_to_global(global)) : "memory");
  return v;
}

__device__ __forceinline__ void cp_async16(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
               :
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))), "l"(__cvta_generic_to_global(global))
               : "memory");
}

__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int PENDING>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void mma_m16n8k32(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void ldmatrix_x4(uint32_t (&registers)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared_row)))
               : "memory");
}
#endif
