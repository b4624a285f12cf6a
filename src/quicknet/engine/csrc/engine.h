/* The engine in memory: what plan.c lays out and engine.c walks through. */
#ifndef QN_ENGINE_H
#define QN_ENGINE_H
#include "kernels.h"
#include "net.h"
#include "quicknet.h"
#include "threads.h"

/* A feature map with a ring of padding, in which the next layer's zero point is. */
typedef struct {
    int32_t side, channels, ring; /* channels: filled up */
    int32_t row_bytes;            /* of a row with its ring */
    int32_t zero;
} qn_map;

/* A layer and the pool behind it: computed in tiles of a few rows, from image or map to map, while they
 * are in the cache. */
typedef struct {
    int32_t is_stem, pool;             /* pool: the next layer takes the 2x2 maximum */
    int32_t side, kernel, stride;      /* side: before the pool */
    int32_t tile_rows, tiles;          /* without an odd last row before a pool, which nobody sees */
    int32_t row_parts, channel_parts;  /* how a team shares the stage */
    size_t first_item;                 /* number of its first part among the image's */
    int32_t in_channels, out_channels; /* the layer's own, not filled up */
    qn_map in, out;                    /* in: unused in the stem */
    qn_depthwise depthwise;            /* unused in the stem */
    qn_matrix matrix;
    int32_t *out_at; /* where a tile's pixels go */
} qn_stage;

/* What each thread has for itself. */
typedef struct {
    uint8_t *map[2];      /* stages read from one and write to the other */
    uint8_t *tile;        /* depthwise output; the stem: rows of the image */
    uint8_t *before_pool; /* a tile's outputs that a pool follows */
    void *scratch;
    int32_t *sums;
    int16_t *narrow_sums;
} qn_workspace;

/* Where qn_trace wants a copy: of a layer's depthwise output (part 0) or output before the pool (part 1). */
typedef struct {
    int32_t layer, part;
    uint8_t *out;
} qn_watch;

struct qn_engine {
    const qn_kernels *kernels;
    int32_t threads, layers, image_side, image_channels;
    int32_t sparse_below; /* of qn_plan */
    qn_stage *stages;
    qn_head head;
    size_t items; /* of an image that a team shares: the stages' parts, and the head */
    int32_t last_pixels;
    qn_workspace *workspaces;
    qn_team *team;
    qn_watch watch;
};

/* How much memory the engine needs: bytes, 0 where they pass this machine's addresses. Looks at no numbers. */
size_t qn_plan_bytes(const qn_net *net, const qn_kernels *kernels, int threads);
/* Lays the engine out in `memory`, so many bytes, and packs the network's numbers, a layer at a time; QN_BOUNDS where
 * they are outside FORMAT.md's. A pointwise of which at most `sparse_below` per mille of the blocks are not zero is
 * packed sparse, in the same place. */
int qn_plan(qn_engine *engine, const qn_net *net, const qn_kernels *kernels, int threads, int32_t sparse_below,
            uint8_t *memory);

/* For tests and bindings. */

/* What a layer computes, for comparing implementations: part 0 the depthwise output, 1 the output before a pool,
 * both u8 [side][side][channels]; part 2, whatever the layer, the sums over the last map, int32 [1][1][features].
 * Both return QN_SHAPE where that part does not exist. */
int qn_trace_shape(const qn_engine *engine, int32_t layer, int32_t part, int32_t shape[3]);
int qn_trace(qn_engine *engine, const uint8_t *image, int32_t layer, int32_t part, void *out);

/* For measuring: does a layer's part 0 or 1, or the head (part 2, whatever the layer) so many times, on what the maps
 * hold; `logits` is written by part 2 only. Returns QN_SHAPE where that part does not exist. */
int qn_repeat(qn_engine *engine, const uint8_t *image, int32_t layer, int32_t part, uint64_t count, int32_t *logits);

/* Whether a layer's pointwise runs sparse; 0 where there is no such layer. */
int qn_is_sparse(const qn_engine *engine, int32_t layer);

/* The engine's own shape; multiply_adds and section are left as they are. */
void qn_describe(const qn_engine *engine, qn_info *info);

/* Whether an instruction set is compiled in and on this CPU. */
int qn_has(int isa);
/* The multiply-adds that so many rounds of its inner loop did; 0 where it is not here. */
uint64_t qn_peak(int isa, int32_t sums, uint64_t rounds);

#endif
