/* AVX2 (Intel since 2013, AMD since 2015), whose only product of bytes adds two of them in 16 bits (vpmaddubsw).
 * FORMAT.md's N says how many such sums fit 16 bits before they are widened: per 32 x N products it takes N
 * multiplications, N - 1 additions, and one multiplication and addition for widening. */
#if !defined(QN_PORTABLE_ONLY) && (defined(__x86_64__) || defined(_M_X64))
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#elif defined(__GNUC__)
#pragma GCC target("avx2")
#endif
#include <immintrin.h>
#include <string.h>

#include "plain.h"
#include "quicknet.h"

#include "x86_256.h"
#include "x86_sparse.h"

/* ---- matrix -------------------------------------------------------------------------------------- */

/* One pixel x 64 output channels: 8 accumulators, 4 quads of data, weights as operands in memory. Steps go in runs
 * of 16 (256 bytes a pixel), so that a run's weights, 16 KiB, stay in the first cache for all pixels of the
 * span; between runs the accumulators wait in scratch. The first 8 pixels fetch the next run's weights: a whole
 * quicknet's come from the third cache for every image, and waiting for them took 4-8% of its time. 36 loads
 * stand against 40 multiplications (N = 4), so sharing weights between pixels would gain nothing, and 16
 * registers do not hold more. Measured on Zen 4 in the first cache: 94% of the ceiling. */
enum { BLOCK = 64, RUN = 16, FETCHING = 8 };

static size_t matrix_scratch(int32_t steps, int32_t pixels) {
    return steps > RUN ? (size_t)pixels * BLOCK * sizeof(int32_t) : 0;
}

static int32_t depthwise_bytes(int32_t kernel) { return 2 * (kernel / 2 * kernel + kernel + 1); }

/* The output channel of lane i of accumulator v: packing to 16 bits and to bytes puts them in order. */
static int32_t channel_of(int32_t v, int32_t i) { return v / 4 * 32 + i / 4 * 16 + v % 4 * 4 + i % 4; }

/* [out / 64][step][accumulator][quad][8 channels][4 bytes]; a last block of 32 has 4 accumulators. Multipliers as
 * packing to 16 bits leaves them. */
static void pack_block(const qn_matrix *to, const qn_layer *layer, int32_t o) {
    const int32_t accumulators = to->out_channels - o < BLOCK ? 4 : 8;
    for (int32_t i = 0; i < 8 * accumulators; i++) {
        int32_t v = i / 8, lane = i % 8, channel = o + channel_of(v, lane), in_layer = channel < layer->out_channels;
        int8_t *w = to->weight + (size_t)o * (size_t)to->steps * 16 + v * 128 + lane * 4, step[16];
        for (int32_t s = 0; s < to->steps; s++, w += 128 * accumulators) {
            qn_sequence_step(layer, channel, s, step);
            for (int32_t q = 0; q < 4; q++) memcpy(w + q * 32, step + 4 * q, 4);
        }
        int32_t at = o + v / 2 * 16 + lane / 4 * 8 + v % 2 * 4 + lane % 4;
        to->bias[o + i] = in_layer ? qn_i32(layer->bias + 4 * (size_t)channel) : 0;
        to->positive[at] = in_layer ? qn_i16(layer->positive + 2 * (size_t)channel) : 0;
        to->negative[at] = in_layer ? qn_i16(layer->negative + 2 * (size_t)channel) : 0;
    }
}

static void pack_matrix(const qn_matrix *to, const qn_layer *layer) {
    for (int32_t o = 0; o < to->out_channels; o += BLOCK) pack_block(to, layer, o);
}

static void pack_depthwise(const qn_depthwise *to, const qn_layer *layer) {
    for (int32_t c = 0; c < to->channels; c += 32) d256_pack_chunk(to, layer, c);
}

static inline QN_INLINE __m256i load(const void *p) { return _mm256_load_si256(p); }

static inline QN_INLINE __m256i product(__m256i data, const int8_t *w) { return _mm256_maddubs_epi16(data, load(w)); }

static inline QN_INLINE __m256i widened(__m256i sum, __m256i acc) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(sum, _mm256_set1_epi16(1)));
}

/* One step, 16 bytes of data in four quads, onto one accumulator. */
static inline QN_INLINE __m256i step(__m256i acc, const __m256i a[4], const int8_t *w, const int sums) {
    __m256i p0 = product(a[0], w), p1 = product(a[1], w + 32), p2 = product(a[2], w + 64), p3 = product(a[3], w + 96);
    if (sums == 1) return widened(p3, widened(p2, widened(p1, widened(p0, acc))));
    p0 = _mm256_add_epi16(p0, p1);
    p2 = _mm256_add_epi16(p2, p3);
    if (sums == 2) return widened(p2, widened(p0, acc));
    return widened(_mm256_add_epi16(p0, p2), acc);
}

