/* A checked integer network, as the reader hands it to the engine: sizes, then one layer's plain arrays after the
 * other. FORMAT.md defines what they mean. Arrays of the file are not aligned: read i16 and i32 through qn_i16 and
 * qn_i32. */
#ifndef QN_NET_H
#define QN_NET_H
#include <stddef.h>
#include <stdint.h>

typedef struct {
    int32_t is_stem, kernel, stride, pool;  /* pool: 2x2 max pool on the way in */
    int32_t in_channels, out_channels;
    int32_t in_side, side;                  /* in_side: after the pool; side: of the output */
    int32_t in_zero, in_top;                /* of what the layer takes; stem: 0, 255 */
    int32_t middle_zero, middle_top;        /* of the depthwise output */
    int32_t sums, shift, zero, top;
    /* The arrays: NULL until qn_take_layer. */
    const int8_t *depthwise;                /* [k][k][in_channels]; NULL for the stem */
    const uint8_t *multiplier;              /* i16[in_channels]; NULL for the stem */
    const int8_t *weight;                   /* [out][in], stem [out][k][k][in] */
    const uint8_t *bias;                    /* i32[out] */
    const uint8_t *positive, *negative;     /* i16[out] */
} qn_layer;

/* What comes last; `most` is the largest sum over a map. */
typedef struct {
    int32_t classes, features;
    int64_t most;
    const uint8_t *weight;                  /* i16[classes][features]; NULL until qn_take_classifier */
    const uint8_t *bias;                    /* i32[classes] */
} qn_classifier;

typedef struct {
    int32_t side, channels, layers;
    qn_classifier classifier;
    const uint8_t *shapes, *numbers;        /* NETW's layers; TENS, or NULL: */
    const uint8_t *code;                    /* CODE in its place */
    uint64_t code_bytes, tensor_bytes;      /* of TENS, also where it is coded, ... */
    uint64_t largest_bytes;                 /* ... and of its largest layer, or classifier */
} qn_net;

static inline int16_t qn_i16(const uint8_t *p) { return (int16_t)(uint16_t)(p[0] | p[1] << 8); }
static inline int32_t qn_i32(const uint8_t *p) {
    return (int32_t)((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
}

#endif
