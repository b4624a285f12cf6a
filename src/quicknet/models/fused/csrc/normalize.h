// Batch norm and activation of one layer's kept output, applied on the way into the next layer
// (forward) and taken back on the way out of it (backward), and the batch's moments.
//   n = (z - mean) / sqrt(variance + epsilon) * weight + bias,   y = n > 0 ? n : n * slope
#pragma once

#include <cmath>

#include "vector.h"

namespace quicknet {

// What defines it, per channel.
template <class T>
struct NormInput {
    const T *mean, *variance, *weight, *bias, *slope;
    double epsilon;

    double inverse_deviation(int c) const { return 1 / std::sqrt(double(variance[c]) + epsilon); }

    // From a channel's sums over pixels of dn * (z - mean), dn and (n < 0) dy * n, where dn is the
    // gradient of n: out (5, channels) in this struct's order.
    void gradients(const double *sums, int c, int channels, T *out) const {
        const double inverse = inverse_deviation(c), w = double(weight[c]);
        out[c] = T(-w * inverse * sums[1]);
        out[channels + c] = T(-0.5 * w * inverse * inverse * inverse * sums[0]);
        out[2 * channels + c] = T(inverse * sums[0]);
        out[3 * channels + c] = T(sums[1]);
        out[4 * channels + c] = T(sums[2]);
    }
};

// What applies it: n = z * scale + shift; padded with zeros to the channel unit.
template <class T>
struct Norm {
    T *mean, *scale, *shift, *slope;

    void set(const NormInput<T> &in, int channels, int padded) {
        for (int c = 0; c < padded; ++c) {
            const bool used = c < channels;
            const double factor = used ? in.inverse_deviation(c) * double(in.weight[c]) : 0.0;
            mean[c] = used ? in.mean[c] : T(0);
            scale[c] = T(factor);
            shift[c] = used ? T(double(in.bias[c]) - double(in.mean[c]) * factor) : T(0);
            slope[c] = used ? in.slope[c] : T(0);
        }
    }
};

// As torch's: the first where larger, and any NaN.
template <class T>
inline Vector<T> maximum(Vector<T> a, Vector<T> b) {
    const Vector<T> larger = a > b ? a : b;
    return a != a ? a : larger;
}

template <class T>
inline Vector<T> activate(Vector<T> n, Vector<T> slope) {
    return n > Vector<T>{} ? n : n * slope;
}

// z (width, channels) -> y, pixels `pitch` apart.
template <class T>
void activate_row(const T *z, int width, int channels, const Norm<T> &norm, T *y, int64_t pitch) {
    using V = Vector<T>;
    for_channel_blocks<T>(channels, [&](auto block, int c) {
        constexpr int B = decltype(block)::value;
        V s[B], t[B], a[B];
        for (int b = 0; b < B; ++b) {
            s[b] = load(norm.scale + c + b * kLanes<T>);
            t[b] = load(norm.shift + c + b * kLanes<T>);
            a[b] = load(norm.slope + c + b * kLanes<T>);
        }
        for (int j = 0; j < width; ++j)
#pragma GCC unroll 4
            for (int b = 0; b < B; ++b) {
                const V n = load(z + int64_t(j) * channels + c + b * kLanes<T>) * s[b] + t[b];
                store(y + j * pitch + c + b * kLanes<T>, activate<T>(n, a[b]));
            }
    });
}

// Two rows of z (at least 2 * width, channels), 2x2 max pooled -> y (width).
template <class T>
void activate_pooled_row(const T *z0, const T *z1, int width, int channels, const Norm<T> &norm, T *y, int64_t pitch) {
    using V = Vector<T>;
    for_channel_blocks<T>(channels, [&](auto block, int c) {
        constexpr int B = decltype(block)::value;
        V s[B], t[B], a[B];
        for (int b = 0; b < B; ++b) {
            s[b] = load(norm.scale + c + b * kLanes<T>);
            t[b] = load(norm.shift + c + b * kLanes<T>);
            a[b] = load(norm.slope + c + b * kLanes<T>);
        }
        for (int j = 0; j < width; ++j)
#pragma GCC unroll 4
            for (int b = 0; b < B; ++b) {
                const int64_t at = int64_t(2 * j) * channels + c + b * kLanes<T>;
                const V v0 = activate<T>(load(z0 + at) * s[b] + t[b], a[b]);
                const V v1 = activate<T>(load(z0 + at + channels) * s[b] + t[b], a[b]);
                const V v2 = activate<T>(load(z1 + at) * s[b] + t[b], a[b]);
                const V v3 = activate<T>(load(z1 + at + channels) * s[b] + t[b], a[b]);
                store(y + j * pitch + c + b * kLanes<T>, maximum<T>(maximum<T>(v0, v1), maximum<T>(v2, v3)));
            }
    });
}

// Sums over pixels for the gradients of scale, bias and slope: in T over one chunk of pixels,
// in double over chunks.
template <class T>
struct NormSums {
    T *scale, *bias, *slope;  // this chunk's
    double *total;            // (3, channels)

