// The last layer's batch norm and activation, which no further layer takes in.
#pragma once

#include <vector>

#include "separable.h"

namespace quicknet {

constexpr int64_t kOutputChunk = 256;  // pixels

// z -> y, both (pixels, padded C).
template <class T>
void output_forward(int64_t pixels, int channels, int threads, const T* z, const NormInput<T>& in, T* y) {
  const int c = padded_channels<T>(channels);
  Norm<T> norm;
  shared_arena().take({{&norm.mean, c}, {&norm.scale, c}, {&norm.shift, c}, {&norm.slope, c}});
  norm.set(in, channels, c);
  const int pieces = piece_count(pixels, pixels, kOutputChunk, threads);
  for_pieces(pieces, threads, [&](int i) {
    const Range mine = share(pixels, i, pieces);
    activate_row(z + mine.begin * c, int(mine.end - mine.begin), c, norm, y + mine.begin * c, c);
  });
}

// dy -> dz (pixels, padded C); d_norm (5, C) in the order of NormInput.
template <class T>
void output_backward(int64_t pixels, int channels, int threads, const T* z, const NormInput<T>& in, const T* dy,
                     T* dz, T* d_norm) {
  const int c = padded_channels<T>(channels);
  const int64_t part = 3 * int64_t(c) * int64_t(1 + sizeof(double) / sizeof(T));
  const int pieces = piece_count(pixels, pixels, kOutputChunk, threads);
  Norm<T> norm;
  T* memory;
  shared_arena().take({{&norm.mean, c}, {&norm.scale, c}, {&norm.shift, c}, {&norm.slope, c},
                          {&memory, pieces * part}});
  norm.set(in, channels, c);
  std::vector<NormSums<T>> sums(static_cast<size_t>(pieces));
  for_pieces(pieces, threads, [&](int i) {
    T* own = memory + (i + 1) * part - 3 * c;
    sums[size_t(i)] = {own, own + c, own + 2 * c, reinterpret_cast<double*>(memory + i * part)};
    sums[size_t(i)].clear(c);
    const Range mine = share(pixels, i, pieces);
    for (int64_t p = mine.begin; p < mine.end; p += kOutputChunk) {
      const int count = int(std::min(kOutputChunk, mine.end - p));
      activate_row_backward(z + p * c, dy + p * c, c, count, c, norm, sums[size_t(i)], dz + p * c);
      sums[size_t(i)].end_chunk(c);
    }
    stream_fence();
  });
  for (int k = 0; k < channels; ++k) {
    double total[3] = {0, 0, 0};
    for (const auto& s : sums)
      for (int q = 0; q < 3; ++q) total[q] += s.total[q * c + k];
    in.gradients(total, k, channels, d_norm);
  }
}

}  // namespace quicknet
