/* Sparse pointwise layers by NEON: first what a tile goes through before and after; then, included once without and
 * once with the dot product, its rows. The includer defines N_NAME, N_TARGET, N_SUMS (registers of sums for 4 pixels),
 * N_GROUP and N_TOTAL. */
#ifndef N_INLINE
#define N_INLINE __attribute__((always_inline))

typedef struct {
    const uint8_t *quads;
    size_t stride;
    uint8_t *to;
    size_t to_stride;
} neon_rows;

static size_t quad_stride(int32_t pixels) { return (size_t)qn_round_up(pixels, 4) * 4; }

/* A pass over pixels writes 8 bytes at a time, which may pass its last 4 pixels; 16 are read at once. */
static size_t byte_stride(int32_t pixels) { return (size_t)qn_round_up(pixels + 4, 16); }

static size_t sparse_scratch(int32_t channels, int32_t pixels) {
    return quad_stride(pixels) * (size_t)(channels / 4) + byte_stride(pixels) * BLOCK;
}

/* The span's pixels, past its end the last one again, as quads of bytes less 128; and the place of the bytes. */
static neon_rows neon_begin(const qn_span *span, uint8_t *scratch) {
    const size_t stride = quad_stride(span->pixels);
    for (int32_t p = 0; p < span->pixels; p += 4) {
        const uint8_t *in[4];
        for (int i = 0; i < 4; i++) in[i] = span->in + (size_t)qn_pixel(span, p + i) * (size_t)span->in_stride;
        for (int32_t c = 0; c < span->in_stride; c += 16) {
            uint8_t *to = scratch + (size_t)(c / 4) * stride + 4 * p;
            int32x4_t a[4];
            for (int i = 0; i < 4; i++) a[i] = vreinterpretq_s32_s8(load_shifted(in[i] + c));
            int64x2_t even0 = vreinterpretq_s64_s32(vtrn1q_s32(a[0], a[1]));
            int64x2_t even1 = vreinterpretq_s64_s32(vtrn1q_s32(a[2], a[3]));
            int64x2_t odd0 = vreinterpretq_s64_s32(vtrn2q_s32(a[0], a[1]));
            int64x2_t odd1 = vreinterpretq_s64_s32(vtrn2q_s32(a[2], a[3]));
            vst1q_u8(to, vreinterpretq_u8_s64(vtrn1q_s64(even0, even1)));
            vst1q_u8(to + stride, vreinterpretq_u8_s64(vtrn1q_s64(odd0, odd1)));
            vst1q_u8(to + 2 * stride, vreinterpretq_u8_s64(vtrn2q_s64(even0, even1)));
            vst1q_u8(to + 3 * stride, vreinterpretq_u8_s64(vtrn2q_s64(odd0, odd1)));
        }
    }
    neon_rows rows = {scratch, stride, scratch + stride * (size_t)(span->in_stride / 4), byte_stride(span->pixels)};
    return rows;
}

/* Interleaves the bytes of vectors i and i + 8: four times, and 16 vectors of 16 bytes are turned over. */
static inline void interleave(uint8x16_t to[16], const uint8x16_t from[16]) {
    for (int i = 0; i < 8; i++) {
        to[2 * i] = vzip1q_u8(from[i], from[i + 8]);
        to[2 * i + 1] = vzip2q_u8(from[i], from[i + 8]);
    }
}

/* The bytes of BLOCK output channels, from channel o on of the pixels. */
static void neon_gather(const qn_span *span, const neon_rows *rows, int32_t o) {
    for (int32_t p = 0; p < span->pixels; p += 16) {
        uint8x16_t a[16], b[16];
        for (int i = 0; i < 16; i++) a[i] = vld1q_u8(rows->to + (size_t)i * rows->to_stride + p);
        interleave(b, a);
        interleave(a, b);
        interleave(b, a);
        interleave(a, b);
        for (int i = 0; i < 16 && p + i < span->pixels; i++) vst1q_u8(span->out + span->out_at[p + i] + o, a[i]);
    }
}

/* Block i of the group at `at`: its weights, repeated, and its pixels. */
static inline int8x16_t group_weights(const int8_t *at, int i) {
    return vreinterpretq_s8_s32(vdupq_n_s32(qn_group_weights(at, i)));
}

