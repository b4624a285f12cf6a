/* CODE, decoded: see coding.h. Whatever the bytes are, every loop ends by the network's sizes, and every index is
 * below its array's length: symbols by the tables' sizes, places by the layer's. */
#include "coding.h"

#include <string.h>

#include "quicknet.h"
#include "reading.h"

#include "small.h"

_Static_assert(2 * QNZ_MAX_CODE_BITS + 2 <= QNZ_DIGEST_BYTES, "words that are read ahead lie in the file");

enum {
    KIND_STEM,
    KIND_DEPTHWISE,
    KIND_MULTIPLIER,
    KIND_BIAS,
    KIND_POSITIVE,
    KIND_NEGATIVE,
    KIND_CLASSIFIER,
    KIND_CLASSIFIER_BIAS
};
static const uint8_t bits_of[QN_KINDS] = {8, 8, 16, 32, 16, 16, 16, 32};

static const uint16_t below_of[QN_KINDS] = {0,
                                            QN_BELOW_8,
                                            2 * QN_BELOW_8,
                                            2 * QN_BELOW_8 + QN_BELOW_16,
                                            2 * QN_BELOW_8 + QN_BELOW_16 + QN_BELOW_32,
                                            2 * QN_BELOW_8 + 2 * QN_BELOW_16 + QN_BELOW_32,
                                            2 * QN_BELOW_8 + 3 * QN_BELOW_16 + QN_BELOW_32,
                                            2 * QN_BELOW_8 + 4 * QN_BELOW_16 + QN_BELOW_32};

enum { ONE = 1 << QNZ_CODED_CHANCE_BITS, DROP = QNZ_CHANCE_BITS - QNZ_CODED_CHANCE_BITS };
#define NO_GAP UINT32_MAX

static uint32_t fail(qn_decoder *d) {
    d->error = QN_CODE;
    return 0;
}

/* ---- decisions ---------------------------------------------------------------------------------- */

static uint32_t take_bit(qn_decoder *d) {
    if (d->state == 0) {
        if (d->next == d->end) return fail(d);
        d->next++;
        d->state = 8;
    }
    d->state--;
    return (uint32_t)d->next[-1] >> d->state & 1;
}

/* The state after a decision that is taken by `share` of ONE from `start`. The next word is read before it is known
 * whether it is needed; the section may be over, but the file's digest comes after it. */
static inline uint32_t advance(const uint8_t **next, uint32_t state, uint32_t share, uint32_t start) {
    state = share * (state >> QNZ_CODED_CHANCE_BITS) + (state & (ONE - 1)) - start;
    uint32_t refills = state < QNZ_STATE_LOW;
    uint32_t refilled = state << 16 | qn_u16(*next);
    *next += 2 * refills;
    return refills ? refilled : state;
}

/* A decision by its chance, which moves towards it. Without branches: most decisions are about as likely as not. */
static inline uint32_t decide_by(const uint16_t *rates, const uint8_t **next, uint32_t *state, qn_chance *chance) {
    uint32_t value = chance->value, count = chance->count;
    uint32_t share = value >> DROP | 1;
    uint32_t bit = (*state & (ONE - 1)) >= share;
    uint32_t all = 0 - bit, flip = ~all & UINT16_MAX; /* towards 0 for a 1, towards the largest for a 0 */
    uint32_t distance = value ^ flip;
    chance->value = (uint16_t)((distance - (distance * rates[count] >> QNZ_CHANCE_BITS)) ^ flip);
    chance->count = (uint16_t)(count + (count < QNZ_LAST_COUNT));
    *state = advance(next, *state, (share ^ all) + (all & (ONE + 1)), share & all);
    return bit;
}

/* Takes back what was read beyond the section. Between two checks lie the decisions of one symbol at most, and their
 * words are fewer bytes than the file's digest has. */
static inline void check_next(qn_decoder *d) {
    if (d->next <= d->end) return;
    d->next = d->end;
    fail(d);
}

