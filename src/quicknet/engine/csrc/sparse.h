/* Sparse pointwise layers: those of which most blocks, one output channel x four neighbouring input channels, are
 * zero. Shared by all instruction sets.
 *
 * A dense kernel has a vector of output channels, whose blocks are all there. Here each output channel has other
 * blocks, so a vector is one of pixels: the tile is turned to [channels / 4][pixels][4] (`spread`), a block's four
 * weights are repeated over a vector and multiplied with its quad of as many pixels as there are accumulators, and
 * the bytes of QN_CHANNELS output channels are turned back (`gather`). */
#ifndef QN_SPARSE_H
#define QN_SPARSE_H
#include <string.h>

#include "kernels.h"

enum { QN_NO_LIMIT = INT16_MAX };

/* Does what kernels.h says of pack_sparse: rows, then their groups, in the dense matrix's place; biases and multipliers
 * in the channels' order. The positive and the negative weights that a group adds up in one of its two lanes of 16 bits
 * (the blocks' first two weights, their last two) sum to at most `limit`; QN_NO_LIMIT: nothing is added in 16 bits.
 * Quads are written times `unit`, at most a sixteenth of a span's pixels: FORMAT.md allows 8,192 channels and maps of
 * 2^26 numbers, so 16 bits hold them. */
int qn_pack_sparse(qn_matrix *to, const qn_layer *layer, int64_t most, int32_t limit, int32_t unit);

static inline const int8_t *qn_row_weights(const qn_layer *layer, int32_t o) {
    return layer->weight + (size_t)o * (size_t)layer->in_channels;
}

/* Of the group at `at`, of `size` blocks: block i's weights, and the quad it multiplies. */
static inline int32_t qn_group_weights(const int8_t *at, int i) {
    int32_t w;
    memcpy(&w, at + 4 * i, 4);
    return w;
}

static inline size_t qn_group_quad(const int8_t *at, int size, int i) {
    uint16_t quad;
    memcpy(&quad, at + 4 * size + 2 * i, 2);
    return quad;
}

#endif
