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

#if defined(__GNUC__)
#define QN_INLINE __attribute__((always_inline))
#else
#define QN_INLINE
#endif

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

/* ---- matrix -------------------------------------------------------------------------------------- */

/* Up to 9 pixels x 32 output channels a pass: 18 accumulators, two vectors of weights, one of data; so 11 loads for 18
 * products, of which Zen 4 does one each a cycle. With 14 pixels there were registers enough, but not for
 * the addresses: 162 G multiply-adds/s instead of 213. */
enum { BLOCK = 32, PIXELS = 9 };

static size_t matrix_scratch(int32_t steps, int32_t pixels) {
    (void)steps, (void)pixels;
    return 0;
}

static int32_t depthwise_bytes(int32_t kernel) { return 2 * (kernel / 2 * kernel + kernel + 1); }

/* The output channel of lane i of vector v: packing two vectors to 16 bits puts them in order. */
static int32_t channel_of(int32_t v, int32_t i) { return i / 4 * 8 + v * 4 + i % 4; }

/* [out / 32][step][quad][2 vectors][16 channels][4 bytes] */
static void pack_matrix(const qn_matrix *to, const qn_layer *layer) {
    for (int32_t o = 0; o < to->out_channels; o++) {
        int32_t channel = o / BLOCK * BLOCK + channel_of(o % BLOCK / 16, o % 16);
        int8_t *w = to->weight + (size_t)(o / BLOCK * BLOCK) * (size_t)to->steps * 16 + o % BLOCK * 4, step[16];
        for (int32_t s = 0; s < to->steps; s++, w += BLOCK * 16) {
            qn_sequence_step(layer, channel, s, step);
            for (int32_t q = 0; q < 4; q++) memcpy(w + q * BLOCK * 4, step + 4 * q, 4);
        }
        to->bias[o] = channel < layer->out_channels ? qn_i32(layer->bias + 4 * (size_t)channel) : 0;
    }
    qn_plain_pack_multipliers(to, layer);
}

static void pack_depthwise(const qn_depthwise *to, const qn_layer *layer) {
    int32_t c = 0;
    for (; c + 64 <= to->channels; c += 64) d512_pack_chunk(to, layer, c);
    for (; c < to->channels; c += 32) d256_pack_chunk(to, layer, c);
}

/* 32 channels of a pixel from its two accumulators. */
static inline QN_INLINE __m256i requantized(const qn_matrix *m, int32_t o, __m512i c0, __m512i c1) {
    __m128i shift = _mm_cvtsi32_si128(m->shift);
    __m512i t = _mm512_packs_epi32(_mm512_sra_epi32(c0, shift), _mm512_sra_epi32(c1, shift));
    __m512i multiplier = _mm512_mask_mov_epi16(_mm512_loadu_si512(m->positive + o), _mm512_movepi16_mask(t),
                                               _mm512_loadu_si512(m->negative + o));
    __m512i v = _mm512_adds_epi16(_mm512_mulhrs_epi16(t, multiplier), _mm512_set1_epi16((int16_t)m->zero));
    v = _mm512_max_epi16(v, _mm512_setzero_si512());
    return _mm256_min_epu8(_mm512_cvtusepi16_epi8(v), _mm256_set1_epi8((char)m->top));
}

/* `pixels` from pixel p, output channels o..o+31. */
static inline QN_INLINE void block(const qn_matrix *m, const qn_span *span, int32_t p, int32_t o, const int pixels) {
    const int8_t *w = m->weight + (size_t)o * (size_t)m->steps * 16;
    const uint8_t *in = span->in + (size_t)p * (size_t)span->in_stride;
    const size_t stride = (size_t)span->in_stride;
    __m512i c[PIXELS][2];
#pragma GCC unroll 9
    for (int i = 0; i < pixels; i++)
        c[i][0] = _mm512_loadu_si512(m->bias + o), c[i][1] = _mm512_loadu_si512(m->bias + o + 16);
    for (int32_t s = 0; s < m->steps; s++) {
        const uint8_t *a = in + m->step_at[s];
#pragma GCC unroll 4
        for (int q = 0; q < 4; q++, w += 128) {
            __m512i w0 = _mm512_loadu_si512(w), w1 = _mm512_loadu_si512(w + 64);
#pragma GCC unroll 9
            for (int i = 0; i < pixels; i++) {
                int32_t bytes;
                memcpy(&bytes, a + (size_t)i * stride + 4 * q, 4);
                __m512i data = _mm512_set1_epi32(bytes);
                c[i][0] = _mm512_dpbusd_epi32(c[i][0], data, w0);
                c[i][1] = _mm512_dpbusd_epi32(c[i][1], data, w1);
            }
        }
    }
#pragma GCC unroll 9
    for (int i = 0; i < pixels; i++)
        _mm256_storeu_si256((__m256i *)(void *)(span->out + span->out_at[p + i] + o),
                            requantized(m, o, c[i][0], c[i][1]));
}

static void blocks_of(const qn_matrix *m, const qn_span *span, int32_t p, int32_t o, int32_t pixels) {
    switch (pixels) {
    case 1: block(m, span, p, o, 1); break;
    case 2: block(m, span, p, o, 2); break;
    case 3: block(m, span, p, o, 3); break;
    case 4: block(m, span, p, o, 4); break;
    case 5: block(m, span, p, o, 5); break;
    case 6: block(m, span, p, o, 6); break;
    case 7: block(m, span, p, o, 7); break;
    case 8: block(m, span, p, o, 8); break;
    default: block(m, span, p, o, 9); break;
    }
}

static void matrix(const qn_matrix *m, const qn_span *span, int32_t first, int32_t last, void *scratch) {
    int32_t passes = (span->pixels + PIXELS - 1) / PIXELS;
    (void)scratch;
    for (int32_t o = first; o < last; o += BLOCK) {
        for (int32_t i = 0; i < passes; i++) {
            int32_t p = span->pixels * i / passes;
            blocks_of(m, span, p, o, span->pixels * (i + 1) / passes - p);
        }
    }
}

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
    (void)sums, (void)rounds;
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
    .matrix = matrix,
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