    void clear(int channels) {
        std::memset(total, 0, sizeof(double) * 3 * size_t(channels));
        clear_chunk(channels);
    }
    void clear_chunk(int channels) {
        for (T *sums : {scale, bias, slope}) std::memset(sums, 0, sizeof(T) * size_t(channels));
    }
    void end_chunk(int channels) {
        for (int c = 0; c < channels; ++c) {
            total[c] += scale[c];
            total[channels + c] += bias[c];
            total[2 * channels + c] += slope[c];
        }
        clear_chunk(channels);
    }
};

// One block of channels of `activate_*_backward`: constants and running sums in registers.
template <class T, int B>
struct NormBlock {
    using V = Vector<T>;
    V mean[B], s[B], t[B], a[B], d_scale[B], d_bias[B], d_slope[B];

    inline void begin(const Norm<T> &norm, const NormSums<T> &sums, int c) {
        for (int b = 0; b < B; ++b) {
            const int at = c + b * kLanes<T>;
            mean[b] = load(norm.mean + at);
            s[b] = load(norm.scale + at);
            t[b] = load(norm.shift + at);
            a[b] = load(norm.slope + at);
            d_scale[b] = load(sums.scale + at);
            d_bias[b] = load(sums.bias + at);
            d_slope[b] = load(sums.slope + at);
        }
    }
    inline void end(const NormSums<T> &sums, int c) {
        for (int b = 0; b < B; ++b) {
            const int at = c + b * kLanes<T>;
            store(sums.scale + at, d_scale[b]);
            store(sums.bias + at, d_bias[b]);
            store(sums.slope + at, d_slope[b]);
        }
    }
    // Adds to the sums and returns the gradient of z.
    inline V step(int b, V z, V n, V dy) {
        const V zero = {};
        const auto positive = n > zero;
        const V dn = positive ? dy : dy * a[b];
        d_scale[b] += dn * (z - mean[b]);
        d_bias[b] += dn;
        d_slope[b] += positive ? zero : dy * n;
        return dn * s[b];
    }
};

// dy (width, pitch) -> dz (width, channels).
template <class T>
void activate_row_backward(const T *z, const T *dy, int64_t pitch, int width, int channels, const Norm<T> &norm,
                           const NormSums<T> &sums, T *dz) {
    for_channel_pairs<T>(channels, [&](auto block, int c) {
        constexpr int B = decltype(block)::value;
        NormBlock<T, B> k;
        k.begin(norm, sums, c);
        for (int j = 0; j < width; ++j)
#pragma GCC unroll 2
            for (int b = 0; b < B; ++b) {
                const int64_t from = c + b * kLanes<T>, at = int64_t(j) * channels + from;
                const auto zj = load(z + at);
                stream<T>(dz + at, k.step(b, zj, zj * k.s[b] + k.t[b], load(dy + j * pitch + from)));
            }
        k.end(sums, c);
    });
}

// The same through 2x2 max pooling: the gradient goes to the first of the largest.
template <class T>
void activate_pooled_row_backward(const T *z0, const T *z1, const T *dy, int64_t pitch, int width, int channels,
                                  const Norm<T> &norm, const NormSums<T> &sums, T *dz0, T *dz1) {
    using V = Vector<T>;
    for_channel_pairs<T>(channels, [&](auto block, int c) {
        constexpr int B = decltype(block)::value;
        NormBlock<T, B> k;
        k.begin(norm, sums, c);
        const V zero = {};
        for (int j = 0; j < width; ++j)
#pragma GCC unroll 2
            for (int b = 0; b < B; ++b) {
                const int64_t from = c + b * kLanes<T>, at = int64_t(2 * j) * channels + from;
                const V z[4] = {load(z0 + at), load(z0 + at + channels), load(z1 + at), load(z1 + at + channels)};
                T *const to[4] = {dz0 + at, dz0 + at + channels, dz1 + at, dz1 + at + channels};
                V n[4], v[4];
#pragma GCC unroll 4
                for (int i = 0; i < 4; ++i) {
                    n[i] = z[i] * k.s[b] + k.t[b];
                    v[i] = activate<T>(n[i], k.a[b]);
                }
                const V largest = maximum<T>(maximum<T>(v[0], v[1]), maximum<T>(v[2], v[3]));
                V left = load(dy + j * pitch + from);
#pragma GCC unroll 4
                for (int i = 0; i < 4; ++i) {
                    const auto here = v[i] == largest;
                    const V mine = i == 3 ? left : here ? left : zero;
                    left = here ? zero : left;
                    stream<T>(to[i], k.step(b, z[i], n[i], mine));
                }
            }
        k.end(sums, c);
    });
}

// What batch norm needs of one thread's pixels. Sums are of (z - pivot), pivot being the first
// chunk's mean: sums of squares less the squared mean lose every digit where a channel's mean
// is large beside its deviation.
template <class T>
struct Moments {
    double *sum, *square;  // (channels)
    T *pivot;
    int64_t count;

