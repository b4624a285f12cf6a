/* AVX-512 with VNNI (Ice Lake and later, Zen 4 and later): vpdpbusd adds four byte products exactly in
 * 32 bits, so N does not matter here. */
#if !defined(QN_PORTABLE_ONLY) && (defined(__x86_64__) || defined(_M_X64))
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"))),                 \
                             apply_to = function)
#elif defined(__GNUC__)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")
#endif
#include <immintrin.h>
#include <string.h>

#include "plain.h"
#include "quicknet.h"

#define D_NAME(name) d512_##name
#define D_BYTES 64
#define V __m512i
#define D_LOAD(p) _mm512_loadu_si512((const void *)(p))
#define D_STORE(p, v) _mm512_storeu_si512((void *)(p), v)
#define D_ADD _mm512_add_epi16
#define D_ADDS _mm512_adds_epi16
#define D_MADDUBS _mm512_maddubs_epi16
#define D_MULHRS _mm512_mulhrs_epi16
#define D_LOW _mm512_unpacklo_epi8
#define D_HIGH _mm512_unpackhi_epi8
#define D_PACK _mm512_packus_epi16
#define D_MIN _mm512_min_epu8
#define D_SET8 _mm512_set1_epi8
#define D_SET16 _mm512_set1_epi16
#include "x86_depthwise.h"
#include "x86_256.h"
#include "x86_sparse.h"

/* ---- matrix -------------------------------------------------------------------------------------- */

/* Up to 6 pixels x 64 output channels a pass (32 where no more are left): 24 accumulators, four vectors of weights,
 * one of data; so 10 loads for 24 products, of which Zen 4 does one each a cycle. 64 channels pack to whole vectors
 * of bytes. Putting a block's requantization between the next one's products did not pay: the wait in memory cost
 * more than the overlap gained; nor did 5 or 7 pixels. */
enum { BLOCK = 64, PIXELS = 6 };

static size_t matrix_scratch(int32_t steps, int32_t pixels) {
    (void)steps;
    (void)pixels;
    return 0;
}

static int32_t depthwise_bytes(int32_t kernel) { return 2 * (kernel / 2 * kernel + kernel + 1); }

/* Vectors of a block: 4, or 2 of a last one of 32 channels. */
static int32_t vectors_at(const qn_matrix *m, int32_t o) { return m->out_channels - o < BLOCK ? 2 : 4; }

/* [out / 64][step][quad][vector][16 channels][4 bytes]. Lane i of vector v is output channel i / 4 * 4 * vectors +
 * v * 4 + i % 4: packing to 16 bits and to bytes puts them in order. Multipliers as packing to 16 bits leaves them. */
static void pack_block(const qn_matrix *to, const qn_layer *layer, int32_t o) {
    const int32_t vectors = vectors_at(to, o);
    for (int32_t i = 0; i < 16 * vectors; i++) {
        int32_t v = i / 16, lane = i % 16, channel = o + lane / 4 * 4 * vectors + v * 4 + lane % 4;
        int32_t in_layer = channel < layer->out_channels;
        int8_t *w = to->weight + (size_t)o * (size_t)to->steps * 16 + i * 4, step[16];
        for (int32_t s = 0; s < to->steps; s++, w += 256 * vectors) {
            qn_sequence_step(layer, channel, s, step);
            for (int32_t q = 0; q < 4; q++) memcpy(w + q * 64 * vectors, step + 4 * q, 4);
        }
        int32_t at = o + v / 2 * 32 + lane / 4 * 8 + v % 2 * 4 + lane % 4;
        to->bias[o + i] = in_layer ? qn_i32(layer->bias + 4 * (size_t)channel) : 0;
        to->positive[at] = in_layer ? qn_i16(layer->positive + 2 * (size_t)channel) : 0;
        to->negative[at] = in_layer ? qn_i16(layer->negative + 2 * (size_t)channel) : 0;
    }
}

static void pack_matrix(const qn_matrix *to, const qn_layer *layer) {
    for (int32_t o = 0; o < to->out_channels; o += BLOCK) pack_block(to, layer, o);
}

static void pack_depthwise(const qn_depthwise *to, const qn_layer *layer) {
    int32_t c = 0;
    for (; c + 64 <= to->channels; c += 64) d512_pack_chunk(to, layer, c);
    for (; c < to->channels; c += 32) d256_pack_chunk(to, layer, c);
}

/* What requantization takes of a layer, from channel o: copied, since for all the compiler knows a store of bytes
 * changes what `m` points to. */