/* 16 channels in 16 bits from two accumulators; multipliers are at + o. */
static inline QN_INLINE __m256i requantized(const qn_matrix *m, int32_t o, __m256i c0, __m256i c1) {
    __m128i shift = _mm_cvtsi32_si128(m->shift);
    __m256i t = _mm256_packs_epi32(_mm256_sra_epi32(c0, shift), _mm256_sra_epi32(c1, shift));
    __m256i multiplier = _mm256_blendv_epi8(load(m->positive + o), load(m->negative + o), _mm256_srai_epi16(t, 15));
    return _mm256_adds_epi16(_mm256_mulhrs_epi16(t, multiplier), _mm256_set1_epi16((int16_t)m->zero));
}

static inline QN_INLINE void store(const qn_matrix *m, int32_t o, const __m256i *c, const int accumulators,
                                   uint8_t *out) {
    const __m256i top = _mm256_set1_epi8((char)m->top);
    QN_UNROLL
    for (int v = 0; v < accumulators; v += 4) {
        __m256i low = requantized(m, o + v * 8, c[v], c[v + 1]);
        __m256i high = requantized(m, o + v * 8 + 16, c[v + 2], c[v + 3]);
        _mm256_store_si256((void *)(out + v * 8), _mm256_min_epu8(_mm256_packus_epi16(low, high), top));
    }
}

/* A run of steps for all pixels of the span, 8 x `accumulators` channels from o. */
static inline QN_INLINE void run(const qn_matrix *m, const qn_span *span, int32_t o, int32_t first_step,
                                 int32_t *waiting, const int sums, const int accumulators) {
    const int32_t last_step = first_step + RUN < m->steps ? first_step + RUN : m->steps;
    const int8_t *weight =
        m->weight + (size_t)o * (size_t)m->steps * 16 + (size_t)first_step * 128 * (size_t)accumulators;
    const int8_t *next = weight + (size_t)(last_step - first_step) * 128 * (size_t)accumulators;
    const int8_t *end = m->weight + (size_t)m->out_channels * (size_t)m->steps * 16;
    const uint8_t *in = span->in;
    for (int32_t p = 0; p < span->pixels; p++, in += span->in_stride, waiting += BLOCK) {
        const int32_t *from = first_step == 0 ? m->bias + o : waiting;
        const int8_t *w = weight;
        __m256i c[8], a[4];
        QN_UNROLL
        for (int v = 0; v < accumulators; v++) c[v] = load(from + v * 8);
        for (int32_t s = first_step; s < last_step; s++, w += 128 * accumulators) {
            const uint8_t *data = in + m->step_at[s];
            if (p < FETCHING && next < end) {
                _mm_prefetch((const void *)next, _MM_HINT_T0);
                _mm_prefetch((const void *)(next + 64), _MM_HINT_T0);
                next += 128;
            }
            QN_UNROLL
            for (int q = 0; q < 4; q++) {
                int32_t bytes;
                memcpy(&bytes, data + 4 * q, 4);
                a[q] = _mm256_set1_epi32(bytes);
            }
            QN_UNROLL
            for (int v = 0; v < accumulators; v++) c[v] = step(c[v], a, w + v * 128, sums);
        }
        if (last_step == m->steps) {
            store(m, o, c, accumulators, span->out + span->out_at[p] + o);
        } else {
            QN_UNROLL
            for (int v = 0; v < accumulators; v++) _mm256_store_si256((void *)(waiting + v * 8), c[v]);
        }
    }
}

static inline QN_INLINE void matrix_of(const qn_matrix *m, const qn_span *span, int32_t first, int32_t last,
                                       int32_t *scratch, const int sums) {
    for (int32_t o = first; o < last; o += BLOCK) {
        for (int32_t s = 0; s < m->steps; s += RUN) {
            if (m->out_channels - o >= BLOCK)
                run(m, span, o, s, scratch, sums, 8);
            else
                run(m, span, o, s, scratch, sums, 4);
        }
    }
}

static void matrix(const qn_matrix *m, const qn_span *span, int32_t first, int32_t last, void *scratch) {
    if (m->sums == 1)
        matrix_of(m, span, first, last, scratch, 1);
    else if (m->sums == 2)
        matrix_of(m, span, first, last, scratch, 2);
    else
        matrix_of(m, span, first, last, scratch, 4);
}

/* ---- sparse -------------------------------------------------------------------------------------- */

/* One output channel x 8 `vectors` of pixels: as many accumulators, the weights of up to four blocks, and two sums.
 * A block takes one multiplication for 8 pixels; what a group adds up in 16 bits is widened by one more. */
enum { VECTORS = 8 };

static size_t quad_stride(int32_t pixels) { return (size_t)qn_round_up(pixels, 8) * 4; }

