/* Pillow's scaling (src/libImaging/Resample.c, Geometry.c) and preprocess.py's own without antialias, a row at a time:
 * a row is read in the spec's colour mode, scaled across, and kept for as long as the rows below need it. So the
 * memory is a few rows, whatever the picture's size.
 *
 * The weights are Pillow's: computed in double, divided by their sum, rounded to 22 bits. Sums are shifted back and
 * clipped after each direction. */
#include "resize.h"
#include "colour.h"
#include <string.h>

#include "small.h"

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF /* GCC with -std=c11 does not contract anyway, and does not know the pragma */
#endif

enum { BITS = 32 - 8 - 2, MOST_TAPS = 6 };

/* ---- the filters ---------------------------------------------------------------------------- */

/* A sum of two doubles: 106 bits (Dekker 1971, "A floating-point technique for extending the available precision"). */
typedef struct {
    double high, low;
} pair;

static pair sum_of(double a, double b) {
    double high = a + b, part = high - a;
    return (pair){high, (a - (high - part)) + (b - part)};
}

static pair product_of(double a, double b) {
    const double split = 134217729; /* 2^27 + 1 */
    double high = a * b, x = split * a, y = split * b, a1 = x - (x - a), b1 = y - (y - b), a2 = a - a1, b2 = b - b1;
    return (pair){high, ((a1 * b1 - high) + a1 * b2 + a2 * b1) + a2 * b2};
}

static pair add(pair a, pair b) {
    pair s = sum_of(a.high, b.high);
    return sum_of(s.high, s.low + a.low + b.low);
}

static pair multiply(pair a, pair b) {
    pair p = product_of(a.high, b.high);
    return sum_of(p.high, p.low + (a.high * b.low + a.low * b.high));
}

static pair divide(pair a, double by) {
    double quotient = a.high / by;
    pair p = product_of(quotient, by);
    return sum_of(quotient, ((a.high - p.high) - p.low + a.low) / by);
}

/* sin(y) for 0 <= y < 10, rounded from 100 bits: Taylor's series after n pi is taken away. C libraries round nearly all
 * values so; fdlibm's polynomial, which is right to an ulp, decided other ties in sums without antialias. */
static double sine(double y) {
    const pair pi = {3.14159265358979311600, 1.22464679914735320717e-16};
    int32_t n = (int32_t)(y / pi.high + 0.5);
    pair x = add((pair){y, 0}, multiply(pi, (pair){-n, 0})), square = multiply(x, x), term = x, sum = x;
    for (int32_t k = 2; k < 40 && (term.high > 1e-40 || term.high < -1e-40); k += 2) {
        term = divide(multiply(term, square), -(double)k * (k + 1));
        sum = add(sum, term);
    }
    return n & 1 ? -sum.high : sum.high;
}

static double sinc(double x) {
    double y = x * 3.14159265358979323846;
    return x == 0 ? 1.0 : sine(y) / y;
}

static int32_t support_of(int32_t filter) { return filter == QN_BILINEAR ? 1 : filter == QN_BICUBIC ? 2 : 3; }

/* Resample.c's functions, in their own order of operations. */
static double weight_of(int32_t filter, double x) {
    const double a = -0.5;
    if (x < 0) x = -x;
    if (filter == QN_BILINEAR) return x < 1.0 ? 1.0 - x : 0.0;
    if (filter == QN_LANCZOS) return x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0;
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    return x < 2.0 ? (((x - 5) * x + 8) * x - 4) * a : 0.0;
}

/* ---- how one direction is scaled ------------------------------------------------------------ */

typedef struct {
    int32_t from, to, filter, taps; /* old and new length; the most old pixels in one new one */
    double scale, support, stretch;
} direction;

/* precompute_coeffs: the box is kept in float there, which matters beyond 2^24 pixels. */
static direction direction_of(int32_t from, int32_t to, int32_t filter) {
    direction d = {.from = from, .to = to, .filter = filter};
    d.scale = (double)(float)from / to;
    d.stretch = d.scale < 1.0 ? 1.0 : d.scale;
    d.support = support_of(filter) * d.stretch;
    int32_t whole = (int32_t)d.support;
    d.taps = (whole + (whole < d.support)) * 2 + 1;
    return d;
}

