// Tensor-core instructions with the fragment layouts of the PTX ISA (8.x, section "Warp-level matrix instructions").
// The hardware leaves the order of the sum open and truncates in between; here products are added one by one with
// fused multiply-adds in float32, k rising.
#pragma once
#include "warp.h"

namespace cuda_on_cpu {

template <class Accumulator>
struct Fragments {
  Accumulator* d;
  const uint32_t *a, *b;
};

static inline float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static inline int multiply_add(int a, int b, int c) {
  return static_cast<int>(static_cast<unsigned>(a * b) + static_cast<unsigned>(c));  // wraps, as without .satfinite
}

static inline void unpack(uint32_t word, float* to) {
  to[0] = __half2float({static_cast<uint16_t>(word)});
  to[1] = __half2float({static_cast<uint16_t>(word >> 16)});
}
static inline void unpack(uint32_t word, int* to) {
  for (int i = 0; i < 4; ++i) to[i] = static_cast<int8_t>(word >> 8 * i);
}

// "Matrix Fragments for mma.m16n8k16 with floating point type" and "Matrix Fragments for mma.m16n8k32" (8-bit): with
// group = lane / 4, t = lane % 4, and P elements a register (2 or 4),
//   a[r]: row group + 8 * (r % 2), k = P*t + 0..P-1 + (K/2) * (r / 2)
//   b[r]: k = P*t + 0..P-1 + (K/2) * r, column group
//   d[i]: row group + 8 * (i / 2), column 2*t + i % 2
template <class Accumulator, int K, int P>
static void finish_mma(void** arguments, uint32_t) {
  Accumulator a[16][K], b[8][K], b_by_k[K][8], d[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    auto own = static_cast<Fragments<Accumulator>*>(arguments[lane]);
    const int group = lane / 4, t = lane % 4;
    for (int r = 0; r < 4; ++r) unpack(own->a[r], &a[group + 8 * (r % 2)][P * t + K / 2 * (r / 2)]);
    for (int r = 0; r < 2; ++r) unpack(own->b[r], &b[group][P * t + K / 2 * r]);
    for (int i = 0; i < 4; ++i) d[group + 8 * (i / 2)][2 * t + i % 2] = own->d[i];
  }
  for (int n = 0; n < 8; ++n)
    for (int k = 0; k < K; ++k) b_by_k[k][n] = b[n][k];
  for (int m = 0; m < 16; ++m)
    for (int k = 0; k < K; ++k)
      for (int n = 0; n < 8; ++n) d[m][n] = multiply_add(a[m][k], b_by_k[k][n], d[m][n]);
  for (int lane = 0; lane < 32; ++lane) {
    auto own = static_cast<Fragments<Accumulator>*>(arguments[lane]);
    for (int i = 0; i < 4; ++i) own->d[i] = d[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2];
  }
}

struct RowOfMatrix {
  const void* address;
  uint32_t* registers;
};

// "Warp-level matrix load instruction: ldmatrix", .m8n8.x4.b16: lanes 8i..8i+7 point to the rows of matrix i; lane l
// gets of every matrix the elements 2*(l % 4), +1 of row l / 4.
static inline void finish_ldmatrix(void** arguments, uint32_t) {
  for (int lane = 0; lane < 32; ++lane)
    for (int matrix = 0; matrix < 4; ++matrix) {
      auto row = static_cast<const char*>(static_cast<RowOfMatrix*>(arguments[8 * matrix + lane / 4])->address);
      memcpy(static_cast<RowOfMatrix*>(arguments[lane])->registers + matrix, row + 4 * (lane % 4), 4);
    }
}

}  // namespace cuda_on_cpu

static inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], CUDA_ON_CPU_LINE) {
  cuda_on_cpu::Fragments<float> own{d, a, b};
  cuda_on_cpu::meet(0xFFFFFFFFu, "mma_m16n8k16", line, true, &own, cuda_on_cpu::finish_mma<float, 16, 2>);
}

static inline void mma_m16n8k32(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], CUDA_ON_CPU_LINE) {
  cuda_on_cpu::Fragments<int> own{d, a, b};
  cuda_on_cpu::meet(0xFFFFFFFFu, "mma_m16n8k32", line, true, &own, cuda_on_cpu::finish_mma<int, 32, 4>);
}

static inline void ldmatrix_x4(uint32_t (&registers)[4], const void* shared_row, CUDA_ON_CPU_LINE) {
  using namespace cuda_on_cpu;
  if (!is_shared(shared_row, 16)) fail("ldmatrix_x4 (line %d) from an address outside shared memory", line);
  check_alignment(shared_row, 16, "ldmatrix_x4");
  RowOfMatrix own{shared_row, registers};
  meet(0xFFFFFFFFu, "ldmatrix_x4", line, true, &own, finish_ldmatrix);
}
