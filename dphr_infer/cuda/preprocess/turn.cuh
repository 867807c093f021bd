// Turning a tile's window: the part of the frame below it, reduced by a whole factor, and the cubic between its pixels.
#pragma once
#include "pixels.cuh"
#include "resize.cuh"

// Entry i of the header's matrix.
__device__ __forceinline__ long long fixed_at(const int* table, int i) {
  const int* two = table + MATRIX + 2 * i;
  return static_cast<long long>(__ldg(two + 1)) << 32 | static_cast<unsigned>(__ldg(two));
}

// How a frame is turned: where a pixel of the square lies in the reduced frame, in units of 2^-32.
struct Turn {
  long long a, b, c, d, e, f;

  __device__ explicit Turn(const int* table)
      : a(fixed_at(table, 0)), b(fixed_at(table, 1)), c(fixed_at(table, 2)), d(fixed_at(table, 3)),
        e(fixed_at(table, 4)), f(fixed_at(table, 5)) {}
  __device__ long long across(int x, int y) const { return a * x + b * y + c; }
  __device__ long long down(int x, int y) const { return d * x + e * y + f; }
};

__device__ __forceinline__ int whole(long long fixed) { return static_cast<int>(fixed >> 32); }
__device__ __forceinline__ float fraction(long long fixed) {
  return static_cast<float>(static_cast<unsigned>(fixed) >> 8) * (1.0f / (1 << 24));
}

// The part of a reduced frame that a window needs: pixels [left, right) x [top, bottom), of row i from `top` on those in
// [begin(i), end(i)) from `left` on. Only these are kept, one row behind the other.
class Reduced {
 public:
  __device__ Reduced(const Turn& turn, const int* table, const Axis& x, const Axis& y, bool pairs, unsigned* pixels,
                     int* rows, int most_rows)
      : turn_(turn), x_(x), y_(y), pixels_(pixels), begins_(rows), ends_(rows + most_rows),
        offsets_(rows + 2 * most_rows), all_w_(__ldg(table + REDUCED_W)), all_h_(__ldg(table + REDUCED_H)),
        rows_a_band(pairs && __ldg(table + FACTOR) % 2 ? 2 : 1) {
    const int x1 = x.start + x.length - 1, y1 = y.start + y.length - 1;
    left = first(turn.across(turn.a < 0 ? x1 : x.start, turn.b < 0 ? y1 : y.start), all_w_);
    top = first(turn.down(turn.d < 0 ? x1 : x.start, turn.e < 0 ? y1 : y.start), all_h_) / rows_a_band * rows_a_band;
    right = min(all_w_, whole(turn.across(turn.a < 0 ? x.start : x1, turn.b < 0 ? y.start : y1)) + 3);
    bottom = min(all_h_, whole(turn.down(turn.d < 0 ? x.start : x1, turn.e < 0 ? y.start : y1)) + 3);
  }

  // Says which columns the rows need. Rows of a band need the same.
  __device__ void find_rows() const {
    const int n = bottom - top;
    for (int i = threadIdx.x; i < n; i += THREADS) {
      int least = right - left, most = 0;
      for (int row = i / rows_a_band * rows_a_band; row < min(n, (i / rows_a_band + 1) * rows_a_band); ++row) {
        int begin, end;
        span(row, &begin, &end);
        if (begin < end) least = min(least, begin), most = max(most, end);
      }
      begins_[i] = least, ends_[i] = max(least, most);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += THREADS) {
      int before = 0;
      for (int row = 0; row < i; ++row) before += ends_[row] - begins_[row];
      offsets_[i] = before - begins_[i];
    }
    __syncthreads();
  }

  __device__ int begin(int i) const { return begins_[i]; }
  __device__ int end(int i) const { return ends_[i]; }
  __device__ unsigned& pixel(int i, int j) const { return pixels_[offsets_[i] + j]; }

  // The window's pixel (x, y), turned.
  __device__ unsigned turned(int x, int y) const {
    const long long across = turn_.across(x, y), down = turn_.down(x, y);
    const float dx = fraction(across), dy = fraction(down);
    float rows[4][3];
    for (int i = 0; i < 4; ++i) {
      const unsigned* row = pixels_ + offsets_[min(max(whole(down) - 1 + i, 0), all_h_ - 1) - top] - left;
      unsigned four[4];
      for (int j = 0; j < 4; ++j) four[j] = row[min(max(whole(across) - 1 + j, 0), all_w_ - 1)];
      rows[i][0] = cubic(red(four[0]), red(four[1]), red(four[2]), red(four[3]), dx);
      rows[i][1] = cubic(green(four[0]), green(four[1]), green(four[2]), green(four[3]), dx);
      rows[i][2] = cubic(blue(four[0]), blue(four[1]), blue(four[2]), blue(four[3]), dx);
    }
    int found[3];
    for (int i = 0; i < 3; ++i)
      found[i] = static_cast<int>(min(max(cubic(rows[0][i], rows[1][i], rows[2][i], rows[3][i], dy), 0.0f), 255.0f));
    return pack(found[0], found[1], found[2]);
  }

  int left, top, right, bottom;

