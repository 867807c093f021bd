// The two ways to scan: dot products, a few lanes a row, and tensor-core products, 16 rows by 8 queries at once. Both
// read each row once, straight from device memory to registers, and hold the tile's queries in shared memory.
#pragma once

// ---- dot: up to 8 queries. 8 lanes share a row (128 bytes a load), a warp takes 8 rows, two in each lane's hands. ---
constexpr int DOT_ROWS = 2, DOT_LANES = 8, DOT_WARP_ROWS = DOT_ROWS * 32 / DOT_LANES;

template <int QUERIES, class Math>
__device__ __forceinline__ void load_dot_queries(uint4* shared, const uint4* queries, int n_queries, int n_vectors) {
#pragma unroll 1
  for (int i = threadIdx.x; i < QUERIES * 2 * n_vectors; i += THREADS) {
    const int vector = i % n_vectors, part = i / n_vectors % 2, query = i / n_vectors / 2;
    shared[i] = query < n_queries ? __ldg(queries + Math::dot_source(query, part, vector, n_vectors)) : uint4{};
  }
}

template <int QUERIES, class Math, class Source>
__device__ __forceinline__ void dot_scan(const uint4* gallery, const Math& math, const Source& source, int n_vectors,
                                         const uint4* shared, Selection<QUERIES>& selection) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, part = lane % DOT_LANES;
  constexpr int UNROLL = QUERIES == 8 ? 2 : 4;  // loads of 16 bytes in flight a lane: UNROLL * DOT_ROWS
  const unsigned n_rows = source.size();
  // After the sums are shared, lane `part` of the 8 speaks for query `part`.
  const bool speaks = part < selection.n_queries;
  const typename Math::Query query = math.query(speaks ? part : 0);
  constexpr unsigned STEP = DOT_WARP_ROWS * WARPS;
  for (unsigned first = blockIdx.y * STEP; first < n_rows; first += gridDim.y * STEP) {
    const unsigned position = first + warp * DOT_WARP_ROWS + part;
    const int own_row = position < n_rows ? source.row(position) : NO_ROW;
    const typename Math::Row own_info = math.row(own_row);
    int rows[DOT_ROWS];
    for (int r = 0; r < DOT_ROWS; ++r) rows[r] = __shfl_sync(ALL_LANES, own_row, DOT_ROWS * (lane / DOT_LANES) + r);
    selection.refresh_floors();

    typename Math::Sum sums[DOT_ROWS][QUERIES] = {};
    for (int base = part; base < n_vectors; base += DOT_LANES * UNROLL) {
      uint4 data[UNROLL][DOT_ROWS];
#pragma unroll
      for (int u = 0; u < UNROLL; ++u)
#pragma unroll
        for (int r = 0; r < DOT_ROWS; ++r) {
          const int vector = base + DOT_LANES * u;
          data[u][r] = vector < n_vectors && rows[r] >= 0
                           ? load16(gallery + static_cast<size_t>(rows[r]) * n_vectors + vector)
                           : uint4{};
        }
#pragma unroll
      for (int u = 0; u < UNROLL; ++u) {
        const int vector = base + DOT_LANES * u;
        if (vector < n_vectors)
#pragma unroll
          for (int q = 0; q < QUERIES; ++q) {
            const uint4 part_0 = shared[2 * q * n_vectors + vector], part_1 = shared[(2 * q + 1) * n_vectors + vector];
#pragma unroll
            for (int r = 0; r < DOT_ROWS; ++r) Math::add(sums[r][q], data[u][r], part_0, part_1);
          }
      }
    }

    float similarity[DOT_ROWS];
#pragma unroll
    for (int r = 0; r < DOT_ROWS; ++r) {
      typename Math::Sum own = {};
#pragma unroll
      for (int q = 0; q < QUERIES; ++q) {
        Math::reduce(sums[r][q]);
        if (part == q) own = sums[r][q];
      }
      similarity[r] = Math::similarity(own, Math::shuffle(own_info, DOT_ROWS * (lane / DOT_LANES) + r), query);
    }
    __syncthreads();  // the refreshed floors
    unsigned pending = 0;
#pragma unroll
    for (int r = 0; r < DOT_ROWS; ++r)
      if (speaks && rows[r] >= 0 && selection.wanted(part, similarity[r])) pending |= 1u << r;
    do {
#pragma unroll
      for (int r = 0; r < DOT_ROWS; ++r)
        if ((pending >> r & 1) && selection.offer(part, similarity[r], rows[r])) pending &= ~(1u << r);
    } while (selection.make_room(pending != 0));
  }
}

