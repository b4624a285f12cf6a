/* Memory: what the engine needs and where it lies. One function walks through the network twice, first to
 * count, then to place and pack; so the two never differ. */
#include <string.h>

#include "coding.h"
#include "engine.h"
#include "reading.h"

#include "small.h"

/* Of a tile. More pixels load the weights less often and reread fewer rows for the depthwise, until they push them
 * out of the first cache: one thread is 1-2% faster with 84 than with 28; with 112 where they have few channels,
 * a compressed quicknet is 5% faster with VNNI and 2% with AVX2 (Zen 5), a dense one neither faster nor slower. A team
 * wants as many tiles as parts first. */
enum { FEW_PIXELS = 28, MANY_PIXELS = 84, MOST_PIXELS = 112, FEW_CHANNELS = 128 };
/* For each thread: enough that they end together, few enough that taking them costs little. */
enum { PARTS_OF_ROWS = 4 };

typedef struct {
    uint8_t *base; /* NULL: only count */
    uint64_t used, packed; /* packed: of it, what the layers take: the workspaces come after it */
} arena;

static void *take(arena *memory, uint64_t bytes) {
    uint64_t at = memory->used;
    memory->used += (bytes + QN_ALIGN - 1) / QN_ALIGN * QN_ALIGN;
    return memory->base ? memory->base + at : NULL;
}

static qn_map describe_map(int32_t side, int32_t channels, int32_t ring, int32_t zero) {
    qn_map map = {side, qn_round_up(channels, QN_CHANNELS), ring, 0, zero};
    map.row_bytes = (side + 2 * ring) * map.channels;
    return map;
}

static uint64_t map_bytes(const qn_map *map) {
    return (uint64_t)map->row_bytes * (uint64_t)(map->side + 2 * map->ring) + QN_ALIGN;
}

static int32_t rows_of_tile(int32_t side, int32_t channels, int threads) {
    int32_t most = channels > FEW_CHANNELS ? MANY_PIXELS : MOST_PIXELS;
    int32_t few = (FEW_PIXELS + side - 1) / side, many = (most + side - 1) / side;
    int32_t rows = threads == 1 ? many : side / (PARTS_OF_ROWS * threads);
    rows = rows < few ? few : rows > many ? many : rows;
    return rows < side ? rows : side;
}

/* The sizes of a stage: from its layer, and the next one's pool and kernel (NULL: it is the last). */
static void describe_stage(qn_stage *stage, const qn_layer *layer, const qn_layer *next, int threads) {
    stage->is_stem = layer->is_stem;
    stage->pool = next && next->pool;
    stage->side = layer->side;
    stage->kernel = layer->kernel;
    stage->stride = layer->stride;
    stage->in_channels = layer->in_channels;
    stage->out_channels = layer->out_channels;
    int32_t rows = rows_of_tile(layer->side, layer->in_channels, threads);
    if (stage->pool) rows = qn_round_up(rows, 2);
    stage->tile_rows = rows;
    stage->tiles = ((stage->pool ? layer->side / 2 * 2 : layer->side) + rows - 1) / rows;
    stage->in = describe_map(layer->in_side, layer->in_channels, layer->kernel / 2, layer->in_zero);
    stage->out = describe_map(stage->pool ? layer->side / 2 : layer->side, layer->out_channels,
                              next ? next->kernel / 2 : 0, layer->zero);
}

/* Packs a pointwise sparse where so few blocks are left that it is faster, counting pixels that only fill up vectors;
 * 1000 per mille: wherever it fits. */
static int pack_sparse(qn_stage *stage, const qn_layer *layer, const qn_kernels *kernels, int32_t below) {
    int64_t pixels = stage->matrix.pixels, quads = (layer->in_channels + 3) / 4;
    int64_t most = quads * layer->out_channels;
    if (stage->is_stem || below == 0 || !kernels->pack_sparse) return 0;
    if (below < 1000) most = most * below / 1000 * pixels / qn_round_up((int32_t)pixels, kernels->sparse_pixels);
    return kernels->pack_sparse(&stage->matrix, layer, most);
}

static void place_matrix(arena *memory, qn_stage *stage, const qn_layer *layer, const qn_engine *engine) {
    const qn_kernels *kernels = engine->kernels;
    qn_matrix *m = &stage->matrix;
    int32_t rows = stage->is_stem ? layer->kernel : 1;
    int32_t row = stage->is_stem ? layer->kernel * layer->in_channels : layer->in_channels;
    int32_t steps = (row + 15) / 16, row_bytes = layer->in_side * layer->in_channels;
    m->steps = rows * steps;
    m->out_channels = stage->out.channels;
    m->sums = layer->sums;
    m->shift = layer->shift;
    m->zero = layer->zero;
    m->top = layer->top;
    m->pixels = stage->tile_rows * stage->side;
    uint64_t outs = (uint64_t)m->out_channels;
    int32_t *step_at = take(memory, (uint64_t)m->steps * sizeof *step_at);
    m->weight = take(memory, (uint64_t)m->steps * 16 * outs);
    m->bias = take(memory, outs * sizeof *m->bias);
    m->positive = take(memory, outs * sizeof *m->positive);
    m->negative = take(memory, outs * sizeof *m->negative);
    m->step_at = step_at;
    if (!memory->base) return;
    for (int32_t s = 0; s < m->steps; s++) step_at[s] = s / steps * row_bytes + s % steps * 16;
    if (!pack_sparse(stage, layer, kernels, engine->sparse_below)) kernels->pack_matrix(m, layer);
}

