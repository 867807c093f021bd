// Which gallery rows a launch reads, and the arithmetic between rows and queries.
#pragma once

constexpr int NO_ROW = -1;

// Sorted, disjoint, non-empty row ranges; position p counts through them, prefix[i] = rows before range i.
struct Ranges {
  const int2* ranges;
  const int* prefix;
  int n_ranges;

  __device__ __forceinline__ unsigned size() const { return __ldg(prefix + n_ranges); }

  __device__ __forceinline__ int row(unsigned position) const {
    int low = 0, high = n_ranges - 1;  // the last range that begins at or before position
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (static_cast<unsigned>(__ldg(prefix + middle)) <= position)
        low = middle;
      else
        high = middle - 1;
    }
    return __ldg(&ranges[low].x) + static_cast<int>(position) - __ldg(prefix + low);
  }
};

// Rows named one by one; NO_ROW is skipped.
struct Candidates {
  const int* rows;
  int n_rows;

  __device__ __forceinline__ unsigned size() const { return n_rows; }
  __device__ __forceinline__ int row(unsigned position) const { return __ldg(rows + position); }
};

__device__ __forceinline__ float2 to_floats(unsigned pair) {
  __half2 halves;
  memcpy(&halves, &pair, 4);
  return __half22float2(halves);
}

__device__ __forceinline__ float4 as_floats(const uint4& bits) {
  return make_float4(__uint_as_float(bits.x), __uint_as_float(bits.y), __uint_as_float(bits.z),
                     __uint_as_float(bits.w));
}

// fp16 rows. A dot product takes float32 queries and adds with fused multiply-adds, in one order whatever the row; mma
// takes q = hi + lo / 2048 as two fp16 operands with accumulators of their own, so that hi's sum is rounded no oftener.
struct Fp16 {
  struct Sum {
    float value;
  };
  using Accumulator = float;
  static constexpr int BANDS_BY_64 = 2, STAGES_BY_64 = 4;  // mma by 64 queries, see mma_topk
  struct Row {};
  struct Query {};

  __device__ __forceinline__ Fp16(const float2*, const float4*) {}

  __device__ __forceinline__ Row row(int) const { return {}; }
  __device__ __forceinline__ Query query(int) const { return {}; }
  __device__ static __forceinline__ Row shuffle(const Row&, int) { return {}; }

  // The queries of a dot kernel, in shared memory as [query][part][vector]: element 0-3 and 4-7 of a vector.
  __device__ static __forceinline__ int dot_source(int query, int part, int vector, int n_vectors) {
    return 2 * (query * n_vectors + vector) + part;
  }

  __device__ static __forceinline__ void add(Sum& sum, const uint4& row, const uint4& part_0, const uint4& part_1) {
    const float4 q0 = as_floats(part_0), q1 = as_floats(part_1);
    const float2 x = to_floats(row.x), y = to_floats(row.y), z = to_floats(row.z), w = to_floats(row.w);
    float s = __fmaf_rn(x.x, q0.x, sum.value);
    s = __fmaf_rn(x.y, q0.y, s);
    s = __fmaf_rn(y.x, q0.z, s);
    s = __fmaf_rn(y.y, q0.w, s);
    s = __fmaf_rn(z.x, q1.x, s);
    s = __fmaf_rn(z.y, q1.y, s);
    s = __fmaf_rn(w.x, q1.z, s);
    sum.value = __fmaf_rn(w.y, q1.w, s);
  }

  // Over the 8 lanes that share a row; each gets the sum. a + b == b + a, so all of them get the same bits.
  __device__ static __forceinline__ void reduce(Sum& sum) {
    for (int step = 4; step > 0; step /= 2)
      sum.value = __fadd_rn(sum.value, __shfl_xor_sync(ALL_LANES, sum.value, step));
  }

  __device__ static __forceinline__ float similarity(const Sum& sum, const Row&, const Query&) { return sum.value; }

  // A vector of a query as an mma kernel takes it: hi (level 0), or lo, q = hi + lo / 2048 to within 2^-22 |q|.
  __device__ static __forceinline__ uint4 mma_vector(const uint4* queries, int query, int level, int vector,
                                                     int n_vectors) {
    const uint4* source = queries + 2 * (query * n_vectors + vector);
    const float4 first = as_floats(__ldg(source)), second = as_floats(__ldg(source + 1));
    return {to_level(first.x, first.y, level), to_level(first.z, first.w, level), to_level(second.x, second.y, level),
            to_level(second.z, second.w, level)};
  }

