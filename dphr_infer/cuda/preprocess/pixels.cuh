// Frames in memory: a table's header, rows of RGB or NV12 on their way to shared memory, their pixels.
#pragma once
#include "device_ops.cuh"

constexpr int THREADS = 256, WARPS = THREADS / 32;
constexpr int PASS_ROWS = 16;  // rows of a window that are resized together
constexpr int PRECISION_BITS = 22;

enum Header {
  LUMA_ZERO, LUMA_SCALE, RED_V, GREEN_U, GREEN_V, BLUE_U,  // (scale * (y - zero) + red_v * (v - 128) + 2^15) >> 16
  ROWS_FIRST,                                              // the pass over rows comes before the one over columns
  FACTOR, REDUCED_W, REDUCED_H,                            // blocks of FACTOR x FACTOR pixels are averaged
  RAW_ROWS, RAW_PITCH,                                     // frame rows that are on their way at once, at most raw_bytes
  PART_W, PART_H,                                          // reduced pixels that they make
  MEANS,        // 4: 2^24 / pixels of a block: whole, at the right edge, at the lower edge, in the corner
  MATRIX = 18,  // 12: a, b, c, d, e, f as int64, units of 2^-32: (x, y) lies at (a x + b y + c, d x + e y + f); or 18,
                // with g, h, i, in units of any size: it lies at these by g x + h y + i, which is above 0 where it is seen
  HEADER_INTS = 36
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
  int width, height, out_width, out_height, tile_w, tile_h, x_taps, y_taps, window_w, kept_ints, reduced_h,
      reduced_pixels;
};
