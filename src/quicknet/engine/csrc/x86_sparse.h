/* What AVX2 and AVX-512 share of sparse layers: how a tile is turned to quads of pixels, and bytes of output channels
 * back to pixels, by vectors of 256 bits (sparse.h). */
#include "sparse.h"

/* Where a row kernel reads quads of pixels, `stride` bytes apart, and writes bytes of output channels. */
typedef struct {
    const uint8_t *quads;
    size_t stride;
    uint8_t *to;
    size_t to_stride;
} x86_rows;

/* Of an output channel's bytes: a pass over pixels writes vectors of 32 whole, and up to 24 past its end. */
static inline size_t x86_row_stride(int32_t pixels) { return (size_t)qn_round_up(qn_round_up(pixels, 8) + 24, 32); }

static inline QN_INLINE __m256i x86_load(const void *p) { return _mm256_load_si256(p); }

/* Two vectors of 16 bytes, the first in the low half. */
static inline QN_INLINE __m256i x86_halves(const uint8_t *low, const uint8_t *high) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_load_si128((const void *)low)),
                                   _mm_load_si128((const void *)high), 1);
}

/* 8 pixels from `from`, one every `step` bytes, of 16 channels: to four quads of them, `stride` bytes apart. */
static inline QN_INLINE void x86_spread_eight(const uint8_t *const from[8], int32_t c, uint8_t *to, size_t stride) {
    __m256i a = x86_halves(from[0] + c, from[4] + c), b = x86_halves(from[1] + c, from[5] + c);
    __m256i d = x86_halves(from[2] + c, from[6] + c), e = x86_halves(from[3] + c, from[7] + c);
    __m256i ab0 = _mm256_unpacklo_epi32(a, b), ab1 = _mm256_unpackhi_epi32(a, b);
    __m256i de0 = _mm256_unpacklo_epi32(d, e), de1 = _mm256_unpackhi_epi32(d, e);
    _mm256_store_si256((void *)to, _mm256_unpacklo_epi64(ab0, de0));
    _mm256_store_si256((void *)(to + stride), _mm256_unpackhi_epi64(ab0, de0));
    _mm256_store_si256((void *)(to + 2 * stride), _mm256_unpacklo_epi64(ab1, de1));
    _mm256_store_si256((void *)(to + 3 * stride), _mm256_unpackhi_epi64(ab1, de1));
}

/* All pixels of a span, and the last one again up to a multiple of 8, to quads `stride` bytes apart. */
static void x86_spread(const qn_span *span, int32_t channels, uint8_t *to, size_t stride) {
    for (int32_t p = 0; p < span->pixels; p += 8, to += 32) {
        const uint8_t *from[8];
        for (int32_t i = 0; i < 8; i++) from[i] = span->in + (size_t)qn_pixel(span, p + i) * (size_t)span->in_stride;
        for (int32_t c = 0; c < channels; c += 16) x86_spread_eight(from, c, to + (size_t)(c / 4) * stride, stride);
    }
}

/* The span's pixels as quads in scratch, and after them the place of the bytes. */
static inline x86_rows x86_begin(const qn_span *span, size_t stride, uint8_t *scratch) {
    x86_spread(span, span->in_stride, scratch, stride);
    x86_rows rows = {scratch, stride, scratch + stride * (size_t)(span->in_stride / 4), x86_row_stride(span->pixels)};
    return rows;
}

static inline x86_rows x86_rows_at(const x86_rows *all, int32_t pixel) {
    x86_rows rows = {all->quads + 4 * pixel, all->stride, all->to + pixel, all->to_stride};
    return rows;
}

/* Interleaves the bytes of vectors i and i + 8: four times, and 16 vectors of 16 bytes are turned over. */
static inline QN_INLINE void x86_interleave(__m256i to[16], const __m256i from[16]) {
    QN_UNROLL
    for (int i = 0; i < 8; i++) {
        to[2 * i] = _mm256_unpacklo_epi8(from[i], from[i + 8]);
        to[2 * i + 1] = _mm256_unpackhi_epi8(from[i], from[i + 8]);
    }
}

/* Rows of 32 output channels, `row` bytes apart, of all pixels: to the channels from o on of each pixel. */
static void x86_gather(const qn_span *span, const uint8_t *rows, size_t row, int32_t o) {
    for (int32_t p = 0; p < span->pixels; p += 16) {
        __m256i a[16], b[16];
        QN_UNROLL
        for (int i = 0; i < 16; i++) a[i] = x86_halves(rows + (size_t)i * row + p, rows + (size_t)(i + 16) * row + p);
        x86_interleave(b, a);
        x86_interleave(a, b);
        x86_interleave(b, a);
        x86_interleave(a, b);
        const int32_t pixels = span->pixels - p < 16 ? span->pixels - p : 16;
        for (int32_t i = 0; i < pixels; i++) _mm256_store_si256((void *)(span->out + span->out_at[p + i] + o), a[i]);
    }
}
