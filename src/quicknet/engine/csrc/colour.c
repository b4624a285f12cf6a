/* Pillow's integer arithmetic of colours: libImaging/AlphaComposite.c over white, and Convert.c. */
#include "colour.h"
#include <string.h>

/* value / 255, rounded, of a value below 255 * 256 * 128 */
static uint32_t over_255(uint32_t value) { return ((value >> 8) + value) >> 8; }

/* A level of weight alpha over white: AlphaComposite.c's 7 more bits. */
static uint8_t over_white(uint32_t level, uint32_t alpha) {
    uint32_t share = alpha * 128;
    return alpha == 0 ? 255 : (uint8_t)(over_255(level * share + 255 * (255 * 128 - share) + (128u << 7)) >> 7);
}

/* ITU-R 601-2's luma in 16 bits. */
static uint8_t luma(const uint8_t *rgb) {
    return (uint8_t)((rgb[0] * 19595u + rgb[1] * 38470u + rgb[2] * 7471u + 0x8000u) >> 16);
}

static void to_opaque(const uint8_t *in, int32_t from, uint8_t rgb[3]) {
    for (int c = 0; c < 3; c++) rgb[c] = from == 4 ? over_white(in[c], in[3]) : in[from == 1 ? 0 : c];
}

static size_t pixel_bytes(const qn_picture *p) { return p->channels == QN_RGBX ? 4 : (size_t)p->channels; }

/* The number of row y's first byte. */
static size_t place_of(const qn_rows *rows, int32_t y) {
    const qn_picture *p = rows->picture;
    return ((size_t)(rows->top + y) * (size_t)p->width + (size_t)rows->left) * pixel_bytes(p);
}

int32_t qn_raw_pixel(const qn_rows *rows) {
    const int32_t from = rows->picture->channels;
    if (from == QN_RGBX && rows->channels == 3) return 4;
    return from == rows->channels && !rows->premultiply ? from : 0;
}

const uint8_t *qn_raw_row(const qn_rows *rows, int32_t y, size_t *left) {
    const qn_picture *p = rows->picture;
    const size_t at = place_of(rows, y);
    *left = (size_t)p->width * (size_t)p->height * pixel_bytes(p) - at;
    return p->pixels + at;
}

void qn_read_row(const qn_rows *rows, int32_t y, uint8_t *out) {
    const int32_t from = rows->picture->channels, to = rows->channels;
    const uint8_t *in = rows->picture->pixels + place_of(rows, y);
    if (from == to && !rows->premultiply) {
        memcpy(out, in, (size_t)rows->width * (size_t)to);
        return;
    }
    for (int32_t x = 0; x < rows->width; x++, in += pixel_bytes(rows->picture), out += to) {
        uint8_t rgb[3];
        if (from == 4 && to == 4) {
            for (int c = 0; c < 3; c++) out[c] = (uint8_t)over_255(in[c] * (uint32_t)in[3] + 128);
            out[3] = in[3];
            continue;
        }
        to_opaque(in, from, rgb);
        if (to == 1) {
            out[0] = luma(rgb);
        } else {
            memcpy(out, rgb, 3);
            if (to == 4) out[3] = 255;
        }
    }
}

void qn_unpremultiply(uint8_t *rgba, int32_t pixels) {
    for (int32_t x = 0; x < pixels; x++, rgba += 4)
        for (int c = 0; c < 3 && rgba[3] != 0 && rgba[3] != 255; c++) {
            uint32_t level = 255u * rgba[c] / rgba[3];
            rgba[c] = (uint8_t)(level > 255 ? 255 : level);
        }
}
