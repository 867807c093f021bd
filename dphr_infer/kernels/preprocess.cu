// Frames to model input: crop, rotation, antialiased resize. One launch, each pixel that counts read about once.
//
// preprocess_upright_{rgb,nv12}: `Preprocess.__call__` of every frame, bit for bit.
// preprocess_turned_{rgb,nv12}: `rotate_square`, then `Preprocess.__call__`, each frame by its own angle: bit for bit
//   for multiples of 90 degrees; else float32 stands for Pillow's double in the cubic, which is cut off to uint8: an
//   output differs seldom, and by 1.
//   pixels          uint8 (n_frames, frame_bytes): rows of RGB triplets, or of NV12 luma; rows begin `stride` bytes apart
//   chroma          uint8 (n_frames, chroma_bytes): rows of NV12 pairs U V, one for 2x2 pixels; null for RGB
//   tables          int32 (n_frames, table_ints), or table_ints = 0 for one that all frames share: a header as in
//                   `Header`, then first pixel and number of pixels of every output column, then of every output row
//                   (out_width, out_width, out_height, out_height), weights of every column (out_width, x_taps) and of
//                   every row (out_height, y_taps), in units of 2^-22
//   images          uint8 (n_frames, out_height, out_width, 3), out
//   stride, frame_bytes, chroma_stride, chroma_bytes, table_ints, width, height, out_width, out_height: int32
//   tile_w, tile_h  output pixels of a block
//   x_taps, y_taps  weights kept a column and a row
//   window_w, window_h    the largest window of a tile, in pixels that are resized
//   reduced_w, reduced_h  the largest part of a reduced frame that a turned tile needs; 0 upright
//   raw_bytes       bytes of frame that are on their way at once, of one plane
// Both buffers of pixels may be read from the 16-byte boundary before their first byte to the one behind their last.
//
// Launch: grid (tiles across, tiles down, frames), 256 threads, dynamic shared memory: preprocess.py plans it, makes
// the tables and names the order of the arguments. Nothing is allocated: it can be captured in a graph, as no size in
// it depends on an angle.
// Reference: dphr_infer/preprocess.py, dphr_infer/rotation.py, dphr_infer/nv12.py; Pillow's integers: resampling.py.
// Launcher: dphr_infer/kernels/preprocess_launch.py.
// Proof on the CPU: tests/dphr_infer/kernels/test_preprocess.py.
#include "device_ops.cuh"

constexpr int THREADS = 256, WARPS = THREADS / 32;
constexpr int PASS_ROWS = 16;  // rows of a window that are resized together
constexpr int PRECISION_BITS = 22;

extern __shared__ __align__(16) unsigned char shared_bytes[];

enum Header {
  LUMA_ZERO, LUMA_SCALE, RED_V, GREEN_U, GREEN_V, BLUE_U,  // (scale * (y - zero) + red_v * (v - 128) + 2^15) >> 16
  ROWS_FIRST,                                              // the pass over rows comes before the one over columns
  FACTOR, REDUCED_W, REDUCED_H,                            // blocks of FACTOR x FACTOR pixels are averaged
  RAW_ROWS, RAW_PITCH,                                     // frame rows that are on their way at once, at most raw_bytes
  PART_W, PART_H,                                          // reduced pixels that they make
  MEANS,        // 4: 2^24 / pixels of a block: whole, at the right edge, at the lower edge, in the corner
  MATRIX = 18,  // 12: a, b, c, d, e, f as int64, units of 2^-32: (x, y) lies at (a x + b y + c, d x + e y + f)
  HEADER_INTS = 32
};

__device__ __forceinline__ int clip8(int value) { return min(max(value, 0), 255); }
__device__ __forceinline__ unsigned pack(int red, int green, int blue) { return red | green << 8 | blue << 16; }
__device__ __forceinline__ int red(unsigned pixel) { return pixel & 255; }
__device__ __forceinline__ int green(unsigned pixel) { return pixel >> 8 & 255; }
__device__ __forceinline__ int blue(unsigned pixel) { return pixel >> 16 & 255; }