/* The weights of new pixel i. Returns how many; the first is old pixel *first's. */
static int32_t weights(const direction *d, int32_t i, int32_t *first, double *exact, int32_t *rounded) {
    double center = (i + 0.5) * d->scale, inverse = 1.0 / d->stretch, sum = 0;
    int32_t low = (int32_t)(center - d->support + 0.5), high = (int32_t)(center + d->support + 0.5);
    if (low < 0) low = 0;
    if (high > d->from) high = d->from;
    for (int32_t k = 0; k < high - low; k++) {
        exact[k] = weight_of(d->filter, (k + low - center + 0.5) * inverse);
        sum += exact[k];
    }
    for (int32_t k = 0; k < high - low; k++) {
        double w = (sum != 0.0 ? exact[k] / sum : exact[k]) * (1 << BITS);
        rounded[k] = (int32_t)(w < 0 ? w - 0.5 : w + 0.5);
    }
    *first = low;
    return high - low;
}

static uint8_t clipped(int32_t sum) {
    int32_t value = sum >> BITS;
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

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

typedef struct {
    direction x, y;
    double *exact;
    int32_t *first, *count, *across, *down, *sums;
    uint8_t *line, *ring;
} resampling;

static resampling lay_out(const task *t, arena *memory) {
    resampling r = {.x = direction_of(t->width, t->out_width, t->filter),
                    .y = direction_of(t->height, t->out_height, t->filter)};
    size_t width = (size_t)t->out_width, row = width * (size_t)t->channels, taps_y = (size_t)r.y.taps;
    r.exact = take(memory, (size_t)(r.x.taps > r.y.taps ? r.x.taps : r.y.taps), sizeof(double));
    r.first = take(memory, width, sizeof(int32_t));
    r.count = take(memory, width, sizeof(int32_t));
    r.across = take(memory, width * (size_t)r.x.taps, sizeof(int32_t));
    r.down = take(memory, taps_y, sizeof(int32_t));
    r.sums = take(memory, row, sizeof(int32_t));
    r.line = take(memory, (size_t)t->width * (size_t)t->channels, 1);
    r.ring = take(memory, row * taps_y, 1);
    return r;
}

static inline void across(const resampling *r, const int channels, uint8_t *out) {
    const int32_t *w = r->across;
    for (int32_t x = 0; x < r->x.to; x++, w += r->x.taps, out += channels) {
        const uint8_t *in = r->line + (size_t)r->first[x] * (size_t)channels;
        int32_t sum[4] = {1 << (BITS - 1), 1 << (BITS - 1), 1 << (BITS - 1), 1 << (BITS - 1)};
        for (int32_t k = 0; k < r->count[x]; k++, in += channels)
            for (int c = 0; c < channels; c++) sum[c] += in[c] * w[k];
        for (int c = 0; c < channels; c++) out[c] = clipped(sum[c]);
    }
}

/* Row y of the crop, scaled across. */
static void scaled_row(const task *t, const resampling *r, int32_t y, uint8_t *out) {
    if (t->width == t->out_width) {
        qn_read_row(&t->rows, y, out);
        return;
    }
    qn_read_row(&t->rows, y, r->line);
    if (t->channels == 1) across(r, 1, out);
    if (t->channels == 3) across(r, 3, out);
    if (t->channels == 4) across(r, 4, out);
}

static void resample(const task *t, arena *memory) {
    const resampling r = lay_out(t, memory);
    const size_t row = (size_t)t->out_width * (size_t)t->channels;
    if (!memory->at) return;
    for (int32_t x = 0; x < t->out_width && t->width != t->out_width; x++)
        r.count[x] = weights(&r.x, x, &r.first[x], r.exact, r.across + (size_t)x * (size_t)r.x.taps);
    for (int32_t y = 0, next = 0; y < t->out_height; y++) {
        uint8_t *out = t->out + (size_t)y * t->out_stride;
        if (t->height == t->out_height) {
            scaled_row(t, &r, y, out);
            continue;
        }
        int32_t first, count = weights(&r.y, y, &first, r.exact, r.down);
        if (next < first) next = first;
        for (; next < first + count; next++) scaled_row(t, &r, next, r.ring + (size_t)(next % r.y.taps) * row);
        for (size_t i = 0; i < row; i++) r.sums[i] = 1 << (BITS - 1);
        for (int32_t k = 0; k < count; k++) {
            const uint8_t *in = r.ring + (size_t)((first + k) % r.y.taps) * row;
            for (size_t i = 0; i < row; i++) r.sums[i] += in[i] * r.down[k];
        }
        for (size_t i = 0; i < row; i++) out[i] = clipped(r.sums[i]);
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

/* _taps: old pixels, repeated at the edges, and weights of new pixel i. */
static int32_t points(const direction *d, int32_t i, int32_t *at, double *weight) {
    const int32_t support = support_of(d->filter), taps = 2 * support;
    double centre = (i + 0.5) * ((double)d->from / d->to) - 0.5, sum = 0;
    int32_t whole = (int32_t)centre - (centre < (int32_t)centre);
    for (int32_t k = 0; k < taps; k++) {
        int32_t index = whole + k + 1 - support;
        double x = centre - index;
        if (x < 0) x = -x;
        weight[k] = d->filter == QN_BILINEAR  ? 1 - x
                    : d->filter == QN_LANCZOS ? sinc(x) * sinc(x / 3)
                    : x < 1                   ? (1.5 * x - 2.5) * x * x + 1
                                              : ((-0.5 * x + 2.5) * x - 4) * x + 2;
        at[k] = index < 0 ? 0 : index >= d->from ? d->from - 1 : index;
        sum += weight[k];
    }
    for (int32_t k = 0; k < taps; k++) weight[k] /= sum;
    return taps;
}

/* To the nearest integer, halves to the even one; 0 <= value < 2^31. */
static int32_t nearest_integer(double value) {
    int32_t whole = (int32_t)value;
    double rest = value - whole;
    return whole + (rest > 0.5 || (rest == 0.5 && (whole & 1)));
}

static void sample(const task *t, arena *memory) {
    const direction across = direction_of(t->width, t->out_width, t->filter);
    const direction down = direction_of(t->height, t->out_height, t->filter);
    const size_t channels = (size_t)t->channels, line = (size_t)t->width * channels;
    int32_t *at = take(memory, (size_t)t->out_width * MOST_TAPS, sizeof(int32_t)), rows[MOST_TAPS], taps = 0;
    double *weight = take(memory, (size_t)t->out_width * MOST_TAPS, sizeof(double)), row_weight[MOST_TAPS];
    uint8_t *lines = take(memory, line, MOST_TAPS);
    if (!memory->at) return;
    for (int32_t x = 0; x < t->out_width; x++) taps = points(&across, x, at + x * MOST_TAPS, weight + x * MOST_TAPS);
    for (int32_t y = 0; y < t->out_height; y++) {
        uint8_t *out = t->out + (size_t)y * t->out_stride;
        points(&down, y, rows, row_weight);
        for (int32_t k = 0; k < taps; k++) qn_read_row(&t->rows, rows[k], lines + (size_t)k * line);
        for (size_t i = 0; i < (size_t)t->out_width * channels; i++) {
            const size_t x = i / channels * MOST_TAPS;
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
           (p->channels == 1 || p->channels == 3 || p->channels == 4) && s->size >= 1 && s->size <= QN_MOST_SIDE &&
           (s->channels == 1 || s->channels == 3 || s->channels == 4) && s->resize >= QN_SHORTER &&
           s->resize <= QN_PAD && s->filter >= QN_NEAREST && s->filter <= QN_LANCZOS && s->fill >= 0 && s->fill <= 255;
}

size_t qn_prepare_memory(const qn_picture *picture, const qn_spec *spec) {
    arena counted = {0};
    if (!valid(picture, spec)) return 0;
    task t = task_of(picture, spec, NULL);
    scale(&t, &counted);
    return counted.used;
}

int qn_prepare(const qn_picture *picture, const qn_spec *spec, void *memory, size_t memory_size, uint8_t *out) {
    arena given = {memory, 0};
    if (!valid(picture, spec)) return 1;
    if (!memory || memory_size < qn_prepare_memory(picture, spec)) return 2;
    const size_t bytes = (size_t)spec->size * (size_t)spec->size * (size_t)spec->channels;
    for (size_t i = 0; spec->resize == QN_PAD && i < bytes; i++)
        out[i] = spec->channels == 4 && i % 4 == 3 ? 255 : (uint8_t)spec->fill;
    task t = task_of(picture, spec, out);
    scale(&t, &given);
    return 0;
}
