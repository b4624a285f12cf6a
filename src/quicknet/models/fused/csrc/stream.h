// The rows of one piece's images as a stream, cut into chunks of whole rows that stay in cache.
// Input rows (with a zero border) live in a ring, so that memory does not grow with the image.
#pragma once

#include <algorithm>

#include "normalize.h"
#include "pieces.h"

namespace quicknet {

// Pixels in a chunk: what a thread touches for them should fit its second-level cache, but a
// matrix product over few rows reads its weights too often.
template <class T>
inline int64_t chunk_pixels(int64_t channels) {
    constexpr int64_t budget_bytes = 96 << 10, least = 96, most = 256;
    const int64_t pixels = budget_bytes / (channels * int64_t(sizeof(T)));
    return std::min(most, std::max(least, pixels));
}

// Geometry of a stream of padded rows: image n's row i (from -border) is row number
// n * (height + 2 border) + border + i.
template <class T>
struct Ring {
    T *base;
    int64_t row_size, capacity;
    int height, width, border;

    static int64_t rows_for(int64_t chunk_rows, int height, int border) {
        return chunk_rows + 2 * border * (chunk_rows / height + 3) + 1;
    }
    void set(T *memory, int64_t rows, int height_in, int width_in, int border_in, int64_t pitch) {
        base = memory;
        capacity = rows;
        height = height_in;
        width = width_in;
        border = border_in;
        row_size = (width_in + 2 * border_in) * pitch;
        std::memset(base, 0, sizeof(T) * size_t(capacity * row_size));  // the side borders stay zero
    }
    // First padded row that output row `row` (of all images) reads.
    int64_t first(int64_t row) const { return row / height * (height + 2 * border) + row % height; }
    T *at(int64_t padded_row) const { return base + padded_row % capacity * row_size; }
    void zero(int64_t padded_row) const { std::memset(at(padded_row), 0, sizeof(T) * size_t(row_size)); }
};

struct Separable {
    int64_t images, in_height, in_width, in_channels, out_channels, kernel, pool, bf16, threads;

    int height() const { return int(pool ? in_height / 2 : in_height); }
    int width() const { return int(pool ? in_width / 2 : in_width); }
};

// A layer's activated input, made row by row from what the previous layer kept.
template <class T>
struct ActivatedRows {
    Ring<T> ring;
    Norm<T> norm;
    const T *z;  // this piece's images (n, in_height, in_width, padded channels)
    int64_t filled, pitch;
    int in_height, in_width, channels;
    bool pool;

    int64_t row_elements() const { return int64_t(in_width) * channels; }
    const T *source(int64_t image, int row) const { return z + (image * in_height + row) * row_elements(); }

    // Makes every padded row below `end`.
    void fill(int64_t end) {
        const int stride = ring.height + 2 * ring.border;
        for (; filled < end; ++filled) {
            const int64_t image = filled / stride;
            const int row = int(filled % stride) - ring.border;
            if (row < 0 || row >= ring.height) {
                ring.zero(filled);
                continue;
            }
            T *y = ring.at(filled) + ring.border * pitch;
            if (pool)
                activate_pooled_row(source(image, 2 * row), source(image, 2 * row + 1), ring.width, channels, norm, y,
                                    pitch);
            else
                activate_row(source(image, row), ring.width, channels, norm, y, pitch);
        }
    }
};

}  // namespace quicknet
