/* Rows scaled by AVX2, in integers of 32 bits, exactly. Its product of 32 bits takes twice the time of vpmaddwd, which
 * adds two of 16 bits. So a weight is taken apart, w = 2048 high + low with 0 <= low < 2048, and 2048 (sum of pixels
 * times high) + (sum of pixels times low) is the sum, modulo 2^32.
 *
 * Zen 1, against Pillow 13's plain C: results/AIMS.md, benchmarks/bench_page.py. */
#if !defined(QN_PORTABLE_ONLY) && (defined(__x86_64__) || defined(_M_X64))
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#elif defined(__GNUC__)
#pragma GCC target("avx2")
#pragma GCC optimize("Os") /* a quarter less code of as many instructions in the loops */
#endif
#include <immintrin.h>
#include <string.h>

#include "scaling.h"

enum { LOW = 11, ROUND = 1 << (QN_BITS - 1) };

/* [4 high][4 low] 16-bit numbers of each 4 weights, in their place. */
static void pack(int32_t *weights, int32_t taps) {
    for (int32_t k = 0; k < taps; k += 4) {
        int16_t parts[8];
        for (int32_t i = 0; i < 4; i++) {
            parts[i] = (int16_t)(weights[k + i] >> LOW);
            parts[4 + i] = (int16_t)(weights[k + i] & ((1 << LOW) - 1));
        }
        memcpy(weights + k, parts, sizeof parts);
    }
}

static inline __m256i broadcast(const void *eight) {
    int64_t bytes;
    memcpy(&bytes, eight, 8);
    return _mm256_set1_epi64x(bytes);
}

/* 8 pixels of a byte a step: 4 of them twice in each half, for the high and the low parts of their weights. */
static void grey(const qn_across *a, const uint8_t *in, uint8_t *out) {
    const __m256i halves = _mm256_setr_epi8(0, -1, 1, -1, 2, -1, 3, -1, 0, -1, 1, -1, 2, -1, 3, -1, 4, -1, 5, -1, 6, -1,
                                            7, -1, 4, -1, 5, -1, 6, -1, 7, -1);
    for (int32_t x = 0; x < a->to; x++) {
        const uint8_t *pixel = in + a->first[x];
        const int32_t *w = a->weights + (size_t)x * (size_t)a->taps;
        __m256i sums = _mm256_setzero_si256();
        for (int32_t k = 0; k < a->count[x]; k += 8) {
            const __m256i data = _mm256_shuffle_epi8(broadcast(pixel + k), halves);
            const __m256i weight = _mm256_loadu_si256((const __m256i *)(const void *)(w + k));
            sums = _mm256_add_epi32(sums, _mm256_madd_epi16(data, weight));
        }
        __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
        sum = _mm_hadd_epi32(sum, sum); /* high, low */
        sum = _mm_add_epi32(_mm_slli_epi32(sum, LOW), _mm_srli_si128(sum, 4));
        sum = _mm_srai_epi32(_mm_add_epi32(sum, _mm_set1_epi32(ROUND)), QN_BITS);
        out[x] = (uint8_t)_mm_cvtsi128_si32(_mm_packus_epi16(_mm_packs_epi32(sum, sum), sum));
    }
}

/* 4 pixels of 3 or 4 bytes a step: first channels 0 and 1, then 2 and 3, each of 4 pixels. `out` is written up to a
 * byte past its end. */
