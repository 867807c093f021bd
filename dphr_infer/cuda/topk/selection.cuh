// Keeps the best k rows of each query: in a block while it scans, then over all blocks.
//
// A similarity and its row travel as one 64-bit key (matchers/exact.py describes it): the float32 similarity mapped so
// that unsigned order is float order, above 0xFFFFFFFF - row. Keys are unique, so which rows are best depends neither on
// the order of arrival nor on the number of blocks. Key 0 is "none".
//
// A block buffers keys behind a floor: a key that k others are known to beat or equal. When a buffer is full, one warp
// sorts it, keeps k and raises the floor to the k-th. Floors are shared through device memory (atomicMax), so that soon
// hardly a row reaches a buffer. When its scan ends, a block hands over the keys that the common floor does not rule
// out; the block that finishes last ranks what all handed over, and leaves the workspace as it found it, zero.
#pragma once

using Key = unsigned long long;

constexpr int THREADS = 256, WARPS = THREADS / 32;
constexpr unsigned ALL_LANES = 0xFFFFFFFFu;

__device__ __forceinline__ Key make_key(float similarity, int row) {
  const unsigned bits = __float_as_uint(similarity + 0.0f);  // + 0 turns -0 into 0, its equal
  const unsigned ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<Key>(ordered) << 32 | (0xFFFFFFFFu - static_cast<unsigned>(row));
}

__device__ __forceinline__ int row_of(Key key) { return static_cast<int>(0xFFFFFFFFu - static_cast<unsigned>(key)); }

__device__ __forceinline__ float similarity_of(Key key) {
  const unsigned ordered = static_cast<unsigned>(key >> 32);
  return __uint_as_float(ordered & 0x80000000u ? ordered & 0x7FFFFFFFu : ~ordered);
}

// One warp sorts keys[0..n) in shared memory, best first, with zeros behind up to capacity, a power of two >= 64. The
// warp meets before it begins and after it ends.
__device__ inline void warp_sort(Key* keys, int n, int capacity) {
  const int lane = threadIdx.x % 32;
  for (int i = n + lane; i < capacity; i += 32) keys[i] = 0;
  __syncwarp();
  for (int size = 2; size <= capacity; size *= 2)
    for (int stride = size / 2; stride > 0; stride /= 2) {  // bitonic
      for (int pair = lane; pair < capacity / 2; pair += 32) {
        const int low = 2 * pair - (pair & (stride - 1)), high = low + stride;
        const Key first = keys[low], second = keys[high];
        if ((first < second) == ((low & size) == 0)) {
          keys[low] = second;
          keys[high] = first;
        }
      }
      __syncwarp();
    }
}

// Device memory that all blocks of a query tile share; pointers begin at the tile's first query.
struct Results {
  Key* floors;           // (queries), zero before and after a launch
  Key* survivors;        // (queries, gridDim.y * k)
  int* survivor_counts;  // (queries), zero before and after
  int* blocks_done;      // one, zero before and after
  int* rows;             // (queries, k)
  float* similarity;     // (queries, k)
};

template <int QUERIES>
struct Selection {
  Key *keys, *floor_keys;  // (QUERIES, capacity), (QUERIES) in shared memory
  float* floor_similarity;
  int *counts, *last;
  int k, capacity, n_queries;  // n_queries <= QUERIES are asked
  Results results;

  // shared: QUERIES * (8 * capacity + 16) + 16 bytes. A barrier has to follow before the first offer.
  __device__ Selection(unsigned char* shared, int k, int n_queries, const Results& results)
      : k(k), n_queries(n_queries), results(results) {
    capacity = 64;
    while (capacity < 2 * k) capacity *= 2;
    keys = reinterpret_cast<Key*>(shared);
    floor_keys = keys + QUERIES * capacity;
    floor_similarity = reinterpret_cast<float*>(floor_keys + QUERIES);
    counts = reinterpret_cast<int*>(floor_similarity + QUERIES);
    last = counts + QUERIES;
    if (threadIdx.x < QUERIES) {
      floor_keys[threadIdx.x] = 0;
      floor_similarity[threadIdx.x] = threadIdx.x < n_queries ? -INFINITY : INFINITY;
      counts[threadIdx.x] = 0;
    }
  }

  __device__ __forceinline__ void raise_floor(int query, Key key) {
    if (key > floor_keys[query]) {
      floor_keys[query] = key;
      floor_similarity[query] = similarity_of(key);
    }
  }

  // Takes over what other blocks found. A barrier has to follow before the next offer.
  __device__ __forceinline__ void refresh_floors() {
    if (threadIdx.x < n_queries) raise_floor(threadIdx.x, load_relaxed(results.floors + threadIdx.x));
  }

