// The last layer's batch norm and activation, which no further layer takes in.
#pragma once

#include <vector>

#include "separable.h"

namespace quicknet {

constexpr int64_t kOutputChunk = 256;  // pixels

struct Output {
    int64_t pixels, channels, threads;
};

template <class T>
struct OutputInput {
    const T *z;  // (pixels, padded C)
    NormInput<T> norm;
};

template <class T>
struct OutputResult {
    T *y;  // (pixels, padded C)
};

// dy, z (pixels, padded C); norm (5, C) in the order of NormInput.
template <class T>
struct OutputGradients {
    const T *dy;
    T *z, *norm;
};

template <class T>
void output_forward(const Output &s, const OutputInput<T> &in, const OutputResult<T> &out) {
    const int channels = int(s.channels), c = padded_channels<T>(channels);
    Norm<T> norm;
    shared_arena().take({{&norm.mean, c}, {&norm.scale, c}, {&norm.shift, c}, {&norm.slope, c}});
    norm.set(in.norm, channels, c);
    const int pieces = piece_count(s.pixels, s.pixels, kOutputChunk, s.threads);
    for_pieces(pieces, s.threads, [&](int i) {
        const Range mine = share(s.pixels, i, pieces);
        activate_row(in.z + mine.begin * c, int(mine.end - mine.begin), c, norm, out.y + mine.begin * c, c);
    });
}

template <class T>
void output_backward(const Output &s, const OutputInput<T> &in, const OutputGradients<T> &out) {
    const int channels = int(s.channels), c = padded_channels<T>(channels);
    const int64_t part = 3 * int64_t(c) * int64_t(1 + sizeof(double) / sizeof(T));
    const int pieces = piece_count(s.pixels, s.pixels, kOutputChunk, s.threads);
    Norm<T> norm;
    T *memory;
    shared_arena().take(
        {{&norm.mean, c}, {&norm.scale, c}, {&norm.shift, c}, {&norm.slope, c}, {&memory, pieces * part}});
    norm.set(in.norm, channels, c);
    std::vector<NormSums<T>> sums(static_cast<size_t>(pieces));
    for_pieces(pieces, s.threads, [&](int i) {
        T *own = memory + (i + 1) * part - 3 * c;
        sums[size_t(i)] = {own, own + c, own + 2 * c, reinterpret_cast<double *>(memory + i * part)};
        sums[size_t(i)].clear(c);
        const Range mine = share(s.pixels, i, pieces);
        for (int64_t p = mine.begin; p < mine.end; p += kOutputChunk) {
            const int count = int(std::min(kOutputChunk, mine.end - p));
            activate_row_backward(in.z + p * c, out.dy + p * c, c, count, c, norm, sums[size_t(i)], out.z + p * c);
            sums[size_t(i)].end_chunk(c);
        }
        stream_fence();
    });
    for (int k = 0; k < channels; ++k) {
        double total[3] = {0, 0, 0};
        for (const auto &piece : sums)
            for (int q = 0; q < 3; ++q) total[q] += piece.total[q * c + k];
        in.norm.gradients(total, k, channels, out.norm);
    }
}

}  // namespace quicknet