typedef struct {
    const int16_t *positive, *negative;
    __m512i shift, zero, top;
} qn_numbers;

static inline QN_INLINE qn_numbers numbers_at(const qn_matrix *m, int32_t o) {
    qn_numbers n = {m->positive + o, m->negative + o, _mm512_set1_epi32(m->shift), _mm512_set1_epi16((int16_t)m->zero),
                    _mm512_set1_epi8((char)m->top)};
    return n;
}

/* 32 channels in 16 bits from two accumulators; multipliers are at + o. */
static inline QN_INLINE __m512i requantized(const qn_numbers *n, int32_t o, __m512i c0, __m512i c1) {
    __m512i t = _mm512_packs_epi32(_mm512_srav_epi32(c0, n->shift), _mm512_srav_epi32(c1, n->shift));
    __m512i multiplier = _mm512_mask_mov_epi16(_mm512_load_si512(n->positive + o), _mm512_movepi16_mask(t),
                                               _mm512_load_si512(n->negative + o));
    return _mm512_adds_epi16(_mm512_mulhrs_epi16(t, multiplier), n->zero);
}

static inline QN_INLINE void store(const qn_numbers *n, const __m512i c[4], const int vectors, uint8_t *out) {
    __m512i low = requantized(n, 0, c[0], c[1]);
    if (vectors == 4) {
        __m512i bytes = _mm512_packus_epi16(low, requantized(n, 32, c[2], c[3]));
        _mm512_storeu_si512((void *)out, _mm512_min_epu8(bytes, n->top));
    } else {
        __m256i bytes = _mm512_cvtusepi16_epi8(_mm512_max_epi16(low, _mm512_setzero_si512()));
        _mm256_store_si256((void *)out, _mm256_min_epu8(bytes, _mm512_castsi512_si256(n->top)));
    }
}

/* acc + data * weight. Assembly, since GCC 12 copies accumulators for its intrinsic and keeps some in memory: an
 * image of quicknet_s took 285 us instead of 165. */
static inline QN_INLINE __m512i product(__m512i acc, __m512i data, __m512i weight) {
#if defined(__GNUC__)
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(data), "v"(weight));
    return acc;
#else
    return _mm512_dpbusd_epi32(acc, data, weight);
#endif
}

/* Four bytes of each pixel, from `a`, onto its accumulators. */
static inline QN_INLINE void quad(__m512i c[PIXELS][4], const uint8_t *a, size_t stride, const int8_t *w,
                                  const int pixels, const int vectors) {
    __m512i weight[4];
    QN_UNROLL
    for (int v = 0; v < vectors; v++) weight[v] = _mm512_load_si512(w + 64 * v);
    QN_UNROLL
    for (int i = 0; i < pixels; i++) {
        int32_t bytes;
        memcpy(&bytes, a + (size_t)i * stride, 4);
        __m512i data = _mm512_set1_epi32(bytes);
        QN_UNROLL
        for (int v = 0; v < vectors; v++) c[i][v] = product(c[i][v], data, weight[v]);
    }
}

/* `pixels` from pixel p, 16 x `vectors` output channels from o. */
static inline QN_INLINE void block(const qn_matrix *m, const qn_span *span, int32_t p, int32_t o, const int pixels,
                                   const int vectors) {
    const int8_t *w = m->weight + (size_t)o * (size_t)m->steps * 16;
    const size_t stride = (size_t)span->in_stride;
    const uint8_t *in = span->in + (size_t)p * stride;
    const int32_t *out_at = span->out_at + p;
    uint8_t *out = span->out + o;
    __m512i c[PIXELS][4];
    QN_UNROLL
    for (int i = 0; i < pixels; i++) {
        QN_UNROLL
        for (int v = 0; v < vectors; v++) c[i][v] = _mm512_load_si512(m->bias + o + 16 * v);
    }
    for (int32_t s = 0; s < m->steps; s++) {
        const uint8_t *a = in + m->step_at[s];
        QN_KEEP_LOOP
        for (int q = 0; q < 4; q++, a += 4, w += 64 * vectors) quad(c, a, stride, w, pixels, vectors);
    }
    const qn_numbers n = numbers_at(m, o);
    QN_UNROLL
    for (int i = 0; i < pixels; i++) store(&n, c[i], vectors, out + out_at[i]);
}

