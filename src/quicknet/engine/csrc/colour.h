/* Rows of a picture in another colour mode, as Pillow converts them: colour.c. */
#ifndef QN_COLOUR_H
#define QN_COLOUR_H
#include "resize.h"

/* Rows of a crop, in a mode of so many channels. Transparency lies over white unless the mode is RGBA. */
typedef struct {
    const qn_picture *picture;
    int32_t left, top, width, channels;
    int premultiply; /* RGBA: colours times alpha, so that scaling weighs them by it */
} qn_rows;

/* Bytes from a pixel to the next where rows need not be read: they lie in the picture in their mode, perhaps with a byte
 * more a pixel. Else 0. */
int32_t qn_raw_pixel(const qn_rows *rows);
/* Such a row, and how many bytes there are from it to the picture's end. */
const uint8_t *qn_raw_row(const qn_rows *rows, int32_t y, size_t *left);
void qn_read_row(const qn_rows *rows, int32_t y, uint8_t *out);
/* Undo `premultiply` of so many pixels. */
void qn_unpremultiply(uint8_t *rgba, int32_t pixels);

#endif
