/* Packs a sparse pointwise layer, for all instruction sets: sparse.h. */
#include "sparse.h"

#include "format.h"
#include "plain.h"

#include "small.h"

enum { QN_QUADS = QNZ_MAX_CHANNELS / 4, QN_GROUP = 4, QN_OPEN = 8 };

/* The kept blocks of an output channel in groups. Of group g the first block, of block b the next one of its group. */
typedef struct {
    int32_t groups;
    uint16_t first[QN_QUADS], next[QN_QUADS];
    uint8_t size[QN_QUADS];
} qn_groups;

/* Quad q of an output channel's weights, of `left` that begin at `w`, filled up with zeros. */
static uint32_t qn_block(const int8_t *w, int32_t left, int32_t q) {
    uint32_t bits = 0;
    if (4 * q + 4 <= left)
        memcpy(&bits, w + 4 * q, 4);
    else
        memcpy(&bits, w + 4 * q, (size_t)(left - 4 * q));
    return bits;
}

/* Whether at most `most` blocks are not all zero. */
static int qn_has_few_blocks(const qn_layer *layer, int64_t most) {
    int32_t full = layer->in_channels / 4;
    int64_t count = 0;
    for (int32_t o = 0; o < layer->out_channels && count <= most; o++) {
        const int8_t *w = qn_row_weights(layer, o);
        int32_t kept = full * 4 < layer->in_channels && qn_block(w, layer->in_channels, full) != 0;
        for (int32_t q = 0; q < full; q++) {
            uint32_t bits;
            memcpy(&bits, w + 4 * q, 4);
            kept += bits != 0;
        }
        count += kept;
    }
    return count <= most;
}

/* What a block adds in its two lanes of 16 bits: four numbers, the positive weights and the magnitudes of the negative
 * ones of each lane. */
static uint64_t qn_lane_sums(uint32_t block) {
    int8_t w[4];
    uint64_t sums = 0;
    memcpy(w, &block, 4);
    for (int i = 0; i < 4; i++) sums += (uint64_t)(w[i] < 0 ? -w[i] : w[i]) << (i / 2 * 32 + (w[i] < 0 ? 16 : 0));
    return sums;
}

/* Divides the kept blocks of output channel o into groups whose lanes stay within `limit`: each goes to the first of
 * the last QN_OPEN groups that has room. QN_NO_LIMIT fills them in order. */
static void qn_group_row(qn_groups *row, const qn_layer *layer, int32_t o, int32_t limit) {
    const uint64_t high = 0x8000800080008000u, empty = 0x0001000100010001u * (uint64_t)limit;
    const int8_t *weights = qn_row_weights(layer, o);
    uint64_t room[QN_OPEN];
    int32_t group[QN_OPEN], count = 0;
    row->groups = 0;
    if (o >= layer->out_channels) return;
    for (int32_t q = 0; 4 * q < layer->in_channels; q++) {
        uint32_t block = qn_block(weights, layer->in_channels, q);
        int32_t i = 0;
        if (block == 0) continue;
        uint64_t sums = qn_lane_sums(block);
        while (i < count && (((room[i] | high) - sums) & high) != high) i++; /* a lane would take from its high bit */
        if (i == count) {
            if (count == QN_OPEN) {
                i = --count;
                memmove(room, room + 1, sizeof room - sizeof *room);
                memmove(group, group + 1, sizeof group - sizeof *group);
            }
            row->size[row->groups] = 0;
            group[i] = row->groups++;
            room[i] = empty;
            count++;
        }
        int32_t g = group[i];
        room[i] -= sums;
        row->next[q] = row->first[g];
        row->first[g] = (uint16_t)q;
        if (++row->size[g] < QN_GROUP) continue;
        for (count--; i < count; i++) {
            room[i] = room[i + 1];
            group[i] = group[i + 1];
        }
    }
}

/* Writes group g as one of `size` blocks; those that it lacks are zeros of quad 0. */
static int8_t *qn_write_group(const qn_groups *row, const qn_layer *layer, int32_t o, int32_t g, int32_t size,
                              int32_t unit, int8_t *to) {
    uint16_t q = row->first[g];
    memset(to, 0, (size_t)(6 * size));
    for (int32_t i = 0; i < row->size[g]; i++, q = row->next[q]) {
        uint32_t block = qn_block(qn_row_weights(layer, o), layer->in_channels, q);
        uint16_t place = (uint16_t)(q * unit);
        memcpy(to + 4 * i, &block, 4);
        memcpy(to + 4 * size + 2 * i, &place, 2);
    }
    return to + 6 * size;
}

/* Groups of three become groups of four: that costs one product, two and one two more widenings. Returns NULL where
 * they would pass `end`. */
static int8_t *qn_write_row(const qn_groups *row, const qn_layer *layer, int32_t o, int32_t unit, qn_row *to,
                            int8_t *at, const int8_t *end) {
    static const uint8_t most[] = {4, 2, 1}, least[] = {3, 2, 1};
    uint16_t count[3] = {0};
    for (int kind = 0; kind < 3; kind++) {
        for (int32_t g = 0; g < row->groups; g++) {
            if (row->size[g] < least[kind] || row->size[g] > most[kind]) continue;
            if (end - at < 6 * most[kind]) return NULL;
            at = qn_write_group(row, layer, o, g, most[kind], unit, at);
            count[kind]++;
        }
    }
    to->fours = count[0];
    to->twos = count[1];
    to->ones = count[2];
    return at;
}

int qn_pack_sparse(qn_matrix *to, const qn_layer *layer, int64_t most, int32_t limit, int32_t unit) {
    qn_row *rows = (qn_row *)(void *)to->weight;
    int8_t *at = to->weight + (size_t)to->out_channels * sizeof *rows;
    const int8_t *end = to->weight + (size_t)to->steps * 16 * (size_t)to->out_channels;
    qn_groups row;
    if (!qn_has_few_blocks(layer, most) || at > end) return 0;
    for (int32_t o = 0; at && o < to->out_channels; o++) {
        rows[o].at = (uint32_t)(at - to->weight);
        qn_group_row(&row, layer, o, limit);
        at = qn_write_row(&row, layer, o, unit, &rows[o], at, end);
        to->bias[o] = o < layer->out_channels ? qn_i32(layer->bias + 4 * (size_t)o) : 0;
    }
    if (!at) return 0;
    qn_plain_pack_multipliers(to, layer);
    to->rows = rows;
    return 1;
}
