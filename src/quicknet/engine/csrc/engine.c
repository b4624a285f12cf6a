/* From an image to logits: the walk through the layers, alone or as a member of a team.
 *
 * A stage is computed in tiles of a few rows: depthwise, pointwise with requantization, pool, each while
 * the one before is still in the cache. */
#include "engine.h"

#include <string.h>

#include "reading.h"

typedef struct {
    int32_t begin, end;
} qn_range;

/* Part `index` of `count` of 0..total-1, in units. */
static qn_range part_of(int32_t total, int32_t unit, int32_t index, int32_t count) {
    int64_t units = (total + unit - 1) / unit;
    int64_t begin = units * index / count * unit, end = units * (index + 1) / count * unit;
    qn_range range = {(int32_t)(begin < total ? begin : total), (int32_t)(end < total ? end : total)};
    return range;
}

/* ---- one tile ----------------------------------------------------------------------------------- */

/* One piece of a stage: rows and output channels. */
typedef struct {
    int32_t row, rows, width; /* width: columns that are wanted */
    qn_range channels;
} qn_tile;

static void fill_ring(const qn_map *map, uint8_t *to, int32_t row, int32_t rows) {
    size_t row_bytes = (size_t)map->row_bytes, side = (size_t)map->ring * (size_t)map->channels;
    int32_t first = row == 0 ? 0 : row + map->ring;
    int32_t end = row + rows == map->side ? map->side + 2 * map->ring : row + rows + map->ring;
    for (int32_t y = first; y < end; y++) {
        uint8_t *at = to + (size_t)y * row_bytes;
        if (y < map->ring || y >= map->side + map->ring) {
            memset(at, map->zero, row_bytes);
        } else {
            memset(at, map->zero, side);
            memset(at + row_bytes - side, map->zero, side);
        }
    }
}

static uint8_t *pixel(const qn_map *map, uint8_t *to, int32_t y) {
    return to + (size_t)(y + map->ring) * (size_t)map->row_bytes + (size_t)map->ring * (size_t)map->channels;
}

/* The image's rows are copied, so that steps of 16 bytes never read past its end. */
static void stem_tile(const qn_engine *engine, const qn_stage *stage, const qn_tile *tile, const uint8_t *image,
                      const qn_workspace *workspace, uint8_t *out) {
    size_t row_bytes = (size_t)engine->image_side * (size_t)engine->image_channels;
    size_t rows = (size_t)((tile->rows - 1) * stage->stride + stage->kernel);
    memcpy(workspace->tile, image + (size_t)tile->row * (size_t)stage->stride * row_bytes, rows * row_bytes);
    for (int32_t y = 0; y < tile->rows; y++) {
        qn_span span = {tile->width, workspace->tile + (size_t)(y * stage->stride) * row_bytes,
                        stage->stride * engine->image_channels, out, stage->out_at + y * tile->width};
        engine->kernels->matrix(&stage->matrix, &span, tile->channels.begin, tile->channels.end, workspace->scratch);
    }
}

static void depthwise_tile(const qn_engine *engine, const qn_stage *stage, const qn_tile *tile, const uint8_t *in,
                           const qn_workspace *workspace) {
    engine->kernels->depthwise(&stage->depthwise, in + (size_t)tile->row * (size_t)stage->in.row_bytes,
                               stage->in.row_bytes, tile->rows, tile->width, workspace->tile);
}

static void separable_tile(const qn_engine *engine, const qn_stage *stage, const qn_tile *tile, const uint8_t *in,
                           const qn_workspace *workspace, uint8_t *out) {
    depthwise_tile(engine, stage, tile, in, workspace);
    qn_span span = {tile->rows * tile->width, workspace->tile, stage->in.channels, out, stage->out_at};
    const qn_matrix *m = &stage->matrix;
    (m->rows ? engine->kernels->sparse : engine->kernels->matrix)(m, &span, tile->channels.begin, tile->channels.end,
                                                                  workspace->scratch);
}

