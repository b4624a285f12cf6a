/* A decoded picture of any size to the network's input, as image/preprocess.py does it (FORMAT.md: the card's
 * `preprocess`), bit for bit: colour mode, crop, scaling, border. Turning it upright by its EXIF data is the decoder's.
 *
 *     qn_picture picture = {pixels, width, height, 3};
 *     qn_spec spec = {info.side, info.channels, QN_SHORTER, QN_BICUBIC, 1, 0};
 *     size_t size = qn_prepare_memory(&picture, &spec);   0: sizes that nothing has
 *     int error = qn_prepare(&picture, &spec, malloc(size), size, image);
 *
 * Unlike the network this computes in floating point: the weights of a filter, which are then rounded to integers.
 * IEEE doubles give the same ones everywhere; nothing of a C library is called. */
#ifndef QN_RESIZE_H
#define QN_RESIZE_H
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

enum { QN_MOST_PIXELS = 100000000, QN_MOST_SIDE = 4096 };

/* uint8 [height][width][channels]; channels: 1 grey, 3 RGB, 4 RGBA, or QN_RGBX: 4 bytes a pixel, of which the fourth
 * does not count. */
enum { QN_RGBX = -4 };
typedef struct {
    const uint8_t *pixels;
    int32_t width, height, channels;
} qn_picture;

enum { QN_SHORTER, QN_STRETCH, QN_PAD };                /* qn_spec.resize */
enum { QN_NEAREST, QN_BILINEAR, QN_BICUBIC, QN_LANCZOS }; /* qn_spec.filter */

/* The card's `preprocess`; channels: 1 for L, 3 for RGB, 4 for RGBA. */
typedef struct {
    int32_t size, channels, resize, filter, antialias, fill;
} qn_spec;

/* Bytes of memory that qn_prepare needs, 0 for a picture or a spec outside the limits. At most
 * 40 (width + 4 size) + 64 height + 8 size (height / size + 2) channels + 2048. */
size_t qn_prepare_memory(const qn_picture *picture, const qn_spec *spec);

/* Fill `out`, uint8 [size][size][spec.channels]. `memory` is aligned to 8 bytes. Returns 0, 1 for sizes outside the
 * limits, 2 for too little memory; then nothing is written. */
int qn_prepare(const qn_picture *picture, const qn_spec *spec, void *memory, size_t memory_size, uint8_t *out);

#ifdef __cplusplus
}
#endif
#endif
