// Exact top k by inner product: one launch a batch of queries, each allowed gallery row read once a query tile.
//
// Scans: topk_{dot,mma}_{f16,i8}_q{tile}. Each finds for every query the k rows of highest similarity, best first,
// equal similarities by the lower row, bit for bit the same on every run.
//   gallery          fp16 or int8 (rows of the gallery, n_vectors * 16 bytes): rows padded with zeros; finite
//   row_bounds       float32 (rows, 2): scale_i, error_i >= ||g_i - scale_i c_i||; int8 only
//   queries          fp16: float32 (n_queries, D padded); int8: int8 (n_queries, 2, D padded), q ~ s1 a + s2 b; finite
//   query_bounds     float32 (n_queries, 4): s1, s2, norm, slack; int8 only
//   ranges           int32 (n_ranges, 2): [start, stop) of the rows allowed, sorted, disjoint, none empty
//   range_prefix     int32 (n_ranges + 1): rows in the ranges before each; the last one is the number of allowed rows
//   n_ranges >= 1, n_vectors, n_queries, 1 <= k <= min(1024, allowed rows): int32
//   floors           uint64 (n_queries), survivor_counts int32 (n_queries), blocks_done int32 (query tiles): all zero
//                    before the first launch; every launch leaves them zero
//   survivors        uint64 (n_queries, row blocks, k), of any content
//   rows             int32 (n_queries, k), out; -1 where similarities were not numbers, which finite input excludes
//   similarity       float32 (n_queries, k), out. fp16: the inner product with the fp16 row, to float32 rounding. int8:
//                    an upper bound of it, scale_i (s1 a.c_i + s2 b.c_i) + error_i norm + slack
//
// topk_rerank_f16: ranks by fp16 rows what an int8 scan kept.
//   gallery, n_vectors, n_queries, k, floors, survivors, survivor_counts, blocks_done, rows, similarity: as above
//   queries          float32 (n_queries, D padded)
//   candidates       int32 (n_queries, n_candidates), best bound first; -1 is skipped
//   candidate_bounds float32 (n_queries, n_candidates), their upper bounds
//   proven           int32 (n_queries), out: 1 if the k-th similarity exceeds the lowest bound kept, so that no row
//                    that the scan dropped can be among the best k; else scan again for more candidates
//
// Launch: grid (query tiles, row blocks), 256 threads, dynamic shared memory: plan.py plans it (plan_topk, plan_rerank)
// and names the order of the arguments. No host work in between, nothing is allocated: it can be captured in a graph.
// Reference: dphr_infer/matchers: exact.py (match_by_sorting); of the int8 bounds, quantise.py.
// Launcher: dphr_infer/cuda/topk/launch.py.
// Proof on the CPU: tests/dphr_infer/cuda/topk/.
#include "device_ops.cuh"
#include "selection.cuh"
#include "rows.cuh"
#include "scan.cuh"

extern __shared__ __align__(16) unsigned char shared_bytes[];

// What a tile's block works on: the pointers moved to the tile's first query.
__device__ __forceinline__ Results tile_results(int first_query, int k, Key* floors, Key* survivors,
                                                int* survivor_counts, int* blocks_done, int* rows, float* similarity) {
  const size_t first = static_cast<size_t>(first_query) * k;
  return {floors + first_query, survivors + first * gridDim.y, survivor_counts + first_query, blocks_done + blockIdx.x,
          rows + first,         similarity + first};
}

template <int QUERIES, class Math, class Source>
__device__ __forceinline__ bool dot_topk(const uint4* gallery, const Math& math, const Source& source,
                                         const uint4* queries, int n_vectors, int n_queries, int k,
                                         const Results& results) {
  uint4* shared = reinterpret_cast<uint4*>(shared_bytes);
  Selection<QUERIES> selection(shared_bytes + QUERIES * 2 * n_vectors * 16, k, n_queries, results);
  load_dot_queries<QUERIES, Math>(shared, queries, n_queries, n_vectors);
  __syncthreads();
  dot_scan(gallery, math, source, n_vectors, shared, selection);
  return selection.finish();
}

