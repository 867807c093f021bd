// Rectifying a tile's window, some pixels at a time: the part of the frame below them, reduced, and the bilinear between
// its pixels.
#pragma once
#include "turn.cuh"

struct Spot {
  int whole;
  float part;
};

// A part of the reduced frame, and where the square's pixels that need it lie; a thread for each of these.
class Ground {
 public:
  int left = 0, top = 0, right = 0, bottom = 0;
  const int rows_a_band;

  __device__ Ground(const int* table, const Sizes& s, bool pairs, unsigned* pixels)
      : rows_a_band(pairs && __ldg(table + FACTOR) % 2 ? 2 : 1), table_(table), pixels_(pixels),
        begins_(reinterpret_cast<int*>(pixels + s.reduced_pixels)), ends_(begins_ + s.reduced_h), most_rows_(s.reduced_h),
        spans_(table + HEADER_INTS + 2 * (s.out_width + s.out_height) +
               static_cast<size_t>(s.out_width) * s.x_taps + static_cast<size_t>(s.out_height) * s.y_taps),
        all_w_(__ldg(table + REDUCED_W)), all_h_(__ldg(table + REDUCED_H)), most_(s.reduced_pixels) {}

  // Whether the photo shows one of the square's pixels [x, x_stop) x [y, y_stop).
  __device__ bool any_seen(int x, int y, int x_stop, int y_stop) const {
    for (; y < y_stop; ++y)
      if (max(x, __ldg(spans_ + 2 * y)) < min(x_stop, __ldg(spans_ + 2 * y + 1))) return true;
    return false;
  }

  // Takes the part that these pixels need, at most 16x16; false where there is no room for it. In front of the camera the
  // part's outermost pixels lie under the corners.
  __device__ bool take(int x, int y, int x_stop, int y_stop) {
    int least_x = all_w_, most_x = -1, least_y = all_h_, most_y = -1;
    for (int corner = 0; corner < 4; ++corner) {
      const int at_x = corner % 2 ? x_stop - 1 : x, at_y = corner / 2 ? y_stop - 1 : y;
      if (depth(at_x, at_y) <= 0) return false;
      const int across = whole_across(at_x, at_y).whole, down = whole_down(at_x, at_y).whole;
      least_x = min(least_x, across), most_x = max(most_x, across);
      least_y = min(least_y, down), most_y = max(most_y, down);
    }
    left = within(least_x, all_w_), right = within(most_x + 1, all_w_) + 1;
    top = within(least_y, all_h_) / rows_a_band * rows_a_band, bottom = within(most_y + 1, all_h_) + 1;
    const int own_x = x + threadIdx.x % PASS_ROWS, own_y = y + threadIdx.x / PASS_ROWS;
    own_ = own_x < x_stop && own_y < y_stop && seen(own_x, own_y);
    if (own_) across_ = whole_across(own_x, own_y), down_ = whole_down(own_x, own_y);
    return bottom - top <= most_rows_ && (right - left) * (bottom - top) <= most_;
  }

  // Says which columns the rows need: those that a pixel lies between. Rows of a band need the same.
  __device__ void find_rows() const {
    for (int i = threadIdx.x; i < bottom - top; i += THREADS) begins_[i] = right - left, ends_[i] = 0;
    __syncthreads();
    for (int next = 0; next < 2 && own_; ++next) {
      const int i = within(down_.whole + next, all_h_) - top, first = i - i % rows_a_band;
      atomicMin(begins_ + first, within(across_.whole, all_w_) - left);
      atomicMax(ends_ + first, within(across_.whole + 1, all_w_) - left + 1);
    }
    __syncthreads();
  }

  __device__ int begin(int i) const { return begins_[i - i % rows_a_band]; }
  __device__ int end(int i) const { return ends_[i - i % rows_a_band]; }
  __device__ unsigned& pixel(int i, int j) const { return pixels_[i * (right - left) + j]; }

