// The two ways to scan: dot products, a few lanes a row, and tensor-core products, 16 rows by 8 queries at once. Both
// read each row once, straight from device memory to registers, and hold the tile's queries in shared memory.
#pragma once

// ---- dot: up to 8 queries. 8 lanes share a row (128 bytes a load), a warp takes 8 rows, two in each lane's hands. ----
constexpr int DOT_ROWS = 2, DOT_LANES = 8, DOT_WARP_ROWS = DOT_ROWS * 32 / DOT_LANES;
constexpr int DOT_UNROLL = 4;  // loads of 16 bytes in flight a lane: DOT_UNROLL * DOT_ROWS

template <int QUERIES, class Math>
__device__ __forceinline__ void load_dot_queries(uint4* shared, const uint4* queries, int n_queries, int n_vectors) {
  for (int i = threadIdx.x; i < QUERIES * 2 * n_vectors; i += THREADS) {
    const int vector = i % n_vectors, part = i / n_vectors % 2, query = i / n_vectors / 2;
    shared[i] = query < n_queries ? __ldg(queries + Math::dot_source(query, part, vector, n_vectors)) : uint4{};
  }
}

template <int QUERIES, class Math, class Source>
__device__ __forceinline__ void dot_scan(const uint4* gallery, const Math& math, const Source& source, int n_vectors,
                                         const uint4* shared, Selection<QUERIES>& selection) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, part = lane % DOT_LANES;
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
    for (int base = part; base < n_vectors; base += DOT_LANES * DOT_UNROLL) {
      uint4 data[DOT_UNROLL][DOT_ROWS];
#pragma unroll
      for (int u = 0; u < DOT_UNROLL; ++u)
#pragma unroll
        for (int r = 0; r < DOT_ROWS; ++r) {
          const int vector = base + DOT_LANES * u;
          data[u][r] = vector < n_vectors && rows[r] >= 0
                           ? load16(gallery + static_cast<size_t>(rows[r]) * n_vectors + vector)
                           : uint4{};
        }
#pragma unroll
      for (int u = 0; u < DOT_UNROLL; ++u) {
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
    unsigned pending = 0;
#pragma unroll
    for (int r = 0; r < DOT_ROWS; ++r) {
      typename Math::Sum own = {};
#pragma unroll
      for (int q = 0; q < QUERIES; ++q) {
        Math::reduce(sums[r][q]);
        if (part == q) own = sums[r][q];
      }
      similarity[r] = Math::similarity(own, Math::shuffle(own_info, DOT_ROWS * (lane / DOT_LANES) + r), query);
      if (speaks && rows[r] >= 0) pending |= 1u << r;
    }
    __syncthreads();  // the refreshed floors
    do {
#pragma unroll
      for (int r = 0; r < DOT_ROWS; ++r)
        if ((pending >> r & 1) && selection.offer(part, similarity[r], rows[r])) pending &= ~(1u << r);
    } while (selection.make_room(pending != 0));
  }
}

// ---- mma: tiles of 8 * COLUMNS queries. A warp takes 16 * BANDS rows, 64 bytes of each at a time. --------------------
// Lane 4 g + t loads 16 bytes of row g and of row g + 8, at byte 16 t of the 64. The fragments want the lane's elements
// elsewhere in k, but k may be permuted as long as rows and queries agree: so registers x and y of a load are one mma's
// lower and upper half of k, z and w the next one's, and queries lie in shared memory the same way. No transposition, no
// shared memory for the gallery; a warp reads its queries as [chunk][level][column of 8][lane], 512 bytes in a row.
constexpr int CHUNK_VECTORS = 4;

template <int COLUMNS>
__device__ __forceinline__ void load_mma_queries(uint4* shared, const uint4* queries, int n_queries, int n_vectors) {
  const int n_chunks = (n_vectors + CHUNK_VECTORS - 1) / CHUNK_VECTORS;
  for (int i = threadIdx.x; i < n_chunks * 2 * COLUMNS * 32; i += THREADS) {
    const int lane = i % 32, column = i / 32 % COLUMNS, level = i / 32 / COLUMNS % 2, chunk = i / 32 / COLUMNS / 2;
    const int query = 8 * column + lane / 4, vector = CHUNK_VECTORS * chunk + lane % 4;
    const bool there = query < n_queries && vector < n_vectors;
    shared[i] = there ? __ldg(queries + (2 * query + level) * n_vectors + vector) : uint4{};
  }
}