static inline __attribute__((always_inline)) void colours(const qn_across *a, const uint8_t *in, const int bytes,
                                                          uint8_t *out) {
    const char p = (char)bytes;
    const __m256i turned =
        _mm256_setr_epi8(0, -1, p, -1, 2 * p, -1, 3 * p, -1, 1, -1, p + 1, -1, 2 * p + 1, -1, 3 * p + 1, -1, 2, -1,
                         p + 2, -1, 2 * p + 2, -1, 3 * p + 2, -1, 3, -1, p + 3, -1, 2 * p + 3, -1, 3 * p + 3, -1);
    for (int32_t x = 0; x < a->to; x++, out += a->channels) {
        const uint8_t *pixel = in + (size_t)a->first[x] * (size_t)bytes;
        const int32_t *w = a->weights + (size_t)x * (size_t)a->taps;
        __m256i high = _mm256_setzero_si256(), low = high;
        for (int32_t k = 0; k < a->count[x]; k += 4, pixel += 4 * bytes) {
            const __m128i four = _mm_loadu_si128((const __m128i *)(const void *)pixel);
            const __m256i data = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(four), turned);
            high = _mm256_add_epi32(high, _mm256_madd_epi16(data, broadcast(w + k)));
            low = _mm256_add_epi32(low, _mm256_madd_epi16(data, broadcast(w + k + 2)));
        }
        const __m256i both = _mm256_add_epi32(_mm256_slli_epi32(high, LOW), low);
        __m128i sum = _mm_hadd_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
        sum = _mm_srai_epi32(_mm_add_epi32(sum, _mm_set1_epi32(ROUND)), QN_BITS);
        sum = _mm_packus_epi16(_mm_packs_epi32(sum, sum), sum);
        const int32_t four = _mm_cvtsi128_si32(sum);
        memcpy(out, &four, 4);
    }
}

static void across(const qn_across *a, const uint8_t *in, uint8_t *out) {
    if (a->pixel == 1) grey(a, in, out);
    if (a->pixel == 3) colours(a, in, 3, out);
    if (a->pixel == 4) colours(a, in, 4, out);
}

typedef struct {
    __m256i high[4], low[4];
} column_sums;

static inline __m256i pair_of(const int16_t *weights) {
    int32_t pair;
    memcpy(&pair, weights, 4);
    return _mm256_set1_epi32(pair);
}

/* 32 bytes from byte `at` on: two rows a step, of which a last odd one counts twice, with a weight of 0. */
static inline __attribute__((always_inline)) __m256i columns(const uint8_t *const *rows, const int16_t *weights,
                                                             int32_t count, size_t at) {
    const __m256i none = _mm256_setzero_si256(), round = _mm256_set1_epi32(ROUND);
    column_sums s = {{none, none, none, none}, {none, none, none, none}};
    __m256i sum[4];
    for (int32_t k = 0; k < count; k += 2) {
        const int16_t *w = weights + k / 4 * 8 + k % 4;
        const __m256i wide = pair_of(w), narrow = pair_of(w + 4);
        const __m256i a = _mm256_loadu_si256((const __m256i *)(const void *)(rows[k] + at));
        const __m256i b = _mm256_loadu_si256((const __m256i *)(const void *)(rows[k + 1 < count ? k + 1 : k] + at));
        const __m256i left = _mm256_unpacklo_epi8(a, b), right = _mm256_unpackhi_epi8(a, b);
        const __m256i pairs[4] = {_mm256_unpacklo_epi8(left, none), _mm256_unpackhi_epi8(left, none),
                                  _mm256_unpacklo_epi8(right, none), _mm256_unpackhi_epi8(right, none)};
        for (int i = 0; i < 4; i++) {
            s.high[i] = _mm256_add_epi32(s.high[i], _mm256_madd_epi16(pairs[i], wide));
            s.low[i] = _mm256_add_epi32(s.low[i], _mm256_madd_epi16(pairs[i], narrow));
        }
    }
    for (int i = 0; i < 4; i++) {
        sum[i] = _mm256_add_epi32(_mm256_slli_epi32(s.high[i], LOW), _mm256_add_epi32(s.low[i], round));
        sum[i] = _mm256_srai_epi32(sum[i], QN_BITS);
    }
    return _mm256_packus_epi16(_mm256_packs_epi32(sum[0], sum[1]), _mm256_packs_epi32(sum[2], sum[3]));
}

static void down(const uint8_t *const *rows, const int32_t *weights, int32_t count, size_t bytes, uint8_t *out) {
    for (size_t at = 0; at < bytes; at += QN_PAST) {
        uint8_t part[QN_PAST];
        const __m256i sums = columns(rows, (const int16_t *)(const void *)weights, count, at);
        if (bytes - at >= QN_PAST) {
            _mm256_storeu_si256((__m256i *)(void *)(out + at), sums);
        } else {
            _mm256_storeu_si256((__m256i *)(void *)part, sums);
            memcpy(out + at, part, bytes - at);
        }
    }
}

const qn_scaling qn_scaling_avx2 = {pack, across, down};

#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int qn_no_resize_avx2; /* a file may not be empty */
#endif