static size_t sparse_scratch(int32_t channels, int32_t pixels) {
    return quad_stride(pixels) * (size_t)(channels / 4) + x86_row_stride(pixels) * QN_CHANNELS;
}

static int pack_sparse(qn_matrix *to, const qn_layer *layer, int64_t most) {
    return qn_pack_sparse(to, layer, most, INT16_MAX / layer->middle_top, 1);
}

/* A group of `size` blocks onto the accumulators of `vectors` x 8 pixels. */
static inline QN_INLINE const int8_t *group(__m256i c[VECTORS], const int8_t *at, const uint8_t *quads, size_t stride,
                                            const int size, const int vectors) {
    const uint8_t *data[4];
    __m256i w[4];
    QN_UNROLL
    for (int i = 0; i < size; i++) {
        data[i] = quads + qn_group_quad(at, size, i) * stride;
        w[i] = _mm256_set1_epi32(qn_group_weights(at, i));
    }
    QN_UNROLL
    for (int v = 0; v < vectors; v++) {
        __m256i sum = _mm256_maddubs_epi16(load(data[0] + 32 * v), w[0]);
        QN_UNROLL
        for (int i = 1; i < size; i++) sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(load(data[i] + 32 * v), w[i]));
        c[v] = widened(sum, c[v]);
    }
    return at + 6 * size;
}

/* What requantization takes of an output channel. */
typedef struct {
    __m256i positive, negative, zero, top;
    __m128i shift;
} row_numbers;

