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

void qn_read_row(const qn_rows *rows, int32_t y, uint8_t *out);
/* Undo `premultiply` of so many pixels. */
void qn_unpremultiply(uint8_t *rgba, int32_t pixels);

#endif
