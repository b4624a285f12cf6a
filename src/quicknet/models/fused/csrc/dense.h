// Dense 3x3 convolutions by minimal filtering (Lavin, Gray 2015, arXiv:1509.09308, F(4x4, 3x3)): 36
// products for 4x4 pixels of the output where the direct way takes 144. Each tile of 6x6 input pixels
// is transformed, so that pixel, weight and sum meet in 36 independent matrix products (`product.h`)
// over channels; then 4x4 output pixels are transformed back. Stride 1, zero padding of 1.
#pragma once

#include <vector>

#include "pieces.h"
#include "product.h"

namespace quicknet {

constexpr int kTile = 4, kWindow = 6, kPlaces = kWindow * kWindow;
// Of the transformed input and output of one chunk of tiles: each chunk reads all weights once, so 8 MB was
// 6% slower at 512 channels on a Zen 1 with 8 MB of third-level cache, and 32 MB no faster.
constexpr int64_t kDenseChunkBytes = int64_t(16) << 20;

struct Dense {
    int64_t images, height, width, in_channels, out_channels, threads;
};

// x (images, height, width, C); weight (3, 3, C, O). Channels are multiples of the vector, of 4 at least.
template <class T>
struct DenseInput {
    const T *x, *weight;
};

// y (images, height, width, O).
template <class T>
struct DenseOutput {
    T *y;
};

// x (images, height, width, C) and the output's gradient dy (images, height, width, O).
template <class T>
struct DenseKept {
    const T *x, *dy;
};

// weight (3, 3, C, O).
template <class T>
struct DenseGradients {
    T *weight;
};

// The four transforms of one line; in two dimensions each is applied to columns, then to rows.
struct ToWindow {  // input: 6 pixels -> 6 places
    static constexpr int in = kWindow, out = kWindow;
    template <class V>
    static void line(const V *d, V *t) {
        const V a = d[4] - 4 * d[2], b = d[3] - 4 * d[1], c = d[4] - d[2], e = 2 * (d[3] - d[1]);
        t[0] = 4 * d[0] - 5 * d[2] + d[4];
        t[1] = a + b;
        t[2] = a - b;
        t[3] = c + e;
        t[4] = c - e;
        t[5] = 4 * d[1] - 5 * d[3] + d[5];
    }
};
struct FromWindow {  // sums: 6 places -> 4 pixels of the output
    static constexpr int in = kWindow, out = kTile;
    template <class V>
    static void line(const V *m, V *y) {
        const V p = m[1] + m[2], q = m[1] - m[2], r = m[3] + m[4], s = m[3] - m[4];
        y[0] = m[0] + p + r;
        y[1] = q + 2 * s;
        y[2] = p + 4 * r;
        y[3] = q + 8 * s + m[5];
    }
};
struct GradientToWindow {  // its transpose: gradients of 4 pixels -> of 6 places
    static constexpr int in = kTile, out = kWindow;
    template <class V>
    static void line(const V *y, V *m) {
        const V p = y[0] + y[2], q = y[1] + y[3], r = y[0] + 4 * y[2], s = 2 * y[1] + 8 * y[3];
        m[0] = y[0];
        m[1] = p + q;
        m[2] = p - q;
        m[3] = r + s;
        m[4] = r - s;
        m[5] = y[3];
    }
};
struct WeightToWindow {  // 3 weights -> 6 places
    static constexpr int in = 3, out = kWindow;
    template <class V>
    static void line(const V *g, V *u) {
        const V h = (g[0] + g[2]) / -6, k = g[1] / 6, v = g[0] / 24 + g[2] / 6, w = g[1] / 12;
        u[0] = g[0] / 4;
        u[1] = h - k;
        u[2] = h + k;
        u[3] = v + w;
        u[4] = v - w;
        u[5] = g[2];
    }
};
struct WeightFromWindow {  // its transpose: gradients of 6 places -> of 3 weights
    static constexpr int in = kWindow, out = 3;
    template <class V>
    static void line(const V *u, V *g) {
        const V p = (u[1] + u[2]) / 6, r = u[3] + u[4];
        g[0] = u[0] / 4 - p + r / 24;
        g[1] = (u[2] - u[1]) / 6 + (u[3] - u[4]) / 12;
        g[2] = r / 6 - p + u[5];
    }
};

// from(i, j) gives a vector of channels, to(i, j, vector) takes one.
template <class T, class Kind, class From, class To>
inline void transform(From from, To to) {
    Vector<T> half[Kind::out][Kind::in], line[kWindow], result[kWindow];
#pragma GCC unroll 6
    for (int j = 0; j < Kind::in; ++j) {
#pragma GCC unroll 6
        for (int i = 0; i < Kind::in; ++i) line[i] = from(i, j);
        Kind::line(line, result);
#pragma GCC unroll 6
        for (int i = 0; i < Kind::out; ++i) half[i][j] = result[i];
    }
#pragma GCC unroll 6
    for (int i = 0; i < Kind::out; ++i) {
        Kind::line(half[i], result);
#pragma GCC unroll 6
        for (int j = 0; j < Kind::out; ++j) to(i, j, result[j]);
    }
}

// One call's tiles and where a chunk of them lies in scratch: 36 matrices (tiles, channels).
template <class T>
struct Tiling {
    Tiling(const Dense &s)
        : height(s.height),
          width(s.width),
          across((s.width + kTile - 1) / kTile),
          per_image(across * ((s.height + kTile - 1) / kTile)),
          count(s.images * per_image) {
        const int64_t tile = kPlaces * (s.in_channels + s.out_channels) * int64_t(sizeof(T));
        chunk = std::min(count, round_up(std::max<int64_t>(48, kDenseChunkBytes / tile), kBlockRows));
    }
    int64_t height, width, across, per_image, count, chunk;