static uint32_t decide(qn_decoder *d, qn_chance *chance) {
    if (!d->contexts) return take_bit(d);
    uint32_t bit = decide_by(d->rate, &d->next, &d->state, chance);
    check_next(d);
    return bit;
}

/* A number of even decisions. */
static uint32_t take_plain(qn_decoder *d, int bits) {
    uint32_t number = 0;
    for (int i = 0; i < bits; i++) {
        uint32_t bit = d->contexts ? (d->state & (ONE - 1)) >= ONE / 2 : take_bit(d);
        if (d->contexts) d->state = advance(&d->next, d->state, ONE / 2, bit ? ONE / 2 : 0);
        check_next(d);
        number = number << 1 | bit;
    }
    return number;
}

/* A symbol of a prefix code; chance[n] is that of its node n. */
static inline int32_t take_symbol(qn_decoder *d, const int16_t *tree, qn_chance *chance) {
    int32_t node = tree[0];
    if (!d->contexts) {
        while (node >= 0) node = tree[1 + 2 * (uint32_t)node + take_bit(d)];
        return -1 - node;
    }
    uint32_t state = d->state;
    const uint8_t *next = d->next;
    while (node >= 0) node = tree[1 + 2 * (uint32_t)node + decide_by(d->rate, &next, &state, chance + node)];
    d->state = state;
    d->next = next;
    check_next(d);
    return -1 - node;
}

static void forget(const qn_decoder *d, qn_chance *chance, size_t count) {
    const qn_chance even = {1 << (QNZ_CHANCE_BITS - 1), QNZ_FIRST_COUNT};
    for (size_t i = 0; d->contexts && i < count; i++) chance[i] = even;
}

/* Counts the bits since the last call for a part of the section. */
static void count_bits(qn_decoder *d, int part) {
    uint64_t now = 8 * (uint64_t)(d->next - d->begin) - (d->contexts ? 0 : d->state);
    d->bits[part] += now - d->counted;
    d->counted = now;
}

/* ---- tables ------------------------------------------------------------------------------------- */

/* The canonical code of these lengths; 0 where there is none. */
static int build_tree(const uint8_t *lengths, int32_t symbols, int16_t *tree) {
    int32_t used = 0, inner = 1, nodes = 1, at = 1, left;
    for (int32_t s = 0; s < symbols; s++) {
        if (lengths[s] == 0) continue;
        used++;
        tree[0] = (int16_t)(-1 - s);
        if (lengths[s] != 1) nodes = 0;
    }
    if (used == 1 && nodes == 1) return 1; /* it takes no bits */
    nodes = 1;
    left = used;
    tree[0] = 0;
    for (int level = 1; level <= QNZ_MAX_CODE_BITS && left > 0; level++) {
        inner *= 2;
        for (int32_t s = 0; s < symbols; s++) {
            if (lengths[s] != level) continue;
            if (--inner < 0) return 0;
            tree[at++] = (int16_t)(-1 - s);
            left--;
        }
        if (nodes + inner > used - 1) return 0; /* a whole tree has one inner node less than leaves */
        for (int32_t i = 0; i < inner; i++) tree[at++] = (int16_t)nodes++;
    }
    return used > 0 && inner == 0 && left == 0;
}

static void take_table(qn_decoder *d, int32_t symbols, int16_t *tree) {
    uint8_t lengths[QN_MOST_SYMBOLS];
    int before = 0;
    for (int32_t s = 0; s < symbols; s++) {
        int node = 1;
        while (node <= QNZ_MAX_CODE_BITS) node = 2 * node + (int)decide(d, &d->length[before][node]);
        before = node - (QNZ_MAX_CODE_BITS + 1);
        lengths[s] = (uint8_t)before;
    }
    if (d->error == QN_OK && build_tree(lengths, symbols, tree)) return;
    fail(d);
    tree[0] = -1;
}

static void take_values_table(qn_decoder *d) {
    if (d->has_values && decide(d, &d->same_table)) return;
    d->has_values = 1;
    d->largest = (int32_t)take_plain(d, QNZ_MAGNITUDE_BITS);
    take_table(d, 2 * d->largest + 1, d->values);
    forget(d, d->value[0], QNZ_CLASSES_OF_MAGNITUDE * QN_MOST_NODES);
}

