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
    int64_t images, height, width, in_channels, out_channels, bf16, threads;
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

// Where the polynomials of one line are taken: 0, +-a, +-b and infinity. Rounding the transformed numbers to
// bfloat16 changes an output by 1.1%, and by 2.5% at the usual 1 and 2 (B. Barabasz et al. 2018,
// arXiv:1803.10986, on why such points are better).
template <class T>
struct Points {
    static constexpr T a = T(0.625), b = T(1.5), aa = a * a, bb = b * b, sum = aa + bb, product = aa * bb;
    static constexpr T of_a = T(1) / (2 * aa * (aa - bb)), of_b = T(1) / (2 * bb * (bb - aa)), of_0 = T(1) / product;
};

// The transforms of one line; in two dimensions each is applied to columns, then to rows.
struct ToWindow {  // input: 6 pixels -> 6 places
    static constexpr int in = kWindow, out = kWindow;
    template <class T>
    static void line(const Vector<T> *d, Vector<T> *t) {
        using P = Points<T>;
        const Vector<T> e = d[4] - P::bb * d[2], f = P::a * (d[3] - P::bb * d[1]);
        const Vector<T> g = d[4] - P::aa * d[2], h = P::b * (d[3] - P::aa * d[1]);
        t[0] = P::product * d[0] - P::sum * d[2] + d[4];
        t[1] = e + f;
        t[2] = e - f;
        t[3] = g + h;
        t[4] = g - h;
        t[5] = P::product * d[1] - P::sum * d[3] + d[5];
    }
};
struct FromWindow {  // sums: 6 places -> 4 pixels of the output
    static constexpr int in = kWindow, out = kTile;
    template <class T>
    static void line(const Vector<T> *m, Vector<T> *y) {
        using P = Points<T>;
        const Vector<T> p = m[1] + m[2], q = P::a * (m[1] - m[2]), r = m[3] + m[4], s = P::b * (m[3] - m[4]);
        y[0] = m[0] + p + r;
        y[1] = q + s;
        y[2] = P::aa * p + P::bb * r;
        y[3] = P::aa * q + P::bb * s + m[5];
    }
};
struct GradientToWindow {  // its transpose: gradients of 4 pixels -> of 6 places
    static constexpr int in = kTile, out = kWindow;
    template <class T>
    static void line(const Vector<T> *y, Vector<T> *m) {
        using P = Points<T>;
        const Vector<T> p = y[0] + P::aa * y[2], q = P::a * (y[1] + P::aa * y[3]);
        const Vector<T> r = y[0] + P::bb * y[2], s = P::b * (y[1] + P::bb * y[3]);
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
    template <class T>
    static void line(const Vector<T> *g, Vector<T> *u) {
        using P = Points<T>;
        const Vector<T> h = P::of_a * (g[0] + P::aa * g[2]), k = (P::of_a * P::a) * g[1];
        const Vector<T> v = P::of_b * (g[0] + P::bb * g[2]), w = (P::of_b * P::b) * g[1];
        u[0] = P::of_0 * g[0];
        u[1] = h + k;
        u[2] = h - k;
        u[3] = v + w;
        u[4] = v - w;
        u[5] = g[2];
    }
};
struct WeightFromWindow {  // its transpose: gradients of 6 places -> of 3 weights
    static constexpr int in = kWindow, out = 3;
    template <class T>
    static void line(const Vector<T> *u, Vector<T> *g) {
        using P = Points<T>;
        const Vector<T> p = P::of_a * (u[1] + u[2]), r = P::of_b * (u[3] + u[4]);
        g[0] = P::of_0 * u[0] + p + r;
        g[1] = (P::of_a * P::a) * (u[1] - u[2]) + (P::of_b * P::b) * (u[3] - u[4]);
        g[2] = P::aa * p + P::bb * r + u[5];
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
        Kind::template line<T>(line, result);
#pragma GCC unroll 6
        for (int i = 0; i < Kind::out; ++i) half[i][j] = result[i];
    }
#pragma GCC unroll 6
    for (int i = 0; i < Kind::out; ++i) {
        Kind::template line<T>(half[i], result);
#pragma GCC unroll 6
        for (int j = 0; j < Kind::out; ++j) to(i, j, result[j]);
    }
}

// One call's tiles and where a chunk of them lies in scratch: 36 matrices (tiles, channels) a map.
template <class T, class E>
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
    // for those that the map has not, and for all of a tile past the last.
    template <class P>
    void pixels(int64_t tile, int side, int before, P *map, int64_t channels, P *outside, P **to) const {
        const int64_t image = tile / per_image, top = tile % per_image / across * kTile - before,
                      left = tile % across * kTile - before;
        for (int i = 0; i < side; ++i)
            for (int j = 0; j < side; ++j) {
                const int64_t row = top + i, column = left + j;
                const bool inside = tile < count && row >= 0 && row < height && column >= 0 && column < width;
                to[i * side + j] = inside ? map + ((image * height + row) * width + column) * channels : outside;
            }
    }
};

