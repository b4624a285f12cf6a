// The two matrix products of a pointwise layer, for one chunk of pixels that is in cache.
//   product:      C[r][n]  = sum_k A[r][k] B[k][n]   B packed in panels, C by row pointers
//   outer_product: C[m][n] += sum_r A[r][m] B[r][n]  the weight's gradient
#pragma once

#include "vector.h"

namespace quicknet {

// A block of kBlockRows x 2 vectors of C stays in registers: 24 of 32, or 12 of 16.
constexpr int kBlockRows = kRegisters == 32 ? 12 : 6;
constexpr int kPanelVectors = 2;

// Elements that `pack_*` writes for `columns` (a multiple of the vector) and `depth`.
inline int64_t packed_size(int64_t depth, int64_t columns) { return depth * columns; }

// B[k][n] at source[k * k_stride + n * n_stride], zero from `columns_used` on.
template <class T>
void pack_panels(const T* source, int64_t k_stride, int64_t n_stride, int depth, int columns, int columns_used,
                 T* panels) {
  constexpr int panel = kPanelVectors * kLanes<T>;
  for (int n0 = 0; n0 < columns; n0 += panel) {
    const int width = columns - n0 < panel ? columns - n0 : panel;
    T* out = panels + int64_t(n0) * depth;
    for (int n = 0; n < width; ++n)
      for (int k = 0; k < depth; ++k)
        out[int64_t(k) * width + n] = n0 + n < columns_used ? source[k * k_stride + (n0 + n) * n_stride] : T(0);
  }
}

// Rows are reached from every third one by [p], [p + lda], [p + 2 lda]: twelve pointers would
// not fit in the general registers. Rows past `rows` are read (scratch has spare) and dropped.
template <class T, int R, int W>
inline void product_block(int depth, const T* a, int64_t lda, const T* b, T* const* c, int column, int rows) {
  using V = Vector<T>;
  constexpr int groups = R / 3;
  V acc[R][W];
  const T* p[groups];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int w = 0; w < W; ++w) acc[r][w] = V{};
#pragma GCC unroll 4
  for (int g = 0; g < groups; ++g) p[g] = a + 3 * g * lda;
  for (int k = 0; k < depth; ++k) {
    V bk[W];
#pragma GCC unroll 4
    for (int w = 0; w < W; ++w) bk[w] = load(b + w * kLanes<T>);
    b += W * kLanes<T>;
#pragma GCC unroll 4
    for (int g = 0; g < groups; ++g) {
      const T a0 = p[g][k], a1 = p[g][k + lda], a2 = p[g][k + 2 * lda];
#pragma GCC unroll 4
      for (int w = 0; w < W; ++w) {
        acc[3 * g][w] += a0 * bk[w];
        acc[3 * g + 1][w] += a1 * bk[w];
        acc[3 * g + 2][w] += a2 * bk[w];
      }
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r)
    if (r < rows)
#pragma GCC unroll 4
      for (int w = 0; w < W; ++w) store(c[r] + column + w * kLanes<T>, acc[r][w]);
}

template <class T, int W>
inline void product_panel(int rows, int depth, const T* a, int64_t lda, const T* b, T* const* c, int column) {
  int r = 0;
  for (; rows - r > kBlockRows / 2; r += kBlockRows)
    product_block<T, kBlockRows, W>(depth, a + r * lda, lda, b, c + r, column, rows - r);
  for (; r < rows; r += kBlockRows / 2)
    product_block<T, kBlockRows / 2, W>(depth, a + r * lda, lda, b, c + r, column, rows - r);
}

// A (rows + kBlockRows spare, depth) with row distance lda; c[r] points at row r of C.
template <class T>
void product(int rows, int depth, int columns, const T* a, int64_t lda, const T* panels, T* const* c) {
  constexpr int panel = kPanelVectors * kLanes<T>;
  int n = 0;
  for (; n + panel <= columns; n += panel)
    product_panel<T, kPanelVectors>(rows, depth, a, lda, panels + int64_t(n) * depth, c, n);
  if (n < columns) product_panel<T, 1>(rows, depth, a, lda, panels + int64_t(n) * depth, c, n);
}

template <class T, int M, int W>
inline void outer_block(int rows, const T* a, int64_t lda, const T* b, int64_t ldb, T* c, int64_t ldc) {
  using V = Vector<T>;
  V acc[M][W];
#pragma GCC unroll 12
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int w = 0; w < W; ++w) acc[m][w] = load(c + m * ldc + w * kLanes<T>);
  for (int r = 0; r < rows; ++r, a += lda, b += ldb) {
    V br[W];
#pragma GCC unroll 4
    for (int w = 0; w < W; ++w) br[w] = load(b + w * kLanes<T>);
#pragma GCC unroll 12
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
      for (int w = 0; w < W; ++w) acc[m][w] += a[m] * br[w];
  }
#pragma GCC unroll 12
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int w = 0; w < W; ++w) store(c + m * ldc + w * kLanes<T>, acc[m][w]);
}

template <class T, int W>
inline void outer_panel(int rows, int m_count, const T* a, int64_t lda, const T* b, int64_t ldb, T* c,
                        int64_t ldc) {
  int m = 0;
  while (m < m_count) {
    const int left = m_count - m;
    if (left >= kBlockRows && left != kBlockRows + 2) {  // two left over would fit no block
      outer_block<T, kBlockRows, W>(rows, a + m, lda, b, ldb, c + m * ldc, ldc);
      m += kBlockRows;
    } else {
      outer_block<T, 4, W>(rows, a + m, lda, b, ldb, c + m * ldc, ldc);
      m += 4;
    }
  }
}

// m_count a multiple of 4, columns of the vector.
template <class T>
void outer_product(int rows, int m_count, int columns, const T* a, int64_t lda, const T* b, int64_t ldb, T* c) {
  constexpr int panel = kPanelVectors * kLanes<T>;
  const int64_t ldc = columns;
  int n = 0;
  for (; n + panel <= columns; n += panel)
    outer_panel<T, kPanelVectors>(rows, m_count, a, lda, b + n, ldb, c + n, ldc);
  for (; n < columns; n += kLanes<T>) outer_panel<T, 1>(rows, m_count, a, lda, b + n, ldb, c + n, ldc);
}

}  // namespace quicknet