/* The pool of a tile's complete pairs of rows: `from` holds its channels of all its pixels. */
static void pool_tile(const qn_engine *engine, const qn_stage *stage, const qn_tile *tile, const uint8_t *from,
                      uint8_t *map) {
    int32_t stride = stage->out.channels, begin = tile->channels.begin, count = tile->channels.end - begin;
    size_t row_bytes = (size_t)tile->width * (size_t)stride;
    for (int32_t y = 0; y + 1 < tile->rows; y += 2, from += 2 * row_bytes) {
        uint8_t *to = pixel(&stage->out, map, (tile->row + y) / 2);
        engine->kernels->pool(from + begin, from + row_bytes + begin, stage->out.side, stride, count, to + begin);
    }
}

/* Copies a tile's pixels for qn_trace: pixel p from from + at[p], or + p * stride where there is no `at`. */
static void copy_watched(const qn_stage *stage, const qn_tile *tile, const uint8_t *from, const int32_t *at,
                         int32_t stride, int32_t channels, uint8_t *to) {
    to += (size_t)tile->row * (size_t)stage->side * (size_t)channels;
    for (int32_t p = 0; p < tile->rows * tile->width; p++, to += channels)
        memcpy(to, from + (at ? (size_t)at[p] : (size_t)p * (size_t)stride), (size_t)channels);
}

static void watch_tile(const qn_engine *engine, const qn_stage *stage, const qn_tile *tile,
                       const qn_workspace *workspace, const uint8_t *out) {
    const qn_watch *watch = &engine->watch;
    if (!watch->out || stage != &engine->stages[watch->layer]) return;
    if (watch->part == 0)
        copy_watched(stage, tile, workspace->tile, NULL, stage->in.channels, stage->in_channels, watch->out);
    else
        copy_watched(stage, tile, out, stage->out_at, 0, stage->out_channels, watch->out);
}

/* ---- one image ---------------------------------------------------------------------------------- */

static void run_tile(const qn_engine *engine, const qn_stage *stage, const qn_tile *tile, const uint8_t *in,
                     const qn_workspace *workspace, uint8_t *map) {
    int32_t halve = stage->pool ? 2 : 1;
    uint8_t *out = stage->pool ? workspace->before_pool : pixel(&stage->out, map, tile->row);
    if (tile->channels.begin == 0) fill_ring(&stage->out, map, tile->row / halve, tile->rows / halve);
    if (stage->is_stem)
        stem_tile(engine, stage, tile, in, workspace, out);
    else
        separable_tile(engine, stage, tile, in, workspace, out);
    watch_tile(engine, stage, tile, workspace, out);
    if (stage->pool) pool_tile(engine, stage, tile, out, map);
}

/* Some tiles and output channels of a stage. */
typedef struct {
    qn_range tiles, channels;
} qn_part;

static qn_tile tile_of(const qn_stage *stage, int32_t i, int32_t used, qn_range channels) {
    int32_t row = i * stage->tile_rows, rows = used - row < stage->tile_rows ? used - row : stage->tile_rows;
    return (qn_tile){row, rows, used, channels};
}

/* `in`: the image or the map before, `map` the one to fill. An odd last row and column that a pool drops are not
 * computed, except for a caller that asks for them. */
static void run_part(const qn_engine *engine, const qn_stage *stage, const uint8_t *in, const qn_workspace *workspace,
                     uint8_t *map, qn_part part) {
    int32_t used = stage->pool && !engine->watch.out ? stage->side / 2 * 2 : stage->side;
    for (int32_t i = part.tiles.begin; i < part.tiles.end; i++) {
        qn_tile tile = tile_of(stage, i, used, part.channels);
        run_tile(engine, stage, &tile, in, workspace, map);
    }
}

static void run_layer(const qn_engine *engine, int32_t i, const uint8_t *image, const qn_workspace *workspace) {
    const qn_stage *stage = &engine->stages[i];
    int32_t rows = engine->watch.out ? stage->side : stage->tiles * stage->tile_rows;
    qn_part all = {{0, (rows + stage->tile_rows - 1) / stage->tile_rows}, {0, stage->out.channels}};
    run_part(engine, stage, i == 0 ? image : workspace->map[(i - 1) & 1], workspace, workspace->map[i & 1], all);
}

