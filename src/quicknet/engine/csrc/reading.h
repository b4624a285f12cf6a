/* From the bytes of a .qnz to a checked network: no allocation, no recursion, bounded time.
 *
 * Nothing is believed: a length is compared with what is left of the file before it is added to an offset, sizes are
 * computed in 64 bits, and every loop ends with the file's bytes. The numbers are taken a layer at a time, and their
 * bounds checked as they are taken. */
#ifndef QN_READING_H
#define QN_READING_H
#include "net.h"
#include "quicknet.h"

/* How much of the file is looked at. Each one is safe on any bytes. */
enum {
    QN_READ_SHAPE,  /* header, table, NETW, and that the sizes agree: microseconds, tells what qn_info holds */
    QN_READ_HASHES, /* ... and all hashes: for a caller who takes all numbers */
    QN_READ_ALL     /* ... and all numbers */
};

/* Fill `net` (pointers into `file`; may be NULL) and `info` (may be NULL). Returns QN_OK or what is wrong; the
 * section in which it is wrong, if one, is then in info->section. */
int qn_read_to(const void *file, size_t size, qn_net *net, qn_info *info, int depth);

/* All numbers of a file with CODE, checked and in the order of TENS, and how many bits of it are tables, places of
 * blocks, their values, and other numbers: for a binding. QN_LENGTH where the file has none or they have another size. */
int qn_decode(const void *file, size_t size, void *numbers, size_t numbers_size, uint64_t bits[4]);

/* ---- container.c -------------------------------------------------------------------------------- */

typedef struct {
    const uint8_t *bytes;
    uint64_t size;
} qn_section;

/* The sections of a network. Files of version 1 have the first three; those of version 2 the others, and NETW, and may
 * have CARD for CARZ. */
enum { QN_CARD, QN_NETW, QN_TENS, QN_CARZ, QN_CODED, QN_SECTIONS };
extern const char qn_kind[QN_SECTIONS][5];

/* Header and table. Where one section is wrong, `name` is its own. */
int qn_find_sections(const uint8_t *file, size_t size, qn_section section[QN_SECTIONS], char name[5]);
/* All hashes, after qn_find_sections; the sections' own first: they name what is damaged. */
int qn_check_hashes(const uint8_t *file, size_t size, char name[5]);

/* ---- shape.c ------------------------------------------------------------------------------------ */

typedef struct {
    uint64_t weights, tensor_bytes, largest_bytes, multiply_adds;
} qn_totals;

/* All of NETW: the sizes of `net`, and what the whole network comes to. */
int qn_read_shape(qn_section netw, qn_net *net, qn_totals *totals);
/* The sizes of layer i; `before`: those of the layer before it, not looked at for the stem. */
int qn_read_layer(const qn_net *net, int32_t i, const qn_layer *before, qn_layer *layer);

/* ---- bounds.c ----------------------------------------------------------------------------------- */

/* Where the next layer's numbers are: in TENS, or in CODE by a decoder (else NULL), which puts them to `decoded`, of
 * net->largest_bytes (NULL: they are only checked). All layers are taken in order, each once, and the classifier
 * last. */
typedef struct {
    const uint8_t *next;
    struct qn_decoder *decoder;
    uint8_t *decoded;
} qn_numbers;

int qn_begin_numbers(qn_numbers *numbers, const qn_net *net, struct qn_decoder *decoder, uint8_t *decoded);

/* The arrays of a layer whose sizes qn_read_layer gave; QN_BOUNDS where its numbers are outside FORMAT.md's. They
 * stay until the next call. */
int qn_take_layer(qn_numbers *numbers, qn_layer *layer);
int qn_take_classifier(qn_numbers *numbers, qn_classifier *classifier);

/* All of them; of CODE to `decoded`, one layer after the other, or NULL. */
int qn_take_numbers(const qn_net *net, struct qn_decoder *decoder, uint8_t *decoded);
/* The same of CODE with a decoder on the stack, which other files' readers do without; `bits` as in qn_decode, or
 * NULL. */
int qn_take_coded(const qn_net *net, uint8_t *decoded, uint64_t bits[4]);

/* The bounds of one input channel's depthwise weights, `step` bytes from each other; of one output channel; of one
 * class. */
int qn_check_taps(const qn_layer *layer, const int8_t *weight, size_t step, const uint8_t *multiplier);
int qn_check_output(const qn_layer *layer, const int8_t *weight, const uint8_t *bias, const uint8_t *positive,
                    const uint8_t *negative);
int qn_check_class(const qn_classifier *classifier, const uint8_t *weight, const uint8_t *bias);

/* ---- sha256.c ----------------------------------------------------------------------------------- */

/* SHA-256 (FIPS 180-4). */
void qn_sha256(const uint8_t *bytes, size_t size, uint8_t digest[32]);

/* ---- little-endian numbers ---------------------------------------------------------------------- */

static inline uint16_t qn_u16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static inline uint32_t qn_u32(const uint8_t *p) { return (uint32_t)qn_i32(p); }
static inline uint64_t qn_u64(const uint8_t *p) { return (uint64_t)qn_u32(p) | (uint64_t)qn_u32(p + 4) << 32; }

static inline int qn_all_zero(const uint8_t *p, size_t n) {
    uint8_t any = 0;
    for (size_t i = 0; i < n; i++) any |= p[i];
    return any == 0;
}

#endif