  __device__ static __forceinline__ unsigned to_level(float x, float y, int level) {
    __half2 halves = __floats2half2_rn(x, y);
    if (level == 1) {
      const float2 hi = __half22float2(halves);
      halves = __floats2half2_rn((x - hi.x) * 2048, (y - hi.y) * 2048);
    }
    unsigned bits;
    memcpy(&bits, &halves, 4);
    return bits;
  }

  __device__ static __forceinline__ void multiply(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    mma_m16n8k16(d, a, b);
  }

  __device__ static __forceinline__ float similarity(float hi, float lo, const Row&, const Query&) {
    return __fmaf_rn(lo, 1.0f / 2048, hi);
  }
};

// int8 rows c with g ~ scale c, and queries q = s1 a + s2 b + residual. What counts as similarity is an upper bound of
// it: scale (s1 a.c + s2 b.c) + error norm + slack, with error >= ||g - scale c||: matchers/quantise.py proves it.
struct Int8 {
  struct Sum {
    int a, b;
  };
  using Accumulator = int;
  static constexpr int BANDS_BY_64 = 1, STAGES_BY_64 = 3;
  using Row = float2;    // scale, error
  using Query = float4;  // s1, s2, norm, slack

  const float2* row_bounds;
  const float4* query_bounds;

  __device__ __forceinline__ Int8(const float2* row_bounds, const float4* query_bounds)
      : row_bounds(row_bounds), query_bounds(query_bounds) {}

  __device__ __forceinline__ Row row(int row) const { return row < 0 ? make_float2(0, 0) : __ldg(row_bounds + row); }
  __device__ __forceinline__ Query query(int query) const { return __ldg(query_bounds + query); }

  __device__ static __forceinline__ Row shuffle(const Row& row, int lane) {
    return make_float2(__shfl_sync(ALL_LANES, row.x, lane), __shfl_sync(ALL_LANES, row.y, lane));
  }

  // [query][level][vector], in device memory and in shared memory.
  __device__ static __forceinline__ int dot_source(int query, int level, int vector, int n_vectors) {
    return (2 * query + level) * n_vectors + vector;
  }

  __device__ static __forceinline__ int dot(const uint4& x, const uint4& y, int sum) {
    sum = __dp4a(static_cast<int>(x.x), static_cast<int>(y.x), sum);
    sum = __dp4a(static_cast<int>(x.y), static_cast<int>(y.y), sum);
    sum = __dp4a(static_cast<int>(x.z), static_cast<int>(y.z), sum);
    return __dp4a(static_cast<int>(x.w), static_cast<int>(y.w), sum);
  }

  __device__ static __forceinline__ void add(Sum& sum, const uint4& row, const uint4& a, const uint4& b) {
    sum.a = dot(row, a, sum.a);
    sum.b = dot(row, b, sum.b);
  }

  __device__ static __forceinline__ void reduce(Sum& sum) {
    for (int step = 4; step > 0; step /= 2) {
      sum.a += __shfl_xor_sync(ALL_LANES, sum.a, step);
      sum.b += __shfl_xor_sync(ALL_LANES, sum.b, step);
    }
  }

  __device__ static __forceinline__ float similarity(const Sum& sum, const Row& row, const Query& query) {
    return similarity(sum.a, sum.b, row, query);
  }

  __device__ static __forceinline__ uint4 mma_vector(const uint4* queries, int query, int level, int vector,
                                                     int n_vectors) {
    return __ldg(queries + dot_source(query, level, vector, n_vectors));
  }

  __device__ static __forceinline__ void multiply(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    mma_m16n8k32(d, a, b);
  }

  __device__ static __forceinline__ float similarity(int a, int b, const Row& row, const Query& query) {
    const float product = __fmaf_rn(query.y, static_cast<float>(b), __fmul_rn(query.x, static_cast<float>(a)));
    return __fmaf_rn(row.x, product, __fmaf_rn(row.y, query.z, query.w));
  }
};