static inline QN_INLINE void blocks_of(const qn_matrix *m, const qn_span *span, int32_t p, int32_t o, int32_t pixels,
                                       const int vectors) {
    switch (pixels) {
    case 1: block(m, span, p, o, 1, vectors); break;
    case 2: block(m, span, p, o, 2, vectors); break;
    case 3: block(m, span, p, o, 3, vectors); break;
    case 4: block(m, span, p, o, 4, vectors); break;
    case 5: block(m, span, p, o, 5, vectors); break;
    default: block(m, span, p, o, 6, vectors); break;
    }
}

/* Not a part of the loops around them: GCC would prepare addresses for all six blocks, 1% of quicknet_s. */
static QN_NOINLINE void wide_blocks(const qn_matrix *m, const qn_span *span, int32_t p, int32_t o, int32_t pixels) {
    blocks_of(m, span, p, o, pixels, 4);
}

static QN_NOINLINE void narrow_blocks(const qn_matrix *m, const qn_span *span, int32_t p, int32_t o, int32_t pixels) {
    blocks_of(m, span, p, o, pixels, 2);
}

static void matrix(const qn_matrix *m, const qn_span *span, int32_t first, int32_t last, void *scratch) {
    int32_t passes = (span->pixels + PIXELS - 1) / PIXELS;
    (void)scratch;
    for (int32_t o = first; o < last; o += BLOCK) {
        for (int32_t i = 0; i < passes; i++) {
            int32_t p = span->pixels * i / passes, pixels = span->pixels * (i + 1) / passes - p;
            if (vectors_at(m, o) == 4)
                wide_blocks(m, span, p, o, pixels);
            else
                narrow_blocks(m, span, p, o, pixels);
        }
    }
}

/* ---- sparse -------------------------------------------------------------------------------------- */

/* One output channel x up to 112 pixels: vectors of 16, and at the end one of 8, which is half the work for a CPU that
 * divides 512 bits (Zen 4). Of few pixels a row has several sets of accumulators, one for each block of a group:
 * vpdpbusd takes 4-5 cycles. */
enum { HALVES = 14, CHAINS = 4 };

/* Whole cache lines: else every second load would touch two. The same for all spans of a layer, so that a block can say
 * where its quad begins, in lines. */
static size_t quad_stride(int32_t pixels) { return (size_t)qn_round_up(pixels, 16) * 4; }

static size_t sparse_scratch(int32_t channels, int32_t pixels) {
    return quad_stride(pixels) * (size_t)(channels / 4) + x86_row_stride(pixels) * QN_CHANNELS;
}

static int pack_sparse(qn_matrix *to, const qn_layer *layer, int64_t most) {
    return qn_pack_sparse(to, layer, most, QN_NO_LIMIT, (int32_t)(quad_stride(to->pixels) / QN_ALIGN));
}

static inline QN_INLINE __m256i half_product(__m256i acc, __m256i data, __m256i weight) {
#if defined(__GNUC__)
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(data), "v"(weight));
    return acc;
#else
    return _mm256_dpbusd_epi32(acc, data, weight);
#endif
}

/* The last accumulator of an odd number of halves is used as one of 256 bits. */
typedef struct {
    __m512i c[HALVES / 2];
} row_sums;

/* The weights of a group's blocks, in each lane of 16 bytes: loaded once, since a product of few pixels already takes
 * all that the CPU loads in a cycle. */
static inline QN_INLINE __m512i group_lanes(const int8_t *at, const int size) {
    int64_t pair;
    if (size == 4) return _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)at));
    if (size == 1) return _mm512_set1_epi32(qn_group_weights(at, 0));
    memcpy(&pair, at, 8);
    return _mm512_set1_epi64(pair);
}

static inline QN_INLINE __m512i lanes_block(__m512i lanes, const int size, const int i) {
    if (size == 1) return lanes;
    switch (i) {
    case 0: return _mm512_shuffle_epi32(lanes, size == 4 ? 0x00 : 0xa0);
    case 1: return _mm512_shuffle_epi32(lanes, size == 4 ? 0x55 : 0xf5);
    case 2: return _mm512_shuffle_epi32(lanes, 0xaa);
    default: return _mm512_shuffle_epi32(lanes, 0xff);
    }
}