/* Returns the last layer's map. */
static const uint8_t *run_layers(const qn_engine *engine, const uint8_t *image, const qn_workspace *workspace) {
    for (int32_t i = 0; i < engine->layers; i++) run_layer(engine, i, image, workspace);
    return workspace->map[(engine->layers - 1) & 1];
}

static void run_head(const qn_engine *engine, const uint8_t *map, const qn_workspace *workspace, int32_t *logits) {
    engine->kernels->sum(map, engine->last_pixels, engine->head.features, workspace->sums);
    engine->kernels->head(&engine->head, workspace->sums, workspace->narrow_sums, logits);
}

/* ---- many images -------------------------------------------------------------------------------- */

/* Items of work: whole rounds of images, one for each; then the images that are left, part by part. */
typedef struct {
    const qn_engine *engine;
    const uint8_t *images;
    size_t count, whole;
    int32_t *logits;
} qn_batch;

/* Item `at` of an image that the team shares, the first of which is item `first` of the batch; in the maps of
 * member 0. */
static void run_shared(const qn_engine *engine, const uint8_t *image, size_t first, size_t at,
                       const qn_workspace *workspace, int32_t *logits) {
    uint8_t *const *map = engine->workspaces[0].map;
    if (at + 1 == engine->items) {
        qn_team_wait(engine->team, first + at);
        run_head(engine, map[(engine->layers - 1) & 1], workspace, logits);
        return;
    }
    int32_t i = engine->layers - 1;
    while (engine->stages[i].first_item > at) i--;
    const qn_stage *stage = &engine->stages[i];
    int32_t part = (int32_t)(at - stage->first_item);
    qn_part mine = {
        part_of(stage->tiles, 1, part % stage->row_parts, stage->row_parts),
        part_of(stage->out.channels, engine->kernels->matrix_block, part / stage->row_parts, stage->channel_parts)};
    qn_team_wait(engine->team, first + stage->first_item); /* all of the stage before */
    run_part(engine, stage, i == 0 ? image : map[(i - 1) & 1], workspace, map[i & 1], mine);
}

static void run_member(void *context, int member) {
    const qn_batch *batch = context;
    const qn_engine *engine = batch->engine;
    const qn_workspace *workspace = &engine->workspaces[member];
    size_t image_bytes = (size_t)engine->image_side * (size_t)engine->image_side * (size_t)engine->image_channels;
    size_t total = batch->whole + (batch->count - batch->whole) * engine->items;
    for (size_t item; (item = qn_team_take(engine->team)) < total; qn_team_done(engine->team)) {
        size_t shared = item < batch->whole ? 0 : (item - batch->whole) / engine->items;
        size_t i = item < batch->whole ? item : batch->whole + shared;
        const uint8_t *image = batch->images + i * image_bytes;
        int32_t *logits = batch->logits + i * (size_t)engine->head.classes;
        size_t first = batch->whole + shared * engine->items;
        if (item < batch->whole)
            run_head(engine, run_layers(engine, image, workspace), workspace, logits);
        else
            run_shared(engine, image, first, item - first, workspace, logits);
    }
}

void qn_run(qn_engine *engine, const uint8_t *images, size_t count, int32_t *logits) {
    qn_batch batch = {engine, images, count, count - count % (size_t)engine->threads, logits};
    qn_team_run(engine->team, run_member, &batch);
}

int qn_trace_shape(const qn_engine *engine, int32_t layer, int32_t part, int32_t shape[3]) {
    if (layer < 0 || layer >= engine->layers || part < 0 || part > 2 || (layer == 0 && part == 0)) return QN_SHAPE;
    const qn_stage *stage = &engine->stages[part == 2 ? engine->layers - 1 : layer];
    shape[0] = shape[1] = part == 2 ? 1 : stage->side;
    shape[2] = part == 0 ? stage->in_channels : stage->out_channels;
    return QN_OK;
}

int qn_trace(qn_engine *engine, const uint8_t *image, int32_t layer, int32_t part, void *out) {
    const qn_workspace *workspace = &engine->workspaces[0];
    int32_t shape[3];
    if (qn_trace_shape(engine, layer, part, shape) != QN_OK) return QN_SHAPE;
    engine->watch = (qn_watch){layer, part, part == 2 ? NULL : out};
    const uint8_t *map = run_layers(engine, image, workspace);
    engine->watch.out = NULL;
    if (part != 2) return QN_OK;
    engine->kernels->sum(map, engine->last_pixels, engine->head.features, workspace->sums);
    memcpy(out, workspace->sums, (size_t)shape[2] * sizeof *workspace->sums);
    return QN_OK;
}