int qn_decode_begin(qn_decoder *d, const qn_net *net) {
    memset(d, 0, sizeof *d);
    d->next = net->code + QNZ_CODE_HEADER_BYTES;
    d->begin = d->next;
    d->end = net->code + net->code_bytes;
    d->contexts = net->code[QNZ_CODE_HEADER_CODING] == QNZ_CONTEXTS;
    for (int n = 0; n <= QNZ_LAST_COUNT; n++) d->rate[n] = (uint16_t)((2u << QNZ_CHANCE_BITS) / (2u * (unsigned)n + 3));
    for (int quarter = 0; quarter <= QNZ_MAX_WEIGHT << 2; quarter++) {
        int length = 0;
        while (quarter >> length > 0) length++;
        int halves = length < 2 ? length : 2 * length - 2 + (quarter >> (length - 2) & 1);
        d->magnitude_class[quarter] =
            (uint8_t)(halves < QNZ_CLASSES_OF_MAGNITUDE ? halves : QNZ_CLASSES_OF_MAGNITUDE - 1);
    }
    if (d->contexts) {
        if ((d->end - d->next) % 2 != 0 || d->end - d->next < 4) return QN_CODE;
        d->state = qn_u32(d->next);
        d->next += 4;
        if (d->state < QNZ_STATE_LOW) return QN_CODE;
    }
    forget(d, d->mask[0], sizeof d->mask / sizeof(qn_chance));
    forget(d, d->length[0], sizeof d->length / sizeof(qn_chance));
    forget(d, &d->same_table, 1);
    forget(d, d->node[0], sizeof d->node / sizeof(qn_chance));
    forget(d, d->sign, QN_KINDS);
    forget(d, d->below, QN_BELOW);
    for (int kind = 0; kind < QN_KINDS; kind++) take_table(d, bits_of[kind] + 1, d->numbers[kind]);
    count_bits(d, QN_TABLES);
    return d->error;
}

/* ---- numbers ------------------------------------------------------------------------------------ */

static int32_t take_number(qn_decoder *d, int kind) {
    int length = take_symbol(d, d->numbers[kind], d->node[kind]);
    if (length == 0) return 0;
    uint32_t magnitude = 1, limit = 1u << (bits_of[kind] - 1);
    uint32_t negative = decide(d, &d->sign[kind]);
    qn_chance *below = d->below + below_of[kind] + (length - 1) * (length - 2) / 2;
    for (int bit = length - 2; bit >= 0; bit--) magnitude = magnitude << 1 | decide(d, below + bit);
    if (magnitude > limit - 1 + negative) return (int32_t)fail(d);
    return negative ? (int32_t)(-(int64_t)magnitude) : (int32_t)magnitude;
}

static void put_number(qn_decoder *d, int kind, uint8_t *to) {
    uint32_t number = (uint32_t)take_number(d, kind);
    for (int i = 0; i < bits_of[kind] / 8; i++) to[i] = (uint8_t)(number >> 8 * i);
}

static void put_numbers(qn_decoder *d, int kind, size_t count, uint8_t *to) {
    for (size_t i = 0; i < count; i++) put_number(d, kind, to + i * bits_of[kind] / 8);
}

/* ---- pointwise weights -------------------------------------------------------------------------- */

/* The places of a row's kept blocks, by the density of their column and of the row so far; returns how many. */
static size_t take_mask(qn_decoder *d, size_t blocks, uint32_t row) {
    const uint32_t most = QNZ_CLASSES_OF_DENSITY - 1;
    const uint8_t *next = d->next;
    uint32_t state = d->state, count = 0;
    for (uint32_t i = 0; i < blocks; i++) {
        uint32_t column = (QNZ_DENSITY_SCALE * d->kept[i] + QNZ_DENSITY_PRIOR) / (row + 1);
        uint32_t so_far = (QNZ_DENSITY_SCALE * count + QNZ_DENSITY_PRIOR) / (i + 1);
        qn_chance *chance = &d->mask[column < most ? column : most][so_far < most ? so_far : most];
        uint32_t bit = decide_by(d->rate, &next, &state, chance);
        d->kept[i] = (uint16_t)(d->kept[i] + bit);
        d->place[count] = (uint16_t)i;
        count += bit;
        if (next > d->end) break;
    }
    d->next = next;
    d->state = state;
    check_next(d);
    return count;
}

