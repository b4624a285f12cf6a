/* ARM's NEON (AArch64), without and with the dot product of ARMv8.2.
 *
 * NEON multiplies bytes of one sign only. So an activation a in 0..255 becomes a - 128 (one exclusive or),
 * and the bias takes 128 * (sum of the weights); two products of such bytes are at most 2 * 127 * 128 and fit
 * 16 bits whatever the layer's N is.
 *
 * Without dot product: 16 bytes of a pixel times 16 of an output channel are smull, smlal2, sadalp: 16
 * multiply-adds in 3 instructions. 4 pixels x 4 channels are 16 registers of sums; their 4 parts are added
 * at the end. With it: sdot of 4 channels x 4 bytes by one of the pixel's four groups of 4 bytes, 4 pixels x
 * 16 channels. In both a missing fourth pixel repeats the last one, and is stored where that is.
 *
 * Written for readers and proven under emulation; never timed on a real core. */
#include "kernels.h"

#if defined(__aarch64__) && !defined(QN_PORTABLE_ONLY)
#include <arm_neon.h>

#include "plain.h"
#include "quicknet.h"
#include "sparse.h"

/* GCC allows the intrinsics in functions of this target; so does clang from 16 on. */
#ifdef __ARM_FEATURE_DOTPROD
#define QN_NEON_DOT_TARGET
#else
#define QN_NEON_DOT_TARGET __attribute__((target("arch=armv8.2-a+dotprod")))
#endif

enum { PIXELS = 4, BLOCK = 16 };

static size_t matrix_scratch(int32_t steps, int32_t pixels) {
    (void)steps;
    (void)pixels;
    return 0;
}

static int32_t depthwise_bytes(int32_t kernel) { return kernel * kernel; }

/* Biases and multipliers; and the weights of `depth` of a step's bytes for `outs` channels side by side:
 * [out/outs][step][16/depth][outs][depth]. */
static void pack(const qn_matrix *to, const qn_layer *layer, int32_t outs, int32_t depth) {
    int8_t step[16];
    for (int32_t o = 0; o < to->out_channels; o++) {
        uint32_t sum = 0;
        for (int32_t s = 0; s < to->steps; s++) {
            int8_t *w = to->weight + ((size_t)(o / outs) * (size_t)to->steps + (size_t)s) * (size_t)outs * 16;
            qn_sequence_step(layer, o, s, step);
            for (int32_t b = 0; b < 16; b++) {
                w[b / depth * depth * outs + o % outs * depth + b % depth] = step[b];
                sum += (uint32_t)step[b];
            }
        }
        uint32_t bias = o < layer->out_channels ? (uint32_t)qn_i32(layer->bias + 4 * (size_t)o) : 0;
        to->bias[o] = (int32_t)(bias + 128 * sum);
    }
    qn_plain_pack_multipliers(to, layer);
}

static void pack_matrix(const qn_matrix *to, const qn_layer *layer) { pack(to, layer, 4, 16); }

/* The data is bytes less 128, and so is its zero point. */
static void pack_depthwise(const qn_depthwise *to, const qn_layer *layer) {
    qn_plain_pack_depthwise(to, layer, layer->in_zero - 128);
}

static inline int8x16_t load_shifted(const uint8_t *in) {
    return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(in), vdupq_n_u8(0x80)));
}

/* FORMAT.md's mulr is sqrdmulh; the addition of the zero point saturates before the clamp. */
static inline uint8x8_t rounded(int16x8_t t, int16x8_t multiplier, int32_t zero, int32_t top) {
    int16x8_t v = vqaddq_s16(vqrdmulhq_s16(t, multiplier), vdupq_n_s16((int16_t)zero));
    return vmin_u8(vqmovun_s16(v), vdup_n_u8((uint8_t)top));
}

/* 8 output channels from o on, of pixel p. */
static inline void store_outputs(const qn_matrix *m, const qn_span *span, int32_t p, int32_t o, int32x4_t low,
                                 int32x4_t high) {
    int32x4_t right = vdupq_n_s32(-m->shift);
    int16x8_t t = vcombine_s16(vqmovn_s32(vshlq_s32(low, right)), vqmovn_s32(vshlq_s32(high, right)));
    int16x8_t multiplier = vbslq_s16(vcltzq_s16(t), vld1q_s16(m->negative + o), vld1q_s16(m->positive + o));
    vst1_u8(span->out + span->out_at[p] + o, rounded(t, multiplier, m->zero, m->top));
}

