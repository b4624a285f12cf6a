/* WebAssembly's SIMD (128 bits).
 *
 * Its fastest product that means the same on every CPU is i32x4.dot_i16x8_s, pmaddwd on x86. So a tile's bytes
 * are widened to 16 bits once; then 2 of a pixel, repeated (load32_splat), are multiplied with 2 weights of each
 * of 8 channels, widened as they are loaded (load8x8_s), for 4 pixels: 8 registers of sums, 64 multiply-adds in
 * 22 instructions of x86. Under Node 20 that is 25% faster than bytes widened at each use, and 20% faster than the
 * same loop unrolled twice. The 4 pixels' pairs lie side by side, so one address serves all 4: 6% faster than each
 * pixel by itself. (Relaxed SIMD's byte products are faster still, but leave to the CPU what becomes of a byte above
 * 127.) */
#include "kernels.h"

#ifdef __wasm_simd128__
#include <wasm_simd128.h>

#include "plain.h"
#include "quicknet.h"
#include "sparse.h"

enum { BLOCK = 8, PIXELS = 4 };

static size_t matrix_scratch(int32_t steps, int32_t pixels) {
    return (size_t)steps * 16 * (size_t)qn_round_up(pixels, PIXELS) * sizeof(int16_t);
}

static int32_t depthwise_bytes(int32_t kernel) { return kernel * kernel * 2; }

/* [out/8][step][8][8 out][2 bytes] */
static void pack_matrix(const qn_matrix *to, const qn_layer *layer) {
    int8_t *w = to->weight, step[16];
    for (int32_t o = 0; o < to->out_channels; o += BLOCK) {
        for (int32_t s = 0; s < to->steps; s++, w += 16 * BLOCK) {
            for (int32_t i = 0; i < BLOCK; i++) {
                qn_sequence_step(layer, o + i, s, step);
                for (int32_t b = 0; b < 16; b++) w[b / 2 * 2 * BLOCK + i * 2 + b % 2] = step[b];
            }
        }
    }
    for (int32_t o = 0; o < to->out_channels; o++)
        to->bias[o] = o < layer->out_channels ? qn_i32(layer->bias + 4 * (size_t)o) : 0;
    qn_plain_pack_multipliers(to, layer);
}

/* As bytes, then widened in place from the end. */
static void pack_depthwise(const qn_depthwise *to, const qn_layer *layer) {
    int16_t *wide = (int16_t *)(void *)to->weight;
    qn_plain_pack_depthwise(to, layer, layer->in_zero);
    for (int32_t i = to->kernel * to->kernel * to->channels; i-- > 0;) wide[i] = to->weight[i];
}

/* FORMAT.md's mulr is q15mulr_sat; the addition of the zero point saturates before the clamp. */
static inline v128_t rounded(v128_t t, v128_t multiplier, int32_t zero, int32_t top) {
    v128_t v = wasm_i16x8_add_sat(wasm_i16x8_q15mulr_sat(t, multiplier), wasm_i16x8_splat((int16_t)zero));
    return wasm_u8x16_min(wasm_u8x16_narrow_i16x8(v, v), wasm_i8x16_splat((int8_t)top));
}

/* The sums of 8 output channels of a pixel. */
static inline void store_outputs(const qn_matrix *m, int32_t o, v128_t low, v128_t high, uint8_t *out) {
    const uint32_t shift = (uint32_t)m->shift;
    v128_t t = wasm_i16x8_narrow_i32x4(wasm_i32x4_shr(low, shift), wasm_i32x4_shr(high, shift));
    v128_t multiplier =
        wasm_v128_bitselect(wasm_v128_load(m->negative + o), wasm_v128_load(m->positive + o), wasm_i16x8_shr(t, 15));
    wasm_v128_store64_lane(out, rounded(t, multiplier, m->zero, m->top), 0);
}

