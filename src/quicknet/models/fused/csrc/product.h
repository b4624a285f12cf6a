// The two matrix products of a pointwise layer, for one chunk of pixels that is in cache.
//   product:      C[r][n]  = sum_k A[r][k] B[k][n]   B packed in panels, C by row pointers
//   outer_product: C[m][n] += sum_r A[r][m] B[r][n]  the weight's gradient
// Both run over elements E: numbers of C's own type T, or pairs of bfloat16 neighbours in the sum
// (`pairs.h`), which the CPU multiplies and adds to a float at once.
#pragma once

#include <algorithm>

#include "tiles.h"

namespace quicknet {

// A block of kBlockRows x 2 vectors of C stays in registers: 24 of 32, or 12 of 16.
constexpr int kBlockRows = kRegisters == 32 ? 12 : 6;
constexpr int kPanelVectors = 2;
// Rows behind the last that `product` reads, and drops.
constexpr int kSpareRows = std::max(kBlockRows, kTileSpareRows);

// Elements that `pack_panels` writes for `columns` (a multiple of the vector) and `depth`.
template <class T, class E>
inline int64_t packed_size(int64_t depth, int64_t columns) {
    return Elements<T, E>::count(depth) * columns;
}

// B[k][n] at source[k * k_stride + n * n_stride], zero from `columns_used` on.
template <class T, class E>
void pack_panels(const T *source, int64_t k_stride, int64_t n_stride, int depth, int columns, int columns_used,
                 E *panels) {
    constexpr int panel = kPanelVectors * kLanes<E>;
    const int count = Elements<T, E>::count(depth);
    for (int n0 = 0; n0 < columns; n0 += panel) {
        const int width = columns - n0 < panel ? columns - n0 : panel;
        E *out = panels + int64_t(n0) * count;
        for (int n = 0; n < width; ++n)
            for (int k = 0; k < count; ++k)
                out[int64_t(k) * width + n] =
                    n0 + n < columns_used ? Elements<T, E>::gather(source + (n0 + n) * n_stride, k_stride, k, depth)
                                          : E(0);
    }
}

// Rows are reached from every third one by [p], [p + lda], [p + 2 lda]: twelve pointers would
// not fit in the general registers. Rows past `rows` are read (scratch has spare) and dropped.
template <class T, class E, int R, int W>
inline void product_block(int depth, const E *a, int64_t lda, const E *b, T *const *c, int column, int rows) {
    using V = Vector<T>;
    constexpr int groups = R / 3;
    V acc[R][W];
    const E *p[groups];
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int w = 0; w < W; ++w) acc[r][w] = V{};
#pragma GCC unroll 4
    for (int g = 0; g < groups; ++g) p[g] = a + 3 * g * lda;
    for (int k = 0; k < depth; ++k) {
        Vector<E> bk[W];
#pragma GCC unroll 4
        for (int w = 0; w < W; ++w) bk[w] = load(b + w * kLanes<E>);
        b += W * kLanes<E>;
#pragma GCC unroll 4
        for (int g = 0; g < groups; ++g) {
#pragma GCC unroll 3
            for (int r = 0; r < 3; ++r) {
                const E ak = p[g][k + r * lda];
#pragma GCC unroll 4
                for (int w = 0; w < W; ++w) Elements<T, E>::multiply_add(acc[3 * g + r][w], ak, bk[w]);
            }
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
        if (r < rows)
#pragma GCC unroll 4
            for (int w = 0; w < W; ++w) store(c[r] + column + w * kLanes<T>, acc[r][w]);
}

template <class T, class E, int W>
inline void product_panel(int rows, int depth, const E *a, int64_t lda, const E *b, T *const *c, int column) {
    int r = 0;
    for (; rows - r > kBlockRows / 2; r += kBlockRows)
        product_block<T, E, kBlockRows, W>(depth, a + r * lda, lda, b, c + r, column, rows - r);
    for (; r < rows; r += kBlockRows / 2)
        product_block<T, E, kBlockRows / 2, W>(depth, a + r * lda, lda, b, c + r, column, rows - r);
}

// A (rows + kBlockRows spare, count) of elements with row distance pitch; c[r] points at row r of C.
template <class T, class E>
void product_of(int rows, int count, int columns, const E *a, int64_t pitch, const E *panels, T *const *c) {
    constexpr int panel = kPanelVectors * kLanes<E>;
    int n = 0;
    for (; n + panel <= columns; n += panel)
        product_panel<T, E, kPanelVectors>(rows, count, a, pitch, panels + int64_t(n) * count, c, n);
    if (n < columns) product_panel<T, E, 1>(rows, count, a, pitch, panels + int64_t(n) * count, c, n);
}

// A (rows + kSpareRows, depth) with row distance lda, even, its rows padded with zeros to the
// channel unit. `scratch`: Elements::scratch(rows + kSpareRows, lda).
template <class T, class E>
void product(int rows, int depth, int columns, const T *a, int64_t lda, const E *panels, T *const *c, E *scratch) {
    const E *elements = Elements<T, E>::along_rows(rows, depth, a, lda, scratch);
#if QUICKNET_TILES
    if constexpr (std::is_same<E, Pair>::value) {
        const int count = Elements<T, E>::count(depth), step = tile_step(count);
        if (step > 0 && tiles_allowed())
            return tile_product(rows, count, step, columns, elements, Elements<T, E>::count(lda), panels, c);
    }
#endif
    product_of(rows, Elements<T, E>::count(depth), columns, elements, Elements<T, E>::count(lda), panels, c);
}

template <class T, class E, int M, int W>
inline void outer_block(int rows, const E *a, int64_t lda, const E *b, int64_t ldb, T *c, int64_t ldc) {
    using V = Vector<T>;
    V acc[M][W];
#pragma GCC unroll 12
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
        for (int w = 0; w < W; ++w) acc[m][w] = load(c + m * ldc + w * kLanes<T>);
    for (int r = 0; r < rows; ++r, a += lda, b += ldb) {
        Vector<E> br[W];
#pragma GCC unroll 4
        for (int w = 0; w < W; ++w) br[w] = load(b + w * kLanes<E>);
#pragma GCC unroll 12
        for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
            for (int w = 0; w < W; ++w) Elements<T, E>::multiply_add(acc[m][w], a[m], br[w]);
    }
#pragma GCC unroll 12
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
        for (int w = 0; w < W; ++w) store(c + m * ldc + w * kLanes<T>, acc[m][w]);
}

template <class T, class E, int W>
inline void outer_panel(int rows, int m_count, const E *a, int64_t lda, const E *b, int64_t ldb, T *c, int64_t ldc) {
    int m = 0;
    while (m < m_count) {
        const int left = m_count - m;
        if (left >= kBlockRows && left != kBlockRows + 2) {  // two left over would fit no block
            outer_block<T, E, kBlockRows, W>(rows, a + m, lda, b, ldb, c + m * ldc, ldc);
            m += kBlockRows;
        } else {
            outer_block<T, E, 4, W>(rows, a + m, lda, b, ldb, c + m * ldc, ldc);
            m += 4;
        }
    }
}

// A (count, m_count) and B (count, columns) of elements. m_count a multiple of 4, columns of the vector.
template <class T, class E>
void outer_product_of(int count, int m_count, int columns, const E *a, int64_t lda, const E *b, int64_t ldb, T *c) {
    constexpr int panel = kPanelVectors * kLanes<E>;
    const int64_t ldc = columns;
    int n = 0;
    for (; n + panel <= columns; n += panel)
        outer_panel<T, E, kPanelVectors>(count, m_count, a, lda, b + n, ldb, c + n, ldc);
    for (; n < columns; n += kLanes<T>) outer_panel<T, E, 1>(count, m_count, a, lda, b + n, ldb, c + n, ldc);
}

// The same of numbers. `scratch`: Elements::scratch(rows + kSpareRows, ...) for A and for B.
template <class T, class E>
void outer_product(int rows, int m_count, int columns, const T *a, int64_t lda, const T *b, int64_t ldb, T *c,
                   E *scratch) {
#if QUICKNET_TILES
    if constexpr (std::is_same<E, Pair>::value)
        if (tiles_allowed()) return tile_outer_product(rows, m_count, columns, a, lda, b, ldb, c, scratch);
#endif
    const E *of_a = Elements<T, E>::along_columns(rows, m_count, a, lda, scratch);
    const E *of_b = Elements<T, E>::along_columns(rows, columns, b, ldb, scratch + Elements<T, E>::scratch(rows, lda));
    outer_product_of(Elements<T, E>::count(rows), m_count, columns, of_a, lda, of_b, ldb, c);
}

}  // namespace quicknet
