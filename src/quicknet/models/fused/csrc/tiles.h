// The products of pairs of bfloat16 by tiles (AMX): one instruction multiplies 16 rows of 16 pairs by 16 rows
// of 16 columns, eight times what a vector instruction does. Pairs by rows and packed panels (`pairs.h`,
// `product.h`) already are what tiles hold; of the outer product one side is turned round first.
#pragma once

#include "pairs.h"

#if QUICKNET_BF16 && defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__linux__)
#define QUICKNET_TILES 1
#include <sys/syscall.h>
#include <unistd.h>
#else
#define QUICKNET_TILES 0
#endif

namespace quicknet {

// Rows past the last that a product may read.
constexpr int kTileRows = 16, kTileSpareRows = QUICKNET_TILES ? 2 * kTileRows : 0;

#if QUICKNET_TILES

// Whether the system lets this process use tiles, which Linux wants to be asked for.
inline bool tiles_allowed() {
    constexpr long request_permission = 0x1023, tile_data = 18;
    static const bool allowed = syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
    return allowed;
}

// Pairs of a sum of `count` that a tile takes at once: the most that divide it; 0 where that is too few to pay.
inline int tile_step(int count) {
    for (int steps = (count + kTileRows - 1) / kTileRows; count / steps >= 6; ++steps)
        if (count % steps == 0) return count / steps;
    return 0;
}

// Tiles 0..3 are sums, 4 and 5 hold A, 6 and 7 B. What was configured before comes back at the end: oneDNN
// remembers what it configured last.
class Tiles {
 public:
    explicit Tiles(int step) {
        struct alignas(64) {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t row_bytes[16] = {};
            uint8_t rows[16] = {};
        } wanted;
        for (int t = 0; t < 8; ++t) {
            wanted.row_bytes[t] = uint16_t(t == 4 || t == 5 ? 4 * step : 64);
            wanted.rows[t] = uint8_t(t < 6 ? kTileRows : step);
        }
        _tile_storeconfig(before_);
        fence();
        _tile_loadconfig(&wanted);
        fence();
    }
    ~Tiles() {
        fence();
        _tile_loadconfig(before_);
    }
    Tiles(const Tiles &) = delete;
    Tiles &operator=(const Tiles &) = delete;

    // The compiler does not know that tile loads read memory.
    static void fence() { __asm__ volatile("" ::: "memory"); }

 private:
    alignas(64) uint8_t before_[64];
};

// Adds to the sums of R x W tiles; rows of A and of B lda and ldb pairs apart.
template <int R, int W>
inline void add_tile_products(int count, int step, const Pair *a, int64_t lda, const Pair *b, int64_t ldb) {
    const int64_t a_bytes = lda * 4, b_bytes = ldb * 4;
    for (int k = 0; k < count; k += step, a += step, b += step * ldb) {
        _tile_loadd(4, a, a_bytes);
        _tile_loadd(6, b, b_bytes);
        _tile_dpbf16ps(0, 4, 6);
        if constexpr (W == 2) {
            _tile_loadd(7, b + 16, b_bytes);
            _tile_dpbf16ps(1, 4, 7);
        }
        if constexpr (R == 2) {
            _tile_loadd(5, a + kTileRows * lda, a_bytes);
            _tile_dpbf16ps(2, 5, 6);
            if constexpr (W == 2) _tile_dpbf16ps(3, 5, 7);
        }
    }
}

// Stores the sums of R x W tiles at c, whose rows are ldc floats apart.
template <int R, int W>
inline void store_sums(float *c, int64_t ldc) {
    const int64_t bytes = ldc * 4;
    _tile_stored(0, c, bytes);
    if constexpr (W == 2) _tile_stored(1, c + 16, bytes);
    if constexpr (R == 2) {
        _tile_stored(2, c + kTileRows * ldc, bytes);
        if constexpr (W == 2) _tile_stored(3, c + kTileRows * ldc + 16, bytes);
    }
}

// Stores the rows of a block's sums that are wanted, 16 W floats each, where c points.
template <int R, int W>
inline void store_tiles(float *const *c, int column, int rows) {
    const int64_t step = rows > 1 ? c[1] - c[0] : 0;
    bool even = rows >= R * kTileRows;
    for (int r = 1; even && r < R * kTileRows; ++r) even = c[r] - c[r - 1] == step;
    alignas(64) float block[2 * kTileRows * 32];
    float *to = even ? c[0] + column : block;
    const int64_t pitch = even ? step : 16 * W;
    store_sums<R, W>(to, pitch);
    if (even) return;
    for (int r = 0; r < std::min(rows, R * kTileRows); ++r)
        for (int w = 0; w < W; ++w) store(c[r] + column + 16 * w, load(block + r * pitch + 16 * w));
}

template <int R, int W>
inline void tile_block(int count, int step, const Pair *a, int64_t lda, const Pair *b, float *const *c, int column,
                       int rows) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    add_tile_products<R, W>(count, step, a, lda, b, 16 * W);
    store_tiles<R, W>(c, column, rows);
}

