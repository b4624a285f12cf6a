/* The numbers: TENS or CODE, a layer at a time, and the bounds by which the engine may add in 16 and 32 bits without looking
 * (FORMAT.md, "TENS" and "Bounds"). */
#include <string.h>

#include "coding.h"
#include "format.h"
#include "reading.h"

#include "small.h"

/* Of the weights of one output channel so far, in pairs {2i, 2i+1} of a block: 8 of the positive, 8 of the
 * magnitudes of the negative. */
typedef struct {
    uint32_t total[QNZ_BLOCK];
    uint16_t lane[QNZ_BLOCK]; /* the largest sums of a lane */
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

static int check_channel(const channel_sums *all, int64_t bias, int top) {
    int64_t positive = 0;
    int64_t negative = 0;
    for (int i = 0; i < QNZ_BLOCK; i++) {
        if (all->lane[i] * top > INT16_MAX || all->magnitude[i] > QNZ_MAX_WEIGHT) return QN_BOUNDS;
        *(i < QNZ_BLOCK / 2 ? &positive : &negative) += all->total[i];
    }
    return fits_accumulator(bias, positive, negative, top) ? QN_OK : QN_BOUNDS;
}

/* Stem and pointwise: the lanes and the accumulator of an output channel. The stem's weights are `kernel` sequences,
 * each filled up to whole blocks. */
int qn_check_output(const qn_layer *layer, const int8_t *weight, const uint8_t *bias, const uint8_t *positive,
                    const uint8_t *negative) {
    channel_sums all = {{0}, {0}, {0}};
    size_t in = (size_t)layer->in_channels;
    size_t rows = layer->is_stem ? (size_t)layer->kernel : 1;
    size_t row = layer->is_stem ? rows * in : in;
    if (qn_i16(positive) < -INT16_MAX || qn_i16(negative) < -INT16_MAX) return QN_BOUNDS;
    for (size_t r = 0; r < rows; r++) scan_sequence(weight + r * row, row, layer->sums, &all);
    return check_channel(&all, qn_i32(bias), layer->is_stem ? layer->in_top : layer->middle_top);
}

int qn_check_taps(const qn_layer *layer, const int8_t *weight, size_t step, const uint8_t *multiplier) {
    size_t taps = (size_t)(layer->kernel * layer->kernel);
    int positive = 0;
    int negative = 0;
    for (size_t t = 0; t < taps; t++) {
        int w = weight[t * step];
        if (w < -QNZ_MAX_WEIGHT) return QN_BOUNDS;
        positive += w > 0 ? w : 0;
        negative -= w < 0 ? w : 0;
    }
    if (positive * layer->in_top > INT16_MAX || negative * layer->in_top > INT16_MAX) return QN_BOUNDS;
    return qn_i16(multiplier) < 0 ? QN_BOUNDS : QN_OK;
}

int qn_check_class(const qn_classifier *classifier, const uint8_t *weight, const uint8_t *bias) {
    int64_t positive = 0;
    int64_t negative = 0;
    for (int32_t c = 0; c < classifier->features; c++) {
        int w = qn_i16(weight + 2 * (size_t)c);
        positive += w > 0 ? w : 0;
        negative -= w < 0 ? w : 0;
    }
    return fits_accumulator(qn_i32(bias), positive, negative, classifier->most) ? QN_OK : QN_BOUNDS;
}

static int check_layer(const qn_layer *layer) {
    size_t in = (size_t)layer->in_channels;
    size_t count = layer->is_stem ? (size_t)(layer->kernel * layer->kernel) * in : in;
    for (size_t c = 0; !layer->is_stem && c < in; c++) {
        if (qn_check_taps(layer, layer->depthwise + c, in, layer->multiplier + 2 * c) != QN_OK) return QN_BOUNDS;
    }
    for (size_t o = 0; o < (size_t)layer->out_channels; o++) {
        if (qn_check_output(layer, layer->weight + o * count, layer->bias + 4 * o, layer->positive + 2 * o,
                            layer->negative + 2 * o) != QN_OK)
            return QN_BOUNDS;
    }
    return QN_OK;
}

/* ---- taking them -------------------------------------------------------------------------------- */

int qn_begin_numbers(qn_numbers *numbers, const qn_net *net, qn_decoder *decoder, uint8_t *decoded) {
    numbers->next = net->numbers;
    numbers->decoder = net->code ? decoder : NULL;
    numbers->decoded = decoded;
    return numbers->decoder ? qn_decode_begin(decoder, net) : QN_OK;
}

static const uint8_t *take(qn_numbers *numbers, size_t bytes) {
    const uint8_t *at = numbers->next;
    numbers->next += bytes;
    return at;
}

int qn_take_layer(qn_numbers *numbers, qn_layer *layer) {
    size_t in = (size_t)layer->in_channels;
    size_t out = (size_t)layer->out_channels;
    size_t taps = (size_t)(layer->kernel * layer->kernel);
    if (numbers->decoder) {
        int error = qn_decode_layer(numbers->decoder, layer, numbers->decoded);
        if (error != QN_OK || numbers->decoded == NULL) return error;
        numbers->next = numbers->decoded;
    }
    if (!layer->is_stem) {
        layer->depthwise = (const int8_t *)take(numbers, taps * in);
        layer->multiplier = take(numbers, 2 * in);
    }
    layer->weight = (const int8_t *)take(numbers, (layer->is_stem ? taps * in : in) * out);
    layer->bias = take(numbers, 4 * out);
    layer->positive = take(numbers, 2 * out);
    layer->negative = take(numbers, 2 * out);
    return numbers->decoder ? QN_OK : check_layer(layer);
}

int qn_take_classifier(qn_numbers *numbers, qn_classifier *classifier) {
    size_t features = (size_t)classifier->features;
    size_t classes = (size_t)classifier->classes;
    if (numbers->decoder) {
        int error = qn_decode_classifier(numbers->decoder, classifier, numbers->decoded);
        if (error != QN_OK || numbers->decoded == NULL) return error;
        numbers->next = numbers->decoded;
    }
    classifier->weight = take(numbers, 2 * classes * features);
    classifier->bias = take(numbers, 4 * classes);
    for (size_t k = 0; numbers->decoder == NULL && k < classes; k++) {
        if (qn_check_class(classifier, classifier->weight + 2 * features * k, classifier->bias + 4 * k) != QN_OK)
            return QN_BOUNDS;
    }
    return QN_OK;
}

int qn_take_numbers(const qn_net *net, qn_decoder *decoder, uint8_t *decoded) {
    qn_numbers numbers;
    qn_classifier classifier = net->classifier;
    qn_layer layer = {0};
    qn_layer before;
    int error = qn_begin_numbers(&numbers, net, decoder, decoded);
    for (int32_t i = 0; error == QN_OK && i < net->layers; i++) {
        before = layer;
        error = qn_read_layer(net, i, &before, &layer);
        if (error == QN_OK) error = qn_take_layer(&numbers, &layer);
        if (error == QN_OK && decoded) numbers.decoded += numbers.next - numbers.decoded;
    }
    return error == QN_OK ? qn_take_classifier(&numbers, &classifier) : error;
}
