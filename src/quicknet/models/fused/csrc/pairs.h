// What the matrix products run over. Either numbers as they are, or, where the CPU has
// bfloat16 products (AVX512-BF16), pairs of neighbours of the sum rounded to bfloat16: twice the
// terms an instruction, added up in float. The layers keep and exchange floats in either case.
#pragma once

#include "vector.h"

namespace quicknet {

// Numbers of type T, in place.
template <class T, class E>
struct Elements {
    static_assert(std::is_same<T, E>::value, "no such elements");
    static constexpr int terms = 1;
    static int64_t scratch(int64_t, int64_t) { return 0; }
    template <class N>
    static N count(N terms) {
        return terms;
    }
    static T gather(const T *source, int64_t stride, int k, int) { return source[k * stride]; }
    static const T *along_rows(int, int, const T *a, int64_t, T *) { return a; }
    static const T *along_columns(int, int, const T *a, int64_t, T *) { return a; }
    static void store_in_row(T *row, int64_t column, Vector<T> v) { store(row + column, v); }
    static Vector<T> joined(Vector<T> only, Vector<T>) { return only; }
    static void multiply_add(Vector<T> &sum, T a, Vector<T> b) { sum += a * b; }
};

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
#define QUICKNET_BF16 1

// Two bfloat16: the first in the lower half.
using Pair = uint32_t;
template <>
struct VectorOf<Pair> {
    typedef Pair type __attribute__((vector_size(kVectorBytes), aligned(alignof(Pair)), may_alias));
};

template <>
struct Elements<float, Pair> {
    static constexpr int terms = 2;
    // Of `rows` rows `pitch` floats apart, by rows or by columns.
    static int64_t scratch(int64_t rows, int64_t pitch) { return (rows + 1) / 2 * pitch; }
    template <class N>
    static N count(N terms) {
        return (terms + 1) / 2;
    }

    static Pair gather(const float *source, int64_t stride, int k, int depth) {
        const float low = source[2 * k * stride], high = 2 * k + 1 < depth ? source[(2 * k + 1) * stride] : 0.0f;
        return joined(Vector<float>{low}, Vector<float>{high})[0];
    }

    // Neighbours in a row: A (rows, depth) -> pairs (rows, (depth + 1) / 2), rows lda / 2 apart.
    static const Pair *along_rows(int rows, int depth, const float *a, int64_t lda, Pair *out) {
        for (int r = 0; r < rows; ++r, a += lda) {
            Pair *to = out + r * (lda / 2);
            int k = 0;
            for (; k + 16 < depth; k += 32)
                store(to + k / 2, bits(_mm512_cvtne2ps_pbh(_mm512_loadu_ps(a + k + 16), _mm512_loadu_ps(a + k))));
            if (k < depth)
                _mm256_storeu_si256(reinterpret_cast<__m256i *>(to + k / 2),
                                    (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(a + k)));
        }
        return out;
    }

    // Neighbours in a column: A (rows, columns) -> pairs ((rows + 1) / 2, columns), rows lda apart.
    static const Pair *along_columns(int rows, int columns, const float *a, int64_t lda, Pair *out) {
        for (int r = 0; r < rows; r += 2, a += 2 * lda)
            for (int c = 0; c < columns; c += 16) {
                const Vector<float> high = r + 1 < rows ? load(a + lda + c) : Vector<float>{};
                store(out + r / 2 * lda + c, joined(load(a + c), high));
            }
        return out;
    }

    // Neighbours in a row, from its `column` on.
    static void store_in_row(Pair *row, int64_t column, Vector<float> v) {
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(row + column / 2), (__m256i)_mm512_cvtneps_pbh((__m512)v));
    }

    // Neighbours in a column.
    static Vector<Pair> joined(Vector<float> low, Vector<float> high) {
        const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,  //
                                               23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
        const __m512bh halves = _mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
        return (Vector<Pair>)_mm512_permutexvar_epi16(order, (__m512i)halves);
    }

    static void multiply_add(Vector<float> &sum, Pair a, Vector<Pair> b) {
        sum = (Vector<float>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(int(a)), (__m512bh)b);
    }

 private:
    static Vector<Pair> bits(__m512bh halves) { return (Vector<Pair>)halves; }
};
#else
#define QUICKNET_BF16 0
#endif

}  // namespace quicknet
