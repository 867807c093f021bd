"""Kernels with one fault each: every fault becomes an exception with its place, or a wrong result under some seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_on_cpu_runner import CpuDevice, KernelError

FAULTS = r"""
#include "device_ops.cuh"
#define ALL 0xffffffffu
extern __shared__ __align__(16) unsigned char shared_bytes[];

extern "C" __global__ void divergent_barrier(int* out) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
  out[threadIdx.x] = 1;
}
extern "C" __global__ void early_return(int* out) {
  if (threadIdx.x == 40) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}
extern "C" __global__ void half_a_warp(int* out) {
  if (threadIdx.x < 16) __syncwarp();
  __syncthreads();
  out[threadIdx.x] = 1;
}
extern "C" __global__ void masks(unsigned* out) { out[threadIdx.x] = __ballot_sync(threadIdx.x ? ALL : ALL >> 1, 1); }
extern "C" __global__ void left_out(int* out) { out[threadIdx.x] = __shfl_sync(1u, 1, 0); }
extern "C" __global__ void source_left_out(int* out) {
  if (threadIdx.x < 4) out[threadIdx.x] = __shfl_sync(15u, 1, 5);
}
extern "C" __global__ void two_collectives(int* out) {
  if (threadIdx.x & 1) out[threadIdx.x] = __shfl_sync(ALL, 1, 0);
  else out[threadIdx.x] = __any_sync(ALL, 1);
}
extern "C" __global__ void lane_returns(int* out) {
  if (threadIdx.x == 7) return;
  out[threadIdx.x] = __shfl_xor_sync(ALL, 1, 1);
}
extern "C" __global__ void endless(int* out) { for (volatile int i = 0; i < 1;) out[0] = i; }
extern "C" __global__ void deep(int* out) {
  volatile int many[40000];
  for (int i = 39999; i >= 0; --i) many[i] = i;
  out[0] = many[5];
}
extern "C" __global__ void behind_dynamic(int* out) { shared_bytes[threadIdx.x + 1] = 1; out[0] = 1; }

extern "C" __global__ void read_at(const int* in, int* out, long long index) { out[0] = in[index]; }
extern "C" __global__ void write_at(int* out, long long index) { out[index] = 1; }
extern "C" __global__ void write_const(const int* in) { const_cast<int*>(in)[0] = 1; }
extern "C" __global__ void load_at(const unsigned char* in, uint4* out, long long byte) { out[0] = load16(in + byte); }
extern "C" __global__ void load_shared(uint4* out) { out[0] = load16(shared_bytes); }
extern "C" __global__ void add_at(int* out, long long index) { atomicAdd(out + index, 1); }