static void place_depthwise(arena *memory, qn_stage *stage, const qn_layer *layer, const qn_kernels *kernels) {
    qn_depthwise *d = &stage->depthwise;
    d->kernel = layer->kernel;
    d->channels = stage->in.channels;
    d->zero = layer->middle_zero;
    d->top = layer->middle_top;
    uint64_t channels = (uint64_t)d->channels;
    d->weight = take(memory, channels * (uint64_t)kernels->depthwise_bytes(layer->kernel));
    d->bias = take(memory, channels * sizeof *d->bias);
    d->multiplier = take(memory, channels * sizeof *d->multiplier);
    if (memory->base) kernels->pack_depthwise(d, layer);
}

/* A team shares a stage by rows where there are many tiles; else each part is some of the output channels of a
 * tile, and repeats its depthwise, which is 2-5% of such a stage. Returns the number of parts. */
static size_t share_stage(qn_stage *stage, const qn_kernels *kernels, int threads) {
    int32_t blocks = (stage->out.channels + kernels->matrix_block - 1) / kernels->matrix_block;
    int32_t many = PARTS_OF_ROWS * threads;
    stage->row_parts = stage->tiles < many ? stage->tiles : many;
    stage->channel_parts = stage->tiles >= many ? 1 : blocks < threads ? blocks : threads;
    return (size_t)stage->row_parts * (size_t)stage->channel_parts;
}

/* Pixels before a pool lie side by side, the others where the padded map wants them. */
static void place_offsets(arena *memory, qn_stage *stage) {
    int32_t pixels = stage->tile_rows * stage->side;
    stage->out_at = take(memory, (uint64_t)pixels * sizeof *stage->out_at);
    if (!memory->base) return;
    for (int32_t p = 0; p < pixels; p++) {
        int32_t row = p / stage->side, column = p % stage->side;
        stage->out_at[p] =
            stage->pool ? p * stage->out.channels : row * stage->out.row_bytes + column * stage->out.channels;
    }
}

static void place_head(arena *memory, qn_head *head, const qn_classifier *from) {
    head->features = qn_round_up(from->features, QN_CHANNELS);
    head->classes = from->classes;
    head->narrow = from->most <= INT16_MAX;
    head->weight = take(memory, (uint64_t)head->classes * (uint64_t)head->features * sizeof *head->weight);
    head->bias = take(memory, (uint64_t)head->classes * sizeof *head->bias);
    if (!memory->base) return;
    for (int32_t k = 0; k < head->classes; k++) {
        const uint8_t *row = from->weight + 2 * (size_t)k * (size_t)from->features;
        int16_t *to = head->weight + (size_t)k * (size_t)head->features;
        for (int32_t c = 0; c < head->features; c++) to[c] = c < from->features ? qn_i16(row + 2 * (size_t)c) : 0;
        head->bias[k] = qn_i32(from->bias + 4 * (size_t)k);
    }
}

/* The largest of what the stages need at a time, in bytes. */
typedef struct {
    uint64_t map, tile, before_pool, scratch;
} needs;

static void raise_to(uint64_t *largest, uint64_t bytes) { *largest = bytes > *largest ? bytes : *largest; }

static void add_needs(needs *all, const qn_stage *stage, const qn_kernels *kernels) {
    uint64_t pixels = (uint64_t)stage->tile_rows * (uint64_t)stage->side;
    uint64_t image_rows = (uint64_t)((stage->tile_rows - 1) * stage->stride + stage->kernel);
    uint64_t tile = stage->is_stem ? image_rows * (uint64_t)(stage->in.side * stage->in_channels)
                                   : pixels * (uint64_t)stage->in.channels;
    raise_to(&all->map, map_bytes(&stage->out));
    raise_to(&all->tile, tile + QN_ALIGN);
    if (stage->pool) raise_to(&all->before_pool, pixels * (uint64_t)stage->out.channels);
    raise_to(&all->scratch, kernels->matrix_scratch(stage->matrix.steps, (int32_t)pixels));
    if (!stage->is_stem && kernels->sparse_scratch)
        raise_to(&all->scratch, kernels->sparse_scratch(stage->in.channels, (int32_t)pixels));
}