// ---- mma: tiles of 8 * COLUMNS queries. A warp takes 16 * BANDS rows, 64 bytes of each at a time. ----------------
// Lane 4 g + t loads 16 bytes of row g and of row g + 8, at byte 16 t of the 64. The fragments want the lane's elements
// elsewhere in k, but k may be permuted as long as rows and queries agree: so registers x and y of a load are one mma's
// lower and upper half of k, z and w the next one's, and queries lie in shared memory the same way. No transposition,
// no shared memory for the gallery; a warp reads its queries as [chunk][level][column of 8][lane], 512 bytes in a row.
constexpr int CHUNK_VECTORS = 4;

template <int COLUMNS, class Math>
__device__ __forceinline__ void load_mma_queries(uint4* shared, const uint4* queries, int n_queries, int n_vectors) {
  const int n_chunks = (n_vectors + CHUNK_VECTORS - 1) / CHUNK_VECTORS;
#pragma unroll 1
  for (int i = threadIdx.x; i < n_chunks * 2 * COLUMNS * 32; i += THREADS) {
    const int lane = i % 32, column = i / 32 % COLUMNS, level = i / 32 / COLUMNS % 2, chunk = i / 32 / COLUMNS / 2;
    const int query = 8 * column + lane / 4, vector = CHUNK_VECTORS * chunk + lane % 4;
    const bool there = query < n_queries && vector < n_vectors;
    shared[i] = there ? Math::mma_vector(queries, query, level, vector, n_vectors) : uint4{};
  }
}

// The row of a step that this lane looks up, lane 16 m + 8 h + g for row g + 8 h of band m, and what the arithmetic has
// to know of it. Lane 4 g + t works on other rows: they come by shuffles, row_of_band and Math::shuffle.
template <int BANDS, class Math>
struct Step {
  int row;
  typename Math::Row info;

  __device__ __forceinline__ Step(const Math& math, const Ranges& source, unsigned n_rows, unsigned first) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const unsigned position = first + warp * 16 * BANDS + lane % (16 * BANDS);
    row = position < n_rows ? source.row(position) : NO_ROW;
    info = math.row(row);
  }

  // i = 2 m + h
  __device__ __forceinline__ int row_of_band(int i) const {
    return __shfl_sync(ALL_LANES, row, 8 * i + threadIdx.x % 32 / 4);
  }
  __device__ __forceinline__ typename Math::Row info_of_band(int i) const {
    return Math::shuffle(info, 8 * i + threadIdx.x % 32 / 4);
  }
};

// Lane 4 g + t holds, of band m and column n, rows g and g + 8 (h) by queries 2 t and 2 t + 1 (pair).
template <int BANDS, int COLUMNS, class Math>
__device__ __forceinline__ void mma_offer(const typename Math::Accumulator (&sums)[BANDS][COLUMNS][2][4],
                                          const Step<BANDS, Math>& step, const Math& math,
                                          Selection<8 * COLUMNS>& selection) {
  static_assert(BANDS * COLUMNS * 4 <= 64, "one bit of pending for each value of a lane");
  const int t = threadIdx.x % 4;
  int rows[2 * BANDS];
  typename Math::Row info[2 * BANDS];
#pragma unroll
  for (int i = 0; i < 2 * BANDS; ++i) {
    rows[i] = step.row_of_band(i);
    info[i] = step.info_of_band(i);
  }
  __syncthreads();  // the refreshed floors
  float similarity[COLUMNS][2][2 * BANDS];
  unsigned long long pending = 0;
#pragma unroll
  for (int n = 0; n < COLUMNS; ++n)
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      const int q = 8 * n + 2 * t + pair;
      const typename Math::Query query = math.query(q < selection.n_queries ? q : 0);
#pragma unroll
      for (int i = 0; i < 2 * BANDS; ++i) {
        const int m = i / 2, h = i % 2;
        const float value = Math::similarity(sums[m][n][0][2 * h + pair], sums[m][n][1][2 * h + pair], info[i], query);
        similarity[n][pair][i] = value;
        if (rows[i] >= 0 && selection.wanted(q, value)) pending |= 1ull << ((n * 2 + pair) * 2 * BANDS + i);
      }
    }
  do {
    if (pending)
#pragma unroll
      for (int e = 0; e < BANDS * COLUMNS * 4; ++e) {
        const int i = e % (2 * BANDS), pair = e / (2 * BANDS) % 2, n = e / (4 * BANDS);
        if ((pending >> e & 1) && selection.offer(8 * n + 2 * t + pair, similarity[n][pair][i], rows[i]))
          pending &= ~(1ull << e);
      }
  } while (selection.make_room(pending != 0));
}