/* 8 channels of 4 pixels, as 16-bit pairs of bytes in the low or high halves of a and c, b and d. */
static void store_pairs(v128_t ab, v128_t cd, int16_t *to, size_t stride) {
    v128_t low = wasm_i32x4_shuffle(ab, cd, 0, 4, 1, 5), high = wasm_i32x4_shuffle(ab, cd, 2, 6, 3, 7);
    wasm_v128_store(to, wasm_u16x8_extend_low_u8x16(low));
    wasm_v128_store(to + stride, wasm_u16x8_extend_high_u8x16(low));
    wasm_v128_store(to + 2 * stride, wasm_u16x8_extend_low_u8x16(high));
    wasm_v128_store(to + 3 * stride, wasm_u16x8_extend_high_u8x16(high));
}

/* A span's bytes, widened: [4 pixels][2] for each pair of channels. From a pair to the next are `stride` numbers, from
 * four pixels to the next four `group`; past the span's end the last pixel again. */
static void spread(const qn_matrix *m, const qn_span *span, int16_t *to, size_t group, size_t stride) {
    for (int32_t p = 0; p < span->pixels; p += PIXELS, to += group) {
        const uint8_t *in[PIXELS];
        int16_t *at = to;
        for (int32_t i = 0; i < PIXELS; i++) in[i] = span->in + (size_t)qn_pixel(span, p + i) * (size_t)span->in_stride;
        for (int32_t s = 0; s < m->steps; s++, at += 8 * stride) {
            const int32_t c = m->step_at[s];
            v128_t a = wasm_v128_load(in[0] + c), b = wasm_v128_load(in[1] + c);
            v128_t d = wasm_v128_load(in[2] + c), e = wasm_v128_load(in[3] + c);
            store_pairs(wasm_i16x8_shuffle(a, b, 0, 8, 1, 9, 2, 10, 3, 11),
                        wasm_i16x8_shuffle(d, e, 0, 8, 1, 9, 2, 10, 3, 11), at, stride);
            store_pairs(wasm_i16x8_shuffle(a, b, 4, 12, 5, 13, 6, 14, 7, 15),
                        wasm_i16x8_shuffle(d, e, 4, 12, 5, 13, 6, 14, 7, 15), at + 4 * stride, stride);
        }
    }
}

/* Four pixels from p on, of which missing ones repeat the last. */
static inline void four_pixels(const qn_matrix *m, const qn_span *span, int32_t p, int32_t o, const int16_t *in) {
    const size_t length = (size_t)m->steps * 16;
    const int8_t *weight = m->weight + (size_t)o * length, *end = weight + BLOCK * length;
    v128_t low[PIXELS], high[PIXELS];
#pragma clang loop unroll(full)
    for (int i = 0; i < PIXELS; i++) {
        low[i] = wasm_v128_load(m->bias + o);
        high[i] = wasm_v128_load(m->bias + o + 4);
    }
    for (; weight < end; weight += 2 * BLOCK, in += 2 * PIXELS) {
        v128_t w0 = wasm_i16x8_load8x8(weight), w1 = wasm_i16x8_load8x8(weight + BLOCK);
#pragma clang loop unroll(full)
        for (int i = 0; i < PIXELS; i++) {
            v128_t a = wasm_v128_load32_splat(in + 2 * i);
            low[i] = wasm_i32x4_add(low[i], wasm_i32x4_dot_i16x8(a, w0));
            high[i] = wasm_i32x4_add(high[i], wasm_i32x4_dot_i16x8(a, w1));
        }
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < PIXELS; i++)
        store_outputs(m, o, low[i], high[i], span->out + span->out_at[qn_pixel(span, p + i)] + o);
}

static void matrix(const qn_matrix *m, const qn_span *span, int32_t first, int32_t last, void *scratch) {
    const size_t length = (size_t)m->steps * 16;
    spread(m, span, scratch, length * PIXELS, 2 * PIXELS);
    for (int32_t o = first; o < last; o += BLOCK)
        for (int32_t p = 0; p < span->pixels; p += PIXELS)
            four_pixels(m, span, p, o, (const int16_t *)scratch + (size_t)p * length);
}

/* ---- sparse -------------------------------------------------------------------------------------- */

