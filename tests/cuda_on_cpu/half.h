// __half and __half2 in the names of cuda_fp16.h, rounded to nearest even.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__F16C__)
#include <immintrin.h>
#endif

struct __half {
  uint16_t bits;
};
struct alignas(4) __half2 {
  __half x, y;
};
using half = __half;
using half2 = __half2;

static inline uint32_t __float_as_uint(float value) { uint32_t r; memcpy(&r, &value, 4); return r; }
static inline float __uint_as_float(uint32_t value) { float r; memcpy(&r, &value, 4); return r; }
static inline int __float_as_int(float value) { int r; memcpy(&r, &value, 4); return r; }
static inline float __int_as_float(int value) { float r; memcpy(&r, &value, 4); return r; }

namespace cuda_on_cpu {

static inline float half_to_float_plain(uint16_t bits) {
  const uint32_t sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 31, mantissa = bits & 1023;
  if (exponent == 0) return std::copysign(std::ldexp(static_cast<float>(mantissa), -24), __uint_as_float(sign | 1));
  return __uint_as_float(sign | (exponent == 31 ? 0x7F800000u : (exponent + 112) << 23) | mantissa << 13);
}

static inline uint16_t float_to_half_plain(float value) {
  const uint32_t word = __float_as_uint(value), sign = word >> 16 & 0x8000u, size = word & 0x7FFFFFFFu;
  if (size > 0x7F800000u) return static_cast<uint16_t>(sign | 0x7E00u | (size >> 13 & 0x3FFu));
  if (size >= 0x477FF000u) return static_cast<uint16_t>(sign | 0x7C00u);  // 65520 and above
  if (size < 0x38800000u)  // below 2^-14: subnormal, in units of 2^-24
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::nearbyint(std::ldexp(__uint_as_float(size), 24))));
  return static_cast<uint16_t>(sign | ((size - 0x38000000u + 0xFFFu + (size >> 13 & 1)) >> 13));
}

// The exact a*b+c to one half: through a float rounded to odd, so that the second rounding is the only one.
static inline float fma_to_odd(float a, float b, float c) {
  const double exact_product = static_cast<double>(a) * b, sum = exact_product + c;
  const double lost = (sum - exact_product) - c;  // 2^-53 relative, kept only as a sign of inexactness
  float result = static_cast<float>(sum);
  if (static_cast<double>(result) == sum && lost == 0) return result;
  if (std::fabs(static_cast<double>(result)) > std::fabs(sum)) result = std::nextafter(result, 0.0f);
  return __uint_as_float(__float_as_uint(result) | 1u);
}

}  // namespace cuda_on_cpu

#if defined(__F16C__)
static inline float __half2float(__half h) { return _cvtsh_ss(h.bits); }
static inline __half __float2half_rn(float f) { return {static_cast<uint16_t>(_cvtss_sh(f, 0))}; }
#else
static inline float __half2float(__half h) { return cuda_on_cpu::half_to_float_plain(h.bits); }
static inline __half __float2half_rn(float f) { return {cuda_on_cpu::float_to_half_plain(f)}; }
#endif
static inline __half __float2half(float f) { return __float2half_rn(f); }
static inline uint16_t __half_as_ushort(__half h) { return h.bits; }
static inline __half __ushort_as_half(uint16_t bits) { return {bits}; }
static inline float2 __half22float2(__half2 h) { return {__half2float(h.x), __half2float(h.y)}; }
static inline __half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }
static inline __half2 __float22half2_rn(float2 v) { return __floats2half2_rn(v.x, v.y); }
static inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
static inline __half2 __half2half2(__half h) { return {h, h}; }
static inline __half __low2half(__half2 h) { return h.x; }
static inline __half __high2half(__half2 h) { return h.y; }
static inline float __low2float(__half2 h) { return __half2float(h.x); }
static inline float __high2float(__half2 h) { return __half2float(h.y); }
// A float holds twice the bits of a half and two more: rounding a float sum or product again changes nothing.
static inline __half __hadd(__half a, __half b) { return __float2half_rn(__half2float(a) + __half2float(b)); }
static inline __half __hsub(__half a, __half b) { return __float2half_rn(__half2float(a) - __half2float(b)); }
static inline __half __hmul(__half a, __half b) { return __float2half_rn(__half2float(a) * __half2float(b)); }
static inline __half __hfma(__half a, __half b, __half c) {
  return __float2half_rn(cuda_on_cpu::fma_to_odd(__half2float(a), __half2float(b), __half2float(c)));
}
static inline __half2 __hadd2(__half2 a, __half2 b) { return {__hadd(a.x, b.x), __hadd(a.y, b.y)}; }
static inline __half2 __hsub2(__half2 a, __half2 b) { return {__hsub(a.x, b.x), __hsub(a.y, b.y)}; }
static inline __half2 __hmul2(__half2 a, __half2 b) { return {__hmul(a.x, b.x), __hmul(a.y, b.y)}; }
static inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) {
  return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};
}