/* A group of `size` blocks onto the sums of `halves` x 8 pixels, block i onto set i % chains. */
static inline QN_INLINE const int8_t *group(row_sums sums[CHAINS], const int8_t *at, const uint8_t *quads,
                                            const int size, const int halves, const int chains) {
    const __m512i lanes = group_lanes(at, size);
    uint64_t lines = 0;
    memcpy(&lines, at + 4 * size, (size_t)(2 * size));
    QN_UNROLL
    for (int i = 0; i < size; i++) {
        const uint8_t *data = quads + (size_t)(uint16_t)(lines >> (16 * i)) * QN_ALIGN;
        const __m512i w = lanes_block(lanes, size, i);
        __m512i *c = sums[i % chains].c;
        QN_UNROLL
        for (int v = 0; v < halves / 2; v++) c[v] = product(c[v], _mm512_load_si512(data + 64 * v), w);
        if (halves % 2) {
            __m256i acc = _mm512_castsi512_si256(c[halves / 2]), last = x86_load(data + 32 * (halves - 1));
            c[halves / 2] = _mm512_castsi256_si512(half_product(acc, last, _mm512_castsi512_si256(w)));
        }
    }
    return at + 6 * size;
}

/* What rows take of a layer, from an output channel on: copied, as qn_numbers is. */
typedef struct {
    const qn_row *row;
    const int8_t *weight;
    const int32_t *bias;
    const int16_t *positive, *negative;
    __m512i shift, zero, top;
} row_layer;

static inline QN_INLINE row_layer rows_from(const qn_matrix *m, int32_t o) {
    row_layer layer = {m->rows + o,
                       m->weight,
                       m->bias + o,
                       m->positive + o,
                       m->negative + o,
                       _mm512_set1_epi32(m->shift),
                       _mm512_set1_epi16((int16_t)m->zero),
                       _mm512_set1_epi8((char)m->top)};
    return layer;
}

/* 32 pixels of row i in 16 bits, four of the first and four of the second vector in turn. */
static inline QN_INLINE __m512i row_words(const row_layer *layer, int i, __m512i c0, __m512i c1) {
    __m512i t = _mm512_packs_epi32(_mm512_srav_epi32(c0, layer->shift), _mm512_srav_epi32(c1, layer->shift));
    __m512i multiplier = _mm512_mask_mov_epi16(_mm512_set1_epi16(layer->positive[i]), _mm512_movepi16_mask(t),
                                               _mm512_set1_epi16(layer->negative[i]));
    return _mm512_adds_epi16(_mm512_mulhrs_epi16(t, multiplier), layer->zero);
}

/* Writes the bytes of up to 4 vectors of pixels, and past them those of the last one again. */
static inline QN_INLINE void store_row(const row_layer *layer, int i, const __m512i *c, const int vectors,
                                       uint8_t *to) {
    const __m512i in_order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i low = row_words(layer, i, c[0], c[vectors > 1 ? 1 : 0]);
    __m512i high = vectors > 2 ? row_words(layer, i, c[2], c[vectors - 1]) : low;
    __m512i bytes = _mm512_min_epu8(_mm512_packus_epi16(low, high), layer->top);
    bytes = _mm512_permutexvar_epi32(in_order, bytes);
    if (vectors > 2)
        _mm512_storeu_si512((void *)to, bytes);
    else
        _mm256_storeu_si256((void *)to, _mm512_castsi512_si256(bytes));
}

/* Row i of `halves` x 8 pixels, whose quads begin at `quads`. */
static inline QN_INLINE void row(const row_layer *layer, int i, const uint8_t *quads, uint8_t *to, const int halves,
                                 const int chains) {
    const qn_row *r = &layer->row[i];
    const int vectors = (halves + 1) / 2;
    const int8_t *at = layer->weight + r->at;
    row_sums sums[CHAINS];
    QN_UNROLL
    for (int v = 0; v < vectors; v++) {
        sums[0].c[v] = _mm512_set1_epi32(layer->bias[i]);
        QN_UNROLL
        for (int k = 1; k < chains; k++) sums[k].c[v] = _mm512_setzero_si512();
    }
    for (int32_t k = r->fours; k > 0; k--) at = group(sums, at, quads, 4, halves, chains);
    for (int32_t k = r->twos; k > 0; k--) at = group(sums, at, quads, 2, halves, chains);
    for (int32_t k = r->ones; k > 0; k--) at = group(sums, at, quads, 1, halves, chains);
    QN_UNROLL
    for (int v = 0; v < vectors; v++) {
        QN_UNROLL
        for (int k = 1; k < chains; k++) sums[0].c[v] = _mm512_add_epi32(sums[0].c[v], sums[k].c[v]);
    }
    QN_UNROLL
    for (int v = 0; v < vectors; v += 4)
        store_row(layer, i, sums[0].c + v, vectors - v < 4 ? vectors - v : 4, to + 16 * v);
}

