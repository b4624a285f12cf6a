/* CODE, the numbers of TENS entropy-coded (FORMAT.md, "CODE"), a layer at a time into the order of TENS. qnz/coding is
 * the same in Python. */
#ifndef QN_CODING_H
#define QN_CODING_H
#include "format.h"
#include "net.h"

enum { QN_KINDS = 8, QN_MOST_SYMBOLS = 2 * QNZ_MAX_WEIGHT + 1, QN_MOST_NODES = QN_MOST_SYMBOLS - 1 };

/* What the section's bits are for. */
enum { QN_TABLES, QN_PLACES, QN_VALUES, QN_OTHERS, QN_PARTS };

/* That a decision is 0, in 2^-16, and of how many decisions it knows. */
typedef struct {
    uint16_t value, count;
} qn_chance;

/* Of a number's bits below the highest: each of every length, by kind of number. */
enum { QN_BELOW_8 = 8 * 7 / 2, QN_BELOW_16 = 16 * 15 / 2, QN_BELOW_32 = 32 * 31 / 2 };
enum { QN_BELOW = 2 * QN_BELOW_8 + 4 * QN_BELOW_16 + 2 * QN_BELOW_32 };

typedef struct qn_decoder {
    const uint8_t *next, *end;
    uint32_t state;      /* contexts: of the coder; huffman: bits of a byte that are left */
    int error, contexts; /* error: QN_OK as long as nothing is wrong; nothing after it is believed */
    const uint8_t *begin;
    uint64_t counted, bits[QN_PARTS]; /* counted: bits of the section, each of which is in one of the parts */
    uint16_t rate[QNZ_LAST_COUNT + 1];
    uint8_t magnitude_class[(QNZ_MAX_WEIGHT << 2) + 1];
    /* Prefix codes: of the kinds of numbers' lengths, of values, of gaps. Of each, [0] is the root, and the children of
     * inner node n are at 1 + 2 n and after it: an inner node, or -1 - symbol. */
    int16_t numbers[QN_KINDS][1 + 2 * 32], values[1 + 2 * QN_MOST_NODES], gaps[1 + 2 * QNZ_GAP];
    int32_t has_values, largest;
    qn_chance mask[QNZ_CLASSES_OF_DENSITY][QNZ_CLASSES_OF_DENSITY];
    qn_chance length[QNZ_MAX_CODE_BITS + 1][QNZ_MAX_CODE_BITS + 1], same_table;
    qn_chance node[QN_KINDS][32], sign[QN_KINDS], below[QN_BELOW];
    qn_chance value[QNZ_CLASSES_OF_MAGNITUDE][QN_MOST_NODES];
    /* Of the layer that is decoded. */
    uint32_t blocks_left, positions_left, gap; /* huffman; QN_NO_GAP: not read yet */
    uint16_t kept[QNZ_MAX_CHANNELS / QNZ_CODED_BLOCK], place[QNZ_MAX_CHANNELS / QNZ_CODED_BLOCK];
    uint16_t average[QNZ_MAX_CHANNELS];
    uint8_t row[2 * QNZ_MAX_CHANNELS]; /* of weights, where nobody keeps them */
} qn_decoder;

/* The tables before the first layer. */
int qn_decode_begin(qn_decoder *d, const qn_net *net);
/* The next layer's numbers, checked against their bounds, to `to` in the order of TENS, and the layer's pointers to
 * them; `to` NULL: only the check. */
int qn_decode_layer(qn_decoder *d, qn_layer *layer, uint8_t *to);
/* After all layers; and that the section ends there. */
int qn_decode_classifier(qn_decoder *d, qn_classifier *classifier, uint8_t *to);

#endif