  // What most similarities are asked only: false if the row cannot be among the best k.
  __device__ __forceinline__ bool wanted(int query, float similarity) const {
    return similarity >= floor_similarity[query];
  }

  // False if the key is wanted but has found no room: offer it again after make_room.
  __device__ __forceinline__ bool offer(int query, float similarity, int row) {
    const Key key = make_key(similarity, row);
    if (key < floor_keys[query]) return true;
    const int slot = atomicAdd(counts + query, 1);
    if (slot >= capacity) return false;
    keys[query * capacity + slot] = key;
    return true;
  }

  // Called by the whole block after offers. True if some thread has to offer again, and now there is room: at least
  // half of each buffer, so that this ends.
  __device__ __forceinline__ bool make_room(bool pending) {
    if (!__syncthreads_or(pending)) return false;
    for (int query = threadIdx.x / 32; query < n_queries; query += WARPS)
      if (counts[query] > capacity / 2) keep_best(query);
    __syncthreads();
    return true;
  }

  // One warp: sorts a buffer, keeps k keys of it, tells everybody the floor.
  __device__ void keep_best(int query) {
    Key* own = keys + query * capacity;
    warp_sort(own, min(counts[query], capacity), capacity);
    if (threadIdx.x % 32 == 0) {
      counts[query] = k;
      raise_floor(query, own[k - 1]);
      atomicMax(results.floors + query, own[k - 1]);
    }
    __syncwarp();
  }

  // After the scan, by the whole block. True in the block that finished last: then all results are written.
  __device__ bool finish() {
    for (int query = threadIdx.x / 32; query < n_queries; query += WARPS) hand_over(query);
    __threadfence();  // survivors and their counts are visible to all before this block counts as done
    __syncthreads();
    if (threadIdx.x == 0) *last = atomicAdd(results.blocks_done, 1) == static_cast<int>(gridDim.y) - 1;
    __syncthreads();
    if (!*last) return false;
    __threadfence();
    for (int query = threadIdx.x / 32; query < n_queries; query += WARPS) merge(query);
    if (threadIdx.x == 0) *results.blocks_done = 0;
    __syncthreads();
    return true;
  }

  // One warp: appends the keys that may be among the best k of all blocks to the query's survivors.
  __device__ void hand_over(int query) {
    const int lane = threadIdx.x % 32;
    if (counts[query] > k) keep_best(query);
    const int n = counts[query];
    const Key floor = load_relaxed(results.floors + query);  // itself the k-th key of some block: not ruled out
    Key* survivors = results.survivors + static_cast<size_t>(query) * gridDim.y * k;
    for (int base = 0; base < n; base += 32) {
      const Key key = base + lane < n ? keys[query * capacity + base + lane] : 0;
      const bool kept = base + lane < n && key >= floor;
      const unsigned ballot = __ballot_sync(ALL_LANES, kept);
      int slot = 0;
      if (lane == 0 && ballot) slot = atomicAdd(results.survivor_counts + query, __popc(ballot));
      slot = __shfl_sync(ALL_LANES, slot, 0) + __popc(ballot & ((1u << lane) - 1));
      if (kept) survivors[slot] = key;
    }
  }

  // One warp of the last block: the best k of all survivors, best first; resets the query's workspace.
  __device__ void merge(int query) {
    const int lane = threadIdx.x % 32;
    Key* own = keys + query * capacity;
    const Key* survivors = results.survivors + static_cast<size_t>(query) * gridDim.y * k;
    const int n = __ldcg(results.survivor_counts + query);
    Key floor = __ldcg(results.floors + query);
    int held = 0;
    Key next = lane < n ? __ldcg(survivors + lane) : 0;
    for (int base = 0; base < n; base += 32) {
      const Key key = next;
      next = base + 32 + lane < n ? __ldcg(survivors + base + 32 + lane) : 0;
      if (held + 32 > capacity) {
        warp_sort(own, held, capacity);
        held = k;
        floor = own[k - 1];
      }
      const bool kept = key != 0 && key >= floor;
      const unsigned ballot = __ballot_sync(ALL_LANES, kept);
      if (kept) own[held + __popc(ballot & ((1u << lane) - 1))] = key;
      held += __popc(ballot);
    }
    warp_sort(own, held, capacity);
    for (int i = lane; i < k; i += 32) {
      results.rows[static_cast<size_t>(query) * k + i] = row_of(own[i]);
      results.similarity[static_cast<size_t>(query) * k + i] = similarity_of(own[i]);
    }
    if (lane == 0) {
      results.survivor_counts[query] = 0;
      results.floors[query] = 0;
    }
  }
};
