// Frames to model input: crop, rotation or rectification, antialiased resize. One launch, each pixel that counts read
// about once.
//
// preprocess_upright_{rgb,nv12}: `Preprocess.__call__` of every frame, bit for bit.
// preprocess_turned_{rgb,nv12}: `rotate_square`, then `Preprocess.__call__`, each frame by its own angle: bit for bit
//   for multiples of 90 degrees; else float32 stands for Pillow's double in the cubic, which is cut off to uint8: an
//   output differs seldom, and by 1.
// preprocess_rectified_{rgb,nv12}: `rectify` to a square of the model's longer side, then `Preprocess.__call__`, each
//   frame by its own view: within a level, as float32 stands for Pillow's double between two pixels, which is cut off to
//   uint8. Where a pixel lies is exact to 2^-36 of the frame, and the same pixels are black.
//   pixels          uint8 (n_frames, frame_bytes): rows of RGB triplets, or of NV12 luma; rows begin `stride` bytes apart
//   chroma          uint8 (n_frames, chroma_bytes): rows of NV12 pairs U V, one for 2x2 pixels; null for RGB
//   tables          int32 (n_frames, table_ints), or table_ints = 0 for one that all frames share: a header as in
//                   `Header`, then first pixel and number of pixels of every output column, then of every output row
//                   (out_width, out_width, out_height, out_height), weights of every column (out_width, x_taps) and of
//                   every row (out_height, y_taps), in units of 2^-22; rectified, then first pixel and the one behind
//                   the last that the frame shows, of every row of the square (longer side, 2)
//   images          uint8 (n_frames, out_height, out_width, 3), out
//   stride, frame_bytes, chroma_stride, chroma_bytes, table_ints, width, height, out_width, out_height: int32
//   tile_w, tile_h  output pixels of a block
//   x_taps, y_taps  weights kept a column and a row
//   window_w        columns of the largest window of a tile, in pixels that are resized
//   kept_ints       what the first pass of a tile leaves for the second one, at most
//   reduced_h, reduced_pixels  rows and pixels of a reduced frame that a turned tile needs, at most; rectified, those
//                   that are kept at once; 0 upright
//   raw_bytes       bytes of frame that are on their way at once, of all planes
// Both buffers of pixels may be read from the 16-byte boundary before their first byte to the one behind their last.
//
// Launch: grid (tiles across, tiles down, frames), 256 threads, dynamic shared memory: plan.py plans it, makes
// the tables and names the order of the arguments. Nothing is allocated: it can be captured in a graph, as no size in
// it depends on an angle.
// Reference: dphr_infer/images: preprocess.py, rotation.py, rectify.py, frame_format.py; Pillow's integers:
// dphr_infer/cuda/preprocess/resampling.py.
// Launcher: dphr_infer/cuda/preprocess/launch.py.
// Proof on the CPU: tests/dphr_infer/cuda/preprocess: test_kernels.py, test_rectified.py.
#include "pixels.cuh"
#include "rectify.cuh"
#include "resize.cuh"
#include "turn.cuh"

extern __shared__ __align__(16) unsigned char shared_bytes[];

__device__ __forceinline__ unsigned char* tile_of(unsigned char* images, const Sizes& s) {
  const size_t row = static_cast<size_t>(blockIdx.z) * s.out_height + blockIdx.y * s.tile_h;
  return images + 3 * (row * s.out_width + blockIdx.x * s.tile_w);
}

// Window rows are copied, turned into pixels of 4 bytes and resized; the next ones are on their way meanwhile.
template <class Pixels>
__device__ __forceinline__ void upright(const Pixels& pixels, const int* table, const Sizes& s, int raw_bytes,
                                        unsigned char* images) {
  unsigned* words = reinterpret_cast<unsigned*>(shared_bytes + raw_bytes);
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

// A tile's part of the reduced frame is made first; its window's rows are turned from there.
template <class Pixels>
__device__ __forceinline__ void turned(const Pixels& pixels, const int* table, const Sizes& s, int raw_bytes,
                                       unsigned char* images) {
  unsigned* words = reinterpret_cast<unsigned*>(shared_bytes);  // the frame's bytes have done their part by then
  unsigned* kept = words + max(raw_bytes / 4, PASS_ROWS * (s.window_w | 1));
  int* rows = reinterpret_cast<int*>(kept + s.kept_ints);
  Passes passes(table, s, words, kept);
  const Turn turn(table);
  const Reduced part(turn, table, passes.x, passes.y, Pixels::PLANES == 2,
                     reinterpret_cast<unsigned*>(rows + 3 * s.reduced_h), rows, s.reduced_h);
  reduce(pixels, table, s, part);
  for (int at = 0; at < passes.y.length; at += PASS_ROWS) {
    const int n = min(PASS_ROWS, passes.y.length - at);
    for (int i = threadIdx.x; i < n * passes.x.length; i += THREADS) {
      const int row = i / passes.x.length, column = i % passes.x.length;
      words[row * passes.pitch + column] = part.turned(passes.x.start + column, passes.y.start + at + row);
    }
    __syncthreads();
    passes.take(at, n);
    __syncthreads();
  }
  passes.finish(tile_of(images, s), s.out_width);
}

// A part of the frame is reduced for some pixels of a tile's window at a time, however large the camera made it.
template <class Pixels>
__device__ __forceinline__ void rectified(const Pixels& pixels, const int* table, const Sizes& s, int raw_bytes,
                                          unsigned char* images) {
  unsigned* words = reinterpret_cast<unsigned*>(shared_bytes + raw_bytes);
  unsigned* kept = words + PASS_ROWS * (s.window_w | 1);
  Passes passes(table, s, words, kept);
  Ground ground(table, s, Pixels::PLANES == 2, kept + s.kept_ints);
  for (int at = 0; at < passes.y.length; at += PASS_ROWS) {
    const int n = min(PASS_ROWS, passes.y.length - at);
    rectify_rows(pixels, table, s, ground, passes, at, n);
    __syncthreads();
    passes.take(at, n);
    __syncthreads();
  }
  passes.finish(tile_of(images, s), s.out_width);
}

#define KERNEL(NAME, WORK, PIXELS)                                                                                     \
  extern "C" __global__ void __launch_bounds__(THREADS, 3)                                                             \
      NAME(const unsigned char* pixels, const unsigned char* chroma, const int* tables, unsigned char* images,         \
           int stride, int frame_bytes, int chroma_stride, int chroma_bytes, int table_ints, int width, int height,    \
           int out_width, int out_height, int tile_w, int tile_h, int x_taps, int y_taps, int window_w, int kept_ints, \
           int reduced_h, int reduced_pixels, int raw_bytes) {                                                         \
    const size_t frame = blockIdx.z;                                                                                   \
    const int* table = tables + frame * table_ints;                                                                    \
    const Sizes sizes = {width,  height, out_width, out_height, tile_w,    tile_h,                                     \
                         x_taps, y_taps, window_w,  kept_ints,  reduced_h, reduced_pixels};                            \
    const PIXELS source(pixels + frame * frame_bytes, chroma + frame * chroma_bytes, stride, chroma_stride, table,     \
                        shared_bytes);                                                                                 \
    WORK(source, table, sizes, raw_bytes, images);                                                                     \
  }

KERNEL(preprocess_upright_rgb, upright, Rgb)
KERNEL(preprocess_upright_nv12, upright, Nv12)
KERNEL(preprocess_turned_rgb, turned, Rgb)
KERNEL(preprocess_turned_nv12, turned, Nv12)
KERNEL(preprocess_rectified_rgb, rectified, Rgb)
KERNEL(preprocess_rectified_nv12, rectified, Nv12)
