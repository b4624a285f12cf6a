/* The numbers: TENS, a layer at a time, and the bounds by which the engine may add in 16 and 32 bits without looking
 * (FORMAT.md, "TENS" and "Bounds"). */
#include <string.h>

#include "format.h"
#include "reading.h"

/* Of the weights of one output channel so far, in pairs {2i, 2i+1} of a block: 8 of the positive, 8 of the
 * magnitudes of the negative. */
typedef struct {
    uint32_t total[QNZ_BLOCK];
    uint16_t lane[QNZ_BLOCK];     /* the largest sums of a lane */
    uint8_t magnitude[QNZ_BLOCK]; /* of the negative weights, or-ed: 128 is in it where one is -128 */
} channel_sums;

/* 16 weights of the sequence. Every lane is made of pairs: N = 2 adds pairs i and i + 2, N = 4 every second one.
 * Four pairs of 16 bits are added at once as a number of 64; all loops are of fixed counts and branchless, so that
 * compilers vectorize them: 0.35 ns a weight on Zen 4, the 3.6 million of `quicknet` in 1.2 ms. */
static void scan_block(const int8_t w[QNZ_BLOCK], int sums, channel_sums *all) {
    uint8_t part[2][QNZ_BLOCK];
    uint16_t pair[QNZ_BLOCK];
    uint64_t four[4];
    for (int i = 0; i < QNZ_BLOCK; i++) part[0][i] = (uint8_t)(w[i] > 0 ? w[i] : 0);
    for (int i = 0; i < QNZ_BLOCK; i++) part[1][i] = (uint8_t)(w[i] < 0 ? -w[i] : 0);
    for (int i = 0; i < QNZ_BLOCK; i++) all->magnitude[i] |= part[1][i];
    memcpy(pair, part, sizeof pair);
    for (int i = 0; i < QNZ_BLOCK; i++) pair[i] = (uint16_t)((pair[i] & 255) + (pair[i] >> 8));
    for (int i = 0; i < QNZ_BLOCK; i++) all->total[i] += pair[i];
    if (sums >= 2) {
        memcpy(four, pair, sizeof pair);
        for (int i = 0; i < 4; i++) four[i] = (four[i] & 0xffffffff) + (four[i] >> 32);
        if (sums == 4) {
            four[0] += four[1];
            four[2] += four[3];
        }
        memcpy(pair, four, sizeof pair);
    }
    for (int i = 0; i < QNZ_BLOCK; i++) all->lane[i] = pair[i] > all->lane[i] ? pair[i] : all->lane[i];
}

static void scan_sequence(const int8_t *w, size_t count, int sums, channel_sums *all) {
    for (; count >= QNZ_BLOCK; count -= QNZ_BLOCK, w += QNZ_BLOCK) scan_block(w, sums, all);
    if (count > 0) {
        int8_t last[QNZ_BLOCK] = {0};
        memcpy(last, w, count);
        scan_block(last, sums, all);
    }
}

static int fits_accumulator(int64_t bias, int64_t positive, int64_t negative, int64_t top) {
    return bias + positive * top <= INT32_MAX && bias - negative * top >= INT32_MIN;
}

static int check_multipliers(const uint8_t *p, size_t count, int lowest) {
    for (size_t i = 0; i < count; i++) {
        if (qn_i16(p + 2 * i) < lowest) return QN_BOUNDS;
    }
    return QN_OK;
}

static int check_channel(const channel_sums *all, int64_t bias, int top) {
    int64_t positive = 0;
    int64_t negative = 0;
    for (int i = 0; i < QNZ_BLOCK; i++) {
        if (all->lane[i] * top > INT16_MAX || all->magnitude[i] > QNZ_MAX_WEIGHT) return QN_BOUNDS;
        *(i < QNZ_BLOCK / 2 ? &positive : &negative) += all->total[i];
    }
    return fits_accumulator(bias, positive, negative, top) ? QN_OK : QN_BOUNDS;
}

