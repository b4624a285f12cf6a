// Integer networks that train: from a layer's sums to its output, in one pass (deploy/quantize/simulate.py).
#pragma once

#include <cmath>
#include <cstring>

#include "pieces.h"
#include "vector.h"

namespace quicknet {

constexpr int64_t kRequantizeChunk = 64;  // pixels: their gradients add up in T, those of chunks in double

// y = clamp(floor(t · m + 1/2), low, high) with t = clamp(floor(sums / 2^shift)) of 16 bits, m = t < 0 ? negative :
// positive. Whole numbers.
struct Requantize {
    int64_t pixels, channels, shift, low, high, threads;
};

// sums (pixels, C); positive, negative (C,): multipliers over 2^15.
template <class T>
struct RequantizeInput {
    const T *sums, *positive, *negative;
};

// t, y (pixels, C); t may be the sums' place.
template <class T>
struct RequantizeResult {
    T *t, *y;
};

// dy, t, y (pixels, C) → gradients of sums (pixels, C), positive and negative (C,), straight through roundings:
// none where y is at an end.
template <class T>
struct RequantizeGradients {
    const T *dy, *t, *y;
    T *sums, *positive, *negative;
};

// Numbers at a place: a vector of them, or one. (A vector's alignment would be lost as a template's argument.)
template <class T>
struct Many {
    using Value = Vector<T>;
    static Value get(const T *p) { return load(p); }
    static void put(T *p, Value value) { store(p, value); }
};
template <class T>
struct Single {
    using Value = T;
    static Value get(const T *p) { return *p; }
    static void put(T *p, Value value) { *p = value; }
};

// Calls body(Many or Single, channel) for vectors of channels, then for single ones: here nothing is padded.
template <class T, class Body>
inline void for_channels(int64_t channels, Body body) {
    int64_t c = 0;
    for (; c + kLanes<T> <= channels; c += kLanes<T>) body(Many<T>{}, c);
    for (; c < channels; ++c) body(Single<T>{}, c);
}

// The largest whole number <= value, between low and high, which have 16 bits; a NaN stays one. Added to 1.5 · 2^23
// (2^52) a number is rounded to a whole one.
template <class T, class V>
inline V floored(V value, T low, T high) {
    constexpr T whole = sizeof(T) == sizeof(float) ? T(12582912) : T(6755399441055744);
    const V zero{}, least = zero + low, most = zero + high;
    value = value < least ? least : value;
    value = value > most ? most : value;
    const V nearest = value + whole - whole;
    return nearest - (nearest > value ? zero + T(1) : zero);
}

template <class T>
void requantize_forward(const Requantize &s, const RequantizeInput<T> &in, const RequantizeResult<T> &out) {
    const T factor = std::ldexp(T(1), -int(s.shift)), low = T(s.low), high = T(s.high);
    const int pieces = piece_count(s.pixels, s.pixels, kRequantizeChunk, s.threads);
    for_pieces(pieces, s.threads, [&](int i) {
        const Range mine = share(s.pixels, i, pieces);
        for (int64_t p = mine.begin; p < mine.end; ++p)
            for_channels<T>(s.channels, [&](auto numbers, int64_t c) {
                using N = decltype(numbers);
                const int64_t place = p * s.channels + c;
                const typename N::Value zero{};
                const auto t = floored<T>(N::get(in.sums + place) * factor, T(-32768), T(32767));
                const auto m = t < zero ? N::get(in.negative + c) : N::get(in.positive + c);
                N::put(out.t + place, t);
                N::put(out.y + place, floored<T>(t * m + T(0.5), low, high));
            });
    });
}

template <class T>
void requantize_backward(const Requantize &s, const RequantizeInput<T> &in, const RequantizeGradients<T> &out) {
    const T factor = std::ldexp(T(1), -int(s.shift)), low = T(s.low), high = T(s.high);
    const int64_t channels = s.channels;
    const int pieces = piece_count(s.pixels, s.pixels, kRequantizeChunk, s.threads);
    double *totals;  // of each piece (2, C)
    shared_arena().take({{&totals, 2 * channels * pieces}});
    std::memset(totals, 0, sizeof(double) * size_t(2 * channels * pieces));
    for_pieces(pieces, s.threads, [&](int i) {
        const Range mine = share(s.pixels, i, pieces);
        double *total = totals + 2 * channels * i;
        T *sums;  // of a chunk (2, C)
        thread_arena().take({{&sums, 2 * channels}});
        for (int64_t first = mine.begin; first < mine.end; first += kRequantizeChunk) {
            std::memset(sums, 0, sizeof(T) * size_t(2 * channels));
            for (int64_t p = first; p < std::min(first + kRequantizeChunk, mine.end); ++p)
                for_channels<T>(channels, [&](auto numbers, int64_t c) {
                    using N = decltype(numbers);
                    const int64_t place = p * channels + c;
                    const typename N::Value zero{}, t = N::get(out.t + place), y = N::get(out.y + place);
                    typename N::Value came = N::get(out.dy + place);
                    came = y > zero + low ? came : zero;
                    came = y < zero + high ? came : zero;
                    const typename N::Value moved = came * t;
                    const auto m = t < zero ? N::get(in.negative + c) : N::get(in.positive + c);
                    T *above = sums + c, *below = sums + channels + c;
                    N::put(above, N::get(above) + (t < zero ? zero : moved));
                    N::put(below, N::get(below) + (t < zero ? moved : zero));
                    N::put(out.sums + place, came * m * factor);
                });
            for (int64_t c = 0; c < 2 * channels; ++c) total[c] += double(sums[c]);
        }
    });
    for (int64_t c = 0; c < channels; ++c) {
        double both[2] = {0, 0};
        for (int i = 0; i < pieces; ++i)
            for (int q = 0; q < 2; ++q) both[q] += totals[(2 * i + q) * channels + c];
        out.positive[c] = T(both[0]);
        out.negative[c] = T(both[1]);
    }
}

}  // namespace quicknet
