"""The CPU's halves are NumPy's, and nvcc takes device_ops.cuh for every target."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

KERNELS = Path(__file__).resolve().parents[2] / "dphr_infer" / "cuda"

HALVES = r"""
extern "C" __global__ void to_float(const unsigned short* in, float* out, int plain) {
  const unsigned short bits = in[blockIdx.x * blockDim.x + threadIdx.x];
  out[blockIdx.x * blockDim.x + threadIdx.x] = plain ? cuda_on_cpu::half_to_float_plain(bits) : __half2float({bits});
}
extern "C" __global__ void to_half(const float* in, unsigned short* out, int plain) {
  const float value = in[blockIdx.x * blockDim.x + threadIdx.x];
  out[blockIdx.x * blockDim.x + threadIdx.x] =
      plain ? cuda_on_cpu::float_to_half_plain(value) : __half_as_ushort(__float2half_rn(value));
}
extern "C" __global__ void fused(const __half* a, const __half* b, const __half* c, __half* out) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i] = __hfma(a[i], b[i], c[i]);
}
"""

EVERYTHING = r"""
#include "device_ops.cuh"
extern __shared__ __align__(16) unsigned char shared_bytes[];
extern "C" __global__ void everything(const uint4* in, unsigned long long* threshold, float* out, int* sums) {
  cp_async16(shared_bytes + 16 * threadIdx.x, in + threadIdx.x);
  cp_async_commit();
  const uint4 v = load16(in + 32 + threadIdx.x);
  cp_async_wait<0>();
  __syncwarp();
  uint32_t a[4], b[2] = {v.x, v.y};
  ldmatrix_x4(a, shared_bytes + 16 * threadIdx.x);
  float d[4] = {0, 0, 0, static_cast<float>(load_relaxed(threshold))};
  int s[4] = {0, 0, 0, 0};
  mma_m16n8k16(d, a, b);
  mma_m16n8k32(s, a, b);
  for (int i = 0; i < 4; ++i) out[4 * threadIdx.x + i] = d[i];
  for (int i = 0; i < 4; ++i) sums[4 * threadIdx.x + i] = s[i];
}
"""
INSTRUCTIONS = (
    "ld.global.nc.L1::no_allocate.v4.u32",
    "ld.relaxed.gpu.global.u64",
    "cp.async.cg.shared.global",
    "cp.async.wait_group",
    "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
    "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32",
    "ldmatrix.sync.aligned.m8n8.x4.shared.b16",
)


@pytest.mark.parametrize("plain", [0, 1])
def test_every_half_becomes_numpys_float_and_back(cuda_on_cpu: Any, plain: int) -> None:
    device = cuda_on_cpu.build(HALVES)
    bits = np.arange(65536, dtype=np.uint16)
    floats = np.zeros(65536, np.float32)
    device.launch("to_float", 256, 256, bits, floats, plain)
    np.testing.assert_array_equal(floats, bits.view(np.float16).astype(np.float32))
    back = np.zeros(65536, np.uint16)
    device.launch("to_half", 256, 256, floats, back, plain)
    numbers = np.isfinite(floats) | np.isinf(floats)
    np.testing.assert_array_equal(back[numbers], bits[numbers])
    assert np.isnan(back[~numbers].view(np.float16)).all()


@pytest.mark.parametrize("plain", [0, 1])
def test_floats_round_to_the_half_that_numpy_chooses(cuda_on_cpu: Any, plain: int) -> None:
    halves = np.arange(0x7BFF, dtype=np.uint16).view(np.float16).astype(np.float32)
    middle = (halves[:-1] + halves[1:]) / 2
    around = np.concatenate([middle, np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.float32(np.inf))])
    edges = np.array([65504, 65519.996, 65520, 65536, 1e30, np.inf, 2**-24, 2**-25, 2**-26, 1e-40], np.float32)
    floats = np.concatenate([around, edges])
    floats = np.concatenate([floats, -floats])
    floats = np.resize(floats, -(-floats.size // 256) * 256).astype(np.float32)
    out = np.zeros(floats.size, np.uint16)
    cuda_on_cpu.build(HALVES).launch("to_half", floats.size // 256, 256, floats, out, plain)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(out, floats.astype(np.float16).view(np.uint16))


def test_a_fused_half_product_is_rounded_once(cuda_on_cpu: Any) -> None:
    rng = np.random.default_rng(0)
    a, b, c = (rng.standard_normal(4096).astype(np.float16) for _ in range(3))
    # The product 2049 * 1 lies midway between two halves; only the tiny c says which one is nearer.
    a[:2], b[:2], c[:2] = 1 + 2.0**-10, 1 + 2.0**-10, [2.0**-24, -(2.0**-24)]
    out = np.zeros(4096, np.float16)
    cuda_on_cpu.build(HALVES).launch("fused", 16, 256, a, b, c, out)
    exact = a.astype(np.longdouble) * b.astype(np.longdouble) + c.astype(np.longdouble)
    np.testing.assert_array_equal(out, exact.astype(np.float16))


@pytest.mark.parametrize("target", ["sm_87", "sm_90", "sm_110", "sm_120"])
def test_nvcc_takes_device_ops_for_every_target(tmp_path: Path, target: str) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    (tmp_path / "all.cu").write_text(EVERYTHING, encoding="utf-8")
    command = [nvcc, "-std=c++17", f"-arch={target}", f"-I{KERNELS}", "-cubin", "--keep", f"--keep-dir={tmp_path}"]
    done = subprocess.run(
        [*command, "all.cu", "-o", "all.cubin"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    ptx = (tmp_path / "all.ptx").read_text(encoding="utf-8")
    assert [name for name in INSTRUCTIONS if name not in ptx] == []
