/* Depthwise convolution for one vector width, included once for each; the includer defines V and the
 * operations below. Works on D_BYTES channels and one or two output columns at a time.
 *
 * Rows are taken in pairs: the bytes of two rows are interleaved, so that one multiply-and-add of
 * byte pairs (maddubs) does two taps of 8 channels in each 128-bit half; an interleaved column serves
 * both output columns. The last row goes in pairs of columns: with weights (w0, w1) (w2, 0) for the
 * first output column, (0, w0) (w1, w2) for the second. Sums wrap in 16 bits and end in range; packing
 * to bytes puts the interleaved halves back in order. k = 3: 7 products of 16 for 9 taps and 2 columns. */

#ifndef QN_INLINE
#if defined(__GNUC__)
#define QN_INLINE __attribute__((always_inline))
#define QN_NOINLINE __attribute__((noinline))
/* Without these GCC 12 computes all products before it adds the first, and an address for each, more than there are
 * registers: a depthwise took 10-20% longer. */
#define QN_IN_ORDER(v) __asm__("" : "+v"(v))
#define QN_OPAQUE(p) __asm__("" : "+r"(p))
#else
#define QN_INLINE
#define QN_NOINLINE
#define QN_IN_ORDER(v)
#define QN_OPAQUE(p)
#endif
/* Before a loop over registers, and before one that is better not copied. Clang, which does not know GCC's pragma,
 * left accumulators in memory: avx512vnni took twice as long. */
#if defined(__clang__)
#define QN_UNROLL _Pragma("clang loop unroll(full)")
#define QN_KEEP_LOOP _Pragma("clang loop unroll(disable)")
#elif defined(__GNUC__)
#define QN_UNROLL _Pragma("GCC unroll 8")
#define QN_KEEP_LOOP _Pragma("GCC unroll 1")
#else
#define QN_UNROLL
#define QN_KEEP_LOOP
#endif
#endif

/* Vectors of weights: a pair of each row pair's columns, then the last row's for either output column. */
#define D_ROW_VECTORS(k) ((k) / 2 * (k))
#define D_VECTORS(k) (D_ROW_VECTORS(k) + (k) + 1)

/* One tap of the last row: `columns` 0 or 1, pair i, its first or second. */
static inline int32_t D_NAME(last_row_tap)(int32_t kernel, int32_t column, int32_t i, int32_t second) {
    int32_t tap = 2 * i + second - column;
    return tap >= 0 && tap < kernel ? (kernel - 1) * kernel + tap : -1;
}

/* The two taps of vector v. */
static inline void D_NAME(taps)(int32_t kernel, int32_t v, int32_t tap[2]) {
    int32_t rows = D_ROW_VECTORS(kernel), pairs = (kernel + 1) / 2;
    for (int32_t second = 0; second < 2; second++) {
        if (v < rows)
            tap[second] = (v / kernel * 2 + second) * kernel + v % kernel;
        else
            tap[second] = D_NAME(last_row_tap)(kernel, (v - rows) / pairs, (v - rows) % pairs, second);
    }
}

/* D_BYTES channels from c: for each vector its low and its high half, as interleaving gives them. */
static void D_NAME(pack_chunk)(const qn_depthwise *to, const qn_layer *layer, int32_t c) {
    int8_t *w = to->weight + (size_t)(c * D_VECTORS(to->kernel) * 2);
    for (int32_t v = 0; v < D_VECTORS(to->kernel); v++) {
        int32_t tap[2];
        D_NAME(taps)(to->kernel, v, tap);
        for (int32_t i = 0; i < D_BYTES; i++) {
            int32_t half = i / (D_BYTES / 2), e = i % (D_BYTES / 2);
            int32_t channel = c + e / 8 * 16 + half * 8 + e % 8;
            for (int32_t second = 0; second < 2; second++)
                *w++ = channel < layer->in_channels && tap[second] >= 0
                           ? layer->depthwise[(size_t)tap[second] * (size_t)layer->in_channels + (size_t)channel]
                           : 0;
        }
    }
    for (int32_t i = 0; i < D_BYTES; i++) {
        int32_t half = i / (D_BYTES / 2), e = i % (D_BYTES / 2), sum = 0;
        int32_t channel = c + e / 8 * 16 + half * 8 + e % 8;
        int32_t in_layer = channel < layer->in_channels;
        for (int32_t t = 0; in_layer && t < to->kernel * to->kernel; t++)
            sum += layer->depthwise[(size_t)t * (size_t)layer->in_channels + (size_t)channel];
        to->bias[c + i] = (int16_t)(-layer->in_zero * sum);
        to->multiplier[c + i] = in_layer ? qn_i16(layer->multiplier + 2 * (size_t)channel) : 0;
    }
}

/* What the loops over pixels keep in registers, as far as there are that many. */
typedef struct {
    V weight[2 * D_VECTORS(5)], bias[2], multiplier[2], zero, top;
} D_NAME(numbers);