template <int COLUMNS, class Math>
__device__ __forceinline__ void mma_topk(const uint4* gallery, const Math& math, const Ranges& source,
                                         const uint4* queries, int n_vectors, int n_queries, int k,
                                         const Results& results) {
  // As many rows a warp, and as many loads on their way, as leaves no register to be spilled on any target.
  constexpr int QUERIES = 8 * COLUMNS, BANDS = COLUMNS == 8 ? Math::BANDS_BY_64 : COLUMNS == 1 ? 1 : 2;
  constexpr int STAGES = COLUMNS == 8 ? Math::STAGES_BY_64 : COLUMNS == 2 ? 2 : 4;
  const int n_chunks = (n_vectors + CHUNK_VECTORS - 1) / CHUNK_VECTORS;
  uint4* shared = reinterpret_cast<uint4*>(shared_bytes);
  Selection<QUERIES> selection(shared_bytes + QUERIES * 2 * n_chunks * CHUNK_VECTORS * 16, k, n_queries, results);
  load_mma_queries<COLUMNS, Math>(shared, queries, n_queries, n_vectors);
  __syncthreads();
  mma_scan<BANDS, COLUMNS, STAGES>(gallery, math, source, n_vectors, shared, selection);
  selection.finish();
}

// Every layout of queries takes two 16-byte vectors for each one of a row.
#define SCAN_KERNEL(NAME, BLOCKS_AN_SM, TOPK, MATH, TILE)                                                              \
  extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_AN_SM)                                                  \
      NAME(const uint4* gallery, const float2* row_bounds, const uint4* queries, const float4* query_bounds,           \
           const int2* ranges, const int* range_prefix, int n_ranges, int n_vectors, int n_queries, int k,             \
           Key* floors, Key* survivors, int* survivor_counts, int* blocks_done, int* rows, float* similarity) {        \
    const int first = blockIdx.x * TILE;                                                                               \
    TOPK(gallery, MATH(row_bounds, query_bounds + first), Ranges{ranges, range_prefix, n_ranges},                      \
         queries + static_cast<size_t>(first) * 2 * n_vectors, n_vectors, min(n_queries - first, TILE), k,             \
         tile_results(first, k, floors, survivors, survivor_counts, blocks_done, rows, similarity));                   \
  }

SCAN_KERNEL(topk_dot_f16_q1, 2, dot_topk<1>, Fp16, 1)
SCAN_KERNEL(topk_dot_f16_q2, 2, dot_topk<2>, Fp16, 2)
SCAN_KERNEL(topk_dot_f16_q4, 2, dot_topk<4>, Fp16, 4)
SCAN_KERNEL(topk_dot_f16_q8, 2, dot_topk<8>, Fp16, 8)
SCAN_KERNEL(topk_dot_i8_q1, 2, dot_topk<1>, Int8, 1)
SCAN_KERNEL(topk_dot_i8_q2, 2, dot_topk<2>, Int8, 2)
SCAN_KERNEL(topk_dot_i8_q4, 2, dot_topk<4>, Int8, 4)
SCAN_KERNEL(topk_mma_f16_q8, 2, mma_topk<1>, Fp16, 8)
SCAN_KERNEL(topk_mma_f16_q16, 2, mma_topk<2>, Fp16, 16)
SCAN_KERNEL(topk_mma_f16_q32, 1, mma_topk<4>, Fp16, 32)
SCAN_KERNEL(topk_mma_f16_q64, 1, mma_topk<8>, Fp16, 64)
SCAN_KERNEL(topk_mma_i8_q8, 2, mma_topk<1>, Int8, 8)
SCAN_KERNEL(topk_mma_i8_q16, 2, mma_topk<2>, Int8, 16)
SCAN_KERNEL(topk_mma_i8_q32, 1, mma_topk<4>, Int8, 32)
SCAN_KERNEL(topk_mma_i8_q64, 1, mma_topk<8>, Int8, 64)

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    topk_rerank_f16(const uint4* gallery, const uint4* queries, const int* candidates, const float* candidate_bounds,
                    int n_candidates, int n_vectors, int n_queries, int k, Key* floors, Key* survivors,
                    int* survivor_counts, int* blocks_done, int* rows, float* similarity, int* proven) {
  const int query = blockIdx.x;
  const size_t first = static_cast<size_t>(query) * n_candidates;
  const Results results = tile_results(query, k, floors, survivors, survivor_counts, blocks_done, rows, similarity);
  const bool finished = dot_topk<1>(gallery, Fp16(nullptr, nullptr), Candidates{candidates + first, n_candidates},
                                    queries + static_cast<size_t>(query) * 2 * n_vectors, n_vectors, 1, k, results);
  if (finished && threadIdx.x == 0)
    proven[query] = results.similarity[k - 1] > candidate_bounds[first + n_candidates - 1];
}