// Lane 4 g + t holds, of band m and column n, rows g and g + 8 (i / 2) by queries 2 t and 2 t + 1 (i % 2).
template <int BANDS, int COLUMNS, class Math>
__device__ __forceinline__ void mma_offer(const typename Math::Accumulator (&sums)[BANDS][COLUMNS][2][4],
                                          const int (&rows)[BANDS][2], const typename Math::Row& own_info,
                                          const Math& math, Selection<8 * COLUMNS>& selection) {
  static_assert(BANDS * COLUMNS * 4 <= 32, "one bit of pending for each value of a lane");
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  typename Math::Row info[BANDS][2];
#pragma unroll
  for (int i = 0; i < 2 * BANDS; ++i) info[i / 2][i % 2] = Math::shuffle(own_info, 16 * (i / 2) + 8 * (i % 2) + g);
  float similarity[BANDS * COLUMNS * 4];
  unsigned pending = 0;
#pragma unroll
  for (int n = 0; n < COLUMNS; ++n)
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      const int q = 8 * n + 2 * t + pair;
      const typename Math::Query query = math.query(q < selection.n_queries ? q : 0);
#pragma unroll
      for (int i = 0; i < 2 * BANDS; ++i) {
        const int m = i / 2, h = i % 2, e = (m * COLUMNS + n) * 4 + 2 * h + pair;
        similarity[e] = Math::similarity(sums[m][n][0][2 * h + pair], sums[m][n][1][2 * h + pair], info[m][h], query);
        if (rows[m][h] >= 0 && q < selection.n_queries) pending |= 1u << e;
      }
    }
  __syncthreads();  // the refreshed floors
  do {
#pragma unroll
    for (int e = 0; e < BANDS * COLUMNS * 4; ++e) {
      const int m = e / 4 / COLUMNS, n = e / 4 % COLUMNS, i = e % 4;
      if ((pending >> e & 1) && selection.offer(8 * n + 2 * t + i % 2, similarity[e], rows[m][i / 2]))
        pending &= ~(1u << e);
    }
  } while (selection.make_room(pending != 0));
}

template <int BANDS, int COLUMNS, class Math>
__device__ __forceinline__ void mma_scan(const uint4* gallery, const Math& math, const Ranges& source, int n_vectors,
                                         const uint4* shared, Selection<8 * COLUMNS>& selection) {
  constexpr int WARP_ROWS = 16 * BANDS, UNROLL = 4 / BANDS;
  constexpr unsigned STEP = WARP_ROWS * WARPS;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const unsigned n_rows = source.size();
  for (unsigned first = blockIdx.y * STEP; first < n_rows; first += gridDim.y * STEP) {
    const unsigned position = first + warp * WARP_ROWS + lane % WARP_ROWS;
    const int own_row = position < n_rows ? source.row(position) : NO_ROW;
    const typename Math::Row own_info = math.row(own_row);
    int rows[BANDS][2];
    for (int m = 0; m < BANDS; ++m)
      for (int h = 0; h < 2; ++h) rows[m][h] = __shfl_sync(ALL_LANES, own_row, 16 * m + 8 * h + g);
    selection.refresh_floors();

    typename Math::Accumulator sums[BANDS][COLUMNS][2][4] = {};
    for (int base = 0; base < n_vectors; base += CHUNK_VECTORS * UNROLL) {
      uint4 data[UNROLL][BANDS][2];
#pragma unroll
      for (int u = 0; u < UNROLL; ++u)
#pragma unroll
        for (int i = 0; i < 2 * BANDS; ++i) {
          const int vector = base + CHUNK_VECTORS * u + t, row = rows[i / 2][i % 2];
          data[u][i / 2][i % 2] = vector < n_vectors && row >= 0
                                      ? load16(gallery + static_cast<size_t>(row) * n_vectors + vector)
                                      : uint4{};
        }
#pragma unroll
      for (int u = 0; u < UNROLL; ++u) {
        if (base + CHUNK_VECTORS * u >= n_vectors) break;
        const uint4* chunk = shared + (base / CHUNK_VECTORS + u) * 2 * COLUMNS * 32 + lane;
#pragma unroll
        for (int n = 0; n < COLUMNS; ++n)
#pragma unroll
          for (int level = 0; level < 2; ++level) {
            const uint4 b = chunk[(level * COLUMNS + n) * 32];
            const unsigned b_first[2] = {b.x, b.y}, b_second[2] = {b.z, b.w};
#pragma unroll
            for (int m = 0; m < BANDS; ++m) {
              const uint4 &low = data[u][m][0], &high = data[u][m][1];
              const unsigned a_first[4] = {low.x, high.x, low.y, high.y}, a_second[4] = {low.z, high.z, low.w, high.w};
              Math::multiply(sums[m][n][level], a_first, b_first);
              Math::multiply(sums[m][n][level], a_second, b_second);
            }
          }
      }
    }
    mma_offer<BANDS, COLUMNS>(sums, rows, own_info, math, selection);
  }
}
