/* The kernels in plain C11, for any CPU: also what the others are compared with in doubt.
 *
 * The dot products are of 16-bit numbers that add up in 32 bits, because compilers know that form on
 * every CPU (SSE2's pmaddwd, NEON's smlal): a pixel's bytes are widened once for all output channels,
 * and a widened weight serves four pixels. */
#include <string.h>

#include "plain.h"
#include "quicknet.h"
#include "sparse.h"

enum { PIXELS = 4, CHUNK = QN_CHANNELS };

static size_t matrix_scratch(int32_t steps, int32_t pixels) {
    (void)pixels;
    return (size_t)steps * 16 * PIXELS * sizeof(int16_t);
}

static int32_t depthwise_bytes(int32_t kernel) { return kernel * kernel; }

/* [out][step][16] */
static void pack_matrix(const qn_matrix *to, const qn_layer *layer) {
    int8_t *w = to->weight;
    for (int32_t o = 0; o < to->out_channels; o++) {
        for (int32_t s = 0; s < to->steps; s++, w += 16) qn_sequence_step(layer, o, s, w);
        to->bias[o] = o < layer->out_channels ? qn_i32(layer->bias + 4 * (size_t)o) : 0;
    }
    qn_plain_pack_multipliers(to, layer);
}

static void pack_depthwise(const qn_depthwise *to, const qn_layer *layer) {
    qn_plain_pack_depthwise(to, layer, layer->in_zero);
}

static inline uint8_t requantized(const qn_matrix *m, int32_t o, int32_t acc) {
    int32_t t = qn_clamp(acc >> m->shift, INT16_MIN, INT16_MAX);
    return (uint8_t)qn_clamp(qn_mulr(t, t >= 0 ? m->positive[o] : m->negative[o]) + m->zero, 0, m->top);
}

/* Widen the data of up to four pixels; a missing one repeats the last. */
static void widen(const qn_matrix *m, const qn_span *span, int32_t first, int16_t *restrict wide) {
    for (int32_t p = first; p < first + PIXELS; p++) {
        const uint8_t *in = span->in + (size_t)(p < span->pixels ? p : span->pixels - 1) * (size_t)span->in_stride;
        for (int32_t s = 0; s < m->steps; s++)
            for (int32_t b = 0; b < 16; b++) *wide++ = in[m->step_at[s] + b];
    }
}

static void matrix(const qn_matrix *m, const qn_span *span, int32_t first, int32_t last, void *scratch) {
    const int32_t count = m->steps * 16;
    const int16_t *a0 = scratch, *a1 = a0 + count, *a2 = a1 + count, *a3 = a2 + count;
    for (int32_t p = 0; p < span->pixels; p += PIXELS) {
        widen(m, span, p, scratch);
        for (int32_t o = first; o < last; o++) {
            const int8_t *weight = m->weight + (size_t)o * (size_t)count;
            int32_t sum[PIXELS] = {0};
            for (int32_t i = 0; i < count; i++) {
                int16_t w = weight[i];
                sum[0] += w * a0[i];
                sum[1] += w * a1[i];
                sum[2] += w * a2[i];
                sum[3] += w * a3[i];
            }
            for (int32_t i = 0; i < PIXELS && p + i < span->pixels; i++)
                span->out[span->out_at[p + i] + o] = requantized(m, o, m->bias[o] + sum[i]);
        }
    }
}

/* ---- sparse -------------------------------------------------------------------------------------- */

/* A tile's bytes are widened to [channel][pixels], in front of them an output channel's sums. Two products of a block
 * fit 16 bits by FORMAT.md's narrowest lanes, and compilers find the 16-bit multiplication of every CPU; in a loop of
 * unknown length, not in one over a vector's pixels: that was four times as slow by GCC 12. */
enum { VECTOR = 16 };

static size_t sparse_scratch(int32_t channels, int32_t pixels) {
    return (size_t)qn_round_up(pixels, VECTOR) * ((size_t)channels * sizeof(int16_t) + sizeof(int32_t));
}

static int pack_sparse(qn_matrix *to, const qn_layer *layer, int64_t most) {
    return qn_pack_sparse(to, layer, most, QN_NO_LIMIT, 1);
}

static void spread(const qn_span *span, int32_t pixels, int16_t *restrict to) {
    for (int32_t p = 0; p < pixels; p++) {
        const uint8_t *in = span->in + (size_t)qn_pixel(span, p) * (size_t)span->in_stride;
        for (int32_t c = 0; c < span->in_stride; c++) to[(size_t)c * (size_t)pixels + (size_t)p] = in[c];
    }
}

/* One block onto all pixels' sums; `data`: its first channel's. */
static void add_block(int32_t *restrict acc, const int16_t *restrict data, int32_t pixels, const int8_t weight[4]) {
    const int16_t *a = data, *b = a + pixels, *c = b + pixels, *d = c + pixels;
    const int16_t w[4] = {weight[0], weight[1], weight[2], weight[3]};
    for (int32_t p = 0; p < pixels; p++)
        acc[p] += (int16_t)(a[p] * w[0] + b[p] * w[1]) + (int16_t)(c[p] * w[2] + d[p] * w[3]);
}