static inline const int8_t *group_data(const int8_t *at, int size, int i, const neon_rows *rows) {
    return (const int8_t *)rows->quads + qn_group_quad(at, size, i) * rows->stride;
}

#else

/* Output channel o of `vectors` x 4 pixels, whose quads begin at `quads`. */
N_TARGET static inline N_INLINE void N_NAME(row)(const qn_matrix *m, int32_t o, const neon_rows *rows,
                                                 const int vectors) {
    const qn_row *r = &m->rows[o];
    const int8_t *at = m->weight + r->at;
    int32x4_t sums[VECTORS][N_SUMS];
    for (int v = 0; v < vectors; v++)
        for (int i = 0; i < N_SUMS; i++) sums[v][i] = vdupq_n_s32(0);
    for (int32_t i = r->fours; i > 0; i--, at += 24) N_GROUP(sums, at, rows, 4, vectors);
    for (int32_t i = r->twos; i > 0; i--, at += 12) N_GROUP(sums, at, rows, 2, vectors);
    for (int32_t i = r->ones; i > 0; i--, at += 6) N_GROUP(sums, at, rows, 1, vectors);
    const int32x4_t bias = vdupq_n_s32(m->bias[o]), right = vdupq_n_s32(-m->shift);
    const int16x8_t positive = vdupq_n_s16(m->positive[o]), negative = vdupq_n_s16(m->negative[o]);
    for (int v = 0; v < vectors; v += 2) {
        int next = v + 1 < vectors ? v + 1 : v;
        int32x4_t low = vshlq_s32(vaddq_s32(bias, N_TOTAL(sums[v])), right);
        int32x4_t high = vshlq_s32(vaddq_s32(bias, N_TOTAL(sums[next])), right);
        int16x8_t t = vcombine_s16(vqmovn_s32(low), vqmovn_s32(high));
        vst1_u8(rows->to + 4 * v, rounded(t, vbslq_s16(vcltzq_s16(t), negative, positive), m->zero, m->top));
    }
}

N_TARGET static inline N_INLINE void N_NAME(rows_of)(const qn_matrix *m, int32_t o, neon_rows rows, const int vectors) {
    for (int32_t i = 0; i < BLOCK; i++, rows.to += rows.to_stride) N_NAME(row)(m, o + i, &rows, vectors);
}

N_TARGET static void N_NAME(some_rows)(const qn_matrix *m, int32_t o, const neon_rows *rows, int32_t vectors) {
    switch (vectors) {
    case 1: N_NAME(rows_of)(m, o, *rows, 1); break;
    case 2: N_NAME(rows_of)(m, o, *rows, 2); break;
    case 3: N_NAME(rows_of)(m, o, *rows, 3); break;
    case 4: N_NAME(rows_of)(m, o, *rows, 4); break;
    case 5: N_NAME(rows_of)(m, o, *rows, 5); break;
    case 6: N_NAME(rows_of)(m, o, *rows, 6); break;
    case 7: N_NAME(rows_of)(m, o, *rows, 7); break;
    default: N_NAME(rows_of)(m, o, *rows, 8); break;
    }
}

N_TARGET static void N_NAME(sparse)(const qn_matrix *m, const qn_span *span, int32_t first, int32_t last,
                                    void *scratch) {
    const int32_t vectors = qn_round_up(span->pixels, 4) / 4, passes = (vectors + VECTORS - 1) / VECTORS;
    const neon_rows rows = neon_begin(span, scratch);
    for (int32_t o = first; o < last; o += BLOCK) {
        for (int32_t i = 0; i < passes; i++) {
            int32_t v = vectors * i / passes, count = vectors * (i + 1) / passes - v;
            const neon_rows from = {rows.quads + 16 * v, rows.stride, rows.to + 4 * v, rows.to_stride};
            N_NAME(some_rows)(m, o, &from, count);
        }
        neon_gather(span, &rows, o);
    }
}

#undef N_NAME
#undef N_TARGET
#undef N_SUMS
#undef N_GROUP
#undef N_TOTAL
#endif