 private:
  // The columns that row i needs: the window's outline, cut to where the cubic reaches the row, and a pixel's hundredth
  // more for rounding. Empty where begin >= end.
  __device__ void span(int i, int* begin, int* end) const {
    const float low = i - 2.01f, high = i + 2.01f;
    float least = 1e6f, most = -1e6f;
    for (int corner = 0; corner < 4; ++corner) {
      const float from_x = corner_x(corner), from_y = corner_y(corner);
      const float dx = corner_x(corner + 1) - from_x, dy = corner_y(corner + 1) - from_y;
      float begins = 0.0f, ends = 1.0f;
      if (fabsf(dy) > 1e-3f) {
        const float one = (low - from_y) / dy, other = (high - from_y) / dy;
        begins = max(begins, min(one, other)), ends = min(ends, max(one, other));
      } else if (from_y < low - 1e-3f || from_y > high + 1e-3f) {
        continue;
      }
      if (begins > ends) continue;
      least = min(least, from_x + min(begins * dx, ends * dx)), most = max(most, from_x + max(begins * dx, ends * dx));
    }
    *begin = max(0, static_cast<int>(floorf(least - 0.01f)) - 1);
    *end = min(right - left, static_cast<int>(floorf(most + 0.01f)) + 3);
  }

  // A convolution cubic with a = -1, between `one` and `two`.
  __device__ static float cubic(float before, float one, float two, float behind, float distance) {
    const float linear = two - before, square = 2.0f * (before - one) + two - behind, cube = one - before + behind - two;
    return __fmaf_rn(distance, __fmaf_rn(distance, __fmaf_rn(distance, cube, square), linear), one);
  }
  __device__ static int first(long long least, int all) { return min(max(whole(least) - 1, 0), all - 1); }

  // The outline of the window's pixel centres from (left, top) on, corner after corner.
  __device__ int outline_x(int corner) const { return x_.start + (corner + 1) / 2 % 2 * (x_.length - 1); }
  __device__ int outline_y(int corner) const { return y_.start + corner / 2 % 2 * (y_.length - 1); }
  __device__ float corner_x(int corner) const {
    const long long at = turn_.across(outline_x(corner), outline_y(corner));
    return static_cast<float>(whole(at) - left) + fraction(at);
  }
  __device__ float corner_y(int corner) const {
    const long long at = turn_.down(outline_x(corner), outline_y(corner));
    return static_cast<float>(whole(at) - top) + fraction(at);
  }

  const Turn turn_;
  const Axis &x_, &y_;
  unsigned* const pixels_;
  int *const begins_, *const ends_, *const offsets_;
  const int all_w_, all_h_;

 public:
  const int rows_a_band;  // two where a row of chroma would else serve rows of different length
};

// Brings the frame's pixels under a reduced part, some rows or columns at a time, and averages blocks of them.
template <class Pixels, class Part>
__device__ __forceinline__ void reduce(const Pixels& pixels, const int* table, const Sizes& s, const Part& part) {
  const int rows = part.bottom - part.top, columns = part.right - part.left, factor = __ldg(table + FACTOR);
  const int part_w = __ldg(table + PART_W), part_h = __ldg(table + PART_H);
  part.find_rows();
  for (int part_y = 0; part_y < rows; part_y += part_h)
    for (int part_x = 0; part_x < columns; part_x += part_w) {
      auto in_band = [&](int i) { return i % part.rows_a_band * factor; };
      auto band = [&](int i) {
        const int first = i - i % part.rows_a_band;
        return Band{(first - part_y) * factor, (part.top + first) * factor,
                    (part.left + max(part.begin(i), part_x)) * factor};
      };
      for (int slot = threadIdx.x / 32; slot < part_h * factor; slot += WARPS) {
        const int i = part_y + slot / factor, y = slot % factor;
        if (i >= rows || (part.top + i) * factor + y >= s.height) break;
        const int end = min(part.end(i), part_x + part_w);
        if (max(part.begin(i), part_x) < end)
          pixels.copy(band(i), in_band(i) + y, min((part.left + end) * factor, s.width));
      }
      cp_async_commit();
      cp_async_wait<0>();
      __syncthreads();
      for (int item = threadIdx.x; item < part_h * part_w; item += THREADS) {
        const int i = part_y + item / part_w, j = part_x + item % part_w;
        if (i >= rows || j < part.begin(i) || j >= part.end(i)) continue;
        const int x = (part.left + j) * factor, across = min(factor, s.width - x);
        const int down = min(factor, s.height - (part.top + i) * factor);
        unsigned sums[3] = {0, 0, 0};
        for (int y = 0; y < down; ++y)
          for (int k = 0; k < across; ++k) {
            const unsigned pixel = pixels.pixel(band(i), in_band(i) + y, x + k);
            sums[0] += red(pixel), sums[1] += green(pixel), sums[2] += blue(pixel);
          }
        const unsigned half = across * down / 2, mean = __ldg(table + MEANS + (across < factor) + 2 * (down < factor));
        part.pixel(i, j) =
            pack((sums[0] + half) * mean >> 24, (sums[1] + half) * mean >> 24, (sums[2] + half) * mean >> 24);
      }
      __syncthreads();
    }
}
