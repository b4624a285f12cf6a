// One separable layer: (activation of the previous layer's kept output, pooling,) depthwise K x K,
// pointwise, and the moments of the result for its batch norm. Only the pointwise output is kept;
// backward makes the activated input and the depthwise output of a chunk again.
#pragma once

#include <vector>

#include "depthwise.h"
#include "product.h"
#include "stream.h"

namespace quicknet {

template <class T, class E>
struct SeparableWeights {
    T *depthwise, *flipped;
    E *panels, *back_panels;

    // depthwise (C, 1, K, K) -> (K * K, padded C), and turned by 180 degrees for the gradient.
    void set_depthwise(const T *weight, int channels, int padded, int taps) {
        for (int q = 0; q < taps; ++q)
            for (int c = 0; c < padded; ++c) {
                const T value = c < channels ? weight[int64_t(c) * taps + q] : T(0);
                depthwise[int64_t(q) * padded + c] = value;
                if (flipped != nullptr) flipped[int64_t(taps - 1 - q) * padded + c] = value;
            }
    }
};

// What a call needs of memory and of sizes, once.
template <class T, int K>
struct SeparablePlan {
    static constexpr int border = K / 2;
    const Separable &s;
    int channels, in_padded, out_padded, height, width;
    int64_t pitch, out_pitch, chunk_rows, ring_rows, ring_size, chunk_size;

    explicit SeparablePlan(const Separable &shape) : s(shape) {
        channels = int(s.in_channels);
        in_padded = padded_channels<T>(s.in_channels);
        out_padded = padded_channels<T>(s.out_channels);
        height = s.height();
        width = s.width();
        pitch = pixel_pitch<T>(in_padded);
        out_pitch = pixel_pitch<T>(out_padded);
        chunk_rows = std::max<int64_t>(1, chunk_pixels<T>(std::max(in_padded, out_padded)) / width);
        ring_rows = Ring<T>::rows_for(chunk_rows, height, border);
        ring_size = ring_rows * (width + 2 * border) * pitch;
        chunk_size = (chunk_rows + border) * width + kSpareRows;  // pixels, with what `product` reads past the end
    }

    int pieces() const { return piece_count(s.images, s.images * height * width, chunk_rows * width, s.threads); }

    // What the products want of a chunk's input and output.
    template <class E>
    int64_t scratch() const {
        return Elements<T, E>::scratch(chunk_size, pitch) + Elements<T, E>::scratch(chunk_size, out_pitch);
    }

    ActivatedRows<T> rows(T *memory, const Norm<T> &norm, const T *z, int64_t first_image) const {
        ActivatedRows<T> rows;
        rows.ring.set(memory, ring_rows, height, width, border, pitch);
        rows.norm = norm;
        rows.in_height = int(s.in_height);
        rows.in_width = int(s.in_width);
        rows.channels = in_padded;
        rows.pool = s.pool != 0;
        rows.pitch = pitch;
        rows.filled = 0;
        rows.z = z + first_image * s.in_height * rows.row_elements();
        return rows;
    }
};

template <class T>
struct SeparableInput {
    const T *z;
    NormInput<T> norm;
    const T *depthwise, *pointwise;
};

// A layer's kept output z (N, h, w, padded O) and its moments (O), or null where not wanted.
template <class T>
struct LayerOutput {
    T *z, *mean, *variance;
};

// What backward of a layer gets: its kept output, and gradients of that and of its moments.
template <class T>
struct LayerKept {
    const T *g, *z, *mean, *d_mean, *d_variance;  // g, z (N, h, w, padded O); the others (O)
};

template <class T, class E, int K>
void separable_forward_images(const SeparablePlan<T, K> &plan, const Norm<T> &norm,
                              const SeparableWeights<T, E> &weights, const T *z, Range images, T *out,
                              Moments<T> *moments) {
    T *ring, *d;
    E *scratch;
    thread_arena().take(
        {{&ring, plan.ring_size}, {&d, plan.chunk_size * plan.pitch}, {&scratch, plan.template scratch<E>()}});
    ActivatedRows<T> input = plan.rows(ring, norm, z, images.begin);
    std::vector<const T *> taps(size_t(plan.chunk_rows * K));
    std::vector<T *> targets(size_t(plan.chunk_rows * plan.width));
    T *next = out + images.begin * plan.height * plan.width * plan.out_padded;
    const int64_t total = (images.end - images.begin) * plan.height;
    for (int64_t row = 0; row < total; row += plan.chunk_rows) {
        const int count = int(std::min(plan.chunk_rows, total - row)), pixels = count * plan.width;
        input.fill(input.ring.first(row + count - 1) + K);
        for (int r = 0; r < count; ++r)
            for (int q = 0; q < K; ++q) taps[size_t(r * K + q)] = input.ring.at(input.ring.first(row + r) + q);
        depthwise<T, K>(taps.data(), count, plan.width, plan.in_padded, plan.pitch, weights.depthwise, d);
        for (int i = 0; i < pixels; ++i) targets[size_t(i)] = next + int64_t(i) * plan.out_padded;
        product(pixels, plan.channels, plan.out_padded, d, plan.pitch, weights.panels, targets.data(), scratch);
        if (moments != nullptr) moments->add(next, pixels, plan.out_padded);
        next += int64_t(pixels) * plan.out_padded;
    }
}

template <class T, class E, int K>
void separable_forward(const Separable &s, const SeparableInput<T> &in, const LayerOutput<T> &out) {
    const SeparablePlan<T, K> plan(s);
    const int c = plan.in_padded, o = plan.out_padded, pieces = plan.pieces();
    Norm<T> norm;
    SeparableWeights<T, E> weights{};
    T *pivots, *joined;
    double *sums;
    const int64_t sum_count = int64_t(pieces) * 2 * o * int64_t(sizeof(double) / sizeof(T));
    T *sums_memory;
    shared_arena().take({{&norm.mean, c},
                         {&norm.scale, c},
                         {&norm.shift, c},
                         {&norm.slope, c},
                         {&weights.depthwise, int64_t(K) * K * c},
                         {&weights.panels, packed_size<T, E>(s.in_channels, o)},
                         {&pivots, int64_t(pieces) * o},
                         {&sums_memory, sum_count},
                         {&joined, 2 * o}});
    sums = reinterpret_cast<double *>(sums_memory);
    norm.set(in.norm, plan.channels, c);
    weights.set_depthwise(in.depthwise, plan.channels, c, K * K);
    pack_panels(in.pointwise, 1, s.in_channels, plan.channels, o, int(s.out_channels), weights.panels);
    std::vector<Moments<T>> moments(static_cast<size_t>(pieces));
    for_pieces(pieces, s.threads, [&](int i) {
        moments[size_t(i)] = {sums + int64_t(i) * 2 * o, sums + int64_t(i) * 2 * o + o, pivots + int64_t(i) * o, 0};
        moments[size_t(i)].clear(o);
        separable_forward_images<T, E, K>(plan, norm, weights, in.z, share(s.images, i, pieces), out.z,
                                          out.mean == nullptr ? nullptr : &moments[size_t(i)]);
    });
    if (out.mean == nullptr) return;
    join_moments(moments.data(), pieces, o, joined, joined + o);
    std::copy(joined, joined + s.out_channels, out.mean);
    std::copy(joined + o, joined + o + s.out_channels, out.variance);
}

}  // namespace quicknet