static const int8_t *add_groups(int32_t *acc, const int8_t *at, int32_t groups, int size, const int16_t *data,
                                int32_t pixels) {
    for (int32_t g = 0; g < groups; g++, at += 6 * size)
        for (int i = 0; i < size; i++)
            add_block(acc, data + 4 * (size_t)pixels * qn_group_quad(at, size, i), pixels, at + 4 * i);
    return at;
}

static void sparse(const qn_matrix *m, const qn_span *span, int32_t first, int32_t last, void *scratch) {
    const int32_t pixels = qn_round_up(span->pixels, VECTOR);
    int32_t *acc = scratch;
    int16_t *wide = (int16_t *)(acc + pixels);
    spread(span, pixels, wide);
    for (int32_t o = first; o < last; o++) {
        const qn_row *r = &m->rows[o];
        const int8_t *at = m->weight + r->at;
        for (int32_t p = 0; p < pixels; p++) acc[p] = m->bias[o];
        at = add_groups(acc, at, r->fours, 4, wide, pixels);
        at = add_groups(acc, at, r->twos, 2, wide, pixels);
        add_groups(acc, at, r->ones, 1, wide, pixels);
        for (int32_t p = 0; p < span->pixels; p++) span->out[span->out_at[p] + o] = requantized(m, o, acc[p]);
    }
}

/* GCC 12 on Zen 1, processor time: 1.6 times as fast as dense at 30%, 1.45 at 45%, and at 60% from 1.1 to 0.9, where
 * the widened tile leaves the first cache. */
enum { BREAK_EVEN = 450 };

/* ---- depthwise ----------------------------------------------------------------------------------- */

/* One output pixel of CHUNK channels from `in`, its window's first. */
static inline void depthwise_chunk(const qn_depthwise *d, const uint8_t *in, int32_t row_stride, int32_t c,
                                   uint8_t *restrict out) {
    int32_t acc[CHUNK];
    for (int32_t i = 0; i < CHUNK; i++) acc[i] = d->bias[c + i];
    for (int32_t y = 0; y < d->kernel; y++) {
        for (int32_t x = 0; x < d->kernel; x++) {
            const int8_t *w = d->weight + (size_t)(y * d->kernel + x) * (size_t)d->channels + c;
            const uint8_t *a = in + (size_t)y * (size_t)row_stride + (size_t)x * (size_t)d->channels + c;
            for (int32_t i = 0; i < CHUNK; i++) acc[i] += (int16_t)(a[i] * w[i]);
        }
    }
    for (int32_t i = 0; i < CHUNK; i++)
        out[i] = (uint8_t)qn_clamp(qn_mulr(acc[i], d->multiplier[c + i]) + d->zero, 0, d->top);
}

static void depthwise(const qn_depthwise *d, const uint8_t *in, int32_t row_stride, int32_t rows, int32_t width,
                      uint8_t *out) {
    for (int32_t y = 0; y < rows; y++, in += row_stride)
        for (int32_t x = 0; x < width; x++, out += d->channels)
            for (int32_t c = 0; c < d->channels; c += CHUNK)
                depthwise_chunk(d, in + (size_t)x * (size_t)d->channels, row_stride, c, out + c);
}

/* A dot product of registers, as the compiler makes it from `matrix`. */
static uint64_t peak(int32_t sums, uint64_t rounds) {
    enum { LENGTH = 256 };
    int16_t a[LENGTH], w[LENGTH];
    volatile int32_t sink = 0;
    (void)sums;
    for (int32_t i = 0; i < LENGTH; i++) {
        a[i] = (int16_t)i;
        w[i] = (int16_t)(i % 7 - 3);
    }
    for (uint64_t r = 0; r < rounds; r++) {
        int32_t sum = sink;
        a[r % LENGTH] = (int16_t)(sum & 255);
        for (int32_t i = 0; i < LENGTH; i++) sum += a[i] * w[i];
        sink = sum & 0xffff;
    }
    return rounds * LENGTH;
}

const qn_kernels qn_portable = {
    .isa = QN_PORTABLE,
    .name = "portable",
    .matrix_block = QN_CHANNELS,
    .matrix_scratch = matrix_scratch,
    .depthwise_bytes = depthwise_bytes,
    .pack_matrix = pack_matrix,
    .pack_depthwise = pack_depthwise,
    .pack_sparse = pack_sparse,
    .sparse_below = BREAK_EVEN,
    .sparse_pixels = VECTOR,
    .sparse_scratch = sparse_scratch,
    .matrix = matrix,
    .sparse = sparse,
    .depthwise = depthwise,
    .pool = qn_plain_pool,
    .sum = qn_plain_sum,
    .head = qn_plain_head,
    .peak = peak,
};