static void place_workspaces(arena *memory, qn_engine *engine, const needs *all) {
    uint64_t features = (uint64_t)engine->head.features;
    engine->workspaces = take(memory, (uint64_t)engine->threads * sizeof *engine->workspaces);
    for (int32_t i = 0; i < engine->threads; i++) {
        qn_workspace space;
        space.map[0] = take(memory, all->map);
        space.map[1] = take(memory, all->map);
        space.tile = take(memory, all->tile);
        space.before_pool = take(memory, all->before_pool);
        space.scratch = take(memory, all->scratch);
        space.sums = take(memory, features * sizeof *space.sums);
        space.narrow_sums = take(memory, features * sizeof *space.narrow_sums);
        if (memory->base) engine->workspaces[i] = space;
    }
}

/* Stage i, of a layer whose arrays are there where there is memory to pack them into. */
static void place_stage(arena *memory, qn_engine *engine, int32_t i, const qn_layer *layer, const qn_layer *next,
                        needs *all) {
    qn_stage stage = {0};
    describe_stage(&stage, layer, next, engine->threads);
    stage.first_item = engine->items;
    engine->items += share_stage(&stage, engine->kernels, engine->threads);
    place_matrix(memory, &stage, layer, engine);
    if (!stage.is_stem) place_depthwise(memory, &stage, layer, engine->kernels);
    place_offsets(memory, &stage);
    add_needs(all, &stage, engine->kernels);
    engine->last_pixels = stage.side * stage.side;
    if (memory->base) engine->stages[i] = stage;
}

/* What decoding a network takes: a decoder, and a layer. */
static uint64_t decoding_bytes(const qn_net *net) {
    return net->code ? (sizeof(qn_decoder) + net->largest_bytes + QN_ALIGN - 1) / QN_ALIGN * QN_ALIGN : 0;
}

/* One layer's arrays at a time: each is checked and packed before the next is taken. Decoding takes the memory of the
 * workspaces, before there is anything in them. */
static int place_layers(arena *memory, qn_engine *engine, const qn_net *net, needs *all) {
    qn_numbers numbers = {0};
    qn_classifier classifier = net->classifier;
    qn_layer layer, next;
    qn_decoder *decoder = memory->base ? (qn_decoder *)(void *)(memory->base + memory->packed) : NULL;
    int error = qn_read_layer(net, 0, NULL, &next);
    if (error == QN_OK && decoder) error = qn_begin_numbers(&numbers, net, decoder, (uint8_t *)(decoder + 1));
    for (int32_t i = 0; error == QN_OK && i < net->layers; i++) {
        int last = i + 1 == net->layers;
        layer = next;
        if (!last) error = qn_read_layer(net, i + 1, &layer, &next);
        if (error == QN_OK && memory->base) error = qn_take_layer(&numbers, &layer);
        if (error == QN_OK) place_stage(memory, engine, i, &layer, last ? NULL : &next, all);
    }
    if (error == QN_OK && memory->base) error = qn_take_classifier(&numbers, &classifier);
    if (error != QN_OK) return error;
    engine->items++; /* the head */
    place_head(memory, &engine->head, &classifier);
    memory->packed = memory->used;
    return QN_OK;
}

static int place(arena *memory, qn_engine *engine, const qn_net *net, const qn_kernels *kernels, int threads,
                 int32_t sparse_below) {
    needs need = {0, 0, 0, 0};
    memset(engine, 0, sizeof *engine);
    engine->sparse_below = sparse_below;
    engine->kernels = kernels;
    engine->threads = threads;
    engine->layers = net->layers;
    engine->image_side = net->side;
    engine->image_channels = net->channels;
    take(memory, sizeof *engine);
    engine->team = take(memory, qn_team_bytes(threads));
    engine->stages = take(memory, (uint64_t)net->layers * sizeof *engine->stages);
    int error = place_layers(memory, engine, net, &need);
    if (error == QN_OK) place_workspaces(memory, engine, &need);
    if (memory->used < memory->packed + decoding_bytes(net)) memory->used = memory->packed + decoding_bytes(net);
    return error;
}

size_t qn_plan_bytes(const qn_net *net, const qn_kernels *kernels, int threads) {
    qn_engine engine;
    arena counted = {NULL, 0, 0};
    if (place(&counted, &engine, net, kernels, threads, 0) != QN_OK) return 0;
    return counted.used <= SIZE_MAX ? (size_t)counted.used : 0;
}

int qn_plan(qn_engine *engine, const qn_net *net, const qn_kernels *kernels, int threads, int32_t sparse_below,
            uint8_t *memory) {
    arena all = {NULL, 0, 0};
    int error = place(&all, engine, net, kernels, threads, sparse_below);
    all.base = memory;
    all.used = 0;
    return error == QN_OK ? place(&all, engine, net, kernels, threads, sparse_below) : error;
}
