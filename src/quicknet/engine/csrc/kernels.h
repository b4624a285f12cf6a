/* What an instruction set implements, and what it is given: the interface between engine.c, which
 * plans memory and walks through the layers, and portable.c, avx2.c, avx512vnni.c, ...
 *
 * Feature maps are u8 [y][x][channels], the channels filled up to a multiple of QN_CHANNELS; what
 * lies beyond a layer's own channels is computed from zero weights and meets zero weights. Every
 * array that engine.c hands over is aligned to QN_ALIGN, every map and tile may be read QN_ALIGN
 * bytes past its end. */
#ifndef QN_KERNELS_H
#define QN_KERNELS_H
#include <stddef.h>
#include <stdint.h>

#include "net.h"

#define QN_CHANNELS 32
#define QN_ALIGN 64

static inline int32_t qn_round_up(int32_t n, int32_t multiple) { return (n + multiple - 1) / multiple * multiple; }

/* A row of a sparse pointwise: an output channel's blocks, each a quad (four neighbouring input channels) and its four
 * weights. They lie in groups, first those of four blocks, then of two, then single ones:
 * int8 [blocks][4 weights], then uint16 [blocks] quads, each times what the kernels asked for. */
typedef struct {
    uint32_t at;                 /* of the first group in qn_matrix.weight */
    uint16_t fours, twos, ones;  /* groups */
} qn_row;

/* A stem or a pointwise: out[o] = requantize(bias[o] + sum over steps and 16 bytes of data * weight).
 * Step s of a pixel reads 16 bytes at the pixel's address + step_at[s]: FORMAT.md's blocks of 16. */
typedef struct {
    int32_t steps;
    const int32_t *step_at;      /* [steps] */
    int32_t out_channels;        /* a multiple of QN_CHANNELS */
    int32_t sums, shift, zero, top;
    int8_t *weight;              /* [steps * 16 * out_channels], in the order of pack_matrix or pack_sparse */
    int32_t *bias;               /* [out_channels], so too */
    int16_t *positive, *negative;
    const qn_row *rows;          /* [out_channels], in `weight`; NULL where the matrix is dense */
    int32_t pixels;              /* of a span, at most */
} qn_matrix;

/* The pixels that one call of a matrix kernel takes. */
typedef struct {
    int32_t pixels;
    const uint8_t *in;           /* of the first pixel */
    int32_t in_stride;           /* bytes from a pixel to the next */
    uint8_t *out;
    const int32_t *out_at;       /* [pixels]: pixel p's output channel 0 is at out + out_at[p] */
} qn_span;

/* A depthwise convolution with its requantization; k is 3 or 5. */
typedef struct {
    int32_t kernel, channels;    /* channels: a multiple of QN_CHANNELS */
    int32_t zero, top;           /* of the output */
    int8_t *weight;              /* [depthwise_bytes(k) for each channel], in the order of pack_depthwise */
    int16_t *bias;               /* [channels]: -z * sum of the weights; sums modulo 2^16 end in range */
    int16_t *multiplier;         /* [channels] */
} qn_depthwise;

typedef struct {
    int32_t features;            /* a multiple of QN_CHANNELS */
    int32_t classes;
    int32_t narrow;              /* the sums fit 16 bits */
    int16_t *weight;             /* [classes][features] */
    int32_t *bias;
} qn_head;

typedef struct qn_kernels {
    int32_t isa;                 /* QN_PORTABLE, ... */
    const char *name;

    /* Output channels that one pass of `matrix` computes: threads divide a layer at multiples of it. */
    int32_t matrix_block;
    /* Bytes of scratch that `matrix` wants for a span of so many pixels. */
    size_t (*matrix_scratch)(int32_t steps, int32_t pixels);
    /* Bytes of packed depthwise weights for one channel of a k x k kernel. */
    int32_t (*depthwise_bytes)(int32_t kernel);

    /* Fill what `to` points to from the layer's numbers. `to` has its sizes; the stem's rows of
     * kernel * in_channels weights are filled up with zeros to whole steps. */
    void (*pack_matrix)(const qn_matrix *to, const qn_layer *layer);
    void (*pack_depthwise)(const qn_depthwise *to, const qn_layer *layer);
    /* Instead of pack_matrix, for a pointwise of which at most `most` blocks are not all zero; returns 0 and leaves it
     * dense where there are more, or more than fit its place. */
    int (*pack_sparse)(qn_matrix *to, const qn_layer *layer, int64_t most);
    /* Per mille of the blocks, up to which `sparse` is faster than `matrix`, and the pixels of one of its vectors:
     * the last one costs as much as a full one. */
    int32_t sparse_below, sparse_pixels;
    /* Bytes of scratch that `sparse` wants for a span of so many pixels and input channels, filled up. */
    size_t (*sparse_scratch)(int32_t channels, int32_t pixels);

    /* Output channels first..last-1, multiples of matrix_block (last may be out_channels). */
    void (*matrix)(const qn_matrix *m, const qn_span *span, int32_t first, int32_t last, void *scratch);
    /* The same with rows; the span's pixels lie side by side. */
    void (*sparse)(const qn_matrix *m, const qn_span *span, int32_t first, int32_t last, void *scratch);
    /* rows x width output pixels, contiguous at `out`; `in` is the window's first pixel in the map with
     * its ring of padding, row_stride the bytes of one of its rows. */
    void (*depthwise)(const qn_depthwise *d, const uint8_t *in, int32_t row_stride, int32_t rows, int32_t width,
                      uint8_t *out);
    /* One row of a 2x2 max pool: out[x] = max of above and below at 2x and 2x+1; `stride` bytes from a pixel to the
     * next in all three, of which `channels` count. */
    void (*pool)(const uint8_t *above, const uint8_t *below, int32_t width, int32_t stride, int32_t channels,
                 uint8_t *out);
    /* sums[c] = sum of a map over its pixels, as it is. */
    void (*sum)(const uint8_t *map, int32_t pixels, int32_t channels, int32_t *sums);
    /* All logits; `scratch`: features int16. */
    void (*head)(const qn_head *h, const int32_t *sums, int16_t *scratch, int32_t *logits);
    /* The instruction mix of `matrix` with everything in registers, for a benchmark's ceiling: so many rounds;
     * returns the multiply-adds done. */
    uint64_t (*peak)(int32_t sums, uint64_t rounds);
} qn_kernels;

extern const qn_kernels qn_portable;
#if defined(__x86_64__) || defined(_M_X64)
extern const qn_kernels qn_avx2, qn_avx512vnni;
#elif defined(__aarch64__)
extern const qn_kernels qn_neon;
/* Compilers that know the dot product's intrinsics, be it for a single function. */
#if defined(__ARM_FEATURE_DOTPROD) || (defined(__GNUC__) && !defined(__clang__)) ||                                    \
    (defined(__clang_major__) && __clang_major__ >= 16)
#define QN_HAS_NEON_DOT
extern const qn_kernels qn_neon_dot;
#endif
#elif defined(__wasm_simd128__)
extern const qn_kernels qn_wasm;
#endif

/* The kernels of an instruction set (QN_BEST: the best of this CPU), or NULL: isa.c. */
const qn_kernels *qn_find_kernels(int isa);

#endif