/* Sums of 4 output channels for each of 4 pixels. */
static inline void four_channels(const qn_matrix *m, int32_t o, const uint8_t *const in[PIXELS],
                                 int32x4_t sums[PIXELS]) {
    const int8_t *weight = m->weight + (size_t)o * (size_t)m->steps * 16;
    int32x4_t part[PIXELS][4];
    for (int p = 0; p < PIXELS; p++)
        for (int i = 0; i < 4; i++) part[p][i] = vdupq_n_s32(0);
    for (int32_t s = 0; s < m->steps; s++, weight += 64) {
        int8x16_t a[PIXELS];
        for (int p = 0; p < PIXELS; p++) a[p] = load_shifted(in[p] + m->step_at[s]);
        for (int i = 0; i < 4; i++) {
            int8x16_t w = vld1q_s8(weight + 16 * i);
            for (int p = 0; p < PIXELS; p++) {
                int16x8_t two = vmlal_high_s8(vmull_s8(vget_low_s8(w), vget_low_s8(a[p])), w, a[p]);
                part[p][i] = vpadalq_s16(part[p][i], two);
            }
        }
    }
    int32x4_t bias = vld1q_s32(m->bias + o);
    for (int p = 0; p < PIXELS; p++)
        sums[p] = vaddq_s32(bias, vpaddq_s32(vpaddq_s32(part[p][0], part[p][1]), vpaddq_s32(part[p][2], part[p][3])));
}

static void matrix(const qn_matrix *m, const qn_span *span, int32_t first, int32_t last, void *scratch) {
    (void)scratch;
    for (int32_t o = first; o < last; o += 8) {
        for (int32_t p = 0; p < span->pixels; p += PIXELS) {
            const uint8_t *in[PIXELS];
            int32x4_t low[PIXELS], high[PIXELS];
            for (int i = 0; i < PIXELS; i++) in[i] = span->in + (size_t)qn_pixel(span, p + i) * (size_t)span->in_stride;
            four_channels(m, o, in, low);
            four_channels(m, o + 4, in, high);
            for (int i = 0; i < PIXELS; i++) store_outputs(m, span, qn_pixel(span, p + i), o, low[i], high[i]);
        }
    }
}

/* ---- sparse -------------------------------------------------------------------------------------- */

/* One output channel x up to 32 pixels, of bytes less 128. With dot product a block takes one instruction for 4 pixels
 * and a register of sums, without it two blocks take three for 2 pixels, and each pixel's sum stays in two parts. */
enum { VECTORS = 8 };

#include "neon_sparse.h"

/* By count: with dot product a block and 4 pixels take a load and a product, where dense kernels have four loads for 16
 * products; without it both have three instructions for 16 products, and sparse ones more loads. Never timed. */
enum { BREAK_EVEN = 400 };

static int pack_sparse(qn_matrix *to, const qn_layer *layer, int64_t most) {
    if (!qn_pack_sparse(to, layer, most, QN_NO_LIMIT, 1)) return 0;
    for (int32_t o = 0; o < layer->out_channels; o++) {
        uint32_t sum = 0;
        for (int32_t c = 0; c < layer->in_channels; c++) sum += (uint32_t)qn_row_weights(layer, o)[c];
        to->bias[o] = (int32_t)((uint32_t)to->bias[o] + 128 * sum);
    }
    return 1;
}

/* A group onto `vectors` x 4 pixels, two blocks at a time where there are two. */
static inline N_INLINE void group(int32x4_t sums[VECTORS][2], const int8_t *at, const neon_rows *rows, const int size,
                                  const int vectors) {
    for (int i = 0; i < size; i += 2) {
        const int8x16_t w0 = group_weights(at, i), w1 = group_weights(at, size > 1 ? i + 1 : i);
        const int8_t *data0 = group_data(at, size, i, rows), *data1 = group_data(at, size, size > 1 ? i + 1 : i, rows);
        for (int v = 0; v < vectors; v++) {
            int8x16_t a = vld1q_s8(data0 + 16 * v);
            int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(w0)), high = vmull_high_s8(a, w0);
            if (size > 1) {
                a = vld1q_s8(data1 + 16 * v);
                low = vmlal_s8(low, vget_low_s8(a), vget_low_s8(w1));
                high = vmlal_high_s8(high, a, w1);
            }
            sums[v][0] = vpadalq_s16(sums[v][0], low);
            sums[v][1] = vpadalq_s16(sums[v][1], high);
        }
    }
}