/* 32 pixels in bytes, of which the accumulators from `vectors` on are not there. */
static inline QN_INLINE __m256i row_bytes(const __m256i *c, const row_numbers *n, const int vectors) {
    __m256i half[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    QN_UNROLL
    for (int i = 0; i < 2; i++) {
        if (2 * i >= vectors) continue;
        __m256i low = _mm256_sra_epi32(c[2 * i], n->shift);
        __m256i high = 2 * i + 1 < vectors ? _mm256_sra_epi32(c[2 * i + 1], n->shift) : low;
        __m256i t = _mm256_packs_epi32(low, high);
        __m256i multiplier = _mm256_blendv_epi8(n->positive, n->negative, _mm256_srai_epi16(t, 15));
        half[i] = _mm256_adds_epi16(_mm256_mulhrs_epi16(t, multiplier), n->zero);
    }
    __m256i bytes = _mm256_min_epu8(_mm256_packus_epi16(half[0], half[1]), n->top);
    return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

/* Output channel o of `vectors` x 8 pixels, whose quads begin at `quads`. */
static inline QN_INLINE void row(const qn_matrix *m, int32_t o, const uint8_t *quads, size_t stride, uint8_t *to,
                                 const int vectors) {
    const qn_row *r = &m->rows[o];
    const int8_t *at = m->weight + r->at;
    __m256i c[VECTORS];
    QN_UNROLL
    for (int v = 0; v < vectors; v++) c[v] = _mm256_set1_epi32(m->bias[o]);
    for (int32_t i = r->fours; i > 0; i--) at = group(c, at, quads, stride, 4, vectors);
    for (int32_t i = r->twos; i > 0; i--) at = group(c, at, quads, stride, 2, vectors);
    for (int32_t i = r->ones; i > 0; i--) at = group(c, at, quads, stride, 1, vectors);
    const row_numbers n = {_mm256_set1_epi16(m->positive[o]), _mm256_set1_epi16(m->negative[o]),
                           _mm256_set1_epi16((int16_t)m->zero), _mm256_set1_epi8((char)m->top),
                           _mm_cvtsi32_si128(m->shift)};
    QN_UNROLL
    for (int v = 0; v < vectors; v += 4)
        _mm256_storeu_si256((void *)(to + 8 * v), row_bytes(c + v, &n, vectors - v < 4 ? vectors - v : 4));
}

static inline QN_INLINE void rows_of(const qn_matrix *m, int32_t o, const x86_rows *rows, const int vectors) {
    for (int32_t i = 0; i < QN_CHANNELS; i++)
        row(m, o + i, rows->quads, rows->stride, rows->to + (size_t)i * rows->to_stride, vectors);
}

/* QN_CHANNELS output channels from o on. */
static QN_NOINLINE void some_rows(const qn_matrix *m, int32_t o, const x86_rows *rows, int32_t vectors) {
    switch (vectors) {
    case 1: rows_of(m, o, rows, 1); break;
    case 2: rows_of(m, o, rows, 2); break;
    case 3: rows_of(m, o, rows, 3); break;
    case 4: rows_of(m, o, rows, 4); break;
    case 5: rows_of(m, o, rows, 5); break;
    case 6: rows_of(m, o, rows, 6); break;
    case 7: rows_of(m, o, rows, 7); break;
    default: rows_of(m, o, rows, 8); break;
    }
}

static void sparse(const qn_matrix *m, const qn_span *span, int32_t first, int32_t last, void *scratch) {
    const int32_t vectors = qn_round_up(span->pixels, 8) / 8, passes = (vectors + VECTORS - 1) / VECTORS;
    const x86_rows rows = x86_begin(span, quad_stride(span->pixels), scratch);
    for (int32_t o = first; o < last; o += QN_CHANNELS) {
        for (int32_t i = 0; i < passes; i++) {
            int32_t v = vectors * i / passes, count = vectors * (i + 1) / passes - v;
            const x86_rows from = x86_rows_at(&rows, 8 * v);
            some_rows(m, o, &from, count);
        }
        x86_gather(span, rows.to, rows.to_stride, o);
    }
}

/* Dense and sparse layers of the family in turn, processor time on Zen 1, blocks kept at random: at 60% still 1.3-1.4
 * times as fast as dense with 84 or 49 pixels (N = 4, dense kernels' best case; N = 1: 2.1), as fast as dense at 49% with
 * 9 pixels, which take two vectors of 8: 87%. Below that, since other CPUs load more slowly than they multiply. */
enum { BREAK_EVEN = 700 };

/* ---- depthwise ----------------------------------------------------------------------------------- */

static inline QN_INLINE void depthwise_of(const qn_depthwise *d, const uint8_t *in, size_t row_stride,
                                          const int32_t size[2], uint8_t *out, const int kernel) {
    for (int32_t c = 0; c < d->channels; c += 32) d256_chunk(d, in, row_stride, size, c, out, kernel);
}

static void depthwise(const qn_depthwise *d, const uint8_t *in, int32_t row_stride, int32_t rows, int32_t width,
                      uint8_t *out) {
    const int32_t size[2] = {rows, width};
    if (d->kernel == 3)
        depthwise_of(d, in, (size_t)row_stride, size, out, 3);
    else
        depthwise_of(d, in, (size_t)row_stride, size, out, 5);
}

/* ---- ceiling ------------------------------------------------------------------------------------- */

/* The multiplications and additions of `step`, its operands in registers, onto 8 accumulators. Assembly, since
 * compilers add moves to a loop as tight as this. */
#if defined(__GNUC__)
#define MULTIPLY(t) "vpmaddubsw %%ymm12, %%ymm13, %%ymm" #t "\n"
#define ADD(t, u) "vpaddw %%ymm" #t ", %%ymm" #u ", %%ymm" #t "\n"
#define WIDEN(c, t) "vpmaddwd %%ymm14, %%ymm" #t ", %%ymm" #t "\n vpaddd %%ymm" #t ", %%ymm" #c ", %%ymm" #c "\n"
#define SUM1(c, t, u) MULTIPLY(t) WIDEN(c, t)
#define SUM2(c, t, u) MULTIPLY(t) MULTIPLY(u) ADD(t, u) WIDEN(c, t)
#define SUM4(c, t, u) MULTIPLY(t) MULTIPLY(u) ADD(t, u) MULTIPLY(u) ADD(t, u) MULTIPLY(u) ADD(t, u) WIDEN(c, t)
#define EIGHT(S) S(0, 8, 9) S(1, 10, 11) S(2, 8, 9) S(3, 10, 11) S(4, 8, 9) S(5, 10, 11) S(6, 8, 9) S(7, 10, 11)
#define ROUND(S)                                                                                                       \
    __asm__ volatile(EIGHT(S)::                                                                                        \
                         : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",    \
                           "xmm11")
static uint64_t peak(int32_t sums, uint64_t rounds) {
    for (uint64_t r = 0; r < rounds; r++) {
        if (sums == 1)
            ROUND(SUM1);
        else if (sums == 2)
            ROUND(SUM2);
        else
            ROUND(SUM4);
    }
    return rounds * 8 * 32 * (uint64_t)sums;
}
#else
static uint64_t peak(int32_t sums, uint64_t rounds) {
    (void)sums;
    (void)rounds;
    return 0;
}
#endif

const qn_kernels qn_avx2 = {
    .isa = QN_AVX2,
    .name = "avx2",
    .matrix_block = BLOCK,
    .matrix_scratch = matrix_scratch,
    .depthwise_bytes = depthwise_bytes,
    .pack_matrix = pack_matrix,
    .pack_depthwise = pack_depthwise,
    .pack_sparse = pack_sparse,
    .sparse_below = BREAK_EVEN,
    .sparse_pixels = 8,
    .sparse_scratch = sparse_scratch,
    .matrix = matrix,
    .sparse = sparse,
    .depthwise = depthwise,
    .pool = qn_plain_pool,
    .sum = qn_plain_sum,
    .head = qn_plain_head,
    .peak = peak,
};

#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int qn_no_avx2; /* a file may not be empty */
#endif