static inline QN_INLINE void rows_of(const qn_matrix *m, int32_t o, const x86_rows *rows, const int halves,
                                     const int chains) {
    const row_layer layer = rows_from(m, o);
    const uint8_t *quads = rows->quads;
    uint8_t *to = rows->to;
    const size_t stride = rows->to_stride;
    for (int32_t i = 0; i < QN_CHANNELS; i++, to += stride) row(&layer, i, quads, to, halves, chains);
}

/* QN_CHANNELS output channels from o on. */
static QN_NOINLINE void some_rows(const qn_matrix *m, int32_t o, const x86_rows *rows, int32_t halves) {
    switch (halves) {
    case 1: rows_of(m, o, rows, 1, 4); break;
    case 2: rows_of(m, o, rows, 2, 4); break;
    case 3: rows_of(m, o, rows, 3, 2); break;
    case 4: rows_of(m, o, rows, 4, 2); break;
    case 5: rows_of(m, o, rows, 5, 2); break;
    case 6: rows_of(m, o, rows, 6, 2); break;
    case 7: rows_of(m, o, rows, 7, 1); break;
    case 8: rows_of(m, o, rows, 8, 1); break;
    case 9: /* and 13 below: as whole vectors, since a case takes 2 KB, and tiles of so many pixels are rare */
    case 10: rows_of(m, o, rows, 10, 1); break;
    case 11: rows_of(m, o, rows, 11, 1); break;
    case 12: rows_of(m, o, rows, 12, 1); break;
    default: rows_of(m, o, rows, 14, 1); break;
    }
}

static void sparse(const qn_matrix *m, const qn_span *span, int32_t first, int32_t last, void *scratch) {
    const int32_t halves = qn_round_up(span->pixels, 8) / 8, vectors = (halves + 1) / 2, most = HALVES / 2;
    const int32_t passes = (vectors + most - 1) / most;
    const x86_rows rows = x86_begin(span, quad_stride(m->pixels), scratch);
    for (int32_t o = first; o < last; o += QN_CHANNELS) {
        for (int32_t i = 0; i < passes; i++) {
            int32_t begin = 2 * (vectors * i / passes), end = 2 * (vectors * (i + 1) / passes);
            const x86_rows from = x86_rows_at(&rows, 8 * begin);
            some_rows(m, o, &from, (end < halves ? end : halves) - begin);
        }
        x86_gather(span, rows.to, rows.to_stride, o);
    }
}

/* Whole networks on one core of a Zen 4, all layers sparse against all dense: 1.0 at 40% of the blocks, 0.84
 * (quicknet) and 0.90 (quicknet_s) at 50%; the layers of few pixels lose first, and these are counted less. */
enum { BREAK_EVEN = 450 };

/* ---- depthwise ----------------------------------------------------------------------------------- */

static inline QN_INLINE void depthwise_of(const qn_depthwise *d, const uint8_t *in, size_t row_stride,
                                          const int32_t size[2], uint8_t *out, const int kernel) {
    int32_t c = 0;
    for (; c + 64 <= d->channels; c += 64) d512_chunk(d, in, row_stride, size, c, out, kernel);
    for (; c < d->channels; c += 32) d256_chunk(d, in, row_stride, size, c, out, kernel);
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

/* Products onto 16 accumulators, their operands in registers; assembly, since compilers add moves. */
#if defined(__GNUC__)
#define DOT(c) "vpdpbusd %%zmm30, %%zmm31, %%zmm" #c "\n"
static uint64_t peak(int32_t sums, uint64_t rounds) {
    (void)sums;
    for (uint64_t r = 0; r < rounds; r++)
        __asm__ volatile(DOT(0) DOT(1) DOT(2) DOT(3) DOT(4) DOT(5) DOT(6) DOT(7) DOT(8) DOT(9) DOT(10) DOT(11) DOT(12)
                             DOT(13) DOT(14) DOT(15)::
                                 : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                                   "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
    return rounds * 16 * 64;
}
#else
static uint64_t peak(int32_t sums, uint64_t rounds) {
    (void)sums;
    (void)rounds;
    return 0;
}
#endif

const qn_kernels qn_avx512vnni = {
    .isa = QN_AVX512VNNI,
    .name = "avx512vnni",
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
typedef int qn_no_avx512vnni; /* a file may not be empty */
#endif
