/* Pillow's scaling (src/libImaging/Resample.c, Geometry.c) and preprocess.py's own without antialias, a row at a time:
 * a row is read in the spec's colour mode, scaled across, and kept for as long as the rows below need it. So the
 * memory is a few rows, whatever the picture's size.
 *
 * Sums of weights (filter.c) are shifted back and clipped after each direction. */
#include "resize.h"
#include "colour.h"
#include "kernels.h"
#include "quicknet.h"
#include "scaling.h"
#include <string.h>

#include "small.h"

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF /* GCC with -std=c11 does not contract anyway, and does not know the pragma */
#endif

/* ---- memory --------------------------------------------------------------------------------- */

/* Gives parts of the caller's memory, or counts them where `at` is NULL. */
typedef struct {
    uint8_t *at;
    size_t used;
} arena;

static void *take(arena *from, size_t count, size_t each) {
    void *part = from->at ? from->at + from->used : NULL;
    from->used += (count * each + 7) / 8 * 8;
    return part;
}

/* A part of a picture that becomes a part of the output. */
typedef struct {
    qn_rows rows; /* of the crop, in the spec's colours */
    int32_t width, height, channels, filter, antialias;
    uint8_t *out;
    int32_t out_width, out_height;
    size_t out_stride;
} task;

/* ---- Pillow's resize ------------------------------------------------------------------------ */