    // Rows past a chunk's last are read by the products, and dropped.
    int64_t place(int64_t channels) const { return (chunk + kBlockRows) * pixel_pitch<T>(channels) + 16; }

    // The addresses of a tile's side x side pixels, the first `before` above and left of the tile; `outside`
    // for those that the map has not.
    template <class P>
    void pixels(int64_t tile, int side, int before, P *map, int64_t channels, P *outside, P **to) const {
        const int64_t image = tile / per_image, top = tile % per_image / across * kTile - before,
                      left = tile % across * kTile - before;
        for (int i = 0; i < side; ++i)
            for (int j = 0; j < side; ++j) {
                const int64_t row = top + i, column = left + j;
                const bool inside = row >= 0 && row < height && column >= 0 && column < width;
                to[i * side + j] = inside ? map + ((image * height + row) * width + column) * channels : outside;
            }
    }
};

// Tiles begin..begin + count of a map (its pixels or their gradients) -> 36 matrices (count, channels).
template <class T, class Kind>
void to_window(const Tiling<T> &tiles, int64_t begin, int64_t count, int64_t threads, const T *map, int64_t channels,
               const T *zeros, T *out) {
    const int64_t pitch = pixel_pitch<T>(channels), place = tiles.place(channels);
    const int pieces = int(std::min(count, 4 * threads));
    for_pieces(pieces, threads, [&](int piece) {
        const Range mine = share(count, piece, pieces);
        const T *pixels[kPlaces];
        for (int64_t tile = mine.begin; tile < mine.end; ++tile) {
            tiles.pixels(begin + tile, Kind::in, Kind::in == kWindow, map, channels, zeros, pixels);
            for (int64_t c = 0; c < channels; c += kLanes<T>)
                transform<T, Kind>(
                    [&](int i, int j) { return load(pixels[i * Kind::in + j] + c); },
                    [&](int i, int j, Vector<T> v) { store(out + (i * kWindow + j) * place + tile * pitch + c, v); });
        }
    });
}

// 36 matrices (count, channels) -> tiles begin..begin + count of the output.
template <class T>
void from_window(const Tiling<T> &tiles, int64_t begin, int64_t count, int64_t threads, const T *sums, int64_t channels,
                 T *map) {
    const int64_t pitch = pixel_pitch<T>(channels), place = tiles.place(channels);
    const int pieces = int(std::min(count, 4 * threads));
    for_pieces(pieces, threads, [&](int piece) {
        const Range mine = share(count, piece, pieces);
        T *pixels[kTile * kTile];
        for (int64_t tile = mine.begin; tile < mine.end; ++tile) {
            tiles.pixels(begin + tile, kTile, 0, map, channels, static_cast<T *>(nullptr), pixels);
            for (int64_t c = 0; c < channels; c += kLanes<T>)
                transform<T, FromWindow>(
                    [&](int i, int j) { return load(sums + (i * kWindow + j) * place + tile * pitch + c); },
                    [&](int i, int j, Vector<T> v) {
                        if (pixels[i * kTile + j] != nullptr) store(pixels[i * kTile + j] + c, v);
                    });
        }
    });
}

// weight (3, 3, C, O) -> 36 matrices (C, O) in the panels of `product`.
template <class T>
void weight_to_window(const Dense &s, const T *weight, T *panels) {
    constexpr int64_t panel = kPanelVectors * kLanes<T>;
    const int64_t ins = s.in_channels, outs = s.out_channels;
    for_pieces(int(ins), s.threads, [&](int k) {
        for (int64_t o = 0; o < outs; o += kLanes<T>) {
            const int64_t first = o / panel * panel, width = std::min(panel, outs - first);
            T *to = panels + first * ins + k * width + o - first;
            transform<T, WeightToWindow>(
                [&](int i, int j) { return load(weight + ((i * 3 + j) * ins + k) * outs + o); },
                [&](int i, int j, Vector<T> v) { store(to + (i * kWindow + j) * ins * outs, v); });
        }
    });
}

template <class T>
void dense_forward(const Dense &s, const DenseInput<T> &in, const DenseOutput<T> &out) {
    const Tiling<T> tiles(s);
    const int64_t ins = s.in_channels, outs = s.out_channels;
    T *panels, *window, *sums, *zeros;
    shared_arena().take({{&panels, kPlaces * ins * outs},
                         {&window, kPlaces * tiles.place(ins)},
                         {&sums, kPlaces * tiles.place(outs)},
                         {&zeros, ins}});
    std::fill_n(zeros, ins, T(0));
    weight_to_window(s, in.weight, panels);
    const int64_t pitch = pixel_pitch<T>(outs);
    std::vector<T *> rows(size_t(kPlaces * tiles.chunk));
    for (int64_t place = 0; place < kPlaces; ++place)
        for (int64_t r = 0; r < tiles.chunk; ++r)
            rows[size_t(place * tiles.chunk + r)] = sums + place * tiles.place(outs) + r * pitch;
    for (int64_t begin = 0; begin < tiles.count; begin += tiles.chunk) {
        const int64_t count = std::min(tiles.chunk, tiles.count - begin);
        to_window<T, ToWindow>(tiles, begin, count, s.threads, in.x, ins, zeros, window);
        for_pieces(kPlaces, s.threads, [&](int place) {
            product<T, T>(int(count), int(ins), int(outs), window + place * tiles.place(ins), pixel_pitch<T>(ins),
                          panels + place * ins * outs, rows.data() + place * tiles.chunk, nullptr);
        });
        from_window(tiles, begin, count, s.threads, sums, outs, out.y);
    }
}

template <class T>
void dense_weight_gradient(const Dense &s, const DenseKept<T> &kept, const DenseGradients<T> &out) {
    const Tiling<T> tiles(s);
    const int64_t ins = s.in_channels, outs = s.out_channels;
    T *places, *window, *gradient, *zeros;
    shared_arena().take({{&places, kPlaces * ins * outs},
                         {&window, kPlaces * tiles.place(ins)},
                         {&gradient, kPlaces * tiles.place(outs)},
                         {&zeros, std::max(ins, outs)}});
    std::fill_n(zeros, std::max(ins, outs), T(0));
    for (int64_t begin = 0; begin < tiles.count; begin += tiles.chunk) {
        const int64_t count = std::min(tiles.chunk, tiles.count - begin);
        to_window<T, ToWindow>(tiles, begin, count, s.threads, kept.x, ins, zeros, window);
        to_window<T, GradientToWindow>(tiles, begin, count, s.threads, kept.dy, outs, zeros, gradient);
        for_pieces(kPlaces, s.threads, [&](int place) {
            T *sum = places + place * ins * outs;
            if (begin == 0) std::fill_n(sum, ins * outs, T(0));
            outer_product<T, T>(int(count), int(ins), int(outs), window + place * tiles.place(ins), pixel_pitch<T>(ins),
                                gradient + place * tiles.place(outs), pixel_pitch<T>(outs), sum, nullptr);
        });
    }
    for_pieces(int(ins), s.threads, [&](int k) {
        for (int64_t o = 0; o < outs; o += kLanes<T>)
            transform<T, WeightFromWindow>(
                [&](int i, int j) { return load(places + ((i * kWindow + j) * ins + k) * outs + o); },
                [&](int i, int j, Vector<T> v) { store(out.weight + ((i * 3 + j) * ins + k) * outs + o, v); });
    });
}

}  // namespace quicknet
