// The first convolution: patches of a chunk of output pixels laid out as rows, one matrix
// product, and the moments of the result. The image itself needs no gradient.
#pragma once

#include <vector>

#include "product.h"
#include "separable.h"

namespace quicknet {

struct Stem {
    int64_t images, in_height, in_width, in_channels, out_channels, kernel, stride, bf16, threads;

    int64_t height() const { return (in_height - kernel) / stride + 1; }
    int64_t width() const { return (in_width - kernel) / stride + 1; }
    int64_t depth() const { return kernel * kernel * in_channels; }
};

// x (N, H, W, C), weight (O, K, K, C).
template <class T>
struct StemInput {
    const T *x, *weight;
};

// Of weight; the image needs none.
template <class T>
struct StemGradients {
    T *weight;
};

// Copies `count` elements by whole vectors: up to a vector more is read and written.
template <class T>
inline void copy_run(const T *from, int count, T *to) {
    for (int i = 0; i < count; i += kLanes<T>) store(to + i, load(from + i));
}

template <class T>
struct StemPlan {
    const Stem &s;
    int padded, depth, depth_padded;
    int64_t pitch, out_pitch, chunk, pixels;

    explicit StemPlan(const Stem &shape) : s(shape) {
        padded = padded_channels<T>(s.out_channels);
        depth = int(s.depth());
        depth_padded = padded_channels<T>(depth);
        pitch = depth_padded + kLanes<T>;  // room for what `copy_run` writes past the end
        out_pitch = pixel_pitch<T>(padded);
        chunk = chunk_pixels<T>(std::max(depth_padded, padded));
        pixels = s.height() * s.width();
    }

    int pieces() const { return piece_count(s.images, s.images * pixels, chunk, s.threads); }
    int64_t patch_size() const { return (chunk + kSpareRows) * pitch + kLanes<T>; }
    template <class E>
    int64_t scratch() const {
        return Elements<T, E>::scratch(chunk + kSpareRows, pitch) +
               Elements<T, E>::scratch(chunk + kSpareRows, out_pitch);
    }

    // Patches of pixels [first, first + count) of one image, ordered (row, column, channel).
    void patches(const T *image, int64_t first, int count, T *out) const {
        const int run = int(s.kernel * s.in_channels);
        const int64_t row_size = s.in_width * s.in_channels, image_size = s.in_height * row_size;
        for (int p = 0; p < count; ++p, out += pitch) {
            const int64_t i = (first + p) / s.width() * s.stride, j = (first + p) % s.width() * s.stride;
            for (int64_t q = 0; q < s.kernel; ++q) {
                const int64_t at = (i + q) * row_size + j * s.in_channels;
                if (at + round_up(run, kLanes<T>) <= image_size)
                    copy_run(image + at, run, out + q * run);
                else
                    std::memcpy(out + q * run, image + at, sizeof(T) * size_t(run));
            }
            for (int k = depth; k < depth_padded; ++k) out[k] = T(0);
        }
    }
};

template <class T, class E>
void stem_forward(const Stem &s, const StemInput<T> &in, const LayerOutput<T> &out) {
    const StemPlan<T> plan(s);
    const int o = plan.padded, pieces = plan.pieces();
    T *pivots, *sums_memory, *joined;
    E *panels;
    shared_arena().take({{&panels, packed_size<T, E>(plan.depth, o)},
                         {&pivots, int64_t(pieces) * o},
                         {&sums_memory, int64_t(pieces) * 2 * o * int64_t(sizeof(double) / sizeof(T))},
                         {&joined, 2 * o}});
    double *sums = reinterpret_cast<double *>(sums_memory);
    pack_panels(in.weight, 1, plan.depth, plan.depth, o, int(s.out_channels), panels);
    std::vector<Moments<T>> moments(static_cast<size_t>(pieces));
    for_pieces(pieces, s.threads, [&](int i) {
        Moments<T> &mine = moments[size_t(i)];
        mine = {sums + int64_t(i) * 2 * o, sums + int64_t(i) * 2 * o + o, pivots + int64_t(i) * o, 0};
        mine.clear(o);
        T *patches;
        E *scratch;
        thread_arena().take({{&patches, plan.patch_size()}, {&scratch, plan.template scratch<E>()}});
        std::vector<T *> targets(static_cast<size_t>(plan.chunk));
        const Range images = share(s.images, i, pieces);
        for (int64_t n = images.begin; n < images.end; ++n)
            for (int64_t first = 0; first < plan.pixels; first += plan.chunk) {
                const int count = int(std::min(plan.chunk, plan.pixels - first));
                T *z = out.z + (n * plan.pixels + first) * o;
                plan.patches(in.x + n * s.in_height * s.in_width * s.in_channels, first, count, patches);
                for (int p = 0; p < count; ++p) targets[size_t(p)] = z + int64_t(p) * o;
                product(count, plan.depth, o, patches, plan.pitch, panels, targets.data(), scratch);
                if (out.mean != nullptr) mine.add(z, count, o);
            }
    });
    if (out.mean == nullptr) return;
    join_moments(moments.data(), pieces, o, joined, joined + o);
    std::copy(joined, joined + s.out_channels, out.mean);
    std::copy(joined + o, joined + o + s.out_channels, out.variance);
}

template <class T, class E>
void stem_backward(const Stem &s, const StemInput<T> &in, const LayerKept<T> &kept, const StemGradients<T> &out) {
    const StemPlan<T> plan(s);
    const int o = plan.padded, pieces = plan.pieces();
    const int64_t part = int64_t(o) * plan.depth_padded;
    MomentsBackward<T> moments;
    T *parts;
    shared_arena().take(
        {{&moments.mean, o}, {&moments.per_mean, o}, {&moments.per_variance, o}, {&parts, pieces * part}});
    moments.set(kept.mean, kept.d_mean, kept.d_variance, double(s.images) * double(plan.pixels), int(s.out_channels),
                o);
    std::memset(parts, 0, sizeof(T) * size_t(pieces * part));
    for_pieces(pieces, s.threads, [&](int i) {
        T *patches, *dz;
        E *scratch;
        thread_arena().take({{&patches, plan.patch_size()},
                             {&dz, (plan.chunk + kSpareRows) * plan.out_pitch},
                             {&scratch, plan.template scratch<E>()}});
        const Range images = share(s.images, i, pieces);
        for (int64_t n = images.begin; n < images.end; ++n)
            for (int64_t first = 0; first < plan.pixels; first += plan.chunk) {
                const int count = int(std::min(plan.chunk, plan.pixels - first));
                const int64_t at = (n * plan.pixels + first) * o;
                plan.patches(in.x + n * s.in_height * s.in_width * s.in_channels, first, count, patches);
                moments.apply(kept.z + at, kept.g + at, count, o, dz, plan.out_pitch);
                outer_product(count, o, plan.depth_padded, dz, plan.out_pitch, patches, plan.pitch, parts + i * part,
                              scratch);
            }
    });
    for (int64_t m = 0; m < s.out_channels; ++m)
        for (int64_t k = 0; k < plan.depth; ++k) {
            T sum = 0;
            for (int i = 0; i < pieces; ++i) sum += parts[i * part + m * plan.depth_padded + k];
            out.weight[m * plan.depth + k] = sum;
        }
}

}  // namespace quicknet