__device__ __forceinline__ size_t behind16(const unsigned char* address) {
  return reinterpret_cast<size_t>(address) & 15;
}

// A warp copies the 16-byte vectors that cover n bytes; byte i lies at to[behind16(from) + i] once waited for.
__device__ __forceinline__ void copy_row(unsigned char* to, const unsigned char* from, int n_bytes) {
  const int skipped = static_cast<int>(behind16(from));
  for (int at = threadIdx.x % 32 * 16; at < skipped + n_bytes; at += 512) cp_async16(to + at, from - skipped + at);
}

// Rows of a frame in shared memory that begin and end at the same columns: row i of a band is row y + i of the frame
// and lies in slot + i.
struct Band {
  int slot, y, x;
};

class Rgb {
 public:
  static constexpr int PLANES = 1;

  __device__ Rgb(const unsigned char* frame, const unsigned char*, int stride, int, const int* header,
                 unsigned char* raw)
      : frame_(frame), raw_(raw), stride_(stride), pitch_(__ldg(header + RAW_PITCH)) {}

  __device__ void copy(const Band& band, int i, int stop) const {
    copy_row(raw_ + (band.slot + i) * pitch_, row(band, i), 3 * (stop - band.x));
  }

  // R, G, B in the lower bytes.
  __device__ unsigned pixel(const Band& band, int i, int x) const {
    const int at = (band.slot + i) * pitch_ + static_cast<int>(behind16(row(band, i))) + 3 * (x - band.x);
    const unsigned* words = reinterpret_cast<const unsigned*>(raw_) + at / 4;
    const unsigned long long both = static_cast<unsigned long long>(words[1]) << 32 | words[0];
    return static_cast<unsigned>(both >> at % 4 * 8) & 0xFFFFFF;
  }

 private:
  __device__ const unsigned char* row(const Band& band, int i) const {
    return frame_ + static_cast<size_t>(band.y + i) * stride_ + 3 * band.x;
  }

  const unsigned char* frame_;
  unsigned char* raw_;
  int stride_, pitch_;
};

class Nv12 {
 public:
  static constexpr int PLANES = 2;

  __device__ Nv12(const unsigned char* luma, const unsigned char* chroma, int stride, int chroma_stride,
                  const int* header, unsigned char* raw)
      : luma_(luma), chroma_(chroma), raw_(raw),
        raw_chroma_(raw + __ldg(header + RAW_ROWS) * __ldg(header + RAW_PITCH)), header_(header), stride_(stride),
        chroma_stride_(chroma_stride), pitch_(__ldg(header + RAW_PITCH)) {}

  __device__ void copy(const Band& band, int i, int stop) const {
    copy_row(raw_ + (band.slot + i) * pitch_, luma_row(band, i), stop - band.x);
    if (i == 0 || (band.y + i) % 2 == 0)
      copy_row(raw_chroma_ + chroma_slot(band, i) * pitch_, chroma_row(band, i), (stop + 1) / 2 * 2 - band.x / 2 * 2);
  }

  __device__ unsigned pixel(const Band& band, int i, int x) const {
    const int y = raw_[(band.slot + i) * pitch_ + static_cast<int>(behind16(luma_row(band, i))) + x - band.x];
    const unsigned char* pair = raw_chroma_ + chroma_slot(band, i) * pitch_ + behind16(chroma_row(band, i)) +
                                (x / 2 - band.x / 2) * 2;
    const int u = pair[0] - 128, v = pair[1] - 128;
    const int luma = __ldg(header_ + LUMA_SCALE) * (y - __ldg(header_ + LUMA_ZERO)) + (1 << 15);
    return pack(clip8((luma + __ldg(header_ + RED_V) * v) >> 16),
                clip8((luma + __ldg(header_ + GREEN_U) * u + __ldg(header_ + GREEN_V) * v) >> 16),
                clip8((luma + __ldg(header_ + BLUE_U) * u) >> 16));
  }