static inline QN_INLINE D_NAME(numbers) D_NAME(load_numbers)(const qn_depthwise *d, int32_t c, const int kernel) {
    const int8_t *w = d->weight + (size_t)(c * 2 * D_VECTORS(kernel));
    D_NAME(numbers) n;
    for (int v = 0; v < 2 * D_VECTORS(kernel); v++) n.weight[v] = D_LOAD(w + v * D_BYTES);
    for (int half = 0; half < 2; half++) {
        n.bias[half] = D_LOAD(d->bias + c + half * D_BYTES / 2);
        n.multiplier[half] = D_LOAD(d->multiplier + c + half * D_BYTES / 2);
    }
    n.zero = D_SET16((int16_t)d->zero);
    n.top = D_SET8((char)d->top);
    return n;
}

/* The taps in (a, b) onto the low and high half of an output column's sums, by the weights of vector v. */
static inline QN_INLINE void D_NAME(add)(V sums[2], V low, V high, const D_NAME(numbers) * n, int v) {
    sums[0] = D_ADD(sums[0], D_MADDUBS(low, n->weight[2 * v]));
    sums[1] = D_ADD(sums[1], D_MADDUBS(high, n->weight[2 * v + 1]));
    QN_IN_ORDER(sums[0]);
    QN_IN_ORDER(sums[1]);
}

static inline QN_INLINE V D_NAME(requantized)(const D_NAME(numbers) * n, const V sums[2]) {
    V low = D_ADDS(D_MULHRS(sums[0], n->multiplier[0]), n->zero);
    V high = D_ADDS(D_MULHRS(sums[1], n->multiplier[1]), n->zero);
    return D_MIN(D_PACK(low, high), n->top);
}

/* `columns` output pixels of D_BYTES channels; `in`: the window's first pixel. */
static inline QN_INLINE void D_NAME(pixels)(const D_NAME(numbers) * n, const uint8_t *in, size_t row_stride,
                                            size_t stride, uint8_t *out, const int kernel, const int columns) {
    const int last = kernel + columns - 2; /* column */
    V sums[2][2] = {{n->bias[0], n->bias[1]}, {n->bias[0], n->bias[1]}};
    QN_UNROLL
    for (int r = 0; r < kernel / 2; r++) {
        const uint8_t *next = in + row_stride;
        QN_OPAQUE(next);
        QN_UNROLL
        for (int x = 0; x <= last; x++) {
            V a = D_LOAD(in + (size_t)x * stride), b = D_LOAD(next + (size_t)x * stride);
            V low = D_LOW(a, b), high = D_HIGH(a, b);
            if (x < kernel) D_NAME(add)(sums[0], low, high, n, r * kernel + x);
            if (columns == 2 && x > 0) D_NAME(add)(sums[1], low, high, n, r * kernel + x - 1);
        }
        in = next + row_stride;
        QN_OPAQUE(in);
    }
    QN_UNROLL
    for (int i = 0; i < (kernel + 1) / 2; i++) {
        int x = 2 * i + 1 <= last ? 2 * i + 1 : last; /* past the last column its weight is 0 */
        V a = D_LOAD(in + (size_t)(2 * i) * stride), b = D_LOAD(in + (size_t)x * stride);
        V low = D_LOW(a, b), high = D_HIGH(a, b);
        D_NAME(add)(sums[0], low, high, n, D_ROW_VECTORS(kernel) + i);
        if (columns == 2) D_NAME(add)(sums[1], low, high, n, D_ROW_VECTORS(kernel) + (kernel + 1) / 2 + i);
    }
    for (int i = 0; i < columns; i++) D_STORE(out + (size_t)i * stride, D_NAME(requantized)(n, sums[i]));
}

/* All pixels of D_BYTES channels from channel c; size: rows and columns. */
static inline QN_INLINE void D_NAME(chunk)(const qn_depthwise *d, const uint8_t *in, size_t row_stride,
                                           const int32_t size[2], int32_t c, uint8_t *out, const int kernel) {
    const size_t stride = (size_t)d->channels;
    const D_NAME(numbers) n = D_NAME(load_numbers)(d, c, kernel);
    in += c;
    out += c;
    for (int32_t y = 0; y < size[0]; y++, in += row_stride) {
        int32_t x = 0;
        for (; x + 2 <= size[1]; x += 2, out += 2 * stride)
            D_NAME(pixels)(&n, in + (size_t)x * stride, row_stride, stride, out, kernel, 2);
        if (x < size[1]) {
            D_NAME(pixels)(&n, in + (size_t)x * stride, row_stride, stride, out, kernel, 1);
            out += stride;
        }
    }
}

#undef D_NAME
#undef D_BYTES
#undef D_ROW_VECTORS
#undef D_VECTORS
#undef V
#undef D_LOAD
#undef D_STORE
#undef D_ADD
#undef D_ADDS
#undef D_MADDUBS
#undef D_MULHRS
#undef D_LOW
#undef D_HIGH
#undef D_PACK
#undef D_MIN
#undef D_SET8
#undef D_SET16
