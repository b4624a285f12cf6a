/* What resize.c is made of: the weights of a direction (filter.c), and rows scaled across and down by the CPU's
 * instructions (plain ones in resize.c, resize_avx2.c). */
#ifndef QN_SCALING_H
#define QN_SCALING_H
#include "resize.h"

/* Weights are rounded to so many bits. The most old pixels in a new one without antialias. */
enum { QN_BITS = 32 - 8 - 2, QN_MOST_TAPS = 6 };
/* Weights of a pixel are filled up with zeros to a multiple of QN_TAPS; rows may be read QN_PAST bytes past their end,
 * and written up to a multiple of QN_PAST bytes. */
enum { QN_TAPS = 8, QN_PAST = 32 };

/* How one direction is scaled. */
typedef struct {
    int32_t from, to, filter, taps; /* old and new length; the most old pixels in one new one */
    double scale, support, stretch;
} qn_direction;

qn_direction qn_direction_of(int32_t from, int32_t to, int32_t filter);
/* The weights of new pixel i, exact and in QN_BITS bits. Returns how many; the first is old pixel *first's. */
int32_t qn_weights(const qn_direction *d, int32_t i, int32_t *first, double *exact, int32_t *rounded);
/* The same without antialias: old pixels, repeated at the edges, and weights. Returns how many. */
int32_t qn_points(const qn_direction *d, int32_t i, int32_t *at, double *weight);

/* A row that is scaled across. */
typedef struct {
    int32_t to, taps, pixel, channels; /* pixel: bytes from an old pixel to the next; channels: of the new ones */
    const int32_t *first, *count, *weights; /* [to], [to], [to][taps] as `pack` left them */
} qn_across;

typedef struct {
    /* Weights in the order that the other two want; `taps` a multiple of QN_TAPS, from `count` on zeros. */
    void (*pack)(int32_t *weights, int32_t taps);
    void (*across)(const qn_across *a, const uint8_t *in, uint8_t *out);
    /* The weighted sum of `count` rows of `bytes` bytes, to `out` without passing its end. */
    void (*down)(const uint8_t *const *rows, const int32_t *weights, int32_t count, size_t bytes, uint8_t *out);
} qn_scaling;

#if !defined(QN_PORTABLE_ONLY) && (defined(__x86_64__) || defined(_M_X64))
extern const qn_scaling qn_scaling_avx2; /* where qn_find_kernels(QN_AVX2) gives something */
#endif

#endif