 private:
  __device__ const unsigned char* luma_row(const Band& band, int i) const {
    return luma_ + static_cast<size_t>(band.y + i) * stride_ + band.x;
  }
  __device__ const unsigned char* chroma_row(const Band& band, int i) const {
    return chroma_ + static_cast<size_t>((band.y + i) / 2) * chroma_stride_ + band.x / 2 * 2;
  }
  __device__ int chroma_slot(const Band& band, int i) const { return band.slot + (band.y + i) / 2 - band.y / 2; }

  const unsigned char *luma_, *chroma_;
  unsigned char *raw_, *raw_chroma_;
  const int* header_;
  int stride_, chroma_stride_, pitch_;
};

struct Sizes {
  int width, height, out_width, out_height, tile_w, tile_h, x_taps, y_taps, window_w, window_h, reduced_w, reduced_h;
};

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

__device__ __forceinline__ unsigned char* tile_of(unsigned char* images, const Sizes& s) {
  const size_t row = static_cast<size_t>(blockIdx.z) * s.out_height + blockIdx.y * s.tile_h;
  return images + 3 * (row * s.out_width + blockIdx.x * s.tile_w);
}

// Window rows are copied, turned into pixels of 4 bytes and resized; the next ones are on their way meanwhile.
template <class Pixels>
__device__ __forceinline__ void upright(const Pixels& pixels, const int* table, const Sizes& s, unsigned char* rest,
                                        unsigned char* images) {
  unsigned* words = reinterpret_cast<unsigned*>(rest);
  Passes passes(table, s, words, words + PASS_ROWS * (s.window_w | 1));
  const int stop_x = passes.x.start + passes.x.length, stop_y = passes.y.start + passes.y.length;
  // An even row comes first where it can, so that no row of chroma is copied twice.
  auto rows_from = [&](int y) { return min(PASS_ROWS - y % 2, stop_y - y); };
  auto copy = [&](int y) {
    for (int i = threadIdx.x / 32; i < rows_from(y); i += WARPS) pixels.copy({0, y, passes.x.start}, i, stop_x);
    cp_async_commit();
  };
  copy(passes.y.start);
  for (int y = passes.y.start, n; y < stop_y; y += n) {
    n = rows_from(y);
    cp_async_wait<0>();
    __syncthreads();
    for (int i = threadIdx.x; i < n * passes.x.length; i += THREADS) {
      const int row = i / passes.x.length, column = i % passes.x.length;
      words[row * passes.pitch + column] = pixels.pixel({0, y, passes.x.start}, row, passes.x.start + column);
    }
    __syncthreads();
    if (y + n < stop_y) copy(y + n);
    passes.take(y - passes.y.start, n);
  }
  __syncthreads();
  passes.finish(tile_of(images, s), s.out_width);
}

#define KERNEL(NAME, WORK, PIXELS)                                                                                     \
  extern "C" __global__ void __launch_bounds__(THREADS, 3)                                                             \
      NAME(const unsigned char* pixels, const unsigned char* chroma, const int* tables, unsigned char* images,         \
           int stride, int frame_bytes, int chroma_stride, int chroma_bytes, int table_ints, int width, int height,    \
           int out_width, int out_height, int tile_w, int tile_h, int x_taps, int y_taps, int window_w, int window_h,  \
           int reduced_w, int reduced_h, int raw_bytes) {                                                              \
    const size_t frame = blockIdx.z;                                                                                   \
    const int* table = tables + frame * table_ints;                                                                    \
    const Sizes sizes = {width,  height, out_width, out_height, tile_w,    tile_h,                                     \
                         x_taps, y_taps, window_w,  window_h,   reduced_w, reduced_h};                                 \
    const PIXELS source(pixels + frame * frame_bytes, chroma + frame * chroma_bytes, stride, chroma_stride, table,     \
                        shared_bytes);                                                                                 \
    WORK(source, table, sizes, shared_bytes + PIXELS::PLANES * raw_bytes, images);                                     \
  }

KERNEL(preprocess_upright_rgb, upright, Rgb)
KERNEL(preprocess_upright_nv12, upright, Nv12)
