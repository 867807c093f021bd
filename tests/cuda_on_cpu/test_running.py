"""Kernels that are right give the results of NumPy under every schedule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

SEEDS = (0, 1, 2, 3)

SUM_LAST_BLOCK = r"""
extern __shared__ __align__(16) unsigned char shared_bytes[];
extern "C" __global__ void __launch_bounds__(128)
sum_all(const float* __restrict__ x, double* partial, unsigned* counter, double* total, int n) {
  __shared__ double per_warp[4];
  __shared__ int last;
  double* all = reinterpret_cast<double*>(shared_bytes);
  double s = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) s += x[i];
#pragma unroll
  for (int o = 16; o; o >>= 1) s += __shfl_xor_sync(0xffffffffu, s, o);
  if (threadIdx.x % 32 == 0) per_warp[threadIdx.x / 32] = s;
  __syncthreads();
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = per_warp[0] + per_warp[1] + per_warp[2] + per_warp[3];
    __threadfence();
    last = atomicAdd(counter, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (!last) return;
  all[threadIdx.x] = threadIdx.x < gridDim.x ? partial[threadIdx.x] : 0;
  __syncthreads();
  if (threadIdx.x == 0) {
    double t = 0;
    for (int b = 0; b < gridDim.x; ++b) t += all[b];
    *total = t;
    *counter = 0;
  }
}
"""


@pytest.mark.parametrize("seed", SEEDS)
def test_the_last_block_to_finish_sees_every_other_blocks_sum(cuda_on_cpu: Any, seed: int) -> None:
    device = cuda_on_cpu.build(SUM_LAST_BLOCK)
    x = np.arange(5000, dtype=np.float32)
    partial, counter, total = np.full(9, np.nan), np.zeros(1, np.uint32), np.zeros(1)
    device.launch("sum_all", 9, 128, x, partial, counter, total, x.size, shared_bytes=1024, seed=seed)
    assert total[0] == 12_497_500
    assert counter[0] == 0
    assert partial.sum() == 12_497_500


SHUFFLES = r"""
extern "C" __global__ void shuffles(const long long* in, long long* out, short* narrow, unsigned* votes) {
  const unsigned lane = threadIdx.x, all = 0xffffffffu;
  const long long v = in[lane];
  out[lane] = __shfl_sync(all, v, 3, 8);
  out[32 + lane] = __shfl_xor_sync(all, v, 5);
  out[64 + lane] = __shfl_up_sync(all, v, 2u, 16);
  out[96 + lane] = __shfl_down_sync(all, v, 3u);
  narrow[lane] = __shfl_sync(all, static_cast<short>(v), 31 - lane);
  if (lane < 7) out[128 + lane] = __shfl_xor_sync(0x7fu, v, lane < 6 ? 1 : 0);
  votes[lane] = __ballot_sync(all, lane % 3 == 0);
  votes[32 + lane] = __match_any_sync(all, lane / 5);
  votes[64 + lane] = __reduce_max_sync(all, lane * 7 % 32);
  votes[96 + lane] = __reduce_add_sync(all, lane);
  votes[128 + lane] = __any_sync(all, lane == 9) * 2 + __all_sync(all, lane != 9);
  votes[160 + lane] = __syncthreads_count(lane < 11) * 2 + __syncthreads_or(lane == 40);
}
"""


@pytest.mark.parametrize("seed", SEEDS)
def test_lanes_read_the_lanes_that_shuffles_and_votes_name(cuda_on_cpu: Any, seed: int) -> None:
    device = cuda_on_cpu.build(SHUFFLES)
    v = np.arange(32, dtype=np.int64) * 1_000_000_007
    out, narrow, votes = np.zeros(160, np.int64), np.zeros(32, np.int16), np.zeros(192, np.uint32)
    device.launch("shuffles", 1, 32, v, out, narrow, votes, seed=seed)
    lane = np.arange(32)
    np.testing.assert_array_equal(out[:32], v[lane // 8 * 8 + 3])
    np.testing.assert_array_equal(out[32:64], v[lane ^ 5])
    np.testing.assert_array_equal(out[64:96], v[np.where(lane % 16 >= 2, lane - 2, lane)])
    np.testing.assert_array_equal(out[96:128], v[np.where(lane + 3 < 32, lane + 3, lane)])
    np.testing.assert_array_equal(out[128:135], v[[1, 0, 3, 2, 5, 4, 6]])
    np.testing.assert_array_equal(narrow, v[31 - lane].astype(np.int16))
    assert set(votes[:32]) == {sum(1 << i for i in range(0, 32, 3))}
    groups = [sum(1 << j for j in range(32) if j // 5 == i // 5) for i in range(32)]
    np.testing.assert_array_equal(votes[32:64], np.array(groups, np.uint32))
    assert set(votes[64:96]) == {31}
    assert set(votes[96:128]) == {496}
    assert set(votes[128:160]) == {2}
    assert set(votes[160:]) == {22}


MMA = r"""
#include "device_ops.cuh"
extern __shared__ __align__(16) unsigned char shared_bytes[];
extern "C" __global__ void mma_half(const __half* a, const __half* b, float* d) {  // a (16, 16), b (8, 16): k together
  const int lane = threadIdx.x, group = lane / 4, t = lane % 4;
  auto word = [&](const __half* m, int row, int k) { return *reinterpret_cast<const uint32_t*>(m + row * 16 + k); };
  uint32_t fa[4] = {word(a, group, 2 * t), word(a, group + 8, 2 * t), word(a, group, 2 * t + 8),
                    word(a, group + 8, 2 * t + 8)};
  uint32_t fb[2] = {word(b, group, 2 * t), word(b, group, 2 * t + 8)};
  float fd[4];
  for (int i = 0; i < 4; ++i) fd[i] = d[(group + i / 2 * 8) * 8 + 2 * t + i % 2];
  mma_m16n8k16(fd, fa, fb);
  for (int i = 0; i < 4; ++i) d[(group + i / 2 * 8) * 8 + 2 * t + i % 2] = fd[i];
}
extern "C" __global__ void mma_byte(const signed char* a, const signed char* b, int* d) {  // a (16, 32), b (8, 32)
  const int lane = threadIdx.x, group = lane / 4, t = lane % 4;
  auto word = [](const signed char* m, int row, int k) { return *reinterpret_cast<const uint32_t*>(m + 32 * row + k); };
  uint32_t fa[4] = {word(a, group, 4 * t), word(a, group + 8, 4 * t), word(a, group, 4 * t + 16),
                    word(a, group + 8, 4 * t + 16)};
  uint32_t fb[2] = {word(b, group, 4 * t), word(b, group, 4 * t + 16)};
  int fd[4];
  for (int i = 0; i < 4; ++i) fd[i] = d[(group + i / 2 * 8) * 8 + 2 * t + i % 2];
  mma_m16n8k32(fd, fa, fb);
  for (int i = 0; i < 4; ++i) d[(group + i / 2 * 8) * 8 + 2 * t + i % 2] = fd[i];
}
extern "C" __global__ void mma_through_shared(const __half* a, const __half* b, float* d) {
  const int lane = threadIdx.x, group = lane / 4, t = lane % 4;
  cp_async16(shared_bytes + 16 * lane, a + 8 * lane);
  if (lane < 16) cp_async16(shared_bytes + 512 + 16 * lane, b + 8 * lane);
  cp_async_commit();
  cp_async_wait<0>();
  __syncwarp();
  uint32_t fa[4], both[4];
  ldmatrix_x4(fa, shared_bytes + (lane % 16) * 32 + lane / 16 * 16);
  ldmatrix_x4(both, shared_bytes + 512 + (lane % 8) * 32 + lane / 8 % 2 * 16);
  uint32_t fb[2] = {both[0], both[1]};
  float fd[4] = {0, 0, 0, 0};
  mma_m16n8k16(fd, fa, fb);
  for (int i = 0; i < 4; ++i) d[(group + i / 2 * 8) * 8 + 2 * t + i % 2] = fd[i];
}
extern "C" __global__ void dots(const int* a, const int* b, int* d) {
  d[threadIdx.x] = __dp4a(a[threadIdx.x], b[threadIdx.x], 7);
}
"""


@pytest.mark.parametrize("kernel", ["mma_half", "mma_through_shared"])
def test_mma_of_halves_is_the_matrix_product(cuda_on_cpu: Any, kernel: str) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(np.float16) for shape in ((16, 16), (8, 16)))
    d = rng.standard_normal((16, 8)).astype(np.float32) if kernel == "mma_half" else np.zeros((16, 8), np.float32)
    expected = d + a.astype(np.float64) @ b.astype(np.float64).T
    cuda_on_cpu.build(MMA).launch(kernel, 1, 32, a, b, d, shared_bytes=768, seed=1)
    np.testing.assert_allclose(d, expected, rtol=0, atol=2e-6)


def test_mma_of_bytes_and_dp4a_are_the_integer_products(cuda_on_cpu: Any) -> None:
    device = cuda_on_cpu.build(MMA)
    rng = np.random.default_rng(1)
    a, b = (rng.integers(-128, 128, shape, np.int8) for shape in ((16, 32), (8, 32)))
    d = rng.integers(-1000, 1000, (16, 8), np.int32)
    expected = d + a.astype(np.int32) @ b.astype(np.int32).T
    device.launch("mma_byte", 1, 32, a, b, d, seed=1)
    np.testing.assert_array_equal(d, expected)
    dots = np.zeros(64, np.int32)
    device.launch("dots", 1, 64, a.view(np.int32).reshape(-1)[:64], b.view(np.int32).reshape(-1), dots)
    pairs = a.reshape(-1, 4)[:64].astype(np.int32) * b.reshape(-1, 4).astype(np.int32)
    np.testing.assert_array_equal(dots, pairs.sum(axis=1) + 7)


WRITTEN_BY_A_MACRO = r"""
#define ADD(TYPE) extern "C" __global__ void add_##TYPE(TYPE* x, TYPE y) { x[threadIdx.x] += y * FACTOR; }
ADD(int)
ADD(float)
"""


def test_kernels_that_a_macro_writes_are_found_and_defines_reach_them(cuda_on_cpu: Any) -> None:
    for factor in (2, 3):
        device = cuda_on_cpu.build(WRITTEN_BY_A_MACRO, {"FACTOR": factor})
        assert device.kernels == {"add_int": ("p4", "i4"), "add_float": ("p4", "f4")}
        whole, broken = np.arange(40, dtype=np.int32), np.ones(40, np.float32)
        device.launch("add_int", 1, 40, whole, -5)
        device.launch("add_float", 1, 40, broken, 0.25)
        np.testing.assert_array_equal(whole, np.arange(40) - 5 * factor)
        np.testing.assert_array_equal(broken, 1 + 0.25 * factor)


def test_a_seed_is_a_schedule(cuda_on_cpu: Any) -> None:
    source = """extern "C" __global__ void order(unsigned* counter, unsigned* place) {
      place[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(counter, 1u);
    }"""
    device = cuda_on_cpu.build(source)
    places = []
    for seed in (0, 0, 1, 1, 2):
        places.append(np.zeros(512, np.uint32))
        device.launch("order", 4, 128, np.zeros(1, np.uint32), places[-1], seed=seed)
        np.testing.assert_array_equal(np.sort(places[-1]), np.arange(512))
    np.testing.assert_array_equal(places[0], np.arange(512))
    np.testing.assert_array_equal(places[0], places[1])
    np.testing.assert_array_equal(places[2], places[3])
    assert not np.array_equal(places[2], places[4])