static void repeat_depthwise(const qn_engine *engine, int32_t i, const qn_workspace *workspace) {
    const qn_stage *stage = &engine->stages[i];
    int32_t used = stage->pool ? stage->side / 2 * 2 : stage->side;
    for (int32_t t = 0; t < stage->tiles; t++) {
        qn_tile tile = tile_of(stage, t, used, (qn_range){0, stage->out.channels});
        depthwise_tile(engine, stage, &tile, workspace->map[(i - 1) & 1], workspace);
    }
}

int qn_repeat(qn_engine *engine, const uint8_t *image, int32_t layer, int32_t part, uint64_t count, int32_t *logits) {
    const qn_workspace *workspace = &engine->workspaces[0];
    int32_t shape[3];
    if (qn_trace_shape(engine, layer, part, shape) != QN_OK) return QN_SHAPE;
    for (; count; count--)
        if (part == 0)
            repeat_depthwise(engine, layer, workspace);
        else if (part == 1)
            run_layer(engine, layer, image, workspace);
        else
            run_head(engine, workspace->map[(engine->layers - 1) & 1], workspace, logits);
    return QN_OK;
}

/* ---- opening ------------------------------------------------------------------------------------ */

size_t qn_memory(const void *file, size_t size, int threads) {
    qn_net net;
    size_t most = 0;
    if (threads < 1 || qn_read_to(file, size, &net, NULL, QN_READ_SHAPE) != QN_OK) return 0;
    for (int isa = QN_PORTABLE; isa <= QN_WASM; isa++) {
        const qn_kernels *kernels = qn_find_kernels(isa);
        size_t bytes = kernels ? qn_plan_bytes(&net, kernels, threads) : 0;
        most = bytes > most ? bytes : most;
    }
    return most;
}

int qn_open(qn_engine **engine, const void *file, size_t size, void *memory, size_t memory_size, int threads, int isa) {
    qn_engine plan;
    qn_net net;
    const qn_kernels *kernels = qn_find_kernels(isa & ~(QN_DENSE | QN_SPARSE));
    int error = qn_read_to(file, size, &net, NULL, QN_READ_HASHES);
    if (error != QN_OK) return error;
    size_t bytes = kernels && threads >= 1 ? qn_plan_bytes(&net, kernels, threads) : 0;
    if (bytes == 0 || memory_size < bytes || (uintptr_t)memory % QN_ALIGN != 0) {
        error = qn_check(file, size, NULL); /* what is wrong with the file comes first */
        return error != QN_OK ? error : kernels ? QN_MEMORY : QN_ISA;
    }
    int32_t sparse_below = isa & QN_DENSE ? 0 : isa & QN_SPARSE ? 1000 : kernels->sparse_below;
    error = qn_plan(&plan, &net, kernels, threads, sparse_below, memory);
    if (error != QN_OK) return error;
    *engine = memory;
    **engine = plan;
    return qn_team_start(plan.team, threads) ? QN_THREADS : QN_OK;
}

void qn_close(qn_engine *engine) { qn_team_stop(engine->team); }

const char *qn_isa_name(const qn_engine *engine) { return engine->kernels->name; }

int qn_is_sparse(const qn_engine *engine, int32_t layer) {
    return layer >= 0 && layer < engine->layers && engine->stages[layer].matrix.rows != NULL;
}

void qn_describe(const qn_engine *engine, qn_info *info) {
    info->side = (uint32_t)engine->image_side;
    info->channels = (uint32_t)engine->image_channels;
    info->classes = (uint32_t)engine->head.classes;
    info->layers = (uint32_t)engine->layers;
}

int qn_has(int isa) { return qn_find_kernels(isa) != NULL; }

uint64_t qn_peak(int isa, int32_t sums, uint64_t rounds) {
    const qn_kernels *kernels = qn_find_kernels(isa);
    return kernels ? kernels->peak(sums, rounds) : 0;
}