/* The absent blocks before the next one, which has so many positions left. */
static uint32_t take_gap(qn_decoder *d, uint32_t positions) {
    uint32_t gap = 0;
    for (;;) {
        uint32_t symbol = (uint32_t)take_symbol(d, d->gaps, NULL);
        gap += symbol;
        if (gap >= positions) return fail(d);
        if (symbol < QNZ_GAP) return gap;
    }
}

static size_t take_gaps(qn_decoder *d, uint32_t blocks) {
    uint32_t count = 0, place = 0;
    while (d->blocks_left > 0 && place < blocks) {
        if (d->gap == NO_GAP) d->gap = take_gap(d, d->positions_left - place);
        if (d->error != QN_OK) return 0;
        if (d->gap >= blocks - place) {
            d->gap -= blocks - place;
            break;
        }
        place += d->gap;
        d->place[count++] = (uint16_t)place++;
        d->gap = NO_GAP;
        d->blocks_left--;
    }
    d->positions_left -= blocks;
    if (d->positions_left == 0 && d->blocks_left > 0) fail(d);
    return count;
}

static void take_values(qn_decoder *d, size_t channels, size_t count, uint8_t *row) {
    for (size_t i = 0; i < count; i++) {
        size_t begin = (size_t)d->place[i] * QNZ_CODED_BLOCK;
        size_t end = channels - begin < QNZ_CODED_BLOCK ? channels : begin + QNZ_CODED_BLOCK;
        for (size_t c = begin; c < end; c++) {
            int32_t average = d->average[c];
            qn_chance *chance = d->value[d->magnitude_class[average >> (QNZ_MAGNITUDE_SHIFT - 2)]];
            int32_t value = take_symbol(d, d->values, chance) - d->largest;
            int32_t magnitude = (value < 0 ? -value : value) << QNZ_MAGNITUDE_SHIFT;
            d->average[c] = (uint16_t)(average + ((magnitude - average) >> QNZ_MAGNITUDE_RATE));
            row[c] = (uint8_t)value;
        }
    }
}

/* What a layer has before its first row. */
static void begin_pointwise(qn_decoder *d, size_t outs, size_t channels) {
    count_bits(d, QN_OTHERS);
    take_values_table(d);
    count_bits(d, QN_TABLES);
    if (d->contexts) {
        memset(d->kept, 0, sizeof d->kept);
        for (size_t c = 0; c < channels; c++) d->average[c] = (uint16_t)(d->largest << (QNZ_MAGNITUDE_SHIFT - 2));
        return;
    }
    d->positions_left = (uint32_t)(outs * ((channels + QNZ_CODED_BLOCK - 1) / QNZ_CODED_BLOCK));
    d->blocks_left = take_plain(d, QNZ_COUNT_BITS);
    d->gap = NO_GAP;
    take_table(d, QNZ_GAP + 1, d->gaps);
    count_bits(d, QN_PLACES);
    if (d->blocks_left > d->positions_left) fail(d);
}

static void take_row(qn_decoder *d, size_t channels, uint32_t row, uint8_t *weights) {
    uint32_t blocks = (uint32_t)((channels + QNZ_CODED_BLOCK - 1) / QNZ_CODED_BLOCK);
    memset(weights, 0, channels);
    count_bits(d, QN_OTHERS);
    size_t count = d->contexts ? take_mask(d, blocks, row) : take_gaps(d, blocks);
    count_bits(d, QN_PLACES);
    take_values(d, channels, count, weights);
    count_bits(d, QN_VALUES);
}

/* ---- layers ------------------------------------------------------------------------------------- */