// Tiles begin..begin + count of a map -> 36 matrices (count, channels) of elements along channels, `pitch` apart.
template <class T, class E>
void to_rows(const Tiling<T, E> &tiles, int64_t begin, int64_t count, int64_t threads, const T *map, int64_t channels,
             const T *zeros, E *out) {
    const int64_t pitch = Elements<T, E>::count(pixel_pitch<T>(channels)), place = tiles.place(channels);
    const int pieces = int(std::min(count, 4 * threads));
    for_pieces(pieces, threads, [&](int piece) {
        const Range mine = share(count, piece, pieces);
        const T *pixels[kPlaces];
        for (int64_t tile = mine.begin; tile < mine.end; ++tile) {
            tiles.pixels(begin + tile, kWindow, 1, map, channels, zeros, pixels);
            E *row = out + tile * pitch;
            for (int64_t c = 0; c < channels; c += kLanes<T>)
                transform<T, ToWindow>([&](int i, int j) { return load(pixels[i * kWindow + j] + c); },
                                       [&](int i, int j, Vector<T> v) {
                                           Elements<T, E>::store_in_row(row + (i * kWindow + j) * place, c, v);
                                       });
        }
    });
}

// Tiles begin..begin + count of a map (its pixels or their gradients) -> 36 matrices of elements along tiles,
// (count / terms, channels).
template <class T, class E, class Kind>
void to_columns(const Tiling<T, E> &tiles, int64_t begin, int64_t count, int64_t threads, const T *map,
                int64_t channels, const T *zeros, E *out) {
    constexpr int terms = Elements<T, E>::terms;
    const int64_t pitch = pixel_pitch<T>(channels), place = tiles.place(channels);
    const int64_t rows = Elements<T, E>::count(count);
    const int pieces = int(std::min(rows, 4 * threads));
    for_pieces(pieces, threads, [&](int piece) {
        const Range mine = share(rows, piece, pieces);
        const T *pixels[terms][kPlaces];
        Vector<T> first[kPlaces];
        for (int64_t row = mine.begin; row < mine.end; ++row) {
            for (int t = 0; t < terms; ++t)
                tiles.pixels(begin + terms * row + t, Kind::in, Kind::in == kWindow, map, channels, zeros, pixels[t]);
            for (int64_t c = 0; c < channels; c += kLanes<T>) {
                if constexpr (terms == 2)
                    transform<T, Kind>([&](int i, int j) { return load(pixels[0][i * Kind::in + j] + c); },
                                       [&](int i, int j, Vector<T> v) { first[i * kWindow + j] = v; });
                transform<T, Kind>([&](int i, int j) { return load(pixels[terms - 1][i * Kind::in + j] + c); },
                                   [&](int i, int j, Vector<T> v) {
                                       const int at = i * kWindow + j;
                                       store(out + at * place + row * pitch + c,
                                             Elements<T, E>::joined(terms == 2 ? first[at] : v, v));
                                   });
            }
        }
    });
}