#define N_NAME(name) plain_##name
#define N_TARGET
#define N_SUMS 2
#define N_GROUP group
#define N_TOTAL(sums) vpaddq_s32((sums)[0], (sums)[1])
#include "neon_sparse.h"

/* ---- depthwise ----------------------------------------------------------------------------------- */

/* 16 channels of `columns` (1 or 2) neighbours; `kernel` and `columns` are constants of the caller. */
static inline void depthwise_columns(const qn_depthwise *d, int kernel, int columns, const qn_window *at) {
    const size_t pixel = (size_t)d->channels;
    int16x8_t low[2], high[2];
    for (int i = 0; i < columns; i++) {
        low[i] = vld1q_s16(d->bias + at->channel);
        high[i] = vld1q_s16(d->bias + at->channel + 8);
    }
    for (int y = 0; y < kernel; y++) {
        const int8_t *weight = d->weight + (size_t)(y * kernel) * pixel + at->channel;
        const uint8_t *in = at->in + (size_t)y * (size_t)at->row_stride;
        for (int x = 0; x < kernel + columns - 1; x++) {
            int8x16_t a = load_shifted(in + (size_t)x * pixel);
            for (int i = 0; i < columns; i++) {
                if (x - i < 0 || x - i >= kernel) continue;
                int8x16_t w = vld1q_s8(weight + (size_t)(x - i) * pixel);
                low[i] = vmlal_s8(low[i], vget_low_s8(w), vget_low_s8(a));
                high[i] = vmlal_high_s8(high[i], w, a);
            }
        }
    }
    for (int i = 0; i < columns; i++) {
        const int16_t *multiplier = d->multiplier + at->channel;
        uint8_t *to = at->out + (size_t)i * pixel;
        vst1_u8(to, rounded(low[i], vld1q_s16(multiplier), d->zero, d->top));
        vst1_u8(to + 8, rounded(high[i], vld1q_s16(multiplier + 8), d->zero, d->top));
    }
}

static inline void depthwise_some(const qn_depthwise *d, int columns, const qn_window *at) {
    if (d->kernel == 3)
        depthwise_columns(d, 3, columns, at);
    else
        depthwise_columns(d, 5, columns, at);
}

static void depthwise(const qn_depthwise *d, const uint8_t *in, int32_t row_stride, int32_t rows, int32_t width,
                      uint8_t *out) {
    const size_t pixel = (size_t)d->channels;
    for (int32_t y = 0; y < rows; y++, in += row_stride, out += (size_t)width * pixel) {
        for (int32_t c = 0; c < d->channels; c += 16) {
            qn_window at = {in + c, row_stride, c, out + c};
            for (int32_t x = 0; x + 1 < width; x += 2, at.in += 2 * pixel, at.out += 2 * pixel)
                depthwise_some(d, 2, &at);
            if (width % 2) depthwise_some(d, 1, &at);
        }
    }
}

static uint64_t peak(int32_t sums, uint64_t rounds) {
    int32x4_t part[16];
    int8x16_t w = vdupq_n_s8((int8_t)sums), a = vdupq_n_s8(1);
    for (int i = 0; i < 16; i++) part[i] = vdupq_n_s32(i);
    for (uint64_t r = 0; r < rounds; r++) {
        __asm__ volatile("" : "+w"(w), "+w"(a)); /* else one product serves all */
        for (int i = 0; i < 16; i++)
            part[i] = vpadalq_s16(part[i], vmlal_high_s8(vmull_s8(vget_low_s8(w), vget_low_s8(a)), w, a));
    }
    for (int i = 0; i < 16; i++) __asm__ volatile("" : : "w"(part[i]));
    return rounds * 16 * 16;
}

const qn_kernels qn_neon = {
    .isa = QN_NEON,
    .name = "neon",
    .matrix_block = BLOCK,
    .matrix_scratch = matrix_scratch,
    .depthwise_bytes = depthwise_bytes,
    .pack_matrix = pack_matrix,
    .pack_depthwise = pack_depthwise,
    .pack_sparse = pack_sparse,
    .sparse_below = BREAK_EVEN,
    .sparse_pixels = 4,
    .sparse_scratch = sparse_scratch,
    .matrix = matrix,
    .sparse = plain_sparse,
    .depthwise = depthwise,
    .pool = qn_plain_pool,
    .sum = qn_plain_sum,
    .head = qn_plain_head,
    .peak = peak,
};

