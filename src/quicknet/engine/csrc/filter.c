/* The filters of Pillow's scaling (src/libImaging/Resample.c) and of preprocess.py's own without antialias: how much of
 * which old pixels a new one has.
 *
 * The weights are Pillow's: computed in double, divided by their sum, rounded to 22 bits. */
#include "scaling.h"

#include "small.h"

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF /* GCC with -std=c11 does not contract anyway, and does not know the pragma */
#endif

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

/* sinc(x) * sinc(x / 3) for 0 <= x < 3 to some 1e-15, 50 times as fast: with s = sin(pi x / 3), which a Taylor series
 * gives up to pi / 2, sin(pi x) = 3 s - 4 s^3. */
static double quick_lanczos(double x) {
    double y = x * (3.14159265358979323846 / 3), around = x > 1.5 ? 3.14159265358979323846 - y : y, s = 1;
    for (int32_t k = 20; k > 0; k -= 2) s = 1 - s * around * around / (k * (k + 1));
    s *= around;
    return x == 0 ? 1.0 : s * (3 - 4 * s * s) * s / (3 * y * y);
}

/* Resample.c's functions of x >= 0, in their own order of operations. */
static double weight_of(int32_t filter, double x) {
    const double a = -0.5;
    if (filter == QN_BILINEAR) return x < 1.0 ? 1.0 - x : 0.0;
    if (filter == QN_LANCZOS) return x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0;
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    return x < 2.0 ? (((x - 5) * x + 8) * x - 4) * a : 0.0;
}

/* precompute_coeffs: the box is kept in float there, which matters beyond 2^24 pixels. */
qn_direction qn_direction_of(int32_t from, int32_t to, int32_t filter) {
    qn_direction d = {.from = from, .to = to, .filter = filter};
    d.scale = (double)(float)from / to;
    d.stretch = d.scale < 1.0 ? 1.0 : d.scale;
    d.support = support_of(filter) * d.stretch;
    int32_t whole = (int32_t)d.support;
    d.taps = (whole + (whole < d.support)) * 2 + 1;
    if (d.taps > from) d.taps = from;
    return d;
}

/* Weights first..first + count - 1 of the new pixel whose centre is `center`. Returns whether, computed by
 * quick_lanczos, they are so far from halves that they are rounded as Pillow's are: all but one in a million. */
static int rounded_weights(const qn_direction *d, double center, int32_t first, int32_t count, int quick, double *exact,
                           int32_t *rounded) {
    double inverse = 1.0 / d->stretch, sum = 0;
    int sure = 1;
    for (int32_t k = 0; k < count; k++) {
        double x = (k + first - center + 0.5) * inverse;
        if (x < 0) x = -x;
        exact[k] = !quick ? weight_of(d->filter, x) : x < 3.0 ? quick_lanczos(x) : 0.0;
        sum += exact[k];
    }
    for (int32_t k = 0; k < count; k++) {
        double w = (sum != 0.0 ? exact[k] / sum : exact[k]) * (1 << QN_BITS);
        rounded[k] = (int32_t)(w < 0 ? w - 0.5 : w + 0.5);
        double rest = w - rounded[k];
        sure &= rest < 0.499999 && rest > -0.499999;
    }
    return sure;
}

int32_t qn_weights(const qn_direction *d, int32_t i, int32_t *first, double *exact, int32_t *rounded) {
    double center = (i + 0.5) * d->scale;
    int32_t low = (int32_t)(center - d->support + 0.5), high = (int32_t)(center + d->support + 0.5);
    if (low < 0) low = 0;
    if (high > d->from) high = d->from;
    int quick = d->filter == QN_LANCZOS;
    while (!rounded_weights(d, center, low, high - low, quick, exact, rounded) && quick) quick = 0;
    *first = low;
    return high - low;
}

/* _taps: old pixels, repeated at the edges, and weights of new pixel i. */
int32_t qn_points(const qn_direction *d, int32_t i, int32_t *at, double *weight) {
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
