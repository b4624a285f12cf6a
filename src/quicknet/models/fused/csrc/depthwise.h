// Depthwise convolution over rows that carry their own zero border, and its weight's gradient.
// Channels are the outer loop: one vector of channels runs over all pixels of a chunk with its
// K x K weights (or their gradients) in registers.
#pragma once

#include "vector.h"

namespace quicknet {

// One output row, columns j .. j + J: every input vector is loaded once per kernel row.
template <class T, int K, int J>
inline void depthwise_columns(const T *const *rows, int64_t offset, int64_t pitch, const Vector<T> *w, T *out,
                              int64_t out_pitch) {
    using V = Vector<T>;
    V acc[J];
#pragma GCC unroll 8
    for (int j = 0; j < J; ++j) acc[j] = V{};
#pragma GCC unroll 8
    for (int q = 0; q < K; ++q) {
        const T *p = rows[q] + offset;
#pragma GCC unroll 16
        for (int t = 0; t < J + K - 1; ++t) {
            const V x = load(p + t * pitch);
#pragma GCC unroll 8
            for (int u = 0; u < K; ++u)
                if (t - u >= 0 && t - u < J) acc[t - u] += x * w[q * K + u];
        }
    }
#pragma GCC unroll 8
    for (int j = 0; j < J; ++j) store(out + j * out_pitch, acc[j]);
}

// rows[r * K + q]: padded input row r + q of output row r; w (K * K, channels);
// out: pixel (r, j) at (r * width + j) * pitch.
template <class T, int K>
void depthwise(const T *const *rows, int count, int width, int channels, int64_t pitch, const T *w, T *out) {
    using V = Vector<T>;
    for (int c = 0; c < channels; c += kLanes<T>) {
        V taps[K * K];
        for (int q = 0; q < K * K; ++q) taps[q] = load(w + int64_t(q) * channels + c);
        for (int r = 0; r < count; ++r) {
            const T *const *in = rows + r * K;
            T *o = out + int64_t(r) * width * pitch + c;
            int j = 0;
            for (; j + 4 <= width; j += 4)
                depthwise_columns<T, K, 4>(in, j * pitch + c, pitch, taps, o + j * pitch, pitch);
            switch (width - j) {
            case 3: depthwise_columns<T, K, 3>(in, j * pitch + c, pitch, taps, o + j * pitch, pitch); break;
            case 2: depthwise_columns<T, K, 2>(in, j * pitch + c, pitch, taps, o + j * pitch, pitch); break;
            case 1: depthwise_columns<T, K, 1>(in, j * pitch + c, pitch, taps, o + j * pitch, pitch); break;
            default: break;
            }
        }
    }
}

// dw[q][u][c] += sum over rows and columns of grad[r][j][c] * rows[r * K + q][j + u][c].
template <class T, int K>
void depthwise_weight_grad(const T *const *rows, const T *const *grad, int count, int width, int channels,
                           int64_t pitch, T *dw) {
    using V = Vector<T>;
    // All K * K sums fit in registers for 3x3; larger kernels take one kernel row at a time.
    constexpr int Q = K == 3 ? 3 : 1;
    for (int c = 0; c < channels; c += kLanes<T>) {
        for (int q0 = 0; q0 < K; q0 += Q) {
            V acc[Q * K];
            for (int i = 0; i < Q * K; ++i) acc[i] = load(dw + int64_t(q0 * K + i) * channels + c);
            for (int r = 0; r < count; ++r) {
                const T *g = grad[r] + c;
                const T *p[Q];
                for (int q = 0; q < Q; ++q) p[q] = rows[r * K + q0 + q] + c;
                for (int j = 0; j < width; ++j, g += pitch) {
                    const V gj = load(g);
#pragma GCC unroll 8
                    for (int q = 0; q < Q; ++q) {
#pragma GCC unroll 8
                        for (int u = 0; u < K; ++u) acc[q * K + u] += gj * load(p[q] + u * pitch);
                        p[q] += pitch;
                    }
                }
            }
            for (int i = 0; i < Q * K; ++i) store(dw + int64_t(q0 * K + i) * channels + c, acc[i]);
        }
    }
}

}  // namespace quicknet