#ifdef QN_HAS_NEON_DOT
static void dot_pack_matrix(const qn_matrix *to, const qn_layer *layer) { pack(to, layer, 16, 4); }

/* 16 channels by group `q` of the 4 pixels' bytes; q is a constant, as the instruction wants it. */
#define QN_DOT_GROUP(q)                                                                                                \
    for (int i = 0; i < 4; i++) {                                                                                      \
        int8x16_t w = vld1q_s8(weight + 64 * (q) + 16 * i);                                                            \
        for (int j = 0; j < PIXELS; j++) sums[j][i] = vdotq_laneq_s32(sums[j][i], w, a[j], q);                         \
    }

QN_NEON_DOT_TARGET static void dot_matrix(const qn_matrix *m, const qn_span *span, int32_t first, int32_t last,
                                          void *scratch) {
    (void)scratch;
    for (int32_t o = first; o < last; o += BLOCK) {
        for (int32_t p = 0; p < span->pixels; p += PIXELS) {
            const int8_t *weight = m->weight + (size_t)o * (size_t)m->steps * 16;
            const uint8_t *in[PIXELS];
            int32x4_t sums[PIXELS][4];
            for (int j = 0; j < PIXELS; j++) {
                in[j] = span->in + (size_t)qn_pixel(span, p + j) * (size_t)span->in_stride;
                for (int i = 0; i < 4; i++) sums[j][i] = vld1q_s32(m->bias + o + 4 * i);
            }
            for (int32_t s = 0; s < m->steps; s++, weight += 256) {
                int8x16_t a[PIXELS];
                for (int j = 0; j < PIXELS; j++) a[j] = load_shifted(in[j] + m->step_at[s]);
                QN_DOT_GROUP(0) QN_DOT_GROUP(1) QN_DOT_GROUP(2) QN_DOT_GROUP(3)
            }
            for (int j = 0; j < PIXELS; j++) {
                store_outputs(m, span, qn_pixel(span, p + j), o, sums[j][0], sums[j][1]);
                store_outputs(m, span, qn_pixel(span, p + j), o + 8, sums[j][2], sums[j][3]);
            }
        }
    }
}

QN_NEON_DOT_TARGET static inline N_INLINE void dot_group(int32x4_t sums[VECTORS][1], const int8_t *at,
                                                         const neon_rows *rows, const int size, const int vectors) {
    for (int i = 0; i < size; i++) {
        const int8x16_t w = group_weights(at, i);
        const int8_t *data = group_data(at, size, i, rows);
        for (int v = 0; v < vectors; v++) sums[v][0] = vdotq_s32(sums[v][0], vld1q_s8(data + 16 * v), w);
    }
}

#define N_NAME(name) dot_##name
#define N_TARGET QN_NEON_DOT_TARGET
#define N_SUMS 1
#define N_GROUP dot_group
#define N_TOTAL(sums) (sums)[0]
#include "neon_sparse.h"

QN_NEON_DOT_TARGET static uint64_t dot_peak(int32_t sums, uint64_t rounds) {
    int32x4_t part[16];
    int8x16_t w = vdupq_n_s8((int8_t)sums), a = vdupq_n_s8(1);
    for (int i = 0; i < 16; i++) part[i] = vdupq_n_s32(i);
    for (uint64_t r = 0; r < rounds; r++)
        for (int i = 0; i < 16; i++) part[i] = vdotq_laneq_s32(part[i], w, a, 0);
    for (int i = 0; i < 16; i++) __asm__ volatile("" : : "w"(part[i]));
    return rounds * 16 * 16;
}

const qn_kernels qn_neon_dot = {
    .isa = QN_NEON_DOT,
    .name = "neon-dot",
    .matrix_block = BLOCK,
    .matrix_scratch = matrix_scratch,
    .depthwise_bytes = depthwise_bytes,
    .pack_matrix = dot_pack_matrix,
    .pack_depthwise = pack_depthwise,
    .pack_sparse = pack_sparse,
    .sparse_below = BREAK_EVEN,
    .sparse_pixels = 4,
    .sparse_scratch = sparse_scratch,
    .matrix = dot_matrix,
    .sparse = dot_sparse,
    .depthwise = depthwise,
    .pool = qn_plain_pool,
    .sum = qn_plain_sum,
    .head = qn_plain_head,
    .peak = dot_peak,
};
#endif
#else
typedef int qn_neon_is_of_another_cpu; /* ISO C wants something in a file */
#endif
