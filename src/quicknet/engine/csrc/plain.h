/* The small parts of an instruction set in plain C, and how weights are packed. Each .c file that includes this
 * compiles them for its own instructions, where compilers vectorize them well: they are under 1% of a network's
 * time. */
#ifndef QN_PLAIN_H
#define QN_PLAIN_H
#include <string.h>

#include "kernels.h"

/* FORMAT.md's mulr, sat16 and clamp. A signed >> is arithmetic on every compiler that this meets. */
static inline int32_t qn_mulr(int32_t t, int32_t m) { return (t * m + (1 << 14)) >> 15; }

static inline int32_t qn_clamp(int32_t v, int32_t low, int32_t high) { return v < low ? low : v > high ? high : v; }

static inline uint8_t qn_max(uint8_t a, uint8_t b) { return a > b ? a : b; }

/* Pixel p of a span; past its end the last one again. */
static inline int32_t qn_pixel(const qn_span *span, int32_t p) { return p < span->pixels ? p : span->pixels - 1; }

/* Neighbouring pixels of a row: the first one's window in the map with its ring of padding. */
typedef struct {
    const uint8_t *in;
    int32_t row_stride; /* bytes of one of the map's rows */
    int32_t channel;    /* of the first channel */
    uint8_t *out;
} qn_window;

static inline void qn_plain_pool(const uint8_t *above, const uint8_t *below, int32_t width, int32_t stride,
                                 int32_t channels, uint8_t *restrict out) {
    for (int32_t x = 0; x < width; x++, above += 2 * stride, below += 2 * stride, out += stride)
        for (int32_t c = 0; c < channels; c++)
            out[c] = qn_max(qn_max(above[c], above[c + stride]), qn_max(below[c], below[c + stride]));
}

static inline void qn_plain_sum(const uint8_t *map, int32_t pixels, int32_t channels, int32_t *restrict sums) {
    for (int32_t c = 0; c < channels; c++) sums[c] = 0;
    for (int32_t p = 0; p < pixels; p++, map += channels)
        for (int32_t c = 0; c < channels; c++) sums[c] += map[c];
}

/* 16-bit sums, which a map of up to 128 pixels has, take the multiply-and-add of two that every CPU has. */
static inline void qn_plain_head(const qn_head *h, const int32_t *sums, int16_t *restrict scratch,
                                 int32_t *restrict logits) {
    if (h->narrow)
        for (int32_t c = 0; c < h->features; c++) scratch[c] = (int16_t)sums[c];
    for (int32_t k = 0; k < h->classes; k++) {
        const int16_t *weight = h->weight + (size_t)k * (size_t)h->features;
        uint32_t logit = 0; /* the bias comes last: wraps on the way where FORMAT.md lets it */
        if (h->narrow)
            for (int32_t c = 0; c < h->features; c++) logit += (uint32_t)(scratch[c] * weight[c]);
        else
            for (int32_t c = 0; c < h->features; c++) logit += (uint32_t)sums[c] * (uint32_t)weight[c];
        logits[k] = (int32_t)(logit + (uint32_t)h->bias[k]);
    }
}

/* Multipliers in the order of the channels. */
static inline void qn_plain_pack_multipliers(const qn_matrix *to, const qn_layer *layer) {
    for (int32_t o = 0; o < to->out_channels; o++) {
        int32_t in_layer = o < layer->out_channels;
        to->positive[o] = in_layer ? qn_i16(layer->positive + 2 * (size_t)o) : 0;
        to->negative[o] = in_layer ? qn_i16(layer->negative + 2 * (size_t)o) : 0;
    }
}

/* Depthwise weights as they are, [k][k][channels], 0 beyond the layer's own; multipliers; and biases that free the
 * sums from the data's zero point. */
static inline void qn_plain_pack_depthwise(const qn_depthwise *to, const qn_layer *layer, int32_t zero) {
    for (int32_t c = 0; c < to->channels; c++) {
        int32_t sum = 0;
        for (int32_t t = 0; t < to->kernel * to->kernel; t++) {
            size_t from = (size_t)t * (size_t)layer->in_channels + (size_t)c;
            int8_t w = c < layer->in_channels ? layer->depthwise[from] : 0;
            to->weight[(size_t)t * (size_t)to->channels + (size_t)c] = w;
            sum += w;
        }
        to->bias[c] = (int16_t)(-zero * sum); /* modulo 2^16, as the sums are */
        to->multiplier[c] = c < layer->in_channels ? qn_i16(layer->multiplier + 2 * (size_t)c) : 0;
    }
}

/* Step `s` of a stem's or pointwise's padded sequence for output channel `o`: 16 weights. */
static inline void qn_sequence_step(const qn_layer *layer, int32_t o, int32_t s, int8_t to[16]) {
    int32_t rows = layer->depthwise ? 1 : layer->kernel;
    int32_t row = layer->depthwise ? layer->in_channels : layer->kernel * layer->in_channels;
    int32_t steps = (row + 15) / 16, left = o < layer->out_channels ? row - s % steps * 16 : 0;
    size_t at = ((size_t)o * (size_t)rows + (size_t)(s / steps)) * (size_t)row + (size_t)(s % steps * 16);
    if (left >= 16)
        memcpy(to, layer->weight + at, 16);
    else
        for (int32_t b = 0; b < 16; b++) to[b] = b < left ? layer->weight[at + (size_t)b] : 0;
}

#endif