/* One output channel x up to 16 pixels: with 24 the module was 2 KB larger and 5% faster. A tile's bytes are widened
 * once, to [channels / 2][pixels][2], so that a product of 4 pixels x 2 channels ends in a sum of each pixel; a block
 * takes two of them. */
enum { VECTORS = 4, TURNED = 16 };

typedef struct {
    const int16_t *pairs;
    size_t stride; /* in numbers */
    uint8_t *to;
    size_t to_stride;
} wasm_rows;

static size_t pair_stride(int32_t pixels) { return (size_t)qn_round_up(pixels, 4) * 2; }

/* A pass over pixels writes 8 bytes at a time, which may pass its last 4 pixels; 16 are read at once. */
static size_t byte_stride(int32_t pixels) { return (size_t)qn_round_up(pixels + 4, TURNED); }

static size_t sparse_scratch(int32_t channels, int32_t pixels) {
    return pair_stride(pixels) * (size_t)channels + byte_stride(pixels) * TURNED;
}

static int pack_sparse(qn_matrix *to, const qn_layer *layer, int64_t most) {
    return qn_pack_sparse(to, layer, most, QN_NO_LIMIT, 1);
}

/* Interleaves the bytes of vectors i and i + 8: four times, and 16 vectors of 16 bytes are turned over. */
static __attribute__((noinline)) void interleave(v128_t to[TURNED], const v128_t from[TURNED]) {
#pragma clang loop unroll(disable)
    for (int i = 0; i < 8; i++) {
        v128_t a = from[i], b = from[i + 8];
        to[2 * i] = wasm_i8x16_shuffle(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        to[2 * i + 1] = wasm_i8x16_shuffle(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    }
}

/* The bytes of `channels` output channels, up to TURNED, from channel o on of the pixels. */
static void gather(const qn_span *span, const wasm_rows *rows, int32_t o, int32_t channels) {
    for (int32_t p = 0; p < span->pixels; p += TURNED) {
        v128_t a[TURNED], b[TURNED];
#pragma clang loop unroll(disable)
        for (int i = 0; i < TURNED; i++) a[i] = wasm_v128_load(rows->to + (size_t)i * rows->to_stride + p);
        interleave(b, a);
        interleave(a, b);
        interleave(b, a);
        interleave(a, b);
        for (int i = 0; i < TURNED && p + i < span->pixels; i++) {
            uint8_t *to = span->out + span->out_at[p + i] + o;
            if (channels == TURNED)
                wasm_v128_store(to, a[i]);
            else
                wasm_v128_store64_lane(to, a[i], 0);
        }
    }
}

/* The block of weights at `at` and of quad `quad` onto `vectors` x 4 pixels. */
static inline __attribute__((always_inline)) void add_block(v128_t sums[VECTORS], const int8_t *at, size_t quad,
                                                            const wasm_rows *rows, const int vectors) {
    v128_t w = wasm_i16x8_extend_low_i8x16(wasm_v128_load32_zero(at));
    v128_t first = wasm_i32x4_shuffle(w, w, 0, 0, 0, 0), second = wasm_i32x4_shuffle(w, w, 1, 1, 1, 1);
    const int16_t *data = rows->pairs + quad * 2 * rows->stride;
#pragma clang loop unroll(full)
    for (int v = 0; v < vectors; v++) {
        const v128_t a = wasm_v128_load(data + 8 * v), b = wasm_v128_load(data + rows->stride + 8 * v);
        sums[v] = wasm_i32x4_add(sums[v], wasm_i32x4_dot_i16x8(a, first));
        sums[v] = wasm_i32x4_add(sums[v], wasm_i32x4_dot_i16x8(b, second));
    }
}

/* Output channels o..last-1 of `vectors` x 4 pixels. */
static inline __attribute__((always_inline)) void rows_of(const qn_matrix *m, int32_t o, int32_t last, wasm_rows rows,
                                                          const int vectors) {
    for (; o < last; o++, rows.to += rows.to_stride) {
        const qn_row *r = &m->rows[o];
        const int8_t *at = m->weight + r->at;
        v128_t sums[VECTORS];
#pragma clang loop unroll(full)
        for (int v = 0; v < vectors; v++) sums[v] = wasm_i32x4_splat(m->bias[o]);
        const int32_t count[3] = {r->fours, r->twos, r->ones};
#pragma clang loop unroll(disable)
        for (int kind = 0, size = 4; kind < 3; kind++, size /= 2) {
            for (int32_t g = 0; g < count[kind]; g++, at += 6 * size) {
#pragma clang loop unroll(disable)
                for (int i = 0; i < size; i++) add_block(sums, at + 4 * i, qn_group_quad(at, size, i), &rows, vectors);
            }
        }
        const v128_t positive = wasm_i16x8_splat(m->positive[o]), negative = wasm_i16x8_splat(m->negative[o]);
#pragma clang loop unroll(full)
        for (int v = 0; v < vectors; v += 2) {
            v128_t low = wasm_i32x4_shr(sums[v], (uint32_t)m->shift);
            v128_t high = wasm_i32x4_shr(sums[v + 1 < vectors ? v + 1 : v], (uint32_t)m->shift);
            v128_t t = wasm_i16x8_narrow_i32x4(low, high);
            v128_t multiplier = wasm_v128_bitselect(negative, positive, wasm_i16x8_shr(t, 15));
            wasm_v128_store64_lane(rows.to + 4 * v, rounded(t, multiplier, m->zero, m->top), 0);
        }
    }
}

static void some_rows(const qn_matrix *m, int32_t o, int32_t last, const wasm_rows *rows, int32_t vectors) {
    switch (vectors) {
    case 1: rows_of(m, o, last, *rows, 1); break;
    case 2: rows_of(m, o, last, *rows, 2); break;
    default: rows_of(m, o, last, *rows, VECTORS); break;
    }
}

static void sparse(const qn_matrix *m, const qn_span *span, int32_t first, int32_t last, void *scratch) {
    const size_t stride = pair_stride(span->pixels);
    const int32_t vectors = (int32_t)(stride / 8);
    uint8_t *bytes = (uint8_t *)scratch + stride * (size_t)span->in_stride;
    const wasm_rows rows = {scratch, stride, bytes, byte_stride(span->pixels)};
    spread(m, span, scratch, 2 * PIXELS, stride);
    for (int32_t o = first; o < last; o += TURNED) {
        int32_t end = o + TURNED < last ? o + TURNED : last;
        for (int32_t v = 0, count; v < vectors; v += count) {
            const wasm_rows from = {rows.pairs + 8 * v, rows.stride, rows.to + 4 * v, rows.to_stride};
            count = vectors - v >= VECTORS ? VECTORS : vectors - v >= 2 ? 2 : 1;
            some_rows(m, o, end, &from, count);
        }
        gather(span, &rows, o, end - o);
    }
}

/* Node 20 on Zen 1, both in turn: whole networks with 40% of the blocks 1.3 times as fast as dense, with 20% 1.8
 * (quicknet) and 1.45 (quicknet_s). */
enum { BREAK_EVEN = 500 };

/* ---- depthwise ----------------------------------------------------------------------------------- */

/* 8 channels; `kernel` is a constant of the caller. 9 weights stay in registers, of 25 some are loaded again. */
static inline __attribute__((always_inline)) void depthwise_row(const qn_depthwise *d, const int kernel, int32_t width,
                                                                qn_window row) {
    const int16_t *weight = (const int16_t *)(const void *)d->weight + row.channel;
    const size_t pixel = (size_t)d->channels;
    const v128_t bias = wasm_v128_load(d->bias + row.channel), multiplier = wasm_v128_load(d->multiplier + row.channel);
    v128_t w[25];
#pragma clang loop unroll(full)
    for (int t = 0; t < kernel * kernel; t++) w[t] = wasm_v128_load(weight + (size_t)t * pixel);
    for (int32_t x = 0; x < width; x++, row.in += pixel, row.out += pixel) {
        v128_t sum = bias;
#pragma clang loop unroll(full)
        for (int t = 0; t < kernel * kernel; t++) {
            const uint8_t *in = row.in + (size_t)(t / kernel) * (size_t)row.row_stride + (size_t)(t % kernel) * pixel;
            sum = wasm_i16x8_add(sum, wasm_i16x8_mul(wasm_u16x8_load8x8(in), w[t]));
        }
        wasm_v128_store64_lane(row.out, rounded(sum, multiplier, d->zero, d->top), 0);
    }
}

static void depthwise(const qn_depthwise *d, const uint8_t *in, int32_t row_stride, int32_t rows, int32_t width,
                      uint8_t *out) {
    for (int32_t y = 0; y < rows; y++, in += row_stride, out += (size_t)width * (size_t)d->channels) {
        for (int32_t c = 0; c < d->channels; c += 8) {
            qn_window row = {in + c, row_stride, c, out + c};
            if (d->kernel == 3)
                depthwise_row(d, 3, width, row);
            else
                depthwise_row(d, 5, width, row);
        }
    }
}

/* ---- the rest: in half the bytes of plain.h's, vectorized -------------------------------------------- */

/* There is one thread, so all channels are pooled at once: a multiple of QN_CHANNELS. */
static void pool(const uint8_t *above, const uint8_t *below, int32_t width, int32_t stride, int32_t channels,
                 uint8_t *out) {
    for (int32_t x = 0; x < width; x++, above += 2 * stride, below += 2 * stride, out += stride)
        for (int32_t c = 0; c < channels; c += 16) {
            v128_t up = wasm_u8x16_max(wasm_v128_load(above + c), wasm_v128_load(above + c + stride));
            v128_t low = wasm_u8x16_max(wasm_v128_load(below + c), wasm_v128_load(below + c + stride));
            wasm_v128_store(out + c, wasm_u8x16_max(up, low));
        }
}

static void sum(const uint8_t *map, int32_t pixels, int32_t channels, int32_t *sums) {
    for (int32_t c = 0; c < channels; c += 8) {
        const uint8_t *in = map + c;
        v128_t low = wasm_i32x4_splat(0), high = low;
        for (int32_t p = 0; p < pixels; p++, in += channels) {
            v128_t wide = wasm_u16x8_load8x8(in);
            low = wasm_i32x4_add(low, wasm_u32x4_extend_low_u16x8(wide));
            high = wasm_i32x4_add(high, wasm_u32x4_extend_high_u16x8(wide));
        }
        wasm_v128_store(sums + c, low);
        wasm_v128_store(sums + c + 4, high);
    }
}

static void head(const qn_head *h, const int32_t *sums, int16_t *scratch, int32_t *logits) {
    const int16_t *weight = h->weight;
    (void)scratch;
    for (int32_t k = 0; k < h->classes; k++, weight += h->features) {
        v128_t logit = wasm_i32x4_splat(0); /* wraps on the way where FORMAT.md lets it */
        for (int32_t c = 0; c < h->features; c += 4)
            logit = wasm_i32x4_add(logit, wasm_i32x4_mul(wasm_v128_load(sums + c), wasm_i32x4_load16x4(weight + c)));
        logit = wasm_i32x4_add(logit, wasm_i32x4_shuffle(logit, logit, 2, 3, 0, 1));
        logit = wasm_i32x4_add(logit, wasm_i32x4_shuffle(logit, logit, 1, 0, 3, 2));
        logits[k] = wasm_i32x4_extract_lane(wasm_i32x4_add(logit, wasm_i32x4_splat(h->bias[k])), 0);
    }
}

/* No benchmark of a module asks. */
static uint64_t peak(int32_t sums, uint64_t rounds) {
    (void)sums;
    (void)rounds;
    return 0;
}

const qn_kernels qn_wasm = {
    .isa = QN_WASM,
    .name = "wasm-simd",
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
    .sparse = sparse,
    .depthwise = depthwise,
    .pool = pool,
    .sum = sum,
    .head = head,
    .peak = peak,
};
#else
typedef int qn_wasm_is_another_machine; /* ISO C wants something in a file */
#endif
