// Pillow's antialiased resize of a tile, in its integers and its order of passes.
#pragma once
#include "pixels.cuh"

__device__ __forceinline__ unsigned weighted(const unsigned* pixels, int step, const int* weights, int n) {
  int sums[3] = {1 << (PRECISION_BITS - 1), 1 << (PRECISION_BITS - 1), 1 << (PRECISION_BITS - 1)};
  for (int i = 0; i < n; ++i, pixels += step) {
    const int weight = __ldg(weights + i);
    sums[0] += weight * red(*pixels), sums[1] += weight * green(*pixels), sums[2] += weight * blue(*pixels);
  }
  return pack(clip8(sums[0] >> PRECISION_BITS), clip8(sums[1] >> PRECISION_BITS), clip8(sums[2] >> PRECISION_BITS));
}

// One direction of a tile: windows of its output pixels.
struct Axis {
  const int *firsts, *counts, *weights;
  int taps, n, start, length;  // output pixels; first pixel and length of the window that they share

  __device__ Axis(const int* lists, const int* all_weights, int taps, int n_all, int tile, int at)
      : firsts(lists + at), counts(lists + n_all + at), weights(all_weights + static_cast<size_t>(at) * taps),
        taps(taps), n(min(tile, n_all - at)), start(__ldg(firsts)), length(stop(n - 1) - start) {}
  __device__ int first(int i) const { return __ldg(firsts + i); }
  __device__ int count(int i) const { return __ldg(counts + i); }
  __device__ int stop(int i) const { return first(i) + count(i); }
  __device__ const int* row(int i) const { return weights + static_cast<size_t>(i) * taps; }
};

// Resizes a tile's window, which comes PASS_ROWS rows at a time. What the first pass makes is kept in shared memory:
// columns first, pixels (window rows, tile_w + 1); rows first, sums (3, tile rows, window columns).
class Passes {
 public:
  const Axis x, y;
  unsigned* const words;  // a pixel each, PASS_ROWS rows
  const int pitch;        // odd, so that a warp's rows lie in different banks

  __device__ Passes(const int* table, const Sizes& s, unsigned* words, unsigned* kept)
      : x(table + HEADER_INTS, table + HEADER_INTS + 2 * (s.out_width + s.out_height), s.x_taps, s.out_width, s.tile_w,
          blockIdx.x * s.tile_w),
        y(table + HEADER_INTS + 2 * s.out_width,
          table + HEADER_INTS + 2 * (s.out_width + s.out_height) + static_cast<size_t>(s.out_width) * s.x_taps,
          s.y_taps, s.out_height, s.tile_h, blockIdx.y * s.tile_h),
        words(words), pitch(s.window_w | 1), kept_(kept), kept_pitch_(s.tile_w + 1),
        rows_first_(__ldg(table + ROWS_FIRST)) {
    if (rows_first_)
      for (int i = threadIdx.x; i < y.n * x.length; i += THREADS)
        for (int channel = 0; channel < 3; ++channel) sum(channel, i) = 1 << (PRECISION_BITS - 1);
  }

  // Rows [at, at + n) of the window lie in `words`, for all threads to see. A barrier has to follow.
  __device__ void take(int at, int n) {
    if (rows_first_) return add_rows(at, n);
    for (int i = threadIdx.x; i < PASS_ROWS * x.n; i += THREADS) {
      const int row = i % PASS_ROWS, column = i / PASS_ROWS;
      if (row < n)
        kept_[(at + row) * kept_pitch_ + column] =
            weighted(words + row * pitch + x.first(column) - x.start, 1, x.row(column), x.count(column));
    }
  }

  // After a barrier: the second pass, to the tile's pixels in the image.
  __device__ void finish(unsigned char* tile, int out_width) {
    if (rows_first_) {
      for (int i = threadIdx.x; i < y.n * x.length; i += THREADS)
        kept_[i] = pack(clip8(sum(0, i) >> PRECISION_BITS), clip8(sum(1, i) >> PRECISION_BITS),
                        clip8(sum(2, i) >> PRECISION_BITS));
      __syncthreads();
    }
    for (int i = threadIdx.x; i < y.n * x.n; i += THREADS) {
      const int row = i / x.n, column = i % x.n;
      const unsigned pixel =
          rows_first_ ? weighted(kept_ + row * x.length + x.first(column) - x.start, 1, x.row(column), x.count(column))
                      : weighted(kept_ + (y.first(row) - y.start) * kept_pitch_ + column, kept_pitch_, y.row(row),
                                 y.count(row));
      unsigned char* out = tile + 3 * (static_cast<size_t>(row) * out_width + column);
      out[0] = red(pixel), out[1] = green(pixel), out[2] = blue(pixel);
    }
  }

 private:
  __device__ int& sum(int channel, int i) {
    return reinterpret_cast<int*>(kept_)[channel * y.n * x.length + i];
  }

  __device__ void add_rows(int at, int n) {
    for (int i = threadIdx.x; i < y.n * x.length; i += THREADS) {
      const int row = i / x.length, ahead = y.first(row) - y.start;
      const int begin = max(at, ahead), end = min(at + n, ahead + y.count(row));
      const unsigned* pixel = words + (begin - at) * pitch + i % x.length;
      for (int from = begin; from < end; ++from, pixel += pitch) {
        const int weight = __ldg(y.row(row) + from - ahead);
        sum(0, i) += weight * red(*pixel), sum(1, i) += weight * green(*pixel), sum(2, i) += weight * blue(*pixel);
      }
    }
  }

  unsigned* const kept_;
  const int kept_pitch_;
  const bool rows_first_;
};