static int decode_depthwise(qn_decoder *d, const qn_layer *layer, uint8_t *to) {
    size_t channels = (size_t)layer->in_channels, taps = (size_t)(layer->kernel * layer->kernel);
    uint8_t weights[QNZ_KERNEL_LARGE * QNZ_KERNEL_LARGE], multiplier[2];
    for (size_t c = 0; c < channels && d->error == QN_OK; c++) {
        put_numbers(d, KIND_DEPTHWISE, taps, weights);
        put_number(d, KIND_MULTIPLIER, multiplier);
        if (d->error == QN_OK) d->error = qn_check_taps(layer, (const int8_t *)weights, 1, multiplier);
        if (to == NULL) continue;
        for (size_t t = 0; t < taps; t++) to[t * channels + c] = weights[t];
        memcpy(to + taps * channels + 2 * c, multiplier, sizeof multiplier);
    }
    return d->error;
}

/* Every output channel's weights, bias and multipliers. */
static int decode_rows(qn_decoder *d, const qn_layer *layer, uint8_t *to) {
    size_t outs = (size_t)layer->out_channels, in = (size_t)layer->in_channels;
    size_t count = layer->is_stem ? (size_t)(layer->kernel * layer->kernel) * in : in;
    uint8_t *bias = to ? to + outs * count : NULL;
    uint8_t output[8];
    if (!layer->is_stem) begin_pointwise(d, outs, in);
    for (size_t o = 0; o < outs && d->error == QN_OK; o++) {
        uint8_t *weights = to ? to + o * count : d->row;
        if (layer->is_stem) put_numbers(d, KIND_STEM, count, weights);
        put_number(d, KIND_BIAS, output);
        put_number(d, KIND_POSITIVE, output + 4);
        put_number(d, KIND_NEGATIVE, output + 6);
        if (!layer->is_stem) take_row(d, in, (uint32_t)o, weights);
        if (d->error == QN_OK)
            d->error = qn_check_output(layer, (const int8_t *)weights, output, output + 4, output + 6);
        if (to == NULL) continue;
        memcpy(bias + 4 * o, output, 4);
        memcpy(bias + 4 * outs + 2 * o, output + 4, 2);
        memcpy(bias + 6 * outs + 2 * o, output + 6, 2);
    }
    return d->error;
}

int qn_decode_layer(qn_decoder *d, qn_layer *layer, uint8_t *to) {
    if (!layer->is_stem) {
        if (decode_depthwise(d, layer, to) != QN_OK) return d->error;
        if (to) to += (size_t)(layer->kernel * layer->kernel + 2) * (size_t)layer->in_channels;
    }
    return decode_rows(d, layer, to);
}

int qn_decode_classifier(qn_decoder *d, qn_classifier *classifier, uint8_t *to) {
    size_t features = (size_t)classifier->features, classes = (size_t)classifier->classes;
    uint8_t bias[4];
    for (size_t k = 0; k < classes && d->error == QN_OK; k++) {
        uint8_t *row = to ? to + 2 * features * k : d->row;
        put_numbers(d, KIND_CLASSIFIER, features, row);
        put_number(d, KIND_CLASSIFIER_BIAS, bias);
        if (d->error == QN_OK) d->error = qn_check_class(classifier, row, bias);
        if (to) memcpy(to + 2 * features * classes + 4 * k, bias, 4);
    }
    if (d->error != QN_OK) return d->error;
    count_bits(d, QN_OTHERS);
    if (d->next != d->end) return QN_CODE;
    if (d->contexts) return d->state == QNZ_STATE_LOW ? QN_OK : QN_CODE;
    return (d->next[-1] & ((1 << d->state) - 1)) == 0 ? QN_OK : QN_CODE;
}

int qn_take_coded(const qn_net *net, uint8_t *decoded, uint64_t bits[QN_PARTS]) {
    qn_decoder decoder;
    int error = qn_take_numbers(net, &decoder, decoded);
    if (bits) memcpy(bits, decoder.bits, sizeof decoder.bits);
    return error;
}