extern "C" __global__ void copies(const uint4* in, unsigned* out, int wait) {  // two groups; waits for both, one, none
  uint4* slots = reinterpret_cast<uint4*>(shared_bytes);
  cp_async16(slots + threadIdx.x, in + threadIdx.x);
  cp_async_commit();
  cp_async16(slots + 32 + threadIdx.x, in + 32 + threadIdx.x);
  cp_async_commit();
  if (wait == 2) cp_async_wait<0>();
  if (wait == 1) cp_async_wait<1>();
  __syncwarp();
  out[threadIdx.x] = slots[31 - threadIdx.x].x;
  out[32 + threadIdx.x] = slots[32 + threadIdx.x].x;
  if (wait == 1) cp_async_wait<0>();
}
template <bool BARRIER>
__device__ void reverse(const int* in, int* out) {
  __shared__ int all[128];
  for (int round = 0; round < 4; ++round) {
    all[threadIdx.x] = in[128 * round + threadIdx.x];
    __syncthreads();
    out[128 * round + threadIdx.x] = all[127 - threadIdx.x];
    if (BARRIER) __syncthreads();  // else a fast warp overwrites what a slow one has still to read
  }
}
extern "C" __global__ void reverse_right(const int* in, int* out) { reverse<true>(in, out); }
extern "C" __global__ void reverse_wrong(const int* in, int* out) { reverse<false>(in, out); }
extern "C" __global__ void no_syncwarp(int* out) {
  __shared__ int all[32];
  all[threadIdx.x] = threadIdx.x;
  out[threadIdx.x] = all[(threadIdx.x + 1) % 32];
}
extern "C" __global__ void count(unsigned long long* counter, int atomic) {
  if (atomic) { atomicAdd(counter, 1ull); return; }
  const unsigned long long seen = load_relaxed(counter);
  *counter = seen + 1;
}
extern "C" __global__ void fresh_shared(int* out) {
  __shared__ int word;
  out[2 * blockIdx.x] = word;
  out[2 * blockIdx.x + 1] = *reinterpret_cast<int*>(shared_bytes);
  word = *reinterpret_cast<int*>(shared_bytes) = 1;
}
extern "C" __global__ void scan_rows(const uint4* rows, const __half* query, float* out, int first, int last) {
  float sum = 0;
  for (int i = first + threadIdx.x; i < last; i += blockDim.x) sum += __uint_as_float(load16(rows + i).x);
  out[threadIdx.x] = sum + __half2float(__ldg(query + threadIdx.x % 3));
}
"""

OUT = 128


@pytest.fixture(scope="module")
def device(cuda_on_cpu: Any) -> CpuDevice:
    return cuda_on_cpu.build(FAULTS)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("divergent_barrier", "divergent barrier: waits at __syncthreads"),
        ("early_return", "return(ing|s while)"),
        ("half_a_warp", r"deadlock; block \(0, 0, 0\): "),
        ("masks", "lanes disagree on the mask: __ballot_sync|7fffffff, which leaves out|deadlock"),
        ("left_out", r"__shfl_sync \(line \d+\) with mask 00000001, which leaves out the calling lane"),
        ("source_left_out", "lane . reads lane 5, which the mask 0000000f leaves out"),
        ("two_collectives", r"divergent collective: calls __(shfl|any)_sync in line \d+ while lane"),
        ("lane_returns", "returned or never were|returns while lane"),
        ("deep", "local variables need more than 65536 bytes"),
        ("behind_dynamic", "wrote behind its 64 bytes of dynamic shared memory"),
    ],
)
def test_a_fault_among_threads_is_named_under_every_seed(
    device: CpuDevice, kernel: str, message: str, seed: int
) -> None:
    with pytest.raises(KernelError, match=message) as caught:
        device.launch(kernel, 1, 64, np.zeros(OUT, np.int32), shared_bytes=64, seed=seed)
    assert str(caught.value).startswith(kernel)
    assert f"seed {seed}: " in str(caught.value)


def test_a_deadlock_says_how_many_threads_wait_where(device: CpuDevice) -> None:
    with pytest.raises(KernelError) as caught:
        device.launch("half_a_warp", 1, 64, np.zeros(OUT, np.int32))
    assert "16 threads (first: 0) wait at __syncwarp in line 19" in str(caught.value)
    assert "48 threads (first: 16) wait at __syncthreads in line 20" in str(caught.value)


def test_an_endless_loop_is_given_up(device: CpuDevice) -> None:
    with pytest.raises(KernelError, match="ran past its time limit"):
        device.launch("endless", 1, 1, np.zeros(1, np.int32), time_limit_s=0.2)


def test_a_launch_after_a_failed_one_is_right(device: CpuDevice) -> None:
    values, out = np.arange(512, dtype=np.int32), np.zeros(512, np.int32)
    with pytest.raises(KernelError):
        device.launch("half_a_warp", 3, 64, out)
    with pytest.raises(KernelError):
        device.launch("read_at", 1, 1, values, out, 10_000)
    device.launch("reverse_right", 1, 128, values, out)
    np.testing.assert_array_equal(out.reshape(4, 128), values.reshape(4, 128)[:, ::-1])


@pytest.mark.parametrize(
    ("kernel", "args", "message"),
    [
        ("read_at", (np.zeros(8, np.int32), np.zeros(1, np.int32), 8), "byte 32 of argument 0, which has 32"),
        ("read_at", (np.zeros(8, np.int32), np.zeros(1, np.int32), -1020), "byte -4080 of argument 0, which has 32"),
        ("write_at", (np.zeros(8, np.int32), 8), "byte 32 of argument 0, which has 32"),
        ("write_at", (np.zeros(8, np.int32), -1), "around argument 0, which has 32 bytes"),
        ("write_at", (np.zeros(7, np.int32), 7), "around argument 0, which has 28 bytes"),
        ("write_at", (None, 0), "accesses .*, which belongs to no array"),
        ("write_const", (np.zeros(8, np.int32),), "writes to argument 0, a pointer to const"),
        (
            "load_at",
            (np.zeros(40, np.uint8), np.zeros(4, np.int32), 32),
            "load16 .*bytes 32 to 48 of argument 0, .* 40",
        ),
        ("load_at", (np.zeros(48, np.uint8), np.zeros(4, np.int32), 48), "load16 .*byte 48 of argument 0, .* 48"),
        (
            "load_at",
            (np.zeros(48, np.uint8), np.zeros(4, np.int32), 8),
            "load16 at an address that is no multiple of 16",
        ),
        ("load_shared", (np.zeros(4, np.int32),), "load16 at an address outside every array"),
        ("add_at", (np.zeros(8, np.int32), 8), "atomicAdd out of bounds: byte 32 of argument 0, which has 32"),
    ],
)
def test_an_access_out_of_bounds_is_named(device: CpuDevice, kernel: str, args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(KernelError, match=message):
        device.launch(kernel, 1, 1, *args, shared_bytes=64)


def test_a_copy_is_poison_until_it_was_waited_for(device: CpuDevice) -> None:
    values, poison = np.arange(256, dtype=np.uint32), 0xA5A5A5A5
    expected = np.concatenate([values[0:128:4][::-1], values[128:256:4]])
    out = np.zeros(64, np.uint32)
    report = device.launch("copies", 1, 32, values, out, 2, shared_bytes=1024)
    np.testing.assert_array_equal(out, expected)
    assert report.bytes_read == (1024, 0, 0)
    device.launch("copies", 1, 32, values, out, 1, shared_bytes=1024)
    np.testing.assert_array_equal(out[:32], expected[:32])
    np.testing.assert_array_equal(out[32:], poison)
    with pytest.raises(KernelError, match=r"returns with 2 cp.async copies that it never waited for"):
        device.launch("copies", 1, 32, values, out, 0, shared_bytes=1024)


def test_a_missing_barrier_gives_a_wrong_result_under_some_seed(device: CpuDevice) -> None:
    values = np.arange(512, dtype=np.int32)
    expected = values.reshape(4, 128)[:, ::-1].reshape(-1)
    wrong = {"reverse_right": 0, "reverse_wrong": 0}
    for kernel in wrong:
        for seed in range(8):
            out = np.zeros(512, np.int32)
            device.launch(kernel, 1, 128, values, out, seed=seed)
            wrong[kernel] += not np.array_equal(out, expected)
    assert wrong["reverse_right"] == 0
    assert wrong["reverse_wrong"] >= 4


def test_a_missing_syncwarp_shows_poison(device: CpuDevice) -> None:
    out = np.zeros(32, np.int32)
    device.launch("no_syncwarp", 1, 32, out)
    assert (
        np.count_nonzero(out == np.uint32(0xA5A5A5A5).astype(np.int32)) == 31
    )  # only the last lane reads a written word


def test_blocks_lose_each_others_updates_unless_they_are_atomic(device: CpuDevice) -> None:
    lost = 0
    for seed in range(1, 9):
        for atomic in (1, 0):
            counter = np.zeros(1, np.uint64)
            device.launch("count", 40, 32, counter, atomic, seed=seed)
            if atomic:
                assert counter[0] == 1280
            else:
                lost += counter[0] < 1280
    assert lost >= 6


@pytest.mark.parametrize("seed", [0, 3])
def test_every_block_finds_poison_in_its_shared_memory(device: CpuDevice, seed: int) -> None:
    out = np.zeros(20, np.uint32)
    device.launch("fresh_shared", 10, 1, out, shared_bytes=16, seed=seed)
    np.testing.assert_array_equal(out, 0xA5A5A5A5)


def test_bytes_read_are_those_counted_by_hand(device: CpuDevice) -> None:
    rows, query, out = np.zeros((100, 8), np.float16), np.ones(3, np.float16), np.zeros(32, np.float32)
    report = device.launch("scan_rows", 2, 32, rows, query, out, 10, 73, seed=1)
    # Two blocks read rows 10 to 72, 16 bytes each; 64 threads read one half each.
    assert report.bytes_read == (2 * 63 * 16, 64 * 2, 0, 0, 0)
    np.testing.assert_array_equal(out, 1)


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ((np.zeros(4, np.int32), np.zeros(4, np.int32)), "has 3 parameters, given 2"),
        ((np.zeros(4, np.int64), np.zeros(4, np.int32), 0), "points to 4 bytes an element, the array has int64"),
        ((np.zeros((4, 2), np.int32)[:, 0], np.zeros(4, np.int32), 0), "C-contiguous"),
        ((np.zeros(4, np.int32), np.zeros(4, np.int32), np.zeros(1)), "is a number, not an array"),
        ((3, np.zeros(4, np.int32), 0), "is a pointer"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(device: CpuDevice, args: tuple[Any, ...], error: str) -> None:
    with pytest.raises(TypeError, match=error):
        device.launch("read_at", 1, 1, *args)


def test_a_block_that_no_gpu_runs_is_refused(device: CpuDevice) -> None:
    for grid, block, shared_bytes in ((1, 1025, 0), (0, 32, 0), (1, 32, 232_449)):
        with pytest.raises(ValueError, match="no GPU runs"):
            device.launch("no_syncwarp", grid, block, np.zeros(32, np.int32), shared_bytes=shared_bytes)
    with pytest.raises(ValueError, match="does not fit int32"):
        device.launch("count", 1, 32, np.zeros(1, np.uint64), 2**31)


def test_a_source_that_does_not_compile_or_has_no_kernel_is_refused(cuda_on_cpu: Any) -> None:
    with pytest.raises(RuntimeError, match=r"refuses the source(.|\n)*nonsense"):
        cuda_on_cpu.build('extern "C" __global__ void a(int* x) { nonsense(x); }')
    with pytest.raises(RuntimeError, match="has no kernel"):
        cuda_on_cpu.build("__device__ int one() { return 1; }")