template <int W>
inline void tile_panel(int rows, int count, int step, const Pair *a, int64_t lda, const Pair *b, float *const *c,
                       int column) {
    int r = 0;
    for (; rows - r > kTileRows; r += 2 * kTileRows)
        tile_block<2, W>(count, step, a + r * lda, lda, b, c + r, column, rows - r);
    if (r < rows) tile_block<1, W>(count, step, a + r * lda, lda, b, c + r, column, rows - r);
}

// `product_of` by tiles, in steps of `tile_step(count)`; reads up to 31 rows of A past `rows`.
inline void tile_product(int rows, int count, int step, int columns, const Pair *a, int64_t lda, const Pair *panels,
                         float *const *c) {
    const Tiles tiles(step);
    int n = 0;
    for (; n + 32 <= columns; n += 32) tile_panel<2>(rows, count, step, a, lda, panels + int64_t(n) * count, c, n);
    if (n < columns) tile_panel<1>(rows, count, step, a, lda, panels + int64_t(n) * count, c, n);
}

// Turns 16 x 16 pairs round.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // in GCC 12's own header
inline void transpose(__m512i (&v)[16]) {
    __m512i t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
        t[2 * i] = _mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        v[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        v[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        v[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        v[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        t[i] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0xdd);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        v[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        v[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        v[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        v[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}
#pragma GCC diagnostic pop

// A (rows, columns), `lda` floats between rows -> pairs of neighbours in a column, (columns, count), zero behind.
inline void turned_pairs(int rows, int columns, const float *a, int64_t lda, int count, Pair *out) {
    for (int c = 0; c < columns; c += 16)
        for (int k = 0; k < count; k += 16) {
            __m512i v[16];
            for (int i = 0; i < 16; ++i) {
                const int r = 2 * (k + i);
                const float *from = a + r * lda + c;
                const Vector<float> none{};
                v[i] = (__m512i)Elements<float, Pair>::joined(r < rows ? load(from) : none,
                                                              r + 1 < rows ? load(from + lda) : none);
            }
            transpose(v);
            for (int i = 0; i < 16; ++i) _mm512_storeu_si512(out + int64_t(c + i) * count + k, v[i]);
        }
}

template <int R, int W>
inline void tile_outer_block(int count, const Pair *a, const Pair *b, int64_t ldb, float *c, int64_t ldc) {
    const int64_t bytes = ldc * 4;
    _tile_loadd(0, c, bytes);
    if constexpr (W == 2) _tile_loadd(1, c + 16, bytes);
    if constexpr (R == 2) {
        _tile_loadd(2, c + kTileRows * ldc, bytes);
        if constexpr (W == 2) _tile_loadd(3, c + kTileRows * ldc + 16, bytes);
    }
    add_tile_products<R, W>(count, kTileRows, a, count, b, ldb);
    store_sums<R, W>(c, ldc);
}

template <int W>
inline void tile_outer_panel(int count, int m_count, const Pair *a, const Pair *b, int64_t ldb, float *c, int64_t ldc) {
    int m = 0;
    for (; m + 2 * kTileRows <= m_count; m += 2 * kTileRows)
        tile_outer_block<2, W>(count, a + int64_t(m) * count, b, ldb, c + m * ldc, ldc);
    if (m < m_count) tile_outer_block<1, W>(count, a + int64_t(m) * count, b, ldb, c + m * ldc, ldc);
}

// `outer_product` by tiles. Of `scratch` it takes (m_count + ldb) x (rows / 2, rounded up to 16).
inline void tile_outer_product(int rows, int m_count, int columns, const float *a, int64_t lda, const float *b,
                               int64_t ldb, float *c, Pair *scratch) {
    const int used = Elements<float, Pair>::count(rows), count = int(round_up(used, kTileRows));
    Pair *of_b = scratch + int64_t(m_count) * count;
    turned_pairs(rows, m_count, a, lda, count, scratch);
    Elements<float, Pair>::along_columns(rows, columns, b, ldb, of_b);
    std::memset(of_b + used * ldb, 0, sizeof(Pair) * size_t((count - used) * ldb));
    const Tiles tiles(kTileRows);
    int n = 0;
    for (; n + 32 <= columns; n += 32) tile_outer_panel<2>(count, m_count, scratch, of_b + n, ldb, c + n, columns);
    if (n < columns) tile_outer_panel<1>(count, m_count, scratch, of_b + n, ldb, c + n, columns);
}

#endif

}  // namespace quicknet