static uint8_t clipped(int32_t sum) {
    int32_t value = sum >> QN_BITS;
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

static void plain_pack(int32_t *weights, int32_t taps) {
    (void)weights;
    (void)taps;
}

static inline void plain_row(const qn_across *a, const uint8_t *row, const int channels, uint8_t *out) {
    const int32_t *w = a->weights;
    for (int32_t x = 0; x < a->to; x++, w += a->taps, out += channels) {
        const uint8_t *in = row + (size_t)a->first[x] * (size_t)a->pixel;
        int32_t sum[4] = {1 << (QN_BITS - 1), 1 << (QN_BITS - 1), 1 << (QN_BITS - 1), 1 << (QN_BITS - 1)};
        for (int32_t k = 0; k < a->count[x]; k++, in += a->pixel)
            for (int c = 0; c < channels; c++) sum[c] += in[c] * w[k];
        for (int c = 0; c < channels; c++) out[c] = clipped(sum[c]);
    }
}

static void plain_across(const qn_across *a, const uint8_t *in, uint8_t *out) {
    if (a->channels == 1) plain_row(a, in, 1, out);
    if (a->channels == 3) plain_row(a, in, 3, out);
    if (a->channels == 4) plain_row(a, in, 4, out);
}

static void plain_down(const uint8_t *const *rows, const int32_t *weights, int32_t count, size_t bytes, uint8_t *out) {
    enum { PART = 128 };
    int32_t sums[PART];
    for (size_t at = 0; at < bytes; at += PART) {
        const size_t part = bytes - at < PART ? bytes - at : PART;
        for (size_t i = 0; i < part; i++) sums[i] = 1 << (QN_BITS - 1);
        for (int32_t k = 0; k < count; k++)
            for (size_t i = 0; i < part; i++) sums[i] += rows[k][at + i] * weights[k];
        for (size_t i = 0; i < part; i++) out[at + i] = clipped(sums[i]);
    }
}

static const qn_scaling plain = {plain_pack, plain_across, plain_down};

static const qn_scaling *best_scaling(void) {
#if !defined(QN_PORTABLE_ONLY) && (defined(__x86_64__) || defined(_M_X64))
    if (qn_find_kernels(QN_AVX2)) return &qn_scaling_avx2;
#endif
    return &plain;
}

typedef struct {
    qn_direction x, y;
    const qn_scaling *by;
    qn_across across;
    double *exact;
    int32_t *first, *count, *weights, *down, taps_y;
    const uint8_t **rows;
    uint8_t *line, *ring;
    size_t ring_row;
} resampling;

static resampling lay_out(const task *t, arena *memory) {
    resampling r = {.x = qn_direction_of(t->width, t->out_width, t->filter),
                    .y = qn_direction_of(t->height, t->out_height, t->filter),
                    .by = best_scaling()};
    const size_t width = (size_t)t->out_width, channels = (size_t)t->channels;
    const int32_t taps = qn_round_up(r.x.taps, QN_TAPS), raw = qn_raw_pixel(&t->rows), pixel = raw ? raw : t->channels;
    r.taps_y = qn_round_up(r.y.taps, QN_TAPS);
    r.ring_row = (width * channels + QN_PAST) / QN_PAST * QN_PAST; /* at least a byte more: resize_avx2.c writes it */
    r.exact = take(memory, (size_t)(r.x.taps > r.y.taps ? r.x.taps : r.y.taps), sizeof(double));
    r.rows = take(memory, (size_t)r.y.taps, sizeof(void *));
    r.first = take(memory, width, sizeof(int32_t));
    r.count = take(memory, width, sizeof(int32_t));
    r.weights = take(memory, width * (size_t)taps, sizeof(int32_t));
    r.down = take(memory, (size_t)r.taps_y, sizeof(int32_t));
    r.line = take(memory, (size_t)t->width * (size_t)pixel + QN_PAST, 1);
    r.ring = take(memory, r.ring_row, (size_t)r.y.taps);
    r.across = (qn_across){t->out_width, taps, pixel, t->channels, r.first, r.count, r.weights};
    return r;
}

/* The weights of new pixel i, packed, and filled up with zeros. */
static int32_t packed_weights(const resampling *r, const qn_direction *d, int32_t i, int32_t *first, int32_t *weights) {
    const int32_t count = qn_weights(d, i, first, r->exact, weights), taps = qn_round_up(count, QN_TAPS);
    for (int32_t k = count; k < taps; k++) weights[k] = 0;
    r->by->pack(weights, taps);
    return count;
}

/* Row y of the crop, scaled across; `out` has room for ring_row bytes. */
static void scaled_row(const task *t, const resampling *r, int32_t y, uint8_t *out) {
    const uint8_t *in = r->line;
    const size_t bytes = (size_t)t->width * (size_t)r->across.pixel;
    size_t left;
    if (t->width == t->out_width) {
        qn_read_row(&t->rows, y, out);
        return;
    }
    if (!qn_raw_pixel(&t->rows)) {
        qn_read_row(&t->rows, y, r->line);
    } else {
        in = qn_raw_row(&t->rows, y, &left);
        if (left < bytes + QN_PAST) in = memcpy(r->line, in, bytes);
    }
    r->by->across(&r->across, in, out);
}

static void resample(const task *t, arena *memory) {
    const resampling r = lay_out(t, memory);
    const size_t row = (size_t)t->out_width * (size_t)t->channels;
    if (!memory->at) return;
    memset(r.line + (size_t)t->width * (size_t)r.across.pixel, 0, QN_PAST);
    for (int32_t x = 0; x < t->out_width && t->width != t->out_width; x++)
        r.count[x] = packed_weights(&r, &r.x, x, &r.first[x], r.weights + (size_t)x * (size_t)r.across.taps);
    for (int32_t y = 0, next = 0; y < t->out_height; y++) {
        uint8_t *out = t->out + (size_t)y * t->out_stride;
        if (t->height == t->out_height) {
            scaled_row(t, &r, y, r.ring);
            memcpy(out, r.ring, row);
            continue;
        }
        int32_t first, count = packed_weights(&r, &r.y, y, &first, r.down);
        if (next < first) next = first;
        for (; next < first + count; next++) scaled_row(t, &r, next, r.ring + (size_t)(next % r.y.taps) * r.ring_row);
        for (int32_t k = 0; k < count; k++) r.rows[k] = r.ring + (size_t)((first + k) % r.y.taps) * r.ring_row;
        r.by->down(r.rows, r.down, count, row, out);
    }
}

/* ImagingScaleAffine: positions are added up, and pixels past the end stay 0. */
static void nearest(const task *t, arena *memory) {
    const size_t channels = (size_t)t->channels;
    const double step_x = (double)(float)t->width / t->out_width, step_y = (double)(float)t->height / t->out_height;
    uint8_t *line = take(memory, (size_t)t->width, channels);
    if (!memory->at) return;
    double at_y = step_y * 0.5;
    for (int32_t y = 0; y < t->out_height; y++, at_y += step_y) {
        uint8_t *out = t->out + (size_t)y * t->out_stride;
        double at_x = step_x * 0.5;
        memset(out, 0, (size_t)t->out_width * channels);
        if ((int32_t)at_y >= t->height) continue;
        qn_read_row(&t->rows, (int32_t)at_y, line);
        for (int32_t x = 0; x < t->out_width; x++, at_x += step_x)
            for (size_t c = 0; (int32_t)at_x < t->width && c < channels; c++)
                out[(size_t)x * channels + c] = line[(size_t)(int32_t)at_x * channels + c];
    }
}

/* ---- without antialias: preprocess.py's _sample --------------------------------------------- */

/* To the nearest integer, halves to the even one; 0 <= value < 2^31. */
static int32_t nearest_integer(double value) {
    int32_t whole = (int32_t)value;
    double rest = value - whole;
    return whole + (rest > 0.5 || (rest == 0.5 && (whole & 1)));
}

static void sample(const task *t, arena *memory) {
    const qn_direction across = qn_direction_of(t->width, t->out_width, t->filter);
    const qn_direction down = qn_direction_of(t->height, t->out_height, t->filter);
    const size_t channels = (size_t)t->channels, line = (size_t)t->width * channels;
    int32_t *at = take(memory, (size_t)t->out_width * QN_MOST_TAPS, sizeof(int32_t)), rows[QN_MOST_TAPS], taps = 0;
    double *weight = take(memory, (size_t)t->out_width * QN_MOST_TAPS, sizeof(double)), row_weight[QN_MOST_TAPS];
    uint8_t *lines = take(memory, line, QN_MOST_TAPS);
    if (!memory->at) return;
    for (int32_t x = 0; x < t->out_width; x++)
        taps = qn_points(&across, x, at + x * QN_MOST_TAPS, weight + x * QN_MOST_TAPS);
    for (int32_t y = 0; y < t->out_height; y++) {
        uint8_t *out = t->out + (size_t)y * t->out_stride;
        qn_points(&down, y, rows, row_weight);
        for (int32_t k = 0; k < taps; k++) qn_read_row(&t->rows, rows[k], lines + (size_t)k * line);
        for (size_t i = 0; i < (size_t)t->out_width * channels; i++) {
            const size_t x = i / channels * QN_MOST_TAPS;
            double total = 0;
            for (int32_t r = 0; r < taps; r++)
                for (int32_t c = 0; c < taps; c++) {
                    const uint8_t *pixel = lines + (size_t)r * line + (size_t)at[x + (size_t)c] * channels;
                    total += pixel[i % channels] * (row_weight[r] * weight[x + (size_t)c]);
                }
            out[i] = (uint8_t)nearest_integer(total < 0 ? 0 : total > 255 ? 255 : total);
        }
    }
}

/* ---- the whole ------------------------------------------------------------------------------ */

static void scale(task *t, arena *memory) {
    const int same = t->width == t->out_width && t->height == t->out_height;
    const int shrinks = t->out_width < t->width || t->out_height < t->height;
    t->rows.premultiply = t->channels == 4 && t->filter != QN_NEAREST && !same;
    if (t->filter == QN_NEAREST)
        nearest(t, memory);
    else if (t->antialias || !shrinks)
        resample(t, memory);
    else
        sample(t, memory);
    for (int32_t y = 0; t->rows.premultiply && memory->at && y < t->out_height; y++)
        qn_unpremultiply(t->out + (size_t)y * t->out_stride, t->out_width);
}

/* preprocess.py's _resized. */
static task task_of(const qn_picture *p, const qn_spec *spec, uint8_t *out) {
    const int32_t size = spec->size, shorter = p->width < p->height ? p->width : p->height;
    const size_t channels = (size_t)spec->channels;
    task t = {.rows = {.picture = p, .channels = spec->channels},
              .width = p->width,
              .height = p->height,
              .channels = spec->channels,
              .filter = spec->filter,
              .antialias = spec->antialias,
              .out = out,
              .out_width = size,
              .out_height = size,
              .out_stride = (size_t)size * channels};
    if (spec->resize == QN_SHORTER) {
        t.rows.left = (p->width - shorter) / 2;
        t.rows.top = (p->height - shorter) / 2;
        t.width = t.height = shorter;
    }
    if (spec->resize == QN_PAD) {
        double scale = (double)size / (p->width > p->height ? p->width : p->height);
        int32_t width = nearest_integer(p->width * scale), height = nearest_integer(p->height * scale);
        t.out_width = width < 1 ? 1 : width;
        t.out_height = height < 1 ? 1 : height;
        if (out)
            t.out += (size_t)((size - t.out_height) / 2) * t.out_stride + (size_t)((size - t.out_width) / 2) * channels;
    }
    t.rows.width = t.width;
    return t;
}

static int valid(const qn_picture *p, const qn_spec *s) {
    return p->width >= 1 && p->height >= 1 && (int64_t)p->width * p->height <= QN_MOST_PIXELS &&
           (p->channels == 1 || p->channels == 3 || p->channels == 4 || p->channels == QN_RGBX) && s->size >= 1 &&
           s->size <= QN_MOST_SIDE && (s->channels == 1 || s->channels == 3 || s->channels == 4) &&
           s->resize >= QN_SHORTER && s->resize <= QN_PAD && s->filter >= QN_NEAREST && s->filter <= QN_LANCZOS &&
           s->fill >= 0 && s->fill <= 255;
}

/* Counts the memory where `memory` has none. */
static void prepare(const qn_picture *picture, const qn_spec *spec, arena *memory, uint8_t *out) {
    task t = task_of(picture, spec, out);
    scale(&t, memory);
}

size_t qn_prepare_memory(const qn_picture *picture, const qn_spec *spec) {
    arena counted = {0};
    if (valid(picture, spec)) prepare(picture, spec, &counted, NULL);
    return counted.used;
}

int qn_prepare(const qn_picture *picture, const qn_spec *spec, void *memory, size_t memory_size, uint8_t *out) {
    arena given = {memory, 0};
    const size_t needed = qn_prepare_memory(picture, spec);
    if (needed == 0) return 1;
    if (!memory || memory_size < needed) return 2;
    const size_t bytes = (size_t)spec->size * (size_t)spec->size * (size_t)spec->channels;
    for (size_t i = 0; spec->resize == QN_PAD && i < bytes; i++)
        out[i] = spec->channels == 4 && i % 4 == 3 ? 255 : (uint8_t)spec->fill;
    prepare(picture, spec, &given, out);
    return 0;
}