  // The thread's own pixel of the square, from the part that was taken; black where it is not seen.
  __device__ unsigned read() const {
    if (!own_) return 0;
    const unsigned* upper = pixels_ + (within(down_.whole, all_h_) - top) * (right - left) - left;
    const unsigned* lower = pixels_ + (within(down_.whole + 1, all_h_) - top) * (right - left) - left;
    const int one = within(across_.whole, all_w_), next = within(across_.whole + 1, all_w_);
    const unsigned a = upper[one], b = upper[next], c = lower[one], d = lower[next];
    return pack(between(red(a), red(b), red(c), red(d)), between(green(a), green(b), green(c), green(d)),
                between(blue(a), blue(b), blue(c), blue(d)));
  }

 private:
  __device__ bool seen(int x, int y) const { return __ldg(spans_ + 2 * y) <= x && x < __ldg(spans_ + 2 * y + 1); }
  __device__ static int within(int at, int all) { return min(max(at, 0), all - 1); }
  __device__ long long linear(int row, int x, int y) const {
    return fixed_at(table_, row) * x + fixed_at(table_, row + 1) * y + fixed_at(table_, row + 2);
  }
  __device__ long long depth(int x, int y) const { return linear(6, x, y); }
  __device__ Spot whole_across(int x, int y) const { return quotient(linear(0, x, y), depth(x, y), all_w_); }
  __device__ Spot whole_down(int x, int y) const { return quotient(linear(3, x, y), depth(x, y), all_h_); }

  // value / depth, exact but for the fraction's last bits: what float misses of the whole part the integers tell.
  // Outside the frame it is cut off.
  __device__ static Spot quotient(long long value, long long depth, int all) {
    const float divisor = static_cast<float>(depth);
    int whole = static_cast<int>(floorf(min(max(static_cast<float>(value) / divisor, -2.0f), all + 1.0f)));
    long long rest = value - whole * depth;
    if (rest < 0) --whole, rest += depth;
    else if (rest >= depth) ++whole, rest -= depth;
    return {whole, static_cast<float>(rest) / divisor};
  }

  // Cut off to a whole level, as Pillow does.
  __device__ int between(int a, int b, int c, int d) const {
    const float upper = __fmaf_rn(across_.part, static_cast<float>(b - a), static_cast<float>(a));
    const float lower = __fmaf_rn(across_.part, static_cast<float>(d - c), static_cast<float>(c));
    return static_cast<int>(__fmaf_rn(down_.part, lower - upper, upper));
  }

  const int* const table_;
  unsigned* const pixels_;
  int *const begins_, *const ends_;
  const int most_rows_;
  const int* const spans_;
  const int all_w_, all_h_, most_;
  bool own_ = false;
  Spot across_ = {}, down_ = {};
};

// Window rows [at, at + n) into `passes.words`: in squares of 16, or of 8 and less where the part of the frame below one
// of them is too large. A barrier has to follow.
template <class Pixels>
__device__ __forceinline__ void rectify_rows(const Pixels& pixels, const int* table, const Sizes& s, Ground& ground,
                                             const Passes& passes, int at, int n) {
  static_assert(PASS_ROWS * PASS_ROWS == THREADS, "a thread for each pixel of the largest square");
  const int x_start = passes.x.start, y_start = passes.y.start + at;
  for (int from = 0; from < passes.x.length; from += PASS_ROWS)
    // Squares in the order of a quadtree: i counts pixels, and each square begins where its own size divides i.
    for (int i = 0, side; i < THREADS; i += side * side) {
      int left = from, upper = 0;
      for (int bit = 0; bit < 4; ++bit) left += (i >> 2 * bit & 1) << bit, upper += (i >> (2 * bit + 1) & 1) << bit;
      for (side = PASS_ROWS; i % (side * side) != 0;) side /= 2;
      if (left >= passes.x.length || upper >= n) continue;
      int right, lower;
      bool any, shown;
      for (;; side /= 2) {
        right = min(left + side, passes.x.length), lower = min(upper + side, n);
        any = ground.any_seen(x_start + left, y_start + upper, x_start + right, y_start + lower);
        shown = any && ground.take(x_start + left, y_start + upper, x_start + right, y_start + lower);
        if (shown || !any || side == 1) break;
      }
      if (shown) reduce(pixels, table, s, ground);
      const int column = left + threadIdx.x % PASS_ROWS, row = upper + threadIdx.x / PASS_ROWS;
      if (column < right && row < lower)
        passes.words[row * passes.pitch + column] = shown ? ground.read() : 0;
    }
}