// 36 matrices (count, channels) -> tiles begin..begin + count of the output.
template <class T, class E>
void from_window(const Tiling<T, E> &tiles, int64_t begin, int64_t count, int64_t threads, const T *sums,
                 int64_t channels, T *map) {
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
template <class T, class E>
void weight_to_window(const Dense &s, const T *weight, E *panels) {
    constexpr int64_t panel = kPanelVectors * kLanes<T>;
    constexpr int terms = Elements<T, E>::terms;
    const int64_t ins = s.in_channels, outs = s.out_channels, count = ins / terms;
    for_pieces(int(count), s.threads, [&](int k) {
        Vector<T> first[kPlaces];
        for (int64_t o = 0; o < outs; o += kLanes<T>) {
            const int64_t begin = o / panel * panel, width = std::min(panel, outs - begin);
            E *to = panels + begin * count + k * width + o - begin;
            const auto from = [&](int t) {
                return [=](int i, int j) { return load(weight + ((i * 3 + j) * ins + terms * k + t) * outs + o); };
            };
            if constexpr (terms == 2)
                transform<T, WeightToWindow>(from(0), [&](int i, int j, Vector<T> v) { first[i * kWindow + j] = v; });
            transform<T, WeightToWindow>(from(terms - 1), [&](int i, int j, Vector<T> v) {
                const int at = i * kWindow + j;
                store(to + at * count * outs, Elements<T, E>::joined(terms == 2 ? first[at] : v, v));
            });
        }
    });
}

template <class T, class E>
void dense_forward(const Dense &s, const DenseInput<T> &in, const DenseOutput<T> &out) {
    const Tiling<T, E> tiles(s);
    const int64_t ins = s.in_channels, outs = s.out_channels, count_in = Elements<T, E>::count(ins);
    E *panels, *window;
    T *sums, *zeros;
    shared_arena().take({{&panels, kPlaces * count_in * outs},
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
        to_rows(tiles, begin, count, s.threads, in.x, ins, zeros, window);
        for_pieces(kPlaces, s.threads, [&](int place) {
            product_of<T, E>(int(count), int(count_in), int(outs), window + place * tiles.place(ins),
                             Elements<T, E>::count(pixel_pitch<T>(ins)), panels + place * count_in * outs,
                             rows.data() + place * tiles.chunk);
        });
        from_window(tiles, begin, count, s.threads, sums, outs, out.y);
    }
}

template <class T, class E>
void dense_weight_gradient(const Dense &s, const DenseKept<T> &kept, const DenseGradients<T> &out) {
    const Tiling<T, E> tiles(s);
    const int64_t ins = s.in_channels, outs = s.out_channels;
    T *places, *zeros;
    E *window, *gradient;
    shared_arena().take({{&places, kPlaces * ins * outs},
                         {&window, kPlaces * tiles.place(ins)},
                         {&gradient, kPlaces * tiles.place(outs)},
                         {&zeros, std::max(ins, outs)}});
    std::fill_n(zeros, std::max(ins, outs), T(0));
    for (int64_t begin = 0; begin < tiles.count; begin += tiles.chunk) {
        const int64_t count = std::min(tiles.chunk, tiles.count - begin);
        to_columns<T, E, ToWindow>(tiles, begin, count, s.threads, kept.x, ins, zeros, window);
        to_columns<T, E, GradientToWindow>(tiles, begin, count, s.threads, kept.dy, outs, zeros, gradient);
        for_pieces(kPlaces, s.threads, [&](int place) {
            T *sum = places + place * ins * outs;
            if (begin == 0) std::fill_n(sum, ins * outs, T(0));
            outer_product_of<T, E>(int(Elements<T, E>::count(count)), int(ins), int(outs),
                                   window + place * tiles.place(ins), pixel_pitch<T>(ins),
                                   gradient + place * tiles.place(outs), pixel_pitch<T>(outs), sum);
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