/* Stem and pointwise: the lanes and the accumulator of each output channel, whose weights are `rows` sequences of
 * `row` weights, each filled up to whole blocks. */
static int check_products(const qn_layer *layer, size_t rows, size_t row, int top) {
    size_t outs = (size_t)layer->out_channels;
    for (size_t o = 0; o < outs; o++) {
        channel_sums all = {{0}, {0}, {0}};
        for (size_t r = 0; r < rows; r++) scan_sequence(layer->weight + (o * rows + r) * row, row, layer->sums, &all);
        if (check_channel(&all, qn_i32(layer->bias + 4 * o), top) != QN_OK) return QN_BOUNDS;
    }
    if (check_multipliers(layer->positive, outs, -INT16_MAX) != QN_OK) return QN_BOUNDS;
    return check_multipliers(layer->negative, outs, -INT16_MAX);
}

static int check_depthwise(const qn_layer *layer) {
    size_t channels = (size_t)layer->in_channels;
    size_t taps = (size_t)(layer->kernel * layer->kernel);
    for (size_t c = 0; c < channels; c++) {
        int positive = 0;
        int negative = 0;
        for (size_t t = 0; t < taps; t++) {
            int w = layer->depthwise[t * channels + c];
            if (w < -QNZ_MAX_WEIGHT) return QN_BOUNDS;
            positive += w > 0 ? w : 0;
            negative -= w < 0 ? w : 0;
        }
        if (positive * layer->in_top > INT16_MAX || negative * layer->in_top > INT16_MAX) return QN_BOUNDS;
    }
    return check_multipliers(layer->multiplier, channels, 0);
}

static int check_layer(const qn_layer *layer) {
    size_t in = (size_t)layer->in_channels;
    size_t kernel = (size_t)layer->kernel;
    if (layer->is_stem) return check_products(layer, kernel, kernel * in, layer->in_top);
    if (check_depthwise(layer) != QN_OK) return QN_BOUNDS;
    return check_products(layer, 1, in, layer->middle_top);
}

/* ---- taking them -------------------------------------------------------------------------------- */

static const uint8_t *take(qn_numbers *numbers, size_t bytes) {
    const uint8_t *at = numbers->next;
    numbers->next += bytes;
    return at;
}

int qn_take_layer(qn_numbers *numbers, qn_layer *layer) {
    size_t in = (size_t)layer->in_channels;
    size_t out = (size_t)layer->out_channels;
    size_t taps = (size_t)(layer->kernel * layer->kernel);
    if (!layer->is_stem) {
        layer->depthwise = (const int8_t *)take(numbers, taps * in);
        layer->multiplier = take(numbers, 2 * in);
    }
    layer->weight = (const int8_t *)take(numbers, (layer->is_stem ? taps * in : in) * out);
    layer->bias = take(numbers, 4 * out);
    layer->positive = take(numbers, 2 * out);
    layer->negative = take(numbers, 2 * out);
    return check_layer(layer);
}

int qn_take_classifier(qn_numbers *numbers, qn_classifier *classifier) {
    size_t features = (size_t)classifier->features;
    size_t classes = (size_t)classifier->classes;
    classifier->weight = take(numbers, 2 * classes * features);
    classifier->bias = take(numbers, 4 * classes);
    for (size_t k = 0; k < classes; k++) {
        const uint8_t *row = classifier->weight + 2 * features * k;
        int64_t positive = 0;
        int64_t negative = 0;
        for (size_t c = 0; c < features; c++) {
            int w = qn_i16(row + 2 * c);
            positive += w > 0 ? w : 0;
            negative -= w < 0 ? w : 0;
        }
        int32_t bias = qn_i32(classifier->bias + 4 * k);
        if (!fits_accumulator(bias, positive, negative, classifier->most)) return QN_BOUNDS;
    }
    return QN_OK;
}