// STAGES chunks are on their way at any time: a chunk's registers, once multiplied, wait for the chunk STAGES later,
// which towards the end of a step is one of the next step's rows. So memory is busy while candidates are offered, too.
template <int BANDS, int COLUMNS, int STAGES, class Math>
__device__ __forceinline__ void mma_scan(const uint4* gallery, const Math& math, const Ranges& source, int n_vectors,
                                         const uint4* shared, Selection<8 * COLUMNS>& selection) {
  constexpr unsigned STEP = 16 * BANDS * WARPS;
  const int lane = threadIdx.x % 32, t = lane % 4;
  const int n_chunks = (n_vectors + CHUNK_VECTORS - 1) / CHUNK_VECTORS;
  const int n_staged = (n_chunks + STAGES - 1) / STAGES * STAGES;
  const unsigned n_rows = source.size();
  uint4 data[STAGES][2 * BANDS];
  int rows[2 * BANDS];  // that loads read
  const auto turn_to = [&](const Step<BANDS, Math>& step) {
#pragma unroll
    for (int i = 0; i < 2 * BANDS; ++i) rows[i] = step.row_of_band(i);
  };
  const auto load = [&](uint4(&to)[2 * BANDS], int chunk) {
    const int vector = CHUNK_VECTORS * chunk + t;
#pragma unroll
    for (int i = 0; i < 2 * BANDS; ++i)
      to[i] = vector < n_vectors && rows[i] >= 0 ? load16(gallery + static_cast<size_t>(rows[i]) * n_vectors + vector)
                                                 : uint4{};
  };
  Step<BANDS, Math> step(math, source, n_rows, blockIdx.y * STEP);
  turn_to(step);
#pragma unroll
  for (int u = 0; u < STAGES; ++u) load(data[u], u);
  for (unsigned first = blockIdx.y * STEP; first < n_rows; first += gridDim.y * STEP) {
    const Step<BANDS, Math> next(math, source, n_rows, first + gridDim.y * STEP);
    selection.refresh_floors();
    typename Math::Accumulator sums[BANDS][COLUMNS][2][4] = {};
#pragma unroll 1
    for (int base = 0; base < n_staged; base += STAGES) {
      const bool more = base + STAGES < n_staged;
      if (!more) turn_to(next);
#pragma unroll
      for (int u = 0; u < STAGES; ++u) {
        if (base + u < n_chunks) {
          const uint4* chunk = shared + (base + u) * 2 * COLUMNS * 32 + lane;
#pragma unroll
          for (int n = 0; n < COLUMNS; ++n)
#pragma unroll
            for (int level = 0; level < 2; ++level) {
              const uint4 b = chunk[(level * COLUMNS + n) * 32];
              const unsigned b_first[2] = {b.x, b.y}, b_second[2] = {b.z, b.w};
#pragma unroll
              for (int m = 0; m < BANDS; ++m) {
                const uint4 &low = data[u][2 * m], &high = data[u][2 * m + 1];
                const unsigned a_first[4] = {low.x, high.x, low.y, high.y};
                const unsigned a_second[4] = {low.z, high.z, low.w, high.w};
                Math::multiply(sums[m][n][level], a_first, b_first);
                Math::multiply(sums[m][n][level], a_second, b_second);
              }
            }
        }
        load(data[u], more ? base + STAGES + u : u);
      }
    }
    mma_offer<BANDS, COLUMNS>(sums, step, math, selection);
    step = next;
  }
}