    void clear(int channels) {
        count = 0;
        std::memset(sum, 0, sizeof(double) * size_t(channels));
        std::memset(square, 0, sizeof(double) * size_t(channels));
    }

    // z (rows, channels)
    void add(const T *z, int64_t rows, int channels) {
        using V = Vector<T>;
        if (count == 0) set_pivot(z, rows, channels);
        for_channel_blocks<T>(channels, [&](auto block, int c) {
            constexpr int B = decltype(block)::value;
            V p[B], s1[B], s2[B];
            for (int b = 0; b < B; ++b) {
                p[b] = load(pivot + c + b * kLanes<T>);
                s1[b] = s2[b] = V{};
            }
            for (int64_t r = 0; r < rows; ++r)
#pragma GCC unroll 4
                for (int b = 0; b < B; ++b) {
                    const V d = load(z + r * channels + c + b * kLanes<T>) - p[b];
                    s1[b] += d;
                    s2[b] += d * d;
                }
            for (int b = 0; b < B; ++b)
                for (int i = 0; i < kLanes<T>; ++i) {
                    sum[c + b * kLanes<T> + i] += s1[b][i];
                    square[c + b * kLanes<T> + i] += s2[b][i];
                }
        });
        count += rows;
    }

    void set_pivot(const T *z, int64_t rows, int channels) {
        std::memset(pivot, 0, sizeof(T) * size_t(channels));
        for (int64_t r = 0; r < rows; ++r)
            for (int c = 0; c < channels; ++c) pivot[c] += z[r * channels + c];
        for (int c = 0; c < channels; ++c) pivot[c] /= T(rows);
    }
};

// Joins the threads' moments in their order (Chan, Golub & LeVeque 1979): mean and biased variance.
template <class T>
void join_moments(const Moments<T> *parts, int count, int channels, T *mean_out, T *variance_out) {
    for (int c = 0; c < channels; ++c) {
        double n = 0, mean = 0, m2 = 0;
        for (int i = 0; i < count; ++i) {
            const double k = double(parts[i].count);
            if (k == 0) continue;
            const double offset = parts[i].sum[c] / k, here = double(parts[i].pivot[c]) + offset, delta = here - mean;
            m2 += parts[i].square[c] - offset * parts[i].sum[c] + delta * delta * n * k / (n + k);
            mean += delta * k / (n + k);
            n += k;
        }
        mean_out[c] = T(mean);
        variance_out[c] = T(m2 > 0 || m2 != m2 ? m2 / n : 0);
    }
}

// The whole gradient of a kept output: what came back from the next layer, and what came
// through the batch's mean and variance. dz = g + d_mean / n + (z - mean) 2 d_variance / n
template <class T>
struct MomentsBackward {
    T *mean, *per_mean, *per_variance;  // padded

    void set(const T *mean_in, const T *d_mean, const T *d_variance, double n, int channels, int padded) {
        for (int c = 0; c < padded; ++c) {
            const bool used = c < channels;
            mean[c] = used ? mean_in[c] : T(0);
            per_mean[c] = used ? T(d_mean[c] / n) : T(0);
            per_variance[c] = used ? T(2 * d_variance[c] / n) : T(0);
        }
    }

    // z, g (rows, channels) -> dz, rows `pitch` apart
    void apply(const T *z, const T *g, int64_t rows, int channels, T *dz, int64_t pitch) const {
        using V = Vector<T>;
        for_channel_blocks<T>(channels, [&](auto block, int c) {
            constexpr int B = decltype(block)::value;
            V m[B], a[B], v[B];
            for (int b = 0; b < B; ++b) {
                m[b] = load(mean + c + b * kLanes<T>);
                a[b] = load(per_mean + c + b * kLanes<T>);
                v[b] = load(per_variance + c + b * kLanes<T>);
            }
            for (int64_t r = 0; r < rows; ++r)
#pragma GCC unroll 4
                for (int b = 0; b < B; ++b) {
                    const int64_t at = r * channels + c + b * kLanes<T>;
                    store(dz + r * pitch + c + b * kLanes<T>, load(g + at) + a[b] + (load(z + at) - m[b]) * v[b]);
                }
        });
    }
};

}  // namespace quicknet
